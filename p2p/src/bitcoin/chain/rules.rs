//! Rules about peers that are the node's, since they are Core's or rest on its mempool.

use std::time::Duration;

use bitcoin::Wtxid;

use crate::bitcoin::handle::PeerId;
use crate::bitcoin::net_addr::NetAddr;

/// What speaks for an inbound peer, or against it. Times are since the epoch, zero for never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPeer {
    pub id: PeerId,
    pub address: NetAddr,
    /// It came through Tor.
    pub onion: bool,
    pub connected: Duration,
    pub min_ping: Option<Duration>,
    pub last_block: Duration,
    pub last_tx: Duration,
    /// It offers what we want.
    pub wanted_services: bool,
    pub relays_txs: bool,
    pub bloom_filter: bool,
    /// It misbehaved before.
    pub discouraged: bool,
    pub no_ban: bool,
}

/// Core's rules.
pub trait PeerRules {
    /// Who of all inbound peers makes room for another; nobody, when all deserve to stay.
    fn choose_to_evict(&self, inbound: &[InboundPeer]) -> Option<PeerId>;
    /// A feerate in sat/kvB as peers are told it: rounded at random, so that it shows little, and not below what is
    /// relayed at all.
    fn round_fee_filter(&self, rate: u64) -> u64;
    /// Those that are in the mempool, the one to be mined first first; parents before children.
    fn best_first(&self, wtxids: &[Wtxid]) -> Vec<Wtxid>;
    /// The clock of an outbound peer is ahead of ours by so much.
    fn note_clock(&self, ahead_secs: i64);
    /// The median of what was noted, 0 as long as it says little.
    fn clock_offset(&self) -> i64;
}
