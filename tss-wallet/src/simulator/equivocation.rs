//! A member that broadcasts one thing to some and another thing to the others, among three, five and seven.
//!
//! Everything up to the echo is one result for all or none: nobody honest holds a share, or has signed for one. After the
//! echo nothing that is said can change the result.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::Machine;
use super::cells::Scene;
use super::ceremonies::{by_seed, generation_of, refresh_of};
use super::net::Net;
use super::stage::Stage;
use crate::ids::PartyIndex;

/// Of three members, in the short form.
const SHORT: u64 = 40;

/// Broadcasts are of the first kind of their round.
const BROADCAST: u8 = 0;

#[derive(Debug, Default)]
struct Tally {
    before_the_echo: usize,
    after: usize,
    named: usize,
}

impl<M: Machine> Scene<M> {
    /// One broadcast of one member is, for some of the others, what it would have been had the member drawn otherwise.
    fn equivocate(&self, seed: u64, tally: &mut Tally) {
        let random = &mut StdRng::seed_from_u64(seed);
        let differs = |place| self.drawn_otherwise.get(place).is_some_and(|other| *other != self.stage.said[place]);
        let broadcasts: BTreeSet<(u8, PartyIndex)> = self
            .stage
            .said
            .keys()
            .filter(|place| place.1 == BROADCAST && differs(place))
            .map(|(round, _, from, _)| (*round, *from))
            .collect();
        let rounds: BTreeSet<u8> = broadcasts.iter().map(|(round, _)| *round).collect();
        let round = *Vec::from_iter(rounds).choose(random).unwrap();
        let speakers: Vec<PartyIndex> =
            broadcasts.iter().filter(|(at, _)| *at == round).map(|(_, from)| *from).collect();
        let liar = *speakers.choose(random).unwrap();
        let mut others: Vec<PartyIndex> = self.stage.all.iter().copied().filter(|party| *party != liar).collect();
        others.shuffle(random);
        others.truncate(random.gen_range(1..others.len()));

        let mut net = Net::begin(&self.stage, round, false);
        net.run(random, |packet| {
            let deceived = |packet: &super::stage::Packet| {
                packet.from == liar && packet.body[..2] == [round, BROADCAST] && others.contains(&packet.to)
            };
            let arrives = packet.map(|mut packet| {
                if deceived(&packet) {
                    packet.body.clone_from(&self.drawn_otherwise[&packet.place()]);
                }
                packet
            });
            arrives.into_iter().collect()
        });

        let what = (seed, round, liar, &others);
        let finished = net.agreed(liar, &what);
        let honest = || net.machines().filter(|(party, _)| *party != liar);
        if round < M::ECHO {
            assert_eq!(finished, 0, "{what:?}");
            assert!(honest().all(|(_, machine)| machine.held().is_none() && machine.signed().is_none()), "{what:?}");
            assert!(net.refused.iter().any(|(at, ..)| *at != liar), "{what:?}: nobody noticed");
            tally.before_the_echo += 1;
        } else {
            tally.after += 1;
        }
        let named = |(at, _, blamed): &super::net::Refused| *at != liar && *blamed == Some(liar);
        tally.named += usize::from(net.refused.iter().any(named));
    }
}

#[test]
fn whoever_says_two_things_in_one_broadcast_leaves_no_two_results_and_no_share() {
    let long = std::env::var("KEYLESS_EQUIVOCATIONS").ok().map(|text| text.parse::<u64>().unwrap());
    let sizes: &[u8] = if long.is_some() { &[3, 5, 7] } else { &[3] };
    let seeds = long.unwrap_or(SHORT);
    // The short form is of one of the two ceremonies.
    let one: bool = rand::random();
    let (generates, refreshes) = if long.is_some() { (true, true) } else { (one, !one) };
    for members in sizes {
        let mut tally = Tally::default();
        if generates {
            let scene = Scene::new(|session| generation_of(*members, session));
            (0..seeds).for_each(|seed| scene.equivocate(seed, &mut tally));
            println!("{members} members make a key, {seeds} seeds: {tally:?}");
        }
        let mut tally = Tally::default();
        if refreshes {
            let old = by_seed(&Stage::run(generation_of(*members, 6)).unwrap().shares);
            let scene = Scene::new(|session| refresh_of(&old, session));
            (0..seeds).for_each(|seed| scene.equivocate(seed, &mut tally));
            println!("{members} members refresh their shares, {seeds} seeds: {tally:?}");
        }
    }
}
