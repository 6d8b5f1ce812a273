//! What wallets and co-signers need of the node's chain and mempool.
//!
//! Owns the trait and its plain data. Every call may block: it is made on blocking threads, never on a tokio worker.
//! The node implements it over the kernel; tests have a twin.

use std::collections::BTreeMap;

use bitcoin::{Amount, Block, BlockHash, FeeRate, Network, OutPoint, Script, Transaction, TxOut, Txid};
use tss_wallet::wallet::signing::PrevCoin;
use tss_wallet::wallet::spend::fees::FeeRate as PerKvb;

/// A block of the active chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    pub hash: BlockHash,
    pub height: u32,
}

/// What a wallet asks about a known block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockFacts {
    pub hash: BlockHash,
    pub parent: BlockHash,
    pub height: u32,
    /// Header time, seconds.
    pub time: u32,
    /// Median time past, seconds.
    pub median_time: u32,
    pub in_active_chain: bool,
}

/// Unconfirmed ancestors of a mempool transaction, itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestry {
    pub count: u64,
    /// All that are connected with it.
    pub cluster: u64,
    pub size_vbytes: u64,
    pub fees: Amount,
}

/// A transaction of the mempool and when it entered, in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolEntry {
    pub transaction: Transaction,
    pub time: u64,
}

/// Why the mempool refused a transaction, in Core's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MempoolRefusal(pub String);

/// The chain and the mempool of one moment. Test acceptance answers the same as long as the mark does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolMark {
    pub tip: BlockHash,
    /// Grows with every change of the mempool but those by blocks.
    pub sequence: u64,
}

/// What the mempool would say to a transaction, with nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tested {
    /// It takes it, or has it.
    Accepted,
    /// Everything passed but the scripts: what dummy signatures can reach at most.
    ScriptsFail,
    /// It spends coins that are not there, or not any more.
    MissingInputs,
    /// Refused, in Core's words.
    Refused(String),
}

/// What the fee estimator knows for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub fee_rate: FeeRate,
    /// The target the answer holds for, in blocks.
    pub blocks: u32,
}

/// The node's chain and mempool as wallets see them.
pub trait ChainView: Send + Sync + 'static {
    fn network(&self) -> Network;
    /// Hash of the genesis block; tells one signet from another.
    fn genesis(&self) -> BlockHash;
    /// Seconds since the Unix epoch; follows mock time.
    fn now(&self) -> u64;
    fn tip(&self) -> BlockRef;
    fn is_initial_block_download(&self) -> bool;
    /// The block at `height` on the active chain.
    fn active_hash(&self, height: u32) -> Option<BlockHash>;
    fn block_facts(&self, hash: &BlockHash) -> Option<BlockFacts>;
    /// The block with its witnesses, if its data is on disk.
    fn read_block(&self, hash: &BlockHash) -> Option<Block>;
    /// Lowest height whose block data is kept, if blocks were pruned.
    fn prune_height(&self) -> Option<u32>;
    /// An unspent output of the chain, or an output of the mempool (spent there or not).
    fn output(&self, outpoint: &OutPoint) -> Option<TxOut>;

    /// A script as Core writes it (`ScriptToAsmStr`).
    fn script_asm(&self, script: &Script) -> String;

    /// Whether an input is complete, by Core's interpreter; the error is Core's text. `coins` are those that the
    /// transaction spends, as far as they are known.
    fn verify_input(
        &self,
        transaction: &Transaction,
        input: usize,
        coins: &BTreeMap<OutPoint, PrevCoin>,
    ) -> Result<(), String>;

    fn mempool(&self) -> Vec<MempoolEntry>;
    fn mempool_transaction(&self, txid: &Txid) -> Option<Transaction>;
    fn mempool_ancestry(&self, txid: &Txid) -> Option<Ancestry>;
    fn has_mempool_descendants(&self, txid: &Txid) -> bool;
    /// What the unconfirmed ancestors of each coin lack at a rate, each coin looked at alone.
    fn bump_fees(&self, coins: &[OutPoint], rate: PerKvb) -> Vec<Amount>;
    /// The same for all coins together; `None` where their cluster is too large.
    fn combined_bump_fee(&self, coins: &[OutPoint], rate: PerKvb) -> Option<Amount>;
    /// Whether the mempool's limits on clusters would let a transaction in.
    fn fits_cluster_limits(&self, transaction: &Transaction) -> bool;
    /// Puts a transaction into the mempool; tells the peers of it when `relay` is set. Known already is success.
    fn submit(&self, transaction: &Transaction, relay: bool) -> Result<(), MempoolRefusal>;

    /// Core's test acceptance.
    fn test_accept(&self, transaction: &Transaction) -> Tested;
    /// What test acceptance rests on. None where it cannot be told: then nothing may be taken for unchanged.
    fn pool_mark(&self) -> Option<PoolMark>;

    /// Core's smart fee estimate.
    fn estimate_fee(&self, target_blocks: u32, conservative: bool) -> Option<Estimate>;
    /// Least feerate that the mempool accepts now.
    fn mempool_min_fee(&self) -> FeeRate;
    /// `-minrelaytxfee`.
    fn relay_min_fee(&self) -> FeeRate;
    /// `-incrementalrelayfee`.
    fn incremental_fee(&self) -> PerKvb;

    /// Returns when every notification queued before this call has been delivered to [`super::ChainFeed`].
    fn flush_notifications(&self);

    /// Adds a wallet to the list in settings.json that is loaded at start, or removes it. False when it could not.
    fn set_load_on_startup(&self, wallet: &str, load: bool) -> bool;
}
