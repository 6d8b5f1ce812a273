//! More outbound peers than usual for a while: when the tip looks stale, every few minutes for blocks only, and where a
//! network has none; and who goes again.
//!
//! Follows Core's `CheckForStaleTipAndEvictPeers`, and the timers of its `ThreadOpenConnections`.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use super::service::random_wait;
use super::{Owner, gone};
use crate::bitcoin::config::Outbound;
use crate::bitcoin::handle::{ConnectionType, PeerId};
use crate::bitcoin::net_addr::{Net, NetAddr};
use crate::bitcoin::peer::Peer;

/// Core's `EXTRA_PEER_CHECK_INTERVAL`.
const CHECK_INTERVAL: Duration = Duration::from_secs(45);
const STALE_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Without a new tip for so many block intervals the tip may be stale.
const STALE_INTERVALS: u32 = 3;
/// Nobody goes before: news need time to arrive.
const MIN_CONNECT_TIME: Duration = Duration::from_secs(30);
const BLOCK_RELAY_INTERVAL: Duration = Duration::from_secs(5 * 60);
const NETWORK_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// When extra peers are wanted.
#[derive(Debug)]
pub(super) struct Extra {
    next_check: Instant,
    /// On the node's clock, as all that follows.
    next_stale_check: Duration,
    last_tip_update: Duration,
    /// The tip looked stale at the last check: one more full peer may be tried.
    try_full: bool,
    /// We were close to the tip once: blocks-only peers are tried from time to time.
    caught_up: bool,
    next_block_relay: Duration,
    next_network: Duration,
}

impl Extra {
    pub(super) fn new(now: Instant, clock: Duration) -> Self {
        Self {
            next_check: now + CHECK_INTERVAL,
            next_stale_check: Duration::ZERO,
            last_tip_update: clock,
            try_full: false,
            caught_up: false,
            next_block_relay: clock + random_wait(BLOCK_RELAY_INTERVAL),
            next_network: clock + random_wait(NETWORK_INTERVAL),
        }
    }

    pub(super) fn tip_moved(&mut self, clock: Duration) {
        self.last_tip_update = clock;
    }

    /// Moves the next check nearer (`mockscheduler`).
    pub(super) fn advance(&mut self, by: Duration) {
        self.next_check = self.next_check.checked_sub(by).unwrap_or_else(Instant::now);
    }

    pub(super) fn wants_full(&self) -> bool {
        self.try_full
    }

    /// Whether it is time for one more peer for blocks only; then the next time is set.
    pub(super) fn take_block_relay(&mut self, clock: Duration) -> bool {
        let due = self.caught_up && clock > self.next_block_relay;
        if due {
            self.next_block_relay = clock + random_wait(BLOCK_RELAY_INTERVAL);
        }
        due
    }
}

impl Owner {
    pub(super) fn check_extra_peers(&mut self) {
        let now = Instant::now();
        if now < self.extra.next_check {
            return;
        }
        self.extra.next_check = now + CHECK_INTERVAL;
        let clock = self.chain.now();
        self.drop_extra_block_relay(clock);
        self.drop_extra_full(clock);
        if clock > self.extra.next_stale_check {
            self.extra.next_stale_check = clock + STALE_CHECK_INTERVAL;
            self.check_stale_tip(clock);
        }
        if !self.extra.caught_up && self.can_direct_fetch() {
            tracing::debug!(target: "net", "enabling extra block-relay-only peers");
            self.extra.caught_up = true;
        }
    }

    fn check_stale_tip(&mut self, clock: Duration) {
        let since = clock.saturating_sub(self.extra.last_tip_update);
        let stale = since > STALE_INTERVALS * self.block_interval() && self.downloads.total() == 0;
        let searching = self.active && self.config.outbound == Outbound::Automatic && !self.chain.is_loading_blocks();
        if stale && searching {
            tracing::info!(
                "Potential stale tip detected, will try using extra outbound peer (last tip update: {} seconds ago)",
                since.as_secs()
            );
            self.try_extra_full(true);
        } else if self.extra.try_full {
            self.try_extra_full(false);
        }
    }

    fn try_extra_full(&mut self, wanted: bool) {
        self.extra.try_full = wanted;
        tracing::debug!(target: "net", "setting try another outbound peer={wanted}");
    }

    fn standing(&self, kind: ConnectionType) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(Box::as_ref).filter(move |peer| peer.ready && peer.kind == kind)
    }

    /// The youngest peer for blocks only goes, or the second youngest if that gave us a block longer ago.
    fn drop_extra_block_relay(&mut self, clock: Duration) {
        let kind = ConnectionType::BlockRelay;
        if self.standing(kind).count() <= self.config.max_block_relay() {
            return;
        }
        let mut youngest: Vec<(PeerId, Duration)> =
            self.peers.values().filter(|peer| peer.kind == kind).map(|peer| (peer.id, peer.last_block)).collect();
        youngest.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let chosen = match youngest.as_slice() {
            [first, second, ..] if first.1 > second.1 => second.0,
            [first, ..] => first.0,
            [] => return,
        };
        let in_flight = self.downloads.count(chosen);
        self.with_peer(chosen, |_, peer| {
            if clock.saturating_sub(peer.connected) >= MIN_CONNECT_TIME && in_flight == 0 {
                return Err(gone(format!(
                    "disconnecting extra block-relay-only peer={chosen} (last block received at time {})",
                    peer.last_block.as_secs()
                )));
            }
            tracing::debug!(
                target: "net",
                "keeping block-relay-only peer={chosen} chosen for eviction (connect time: {}, blocks_in_flight: \
                 {in_flight})",
                peer.connected.as_secs()
            );
            Ok(())
        });
    }

    /// The full peer that announced a block longest ago goes; of several, the youngest. Never the only one of a network.
    fn drop_extra_full(&mut self, clock: Duration) {
        let kind = ConnectionType::OutboundFullRelay;
        if self.standing(kind).count() <= self.config.max_full_relay() {
            return;
        }
        let candidates = self.peers.values().filter(|peer| {
            peer.kind == kind && !peer.chain_sync.protect && self.kept_on(counted_net(&peer.target)) > 1
        });
        let chosen = candidates.min_by_key(|peer| (peer.last_block_announcement.as_secs(), std::cmp::Reverse(peer.id)));
        let Some(chosen) = chosen.map(|peer| peer.id) else { return };
        let in_flight = self.downloads.count(chosen);
        let mut dropped = false;
        self.with_peer(chosen, |_, peer| {
            if clock.saturating_sub(peer.connected) > MIN_CONNECT_TIME && in_flight == 0 {
                dropped = true;
                return Err(gone(format!(
                    "disconnecting extra outbound peer={chosen} (last block announcement received at time {})",
                    peer.last_block_announcement.as_secs()
                )));
            }
            tracing::debug!(
                target: "net",
                "keeping outbound peer={chosen} chosen for eviction (connect time: {}, blocks_in_flight: {in_flight})",
                peer.connected.as_secs()
            );
            Ok(())
        });
        if dropped {
            // An extra peer was found: no more until the tip looks stale again.
            self.try_extra_full(false);
        }
    }

    /// Peers on a network that stay: full ones of our choice, and those the operator named.
    fn kept_on(&self, net: Option<Net>) -> usize {
        let stays = |kind| matches!(kind, ConnectionType::OutboundFullRelay | ConnectionType::Manual);
        self.peers.values().filter(|peer| stays(peer.kind) && counted_net(&peer.target) == net).count()
    }

    /// A reachable network of which addresses are known and no peer is connected, from time to time.
    pub(super) fn lonely_network(&mut self, clock: Duration) -> Option<Net> {
        if !self.config.has_all_full_relay() || clock <= self.extra.next_network {
            return None;
        }
        let mut nets = Net::ALL;
        nets.shuffle(&mut rand::thread_rng());
        let lonely = |net: &Net| {
            self.config.reachable.has(*net) && self.kept_on(Some(*net)) == 0 && self.chain.book_size(Some(*net)) > 0
        };
        let found = nets.into_iter().find(lonely)?;
        self.extra.next_network = clock + random_wait(NETWORK_INTERVAL);
        Some(found)
    }
}

/// Core counts what is not on the public network as a network of its own.
fn counted_net(address: &NetAddr) -> Option<Net> {
    address.is_routable().then(|| address.net())
}
