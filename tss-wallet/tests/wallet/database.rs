//! The wallet in its RocksDB: what was promised is there after a restart.

use std::sync::Arc;

use bitcoin::Network;
use tss_wallet::WalletDb;
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::wallet::locks::ClaimId;
use tss_wallet::wallet::{Kind, Wallet, WalletError, WalletOptions, WalletParams};

use crate::support::{BTC, PlainKey, START, Scene, chain};

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
