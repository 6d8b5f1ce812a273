//! `addr`, `addrv2`, `getaddr`: addresses of other nodes, taken slowly and passed on to few.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::seq::SliceRandom;

use super::handshake::misbehaving;
use super::service::random_wait;
use super::{Owner, Step, gone};
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message::{self, Gossip};
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// Core's `MAX_ADDR_TO_SEND`.
const MAX_ADDRESSES: usize = 1_000;
/// Percent of the book given to one `getaddr`.
const MAX_PERCENT: usize = 23;
/// Addresses a second taken from one peer.
const TOKENS_PER_SECOND: f64 = 0.1;
const AVG_BROADCAST_INTERVAL: Duration = Duration::from_secs(30);
const AVG_SELF_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Gossip older than this is not passed on.
const FRESH_SECS: u64 = 10 * 60;
/// Peers a fresh address is passed on to.
const RELAY_PEERS: usize = 2;

/// Reachable from anywhere, as far as the number tells.
pub(crate) fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_unspecified()
                || shared
                || benchmark
                || a == 0
                || a >= 224)
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            let documentation = first == 0x2001 && ip.segments()[1] == 0xdb8;
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || documentation
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80)
        }
    }
}

/// Core's name of the network an address belongs to.
pub(super) fn network_name(address: &SocketAddr, onion: bool) -> &'static str {
    if onion {
        "onion"
    } else if !is_routable(address.ip()) {
        "not_publicly_routable"
    } else if address.ip().to_canonical().is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    }
}

impl Owner {
    /// Core's `SetupAddressRelay`, and the one question that follows it on outbound connections.
    pub(super) fn start_address_relay(&mut self, peer: &mut Peer) {
        if peer.is_block_only() || peer.kind == ConnectionType::Feeler {
            return;
        }
        peer.addresses.enabled = true;
        if !peer.is_inbound() {
            peer.addresses.getaddr_sent = true;
            peer.addresses.tokens += MAX_ADDRESSES as f64;
            self.send(peer, "getaddr", Vec::new());
        }
    }

    pub(super) fn on_addresses(&mut self, peer: &mut Peer, payload: &[u8], v2: bool) -> Step {
        let (count, entries) = message::decode_addresses(payload, v2)?;
        if !peer.addresses.enabled {
            if peer.is_block_only() || peer.kind == ConnectionType::Feeler {
                tracing::debug!(
                    target: "net",
                    "ignoring {} message from {} peer={}",
                    if v2 { "addrv2" } else { "addr" }, peer.kind.name(), peer.id
                );
                return Ok(());
            }
            peer.addresses.enabled = true;
        }
        if count > MAX_ADDRESSES {
            let name = if v2 { "addrv2" } else { "addr" };
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
        let (mut processed, mut limited, mut added) = (0_u64, 0_u64, 0);
        let mut fresh = Vec::new();
        for entry in &entries {
            if peer.addresses.tokens < 1.0 && !peer.has(Permissions::ADDR) {
                limited += 1;
                continue;
            }
            peer.addresses.tokens = (peer.addresses.tokens - 1.0).max(0.0);
            processed += 1;
            let entry = with_sane_time(*entry, now);
            peer.addresses.known.insert(entry.address);
            let recent = u64::from(entry.time) + FRESH_SECS > now.as_secs();
            if !is_routable(entry.address.ip()) {
                continue;
            }
            if recent && !peer.addresses.getaddr_sent && count <= 10 {
                fresh.push(entry);
            }
            added += usize::from(self.addresses.learn(&entry, Duration::from_secs(2 * 60 * 60)));
        }
        peer.addresses.processed += processed;
        peer.addresses.rate_limited += limited;
        tracing::debug!(
            target: "net",
            "Received addr: {count} addresses ({processed} processed, {limited} rate-limited) from peer={}",
            peer.id
        );
        if added > 0 {
            let source = peer.address.ip();
            tracing::debug!(target: "addrman", "Added {added} addresses (of {count}) from {source}");
        }
        if count < MAX_ADDRESSES {
            peer.addresses.getaddr_sent = false;
        }
        self.pass_on(&fresh);
        if peer.kind == ConnectionType::AddrFetch && count > 1 {
            return Err(gone(format!("addrfetch connection completed, {}", peer.disconnecting())));
        }
        Ok(())
    }

    fn pass_on(&mut self, fresh: &[Gossip]) {
        for entry in fresh {
            let mut targets: Vec<_> =
                self.peers.values_mut().filter(|peer| peer.ready && peer.addresses.enabled).collect();
            targets.shuffle(&mut rand::thread_rng());
            for peer in targets.into_iter().take(RELAY_PEERS) {
                queue(peer, *entry);
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
        self.start_address_relay(peer);
        if peer.addresses.getaddr_received {
            tracing::debug!(target: "net", "Ignoring repeated \"getaddr\". peer={}", peer.id);
            return Ok(());
        }
        peer.addresses.getaddr_received = true;
        peer.addresses.to_send.clear();
        let now = self.chain.now();
        for entry in self.addresses.sample(MAX_ADDRESSES, MAX_PERCENT, now) {
            queue(peer, entry);
        }
        Ok(())
    }

    /// Sends what is queued, and now and then our own address.
    pub(super) fn gossip(&mut self, peer: &mut Peer, now: Duration) {
        if !peer.addresses.enabled {
            return;
        }
        if now > peer.addresses.next_self && !self.chain.is_initial_block_download() {
            peer.addresses.next_self = now + random_wait(AVG_SELF_INTERVAL);
            if let Some(own) = self.own_address() {
                let time = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
                let entry = Gossip { time, services: self.services(), address: own };
                tracing::debug!(
                    target: "net",
                    "Advertising address {own} to peer={}", peer.id
                );
                peer.addresses.known.remove(&own);
                queue(peer, entry);
            }
        }
        if now <= peer.addresses.next_send {
            return;
        }
        peer.addresses.next_send = now + random_wait(AVG_BROADCAST_INTERVAL);
        let entries = std::mem::take(&mut peer.addresses.to_send);
        if !entries.is_empty() {
            let v2 = peer.wants_addrv2;
            let name = if v2 { "addrv2" } else { "addr" };
            self.send(peer, name, message::encode_addresses(&entries, v2));
        }
    }

    /// What we tell others to reach us by.
    pub(super) fn own_address(&self) -> Option<SocketAddr> {
        if self.listening.is_empty() {
            return None;
        }
        self.config.external.first().copied()
    }
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
    if !peer.addresses.known.insert(entry.address) {
        return;
    }
    if peer.addresses.to_send.len() < MAX_ADDRESSES {
        peer.addresses.to_send.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::is_routable;

    #[test]
    fn private_and_reserved_ranges_are_not_routable() {
        for ip in ["127.0.0.1", "10.1.1.1", "192.168.0.1", "0.0.0.0", "::1", "fe80::1", "fd00::1"] {
            assert!(!is_routable(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.2.3.4", "2a00:1450::1", "::ffff:8.8.8.8"] {
            assert!(is_routable(ip.parse().unwrap()), "{ip}");
        }
    }
}
