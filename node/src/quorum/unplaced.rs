//! Payments of other members that this node's mempool cannot take yet, because its chain is behind.
//!
//! Kept in memory, few and not for long: whoever made one sends it again at the next connection.

use std::collections::BTreeMap;

use bitcoin::{Transaction, Txid};

/// Payments that are kept.
const MAX_UNPLACED: usize = 1_000;
/// Core's words for what a longer chain may cure.
const LATER: [&str; 4] =
    ["bad-txns-inputs-missingorspent", "bad-txns-premature-spend-of-coinbase", "non-final", "non-BIP68-final"];

#[derive(Default)]
pub struct Unplaced(BTreeMap<Txid, Transaction>);

impl Unplaced {
    /// Keeps a payment if the reason for its refusal may pass.
    pub fn keep(&mut self, transaction: Transaction, refusal: &str) {
        if self.0.len() < MAX_UNPLACED && LATER.iter().any(|reason| refusal.contains(reason)) {
            self.0.insert(transaction.compute_txid(), transaction);
        }
    }

    /// All of them, to be tried again.
    pub fn take(&mut self) -> Vec<Transaction> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::transaction::Version;

    fn transaction(number: u32) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::from_consensus(number),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    #[test]
    fn only_what_time_may_cure_is_kept_and_not_without_end() {
        let mut unplaced = Unplaced::default();
        unplaced.keep(transaction(1), "insufficient fee, rejecting replacement");
        assert!(unplaced.take().is_empty());
        for number in 0..2_000 {
            unplaced.keep(transaction(number), "bad-txns-inputs-missingorspent");
        }
        assert_eq!(unplaced.take().len(), MAX_UNPLACED);
        assert!(unplaced.take().is_empty());
    }
}
