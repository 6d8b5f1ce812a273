//! What the network needs from a node's chain and mempool, and what it wants to be told.
//!
//! Owns the trait and its plain data. All calls may block; the owner thread makes them, never a tokio worker.
//! An implementation must not wait for the network in turn (for instance for a reply of a [`super::Handle`]).

use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::{BlockHash, Txid, Work, Wtxid};

mod book;
mod compact;
mod private;
mod relay;
mod rules;

pub use book::{AddressBook, AddressSource};
pub use compact::{CompactAnswer, CompactBlocks, CompactEnd, CompactStart, LightClients};
pub use private::{PrivateBroadcast, PrivateTx};
pub use relay::{Malformed, Received, RelayPeer, Relayed, TxRelay};
pub use rules::{InboundPeer, PeerRules};

/// A block of the active chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub hash: BlockHash,
    pub height: u32,
}

/// A known header and the total work of the chain that ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef {
    pub hash: BlockHash,
    pub height: u32,
    pub chain_work: Work,
}

/// Coins were loaded from a snapshot, and the blocks below it are validated behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The block up to which all is validated from below.
    pub done: BlockRef,
    /// The block whose coins were loaded.
    pub base: BlockRef,
}

/// All that the network asks about one header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderInfo {
    pub header: Header,
    pub height: u32,
    pub chain_work: Work,
    /// The block's data is on disk.
    pub have_data: bool,
    /// The block is part of the active chain.
    pub in_active_chain: bool,
    /// The block, or one it descends from, failed validation.
    pub failed: bool,
    /// The block was fully validated at some time (Core's `BLOCK_VALID_SCRIPTS`): it may be served off the active chain.
    pub validated: bool,
}

/// Why a batch of headers was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HeadersError {
    /// Core's reject reason, such as `high-hash` or `bad-diffbits`.
    pub reason: String,
    /// The sender broke a rule (Core's `MaybePunishNodeForBlock` would discourage it).
    pub punish: bool,
    /// The first header's parent is unknown.
    pub unconnecting: bool,
}

/// What became of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOutcome {
    pub hash: BlockHash,
    /// The data was not known before and was stored.
    pub new: bool,
    /// It was judged valid now, as it was connected.
    pub valid: bool,
    /// `None`: not refused. Else Core's reject reason, such as `bad-txnmrklroot`.
    pub verdict: Option<String>,
    /// It cannot be read as a block: the text of Core's exception.
    pub malformed: Option<String>,
    /// What else Core says of a refusal.
    pub detail: String,
    /// The sender broke a rule.
    pub punish: bool,
}

/// How a peer names a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TxRef {
    Txid(Txid),
    Wtxid(Wtxid),
}

impl TxRef {
    /// The 32 bytes of the id.
    pub fn bytes(&self) -> [u8; 32] {
        match self {
            Self::Txid(id) => id.to_byte_array(),
            Self::Wtxid(id) => id.to_byte_array(),
        }
    }
}

/// A transaction of the mempool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MempoolTx {
    pub raw: Vec<u8>,
    pub txid: Txid,
    pub wtxid: Wtxid,
    pub fee_sat: u64,
    pub vsize: u64,
    /// The mempool's sequence number when it entered: a peer gets only what was there at its last announcement.
    pub sequence: u64,
}

/// What a batch of low-work headers led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowWorkStep {
    /// Headers of a chain that was shown to have enough work: to be processed now.
    pub ready: Vec<Header>,
    /// What the peer sent fits what it sent before; if not, the sync is over.
    pub success: bool,
    /// Ask for more, from this locator.
    pub more: Option<Vec<BlockHash>>,
}

/// A sync of headers that have too little work to be stored yet (Core's `HeadersSyncState`): the peer shows its chain twice,
/// and only the second time, when the work is known, headers cost memory.
pub trait LowWorkSync: Send {
    /// Takes connected headers that meet their own target. `full`: the message was as large as it may be. `None` when it is over.
    fn process(&mut self, headers: &[Header], full: bool) -> Option<LowWorkStep>;
}

/// What the node's chain and mempool answer. Implemented by the node over the kernel, and by a test twin.
pub trait Chain:
    AddressBook + PeerRules + TxRelay + PrivateBroadcast + CompactBlocks + LightClients + Send + Sync + 'static
{
    /// Time since the Unix epoch; follows mock time.
    fn now(&self) -> Duration;
    /// So many peers are connected from now on.
    fn peers_connected(&self, count: usize);

    /// Tip of the active chain.
    fn tip(&self) -> BlockRef;
    /// The header with the most work that did not fail.
    fn best_header(&self) -> HeaderRef;
    fn header(&self, hash: &BlockHash) -> Option<HeaderInfo>;
    /// The hash at `height` on the active chain.
    fn active_hash(&self, height: u32) -> Option<BlockHash>;
    /// Block locator (newest first, exponentially thinner) that starts at `from`, or at the best header.
    fn locator(&self, from: Option<&BlockHash>) -> Vec<BlockHash>;
    /// Headers of the active chain after the newest locator hash that is on it (else after genesis), up to and
    /// including `stop`, at most `max`. Core's `getheaders`, without the special case of an empty locator.
    fn headers_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<Header>;
    /// The same as hashes with their heights.
    fn block_hashes_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<BlockRef>;
    /// Starts a sync behind the known header `start` towards `minimum_work`; `peer` is for log lines.
    fn low_work_sync(&self, start: &BlockHash, minimum_work: Work, peer: u64) -> Option<Box<dyn LowWorkSync>>;
    /// Checks and stores connected headers, given in ascending order; answers with the last one.
    fn accept_headers(&self, headers: &[Header]) -> Result<HeaderRef, HeadersError>;
    /// Checks and stores a serialized block and activates the best chain. `requested` is Core's `force_processing`,
    /// `min_pow_checked` says that the chain it extends has enough work to store headers for.
    fn accept_block(&self, raw: &[u8], requested: bool, min_pow_checked: bool) -> BlockOutcome;
    /// The ancestor of `of` at `height` (itself at its own height).
    fn ancestor(&self, of: &BlockHash, height: u32) -> Option<BlockHash>;
    /// Blocks are being imported or reindexed: neither serve nor ask.
    fn is_loading_blocks(&self) -> bool;
    /// Blocks without data on the way from the active chain to `to`, in ascending height, at most `max`, none more than
    /// `window` above the fork with the active chain. Empty if a block on the way failed, or `to` is unknown.
    fn missing_blocks(&self, to: &BlockHash, window: u32, max: usize) -> Vec<BlockRef>;
    /// Blocks without data on the way to `to`, from the height `from` on, in ascending height, at most `max`.
    fn missing_from(&self, from: u32, to: &BlockHash, max: usize) -> Vec<BlockRef>;
    /// The snapshot that is not yet validated, if there is one.
    fn snapshot(&self) -> Option<Snapshot>;
    /// Service bits that the chain's state gives.
    fn services(&self) -> ServiceFlags;
    /// The serialized block with witnesses, if its data is on disk.
    fn read_block(&self, hash: &BlockHash) -> Option<Vec<u8>>;
    fn is_initial_block_download(&self) -> bool;
    /// Least total work of a chain worth following (`-minimumchainwork`).
    fn minimum_chain_work(&self) -> Work;
    /// Lowest height whose block data is kept (0 unless pruned).
    fn prune_height(&self) -> u32;

    fn transaction(&self, tx: TxRef) -> Option<MempoolTx>;
    fn has_transaction(&self, tx: TxRef) -> bool;
    /// Ids of all that is in the mempool, parents before children.
    fn mempool_ids(&self) -> Vec<(Txid, Wtxid)>;
    /// The mempool's current sequence number.
    fn mempool_sequence(&self) -> u64;
    /// The feerate below which a full mempool refuses, in sat/kvB; 0 while there is room.
    fn fee_filter(&self) -> u64;
    /// Own transactions that no peer has asked for yet.
    fn unbroadcast(&self) -> Vec<(Txid, Wtxid)>;
    /// A peer asked for it: it is known outside.
    fn remove_unbroadcast(&self, txid: &Txid);
}

/// What the node tells the network. All of it is copied and queued; [`super::Handle::notify`] never blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainEvent {
    /// The active chain has a new tip, settled (Core's `UpdatedBlockTip`).
    TipChanged { hash: BlockHash, height: u32, initial_download: bool },
    /// A block builds on the tip and has proof of work, but is not validated yet: for those who want it at once.
    NewBlock { hash: BlockHash, height: u32 },
    /// A block was connected.
    BlockConnected { hash: BlockHash },
    /// A block was found invalid after it was stored, when its branch came to have the most work: whoever sent it answers
    /// for it.
    BlockRefused { hash: BlockHash, reason: String, punish: bool },
    /// Announce a transaction of the mempool to all peers, again if need be (`sendrawtransaction`).
    Broadcast { txid: Txid, wtxid: Wtxid },
}
