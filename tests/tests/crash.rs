//! kill -9 at random moments of starting, syncing, reorganisation and indexing; disks that are full or read-only.
//!
//! `KEYLESS_CRASHES=200` runs the long form of the kills.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/moments.rs"]
mod moments;
#[path = "crash/spends.rs"]
mod spends;

use std::time::Duration;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::script::Builder;
use bitcoin::{Address, Network, ScriptBuf};
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

/// Whoever knows it may spend what is mined in a round.
fn anyone(round: u32) -> ScriptBuf {
    Builder::new().push_int(i64::from(round) + 1).into_script()
}

fn address(round: u32) -> String {
    Address::p2wsh(&anyone(round), Network::Regtest).to_string()
}

/// Each round mines to an address of its own, so that no block of a new branch is one that was invalidated.
fn mine(node: &Daemon, round: u32, blocks: u32) {
    node.call("generatetoaddress", json!([blocks, address(round)]));
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
    let first_round = kills + MORE_KILLS;
    mine(&steady, first_round, FIRST_BLOCKS);
    let connect = format!("-connect=127.0.0.1:{}", steady.p2p_port);
    let mut victim = Daemon::new(with_indexes(Options::keyless().arg("-disablewallet").arg(connect)));
    victim.start();
    until_true("the first blocks", DEADLINE, || victim.best() == steady.best());
    victim.stop();
    let mut killer = Killer::new(&steady, &mut victim, first_round, StdRng::seed_from_u64(9));
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
    let spent = killer.spent;
    mine(&steady, 0, 1);
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
    // Core gives up what it takes out of more than ten blocks: not all that was spent still is.
    let mut in_blocks = 0;
    for coinbase in (1..=spent).map(|height| spends::coinbase(&steady, height)) {
        let spender = spends::spender(&steady, coinbase);
        assert_eq!(spends::spender(&victim, coinbase), spender);
        in_blocks += u32::from(spender["block"].is_string());
    }
    println!("{in_blocks} of {spent} spends are in blocks");
    assert!(in_blocks > 0);
    assert_eq!(victim.call("verifychain", json!([4, 20])), json!(true));
    victim.stop();
}

/// Another branch from `height` on, which the indexes follow; the height it ends at.
fn reorganise(node: &Daemon, round: u32, height: i64, blocks: u32) -> i64 {
    let fork = node.call("getblockhash", json!([height]));
    node.call("invalidateblock", json!([fork]));
    mine(node, round, blocks);
    let end = height - 1 + i64::from(blocks);
    until_true("the indexes follow", DEADLINE, || synced(node, end));
    end
}

/// The entries of a new branch replace those of the old one at once; how far the index is, is written later. After a kill
/// between the two bitcoind does not open the filters, and cannot take blocks back from the coin statistics.
#[test]
fn a_kill_right_after_a_reorganisation_leaves_indexes_that_open_again_and_follow_the_next() {
    let mut node = Daemon::start_new(with_indexes(Options::keyless().arg("-disablewallet")));
    mine(&node, 1, 20);
    node.restart();
    until_true("the indexes are there", DEADLINE, || synced(&node, 20));
    reorganise(&node, 2, 15, 10);
    node.kill9();
    node.start();
    // Unless the new branch was flushed before the kill, there was something to repair.
    let height = node.height();
    until_true("the indexes are there again", DEADLINE, || synced(&node, height));
    let repaired =
        |name: &str| node.log().contains(&format!("entries of the {name} that an unfinished reorganisation"));
    for index in ["basic block filter index", "coinstatsindex"] {
        assert_eq!(repaired(index), height == 20, "{index} at height {height}");
    }
    let height = reorganise(&node, 3, 10, 20);
    let fresh = Daemon::start_new(with_indexes(Options::core()));
    fresh.call("addnode", json!([format!("127.0.0.1:{}", node.p2p_port), "onetry"]));
    until_true("a fresh node follows", DEADLINE, || fresh.best() == node.best() && synced(&fresh, height));
    for at in 1..=height {
        assert_eq!(view(&node, at), view(&fresh, at), "height {at}");
    }
    node.stop();
}

/// What a new branch brings is in the transaction indexes at once, and what it left is not. After a kill the old branch is the
/// chain again, and other blocks are written where those of the new one were.
#[test]
fn a_kill_right_after_a_reorganisation_leaves_transactions_where_they_are() {
    let mut node = Daemon::start_new(with_indexes(Options::keyless().arg("-disablewallet")));
    mine(&node, 1, 110);
    let [first, second] = [1, 2].map(|height| spends::coinbase(&node, height));
    for coinbase in [first, second] {
        spends::send(&node, &spends::spend(&node, 1, coinbase, 1_000));
        mine(&node, 1, 1);
    }
    let rival = spends::spend(&node, 1, spends::coinbase(&node, 3), 1_000);
    node.restart();
    until_true("the indexes are there", DEADLINE, || synced(&node, 112));
    let before = [first, second].map(|coinbase| spends::spender(&node, coinbase));
    let fork = node.call("getblockhash", json!([111]));
    node.call("invalidateblock", json!([fork]));
    let moved = before[1]["spent"]["spendingtxid"].clone();
    node.call("generateblock", json!([address(2), [moved, serialize_hex(&rival)]]));
    node.call("generateblock", json!([address(2), []]));
    node.call("generateblock", json!([address(2), []]));
    until_true("the indexes follow", DEADLINE, || synced(&node, 113));
    assert!(spends::spender(&node, rival.input[0].previous_output.txid)["block"].is_string());
    node.kill9();
    node.start();
    assert_eq!(node.height(), 112, "flushed before it was killed");
    until_true("the indexes are there again", DEADLINE, || synced(&node, 112));
    let repaired = "Took 3 blocks that came after the last flush out of the transaction indexes, put 2 back into txindex and 2 into \
                    txospenderindex";
    assert!(node.log().contains(repaired));
    for round in 3..6 {
        let after = [first, second].map(|coinbase| spends::spender(&node, coinbase));
        assert_eq!(after, before, "after {} other blocks", round - 3);
        assert_eq!(spends::spender(&node, rival.input[0].previous_output.txid)["block"], json!(null));
        assert_eq!(node.fail("getrawtransaction", json!([rival.compute_txid()])).code, -5);
        mine(&node, round, 1);
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
