//! What users do: make wallets, receive, send, sign, restart.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, ScriptBuf, Transaction, Txid};
use keyless_node::wallets::ChainView;
use keyless_rpc::wallet::backend::{BumpRequest, FeeChoice, FeeRate, Replacement, SendNote, WalletHandle, Wallets};
use tss_wallet::wallet::keychain::AddressType;

use crate::chain::FakeChain;
use crate::node::{Cluster, Node, fund, payment, send};

#[tokio::test(flavor = "multi_thread")]
async fn embedded_cosigners_make_a_wallet_that_receives_and_sends_from_every_type() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    let started = Instant::now();
    node.create("w").await.unwrap();
    println!("createwallet: {:?}", started.elapsed());
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    assert_eq!(node.balance("w").await, Amount::from_int_btc(200));
    for _ in 0..4 {
        let started = Instant::now();
        send(&wallet, Amount::from_int_btc(40)).await.unwrap();
        println!("send: {:?}", started.elapsed());
    }
    assert_eq!(chain.mempool_len(), 4);
    let address = wallet.new_address("", AddressType::Bech32m).await.unwrap();
    chain.mine(&address.script_pubkey());
    let left = node.balance("w").await;
    assert!(left < Amount::from_int_btc(40) && left > Amount::from_int_btc(39), "{left}");
    let legacy = wallet.new_address("", AddressType::Legacy).await.unwrap();
    assert_eq!(wallet.sign_message(&legacy.script_pubkey(), "hello").await.unwrap().len(), 88);
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_wallet_is_the_same_after_unload_and_restart() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    fund(&chain, &node.wallet("w")).await;
    node.manager.unload("w", None).await.unwrap();
    assert!(node.manager.get("w").is_none());
    node.manager.load("w", None).await.unwrap();
    assert_eq!(node.balance("w").await, Amount::from_int_btc(200));
    send(&node.wallet("w"), Amount::from_int_btc(1)).await.unwrap();
    let node = node.restart(&chain, None).await;
    assert!(node.balance("w").await < Amount::from_int_btc(199));
    send(&node.wallet("w"), Amount::from_int_btc(1)).await.unwrap();
    assert_eq!(chain.mempool_len(), 2);
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_made_on_one_node_is_on_all_and_each_coordinates() {
    let cluster = Cluster::new(3);
    let started = Instant::now();
    cluster.nodes[0].create("w").await.unwrap();
    println!("createwallet over three nodes: {:?}", started.elapsed());
    for node in &cluster.nodes {
        assert_eq!(node.manager.list(), ["w"]);
    }
    fund(&cluster.chain, &cluster.nodes[1].wallet("w")).await;
    for node in &cluster.nodes {
        assert_eq!(node.balance("w").await, Amount::from_int_btc(200));
    }
    for node in &cluster.nodes {
        send(&node.wallet("w"), Amount::from_int_btc(10)).await.unwrap();
    }
    assert_eq!(cluster.chain.mempool_len(), 3);
    assert!(cluster.chain.startup().contains(&"w".to_owned()));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_coordinators_hand_out_one_address() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let tasks = cluster.nodes.iter().map(|node| {
        let wallet = node.wallet("w");
        tokio::spawn(async move {
            let mut addresses = Vec::new();
            for _ in 0..25 {
                addresses.push(wallet.new_address("", AddressType::Bech32).await.unwrap().to_string());
            }
            addresses
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap());
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    // Every member sees what is paid to another one's address.
    let address = cluster.nodes[2].wallet("w").new_address("", AddressType::Bech32m).await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let request = payment(address.script_pubkey(), Amount::from_int_btc(3));
    cluster.nodes[0].wallet("w").send(&request, &SendNote::default()).await.unwrap();
    for node in &cluster.nodes {
        let wallet = node.wallet("w");
        wallet.synced().await.unwrap();
        let mut mine = false;
        wallet.read(&mut |ledger| mine = ledger.is_mine(&address.script_pubkey()));
        assert!(mine);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_idempotency_key_pays_once() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    // The id of a transaction with older coins changes as it is signed.
    for kind in AddressType::ALL {
        let name = format!("{kind:?}");
        node.create(&name).await.unwrap();
        let wallet = node.wallet(&name);
        let own = wallet.new_address("", kind).await.unwrap();
        chain.mine(&own.script_pubkey());
        (0..100).for_each(|_| drop(chain.mine(&ScriptBuf::new_op_return([]))));
        wallet.synced().await.unwrap();
        let before = chain.mempool_len();
        let address = wallet.new_address("", AddressType::Bech32).await.unwrap();
        let note = SendNote { idempotency_key: Some("invoice 7".to_owned()), ..SendNote::default() };
        let request = payment(address.script_pubkey(), Amount::from_int_btc(1));
        let first = wallet.send(&request, &note).await.unwrap();
        let second = wallet.send(&request, &note).await.unwrap();
        assert_eq!(first.txid, second.txid, "{kind:?}");
        assert_eq!(chain.mempool_len(), before + 1);
    }
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_mined_before_its_sender_hears_that_it_was_taken_stays_confirmed() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    chain.mine_at_once();
    for _ in 0..3 {
        let txid = send(&wallet, Amount::from_int_btc(1)).await.unwrap();
        wallet.synced().await.unwrap();
        let mut confirmations = None;
        wallet.read(&mut |ledger| confirmations = ledger.confirmations(&txid));
        assert_eq!(confirmations, Some(1));
    }
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_learns_of_payments_and_labels() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let hub = cluster.hub.clone();
    let away = cluster.nodes.remove(2);
    let coins = away.balance("w").await;
    let peer = away.options.identity.peer_id();
    hub.detach(&peer);
    let told = cluster.nodes[0].wallet("w").new_address("told", AddressType::Bech32).await.unwrap();
    send(&cluster.nodes[0].wallet("w"), coins - Amount::ONE_BTC).await.unwrap();
    hub.attach(&peer);

    let deadline = Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let mut label = None;
        away.wallet("w").read(&mut |ledger| label = ledger.label(&told.script_pubkey()));
        if label.as_deref() == Some("told") && away.balance("w").await < Amount::ONE_BTC {
            break;
        }
        assert!(Instant::now() < deadline, "{label:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let error = send(&away.wallet("w"), Amount::from_int_btc(8)).await.unwrap_err();
    assert_eq!(error.message, "Insufficient funds");
    cluster.nodes.push(away);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_of_all_members_at_once_spend_no_coin_twice() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let sends = cluster.nodes.iter().flat_map(|node| {
        let wallet = node.wallet("w");
        (0..4).map(move |_| {
            let wallet = wallet.clone();
            tokio::spawn(async move { send(&wallet, Amount::ONE_BTC).await })
        })
    });
    for sent in sends.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(cluster.chain.mempool_len(), 12);
    cluster.shutdown().await;
}

/// Names of what lies in a directory.
fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_wallet_is_one_file_that_may_be_put_elsewhere() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    let wallets = node.options.wallets_dir.clone();
    node.create("deep/w").await.unwrap();
    fund(&chain, &node.wallet("deep/w")).await;
    node.manager.unload("deep/w", None).await.unwrap();
    assert_eq!(entries(&wallets.join("deep/w")), ["wallet.dat"]);
    std::fs::rename(wallets.join("deep/w/wallet.dat"), wallets.join("wallet.dat")).unwrap();
    std::fs::remove_dir_all(wallets.join("deep")).unwrap();
    node.manager.load("", None).await.unwrap();
    assert_eq!(
        node.manager.list_dir().await.unwrap().iter().map(|found| found.name.as_str()).collect::<Vec<_>>(),
        [""]
    );
    assert_eq!(node.balance("").await, Amount::from_int_btc(200));
    send(&node.wallet(""), Amount::from_int_btc(1)).await.unwrap();
    node.manager.unload("", None).await.unwrap();
    assert_eq!(entries(&wallets), ["wallet.dat"]);
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_of_a_wallet_file_is_the_wallet() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    let dir = node.options.wallets_dir.join("w");
    node.create("w").await.unwrap();
    fund(&chain, &node.wallet("w")).await;
    node.manager.unload("w", None).await.unwrap();
    let packed = std::fs::read(dir.join("wallet.dat")).unwrap();
    // Cut while it was opened: half unpacked, the file set aside.
    std::fs::rename(dir.join("wallet.dat"), dir.join("wallet.dat.part")).unwrap();
    std::fs::create_dir_all(dir.join("cosigner-2/db")).unwrap();
    std::fs::write(dir.join("identity"), "half").unwrap();
    let node = node.restart(&chain, None).await;
    node.manager.load("w", None).await.unwrap();
    assert_eq!(node.balance("w").await, Amount::from_int_btc(200));
    // Cut while it was closed, before the directory gave way: the directory is the wallet.
    std::fs::write(dir.join("wallet.dat.part"), &packed[..packed.len() / 2]).unwrap();
    node.manager.unload("w", None).await.unwrap();
    node.manager.load("w", None).await.unwrap();
    assert_eq!(node.balance("w").await, Amount::from_int_btc(200));
    // Put beside a wallet that was not closed: nobody can tell which is meant.
    std::fs::write(dir.join("wallet.dat"), &packed).unwrap();
    node.manager.unload("w", None).await.unwrap();
    assert_eq!(entries(&dir), ["wallet.dat"], "closing replaces it");
    let mut damaged = packed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join("wallet.dat"), damaged).unwrap();
    let error = node.manager.load("w", None).await.unwrap_err();
    assert!(error.message.ends_with("Data is not in recognized format."), "{}", error.message);
    assert_eq!(entries(&dir), ["wallet.dat"]);
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_replaced_once_by_one_that_pays_more() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    let nowhere = ScriptBuf::new_p2wsh(&ScriptBuf::new().wscript_hash());
    let request = payment(nowhere, Amount::from_int_btc(3));
    let first = wallet.send(&request, &SendNote::default()).await.unwrap().txid;
    let bump = BumpRequest {
        txid: first,
        fee: FeeChoice::Rate { rate: FeeRate { sat_per_kvb: 50_000 }, override_min: false },
        rbf: true,
        outputs: Vec::new(),
        change_index: None,
    };
    let old = chain.mempool_transaction(&first).unwrap();
    let Replacement::Unsigned(draft) = wallet.bump(&bump, true).await.unwrap().replacement else { panic!("sent") };
    assert_eq!(draft.input[0].previous_output, old.input[0].previous_output);
    assert_eq!(chain.mempool_len(), 1, "a draft is not sent");
    let bumped = wallet.bump(&bump, false).await.unwrap();
    let Replacement::Sent(second) = bumped.replacement else { panic!("not sent") };
    assert!(bumped.fee > bumped.old_fee && bumped.errors.is_empty());
    let new = chain.mempool_transaction(&second).unwrap();
    assert_eq!((chain.mempool_len(), new.input[0].previous_output), (1, old.input[0].previous_output));
    let paid = |tx: &Transaction| tx.output.iter().map(|output| output.value).max();
    assert!(paid(&new) < paid(&old), "the change pays for it");
    let again = wallet.bump(&bump, false).await.unwrap_err();
    let text = format!("Cannot bump transaction {first} which was already bumped by transaction {second}");
    assert_eq!((again.code, again.message), (-4, text));
    let unknown = BumpRequest { txid: Txid::all_zeros(), ..bump.clone() };
    assert_eq!(wallet.bump(&unknown, false).await.unwrap_err().message, "Invalid or non-wallet transaction id");
    let poor = BumpRequest {
        txid: second,
        fee: FeeChoice::Rate { rate: FeeRate { sat_per_kvb: 50_000 }, override_min: false },
        ..bump.clone()
    };
    let poor = wallet.bump(&poor, false).await.unwrap_err();
    assert!(poor.code == -8 && poor.message.starts_with("Insufficient total fee "), "{}", poor.message);
    chain.mine(&ScriptBuf::new_op_return([]));
    wallet.synced().await.unwrap();
    let late = wallet.bump(&BumpRequest { txid: second, ..bump }, false).await.unwrap_err();
    assert!(late.code == -1 && late.message.ends_with(" is already spent"), "{}", late.message);
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_wallet_watches_the_same_addresses_and_signs_nothing() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    let file = node.dir.path().join("watch.dat");
    wallet.export_watch_only(&file).await.unwrap();
    assert!(wallet.export_watch_only(&file).await.is_err(), "it is there already");
    node.manager.restore("watch", &file, None, false).await.unwrap();
    let watch = node.wallet("watch");
    assert!(!watch.settings().private_keys_enabled);
    assert_eq!(node.balance("watch").await, Amount::from_int_btc(200));
    for kind in AddressType::ALL {
        let (theirs, ours) = (watch.new_address("", kind).await.unwrap(), wallet.new_address("", kind).await.unwrap());
        assert_eq!(theirs, ours);
    }
    let gone = wallet.send(&payment(ours(&wallet).await, Amount::from_int_btc(1)), &SendNote::default()).await;
    watch.synced().await.unwrap();
    watch.forget(gone.unwrap().txid).await.unwrap();
    assert_eq!(node.balance("watch").await, Amount::from_int_btc(200), "it is as if it had not been seen");
    assert!(watch.forget(Txid::all_zeros()).await.unwrap_err().message.ends_with("does not belong to this wallet"));
    let elsewhere = Node::embedded(&Arc::new(FakeChain::on(bitcoin::Network::Signet)));
    let refused = elsewhere.manager.restore("watch", &file, None, false).await.unwrap_err();
    assert!(refused.message.ends_with("It is a wallet of another chain."), "{}", refused.message);
    elsewhere.manager.shutdown().await;
    node.manager.shutdown().await;
}

async fn ours(wallet: &Arc<dyn WalletHandle>) -> ScriptBuf {
    wallet.new_address("", AddressType::Bech32).await.unwrap().script_pubkey()
}
