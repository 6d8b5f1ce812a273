//! Honest members: connect, carry frames, go, come back.

use std::time::Duration;

use keyless_p2p::cosigners::limits::MAX_FRAME_BYTES;
use keyless_p2p::cosigners::{Carrier as _, DownReason, Event, MemberChangeError, SendError, StartError, start};
use libp2p::multiaddr::Protocol;
use tokio::time::Instant;

use crate::friends::{PATIENCE, chain_of, config, eventually, hello, identities, launch, member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_with_static_addresses_carry_frames_between_all_pairs() {
    let all = identities(3);
    let mut nodes = chain_of(&all).await;
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let target = all[to].peer_id();
            eventually(|| nodes[from].network.is_online(&target).then_some(())).await;
            let text = format!("{from} to {to}").into_bytes();
            nodes[from].network.send(&target, text.clone()).unwrap();
            assert_eq!(nodes[to].frame(all[from].peer_id()).await, text);
        }
    }
    let statuses = nodes[0].network.peers();
    assert_eq!(statuses.len(), 2);
    for status in statuses {
        assert!(status.online && status.reason_offline.is_none());
        assert_eq!(status.version.as_deref(), Some("0.1.0"));
        assert_eq!(status.fingerprint.len(), 19);
    }
    eventually(|| nodes[0].network.peers().iter().all(|peer| peer.latency.is_some()).then_some(())).await;
    for node in &nodes {
        node.network.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_order_up_to_the_limit() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    nodes[1].up(low).await;
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1_000_000, MAX_FRAME_BYTES];
    for (mark, size) in (0u8..).zip(sizes) {
        nodes[0].network.send(&high, vec![mark; size]).unwrap();
    }
    for (mark, size) in (0u8..).zip(sizes) {
        let bytes = nodes[1].frame(low).await;
        assert_eq!(bytes.len(), size);
        assert!(bytes.iter().all(|byte| *byte == mark));
    }
    assert_eq!(nodes[0].network.send(&high, vec![0; MAX_FRAME_BYTES + 1]), Err(SendError::TooLarge));
    for number in 0..2_000u32 {
        nodes[1].network.send(&low, number.to_be_bytes().to_vec()).unwrap();
    }
    for number in 0..2_000u32 {
        assert_eq!(nodes[0].frame(high).await, number.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_costs_less_than_a_few_milliseconds() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    nodes[1].up(low).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        nodes[0].network.send(&high, vec![1; 300]).unwrap();
        let bytes = nodes[1].frame(low).await;
        nodes[1].network.send(&low, bytes).unwrap();
        nodes[0].frame(high).await;
        times.push(start.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    println!("median round trip of 300 bytes: {median:?}");
    assert!(median < Duration::from_millis(20), "{median:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_who_both_dial_end_with_one_link_and_no_flapping() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let mut first = launch(config(&all[0], vec![member(high, None)])).await;
    let mut second = launch(config(&all[1], vec![member(low, None)])).await;
    // Each learns the other's address at the same moment.
    let (to_second, to_first) = (member(high, Some(second.address())), member(low, Some(first.address())));
    let (a, b) = tokio::join!(first.network.allow(to_second), second.network.allow(to_first));
    a.unwrap();
    b.unwrap();
    assert_eq!(first.next().await, Event::Up(high));
    assert_eq!(second.next().await, Event::Up(low));
    // Longer than the idle time after which the spare connection is closed.
    let quiet = tokio::time::timeout(Duration::from_secs(7), first.next()).await;
    assert!(quiet.is_err(), "no event after the first: {quiet:?}");
    assert!(second.events.try_recv().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heights_reach_the_others() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    for height in 0..=101 {
        nodes[1].network.set_height(height);
    }
    eventually(|| (nodes[0].network.peer(&high)?.blocks == Some(101)).then_some(())).await;
    assert_eq!(nodes[1].network.peer(&low).unwrap().blocks, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_is_told_and_frees_the_port() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    let address = nodes[0].address();
    nodes[0].network.shutdown().await;
    let (reason, took) = nodes[1].down(low).await;
    assert_eq!(reason, DownReason::PeerStopped);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(nodes[0].network.send(&high, vec![1]), Err(SendError::NotConnected));
    let mut again = config(&all[0], vec![member(high, Some(nodes[1].address()))]);
    again.listen = vec![address];
    let mut back = launch(again).await;
    back.up(high).await;
    nodes[1].up(low).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_cannot_listen_on_one_port() {
    let all = identities(2);
    let first = launch(config(&all[0], Vec::new())).await;
    let mut same = config(&all[1], Vec::new());
    same.listen = vec![first.address()];
    let error = start(same).await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }));
    assert!(error.to_string().starts_with("Unable to bind to /ip4/127.0.0.1/tcp/"), "{error}");
    let mut bad = config(&all[1], Vec::new());
    bad.listen = vec!["/ip4/127.0.0.1/udp/1".parse().unwrap()];
    assert!(matches!(start(bad).await, Err(StartError::BadListenAddress(_))));
}

/// A process that dies takes its runtime with it: sockets close, nothing is said.
#[test]
fn a_killed_member_is_noticed_and_a_restarted_one_comes_back_without_any_command() {
    let all = identities(2);
    for (killed, survivor) in [(0, 1), (1, 0)] {
        let (dead, alive) = (&all[killed], &all[survivor]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut node = runtime.block_on(launch(config(alive, vec![member(dead.peer_id(), None)])));
        let doomed = tokio::runtime::Runtime::new().unwrap();
        let victim = doomed.block_on(launch(config(dead, vec![member(alive.peer_id(), Some(node.address()))])));
        let address = victim.address();
        // Also dialed from this side, after the restart.
        runtime.block_on(node.network.allow(member(dead.peer_id(), Some(address.clone())))).unwrap();
        runtime.block_on(node.up(dead.peer_id()));
        doomed.shutdown_background();
        let (reason, took) = runtime.block_on(node.down(dead.peer_id()));
        assert!(took < Duration::from_secs(2), "noticed after {took:?}: {reason}");
        let restarted = tokio::runtime::Runtime::new().unwrap();
        let mut again = config(dead, vec![member(alive.peer_id(), None)]);
        again.listen = vec![address];
        let began = Instant::now();
        let mut back = restarted.block_on(async {
            // The old runtime closes its listener in the background.
            loop {
                match start(again.clone()).await {
                    Ok((network, events)) => break crate::friends::Node { network, events, identity: dead.clone() },
                    Err(error) => assert!(matches!(error, StartError::Bind { .. }), "{error}"),
                }
                tokio::task::yield_now().await;
            }
        });
        runtime.block_on(node.up(dead.peer_id()));
        restarted.block_on(back.up(alive.peer_id()));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        back.network.send(&alive.peer_id(), b"here again".to_vec()).unwrap();
        assert_eq!(runtime.block_on(node.frame(dead.peer_id())), b"here again");
        drop(victim);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_taken_off_the_list_is_cut_off_and_may_come_back() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    nodes[1].up(low).await;
    nodes[0].network.remove(high).await.unwrap();
    nodes[1].down(low).await;
    assert!(nodes[0].network.peers().is_empty());
    eventually(|| nodes[0].network.refused().iter().any(|stranger| stranger.peer == high).then_some(())).await;
    nodes[1].offline_because(low, |reason| *reason == DownReason::ClosedBeforeHello).await;
    nodes[0].network.allow(member(high, None)).await.unwrap();
    nodes[0].up(high).await;
    nodes[1].up(low).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_is_refused_and_both_sides_say_why() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let first = launch(config(&all[0], vec![member(high, None)])).await;
    let mut other = config(&all[1], vec![member(low, Some(first.address()))]);
    other.hello = hello("signet");
    let second = launch(other).await;
    let named = |reason: &DownReason| matches!(reason, DownReason::OtherNetwork { .. });
    assert_eq!(first.offline_because(high, named).await.to_string(), "other network: signet vs regtest");
    assert_eq!(second.offline_because(low, named).await.to_string(), "other network: regtest vs signet");
    assert_eq!(first.network.send(&high, vec![1]), Err(SendError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_member_was_refused_outlives_dials_that_fail() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let first = launch(config(&all[0], vec![member(high, None)])).await;
    let address = first.address();
    let mut other = config(&all[1], vec![member(low, Some(address.clone()))]);
    other.hello = hello("signet");
    let second = launch(other).await;
    let named = |reason: &DownReason| matches!(reason, DownReason::OtherNetwork { .. });
    second.offline_because(low, named).await;
    first.network.shutdown().await;
    // Who listens at the address now hangs up: the dials of the second fail.
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let mute = tokio::net::TcpListener::bind(("127.0.0.1", port.unwrap())).await.unwrap();
    for _ in 0..2 {
        let (failed, _) = tokio::time::timeout(PATIENCE, mute.accept()).await.expect("a dial").unwrap();
        drop(failed);
    }
    let reason = second.network.peer(&low).unwrap().reason_offline.unwrap();
    assert_eq!(reason.to_string(), "other network: regtest vs signet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_genesis_is_refused() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let first = launch(config(&all[0], vec![member(high, None)])).await;
    let mut other = config(&all[1], vec![member(low, Some(first.address()))]);
    other.hello.genesis = [7; 32];
    let second = launch(other).await;
    let named = |reason: &DownReason| matches!(reason, DownReason::OtherGenesis { .. });
    first.offline_because(high, named).await;
    second.offline_because(low, named).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_nobody_listens_to_stops() {
    let all = identities(2);
    let mut nodes = chain_of(&all).await;
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    nodes[0].up(high).await;
    nodes[1].up(low).await;
    let first = nodes.remove(0);
    drop(first.events);
    nodes[0].down(low).await;
    first.network.shutdown().await;
    let refused = first.network.allow(member(high, None)).await;
    assert_eq!(refused, Err(MemberChangeError::Stopped));
}
