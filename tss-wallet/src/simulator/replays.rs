//! Every message of every ceremony in the place of another one: of another session, epoch or ceremony, of another round,
//! from another sender, for another receiver. Whoever gets one makes no share of it, and blames nobody but its sender.
//!
//! What a frame's envelope refuses already is tested with nodes; here it has passed. `KEYLESS_REPLAYS=5000` goes on until
//! so many were tried of each ceremony (`contrib/long ceremonies`).

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Machine;
use super::ceremonies::{Ceremony, by_seed, cpu, dealing_again, generation, sign};
use super::net::Net;
use super::stage::{Packet, Place, Stage};

const SHORT: usize = 40;
/// Replays with one stage; then another is made.
const OF_STAGE: usize = 1_000;

type Said = BTreeMap<Place, Vec<u8>>;

/// What is another one where a replay comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Session,
    Epoch,
    Ceremony,
    Round,
    Sender,
    Receiver,
}

const ALL: [Source; 6] =
    [Source::Session, Source::Epoch, Source::Ceremony, Source::Round, Source::Sender, Source::Receiver];

/// What was said elsewhere.
struct Elsewhere {
    session: Said,
    /// None where there is but one.
    epoch: Option<Said>,
    ceremony: Said,
}

/// A message that is replayed at a place, with the round and kind of that place; none where there is no other.
fn replay(stage: &Said, elsewhere: &Elsewhere, place: Place, source: Source, random: &mut StdRng) -> Option<Vec<u8>> {
    let (round, kind, sender, receiver) = place;
    let one = |said: &Said, fits: &dyn Fn(&Place) -> bool, random: &mut StdRng| {
        let fitting: Vec<&Vec<u8>> = said.iter().filter(|(other, _)| fits(other)).map(|(_, body)| body).collect();
        fitting.choose(random).map(|body| body.to_vec())
    };
    let body = match source {
        Source::Session => elsewhere.session.get(&place).cloned(),
        Source::Epoch => elsewhere.epoch.as_ref().and_then(|said| said.get(&place).cloned()),
        Source::Ceremony => one(&elsewhere.ceremony, &|other| (other.0, other.1) == (round, kind), random),
        Source::Round => one(stage, &|other| other.0 != round && (other.2, other.3) == (sender, receiver), random),
        Source::Sender => {
            one(stage, &|other| (other.0, other.1) == (round, kind) && other.2 != sender && other.3 == receiver, random)
        }
        Source::Receiver => {
            one(stage, &|other| (other.0, other.1, other.2) == (round, kind, sender) && other.3 != receiver, random)
        }
    };
    let mut body = body?;
    (body[0], body[1]) = (round, kind);
    (body != stage[&place]).then_some(body)
}

/// What came of replays: refused with the name of their sender, or not.
#[derive(Default)]
struct Tally {
    tried: usize,
    named: usize,
    accepted: usize,
}

fn try_one<M: Machine>(
    stage: &Stage<M>,
    elsewhere: &Elsewhere,
    source: Source,
    random: &mut StdRng,
    tallies: &mut BTreeMap<Source, Tally>,
) {
    let places: Vec<Place> = stage.said.keys().copied().collect();
    let place = *places.choose(random).unwrap();
    let Some(body) = replay(&stage.said, elsewhere, place, source, random) else { return };
    let (round, _, sender, receiver) = place;
    let mut net = Net::begin(stage, round, false);
    net.run(random, |packet| {
        let replayed = |packet: Packet| match packet.place() == place {
            true => Packet { body: body.clone(), ..packet },
            false => packet,
        };
        packet.map(replayed).into_iter().collect()
    });
    net.agreed(sender, &(place, source));
    let tally = tallies.entry(source).or_default();
    tally.tried += 1;
    tally.named += usize::from(net.refused.iter().any(|(at, _, blamed)| *at == receiver && *blamed == Some(sender)));
    tally.accepted += usize::from(net.machines().any(|(party, machine)| party == receiver && machine.keys().is_some()));
}

fn try_all<M: Machine>(
    ceremony: Ceremony,
    wanted: usize,
    make: impl Fn() -> (Stage<M>, Elsewhere),
    random: &mut StdRng,
) {
    let mut tallies = BTreeMap::new();
    let begun = cpu();
    let tried = |tallies: &BTreeMap<Source, Tally>| tallies.values().map(|tally| tally.tried).sum::<usize>();
    while tried(&tallies) < wanted {
        let (stage, elsewhere) = make();
        let until = wanted.min(tried(&tallies) + OF_STAGE);
        while tried(&tallies) < until {
            let source = *ALL.choose(random).unwrap();
            try_one(&stage, &elsewhere, source, random, &mut tallies);
        }
    }
    for (source, Tally { tried, named, accepted }) in &tallies {
        println!("{ceremony:?} {source:?}: {tried} replays, {named} named their sender, {accepted} accepted");
        assert_eq!(*accepted, 0, "{ceremony:?} {source:?}");
    }
    println!("{ceremony:?}: {:.1} ms of CPU each", (cpu() - begun).as_secs_f64() * 1_000.0 / wanted as f64);
}

#[test]
fn no_replay_into_a_ceremony_is_accepted() {
    let env = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let seed: u64 = env("KEYLESS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let old = by_seed(&Stage::run(generation(6)).unwrap().shares);
    let dealt = |ceremony, session, ahead| Stage::run(dealing_again(ceremony, &old, session, ahead)).unwrap();
    let made = |session| Stage::run(generation(session)).unwrap();
    let long = env("KEYLESS_REPLAYS").map(|count| count as usize);
    let mut ceremonies = Ceremony::ALL;
    ceremonies.shuffle(&mut random);
    for ceremony in ceremonies.into_iter().take(if long.is_some() { ceremonies.len() } else { 1 }) {
        let wanted = long.unwrap_or(SHORT);
        let another = if ceremony == Ceremony::Refresh { Ceremony::Repair } else { Ceremony::Refresh };
        match ceremony {
            Ceremony::Generate => {
                let make = || {
                    let ceremony = dealt(another, 7, 1).said;
                    (made(7), Elsewhere { session: made(8).said, epoch: None, ceremony })
                };
                try_all(ceremony, wanted, make, &mut random);
            }
            _ => {
                let make = || {
                    let (session, epoch) = (dealt(ceremony, 8, 1).said, Some(dealt(ceremony, 7, 2).said));
                    let elsewhere = Elsewhere { session, epoch, ceremony: dealt(another, 7, 1).said };
                    (dealt(ceremony, 7, 1), elsewhere)
                };
                try_all(ceremony, wanted, make, &mut random);
            }
        }
    }
    sign([&old[&1], &old[&3]]);
    sign([&old[&2], &old[&3]]);
}
