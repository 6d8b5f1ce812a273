//! What goes wrong: members that are gone, silent or elsewhere, and ends in the middle of a ceremony.

use std::time::{Duration, Instant};

use bitcoin::Amount;
use keyless_node::wallets::WalletManager;
use keyless_p2p::cosigners::memory::Fate;
use keyless_rpc::wallet::backend::Wallets;
use tss_wallet::WalletDb;
use tss_wallet::store::LET_GO;

use crate::node::{Cluster, Node, fund, send};

const ONE: Amount = Amount::ONE_BTC;

#[tokio::test(flavor = "multi_thread")]
async fn with_one_member_gone_sends_go_on_and_with_two_an_error_names_them() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    let peer = |index: usize| cluster.nodes[index].options.identity.peer_id();

    cluster.hub.detach(&peer(1));
    send(&wallet, ONE).await.unwrap();

    cluster.hub.detach(&peer(2));
    let started = Instant::now();
    let error = send(&wallet, ONE).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(error.code, -4);
    assert!(error.message.contains(&peer(1).to_string()) && error.message.contains(&peer(2).to_string()), "{error}");
    let mut held = 0;
    cluster.nodes[0]
        .manager
        .loaded("w")
        .unwrap()
        .wallet()
        .locks()
        .claims()
        .values()
        .for_each(|coins| held += coins.len());
    assert_eq!(held, 0, "coins of a failed payment are free again");

    cluster.hub.attach(&peer(2));
    send(&wallet, ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_costs_two_seconds_once() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    // Whoever of the two others is asked first never answers.
    let silent = std::sync::Arc::new(std::sync::Mutex::new(None));
    let me = cluster.nodes[0].options.identity.peer_id();
    cluster.hub.set_rule(move |from, to, _| {
        let mut silent = silent.lock().unwrap();
        if *from == me && silent.is_none() {
            *silent = Some(*to);
        }
        if *silent == Some(*from) { Fate::Drop } else { Fate::Deliver }
    });
    // A taproot payment may go past it without waiting; the first that must wait for it is the last that does.
    let mut waits = Vec::new();
    for _ in 0..4 {
        let started = Instant::now();
        send(&wallet, ONE).await.unwrap();
        waits.push(started.elapsed());
    }
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(2)), "{waits:?}");
    assert!(waits.iter().filter(|wait| **wait >= Duration::from_secs(1)).count() <= 1, "{waits:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_generation_names_who_is_absent_or_unwilling() {
    let cluster = Cluster::new(3);
    let peer = cluster.nodes[2].options.identity.peer_id();
    cluster.hub.detach(&peer);
    let started = Instant::now();
    let error = cluster.nodes[0].create("w").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(error.message.contains(&peer.to_string()), "{error}");
    cluster.hub.attach(&peer);

    std::fs::create_dir(cluster.nodes[1].options.wallets_dir.join("taken")).unwrap();
    let error = cluster.nodes[0].create("taken").await.unwrap_err();
    assert!(error.message.contains("already has a wallet"), "{error}");

    cluster.nodes[0].create("w").await.unwrap();
    let error = cluster.nodes[1].create("w").await.unwrap_err();
    assert!(error.message.contains("Database already exists"), "{error}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_in_key_generation_leaves_all_or_nothing() {
    for frames in [4, 30, 50, 53, 55, 57, 59, 61, 63] {
        let mut cluster = Cluster::new(3);
        let coordinator = cluster.nodes[0].options.identity.peer_id();
        let hub = cluster.hub.clone();
        let mut seen = 0;
        cluster.hub.set_rule(move |from, to, _| {
            seen += 1;
            if seen > frames && (*from == coordinator || *to == coordinator) { Fate::Drop } else { Fate::Deliver }
        });
        let manager = cluster.nodes[0].manager.clone();
        let request = keyless_rpc::wallet::backend::CreateWallet { name: "w".to_owned(), ..Default::default() };
        let task = tokio::spawn(async move { manager.create(request).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        hub.clear_rule();
        hub.detach(&coordinator);
        let _ = task.await;
        let node = cluster.nodes.remove(0);
        let node = node.restart(&cluster.chain, Some(&hub)).await;
        cluster.nodes.insert(0, node);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // A wallet that became live while the coordinator was away is on its disk, not yet loaded there.
            let mut on_disk = Vec::new();
            for node in &cluster.nodes {
                on_disk.push(node.manager.list_dir().await.unwrap().len());
            }
            let half_made = cluster.nodes.iter().any(|node| node.manager.core().is_some_and(|core| core.has_pending()));
            if !half_made && on_disk.iter().all(|count| *count == on_disk[0]) {
                println!("{frames} frames: {} wallets", on_disk[0]);
                break;
            }
            let pending: Vec<_> =
                cluster.nodes.iter().map(|node| node.manager.core().map(|core| core.has_pending())).collect();
            let lists: Vec<_> = cluster.nodes.iter().map(|node| node.manager.list()).collect();
            assert!(Instant::now() < deadline, "{frames} frames: {on_disk:?}, pending {pending:?}, loaded {lists:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_restarts_signs_again_without_a_command() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let gone = cluster.nodes[1].options.identity.peer_id();
    cluster.hub.detach(&gone);
    let node = cluster.nodes.remove(2);
    let hub = cluster.hub.clone();
    let node = node.restart(&cluster.chain, Some(&hub)).await;
    cluster.nodes.push(node);
    send(&cluster.nodes[0].wallet("w"), ONE).await.unwrap();
    send(&cluster.nodes[2].wallet("w"), ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_open_a_share_does_not_say_that_it_knows_none() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let dirs: Vec<_> = cluster.nodes.iter().map(|node| node.options.wallets_dir.join("w")).collect();
    let shares = |manager: &WalletManager| (manager.core().unwrap().has_pending(), manager.list().len());
    let mut stopped = Vec::new();
    for Node { manager, mut options, dir } in std::mem::take(&mut cluster.nodes) {
        options.load = Vec::new();
        cluster.hub.detach(&options.identity.peer_id());
        manager.shutdown().await;
        stopped.push((dir, options));
    }
    // The second one never saw the end of the key generation, the third one knows nothing of it.
    keyless_node::quorum::holding::unset_complete(&dirs[1]).unwrap();
    std::fs::remove_dir_all(&dirs[2]).unwrap();
    let in_use = WalletDb::open_when_free(&dirs[0].join("db"), LET_GO).unwrap();

    for (dir, options) in stopped {
        cluster.nodes.push(Node::start(&cluster.chain, dir, options, Some(&cluster.hub)));
    }
    // Long enough for several questions.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(shares(&cluster.nodes[1].manager), (true, 0), "the share is kept");

    drop(in_use);
    let first = cluster.nodes.remove(0).restart(&cluster.chain, Some(&cluster.hub.clone())).await;
    cluster.nodes.insert(0, first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while shares(&cluster.nodes[1].manager) != (false, 1) {
        assert!(Instant::now() < deadline, "{:?}", shares(&cluster.nodes[1].manager));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.shutdown().await;
}
