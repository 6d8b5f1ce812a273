//! What goes on while shares are dealt again: payments, without a gap that anyone would notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitcoin::{Amount, ScriptBuf};
use keyless_node::quorum::peer_name;
use keyless_rpc::wallet::backend::WalletHandle;
use tss_wallet::MemberId;

use crate::chain::FakeChain;
use crate::node::{Cluster, fund, send};

const SOME: Amount = Amount::from_sat(10_000);
/// What a switch of epochs may cost.
const SWITCH: Duration = Duration::from_secs(1);
/// Members that work on oblivious transfer leave a payment less of the CPU.
const SLOWER: u32 = 4;
/// A block after so many payments: chains of unconfirmed ones stay short.
const PAYMENTS_OF_BLOCK: usize = 10;

/// How often one was made, and the longest time between two.
struct Paid {
    count: usize,
    gap: Duration,
}

/// Pays one after the other until it is enough. The first failure is the test's.
async fn pay(wallet: &Arc<dyn WalletHandle>, chain: &FakeChain, mut enough: impl FnMut(usize) -> bool) -> Paid {
    let (mut count, mut gap) = (0, Duration::ZERO);
    let mut last = Instant::now();
    while !enough(count) {
        send(wallet, SOME).await.unwrap();
        gap = gap.max(last.elapsed());
        count += 1;
        if count % PAYMENTS_OF_BLOCK == 0 {
            chain.mine(&ScriptBuf::new_op_return([]));
        }
        last = Instant::now();
    }
    Paid { count, gap }
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_go_on_while_shares_are_dealt_again_but_for_the_switch() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let payer = cluster.nodes[1].wallet("w");
    payer.synced().await.unwrap();
    pay(&payer, &cluster.chain, |count| count == 5).await;
    let usual = pay(&payer, &cluster.chain, |count| count == 30).await.gap;
    let members: Vec<String> =
        cluster.nodes.iter().map(|node| peer_name(&MemberId(node.options.identity.public_key()))).collect();
    // A refresh; then all three sign; then two of them again, at another coordinator's word.
    for (what, coordinator, threshold) in
        [("refresh", 0, None), ("reshare to 3 of 3", 0, Some(3)), ("reshare to 2 of 3", 2, Some(2))]
    {
        let over = Arc::new(AtomicBool::new(false));
        let task = {
            let (payer, chain, over) = (Arc::clone(&payer), Arc::clone(&cluster.chain), Arc::clone(&over));
            tokio::spawn(async move { pay(&payer, &chain, |_| over.load(Ordering::Relaxed)).await })
        };
        let wallet = cluster.nodes[coordinator].wallet("w");
        let done = match threshold {
            None => wallet.refresh_shares().await.unwrap(),
            Some(threshold) => wallet.reshare(threshold, &members).await.unwrap(),
        };
        // The others may switch a moment later.
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.store(true, Ordering::Relaxed);
        let Paid { count, gap } = task.await.unwrap();
        println!(
            "{what}: {} ms, {count} payments meanwhile, at most {gap:?} apart (usually {usual:?})",
            done.milliseconds
        );
        assert!(count > 5, "{what}: only {count} payments");
        assert!(gap <= SWITCH + usual * SLOWER, "{what}: no payment for {gap:?}");
    }
    cluster.shutdown().await;
}
