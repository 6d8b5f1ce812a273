//! Many signatures at once, and a member that asks for more than there is room for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::OutPoint;
use keyless_node::quorum::core::Core;
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::sessions::{CONCURRENT_SIGNATURES, MAX_SESSIONS, MAX_SESSIONS_PER_PEER, SessionKind};
use keyless_node::quorum::wire::{self, Frame, Message, Topic};
use keyless_p2p::cosigners::memory::Fate;
use keyless_p2p::cosigners::{Carrier, Event};
use keyless_rpc::wallet::backend::PsbtOptions;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{MemberId, SessionId, SigningIdentity};

use crate::chain::FakeChain;
use crate::frames::{message, spend};
use crate::node::Cluster;

fn transactions(core: &Core) -> usize {
    core.sessions().iter().filter(|row| row.kind == SessionKind::Transaction).count()
}

async fn all_sign_at_once() {
    let cluster = Cluster::new(3);
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    let script = wallet.new_address("", AddressType::Bech32m).await.unwrap().script_pubkey();
    let coins: Vec<OutPoint> =
        (0..CONCURRENT_SIGNATURES).map(|_| OutPoint::new(cluster.chain.mine(&script)[0].compute_txid(), 0)).collect();
    wallet.synced().await.unwrap();
    // Nobody answers the coordinator until all sessions are open: it is told nonces alone.
    let me = cluster.nodes[0].options.identity.peer_id();
    cluster.hub.set_rule(move |from, to, bytes| {
        let nonces = || matches!(message(from, to, bytes), Some((_, Message::Nonces(_))));
        if *to == me && !nonces() { Fate::Hold } else { Fate::Deliver }
    });
    let started = Instant::now();
    let tasks: Vec<_> = coins
        .into_iter()
        .map(|coin| {
            let wallet = wallet.clone();
            let options = PsbtOptions { sign: true, sighash: None, bip32_derivs: false, finalize: true };
            tokio::spawn(async move { wallet.process_psbt(spend(coin), options).await })
        })
        .collect();
    let cores: Vec<Arc<Core>> = cluster.nodes.iter().map(|node| node.manager.core().unwrap().clone()).collect();
    let deadline = Instant::now() + Duration::from_secs(9);
    let (mut own, mut theirs) = (0, 0);
    while own < CONCURRENT_SIGNATURES || theirs < CONCURRENT_SIGNATURES {
        assert!(Instant::now() < deadline, "{own} sessions of the coordinator, {theirs} of the others");
        tokio::time::sleep(Duration::from_millis(10)).await;
        own = transactions(&cores[0]);
        theirs = cores[1..].iter().map(|core| transactions(core)).sum();
    }
    println!("{own} sessions open after {:?}", started.elapsed());
    cluster.hub.clear_rule();
    cluster.hub.release();
    let mut signed = BTreeSet::new();
    for task in tasks {
        let processed = task.await.unwrap().unwrap();
        assert!(processed.complete);
        signed.insert(processed.psbt.unsigned_tx.compute_txid());
    }
    println!("{} signatures after {:?}", signed.len(), started.elapsed());
    assert_eq!(signed.len(), CONCURRENT_SIGNATURES);
    cluster.shutdown().await;
}

#[test]
fn as_many_signatures_as_are_promised_are_made_at_once() {
    // Three nodes with their sessions in one process.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(2 * MAX_SESSIONS)
        .build()
        .unwrap();
    runtime.block_on(all_sign_at_once());
}

/// A member without a node: it says what the test wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_which_there_is_no_room_is_answered() {
    let mut cluster = Cluster::over(FakeChain::new(), 3);
    cluster.nodes[0].create("w").await.unwrap();
    let core = cluster.nodes[0].manager.core().unwrap().clone();
    let holding = core.holding_named("w").unwrap();
    let liar = cluster.nodes.remove(1);
    liar.manager.shutdown().await;
    let identity = SigningIdentity::from_seed(liar.options.identity.seed());
    let (carrier, mut events) = cluster.hub.member(liar.options.identity.peer_id());
    let node = cluster.nodes[0].options.identity.peer_id();
    let ask = |number: u32, message: &Message| {
        let mut session = [0; 32];
        session[..4].copy_from_slice(&number.to_be_bytes());
        let topic = Topic { wallet: holding.wallet(), epoch: holding.epoch(), session: SessionId(session) };
        carrier.send(&node, wire::seal(&identity, &topic, 0, core.me(), message).unwrap()).unwrap();
        topic
    };
    // A repair takes its time, and cannot be done: who asks for it answers nothing.
    for number in 0..2 * MAX_SESSIONS_PER_PEER as u32 {
        ask(number, &Message::AskRepair("w".to_owned()));
        tokio::task::yield_now().await;
    }
    let probe = ask(u32::MAX, &Message::Probe);
    let (me, from) = (identity.member_id(), MemberId(cluster.nodes[0].options.identity.public_key()));
    let answer = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let Some(Event::Frame { bytes, .. }) = events.recv().await else { continue };
            let frame = Frame::parse(bytes).unwrap();
            if frame.session == probe.session {
                return wire::open(&frame.envelope, me, from, &probe).unwrap();
            }
        }
    });
    assert_eq!(answer.await.unwrap(), Message::Refuse(Refusal::Busy));
    cluster.shutdown().await;
}
