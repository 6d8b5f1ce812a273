//! Core's rules about peers that need no socket: who makes room for another (`SelectNodeToEvict`), what a fee filter tells
//! (`FeeFilterRounder`), in which order transactions are announced, whether clocks disagree (`TimeOffsets`).

use std::time::Duration;

use bitcoin::Wtxid;
use bitcoin::hashes::Hash;

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// What speaks for an inbound peer, or against it. Times are since 1970, zero for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPeer {
    /// The network's number.
    pub id: i64,
    /// When it connected.
    pub connected: Duration,
    /// Its fastest answer to a ping, if it gave one.
    pub min_ping: Option<Duration>,
    /// When it last brought a new block.
    pub last_block: Duration,
    /// When it last brought a new transaction.
    pub last_tx: Duration,
    /// It offers what we want.
    pub wanted_services: bool,
    /// It wants transactions.
    pub relays_txs: bool,
    /// It set a bloom filter.
    pub bloom_filter: bool,
    /// It misbehaved before.
    pub prefer_evict: bool,
    /// It came through Tor.
    pub onion: bool,
    /// `noban`: never to be evicted.
    pub no_ban: bool,
    /// Its address, as a payload of `addrv2` with one entry.
    pub address: Vec<u8>,
}

impl InboundPeer {
    fn write(&self, out: &mut Vec<u8>) {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let secs = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let ping = self.min_ping.map_or(-1, micros);
        for number in [self.id, micros(self.connected), ping, secs(self.last_block), secs(self.last_tx)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let flags =
            [self.wanted_services, self.relays_txs, self.bloom_filter, self.prefer_evict, self.onion, self.no_ban];
        out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        out.extend_from_slice(&self.address);
    }
}

impl Kernel {
    /// Who of the inbound peers makes room for another; nobody, when all deserve to stay.
    pub fn choose_to_evict(&self, inbound: &[InboundPeer]) -> Result<Option<i64>, KernelError> {
        let mut list = Vec::new();
        for peer in inbound {
            peer.write(&mut list);
        }
        Answer::new(ffi::kl_rules_evict(list.as_slice().into())).fields()?.option(|f| f.i64())
    }

    /// A feerate in sat/kvB as peers are told it: rounded at random, and not below what is relayed at all.
    pub fn round_fee_filter(&self, sat_kvb: u64) -> Result<u64, KernelError> {
        Answer::new(ffi::kl_rules_fee_filter(i64::try_from(sat_kvb).unwrap_or(i64::MAX))).fields()?.u64()
    }

    /// Those that are in the mempool, the one to be mined first first: by feerate, parents before children.
    pub fn best_first(&self, wtxids: &[Wtxid]) -> Result<Vec<Wtxid>, KernelError> {
        let joined: Vec<u8> = wtxids.iter().flat_map(|id| id.to_byte_array()).collect();
        Answer::new(ffi::kl_rules_best_first(joined.as_slice().into())).fields()?.list(|f| f.wtxid())
    }

    /// The clock of an outbound peer is ahead of ours by so much. When many are, Core warns.
    pub fn note_clock(&self, ahead_secs: i64) -> Result<(), KernelError> {
        Answer::new(ffi::kl_rules_note_clock(ahead_secs)).done()
    }

    /// The median of what was noted, 0 as long as it says little.
    pub fn clock_offset(&self) -> Result<i64, KernelError> {
        Answer::new(ffi::kl_rules_clock_offset()).fields()?.i64()
    }
}
