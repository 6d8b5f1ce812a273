//! Callers that lose the answer to a payment and ask again, with one idempotency key: exactly one payment each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::Rng;
use keyless_tests::quorum::Discovery;
use keyless_tests::wait::until_true;
use keyless_tests::{Quorum, sat};
use serde_json::{Value, json};

use crate::{TYPES, btc, dice, length};

const DEADLINE: Duration = Duration::from_secs(60);
const SHORT: usize = 12;
const COINS: u64 = 20;
/// Payments between two blocks.
const BLOCK: usize = 10;
/// The connection is closed before an answer can be there, or about when it comes.
const LATEST_MS: u64 = 40;
/// Before a call that was refused is tried again.
const AGAIN: Duration = Duration::from_millis(100);
const WALLET: &str = "w";
/// Nobody's: it only takes the coinbases.
const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";

/// `contrib/long retries` does a thousand.
#[test]
fn a_payment_whose_answer_was_lost_and_that_is_asked_for_again_is_made_once() {
    let count = length("KEYLESS_RETRIES", SHORT);
    let mut dice = dice();
    let quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet(WALLET);
    let first = &quorum.members[0];
    let mine = |blocks: u64, to: &Value| {
        first.call("generatetoaddress", json!([blocks, to]));
        let tip = first.best();
        until_true("all on one tip", DEADLINE, || quorum.members.iter().all(|member| member.best() == tip));
    };
    for n in 0..COINS {
        let kind = TYPES[usize::try_from(n).unwrap() % TYPES.len()];
        mine(1, &quorum.wallet(0, WALLET).call("getnewaddress", json!(["", kind])));
    }
    mine(100, &json!(NOBODY));

    let mut paid = Vec::new();
    let mut unheard = 0;
    for n in 0..count {
        let payer = quorum.wallet(dice.gen_range(0..3), WALLET);
        let to = payer.call("getnewaddress", json!(["", TYPES[dice.gen_range(0..4)]]));
        let amount = dice.gen_range(10_000..1_000_000);
        let asked = json!({"address": to, "amount": btc(amount), "idempotency_key": format!("order {n}")});
        for _ in 0..dice.gen_range(1..3) {
            payer.hang_up("sendtoaddress", &asked, Duration::from_millis(dice.gen_range(0..LATEST_MS))).unwrap();
            unheard += 1;
        }
        // Perhaps at another member.
        let again = if dice.gen_bool(0.5) { quorum.wallet(dice.gen_range(0..3), WALLET) } else { payer };
        let start = Instant::now();
        let txid = loop {
            match again.try_call("sendtoaddress", asked.clone()) {
                Ok(txid) => break txid,
                Err(error) => {
                    assert!(start.elapsed() < DEADLINE, "payment {n}: {error}");
                    std::thread::sleep(AGAIN);
                }
            }
        };
        paid.push((to, amount, txid));
        if n % BLOCK == BLOCK - 1 {
            mine(1, &json!(NOBODY));
        }
    }
    mine(1, &json!(NOBODY));

    let txids: BTreeSet<String> = paid.iter().map(|(.., txid)| txid.as_str().unwrap().to_owned()).collect();
    assert_eq!(txids.len(), count);
    for m in 0..3 {
        let wallet = quorum.wallet(m, WALLET);
        for (to, amount, _) in &paid {
            assert_eq!(sat(&wallet.call("getreceivedbyaddress", json!([to]))), *amount, "{to} at {m}");
        }
        let rows = wallet.call("listtransactions", json!(["*", 100_000]));
        let sent: BTreeSet<String> = rows
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["category"] == json!("send"))
            .map(|row| row["txid"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(sent, txids, "what member {m} knows to be sent");
    }
    println!("{count} payments, each once; {unheard} answers nobody read");
}
