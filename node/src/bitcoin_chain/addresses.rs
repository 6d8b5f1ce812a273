//! Addresses of other nodes, by Core's address manager in the kernel.

use std::time::Duration;

use keyless_kernel::Args;
use keyless_kernel::addresses::{self as kernel, ChosenAddress};
use keyless_p2p::bitcoin::{
    AddressBook, AddressSource, Gossip, Net, NetAddr, Nets, decode_addresses, encode_addresses,
};

use super::{KernelChain, or_empty};

pub(super) fn one(address: &NetAddr) -> Vec<u8> {
    let services = bitcoin::p2p::ServiceFlags::NONE;
    encode_addresses(&[Gossip { time: 0, services, address: *address }], true)
}

fn read(payload: &[u8]) -> Vec<Gossip> {
    decode_addresses(payload, true).map(|(_, entries)| entries).unwrap_or_default()
}

fn chosen(found: Option<ChosenAddress>) -> Option<(Gossip, Duration)> {
    let found = found?;
    let last_try = Duration::from_secs(u64::try_from(found.last_try).unwrap_or(0));
    read(&found.address).first().map(|entry| (*entry, last_try))
}

impl AddressBook for KernelChain {
    fn book_size(&self, net: Option<Net>) -> usize {
        let size = or_empty(self.kernel.book_size(net.map_or(0, Net::bip155)));
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn book_learn(&self, entries: &[Gossip], from: AddressSource<'_>, penalty: Duration) -> bool {
        let penalty = i64::try_from(penalty.as_secs()).unwrap_or(i64::MAX);
        let list = encode_addresses(entries, true);
        or_empty(match from {
            AddressSource::Peer(peer) => {
                self.kernel.book_learn(&list, kernel::AddressSource::Peer(&one(&peer)), penalty)
            }
            AddressSource::Name(name) => self.kernel.book_learn(&list, kernel::AddressSource::Name(name), penalty),
        })
    }

    fn book_good(&self, address: &NetAddr) -> bool {
        or_empty(self.kernel.book_good(&one(address)))
    }

    fn book_attempt(&self, address: &NetAddr, count_failure: bool) {
        or_empty(self.kernel.book_attempt(&one(address), count_failure));
    }

    fn book_connected(&self, address: &NetAddr) {
        or_empty(self.kernel.book_connected(&one(address)));
    }

    fn book_services(&self, entry: &Gossip) {
        or_empty(self.kernel.book_set_services(&encode_addresses(&[*entry], true)));
    }

    fn book_choose(&self, only_new: bool, nets: Nets) -> Option<(Gossip, Duration)> {
        chosen(or_empty(self.kernel.book_choose(only_new, nets.bits())))
    }

    fn book_collision(&self) -> Option<(Gossip, Duration)> {
        chosen(or_empty(self.kernel.book_collision()))
    }

    fn book_sample(&self, most: u32, percent: u32) -> Vec<Gossip> {
        read(&or_empty(self.kernel.book_sample(most, percent)))
    }

    fn book_save(&self) {
        or_empty(self.kernel.book_save());
    }

    fn book_reachable(&self, nets: Nets) {
        self.kernel.set_reachable(nets.bits());
    }

    fn own_addresses(&self) -> Vec<(NetAddr, u32)> {
        let (list, scores) = or_empty(self.kernel.own_addresses());
        read(&list).into_iter().map(|entry| entry.address).zip(scores).collect()
    }

    fn address_group(&self, address: &NetAddr) -> Vec<u8> {
        or_empty(self.kernel.address_group(&one(address)))
    }

    fn mapped_as(&self, address: &NetAddr) -> Option<u32> {
        Some(or_empty(self.kernel.address_mapped_as(&one(address)))).filter(|number| *number != 0)
    }

    fn is_bad_port(&self, port: u16) -> bool {
        Args::is_bad_port(port)
    }

    fn fixed_seeds(&self) -> Vec<Gossip> {
        read(&or_empty(self.kernel.fixed_seeds()))
    }

    fn take_anchors(&self) -> Vec<Gossip> {
        read(&or_empty(self.kernel.anchors_take()))
    }

    fn keep_anchors(&self, anchors: &[Gossip]) {
        or_empty(self.kernel.anchors_keep(&encode_addresses(anchors, true)));
    }
}
