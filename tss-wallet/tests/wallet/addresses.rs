//! Addresses are handed out once, labelled, and found again.

use bitcoin::OutPoint;
use miniscript::{Descriptor, DescriptorPublicKey};
use tss_wallet::wallet::WalletOptions;
use tss_wallet::wallet::addresses::AddressError;
use tss_wallet::wallet::coins::CoinFilter;
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::wallet::labels::Purpose;

use crate::support::{BTC, Scene, chain, nowhere, to};

#[test]
fn indexes_are_handed_out_once_and_in_order_over_a_restart() {
    let mut scene = Scene::new();
    let bech32 = chain(AddressType::Bech32, Branch::External);
    let first = scene.wallet.new_address("a", AddressType::Bech32).unwrap();
    let second = scene.wallet.new_address("b", AddressType::Bech32).unwrap();
    assert_eq!((first.key.index(), second.key.index()), (0, 1));
    scene.wallet.settle().unwrap();
    let mut again = scene.reopened();
    let third = again.new_address("c", AddressType::Bech32).unwrap();
    assert_eq!(third.key.index(), 2);
    assert_eq!(again.pool_available(bech32), 47);
    assert_eq!(again.address_book().label(&first.key.script), Some("a"));
    assert!(again.is_mine(&second.key.script));
}

#[test]
fn after_a_crash_no_index_is_handed_out_again_and_few_are_lost() {
    let mut scene = Scene::new();
    let bech32 = chain(AddressType::Bech32, Branch::External);
    let given: Vec<u32> =
        (0..3).map(|_| scene.wallet.new_address("a", AddressType::Bech32).unwrap().key.index()).collect();
    assert_eq!(given, [0, 1, 2]);
    assert_eq!(scene.wallet.pool_available(bech32), 47);
    let mut again = scene.reopened();
    let next = again.new_address("b", AddressType::Bech32).unwrap().key.index();
    assert!((3..=32).contains(&next), "{next}");
    // What was set aside never reaches into another coordinator's range.
    for _ in 0..50 - next - 1 {
        again.new_address("c", AddressType::Bech32).unwrap();
    }
    assert!(again.new_address("d", AddressType::Bech32).is_err());
    again.settle().unwrap();
    assert_eq!(again.propose_lease(bech32, 1), 50..51);
}

#[test]
fn a_range_grows_as_cores_does() {
    let mut scene = Scene::with(WalletOptions { keypool_size: 100, ..WalletOptions::default() }, false);
    let shown = |wallet: &tss_wallet::wallet::Wallet| {
        let descriptors = wallet.descriptors();
        let receiving = descriptors.iter().find(|info| info.desc.starts_with("wpkh(") && !info.internal).unwrap();
        (receiving.range.unwrap().1, receiving.next_index)
    };
    assert_eq!(shown(&scene.wallet), (99, 0));
    let first = scene.wallet.new_address("", AddressType::Bech32).unwrap();
    assert_eq!(shown(&scene.wallet), (99, 1), "topped up before it was handed out");
    scene.wallet.new_address("", AddressType::Bech32).unwrap();
    assert_eq!(shown(&scene.wallet), (100, 2));
    scene.wallet.settle().unwrap();
    assert_eq!(shown(&scene.reopened()), (101, 2), "topped up when it is loaded");
    let tx = scene.foreign(&[(first.key.script.clone(), BTC)]);
    scene.hear(&tx);
    let third = scene.wallet.new_address("", AddressType::Bech32).unwrap();
    let tx = scene.foreign(&[(third.key.script, BTC)]);
    scene.hear(&tx);
    assert_eq!(shown(&scene.wallet), (102, 3), "topped up when it is used");
}

#[test]
fn an_address_that_another_coordinator_gave_out_is_not_change_when_it_is_paid() {
    let mut scene = Scene::new();
    let bech32 = chain(AddressType::Bech32, Branch::External);
    scene.wallet.leased_elsewhere(bech32, 50..60).unwrap();
    let lease = scene.wallet.propose_lease(bech32, 10);
    scene.wallet.pool_confirmed(bech32, lease).unwrap();
    (0..55).for_each(|_| drop(scene.wallet.new_address("", AddressType::Bech32).unwrap()));
    let theirs = scene.wallet.keys().derive(KeyId { chain: bech32, index: 52 }).unwrap();
    let tx = scene.foreign(&[(theirs.script.clone(), BTC)]);
    scene.hear(&tx);
    assert!(!scene.wallet.is_change(&theirs.script));
    assert_eq!(scene.wallet.address_book().entry(&theirs.script).unwrap().label.as_deref(), Some(""));
}

#[test]
fn an_empty_pool_asks_for_a_refill_in_cores_words() {
    let mut scene = Scene::new();
    for _ in 0..50 {
        scene.address(AddressType::Legacy);
    }
    let error = scene.wallet.new_address("", AddressType::Legacy).unwrap_err();
    assert!(matches!(error, AddressError::PoolEmpty(_)));
    assert_eq!(error.to_string(), "Error: Keypool ran out, please call keypoolrefill first");
    let legacy = chain(AddressType::Legacy, Branch::External);
    let lease = scene.wallet.propose_lease(legacy, 3);
    assert_eq!(lease, 50..53);
    scene.wallet.pool_confirmed(legacy, lease).unwrap();
    assert_eq!(scene.wallet.new_address("", AddressType::Legacy).unwrap().key.index(), 50);
}

#[test]
fn what_another_coordinator_holds_is_watched_and_never_handed_out() {
    let mut scene = Scene::new();
    let bech32 = chain(AddressType::Bech32, Branch::External);
    scene.wallet.leased_elsewhere(bech32, 50..150).unwrap();
    assert_eq!(scene.wallet.propose_lease(bech32, 10), 150..160);
    scene.wallet.top_up(usize::MAX);
    let theirs = scene.wallet.keys().derive(KeyId { chain: bech32, index: 149 }).unwrap();
    assert!(scene.wallet.is_mine(&theirs.script));
    let tx = scene.foreign(&[(theirs.script, BTC)]);
    scene.mine(vec![tx]);
    assert_eq!(scene.trusted(), BTC);
    assert_eq!(scene.wallet.new_address("", AddressType::Bech32).unwrap().key.index(), 0);
}

#[test]
fn an_address_seen_paid_is_not_handed_out_and_gets_an_empty_label() {
    let mut scene = Scene::new();
    let bech32 = chain(AddressType::Bech32, Branch::External);
    scene.wallet.top_up(usize::MAX);
    let ahead = scene.wallet.keys().derive(KeyId { chain: bech32, index: 4 }).unwrap();
    let tx = scene.foreign(&[(ahead.script.clone(), BTC)]);
    scene.hear(&tx);
    assert_eq!(scene.wallet.new_address("", AddressType::Bech32).unwrap().key.index(), 5);
    let entry = scene.wallet.address_book().entry(&ahead.script).unwrap();
    assert_eq!((entry.label.as_deref(), entry.purpose), (Some(""), Some(Purpose::Receive)));
}

#[test]
fn a_script_of_ours_without_a_label_is_change() {
    let mut scene = Scene::new();
    let change = scene.wallet.change_address(AddressType::Bech32m).unwrap();
    let receiving = scene.address(AddressType::Bech32m);
    assert!(scene.wallet.is_change(&change.key.script));
    assert!(!scene.wallet.is_change(&receiving));
    assert!(!scene.wallet.is_change(&nowhere(1)));
    scene.wallet.set_address_label(&change.key.script, "mine").unwrap();
    scene.wallet.set_address_label(&nowhere(1), "mine").unwrap();
    assert!(!scene.wallet.is_change(&change.key.script));
    assert_eq!(scene.wallet.by_label("mine").len(), 2);
    assert_eq!(scene.wallet.address_book().entry(&nowhere(1)).unwrap().purpose, Some(Purpose::Send));
}

#[test]
fn descriptors_derive_the_same_scripts_elsewhere() {
    let scene = Scene::new();
    let rows = scene.wallet.descriptors();
    assert_eq!(rows.len(), 8);
    for id in ChainId::all() {
        for index in [0, 1, 19, 1_000] {
            let key = scene.wallet.keys().derive(KeyId { chain: id, index }).unwrap();
            let parent = scene.wallet.parent_descriptor(&key).unwrap();
            assert!(rows.iter().any(|row| row.desc == parent && row.internal == id.branch.is_change()));
            let ranged: Descriptor<DescriptorPublicKey> = parent.parse().unwrap();
            let definite = ranged.at_derivation_index(index).unwrap();
            assert_eq!(definite.script_pubkey(), key.script);
            let single: Descriptor<DescriptorPublicKey> =
                tss_wallet::wallet::descriptors::key_descriptor(&key).parse().unwrap();
            assert_eq!(single.at_derivation_index(0).unwrap().script_pubkey(), key.script);
            assert_eq!(key.hdkeypath(), format!("m/{}/1/0/{}/{index}", id.address_type.purpose(), id.branch.number()));
        }
    }
}

#[test]
fn with_avoid_reuse_coins_on_spent_scripts_are_left_aside() {
    let mut scene = Scene::with(WalletOptions { keypool_size: 20, ..WalletOptions::default() }, true);
    let coin = scene.fund(AddressType::Bech32, &[10 * BTC])[0];
    let script = scene.wallet.output(coin).unwrap().script_pubkey.clone();
    let tx = scene.send(BTC);
    let again = scene.foreign(&[(script.clone(), 4 * BTC)]);
    scene.mine(vec![tx, again.clone()]);
    let used = OutPoint::new(again.compute_txid(), 0);
    assert!(scene.wallet.unspent(&CoinFilter::default()).iter().all(|coin| coin.outpoint != used));
    assert_eq!(scene.wallet.balances(0, true, false).used.to_sat(), 4 * BTC);
    let all = CoinFilter { avoid_used: false, ..CoinFilter::default() };
    assert!(scene.wallet.unspent(&all).iter().any(|coin| coin.outpoint == used && coin.reused));
    let mut params = to(&[(nowhere(1), 12 * BTC)]);
    assert!(scene.wallet.create_transaction(&params, &mut scene.rng).is_err());
    params.avoid_reuse = false;
    scene.wallet.create_transaction(&params, &mut scene.rng).unwrap();
}
