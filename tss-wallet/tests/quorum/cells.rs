//! One faulty member in every round of every ceremony, in every way: silent, late, twice, from another run, two-faced,
//! lying, garbage, in any order of arrival.
//!
//! A cell is a ceremony, a round and a fault. Whatever happens: nobody honest is blamed, nobody panics, those who
//! finish have one result, whoever was promised a share can finish with the certificate of whoever has it, and the old
//! shares sign afterwards as before. `KEYLESS_CELLS=200` runs every cell so often (`contrib/long cells`); the short form
//! a few cells drawn at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tss_wallet::{Dkg, DkgError, KeyShare, MemberId, PartyIndex, PublicKeys, RedealParams, SessionId};

use crate::cluster::{self, dkg_net, party};
use crate::redeal::{Run, Shares, honest, id, made, params, run_in_order, signs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing arrives, or nothing at one receiver.
    Withheld,
    WithheldFromOne,
    /// After everything else.
    Late,
    Twice,
    /// The same member's message of the same round, from an honest run of another session.
    Replayed,
    /// One receiver sees something else.
    TwoFaced,
    /// Well-formed for all, and wrong.
    Lie,
    Garbage,
}

const FAULTS: [Fault; 8] = [
    Fault::Withheld,
    Fault::WithheldFromOne,
    Fault::Late,
    Fault::Twice,
    Fault::Replayed,
    Fault::TwoFaced,
    Fault::Lie,
    Fault::Garbage,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ceremony {
    Generate,
    Refresh,
    Reshare,
    Repair,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    ceremony: Ceremony,
    round: u8,
    fault: Fault,
}

fn all_cells() -> Vec<Cell> {
    let ceremonies = [(Ceremony::Generate, 8), (Ceremony::Refresh, 7), (Ceremony::Reshare, 7), (Ceremony::Repair, 7)];
    let rounds = ceremonies.into_iter().flat_map(|(ceremony, last)| (1..=last).map(move |round| (ceremony, round)));
    rounds.flat_map(|(ceremony, round)| FAULTS.map(|fault| Cell { ceremony, round, fault })).collect()
}

/// By round, kind, sender and receiver: what was said in an honest run.
type Recorded<Id> = BTreeMap<(u8, u8, Id, Id), Vec<u8>>;

/// One member's fault in one run.
struct Faulty<Id> {
    fault: Fault,
    round: u8,
    liar: Id,
    victim: Id,
    /// Where lies begin: the same for all receivers of a broadcast.
    salt: u64,
    held: Vec<(Id, Vec<u8>)>,
}

impl<Id: Copy + Ord> Faulty<Id> {
    /// What arrives in place of a message.
    fn deliver(&mut self, recorded: &Recorded<Id>, from: Id, to: Id, body: &[u8]) -> Vec<Vec<u8>> {
        let same = vec![body.to_vec()];
        if from != self.liar || body.first() != Some(&self.round) {
            return same;
        }
        let changed = || {
            let mut random = StdRng::seed_from_u64(self.salt ^ body.len() as u64);
            let mut lie = body.to_vec();
            if lie.len() > 2 {
                let at = random.gen_range(2..lie.len());
                lie[at] ^= 1 << random.gen_range(0..8);
            }
            lie
        };
        match self.fault {
            Fault::Withheld => Vec::new(),
            Fault::WithheldFromOne if to == self.victim => Vec::new(),
            Fault::Late => {
                self.held.push((to, body.to_vec()));
                Vec::new()
            }
            Fault::Twice => [body.to_vec(), body.to_vec()].to_vec(),
            Fault::Replayed => match recorded.get(&(self.round, body[1], from, to)) {
                Some(old) => vec![old.clone()],
                None => same,
            },
            Fault::TwoFaced if to == self.victim => vec![changed()],
            Fault::Lie => vec![changed()],
            Fault::Garbage => {
                let mut random = StdRng::seed_from_u64(self.salt);
                let mut garbage = vec![0; random.gen_range(0..200)];
                random.fill(&mut garbage[..]);
                vec![garbage]
            }
            Fault::WithheldFromOne | Fault::TwoFaced => same,
        }
    }
}

fn draw<Id: Copy + Ord>(cell: Cell, all: &[Id], liars: &[Id], random: &mut StdRng) -> Faulty<Id> {
    let liar = *liars.choose(random).unwrap();
    let others: Vec<Id> = all.iter().copied().filter(|other| *other != liar).collect();
    let victim = *others.choose(random).unwrap();
    Faulty { fault: cell.fault, round: cell.round, liar, victim, salt: random.r#gen(), held: Vec::new() }
}

/// A lie that the receiver can prove to itself names the liar at once.
fn names_the_liar(cell: Cell) -> bool {
    let first = matches!(cell.fault, Fault::Garbage | Fault::Replayed) && cell.round == 1;
    let opened = matches!(cell.fault, Fault::Lie) && matches!(cell.ceremony, Ceremony::Refresh | Ceremony::Repair);
    first || (opened && cell.round == 2)
}

struct Tally {
    runs: usize,
    finished: usize,
    blamed: usize,
}

/// What must hold however one member behaved.
fn judge<Id: Copy + Ord + std::fmt::Debug>(
    cell: Cell,
    faulty: &Faulty<Id>,
    errors: &[(Id, DkgError, Option<Id>)],
    finished: &[(Id, Arc<PublicKeys>)],
    promised: &[(Id, Arc<PublicKeys>)],
    tally: &mut Tally,
) {
    let honest = |at: &Id| *at != faulty.liar;
    for (at, error, culprit) in errors.iter().filter(|(at, ..)| honest(at)) {
        assert!(
            culprit.is_none_or(|culprit| culprit == faulty.liar),
            "{cell:?}: {at:?} blames {culprit:?} for {:?}: {error:?}",
            faulty.liar
        );
    }
    let made: BTreeSet<[u8; 32]> =
        finished.iter().filter(|(at, _)| honest(at)).map(|(_, keys)| keys.statement()).collect();
    assert!(made.len() <= 1, "{cell:?}: two results");
    if let Some((_, keys)) = finished.iter().find(|(at, _)| honest(at)) {
        keys.verify().unwrap();
        for (at, mine) in promised.iter().filter(|(at, _)| honest(at)) {
            assert_eq!(mine.statement(), keys.statement(), "{cell:?}: {at:?} was promised another share");
            let completed = PublicKeys { certificate: keys.certificate.clone(), ..(**mine).clone() };
            completed.verify().unwrap();
        }
    }
    let named = errors.iter().any(|(at, _, culprit)| honest(at) && *culprit == Some(faulty.liar));
    assert!(named || !names_the_liar(cell), "{cell:?}: the liar is not named: {errors:?}");
    if matches!(cell.fault, Fault::Twice | Fault::Late) {
        assert!(finished.iter().filter(|(at, _)| honest(at)).count() > 0, "{cell:?}: {errors:?}");
    }
    tally.runs += 1;
    tally.finished += usize::from(!made.is_empty());
    tally.blamed += usize::from(named);
}

/// What every cell works with: shares of a 2-of-3, and the messages of honest runs in other sessions.
struct World {
    old: Shares,
    generated: Recorded<PartyIndex>,
    redealt: BTreeMap<u8, Recorded<MemberId>>,
}

fn redeal_params(ceremony: Ceremony, old: &Shares, session: u8) -> RedealParams {
    let public = old[&1].public();
    let mut params = match ceremony {
        Ceremony::Reshare => params(public, 2, &[1, 2, 4], &[1, 2, 3], &[]),
        // Member 2 has lost its share, and is dealt a new one.
        Ceremony::Repair => params(public, 2, &[1, 2, 3], &[1, 3], &[]),
        Ceremony::Refresh | Ceremony::Generate => params(public, 2, &[1, 2, 3], &[1, 2, 3], &[]),
    };
    params.session = SessionId([session; 32]);
    params
}

fn shares_of(ceremony: Ceremony, old: &Shares) -> Shares {
    let mut shares = old.clone();
    if ceremony == Ceremony::Repair {
        shares.remove(&2);
    }
    shares
}

impl World {
    fn new() -> Self {
        let old = made(2, 3);
        let mut generated = Recorded::new();
        let mut net = dkg_net(2, 3, 99);
        net.run(|packet| {
            generated.insert((packet.body[0], packet.body[1], packet.from, packet.to), packet.body.clone());
            vec![packet]
        });
        let mut redealt = BTreeMap::new();
        for ceremony in [Ceremony::Refresh, Ceremony::Reshare, Ceremony::Repair] {
            let mut recorded = Recorded::new();
            let params = redeal_params(ceremony, &old, 200);
            run_in_order(
                &params,
                &shares_of(ceremony, &old),
                |_| 0,
                |packet| {
                    recorded.insert((packet.body[0], packet.body[1], packet.from, packet.to), packet.body.clone());
                    vec![packet]
                },
            );
            redealt.insert(ceremony as u8, recorded);
        }
        Self { old, generated, redealt }
    }

    fn run(&self, cell: Cell, random: &mut StdRng, tally: &mut Tally) {
        if cell.ceremony == Ceremony::Generate {
            return self.generate(cell, random, tally);
        }
        let params = redeal_params(cell.ceremony, &self.old, 7);
        let members = params.participants();
        let mut faulty = draw(cell, &members, &members, random);
        let mut order = StdRng::seed_from_u64(random.r#gen());
        let recorded = &self.redealt[&(cell.ceremony as u8)];
        let shares = shares_of(cell.ceremony, &self.old);
        let next = |count: usize| order.gen_range(0..count);
        let mut held = Vec::new();
        let Run { mut machines, mut errors } = run_in_order(&params, &shares, next, |packet| {
            let (from, to) = (packet.from, packet.to);
            let bodies = faulty.deliver(recorded, from, to, &packet.body);
            held.append(&mut faulty.held);
            bodies.into_iter().map(|body| crate::redeal::Packet { from, to, body }).collect()
        });
        // What was late arrives now, and what comes of it.
        let mut queue: Vec<(MemberId, MemberId, Vec<u8>)> =
            held.into_iter().map(|(to, body)| (faulty.liar, to, body)).collect();
        while let Some((from, to, body)) = queue.pop() {
            let machine = machines.get_mut(&to).unwrap();
            match machine.receive(machine.index_of(&from).unwrap(), &body) {
                Ok(out) => {
                    for message in out {
                        for other in members.iter().filter(|other| **other != to) {
                            let index = machine.index_of(other).unwrap();
                            let meant = match message.to {
                                tss_wallet::Recipient::All => true,
                                tss_wallet::Recipient::One(party) => party == index,
                            };
                            if meant {
                                queue.insert(0, (to, *other, message.body.clone()));
                            }
                        }
                    }
                }
                Err(error) => {
                    let culprit = machine.culprit(&error);
                    errors.push((to, error, culprit));
                }
            }
        }
        let finished: Vec<_> = machines.iter().filter_map(|(at, made)| Some((*at, made.finished()?.clone()))).collect();
        let promised: Vec<_> =
            machines.iter().filter_map(|(at, made)| Some((*at, made.certifying()?.clone()))).collect();
        judge(cell, &faulty, &errors, &finished, &promised, tally);
    }

    fn generate(&self, cell: Cell, random: &mut StdRng, tally: &mut Tally) {
        let all: Vec<PartyIndex> = (1..=3).map(party).collect();
        let mut faulty = draw(cell, &all, &all, random);
        let mut net = dkg_net(2, 3, random.r#gen());
        let mut held = Vec::new();
        net.run(|packet| {
            let bodies = faulty.deliver(&self.generated, packet.from, packet.to, &packet.body);
            held.append(&mut faulty.held);
            bodies.into_iter().map(|body| cluster::Packet { body, ..packet.clone() }).collect()
        });
        let late = held.into_iter().map(|(to, body)| cluster::Packet { from: faulty.liar, to, broadcast: false, body });
        net.queue.extend(late);
        net.run_honestly();
        let errors: Vec<_> = net.errors.iter().map(|(at, _, error)| (*at, error.clone(), error.culprit())).collect();
        let keys = |share: fn(&Dkg) -> Option<&Arc<KeyShare>>| -> Vec<_> {
            net.nodes.iter().filter_map(|(at, dkg)| Some((*at, share(dkg)?.public().clone()))).collect()
        };
        let (finished, promised) = (keys(Dkg::finished), keys(Dkg::pending));
        judge(cell, &faulty, &errors, &finished, &promised, tally);
    }
}

#[test]
fn one_faulty_member_in_any_round_changes_nothing_and_frames_nobody() {
    let each: usize = std::env::var("KEYLESS_CELLS").ok().map_or(0, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("KEYLESS_CELLS_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new();
    let mut cells = all_cells();
    if each == 0 {
        cells.shuffle(&mut random);
        cells.truncate(6);
    }
    for cell in cells {
        let mut tally = Tally { runs: 0, finished: 0, blamed: 0 };
        for _ in 0..each.max(1) {
            world.run(cell, &mut random, &mut tally);
        }
        println!("{cell:?}: {} runs, {} finished, {} named the liar", tally.runs, tally.finished, tally.blamed);
    }
    // The old shares are as they were.
    let new = honest(&redeal_params(Ceremony::Refresh, &world.old, 9), &world.old);
    signs(&world.old, &[1, 3], &world.old[&1]);
    signs(&new, &[2, 3], &world.old[&1]);
    assert!(new.contains_key(&2) && world.old[&2].public().roster.index_of(&id(2)).is_some());
}
