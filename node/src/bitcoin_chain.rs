//! The kernel as the Bitcoin network sees it: [`keyless_p2p::bitcoin::Chain`] over [`Kernel`].
//!
//! Owns no state. Calls that fail because the node is stopping answer as an empty chain would: the network is closed
//! before the kernel, so such answers reach no peer.

use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::consensus::deserialize;
use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::{BlockHash, Txid, Work, Wtxid};
use keyless_kernel::chain::{BlockInfo, BlockVerdict, BlockVerdictKind};
use keyless_kernel::{Kernel, KernelError};
use keyless_p2p::bitcoin::{
    BlockOutcome, BlockRef, Chain, HeaderInfo, HeaderRef, HeadersError, LowWorkStep, LowWorkSync, MempoolTx, Snapshot,
    TxRef,
};

mod addresses;
mod compact;
mod private;
mod relay;
mod rules;

/// [`Chain`] over the kernel of this process.
#[derive(Debug, Clone)]
pub struct KernelChain {
    kernel: Kernel,
}

impl KernelChain {
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel }
    }
}

fn or_empty<T: Default>(result: Result<T, KernelError>) -> T {
    result.unwrap_or_else(|error| {
        tracing::debug!(target: "net", %error, "the kernel did not answer");
        T::default()
    })
}

/// The text of an exception as Core's network logs it: it reads payloads from another kind of stream.
pub(crate) fn exception(error: &KernelError) -> String {
    error.to_string().replace("SpanReader::read", "DataStream::read")
}

fn header_ref(info: &BlockInfo) -> HeaderRef {
    HeaderRef { hash: info.hash, height: info.height, chain_work: info.chainwork }
}

/// Whether the sender of what was judged so broke a rule (Core's `MaybePunishNodeForBlock`).
pub(crate) fn punishable(kind: BlockVerdictKind) -> bool {
    use BlockVerdictKind as Kind;
    matches!(
        kind,
        Kind::Consensus
            | Kind::Mutated
            | Kind::CachedInvalid
            | Kind::InvalidHeader
            | Kind::InvalidPrev
            | Kind::MissingPrev
    )
}

fn no_work() -> Work {
    Work::from_be_bytes([0; 32])
}

impl Chain for KernelChain {
    fn now(&self) -> Duration {
        self.kernel.precise_time()
    }

    fn peers_connected(&self, count: usize) {
        self.kernel.set_peer_count(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn tip(&self) -> BlockRef {
        let tip = self.kernel.tip().map(|tip| BlockRef { hash: tip.hash, height: tip.height });
        tip.unwrap_or(BlockRef { hash: BlockHash::all_zeros(), height: 0 })
    }

    fn best_header(&self) -> HeaderRef {
        let best = self.kernel.best_header().map(|info| header_ref(&info));
        best.unwrap_or(HeaderRef { hash: BlockHash::all_zeros(), height: 0, chain_work: no_work() })
    }

    fn header(&self, hash: &BlockHash) -> Option<HeaderInfo> {
        or_empty(self.kernel.block_info(hash)).map(|info| HeaderInfo {
            header: info.header,
            height: info.height,
            chain_work: info.chainwork,
            have_data: info.have_data,
            in_active_chain: info.in_active_chain,
            failed: info.failed,
            // Undo data is written when a block is connected, which needs full validation.
            validated: info.in_active_chain || info.have_undo,
        })
    }

    fn active_hash(&self, height: u32) -> Option<BlockHash> {
        or_empty(self.kernel.block_hash(height))
    }

    fn locator(&self, from: Option<&BlockHash>) -> Vec<BlockHash> {
        let from = from.copied().unwrap_or_else(|| self.best_header().hash);
        or_empty(self.kernel.locator(&from))
    }

    fn headers_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<Header> {
        or_empty(self.kernel.headers_after(locator, stop, u32::try_from(max).unwrap_or(u32::MAX)))
    }

    fn block_hashes_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<BlockRef> {
        let headers = self.headers_after(locator, stop, max);
        let Some(first) = headers.first().and_then(|header| self.header(&header.block_hash())) else {
            return Vec::new();
        };
        let heights = first.height..;
        headers.iter().zip(heights).map(|(header, height)| BlockRef { hash: header.block_hash(), height }).collect()
    }

    fn low_work_sync(&self, start: &BlockHash, minimum_work: Work, peer: u64) -> Option<Box<dyn LowWorkSync>> {
        let peer = i64::try_from(peer).unwrap_or(i64::MAX);
        let sync = self.kernel.headers_sync(start, minimum_work, peer).ok()?;
        Some(Box::new(KernelHeadersSync { sync }))
    }

    fn accept_headers(&self, headers: &[Header]) -> Result<HeaderRef, HeadersError> {
        let failed = |reason: String| HeadersError { reason, punish: false, unconnecting: false };
        let outcome = self.kernel.process_headers(headers, true).map_err(|error| failed(error.to_string()))?;
        if let Some(verdict) = outcome.rejection {
            let unconnecting = verdict.kind == BlockVerdictKind::MissingPrev;
            let punish = punishable(verdict.kind) && !unconnecting;
            return Err(HeadersError { reason: verdict.reason, punish, unconnecting });
        }
        match outcome.last {
            Some(info) => Ok(header_ref(&info)),
            None => Ok(self.best_header()),
        }
    }

    fn accept_block(&self, raw: &[u8], requested: bool, min_pow_checked: bool) -> BlockOutcome {
        let hash = raw.get(..80).and_then(|bytes| deserialize::<Header>(bytes).ok()).map(|header| header.block_hash());
        let Some(hash) = hash else {
            let verdict = Some("block header is malformed".to_owned());
            return BlockOutcome {
                hash: BlockHash::all_zeros(),
                new: false,
                valid: false,
                malformed: None,
                verdict,
                detail: String::new(),
                punish: true,
            };
        };
        match self.kernel.process_block(raw, requested, min_pow_checked) {
            Ok(outcome) => {
                let valid = outcome.verdict.as_ref().is_some_and(|verdict| verdict.kind == BlockVerdictKind::Valid);
                let refused = outcome.verdict.filter(|verdict| verdict.kind != BlockVerdictKind::Valid);
                let punish = refused.as_ref().is_some_and(|verdict| punishable(verdict.kind));
                let detail = refused.as_ref().map(|verdict| verdict.debug.clone()).unwrap_or_default();
                let verdict = refused.map(|verdict: BlockVerdict| verdict.reason);
                BlockOutcome { hash, new: outcome.new, valid, malformed: None, verdict, detail, punish }
            }
            Err(error) => BlockOutcome {
                hash,
                new: false,
                valid: false,
                malformed: Some(exception(&error)),
                verdict: Some(error.to_string()),
                detail: String::new(),
                punish: false,
            },
        }
    }

    fn ancestor(&self, of: &BlockHash, height: u32) -> Option<BlockHash> {
        or_empty(self.kernel.ancestor(of, height)).map(|info| info.hash)
    }

    fn is_loading_blocks(&self) -> bool {
        self.kernel.chain_state().map_or(true, |state| state.loading_blocks)
    }

    fn missing_blocks(&self, to: &BlockHash, window: u32, max: usize) -> Vec<BlockRef> {
        let Some(fork) = or_empty(self.kernel.fork_point(to)) else { return Vec::new() };
        let Some(target) = or_empty(self.kernel.block_info(to)) else { return Vec::new() };
        if target.failed {
            return Vec::new();
        }
        let highest = fork.height.saturating_add(window);
        let missing = self.missing_from(fork.height.saturating_add(1), to, max);
        missing.into_iter().take_while(|block| block.height <= highest).collect()
    }

    fn missing_from(&self, from: u32, to: &BlockHash, max: usize) -> Vec<BlockRef> {
        let missing = or_empty(self.kernel.missing_blocks(to, from, u32::try_from(max).unwrap_or(u32::MAX)));
        missing.into_iter().map(|(height, hash)| BlockRef { hash, height }).collect()
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let block = |(height, hash)| BlockRef { hash, height };
        or_empty(self.kernel.historical_range())
            .map(|range| Snapshot { done: block(range.done), base: block(range.base) })
    }

    fn services(&self) -> ServiceFlags {
        self.kernel.chain_state().map_or(ServiceFlags::NONE, |state| ServiceFlags::from(state.services))
    }

    fn read_block(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        or_empty(self.kernel.read_block_bytes(hash))
    }

    fn is_initial_block_download(&self) -> bool {
        self.kernel.is_initial_download().unwrap_or(true)
    }

    fn minimum_chain_work(&self) -> Work {
        self.kernel.chain_state().map_or_else(|_| no_work(), |state| state.minimum_work)
    }

    fn prune_height(&self) -> u32 {
        self.kernel.chain_state().ok().and_then(|state| state.prune_height).unwrap_or(0)
    }

    fn transaction(&self, tx: TxRef) -> Option<MempoolTx> {
        let entry = or_empty(match tx {
            TxRef::Txid(txid) => self.kernel.mempool_tx(&txid),
            TxRef::Wtxid(wtxid) => self.kernel.mempool_tx_by_wtxid(&wtxid),
        })?;
        Some(MempoolTx {
            raw: bitcoin::consensus::serialize(&entry.tx),
            txid: entry.tx.compute_txid(),
            wtxid: entry.tx.compute_wtxid(),
            fee_sat: entry.fee.to_sat(),
            vsize: entry.vsize,
            sequence: entry.sequence,
        })
    }

    fn has_transaction(&self, tx: TxRef) -> bool {
        self.transaction(tx).is_some()
    }

    fn mempool_ids(&self) -> Vec<(Txid, Wtxid)> {
        or_empty(self.kernel.mempool_list()).iter().map(|entry| (entry.txid, entry.wtxid)).collect()
    }

    fn mempool_sequence(&self) -> u64 {
        self.kernel.mempool_info().map_or(0, |info| info.sequence)
    }

    fn fee_filter(&self) -> u64 {
        self.kernel.mempool_info().map_or(0, |info| info.min_fee_sat_kvb)
    }

    fn unbroadcast(&self) -> Vec<(Txid, Wtxid)> {
        or_empty(self.kernel.unbroadcast())
    }

    fn remove_unbroadcast(&self, txid: &Txid) {
        or_empty(self.kernel.mark_broadcast(txid));
    }
}

/// Core's `HeadersSyncState` for the network.
struct KernelHeadersSync {
    sync: keyless_kernel::HeadersSync,
}

impl LowWorkSync for KernelHeadersSync {
    fn process(&mut self, headers: &[Header], full: bool) -> Option<LowWorkStep> {
        let step = self.sync.process(headers, full).ok()?;
        let more = if step.request_more { Some(self.sync.locator().ok()?) } else { None };
        Some(LowWorkStep { ready: step.ready, success: step.success, more })
    }
}
