//! Random lives of a wallet's shares. Short here; `contrib/long lives` runs many.
#![allow(clippy::unwrap_used, clippy::panic)]

use keyless_tests::life::{Life, Step};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Sequences of random steps with 3, 5 and 7 members in turn; in the short form one, with 3.
#[test]
fn the_addresses_and_the_coins_outlive_every_member() {
    let sequences = number("KEYLESS_LIVES", 1);
    let steps = number("KEYLESS_LIFE_STEPS", 8);
    let first = number("KEYLESS_LIFE_SEED", 1);
    let only = number("KEYLESS_LIFE_MEMBERS", 0);
    for seed in first..first + sequences {
        let n = match only {
            0 => [3, 5, 7][usize::try_from((seed - 1) % 3).unwrap()],
            n => usize::try_from(n).unwrap(),
        };
        let threshold = n / 2 + 1;
        println!("== life {seed}: {threshold}-of-{n}, {steps} steps");
        let mut life = Life::begin(threshold, n, seed);
        for _ in 0..steps {
            life.step();
        }
        life.end();
    }
}

/// kill -9 at random moments of each ceremony; `contrib/long kills` does 200 of each. `KEYLESS_KILLS_IN=Repair` for those of
/// one alone.
#[test]
fn kill_9_in_a_ceremony_loses_no_share() {
    let times = number("KEYLESS_KILLS", 1);
    let only = std::env::var("KEYLESS_KILLS_IN").unwrap_or_default();
    let mut life = Life::begin(2, 3, number("KEYLESS_LIFE_SEED", 7));
    let ceremonies = [Step::KilledInRefresh, Step::KilledInReshare, Step::KilledInRepair];
    for ceremony in ceremonies.into_iter().filter(|step| format!("{step:?}").ends_with(&only)) {
        life.slowest = std::time::Duration::ZERO;
        for _ in 0..times {
            life.kill_in(ceremony);
        }
        println!("{ceremony:?}: {times} kills; members agreed on the epoch within {:?}", life.slowest);
    }
    life.end();
}
