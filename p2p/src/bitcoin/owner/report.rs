//! What `getpeerinfo`, `getnetworkinfo` and `getnettotals` print.

use std::time::Duration;

use super::Owner;
use super::gossip::network_name;
use crate::bitcoin::handle::{NetTotals, NetworkInfo, PeerInfo, UploadTarget};
use crate::bitcoin::message::PROTOCOL_VERSION;
use crate::bitcoin::peer::Peer;

/// The upload target counts over a day.
const TIMEFRAME: Duration = Duration::from_secs(24 * 60 * 60);
/// Kept free for new blocks: one full block for each block interval left.
const MAX_BLOCK_BYTES: u64 = 4_000_000;
/// Score of an address that the operator named.
pub(super) const LOCAL_MANUAL: u32 = 4;

/// Bytes sent in the running day.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    started: Duration,
    bytes: u64,
}

impl Uploads {
    /// A day begins with the first bytes sent in it, as in Core: asking does not begin one.
    pub(super) fn add(&mut self, bytes: u64, now: Duration) {
        if now > self.started + TIMEFRAME {
            self.started = now;
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    fn left_secs(&self, now: Duration) -> u64 {
        if self.started.is_zero() {
            return TIMEFRAME.as_secs();
        }
        (self.started + TIMEFRAME).saturating_sub(now).min(TIMEFRAME).as_secs()
    }

    /// Whether the target is spent; for historical blocks, whether only the reserve for new ones is left.
    pub(super) fn reached(&self, target: u64, historical: bool, now: Duration) -> bool {
        if target == 0 {
            return false;
        }
        let reserve = if historical { self.left_secs(now) / 600 * MAX_BLOCK_BYTES } else { 0 };
        reserve >= target || self.bytes >= target - reserve
    }
}

impl Owner {
    pub(super) fn report(&mut self) -> Vec<PeerInfo> {
        let now = self.chain.now();
        self.peers.values_mut().for_each(|peer| peer.look_at_counters(now));
        self.peers.values().map(|peer| self.describe(peer, now)).collect()
    }

    fn describe(&self, peer: &Peer, now: Duration) -> PeerInfo {
        let txs = peer.txs.as_ref();
        let height = |known: Option<u32>| known.map_or(-1, i64::from);
        PeerInfo {
            id: peer.id,
            addr: peer.name.clone(),
            addrbind: peer.bound,
            addrlocal: peer.address_of_us,
            network: network_name(peer),
            mapped_as: self.chain.mapped_as(&peer.target),
            services: peer.services,
            relay_txes: txs.is_some_and(|txs| txs.wanted),
            last_inv_sequence: txs.map_or(0, |txs| txs.last_inv_sequence),
            inv_to_send: txs.map_or(0, |txs| txs.to_send.len() as u64),
            last_send: peer.last_sent.as_secs(),
            last_recv: peer.last_received.as_secs(),
            last_transaction: peer.last_tx.as_secs(),
            last_block: peer.last_block.as_secs(),
            bytes_sent: peer.sent_seen,
            bytes_recv: peer.received_seen,
            conn_time: peer.connected.as_secs(),
            time_offset: peer.time_offset,
            ping_time: peer.ping.last,
            min_ping: peer.ping.min,
            ping_wait: (peer.ping.nonce != 0)
                .then(|| now.saturating_sub(peer.ping.start))
                .filter(|wait| !wait.is_zero()),
            version: peer.version,
            subver: peer.user_agent.clone(),
            inbound: peer.is_inbound(),
            bip152_hb_to: peer.high_bandwidth_to,
            bip152_hb_from: peer.high_bandwidth_from,
            presynced_headers: peer.low_work.as_ref().map_or(-1, |sync| i64::try_from(sync.height).unwrap_or(i64::MAX)),
            synced_headers: height(peer.best_known.map(|best| best.height)),
            synced_blocks: height(peer.last_common),
            inflight: self.downloads.heights(peer.id),
            addr_relay_enabled: peer.addresses.enabled,
            addr_processed: peer.addresses.processed,
            addr_rate_limited: peer.addresses.rate_limited,
            permissions: peer.permissions,
            min_fee_filter: txs.map_or(0, |txs| txs.fee_filter),
            bytes_sent_per_msg: peer.sent_by_type.clone(),
            bytes_recv_per_msg: peer.received_by_type.clone(),
            connection_type: peer.kind,
            transport: peer.transport.name(),
            session_id: peer.session.clone(),
        }
    }

    pub(super) fn info(&self) -> NetworkInfo {
        let listens = !self.listening.is_empty();
        let own = if listens { self.own_addresses() } else { Vec::new() };
        NetworkInfo {
            user_agent: self.config.user_agent.clone(),
            protocol_version: PROTOCOL_VERSION,
            services: self.services(),
            local_relay: !self.config.blocks_only,
            time_offset: self.chain.clock_offset(),
            active: self.active,
            connections: self.counts(),
            reachable: self.config.reachable,
            proxies: self.config.proxies.clone(),
            local_addresses: own,
        }
    }

    pub(super) fn totals(&mut self) -> NetTotals {
        let now = self.chain.now();
        self.peers.values_mut().for_each(|peer| peer.look_at_counters(now));
        let live = |of: fn(&Peer) -> u64| self.peers.values().map(|peer| of(peer)).sum::<u64>();
        let (received, sent) = (live(|peer| peer.received_seen), live(|peer| peer.sent_seen));
        let target = self.config.max_upload_bytes;
        let reached = self.uploads.reached(target, false, now);
        let historical = self.uploads.reached(target, true, now);
        NetTotals {
            bytes_recv: self.received_total + received,
            bytes_sent: self.sent_total + sent,
            upload: UploadTarget {
                timeframe_secs: TIMEFRAME.as_secs(),
                target_bytes: target,
                target_reached: reached,
                serve_historical_blocks: !historical,
                bytes_left_in_cycle: target.saturating_sub(self.uploads.bytes),
                time_left_in_cycle_secs: if target == 0 { 0 } else { self.uploads.left_secs(now) },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn historical_blocks_leave_room_for_new_ones() {
        let mut uploads = Uploads::default();
        let now = Duration::from_secs(1_000_000);
        uploads.add(0, now);
        let target = 144 * MAX_BLOCK_BYTES + 10;
        assert!(!uploads.reached(target, true, now));
        uploads.add(10, now);
        assert!(uploads.reached(target, true, now));
        assert!(!uploads.reached(target, false, now));
        assert!(!uploads.reached(0, true, now));
        assert!(!uploads.reached(target, true, now + TIMEFRAME), "a new day");
    }
}
