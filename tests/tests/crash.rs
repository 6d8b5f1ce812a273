//! kill -9 at random moments of syncing, reorganisation and indexing; disks that are full or read-only.
//!
//! `KEYLESS_CRASHES=200` runs the long form.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "crash/disk.rs"]
mod disk;

use std::time::Duration;

use bitcoin::script::Builder;
use bitcoin::{Address, Network};
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);
/// Kills in the short form.
const KILLS: u32 = 8;
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
    let mut rng = StdRng::seed_from_u64(9);
    let steady = Daemon::start_new(with_indexes(Options::core()));
    mine(&steady, kills, 300);
    let connect = format!("-connect=127.0.0.1:{}", steady.p2p_port);
    let mut victim = Daemon::new(with_indexes(Options::keyless().arg("-disablewallet").arg(connect)));
    for round in 0..kills {
        // New blocks, and every second time a branch that replaces some of the old ones, while the node starts.
        victim.spawn();
        let busy = Duration::from_millis(rng.gen_range(0..1_200));
        std::thread::sleep(busy);
        let depth: u32 = rng.gen_range(1..20);
        if round % 2 == 1 {
            let height = steady.height() - i64::from(depth);
            let fork = steady.call("getblockhash", json!([height]));
            steady.call("invalidateblock", json!([fork]));
            mine(&steady, round, depth + 3);
        } else {
            mine(&steady, round, 100);
        }
        std::thread::sleep(Duration::from_millis(rng.gen_range(0..600)));
        victim.kill9();
    }
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
