//! Mutated input against a running keylessd: every P2P message it reads, and the RPC envelope. It must answer afterwards,
//! and hold no more memory.
//!
//! `KEYLESS_FUZZ=1000000` sends so many of each; the short form is for every run.
#![allow(clippy::unwrap_used, clippy::panic)]

mod p2p;
mod rpc;

use keyless_tests::{Daemon, Options};
use rand::Rng;
use rand::rngs::StdRng;

/// Executions of each target in the short form.
const SHORT: usize = 400;
/// Growth of resident memory that is not a leak: caches, buffers, the allocator.
const MAX_GROWTH_MIB: u64 = 256;

fn executions() -> usize {
    std::env::var("KEYLESS_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(SHORT)
}

fn node() -> Daemon {
    let options =
        Options::keyless().arg("-disablewallet").arg("-whitelist=noban,in@127.0.0.1").arg("-peerbloomfilters");
    Daemon::start_new(options.arg("-blockfilterindex").arg("-peerblockfilters").arg("-nodebuglogfile"))
}

fn resident_mib(node: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// A seed with a few bytes changed, put in, left out or doubled; sometimes cut short.
fn mutate(rng: &mut StdRng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.gen_range(1..6) {
        let at = rng.gen_range(0..=bytes.len());
        match rng.gen_range(0..6) {
            0 if at < bytes.len() => bytes[at] = rng.r#gen(),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xfc, 0xfd, 0xfe, 0xff][rng.gen_range(0..8)],
            2 => bytes.insert(at, rng.r#gen()),
            3 if at < bytes.len() => {
                bytes.remove(at);
            }
            4 => bytes.truncate(at),
            _ => {
                let from = rng.gen_range(0..=at);
                let piece = bytes[from..at.min(from + 64)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}
