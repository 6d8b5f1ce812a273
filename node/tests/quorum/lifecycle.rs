//! The life of shares: dealt again to the same members, to others, to one that lost its own. The addresses stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Amount;
use keyless_node::quorum::{Policy, peer_name};
use keyless_p2p::cosigners::memory::Fate;
use keyless_rpc::wallet::backend::{CreateWallet, QuorumSpec, WalletHandle, Wallets};
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::AddressType;

use crate::chain::FakeChain;
use crate::node::{Cluster, Node, fund, send};

const ONE: Amount = Amount::ONE_BTC;

fn member(cluster: &Cluster, index: usize) -> MemberId {
    MemberId(cluster.nodes[index].options.identity.public_key())
}

fn name(cluster: &Cluster, index: usize) -> String {
    peer_name(&member(cluster, index))
}

async fn epoch(node: &Node) -> u64 {
    node.wallet("w").quorum().await.unwrap().unwrap().epoch
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The three xpubs and a known address: what must never change.
async fn identity_of(wallet: &Arc<dyn WalletHandle>) -> (String, String) {
    let quorum = wallet.quorum().await.unwrap().unwrap();
    (quorum.ecdsa_xpub, quorum.schnorr_xpub)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_keeps_addresses_and_signs_from_every_type() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    let before = identity_of(&wallet).await;
    let done = wallet.refresh_shares().await.unwrap();
    println!("refreshshares over three nodes: {} ms", done.milliseconds);
    assert_eq!((done.epoch, done.absent.len(), done.helpers.len()), (1, 0, 3));
    assert_eq!(identity_of(&wallet).await, before);
    for node in &cluster.nodes {
        wait_for("all are in the new epoch", async || epoch(node).await == 1).await;
        send(&node.wallet("w"), Amount::from_int_btc(40)).await.unwrap();
    }
    // And again, by another coordinator.
    assert_eq!(cluster.nodes[2].wallet("w").refresh_shares().await.unwrap().epoch, 2);
    send(&wallet, Amount::from_int_btc(40)).await.unwrap();
    cluster.shutdown().await;
}

/// A refresh without the third of three nodes; it is back when this returns.
async fn slept(cluster: &Cluster, repairs_itself: bool) {
    let core = cluster.nodes[2].manager.core().unwrap();
    core.set_policy(Policy { repairs_itself, ..core.policy() });
    let sleeper = cluster.nodes[2].options.identity.peer_id();
    cluster.hub.detach(&sleeper);
    let done = cluster.nodes[0].wallet("w").refresh_shares().await.unwrap();
    assert_eq!(done.absent, [name(cluster, 2)]);
    send(&cluster.nodes[0].wallet("w"), ONE).await.unwrap();
    cluster.hub.attach(&sleeper);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_slept_through_a_refresh_is_told_and_comes_back_by_repair() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    slept(&cluster, false).await;
    let stale = cluster.nodes[2].wallet("w");
    wait_for("it is told why", async || {
        let error = send(&stale, ONE).await.unwrap_err();
        error.message.contains("the quorum is in epoch 1: run repairshare \"w\" here")
    })
    .await;
    let error = stale.refresh_shares().await.unwrap_err();
    assert!(error.message.contains("run repairshare \"w\" here"), "{error}");
    let repaired = cluster.nodes[2].manager.repair_share("w").await.unwrap();
    assert_eq!((repaired.epoch, repaired.absent.len()), (2, 0));
    cluster.hub.detach(&cluster.nodes[0].options.identity.peer_id());
    wait_for("the others follow", async || epoch(&cluster.nodes[1]).await == 2).await;
    send(&stale, ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_slept_through_a_refresh_comes_back_without_a_command() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    slept(&cluster, true).await;
    for node in &cluster.nodes {
        wait_for("all are in one epoch again", async || epoch(node).await == 2).await;
    }
    cluster.hub.detach(&cluster.nodes[0].options.identity.peer_id());
    send(&cluster.nodes[2].wallet("w"), ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_regtest_a_repair_waits_for_the_operator_of_each_helper() {
    let cluster = Cluster::over(FakeChain::on(bitcoin::Network::Signet), 3);
    cluster.nodes[0].create("w").await.unwrap();
    let core = cluster.nodes[2].manager.core().unwrap();
    core.set_policy(Policy { repairs_itself: false, ..core.policy() });
    let sleeper = cluster.nodes[2].options.identity.peer_id();
    cluster.hub.detach(&sleeper);
    cluster.nodes[0].wallet("w").refresh_shares().await.unwrap();
    cluster.hub.attach(&sleeper);
    let refused = async || cluster.nodes[2].manager.repair_share("w").await.unwrap_err().message;
    wait_for("it is refused for want of approvals", async || refused().await.contains("has not approved this yet"))
        .await;
    for index in [0, 1] {
        let wallet = cluster.nodes[index].wallet("w");
        let waiting = wallet.pending_approvals().unwrap();
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        assert_eq!(waiting[0].rule, "roster change");
        assert!(refused().await.contains(&name(&cluster, index)));
        wallet.answer_approval(&waiting[0].id, None).await.unwrap();
    }
    wait_for("it is repaired", async || cluster.nodes[2].manager.repair_share("w").await.is_ok()).await;
    for node in &cluster.nodes {
        wait_for("all are in the new epoch", async || epoch(node).await == 2).await;
        let log = node.wallet("w").audit_log(100, 0).await.unwrap();
        assert!(log.iter().any(|entry| entry.kind == "shares" && entry.outcome == "dealt"), "{log:?}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_refreshed_when_their_time_has_come() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    for node in &cluster.nodes {
        let core = node.manager.core().unwrap();
        core.set_policy(Policy { refresh_interval: Some(Duration::from_secs(4)), ..core.policy() });
    }
    for node in &cluster.nodes {
        // Time goes by with the blocks of this chain.
        wait_for("an epoch of its own", async || {
            cluster.chain.mine(&bitcoin::ScriptBuf::new_op_return([]));
            epoch(node).await >= 1
        })
        .await;
    }
    for node in &cluster.nodes {
        let core = node.manager.core().unwrap();
        core.set_policy(Policy { refresh_interval: None, ..core.policy() });
    }
    wait_for("it signs", async || send(&cluster.nodes[1].wallet("w"), ONE).await.is_ok()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_for_a_refresh_are_named_within_two_seconds() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    for index in [1, 2] {
        cluster.hub.detach(&cluster.nodes[index].options.identity.peer_id());
    }
    let started = Instant::now();
    let error = cluster.nodes[0].wallet("w").refresh_shares().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(error.code, -4);
    assert!(error.message.contains(&name(&cluster, 1)) && error.message.contains(&name(&cluster, 2)), "{error}");
    assert_eq!(epoch(&cluster.nodes[0]).await, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_leaves_and_another_joins_with_all_coins() {
    let cluster = Cluster::new(4);
    let three: BTreeSet<MemberId> = (0..3).map(|index| member(&cluster, index)).collect();
    for index in 0..3 {
        let core = cluster.nodes[index].manager.core().unwrap();
        let cosigners = three.iter().copied().filter(|other| *other != core.me()).collect();
        core.set_policy(Policy { cosigners, ..core.policy() });
    }
    let quorum =
        QuorumSpec { members: Some((0..3).map(|index| name(&cluster, index)).collect()), ..QuorumSpec::default() };
    let request = CreateWallet { name: "w".to_owned(), quorum: Some(quorum), ..CreateWallet::default() };
    cluster.nodes[0].manager.create(request).await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    let before = identity_of(&wallet).await;
    let policy = cluster.nodes[0].manager.core().unwrap().policy();
    let cosigners = [1, 2, 3].into_iter().map(|index| member(&cluster, index)).collect();
    cluster.nodes[0].manager.core().unwrap().set_policy(Policy { cosigners, ..policy });
    let next: Vec<String> = [0, 1, 3].into_iter().map(|index| name(&cluster, index)).collect();
    let done = wallet.reshare(2, &next).await.unwrap();
    println!("resharequorum to three of four nodes: {} ms", done.milliseconds);
    assert_eq!((done.epoch, done.threshold, done.members.len()), (1, 2, 3));
    wait_for("the new member has the wallet", async || cluster.nodes[3].manager.list() == ["w"]).await;
    wait_for("the one that left has it no more", async || cluster.nodes[2].manager.list().is_empty()).await;
    let joined = cluster.nodes[3].wallet("w");
    assert_eq!(identity_of(&joined).await, before);
    assert_eq!(cluster.nodes[3].balance("w").await, Amount::from_int_btc(200));
    cluster.hub.detach(&cluster.nodes[1].options.identity.peer_id());
    for _ in 0..4 {
        send(&joined, Amount::from_int_btc(40)).await.unwrap();
    }
    cluster.shutdown().await;
}

/// Three members with coins, and the last of them, which is not among them any more, without its disk.
async fn with_a_lost_disk() -> (Cluster, Node) {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let lost = cluster.nodes.remove(2);
    cluster.hub.detach(&lost.options.identity.peer_id());
    lost.manager.shutdown().await;
    let Node { manager, options, dir } = lost;
    drop(manager);
    std::fs::remove_dir_all(options.wallets_dir.join("w")).unwrap();
    let node = Node::start(&cluster.chain, dir, options, Some(&cluster.hub));
    assert!(node.manager.list().is_empty());
    (cluster, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_ceremony_does_not_wait_until_a_new_members_wallet_has_read_the_chain() {
    let (mut cluster, node) = with_a_lost_disk().await;
    cluster.chain.hold_blocks(true);
    assert_eq!(node.manager.repair_share("w").await.unwrap().epoch, 1);
    cluster.nodes.push(node);
    let core = Arc::clone(cluster.nodes[2].manager.core().unwrap());
    assert!(core.holding_named("w").is_some() && cluster.nodes[2].manager.list().is_empty());
    for coordinator in [0, 1] {
        cluster.nodes[coordinator].wallet("w").refresh_shares().await.unwrap();
    }
    assert_eq!(core.holding_named("w").unwrap().epoch(), tss_wallet::Epoch(3));
    assert!(cluster.nodes[2].manager.list().is_empty(), "the chain was held");
    cluster.chain.hold_blocks(false);
    wait_for("the wallet is back", async || cluster.nodes[2].manager.list() == ["w"]).await;
    assert_eq!(cluster.nodes[2].balance("w").await, Amount::from_int_btc(200));
    send(&cluster.nodes[2].wallet("w"), ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_a_ceremony_had_only_begun_is_no_wallet_and_stops_no_repair() {
    let (mut cluster, node) = with_a_lost_disk().await;
    drop(tss_wallet::WalletDb::open(&node.options.wallets_dir.join("w/db")).unwrap());
    assert_eq!(node.manager.repair_share("w").await.unwrap().epoch, 1);
    cluster.nodes.push(node);
    wait_for("the wallet is back", async || cluster.nodes[2].manager.list() == ["w"]).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_disk_gets_its_share_back() {
    let (mut cluster, node) = with_a_lost_disk().await;
    let hub = cluster.hub.clone();
    let repaired = node.manager.repair_share("w").await.unwrap();
    assert_eq!(repaired.epoch, 1);
    cluster.nodes.push(node);
    wait_for("the wallet is back", async || cluster.nodes[2].manager.list() == ["w"]).await;
    assert_eq!(cluster.nodes[2].balance("w").await, Amount::from_int_btc(200));
    hub.detach(&cluster.nodes[0].options.identity.peer_id());
    send(&cluster.nodes[2].wallet("w"), ONE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_refreshes_settle_and_the_epoch_is_one() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let tasks: Vec<_> = cluster.nodes[..2]
        .iter()
        .map(|node| {
            let wallet = node.wallet("w");
            tokio::spawn(async move { wallet.refresh_shares().await.map(|done| done.epoch) })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        made.extend(task.await.unwrap());
    }
    let highest = *made.iter().max().expect("one of them went through");
    for node in &cluster.nodes {
        wait_for("one epoch", async || epoch(node).await == highest).await;
    }
    for node in &cluster.nodes {
        send(&node.wallet("w"), ONE).await.unwrap();
    }
    cluster.shutdown().await;
}

/// One member is cut off at some message of a refresh, then restarted. `KEYLESS_CUTS=200` for many, anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_cut_off_at_any_message_of_a_refresh_leaves_one_epoch_that_signs() {
    use rand::Rng;
    let many: usize = std::env::var("KEYLESS_CUTS").ok().map_or(0, |text| text.parse().unwrap());
    // The rounds of test signatures and of the certificate are the last of some seventy frames.
    let mut cuts = vec![(0, 36), (0, 62), (1, 66), (2, 68)];
    cuts.extend((0..many).map(|_| (rand::thread_rng().gen_range(0..3), rand::thread_rng().gen_range(1..76))));
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    for (cut, frames) in cuts {
        let away = cluster.nodes[cut].options.identity.peer_id();
        let hub = cluster.hub.clone();
        let mut seen = 0;
        cluster.hub.set_rule(move |from, to, _| {
            seen += 1;
            if seen > frames && (*from == away || *to == away) { Fate::Drop } else { Fate::Deliver }
        });
        let before = epoch(&cluster.nodes[0]).await;
        let wallet = cluster.nodes[0].wallet("w");
        let task = tokio::spawn(async move { wallet.refresh_shares().await.is_ok() });
        tokio::time::sleep(Duration::from_millis(3_000)).await;
        hub.clear_rule();
        hub.detach(&away);
        let finished = task.await.unwrap();
        let node = cluster.nodes.remove(cut).restart(&cluster.chain, Some(&hub)).await;
        cluster.nodes.insert(cut, node);
        let mut epochs = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(45);
        loop {
            epochs.clear();
            for node in &cluster.nodes {
                epochs.push(epoch(node).await);
            }
            if epochs.iter().all(|epoch| *epoch == epochs[0]) {
                break;
            }
            assert!(Instant::now() < deadline, "{cut} cut off after {frames} frames: {epochs:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{cut} cut off after {frames} frames: finished {finished}, epochs {before} to {epochs:?}");
        for node in &cluster.nodes {
            let wallet = node.wallet("w");
            wait_for("it signs", async || send(&wallet, Amount::from_sat(50_000)).await.is_ok()).await;
        }
    }
    let before = epoch(&cluster.nodes[1]).await;
    assert!(cluster.nodes[1].wallet("w").refresh_shares().await.unwrap().epoch > before);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_member_takes_part_in_nothing_until_it_is_resumed() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    // Enough addresses for change: it is the signature that is looked at.
    for index in [0, 1] {
        cluster.nodes[index].wallet("w").keypool_refill(Some(20)).await.unwrap();
    }
    wallet.suspend(&name(&cluster, 1), Some("stolen laptop")).await.unwrap();
    let shown = wallet.quorum().await.unwrap().unwrap();
    assert!(shown.members.iter().any(|member| member.suspended && member.peerid == name(&cluster, 1)));
    send(&wallet, ONE).await.unwrap();
    cluster.hub.detach(&cluster.nodes[2].options.identity.peer_id());
    let error = send(&wallet, ONE).await.unwrap_err();
    assert!(error.message.contains("suspended here"), "{error}");
    let error = send(&cluster.nodes[1].wallet("w"), ONE).await.unwrap_err();
    assert!(error.message.contains("has suspended"), "{error}");
    assert_eq!(wallet.suspend("12D3KooW", None).await.unwrap_err().code, -5);
    wallet.suspend(&name(&cluster, 1), None).await.unwrap();
    send(&wallet, ONE).await.unwrap();
    // One's own share.
    wallet.suspend(&name(&cluster, 0), Some("holiday")).await.unwrap();
    assert!(send(&wallet, ONE).await.is_err());
    assert!(send(&cluster.nodes[1].wallet("w"), ONE).await.unwrap_err().message.contains("has suspended"));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_cosigners_refresh_and_change_their_threshold_and_open_again() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    fund(&chain, &wallet).await;
    let quorum = wallet.quorum().await.unwrap().unwrap();
    let members: Vec<String> = quorum.members.iter().map(|member| member.peerid.clone()).collect();
    assert_eq!(wallet.refresh_shares().await.unwrap().epoch, 1);
    let done = wallet.reshare(3, &members).await.unwrap();
    assert_eq!((done.epoch, done.threshold), (2, 3));
    send(&wallet, Amount::from_int_btc(40)).await.unwrap();
    let error = wallet.reshare(1, &members).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (-8, "Invalid quorum: threshold 1 is below 2"));
    drop(wallet);
    node.manager.unload("w", None).await.unwrap();
    node.manager.load("w", None).await.unwrap();
    let wallet = node.wallet("w");
    assert_eq!(wallet.quorum().await.unwrap().unwrap().epoch, 2);
    send(&wallet, Amount::from_int_btc(40)).await.unwrap();
    let address = wallet.new_address("", AddressType::Bech32m).await.unwrap();
    chain.mine(&address.script_pubkey());
    node.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_deletes_its_share_leaves_a_quorum_that_goes_on() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let dir = cluster.nodes[2].options.wallets_dir.join("w");
    cluster.nodes[2].manager.delete_share("w", false).await.unwrap();
    assert!(!dir.exists() && cluster.nodes[2].manager.list().is_empty());
    wait_for("two are left", async || epoch(&cluster.nodes[0]).await == 1).await;
    send(&cluster.nodes[0].wallet("w"), ONE).await.unwrap();
    // Two of two cannot go on with one.
    let error = cluster.nodes[1].manager.delete_share("w", false).await.unwrap_err();
    assert_eq!(error.code, -8);
    assert!(error.message.contains("at least 2 members"), "{error}");
    cluster.nodes[1].manager.delete_share("w", true).await.unwrap();
    assert!(send(&cluster.nodes[0].wallet("w"), ONE).await.is_err());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_proven_without_restoring_it_and_an_old_one_is_told_from_a_good_one() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let file = cluster.nodes[0].dir.path().join("w.backup");
    let wallet = cluster.nodes[0].wallet("w");
    wallet.backup(&file).await.unwrap();
    let check = cluster.nodes[0].manager.verify_backup(&file, None).await.unwrap();
    assert_eq!((check.reason.as_deref(), check.epoch, check.wallet.as_deref()), (None, Some(0), Some("w")));
    let other = cluster.nodes[1].manager.verify_backup(&file, None).await.unwrap();
    assert!(other.reason.is_some());
    wallet.refresh_shares().await.unwrap();
    let old = cluster.nodes[0].manager.verify_backup(&file, None).await.unwrap();
    assert!(old.reason.unwrap().contains("it is of epoch 0, and the quorum is in epoch 1"));
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let flipped = cluster.nodes[0].manager.verify_backup(&file, None).await.unwrap();
    assert!(flipped.reason.unwrap().contains("not in recognized format"));
    let left: Vec<_> = std::fs::read_dir(&cluster.nodes[0].options.keyless_dir).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("verify-")));
    cluster.shutdown().await;
}
