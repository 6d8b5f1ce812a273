//! Known addresses of members, bounded for each.
//!
//! Addresses only say where to knock: who answers is decided by the Noise handshake. A source
//! never pushes out addresses of a better one, so that a member who lies in Kademlia cannot make
//! others unreachable.

use std::collections::{HashMap, VecDeque};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::config::is_dialable;
use super::limits::{MAX_ADDRESSES_PER_PEER, MAX_STRANGER_ADDRESSES};

/// Where an address was learned, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Given by the operator; never pushed out.
    Static,
    /// The member named it itself over its authenticated connection.
    Member,
    Mdns,
    Dht,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: HashMap<PeerId, Vec<(Source, Multiaddr)>>,
    /// mDNS tells of an address once; a peer that becomes a member later is looked up here.
    strangers: VecDeque<(PeerId, Multiaddr)>,
}

impl Book {
    /// True if the address is new.
    pub(crate) fn add(&mut self, peer: PeerId, source: Source, address: Multiaddr) -> bool {
        let address = without_peer(address);
        if !is_dialable(&address) {
            return false;
        }
        let known = self.entries.entry(peer).or_default();
        if let Some(entry) = known.iter_mut().find(|(_, known)| *known == address) {
            entry.0 = entry.0.min(source);
            return false;
        }
        if known.len() >= MAX_ADDRESSES_PER_PEER {
            // The oldest of the worst source goes.
            let worst = known.iter().map(|(source, _)| *source).max().unwrap_or(source);
            if worst < source || worst == Source::Static {
                return false;
            }
            if let Some(index) = known.iter().position(|(source, _)| *source == worst) {
                known.remove(index);
            }
        }
        known.push((source, address));
        true
    }

    pub(crate) fn note_stranger(&mut self, peer: PeerId, address: Multiaddr) {
        if self.strangers.len() >= MAX_STRANGER_ADDRESSES {
            self.strangers.pop_front();
        }
        self.strangers.push_back((peer, address));
    }

    pub(crate) fn take_stranger(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let (taken, kept) =
            std::mem::take(&mut self.strangers).into_iter().partition::<VecDeque<_>, _>(|(known, _)| known == peer);
        self.strangers = kept;
        taken.into_iter().map(|(_, address)| address).collect()
    }

    pub(crate) fn expire(&mut self, peer: &PeerId, source: Source, address: Multiaddr) {
        let address = without_peer(address);
        if let Some(known) = self.entries.get_mut(peer) {
            known.retain(|entry| *entry != (source, address.clone()));
        }
        self.strangers.retain(|entry| without_peer(entry.1.clone()) != address || entry.0 != *peer);
    }

    /// Replaces the operator's addresses.
    pub(crate) fn set_static(&mut self, peer: PeerId, address: Option<Multiaddr>) {
        self.entries.entry(peer).or_default().retain(|(source, _)| *source != Source::Static);
        if let Some(address) = address {
            self.add(peer, Source::Static, address);
        }
    }

    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.entries.remove(peer);
    }

    /// Best source first; the newest first within one.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut known: Vec<_> = self.entries.get(peer).into_iter().flatten().rev().collect();
        known.sort_by_key(|(source, _)| *source);
        known.into_iter().map(|(_, address)| address.clone()).collect()
    }
}

fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn worse_sources_never_push_out_better_ones() {
        let peer = PeerId::random();
        let mut book = Book::default();
        book.set_static(peer, Some(address(1)));
        for port in 2..=MAX_ADDRESSES_PER_PEER {
            assert!(book.add(peer, Source::Member, address(port)));
        }
        assert!(!book.add(peer, Source::Dht, address(900)));
        assert!(book.add(peer, Source::Member, address(901)));
        let known = book.addresses(&peer);
        assert_eq!(known.len(), MAX_ADDRESSES_PER_PEER);
        assert_eq!(known[0], address(1));
        assert_eq!(known[1], address(901));
        assert!(!known.contains(&address(2)), "the oldest of the same source went");
    }

    #[test]
    fn strangers_are_remembered_within_a_limit_until_they_are_listed_or_expire() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut book = Book::default();
        book.note_stranger(peer, address(1).with(Protocol::P2p(peer)));
        book.note_stranger(peer, address(2));
        book.note_stranger(other, address(3));
        book.expire(&peer, Source::Mdns, address(1));
        assert_eq!(book.take_stranger(&peer), vec![address(2)]);
        assert!(book.take_stranger(&peer).is_empty());
        for port in 1..=MAX_STRANGER_ADDRESSES {
            book.note_stranger(peer, address(port));
        }
        assert!(book.take_stranger(&other).is_empty(), "the oldest went");
    }

    #[test]
    fn addresses_are_kept_once_without_their_peer_id() {
        let peer = PeerId::random();
        let mut book = Book::default();
        let long = address(5).with(Protocol::P2p(peer));
        assert!(book.add(peer, Source::Mdns, long.clone()));
        assert!(!book.add(peer, Source::Dht, address(5)));
        assert!(!book.add(peer, Source::Dht, "/ip4/10.0.0.1/udp/5/quic-v1".parse().unwrap()));
        assert_eq!(book.addresses(&peer), vec![address(5)]);
        book.expire(&peer, Source::Mdns, long);
        assert!(book.addresses(&peer).is_empty());
    }
}
