//! One faulty member in every round of every ceremony, in every way: absent, silent, late, twice, from elsewhere,
//! two-faced, lying, garbage, in any order of arrival.
//!
//! A cell is a ceremony, a round and a fault. Whatever happens: nobody honest is blamed, silence is no evidence, a lie
//! names its liar where [`Cell::names`] says so, those who finish have one result, whoever signed can finish with the
//! certificate of whoever has it, and the old shares sign afterwards as before. `KEYLESS_CELLS=200` runs every cell so
//! often (`contrib/long cells`), `KEYLESS_CELL_SECONDS` ends a cell that has used so much CPU; the short form runs a part
//! of the cells, drawn at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Machine;
use super::ceremonies::{Ceremony, by_seed, cpu, dealing_again, generation, sign};
use super::faults::{FAULTS, Fault, Faulty, Heard};
use super::net::Net;
use super::stage::{Place, Stage};
use crate::ids::{Outgoing, PartyIndex};
use crate::{Dkg, KeyShare, Redeal};

/// Runs with one stage; then another is made.
const RUNS_OF_STAGE: usize = 50;
/// Of so many runs one goes through every round itself.
const COMPUTES_ALL: usize = 50;
/// Ceremonies, and cells of them, of the short form.
const SHORT_CEREMONIES: usize = 2;
const SHORT: usize = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    ceremony: Ceremony,
    round: u8,
    fault: Fault,
}

impl Cell {
    fn all() -> Vec<Self> {
        let ceremonies = [
            (Ceremony::Generate, Dkg::LAST),
            (Ceremony::Refresh, Redeal::LAST),
            (Ceremony::Reshare, Redeal::LAST),
            (Ceremony::Repair, Redeal::LAST),
        ];
        let rounds = ceremonies.into_iter().flat_map(|(ceremony, last)| (1..=last).map(move |round| (ceremony, round)));
        rounds.flat_map(|(ceremony, round)| FAULTS.map(|fault| Self { ceremony, round, fault })).collect()
    }

    /// Whether an honest member always names the liar.
    fn names(self) -> bool {
        let dealt = if self.ceremony == Ceremony::Generate { 3 } else { 2 };
        match self.fault {
            Fault::Garbage => true,
            // What is opened is not what was committed to, or not what was dealt.
            Fault::Lie => self.round == dealt,
            _ => false,
        }
    }
}

#[derive(Default)]
struct Tally {
    runs: usize,
    finished: usize,
    named: usize,
}

/// A ceremony with what is heard of other runs.
pub struct Scene<M> {
    pub stage: Stage<M>,
    pub drawn_otherwise: BTreeMap<Place, Vec<u8>>,
    another_session: BTreeMap<Place, Vec<u8>>,
}

impl<M: Machine> Scene<M> {
    pub fn new(started: impl Fn(u8) -> Vec<(PartyIndex, M, Vec<Outgoing>)>) -> Self {
        let stage = Stage::run(started(7)).unwrap();
        let mut drawn_otherwise = Stage::run(started(7)).unwrap().said;
        // Test signatures of the same shares, with other nonces.
        let mut net = Net::begin(&stage, M::ECHO, false);
        net.run(&mut StdRng::seed_from_u64(1), |packet| {
            if let Some(packet) = packet.iter().find(|packet| (M::ECHO + 1..M::LAST).contains(&packet.body[0])) {
                drawn_otherwise.insert(packet.place(), packet.body.clone());
            }
            packet.into_iter().collect()
        });
        assert!(net.refused.is_empty(), "{:?}", net.refused);
        let another_session = Stage::run(started(8)).unwrap().said;
        Self { stage, drawn_otherwise, another_session }
    }

    fn run(&self, cell: Cell, computes_all: bool, random: &mut StdRng, tally: &mut Tally) {
        let mut faulty = Faulty::draw(cell.fault, cell.round, &self.stage.all, random);
        let heard = Heard {
            same_run: &self.stage.said,
            drawn_otherwise: &self.drawn_otherwise,
            another_session: &self.another_session,
        };
        let mut net = Net::begin(&self.stage, cell.round, computes_all);
        net.run(random, |packet| match packet {
            Some(packet) => faulty.deliver(&heard, packet),
            None => faulty.late(),
        });
        judge(cell, &faulty, &net, tally);
        if computes_all {
            let made: Vec<_> = net.machines().filter_map(|(_, machine)| machine.held()).collect();
            if let [one, two, ..] = made[..] {
                sign([one, two]);
            }
        }
    }
}

/// What must hold however one member behaved.
fn judge<M: Machine>(cell: Cell, faulty: &Faulty, net: &Net<'_, M>, tally: &mut Tally) {
    let liar = faulty.liar;
    let finished = net.agreed(liar, &cell);
    let refused = || net.refused.iter().filter(|(at, ..)| *at != liar);
    for (_, error, blamed) in refused() {
        assert!(blamed.is_none() || !cell.fault.is_silence(), "{cell:?}: silence is blamed: {error:?}");
    }
    let named = refused().any(|(_, _, blamed)| *blamed == Some(liar));
    assert!(named || !cell.names(), "{cell:?}: the liar is not named: {:?}", net.refused);
    if matches!(cell.fault, Fault::Twice | Fault::Late) {
        assert_eq!(finished, net.machines().count() - 1, "{cell:?}: {:?}", net.refused);
    }
    tally.runs += 1;
    tally.finished += usize::from(finished > 0);
    tally.named += usize::from(named);
}

/// What the cells of one ceremony work with.
enum Staged {
    Generation(Scene<Dkg>),
    DealingAgain(Scene<Redeal>),
}

impl Staged {
    fn of(ceremony: Ceremony, old: &BTreeMap<u8, Arc<KeyShare>>) -> Self {
        match ceremony {
            Ceremony::Generate => Self::Generation(Scene::new(generation)),
            _ => Self::DealingAgain(Scene::new(|session| dealing_again(ceremony, old, session, 1))),
        }
    }

    fn run(&self, cell: Cell, computes_all: bool, random: &mut StdRng, tally: &mut Tally) {
        match self {
            Self::Generation(scene) => scene.run(cell, computes_all, random, tally),
            Self::DealingAgain(scene) => scene.run(cell, computes_all, random, tally),
        }
    }
}

#[test]
fn one_faulty_member_in_any_round_changes_nothing_and_frames_nobody() {
    let each: usize = std::env::var("KEYLESS_CELLS").ok().map_or(0, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("KEYLESS_CELLS_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cap = std::env::var("KEYLESS_CELL_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let old = by_seed(&Stage::run(generation(6)).unwrap().shares);
    let mut cells = Cell::all();
    if each == 0 {
        let mut ceremonies = [Ceremony::Generate, Ceremony::Refresh, Ceremony::Reshare, Ceremony::Repair];
        ceremonies.shuffle(&mut random);
        cells.retain(|cell| ceremonies[..SHORT_CEREMONIES].contains(&cell.ceremony));
        cells.shuffle(&mut random);
        cells.truncate(SHORT);
    }
    let mut by_ceremony: BTreeMap<Ceremony, Vec<Cell>> = BTreeMap::new();
    cells.into_iter().for_each(|cell| by_ceremony.entry(cell.ceremony).or_default().push(cell));
    for (ceremony, cells) in by_ceremony {
        let mut tallies: BTreeMap<Cell, (Tally, Duration)> = BTreeMap::new();
        let mut left = each.max(1);
        while left > 0 {
            let staged = Staged::of(ceremony, &old);
            for cell in &cells {
                let (tally, spent) = tallies.entry(*cell).or_default();
                let before = cpu();
                for run in 0..left.min(RUNS_OF_STAGE) {
                    if cap.is_some_and(|cap| *spent + (cpu() - before) > cap) {
                        break;
                    }
                    staged.run(*cell, each > 0 && run % COMPUTES_ALL == COMPUTES_ALL - 1, &mut random, tally);
                }
                *spent += cpu() - before;
            }
            left = left.saturating_sub(RUNS_OF_STAGE);
        }
        for (Cell { ceremony, round, fault }, (tally, spent)) in tallies {
            let Tally { runs, finished, named } = tally;
            let each_ms = spent.as_secs_f64() * 1_000.0 / runs as f64;
            println!(
                "{ceremony:?} {round} {fault:?}: {runs} runs, {finished} made shares, {named} named the liar; {each_ms:.1} ms of CPU a run"
            );
        }
    }
    // The old shares are as they were.
    sign([&old[&1], &old[&3]]);
    sign([&old[&2], &old[&3]]);
}
