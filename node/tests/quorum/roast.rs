//! What a coordinator of taproot signatures does when there is no room for another attempt.

use std::time::{Duration, Instant};

use keyless_node::quorum::sessions::{MAX_SESSIONS, MAX_SESSIONS_PER_PEER};
use keyless_node::quorum::wire::Message;
use keyless_node::wallets::WalletOptions;
use keyless_p2p::cosigners::memory::Fate;

use crate::chain::FakeChain;
use crate::frames::{self, spend};
use crate::node::Cluster;
use crate::one_round::{sign, until, with_coins};

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
