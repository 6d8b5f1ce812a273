//! What one member can do wrong in a round.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::stage::{Packet, Place};
use crate::ids::PartyIndex;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing arrives from this round on.
    Absent,
    /// Nothing arrives of this round, or nothing at one receiver.
    Withheld,
    WithheldFromOne,
    /// After everything else.
    Late,
    Twice,
    /// The message of an honest run of another session, or of this one for another receiver.
    Replayed,
    /// One receiver sees what the member would have said had it drawn otherwise; or all see that.
    TwoFaced,
    Lie,
    /// One bit is another one.
    Flipped,
    Garbage,
}

pub const FAULTS: [Fault; 10] = [
    Fault::Absent,
    Fault::Withheld,
    Fault::WithheldFromOne,
    Fault::Late,
    Fault::Twice,
    Fault::Replayed,
    Fault::TwoFaced,
    Fault::Lie,
    Fault::Flipped,
    Fault::Garbage,
];

impl Fault {
    /// Nothing wrong is said, too little or too late.
    pub fn is_silence(self) -> bool {
        matches!(self, Self::Absent | Self::Withheld | Self::WithheldFromOne | Self::Late | Self::Twice)
    }
}

/// What was said in honest runs.
pub struct Heard<'a> {
    pub same_run: &'a BTreeMap<Place, Vec<u8>>,
    /// With other randomness: the same member, session and round.
    pub drawn_otherwise: &'a BTreeMap<Place, Vec<u8>>,
    pub another_session: &'a BTreeMap<Place, Vec<u8>>,
}

/// One member's fault in one run.
pub struct Faulty {
    pub fault: Fault,
    pub round: u8,
    pub liar: PartyIndex,
    victim: PartyIndex,
    /// Where lies begin: the same for all receivers of a broadcast.
    salt: u64,
    held: Vec<Packet>,
}

impl Faulty {
    pub fn draw(fault: Fault, round: u8, all: &[PartyIndex], random: &mut StdRng) -> Self {
        let liar = *all.choose(random).unwrap();
        let others: Vec<PartyIndex> = all.iter().copied().filter(|other| *other != liar).collect();
        let victim = *others.choose(random).unwrap();
        Self { fault, round, liar, victim, salt: random.r#gen(), held: Vec::new() }
    }

    /// What was kept back.
    pub fn late(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.held)
    }

    /// What arrives in place of a message.
    pub fn deliver(&mut self, heard: &Heard<'_>, packet: Packet) -> Vec<Packet> {
        let absent = self.fault == Fault::Absent && packet.body[0] >= self.round;
        if packet.from != self.liar || (packet.body[0] != self.round && !absent) {
            return vec![packet];
        }
        let is_victim = packet.to == self.victim;
        let otherwise = |places: &BTreeMap<Place, Vec<u8>>| match places.get(&packet.place()) {
            Some(body) => vec![Packet { body: body.clone(), ..packet.clone() }],
            None => vec![packet.clone()],
        };
        match self.fault {
            Fault::Absent | Fault::Withheld => Vec::new(),
            Fault::WithheldFromOne if is_victim => Vec::new(),
            Fault::Late => {
                self.held.push(packet);
                Vec::new()
            }
            Fault::Twice => vec![packet.clone(), packet],
            // What another receiver was to get, where that is not the same for all.
            Fault::Replayed if self.salt.is_multiple_of(2) && packet.body[1] == 1 => {
                let (round, kind, from, to) = packet.place();
                let other = heard
                    .same_run
                    .iter()
                    .find(|((at, is, by, for_whom), _)| (*at, *is, *by) == (round, kind, from) && *for_whom != to);
                other.map_or_else(|| vec![packet.clone()], |(_, body)| vec![Packet { body: body.clone(), ..packet }])
            }
            Fault::Replayed => otherwise(heard.another_session),
            Fault::TwoFaced if is_victim => otherwise(heard.drawn_otherwise),
            Fault::Lie => otherwise(heard.drawn_otherwise),
            Fault::Flipped => vec![self.flipped(packet)],
            Fault::Garbage => {
                let mut random = StdRng::seed_from_u64(self.salt);
                let mut body = vec![0; random.gen_range(0..200)];
                random.fill(&mut body[..]);
                vec![Packet { body, ..packet }]
            }
            Fault::WithheldFromOne | Fault::TwoFaced => vec![packet],
        }
    }

    fn flipped(&self, mut packet: Packet) -> Packet {
        let mut random = StdRng::seed_from_u64(self.salt ^ packet.body.len() as u64);
        if packet.body.len() > 2 {
            let at = random.gen_range(2..packet.body.len());
            packet.body[at] ^= 1 << random.gen_range(0..8);
        }
        packet
    }
}
