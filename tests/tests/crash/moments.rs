//! Moments to kill a node at, told from its debug.log and from RPC, and what it was doing when it was killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyless_tests::Daemon;
use keyless_tests::wait::{until_polling, until_true};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use super::{DEADLINE, INDEXES, mine, spends};

/// Between two looks at what the node does.
const POLL: Duration = Duration::from_millis(1);
/// Blocks that a reorganisation leaves: enough that it takes longer than it takes to be seen.
const DEPTH: std::ops::RangeInclusive<u32> = 20..=100;
/// A reorganisation takes some ten milliseconds.
const REORG_PAUSE_US: u64 = 8_000;
/// Blocks of a round that only grows the chain.
const GROWTH: u32 = 100;
/// Coinbases that are spent in each round that mines.
const SPENDS: u32 = 3;
const FEE_SAT: u64 = 1_000;

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Reading what it has: the moment is left to chance, so that it may be syncing, too.
    Starting,
    /// Taking blocks that it lacks.
    Syncing,
    /// Between the first block of the old branch that it left and the last of the new one.
    Reorganising,
    /// Building an index of a chain that it has.
    Indexing,
    /// None of them: the moment was missed.
    Idle,
}

/// In turn. All but the first are steered for.
pub const PHASES: [Phase; 4] = [Phase::Starting, Phase::Syncing, Phase::Reorganising, Phase::Indexing];

/// What is new in a node's debug.log.
struct Tail {
    path: PathBuf,
    from: u64,
}

impl Tail {
    fn of(node: &Daemon) -> Self {
        let path = node.net_dir().join("debug.log");
        let from = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        Self { path, from }
    }

    fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.from)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Heights of the tips that there were.
    fn tips(&self) -> Vec<i64> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains("UpdateTip: new best="));
        lines.filter_map(|line| line.split("height=").nth(1)?.split(' ').next()?.parse().ok()).collect()
    }

    fn indexes_enabled(&self) -> usize {
        self.text().lines().filter(|line| line.contains("index is enabled at height")).count()
    }
}

/// Kills one node again and again while another, which it follows, lives on.
pub struct Killer<'a> {
    steady: &'a Daemon,
    victim: &'a mut Daemon,
    /// In which the first blocks were mined, whose coinbases are spent.
    first_round: u32,
    rng: StdRng,
    /// The highest block whose coinbase was spent; all below were, too.
    pub spent: u32,
    /// How often the victim was killed in which phase.
    pub hits: BTreeMap<Phase, u32>,
}

impl<'a> Killer<'a> {
    pub fn new(steady: &'a Daemon, victim: &'a mut Daemon, first_round: u32, rng: StdRng) -> Self {
        Self { steady, victim, first_round, rng, spent: 0, hits: BTreeMap::new() }
    }

    /// Starts the victim and kills it in `phase`, or at what moment comes.
    pub fn round(&mut self, round: u32, phase: Phase) {
        let hit = match phase {
            Phase::Syncing => self.while_syncing(round),
            Phase::Reorganising => self.while_reorganising(round),
            Phase::Indexing => self.while_indexing(),
            Phase::Starting | Phase::Idle => self.at_a_random_moment(round),
        };
        *self.hits.entry(hit).or_default() += 1;
    }

    /// What the next block will hold, besides what a reorganisation puts back.
    fn spend(&mut self) {
        for _ in 0..SPENDS {
            self.spent += 1;
            let coinbase = spends::coinbase(self.steady, self.spent);
            spends::send(self.steady, &spends::spend(self.steady, self.first_round, coinbase, FEE_SAT));
        }
    }

    fn pause(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.gen_range(0..most_ms)));
    }

    fn at_a_random_moment(&mut self, round: u32) -> Phase {
        self.spend();
        mine(self.steady, round, GROWTH);
        let tail = Tail::of(self.victim);
        self.victim.spawn();
        self.pause(500);
        self.victim.kill9();
        match tail.tips().last() {
            None => Phase::Starting,
            Some(height) if *height < self.steady.height() => Phase::Syncing,
            Some(_) => Phase::Idle,
        }
    }

    fn while_syncing(&mut self, round: u32) -> Phase {
        self.spend();
        mine(self.steady, round, GROWTH);
        let goal = self.steady.height();
        let tail = Tail::of(self.victim);
        self.victim.spawn();
        until_polling("a new block", POLL, DEADLINE, || (!tail.tips().is_empty()).then_some(()));
        self.pause(60);
        self.victim.kill9();
        if tail.tips().last().is_some_and(|height| *height < goal) { Phase::Syncing } else { Phase::Idle }
    }

    /// Half of the time the chainstate is being written, too.
    fn while_reorganising(&mut self, round: u32) -> Phase {
        self.spend();
        self.victim.start();
        let (steady, victim) = (self.steady, &mut *self.victim);
        until_true("the victim follows", DEADLINE, || victim.best() == steady.best());
        let depth: u32 = self.rng.gen_range(DEPTH);
        let before = steady.height();
        let fork = steady.call("getblockhash", json!([before + 1 - i64::from(depth)]));
        let tail = Tail::of(victim);
        let flushes = self.rng.gen_bool(0.5);
        let pause = Duration::from_micros(self.rng.gen_range(0..REORG_PAUSE_US));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if flushes {
                let rpc = victim.rpc();
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) && rpc.try_call("gettxoutsetinfo", json!(["none"])).is_ok() {}
                });
            }
            scope.spawn(|| {
                steady.call("invalidateblock", json!([fork]));
                mine(steady, round, depth + 3);
            });
            until_polling("the old branch is left", POLL, DEADLINE, || {
                tail.tips().iter().any(|height| *height < before).then_some(())
            });
            std::thread::sleep(pause);
            victim.signal(libc::SIGKILL);
            over.store(true, Ordering::Relaxed);
        });
        victim.wait_end();
        if tail.tips().last().is_some_and(|height| *height <= before) { Phase::Reorganising } else { Phase::Idle }
    }

    /// One index of the chain, or all of them, must be built anew.
    fn while_indexing(&mut self) -> Phase {
        let folder = self.victim.net_dir().join("indexes");
        let mut indexes: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        if self.rng.gen_bool(0.5) {
            indexes = vec![indexes.swap_remove(self.rng.gen_range(0..indexes.len()))];
        }
        for index in indexes {
            std::fs::remove_dir_all(index).unwrap();
        }
        let tail = Tail::of(self.victim);
        self.victim.start();
        let victim = &*self.victim;
        until_polling("the indexes are looked at", POLL, DEADLINE, || {
            let info = victim.call("getindexinfo", json!([]));
            (info.as_object().unwrap().len() == INDEXES.len()).then_some(())
        });
        self.pause(400);
        self.victim.kill9();
        if tail.indexes_enabled() < INDEXES.len() { Phase::Indexing } else { Phase::Idle }
    }
}
