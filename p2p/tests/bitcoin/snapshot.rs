//! A chain whose coins were loaded, and whose older blocks come later.

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use keyless_p2p::bitcoin::Chain;

use super::{Node, until};

#[test]
fn blocks_below_a_snapshot_are_fetched_and_meanwhile_nobody_is_promised_them() {
    let (old, new) = (Node::start(), Node::start());
    let base = old.chain.mine(1_200);
    let tip = old.chain.mine(5);
    let headers = old.chain.headers_after(&[], &BlockHash::all_zeros(), 2_000);
    new.chain.accept_headers(&headers).unwrap();
    new.chain.load_snapshot(base);
    let services = || new.handle.info().unwrap().services;
    assert!(!services().has(ServiceFlags::NETWORK));
    new.calls(&old);
    until("the tip is reached, and all below the snapshot is here", || {
        new.has(tip) && new.chain.snapshot().is_none() && new.chain.missing_from(1, &tip, 1).is_empty()
    });
    assert!(services().has(ServiceFlags::NETWORK));
}

#[test]
fn a_peer_on_another_chain_than_the_snapshots_is_asked_for_nothing() {
    let (old, new) = (Node::start(), Node::start());
    let genesis = old.chain.tip().hash;
    let base = old.chain.mine(10);
    let headers = old.chain.headers_after(&[], &BlockHash::all_zeros(), 2_000);
    new.chain.accept_headers(&headers).unwrap();
    new.chain.load_snapshot(base);
    let mut tip = old.chain.mine_on(Some(genesis), 1);
    for _ in 0..20 {
        tip = old.chain.mine_on(Some(tip), 1);
    }
    new.calls(&old);
    until("its headers are known", || new.handle.peers()[0].synced_headers == 21);
    old.handle.ping_all();
    until("it was looked at again", || new.handle.peers()[0].bytes_sent_per_msg["pong"] > 32);
    assert!(!new.handle.peers()[0].bytes_sent_per_msg.contains_key("getdata"));
}
