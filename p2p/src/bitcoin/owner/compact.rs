//! Compact blocks (BIP152): who announces to us by them, rebuilding what comes, and serving what is asked.
//!
//! Follows Core's handling of `cmpctblock`, `blocktxn` and `getblocktxn`: up to three peers may be asked for one block at a
//! time, the first of them without condition; a peer is not punished for a compact block that turns out invalid.

use bitcoin::BlockHash;
use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::p2p::message_blockdata::Inventory;

use super::handshake::{COMPACT_BLOCKS_VERSION, misbehaving};
use super::headers::reference;
use super::{Halt, Owner, Step};
use crate::bitcoin::chain::{BlockRef, CompactAnswer, CompactEnd, CompactStart, HeaderInfo, Malformed};
use crate::bitcoin::downloads::MAX_IN_FLIGHT;
use crate::bitcoin::handle::PeerId;
use crate::bitcoin::message::Reader;
use crate::bitcoin::peer::Peer;

/// Core's `MAX_CMPCTBLOCKS_INFLIGHT_PER_BLOCK`.
const MAX_ASKED: usize = 3;
/// Peers that announce to us by compact blocks.
const MAX_ANNOUNCERS: usize = 3;
/// A compact block this far above the tip is treated as its header.
const MAX_AHEAD: u32 = 2;
/// Core's `MAX_BLOCKTXN_DEPTH`.
const MAX_BLOCKTXN_DEPTH: u32 = 10;
/// Core's `MAX_CMPCTBLOCK_DEPTH`.
pub(super) const MAX_DEPTH: u32 = 5;
/// Core's `INVALID_CB_NO_BAN_VERSION`: peers that do not punish for unvalidated blocks.
const TOLERANT_VERSION: u32 = 70_015;

impl From<Malformed> for Halt {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.0)
    }
}

fn send_compact_payload(high_bandwidth: bool) -> Vec<u8> {
    let mut payload = vec![u8::from(high_bandwidth)];
    payload.extend_from_slice(&COMPACT_BLOCKS_VERSION.to_le_bytes());
    payload
}

impl Owner {
    /// Core's `MaybeSetPeerAsAnnouncingHeaderAndIDs`: who brought the newest block shall announce the next one at once.
    pub(super) fn prefer_announcer(&mut self, peer: &mut Peer) {
        if self.config.blocks_only || !peer.provides_compact {
            return;
        }
        if let Some(at) = self.announcers.iter().position(|id| *id == peer.id) {
            self.announcers.remove(at);
            self.announcers.push(peer.id);
            return;
        }
        let is_outbound = |id: &PeerId| self.peers.get(id).is_some_and(|other| !other.is_inbound());
        let outbound = self.announcers.iter().filter(|id| is_outbound(id)).count();
        // An inbound peer does not push out the last outbound one.
        let first_is_outbound = self.announcers.first().is_some_and(is_outbound);
        if peer.is_inbound() && self.announcers.len() >= MAX_ANNOUNCERS && outbound == 1 && first_is_outbound {
            self.announcers.swap(0, 1);
        }
        self.send(peer, "sendcmpct", send_compact_payload(true));
        peer.high_bandwidth_to = true;
        self.announcers.push(peer.id);
        if self.announcers.len() > MAX_ANNOUNCERS {
            let dropped = self.announcers.remove(0);
            self.with_peer(dropped, |owner, other| {
                owner.send(other, "sendcmpct", send_compact_payload(false));
                other.high_bandwidth_to = false;
                Ok(())
            });
        }
    }

    /// A block with proof of work on top of the tip: peers that want it so get it before it is validated.
    pub(super) fn announce_new_block(&mut self, hash: BlockHash, height: u32) {
        if self.fast_announced.is_some_and(|(announced, _)| height <= announced) {
            return;
        }
        self.fast_announced = Some((height, hash));
        let Some(info) = self.chain.header(&hash) else { return };
        let parent = info.header.prev_blockhash;
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        let mut payload = None;
        for id in ids {
            self.with_peer(id, |owner, peer| {
                if !peer.ready || peer.common_version < TOLERANT_VERSION {
                    return Ok(());
                }
                owner.refresh_known(peer);
                let wants = peer.high_bandwidth_from
                    && !owner.peer_has_header(peer, &hash, height)
                    && owner.peer_has_header(peer, &parent, height.saturating_sub(1));
                if !wants {
                    return Ok(());
                }
                if payload.is_none() {
                    payload = owner.chain.compact_block(&hash);
                }
                if let Some(payload) = &payload {
                    tracing::debug!(
                        target: "net",
                        "PeerManager::NewPoWValidBlock sending header-and-ids {hash} to peer={}", peer.id
                    );
                    owner.send(peer, "cmpctblock", payload.clone());
                    peer.best_header_sent = Some(reference(hash, &info));
                }
                Ok(())
            });
        }
    }

    /// A block that was announced before it was validated, and is about to become the tip. Core's message thread waits for
    /// that; so does whoever asks for the block.
    pub(super) fn is_being_connected(&self, hash: &BlockHash) -> bool {
        self.fast_announced.is_some_and(|(_, announced)| announced == *hash)
            && self.chain.header(hash).is_some_and(|info| {
                !info.validated && !info.failed && info.header.prev_blockhash == self.chain.tip().hash
            })
    }

    /// The block is no longer asked from `from` (from nobody with `None`).
    pub(super) fn end_request(&mut self, hash: &BlockHash, from: Option<PeerId>) {
        let now = self.chain.now();
        for peer in self.downloads.received(hash, from, now) {
            self.chain.forget_compact(peer, hash);
        }
    }

    /// The peer is gone: so is what was half built from its messages.
    pub(super) fn forget_compact(&mut self, peer: &Peer) {
        for hash in self.downloads.partials(peer.id) {
            self.chain.forget_compact(peer.id, &hash);
        }
        self.announcers.retain(|id| *id != peer.id);
    }

    /// Asks for the whole block.
    fn ask_whole(&mut self, peer: &mut Peer, hash: BlockHash) {
        let item = if peer.can_serve_witnesses() { Inventory::WitnessBlock(hash) } else { Inventory::Block(hash) };
        self.send_inventory(peer, "getdata", &vec![item]);
    }

    pub(super) fn on_compact_block(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let unwanted = if self.chain.is_loading_blocks() {
            Some("sent us a compact block even though we are still loading blocks!")
        } else if self.config.blocks_only {
            Some("sent us a compact block even though we are blocksonly!")
        } else if !peer.provides_compact {
            Some("sent us a compact block despite never having sent us a SENDCMPCT!")
        } else {
            None
        };
        if let Some(why) = unwanted {
            tracing::debug!(target: "cmpctblock", "{} {why}", peer.log());
            return Ok(());
        }
        let header = self.chain.compact_header(payload)?;
        let Some(parent) = self.chain.header(&header.prev_blockhash) else {
            if !self.chain.is_initial_block_download() {
                let locator = self.chain.locator(None);
                self.ask_headers(peer, locator);
            }
            return Ok(());
        };
        // Work is claimed by the target; without the proof it counts for nothing.
        let proven = header.validate_pow(header.target()).is_ok();
        if !proven && parent.chain_work < self.anti_dos_work()
            || proven && parent.chain_work + header.work() < self.anti_dos_work()
        {
            tracing::debug!(target: "net", "Ignoring low-work compact block from peer {}", peer.id);
            return Ok(());
        }
        let Some(info) = self.take_compact_header(peer, &header) else { return Ok(()) };
        if info.have_data {
            return Ok(());
        }
        self.rebuild(peer, &header, &info, payload)
    }

    /// The header, judged and stored; `None` if it was refused.
    fn take_compact_header(&mut self, peer: &mut Peer, header: &Header) -> Option<HeaderInfo> {
        let hash = header.block_hash();
        let new = self.chain.header(&hash).is_none();
        if let Err(error) = self.chain.accept_headers(&[*header]) {
            if error.punish && error.reason != "duplicate-invalid" {
                misbehaving(peer, "invalid header via cmpctblock");
            } else {
                tracing::debug!(target: "net", "peer={}: invalid header via cmpctblock", peer.id);
            }
            return None;
        }
        let info = self.chain.header(&hash)?;
        if new {
            let text = format!("Saw new cmpctblock header hash={hash} height={} {}", info.height, peer.log());
            if self.chain.is_initial_block_download() {
                tracing::debug!(target: "validation", "{text}");
            } else {
                tracing::info!("{text}");
            }
        }
        self.learn_block(peer, hash);
        if new && info.chain_work > self.tip_work() {
            peer.last_block_announcement = self.chain.now();
        }
        Some(info)
    }

    fn rebuild(&mut self, peer: &mut Peer, header: &Header, info: &HeaderInfo, payload: &[u8]) -> Step {
        let hash = header.block_hash();
        let holders = self.downloads.holders(&hash);
        let (asked, mine) = (holders.len(), holders.contains(&peer.id));
        if !mine && !peer.high_bandwidth_to {
            tracing::debug!(
                target: "cmpctblock",
                "{}, not marked as high-bandwidth, sent us an unsolicited compact block!", peer.log()
            );
            return Ok(());
        }
        if info.chain_work <= self.tip_work() {
            if mine {
                self.ask_whole(peer, hash);
            }
            return Ok(());
        }
        if asked == 0 && !self.can_direct_fetch() {
            return Ok(());
        }
        if info.height > self.chain.tip().height.saturating_add(MAX_AHEAD) {
            if mine {
                self.ask_whole(peer, hash);
                return Ok(());
            }
            return self.judge_headers(peer, vec![*header], false, false);
        }
        if mine || (asked < MAX_ASKED && self.downloads.count(peer.id) < MAX_IN_FLIGHT) {
            return self.begin_compact(peer, BlockRef { hash, height: info.height }, payload);
        }
        // Others are asked for it already; perhaps nothing is missing.
        if let Some(raw) = self.chain.try_compact(payload) {
            self.take_compact(peer, hash, &raw);
        }
        Ok(())
    }

    fn begin_compact(&mut self, peer: &mut Peer, block: BlockRef, payload: &[u8]) -> Step {
        let hash = block.hash;
        let before = self.downloads.holders(&hash);
        let first = before.first().is_none_or(|id| *id == peer.id);
        let asked = before.len();
        let now = self.chain.now();
        if !self.downloads.requested(peer.id, block, now) && self.downloads.is_partial(peer.id, &hash) {
            tracing::debug!(target: "net", "Peer sent us compact block we were already syncing!");
            return Ok(());
        }
        self.downloads.mark_partial(peer.id, &hash);
        let missing = match self.chain.begin_compact(peer.id, payload) {
            CompactStart::Missing(missing) => missing,
            CompactStart::Invalid => {
                self.end_request(&hash, Some(peer.id));
                misbehaving(peer, "invalid compact block");
                return Ok(());
            }
            CompactStart::Failed if first => {
                self.ask_whole(peer, hash);
                return Ok(());
            }
            CompactStart::Failed => {
                self.end_request(&hash, Some(peer.id));
                return Ok(());
            }
        };
        if missing.is_empty() {
            let mut nothing = hash.to_byte_array().to_vec();
            nothing.push(0);
            return self.complete(peer, hash, &nothing);
        }
        let worth_a_slot = peer.high_bandwidth_to
            && (!peer.is_inbound() || self.asked_from_outbound(peer, &hash) || asked < MAX_ASKED - 1);
        if first || worth_a_slot {
            let request = self.chain.compact_request(&hash, &missing);
            self.send(peer, "getblocktxn", request);
        } else {
            self.end_request(&hash, Some(peer.id));
        }
        Ok(())
    }

    fn asked_from_outbound(&self, peer: &Peer, hash: &BlockHash) -> bool {
        self.downloads.holders(hash).iter().any(|id| {
            if *id == peer.id { !peer.is_inbound() } else { self.peers.get(id).is_some_and(|p| !p.is_inbound()) }
        })
    }

    pub(super) fn on_block_transactions(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if self.chain.is_loading_blocks() {
            tracing::debug!(target: "net", "Unexpected blocktxn message received from peer {}", peer.id);
            return Ok(());
        }
        let hash: BlockHash = Reader(payload).value()?;
        if !self.downloads.is_partial(peer.id, &hash) {
            tracing::debug!(
                target: "net",
                "Peer {} sent us block transactions for block we weren't expecting", peer.id
            );
            return Ok(());
        }
        self.complete(peer, hash, payload)
    }

    fn complete(&mut self, peer: &mut Peer, hash: BlockHash, payload: &[u8]) -> Step {
        let first = self.downloads.holders(&hash).first().is_none_or(|id| *id == peer.id);
        match self.chain.fill_compact(peer.id, payload)? {
            CompactEnd::Again => {
                self.end_request(&hash, Some(peer.id));
                misbehaving(peer, "previous compact block reconstruction attempt failed");
                tracing::debug!(target: "net", "Peer {} sent compact block transactions multiple times", peer.id);
            }
            CompactEnd::Invalid => {
                self.end_request(&hash, Some(peer.id));
                misbehaving(peer, "invalid compact block/non-matching block transactions");
            }
            CompactEnd::Failed if first => self.ask_whole(peer, hash),
            CompactEnd::Failed => {
                self.end_request(&hash, Some(peer.id));
                tracing::debug!(
                    target: "net",
                    "Peer {} sent us a compact block but it failed to reconstruct, waiting on first download to complete",
                    peer.id
                );
            }
            CompactEnd::Block(raw) => {
                self.end_request(&hash, Some(peer.id));
                self.take_compact(peer, hash, &raw);
            }
        }
        Ok(())
    }

    /// A rebuilt block counts as asked for: it is near the tip and has more work.
    fn take_compact(&mut self, peer: &mut Peer, hash: BlockHash, raw: &[u8]) {
        let outcome = self.process_block(peer, hash, raw, true, true, true);
        if outcome.new && outcome.verdict.is_none() {
            self.end_request(&hash, None);
        }
    }

    pub(super) fn on_get_block_transactions(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let hash = self.chain.compact_requested(payload)?;
        let at_hand = |info: &HeaderInfo| info.have_data || self.is_being_connected(&hash);
        let Some(info) = self.chain.header(&hash).filter(at_hand) else {
            tracing::debug!(target: "net", "Peer {} sent us a getblocktxn for a block we don't have", peer.id);
            return Ok(());
        };
        if info.height.saturating_add(MAX_BLOCKTXN_DEPTH) < self.chain.tip().height {
            tracing::debug!(
                target: "net",
                "Peer {} sent us a getblocktxn for a block > {MAX_BLOCKTXN_DEPTH} deep", peer.id
            );
            peer.getdata.push_back(Inventory::WitnessBlock(hash));
            return Ok(());
        }
        match self.chain.compact_answer(payload) {
            CompactAnswer::NoBlock => {}
            CompactAnswer::OutOfBounds => misbehaving(peer, "getblocktxn with out-of-bounds tx indices"),
            CompactAnswer::Transactions(answer) => {
                tracing::debug!(
                    target: "cmpctblock",
                    "{} sent us a GETBLOCKTXN for block {hash}, sending a BLOCKTXN ({} bytes)", peer.log(), answer.len()
                );
                self.send(peer, "blocktxn", answer);
            }
        }
        Ok(())
    }

    pub(super) fn on_send_compact(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let mut reader = Reader(payload);
        let high_bandwidth: u8 = reader.value()?;
        let version: u64 = reader.value()?;
        if high_bandwidth > 1 {
            misbehaving(peer, "invalid sendcmpct announce field");
        } else if version == COMPACT_BLOCKS_VERSION {
            peer.provides_compact = true;
            peer.high_bandwidth_from = high_bandwidth == 1;
        }
        Ok(())
    }
}
