//! The members of one wallet agree on what is spent, paid and called how, whoever was away meanwhile.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use keyless_tests::quorum::Discovery;
use keyless_tests::wait::until_true;
use keyless_tests::{Quorum, sat};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const BURN: &str = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202";

/// A wallet with one mature coin of 50 BTC.
fn funded(name: &str) -> Quorum {
    let quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet(name);
    let to = quorum.wallet(0, name).call("getnewaddress", json!(["first"]));
    quorum.members[0].call("generatetoaddress", json!([1, to]));
    quorum.members[0].call("generatetoaddress", json!([100, BURN]));
    quorum.sync_blocks();
    for m in 0..3 {
        until_true("every member has the coin", DEADLINE, || balance(&quorum, m, name) == 5_000_000_000);
    }
    quorum
}

fn balance(quorum: &Quorum, m: usize, name: &str) -> i64 {
    sat(&quorum.wallet(m, name).call("getbalance", json!([])))
}

fn load(quorum: &Quorum, m: usize, name: &str) {
    if quorum.members[m].call("listwallets", json!([])) == json!([]) {
        quorum.members[m].call("loadwallet", json!([name]));
    }
}

#[test]
fn a_member_that_was_down_spends_nothing_twice() {
    let mut quorum = funded("w");
    quorum.members[2].kill9();
    let wallet = quorum.wallet(0, "w");
    let txid = wallet.call("sendtoaddress", json!([BURN, 49]));
    let left = balance(&quorum, 0, "w");
    quorum.members[2].start();
    load(&quorum, 2, "w");
    // Before it has heard of the payment: whoever is asked to sign refuses and tells it.
    let late = quorum.wallet(2, "w");
    let failure = late.fail("sendtoaddress", json!({"address": BURN, "amount": 8, "fee_rate": 50}));
    assert_eq!(failure.code, -6, "{failure}");
    quorum.wait_connected(2);
    until_true("it knows the payment", DEADLINE, || {
        late.call("getbalance", json!([])) == wallet.call("getbalance", json!([])) && balance(&quorum, 2, "w") == left
    });
    assert_eq!(quorum.members[2].call("getrawmempool", json!([])), json!([txid]));
}

#[test]
fn a_coordinator_that_is_killed_after_its_answer_brings_the_payment_back() {
    let mut quorum = funded("w");
    let txid = quorum.wallet(0, "w").call("sendtoaddress", json!([BURN, 1]));
    // One member alone keeps the chain on its disk; no mempool survives.
    quorum.members[0].call("gettxoutsetinfo", json!([]));
    for m in [1, 2, 0] {
        quorum.members[m].kill9();
    }
    for m in 0..3 {
        quorum.members[m].start();
        load(&quorum, m, "w");
    }
    for m in 0..3 {
        quorum.wait_connected(m);
    }
    quorum.sync_blocks();
    for m in 0..3 {
        until_true("the payment is in every mempool", DEADLINE, || {
            quorum.members[m].call("getrawmempool", json!([])) == json!([txid])
        });
    }
}

#[test]
fn labels_and_payments_to_an_address_show_on_every_member() {
    let mut quorum = funded("w");
    let rent = quorum.wallet(0, "w").call("getnewaddress", json!(["rent"]));
    let labels = |quorum: &Quorum, m: usize, address: &Value| {
        let info = quorum.wallet(m, "w").call("getaddressinfo", json!([address]));
        (info["labels"].clone(), info["ischange"].clone())
    };
    for m in 0..3 {
        until_true("the label is there", DEADLINE, || labels(&quorum, m, &rent) == (json!(["rent"]), json!(false)));
    }
    quorum.members[1].kill9();
    let food = quorum.wallet(2, "w").call("getnewaddress", json!(["food"]));
    quorum.wallet(2, "w").call("setlabel", json!([rent, "flat"]));
    let txid = quorum.wallet(2, "w").call("sendtoaddress", json!([food, 1]));
    quorum.members[1].start();
    load(&quorum, 1, "w");
    quorum.wait_connected(1);
    for m in 0..3 {
        until_true("what was called so meanwhile", DEADLINE, || labels(&quorum, m, &food).0 == json!(["food"]));
        until_true("the payment has its details", DEADLINE, || {
            let found = quorum.wallet(m, "w").try_call("gettransaction", json!([txid]));
            found.is_ok_and(|tx| tx["details"].as_array().is_some_and(|details| details.len() == 2))
        });
    }
    assert_eq!(labels(&quorum, 0, &rent).0, json!(["flat"]));
}

#[test]
fn one_sweep_is_answered_once() {
    let quorum = funded("w");
    let total = quorum.wallet(0, "w").call("getbalance", json!([]));
    let calls: Vec<_> = (0..6)
        .map(|call| {
            let wallet = quorum.wallet(call % 3, "w");
            let params = json!({"address": BURN, "amount": total, "subtractfeefromamount": true});
            std::thread::spawn(move || wallet.try_call("sendtoaddress", params))
        })
        .collect();
    let (mut paid, mut codes) = (Vec::new(), Vec::new());
    for call in calls {
        match call.join().unwrap() {
            Ok(txid) => paid.push(txid),
            Err(failure) => codes.push(failure.code),
        }
    }
    assert_eq!((paid.len(), codes), (1, vec![-6; 5]), "{paid:?}");
}
