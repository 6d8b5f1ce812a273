//! Nonces for taproot signatures in one round: this member's own, apart for each coordinator, and what other members
//! told this one of theirs.
//!
//! Owns both tables of one wallet in one epoch. They live in memory alone, and are dropped at the end of the epoch, of
//! the connection to the member they are for, and of this member's readiness (locked, suspended, erased). So each
//! commitment is told once, and no coordinator that keeps to the protocol ever uses one twice: whoever does so lies.
//! Refuses more nonces than the named limits, kept and made in a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tss_wallet::sign::nonces::{MAX_POOLED, Nonce, POOL_TARGET, prepare};
use tss_wallet::sign::{Commitment, NonceError, NoncePool};
use tss_wallet::{KeyShare, MemberId};

use super::rate::Bucket;

/// Nonces that one coordinator may ask for at once, and for each second after: 0.1 ms of a processor each.
const BURST: u32 = 4_096;
const PER_SECOND: u32 = 1_024;
/// Commitments of one member that are kept, and of one's own that a coordinator may hold without need.
const MAX_KNOWN: usize = MAX_POOLED / 4;

/// What this member keeps for one coordinator.
struct Mine {
    pool: NoncePool,
    rate: Bucket,
}

impl Default for Mine {
    fn default() -> Self {
        Self { pool: NoncePool::default(), rate: Bucket::of(BURST, PER_SECOND, Instant::now()) }
    }
}

/// Both tables.
#[derive(Default)]
pub struct Nonces {
    mine: Mutex<BTreeMap<MemberId, Mine>>,
    theirs: Mutex<BTreeMap<MemberId, VecDeque<Commitment>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a coordinator with this stock may be told beside what it needs.
fn missing(stock: u16) -> usize {
    POOL_TARGET.saturating_sub(usize::from(stock))
}

/// What it may be told beyond its need while it has not used what it was told. Many requests at once name the same stock:
/// if each filled that, the nonces told first would be gone before they are used.
fn spare(pool: &NoncePool) -> usize {
    MAX_KNOWN.saturating_sub(pool.len())
}

impl Nonces {
    /// Tells a coordinator the nonces that it needs, and what is ready of those that its stock lacks. None if it asks
    /// for too many in a time.
    pub fn tell(
        &self,
        coordinator: MemberId,
        share: &KeyShare,
        (count, stock): (u16, u16),
        seed: &[u8; 32],
    ) -> Option<Vec<Commitment>> {
        let mut mine = locked(&self.mine);
        let Mine { pool, rate } = mine.entry(coordinator).or_default();
        let count = usize::from(count).min(POOL_TARGET);
        // Never above the limit of one answer.
        if !rate.take_many(count as u32, Instant::now()) {
            return None;
        }
        let mut told = pool.issue(share, count, seed);
        told.extend(pool.issue_ready(missing(stock).saturating_sub(count).min(spare(pool))));
        Some(told)
    }

    /// What goes with a share: as many as it has used up or the stock lacks, as far as they are ready.
    pub fn next(&self, coordinator: &MemberId, used: usize, stock: u16) -> Vec<Commitment> {
        let mut mine = locked(&self.mine);
        let Some(Mine { pool, .. }) = mine.get_mut(coordinator) else { return Vec::new() };
        pool.issue_ready(used.max(missing(stock).min(spare(pool))))
    }

    /// Makes what is missing in reserve for a coordinator. Takes some milliseconds.
    pub fn restock(&self, coordinator: &MemberId, share: &KeyShare, seed: &[u8; 32]) {
        let wanted = locked(&self.mine).get(coordinator).map_or(0, |mine| mine.pool.wanted());
        if wanted > 0 {
            let made = prepare(share, wanted, seed);
            if let Some(mine) = locked(&self.mine).get_mut(coordinator) {
                mine.pool.restock(made);
            }
        }
    }

    /// Takes this member's nonces for a coordinator's request away, all or none.
    pub fn take(
        &self,
        coordinator: &MemberId,
        commitments: &[Commitment],
        what: &[u8; 32],
    ) -> Result<Vec<Nonce>, NonceError> {
        locked(&self.mine).get_mut(coordinator).ok_or(NonceError::Unknown)?.pool.take(commitments, what)
    }

    /// How many nonces a coordinator has been told and has not used.
    pub fn told(&self, coordinator: &MemberId) -> usize {
        locked(&self.mine).get(coordinator).map_or(0, |mine| mine.pool.len())
    }

    /// Keeps commitments that a member told.
    pub fn learn(&self, member: MemberId, commitments: impl IntoIterator<Item = Commitment>) {
        let mut theirs = locked(&self.theirs);
        let known = theirs.entry(member).or_default();
        let room = MAX_KNOWN.saturating_sub(known.len());
        known.extend(commitments.into_iter().take(room));
    }

    /// Takes commitments of a member for one attempt; none if there are fewer. They are used once, whatever comes of it.
    pub fn draw(&self, member: &MemberId, count: usize) -> Option<Vec<Commitment>> {
        let mut theirs = locked(&self.theirs);
        let known = theirs.get_mut(member).filter(|known| known.len() >= count)?;
        Some(known.drain(..count).collect())
    }

    /// How many commitments of a member are left.
    pub fn stock(&self, member: &MemberId) -> u16 {
        let left = locked(&self.theirs).get(member).map_or(0, VecDeque::len);
        u16::try_from(left).unwrap_or(u16::MAX)
    }

    /// Drops what a member told.
    pub fn disbelieve(&self, member: &MemberId) {
        locked(&self.theirs).remove(member);
    }

    /// A member is gone, or not to be trusted: both tables forget it.
    pub fn forget(&self, member: &MemberId) {
        self.disbelieve(member);
        if let Some(mine) = locked(&self.mine).get_mut(member) {
            mine.pool.clear();
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        locked(&self.theirs).clear();
        locked(&self.mine).values_mut().for_each(|mine| mine.pool.clear());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bitcoin::secp256k1::{PublicKey, SECP256K1, SecretKey};
    use tss_wallet::sign::nonces::COMMITMENT_BYTES;

    use super::*;

    const ONE: MemberId = MemberId([1; 32]);
    const OTHER: MemberId = MemberId([2; 32]);

    fn commitments(count: u32) -> Vec<Commitment> {
        let point = |number: u32| {
            let mut secret = [1; 32];
            secret[..4].copy_from_slice(&number.to_be_bytes());
            PublicKey::from_secret_key(SECP256K1, &SecretKey::from_slice(&secret).unwrap()).serialize()
        };
        let binding = point(u32::MAX / 2);
        let one = |number| {
            let bytes: [u8; COMMITMENT_BYTES] = [point(number), binding].concat().try_into().unwrap();
            Commitment::parse(&bytes).unwrap()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn what_a_member_told_is_kept_up_to_a_limit_and_drawn_once_oldest_first() {
        let nonces = Nonces::default();
        let all = commitments(MAX_KNOWN as u32 + 10);
        assert_eq!((nonces.stock(&ONE), nonces.draw(&ONE, 1)), (0, None));
        nonces.learn(ONE, all[..3].to_vec());
        assert_eq!(nonces.draw(&ONE, 4), None);
        assert_eq!(nonces.draw(&ONE, 2), Some(all[..2].to_vec()));
        assert_eq!((nonces.stock(&ONE), nonces.stock(&OTHER)), (1, 0));
        assert_eq!(nonces.draw(&ONE, 1), Some(all[2..3].to_vec()));
        nonces.learn(ONE, all.clone());
        assert_eq!(usize::from(nonces.stock(&ONE)), MAX_KNOWN);
        nonces.learn(ONE, all[..1].to_vec());
        assert_eq!(nonces.draw(&ONE, MAX_KNOWN), Some(all[..MAX_KNOWN].to_vec()));
        // What ends it.
        let ends: [fn(&Nonces); 3] = [|one| one.disbelieve(&ONE), |one| one.forget(&ONE), Nonces::clear];
        for end in ends {
            nonces.learn(ONE, all[..5].to_vec());
            assert_eq!(nonces.stock(&ONE), 5);
            end(&nonces);
            assert_eq!(nonces.stock(&ONE), 0);
        }
    }

    #[test]
    fn a_coordinator_that_was_told_nothing_gets_nothing() {
        let nonces = Nonces::default();
        assert_eq!((nonces.told(&ONE), nonces.next(&ONE, 3, 0)), (0, Vec::new()));
        assert_eq!(nonces.take(&ONE, &commitments(1), &[0; 32]).unwrap_err(), NonceError::Unknown);
        assert_eq!([0, 1, 128, 129].map(missing), [POOL_TARGET, POOL_TARGET - 1, 0, 0]);
        assert_eq!(spare(&NoncePool::default()), MAX_KNOWN);
    }
}
