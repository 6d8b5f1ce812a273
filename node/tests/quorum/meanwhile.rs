//! What goes on while shares are dealt again: payments, without a gap that anyone would notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitcoin::{Amount, ScriptBuf};
use keyless_node::quorum::{Core, peer_name};
use keyless_rpc::wallet::backend::WalletHandle;
use tss_wallet::{Epoch, MemberId};

use crate::chain::FakeChain;
use crate::node::{Cluster, fund, send};

const SOME: Amount = Amount::from_sat(10_000);
/// What a switch of epochs may cost.
const SWITCH: Duration = Duration::from_secs(1);
/// Between two looks at the members' epochs.
const LOOK: Duration = Duration::from_millis(1);
/// A block after so many payments: chains of unconfirmed ones stay short.
const PAYMENTS_OF_BLOCK: usize = 10;

/// When a payment began and when it was made.
type Paid = (Instant, Instant);

/// Pays one after the other until it is enough. The first failure is the test's.
async fn pay(wallet: &Arc<dyn WalletHandle>, chain: &FakeChain, mut enough: impl FnMut(usize) -> bool) -> Vec<Paid> {
    let mut paid = Vec::new();
    while !enough(paid.len()) {
        let began = Instant::now();
        send(wallet, SOME).await.unwrap();
        paid.push((began, Instant::now()));
        if paid.len() % PAYMENTS_OF_BLOCK == 0 {
            chain.mine(&ScriptBuf::new_op_return([]));
        }
    }
    paid
}

fn longest<'a>(paid: impl IntoIterator<Item = &'a Paid>) -> Duration {
    paid.into_iter().map(|(began, made)| *made - *began).max().unwrap_or_default()
}

/// When the first member came to the next epoch, and when the last one did.
fn watch(cores: &[Arc<Core>]) -> (Instant, Instant) {
    let epochs = || cores.iter().map(|core| core.holding_named("w").unwrap().epoch()).collect::<Vec<Epoch>>();
    let before = epochs();
    let mut first = None;
    loop {
        let now = epochs();
        if now != before {
            let first = *first.get_or_insert_with(Instant::now);
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                return (first, Instant::now());
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// A payment is not told from the others of its ceremony by more than the switch may cost, and members are apart no
/// longer. All of one ceremony share the CPU with it, so that they are compared with each other.
#[tokio::test(flavor = "multi_thread")]
async fn payments_go_on_while_shares_are_dealt_again_but_for_the_switch() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let payer = cluster.nodes[1].wallet("w");
    payer.synced().await.unwrap();
    pay(&payer, &cluster.chain, |count| count == 5).await;
    let usual = longest(&pay(&payer, &cluster.chain, |count| count == 30).await);
    let cores: Vec<Arc<Core>> = cluster.nodes.iter().map(|node| Arc::clone(node.manager.core().unwrap())).collect();
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
        let watched = cores.clone();
        let switch = std::thread::spawn(move || watch(&watched));
        let wallet = cluster.nodes[coordinator].wallet("w");
        let done = match threshold {
            None => wallet.refresh_shares().await.unwrap(),
            Some(threshold) => wallet.reshare(threshold, &members).await.unwrap(),
        };
        let (first, last) = tokio::task::spawn_blocking(|| switch.join().unwrap()).await.unwrap();
        // Some more, in the new epoch.
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.store(true, Ordering::Relaxed);
        let paid = task.await.unwrap();
        let (across, others): (Vec<Paid>, Vec<Paid>) =
            paid.iter().copied().partition(|(began, made)| *began <= last && *made >= first);
        let (apart, across, others) = (last - first, longest(&across), longest(&others));
        println!(
            "{what}: {} ms, {} payments meanwhile; members apart for {apart:?}; a payment over the switch took {across:?}, \
             the others {others:?} at most ({usual:?} before)",
            done.milliseconds,
            paid.len()
        );
        assert!(paid.len() > 5, "{what}: only {} payments", paid.len());
        assert!(apart <= SWITCH, "{what}: members were in different epochs for {apart:?}");
        assert!(across <= others + SWITCH, "{what}: {across:?} over the switch, {others:?} before and after");
    }
    cluster.shutdown().await;
}
