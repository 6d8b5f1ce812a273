//! The wallet as programs, twins and crowds see it, with real processes.
//!
//! Lengths come from the environment where `contrib/long` sets them; without, each test takes seconds.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "wallet/client.rs"]
mod client;
#[path = "wallet/libraries.rs"]
mod libraries;
#[path = "wallet/payments.rs"]
mod payments;
#[path = "wallet/retries.rs"]
mod retries;
#[path = "wallet/shared.rs"]
mod shared;
#[path = "wallet/twin.rs"]
mod twin;

use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::secp256k1::rand::SeedableRng;
use bitcoin::secp256k1::rand::rngs::StdRng;

/// Core's names of the four address types.
const TYPES: [&str; 4] = ["legacy", "p2sh-segwit", "bech32", "bech32m"];

/// A number from the environment, or the short form's.
fn length(variable: &str, short: usize) -> usize {
    std::env::var(variable).ok().map_or(short, |text| text.parse().expect("a number"))
}

/// Random numbers that `KEYLESS_SEED` repeats.
fn dice() -> StdRng {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("KEYLESS_SEED")
        .ok()
        .map_or(now.as_secs() ^ u64::from(now.subsec_nanos()), |text| text.parse().expect("KEYLESS_SEED is a number"));
    println!("KEYLESS_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// An amount as RPC takes it, exact to the satoshi.
fn btc(sat: i64) -> String {
    format!("{}.{:08}", sat / 100_000_000, sat % 100_000_000)
}
