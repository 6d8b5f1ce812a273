//! Every message type, as a trusted peer sends it: trusted, so that nonsense does not end the connection too soon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bitcoin::bip152::HeaderAndShortIds;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::p2p::Magic;
use bitcoin::{Block, Network};
use keyless_tests::Daemon;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::{MAX_GROWTH_MIB, executions, mutate, node, resident_mib};

/// Messages between two pings.
const BATCH: usize = 100;
const DEADLINE: Duration = Duration::from_secs(60);

fn message(command: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Magic::REGTEST.to_bytes().to_vec();
    let mut name = [0; 12];
    name[..command.len()].copy_from_slice(command.as_bytes());
    out.extend_from_slice(&name);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&sha256d::Hash::hash(payload).to_byte_array()[..4]);
    out.extend_from_slice(payload);
    out
}

fn version() -> Vec<u8> {
    let mut out = 70_016_i32.to_le_bytes().to_vec();
    out.extend_from_slice(&0x409_u64.to_le_bytes());
    out.extend_from_slice(&1_700_000_000_i64.to_le_bytes());
    out.extend_from_slice(&[0; 52]);
    out.extend_from_slice(&7_u64.to_le_bytes());
    out.extend_from_slice(b"\x06/fuzz/");
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.push(1);
    out
}

struct Peer {
    stream: TcpStream,
}

impl Peer {
    fn connect(node: &Daemon) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", node.p2p_port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.set_write_timeout(Some(DEADLINE)).ok()?;
        let mut peer = Self { stream };
        peer.say("version", &version())?;
        peer.say("wtxidrelay", &[])?;
        peer.say("sendaddrv2", &[])?;
        peer.wait("verack", &[])?;
        peer.say("verack", &[])?;
        peer.say("sendcmpct", &[0, 2, 0, 0, 0, 0, 0, 0, 0])?;
        Some(peer)
    }

    fn say(&mut self, command: &str, payload: &[u8]) -> Option<()> {
        self.stream.write_all(&message(command, payload)).ok()
    }

    /// Reads until this message comes. `None`: the node hung up.
    fn wait(&mut self, command: &str, payload: &[u8]) -> Option<()> {
        loop {
            let mut head = [0; 24];
            self.stream.read_exact(&mut head).ok()?;
            let mut body = vec![0; u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize];
            self.stream.read_exact(&mut body).ok()?;
            let name = head[4..16].split(|byte| *byte == 0).next().unwrap();
            if name == command.as_bytes() && body.starts_with(payload) {
                return Some(());
            }
        }
    }
}

/// A payload of each type that the node takes as it is.
fn seeds(block: &Block) -> Vec<(&'static str, Vec<u8>)> {
    let hash = block.block_hash().to_byte_array();
    let inventory = |kind: u32| [&[1][..], &kind.to_le_bytes(), &hash].concat();
    let locator = [&70_016_u32.to_le_bytes()[..], &[1], &hash, &[0; 32]].concat();
    let address = [&1_700_000_000_u32.to_le_bytes()[..], &[9, 0, 0, 0, 0, 0, 0, 0], &[0; 10], &[255, 255, 8, 8, 8, 8]];
    let compact = HeaderAndShortIds::from_block(block, 7, 2, &[]).unwrap();
    let filters = |start: u32| [&[0][..], &start.to_le_bytes(), &hash].concat();
    vec![
        ("version", version()),
        ("addr", [&[1][..], &address.concat(), &8333_u16.to_be_bytes()].concat()),
        ("addrv2", [&[2][..], &[0, 0, 0, 1, 1, 1, 4, 8, 8, 8, 8, 1, 2], &[0, 0, 0, 1, 1, 4, 32], &[9; 34]].concat()),
        ("inv", inventory(1)),
        ("inv", inventory(2)),
        ("getdata", inventory(0x4000_0002)),
        ("getdata", inventory(3)),
        ("notfound", inventory(5)),
        ("getblocks", locator.clone()),
        ("getheaders", locator),
        ("headers", [&[1][..], &serialize(&block.header), &[0]].concat()),
        ("block", serialize(block)),
        ("tx", serialize(&block.txdata[0])),
        ("cmpctblock", serialize(&compact)),
        ("getblocktxn", [&hash[..], &[1, 0]].concat()),
        ("blocktxn", [&hash[..], &[1], &serialize(&block.txdata[0])].concat()),
        ("sendcmpct", vec![1, 2, 0, 0, 0, 0, 0, 0, 0]),
        ("feefilter", 1_000_u64.to_le_bytes().to_vec()),
        ("ping", 5_u64.to_le_bytes().to_vec()),
        ("pong", 5_u64.to_le_bytes().to_vec()),
        ("mempool", Vec::new()),
        ("getaddr", Vec::new()),
        ("sendheaders", Vec::new()),
        ("filterload", [&[8][..], &[0xb5; 8], &[5, 0, 0, 0], &[1, 2, 3, 4], &[1]].concat()),
        ("filteradd", b"\x04abcd".to_vec()),
        ("filterclear", Vec::new()),
        ("getcfilters", filters(0)),
        ("getcfheaders", filters(0)),
        ("getcfcheckpt", [&[0][..], &hash].concat()),
        ("sendtxrcncl", vec![1; 12]),
        ("feature", b"\x04test\x00".to_vec()),
        ("nonsense", vec![1, 2, 3]),
    ]
}

#[test]
fn mutated_messages_of_every_type_leave_a_node_that_answers() {
    let node = node();
    node.call("generatetodescriptor", json!([5, "raw(51)#8lvh9jxk"]));
    let before = resident_mib(&node);
    let genesis = bitcoin::constants::genesis_block(Network::Regtest);
    let mut rng = StdRng::seed_from_u64(1);
    for (command, seed) in seeds(&genesis) {
        let mut peer = None;
        let mut sent = 0;
        while sent < executions() {
            let mut current = peer.take().or_else(|| Peer::connect(&node)).expect("the node takes connections");
            let batch: Vec<u8> = (0..BATCH).flat_map(|_| message(command, &mutate(&mut rng, &seed))).collect();
            sent += BATCH;
            let nonce = u64::try_from(sent).unwrap() + 1_000_000;
            // A node that hangs up has judged the message; the next one comes by a new connection.
            let alive = current.stream.write_all(&batch).is_ok()
                && current.say("ping", &nonce.to_le_bytes()).is_some()
                && current.wait("pong", &nonce.to_le_bytes()).is_some();
            peer = alive.then_some(current);
        }
        assert_eq!(node.height(), 5, "after {command}");
    }
    let after = resident_mib(&node);
    assert!(after < before + MAX_GROWTH_MIB, "resident memory grew from {before} to {after} MiB");
}
