//! Ceremonies among members that take their time: a slow one is waited for, and what is void is not computed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyless_node::quorum::wire::Message;
use keyless_p2p::cosigners::PeerId;
use keyless_p2p::cosigners::memory::Fate;

use crate::node::{Cluster, fund, send};
use crate::switch::read;

/// Longer than three members wait for a message that no computation stands before.
const COMPUTES: Duration = Duration::from_secs(17);
/// Frames with the set-up of oblivious transfer are larger.
const SET_UP: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

async fn quorum() -> (Cluster, PeerId) {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let slow = cluster.nodes[2].options.identity.peer_id();
    (cluster, slow)
}

async fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_computes_for_long_is_waited_for() {
    let (cluster, slow) = quorum().await;
    let mut left = 2;
    cluster.hub.set_rule(move |from, _, bytes| {
        if *from == slow && bytes.len() > SET_UP && left > 0 {
            left -= 1;
            return Fate::Delay(COMPUTES);
        }
        Fate::Deliver
    });
    let started = Instant::now();
    let done = cluster.nodes[0].wallet("w").refresh_shares().await.unwrap();
    assert_eq!((done.epoch, done.absent.len()), (1, 0));
    assert!(started.elapsed() > COMPUTES, "nothing was late");
    cluster.shutdown().await;
}

/// What came to the slow member, and went out from it.
#[derive(Default)]
struct Seen {
    held: usize,
    refused: bool,
    rounds: Vec<u8>,
}

/// Two rounds of both others lie before it with the coordinator's word that it is over: the second is not computed, and
/// the next ceremony goes through at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_void_is_not_computed_and_gives_its_place_to_the_next_ceremony() {
    let (cluster, slow) = quorum().await;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let watched = Arc::clone(&seen);
    cluster.hub.set_rule(move |from, to, bytes| {
        let message = read(from, to, bytes).map(|(_, message)| message);
        let mut seen = watched.lock().unwrap();
        match message {
            Some(Message::Protocol(bodies)) if *from == slow => {
                seen.rounds.extend(bodies.iter().filter_map(|body| body.0.first().copied()));
                Fate::Deliver
            }
            Some(Message::Protocol(bodies)) if *to == slow => {
                seen.held += bodies.len();
                Fate::Hold
            }
            Some(Message::Refuse(_)) if *to == slow => {
                seen.refused = true;
                Fate::Hold
            }
            _ => Fate::Deliver,
        }
    });
    let wallet = cluster.nodes[0].wallet("w");
    let task = tokio::spawn(async move { wallet.refresh_shares().await });
    // A broadcast and a message for it alone, from each of two, in each of two rounds.
    wait_for("two rounds of both", || seen.lock().unwrap().held >= 8).await;
    let core = cluster.nodes[0].manager.core().unwrap();
    let session = core.sessions().into_iter().find(|row| row.kind.is_ceremony()).unwrap().id;
    assert!(core.abort_session(&session));
    assert!(task.await.unwrap().is_err());
    wait_for("the word that it is over", || seen.lock().unwrap().refused).await;
    cluster.hub.clear_rule();
    let watched = Arc::clone(&seen);
    cluster.hub.set_rule(move |from, to, bytes| {
        if *from == slow
            && let Some((_, Message::Protocol(bodies))) = read(from, to, bytes)
        {
            watched.lock().unwrap().rounds.extend(bodies.iter().filter_map(|body| body.0.first().copied()));
        }
        Fate::Deliver
    });
    cluster.hub.release();
    let slow_core = cluster.nodes[2].manager.core().unwrap();
    wait_for("its place is free", || slow_core.sessions().iter().all(|row| !row.kind.is_ceremony())).await;
    let rounds = seen.lock().unwrap().rounds.clone();
    assert!(rounds.iter().all(|round| *round < 3), "rounds {rounds:?} were computed for nothing");
    cluster.hub.clear_rule();
    assert_eq!(cluster.nodes[1].wallet("w").refresh_shares().await.unwrap().epoch, 1);
    send(&cluster.nodes[2].wallet("w"), bitcoin::Amount::ONE_BTC).await.unwrap();
    cluster.shutdown().await;
}

/// A member that has just come back may be connected to whoever begins, and not yet to all.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_that_are_connecting_are_waited_for_and_two_that_do_not_are_named() {
    let (cluster, last) = quorum().await;
    let second = cluster.nodes[1].options.identity.peer_id();
    cluster.hub.cut(&second, &last);
    let wallet = cluster.nodes[0].wallet("w");
    let refresh = tokio::spawn(async move { wallet.refresh_shares().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.hub.heal(&second, &last);
    assert_eq!(refresh.await.unwrap().unwrap().epoch, 1);

    cluster.hub.cut(&second, &last);
    let started = Instant::now();
    let error = cluster.nodes[0].wallet("w").refresh_shares().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}: {error}", started.elapsed());
    let named = |peer: &PeerId| error.message.contains(&peer.to_string());
    assert!(named(&second) && named(&last), "{error}");
    let name = keyless_rpc::wallet::backend::CreateWallet { name: "v".to_owned(), ..Default::default() };
    let started = Instant::now();
    let error = keyless_rpc::wallet::backend::Wallets::create(&*cluster.nodes[0].manager, name).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}: {error}", started.elapsed());

    cluster.hub.heal(&second, &last);
    wait_for("the ceremony is over", || cluster.nodes.iter().all(|node| !node.manager.core().unwrap().has_pending()))
        .await;
    assert_eq!(cluster.nodes[2].wallet("w").refresh_shares().await.unwrap().epoch, 2);
    send(&cluster.nodes[1].wallet("w"), bitcoin::Amount::ONE_BTC).await.unwrap();
    cluster.shutdown().await;
}
