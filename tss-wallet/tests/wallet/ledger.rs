//! What the wallet believes it holds, through mempool, blocks and reorganisations.

use bitcoin::{Amount, OutPoint};
use rand::{Rng, SeedableRng};
use tss_wallet::wallet::Wallet;
use tss_wallet::wallet::balance::Balances;
use tss_wallet::wallet::coins::{CoinFilter, CoinState};
use tss_wallet::wallet::feed::{AbandonError, RemovalReason, SendNote};
use tss_wallet::wallet::history::{Category, Replaceable};
use tss_wallet::wallet::keychain::AddressType;

use crate::support::{BTC, Scene, nowhere, to, transaction};

fn balances(wallet: &Wallet) -> (u64, u64, u64) {
    let Balances { trusted, untrusted_pending, immature, .. } = wallet.balances(0, false, false);
    (trusted.to_sat(), untrusted_pending.to_sat(), immature.to_sat())
}

#[test]
fn a_payment_is_pending_in_the_mempool_and_trusted_in_a_block() {
    for kind in AddressType::ALL {
        let mut scene = Scene::new();
        let script = scene.address(kind);
        let tx = scene.foreign(&[(script, 5 * BTC)]);
        scene.hear(&tx);
        assert_eq!(balances(&scene.wallet), (0, 5 * BTC, 0), "{kind}");
        let view = scene.wallet.transaction(&tx.compute_txid()).unwrap();
        assert_eq!((view.confirmations, view.trusted, view.in_mempool), (0, false, true));
        assert!(scene.wallet.unspent(&CoinFilter::default()).is_empty());
        let hash = scene.mine(vec![tx.clone()]);
        assert_eq!(balances(&scene.wallet), (5 * BTC, 0, 0), "{kind}");
        let view = scene.wallet.transaction(&tx.compute_txid()).unwrap();
        let block = view.block.unwrap();
        assert_eq!((view.confirmations, block.hash, block.height, block.index), (1, hash, 1, 1));
        scene.mine_empty(2);
        assert_eq!(scene.wallet.transaction(&tx.compute_txid()).unwrap().confirmations, 3);
        assert_eq!(scene.wallet.balances(4, false, false).trusted, Amount::ZERO);
    }
}

#[test]
fn a_coinbase_is_immature_for_a_hundred_blocks() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Bech32);
    scene.mine_to(script, vec![]);
    let txid = scene.blocks[1].txdata[0].compute_txid();
    let category = |scene: &Scene| {
        let record = scene.wallet.ledger().get(&txid).unwrap();
        scene.wallet.entries(record, false)[0].category
    };
    assert_eq!((balances(&scene.wallet), category(&scene)), ((0, 0, 50 * BTC), Category::Immature));
    scene.mine_empty(99);
    assert_eq!((balances(&scene.wallet), category(&scene)), ((0, 0, 50 * BTC), Category::Immature));
    scene.mine_empty(1);
    assert_eq!((balances(&scene.wallet), category(&scene)), ((50 * BTC, 0, 0), Category::Generate));
    assert_eq!(scene.wallet.unspent(&CoinFilter::default()).len(), 1);
}

#[test]
fn a_coinbase_that_lost_its_block_is_orphaned_with_all_that_spent_it() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Bech32);
    scene.mine_to(script, vec![]);
    let coinbase = scene.blocks[1].txdata[0].compute_txid();
    let child_script = scene.address(AddressType::Bech32);
    scene.mine_empty(100);
    let child = transaction(&[OutPoint::new(coinbase, 0)], &[(child_script, 49 * BTC)]);
    scene.hear(&child);
    assert_eq!(balances(&scene.wallet), (49 * BTC, 0, 0));
    while scene.height() > 0 {
        scene.disconnect();
    }
    assert_eq!(balances(&scene.wallet), (0, 0, 0));
    let record = scene.wallet.ledger().get(&coinbase).unwrap();
    assert!(record.is_abandoned());
    assert_eq!(scene.wallet.entries(record, false)[0].category, Category::Orphan);
    assert!(scene.wallet.ledger().get(&child.compute_txid()).unwrap().is_abandoned());
}

#[test]
fn own_change_is_trusted_before_it_is_confirmed_unless_told_otherwise() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[10 * BTC]);
    let tx = scene.send(BTC);
    let view = scene.wallet.transaction(&tx.compute_txid()).unwrap();
    let fee = u64::try_from(-view.fee.unwrap().to_sat()).unwrap();
    assert!(view.trusted);
    assert_eq!(balances(&scene.wallet), (9 * BTC - fee, 0, 0));
    let options = tss_wallet::wallet::WalletOptions { spend_zero_conf_change: false, ..*scene.wallet.options() };
    let mut strict = Wallet::load(Box::new(scene.store.clone()), options).unwrap();
    strict.mempool_added(&tx, scene.now).unwrap();
    strict.set_tip(scene.wallet.tip());
    assert_eq!(balances(&strict), (0, 9 * BTC - fee, 0));
}

#[test]
fn a_sent_transaction_spends_its_coins_before_the_mempool_has_it_and_until_it_is_abandoned() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32m, &[10 * BTC]);
    let draft = scene.pay(&to(&[(nowhere(9), BTC)]));
    let tx = scene.signed(&draft);
    let note = SendNote { comment: Some("rent".into()), comment_to: Some("landlord".into()), replaces: None };
    let txid = scene.wallet.commit_transaction(&tx, note, scene.now).unwrap();
    assert_eq!(balances(&scene.wallet), (0, 0, 0));
    let all = scene.wallet.balances(0, false, true);
    assert_eq!((all.trusted.to_sat(), all.nonmempool.to_sat()), (10 * BTC, -10 * i64::try_from(BTC).unwrap()));
    let view = scene.wallet.transaction(&txid).unwrap();
    assert_eq!((view.comment.as_deref(), view.comment_to.as_deref()), (Some("rent"), Some("landlord")));
    assert_eq!(view.replaceable, Replaceable::Yes);
    scene.hear(&tx);
    assert!(matches!(scene.wallet.abandon_transaction(txid), Err(AbandonError::NotEligible)));
    scene.wallet.mempool_removed(&tx, RemovalReason::Other, scene.now).unwrap();
    assert_eq!(balances(&scene.wallet), (0, 0, 0));
    scene.wallet.abandon_transaction(txid).unwrap();
    assert_eq!(balances(&scene.wallet), (10 * BTC, 0, 0));
    scene.wallet.abandon_transaction(txid).unwrap();
    assert_eq!(balances(&scene.wallet), (10 * BTC, 0, 0), "a second time changes nothing");
    scene.hear(&tx);
    assert!(!scene.wallet.transaction(&txid).unwrap().abandoned);
}

#[test]
fn a_block_that_spends_our_coins_otherwise_conflicts_with_ours_and_its_children() {
    let mut scene = Scene::new();
    let coins = scene.fund(AddressType::Bech32, &[10 * BTC]);
    let ours = scene.send(BTC);
    let child = scene.send(BTC);
    let other_script = scene.address(AddressType::Bech32);
    let rival = transaction(&coins, &[(other_script, 3 * BTC)]);
    scene.mine(vec![rival.clone()]);
    scene.mine_empty(1);
    for tx in [&ours, &child] {
        let view = scene.wallet.transaction(&tx.compute_txid()).unwrap();
        assert_eq!(view.confirmations, -2);
        assert!(!view.trusted);
    }
    assert_eq!(scene.wallet.transaction(&ours.compute_txid()).unwrap().wallet_conflicts, [rival.compute_txid()]);
    assert_eq!(balances(&scene.wallet), (3 * BTC, 0, 0));
    scene.disconnect();
    scene.disconnect();
    let view = scene.wallet.transaction(&ours.compute_txid()).unwrap();
    assert_eq!((view.confirmations, view.in_mempool), (0, false));
    scene.mine(vec![ours.clone(), child.clone()]);
    assert_eq!(scene.wallet.transaction(&rival.compute_txid()).unwrap().confirmations, -1);
    assert_eq!(scene.wallet.transaction(&child.compute_txid()).unwrap().confirmations, 1);
}

#[test]
fn a_rival_in_the_mempool_frees_our_coins_and_binds_them_again_when_it_leaves() {
    let mut scene = Scene::new();
    let coins = scene.fund(AddressType::Bech32, &[10 * BTC]);
    let ours = scene.send(BTC);
    scene.wallet.mempool_removed(&ours, RemovalReason::Other, scene.now).unwrap();
    let rival = transaction(&coins, &[(nowhere(3), 9 * BTC)]);
    scene.hear(&rival);
    let view = scene.wallet.transaction(&ours.compute_txid()).unwrap();
    assert_eq!(view.mempool_conflicts, [rival.compute_txid()]);
    scene.wallet.mempool_removed(&rival, RemovalReason::Other, scene.now).unwrap();
    assert!(scene.wallet.transaction(&ours.compute_txid()).unwrap().mempool_conflicts.is_empty());
    assert_eq!(scene.wallet.coin_state(coins[0]), CoinState::Spent);
}

#[test]
fn a_reorganisation_moves_a_transaction_to_its_new_block() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Legacy);
    let tx = scene.foreign(&[(script, BTC)]);
    scene.mine(vec![tx.clone()]);
    scene.disconnect();
    assert_eq!(balances(&scene.wallet), (0, 0, 0));
    scene.hear(&tx);
    assert_eq!(balances(&scene.wallet), (0, BTC, 0));
    scene.mine_empty(1);
    let hash = scene.mine(vec![tx.clone()]);
    assert_eq!(scene.wallet.transaction(&tx.compute_txid()).unwrap().block.unwrap().hash, hash);
    assert_eq!(balances(&scene.wallet), (BTC, 0, 0));
}

#[test]
fn a_wallet_opened_again_knows_what_it_knew() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[10 * BTC, BTC]);
    scene.send(2 * BTC);
    scene.mine_empty(1);
    scene.wallet.commit_best_block(scene.wallet.tip().unwrap()).unwrap();
    let mut again = scene.reopened();
    assert_eq!(again.tip(), scene.wallet.tip());
    again.reconcile(|_| true).unwrap();
    let in_mempool: Vec<_> =
        scene.wallet.transactions().filter(|record| record.in_mempool()).map(|record| record.tx.clone()).collect();
    for tx in in_mempool {
        again.mempool_added(&tx, scene.now).unwrap();
    }
    assert_eq!(balances(&again), balances(&scene.wallet));
    let views = |wallet: &Wallet| wallet.transactions().map(|record| wallet.view(record)).collect::<Vec<_>>();
    assert_eq!(views(&again), views(&scene.wallet));
}

#[test]
fn blocks_lost_in_a_crash_leave_their_transactions_unconfirmed() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Bech32);
    let tx = scene.foreign(&[(script, BTC)]);
    let lost = scene.mine(vec![tx.clone()]);
    let mut again = scene.reopened();
    assert_eq!(again.tip().unwrap().height, 0);
    again.reconcile(|hash| *hash != lost).unwrap();
    assert_eq!(again.transaction(&tx.compute_txid()).unwrap().confirmations, 0);
    again.block_connected(&scene.blocks[1], 1, scene.now).unwrap();
    assert_eq!(again.transaction(&tx.compute_txid()).unwrap().confirmations, 1);
}

#[test]
fn a_rescan_finds_what_was_missed_and_takes_the_blocks_time() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::P2shSegwit);
    let tx = scene.foreign(&[(script, BTC)]);
    let store = scene.store.clone();
    scene.mine(vec![tx.clone()]);
    scene.mine_empty(3);
    let mut late = Wallet::load(Box::new(store), *scene.wallet.options()).unwrap();
    let mut fresh = Scene::new();
    let same = fresh.address(AddressType::P2shSegwit);
    assert_eq!(same, tx.output[0].script_pubkey);
    fresh.wallet.set_tip(scene.wallet.tip());
    for (height, block) in (0u32..).zip(&scene.blocks) {
        fresh.wallet.rescan_block(block, height, u64::from(block.header.time), scene.now + 9_999).unwrap();
    }
    let view = fresh.wallet.transaction(&tx.compute_txid()).unwrap();
    assert_eq!((view.confirmations, view.time), (4, u64::from(scene.blocks[1].header.time)));
    assert_eq!(view.time_received, scene.now + 9_999);
    late.reconcile(|_| true).unwrap();
}

#[test]
fn what_was_sent_and_received_is_listed_as_core_lists_it() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Bech32, &[10 * BTC]);
    let own = scene.wallet.new_address("savings", AddressType::Bech32m).unwrap().key.script;
    let draft = scene.pay(&to(&[(nowhere(9), BTC), (own.clone(), 2 * BTC)]));
    let tx = scene.signed(&draft);
    scene.wallet.commit_transaction(&tx, SendNote::default(), scene.now).unwrap();
    scene.hear(&tx);
    let record = scene.wallet.ledger().get(&tx.compute_txid()).unwrap();
    let rows: Vec<_> = scene
        .wallet
        .entries(record, false)
        .into_iter()
        .map(|entry| (entry.category, entry.amount.to_sat(), entry.label, entry.fee.map(|fee| fee.to_sat())))
        .collect();
    let fee = -i64::try_from(draft.fee.to_sat()).unwrap();
    let btc = i64::try_from(BTC).unwrap();
    let mut expected =
        vec![(Category::Send, -btc, None, Some(fee)), (Category::Send, -2 * btc, Some("savings".into()), Some(fee))];
    if tx.output.iter().position(|output| output.script_pubkey == own).unwrap()
        < tx.output.iter().position(|output| output.script_pubkey == nowhere(9)).unwrap()
    {
        expected.swap(0, 1);
    }
    expected.push((Category::Receive, 2 * btc, Some("savings".into()), None));
    assert_eq!(rows, expected);
    assert_eq!(scene.wallet.entries(record, true).len(), 5);
}

#[test]
fn a_clone_of_a_payment_takes_its_notes() {
    let mut scene = Scene::new();
    scene.fund(AddressType::Legacy, &[10 * BTC]);
    let draft = scene.pay(&to(&[(nowhere(9), BTC)]));
    let tx = scene.signed(&draft);
    let note = SendNote { comment: Some("rent".into()), ..SendNote::default() };
    scene.wallet.commit_transaction(&tx, note, scene.now).unwrap();
    let mut clone = tx.clone();
    clone.input[0].script_sig = bitcoin::ScriptBuf::from_bytes(vec![0x51]);
    scene.mine(vec![clone.clone()]);
    let view = scene.wallet.transaction(&clone.compute_txid()).unwrap();
    assert_eq!((view.comment.as_deref(), view.wallet_conflicts), (Some("rent"), vec![tx.compute_txid()]));
    assert_eq!(scene.wallet.transaction(&tx.compute_txid()).unwrap().confirmations, -1);
}

#[test]
fn received_counts_confirmed_payments_by_script() {
    let mut scene = Scene::new();
    let script = scene.address(AddressType::Bech32);
    let first = scene.foreign(&[(script.clone(), BTC)]);
    let second = scene.foreign(&[(script.clone(), 2 * BTC), (nowhere(1), BTC)]);
    scene.mine(vec![first]);
    scene.mine(vec![second]);
    let scripts = [script.clone()].into_iter().collect();
    assert_eq!(scene.wallet.received_by(&scripts, 1, false).to_sat(), 3 * BTC);
    assert_eq!(scene.wallet.received_by(&scripts, 2, false).to_sat(), BTC);
    let tally = &scene.wallet.received(None, 0, false)[&script];
    assert_eq!((tally.confirmations, tally.txids.len()), (1, 2));
}

/// Blocks, mempool and reorganisations at random: the balance is always the sum of what is unspent, and a wallet that
/// hears only the final chain agrees.
#[test]
fn sums_are_exact_after_any_history() {
    for seed in 0..12 {
        let mut scene = Scene::new();
        scene.rng = rand::rngs::StdRng::seed_from_u64(seed);
        scene.fund(AddressType::Bech32, &[5 * BTC, 7 * BTC, BTC / 2]);
        let mut pool: Vec<bitcoin::Transaction> = Vec::new();
        for _ in 0..40 {
            match scene.rng.gen_range(0..6) {
                0 => {
                    let kind = AddressType::ALL[scene.rng.gen_range(0..4)];
                    let script = scene.address(kind);
                    let value = scene.rng.gen_range(1_000..BTC);
                    let tx = scene.foreign(&[(script, value)]);
                    scene.hear(&tx);
                    pool.push(tx);
                }
                1 | 2 => {
                    let value = scene.rng.gen_range(10_000..BTC);
                    let params = to(&[(nowhere(9), value)]);
                    if let Ok(draft) = scene.wallet.create_transaction(&params, &mut scene.rng) {
                        let tx = scene.signed(&draft);
                        scene.wallet.commit_transaction(&tx, SendNote::default(), scene.now).unwrap();
                        scene.hear(&tx);
                        pool.push(tx);
                    }
                }
                3 | 4 => {
                    let txs = std::mem::take(&mut pool);
                    scene.mine(txs);
                }
                _ if scene.height() > 8 => {
                    let block = scene.disconnect();
                    let mut back: Vec<_> = block.txdata[1..].to_vec();
                    for tx in &back {
                        scene.hear(tx);
                    }
                    back.append(&mut pool);
                    pool = back;
                }
                _ => {}
            }
            let held: u64 = scene
                .wallet
                .unspent(&CoinFilter { only_safe: false, ..CoinFilter::default() })
                .iter()
                .map(|coin| coin.output.value.to_sat())
                .sum();
            let (trusted, pending, immature) = balances(&scene.wallet);
            assert_eq!((trusted + pending, immature), (held, 0), "seed {seed}");
        }
        let txs = std::mem::take(&mut pool);
        scene.mine(txs);
        let mut fresh = Scene::new();
        for kind in AddressType::ALL {
            for _ in 0..45 {
                fresh.address(kind);
            }
        }
        for (height, block) in (0u32..).zip(&scene.blocks).skip(1) {
            fresh.wallet.block_connected(block, height, scene.now).unwrap();
        }
        assert_eq!(balances(&fresh.wallet), balances(&scene.wallet), "seed {seed}");
        let received: u64 = fresh.wallet.transactions().map(|record| fresh.wallet.credit(&record.tx).to_sat()).sum();
        let spent: u64 = fresh.wallet.transactions().map(|record| fresh.wallet.debit(&record.tx).to_sat()).sum();
        assert_eq!(received - spent, fresh.trusted(), "seed {seed}");
    }
}
