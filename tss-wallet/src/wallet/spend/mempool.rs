//! What coin selection asks of the mempool about coins that are not confirmed.

use std::fmt::Debug;

use bitcoin::{Amount, OutPoint, Transaction, Txid};

use super::fees::FeeRate;

/// A mempool transaction's relatives, itself included; zero for one that is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chain {
    pub ancestors: u64,
    /// All that are connected with it.
    pub cluster: u64,
}

/// The mempool as a payment sees it.
pub trait MempoolView: Debug + Send + Sync {
    fn chain_of(&self, txid: &Txid) -> Chain;
    /// What the unconfirmed ancestors of each coin lack at a rate, each coin looked at alone.
    fn bump_fees(&self, coins: &[OutPoint], rate: FeeRate) -> Vec<Amount>;
    /// The same for all coins together, ancestors they share counted once; `None` where there are too many.
    fn combined_bump_fee(&self, coins: &[OutPoint], rate: FeeRate) -> Option<Amount>;
    /// Whether the limits on clusters would let a transaction in.
    fn fits_limits(&self, transaction: &Transaction) -> bool;
}

/// A mempool that holds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyMempool;

impl MempoolView for EmptyMempool {
    fn chain_of(&self, _: &Txid) -> Chain {
        Chain::default()
    }

    fn bump_fees(&self, coins: &[OutPoint], _: FeeRate) -> Vec<Amount> {
        vec![Amount::ZERO; coins.len()]
    }

    fn combined_bump_fee(&self, _: &[OutPoint], _: FeeRate) -> Option<Amount> {
        Some(Amount::ZERO)
    }

    fn fits_limits(&self, _: &Transaction) -> bool {
        true
    }
}

/// How long chains of unconfirmed payments may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLimits {
    /// `-limitancestorcount`.
    pub ancestors: u64,
    /// `-limitdescendantcount`.
    pub descendants: u64,
    /// `-walletrejectlongchains`.
    pub reject: bool,
}

impl Default for ChainLimits {
    fn default() -> Self {
        Self { ancestors: 25, descendants: 25, reject: true }
    }
}
