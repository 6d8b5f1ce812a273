//! Blocks, headers, undo data, coins, tips.

use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash};
use keyless_kernel::Notification;
use keyless_kernel::chain::BlockVerdictKind;
use serde_json::json;

use crate::support::{Node, build};

#[test]
fn mined_blocks_are_notified_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let hashes = node.mine(3);
    node.kernel.sync_notifications().unwrap();
    let connected: Vec<(u32, String)> = node
        .events
        .all()
        .iter()
        .filter_map(|event| match event {
            Notification::BlockConnected { hash, height, background: false, .. } => Some((*height, hash.to_string())),
            _ => None,
        })
        .filter(|(height, _)| *height > 0)
        .collect();
    let expected: Vec<(u32, String)> = (1..).zip(hashes).collect();
    assert_eq!(connected, expected);
    let tip = node.kernel.tip().unwrap();
    let last = node.events.all().into_iter().rev().find_map(|event| match event {
        Notification::TipChanged { tip, .. } => Some(tip),
        _ => None,
    });
    assert_eq!(last, Some(tip));
    node.close();
}

#[test]
fn a_block_is_processed_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let block = build::next_block(&node, &[]);
    let headers = node.kernel.process_headers(&[block.header], true).unwrap();
    assert_eq!(headers.rejection, None);
    assert_eq!(headers.last.unwrap().hash, block.block_hash());
    assert_eq!(node.kernel.best_header().unwrap().height, 1);
    assert_eq!(node.kernel.missing_blocks(&block.block_hash(), 0, 10).unwrap(), [(1, block.block_hash())]);

    let first = node.kernel.process_block(&serialize(&block), true, true).unwrap();
    assert!(first.accepted && first.new);
    assert_eq!(first.verdict.unwrap().kind, BlockVerdictKind::Valid);
    let second = node.kernel.process_block(&serialize(&block), true, true).unwrap();
    assert!(second.accepted && !second.new);
    assert_eq!(second.verdict, None);
    assert_eq!(node.kernel.tip().unwrap().hash, block.block_hash());
    assert_eq!(node.kernel.missing_blocks(&block.block_hash(), 0, 10).unwrap(), []);
    assert_eq!(node.kernel.read_block(&block.block_hash()).unwrap(), Some(block));
    node.close();
}

#[test]
fn an_accepted_block_may_be_invalid_and_its_verdict_has_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let mut block = build::next_block(&node, &[]);
    block.txdata[0].output[0].value += Amount::ONE_SAT;
    build::seal(&mut block);
    let outcome = node.kernel.process_block(&serialize(&block), true, true).unwrap();
    assert!(outcome.accepted, "accepted for processing");
    let verdict = outcome.verdict.unwrap();
    assert_eq!((verdict.kind, verdict.reason.as_str()), (BlockVerdictKind::Consensus, "bad-cb-amount"));
    assert_eq!(node.kernel.tip().unwrap().height, 0);
    assert!(node.kernel.block_info(&block.block_hash()).unwrap().unwrap().failed);
    assert!(
        node.events.all().iter().any(
            |event| matches!(event, Notification::BlockChecked { verdict, .. } if verdict.reason == "bad-cb-amount")
        )
    );
    node.close();
}

#[test]
fn a_mutated_block_does_not_condemn_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let block = build::next_block(&node, &[]);
    let mut mutated = block.clone();
    mutated.txdata[0].output[0].value -= Amount::ONE_SAT;
    let outcome = node.kernel.process_block(&serialize(&mutated), true, true).unwrap();
    assert!(!outcome.accepted);
    let verdict = outcome.verdict.unwrap();
    assert_eq!((verdict.kind, verdict.reason.as_str()), (BlockVerdictKind::Mutated, "bad-txnmrklroot"));
    let right = node.kernel.process_block(&serialize(&block), true, true).unwrap();
    assert_eq!(right.verdict.unwrap().kind, BlockVerdictKind::Valid);
    node.close();
}

#[test]
fn garbage_is_an_error_and_not_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    assert!(node.kernel.process_block(&[1, 2, 3], true, true).is_err());
    assert!(node.kernel.accept_tx(&[0; 40], false).is_err());
    let mut long = serialize(&build::next_block(&node, &[]));
    long.push(0);
    // What follows a block is not looked at, as in Core.
    node.kernel.process_block(&long, true, true).unwrap();
    assert_eq!(node.kernel.tip().unwrap().height, 1);
    node.close();
}

#[test]
fn undo_data_and_coins_follow_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(101);
    let spent = build::coinbase_of(&node, 1);
    let coin = node.kernel.coin(&spent, false).unwrap().unwrap();
    assert_eq!((coin.output.value, coin.height, coin.coinbase), (Amount::from_sat(50_0000_0000), Some(1), true));

    let tx = build::spend(&[spent], Amount::from_sat(49_9999_0000));
    node.kernel.broadcast(&build::bytes(&tx), Amount::ZERO, false).unwrap();
    let made = bitcoin::OutPoint::new(tx.compute_txid(), 0);
    assert!(node.kernel.coin(&spent, true).unwrap().is_none());
    assert!(node.kernel.coin(&spent, false).unwrap().is_some());
    assert_eq!(node.kernel.coin(&made, true).unwrap().unwrap().height, None);
    assert!(node.kernel.coin(&made, false).unwrap().is_none());

    let hash: BlockHash = node.mine(1)[0].parse().unwrap();
    assert!(node.kernel.coin(&spent, false).unwrap().is_none());
    assert_eq!(node.kernel.coin(&made, false).unwrap().unwrap().height, Some(102));
    assert_eq!(node.kernel.spent_coins(&hash).unwrap(), Some(vec![vec![coin]]));
    let genesis = node.kernel.block_hash(0).unwrap().unwrap();
    assert_eq!(node.kernel.spent_coins(&genesis).unwrap(), Some(vec![]));
    assert_eq!(node.kernel.spent_coins(&BlockHash::all_zeros()).unwrap(), None);
    node.close();
}

#[test]
fn locators_and_headers_meet() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(30);
    let tip = node.kernel.tip().unwrap().hash;
    let locator = node.kernel.locator(&tip).unwrap();
    assert_eq!(locator.first(), Some(&tip));
    let genesis = node.kernel.block_hash(0).unwrap().unwrap();
    assert_eq!(locator.last(), Some(&genesis));
    let none = BlockHash::all_zeros();
    assert_eq!(node.kernel.headers_after(&locator, &none, 2000).unwrap(), []);
    let all = node.kernel.headers_after(&[genesis], &none, 2000).unwrap();
    assert_eq!((all.len(), all[29].block_hash()), (30, tip));
    let tenth = node.kernel.block_hash(10).unwrap().unwrap();
    assert_eq!(node.kernel.headers_after(&[genesis], &tenth, 2000).unwrap().len(), 10);
    assert_eq!(node.kernel.headers_after(&[], &tenth, 2000).unwrap(), [all[9]]);
    assert_eq!(node.kernel.ancestor(&tip, 10).unwrap().unwrap().hash, tenth);
    assert_eq!(node.kernel.block_hash(31).unwrap(), None);
    node.close();
}

#[test]
fn invalidated_and_reconsidered_chains_show_in_tips() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let hashes = node.mine(5);
    node.rpc("invalidateblock", json!([hashes[3]]));
    assert_eq!(node.kernel.tip().unwrap().hash.to_string(), hashes[2]);
    let tips = node.rpc("getchaintips", json!([]));
    let states: Vec<&str> = tips.as_array().unwrap().iter().map(|tip| tip["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["invalid", "active"]);
    let fork = node.kernel.fork_point(&hashes[4].parse().unwrap()).unwrap().unwrap();
    assert_eq!(fork.height, 3);
    node.rpc("reconsiderblock", json!([hashes[3]]));
    assert_eq!(node.kernel.tip().unwrap().hash.to_string(), hashes[4]);
    node.wait_for("disconnected block", |events| {
        events.iter().filter(|event| matches!(event, Notification::BlockDisconnected { .. })).count() == 2
    });
    node.close();
}

#[test]
fn a_template_is_a_valid_block_and_proposals_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(101);
    let tx = build::spend(&[build::coinbase_of(&node, 1)], Amount::from_sat(49_9999_0000));
    node.kernel.broadcast(&build::bytes(&tx), Amount::ZERO, false).unwrap();
    let template = node.rpc("getblocktemplate", json!([{"rules": ["segwit"]}]));
    assert_eq!(template["transactions"][0]["txid"], tx.compute_txid().to_string());
    assert_eq!(template["coinbasevalue"], 50_0000_0000u64 + 1_0000);

    let mut block = build::next_block(&node, &[tx]);
    let hex = bitcoin::consensus::encode::serialize_hex(&block);
    let propose = |hex: &str| node.rpc("getblocktemplate", json!([{"mode": "proposal", "data": hex}]));
    assert_eq!(propose(&hex), json!(null));
    block.txdata[0].output[0].value += Amount::ONE_BTC;
    build::seal(&mut block);
    assert_eq!(propose(&bitcoin::consensus::encode::serialize_hex(&block)), "bad-cb-amount");
    assert_eq!(node.kernel.tip().unwrap().height, 101);
    node.close();
}
