//! Addresses of other nodes, as the node keeps them (Core's address manager and `peers.dat`).

use std::time::Duration;

use crate::bitcoin::net_addr::{Gossip, Net, NetAddr, Nets};

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource<'a> {
    Peer(NetAddr),
    /// A DNS seed, or the fixed ones.
    Name(&'a str),
}

/// Known addresses, which of them were reached, and which belong together.
pub trait AddressBook {
    /// Of one network, or of all.
    fn book_size(&self, net: Option<Net>) -> usize;
    /// Takes addresses as `penalty` older than they claim. False if none was new.
    fn book_learn(&self, entries: &[Gossip], from: AddressSource<'_>, penalty: Duration) -> bool;
    /// It answered with a handshake. True if it counts as tried from now on.
    fn book_good(&self, address: &NetAddr) -> bool;
    fn book_attempt(&self, address: &NetAddr, count_failure: bool);
    /// A connection to it ended.
    fn book_connected(&self, address: &NetAddr);
    fn book_services(&self, entry: &Gossip);
    /// One to connect to, and when it was tried last.
    fn book_choose(&self, only_new: bool, nets: Nets) -> Option<(Gossip, Duration)>;
    /// One that was reached, and whose place another wants.
    fn book_collision(&self) -> Option<(Gossip, Duration)>;
    /// A share of the good ones, for `getaddr`.
    fn book_sample(&self, most: u32, percent: u32) -> Vec<Gossip>;
    fn book_save(&self);
    /// These networks can be reached now.
    fn book_reachable(&self, nets: Nets);
    /// Where we may be reached, found out on the way: addresses of this machine, and what a router gave us. With Core's scores.
    fn own_addresses(&self) -> Vec<(NetAddr, u32)>;
    /// Addresses with equal groups count as one operator's.
    fn address_group(&self, address: &NetAddr) -> Vec<u8>;
    /// The autonomous system, where a map is loaded.
    fn mapped_as(&self, address: &NetAddr) -> Option<u32>;
    /// Hardly any node listens there; asking others to connect to it does harm.
    fn is_bad_port(&self, port: u16) -> bool;
    fn fixed_seeds(&self) -> Vec<Gossip>;
    /// Peers for blocks only from before the last stop; the record is removed.
    fn take_anchors(&self) -> Vec<Gossip>;
    fn keep_anchors(&self, anchors: &[Gossip]);
}
