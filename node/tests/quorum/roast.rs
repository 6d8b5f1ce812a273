//! Whom a coordinator of taproot signatures turns to when an attempt does not end, and when there is no room for another.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyless_node::quorum::sessions::{MAX_SESSIONS, MAX_SESSIONS_PER_PEER};
use keyless_node::quorum::wire::Message;
use keyless_node::wallets::WalletOptions;
use keyless_p2p::cosigners::PeerId;
use keyless_p2p::cosigners::memory::Fate;

use crate::chain::FakeChain;
use crate::frames::{self, spend};
use crate::node::Cluster;
use crate::one_round::{funded, pools, sign, until, warm, with_coins};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_let_an_attempt_of_others_pass_is_asked_last_next_time() {
    let (cluster, coins) = funded(4).await;
    let wallet = cluster.nodes[0].wallet("w");
    let peers: Vec<PeerId> = cluster.nodes.iter().map(|node| node.options.identity.peer_id()).collect();
    // Nothing is heard of this one; `Sign` is noted, by its receiver.
    let mute: Arc<Mutex<Option<PeerId>>> = Arc::default();
    let asked: Arc<Mutex<Vec<PeerId>>> = Arc::default();
    let rule = (Arc::clone(&mute), Arc::clone(&asked), peers[0]);
    cluster.hub.set_rule(move |from, to, bytes| {
        let (mute, asked, coordinator) = &rule;
        if from == coordinator && matches!(frames::message(from, to, bytes), Some((_, Message::Sign(_)))) {
            asked.lock().unwrap().push(*to);
        }
        if to == coordinator && mute.lock().unwrap().as_ref() == Some(from) { Fate::Drop } else { Fate::Deliver }
    });
    // The coordinator holds nonces of both, and has heard of both since.
    for (silent, other) in [(2, 1), (1, 2)] {
        *mute.lock().unwrap() = Some(peers[silent]);
        warm(&cluster, coins[0], |cluster| pools(cluster, other).0 > 3).await;
    }
    *mute.lock().unwrap() = None;
    sign(&wallet, spend(coins[1])).await.unwrap();
    for other in [1, 2] {
        cluster.nodes[other].wallet("w").keypool_refill(Some(60)).await.unwrap();
    }
    asked.lock().unwrap().clear();
    sign(&wallet, spend(coins[1])).await.unwrap();
    let first = std::mem::take(&mut *asked.lock().unwrap())[0];
    // Whom it would ask first says nothing: the other one signs, and is asked first from now on.
    *mute.lock().unwrap() = Some(first);
    sign(&wallet, spend(coins[2])).await.unwrap();
    let order = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(order.first(), Some(&first), "as before");
    assert!(order.iter().any(|peer| *peer != first), "beside it another attempt");
    sign(&wallet, spend(coins[3])).await.unwrap();
    let next = asked.lock().unwrap()[0];
    assert_ne!(next, first, "who was overtaken comes last");
    cluster.shutdown().await;
}

/// Attempts that need more sessions than one member may have.
const REQUESTS: usize = MAX_SESSIONS_PER_PEER / 2 + 8;

async fn all_wait_for_room() {
    let patient = |options: &mut WalletOptions| options.signing_timeout = Duration::from_secs(40);
    let (cluster, coins) = with_coins(Cluster::with(FakeChain::new(), 3, patient), REQUESTS).await;
    let wallet = cluster.nodes[0].wallet("w");
    // No answer is heard until the coordinator has no room for another session.
    cluster.hub.set_rule(|from, to, bytes| {
        let share = matches!(frames::message(from, to, bytes), Some((_, Message::Share { .. })));
        if share { Fate::Hold } else { Fate::Deliver }
    });
    let requests: Vec<_> = coins
        .into_iter()
        .map(|coin| {
            let wallet = wallet.clone();
            tokio::spawn(async move { sign(&wallet, spend(coin)).await })
        })
        .collect();
    let core = cluster.nodes[0].manager.core().unwrap().clone();
    let own = || core.sessions().iter().filter(|row| row.coordinator == core.me()).count();
    let started = Instant::now();
    until("every session that it may have is open", || own() == MAX_SESSIONS_PER_PEER).await;
    println!("{} requests have {MAX_SESSIONS_PER_PEER} sessions after {:?}", requests.len(), started.elapsed());
    // Time for those without one to look for room in vain.
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.hub.clear_rule();
    cluster.hub.release();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    drop(core);
    cluster.shutdown().await;
}

#[test]
fn an_attempt_for_which_there_is_no_room_waits_and_ends_no_request() {
    // Three nodes with their sessions in one process.
    let threads = 2 * MAX_SESSIONS;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build();
    runtime.unwrap().block_on(all_wait_for_room());
}
