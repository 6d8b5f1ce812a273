//! The node's mempool as coin selection sees it.

use std::fmt;
use std::sync::Arc;

use bitcoin::{Amount, OutPoint, Transaction, Txid};
use tss_wallet::wallet::spend::fees::FeeRate;
use tss_wallet::wallet::spend::mempool::{Chain, MempoolView};

use super::chain_view::ChainView;

/// [`MempoolView`] over the node's chain.
pub(super) struct MempoolOf(pub Arc<dyn ChainView>);

impl fmt::Debug for MempoolOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MempoolOf")
    }
}

impl MempoolView for MempoolOf {
    fn chain_of(&self, txid: &Txid) -> Chain {
        let found = self.0.mempool_ancestry(txid);
        found.map(|found| Chain { ancestors: found.count, cluster: found.cluster }).unwrap_or_default()
    }

    fn bump_fees(&self, coins: &[OutPoint], rate: FeeRate) -> Vec<Amount> {
        self.0.bump_fees(coins, rate)
    }

    fn combined_bump_fee(&self, coins: &[OutPoint], rate: FeeRate) -> Option<Amount> {
        self.0.combined_bump_fee(coins, rate)
    }

    fn fits_limits(&self, transaction: &Transaction) -> bool {
        self.0.fits_cluster_limits(transaction)
    }
}
