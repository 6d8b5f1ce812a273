//! kill -9 at random moments of starting, syncing, reorganisation and indexing; disks that are full or read-only.
//!
//! `KEYLESS_CRASHES=200` runs the long form of the kills.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/moments.rs"]
mod moments;

use std::time::Duration;

use bitcoin::script::Builder;
use bitcoin::{Address, Network};
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use moments::{Killer, PHASES};

const DEADLINE: Duration = Duration::from_secs(120);
/// Kills in the short form: two in each phase.
const KILLS: u32 = 8;
/// For a phase in which it was never killed.
const MORE_KILLS: u32 = 8;
/// Blocks at first: building the indexes of fewer would be over too soon.
const FIRST_BLOCKS: u32 = 2_000;
const INDEXES: [&str; 4] = ["-txindex", "-txospenderindex", "-blockfilterindex", "-coinstatsindex"];

fn with_indexes(mut options: Options) -> Options {
    for index in INDEXES {
        options = options.arg(index);
    }
    options.arg("-checkblockindex=0")
}

/// Each round mines to an address of its own, so that no block of a new branch is one that was invalidated.
fn mine(node: &Daemon, round: u32, blocks: u32) {
    let script = Builder::new().push_int(i64::from(round) + 1).into_script();
    let address = Address::p2wsh(&script, Network::Regtest).to_string();
    node.call("generatetoaddress", json!([blocks, address]));
}

/// What all indexes and the coins say at a height.
fn view(node: &Daemon, height: i64) -> Value {
    let hash = node.call("getblockhash", json!([height]));
    let coinbase = node.call("getblock", json!([hash]))["tx"][0].clone();
    json!({
        "stats": node.call("gettxoutsetinfo", json!(["muhash", hash]))["muhash"],
        "filter": node.call("getblockfilter", json!([hash])),
        "tx": node.call("getrawtransaction", json!([coinbase, 1]))["blockhash"],
        "spender": node.call("gettxspendingprevout", json!([[{"txid": coinbase, "vout": 0}]])),
    })
}

fn synced(node: &Daemon, height: i64) -> bool {
    let info = node.call("getindexinfo", json!([]));
    let info = info.as_object().unwrap();
    info.len() == INDEXES.len()
        && info.values().all(|index| index["synced"] == true && index["best_block_height"].as_i64() == Some(height))
}

#[test]
fn killed_at_random_moments_it_ends_with_the_coins_and_indexes_of_one_never_killed() {
    let kills = std::env::var("KEYLESS_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let steady = Daemon::start_new(with_indexes(Options::core()));
    mine(&steady, kills + MORE_KILLS, FIRST_BLOCKS);
    let connect = format!("-connect=127.0.0.1:{}", steady.p2p_port);
    let mut victim = Daemon::new(with_indexes(Options::keyless().arg("-disablewallet").arg(connect)));
    victim.start();
    until_true("the first blocks", DEADLINE, || victim.best() == steady.best());
    victim.stop();
    let mut killer = Killer::new(&steady, &mut victim, StdRng::seed_from_u64(9));
    for round in 0..kills {
        killer.round(round, PHASES[round as usize % PHASES.len()]);
    }
    // A phase that was missed whenever it was meant is tried some more.
    for phase in &PHASES[1..] {
        for round in kills..kills + MORE_KILLS {
            if !killer.hits.contains_key(phase) {
                killer.round(round, *phase);
            }
        }
    }
    println!("{} kills of a node that was {:?}", killer.hits.values().sum::<u32>(), killer.hits);
    assert!(PHASES[1..].iter().all(|phase| killer.hits.contains_key(phase)), "{:?}", killer.hits);
    victim.start();
    let height = steady.height();
    until_true("the chain is followed", DEADLINE, || victim.best() == steady.best());
    until_true("the indexes are there", DEADLINE, || synced(&victim, height) && synced(&steady, height));
    assert!(!victim.log().contains("Please restart with -reindex"));
    let set = |node: &Daemon| node.call("gettxoutsetinfo", json!(["muhash", null, false]))["muhash"].clone();
    assert_eq!(set(&victim), set(&steady));
    for at in [1, height / 3, height / 2, height - 20, height - 1, height] {
        assert_eq!(view(&victim, at), view(&steady, at), "height {at}");
    }
    assert_eq!(victim.call("verifychain", json!([4, 20])), json!(true));
    victim.stop();
}

/// The filters of a new branch replace those of the old one at once; how far the index is, is written later. bitcoind does not
/// start after a kill between the two.
#[test]
fn a_kill_right_after_a_reorganisation_leaves_indexes_that_open_again() {
    let mut node = Daemon::start_new(with_indexes(Options::keyless().arg("-disablewallet")));
    mine(&node, 1, 20);
    node.restart();
    until_true("the indexes are there", DEADLINE, || synced(&node, 20));
    let fork = node.call("getblockhash", json!([15]));
    node.call("invalidateblock", json!([fork]));
    mine(&node, 2, 10);
    until_true("the indexes follow", DEADLINE, || synced(&node, 24));
    node.kill9();
    node.start();
    let height = node.height();
    until_true("the indexes are there again", DEADLINE, || synced(&node, height));
    let fresh = Daemon::start_new(with_indexes(Options::core()));
    fresh.call("addnode", json!([format!("127.0.0.1:{}", node.p2p_port), "onetry"]));
    until_true("a fresh node follows", DEADLINE, || fresh.best() == node.best() && synced(&fresh, height));
    for at in 1..=height {
        assert_eq!(view(&node, at), view(&fresh, at), "height {at}");
    }
    node.stop();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Root may write everywhere, so the folder is a file instead.
    let mut node = Daemon::new(Options::keyless().arg("-disablewallet"));
    std::fs::create_dir_all(node.net_dir()).unwrap();
    std::fs::write(node.net_dir().join("blocks"), b"").unwrap();
    node.spawn();
    let status = node.wait_end();
    assert_eq!(status.code(), Some(1));
    let stderr = node.stderr();
    assert!(stderr.starts_with("Error: ") && stderr.contains("blocks"), "{stderr}");
}
