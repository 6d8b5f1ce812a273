//! Who is connected: accepting, dialing, keeping added nodes, finding peers, and letting go.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::Owner;
use super::seeding::Seeding;
use crate::bitcoin::chain::InboundPeer;
use crate::bitcoin::config::{Config, Outbound};
use crate::bitcoin::handle::{AddedNode, ConnectionCounts, ConnectionType};
use crate::bitcoin::net_addr::{Net, NetAddr};
use crate::bitcoin::peer::{NewPeer, Peer};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::socket::{self, Route, SocketConfig};
use crate::bitcoin::stream::Stream;
use crate::bitcoin::transport::Opening;

/// Core's `MAX_ADDNODE_CONNECTIONS`.
const MAX_ADDNODE: usize = 8;
/// Dials running at once.
const MAX_DIALS: usize = 32;
/// Nodes that may be added; Core sets no limit, we do.
const MAX_ADDED: usize = 1_024;
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Between two looks for a new peer of our own choice.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);
/// Unbroadcast transactions, saved addresses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const REBROADCAST_INTERVAL: Duration = Duration::from_secs(12 * 60);
const SAVE_INTERVAL: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
struct Kept {
    node: String,
    v2: bool,
    next_try: Instant,
    backoff: Duration,
    /// Named by `-addnode` or `addnode`, not by `-connect`.
    added: bool,
}

#[derive(Debug)]
struct Pending {
    node: String,
    kind: ConnectionType,
    v2: bool,
    /// Where it is an address.
    target: Option<NetAddr>,
}

/// What is known of a connection before anything was said on it.
struct Call {
    name: String,
    /// Unknown for a name that a proxy looked up.
    target: Option<NetAddr>,
    kind: ConnectionType,
    permissions: Permissions,
    onion: bool,
    /// It misbehaved before.
    discouraged: bool,
    opening: Opening,
}

/// Who is being called, and who is to be called.
#[derive(Debug)]
pub(super) struct Dials {
    kept: Vec<Kept>,
    pending: HashMap<u64, Pending>,
    next_ticket: u64,
    next_search: Instant,
    pub(super) seeding: Seeding,
    next_rebroadcast: Instant,
    next_save: Instant,
}

impl Dials {
    pub(super) fn new(config: &Config, now: Instant, clock: Duration) -> Self {
        let kept = |node: &String, added| Kept {
            node: node.clone(),
            v2: config.v2_transport,
            next_try: now,
            backoff: RETRY_FIRST,
            added,
        };
        let mut list: Vec<Kept> = config.added.iter().map(|node| kept(node, true)).collect();
        if let Outbound::Only(nodes) = &config.outbound {
            list.extend(nodes.iter().map(|node| kept(node, false)));
        }
        list.truncate(MAX_ADDED);
        Self {
            kept: list,
            pending: HashMap::new(),
            next_ticket: 0,
            next_search: now,
            seeding: Seeding::new(config, now, clock),
            next_rebroadcast: now + REBROADCAST_INTERVAL,
            next_save: now + SAVE_INTERVAL,
        }
    }
}

impl Dials {
    /// Addresses that are being called.
    pub(super) fn targets(&self, kind: ConnectionType) -> impl Iterator<Item = NetAddr> + '_ {
        self.pending.values().filter(move |dial| dial.kind == kind).filter_map(|dial| dial.target)
    }
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
        if !self.active {
            tracing::debug!(
                target: "net",
                "connection from {remote} dropped: not accepting new connections"
            );
            return;
        }
        let trusted = permissions.has(Permissions::NO_BAN);
        if !trusted && self.bans.is_banned(remote.ip(), self.chain.now().as_secs()) {
            tracing::debug!(target: "net", "connection from {remote} dropped (banned)");
            return;
        }
        let inbound = self.counts().inbound;
        let room = self.config.max_inbound();
        let discouraged = self.bans.is_discouraged(remote.ip());
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
        let target = Some(NetAddr::from(remote));
        self.connect_stream(Stream::Tcp(stream), Call { name, target, kind, permissions, onion, discouraged, opening });
        tracing::debug!(target: "net", "connection from {remote} accepted");
    }

    fn connect_stream(&mut self, stream: Stream, call: Call) {
        let id = self.next_id;
        self.next_id += 1;
        let bound = stream.local().map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()));
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let target = call.target.unwrap_or(nowhere.into());
        let config = SocketConfig {
            magic: self.config.magic,
            opening: call.opening,
            max_receive_bytes: self.config.max_receive_bytes,
            max_send_bytes: self.config.max_send_bytes,
        };
        let link = socket::open(&self.runtime, stream, id, config, self.events_in.clone());
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
        if peer.ready && !peer.is_inbound() && !peer.is_block_only() {
            self.chain.book_connected(&peer.target);
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

    pub(super) fn count(&self, kind: ConnectionType) -> usize {
        self.peers.values().filter(|peer| peer.kind == kind).count()
            + self.dials.pending.values().filter(|dial| dial.kind == kind).count()
    }

    pub(super) fn is_connected_to(&self, node: &str) -> bool {
        let address = self.numeric(node);
        self.peers.values().any(|peer| peer.name == node || Some(peer.address) == address)
            || self.dials.pending.values().any(|dial| dial.node == node)
    }

    /// Kept connected by name or number.
    pub(super) fn is_added(&self, address: &NetAddr) -> bool {
        self.dials.kept.iter().any(|kept| self.address_of(&kept.node).as_ref() == Some(address))
    }

    fn numeric(&self, node: &str) -> Option<SocketAddr> {
        socket::with_port(node, self.config.default_port).parse().ok()
    }

    /// The address that a node's name is, if it is one; fc00::/8 is cjdns where that is reachable.
    fn address_of(&self, node: &str) -> Option<NetAddr> {
        let text = socket::with_port(node, self.config.default_port);
        let address = NetAddr::parse(&text, self.config.default_port)?;
        Some(address.as_cjdns(self.config.reachable.has(Net::Cjdns)))
    }

    /// Through whom to call it. `None`: there is no way.
    fn route(&self, target: Option<&NetAddr>) -> Option<Route> {
        let proxies = &self.config.proxies;
        let through = |proxy: &crate::bitcoin::config::Proxy| Route::Through(proxy.clone(), target.copied());
        let Some(address) = target else {
            return Some(proxies.names.as_ref().map_or(Route::Direct, through));
        };
        match address.net() {
            Net::I2p => None,
            Net::Onion => proxies.onion.as_ref().map(through),
            // What is not on the public network is not behind a proxy either.
            _ if !address.is_routable() => Some(Route::Direct),
            net => Some(proxies.of(net).map_or(Route::Direct, through)),
        }
    }

    /// Whether one more of a kind may be called; what the operator named by `onetry` or `-addnode` has no limit here.
    pub(super) fn has_room(&self, kind: ConnectionType) -> bool {
        let of_kind = match kind {
            ConnectionType::Inbound => return false,
            ConnectionType::Manual => return true,
            ConnectionType::OutboundFullRelay => self.count(kind) < self.config.max_full_relay(),
            ConnectionType::BlockRelay => self.count(kind) < self.config.max_block_relay(),
            ConnectionType::Feeler | ConnectionType::AddrFetch => true,
        };
        of_kind && self.chosen() < self.config.max_chosen()
    }

    /// Outbound peers that the operator did not name, connected or called.
    pub(super) fn chosen(&self) -> usize {
        let counts = |kind| !matches!(kind, ConnectionType::Inbound | ConnectionType::Manual);
        self.peers.values().filter(|peer| counts(peer.kind)).count()
            + self.dials.pending.values().filter(|dial| counts(dial.kind)).count()
    }

    /// Calls a node. False if too many are being called.
    pub(super) fn start_dial(&mut self, node: &str, kind: ConnectionType, v2: bool) -> bool {
        if self.dials.pending.len() >= MAX_DIALS {
            return false;
        }
        if !self.active || self.is_connected_to(node) {
            return true;
        }
        let target = self.address_of(node);
        if let Some(address) = target.filter(|address| address.net() == Net::I2p && address.port() != 0) {
            tracing::debug!(
                target: "net",
                "Error connecting to {address}, connection refused due to arbitrary port {}", address.port()
            );
            return true;
        }
        tracing::debug!(
            target: "net",
            "trying {} connection ({}) to {node}, lastseen=0.0hrs", if v2 { "v2" } else { "v1" }, kind.name()
        );
        let Some(route) = self.route(target.as_ref()) else {
            tracing::debug!(target: "net", "no way to reach {node}");
            return true;
        };
        if matches!(route, Route::Direct) && target.is_none() && !self.config.dns {
            tracing::debug!(target: "net", "Not looking up {node}, as -dns=0 forbids it");
            return true;
        }
        let ticket = self.dials.next_ticket;
        self.dials.next_ticket += 1;
        self.dials.pending.insert(ticket, Pending { node: node.to_owned(), kind, v2, target });
        self.runtime.spawn(socket::dial(
            ticket,
            node.to_owned(),
            self.config.default_port,
            route,
            self.config.connect_timeout,
            self.events_in.clone(),
        ));
        true
    }

    pub(super) fn dialed(&mut self, ticket: u64, result: Result<(Stream, Option<NetAddr>), String>) {
        let Some(dial) = self.dials.pending.remove(&ticket) else { return };
        let (stream, remote) = match result {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(target: "net", "connect() to {} failed: {error}", dial.node);
                return;
            }
        };
        if !self.active {
            return;
        }
        let target = dial.target.or(remote);
        if let Some(address) = target.filter(|address| self.peers.values().any(|peer| peer.target == *address)) {
            tracing::info!("Not opening a connection to {}, already connected to {address}", dial.node);
            return;
        }
        if let Some(kept) = self.dials.kept.iter_mut().find(|kept| kept.node == dial.node) {
            kept.backoff = RETRY_FIRST;
        }
        let ip = target.and_then(|address| address.ip());
        let granted = ip.map_or(Permissions::NONE, |ip| self.config.whitelisted(ip, false));
        let permissions = self.config.resolve_implicit(granted);
        let opening = if dial.v2 { Opening::Initiate } else { Opening::V1 };
        let onion = target.is_some_and(|address| address.net() == Net::Onion);
        let call = Call { name: dial.node, target, kind: dial.kind, permissions, onion, discouraged: false, opening };
        self.connect_stream(stream, call);
    }

    pub(super) fn add_node(&mut self, node: &str, v2: bool) -> bool {
        let address = self.numeric(node);
        let known = self.dials.kept.iter().any(|kept| {
            kept.added && (kept.node == node || (address.is_some() && self.numeric(&kept.node) == address))
        });
        if known || self.dials.kept.len() >= MAX_ADDED {
            return false;
        }
        self.dials.kept.push(Kept {
            node: node.to_owned(),
            v2,
            next_try: Instant::now(),
            backoff: RETRY_FIRST,
            added: true,
        });
        true
    }

    pub(super) fn remove_node(&mut self, node: &str) -> bool {
        let before = self.dials.kept.len();
        self.dials.kept.retain(|kept| !(kept.added && kept.node == node));
        self.dials.kept.len() != before
    }

    pub(super) fn added_nodes(&self) -> Vec<AddedNode> {
        let connected = |node: &str| {
            let address = self.numeric(node);
            self.peers
                .values()
                .find(|peer| peer.name == node || Some(peer.address) == address)
                .map(|peer| (peer.address, peer.is_inbound()))
        };
        self.dials
            .kept
            .iter()
            .filter(|kept| kept.added)
            .map(|kept| AddedNode { node: kept.node.clone(), connected: connected(&kept.node) })
            .collect()
    }

    /// Calls who should be connected and is not.
    pub(super) fn dial_due(&mut self) {
        if !self.active {
            return;
        }
        let now = Instant::now();
        let mut due = Vec::new();
        let manual = self.count(ConnectionType::Manual);
        for at in 0..self.dials.kept.len() {
            let Some(kept) = self.dials.kept.get(at) else { break };
            if kept.next_try > now || self.is_connected_to(&kept.node.clone()) {
                continue;
            }
            if kept.added && manual + due.len() >= MAX_ADDNODE {
                continue;
            }
            if let Some(kept) = self.dials.kept.get_mut(at) {
                kept.next_try = now + kept.backoff;
                kept.backoff = (kept.backoff * 2).min(RETRY_LAST);
                due.push((kept.node.clone(), kept.v2));
            }
        }
        for (node, v2) in due {
            self.start_dial(&node, ConnectionType::Manual, v2);
        }
        if self.dials.next_search <= now {
            self.dials.next_search = now + SEARCH_INTERVAL;
            self.ask_seeds();
            if self.config.outbound == Outbound::Automatic {
                self.seed();
                self.search();
            }
        }
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
        self.last_sweep = due(self.last_sweep);
        self.extra.advance(by);
    }

    pub(super) fn is_own_nonce(&self, nonce: u64) -> bool {
        self.peers.values().any(|peer| !peer.is_inbound() && !peer.ready && peer.nonce == nonce)
    }

    pub(super) fn disconnect_address(&mut self, address: IpAddr) {
        let same: Vec<_> =
            self.peers.values().filter(|peer| peer.address.ip() == address).map(|peer| peer.id).collect();
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
