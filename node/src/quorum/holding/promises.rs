//! What this member has promised: address leases it granted, payments it signed for by name, coins being spent.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use bitcoin::{OutPoint, Txid};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::wallet::keychain::ChainId;
use tss_wallet::{Family, MemberId};

use super::{Holding, HoldingError, MARK_PREFIX, MAX_MARK_JUMP, PAYMENT_PREFIX, Payment};
use crate::quorum::coins::TakenCoins;
use crate::quorum::names::{self, Claim};
use crate::quorum::refusal::Refusal;
use crate::quorum::wire::LeaseRange;

/// Names of payments kept in mind; beyond that no note is taken back.
const MAX_RELEASED: usize = 100_000;

fn payment_key(name: &[u8; 32]) -> Vec<u8> {
    [PAYMENT_PREFIX, name.as_slice()].concat()
}

impl Holding {
    /// The first index of each chain that this member granted to nobody.
    pub fn marks(&self) -> Vec<(ChainId, u32)> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(chain, mark)| (*chain, *mark)).collect()
    }

    /// Grants ranges, all or none; durable when this returns. False if one of them begins below a mark.
    pub fn grant(&self, ranges: &[LeaseRange]) -> Result<bool, HoldingError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if ranges.iter().any(|range| {
            let mark = marks.get(&range.chain).copied().unwrap_or(0);
            range.first < mark || range.first > mark.saturating_add(MAX_MARK_JUMP)
        }) {
            return Ok(false);
        }
        let raised: Vec<(ChainId, u32)> =
            ranges.iter().map(|range| (range.chain, range.first.saturating_add(range.count))).collect();
        self.store_marks(&raised)?;
        marks.extend(raised);
        Ok(true)
    }

    /// Takes over the marks of another member, within reason.
    pub fn raise_marks(&self, others: &[(ChainId, u32)]) -> Result<(), HoldingError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let raised: Vec<(ChainId, u32)> = others
            .iter()
            .filter_map(|(chain, theirs)| {
                let mine = marks.get(chain).copied().unwrap_or(0);
                let mark = (*theirs).min(mine.saturating_add(MAX_MARK_JUMP));
                (mark > mine).then_some((*chain, mark))
            })
            .collect();
        if !raised.is_empty() {
            self.store_marks(&raised)?;
            marks.extend(raised);
        }
        Ok(())
    }

    fn store_marks(&self, marks: &[(ChainId, u32)]) -> Result<(), HoldingError> {
        let mut batch = Batch::new();
        for (chain, mark) in marks {
            let chain = postcard::to_allocvec(chain)
                .map_err(|_| HoldingError::Damaged(self.dir.clone(), "a lease cannot be written"))?;
            batch.put(Family::Claims, [MARK_PREFIX, &chain].concat(), mark.to_be_bytes());
        }
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// Takes the coins of a payment for its coordinator, unless another one is spending one of them.
    pub fn take_coins(&self, by: MemberId, txid: Txid, inputs: &[OutPoint]) -> Result<TakenCoins, Refusal> {
        // A transaction has fewer inputs than u32 counts.
        TakenCoins::take(&self.coins, by, txid, inputs).map_err(|position| Refusal::CoinTaken(position as u32))
    }

    /// The last transaction signed under a user's own name for a payment, and the inputs that a retry must share.
    pub fn payment(&self, name: &str) -> Option<Claim> {
        self.payment_named(&names::digest(name))
    }

    /// The same by what the name is called among members.
    pub fn payment_named(&self, name: &[u8; 32]) -> Option<Claim> {
        let stored = self.db.get(Family::Claims, &payment_key(name)).ok().flatten()?;
        let known: Payment = postcard::from_bytes(&stored).ok()?;
        Some(Claim { txid: known.txid, inputs: known.inputs })
    }

    /// Notes that a transaction is to be signed under a user's own name for the payment; durable when this returns. False
    /// if another one was signed under it that could confirm beside this one.
    pub fn remember_payment(&self, name: &str, txid: Txid, inputs: &[OutPoint]) -> Result<bool, HoldingError> {
        let _guard = self.released();
        self.remember(name, txid, inputs)
    }

    /// The same as this member's share leaves: what is noted now stays.
    pub fn release_payment(&self, name: &str, txid: Txid, inputs: &[OutPoint]) -> Result<bool, HoldingError> {
        let mut released = self.released();
        let remembered = self.remember(name, txid, inputs)?;
        if remembered && released.len() < MAX_RELEASED {
            released.insert(names::digest(name));
        }
        Ok(remembered)
    }

    /// Takes a note back of which nothing came: if no share has left this member under the name, what was known before
    /// is known again.
    pub fn forget_payment(&self, name: &str, txid: Txid, before: Option<&Claim>) -> Result<(), HoldingError> {
        let released = self.released();
        let noted = self.payment(name).is_some_and(|claim| claim.txid == txid);
        let was_known = before.is_some_and(|before| before.txid == txid);
        if !noted || was_known || released.contains(&names::digest(name)) || released.len() >= MAX_RELEASED {
            return Ok(());
        }
        let key = payment_key(&names::digest(name));
        let mut batch = Batch::new();
        match before {
            Some(Claim { txid, inputs }) => batch.put(Family::Claims, key, self.encoded(*txid, inputs.clone())?),
            None => batch.delete(Family::Claims, key),
        };
        Ok(self.db.write(&batch, Sync::No)?)
    }

    fn released(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encoded(&self, txid: Txid, inputs: Vec<OutPoint>) -> Result<Vec<u8>, HoldingError> {
        let damaged = |_| HoldingError::Damaged(self.dir.clone(), "a payment cannot be written");
        postcard::to_allocvec(&Payment { txid, inputs }).map_err(damaged)
    }

    fn remember(&self, name: &str, txid: Txid, inputs: &[OutPoint]) -> Result<bool, HoldingError> {
        let key = payment_key(&names::digest(name));
        let mut common = inputs.to_vec();
        if let Some(stored) = self.db.get(Family::Claims, &key)? {
            let damaged = |_| HoldingError::Damaged(self.dir.clone(), "a payment cannot be read");
            let known: Payment = postcard::from_bytes(&stored).map_err(damaged)?;
            if known.txid == txid {
                return Ok(true);
            }
            common.retain(|input| known.inputs.contains(input));
            if common.is_empty() {
                return Ok(false);
            }
        }
        let mut batch = Batch::new();
        batch.put(Family::Claims, key, self.encoded(txid, common)?);
        self.db.write(&batch, Sync::Yes)?;
        Ok(true)
    }
}
