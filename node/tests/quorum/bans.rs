//! Bans: edges between two members that a new epoch does not end, and their operators do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::ScriptBuf;
use keyless_node::quorum::Holding;
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{PendingApproval, WalletHandle};
use tss_wallet::wallet::keychain::AddressType;

use crate::chain::FakeChain;
use crate::guards::funded;
use crate::node::{Cluster, Node};

fn holding(cluster: &Cluster, index: usize) -> Arc<Holding> {
    cluster.nodes[index].manager.core().unwrap().holding_named("w").unwrap()
}

/// Member `one` has seen `other` fail a check.
fn ban(cluster: &Cluster, one: usize, other: usize) {
    let (holding, other) = (holding(cluster, one), cluster.nodes[other].manager.core().unwrap().me());
    holding.ban(holding.index_of(&other).unwrap(), "a failed check".to_owned(), 7).unwrap();
}

async fn legacy(wallet: &Arc<dyn WalletHandle>) -> ScriptBuf {
    wallet.new_address("", AddressType::Legacy).await.unwrap().script_pubkey()
}

/// A signature with the key that bans concern.
async fn sign(wallet: &Arc<dyn WalletHandle>, key: &ScriptBuf) -> Result<String, RpcError> {
    wallet.sign_message(key, "hello").await
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn question(wallet: &Arc<dyn WalletHandle>) -> PendingApproval {
    wait_for("the operator is asked", || !wallet.pending_approvals().unwrap().is_empty()).await;
    wallet.pending_approvals().unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_the_banned_member_asks_for_does_not_end_its_ban() {
    let (mut cluster, mut wallets) = funded().await;
    let key = legacy(&wallets[0]).await;
    ban(&cluster, 1, 0);
    cluster.hub.detach(&cluster.nodes[2].options.identity.peer_id());
    let error = sign(&wallets[0], &key).await.unwrap_err();
    assert!(error.message.contains("the signature failed with it"), "{error}");
    for epoch in [1, 2] {
        assert_eq!(wallets[0].refresh_shares().await.unwrap().epoch, epoch);
        wait_for("the other is in the new epoch too", || u64::from(holding(&cluster, 1).epoch().0) == epoch).await;
        assert_eq!(holding(&cluster, 1).bans().len(), 1);
        let error = sign(&wallets[0], &key).await.unwrap_err();
        assert!(error.message.contains("the signature failed with it"), "{error}");
    }
    // Nor does a restart.
    wallets.clear();
    let hub = cluster.hub.clone();
    let node = cluster.nodes.remove(1).restart(&cluster.chain, Some(&hub)).await;
    cluster.nodes.insert(1, node);
    assert_eq!(holding(&cluster, 1).bans().len(), 1);

    let wallet = cluster.nodes[1].wallet("w");
    let asked = question(&wallet).await;
    assert_eq!(asked.rule, "ban");
    assert!(asked.text.as_ref().unwrap().contains("a failed check"), "{asked:?}");
    wallet.answer_approval(&asked.id, None).await.unwrap();
    wait_for("the ban ends", || holding(&cluster, 1).bans().is_empty()).await;
    sign(&cluster.nodes[0].wallet("w"), &key).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_whose_end_was_refused_and_one_without_a_new_pair_stay() {
    let (cluster, wallets) = funded().await;
    let key = legacy(&wallets[0]).await;
    ban(&cluster, 1, 0);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(wallets[1].pending_approvals().unwrap().is_empty(), "the pair is the one that failed");
    wallets[2].refresh_shares().await.unwrap();
    let asked = question(&wallets[1]).await;
    wallets[1].answer_approval(&asked.id, Some("not yet")).await.unwrap();
    wallets[2].refresh_shares().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(holding(&cluster, 1).bans().len(), 1);
    // The others sign around it.
    sign(&wallets[0], &key).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_cosigners_end_a_ban_by_a_refresh() {
    let chain = Arc::new(FakeChain::new());
    let node = Node::embedded(&chain);
    node.create("w").await.unwrap();
    let wallet = node.wallet("w");
    let key = legacy(&wallet).await;
    let keys = node.manager.loaded("w").unwrap().keys().unwrap();
    let core = keys.quorum.core().clone();
    let other = keys.holding.others().next().unwrap();
    keys.holding.ban(keys.holding.index_of(&other).unwrap(), "a failed check".to_owned(), 7).unwrap();
    wallet.refresh_shares().await.unwrap();
    assert!(core.holding_named("w").unwrap().bans().is_empty());
    sign(&wallet, &key).await.unwrap();
    node.manager.shutdown().await;
}
