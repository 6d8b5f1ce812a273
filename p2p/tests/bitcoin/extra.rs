//! Peers of the node's own choice beyond the usual eight and two.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;
use keyless_p2p::bitcoin::{AddressBook, AddressSource, Bind, ConnectionType, Gossip, Outbound, PeerId, PeerInfo};

use super::twin::wall;
use super::{Node, until};

/// Longer than the node waits between two looks at its peers.
const CHECK: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// A node that looks for peers, and one that listens on as many addresses as are needed, each a group of its own.
struct Search {
    seeker: Node,
    others: Node,
    clock: Duration,
}

impl Search {
    /// Eight full peers and two for blocks only are found.
    fn complete(spare: usize) -> Self {
        let others = Node::with(|config| {
            let address = |last: usize| format!("127.0.0.{last}:0").parse().unwrap();
            config.binds = (2..12 + spare).map(|last| Bind::plain(address(last))).collect();
        });
        let seeker = Node::with(|config| config.outbound = Outbound::Automatic);
        let tip = others.chain.mine(1);
        let search = Self { seeker, others, clock: wall() };
        search.learn(&search.addresses()[..10]);
        until("all usual peers are found", || search.full() == 8 && search.block_relay() == 2);
        until("their block too", || search.seeker.has(tip));
        search
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.others.handle.listening().to_vec()
    }

    fn learn(&self, addresses: &[SocketAddr]) {
        let services = ServiceFlags::NETWORK | ServiceFlags::WITNESS;
        let entry = |address: &SocketAddr| Gossip { time: 0, services, address: (*address).into() };
        let entries: Vec<_> = addresses.iter().map(entry).collect();
        self.seeker.chain.book_learn(&entries, AddressSource::Name("test"), Duration::ZERO);
    }

    fn count(&self, kind: ConnectionType) -> usize {
        self.seeker.handle.peers().iter().filter(|peer| peer.connection_type == kind && peer.version > 0).count()
    }

    fn full(&self) -> usize {
        self.count(ConnectionType::OutboundFullRelay)
    }

    fn block_relay(&self) -> usize {
        self.count(ConnectionType::BlockRelay)
    }

    /// Time passes, and what the node then asks its peers is answered.
    fn pass(&mut self, time: Duration) {
        self.clock += time;
        self.seeker.chain.set_time(self.clock);
        // What was asked in the first round stands before the second round's ping.
        self.round();
        self.round();
    }

    fn round(&self) {
        let pongs = || -> HashMap<PeerId, u64> {
            let heard = |peer: &PeerInfo| peer.bytes_recv_per_msg.get("pong").copied().unwrap_or(0);
            self.seeker.handle.peers().iter().map(|peer| (peer.id, heard(peer))).collect()
        };
        let before = pongs();
        self.seeker.handle.ping_all();
        until("all answered", || {
            let now = pongs();
            before.iter().all(|(id, heard)| now.get(id).is_none_or(|later| later > heard))
        });
    }

    /// The node looks at its peers now.
    fn look(&self) {
        self.seeker.handle.advance_schedule(CHECK);
    }
}

#[test]
fn a_port_of_other_services_is_tried_when_no_other_is_left() {
    let others = Node::with(|config| {
        let address = |last: usize| format!("127.0.0.{last}:0").parse().unwrap();
        config.binds = (2..8).map(|last| Bind::plain(address(last))).collect();
    });
    let seeker = Node::with(|config| config.outbound = Outbound::Automatic);
    let search = Search { seeker, others, clock: wall() };
    let addresses = search.addresses();
    search.seeker.chain.set_bad_ports(addresses[..5].iter().map(SocketAddr::port));
    search.learn(&addresses);
    until("all are found", || search.full() == 6);
    let first = search.seeker.handle.peers().into_iter().min_by_key(|peer| peer.id).unwrap();
    assert_eq!(first.addr, addresses[5].to_string());
}

#[test]
fn a_stale_tip_makes_the_node_try_one_more_full_peer_and_let_one_go_again() {
    let mut search = Search::complete(1);
    search.pass(16 * MINUTE);
    search.look();
    search.pass(16 * MINUTE);
    search.look();
    // The answer comes after the look was asked for.
    search.seeker.handle.info();
    search.learn(&search.addresses()[10..]);
    until("one more is found", || search.full() == 9);
    assert_eq!(search.block_relay(), 2);
    search.pass(MINUTE);
    search.look();
    until("one went", || search.full() == 8);
}

#[test]
fn a_fresh_tip_wants_no_extra_full_peer_and_blocks_only_peers_come_and_go() {
    let mut search = Search::complete(4);
    search.look();
    search.learn(&search.addresses()[10..]);
    for _ in 0..4 {
        search.others.chain.mine(1);
        search.pass(15 * MINUTE);
    }
    until("one more for blocks only", || search.block_relay() == 3);
    // Another may have come by then: they come at random, and each goes at the next look.
    until("one went", || {
        search.pass(MINUTE);
        search.look();
        search.seeker.handle.info();
        search.block_relay() == 2
    });
    assert_eq!(search.full(), 8);
}
