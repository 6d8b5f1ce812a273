//! What the node tells. Notifications come one after the other, on a thread of the node's scheduler (a few, marked, on
//! the thread that caused them): copy, hand on, return. A handler that blocks stops validation; one that calls back
//! into the kernel may deadlock; one that panics is caught and logged.

use std::os::raw::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, Transaction, Txid, Wtxid};

use crate::chain::{BlockVerdict, Tip};
use crate::codec::Fields;
use crate::error::KernelError;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// The active chain has a new tip (once for a batch of blocks).
    TipChanged {
        /// The new tip.
        tip: Tip,
        /// Last block shared with the chain before.
        fork: Option<BlockHash>,
        /// Initial download goes on.
        initial_download: bool,
    },
    /// A block was connected.
    BlockConnected {
        /// Its hash.
        hash: BlockHash,
        /// Its height.
        height: u32,
        /// The block, in consensus encoding.
        block: Vec<u8>,
        /// It belongs to the snapshot's background chain, not to the active one.
        background: bool,
    },
    /// A block was disconnected.
    BlockDisconnected {
        /// Its hash.
        hash: BlockHash,
        /// Its height.
        height: u32,
        /// The block, in consensus encoding.
        block: Vec<u8>,
    },
    /// A block that builds on the tip was stored; it has proof of work, and is not validated. For fast relay.
    NewPowValidBlock {
        /// Its hash.
        hash: BlockHash,
        /// Its height.
        height: u32,
    },
    /// Core judged a block. On the thread that handed it in.
    BlockChecked {
        /// Its hash.
        hash: BlockHash,
        /// The judgement.
        verdict: BlockVerdict,
    },
    /// A transaction came into the mempool.
    TxAdded {
        /// The transaction.
        tx: Transaction,
        /// Transaction id.
        txid: Txid,
        /// Witness transaction id.
        wtxid: Wtxid,
        /// Its fee.
        fee: Amount,
        /// Virtual size in vbytes.
        vsize: u64,
        /// The mempool's count of comings and goings, at this one.
        sequence: u64,
    },
    /// A transaction left the mempool, but not by a block.
    TxRemoved {
        /// Transaction id.
        txid: Txid,
        /// Witness transaction id.
        wtxid: Wtxid,
        /// Core's word: `expiry`, `sizelimit`, `reorg`, `conflict`, `replaced`.
        reason: String,
        /// The mempool's count of comings and goings, at this one.
        sequence: u64,
    },
    /// Everything told before is on disk: the moment for indexes and wallets to store their best block.
    ChainStateFlushed {
        /// Best block of what was flushed.
        best: BlockHash,
        /// It belongs to the snapshot's background chain.
        background: bool,
    },
    /// The best header changed. On the thread that caused it.
    HeaderTip {
        /// Its height.
        height: i64,
        /// Its time.
        time: i64,
        /// During the first pass of a low-work sync.
        presync: bool,
    },
    /// Announce a transaction to the peers.
    RelayTransaction {
        /// Transaction id.
        txid: Txid,
        /// Witness transaction id.
        wtxid: Wtxid,
    },
    /// Start-up reached a new step (`Loading block index…`). On the loading thread.
    InitMessage(String),
    /// The node wants to stop: `stop`, `-stopatheight`, a fatal error, a full disk. On the thread that caused it.
    ShutdownRequested,
}

/// Receives notifications.
pub trait Notifications: Send + Sync {
    /// Copy and return; see the module's rules.
    fn notify(&self, event: Notification);

    /// `getblockfrompeer`: ask this peer for this block. On the caller's thread, without locks, so it may block for a
    /// while. The error is the method's text.
    fn fetch_block(&self, _peer: i64, _hash: BlockHash) -> Result<(), String> {
        Err("Peer does not exist".into())
    }
}

/// Called by the shim; `ctx` is the `Sink` that [`crate::Kernel::start`] gave it.
pub(crate) extern "C" fn deliver(ctx: *mut c_void, kind: u32, data: *const u8, len: usize) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        if ctx.is_null() {
            return;
        }
        // SAFETY: `ctx` is the leaked `Sink` of `Kernel::start`, alive until the process ends.
        let sink = unsafe { &*ctx.cast::<Sink>() };
        // SAFETY: the shim lends `len` bytes at `data` for the time of this call.
        let bytes = if data.is_null() { &[][..] } else { unsafe { std::slice::from_raw_parts(data, len) } };
        match decode(kind, &mut Fields::new(bytes)) {
            Ok(event) => sink.0.notify(event),
            Err(error) => crate::log::error(&format!("notification {kind} could not be read: {error}")),
        }
    }));
    if result.is_err() {
        crate::log::error(&format!("a handler panicked on notification {kind}"));
    }
}

/// Called by the shim, with the same `ctx` as [`deliver`].
pub(crate) extern "C" fn fetch(ctx: *mut c_void, peer: i64, hash: *const u8, text: *mut u8, capacity: usize) -> usize {
    let result = catch_unwind(AssertUnwindSafe(|| {
        if ctx.is_null() || hash.is_null() {
            return Err("Peer does not exist".into());
        }
        // SAFETY: `ctx` is the leaked `Sink` of `Kernel::start`, alive until the process ends.
        let sink = unsafe { &*ctx.cast::<Sink>() };
        // SAFETY: the shim lends 32 bytes at `hash` for the time of this call.
        let hash = unsafe { *hash.cast::<[u8; 32]>() };
        sink.0.fetch_block(peer, BlockHash::from_byte_array(hash))
    }));
    let error = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) if error.is_empty() => "Failed to fetch block from peer".to_owned(),
        Ok(Err(error)) => error,
        Err(_) => "Failed to fetch block from peer".to_owned(),
    };
    let len = error.len().min(capacity);
    // SAFETY: the shim lends `capacity` writable bytes at `text`, which do not overlap with ours.
    unsafe { std::ptr::copy_nonoverlapping(error.as_ptr(), text, len) };
    len
}

/// What the shim holds: a thin pointer to the receiver.
pub(crate) struct Sink(pub(crate) Arc<dyn Notifications>);

fn decode(kind: u32, f: &mut Fields<'_>) -> Result<Notification, KernelError> {
    Ok(match kind {
        1 => Notification::TipChanged {
            tip: crate::chain::read_tip(f)?,
            fork: f.option(|f| f.block_hash())?,
            initial_download: f.bool()?,
        },
        2 => Notification::BlockConnected {
            hash: f.block_hash()?,
            height: f.u32()?,
            block: f.bytes()?.to_vec(),
            background: f.bool()?,
        },
        3 => Notification::BlockDisconnected { hash: f.block_hash()?, height: f.u32()?, block: f.bytes()?.to_vec() },
        4 => Notification::NewPowValidBlock { hash: f.block_hash()?, height: f.u32()? },
        5 => Notification::BlockChecked { hash: f.block_hash()?, verdict: crate::chain::read_verdict(f)? },
        6 => Notification::TxAdded {
            tx: f.consensus()?,
            txid: f.txid()?,
            wtxid: f.wtxid()?,
            fee: f.amount()?,
            vsize: f.u64()?,
            sequence: f.u64()?,
        },
        7 => Notification::TxRemoved { txid: f.txid()?, wtxid: f.wtxid()?, reason: f.string()?, sequence: f.u64()? },
        8 => Notification::ChainStateFlushed { best: f.block_hash()?, background: f.bool()? },
        9 => Notification::HeaderTip { height: f.i64()?, time: f.i64()?, presync: f.bool()? },
        10 => Notification::RelayTransaction { txid: f.txid()?, wtxid: f.wtxid()? },
        11 => Notification::InitMessage(f.string()?),
        12 => Notification::ShutdownRequested,
        _ => return Err(KernelError::Malformed("unknown notification")),
    })
}
