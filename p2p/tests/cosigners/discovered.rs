//! Members that were given no address and find each other.

use std::net::ToSocketAddrs as _;

use keyless_p2p::cosigners::{Carrier as _, Discovery, Multiaddr};
use tokio::net::UdpSocket;
use tokio::time::{Duration, timeout};

use crate::friends::{config, eventually, identities, launch, member};

/// Whether a multicast packet comes back on this host's default interface.
async fn multicast_works() -> bool {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let Ok(probe) = UdpSocket::bind("0.0.0.0:0").await else { return false };
    let Ok(local) = probe.local_addr() else { return false };
    let joined = probe.join_multicast_v4(group, std::net::Ipv4Addr::UNSPECIFIED).is_ok()
        && probe.set_multicast_loop_v4(true).is_ok();
    if !joined || probe.send_to(b"keyless", (group, local.port())).await.is_err() {
        return false;
    }
    let mut buffer = [0; 16];
    matches!(timeout(Duration::from_secs(2), probe.recv(&mut buffer)).await, Ok(Ok(7)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_find_each_other_by_mdns_and_strangers_do_not_join() {
    if !multicast_works().await {
        println!("skipped: this host passes no multicast, so mDNS cannot work here");
        return;
    }
    let all = identities(3);
    let only_mdns: Discovery = "mdns".parse().unwrap();
    let anywhere: Multiaddr = "/ip4/0.0.0.0/tcp/0".parse().unwrap();
    let mut nodes = Vec::new();
    for (index, peer) in [(0, 1), (1, 0), (2, 0)] {
        let mut config = config(&all[index], vec![member(all[peer].peer_id(), None)]);
        config.discovery = only_mdns;
        config.listen = vec![anywhere.clone()];
        nodes.push(launch(config).await);
    }
    let (first, second, third) = (all[0].peer_id(), all[1].peer_id(), all[2].peer_id());
    nodes[0].up(second).await;
    nodes[1].up(first).await;
    // The third lists the first, which does not list it.
    eventually(|| nodes[0].network.refused().iter().any(|stranger| stranger.peer == third).then_some(())).await;
    assert_eq!(nodes[0].network.peers().len(), 1);
    assert!(!nodes[2].network.is_online(&first));
    // Listed later, it is found though it was announced before.
    nodes[0].network.allow(member(third, None)).await.unwrap();
    nodes[0].up(third).await;
    nodes[2].up(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_find_each_other_through_a_common_one_by_kademlia() {
    find_each_other("static,dht").await;
}

/// The addresses given are then where the search begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kademlia_alone_begins_at_the_addresses_given() {
    find_each_other("dht").await;
}

async fn find_each_other(discovery: &str) {
    let all = identities(3);
    let ids: Vec<_> = all.iter().map(|identity| identity.peer_id()).collect();
    let discovery: Discovery = discovery.parse().unwrap();
    // 1 and 2 know only where 0 is.
    let mut hub = config(&all[0], vec![member(ids[1], None), member(ids[2], None)]);
    hub.discovery = discovery;
    let hub = launch(hub).await;
    let mut ends = Vec::new();
    for (own, other) in [(1, 2), (2, 1)] {
        let mut config = config(&all[own], vec![member(ids[0], Some(hub.address())), member(ids[other], None)]);
        config.discovery = discovery;
        ends.push(launch(config).await);
    }
    ends[0].up(ids[2]).await;
    ends[1].up(ids[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_a_static_address_is_resolved() {
    if let Err(error) = ("localhost", 0).to_socket_addrs() {
        println!("SKIPPED: localhost is not a name here (no /etc/hosts?): {error}");
        return;
    }
    let all = identities(2);
    let (low, high) = (all[0].peer_id(), all[1].peer_id());
    let node = launch(config(&all[0], vec![member(high, None)])).await;
    let named = node.address().to_string().replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    let mut other = launch(config(&all[1], vec![member(low, Some(named.parse().unwrap()))])).await;
    other.up(low).await;
}
