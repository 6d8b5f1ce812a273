//! What a twin answers beside its chain: transactions, and little or nothing of compact blocks, filters and addresses.

use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::{BlockHash, Transaction, Txid, Wtxid};
use keyless_p2p::bitcoin::{
    AddressBook, AddressSource, Chain, CompactAnswer, CompactBlocks, CompactEnd, CompactStart, Gossip, InboundPeer,
    LightClients, Malformed, Net, NetAddr, Nets, PeerId, PeerRules, Received, RelayPeer, Relayed, TxRef, TxRelay,
};
use rand::seq::SliceRandom;

use super::Twin;

impl TxRelay for Twin {
    fn peer_joined(&self, peer: PeerId, _: RelayPeer) {
        self.lock().wanted.entry(peer).or_default();
    }

    fn peer_left(&self, peer: PeerId) {
        self.lock().wanted.remove(&peer);
    }

    fn announced(&self, peer: PeerId, tx: TxRef) -> bool {
        let known = self.has_transaction(tx);
        let mut state = self.lock();
        let asked = state.wanted.values().any(|wanted| wanted.contains(&tx));
        if !known && !asked {
            state.wanted.entry(peer).or_default().push(tx);
        }
        known
    }

    fn requests(&self, peer: PeerId) -> Vec<TxRef> {
        self.lock().wanted.get_mut(&peer).map(std::mem::take).unwrap_or_default()
    }

    fn not_found(&self, _: PeerId, _: &[TxRef]) {}

    fn transaction_ids(&self, raw: &[u8]) -> Result<(Txid, Wtxid), Malformed> {
        let tx: Transaction = deserialize(raw).map_err(|error| Malformed(error.to_string()))?;
        Ok((tx.compute_txid(), tx.compute_wtxid()))
    }

    fn receive_transaction(&self, peer: PeerId, raw: &[u8]) -> Received {
        let tx: Transaction = deserialize(raw).unwrap();
        let (txid, wtxid) = (tx.compute_txid(), tx.compute_wtxid());
        let mut state = self.lock();
        if state.mempool.contains_key(&wtxid) {
            return Received { judged: false, in_mempool: true, outcome: Relayed::default() };
        }
        let mut outcome = Relayed::default();
        match state.take(&tx, raw) {
            Ok(()) => outcome.accepted.push((txid, wtxid, peer)),
            Err(parents) => {
                let asks = state.wanted.entry(peer).or_default();
                asks.extend(parents.iter().map(|parent| TxRef::Txid(*parent)));
                outcome.parents = parents.into_iter().map(|parent| (peer, parent)).collect();
                state.orphans.push((peer, tx));
            }
        }
        Received { judged: true, in_mempool: state.mempool.contains_key(&wtxid), outcome }
    }

    fn reconsider_orphan(&self, peer: PeerId) -> Option<Relayed> {
        let mut state = self.lock();
        let ready = |(from, tx): &(PeerId, Transaction)| {
            *from == peer && !tx.input.iter().any(|input| state.missing.contains(&input.previous_output.txid))
        };
        let at = state.orphans.iter().position(ready)?;
        let (_, tx) = state.orphans.remove(at);
        state.take(&tx, &serialize(&tx)).unwrap();
        let accepted = vec![(tx.compute_txid(), tx.compute_wtxid(), peer)];
        Some(Relayed { accepted, parents: Vec::new() })
    }
}

/// None of these is offered: peers are answered with whole blocks.
impl CompactBlocks for Twin {
    fn compact_block(&self, _: &BlockHash) -> Option<Vec<u8>> {
        None
    }

    fn compact_header(&self, _: &[u8]) -> Result<Header, Malformed> {
        Err(Malformed("no compact blocks here".into()))
    }

    fn begin_compact(&self, _: PeerId, _: &[u8]) -> CompactStart {
        CompactStart::Failed
    }

    fn fill_compact(&self, _: PeerId, _: &[u8]) -> Result<CompactEnd, Malformed> {
        Ok(CompactEnd::Failed)
    }

    fn try_compact(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn forget_compact(&self, _: PeerId, _: &BlockHash) {}

    fn compact_request(&self, _: &BlockHash, _: &[u32]) -> Vec<u8> {
        Vec::new()
    }

    fn compact_requested(&self, _: &[u8]) -> Result<BlockHash, Malformed> {
        Err(Malformed("no compact blocks here".into()))
    }

    fn compact_answer(&self, _: &[u8]) -> CompactAnswer {
        CompactAnswer::NoBlock
    }
}

impl LightClients for Twin {
    fn filters(&self, _: u32, _: &BlockHash) -> Option<Vec<Vec<u8>>> {
        None
    }

    fn filter_headers(&self, _: u32, _: &BlockHash) -> Option<Vec<u8>> {
        None
    }

    fn filter_checkpoints(&self, _: &BlockHash) -> Option<Vec<u8>> {
        None
    }

    fn bloom_load(&self, _: PeerId, _: &[u8]) -> Result<bool, Malformed> {
        Ok(false)
    }

    fn bloom_add(&self, _: PeerId, _: &[u8]) -> Result<bool, Malformed> {
        Ok(false)
    }

    fn bloom_clear(&self, _: PeerId) {}

    fn bloom_matches(&self, _: PeerId, _: &Txid) -> bool {
        true
    }

    fn bloom_block(&self, _: PeerId, _: &BlockHash) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        None
    }
}

/// The youngest inbound peer goes, what is told of fees is rounded at its upper end only, and clocks are not compared.
impl PeerRules for Twin {
    fn choose_to_evict(&self, inbound: &[InboundPeer]) -> Option<PeerId> {
        inbound.iter().filter(|peer| !peer.no_ban).map(|peer| peer.id).max()
    }

    fn round_fee_filter(&self, rate: u64) -> u64 {
        rate.min(9_936_506)
    }

    fn best_first(&self, wtxids: &[Wtxid]) -> Vec<Wtxid> {
        let state = self.lock();
        let mut found: Vec<_> = wtxids.iter().filter_map(|id| state.mempool.get(id)).collect();
        found.sort_by_key(|tx| tx.sequence);
        found.into_iter().map(|tx| tx.wtxid).collect()
    }

    fn note_clock(&self, _: i64) {}

    fn clock_offset(&self) -> i64 {
        0
    }
}

/// A list, without an order or a limit.
impl AddressBook for Twin {
    fn book_size(&self, net: Option<Net>) -> usize {
        let fits = |entry: &&Gossip| net.is_none_or(|net| entry.address.net() == net);
        self.lock().book.iter().filter(fits).count()
    }

    fn book_learn(&self, entries: &[Gossip], _: AddressSource<'_>, _: Duration) -> bool {
        self.lock().book.extend_from_slice(entries);
        !entries.is_empty()
    }

    fn book_good(&self, _: &NetAddr) -> bool {
        true
    }

    fn book_attempt(&self, address: &NetAddr, _: bool) {
        self.lock().book.retain(|entry| entry.address != *address);
    }

    fn book_connected(&self, _: &NetAddr) {}

    fn book_services(&self, _: &Gossip) {}

    fn book_choose(&self, _: bool, nets: Nets) -> Option<(Gossip, Duration)> {
        let state = self.lock();
        let fitting: Vec<&Gossip> = state.book.iter().filter(|entry| nets.has(entry.address.net())).collect();
        Some((**fitting.choose(&mut rand::thread_rng())?, Duration::ZERO))
    }

    fn book_collision(&self) -> Option<(Gossip, Duration)> {
        None
    }

    fn book_sample(&self, most: u32, _: u32) -> Vec<Gossip> {
        self.lock().book.iter().take(most as usize).copied().collect()
    }

    fn book_save(&self) {}

    fn book_reachable(&self, _: Nets) {}

    fn own_addresses(&self) -> Vec<(NetAddr, u32)> {
        Vec::new()
    }

    fn address_group(&self, address: &NetAddr) -> Vec<u8> {
        address.host().into_bytes()
    }

    fn mapped_as(&self, _: &NetAddr) -> Option<u32> {
        None
    }

    fn is_bad_port(&self, port: u16) -> bool {
        self.lock().bad_ports.contains(&port)
    }

    fn fixed_seeds(&self) -> Vec<Gossip> {
        Vec::new()
    }

    fn take_anchors(&self) -> Vec<Gossip> {
        Vec::new()
    }

    fn keep_anchors(&self, _: &[Gossip]) {}
}
