//! Mutated input against a running keylessd: every P2P message it reads, before and after the handshake, in the clear
//! and encrypted, and the RPC envelope. It must answer afterwards, and hold no more memory.
//!
//! An input counts when the node has shown that it is done with it: by a pong to the ping behind it, or by hanging up.
//! `KEYLESS_FUZZ=1000000` sends so many of each, `KEYLESS_FUZZ_KINDS=tx,block` of these alone; the short form is for
//! every run.
#![allow(clippy::unwrap_used, clippy::panic)]

mod compact;
mod encrypted;
mod opening;
mod p2p;
mod peer;
mod rpc;

use std::time::Instant;

use keyless_tests::{Daemon, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// Executions of each target in the short form.
const SHORT: usize = 400;
/// Growth of resident memory that is not a leak: caches, headers that were valid, buffers, the allocator.
const MAX_GROWTH_MIB: u64 = 256;
/// Senders at once: the node should not wait for us.
const WORKERS: usize = 4;
/// What `generatetodescriptor` needs for a script that anyone can spend.
const ANYONE: &str = "raw(51)#8lvh9jxk";

fn executions() -> usize {
    std::env::var("KEYLESS_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(SHORT)
}

fn node(more: &[&str]) -> Daemon {
    let options = more.iter().fold(Options::keyless(), |options, option| options.arg(*option));
    let options = options
        .arg("-disablewallet")
        .arg("-whitelist=noban,in@127.0.0.0/8")
        .arg("-peerbloomfilters")
        .arg("-txreconciliation")
        // Core would look through all headers again and again, and do nothing else: many mutated ones are valid on regtest.
        .arg("-checkblockindex=0")
        .arg("-maxconnections=500");
    let node = Daemon::start_new(options.arg("-blockfilterindex").arg("-peerblockfilters").arg("-nodebuglogfile"));
    node.call("generatetodescriptor", json!([5, ANYONE]));
    node
}

fn resident_mib(node: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// A node under fire, and what it held before.
struct Target {
    node: Daemon,
    before: u64,
}

impl Target {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let node = node(more);
        let before = resident_mib(&node);
        Self { node, before }
    }

    /// Does nothing where `KEYLESS_FUZZ_KINDS` names others. Gives each worker its share of the inputs, a number of its own and dice; then looks after the node.
    fn attack(&self, what: &str, work: impl Fn(usize, usize, StdRng) + Sync) {
        if std::env::var("KEYLESS_FUZZ_KINDS").is_ok_and(|kinds| !kinds.split(',').any(|kind| kind == what)) {
            return;
        }
        let share = executions().div_ceil(WORKERS);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let work = &work;
                scope.spawn(move || work(worker, share, StdRng::seed_from_u64(worker as u64)));
            }
        });
        let secs = started.elapsed().as_secs_f64();
        let inputs = share * WORKERS;
        let now = resident_mib(&self.node);
        println!("{what}: {inputs} inputs in {secs:.1} s, {:.0} a second; {now} MiB resident", inputs as f64 / secs);
        assert!(self.node.height() >= 5, "after {what}");
        assert!(now < self.before + MAX_GROWTH_MIB, "resident memory grew from {} to {now} MiB by {what}", self.before);
    }
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
