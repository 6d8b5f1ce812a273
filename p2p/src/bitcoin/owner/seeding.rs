//! Finding peers by ourselves: anchors, the address book, feelers; and where the book is filled from when it is empty: seed
//! nodes, DNS seeds, fixed seeds.
//!
//! Follows Core's `ThreadOpenConnections` and `ThreadDNSAddressSeed`, looked at twice a second.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bitcoin::p2p::ServiceFlags;
use rand::Rng;
use rand::seq::SliceRandom;

use super::Owner;
use super::service::random_wait;
use crate::bitcoin::chain::AddressSource;
use crate::bitcoin::config::{Config, Outbound};
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::net_addr::{Gossip, Net, NetAddr, Nets, is_routable};
use crate::bitcoin::socket;

const FEELER_INTERVAL: Duration = Duration::from_secs(120);
/// Anchors kept.
const MAX_ANCHORS: usize = 2;
/// Before DNS seeds are asked while known addresses are tried, and how often it is looked whether they worked.
const SEED_DELAY: Duration = Duration::from_secs(11);
/// The same with many known addresses.
const SEED_DELAY_MANY: Duration = Duration::from_secs(300);
/// Addresses that count as many.
const ENOUGH_ADDRESSES: usize = 1_000;
/// Peers that make seeds unnecessary.
const ENOUGH_OUTBOUND: usize = 2;
/// DNS seeds asked at once, unless there is no address at all.
const SEEDS_AT_ONCE: usize = 3;
const SEED_TIMEOUT: Duration = Duration::from_secs(30);
/// Seed nodes have this long before DNS seeds are asked.
const SEED_NODE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two seed nodes.
const NEXT_SEED_NODE: Duration = Duration::from_secs(10);
/// The other sources have this long before the fixed seeds are taken.
const FIXED_SEEDS_DELAY: Duration = Duration::from_secs(60);
/// Candidates looked at in one turn.
const MAX_TRIES: usize = 100;
/// Tries until addresses are taken that were tried a moment ago.
const PICKY_TRIES: usize = 30;
/// Tries until addresses are taken whose port is no node's.
const GOOD_PORT_TRIES: usize = 50;
const RESTED: Duration = Duration::from_secs(600);

/// What is left to be asked.
#[derive(Debug)]
pub(super) struct Seeding {
    next_feeler: Duration,
    /// On the node's clock.
    started: Duration,
    /// Seed nodes not asked yet, the next one last.
    nodes: Vec<String>,
    next_node: Duration,
    any_nodes: bool,
    fixed: bool,
    dns: Dns,
}

/// Where asking DNS seeds stands.
#[derive(Debug)]
struct Dns {
    /// Not asked yet; empty when it is over.
    seeds: Vec<String>,
    asked: usize,
    answered: usize,
    found: usize,
    /// Until when seed nodes are waited for.
    nodes_until: Option<Instant>,
    /// To be asked without waiting.
    at_once: usize,
    /// Until when known addresses are tried, and when to look next.
    wait: Option<(Instant, Instant)>,
    announced: bool,
    over: bool,
}

impl Seeding {
    pub(super) fn new(config: &Config, now: Instant, clock: Duration) -> Self {
        let mut seeds = config.dns_seeds.clone();
        seeds.shuffle(&mut rand::thread_rng());
        let nodes_until = (!config.seed_nodes.is_empty()).then_some(now + SEED_NODE_TIMEOUT);
        Self {
            next_feeler: clock + random_wait(FEELER_INTERVAL),
            started: clock,
            nodes: config.seed_nodes.clone(),
            next_node: clock,
            any_nodes: !config.seed_nodes.is_empty(),
            fixed: config.fixed_seeds && config.outbound == Outbound::Automatic,
            dns: Dns {
                seeds,
                asked: 0,
                answered: 0,
                found: 0,
                nodes_until,
                at_once: 0,
                wait: None,
                announced: false,
                over: false,
            },
        }
    }
}

impl Owner {
    fn full_outbound(&self) -> usize {
        self.peers.values().filter(|peer| peer.ready && peer.kind == ConnectionType::OutboundFullRelay).count()
    }

    /// Anchors of the last run are tried before anything else.
    pub(super) fn take_anchors(&mut self) {
        if self.config.outbound != Outbound::Automatic {
            return;
        }
        self.anchors = self.chain.take_anchors();
        self.anchors.truncate(MAX_ANCHORS);
        tracing::info!("{} block-relay-only anchors will be tried for connections.", self.anchors.len());
        tracing::info!("opencon thread start");
        if !self.config.fixed_seeds {
            tracing::info!("Fixed seeds are disabled");
        }
    }

    pub(super) fn keep_anchors(&self) {
        if self.config.outbound != Outbound::Automatic {
            return;
        }
        let connected = self.peers.values().filter(|peer| peer.is_block_only()).map(|peer| Gossip {
            time: 0,
            services: peer.services,
            address: peer.target,
        });
        // Core has no dials under way: it waits for each.
        let dialed = self.dials.targets(ConnectionType::BlockRelay);
        let dialed = dialed.map(|address| Gossip { time: 0, services: ServiceFlags::NONE, address });
        let anchors: Vec<Gossip> = connected.chain(dialed).take(MAX_ANCHORS).collect();
        self.chain.keep_anchors(&anchors);
    }

    /// Seeds are asked when addresses are lacking, and else only after known ones had their time.
    pub(super) fn ask_seeds(&mut self) {
        if self.dials.seeding.dns.over {
            return;
        }
        let now = Instant::now();
        let known = self.chain.book_size(None);
        let full = self.full_outbound();
        let (force, active) = (self.config.force_dns_seed, self.active);
        let by_call = self.config.proxies.names.is_some() || !self.config.dns;
        let dns = &mut self.dials.seeding.dns;
        if !dns.announced {
            dns.announced = true;
            if dns.seeds.is_empty() {
                tracing::info!("DNS seeding disabled");
                dns.over = true;
                return;
            }
            if dns.nodes_until.is_some() {
                tracing::info!(
                    "-seednode enabled. Trying the provided seeds for {} seconds before defaulting to the dnsseeds.",
                    SEED_NODE_TIMEOUT.as_secs()
                );
            } else if force || known == 0 {
                dns.at_once = dns.seeds.len();
            }
        }
        if let Some(until) = dns.nodes_until {
            let enough = full >= ENOUGH_OUTBOUND;
            if enough {
                tracing::info!("P2P peers available. Finished fetching data from seed nodes.");
            } else if now > until {
                tracing::info!(
                    "Couldn't connect to enough peers via seed nodes. Handing fetch logic to the DNS seeds."
                );
            } else {
                return;
            }
            dns.nodes_until = None;
            dns.at_once = if force || known == 0 { dns.seeds.len() } else { 0 };
            dns.over = enough && dns.at_once == 0;
            return;
        }
        if dns.at_once == 0 && known > 0 {
            let delay = if known >= ENOUGH_ADDRESSES { SEED_DELAY_MANY } else { SEED_DELAY };
            let Some((until, look)) = dns.wait else {
                tracing::info!("Waiting {} seconds before querying DNS seeds.", delay.as_secs());
                dns.wait = Some((now + delay, now + SEED_DELAY));
                return;
            };
            if now < look {
                return;
            }
            if full >= ENOUGH_OUTBOUND {
                if dns.found > 0 {
                    tracing::info!("{} addresses found from DNS seeds", dns.found);
                    tracing::info!("P2P peers available. Finished DNS seeding.");
                } else {
                    tracing::info!("P2P peers available. Skipped DNS seeding.");
                }
                dns.over = true;
                return;
            }
            if now < until {
                dns.wait = Some((until, look + SEED_DELAY));
                return;
            }
        }
        if !active {
            return;
        }
        dns.wait = None;
        let count = if dns.at_once > 0 { dns.at_once } else { SEEDS_AT_ONCE };
        dns.at_once = 0;
        let chosen: Vec<String> = dns.seeds.drain(..count.min(dns.seeds.len())).collect();
        dns.asked += chosen.len();
        dns.over = dns.seeds.is_empty();
        for seed in chosen {
            tracing::info!("Loading addresses from DNS seed {seed}");
            if by_call {
                // A proxy looks names up, but does not tell what it found: the seed itself is asked. Without a proxy, and
                // where names may not be looked up, nothing comes of that.
                self.dials.seeding.dns.answered += 1;
                self.start_dial(&seed, ConnectionType::AddrFetch, false);
                continue;
            }
            let services = ServiceFlags::NETWORK | ServiceFlags::WITNESS;
            self.runtime.spawn(socket::ask_seed(
                format!("x{:x}.{seed}", services.to_u64()),
                self.config.default_port,
                SEED_TIMEOUT,
                self.events_in.clone(),
            ));
        }
        self.seeds_answered();
    }

    fn seeds_answered(&self) {
        let dns = &self.dials.seeding.dns;
        if dns.over && dns.answered >= dns.asked {
            tracing::info!("{} addresses found from DNS seeds", dns.found);
        }
    }

    /// A seed answered, perhaps with nothing.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr]) {
        let now = self.chain.now().as_secs();
        let day = 24 * 60 * 60;
        let mut rng = rand::thread_rng();
        let entries: Vec<Gossip> = addresses
            .iter()
            .filter(|address| is_routable(address.ip()))
            .map(|address| Gossip {
                // Heard of three to seven days ago: what peers tell is newer.
                time: u32::try_from(now.saturating_sub(rng.gen_range(3 * day..7 * day))).unwrap_or(u32::MAX),
                services: ServiceFlags::NETWORK | ServiceFlags::WITNESS,
                address: (*address).into(),
            })
            .collect();
        self.dials.seeding.dns.found += entries.len();
        self.dials.seeding.dns.answered += 1;
        self.chain.book_learn(&entries, AddressSource::Name(name), Duration::ZERO);
        self.seeds_answered();
    }

    /// Seed nodes and fixed seeds, when the book is empty or leads nowhere.
    pub(super) fn seed(&mut self) {
        let clock = self.chain.now();
        let known = self.chain.book_size(None);
        let full = self.full_outbound();
        let seeding = &mut self.dials.seeding;
        let first = seeding.next_node == seeding.started;
        let due = if first { known == 0 } else { full < ENOUGH_OUTBOUND && clock > seeding.next_node };
        if first && !due {
            seeding.next_node = clock + NEXT_SEED_NODE;
        }
        if due && let Some(node) = seeding.nodes.pop() {
            seeding.next_node = clock + NEXT_SEED_NODE;
            if known == 0 {
                tracing::info!("Empty addrman, adding seednode ({node}) to addrfetch");
            } else {
                tracing::info!(
                    "Couldn't connect to peers from addrman after {} seconds. Adding seednode ({node}) to addrfetch",
                    NEXT_SEED_NODE.as_secs()
                );
            }
            self.start_dial(&node, ConnectionType::AddrFetch, self.config.v2_transport);
        }
        if self.dials.seeding.fixed {
            self.take_fixed_seeds(clock);
        }
    }

    fn take_fixed_seeds(&mut self, clock: Duration) {
        let empty: Nets = Net::ALL
            .into_iter()
            .filter(|net| self.config.reachable.has(*net) && self.chain.book_size(Some(*net)) == 0)
            .collect();
        if empty == Nets::NONE {
            return;
        }
        if clock > self.dials.seeding.started + FIXED_SEEDS_DELAY {
            tracing::info!(
                "Adding fixed seeds as 60 seconds have passed and addrman is empty for at least one reachable network"
            );
        } else if self.config.dns_seeds.is_empty() && !self.dials.seeding.any_nodes && self.config.added.is_empty() {
            tracing::info!(
                "Adding fixed seeds as -dnsseed=0 (or IPv4/IPv6 connections are disabled via -onlynet) and neither \
                 -addnode nor -seednode are provided"
            );
        } else {
            return;
        }
        self.dials.seeding.fixed = false;
        let mut seeds = self.chain.fixed_seeds();
        seeds.retain(|seed| empty.has(seed.address.net()));
        self.chain.book_learn(&seeds, AddressSource::Name("fixedseeds"), Duration::ZERO);
        tracing::info!("Added {} fixed seeds from reachable networks.", seeds.len());
    }

    /// What kind of peer is missing, and on which networks it may be.
    fn missing_kind(&mut self, clock: Duration) -> Option<(ConnectionType, Nets)> {
        let blocks = self.count(ConnectionType::BlockRelay) < self.config.max_block_relay();
        let full = self.count(ConnectionType::OutboundFullRelay) < self.config.max_full_relay();
        let anywhere = self.config.reachable;
        let kind = if !self.anchors.is_empty() && blocks {
            ConnectionType::BlockRelay
        } else if full {
            ConnectionType::OutboundFullRelay
        } else if blocks {
            ConnectionType::BlockRelay
        } else if self.extra.wants_full() {
            ConnectionType::OutboundFullRelay
        } else if self.extra.take_block_relay(clock) {
            ConnectionType::BlockRelay
        } else if self.dials.seeding.next_feeler < clock {
            self.dials.seeding.next_feeler = clock + random_wait(FEELER_INTERVAL);
            ConnectionType::Feeler
        } else {
            let net = self.lonely_network(clock)?;
            return Some((ConnectionType::OutboundFullRelay, Nets::NONE.with(net)));
        };
        Some((kind, anywhere))
    }

    /// One more peer of our own choice, if one is missing, from a group of networks no other is from.
    pub(super) fn search(&mut self) {
        if self.chosen() >= self.config.max_chosen() {
            return;
        }
        let clock = self.chain.now();
        let Some((kind, nets)) = self.missing_kind(clock) else { return };
        let (groups, hidden) = self.outbound_groups();
        let chosen = if kind == ConnectionType::BlockRelay { self.next_anchor(&groups) } else { None };
        let Some(chosen) = chosen.or_else(|| self.choose(kind, nets, &groups, clock)) else { return };
        if kind == ConnectionType::Feeler {
            tracing::debug!(target: "net", "Making feeler connection to {}", chosen.address);
        } else if nets != self.config.reachable {
            let address = chosen.address;
            tracing::debug!(
                target: "net",
                "Making network specific connection to {address} on {}.", address.net().name()
            );
        }
        // Without two connections elsewhere we may be offline ourselves.
        let elsewhere = self.config.max_connections.saturating_sub(1).min(2);
        let count_failure = groups.len() + hidden >= elsewhere;
        let v2 = self.config.v2_transport && chosen.services.has(ServiceFlags::P2P_V2);
        self.dial(&chosen.address.to_string(), kind, v2, count_failure);
    }

    /// Groups of the outbound peers, and how many are on networks without groups.
    fn outbound_groups(&self) -> (HashSet<Vec<u8>>, usize) {
        let mut groups = HashSet::new();
        let mut hidden = 0;
        for peer in self.peers.values() {
            let counts = matches!(
                peer.kind,
                ConnectionType::Manual | ConnectionType::OutboundFullRelay | ConnectionType::BlockRelay
            );
            match peer.target.net() {
                _ if !counts => {}
                Net::Ipv4 | Net::Ipv6 => {
                    groups.insert(self.chain.address_group(&peer.target));
                }
                _ => hidden += 1,
            }
        }
        (groups, hidden)
    }

    fn next_anchor(&mut self, groups: &HashSet<Vec<u8>>) -> Option<Gossip> {
        while let Some(anchor) = self.anchors.pop() {
            let fits = self.config.reachable.has(anchor.address.net())
                && anchor.services.has(self.wants_services(anchor.services))
                && !groups.contains(&self.chain.address_group(&anchor.address));
            if fits {
                tracing::debug!(target: "net", "Trying to make an anchor connection to {}", anchor.address);
                return Some(anchor);
            }
        }
        None
    }

    fn choose(
        &mut self,
        kind: ConnectionType,
        nets: Nets,
        groups: &HashSet<Vec<u8>>,
        clock: Duration,
    ) -> Option<Gossip> {
        let feeler = kind == ConnectionType::Feeler;
        let mut collision = self.chain.book_collision().filter(|_| feeler);
        for tries in 1..=MAX_TRIES {
            let candidate = collision.take().or_else(|| self.chain.book_choose(feeler, nets));
            let (entry, last_try) = candidate?;
            let address = entry.address;
            if self.is_own(&address) {
                return None;
            }
            let group = self.chain.address_group(&address);
            let useful = if feeler {
                entry.services.has(ServiceFlags::NETWORK) || entry.services.has(ServiceFlags::NETWORK_LIMITED)
            } else {
                entry.services.has(self.wants_services(entry.services)) && !groups.contains(&group)
            };
            let tired = clock.saturating_sub(last_try) < RESTED && tries < PICKY_TRIES;
            let bad_port = tries < GOOD_PORT_TRIES
                && matches!(address.net(), Net::Ipv4 | Net::Ipv6)
                && self.chain.is_bad_port(address.port());
            if useful && !tired && !bad_port && !self.is_unwelcome(&address, clock) && !self.is_added(&address) {
                return Some(entry);
            }
        }
        None
    }

    /// Banned, discouraged, or connected.
    pub(super) fn is_unwelcome(&self, address: &NetAddr, clock: Duration) -> bool {
        self.bans.is_unwelcome(address, clock.as_secs()) || self.is_connected_to(&address.to_string())
    }

    pub(super) fn is_own(&self, address: &NetAddr) -> bool {
        self.own_addresses().iter().any(|(own, _)| own == address)
            || self.listening.iter().any(|own| NetAddr::from(*own) == *address)
    }
}
