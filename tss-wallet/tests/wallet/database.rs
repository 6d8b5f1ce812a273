//! The wallet in its RocksDB: what was promised is there after a restart.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bitcoin::Network;
use tss_wallet::WalletDb;
use tss_wallet::wallet::keychain::stored::ROW_KEYS;
use tss_wallet::wallet::keychain::{AddressType, Branch, KeyId};
use tss_wallet::wallet::locks::ClaimId;
use tss_wallet::wallet::storage::{Durability, Storage as _, Table, Write};
use tss_wallet::wallet::{Kind, Wallet, WalletError, WalletOptions, WalletParams};

use crate::support::{BTC, PlainKey, START, Scene, chain};

/// What a folder takes of its disk, which is more than is written where room was set aside.
fn taken_mib(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap());
    files.map(|file| file.blocks() * 512).sum::<u64>() / (1 << 20)
}

#[test]
fn a_database_takes_little_disk_before_anything_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = WalletDb::open(dir.path()).unwrap();
    assert!(taken_mib(dir.path()) <= 8, "{} MiB", taken_mib(dir.path()));
    drop(db);
    let _db = WalletDb::open(dir.path()).unwrap();
    assert!(taken_mib(dir.path()) <= 8, "{} MiB", taken_mib(dir.path()));
}

#[test]
fn a_wallet_in_a_database_is_opened_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalletOptions { keypool_size: 5, ..WalletOptions::default() };
    let mut scene = Scene::new();
    let (address, tip, coin) = {
        let db = Arc::new(WalletDb::open(dir.path()).unwrap());
        assert!(matches!(Wallet::load(Box::new(Arc::clone(&db)), options), Err(WalletError::Absent)));
        let params = WalletParams {
            name: "kept".into(),
            network: Network::Regtest,
            accounts: PlainKey::new(7).accounts(),
            birth_time: START,
            avoid_reuse: true,
            kind: Kind::default(),
        };
        let mut wallet = Wallet::create(params, options, None, Box::new(db)).unwrap();
        wallet.pool_confirmed(chain(AddressType::Bech32, Branch::External), 0..3).unwrap();
        let address = wallet.new_address("rent", AddressType::Bech32).unwrap();
        let tx = scene.foreign(&[(address.key.script.clone(), BTC)]);
        let coin = bitcoin::OutPoint::new(tx.compute_txid(), 0);
        let block = scene.block(crate::support::nowhere(1), vec![tx]);
        wallet.block_connected(&block, 0, START).unwrap();
        wallet.claim(&[coin], ClaimId([3; 32])).unwrap();
        let tip = wallet.tip().unwrap();
        wallet.commit_best_block(tip).unwrap();
        wallet.settle().unwrap();
        (address, tip, coin)
    };
    let db = Arc::new(WalletDb::open(dir.path()).unwrap());
    assert!(Wallet::exists(&db).unwrap());
    let mut wallet = Wallet::load(Box::new(db), options).unwrap();
    assert_eq!((wallet.name(), wallet.tip(), wallet.avoid_reuse()), ("kept", Some(tip), true));
    assert_eq!(wallet.address_book().label(&address.key.script), Some("rent"));
    assert_eq!(wallet.balances(0, false, false).trusted.to_sat(), BTC);
    assert_eq!(wallet.locks().claims()[&ClaimId([3; 32])], [coin].into());
    assert_eq!(wallet.new_address("", AddressType::Bech32).unwrap().key.index(), 1);
}

#[test]
fn scripts_that_were_derived_are_read_from_the_disk_and_a_damaged_row_is_derived_again() {
    let wide = WalletOptions { keypool_size: ROW_KEYS + 50, ..WalletOptions::default() };
    let narrow = WalletOptions { keypool_size: 20, ..WalletOptions::default() };
    let mut scene = Scene::with(wide, false);
    // What changes next in the ledger takes the rows to the disk.
    let mut last = Vec::new();
    for kind in AddressType::ALL {
        let id = KeyId { chain: chain(kind, Branch::External), index: ROW_KEYS - 1 };
        last.push(scene.wallet.keys().derive(id).unwrap());
        let tx = scene.foreign(&[(last.last().unwrap().script.clone(), BTC)]);
        scene.mine(vec![tx]);
    }
    // Those that were paid to look ahead from there: their second rows are full, too.
    let mut rows = scene.store.rows(Table::Script).unwrap();
    assert_eq!(rows.len(), 12);
    rows.retain(|(key, _)| key.ends_with(&0_u32.to_be_bytes()));
    assert_eq!(rows.len(), 8, "a first row of each chain");

    let open = || Wallet::load(Box::new(scene.store.clone()), narrow).unwrap();
    let known = |wallet: &Wallet| last.iter().filter(|key| wallet.keys().key_of(&key.script) == Some(key.id)).count();
    let wallet = open();
    assert_eq!(known(&wallet), 4);
    for (key, again) in last.iter().zip(last.iter().map(|key| wallet.keys().derive_anew(key.id))) {
        assert_eq!(again.as_ref(), Some(key), "what is stored is what is derived");
    }

    // A flipped bit, a row cut short, a row under the key of another: none is believed.
    let put = |key: &[u8], value: Vec<u8>| {
        let write = Write { table: Table::Script, key: key.to_vec(), value: Some(value) };
        scene.store.write(&[write], Durability::Promise).unwrap();
    };
    let total = wallet.lookahead_pending();
    for (n, (key, value)) in rows.iter().enumerate().take(3) {
        let mut bad = value.clone();
        match n {
            0 => bad[100] ^= 1,
            1 => bad.truncate(bad.len() - 1),
            _ => bad.clone_from(&rows[3].1),
        }
        put(key, bad);
        let mut wallet = open();
        assert!(wallet.top_up(usize::MAX));
        assert_eq!(known(&wallet), 4, "its scripts are derived");
        put(key, value.clone());
    }
    assert_eq!(open().lookahead_pending(), total);
}
