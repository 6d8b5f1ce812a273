//! Policies, approvals and the audit log of members, each of which decides for itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Amount;
use keyless_node::quorum::guard::{Guard, GuardError};
use keyless_node::quorum::holding::HoldingError;
use keyless_rpc::wallet::backend::WalletHandle;
use tss_wallet::audit::{self, AuditError, Entry};
use tss_wallet::policy::{Action, Conditions, Limit, Policy, Rule};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, WalletDb};

use crate::node::{Cluster, fund, send};

const ONE: Amount = Amount::ONE_BTC;

/// Strict, but for the age of the tip: the test's blocks are old.
pub fn strict(rules: Vec<Rule>) -> Policy {
    Policy { max_tip_age_seconds: None, rules, ..Policy::strict() }
}

pub fn rule(name: &str, max_amount: Option<Amount>, action: Action) -> Rule {
    Rule { name: name.to_owned(), conditions: Conditions { max_amount, ..Conditions::default() }, action }
}

async fn loaded(cluster: &Cluster, index: usize) -> Arc<dyn WalletHandle> {
    let manager = &cluster.nodes[index].manager;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(handle) = keyless_rpc::wallet::backend::Wallets::get(manager.as_ref(), "w") {
            return handle;
        }
        assert!(Instant::now() < deadline, "the wallet is not loaded on node {index}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A funded wallet of three nodes, as each of them has it.
pub async fn funded() -> (Cluster, Vec<Arc<dyn WalletHandle>>) {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let mut wallets = Vec::new();
    for index in 0..3 {
        wallets.push(loaded(&cluster, index).await);
    }
    fund(&cluster.chain, &wallets[0]).await;
    (cluster, wallets)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_follows_its_own_policy_and_the_coordinator_shows_why() {
    let (cluster, wallets) = funded().await;
    let small = strict(vec![rule("small", Some(ONE), Action::Sign)]);
    wallets[1].set_signing_policy(small.clone()).await.unwrap();
    send(&wallets[0], ONE * 2).await.unwrap();
    wallets[2].set_signing_policy(small).await.unwrap();
    let error = send(&wallets[0], ONE * 2).await.unwrap_err();
    assert_eq!(error.code, -4);
    for index in [1, 2] {
        let peer = cluster.nodes[index].options.identity.peer_id().to_string();
        let shown = format!("{peer} (no rule of its policy allows this)");
        assert!(error.message.contains(&shown), "{error}");
    }
    send(&wallets[0], ONE).await.unwrap();
    // The coordinator is a member too.
    wallets[0].set_signing_policy(strict(Vec::new())).await.unwrap();
    let error = send(&wallets[0], ONE).await.unwrap_err();
    assert!(error.message.contains("this node refuses to sign: no rule of its policy allows this"), "{error}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_two_members_holds_whoever_asks() {
    let (cluster, wallets) = funded().await;
    let limit = Limit { amount: ONE * 3, window_seconds: 24 * 3_600 };
    let policy = Policy { limits: vec![limit], resign: true, ..strict(vec![rule("all", None, Action::Sign)]) };
    for wallet in &wallets {
        wallet.set_signing_policy(policy.clone()).await.unwrap();
    }
    let mut sent = 0;
    for round in 0..8 {
        let wallet = &wallets[round % 3];
        wallet.synced().await.unwrap();
        match send(wallet, ONE).await {
            Ok(_) => sent += 1,
            Err(error) => assert!(error.message.contains("above its limit of"), "{error}"),
        }
    }
    // Any two signers share a member with any other two: 3 members of threshold 2 let through at most 3/2 of the limit,
    // and each payment counts its fee.
    assert!((2..=4).contains(&sent), "{sent}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_waits_for_an_operator_and_goes_when_one_agrees() {
    let (cluster, wallets) = funded().await;
    let asks = strict(vec![rule("small", Some(ONE), Action::Sign), rule("large", None, Action::Ask)]);
    for wallet in &wallets[1..] {
        wallet.set_signing_policy(asks.clone()).await.unwrap();
    }
    let sender = Arc::clone(&wallets[0]);
    let task = tokio::spawn(async move { send(&sender, ONE * 2).await });
    let pending = wait_for_question(&wallets[1]).await;
    assert_eq!(pending.rule, "large");
    assert_eq!(pending.payments[0].amount, ONE * 2);
    assert!(pending.change > Amount::ZERO, "change is proven");
    assert_eq!(pending.coordinator, cluster.nodes[0].options.identity.peer_id().to_string());
    assert!(!task.is_finished());
    // The coordinator hears of it a moment after the operator.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !wallets[0].signing_sessions().iter().any(|row| row.state == "waiting for approval") {
        assert!(Instant::now() < deadline, "{:?}", wallets[0].signing_sessions());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    wallets[1].answer_approval(&pending.id, None).await.unwrap();
    let txid = task.await.unwrap().unwrap();
    assert_eq!(Some(txid), pending.txid);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(wallets[1].answer_approval(&pending.id, None).await.is_err(), "answered once");
    // A member notes the signature once the coordinator has shown it.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let log = wallets[1].audit_log(100, 0).await.unwrap();
        let outcomes: Vec<&str> = log.iter().map(|entry| entry.outcome.as_str()).collect();
        if outcomes.contains(&"ask") && outcomes.contains(&"approve") && outcomes.ends_with(&["signed"]) {
            break;
        }
        assert!(Instant::now() < deadline, "{log:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_payment_fails_with_the_operators_reason() {
    let (cluster, wallets) = funded().await;
    for wallet in &wallets[1..] {
        wallet.set_signing_policy(strict(vec![rule("all", None, Action::Ask)])).await.unwrap();
    }
    let sender = Arc::clone(&wallets[0]);
    let task = tokio::spawn(async move { send(&sender, ONE).await });
    for wallet in &wallets[1..] {
        let pending = wait_for_question(wallet).await;
        wallet.answer_approval(&pending.id, Some("not today")).await.unwrap();
    }
    let error = task.await.unwrap().unwrap_err();
    assert!(error.message.contains("its operator rejected this: not today"), "{error}");
    cluster.shutdown().await;
}

async fn wait_for_question(wallet: &Arc<dyn WalletHandle>) -> keyless_rpc::wallet::backend::PendingApproval {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(pending) = wallet.pending_approvals().unwrap().into_iter().next() {
            return pending;
        }
        assert!(Instant::now() < deadline, "nothing waits for approval");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_outlives_a_restart_and_the_log_is_whole() {
    let (mut cluster, mut wallets) = funded().await;
    let limit = Limit { amount: ONE * 2, window_seconds: 24 * 3_600 };
    let policy = Policy { limits: vec![limit], resign: true, ..strict(vec![rule("all", None, Action::Sign)]) };
    wallets[0].set_signing_policy(policy.clone()).await.unwrap();
    send(&wallets[0], ONE).await.unwrap();
    let before = wallets[0].verify_audit_log().await.unwrap();
    assert_eq!(before.error, None);
    assert!(before.entries >= 3, "{before:?}");
    wallets.clear();
    let node = cluster.nodes.remove(0);
    let hub = cluster.hub.clone();
    let node = node.restart(&cluster.chain, Some(&hub)).await;
    cluster.nodes.insert(0, node);
    let wallet = loaded(&cluster, 0).await;
    assert_eq!(wallet.signing_policy().unwrap().policy, Some(policy));
    assert_eq!(wallet.verify_audit_log().await.unwrap(), before);
    wallet.synced().await.unwrap();
    let error = send(&wallet, ONE).await.unwrap_err();
    assert!(error.message.contains("above its limit of"), "{error}");
    cluster.shutdown().await;
}

#[test]
fn a_guard_that_cannot_be_read_is_not_opened_and_says_which() {
    let entry = Entry {
        time: 1,
        kind: audit::Kind::Policy,
        request: None,
        session: None,
        member: None,
        txid: None,
        outcome: "set".to_owned(),
        detail: String::new(),
    };
    let (first, second) = (audit::key(0), audit::key(1));
    let damaged: [(Family, &[u8], &[u8], GuardError); 9] = [
        (Family::Claims, b"policy", &[0xff], GuardError::Policy),
        (Family::Claims, b"spend/1", &[0], GuardError::Book),
        (Family::Claims, b"approval/1", &[0], GuardError::Approval),
        (Family::Claims, b"fence/2/own", &[0xff], GuardError::Fence),
        (Family::Claims, b"audit-head", &[0xff], GuardError::Audit(AuditError::Missing(0))),
        (Family::Audit, &second, &[], GuardError::Audit(AuditError::Missing(1))),
        (Family::Audit, &second, &[1; 40], GuardError::Audit(AuditError::Unreadable(1))),
        (Family::Audit, &second, b"first", GuardError::Audit(AuditError::Changed(1))),
        (Family::Audit, &first, &[], GuardError::Audit(AuditError::Missing(0))),
    ];
    for (family, key, value, error) in damaged {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(WalletDb::open(dir.path()).unwrap());
        let guard = Guard::open(Arc::clone(&db), bitcoin::Network::Regtest).unwrap();
        guard.log(&entry).unwrap();
        guard.log(&entry).unwrap();
        assert_eq!(guard.verify().unwrap().1, Ok(()));
        let mut batch = Batch::new();
        match value {
            [] => batch.delete(family, key),
            b"first" => batch.put(family, key, db.get(family, &first).unwrap().unwrap().to_vec()),
            _ => batch.put(family, key, value),
        };
        db.write(&batch, Sync::Yes).unwrap();
        drop(guard);
        // Of the log, the last entry alone is read at once.
        let opened = Guard::open(Arc::clone(&db), bitcoin::Network::Regtest);
        match opened {
            Ok(guard) => {
                assert_eq!(key, first, "{error:?}");
                assert_eq!(guard.verify().unwrap().1.map_err(GuardError::Audit), Err(error));
            }
            Err(HoldingError::Guard(_, found)) => assert_eq!(found, error),
            Err(other) => panic!("{other}"),
        }
    }
}
