//! What a wallet asks of the mempool about coins that are not confirmed: how long their chains are, and what must be
//! paid on top so that their ancestors are mined at a rate. Core's mini miner and its cluster limits answer.

use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, Transaction, Txid, VarInt};

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// A mempool transaction's relatives, itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MempoolAncestry {
    /// Itself and its ancestors.
    pub ancestors: u64,
    /// All that are connected with it.
    pub cluster: u64,
    /// Virtual size of itself and its ancestors.
    pub size_vbytes: u64,
    /// Their fees, with priority deltas.
    pub fees: Amount,
}

fn rate(sat_kvb: u64) -> i64 {
    i64::try_from(sat_kvb).unwrap_or(i64::MAX)
}

/// A vector of outpoints in consensus encoding.
fn outpoints(coins: &[OutPoint]) -> Vec<u8> {
    let mut bytes = serialize(&VarInt::from(coins.len()));
    bytes.extend(coins.iter().flat_map(serialize));
    bytes
}

impl Kernel {
    /// `None` where the transaction is not in the mempool.
    pub fn mempool_ancestry(&self, txid: &Txid) -> Result<Option<MempoolAncestry>, KernelError> {
        Answer::new(ffi::kl_ancestry(txid.as_byte_array().into())).fields()?.option(|f| {
            Ok(MempoolAncestry {
                ancestors: f.u64()?,
                cluster: f.u64()?,
                size_vbytes: f.u64()?,
                // Deltas may make the sum negative.
                fees: Amount::from_sat(u64::try_from(f.i64()?).unwrap_or(0)),
            })
        })
    }

    /// Whether a transaction of the mempool spends from this one.
    pub fn mempool_has_descendants(&self, txid: &Txid) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_has_descendants(txid.as_byte_array().into())).fields()?.bool()
    }

    /// For each coin, what its unconfirmed ancestors lack at a rate (satoshi for 1,000 vbytes), each looked at alone.
    pub fn bump_fees(&self, coins: &[OutPoint], sat_kvb: u64) -> Result<Vec<Amount>, KernelError> {
        let coins = outpoints(coins);
        Answer::new(ffi::kl_bump_fees(coins.as_slice().into(), rate(sat_kvb))).fields()?.list(|f| f.amount())
    }

    /// The same for all coins together, ancestors they share counted once; `None` where the cluster is too large.
    pub fn combined_bump_fee(&self, coins: &[OutPoint], sat_kvb: u64) -> Result<Option<Amount>, KernelError> {
        let coins = outpoints(coins);
        let answer = Answer::new(ffi::kl_combined_bump_fee(coins.as_slice().into(), rate(sat_kvb)));
        answer.fields()?.option(|f| f.amount())
    }

    /// Whether the mempool's limits on clusters would let a transaction in.
    pub fn fits_cluster_limits(&self, transaction: &Transaction) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_fits_limits(serialize(transaction).as_slice().into())).fields()?.bool()
    }
}
