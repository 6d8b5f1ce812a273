//! Headers: asking for them, judging them, and what they say about what a peer has.

use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::p2p::message_blockdata::Inventory;
use bitcoin::{BlockHash, Work};

use super::handshake::misbehaving;
use super::{Owner, Step, gone, no_stop};
use crate::bitcoin::chain::{HeaderInfo, HeaderRef};
use crate::bitcoin::downloads::{MAX_IN_FLIGHT, WINDOW};
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message::{self, MAX_HEADERS, TooManyHeaders};
use crate::bitcoin::peer::{LowWork, Peer};
use crate::bitcoin::permissions::Permissions;

/// Core's `HEADERS_RESPONSE_TIME`.
pub(super) const HEADERS_RESPONSE_TIME: Duration = Duration::from_secs(120);
/// Blocks of work below the tip from which forks are taken.
const FORK_DEPTH: u32 = 144;
/// Core's `MAX_OUTBOUND_PEERS_TO_PROTECT_FROM_DISCONNECT`.
const MAX_PROTECTED: usize = 4;
/// A tip younger than this many block intervals: fetch new blocks at once.
const DIRECT_FETCH_INTERVALS: u32 = 20;

impl Owner {
    /// Time between blocks; the same on every network.
    pub(super) fn block_interval(&self) -> Duration {
        Duration::from_secs(600)
    }

    /// Seconds since the tip's own time.
    pub(super) fn tip_age(&self) -> u64 {
        let tip = self.chain.tip();
        let time = self.chain.header(&tip.hash).map_or(0, |info| u64::from(info.header.time));
        self.chain.now().as_secs().saturating_sub(time)
    }

    pub(super) fn can_direct_fetch(&self) -> bool {
        self.tip_age() < u64::from(DIRECT_FETCH_INTERVALS) * self.block_interval().as_secs()
    }

    pub(super) fn tip_work(&self) -> Work {
        let tip = self.chain.tip();
        self.chain.header(&tip.hash).map_or_else(no_work, |info| info.chain_work)
    }

    /// Work that a chain of headers needs before it is stored.
    pub(super) fn anti_dos_work(&self) -> Work {
        let tip = self.chain.tip();
        let near_tip = self.chain.header(&tip.hash).map_or_else(no_work, |info| {
            let mut left = info.chain_work;
            for _ in 0..FORK_DEPTH {
                let proof = info.header.work();
                if left <= proof {
                    return no_work();
                }
                left = left - proof;
            }
            left
        });
        near_tip.max(self.chain.minimum_chain_work())
    }

    /// Core's `MaybeSendGetHeaders`: not while an earlier one may still be answered.
    pub(super) fn ask_headers(&mut self, peer: &mut Peer, locator: Vec<BlockHash>) -> bool {
        let now = self.chain.now();
        if now.saturating_sub(peer.last_getheaders) <= HEADERS_RESPONSE_TIME && peer.last_getheaders != Duration::ZERO {
            return false;
        }
        peer.last_getheaders = now;
        self.send(peer, "getheaders", message::encode_locator(locator, no_stop()));
        true
    }

    pub(super) fn on_headers(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if self.chain.is_loading_blocks() {
            tracing::debug!(target: "net", "Unexpected headers message received from peer {}", peer.id);
            return Ok(());
        }
        let headers = match message::decode_headers(payload) {
            Ok(headers) => headers,
            Err(error @ TooManyHeaders::TooMany(_)) => {
                misbehaving(peer, &error.to_string());
                return Ok(());
            }
            Err(TooManyHeaders::Malformed(error)) => return Err(error.into()),
        };
        if headers.is_empty() {
            peer.low_work = None;
            peer.last_getheaders = Duration::ZERO;
            return Ok(());
        }
        if headers.iter().any(|header| header.validate_pow(header.target()).is_err()) {
            misbehaving(peer, "header with invalid proof of work");
            return Ok(());
        }
        if headers.windows(2).any(|pair| matches!(pair, [before, after] if after.prev_blockhash != before.block_hash()))
        {
            misbehaving(peer, "non-continuous headers sequence");
            return Ok(());
        }
        let full = headers.len() == MAX_HEADERS;
        let mut validated = false;
        let mut headers = headers;
        if peer.low_work.is_some() {
            let Some(ready) = self.continue_low_work(peer, &headers, full) else { return Ok(()) };
            validated = ready.validated;
            headers = ready.headers;
        }
        self.judge_headers(peer, headers, validated, full)
    }

    /// Headers that are connected to each other and meet their target.
    pub(super) fn judge_headers(&mut self, peer: &mut Peer, headers: Vec<Header>, validated: bool, full: bool) -> Step {
        let Some((first, last)) = headers.first().zip(headers.last()) else { return Ok(()) };
        let Some(start) = self.chain.header(&first.prev_blockhash) else {
            self.unconnecting(peer, first, last.block_hash());
            return Ok(());
        };
        peer.last_getheaders = if peer.low_work.is_some() { peer.last_getheaders } else { Duration::ZERO };
        let known = self.chain.header(&last.block_hash());
        if !validated && !self.worth_storing(peer, &headers, &start, known.as_ref()) {
            self.begin_low_work(peer, &headers, &start, full);
            return Ok(());
        }
        self.take_headers(peer, &headers, known.is_none(), full)
    }

    /// Feeds a running low-work sync. `None`: there is nothing to process.
    fn continue_low_work(&mut self, peer: &mut Peer, headers: &[Header], full: bool) -> Option<Ready> {
        let low_work = peer.low_work.as_mut()?;
        low_work.height += headers.len() as u64;
        let step = low_work.sync.process(headers, full);
        let Some(step) = step else {
            peer.low_work = None;
            return None;
        };
        peer.last_getheaders = Duration::ZERO;
        match step.more {
            Some(locator) => {
                self.ask_headers(peer, locator);
            }
            None => peer.low_work = None,
        }
        if !step.success {
            // What came does not fit the sync: it is judged like any other headers.
            peer.low_work = None;
            return Some(Ready { headers: headers.to_vec(), validated: false });
        }
        (!step.ready.is_empty()).then_some(Ready { headers: step.ready, validated: true })
    }

    /// Core's `TryLowWorkHeadersSync`: a full message may be the beginning of a chain with enough work.
    fn begin_low_work(&mut self, peer: &mut Peer, headers: &[Header], start: &HeaderInfo, full: bool) {
        let height = u64::from(start.height) + headers.len() as u64;
        if full {
            let hash = start.header.block_hash();
            if let Some(sync) = self.chain.low_work_sync(&hash, self.anti_dos_work(), peer.id) {
                peer.low_work = Some(LowWork { sync, height: u64::from(start.height) });
                self.continue_low_work(peer, headers, full);
            }
            return;
        }
        tracing::debug!(target: "net", "Ignoring low-work chain (height={height}) from peer={}", peer.id);
    }

    fn unconnecting(&mut self, peer: &mut Peer, first: &Header, last: BlockHash) {
        let locator = self.chain.locator(None);
        if self.ask_headers(peer, locator) {
            tracing::debug!(
                target: "net",
                "received header {}: missing prev block {}, sending getheaders ({}) to end (peer={})",
                first.block_hash(), first.prev_blockhash, self.chain.best_header().height, peer.id
            );
        }
        self.learn_block(peer, last);
    }

    /// Core's anti-DoS check: what is known already, comes from a trusted peer, or has enough work.
    fn worth_storing(&self, peer: &Peer, headers: &[Header], start: &HeaderInfo, known: Option<&HeaderInfo>) -> bool {
        if peer.has(Permissions::NO_BAN) {
            return true;
        }
        if let Some(info) = known {
            let best = self.chain.best_header();
            let hash = info.header.block_hash();
            if info.in_active_chain || self.chain.ancestor(&best.hash, info.height) == Some(hash) {
                return true;
            }
        }
        let total = headers.iter().fold(start.chain_work, |work, header| work + header.work());
        total >= self.anti_dos_work()
    }

    fn take_headers(&mut self, peer: &mut Peer, headers: &[Header], new: bool, full: bool) -> Step {
        let last = match self.chain.accept_headers(headers) {
            Ok(last) => last,
            Err(error) if error.unconnecting => return Ok(()),
            Err(error) => {
                if deserves_punishment(peer, &error.reason, error.punish) {
                    misbehaving(peer, "invalid header received");
                } else {
                    tracing::debug!(target: "net", "peer={}: invalid header received", peer.id);
                }
                return Ok(());
            }
        };
        if new {
            let text = format!("Saw new header hash={} height={} {}", last.hash, last.height, peer.log());
            if self.chain.is_initial_block_download() {
                tracing::debug!(target: "validation", "{text}");
            } else {
                tracing::info!("{text}");
            }
        }
        if full && peer.low_work.is_none() {
            let locator = self.chain.locator(Some(&last.hash));
            if self.ask_headers(peer, locator) {
                tracing::debug!(
                    target: "net",
                    "more getheaders ({}) to end to peer={}", last.height, peer.id
                );
            }
        }
        self.note_headers(peer, &last, new, full)?;
        self.fetch_directly(peer, &last);
        Ok(())
    }

    /// Core's `UpdatePeerStateForReceivedHeaders`.
    fn note_headers(&mut self, peer: &mut Peer, last: &HeaderRef, new: bool, more: bool) -> Step {
        self.learn_block(peer, last.hash);
        let tip_work = self.tip_work();
        if new && last.chain_work > tip_work {
            peer.last_block_announcement = self.chain.now();
        }
        let best = peer.best_known.map(|header| header.chain_work);
        let too_little = best.is_some_and(|work| work < self.chain.minimum_chain_work());
        if !more && too_little && peer.is_outbound_or_block_relay() && self.chain.is_initial_block_download() {
            return Err(gone(format!("outbound peer headers chain has insufficient work, {}", peer.disconnecting())));
        }
        if peer.kind == ConnectionType::OutboundFullRelay
            && !peer.chain_sync.protect
            && best.is_some_and(|work| work >= tip_work)
            && self.peers.values().filter(|p| p.chain_sync.protect).count() < MAX_PROTECTED
        {
            tracing::debug!(target: "net", "Protecting outbound peer={} from eviction", peer.id);
            peer.chain_sync.protect = true;
        }
        Ok(())
    }

    /// Core's `HeadersDirectFetchBlocks`: close to the tip, new blocks are asked at once.
    fn fetch_directly(&mut self, peer: &mut Peer, last: &HeaderRef) {
        if !self.can_direct_fetch() || last.chain_work < self.tip_work() {
            return;
        }
        if self.chain.header(&last.hash).is_none_or(|info| info.failed) || !peer.can_serve_witnesses() {
            return;
        }
        let most = self.downloads.total() + MAX_IN_FLIGHT + 1;
        let mut wanted = self.chain.missing_blocks(&last.hash, WINDOW, most);
        wanted.retain(|block| !self.downloads.is_requested(&block.hash));
        if wanted.len() > MAX_IN_FLIGHT {
            tracing::debug!(target: "net", "Large reorg, won't direct fetch to {} ({})", last.hash, last.height);
            return;
        }
        wanted.truncate(MAX_IN_FLIGHT.saturating_sub(self.downloads.count(peer.id)));
        for block in &wanted {
            tracing::debug!(target: "net", "Requesting block {} from peer={}", block.hash, peer.id);
        }
        if wanted.len() > 1 {
            tracing::debug!(
                target: "net",
                "Downloading blocks toward {} ({}) via headers direct fetch", last.hash, last.height
            );
        }
        // A single new block on top of ours: most of it is in the mempool.
        if let [block] = wanted.as_slice() {
            let parent = self.chain.header(&block.hash).map(|info| info.header.prev_blockhash);
            let connects = parent.and_then(|parent| self.chain.header(&parent)).is_some_and(|info| info.validated);
            if connects && peer.provides_compact && !self.config.blocks_only && self.downloads.total() == 0 {
                self.downloads.requested(peer.id, *block, self.chain.now());
                self.send_inventory(peer, "getdata", &vec![Inventory::CompactBlock(block.hash)]);
                return;
            }
        }
        self.request_blocks(peer, &wanted);
    }

    /// Core's `ProcessBlockAvailability`: an announced block may have become known meanwhile.
    pub(super) fn refresh_known(&self, peer: &mut Peer) {
        let Some(hash) = peer.last_unknown else { return };
        if let Some(info) = self.chain.header(&hash) {
            raise(&mut peer.best_known, reference(hash, &info));
            peer.last_unknown = None;
        }
    }

    /// Core's `UpdateBlockAvailability`.
    pub(super) fn learn_block(&self, peer: &mut Peer, hash: BlockHash) {
        self.refresh_known(peer);
        match self.chain.header(&hash) {
            Some(info) => raise(&mut peer.best_known, reference(hash, &info)),
            None => peer.last_unknown = Some(hash),
        }
    }

    /// Core's `PeerHasHeader`.
    pub(super) fn peer_has_header(&self, peer: &Peer, hash: &BlockHash, height: u32) -> bool {
        [peer.best_known, peer.best_header_sent]
            .iter()
            .flatten()
            .any(|tip| tip.height >= height && self.chain.ancestor(&tip.hash, height) == Some(*hash))
    }
}

/// Headers to be processed now.
struct Ready {
    headers: Vec<Header>,
    /// Their work is known to suffice.
    validated: bool,
}

/// Inbound peers may follow a chain that we know to be invalid; peers of our choice may not.
pub(super) fn deserves_punishment(peer: &Peer, reason: &str, punish: bool) -> bool {
    if reason == "duplicate-invalid" { !peer.is_inbound() } else { punish }
}

pub(super) fn no_work() -> Work {
    Work::from_be_bytes([0; 32])
}

pub(super) fn reference(hash: BlockHash, info: &HeaderInfo) -> HeaderRef {
    HeaderRef { hash, height: info.height, chain_work: info.chain_work }
}

fn raise(known: &mut Option<HeaderRef>, candidate: HeaderRef) {
    if known.is_none_or(|header| candidate.chain_work >= header.chain_work) {
        *known = Some(candidate);
    }
}
