//! Blocks: taking them, serving them, and answering who asks what follows a locator.

use std::collections::{HashMap, VecDeque};

use bitcoin::BlockHash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message_blockdata::{GetHeadersMessage, Inventory};

use super::handshake::misbehaving;
use super::headers::{deserves_punishment, no_work, reference};
use super::{Owner, Step, gone};
use crate::bitcoin::chain::{BlockOutcome, BlockRef, HeaderInfo};
use crate::bitcoin::handle::PeerId;
use crate::bitcoin::message::{self, MAX_HEADERS, MessageError};
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// Core's `MAX_LOCATOR_SZ`.
const MAX_LOCATOR: usize = 101;
/// Blocks named in answer to one `getblocks`.
const GETBLOCKS_LIMIT: usize = 500;
/// Blocks whose senders are remembered: more than are downloaded ahead.
const MAX_SOURCES: usize = 4_096;
/// Core's `STALE_RELAY_AGE_LIMIT`.
const STALE_RELAY_AGE_SECS: u64 = 30 * 24 * 60 * 60;
/// Core's `HISTORICAL_BLOCK_AGE`.
const HISTORICAL_AGE_SECS: u64 = 7 * 24 * 60 * 60;
/// Core's `NODE_NETWORK_LIMITED_MIN_BLOCKS`, and two for races.
const LIMITED_BLOCKS: u32 = 288 + 2;
/// Verdicts that say the data is not what the header commits to.
const MUTATED: [&str; 5] = [
    "bad-txnmrklroot",
    "bad-txns-duplicate",
    "bad-witness-nonce-size",
    "bad-witness-merkle-match",
    "unexpected-witness",
];

/// Who sent the blocks that are stored but not yet judged: beside the best chain, or waiting for others.
#[derive(Default)]
pub(super) struct Sources {
    /// And whether by a compact block: those may be relayed before they are validated, so nobody is punished for one.
    of: HashMap<BlockHash, (PeerId, bool)>,
    oldest_first: VecDeque<BlockHash>,
}

impl Sources {
    fn note(&mut self, hash: BlockHash, peer: PeerId, compact: bool) {
        if self.of.insert(hash, (peer, compact)).is_none() {
            self.oldest_first.push_back(hash);
        }
        while self.oldest_first.len() > MAX_SOURCES {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.of.remove(&oldest);
            }
        }
    }

    pub(super) fn take(&mut self, hash: &BlockHash) -> Option<(PeerId, bool)> {
        self.of.remove(hash)
    }
}

impl Owner {
    /// Asks a peer for blocks with witnesses.
    pub(super) fn request_blocks(&mut self, peer: &mut Peer, blocks: &[BlockRef]) {
        let now = self.chain.now();
        for block in blocks {
            self.downloads.requested(peer.id, *block, now);
        }
        let witness = peer.can_serve_witnesses();
        let items: Vec<Inventory> = blocks
            .iter()
            .map(|block| if witness { Inventory::WitnessBlock(block.hash) } else { Inventory::Block(block.hash) })
            .collect();
        self.send_inventory(peer, "getdata", &items);
    }

    pub(super) fn on_block(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if self.chain.is_loading_blocks() {
            tracing::debug!(target: "net", "Unexpected block message received from peer {}", peer.id);
            return Ok(());
        }
        let header =
            message::block_header(payload).ok_or_else(|| MessageError("DataStream::read(): end of data".into()))?;
        let hash = header.block_hash();
        tracing::debug!(target: "net", "received block {hash} peer={}", peer.id);
        let parent = self.chain.header(&header.prev_blockhash);
        // Work is claimed by the target; without the proof it counts for nothing.
        let proven = header.validate_pow(header.target()).is_ok();
        let enough_work =
            proven && parent.as_ref().is_some_and(|info| info.chain_work + header.work() >= self.anti_dos_work());
        let requested = self.downloads.is_requested(&hash);
        self.end_request(&hash, Some(peer.id));
        let outcome = self.process_block(peer, hash, payload, requested, enough_work, false);
        if let Some(text) = outcome.malformed {
            return Err(super::Halt::Malformed(text));
        }
        self.judge_block(peer, &outcome, parent.is_some());
        Ok(())
    }

    /// Hands a block to the chain and notes what that means for its sender, save punishment.
    pub(super) fn process_block(
        &mut self,
        peer: &mut Peer,
        hash: BlockHash,
        raw: &[u8],
        requested: bool,
        enough_work: bool,
        compact: bool,
    ) -> BlockOutcome {
        let outcome = self.chain.accept_block(raw, requested, enough_work);
        if outcome.new {
            if outcome.verdict.is_none() {
                self.block_sources.note(hash, peer.id, compact);
            }
            peer.last_block = self.chain.now();
            self.end_request(&hash, None);
        }
        // The best block we know of, for nothing else is on its way.
        if outcome.valid && !self.chain.is_initial_block_download() && self.downloads.total() == 0 {
            self.prefer_announcer(peer);
        }
        outcome
    }

    pub(super) fn block_connected(&mut self, hash: &BlockHash) {
        self.block_sources.take(hash);
        if let Some(timeout) = self.downloads.relax() {
            tracing::debug!(
                target: "net",
                "Decreased stalling timeout to {} seconds", timeout.as_secs()
            );
        }
    }

    fn judge_block(&self, peer: &mut Peer, outcome: &BlockOutcome, connects: bool) {
        let Some(reason) = &outcome.verdict else { return };
        if connects && MUTATED.contains(&reason.as_str()) {
            tracing::debug!(target: "validation", "Block mutated: {reason}, {}", outcome.detail);
            tracing::debug!(target: "net", "Received mutated block from peer={}", peer.id);
            misbehaving(peer, "mutated block");
        } else if deserves_punishment(peer, reason, outcome.punish) {
            misbehaving(peer, reason);
        } else {
            tracing::debug!(target: "net", "peer={}: block {} refused: {reason}", peer.id, outcome.hash);
        }
    }

    /// A block that was stored unjudged turned out invalid.
    pub(super) fn block_refused(&mut self, hash: &BlockHash, reason: &str, punish: bool) {
        let Some((source, compact)) = self.block_sources.take(hash) else { return };
        if compact {
            return;
        }
        self.with_peer(source, |_, peer| {
            if deserves_punishment(peer, reason, punish) {
                misbehaving(peer, reason);
            }
            Ok(())
        });
    }

    /// Core's `BlockRequestAllowed`: stale blocks only while young, so that they do not identify us.
    pub(super) fn may_serve(&self, info: &HeaderInfo) -> bool {
        if info.in_active_chain {
            return true;
        }
        let best = self.chain.best_header();
        let Some(best) = self.chain.header(&best.hash) else { return false };
        let age = u64::from(best.header.time).saturating_sub(u64::from(info.header.time));
        let blocks = u64::from(best.height.saturating_sub(info.height));
        info.validated
            && !info.failed
            && age < STALE_RELAY_AGE_SECS
            && blocks * self.block_interval().as_secs() < STALE_RELAY_AGE_SECS
    }

    /// Core's `ProcessGetBlockData`.
    pub(super) fn serve_block(&mut self, peer: &mut Peer, item: &Inventory, hash: BlockHash) -> Step {
        let Some(info) = self.chain.header(&hash) else { return Ok(()) };
        if !self.may_serve(&info) {
            tracing::debug!(
                target: "net",
                "ProcessGetBlockData: ignoring request from peer={} for old block that isn't in the main chain",
                peer.id
            );
            return Ok(());
        }
        self.check_upload(peer, &info)?;
        let tip = self.chain.tip();
        let services = self.services();
        let limited = services.has(ServiceFlags::NETWORK_LIMITED)
            && !services.has(ServiceFlags::NETWORK)
            && tip.height.saturating_sub(info.height) > LIMITED_BLOCKS;
        if limited && !peer.has(Permissions::NO_BAN) {
            return Err(gone(format!(
                "Ignore block request below NODE_NETWORK_LIMITED threshold, {}",
                peer.disconnecting()
            )));
        }
        if !info.have_data {
            return Ok(());
        }
        match item {
            Inventory::Unknown { .. } => {
                self.serve_filtered_block(peer, &hash);
                return Ok(());
            }
            Inventory::CompactBlock(_) if self.worth_compacting(&info, tip.height) => {
                if let Some(payload) = self.chain.compact_block(&hash) {
                    self.send(peer, "cmpctblock", payload);
                    self.after_block(peer, hash, tip.hash);
                    return Ok(());
                }
            }
            _ => {}
        }
        let block = self.chain.read_block(&hash).and_then(|raw| match item {
            Inventory::Block(_) => message::block_without_witness(&raw),
            _ => Some(raw),
        });
        let Some(block) = block else {
            return Err(gone(format!("Cannot load block from disk, {}", peer.disconnecting())));
        };
        self.send(peer, "block", block);
        self.after_block(peer, hash, tip.hash);
        Ok(())
    }

    /// A peer that asks for an old block has no mempool that would help it.
    fn worth_compacting(&self, info: &HeaderInfo, tip_height: u32) -> bool {
        self.can_direct_fetch() && info.height.saturating_add(super::compact::MAX_DEPTH) >= tip_height
    }

    /// The last block of a `getblocks` answer was fetched: the tip makes the peer ask for the next.
    fn after_block(&mut self, peer: &mut Peer, hash: BlockHash, tip: BlockHash) {
        if peer.continuation == Some(hash) {
            peer.continuation = None;
            self.send_inventory(peer, "inv", &vec![Inventory::Block(tip)]);
        }
    }

    fn check_upload(&mut self, peer: &Peer, info: &HeaderInfo) -> Step {
        let best = self.chain.best_header();
        let newest = self.chain.header(&best.hash).map_or(0, |info| u64::from(info.header.time));
        let historical = newest.saturating_sub(u64::from(info.header.time)) > HISTORICAL_AGE_SECS;
        let spent = self.uploads.reached(self.config.max_upload_bytes, true, self.chain.now());
        if spent && historical && !peer.has(Permissions::DOWNLOAD) {
            return Err(gone(format!("historical block serving limit reached, {}", peer.disconnecting())));
        }
        Ok(())
    }

    pub(super) fn on_getblocks(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let ask: GetHeadersMessage = message::decode(payload)?;
        if ask.locator_hashes.len() > MAX_LOCATOR {
            return Err(gone(format!(
                "getblocks locator size {} > {MAX_LOCATOR}, {}",
                ask.locator_hashes.len(),
                peer.disconnecting()
            )));
        }
        let found = self.chain.block_hashes_after(&ask.locator_hashes, &ask.stop_hash, GETBLOCKS_LIMIT);
        tracing::debug!(
            target: "net",
            "getblocks {} to {} limit {GETBLOCKS_LIMIT} from peer={}",
            found.first().map_or(-1, |block| i64::from(block.height)), stop_name(&ask.stop_hash), peer.id
        );
        let kept = self.chain.prune_height();
        for (count, block) in found.iter().enumerate() {
            if block.hash == ask.stop_hash || block.height < kept {
                break;
            }
            peer.announce_by_inv.push(block.hash);
            if count + 1 == GETBLOCKS_LIMIT {
                peer.continuation = Some(block.hash);
            }
        }
        Ok(())
    }

    pub(super) fn on_getheaders(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let ask: GetHeadersMessage = message::decode(payload)?;
        if ask.locator_hashes.len() > MAX_LOCATOR {
            return Err(gone(format!(
                "getheaders locator size {} > {MAX_LOCATOR}, {}",
                ask.locator_hashes.len(),
                peer.disconnecting()
            )));
        }
        if self.chain.is_loading_blocks() {
            tracing::debug!(
                target: "net",
                "Ignoring getheaders from peer={} while importing/reindexing", peer.id
            );
            return Ok(());
        }
        if self.tip_work() < self.chain.minimum_chain_work() && !peer.has(Permissions::DOWNLOAD) {
            tracing::debug!(
                target: "net",
                "Ignoring getheaders from peer={} because active chain has too little work; sending empty response",
                peer.id
            );
            self.send(peer, "headers", message::encode_headers(&[]));
            return Ok(());
        }
        let headers = if ask.locator_hashes.is_empty() {
            let Some(info) = self.chain.header(&ask.stop_hash) else { return Ok(()) };
            if !self.may_serve(&info) {
                tracing::debug!(
                    target: "net",
                    "ProcessMessage: ignoring request from peer={} for old block header that isn't in the main chain",
                    peer.id
                );
                return Ok(());
            }
            vec![info.header]
        } else {
            self.chain.headers_after(&ask.locator_hashes, &ask.stop_hash, MAX_HEADERS)
        };
        tracing::debug!(
            target: "net",
            "getheaders {} to {} from peer={}",
            self.first_height(&headers), stop_name(&ask.stop_hash), peer.id
        );
        let last = headers.last().map_or(self.chain.tip().hash, |header| header.block_hash());
        peer.best_header_sent = self.chain.header(&last).map(|info| reference(last, &info));
        self.send(peer, "headers", message::encode_headers(&headers));
        Ok(())
    }

    fn first_height(&self, headers: &[bitcoin::block::Header]) -> i64 {
        let first = headers.first().and_then(|header| self.chain.header(&header.block_hash()));
        first.map_or(-1, |info| i64::from(info.height))
    }

    /// Whether the peer's best chain is one to follow.
    pub(super) fn is_interesting(&self, peer: &Peer) -> bool {
        let Some(best) = peer.best_known else { return false };
        let work = best.chain_work;
        work >= self.tip_work() && work >= self.chain.minimum_chain_work() && work > no_work()
    }
}

fn stop_name(stop: &BlockHash) -> String {
    if *stop == super::no_stop() { "end".to_owned() } else { stop.to_string() }
}
