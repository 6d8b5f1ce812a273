//! Announcing: new blocks by header or `inv`, transactions by `inv`, to each peer at its own pace.

use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::p2p::message_blockdata::Inventory;
use bitcoin::{BlockHash, Txid, Wtxid};

use super::Owner;
use super::headers::reference;
use super::inventory::{MAX_INV, spoken_id};
use super::service::random_wait;
use crate::bitcoin::chain::TxRef;
use crate::bitcoin::message;
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

const MAX_BLOCKS_TO_ANNOUNCE: usize = 8;
const INBOUND_INVENTORY_INTERVAL: Duration = Duration::from_secs(5);
const OUTBOUND_INVENTORY_INTERVAL: Duration = Duration::from_secs(2);
const INVENTORY_TARGET: usize = 14 * 5;
const INVENTORY_MAX: usize = 1_000;

impl Owner {
    /// Headers where the peer can connect them and wants them, else the tip by `inv`.
    pub(super) fn announce_blocks(&mut self, peer: &mut Peer) {
        self.refresh_known(peer);
        let hashes = std::mem::take(&mut peer.announce);
        let Some(last) = hashes.last().copied() else { return };
        let by_compact = peer.high_bandwidth_from && hashes.len() == 1;
        let headers = if (peer.prefers_headers || by_compact) && hashes.len() <= MAX_BLOCKS_TO_ANNOUNCE {
            self.connecting_headers(peer, &hashes).and_then(|headers| self.by_compact_block(peer, last, headers))
        } else {
            None
        };
        match headers {
            Some(headers) if headers.is_empty() => {}
            Some(headers) => {
                self.send(peer, "headers", message::encode_headers(&headers));
                peer.best_header_sent = self.chain.header(&last).map(|info| reference(last, &info));
            }
            None => {
                let Some(info) = self.chain.header(&last) else { return };
                if !self.peer_has_header(peer, &last, info.height) {
                    peer.announce_by_inv.push(last);
                    tracing::debug!(
                        target: "net",
                        "sending inv peer={} hash={last}", peer.id
                    );
                }
            }
        }
    }

    /// One block goes out as a compact block to those who asked for it; then nothing is left. `None`: only `inv` is wanted.
    fn by_compact_block(&mut self, peer: &mut Peer, last: BlockHash, headers: Vec<Header>) -> Option<Vec<Header>> {
        if headers.len() == 1
            && peer.high_bandwidth_from
            && let Some(payload) = self.chain.compact_block(&last)
        {
            tracing::debug!(target: "net", "SendMessages sending header-and-ids {last} to peer={}", peer.id);
            self.send(peer, "cmpctblock", payload);
            peer.best_header_sent = self.chain.header(&last).map(|info| reference(last, &info));
            return Some(Vec::new());
        }
        (peer.prefers_headers || headers.is_empty()).then_some(headers)
    }

    /// The headers among `hashes` that the peer lacks. `None` if they would not connect.
    fn connecting_headers(&self, peer: &Peer, hashes: &[BlockHash]) -> Option<Vec<Header>> {
        let mut headers = Vec::new();
        let mut before: Option<BlockHash> = None;
        for hash in hashes {
            let info = self.chain.header(hash)?;
            let parent = info.header.prev_blockhash;
            if !info.in_active_chain || before.is_some_and(|before| before != parent) {
                return None;
            }
            before = Some(*hash);
            if !headers.is_empty() {
                headers.push(info.header);
            } else if self.peer_has_header(peer, hash, info.height) {
                continue;
            } else if info.height == 0 || self.peer_has_header(peer, &parent, info.height - 1) {
                headers.push(info.header);
            } else {
                return None;
            }
        }
        Some(headers)
    }

    pub(super) fn announce_inventory(&mut self, peer: &mut Peer, now: Duration) {
        let mut items: Vec<Inventory> =
            std::mem::take(&mut peer.announce_by_inv).into_iter().map(Inventory::Block).collect();
        let inbound = peer.is_inbound();
        let trusted = peer.has(Permissions::NO_BAN);
        if let Some(txs) = &mut peer.txs {
            let mut turn = trusted;
            if txs.next_send < now {
                turn = true;
                let mean = if inbound { INBOUND_INVENTORY_INTERVAL } else { OUTBOUND_INVENTORY_INTERVAL };
                txs.next_send = now + random_wait(mean);
            }
            if turn && !txs.wanted {
                txs.to_send.clear();
            }
            if turn {
                self.announce_transactions(peer, &mut items);
            }
        }
        for batch in items.chunks(MAX_INV) {
            self.send_inventory(peer, "inv", &batch.to_vec());
        }
    }

    fn announce_transactions(&mut self, peer: &mut Peer, items: &mut Vec<Inventory>) {
        let Some(mut txs) = peer.txs.take() else { return };
        if std::mem::take(&mut txs.send_mempool) {
            for (txid, wtxid) in self.chain.mempool_ids() {
                txs.to_send.remove(&wtxid);
                let passes = self
                    .chain
                    .transaction(TxRef::Wtxid(wtxid))
                    .is_some_and(|tx| pays(tx.fee_sat, tx.vsize, txs.fee_filter));
                if passes && self.chain.bloom_matches(peer.id, &txid) {
                    txs.known.insert(spoken_id(peer, &txid, &wtxid));
                    items.push(item(peer, txid, wtxid));
                }
            }
        }
        if !txs.to_send.is_empty() {
            let room = (INVENTORY_TARGET + txs.to_send.len() / 1_000 * 5).min(INVENTORY_MAX);
            let waiting: Vec<Wtxid> = std::mem::take(&mut txs.to_send).into_iter().collect();
            // Those that left the mempool are not among them any more.
            let best_first = self.chain.best_first(&waiting);
            let mut told = 0;
            for wtxid in best_first {
                if told == room {
                    txs.to_send.insert(wtxid);
                    continue;
                }
                let Some(tx) = self.chain.transaction(TxRef::Wtxid(wtxid)) else { continue };
                let id = spoken_id(peer, &tx.txid, &wtxid);
                let new = !txs.known.contains(&id) && pays(tx.fee_sat, tx.vsize, txs.fee_filter);
                if new && self.chain.bloom_matches(peer.id, &tx.txid) {
                    txs.known.insert(id);
                    items.push(item(peer, tx.txid, wtxid));
                    told += 1;
                }
            }
        }
        txs.last_inv_sequence = self.chain.mempool_sequence();
        peer.txs = Some(txs);
    }

    /// Core's `UpdatedBlockTip`: what became part of the best chain is announced, the last eight of it at most.
    pub(super) fn tip_changed(&mut self, hash: BlockHash, height: u32, initial_download: bool) {
        let before = self.announced_tip.replace((hash, height));
        self.extra.tip_moved(self.chain.now());
        if initial_download {
            return;
        }
        let mut hashes = Vec::new();
        let mut walk = Some((hash, height));
        while let Some((hash, height)) = walk {
            let common = before.is_some_and(|(old, old_height)| {
                old_height >= height && self.chain.ancestor(&old, height) == Some(hash)
            });
            if common || hashes.len() >= MAX_BLOCKS_TO_ANNOUNCE {
                break;
            }
            hashes.push(hash);
            let parent = self.chain.header(&hash).map(|info| info.header.prev_blockhash);
            walk = parent.zip(height.checked_sub(1));
        }
        hashes.reverse();
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.with_peer(id, |owner, peer| {
                // One more than is announced by headers, so that a peer fallen behind gets an inv.
                let room = (MAX_BLOCKS_TO_ANNOUNCE + 1).saturating_sub(peer.announce.len());
                let skip = hashes.len().saturating_sub(room);
                if peer.ready {
                    peer.announce.extend(hashes.iter().skip(skip));
                }
                owner.service(peer)
            });
        }
    }
}

fn item(peer: &Peer, txid: Txid, wtxid: Wtxid) -> Inventory {
    if peer.wtxid_relay { Inventory::WTx(wtxid) } else { Inventory::Transaction(txid) }
}

/// Whether a fee reaches a rate in sat/kvB (Core's `CFeeRate::GetFee`, rounded up).
fn pays(fee_sat: u64, vsize: u64, rate: u64) -> bool {
    let needed = (u128::from(rate) * u128::from(vsize)).div_ceil(1_000);
    u128::from(fee_sat) >= needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fee_is_held_against_the_filter_rounded_up() {
        assert!(pays(100, 100, 1_000));
        assert!(!pays(100, 101, 1_000));
        assert!(!pays(0, 1, 1));
        assert!(pays(0, 1, 0));
    }
}
