//! Strangers, liars, mutes, and those that do not listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::AsyncWriteExt as _;
use keyless_p2p::cosigners::limits::{MAX_FRAME_BYTES, SILENCE_LIMIT};
use keyless_p2p::cosigners::{Carrier as _, DownReason, Event, Multiaddr, SendError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::friends::{PATIENCE, config, eventually, identities, launch, member};
use crate::strangers::{self, intrude, payload, ping};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_not_on_the_list_is_refused() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let closed = launch(config(&all[0], Vec::new())).await;
    let mut asking = launch(config(&all[1], vec![member(low, Some(closed.address()))])).await;
    let reason = asking.offline_because(low, |reason| *reason == DownReason::ClosedBeforeHello).await;
    assert!(reason.to_string().contains("is this node on its list of co-signers?"));
    eventually(|| closed.network.refused().iter().any(|stranger| stranger.peer == high).then_some(())).await;
    assert!(closed.network.peers().is_empty());
    assert!(asking.events.try_recv().is_none());
    assert_eq!(asking.network.send(&low, vec![1]), Err(SendError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_is_named() {
    let all = identities(3);
    let stranger = launch(config(&all[0], Vec::new())).await;
    let expected = all[1].peer_id();
    let node = launch(config(&all[2], vec![member(expected, Some(stranger.address()))])).await;
    let reason = node.offline_because(expected, |reason| matches!(reason, DownReason::WrongIdentity(_))).await;
    assert_eq!(reason, DownReason::WrongIdentity(all[0].peer_id()));
}

/// Each kind of nonsense ends the connection of the one who talks it; a bystander stays up and
/// its frames arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_closes_the_connection_and_harms_nobody_else() {
    let too_large = u32::try_from(MAX_FRAME_BYTES + 2).unwrap().to_be_bytes();
    let after_hello = |tail: &[u8]| [strangers::hello("regtest"), tail.to_vec()].concat();
    let nonsense: Vec<(&str, Vec<u8>)> = vec![
        ("no hello", payload(b"hi")),
        ("random bytes", (0..200u8).map(|byte| byte.wrapping_mul(73)).collect()),
        ("huge hello", strangers::frame(0, &[0; 600])),
        ("cut hello", strangers::frame(0, b"keyless\0\x00\x01\x07reg")),
        ("unknown kind", after_hello(&strangers::frame(9, b"x"))),
        ("second hello", after_hello(&strangers::hello("regtest"))),
        ("zero length", after_hello(&[0, 0, 0, 0, 1])),
        ("oversized frame", after_hello(&[&too_large[..], &[1]].concat())),
        ("long ping", after_hello(&strangers::frame(2, &[0; 13]))),
    ];
    for (name, bytes) in nonsense {
        let all = identities(3);
        let (liar, victim, bystander) = (&all[0], &all[1], &all[2]);
        let mut node =
            launch(config(victim, vec![member(liar.peer_id(), None), member(bystander.peer_id(), None)])).await;
        let mut friend = launch(config(bystander, vec![member(victim.peer_id(), Some(node.address()))])).await;
        node.up(bystander.peer_id()).await;
        friend.up(victim.peer_id()).await;
        let mut stranger = intrude(liar, node.address(), victim.peer_id()).await;
        stranger.say(&bytes).await;
        timeout(PATIENCE, stranger.until_closed()).await.expect(name);
        let blamed = |reason: &DownReason| matches!(reason, DownReason::BadFrame(_) | DownReason::FrameTooLarge(_));
        node.offline_because(liar.peer_id(), blamed).await;
        friend.network.send(&victim.peer_id(), b"still here".to_vec()).unwrap();
        assert_eq!(node.frame(bystander.peer_id()).await, b"still here", "{name}");
        assert!(node.network.is_online(&bystander.peer_id()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mute_member_is_down_within_two_seconds() {
    let all = identities(2);
    let mut node = launch(config(&all[1], vec![member(all[0].peer_id(), None)])).await;
    let mut mute = intrude(&all[0], node.address(), all[1].peer_id()).await;
    mute.say(&strangers::hello("regtest")).await;
    node.up(all[0].peer_id()).await;
    let (reason, took) = node.down(all[0].peer_id()).await;
    assert!(matches!(reason, DownReason::Silent(_)), "{reason}");
    assert!(took < Duration::from_secs(2) + Duration::from_millis(500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_hello_ends_at_its_deadline() {
    let all = identities(2);
    let node = launch(config(&all[1], vec![member(all[0].peer_id(), None)])).await;
    let mut mute = intrude(&all[0], node.address(), all[1].peer_id()).await;
    mute.stream.flush().await.unwrap();
    timeout(PATIENCE, mute.until_closed()).await.unwrap();
    node.offline_because(all[0].peer_id(), |reason| matches!(reason, DownReason::NoHello(_))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_read_is_dropped_and_blocks_nobody() {
    let all = identities(3);
    let (deaf, victim, bystander) = (all[0].peer_id(), all[1].peer_id(), all[2].peer_id());
    let mut node = launch(config(&all[1], vec![member(deaf, None), member(bystander, None)])).await;
    let mut friend = launch(config(&all[2], vec![member(victim, Some(node.address()))])).await;
    node.up(bystander).await;
    friend.up(victim).await;
    let mut stranger = intrude(&all[0], node.address(), victim).await;
    stranger.say(&strangers::hello("regtest")).await;
    node.up(deaf).await;
    let talking = tokio::spawn(async move {
        // Talks, so it is not silent; never reads.
        while stranger.stream.write_all(&ping()).await.is_ok() && stranger.stream.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut refused = None;
    for _ in 0..100 {
        if let Err(error) = node.network.send(&deaf, vec![7; 1024 * 1024]) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(SendError::QueueFull));
    let mut slowest = Duration::ZERO;
    loop {
        let start = Instant::now();
        friend.network.send(&victim, b"ping".to_vec()).unwrap();
        let reason = loop {
            match node.next().await {
                Event::Frame { from, .. } if from == bystander => break None,
                Event::Down(peer, reason) if peer == deaf => break Some(reason),
                _ => {}
            }
        };
        slowest = slowest.max(start.elapsed());
        if let Some(reason) = reason {
            assert!(matches!(reason, DownReason::NotReading(_)), "{reason}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(node.network.is_online(&bystander));
    talking.abort();
}

/// A slow owner of wallets stalls senders, and costs nobody the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_takes_hold_the_senders_back_without_losing_them() {
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let mut node = launch(config(&all[0], vec![member(high, None)])).await;
    let mut sender = launch(config(&all[1], vec![member(low, Some(node.address()))])).await;
    node.up(high).await;
    sender.up(low).await;
    for number in 0..3_000u32 {
        sender.network.send(&low, number.to_be_bytes().to_vec()).unwrap();
    }
    tokio::time::sleep(SILENCE_LIMIT * 2).await;
    assert!(sender.network.is_online(&low), "{:?}", sender.network.peer(&low));
    for number in 0..3_000u32 {
        assert_eq!(node.frame(high).await, number.to_be_bytes());
    }
    assert!(sender.events.try_recv().is_none());
}

/// Forwards bytes until it is told to swallow them, as a network does that loses a host.
async fn proxy(target: Multiaddr, swallow: Arc<AtomicBool>) -> Multiaddr {
    let port = target
        .iter()
        .find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        })
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let Ok(outbound) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let (from_a, to_a) = inbound.into_split();
            let (from_b, to_b) = outbound.into_split();
            tokio::spawn(pump(from_a, to_b, Arc::clone(&swallow)));
            tokio::spawn(pump(from_b, to_a, Arc::clone(&swallow)));
        }
    });
    format!("/ip4/127.0.0.1/tcp/{own}").parse().unwrap()
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallow: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut from, &mut buffer).await {
        if swallow.load(Ordering::Relaxed) {
            // Not even the end of the connection comes through.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_host_is_noticed_within_two_seconds_and_found_again() {
    for (near, far) in [(0, 1), (1, 0)] {
        let all = identities(2);
        let (near_id, far_id) = (all[near].peer_id(), all[far].peer_id());
        let mut remote = launch(config(&all[far], vec![member(near_id, None)])).await;
        let gone = Arc::new(AtomicBool::new(false));
        let address = proxy(remote.address(), Arc::clone(&gone)).await;
        let mut local = launch(config(&all[near], vec![member(far_id, Some(address))])).await;
        local.up(far_id).await;
        remote.up(near_id).await;
        gone.store(true, Ordering::Relaxed);
        let ((reason, took), _) = tokio::join!(local.down(far_id), remote.down(near_id));
        assert!(matches!(reason, DownReason::Silent(_)), "{reason}");
        assert!(took < Duration::from_millis(2_500), "{took:?}");
        gone.store(false, Ordering::Relaxed);
        let start = Instant::now();
        local.up(far_id).await;
        remote.up(near_id).await;
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
}

/// A thousand connections that say nothing or nonsense, while members sign on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_does_not_stop_the_members() {
    let all = identities(3);
    let (a, b, late) = (all[0].peer_id(), all[1].peer_id(), all[2].peer_id());
    let mut node = launch(config(&all[0], vec![member(b, None), member(late, None)])).await;
    let mut friend = launch(config(&all[1], vec![member(a, Some(node.address()))])).await;
    node.up(b).await;
    friend.up(a).await;
    let port = node.address().to_string().rsplit('/').next().unwrap().parse::<u16>().unwrap();
    let before = resident_mib();
    let mut flood = Vec::new();
    for number in 0..1_000u32 {
        if let Ok(Ok(mut socket)) = timeout(Duration::from_secs(1), TcpStream::connect(("127.0.0.1", port))).await {
            if number % 2 == 0 {
                // The other side may have closed already.
                let _ = socket.write_all(&number.to_be_bytes()).await;
            }
            flood.push(socket);
        }
        if flood.len() > 350 {
            flood.clear();
        }
        if number % 100 == 0 {
            friend.network.send(&a, number.to_be_bytes().to_vec()).unwrap();
            assert_eq!(node.frame(b).await, number.to_be_bytes());
        }
    }
    assert!(node.network.is_online(&b));
    let grown = resident_mib().saturating_sub(before);
    println!("1,000 connections: {grown} MiB more");
    assert!(grown < 200, "{grown} MiB");
    let mut newcomer = launch(config(&all[2], vec![member(a, Some(node.address()))])).await;
    newcomer.up(a).await;
    node.up(late).await;
}

/// One member that opens ten thousand streams keeps at most its limit of them, and costs the
/// others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_harms_only_its_sender() {
    let all = identities(3);
    let (liar, victim, bystander) = (all[0].peer_id(), all[1].peer_id(), all[2].peer_id());
    let mut node = launch(config(&all[1], vec![member(liar, None), member(bystander, None)])).await;
    let mut friend = launch(config(&all[2], vec![member(victim, Some(node.address()))])).await;
    node.up(bystander).await;
    friend.up(victim).await;
    let before = resident_mib();
    let mut stranger = intrude(&all[0], node.address(), victim).await;
    let mut held = Vec::new();
    for number in 0..10_000u32 {
        let opening = stranger.control.open_stream(victim, strangers::PROTOCOL);
        match timeout(Duration::from_millis(50), opening).await {
            Ok(Ok(stream)) => held.push(stream),
            // Refused, or told to wait: begin again with a new connection.
            _ => {
                held.clear();
                stranger = intrude(&all[0], node.address(), victim).await;
            }
        }
        if number % 1_000 == 0 {
            friend.network.send(&victim, number.to_be_bytes().to_vec()).unwrap();
            assert_eq!(node.frame(bystander).await, number.to_be_bytes());
        }
    }
    assert!(node.network.is_online(&bystander));
    let grown = resident_mib().saturating_sub(before);
    println!("10,000 streams: {grown} MiB more");
    assert!(grown < 200, "{grown} MiB");
}

/// Resident memory of this process, victim and attacker together.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
