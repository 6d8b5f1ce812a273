//! Wallets without a quorum: public descriptors taken in, addresses from them, their coins, and all of it kept.

use bitcoin::Network;
use tss_wallet::wallet::descriptors::{branch_descriptor, is_derivable};
use tss_wallet::wallet::imports::{Import, ImportFailure, Imports};
use tss_wallet::wallet::keychain::imported::Scripts;
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::wallet::storage::MemoryStore;
use tss_wallet::wallet::{Kind, Wallet, WalletOptions, WalletParams};

use crate::support::PlainKey;

const OPTIONS: WalletOptions = WalletOptions { keypool_size: 5, spend_zero_conf_change: true };

fn watching(store: &MemoryStore) -> Wallet {
    let params = WalletParams {
        name: "w".into(),
        network: Network::Regtest,
        accounts: Vec::new(),
        birth_time: 1_700_000_000,
        avoid_reuse: false,
        kind: Kind { watch_only: true, blank: false },
    };
    Wallet::create(params, OPTIONS, None, Box::new(store.clone())).unwrap()
}

fn descriptor(kind: AddressType, branch: Branch) -> String {
    let accounts = PlainKey::new(7).accounts();
    branch_descriptor(accounts.iter().find(|account| account.address_type == kind).unwrap(), branch)
}

fn import(desc: &str, ranged: bool) -> Import {
    let body = desc.split('#').next().unwrap().to_owned();
    Import {
        desc: desc.to_owned(),
        scripts: Scripts::Forms(vec![body]),
        timestamp: 1,
        active: ranged,
        internal: false,
        label: String::new(),
        ranged,
        start: 0,
        end: if ranged { 3 } else { 1 },
        next_index: 0,
    }
}

#[test]
fn an_active_import_hands_out_what_the_quorum_would() {
    let store = MemoryStore::default();
    let mut wallet = watching(&store);
    assert!(!wallet.can_hand_out(false));
    for kind in AddressType::ALL {
        assert_eq!(wallet.import(import(&descriptor(kind, Branch::External), true)).unwrap(), Imports::Done);
    }
    let mut scene = crate::support::Scene::new();
    for kind in AddressType::ALL {
        let theirs = wallet.take_imported(kind, false, Some("a")).unwrap().unwrap();
        assert_eq!(theirs, scene.address(kind));
        let known = wallet.keys().imported_script(&theirs).unwrap();
        assert_eq!(known.parent_desc, descriptor(kind, Branch::External));
        assert_eq!(wallet.address_book().label(&theirs), Some("a"));
    }
    assert!(wallet.take_imported(AddressType::Bech32, true, None).unwrap().is_none());
    drop(wallet);
    let again = Wallet::load(Box::new(store), OPTIONS).unwrap();
    assert!(again.kind().watch_only);
    let rows = again.descriptors();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.active && row.next_index == 1 && row.range == Some((0, 5))));
}

#[test]
fn a_range_only_grows() {
    let mut wallet = watching(&MemoryStore::default());
    let desc = descriptor(AddressType::Bech32, Branch::External);
    wallet.import(Import { start: 2, end: 9, next_index: 2, ..import(&desc, true) }).unwrap();
    let smaller = wallet.import(Import { start: 3, end: 9, next_index: 3, ..import(&desc, true) });
    let Err(ImportFailure::Refused(error)) = smaller else { panic!("taken") };
    assert_eq!(error.to_string(), "new range must include current range = [2,8]");
    wallet.import(import(&desc, true)).unwrap_err();
    wallet.import(Import { end: 20, ..import(&desc, true) }).unwrap();
    assert_eq!(wallet.descriptors()[0].range, Some((0, 19)));
}

#[test]
fn scripts_without_a_descriptor_are_watched_and_not_solvable() {
    let mut wallet = watching(&MemoryStore::default());
    let script = crate::support::Scene::new().address(AddressType::Legacy);
    let desc = "addr(x)#abc";
    assert!(!is_derivable("addr(x)"));
    let request = Import { scripts: Scripts::Fixed(vec![script.clone()]), label: "cold".into(), ..import(desc, false) };
    wallet.import(request).unwrap();
    assert!(wallet.is_mine(&script));
    assert_eq!(wallet.address_book().label(&script), Some("cold"));
    assert!(wallet.keys().spending(&script).is_none());
    assert_eq!(wallet.keys().imported_script(&script).unwrap().desc, None);
    assert_eq!(wallet.descriptors()[0].range, None);
}
