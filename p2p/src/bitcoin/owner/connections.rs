//! Who is connected: accepting, letting go, and what is done for all every now and then.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::Owner;
use crate::bitcoin::chain::InboundPeer;
use crate::bitcoin::handle::{ConnectionCounts, ConnectionType};
use crate::bitcoin::i2p;
use crate::bitcoin::net_addr::NetAddr;
use crate::bitcoin::peer::{NewPeer, Peer};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::socket::{self, SocketConfig};
use crate::bitcoin::stream::Stream;
use crate::bitcoin::transport::Opening;

/// Unbroadcast transactions, saved addresses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
pub(super) const REBROADCAST_INTERVAL: Duration = Duration::from_secs(12 * 60);
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Who came in.
pub(super) struct Arrival {
    pub(super) remote: NetAddr,
    /// Our end, where the socket does not know it.
    pub(super) me: Option<NetAddr>,
    pub(super) onion: bool,
    pub(super) permissions: Permissions,
}

/// What is known of a connection before anything was said on it.
pub(super) struct Call {
    pub(super) name: String,
    /// Unknown for a name that a proxy looked up.
    pub(super) target: Option<NetAddr>,
    /// Our end, where the socket does not know it.
    pub(super) me: Option<NetAddr>,
    pub(super) kind: ConnectionType,
    pub(super) permissions: Permissions,
    pub(super) onion: bool,
    /// It misbehaved before.
    pub(super) discouraged: bool,
    pub(super) opening: Opening,
    /// Has to live as long as the connection.
    pub(super) session: Option<Box<i2p::Session>>,
}

impl Owner {
    pub(super) fn accept(&mut self, stream: TcpStream, remote: SocketAddr, bind: usize) {
        let bind = self.config.binds.get(bind).cloned();
        let onion = bind.as_ref().is_some_and(|bind| bind.onion);
        let mut permissions = bind.and_then(|bind| bind.permissions).unwrap_or(Permissions::NONE);
        if !onion {
            permissions = permissions | self.config.whitelisted(remote.ip(), true);
        }
        let permissions = self.config.resolve_implicit(permissions);
        self.admit(stream, Arrival { remote: remote.into(), me: None, onion, permissions });
    }

    pub(super) fn admit(&mut self, stream: TcpStream, arrival: Arrival) {
        let Arrival { remote, me, onion, permissions } = arrival;
        if !self.active {
            tracing::debug!(
                target: "net",
                "connection from {remote} dropped: not accepting new connections"
            );
            return;
        }
        let trusted = permissions.has(Permissions::NO_BAN);
        let banned = |ip| self.bans.is_banned(ip, self.chain.now().as_secs());
        if !trusted && remote.ip().is_some_and(banned) {
            tracing::debug!(target: "net", "connection from {remote} dropped (banned)");
            return;
        }
        let inbound = self.counts().inbound;
        let room = self.config.max_inbound();
        let discouraged = self.bans.is_discouraged(&remote);
        if !trusted && inbound + 1 >= room && discouraged {
            tracing::debug!(target: "net", "connection from {remote} dropped (discouraged)");
            return;
        }
        if inbound >= room && !self.evict_one() {
            tracing::debug!(
                target: "net",
                "failed to find an eviction candidate - connection dropped (full)"
            );
            return;
        }
        let opening = if self.config.v2_transport { Opening::Respond } else { Opening::V1 };
        let kind = ConnectionType::Inbound;
        let name = remote.to_string();
        let call =
            Call { name, target: Some(remote), me, kind, permissions, onion, discouraged, opening, session: None };
        self.connect_stream(Stream::Tcp(stream), call);
        tracing::debug!(target: "net", "connection from {remote} accepted");
    }

    pub(super) fn connect_stream(&mut self, stream: Stream, call: Call) {
        let id = self.next_id;
        self.next_id += 1;
        let bound = call.me.or_else(|| stream.local().map(NetAddr::from));
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let target = call.target.unwrap_or(nowhere.into());
        let config = SocketConfig {
            magic: self.config.magic,
            opening: call.opening,
            max_receive_bytes: self.config.max_receive_bytes,
            max_send_bytes: self.config.max_send_bytes,
        };
        let link = socket::open(&self.runtime, stream, id, config, self.events_in.clone(), call.session);
        let new = NewPeer {
            id,
            name: call.name,
            address: target.socket().unwrap_or(nowhere),
            target,
            bound,
            onion: call.onion,
            discouraged: call.discouraged,
            kind: call.kind,
            permissions: call.permissions,
            nonce: rand::random(),
            log_address: self.config.log_ips,
            opening: call.opening,
        };
        let now = self.chain.now();
        let peer = Peer::new(new, link, now);
        tracing::debug!(target: "net", "Added connection {}", peer.log());
        self.peers.insert(id, Box::new(peer));
        self.with_peer(id, |owner, peer| owner.service(peer));
    }

    /// Forgets a peer whose connection is over.
    pub(super) fn forget(&mut self, mut peer: Peer) {
        peer.look_at_counters(self.chain.now());
        self.received_total += peer.received_seen;
        self.sent_total += peer.sent_seen;
        if peer.sync_started {
            self.syncing = self.syncing.saturating_sub(1);
        }
        self.forget_compact(&peer);
        if peer.ready && !peer.is_inbound() && !peer.is_block_only() && !peer.is_private() {
            self.chain.book_connected(&peer.target);
        }
        if peer.is_private() {
            self.chain.private_ended(peer.id);
        }
        self.downloads.forget_peer(peer.id);
        self.chain.peer_left(peer.id);
        self.chain.bloom_clear(peer.id);
        tracing::debug!(target: "net", "Cleared nodestate for peer={}", peer.id);
    }

    fn evict_one(&mut self) -> bool {
        let inbound: Vec<InboundPeer> =
            self.peers.values().filter(|peer| peer.is_inbound()).map(|peer| self.candidate(peer)).collect();
        let Some(victim) = self.chain.choose_to_evict(&inbound) else { return false };
        self.with_peer(victim, |_, peer| {
            Err(super::gone(format!("selected {} connection for eviction, {}", peer.kind.name(), peer.disconnecting())))
        });
        true
    }

    fn candidate(&self, peer: &Peer) -> InboundPeer {
        InboundPeer {
            id: peer.id,
            address: peer.target,
            onion: peer.onion,
            connected: peer.connected,
            min_ping: peer.ping.min,
            last_block: peer.last_block,
            last_tx: peer.last_tx,
            wanted_services: peer.version != 0 && peer.services.has(self.wants_services(peer.services)),
            relays_txs: peer.txs.as_ref().is_some_and(|txs| txs.wanted),
            bloom_filter: peer.txs.as_ref().is_some_and(|txs| txs.bloom),
            discouraged: peer.discouraged,
            no_ban: peer.has(Permissions::NO_BAN),
        }
    }

    pub(super) fn counts(&self) -> ConnectionCounts {
        let inbound = self.peers.values().filter(|peer| peer.is_inbound()).count();
        ConnectionCounts { inbound, outbound: self.peers.len() - inbound }
    }

    /// What happens rarely: bans run out, own transactions are announced again, addresses are kept.
    pub(super) fn sweep(&mut self) {
        if self.last_sweep.elapsed() < SWEEP_INTERVAL {
            return;
        }
        self.last_sweep = Instant::now();
        let now = self.chain.now();
        self.bans.sweep(now.as_secs());
        if self.dials.next_rebroadcast <= self.last_sweep {
            self.dials.next_rebroadcast = self.last_sweep + REBROADCAST_INTERVAL;
            self.announce_unbroadcast();
        }
        self.retry_privately();
        if self.dials.next_save <= self.last_sweep {
            self.dials.next_save = self.last_sweep + SAVE_INTERVAL;
            self.chain.book_save();
        }
    }

    /// Moves what happens rarely nearer (`mockscheduler`).
    pub(super) fn advance(&mut self, by: Duration) {
        let due = |at: Instant| at.checked_sub(by).unwrap_or_else(Instant::now);
        self.dials.next_rebroadcast = due(self.dials.next_rebroadcast);
        self.dials.next_save = due(self.dials.next_save);
        self.private.next_retry = due(self.private.next_retry);
        self.last_sweep = due(self.last_sweep);
        self.extra.advance(by);
    }

    /// Private connections do not count: who gave their nonce back to us elsewhere would learn from our hanging up whose
    /// they are.
    pub(super) fn is_own_nonce(&self, nonce: u64) -> bool {
        let greets = |peer: &Peer| !peer.is_inbound() && !peer.is_private() && !peer.ready;
        self.peers.values().any(|peer| greets(peer) && peer.nonce == nonce)
    }

    pub(super) fn disconnect_host(&mut self, address: &NetAddr) {
        let host = address.without_port();
        let same: Vec<_> =
            self.peers.values().filter(|peer| peer.target.without_port() == host).map(|peer| peer.id).collect();
        for id in same {
            self.with_peer(id, |_, peer| {
                Err(super::gone(format!("disconnect by subnet match, {}", peer.disconnecting())))
            });
        }
    }

    pub(super) fn set_active(&mut self, active: bool) {
        if self.active == active {
            return;
        }
        tracing::info!("SetNetworkActive: {active}");
        self.active = active;
        if !active {
            let all: Vec<_> = self.peers.keys().copied().collect();
            for id in all {
                self.with_peer(id, |_, peer| Err(super::gone(format!("Network not active, {}", peer.disconnecting()))));
            }
        }
    }
}
