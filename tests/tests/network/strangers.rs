//! The same network between strangers: inventory is held back, headers of little work are fetched twice, and a full
//! node gives up one peer for another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bitcoin::hashes::{Hash, sha256d};
use bitcoin::p2p::Magic;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::json;

use super::{Net, RELAY_DEADLINE, SUBSIDY, TIP_DEADLINE, branch_address, coinbase, hex, mempool, mine, mine_to, spend};

/// Headers of one message, and too little work.
const FEW_BLOCKS: u64 = 1_900;
/// With those, more headers than one message holds, and work enough.
const MORE_BLOCKS: u64 = 400;
/// Work of 2,200 blocks: what the first 2,000 headers do not reach.
const MINIMUM_WORK: &str = "-minimumchainwork=0x1130";
/// Of them 11 are kept for outgoing connections.
const MAX_CONNECTIONS: usize = 60;
const INBOUND: usize = MAX_CONNECTIONS - 11;

#[test]
fn strangers_heal_partitions_and_relay_what_they_hold_back() {
    let net = Net::start(false);
    let tip = mine(&net.nodes[0], 110).pop().unwrap();
    net.one_tip(&tip, RELAY_DEADLINE);
    for node in &net.nodes {
        let peers = node.call("getpeerinfo", json!([]));
        assert!(peers.as_array().unwrap().iter().all(|peer| peer["permissions"] == json!([])), "{peers}");
    }
    net.partition();
    mine(&net.nodes[2], 3);
    let longer = mine_to(&net.nodes[4], 5, &branch_address(1)).pop().unwrap();
    net.heal();
    net.one_tip(&longer, TIP_DEADLINE);
    let slowest = [(1, 0), (2, 2), (3, 4)].map(|(height, at)| {
        let tx = spend(&coinbase(&net.nodes[0], height), SUBSIDY, 10_000, 2);
        let started = Instant::now();
        let txid = net.nodes[at].call("sendrawtransaction", json!([hex(&tx), 0]));
        net.has_in_mempool(&txid);
        started.elapsed()
    });
    println!("transactions reached all after {slowest:?}");
    let tip = mine(&net.nodes[3], 1).pop().unwrap();
    net.one_tip(&tip, TIP_DEADLINE);
    assert!(net.nodes.iter().all(|node| mempool(node).is_empty()));
    net.one_utxo_set();
}

#[test]
fn headers_of_little_work_are_fetched_twice_and_a_chain_that_stays_below_is_not_stored() {
    for (from, to) in [(Kind::Core, Kind::Keyless), (Kind::Keyless, Kind::Core)] {
        let options = |kind| match kind {
            Kind::Core => Options::core().arg("-checkblockindex=0"),
            Kind::Keyless => Options::keyless().arg("-disablewallet").arg("-checkblockindex=0"),
        };
        let source = Daemon::start_new(options(from));
        mine(&source, FEW_BLOCKS);
        let node = Daemon::start_new(options(to).arg(MINIMUM_WORK).arg("-debug=net"));
        let link = || {
            node.call("addnode", json!([format!("127.0.0.1:{}", source.p2p_port), "onetry"]));
        };
        link();
        until_true("the chain is judged", RELAY_DEADLINE, || node.log().contains("Ignoring low-work chain"));
        assert_eq!(node.call("getblockchaininfo", json!([]))["headers"], 0, "{to:?} stored headers of little work");
        node.call("disconnectnode", json!([format!("127.0.0.1:{}", source.p2p_port)]));
        mine(&source, MORE_BLOCKS);
        link();
        until_true("enough work is believed", RELAY_DEADLINE, || node.best() == source.best());
        assert!(node.log().contains("Initial headers sync started with peer"), "{to:?}");
        assert!(node.log().contains("Initial headers sync transition with peer"), "{to:?}");
    }
}

/// A peer that shakes hands and says no more.
fn idle_peer(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(RELAY_DEADLINE)).unwrap();
    let mut version = 70_016_i32.to_le_bytes().to_vec();
    version.extend_from_slice(&[0; 8 + 8 + 26 + 26]);
    version.extend_from_slice(&7_u64.to_le_bytes());
    version.extend_from_slice(&[0; 1 + 4 + 1]);
    for (command, payload) in [("version", version), ("verack", Vec::new())] {
        let mut message = Magic::REGTEST.to_bytes().to_vec();
        message.extend_from_slice(command.as_bytes());
        message.resize(16, 0);
        message.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        message.extend_from_slice(&sha256d::Hash::hash(&payload).to_byte_array()[..4]);
        message.extend_from_slice(&payload);
        stream.write_all(&message).unwrap();
    }
    // The first byte of the answer: the peer is known.
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[test]
fn a_full_node_gives_up_an_idle_peer_for_a_new_one() {
    for kind in [Kind::Core, Kind::Keyless] {
        let options = match kind {
            Kind::Core => Options::core(),
            Kind::Keyless => Options::keyless().arg("-disablewallet"),
        };
        let options = options.arg(format!("-maxconnections={MAX_CONNECTIONS}")).arg("-debug=net");
        let node = Daemon::start_new(options);
        let peers = || node.call("getconnectioncount", json!([]));
        let mut idle: Vec<TcpStream> = (0..INBOUND).map(|_| idle_peer(node.p2p_port)).collect();
        until_true("all places are taken", RELAY_DEADLINE, || peers() == json!(INBOUND));
        let late = Daemon::start_new(Options::core());
        late.call("addnode", json!([format!("127.0.0.1:{}", node.p2p_port), "onetry"]));
        until_true("the newcomer is let in", RELAY_DEADLINE, || {
            late.call("getpeerinfo", json!([]))[0]["version"].as_i64() > Some(0)
        });
        until_true("one has left", RELAY_DEADLINE, || peers() == json!(INBOUND));
        assert!(node.log().contains("selected inbound connection for eviction"), "{kind:?}");
        let left = idle.iter_mut().map(is_over).filter(|over| *over).count();
        assert_eq!(left, 1, "{kind:?}: peers that were given up");
    }
}

/// Whether the node has hung up.
fn is_over(peer: &mut TcpStream) -> bool {
    peer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 4_096];
    loop {
        match peer.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
