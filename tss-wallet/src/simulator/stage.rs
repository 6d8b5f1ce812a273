//! Honest runs in lockstep: the machines as each round found them, and every message.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;

use super::Machine;
use crate::ids::{Outgoing, PartyIndex, Recipient};
use crate::{DkgError, KeyShare};

/// Round, kind, sender, receiver: at most one message each.
pub type Place = (u8, u8, PartyIndex, PartyIndex);

/// One message under way.
#[derive(Clone)]
pub struct Packet {
    pub from: PartyIndex,
    pub to: PartyIndex,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn place(&self) -> Place {
        (self.body[0], self.body[1], self.from, self.to)
    }
}

/// A message for each of those that it is for.
pub fn packets(all: &[PartyIndex], from: PartyIndex, out: Vec<Outgoing>) -> Vec<Packet> {
    let mut packets = Vec::new();
    for message in out {
        let receivers = all.iter().copied().filter(|to| match message.to {
            Recipient::All => *to != from,
            Recipient::One(party) => *to == party,
        });
        packets.extend(receivers.map(|to| Packet { from, to, body: message.body.clone() }));
    }
    packets
}

/// An honest run, kept.
pub struct Stage<M> {
    pub all: Vec<PartyIndex>,
    /// Rounds from 1 to that of the echo, as they begin: nothing has arrived.
    entries: Vec<BTreeMap<PartyIndex, M>>,
    pub said: BTreeMap<Place, Vec<u8>>,
    /// Of all that hold one.
    pub shares: Vec<Arc<KeyShare>>,
}

impl<M: Machine> Stage<M> {
    /// Runs machines that have just started.
    pub fn run(started: Vec<(PartyIndex, M, Vec<Outgoing>)>) -> Result<Self, DkgError> {
        let all: Vec<PartyIndex> = started.iter().map(|(party, ..)| *party).collect();
        let mut machines = BTreeMap::new();
        let mut sent = Vec::new();
        for (party, machine, out) in started {
            sent.extend(packets(&all, party, out));
            machines.insert(party, machine);
        }
        let (mut entries, mut said) = (Vec::new(), BTreeMap::new());
        for round in 1..=M::LAST {
            if round <= M::ECHO {
                let copies = machines.iter().map(|(party, machine)| (*party, copied(machine)));
                entries.push(copies.collect());
            }
            let mut next = Vec::new();
            for packet in sent {
                said.insert(packet.place(), packet.body.clone());
                let machine: &mut M = machines.get_mut(&packet.to).unwrap();
                next.extend(packets(&all, packet.to, machine.feed(packet.from, &packet.body)?));
            }
            sent = next;
        }
        assert!(machines.values().all(|machine| machine.keys().is_some()), "an honest run ends");
        let shares = machines.values().filter_map(|machine| machine.held().cloned()).collect();
        Ok(Self { all, entries, said, shares })
    }

    /// The machine of a member as a round finds it.
    pub fn entry(&self, round: u8, party: PartyIndex) -> M {
        copied(&self.entries[usize::from(round) - 1][&party])
    }

    /// What is sent as a round begins, by one member or by all.
    pub fn sent(&self, round: u8, by: Option<PartyIndex>) -> Vec<Packet> {
        let of = self.said.iter().filter(|((at, _, from, _), _)| *at == round && by.is_none_or(|by| by == *from));
        of.map(|((_, _, from, to), body)| Packet { from: *from, to: *to, body: body.clone() }).collect()
    }

    /// How many messages a member waits for in a round.
    pub fn awaited(&self, round: u8, to: PartyIndex) -> usize {
        self.said.keys().filter(|(at, _, _, receiver)| *at == round && *receiver == to).count()
    }
}

fn copied<M: Machine>(machine: &M) -> M {
    machine.copy(rand::thread_rng().r#gen()).unwrap()
}
