//! Changed messages of every kind in every ceremony: of other lengths, empty, cut, with points that are none, scalars out
//! of range, other indexes and lengths of lists, noise.
//!
//! A mutant goes to one receiver, or as a broadcast to all. Whoever refuses it names its sender or nobody; what is
//! believed at first is carried to the end, where all who finish have the same shares, and those sign.
//! `KEYLESS_MUTANTS=10000` tries so many of each kind of message (`contrib/long ceremonies`), for at most
//! `KEYLESS_MUTANT_SECONDS` of CPU each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::Machine;
use super::ceremonies::{Ceremony, by_seed, cpu, dealing_again, generation, sign};
use super::net::Net;
use super::stage::{Packet, Place, Stage};
use crate::KeyShare;

/// Mutants of each kind of message in the short form, up to the echo and after it.
const SHORT: usize = 12;
const SHORT_OF_TRIALS: usize = 1;
/// Mutants with one stage; then another is made.
const OF_STAGE: usize = 2_000;
/// Round and kind.
const HEADER: usize = 2;

/// The order of the group.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae, 0xdc,
    0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Bit,
    Shorter,
    Longer,
    Empty,
    Cut,
    /// A point of zeros, one that is not on the curve, a scalar of zero.
    Identity,
    OffCurve,
    Zero,
    Order,
    AboveOrder,
    /// A small number, which may be an index or the length of a list: 0, one more, one less.
    Small,
    Header,
    Noise,
}

const CHANGES: [Change; 13] = [
    Change::Bit,
    Change::Shorter,
    Change::Longer,
    Change::Empty,
    Change::Cut,
    Change::Identity,
    Change::OffCurve,
    Change::Zero,
    Change::Order,
    Change::AboveOrder,
    Change::Small,
    Change::Header,
    Change::Noise,
];

/// A place where a point or a scalar may begin: after its length, where lengths are written; else anywhere.
fn field(body: &[u8], bytes: usize, random: &mut StdRng) -> Option<std::ops::Range<usize>> {
    let last = body.len().checked_sub(bytes).filter(|last| *last >= HEADER)?;
    let marked: Vec<usize> = (HEADER + 1..=last).filter(|at| usize::from(body[at - 1]) == bytes).take(64).collect();
    let at = match marked.choose(random) {
        Some(at) if random.r#gen() => *at,
        _ => random.gen_range(HEADER..=last),
    };
    Some(at..at + bytes)
}

/// None where the message has no such place.
fn changed(genuine: &[u8], change: Change, random: &mut StdRng) -> Option<Vec<u8>> {
    let mut body = genuine.to_vec();
    let at = random.gen_range(HEADER..body.len());
    match change {
        Change::Bit => body[at] ^= 1 << random.gen_range(0..8),
        Change::Shorter => drop(body.pop()),
        Change::Longer => body.push(random.r#gen()),
        Change::Empty => body.truncate(HEADER),
        Change::Cut => body.truncate(at),
        Change::Identity => {
            let field = field(&body, 33, random)?;
            body[field].fill(0);
        }
        Change::OffCurve => {
            // There is no point whose x is 5.
            let field = field(&body, 33, random)?;
            body[field.clone()].fill(0);
            (body[field.start], body[field.end - 1]) = (2, 5);
        }
        Change::Zero => {
            let field = field(&body, 32, random)?;
            body[field].fill(0);
        }
        Change::Order | Change::AboveOrder => {
            let field = field(&body, 32, random)?;
            body[field.clone()].copy_from_slice(&ORDER);
            if change == Change::AboveOrder {
                body[field.end - 1] += random.gen_range(1..100);
            }
        }
        Change::Small => {
            let small: Vec<usize> = (HEADER..body.len()).filter(|at| (1..=64).contains(&body[*at])).take(64).collect();
            let at = *small.choose(random)?;
            body[at] = [0, body[at] + 1, body[at] - 1][random.gen_range(0..3)];
        }
        Change::Header => body[random.gen_range(0..HEADER)] = random.gen_range(0..10),
        Change::Noise => {
            let end = (at + 33).min(body.len());
            random.fill(&mut body[at..end]);
        }
    }
    (body != genuine).then_some(body)
}

#[derive(Default)]
struct Tally {
    tried: usize,
    /// Refused with the sender's name; refused without one, or waited in vain for what the mutant stood for.
    named: usize,
    unnamed: usize,
    /// Believed to the end.
    believed: usize,
}

/// Whether a member refuses what it gets in a round up to the echo, and whether with the name of its sender. None if it
/// believes it for now.
fn refused<M: Machine>(stage: &Stage<M>, place: Place, mutant: &[u8], random: &mut StdRng) -> Option<bool> {
    let (round, _, sender, receiver) = place;
    let mut machine = stage.entry(round, receiver);
    let mut packets: Vec<Packet> = stage.sent(round, None);
    packets.retain(|packet| packet.to == receiver);
    packets.shuffle(random);
    for packet in packets {
        let body = if packet.place() == place { mutant } else { &packet.body };
        if let Err(error) = machine.feed(packet.from, body) {
            let blamed = machine.blames(&error);
            assert!(blamed.is_none_or(|blamed| blamed == sender), "{place:?}: {blamed:?} is blamed: {error:?}");
            if error.is_fatal() {
                return Some(blamed.is_some());
            }
        }
    }
    // Its round waits where the mutant is of another one.
    (machine.round() == round).then_some(false)
}

fn try_one<M: Machine>(stage: &Stage<M>, kind: (u8, u8), change: Change, random: &mut StdRng, tally: &mut Tally) {
    let places: Vec<Place> = stage.said.keys().filter(|(round, is, ..)| (*round, *is) == kind).copied().collect();
    let place = *places.choose(random).unwrap();
    let salt = random.r#gen();
    let mutant_of = |genuine: &[u8]| changed(genuine, change, &mut StdRng::seed_from_u64(salt));
    if kind.0 <= M::ECHO {
        let Some(mutant) = mutant_of(&stage.said[&place]) else { return };
        if let Some(named) = refused(stage, place, &mutant, random) {
            tally.tried += 1;
            if named {
                tally.named += 1
            } else {
                tally.unnamed += 1
            }
            return;
        }
    }
    // A broadcast comes so to one, or to all.
    let (round, is, sender, receiver) = place;
    let to_all = is == 0 && random.r#gen();
    let mut sent = false;
    let mut net = Net::begin(stage, round, false);
    net.run(random, |packet| {
        let packet = packet.map(|packet| {
            let (at, kind, from, to) = packet.place();
            let meant = (at, kind, from) == (round, is, sender) && (to_all || to == receiver);
            let mutant = if meant { mutant_of(&packet.body) } else { None };
            match mutant {
                Some(body) => {
                    sent |= to == receiver;
                    Packet { body, ..packet }
                }
                None => packet,
            }
        });
        packet.into_iter().collect()
    });
    if !sent {
        return;
    }
    tally.tried += 1;
    net.agreed(sender, &(kind, change));
    let believed = net.machines().any(|(party, machine)| party == receiver && machine.keys().is_some());
    if believed {
        tally.believed += 1;
        let made: Vec<&Arc<KeyShare>> = net.machines().filter_map(|(_, machine)| machine.held()).collect();
        if let [one, two, ..] = made[..] {
            sign([one, two]);
        }
    } else if net.refused.iter().any(|(at, _, blamed)| *at != sender && blamed.is_some()) {
        tally.named += 1;
    } else {
        tally.unnamed += 1;
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn try_all<M: Machine>(ceremony: Ceremony, make: impl Fn() -> Stage<M>, random: &mut StdRng) {
    let each = env("KEYLESS_MUTANTS").map(|count| count as usize);
    let cap = env("KEYLESS_MUTANT_SECONDS").map(Duration::from_secs);
    let mut tallies: BTreeMap<(u8, u8), (Tally, Duration)> = BTreeMap::new();
    let mut left = each.unwrap_or(SHORT);
    while left > 0 {
        let stage = make();
        let kinds: BTreeSet<(u8, u8)> = stage.said.keys().map(|(round, kind, ..)| (*round, *kind)).collect();
        for kind in kinds {
            let (tally, spent) = tallies.entry(kind).or_default();
            let short = if kind.0 > M::ECHO { SHORT_OF_TRIALS } else { SHORT };
            let wanted = if each.is_some() { tally.tried + left.min(OF_STAGE) } else { short };
            let begun = cpu();
            while tally.tried < wanted && cap.is_none_or(|cap| *spent + (cpu() - begun) < cap) {
                let change = *CHANGES.choose(random).unwrap();
                try_one(&stage, kind, change, random, tally);
            }
            *spent += cpu() - begun;
        }
        left = left.saturating_sub(OF_STAGE);
    }
    for ((round, kind), (Tally { tried, named, unnamed, believed }, spent)) in tallies {
        assert!(tried > 0 && tried == named + unnamed + believed);
        let (kind, ms) = (["broadcast", "private"][usize::from(kind)], spent.as_secs_f64() * 1_000.0 / tried as f64);
        println!(
            "{ceremony:?} {round} {kind}: {tried} mutants, {named} named their sender, {unnamed} nobody, \
             {believed} believed; {ms:.1} ms of CPU each"
        );
    }
}

#[test]
fn no_mutant_of_a_ceremony_makes_other_shares_or_frames_an_honest_member() {
    let seed = env("KEYLESS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let old = by_seed(&Stage::run(generation(6)).unwrap().shares);
    let mut ceremonies = Ceremony::ALL;
    ceremonies.shuffle(&mut random);
    let count = if env("KEYLESS_MUTANTS").is_some() { ceremonies.len() } else { 1 };
    for ceremony in ceremonies.into_iter().take(count) {
        match ceremony {
            Ceremony::Generate => try_all(ceremony, || Stage::run(generation(7)).unwrap(), &mut random),
            _ => try_all(ceremony, || Stage::run(dealing_again(ceremony, &old, 7, 1)).unwrap(), &mut random),
        }
    }
    // The old shares are as they were.
    sign([&old[&1], &old[&3]]);
    sign([&old[&2], &old[&3]]);
}
