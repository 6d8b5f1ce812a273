//! Coins of payments that are being made, as this member knows them as coordinator or signer.
//!
//! Keeps two coordinators from choosing one coin at the same moment: any two sets of t signers share a member, and
//! that one refuses the second. A courtesy among honest members, in memory alone; what is in the mempool or in a block
//! is the wallet's affair. Coins that a caller chose are not kept from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::{OutPoint, Txid};
use tss_wallet::MemberId;

/// How long a coin stays taken while its payment is being signed: as long as any coordinator may try.
const WHILE_SIGNING: Duration = Duration::from_secs(60);
/// How long after the signature: by then the payment is in every member's mempool.
const AFTER_SIGNING: Duration = Duration::from_secs(10);
/// Coins kept in mind; more are signed for without a note.
const MAX_COINS: usize = 50_000;

struct Taken {
    by: MemberId,
    txid: Txid,
    until: Instant,
    /// Attempts at the payment that are under way.
    attempts: u32,
    signed: bool,
}

/// The coins of one wallet that are being spent.
#[derive(Default)]
pub struct CoinClaims {
    taken: HashMap<OutPoint, Taken>,
}

impl CoinClaims {
    /// Takes all coins of a payment, or none: the position of the first that another coordinator has taken.
    pub fn take(&mut self, by: MemberId, txid: Txid, coins: &[OutPoint], now: Instant) -> Result<(), usize> {
        self.taken.retain(|_, taken| taken.until > now);
        let other = |coin: &OutPoint| self.taken.get(coin).is_some_and(|taken| taken.by != by);
        if let Some(position) = coins.iter().position(other) {
            return Err(position);
        }
        if self.taken.len().saturating_add(coins.len()) <= MAX_COINS {
            for coin in coins {
                let known = self.taken.get(coin).filter(|taken| taken.txid == txid);
                let (attempts, signed) = known.map_or((0, false), |taken| (taken.attempts, taken.signed));
                let taken =
                    Taken { by, txid, until: now + WHILE_SIGNING, attempts: attempts.saturating_add(1), signed };
                self.taken.insert(*coin, taken);
            }
        }
        Ok(())
    }

    /// An attempt has ended with the payment signed.
    pub fn signed(&mut self, txid: &Txid, now: Instant) {
        for taken in self.taken.values_mut().filter(|taken| taken.txid == *txid) {
            taken.until = now + AFTER_SIGNING;
            taken.attempts = taken.attempts.saturating_sub(1);
            taken.signed = true;
        }
    }

    /// An attempt has ended without: after the last one the coins are free, unless another one signed.
    pub fn free(&mut self, txid: &Txid) {
        self.taken.retain(|_, taken| {
            if taken.txid == *txid {
                taken.attempts = taken.attempts.saturating_sub(1);
            }
            taken.txid != *txid || taken.attempts > 0 || taken.signed
        });
    }
}

/// The coins of a payment that is being signed: free again at the end, unless it was signed.
pub struct TakenCoins {
    coins: Arc<Mutex<CoinClaims>>,
    txid: Txid,
    signed: bool,
}

impl TakenCoins {
    /// Takes all coins, or none: the position of the first that another coordinator has taken.
    pub fn take(coins: &Arc<Mutex<CoinClaims>>, by: MemberId, txid: Txid, inputs: &[OutPoint]) -> Result<Self, usize> {
        locked(coins).take(by, txid, inputs, Instant::now())?;
        Ok(Self { coins: Arc::clone(coins), txid, signed: false })
    }

    pub fn signed(&mut self) {
        self.signed = true;
    }
}

impl Drop for TakenCoins {
    fn drop(&mut self) {
        let mut coins = locked(&self.coins);
        if self.signed { coins.signed(&self.txid, Instant::now()) } else { coins.free(&self.txid) }
    }
}

fn locked(coins: &Mutex<CoinClaims>) -> MutexGuard<'_, CoinClaims> {
    coins.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use bitcoin::hashes::Hash;

    fn txid(number: u8) -> Txid {
        Txid::from_byte_array([number; 32])
    }

    fn coin(number: u8) -> OutPoint {
        OutPoint::new(txid(number), 0)
    }

    const ONE: MemberId = MemberId([1; 32]);
    const TWO: MemberId = MemberId([2; 32]);

    #[test]
    fn a_coin_is_taken_by_one_coordinator_at_a_time() {
        let now = Instant::now();
        let mut coins = CoinClaims::default();
        coins.take(ONE, txid(10), &[coin(1), coin(2)], now).unwrap();
        assert_eq!(coins.take(TWO, txid(11), &[coin(3), coin(2)], now), Err(1));
        coins.take(TWO, txid(11), &[coin(3)], now).unwrap();
        // The same payment by another is another caller's.
        assert_eq!(coins.take(TWO, txid(10), &[coin(1)], now), Err(0));
        // The next attempt, with other outputs or the same.
        coins.take(ONE, txid(10), &[coin(1), coin(2)], now).unwrap();
        coins.take(ONE, txid(12), &[coin(1)], now).unwrap();
    }

    #[test]
    fn an_attempt_that_fails_beside_one_that_signed_frees_nothing() {
        let now = Instant::now();
        let mut coins = CoinClaims::default();
        for _ in 0..3 {
            coins.take(ONE, txid(10), &[coin(1)], now).unwrap();
        }
        coins.free(&txid(10));
        assert_eq!(coins.take(TWO, txid(11), &[coin(1)], now), Err(0), "two attempts are under way");
        coins.signed(&txid(10), now);
        coins.free(&txid(10));
        assert_eq!(coins.take(TWO, txid(11), &[coin(1)], now), Err(0), "one of them signed");
        coins.take(TWO, txid(11), &[coin(1)], now + AFTER_SIGNING).unwrap();
    }

    #[test]
    fn a_coin_is_free_again_after_a_failure_or_a_while() {
        let now = Instant::now();
        let mut coins = CoinClaims::default();
        coins.take(ONE, txid(10), &[coin(1)], now).unwrap();
        coins.free(&txid(10));
        coins.take(TWO, txid(11), &[coin(1)], now).unwrap();
        coins.signed(&txid(11), now);
        assert_eq!(coins.take(ONE, txid(10), &[coin(1)], now + AFTER_SIGNING / 2), Err(0));
        coins.take(ONE, txid(10), &[coin(1)], now + AFTER_SIGNING).unwrap();
        assert_eq!(coins.take(TWO, txid(11), &[coin(1)], now + AFTER_SIGNING), Err(0));
        coins.take(TWO, txid(11), &[coin(1)], now + AFTER_SIGNING + WHILE_SIGNING).unwrap();
    }
}
