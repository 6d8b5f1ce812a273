//! Shares back from backups: any t of them after a total loss, and what is refused.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Amount;
use keyless_node::quorum::Policy;
use keyless_p2p::cosigners::memory::Hub;
use keyless_rpc::wallet::backend::Wallets;
use rand::seq::SliceRandom;
use tss_wallet::wallet::keychain::AddressType;

use crate::chain::FakeChain;
use crate::node::{Cluster, Node, fund, send};

const SOME: Amount = Amount::from_sat(100_000);

/// The node again, with its identity and without its wallet.
async fn lose(node: Node, chain: &Arc<FakeChain>, hub: &Hub) -> Node {
    hub.detach(&node.options.identity.peer_id());
    node.manager.shutdown().await;
    let Node { manager, mut options, dir } = node;
    drop(manager);
    options.load.clear();
    let wallet = options.wallets_dir.join("w");
    if wallet.exists() {
        std::fs::remove_dir_all(wallet).unwrap();
    }
    Node::start(chain, dir, options, Some(hub))
}

async fn back_up(cluster: &Cluster, to: &std::path::Path, what: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let file = to.join(format!("{what}-{index}"));
        node.wallet("w").backup(&file).await.unwrap();
        files.push(file);
    }
    files
}

async fn lose_all(cluster: &mut Cluster) {
    for node in std::mem::take(&mut cluster.nodes) {
        cluster.nodes.push(lose(node, &cluster.chain, &cluster.hub).await);
    }
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn restore_error(node: &Node, file: &std::path::Path, force: bool) -> String {
    let error = node.manager.restore("w", file, None, force).await.expect_err("it is refused");
    assert!(!node.options.wallets_dir.join("w").exists(), "nothing is left of it");
    error.message
}

/// `KEYLESS_RESTORES=100`, `contrib/long restores`; a few here.
#[tokio::test(flavor = "multi_thread")]
async fn any_threshold_of_backups_brings_the_wallet_back() {
    let times: usize = std::env::var("KEYLESS_RESTORES").ok().map_or(3, |text| text.parse().unwrap());
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let kept = tempfile::tempdir().unwrap();
    let first = cluster.nodes[0].wallet("w").new_address("", AddressType::Bech32m).await.unwrap();
    let files = back_up(&cluster, kept.path(), "all").await;
    let keys = cluster.nodes[0].wallet("w").quorum().await.unwrap().unwrap();
    for _ in 0..times {
        lose_all(&mut cluster).await;
        let mut chosen = [0, 1, 2];
        chosen.shuffle(&mut rand::thread_rng());
        for index in &chosen[..2] {
            cluster.nodes[*index].manager.restore("w", &files[*index], None, true).await.unwrap();
        }
        let wallet = cluster.nodes[chosen[0]].wallet("w");
        let now = wallet.quorum().await.unwrap().unwrap();
        assert_eq!((now.ecdsa_xpub, now.schnorr_xpub), (keys.ecdsa_xpub.clone(), keys.schnorr_xpub.clone()));
        let script = first.script_pubkey();
        // How far addresses were handed out, one of the two knows; they tell each other.
        wait_for("it is theirs", async || {
            let mut mine = false;
            wallet.read(&mut |ledger| mine = ledger.is_mine(&script));
            mine
        })
        .await;
        wait_for("they sign", async || send(&wallet, SOME).await.is_ok()).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_share_waits_for_others_and_an_older_one_is_refused_while_the_quorum_lives() {
    let mut cluster = Cluster::new(3);
    for node in &cluster.nodes {
        let core = node.manager.core().unwrap();
        core.set_policy(Policy { repairs_itself: false, ..core.policy() });
    }
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let kept = tempfile::tempdir().unwrap();
    let old = back_up(&cluster, kept.path(), "old").await;
    cluster.nodes[1].wallet("w").refresh_shares().await.unwrap();
    let new = back_up(&cluster, kept.path(), "new").await;

    // One disk is lost: the old backup is refused, with force too; the new one is confirmed by the others at once.
    let node = cluster.nodes.remove(0);
    let node = lose(node, &cluster.chain, &cluster.hub).await;
    cluster.nodes.insert(0, node);
    for force in [false, true] {
        let error = restore_error(&cluster.nodes[0], &old[0], force).await;
        assert!(error.contains("it is of epoch 0, and the quorum is in epoch 1"), "{error}");
        assert!(error.contains("repairshare \"w\""), "{error}");
    }
    let error = restore_error(&cluster.nodes[0], &new[1], false).await;
    assert!(error.contains("it may be the copy of another node"), "{error}");
    let mut bytes = std::fs::read(&new[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let flipped = kept.path().join("flipped");
    std::fs::write(&flipped, bytes).unwrap();
    let error = restore_error(&cluster.nodes[0], &flipped, true).await;
    assert!(error.contains("not in recognized format"), "{error}");
    cluster.nodes[0].manager.restore("w", &new[0], None, false).await.unwrap();
    wait_for("it signs", async || send(&cluster.nodes[0].wallet("w"), SOME).await.is_ok()).await;

    // All is lost but old backups: without force each waits for others that are not there, with force they sign.
    lose_all(&mut cluster).await;
    for index in [0, 1] {
        cluster.nodes[index].manager.restore("w", &old[index], None, false).await.unwrap();
    }
    let error = send(&cluster.nodes[0].wallet("w"), SOME).await.unwrap_err();
    assert!(error.message.contains("restored from a backup"), "{error}");
    lose_all(&mut cluster).await;
    for index in [0, 1] {
        cluster.nodes[index].manager.restore("w", &old[index], None, true).await.unwrap();
    }
    wait_for("they sign", async || send(&cluster.nodes[1].wallet("w"), SOME).await.is_ok()).await;
    let epochs: BTreeSet<u64> = [
        cluster.nodes[0].wallet("w").quorum().await.unwrap().unwrap().epoch,
        cluster.nodes[1].wallet("w").quorum().await.unwrap().unwrap().epoch,
    ]
    .into();
    assert_eq!(epochs, BTreeSet::from([0]));
    cluster.shutdown().await;
}

/// Nothing is left of a refused backup, the two others sign as before, and the right one is taken afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_any_bit_flipped_or_of_another_wallet_is_refused_and_nothing_is_lost() {
    use rand::Rng;
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    cluster.nodes[0].create("v").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let kept = tempfile::tempdir().unwrap();
    let good = back_up(&cluster, kept.path(), "w").await[0].clone();
    let other = kept.path().join("v");
    cluster.nodes[0].wallet("v").backup(&other).await.unwrap();

    // While the wallet is there, its place is taken.
    let taken = cluster.nodes[0].manager.restore("w", &good, None, true).await.unwrap_err();
    assert_eq!(taken.code, -36, "{taken}");
    send(&cluster.nodes[0].wallet("w"), SOME).await.unwrap();

    let node = cluster.nodes.remove(0);
    let node = lose(node, &cluster.chain, &cluster.hub).await;
    node.manager.load("v", None).await.unwrap();
    cluster.nodes.insert(0, node);
    let error = restore_error(&cluster.nodes[0], &other, true).await;
    assert!(error.contains("holds the share of this wallet already"), "{error}");
    assert!(cluster.nodes[0].wallet("v").quorum().await.unwrap().is_some());

    let bytes = std::fs::read(&good).unwrap();
    let mut bits: Vec<usize> = (0..24).map(|_| rand::thread_rng().gen_range(0..bytes.len() * 8)).collect();
    bits.extend([0, 70, bytes.len() * 8 - 1]);
    let flipped = kept.path().join("flipped");
    for bit in bits {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&flipped, bytes).unwrap();
        let error = restore_error(&cluster.nodes[0], &flipped, true).await;
        assert!(error.contains("not in recognized format"), "bit {bit}: {error}");
        let check = cluster.nodes[0].manager.verify_backup(&flipped, None).await.unwrap();
        assert!(check.reason.is_some(), "bit {bit}");
    }
    send(&cluster.nodes[1].wallet("w"), SOME).await.unwrap();
    cluster.nodes[0].manager.restore("w", &good, None, false).await.unwrap();
    wait_for("it signs", async || send(&cluster.nodes[0].wallet("w"), SOME).await.is_ok()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_sealed_with_a_passphrase_opens_with_no_other_one() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    cluster.nodes[0].wallet("w").encrypt("right").await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("sealed");
    cluster.nodes[0].wallet("w").backup(&file).await.unwrap();
    for (passphrase, reason) in
        [(None, Some("sealed with a passphrase")), (Some("wrong"), Some("")), (Some("right"), None)]
    {
        let check = cluster.nodes[0].manager.verify_backup(&file, passphrase).await.unwrap();
        assert_eq!(check.reason.is_some(), reason.is_some(), "{passphrase:?}: {:?}", check.reason);
        assert!(check.reason.unwrap_or_default().contains(reason.unwrap_or_default()));
    }
    let node = cluster.nodes.remove(0);
    let node = lose(node, &cluster.chain, &cluster.hub).await;
    cluster.nodes.insert(0, node);
    cluster.nodes[0].manager.restore("w", &file, None, false).await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    assert_eq!(wallet.unlock("wrong", 60).await.unwrap_err().code, -14);
    assert_eq!(send(&wallet, SOME).await.unwrap_err().code, -13);
    // The two others never needed it.
    send(&cluster.nodes[1].wallet("w"), SOME).await.unwrap();
    wallet.unlock("right", 60).await.unwrap();
    wait_for("it signs", async || send(&wallet, SOME).await.is_ok()).await;
    cluster.shutdown().await;
}
