//! How a wallet follows the chain: event by event, and from the chain itself after a start, a gap or at a rescan.
//!
//! Events and the chain may overlap: a block that does not extend the wallet's own tip is either one it has, or a
//! reason to walk the chain. So the order of loading and notifications does not matter.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bdk_chain::BlockId;
use bitcoin::{Block, BlockHash, Transaction, Txid};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::Rescanned;
use tss_wallet::wallet::Wallet;
use tss_wallet::wallet::feed::RemovalReason;
use tss_wallet::wallet::storage::StorageError;

use super::feed::{FeedEvent, Queued};
use super::loaded::{Loaded, storage_error};

/// Blocks a wallet walks back to find where its chain left the active one, before it begins anew from the fork.
const MAX_WALK_BACK: u32 = 1_000_000;

/// Work that takes longer says so in the log this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How far long work has come, for the log.
struct Progress {
    started: Instant,
    logged: Instant,
}

impl Progress {
    fn start() -> Self {
        let now = Instant::now();
        Self { started: now, logged: now }
    }

    /// Logs now and then, in Core's words.
    fn at(&mut self, wallet: &str, height: u32, first: u32, last: u32) {
        if self.logged.elapsed() < LOG_EVERY {
            return;
        }
        self.logged = Instant::now();
        let done = share_of(height, first, last);
        tracing::info!("[{wallet}] Still rescanning. At block {height}. Progress={done:.6}");
    }

    fn ms(&self) -> u128 {
        self.started.elapsed().as_millis()
    }
}

/// How much of the blocks `first..=last` lies before `height`, from 0 to 1.
fn share_of(height: u32, first: u32, last: u32) -> f64 {
    f64::from(height.saturating_sub(first)) / f64::from(last.saturating_sub(first).max(1))
}

/// Why a wallet could not follow.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("block {0} is not on the disk (was it pruned?)")]
    NoBlock(BlockHash),
}

impl Loaded {
    /// Applies one event. Errors are logged: the wallet catches up at the next block.
    pub(super) fn apply(&self, event: &Queued) {
        let result = match event {
            Queued::Event(event) => self.apply_event(event),
            Queued::Connected { height, hash } => match self.chain.read_block(hash) {
                Some(block) => self.connected(*height, &block),
                None => self.catch_up(),
            },
            Queued::Resync => self.catch_up().and_then(|()| self.scan_mempool()),
            Queued::Idle | Queued::Stop => Ok(()),
        };
        if let Err(error) = result {
            tracing::error!(wallet = self.name, %error, "the wallet could not follow the chain");
        }
    }

    fn apply_event(&self, event: &FeedEvent) -> Result<(), FollowError> {
        match event {
            FeedEvent::BlockConnected { height, block } => self.connected(*height, block),
            FeedEvent::BlockDisconnected { height, hash } => self.disconnected(*height, hash),
            FeedEvent::MempoolAdded { transaction } => self.mempool_added(transaction),
            FeedEvent::MempoolRemoved { txid, reason } => self.mempool_removed(txid, reason),
            FeedEvent::ChainStateFlushed { best } => self.flushed(best),
            FeedEvent::TipChanged { .. } => self.send_unsent(),
        }
    }

    fn connected(&self, height: u32, block: &Block) -> Result<(), FollowError> {
        let now = self.chain.now();
        let mut wallet = self.wallet();
        match wallet.tip() {
            Some(tip) if tip.hash == block.header.prev_blockhash => {
                let touched = wallet.block_connected(block, height, now)?;
                self.notify(&wallet, &touched);
                drop(wallet);
                self.forget_mined(block);
                Ok(())
            }
            Some(tip) if tip.hash == block.block_hash() => Ok(()),
            _ => {
                drop(wallet);
                self.catch_up()
            }
        }
    }

    /// The mempool does not tell that it gave up what a block holds.
    fn forget_mined(&self, block: &Block) {
        let mut kept = self.in_mempool.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            for tx in &block.txdata {
                kept.remove(&tx.compute_txid());
            }
        }
    }

    fn disconnected(&self, height: u32, hash: &BlockHash) -> Result<(), FollowError> {
        if self.wallet().tip().is_none_or(|tip| tip.hash != *hash) {
            return Ok(());
        }
        let block = self.chain.read_block(hash).ok_or(FollowError::NoBlock(*hash))?;
        let mut wallet = self.wallet();
        let touched = wallet.block_disconnected(&block, height, self.chain.now())?;
        self.notify(&wallet, &touched);
        Ok(())
    }

    pub(super) fn mempool_added(&self, transaction: &Transaction) -> Result<(), FollowError> {
        self.note_in_mempool(&mut self.wallet(), transaction)
    }

    pub(super) fn note_in_mempool(&self, wallet: &mut Wallet, transaction: &Transaction) -> Result<(), FollowError> {
        let touched = wallet.mempool_added(transaction, self.chain.now())?;
        self.notify(wallet, &touched);
        if wallet.ledger().concerns(transaction, wallet.keys()) {
            let mut kept = self.in_mempool.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(transaction.compute_txid(), transaction.clone());
        }
        Ok(())
    }

    fn mempool_removed(&self, txid: &Txid, reason: &str) -> Result<(), FollowError> {
        let kept = self.in_mempool.lock().unwrap_or_else(PoisonError::into_inner).remove(txid);
        let mut wallet = self.wallet();
        let known = wallet.ledger().get(txid).map(|record| record.tx.as_ref().clone());
        let Some(transaction) = kept.or(known) else { return Ok(()) };
        let reason = if reason == "conflict" { RemovalReason::Conflict } else { RemovalReason::Other };
        let touched = wallet.mempool_removed(&transaction, reason, self.chain.now())?;
        self.notify(&wallet, &touched);
        Ok(())
    }

    /// A restart begins at the flushed block, if the wallet has come that far.
    fn flushed(&self, best: &BlockHash) -> Result<(), FollowError> {
        let Some(facts) = self.chain.block_facts(best) else { return Ok(()) };
        let mut wallet = self.wallet();
        if wallet.tip().is_some_and(|tip| tip.height >= facts.height) && facts.in_active_chain {
            wallet.commit_best_block(BlockId { height: facts.height, hash: *best })?;
        }
        Ok(())
    }

    /// Walks from the wallet's tip to the node's: back to the fork, then forward.
    pub(super) fn catch_up(&self) -> Result<(), FollowError> {
        let mut progress = Progress::start();
        let mut walked = 0;
        loop {
            // Not in the head of the loop, which would hold the wallet's lock through its body.
            let Some(tip) = self.wallet().tip() else { break };
            let facts = self.chain.block_facts(&tip.hash);
            if facts.as_ref().is_some_and(|facts| facts.in_active_chain) {
                break;
            }
            match self.chain.read_block(&tip.hash) {
                Some(block) if walked < MAX_WALK_BACK => {
                    self.wallet().block_disconnected(&block, tip.height, self.chain.now())?;
                }
                // The node does not know the block (it crashed before it was flushed): step down by height.
                _ => {
                    let below = tip.height.checked_sub(1);
                    let parent =
                        below.and_then(|height| self.chain.active_hash(height).map(|hash| BlockId { height, hash }));
                    let mut wallet = self.wallet();
                    wallet.set_tip(parent);
                    wallet.reconcile(|hash| self.chain.block_facts(hash).is_some_and(|facts| facts.in_active_chain))?;
                }
            }
            walked += 1;
        }
        let mut connected = 0_u32;
        let first = self.wallet().tip().map_or(0, |tip| tip.height);
        let last = self.chain.tip().height;
        loop {
            let next = self.wallet().tip().map_or(0, |tip| tip.height.saturating_add(1));
            let Some(hash) = self.chain.active_hash(next) else { break };
            let block = self.chain.read_block(&hash).ok_or(FollowError::NoBlock(hash))?;
            let mut wallet = self.wallet();
            let extends = wallet.tip().is_none_or(|tip| tip.hash == block.header.prev_blockhash);
            if !extends {
                // A reorganisation under our feet.
                drop(wallet);
                return self.catch_up();
            }
            let touched = wallet.block_connected(&block, next, self.chain.now())?;
            self.notify(&wallet, &touched);
            connected += 1;
            drop(wallet);
            progress.at(&self.name, next, first, last);
        }
        if connected > 0 || walked > 0 {
            let ms = progress.ms();
            tracing::info!(wallet = self.name, connected, disconnected = walked, ms, "wallet caught up with the chain");
        }
        Ok(())
    }

    /// Takes in what the mempool holds.
    pub(super) fn scan_mempool(&self) -> Result<(), FollowError> {
        for entry in self.chain.mempool() {
            self.mempool_added(&entry.transaction)?;
        }
        Ok(())
    }

    /// Looks at blocks of the active chain again. Blocks until it is done or aborted.
    pub(super) fn rescan_blocks(&self, start: u32, stop: Option<u32>) -> Result<Rescanned, RpcError> {
        if self.chain.prune_height().is_some_and(|lowest| start < lowest) {
            return Err(RpcError::misc(
                "Can't rescan beyond pruned data. Use RPC call getblockchaininfo to determine your pruned height.",
            ));
        }
        let scan = self.scan(start, stop, Gaps::End)?;
        match scan.end {
            ScanEnd::Done => Ok(Rescanned { start, stop: Some(scan.last) }),
            ScanEnd::Aborted => Err(RpcError::misc("Rescan aborted.")),
            ScanEnd::Gap(_) => Err(RpcError::misc("Rescan failed. Potentially corrupted data files.")),
        }
    }

    /// One scan at a time; what it has come to shows in `getwalletinfo`.
    pub(super) fn scan(&self, start: u32, stop: Option<u32>, gaps: Gaps) -> Result<Scan, RpcError> {
        if self.rescan.running.swap(true, Ordering::AcqRel) {
            return Err(RpcError::wallet("Wallet is currently rescanning. Abort existing rescan or wait."));
        }
        self.rescan.abort.store(false, Ordering::Relaxed);
        self.rescan.progress_ppm.store(0, Ordering::Relaxed);
        *self.rescan.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let result = self.scan_range(start, stop, gaps);
        self.rescan.running.store(false, Ordering::Release);
        result
    }

    fn scan_range(&self, start: u32, stop: Option<u32>, gaps: Gaps) -> Result<Scan, RpcError> {
        let tip = self.wallet().tip().map_or(0, |tip| tip.height);
        let last = stop.unwrap_or(tip).min(tip);
        let mut highest_time = 0;
        let mut end = ScanEnd::Done;
        let mut progress = Progress::start();
        let first = self.chain.active_hash(start).map_or_else(|| start.to_string(), |hash| hash.to_string());
        tracing::info!("[{}] Rescan started from block {first}... (slow variant inspecting all blocks)", self.name);
        for height in start..=last {
            if self.rescan.abort.load(Ordering::Relaxed) || self.closed.load(Ordering::Relaxed) {
                let done = share_of(height, start, last);
                tracing::info!("[{}] Rescan aborted at block {height}. Progress={done:.6}", self.name);
                return Ok(Scan { last: height, end: ScanEnd::Aborted });
            }
            let hash = self.chain.active_hash(height);
            let Some(block) = hash.and_then(|hash| self.chain.read_block(&hash)) else {
                let facts = hash.and_then(|hash| self.chain.block_facts(&hash));
                end = ScanEnd::Gap(facts.map_or(highest_time, |facts| highest_time.max(u64::from(facts.time))));
                match gaps {
                    Gaps::End => return Ok(Scan { last: height, end }),
                    Gaps::Skip => continue,
                }
            };
            highest_time = highest_time.max(u64::from(block.header.time));
            let mut wallet = self.wallet();
            let found = wallet.rescan_block(&block, height, highest_time, self.chain.now());
            self.notify(&wallet, &found.map_err(storage_error)?);
            drop(wallet);
            let done = u64::from(height - start + 1) * 1_000_000 / u64::from(last - start + 1);
            self.rescan.progress_ppm.store(u32::try_from(done).unwrap_or(1_000_000), Ordering::Relaxed);
            progress.at(&self.name, height, start, last);
        }
        tracing::info!("[{}] Rescan completed in {:>15}ms", self.name, progress.ms());
        Ok(Scan { last, end })
    }
}

/// What a scan does about a block that is not on the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    End,
    Skip,
}

/// How a scan ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanEnd {
    Done,
    Aborted,
    /// Blocks were missing, the last of them of this time.
    Gap(u64),
}

pub(super) struct Scan {
    /// The last block that was looked at.
    pub last: u32,
    pub end: ScanEnd,
}
