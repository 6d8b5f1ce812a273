//! Whom to call: nodes that are to stay connected, and calls under way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Owner;
use super::connections::{Call, REBROADCAST_INTERVAL, SAVE_INTERVAL};
use super::seeding::Seeding;
use crate::bitcoin::config::{Config, Outbound, Proxy};
use crate::bitcoin::handle::{AddedNode, ConnectionType};
use crate::bitcoin::i2p;
use crate::bitcoin::net_addr::{Net, NetAddr};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::socket::{self, DialError, Dialed, Route};
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
    /// A failure counts against the address in the book.
    count_failure: bool,
}

/// Who is being called, and who is to be called.
#[derive(Debug)]
pub(super) struct Dials {
    kept: Vec<Kept>,
    pending: HashMap<u64, Pending>,
    next_ticket: u64,
    next_search: Instant,
    pub(super) seeding: Seeding,
    pub(super) next_rebroadcast: Instant,
    pub(super) next_save: Instant,
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
        let default_port = if node.ends_with(".i2p") { i2p::PORT } else { self.config.default_port };
        let address = NetAddr::parse(&socket::with_port(node, default_port), default_port)?;
        Some(address.as_cjdns(self.config.reachable.has(Net::Cjdns)))
    }

    /// Through whom to call it. `None`: there is no way.
    fn route(&self, target: Option<&NetAddr>, kind: ConnectionType) -> Option<Route> {
        let proxies = &self.config.proxies;
        let through = |proxy: &Proxy| Route::Through(proxy.clone(), target.copied());
        let Some(address) = target else {
            return Some(proxies.names.as_ref().map_or(Route::Direct, through));
        };
        if kind == ConnectionType::PrivateBroadcast {
            return self.private_proxy(address.net()).map(through);
        }
        match address.net() {
            // It has no proxy of this kind.
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
            ConnectionType::Manual | ConnectionType::PrivateBroadcast => return true,
            ConnectionType::OutboundFullRelay => self.count(kind) < self.config.max_full_relay(),
            ConnectionType::BlockRelay => self.count(kind) < self.config.max_block_relay(),
            ConnectionType::Feeler | ConnectionType::AddrFetch => true,
        };
        of_kind && self.chosen() < self.config.max_chosen()
    }

    /// Outbound peers that the operator did not name, connected or called.
    pub(super) fn chosen(&self) -> usize {
        let counts =
            |kind| !matches!(kind, ConnectionType::Inbound | ConnectionType::Manual | ConnectionType::PrivateBroadcast);
        self.peers.values().filter(|peer| counts(peer.kind)).count()
            + self.dials.pending.values().filter(|dial| counts(dial.kind)).count()
    }

    /// Calls a node. False if too many are being called.
    pub(super) fn start_dial(&mut self, node: &str, kind: ConnectionType, v2: bool) -> bool {
        if self.dials.pending.len() >= MAX_DIALS {
            return false;
        }
        self.dial(node, kind, v2, false);
        true
    }

    /// Calls it, unless it is connected. With `count_failure` the address book takes note of a failure.
    pub(super) fn dial(&mut self, node: &str, kind: ConnectionType, v2: bool, count_failure: bool) {
        if !self.active || self.is_connected_to(node) || self.dials.pending.len() >= MAX_DIALS {
            return;
        }
        let target = self.address_of(node);
        let hidden = target.filter(|address| address.net() == Net::I2p);
        if let Some(address) = hidden.filter(|address| address.port() != i2p::PORT) {
            tracing::debug!(
                target: "i2p",
                "Error connecting to {address}, connection refused due to arbitrary port {}", address.port()
            );
            return;
        }
        tracing::debug!(
            target: "net",
            "trying {} connection ({}) to {node}, lastseen=0.0hrs", if v2 { "v2" } else { "v1" }, kind.name()
        );
        let route = match hidden {
            Some(address) => self.i2p_way(kind).map(|way| Route::I2p(way, address)),
            None => self.route(target.as_ref(), kind),
        };
        let Some(route) = route else {
            tracing::debug!(target: "net", "no way to reach {node}");
            return;
        };
        if matches!(route, Route::Direct) && target.is_none() && !self.config.dns {
            tracing::debug!(target: "net", "Not looking up {node}, as -dns=0 forbids it");
            return;
        }
        let ticket = self.dials.next_ticket;
        self.dials.next_ticket += 1;
        self.dials.pending.insert(ticket, Pending { node: node.to_owned(), kind, v2, target, count_failure });
        self.runtime.spawn(socket::dial(
            ticket,
            node.to_owned(),
            self.config.default_port,
            route,
            self.config.connect_timeout,
            self.events_in.clone(),
        ));
    }

    pub(super) fn dialed(&mut self, ticket: u64, result: Result<Dialed, DialError>) {
        let Some(dial) = self.dials.pending.remove(&ticket) else { return };
        // A proxy that is not there says nothing about the node.
        let reached_proxy = result.as_ref().err().is_none_or(|error| !error.by_proxy);
        if let Some(target) = dial.target.filter(|_| reached_proxy) {
            self.chain.book_attempt(&target, dial.count_failure);
        }
        let private = dial.kind == ConnectionType::PrivateBroadcast;
        let Dialed { stream, remote, me, session } = match result {
            Ok(connected) => connected,
            Err(mut error) => {
                self.hidden.keep_session(error.session.take());
                tracing::debug!(target: "net", "connect() to {} failed: {error}", dial.node);
                if private {
                    self.private_failed(&dial.node);
                }
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
        if private {
            self.private_opened(&dial.node);
        }
        let ip = target.and_then(|address| address.ip()).filter(|_| dial.kind == ConnectionType::Manual);
        let granted = ip.map_or(Permissions::NONE, |ip| self.config.whitelisted(ip, false));
        let permissions = self.config.resolve_implicit(granted);
        let opening = if dial.v2 { Opening::Initiate } else { Opening::V1 };
        let onion = target.is_some_and(|address| address.net() == Net::Onion);
        let call = Call {
            name: dial.node,
            target,
            me,
            kind: dial.kind,
            permissions,
            onion,
            discouraged: false,
            opening,
            session,
        };
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
        self.dial_privately();
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
}
