//! Core's rules about peers.

use std::collections::BTreeSet;
use std::time::Duration;

use bitcoin::{Amount, Wtxid};
use keyless_kernel::rules::InboundPeer;

use crate::support::{Node, build};

/// An address as a payload of `addrv2` with one entry.
fn payload(network: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0, 0, 0, network, u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out.extend_from_slice(&8333_u16.to_be_bytes());
    out
}

/// A peer of no merit from this group of IPv4 addresses: the higher its number, the younger and the farther away.
fn peer(id: i64, group: u8) -> InboundPeer {
    InboundPeer {
        id,
        connected: Duration::from_secs(1_000 + u64::try_from(id).unwrap()),
        min_ping: Some(Duration::from_millis(100 + u64::try_from(id).unwrap())),
        last_block: Duration::ZERO,
        last_tx: Duration::ZERO,
        wanted_services: true,
        relays_txs: true,
        bloom_filter: false,
        prefer_evict: false,
        onion: false,
        no_ban: false,
        address: payload(1, &[8, group, 1, u8::try_from(id % 250).unwrap()]),
    }
}

fn open(dir: &std::path::Path) -> Node {
    Node::open(dir, &[])
}

#[test]
fn a_young_peer_of_the_largest_group_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let evict = |peers: &[InboundPeer]| node.kernel.choose_to_evict(peers).unwrap();
    assert_eq!(evict(&[]), None);
    let few: Vec<_> = (0..10).map(|id| peer(id, 1)).collect();
    assert_eq!(evict(&few), None, "few peers are all protected");

    // Sixty of one group, enough to be the largest whatever groups Core's secret protects, and ten younger ones of a
    // group each.
    let mut many: Vec<_> = (0..60).map(|id| peer(id, 1)).chain((60..70).map(|id| peer(id, id as u8))).collect();
    let victim = evict(&many).unwrap();
    assert!((30..60).contains(&victim), "{victim}");
    many[60..].iter_mut().for_each(|peer| peer.prefer_evict = true);
    assert!(evict(&many).unwrap() >= 60, "who misbehaved goes first");
    many.iter_mut().for_each(|peer| peer.no_ban = true);
    assert_eq!(evict(&many), None);
    node.close();
}

#[test]
fn who_is_useful_or_comes_from_another_network_stays() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let evict = |peers: &[InboundPeer]| node.kernel.choose_to_evict(peers).unwrap();
    let others: Vec<_> = (0..40).map(|id| peer(id, id as u8)).collect();
    let victim = evict(&others).unwrap();
    type Change = fn(&mut InboundPeer);
    let changes: [(&str, Change); 8] = [
        ("a block", |peer| peer.last_block = Duration::from_secs(5)),
        ("a transaction", |peer| peer.last_tx = Duration::from_secs(5)),
        ("near", |peer| peer.min_ping = Some(Duration::from_millis(1))),
        ("blocks only", |peer| peer.relays_txs = false),
        ("onion", |peer| peer.onion = true),
        ("I2P", |peer| peer.address = payload(5, &[7; 32])),
        ("CJDNS", |peer| peer.address = payload(6, &[0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("local", |peer| peer.address = payload(1, &[127, 0, 0, 1])),
    ];
    for (what, change) in changes {
        let mut peers = others.clone();
        change(&mut peers[usize::try_from(victim).unwrap()]);
        assert_ne!(evict(&peers), Some(victim), "{what}");
    }
    node.close();
}

#[test]
fn fee_filters_are_rounded_and_never_below_what_is_relayed() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let told = |rate| node.kernel.round_fee_filter(rate).unwrap();
    assert_eq!(told(0), node.kernel.mempool_info().unwrap().min_relay_sat_kvb);
    assert_eq!(told(Amount::MAX_MONEY.to_sat()), 9_936_506);
    let seen: BTreeSet<u64> = (0..200).map(|_| told(20_000)).collect();
    assert_eq!(seen.len(), 2, "one step below or above, at random: {seen:?}");
    assert!(seen.iter().all(|rate| (18_000..22_100).contains(rate)), "{seen:?}");
    node.close();
}

#[test]
fn what_is_mined_first_is_announced_first() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    node.mine(102);
    let coin = Amount::from_sat(50_0000_0000);
    let low = build::spend(&[build::coinbase_of(&node, 1)], coin - Amount::from_sat(1_000));
    let parent = build::spend(&[build::coinbase_of(&node, 2)], coin - Amount::from_sat(2_000));
    let output = bitcoin::OutPoint::new(parent.compute_txid(), 0);
    let child = build::spend(&[output], coin - Amount::from_sat(50_000));
    for tx in [&low, &parent, &child] {
        node.kernel.accept_tx(&build::bytes(tx), false).unwrap();
    }
    let ids = [&low, &child, &parent].map(|tx| tx.compute_wtxid());
    let unknown = build::spend(&[build::unknown_outpoint()], coin).compute_wtxid();
    let asked: Vec<Wtxid> = ids.iter().copied().chain([unknown]).collect();
    let [low, child, parent] = ids;
    assert_eq!(node.kernel.best_first(&asked).unwrap(), [parent, child, low]);
    node.close();
}

#[test]
fn a_clock_that_most_outbound_peers_contradict_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let warned = || node.kernel.warnings().unwrap().iter().any(|text| text.contains("out of sync"));
    for _ in 0..4 {
        node.kernel.note_clock(700).unwrap();
    }
    assert_eq!((node.kernel.clock_offset().unwrap(), warned()), (0, false), "four say little");
    node.kernel.note_clock(700).unwrap();
    assert_eq!((node.kernel.clock_offset().unwrap(), warned()), (700, true));
    for _ in 0..6 {
        node.kernel.note_clock(1).unwrap();
    }
    assert_eq!((node.kernel.clock_offset().unwrap(), warned()), (1, false));
    node.close();
}
