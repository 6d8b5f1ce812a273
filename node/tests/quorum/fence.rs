//! Members that come back with an old state of their disk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Amount;
use keyless_node::quorum::Holding;
use keyless_rpc::wallet::backend::Wallets;

use crate::node::{Cluster, Node, fund, send};

const SOME: Amount = Amount::from_sat(100_000);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn holding(cluster: &Cluster, index: usize) -> Arc<Holding> {
    cluster.nodes[index].manager.core().unwrap().holding_named("w").unwrap()
}

/// Stops a node, changes its wallet's directory, and starts it again.
async fn stopped(cluster: &mut Cluster, index: usize, repair_shares: bool, change: impl FnOnce(&Path)) {
    let hub = cluster.hub.clone();
    let node = cluster.nodes.remove(index);
    hub.detach(&node.options.identity.peer_id());
    let loaded = node.manager.list();
    node.manager.shutdown().await;
    let Node { manager, mut options, dir } = node;
    drop(manager);
    change(&options.wallets_dir.join("w"));
    (options.load, options.repair_shares) = (loaded, repair_shares);
    let node = Node::start(&cluster.chain, dir, options, Some(&hub));
    cluster.nodes.insert(index, node);
    wait_for("the wallet is loaded", async || cluster.nodes[index].manager.list() == ["w"]).await;
}

/// A quorum whose second member has signed something that it does not remember.
async fn rolled_back(count: usize, repair_shares: bool) -> Cluster {
    let mut cluster = Cluster::new(count);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    for node in &cluster.nodes[..2] {
        node.wallet("w").keypool_refill(Some(20)).await.unwrap();
    }
    send(&cluster.nodes[1].wallet("w"), SOME).await.unwrap();
    let old = tempfile::tempdir().unwrap();
    stopped(&mut cluster, 1, true, |dir| copy(dir, old.path())).await;
    assert!(!holding(&cluster, 1).is_fenced(), "a restart alone fences nobody");
    for _ in 0..2 {
        send(&cluster.nodes[1].wallet("w"), SOME).await.unwrap();
    }
    stopped(&mut cluster, 1, repair_shares, |dir| {
        std::fs::remove_dir_all(dir).unwrap();
        copy(old.path(), dir);
    })
    .await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_rolled_back_takes_part_in_nothing_until_it_has_a_new_share() {
    let cluster = rolled_back(3, false).await;
    wait_for("it is fenced", async || holding(&cluster, 1).is_fenced()).await;
    let forgetful = cluster.nodes[1].wallet("w");
    let what = "it was rolled back to an old state";
    assert!(send(&forgetful, SOME).await.unwrap_err().message.contains(what));
    assert!(forgetful.keypool_refill(Some(60)).await.unwrap_err().message.contains(what));
    assert!(forgetful.refresh_shares().await.unwrap_err().message.contains(what));
    // Nor for others, however many of them tell what they know.
    let third = cluster.nodes[2].options.identity.peer_id();
    cluster.hub.detach(&third);
    let wallet = cluster.nodes[0].wallet("w");
    let refused = [
        send(&wallet, SOME).await.unwrap_err(),
        wallet.keypool_refill(Some(60)).await.unwrap_err(),
        wallet.refresh_shares().await.unwrap_err(),
    ];
    for error in refused {
        assert!(error.message.contains("2 are needed") || error.message.contains(what), "{error}");
    }
    cluster.hub.attach(&third);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(holding(&cluster, 1).is_fenced());
    let error = send(&forgetful, SOME).await.unwrap_err();
    assert!(error.message.contains(what), "{error}");

    wait_for("it is repaired", async || cluster.nodes[1].manager.repair_share("w").await.is_ok()).await;
    assert!(!holding(&cluster, 1).is_fenced());
    let log = forgetful.audit_log(100, 0).await.unwrap();
    assert!(log.iter().any(|entry| entry.kind == "fence" && entry.outcome == "shut"), "{log:?}");
    wait_for("the others follow", async || holding(&cluster, 0).epoch() == holding(&cluster, 1).epoch()).await;
    cluster.hub.detach(&third);
    send(&forgetful, SOME).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_rolled_back_is_repaired_without_a_command() {
    let cluster = rolled_back(3, true).await;
    wait_for("it has a new share", async || holding(&cluster, 1).epoch().0 > 0).await;
    wait_for("it is in force everywhere", async || {
        (0..3).all(|index| holding(&cluster, index).epoch() == holding(&cluster, 1).epoch())
    })
    .await;
    assert!(!holding(&cluster, 1).is_fenced());
    let wallet = cluster.nodes[1].wallet("w");
    wait_for("it says so", async || {
        let log = wallet.audit_log(100, 0).await.unwrap();
        log.iter().any(|entry| entry.kind == "fence" && entry.outcome == "open")
    })
    .await;
    cluster.hub.detach(&cluster.nodes[0].options.identity.peer_id());
    send(&wallet, SOME).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_must_sign_the_one_that_was_rolled_back_deals_for_its_own_repair_alone() {
    let cluster = rolled_back(2, false).await;
    wait_for("it is fenced", async || holding(&cluster, 1).is_fenced()).await;
    let error = cluster.nodes[0].wallet("w").refresh_shares().await.unwrap_err();
    assert!(error.message.contains("2 are needed"), "{error}");
    assert!(send(&cluster.nodes[0].wallet("w"), SOME).await.is_err());
    cluster.nodes[1].manager.repair_share("w").await.unwrap();
    wait_for("they sign", async || send(&cluster.nodes[0].wallet("w"), SOME).await.is_ok()).await;
    cluster.shutdown().await;
}
