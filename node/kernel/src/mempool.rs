//! The mempool: acceptance with Core's reject strings, packages, entries, fee rates, broadcast.

use std::os::raw::c_int;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, FeeRate, OutPoint, Transaction, Txid, Wtxid};

use crate::codec::{Answer, Fields};
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// What the mempool said to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// Valid (and, unless only tested, now in the mempool).
    Accepted(Accepted),
    /// It was there already.
    AlreadyKnown {
        /// Virtual size in vbytes.
        vsize: u64,
        /// Its fee.
        fee: Amount,
    },
    /// One with the same txid and another witness is there.
    OtherWitness(Wtxid),
    /// Refused.
    Rejected(Rejection),
}

/// A transaction that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Virtual size in vbytes, as the mempool counts it.
    pub vsize: u64,
    /// Its fee, without priority deltas.
    pub fee: Amount,
    /// Transactions it replaced.
    pub replaced: Vec<Txid>,
}

/// Why a transaction was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The class, for deciding about peers.
    pub kind: RejectKind,
    /// Reject reason (`txn-mempool-conflict`).
    pub reason: String,
    /// More detail.
    pub debug: String,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.debug.is_empty() {
            write!(out, "{}", self.reason)
        } else {
            write!(out, "{}, {}", self.reason, self.debug)
        }
    }
}

/// Classes of refusal, named as Core's `TxValidationResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectKind {
    /// Against consensus rules.
    Consensus,
    /// Inputs fail policy.
    InputsNotStandard,
    /// Otherwise not standard.
    NotStandard,
    /// Inputs unknown or spent: perhaps an orphan.
    MissingInputs,
    /// Immature coinbase or time locks.
    PrematureSpend,
    /// Witness may be malleated.
    WitnessMutated,
    /// Witness is missing.
    WitnessStripped,
    /// Already in the mempool or in the chain.
    Conflict,
    /// Fees, sizes, ancestors, replacement.
    MempoolPolicy,
    /// Might pass in another package.
    Reconsiderable,
    /// Not validated, or an error of this node.
    Unknown,
}

impl RejectKind {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Consensus,
            2 => Self::InputsNotStandard,
            3 => Self::NotStandard,
            4 => Self::MissingInputs,
            5 => Self::PrematureSpend,
            6 => Self::WitnessMutated,
            7 => Self::WitnessStripped,
            8 => Self::Conflict,
            9 => Self::MempoolPolicy,
            11 => Self::Reconsiderable,
            _ => Self::Unknown,
        }
    }
}

/// What the mempool said to a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageOutcome {
    /// Why the package as a whole was refused, if it was.
    pub rejection: Option<Rejection>,
    /// The result of each transaction that was looked at.
    pub transactions: Vec<(Wtxid, Acceptance)>,
}

/// A transaction in the mempool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolEntry {
    /// The transaction.
    pub tx: Transaction,
    /// Its fee.
    pub fee: Amount,
    /// Virtual size in vbytes.
    pub vsize: u64,
    /// When it came, in seconds since 1970.
    pub time: u64,
    /// The mempool's sequence number when it came.
    pub sequence: u64,
}

/// A line of the mempool's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MempoolListing {
    /// Transaction id.
    pub txid: Txid,
    /// Witness transaction id.
    pub wtxid: Wtxid,
    /// Its fee.
    pub fee: Amount,
    /// Virtual size in vbytes.
    pub vsize: u64,
    /// When it came, in seconds since 1970.
    pub time: u64,
}

/// The mempool as a whole; fee rates in satoshi for 1,000 vbytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MempoolInfo {
    /// Number of transactions.
    pub count: u64,
    /// Sum of virtual sizes.
    pub bytes: u64,
    /// Least fee rate to get in now.
    pub min_fee_sat_kvb: u64,
    /// Configured `-minrelaytxfee`.
    pub min_relay_sat_kvb: u64,
    /// Configured `-incrementalrelayfee`.
    pub incremental_sat_kvb: u64,
    /// Configured `-dustrelayfee`.
    pub dust_sat_kvb: u64,
    /// The stored mempool was loaded.
    pub loaded: bool,
    /// Changes with every addition and removal.
    pub updates: u32,
    /// Sequence number that the next change gets.
    pub sequence: u64,
}

/// An estimate of the fee policy estimator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeEstimate {
    /// Fee rate, `None` when there is not enough data.
    pub rate: Option<FeeRate>,
    /// The same in satoshi for 1,000 vbytes, as Core counts it.
    pub sat_kvb: Option<u64>,
    /// Target, in blocks, the estimate is good for.
    pub blocks: u32,
}

impl Kernel {
    /// Offers a transaction in consensus encoding to the mempool; `test_only` leaves the mempool as it is.
    pub fn accept_tx(&self, tx: &[u8], test_only: bool) -> Result<Acceptance, KernelError> {
        let answer = Answer::new(ffi::kl_mempool_accept(tx.into(), c_int::from(test_only)));
        let mut fields = answer.fields()?;
        read_acceptance(&mut fields)
    }

    /// Offers transactions as a package, parents first.
    pub fn accept_package(&self, txs: &[Transaction], test_only: bool) -> Result<PackageOutcome, KernelError> {
        let bytes = bitcoin::consensus::serialize(&txs.to_vec());
        let answer = Answer::new(ffi::kl_mempool_package(bytes.as_slice().into(), c_int::from(test_only)));
        let mut f = answer.fields()?;
        Ok(PackageOutcome {
            rejection: f.option(read_rejection)?,
            transactions: f.list(|f| Ok((f.wtxid()?, read_acceptance(f)?)))?,
        })
    }

    /// A transaction of the mempool.
    pub fn mempool_tx(&self, txid: &Txid) -> Result<Option<MempoolEntry>, KernelError> {
        Answer::new(ffi::kl_mempool_get(txid.as_byte_array().into(), 0)).fields()?.option(read_entry)
    }

    /// A transaction of the mempool by its witness id.
    pub fn mempool_tx_by_wtxid(&self, wtxid: &Wtxid) -> Result<Option<MempoolEntry>, KernelError> {
        Answer::new(ffi::kl_mempool_get(wtxid.as_byte_array().into(), 1)).fields()?.option(read_entry)
    }

    /// Everything in the mempool, parents before children.
    pub fn mempool_list(&self) -> Result<Vec<MempoolListing>, KernelError> {
        Answer::new(ffi::kl_mempool_list()).fields()?.list(|f| {
            Ok(MempoolListing { txid: f.txid()?, wtxid: f.wtxid()?, fee: f.amount()?, vsize: f.u64()?, time: f.u64()? })
        })
    }

    /// Size and fee rates of the mempool.
    pub fn mempool_info(&self) -> Result<MempoolInfo, KernelError> {
        let answer = Answer::new(ffi::kl_mempool_info());
        let mut f = answer.fields()?;
        Ok(MempoolInfo {
            count: f.u64()?,
            bytes: f.u64()?,
            min_fee_sat_kvb: f.u64()?,
            min_relay_sat_kvb: f.u64()?,
            incremental_sat_kvb: f.u64()?,
            dust_sat_kvb: f.u64()?,
            loaded: f.bool()?,
            updates: f.u32()?,
            sequence: f.u64()?,
        })
    }

    /// The transaction of the mempool that spends an output.
    pub fn mempool_spender(&self, outpoint: &OutPoint) -> Result<Option<Txid>, KernelError> {
        let bytes = bitcoin::consensus::serialize(outpoint);
        Answer::new(ffi::kl_mempool_spender(bytes.as_slice().into())).fields()?.option(|f| f.txid())
    }

    /// Own transactions that no peer has asked for yet: to be announced again.
    pub fn unbroadcast(&self) -> Result<Vec<(Txid, Wtxid)>, KernelError> {
        Answer::new(ffi::kl_mempool_unbroadcast()).fields()?.list(|f| Ok((f.txid()?, f.wtxid()?)))
    }

    /// A peer has asked for an own transaction: it counts as broadcast.
    pub fn mark_broadcast(&self, txid: &Txid) -> Result<(), KernelError> {
        Answer::new(ffi::kl_mempool_broadcast_seen(txid.as_byte_array().into())).done()
    }

    /// Core's `BroadcastTransaction`, as `sendrawtransaction` and the wallet use it: into the mempool and, with `relay`,
    /// announced ([`crate::Notification::RelayTransaction`]). `max_fee` of zero takes any fee. The error is Core's text.
    pub fn broadcast(&self, tx: &[u8], max_fee: Amount, relay: bool) -> Result<(), KernelError> {
        let sats = i64::try_from(max_fee.to_sat()).map_err(|_| KernelError::Failed("amount out of range".into()))?;
        Answer::new(ffi::kl_broadcast(tx.into(), sats, c_int::from(relay))).done()
    }

    /// `estimatesmartfee`'s estimate.
    pub fn estimate_fee(&self, target_blocks: u16, conservative: bool) -> Result<FeeEstimate, KernelError> {
        let answer = Answer::new(ffi::kl_estimate_fee(c_int::from(target_blocks), c_int::from(conservative)));
        let mut f = answer.fields()?;
        let sat_kvb = f.option(|f| f.u64())?;
        // 1,000 vbytes are 4,000 weight units: sat/kvB over 4 is sat/kwu.
        let rate = sat_kvb.map(|rate| FeeRate::from_sat_per_kwu(rate.div_ceil(4)));
        Ok(FeeEstimate { rate, sat_kvb, blocks: f.u32()? })
    }
}

fn read_acceptance(f: &mut Fields<'_>) -> Result<Acceptance, KernelError> {
    match f.u8()? {
        0 => Ok(Acceptance::Accepted(Accepted { vsize: f.u64()?, fee: f.amount()?, replaced: f.list(|f| f.txid())? })),
        2 => Ok(Acceptance::AlreadyKnown { vsize: f.u64()?, fee: f.amount()? }),
        3 => Ok(Acceptance::OtherWitness(f.wtxid()?)),
        1 => Ok(Acceptance::Rejected(read_rejection(f)?)),
        _ => Err(KernelError::Malformed("acceptance")),
    }
}

fn read_rejection(f: &mut Fields<'_>) -> Result<Rejection, KernelError> {
    Ok(Rejection { kind: RejectKind::from_code(f.u8()?), reason: f.string()?, debug: f.string()? })
}

fn read_entry(f: &mut Fields<'_>) -> Result<MempoolEntry, KernelError> {
    Ok(MempoolEntry { tx: f.consensus()?, fee: f.amount()?, vsize: f.u64()?, time: f.u64()?, sequence: f.u64()? })
}
