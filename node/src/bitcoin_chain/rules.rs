//! Core's rules about peers, by the kernel.

use bitcoin::Wtxid;
use keyless_kernel::rules as kernel;
use keyless_p2p::bitcoin::{InboundPeer, PeerId, PeerRules};

use super::addresses::one;
use super::relay::number;
use super::{KernelChain, or_empty};

fn described(peer: &InboundPeer) -> kernel::InboundPeer {
    kernel::InboundPeer {
        id: number(peer.id),
        connected: peer.connected,
        min_ping: peer.min_ping,
        last_block: peer.last_block,
        last_tx: peer.last_tx,
        wanted_services: peer.wanted_services,
        relays_txs: peer.relays_txs,
        bloom_filter: peer.bloom_filter,
        prefer_evict: peer.discouraged,
        onion: peer.onion,
        no_ban: peer.no_ban,
        address: one(&peer.address),
    }
}

impl PeerRules for KernelChain {
    fn choose_to_evict(&self, inbound: &[InboundPeer]) -> Option<PeerId> {
        let peers: Vec<_> = inbound.iter().map(described).collect();
        or_empty(self.kernel.choose_to_evict(&peers)).and_then(|id| PeerId::try_from(id).ok())
    }

    fn round_fee_filter(&self, rate: u64) -> u64 {
        self.kernel.round_fee_filter(rate).unwrap_or(rate)
    }

    fn best_first(&self, wtxids: &[Wtxid]) -> Vec<Wtxid> {
        or_empty(self.kernel.best_first(wtxids))
    }

    fn note_clock(&self, ahead_secs: i64) {
        or_empty(self.kernel.note_clock(ahead_secs));
    }

    fn clock_offset(&self) -> i64 {
        or_empty(self.kernel.clock_offset())
    }
}
