//! A node that starts from another's coins: it fetches what is below them, and only then promises all blocks.

use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options};
use serde_json::{Value, json};

use super::SYNC_DEADLINE;

/// Core's regtest knows the coins of one chain at this height: the one that its unit tests mine.
const BASE_HEIGHT: u64 = 110;
const BASE_HASH: &str = "135eec25a6fb277884e5824e7aa7d052c4868161c99a5122170b5266f86c273d";
/// The clock when that chain begins; each block is a second younger.
const FIRST_SECOND: u64 = 1_598_887_952;
/// Paid to the public key of the private key 1.
const UNIT_TEST_KEY: &str = "pk(0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798)";

fn mine_unit_test_chain(node: &Daemon) {
    let descriptor = node.call("getdescriptorinfo", json!([UNIT_TEST_KEY]))["descriptor"].clone();
    for second in 0..BASE_HEIGHT {
        node.call("setmocktime", json!([FIRST_SECOND + second]));
        node.call("generatetodescriptor", json!([1, descriptor]));
    }
    assert_eq!(node.best(), BASE_HASH, "the chain of Core's unit tests");
}

fn give_headers(from: &Daemon, to: &Daemon) {
    for height in 1..=from.height() {
        let hash = from.call("getblockhash", json!([height]));
        to.call("submitheader", json!([from.call("getblockheader", json!([hash, false]))]));
    }
}

fn promises_all_blocks(node: &Daemon) -> bool {
    let info = node.call("getnetworkinfo", json!([]));
    info["localservicesnames"].as_array().unwrap().contains(&json!("NETWORK"))
}

fn chainstates(node: &Daemon) -> Vec<Value> {
    node.call("getchainstates", json!([]))["chainstates"].as_array().unwrap().clone()
}

#[test]
fn a_snapshot_is_validated_behind_the_tip_and_then_all_blocks_are_promised_again() {
    let old = Daemon::start_new(Options::keyless().arg("-disablewallet"));
    mine_unit_test_chain(&old);
    let dump = old.datadir().join("coins.dat");
    let dumped = old.call("dumptxoutset", json!([dump, "latest"]));
    assert_eq!((&dumped["base_height"], &dumped["base_hash"]), (&json!(BASE_HEIGHT), &json!(BASE_HASH)));
    super::mine(&old, 30);

    let mut new = Daemon::start_new(Options::keyless().arg("-disablewallet"));
    give_headers(&old, &new);
    assert!(promises_all_blocks(&new));
    let loaded = new.call("loadtxoutset", json!([dump]));
    assert_eq!(loaded["base_height"], json!(BASE_HEIGHT));
    assert_eq!((new.best().as_str(), chainstates(&new).len()), (BASE_HASH, 2));
    assert!(!promises_all_blocks(&new));

    super::connect(&new, &old);
    until_true("the tip is reached and all below the snapshot validated", SYNC_DEADLINE, || {
        let states = chainstates(&new);
        states.len() == 1 && states[0]["validated"] == json!(true) && new.best() == old.best()
    });
    assert!(promises_all_blocks(&new));
    let set = |node: &Daemon| node.call("gettxoutsetinfo", json!(["muhash"]))["muhash"].clone();
    assert_eq!(set(&new), set(&old));
    new.restart();
    assert_eq!(new.best(), old.best());
    assert_eq!(new.call("verifychain", json!([4, 0])), json!(true));
}
