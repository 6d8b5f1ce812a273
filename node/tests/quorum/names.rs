//! Payments with a name of their own: made once, at whichever member, however often.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, ScriptBuf, Txid};
use keyless_node::wallets::ChainView;
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{SendNote, WalletHandle};
use tss_wallet::MemberId;
use tss_wallet::policy::Action;

use crate::guards::{funded, rule, strict};
use crate::node::payment;

const ONE: Amount = Amount::ONE_BTC;

async fn pay(wallet: &Arc<dyn WalletHandle>, amount: Amount) -> Result<Txid, RpcError> {
    let script = ScriptBuf::new_p2wsh(&ScriptBuf::new().wscript_hash());
    let note = SendNote { idempotency_key: Some("invoice 7".to_owned()), ..SendNote::default() };
    Ok(wallet.send(&payment(script, amount), &note).await?.txid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_reply_was_lost_is_the_answer_of_every_member() {
    let (cluster, wallets) = funded().await;
    let txid = pay(&wallets[0], ONE).await.unwrap();
    for wallet in [&wallets[1], &wallets[2], &wallets[0]] {
        assert_eq!(pay(wallet, ONE).await.unwrap(), txid);
    }
    // Whoever made it is away now.
    cluster.hub.detach(&cluster.nodes[0].options.identity.peer_id());
    for wallet in &wallets[1..] {
        assert_eq!(pay(wallet, ONE).await.unwrap(), txid);
    }
    assert_eq!(cluster.chain.mempool_len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_bound_to_coins_that_another_payment_had_taken() {
    let (cluster, wallets) = funded().await;
    let coins: Vec<_> = {
        let loaded = cluster.nodes[0].manager.loaded("w").unwrap();
        let wallet = loaded.wallet();
        wallet.ledger().open_coins().map(|(coin, _)| coin).collect()
    };
    let holding = |node: usize| cluster.nodes[node].manager.core().unwrap().holding_named("w").unwrap();
    let members: Vec<_> = cluster.nodes.iter().map(|node| MemberId(node.options.identity.public_key())).collect();
    let nobodys = Txid::from_byte_array([7; 32]);
    let taken: Vec<_> = [(1, 2), (2, 1)]
        .map(|(node, by)| holding(node).take_coins(members[by], nobodys, &coins[1..]).unwrap())
        .into_iter()
        .collect();
    let txid = pay(&wallets[0], ONE).await.unwrap();
    let made = cluster.chain.mempool_transaction(&txid).unwrap();
    assert_eq!(made.input.iter().map(|input| input.previous_output).collect::<Vec<_>>(), coins[..1]);
    assert_eq!(holding(0).payment("invoice 7").unwrap().inputs, coins[..1]);
    drop(taken);
    assert_eq!(pay(&wallets[1], ONE).await.unwrap(), txid);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_asked_for_at_all_members_at_once_is_made_once() {
    let (cluster, wallets) = funded().await;
    let tasks: Vec<_> = wallets
        .iter()
        .chain(&wallets)
        .map(|wallet| {
            let wallet = Arc::clone(wallet);
            tokio::spawn(async move { pay(&wallet, ONE).await })
        })
        .collect();
    let mut made = BTreeSet::new();
    for task in tasks {
        made.insert(task.await.unwrap().unwrap());
    }
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(cluster.chain.mempool_len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_at_another_member_spends_a_coin_of_the_attempt_that_failed() {
    let (cluster, wallets) = funded().await;
    for wallet in &wallets[1..] {
        wallet.set_signing_policy(strict(Vec::new())).await.unwrap();
    }
    pay(&wallets[0], ONE).await.unwrap_err();
    let tried: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.manager.core().unwrap().holding_named("w").unwrap().payment("invoice 7").unwrap())
        .collect();
    assert!(tried.iter().all(|attempt| *attempt == tried[0]), "all have heard of it: {tried:?}");
    for wallet in &wallets[1..] {
        wallet.set_signing_policy(strict(vec![rule("all", None, Action::Sign)])).await.unwrap();
    }
    let txid = pay(&wallets[2], ONE).await.unwrap();
    assert_ne!(txid, tried[0].txid);
    let made = cluster.chain.mempool_transaction(&txid).unwrap();
    assert!(made.input.iter().any(|input| tried[0].inputs.contains(&input.previous_output)));
    for wallet in &wallets {
        assert_eq!(pay(wallet, ONE).await.unwrap(), txid);
    }
    assert_eq!(cluster.chain.mempool_len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_member_keeps_delays_others_and_stops_nobody() {
    let (cluster, wallets) = funded().await;
    let core = cluster.nodes[1].manager.core().unwrap().clone();
    let holding = core.holding_named("w").unwrap();
    let (send, held) = std::sync::mpsc::channel();
    let keeper = tokio::task::spawn_blocking(move || {
        let lease =
            keyless_node::quorum::names::lease(&core, &holding, "invoice 7", std::time::Duration::from_secs(60));
        send.send(()).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(20));
        drop(lease.unwrap());
    });
    tokio::task::spawn_blocking(move || held.recv().unwrap()).await.unwrap();
    let started = std::time::Instant::now();
    let txid = pay(&wallets[0], ONE).await.unwrap();
    assert!(started.elapsed() >= cluster.nodes[0].options.signing_timeout, "{:?}", started.elapsed());
    assert_eq!(pay(&wallets[0], ONE).await.unwrap(), txid);
    keeper.await.unwrap();
    cluster.shutdown().await;
}
