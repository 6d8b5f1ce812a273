//! `addr`, `addrv2`, `getaddr`: addresses of other nodes, taken slowly and passed on to few.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;
use rand::Rng;
use rand::seq::SliceRandom;

use super::handshake::misbehaving;
use super::report::LOCAL_MANUAL;
use super::service::random_wait;
use super::{Owner, Step, gone};
use crate::bitcoin::chain::AddressSource;
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message;
use crate::bitcoin::net_addr::{Gossip, Net, NetAddr, is_routable};
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// Core's `MAX_ADDR_TO_SEND`.
const MAX_ADDRESSES: usize = 1_000;
/// Percent of the book given to one `getaddr`.
const MAX_PERCENT: u32 = 23;
/// Addresses a second taken from one peer.
const TOKENS_PER_SECOND: f64 = 0.1;
const AVG_BROADCAST_INTERVAL: Duration = Duration::from_secs(30);
const AVG_SELF_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Gossip older than this is not passed on.
const FRESH_SECS: u64 = 10 * 60;
/// What peers say is this much older for us.
const PENALTY: Duration = Duration::from_secs(2 * 60 * 60);
/// For so long a fresh address goes to the same peers.
const ROTATION_SECS: u64 = 24 * 60 * 60;
/// Answers to `getaddr` are kept for at least this, and up to six hours more.
const SAMPLE_LIFE: Duration = Duration::from_secs(21 * 60 * 60);
const SAMPLE_SPREAD: Duration = Duration::from_secs(6 * 60 * 60);
/// A message of more addresses is an answer, not news.
const MAX_NEWS: usize = 10;

/// Answers to `getaddr`, one for each way into the node: asking again and again, or from many places, shows no more of
/// the book.
#[derive(Debug, Default)]
pub(super) struct Samples(HashMap<Entrance, (Vec<Gossip>, Duration)>);

/// The address a peer came in by, and its network.
type Entrance = (Option<NetAddr>, &'static str);

/// Which peers hear of a fresh address; no peer can know.
#[derive(Debug, Default)]
pub(super) struct RelayKeys(RandomState);

impl RelayKeys {
    fn hash(&self, of: impl std::hash::Hash) -> u64 {
        self.0.hash_one(of)
    }
}

/// Core's name of the network an address belongs to.
pub(super) fn network_name(peer: &Peer) -> &'static str {
    if peer.onion {
        "onion"
    } else if !peer.target.is_routable() {
        "not_publicly_routable"
    } else {
        peer.target.net().name()
    }
}

/// Core's `MayHaveUsefulAddressDB`.
fn keeps_addresses(services: ServiceFlags) -> bool {
    services.has(ServiceFlags::NETWORK) || services.has(ServiceFlags::NETWORK_LIMITED)
}

impl Owner {
    /// Core's `SetupAddressRelay`. False if there is none with this peer.
    fn relays_addresses(peer: &mut Peer) -> bool {
        let relays = !peer.is_block_only() && peer.kind != ConnectionType::Feeler;
        peer.addresses.enabled |= relays;
        relays
    }

    /// And the one question that follows it on outbound connections.
    pub(super) fn start_address_relay(&mut self, peer: &mut Peer) {
        if Self::relays_addresses(peer) {
            peer.addresses.getaddr_sent = true;
            peer.addresses.tokens += MAX_ADDRESSES as f64;
            self.send(peer, "getaddr", Vec::new());
        }
    }

    pub(super) fn on_addresses(&mut self, peer: &mut Peer, payload: &[u8], v2: bool) -> Step {
        let (count, mut entries) = message::decode_addresses(payload, v2)?;
        let name = if v2 { "addrv2" } else { "addr" };
        if !Self::relays_addresses(peer) {
            tracing::debug!(
                target: "net",
                "ignoring {name} message from {} peer={}", peer.kind.name(), peer.id
            );
            return Ok(());
        }
        if count > MAX_ADDRESSES {
            misbehaving(peer, &format!("{name} message size = {count}"));
            return Ok(());
        }
        let now = self.chain.now();
        let book = &mut peer.addresses;
        if book.tokens < MAX_ADDRESSES as f64 {
            let passed = now.saturating_sub(book.tokens_at).as_secs_f64();
            book.tokens = (book.tokens + passed * TOKENS_PER_SECOND).min(MAX_ADDRESSES as f64);
        }
        book.tokens_at = now;
        entries.shuffle(&mut rand::thread_rng());
        let (mut processed, mut limited) = (0_u64, 0_u64);
        let (mut fresh, mut kept) = (Vec::new(), Vec::new());
        for entry in &entries {
            if peer.addresses.tokens >= 1.0 {
                peer.addresses.tokens -= 1.0;
            } else if !peer.has(Permissions::ADDR) {
                limited += 1;
                continue;
            }
            if !keeps_addresses(entry.services) {
                continue;
            }
            let entry = with_sane_time(*entry, now);
            peer.addresses.known.insert(entry.address);
            if self.bans.is_unwelcome(&entry.address, now.as_secs()) {
                continue;
            }
            processed += 1;
            let recent = u64::from(entry.time) + FRESH_SECS > now.as_secs();
            if recent && !peer.addresses.getaddr_sent && count <= MAX_NEWS && entry.address.is_routable() {
                fresh.push(entry);
            }
            if self.config.reachable.has(entry.address.net()) {
                kept.push(entry);
            }
        }
        peer.addresses.processed += processed;
        peer.addresses.rate_limited += limited;
        tracing::debug!(
            target: "net",
            "Received addr: {count} addresses ({processed} processed, {limited} rate-limited) from peer={}",
            peer.id
        );
        for entry in fresh {
            self.relay_address(peer, entry);
        }
        if !kept.is_empty() {
            self.chain.book_learn(&kept, AddressSource::Peer(peer.target), PENALTY);
        }
        if count < MAX_ADDRESSES {
            peer.addresses.getaddr_sent = false;
        }
        if peer.kind == ConnectionType::AddrFetch && count > 1 {
            return Err(gone(format!("addrfetch connection completed, {}", peer.disconnecting())));
        }
        Ok(())
    }

    /// Passes a fresh address on to two peers (one or two, if we cannot reach it), the same ones for a day.
    fn relay_address(&mut self, from: &Peer, entry: Gossip) {
        let key = self.relay_keys.hash(entry.address);
        let day = self.chain.now().as_secs().wrapping_add(key) / ROTATION_SECS;
        let reachable = self.config.reachable.has(entry.address.net());
        let count = if reachable || self.relay_keys.hash((entry.address, day)) & 1 == 1 { 2 } else { 1 };
        let mut ranked: Vec<(u64, u64)> = self
            .peers
            .values()
            .filter(|peer| peer.id != from.id && peer.addresses.enabled && takes(peer, &entry.address))
            .map(|peer| (self.relay_keys.hash((entry.address, day, peer.id)), peer.id))
            .collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in ranked.into_iter().take(count) {
            if let Some(peer) = self.peers.get_mut(&id) {
                queue(peer, entry);
            }
        }
    }

    pub(super) fn on_getaddr(&mut self, peer: &mut Peer) -> Step {
        if !peer.is_inbound() {
            tracing::debug!(
                target: "net",
                "Ignoring \"getaddr\" from {} connection. peer={}", peer.kind.name(), peer.id
            );
            return Ok(());
        }
        Self::relays_addresses(peer);
        if peer.addresses.getaddr_received {
            tracing::debug!(target: "net", "Ignoring repeated \"getaddr\". peer={}", peer.id);
            return Ok(());
        }
        peer.addresses.getaddr_received = true;
        peer.addresses.to_send.clear();
        for entry in self.sample(peer) {
            queue(peer, entry);
        }
        Ok(())
    }

    /// What this peer may know of the book.
    fn sample(&mut self, peer: &Peer) -> Vec<Gossip> {
        let now = self.chain.now();
        let most = u32::try_from(MAX_ADDRESSES).unwrap_or(u32::MAX);
        let draw = |owner: &Self| {
            let mut drawn = owner.chain.book_sample(most, MAX_PERCENT);
            drawn.retain(|entry| !owner.bans.is_unwelcome(&entry.address, now.as_secs()));
            drawn
        };
        if peer.has(Permissions::ADDR) {
            return draw(self);
        }
        let key = (peer.bound, network_name(peer));
        match self.samples.0.get(&key) {
            Some((kept, until)) if *until >= now => kept.clone(),
            _ => {
                let drawn = draw(self);
                let spread = rand::thread_rng().gen_range(Duration::ZERO..SAMPLE_SPREAD);
                self.samples.0.insert(key, (drawn.clone(), now + SAMPLE_LIFE + spread));
                drawn
            }
        }
    }

    /// Sends what is queued, and now and then our own address.
    pub(super) fn gossip(&mut self, peer: &mut Peer, now: Duration) {
        if !peer.addresses.enabled {
            return;
        }
        let listens = !self.listening.is_empty();
        if listens && now > peer.addresses.next_self && !self.chain.is_initial_block_download() {
            self.announce_self(peer, now);
            peer.addresses.next_self = now + random_wait(AVG_SELF_INTERVAL);
        }
        if now <= peer.addresses.next_send {
            return;
        }
        peer.addresses.next_send = now + random_wait(AVG_BROADCAST_INTERVAL);
        let mut entries = std::mem::take(&mut peer.addresses.to_send);
        entries.retain(|entry| peer.addresses.known.insert(entry.address));
        self.send_addresses(peer, &entries);
    }

    fn send_addresses(&mut self, peer: &mut Peer, entries: &[Gossip]) {
        if !entries.is_empty() {
            let v2 = peer.wants_addrv2;
            let name = if v2 { "addrv2" } else { "addr" };
            self.send(peer, name, message::encode_addresses(entries, v2));
        }
    }

    fn announce_self(&mut self, peer: &mut Peer, now: Duration) {
        let first = peer.addresses.next_self.is_zero();
        if !first {
            peer.addresses.known.clear();
        }
        let Some(address) = self.address_for(peer) else { return };
        let time = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let own = Gossip { time, services: self.services_for(peer), address };
        tracing::debug!(target: "net", "Advertising address {address} to peer={}", peer.id);
        if !takes(peer, &address) {
            return;
        }
        // The first time in a message of its own: a limit on tokens would lose it among others.
        if first {
            self.send_addresses(peer, &[own]);
        } else {
            queue(peer, own);
        }
    }

    /// Core's `mapLocalHost`: where we may be reached, by what we were told and by what was found out.
    pub(super) fn own_addresses(&self) -> Vec<(NetAddr, u32)> {
        let told = self.config.external.iter().map(|address| (*address, LOCAL_MANUAL));
        let found = self.chain.own_addresses().into_iter().filter(|(own, _)| !self.config.external.contains(own));
        told.chain(found).collect()
    }

    /// Core's `GetLocalAddrForPeer`: what we tell this peer to reach us by.
    fn address_for(&self, peer: &Peer) -> Option<NetAddr> {
        let theirs = if peer.onion { Net::Onion } else { peer.target.net() };
        // Not to tie an address of a network that hides us to one that does not.
        let hides = |net: Net| matches!(net, Net::Onion | Net::I2p | Net::Cjdns);
        let tellable = |own: &NetAddr| own.net() == theirs || !(hides(own.net()) || hides(theirs));
        let own = self.own_addresses().into_iter().filter(|(own, _)| tellable(own));
        let known = own.min_by_key(|(own, score)| (own.net() != theirs, Reverse(*score))).map(|(own, _)| own);
        let listening_port = self.listening.first().map(SocketAddr::port)?;
        // What the peer sees us as may be right: of an outbound connection without the port, which is a random one.
        let seen = peer.address_of_us.filter(|seen| {
            self.config.discover
                && peer.target.is_routable()
                && is_routable(seen.ip())
                && self.config.reachable.has(NetAddr::from(*seen).net())
        });
        let guess = seen.map(|seen| {
            let port = if peer.is_inbound() { seen.port() } else { known.map_or(listening_port, |own| own.port()) };
            NetAddr::from(SocketAddr::new(seen.ip(), port))
        });
        let known = known.filter(NetAddr::is_routable);
        match (known, guess) {
            (Some(known), Some(guess)) => Some(if rand::random() { guess } else { known }),
            (known, guess) => known.or(guess),
        }
    }
}

fn takes(peer: &Peer, address: &NetAddr) -> bool {
    peer.wants_addrv2 || address.fits_v1()
}

fn with_sane_time(entry: Gossip, now: Duration) -> Gossip {
    let now = now.as_secs();
    let time = u64::from(entry.time);
    if time <= 100_000_000 || time > now + FRESH_SECS {
        let guess = now.saturating_sub(5 * 24 * 60 * 60);
        return Gossip { time: u32::try_from(guess).unwrap_or(u32::MAX), ..entry };
    }
    entry
}

fn queue(peer: &mut Peer, entry: Gossip) {
    if peer.addresses.known.contains(&entry.address) || !takes(peer, &entry.address) {
        return;
    }
    let waiting = &mut peer.addresses.to_send;
    if waiting.len() < MAX_ADDRESSES {
        waiting.push(entry);
    } else if let Some(place) = waiting.get_mut(rand::thread_rng().gen_range(0..MAX_ADDRESSES)) {
        *place = entry;
    }
}
