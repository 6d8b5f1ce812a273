//! What users do: make wallets, receive, send, sign, restart.

use std::sync::Arc;
use std::time::Instant;

use bitcoin::Amount;
use keyless_rpc::wallet::backend::{SendNote, Wallets};
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
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    let address = wallet.new_address("", AddressType::Bech32).await.unwrap();
    let note = SendNote { idempotency_key: Some("invoice 7".to_owned()), ..SendNote::default() };
    let request = payment(address.script_pubkey(), Amount::from_int_btc(1));
    let first = wallet.send(&request, &note).await.unwrap();
    let second = wallet.send(&request, &note).await.unwrap();
    assert_eq!(first.txid, second.txid);
    assert_eq!(chain.mempool_len(), 1);
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
