//! Who is connected: accepting, dialing, keeping added nodes, finding peers, and letting go.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bitcoin::p2p::ServiceFlags;
use tokio::net::TcpStream;

use super::Owner;
use super::gossip::is_routable;
use crate::bitcoin::addresses::group;
use crate::bitcoin::config::{Config, Outbound};
use crate::bitcoin::evict::{self, Candidate};
use crate::bitcoin::handle::{AddedNode, ConnectionCounts, ConnectionType};
use crate::bitcoin::message::Gossip;
use crate::bitcoin::peer::{NewPeer, Peer};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::socket::{self, SocketConfig};
use crate::bitcoin::transport::Opening;

pub(super) const MAX_OUTBOUND_FULL: usize = 8;
pub(super) const MAX_BLOCK_RELAY: usize = 2;
const MAX_FEELER: usize = 1;
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
/// Before seeds are asked while known addresses are tried.
const SEED_DELAY: Duration = Duration::from_secs(11);
/// The same with many known addresses.
const SEED_DELAY_MANY: Duration = Duration::from_secs(300);
/// Peers that make seeds unnecessary.
const ENOUGH_OUTBOUND: usize = 2;
/// Addresses that count as many.
const ENOUGH_ADDRESSES: usize = 1_000;
const FEELER_INTERVAL: Duration = Duration::from_secs(120);
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
}

/// What is known of a connection before anything was said on it.
struct Call {
    name: String,
    remote: SocketAddr,
    kind: ConnectionType,
    permissions: Permissions,
    onion: bool,
    opening: Opening,
}

/// Who is being called, and who is to be called.
#[derive(Debug)]
pub(super) struct Dials {
    kept: Vec<Kept>,
    pending: HashMap<u64, Pending>,
    next_ticket: u64,
    next_search: Instant,
    next_feeler: Instant,
    /// Since when seeds could be asked; nothing once they were, or are not needed.
    seeds_since: Option<Instant>,
    seeds_announced: bool,
    next_rebroadcast: Instant,
    next_save: Instant,
}

impl Dials {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
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
            next_feeler: now + FEELER_INTERVAL,
            seeds_since: Some(now),
            seeds_announced: false,
            next_rebroadcast: now + REBROADCAST_INTERVAL,
            next_save: now + SAVE_INTERVAL,
        }
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
        let room = self.max_inbound();
        if !trusted && inbound + 1 >= room && self.bans.is_discouraged(remote.ip()) {
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
        self.connect_stream(stream, Call { name, remote, kind, permissions, onion, opening });
        tracing::debug!(target: "net", "connection from {remote} accepted");
    }

    fn max_inbound(&self) -> usize {
        let automatic = MAX_OUTBOUND_FULL + MAX_BLOCK_RELAY + MAX_FEELER;
        self.config.max_connections.saturating_sub(automatic.min(self.config.max_connections))
    }

    fn connect_stream(&mut self, stream: TcpStream, call: Call) {
        let id = self.next_id;
        self.next_id += 1;
        let bound = stream.local_addr().ok().map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()));
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
            address: call.remote,
            bound,
            onion: call.onion,
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
        self.downloads.forget_peer(peer.id);
        self.chain.peer_left(peer.id);
        self.chain.bloom_clear(peer.id);
        tracing::debug!(target: "net", "Cleared nodestate for peer={}", peer.id);
    }

    fn evict_one(&mut self) -> bool {
        let candidates: Vec<Candidate> = self
            .peers
            .values()
            .filter(|peer| peer.is_inbound() && !peer.has(Permissions::NO_BAN))
            .map(|peer| Candidate {
                id: peer.id,
                connected: peer.connected,
                min_ping: peer.ping.min,
                last_tx: peer.last_tx,
                last_block: peer.last_block,
                group: group(peer.address.ip()),
                prefer: self.bans.is_discouraged(peer.address.ip()),
            })
            .collect();
        let Some(victim) = evict::choose(candidates) else { return false };
        self.with_peer(victim, |_, peer| {
            Err(super::gone(format!("selected {} connection for eviction, {}", peer.kind.name(), peer.disconnecting())))
        });
        true
    }

    pub(super) fn counts(&self) -> ConnectionCounts {
        let inbound = self.peers.values().filter(|peer| peer.is_inbound()).count();
        ConnectionCounts { inbound, outbound: self.peers.len() - inbound }
    }

    fn count(&self, kind: ConnectionType) -> usize {
        self.peers.values().filter(|peer| peer.kind == kind).count()
            + self.dials.pending.values().filter(|dial| dial.kind == kind).count()
    }

    fn is_connected_to(&self, node: &str) -> bool {
        let address = self.numeric(node);
        self.peers.values().any(|peer| peer.name == node || Some(peer.address) == address)
            || self.dials.pending.values().any(|dial| dial.node == node)
    }

    fn numeric(&self, node: &str) -> Option<SocketAddr> {
        socket::with_port(node, self.config.default_port).parse().ok()
    }

    /// `addconnection` and `onetry`: false if there is no room for the kind, or no network.
    pub(super) fn start_dial(&mut self, node: &str, kind: ConnectionType, v2: bool) -> bool {
        let full = match kind {
            ConnectionType::Inbound => true,
            ConnectionType::OutboundFullRelay => self.count(kind) >= MAX_OUTBOUND_FULL,
            ConnectionType::BlockRelay => self.count(kind) >= MAX_BLOCK_RELAY,
            _ => false,
        };
        if full || self.dials.pending.len() >= MAX_DIALS {
            return false;
        }
        if !self.active || self.is_connected_to(node) {
            return true;
        }
        tracing::debug!(
            target: "net",
            "trying {} connection ({}) to {node}, lastseen=0.0hrs", if v2 { "v2" } else { "v1" }, kind.name()
        );
        let ticket = self.dials.next_ticket;
        self.dials.next_ticket += 1;
        self.dials.pending.insert(ticket, Pending { node: node.to_owned(), kind, v2 });
        self.runtime.spawn(socket::dial(
            ticket,
            node.to_owned(),
            self.config.default_port,
            self.config.connect_timeout,
            self.events_in.clone(),
        ));
        true
    }

    pub(super) fn dialed(&mut self, ticket: u64, result: Result<(TcpStream, SocketAddr), String>) {
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
        if self.peers.values().any(|peer| peer.address == remote) {
            tracing::info!("Not opening a connection to {}, already connected to {remote}", dial.node);
            return;
        }
        if let Some(kept) = self.dials.kept.iter_mut().find(|kept| kept.node == dial.node) {
            kept.backoff = RETRY_FIRST;
        }
        let granted = self.config.whitelisted(remote.ip(), false);
        let permissions = self.config.resolve_implicit(granted);
        let opening = if dial.v2 { Opening::Initiate } else { Opening::V1 };
        let call = Call { name: dial.node, remote, kind: dial.kind, permissions, onion: false, opening };
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
                self.search(now);
            }
        }
    }

    /// Seeds are asked when addresses are lacking, and else only after known ones had their time.
    fn ask_seeds(&mut self) {
        let Some(since) = self.dials.seeds_since else { return };
        let many = self.addresses.len() >= ENOUGH_ADDRESSES;
        let wait = if many { SEED_DELAY_MANY } else { SEED_DELAY };
        let waits = !self.config.force_dns_seed && self.addresses.len() > 0;
        if !self.dials.seeds_announced {
            self.dials.seeds_announced = true;
            self.ask_seed_nodes();
            if self.config.dns_seeds.is_empty() {
                tracing::info!("DNS seeding disabled");
                self.dials.seeds_since = None;
                return;
            }
            if waits {
                tracing::info!("Waiting {} seconds before querying DNS seeds.", wait.as_secs());
            }
        }
        if waits {
            let full = self.peers.values().filter(|peer| peer.ready && peer.kind == ConnectionType::OutboundFullRelay);
            if since.elapsed() >= SEED_DELAY && full.count() >= ENOUGH_OUTBOUND {
                tracing::info!("P2P peers available. Skipped DNS seeding.");
                self.dials.seeds_since = None;
                return;
            }
            if since.elapsed() < wait {
                return;
            }
        }
        self.dials.seeds_since = None;
        for seed in self.config.dns_seeds.clone() {
            tracing::info!("Loading addresses from DNS seed {seed}");
            self.runtime.spawn(socket::ask_seed(
                seed,
                self.config.default_port,
                Duration::from_secs(30),
                self.events_in.clone(),
            ));
        }
    }

    fn ask_seed_nodes(&mut self) {
        for node in self.config.seed_nodes.clone() {
            self.start_dial(&node, ConnectionType::AddrFetch, self.config.v2_transport);
        }
    }

    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr]) {
        let now = self.chain.now().as_secs();
        let mut found = 0;
        for address in addresses.iter().filter(|address| is_routable(address.ip())) {
            let entry = Gossip {
                time: u32::try_from(now.saturating_sub(3 * 24 * 60 * 60)).unwrap_or(u32::MAX),
                services: ServiceFlags::NETWORK | ServiceFlags::WITNESS,
                address: *address,
            };
            found += usize::from(self.addresses.learn(&entry, Duration::ZERO));
        }
        tracing::info!("{found} addresses found from DNS seed {name}");
    }

    /// One more peer of our own choice, if one is missing, from a network no other is from.
    fn search(&mut self, now: Instant) {
        let kind = if self.count(ConnectionType::OutboundFullRelay) < MAX_OUTBOUND_FULL {
            ConnectionType::OutboundFullRelay
        } else if self.count(ConnectionType::BlockRelay) < MAX_BLOCK_RELAY {
            ConnectionType::BlockRelay
        } else if self.dials.next_feeler <= now && self.count(ConnectionType::Feeler) < MAX_FEELER {
            self.dials.next_feeler = now + FEELER_INTERVAL;
            ConnectionType::Feeler
        } else {
            return;
        };
        let outbound = self.peers.values().filter(|peer| !peer.is_inbound());
        let taken: HashSet<_> = outbound.map(|peer| group(peer.address.ip())).collect();
        let pending: HashSet<_> = self.dials.pending.values().map(|dial| dial.node.as_str()).collect();
        let seconds = self.chain.now();
        let fits = |address: &SocketAddr, services: ServiceFlags| {
            services.has(ServiceFlags::WITNESS)
                && !taken.contains(&group(address.ip()))
                && !pending.contains(address.to_string().as_str())
                && !self.bans.is_banned(address.ip(), seconds.as_secs())
                && !self.bans.is_discouraged(address.ip())
                && !self.listening.contains(address)
        };
        if let Some(address) = self.addresses.choose(seconds, fits) {
            self.addresses.attempt(address, seconds);
            let v2 = self.config.v2_transport && self.addresses.speaks_v2(&address);
            self.start_dial(&address.to_string(), kind, v2);
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
            self.addresses.save();
        }
    }

    /// Moves what happens rarely nearer (`mockscheduler`).
    pub(super) fn advance(&mut self, by: Duration) {
        let due = |at: Instant| at.checked_sub(by).unwrap_or_else(Instant::now);
        self.dials.next_rebroadcast = due(self.dials.next_rebroadcast);
        self.dials.next_save = due(self.dials.next_save);
        self.last_sweep = due(self.last_sweep);
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
