//! Acceptance, packages, replacement, eviction, reorg.

use bitcoin::consensus::serialize;
use bitcoin::{Amount, OutPoint, Transaction};
use keyless_kernel::{Acceptance, Notification, RejectKind, Rejection};
use serde_json::json;

use crate::support::{Node, build};

fn funded(blocks: u32, options: &[&str]) -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), options);
    node.mine(100 + blocks);
    (dir, node)
}

fn spend_of(node: &Node, height: u32, fee_sat: u64) -> Transaction {
    build::spend(&[build::coinbase_of(node, height)], Amount::from_sat(50_0000_0000 - fee_sat))
}

fn rejection(node: &Node, tx: &Transaction) -> Rejection {
    match node.kernel.accept_tx(&build::bytes(tx), true).unwrap() {
        Acceptance::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

fn accept(node: &Node, tx: &Transaction) -> keyless_kernel::Accepted {
    match node.kernel.accept_tx(&build::bytes(tx), false).unwrap() {
        Acceptance::Accepted(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accepted_transactions_are_listed_and_notified() {
    let (_dir, node) = funded(1, &[]);
    let tx = spend_of(&node, 1, 1_000);
    let test = node.kernel.accept_tx(&build::bytes(&tx), true).unwrap();
    assert!(matches!(test, Acceptance::Accepted(_)));
    assert_eq!(node.kernel.mempool_tx(&tx.compute_txid()).unwrap(), None, "only tested");

    let accepted = accept(&node, &tx);
    assert_eq!((accepted.fee.to_sat(), accepted.vsize), (1_000, tx.vsize() as u64));
    let entry = node.kernel.mempool_tx_by_wtxid(&tx.compute_wtxid()).unwrap().unwrap();
    assert_eq!(entry.tx, tx);
    assert_eq!(node.kernel.mempool_list().unwrap()[0].txid, tx.compute_txid());
    assert_eq!(node.kernel.mempool_info().unwrap().count, 1);
    assert_eq!(node.kernel.mempool_spender(&tx.input[0].previous_output).unwrap(), Some(tx.compute_txid()));
    assert!(
        matches!(node.kernel.accept_tx(&build::bytes(&tx), false).unwrap(), Acceptance::Rejected(Rejection { reason, .. }) if reason == "txn-already-in-mempool")
    );
    node.wait_for("transaction", |events| {
        events.iter().any(|event| matches!(event, Notification::TxAdded { txid, .. } if *txid == tx.compute_txid()))
    });
    node.close();
}

#[test]
fn rejections_have_cores_words() {
    let (_dir, node) = funded(2, &[]);
    let missing = build::spend(&[build::unknown_outpoint()], Amount::from_sat(1_000));
    let got = rejection(&node, &missing);
    assert_eq!((got.kind, got.reason.as_str()), (RejectKind::MissingInputs, "bad-txns-inputs-missingorspent"));

    let young = spend_of(&node, 50, 1_000);
    let got = rejection(&node, &young);
    assert_eq!((got.kind, got.reason.as_str()), (RejectKind::PrematureSpend, "bad-txns-premature-spend-of-coinbase"));

    let free = spend_of(&node, 1, 0);
    let got = rejection(&node, &free);
    assert_eq!((got.kind, got.reason.as_str()), (RejectKind::Reconsiderable, "min relay fee not met"));

    let minting = build::spend(&[build::coinbase_of(&node, 1)], Amount::from_sat(51_0000_0000));
    let got = rejection(&node, &minting);
    assert_eq!((got.kind, got.reason.as_str()), (RejectKind::Consensus, "bad-txns-in-belowout"));

    let mut unsigned = spend_of(&node, 1, 1_000);
    unsigned.input[0].witness.clear();
    let got = rejection(&node, &unsigned);
    assert_eq!(got.kind, RejectKind::WitnessStripped);
    assert!(got.reason.starts_with("mempool-script-verify-flag-failed"), "{got}");
    node.close();
}

#[test]
fn a_higher_fee_replaces_and_a_lower_one_does_not() {
    let (_dir, node) = funded(1, &[]);
    let first = spend_of(&node, 1, 1_000);
    accept(&node, &first);
    let got = rejection(&node, &spend_of(&node, 1, 1_001));
    assert_eq!((got.kind, got.reason.as_str()), (RejectKind::Reconsiderable, "insufficient fee"));
    let second = spend_of(&node, 1, 5_000);
    assert_eq!(accept(&node, &second).replaced, [first.compute_txid()]);
    node.wait_for("replacement", |events| {
        events.iter().any(|event| matches!(event, Notification::TxRemoved { txid, reason, .. } if *txid == first.compute_txid() && reason == "replaced"))
    });
    node.close();
}

#[test]
fn a_child_pays_for_its_parent_in_a_package() {
    let (_dir, node) = funded(1, &[]);
    let parent = spend_of(&node, 1, 0);
    let child = build::spend(&[OutPoint::new(parent.compute_txid(), 0)], Amount::from_sat(50_0000_0000 - 10_000));
    let package = [parent.clone(), child.clone()];
    let outcome = node.kernel.accept_package(&package, false).unwrap();
    assert_eq!(outcome.rejection, None);
    assert_eq!(outcome.transactions.len(), 2);
    assert!(outcome.transactions.iter().all(|(_, result)| matches!(result, Acceptance::Accepted(_))), "{outcome:?}");
    assert!(node.kernel.mempool_tx(&parent.compute_txid()).unwrap().is_some());

    let unordered = [child, parent];
    let outcome = node.kernel.accept_package(&unordered, true).unwrap();
    assert_eq!(outcome.rejection.unwrap().reason, "package-not-sorted");
    node.close();
}

#[test]
fn a_reorg_refills_the_mempool() {
    let (_dir, node) = funded(1, &[]);
    let tx = spend_of(&node, 1, 1_000);
    accept(&node, &tx);
    let block = node.mine(1).remove(0);
    assert_eq!(node.kernel.mempool_info().unwrap().count, 0);
    node.rpc("invalidateblock", json!([block]));
    assert!(node.kernel.mempool_tx(&tx.compute_txid()).unwrap().is_some());
    node.close();
}

#[test]
fn a_block_evicts_what_conflicts_with_it() {
    let (_dir, node) = funded(1, &[]);
    let loser = spend_of(&node, 1, 1_000);
    accept(&node, &loser);
    let winner = spend_of(&node, 1, 2_000);
    let block = build::next_block(&node, &[winner]);
    node.kernel.process_block(&serialize(&block), true, true).unwrap();
    assert_eq!(node.kernel.mempool_info().unwrap().count, 0);
    node.wait_for("conflict", |events| {
        events.iter().any(|event| matches!(event, Notification::TxRemoved { txid, reason, .. } if *txid == loser.compute_txid() && reason == "conflict"))
    });
    node.close();
}

#[test]
fn old_transactions_expire_by_the_mock_clock() {
    let (_dir, node) = funded(2, &[]);
    let now = node.kernel.time();
    node.rpc("setmocktime", json!([now]));
    assert_eq!(node.kernel.time(), now);
    let old = spend_of(&node, 1, 1_000);
    accept(&node, &old);
    node.rpc("setmocktime", json!([now + 337 * 3600]));
    accept(&node, &spend_of(&node, 2, 1_000));
    node.wait_for("expiry", |events| {
        events.iter().any(|event| matches!(event, Notification::TxRemoved { txid, reason, .. } if *txid == old.compute_txid() && reason == "expiry"))
    });
    node.close();
}

#[test]
fn the_full_mempool_evicts_the_cheapest() {
    let (_dir, node) = funded(1, &["-maxmempool=5"]);
    // Many outputs, each spent with a large witness... a thousand children of 1,000 vbytes would be slow: pad outputs.
    let value = 50_0000_0000u64;
    let mut fan = build::spend(&[build::coinbase_of(&node, 1)], Amount::ZERO);
    let each = Amount::from_sat((value - 1_000_000) / 90);
    fan.output = vec![bitcoin::TxOut { value: each, script_pubkey: build::script() }; 90];
    accept(&node, &fan);
    node.mine(1);
    let child = |index: u32, fee: u64| {
        let mut tx = build::spend(&[OutPoint::new(fan.compute_txid(), index)], Amount::ZERO);
        let count = 2_200u64;
        let part = Amount::from_sat((each.to_sat() - fee) / count);
        tx.output = vec![bitcoin::TxOut { value: part, script_pubkey: build::script() }; count as usize];
        tx
    };
    let cheap = child(0, 150_000);
    accept(&node, &cheap);
    for index in 1..90 {
        accept(&node, &child(index, 300_000 + u64::from(index) * 1_000));
        if node.kernel.mempool_tx(&cheap.compute_txid()).unwrap().is_none() {
            break;
        }
    }
    node.wait_for("eviction", |events| {
        events.iter().any(|event| matches!(event, Notification::TxRemoved { txid, reason, .. } if *txid == cheap.compute_txid() && reason == "sizelimit"))
    });
    let info = node.kernel.mempool_info().unwrap();
    assert!(info.min_fee_sat_kvb > info.min_relay_sat_kvb);
    node.close();
}

#[test]
fn broadcast_asks_for_relay_until_a_peer_took_it() {
    let (_dir, node) = funded(1, &[]);
    let tx = spend_of(&node, 1, 1_000);
    let txid = tx.compute_txid();
    let too_dear = node.kernel.broadcast(&build::bytes(&tx), Amount::from_sat(10), true).unwrap_err();
    assert_eq!(too_dear.to_string(), "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)");
    node.kernel.broadcast(&build::bytes(&tx), Amount::ZERO, true).unwrap();
    assert!(
        node.events
            .all()
            .iter()
            .any(|event| matches!(event, Notification::RelayTransaction { txid: id, .. } if *id == txid))
    );
    assert_eq!(node.kernel.unbroadcast().unwrap(), [(txid, tx.compute_wtxid())]);
    node.kernel.mark_broadcast(&txid).unwrap();
    assert_eq!(node.kernel.unbroadcast().unwrap(), []);
    assert_eq!(node.kernel.estimate_fee(6, true).unwrap().rate, None);
    node.close();
}
