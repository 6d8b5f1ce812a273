//! One run from a round on: what arrives in place of each message, in any order, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::Machine;
use super::stage::{Packet, Place, Stage, packets};
use crate::ids::PartyIndex;
use crate::{DkgError, PublicKeys};

/// Who refused something, why, and whom it blames.
pub type Refused = (PartyIndex, DkgError, Option<PartyIndex>);

/// A member of a run.
struct Seat<M> {
    machine: M,
    /// It has received what the staged member received, and nothing else.
    as_staged: bool,
    /// Messages of its round, and of later ones, that it has taken.
    has: BTreeSet<Place>,
    early: Vec<Packet>,
}

pub struct Net<'a, M> {
    stage: &'a Stage<M>,
    seats: BTreeMap<PartyIndex, Seat<M>>,
    queue: Vec<Packet>,
    pub refused: Vec<Refused>,
    /// Nobody goes on as staged.
    computes_all: bool,
}

impl<'a, M: Machine> Net<'a, M> {
    /// A run that begins with a round, at the latest with that of the echo.
    pub fn begin(stage: &'a Stage<M>, round: u8, computes_all: bool) -> Self {
        let round = round.min(M::ECHO);
        let seat = |party: PartyIndex| {
            let machine = stage.entry(round, party);
            Seat { machine, as_staged: true, has: BTreeSet::new(), early: Vec::new() }
        };
        let seats = stage.all.iter().map(|party| (*party, seat(*party))).collect();
        Self { stage, seats, queue: stage.sent(round, None), refused: Vec::new(), computes_all }
    }

    /// Delivers everything in a random order. The hook says what arrives in place of a message; once nothing is under
    /// way, what it kept back.
    pub fn run(&mut self, random: &mut StdRng, mut hook: impl FnMut(Option<Packet>) -> Vec<Packet>) {
        loop {
            let packet = match self.queue.len() {
                0 => None,
                count => Some(self.queue.swap_remove(random.gen_range(0..count))),
            };
            let last = packet.is_none();
            let arriving = hook(packet);
            if last && arriving.is_empty() {
                return;
            }
            arriving.into_iter().for_each(|packet| self.deliver(packet));
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let stage = self.stage;
        let seat = self.seats.get_mut(&packet.to).unwrap();
        let round = seat.machine.round();
        let honest = packet.body.len() > 2 && stage.said.get(&packet.place()) == Some(&packet.body);
        let of_round = |has: &BTreeSet<Place>| has.iter().filter(|(at, ..)| *at == round).count();
        let dealing = seat.as_staged && round < M::ECHO && !self.computes_all;
        if dealing && honest && packet.body[0] == round && !seat.has.contains(&packet.place()) {
            seat.has.insert(packet.place());
            if of_round(&seat.has) == stage.awaited(round, packet.to) {
                let to = packet.to;
                seat.machine = stage.entry(round + 1, to);
                self.queue.extend(stage.sent(round + 1, Some(to)));
                // What had come too early comes again.
                std::mem::take(&mut seat.early).into_iter().for_each(|packet| self.deliver(packet));
                return;
            }
        }
        match seat.machine.feed(packet.from, &packet.body) {
            Ok(out) => {
                seat.as_staged &= honest;
                if dealing && packet.body[0] > round {
                    seat.early.push(packet.clone());
                }
                self.queue.extend(packets(&stage.all, packet.to, out));
            }
            Err(error) => {
                let blamed = seat.machine.blames(&error);
                self.refused.push((packet.to, error, blamed));
            }
        }
    }

    pub fn machines(&self) -> impl Iterator<Item = (PartyIndex, &M)> {
        self.seats.iter().map(|(party, seat)| (*party, &seat.machine))
    }

    /// What must hold however one member behaved: nobody else is blamed, those who finish have one result, and whoever
    /// signed can finish with the certificate of whoever has it. Gives how many of the others finished.
    pub fn agreed(&self, liar: PartyIndex, what: &impl Debug) -> usize {
        for (at, error, blamed) in self.refused.iter().filter(|(at, ..)| *at != liar) {
            assert!(
                blamed.is_none_or(|blamed| blamed == liar),
                "{what:?}: {at} blames {blamed:?} for {liar}: {error:?}"
            );
        }
        let honest = || self.machines().filter(|(party, _)| *party != liar);
        let finished: Vec<&Arc<PublicKeys>> = honest().filter_map(|(_, machine)| machine.keys()).collect();
        let made: BTreeSet<[u8; 32]> = finished.iter().map(|keys| keys.statement()).collect();
        assert!(made.len() <= 1, "{what:?}: two results");
        if let Some(keys) = finished.first() {
            keys.verify().unwrap();
            for (at, mine) in honest().filter_map(|(at, machine)| Some((at, machine.signed()?))) {
                assert_eq!(mine.statement(), keys.statement(), "{what:?}: {at} signed for another share");
                let completed = PublicKeys { certificate: keys.certificate.clone(), ..(**mine).clone() };
                completed.verify().unwrap();
            }
        }
        finished.len()
    }
}
