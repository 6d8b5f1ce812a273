//! Fetching: whom to ask for headers, blocks and transactions, and who is too slow.

use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::p2p::message_blockdata::Inventory;

use super::headers::{HEADERS_RESPONSE_TIME, reference};
use super::{Owner, Step};
use crate::bitcoin::chain::{BlockRef, HeaderRef, Snapshot, TxRef};
use crate::bitcoin::downloads::{Late, MAX_IN_FLIGHT, WINDOW};
use crate::bitcoin::handle::{ConnectionType, FetchError, PeerId};
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

const MAX_GETDATA: usize = 1_000;
const CHAIN_SYNC_TIMEOUT: Duration = Duration::from_secs(20 * 60);
const HEADERS_TIMEOUT_BASE: Duration = Duration::from_secs(15 * 60);
/// Blocks that limited peers keep, less two for races.
const LIMITED_BLOCKS: u32 = 288 - 2;
const DAY: u64 = 24 * 60 * 60;

impl Owner {
    /// Outbound peers first; from others only when there is none, or nothing is on its way.
    fn syncs_from(&self, peer: &Peer) -> bool {
        if peer.preferred_download {
            return true;
        }
        let preferred = self.peers.values().any(|other| other.preferred_download);
        peer.can_serve_blocks() && peer.kind != ConnectionType::AddrFetch && (!preferred || self.downloads.total() == 0)
    }

    pub(super) fn start_headers_sync(&mut self, peer: &mut Peer, now: Duration) {
        if peer.sync_started || !peer.can_serve_blocks() || self.chain.is_loading_blocks() {
            return;
        }
        let best = self.chain.best_header();
        let Some(info) = self.chain.header(&best.hash) else { return };
        let time = u64::from(info.header.time);
        let close = time > now.as_secs().saturating_sub(DAY);
        if !close && (self.syncing > 0 || !self.syncs_from(peer)) {
            return;
        }
        // From the block before the best header, so that an answer is never empty and tells what the peer has.
        let start = if best.height > 0 { info.header.prev_blockhash } else { best.hash };
        let locator = self.chain.locator(Some(&start));
        if self.ask_headers(peer, locator) {
            tracing::debug!(
                target: "net",
                "initial getheaders ({}) to peer={}", best.height.saturating_sub(1), peer.id
            );
            let expected = now.as_secs().saturating_sub(time) / self.block_interval().as_secs().max(1);
            peer.headers_timeout = Some(now + HEADERS_TIMEOUT_BASE + Duration::from_millis(expected));
            peer.sync_started = true;
            self.syncing += 1;
        }
    }

    pub(super) fn check_downloads(&mut self, peer: &mut Peer, now: Duration) -> Step {
        match self.downloads.late(peer.id, now, self.block_interval()) {
            Some(Late::Stalling(next)) => {
                tracing::info!("Peer is stalling block download, {}", peer.disconnecting());
                tracing::debug!(
                    target: "net",
                    "Increased stalling timeout temporarily to {} seconds", next.as_secs()
                );
                return Err(super::Halt::Gone);
            }
            Some(Late::Timeout(hash)) => {
                tracing::info!("Timeout downloading block {hash}, {}", peer.disconnecting());
                return Err(super::Halt::Gone);
            }
            None => {}
        }
        let Some(deadline) = peer.headers_timeout else { return Ok(()) };
        let best = self.chain.best_header();
        let time = self.chain.header(&best.hash).map_or(0, |info| u64::from(info.header.time));
        if time > now.as_secs().saturating_sub(DAY) {
            peer.headers_timeout = None;
        } else if now > deadline && self.syncing == 1 && self.peers.values().any(|other| other.preferred_download) {
            if !peer.has(Permissions::NO_BAN) {
                tracing::info!("Timeout downloading headers, {}", peer.disconnecting());
                return Err(super::Halt::Gone);
            }
            tracing::info!("Timeout downloading headers from noban peer, not {}", peer.disconnecting());
            peer.sync_started = false;
            peer.headers_timeout = None;
            self.syncing = self.syncing.saturating_sub(1);
        }
        Ok(())
    }

    /// Core's `ConsiderEviction`: outbound peers whose chain has fallen behind ours get one last chance.
    pub(super) fn check_chain(&mut self, peer: &mut Peer, now: Duration) -> Step {
        if peer.chain_sync.protect || !peer.is_outbound_or_block_relay() || !peer.sync_started {
            return Ok(());
        }
        let tip = self.chain.tip();
        let tip_work = self.tip_work();
        let best = peer.best_known;
        if best.is_some_and(|best| best.chain_work >= tip_work) {
            peer.chain_sync = Default::default();
            return Ok(());
        }
        let caught_up =
            peer.chain_sync.work_header.zip(best).is_some_and(|(goal, best)| best.chain_work >= goal.chain_work);
        let Some(deadline) = peer.chain_sync.timeout.filter(|_| !caught_up) else {
            peer.chain_sync.timeout = Some(now + CHAIN_SYNC_TIMEOUT);
            peer.chain_sync.work_header = self.chain.header(&tip.hash).map(|info| reference(tip.hash, &info));
            peer.chain_sync.sent_getheaders = false;
            return Ok(());
        };
        if now <= deadline {
            return Ok(());
        }
        if peer.chain_sync.sent_getheaders {
            tracing::info!(
                "Outbound peer has old chain, best known block = {}, {}",
                best.map_or_else(|| "<none>".to_owned(), |best| best.hash.to_string()),
                peer.disconnecting()
            );
            return Err(super::Halt::Gone);
        }
        let goal = peer.chain_sync.work_header.map_or(tip.hash, |goal| goal.hash);
        let start = self.chain.header(&goal).map_or(goal, |info| info.header.prev_blockhash);
        let locator = self.chain.locator(Some(&start));
        self.ask_headers(peer, locator);
        peer.chain_sync.sent_getheaders = true;
        peer.chain_sync.timeout = Some(now + HEADERS_RESPONSE_TIME);
        Ok(())
    }

    pub(super) fn ask_blocks(&mut self, peer: &mut Peer, now: Duration) {
        if !peer.can_serve_blocks()
            || !peer.can_serve_witnesses()
            || self.downloads.count(peer.id) >= MAX_IN_FLIGHT
            || self.chain.is_loading_blocks()
        {
            return;
        }
        self.refresh_known(peer);
        let Some(best) = peer.best_known else { return };
        let allowed = (self.syncs_from(peer) && !peer.is_limited()) || !self.chain.is_initial_block_download();
        if !allowed {
            return;
        }
        let snapshot = self.chain.snapshot();
        let base = snapshot.map(|snapshot| snapshot.base);
        let has_base = base.is_none_or(|base| self.chain.ancestor(&best.hash, base.height) == Some(base.hash));
        if self.is_interesting(peer) {
            if has_base {
                self.ask_new_blocks(peer, &best, now);
            } else {
                // There is no undo data to leave the snapshot's chain with.
                tracing::debug!(
                    target: "net",
                    "Not downloading blocks from peer={}, which doesn't have the snapshot block in its best chain.",
                    peer.id
                );
            }
        }
        if let Some(snapshot) = snapshot.filter(|_| has_base && !peer.is_limited()) {
            self.ask_historical_blocks(peer, &snapshot);
        }
    }

    /// Core's `FindNextBlocksToDownload`.
    fn ask_new_blocks(&mut self, peer: &mut Peer, best: &HeaderRef, now: Duration) {
        if self.chain.active_hash(best.height) == Some(best.hash) {
            peer.last_common = Some(best.height);
            return;
        }
        let wanted = self.downloads.total() + MAX_IN_FLIGHT + 1;
        let missing = self.chain.missing_blocks(&best.hash, u32::MAX, wanted);
        // Below the first missing block all is here, though perhaps not connected: a branch of more than a window's length
        // becomes active only when it is complete.
        let base = missing.first().map_or(best.height, |first| first.height.saturating_sub(1));
        peer.last_common = Some(base);
        let reachable: Vec<_> = missing
            .into_iter()
            .filter(|block| !peer.is_limited() || best.height.saturating_sub(block.height) < LIMITED_BLOCKS)
            .collect();
        let pick = self.downloads.pick(peer.id, &reachable, base.saturating_add(WINDOW));
        self.request_picked(peer, &pick.blocks);
        let staller = pick.staller.filter(|_| self.downloads.count(peer.id) == 0);
        if let Some(staller) = staller.filter(|staller| self.downloads.stalls(*staller, now)) {
            tracing::debug!(target: "net", "Stall started peer={staller}");
        }
    }

    /// Core's `TryDownloadingHistoricalBlocks`: what is left over goes to the blocks below a snapshot. Nobody is a staller
    /// there.
    fn ask_historical_blocks(&mut self, peer: &mut Peer, snapshot: &Snapshot) {
        let wanted = self.downloads.total() + MAX_IN_FLIGHT + 1;
        let done = snapshot.done.height;
        let missing = self.chain.missing_from(done.saturating_add(1), &snapshot.base.hash, wanted);
        let pick = self.downloads.pick(peer.id, &missing, done.saturating_add(WINDOW));
        self.request_picked(peer, &pick.blocks);
    }

    fn request_picked(&mut self, peer: &mut Peer, blocks: &[BlockRef]) {
        for block in blocks {
            tracing::debug!(
                target: "net",
                "Requesting block {} ({}) peer={}", block.hash, block.height, peer.id
            );
        }
        self.request_blocks(peer, blocks);
    }

    pub(super) fn ask_transactions(&mut self, peer: &mut Peer) {
        let mut items = Vec::new();
        for tx in self.chain.requests(peer.id) {
            items.push(match tx {
                TxRef::Wtxid(id) => Inventory::WTx(id),
                TxRef::Txid(id) if peer.can_serve_witnesses() => Inventory::WitnessTransaction(id),
                TxRef::Txid(id) => Inventory::Transaction(id),
            });
        }
        for batch in items.chunks(MAX_GETDATA) {
            self.send_inventory(peer, "getdata", &batch.to_vec());
        }
    }

    /// Asks one peer for one block, whatever else is in flight (`getblockfrompeer`).
    pub(super) fn fetch_block(&mut self, id: PeerId, hash: BlockHash) -> Result<(), FetchError> {
        let info = self.chain.header(&hash).ok_or(FetchError::Failed)?;
        let Some(peer) = self.peers.get(&id) else { return Err(FetchError::NoPeer) };
        if !peer.can_serve_witnesses() {
            return Err(FetchError::PreSegwit);
        }
        self.end_request(&hash, None);
        let block = BlockRef { hash, height: info.height };
        self.with_peer(id, |owner, peer| {
            owner.request_blocks(peer, &[block]);
            Ok(())
        });
        tracing::debug!(target: "net", "Requesting block {hash} from peer={id}");
        Ok(())
    }
}
