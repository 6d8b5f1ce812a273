//! Every message type, as a trusted peer sends it after the handshake: trusted, so that nonsense does not end the
//! connection too soon.

use bitcoin::Block;
use bitcoin::bip152::HeaderAndShortIds;
use bitcoin::consensus::encode::{deserialize_hex, serialize};
use bitcoin::hashes::Hash;
use keyless_tests::Daemon;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::peer::{Peer, message, version};
use super::{Target, mutate};

/// Inputs between two waits.
const BATCH: usize = 200;

/// A block that the node has.
pub fn tip_block(node: &Daemon) -> Block {
    deserialize_hex(node.call("getblock", json!([node.best(), 0])).as_str().unwrap()).unwrap()
}

/// A payload of each type that the node takes as it is.
pub fn seeds(block: &Block) -> Vec<(&'static str, Vec<u8>)> {
    let hash = block.block_hash().to_byte_array();
    let inventory = |kind: u32| [&[1][..], &kind.to_le_bytes(), &hash].concat();
    let locator = [&70_016_u32.to_le_bytes()[..], &[1], &hash, &[0; 32]].concat();
    let address = [&1_700_000_000_u32.to_le_bytes()[..], &[9, 0, 0, 0, 0, 0, 0, 0], &[0; 10], &[255, 255, 8, 8, 8, 8]];
    let compact = HeaderAndShortIds::from_block(block, 7, 2, &[]).unwrap();
    let filters = |start: u32| [&[0][..], &start.to_le_bytes(), &hash].concat();
    let header = serialize(&block.header);
    vec![
        ("version", version()),
        ("verack", vec![1]),
        ("addr", [&[1][..], &address.concat(), &8333_u16.to_be_bytes()].concat()),
        ("addrv2", [&[2][..], &[0, 0, 0, 1, 1, 1, 4, 8, 8, 8, 8, 1, 2], &[0, 0, 0, 1, 1, 4, 32], &[9; 34]].concat()),
        ("inv", inventory(1)),
        ("inv", inventory(2)),
        ("getdata", inventory(0x4000_0002)),
        ("getdata", inventory(3)),
        ("notfound", inventory(5)),
        ("getblocks", locator.clone()),
        ("getheaders", locator),
        ("headers", [&[1][..], &header, &[0]].concat()),
        ("block", serialize(block)),
        ("tx", serialize(&block.txdata[0])),
        ("cmpctblock", serialize(&compact)),
        ("getblocktxn", [&hash[..], &[1, 0]].concat()),
        ("blocktxn", [&hash[..], &[1], &serialize(&block.txdata[0])].concat()),
        ("merkleblock", [&header[..], &[1, 0, 0, 0, 1], &block.header.merkle_root.to_byte_array(), &[1, 1]].concat()),
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
        ("nonsense", vec![1, 2, 3]),
    ]
}

/// What ends the connection unread once the handshake is over; `opening` has it where it is read.
const TOO_LATE: [&str; 4] = ["wtxidrelay", "sendaddrv2", "sendtxrcncl", "feature"];

#[test]
fn mutated_messages_of_every_type_leave_a_node_that_answers() {
    let target = Target::start();
    for (command, seed) in seeds(&tip_block(&target.node)) {
        target.attack(command, |_, share, mut rng| {
            let mut done = 0;
            let mut peer: Option<Peer> = None;
            while done < share {
                let mut current = peer
                    .take()
                    .unwrap_or_else(|| Peer::fresh(&target.node, &mut rng).welcomed().expect("the node takes peers"));
                let inputs: Vec<Vec<u8>> =
                    (0..BATCH.min(share - done)).map(|_| message(command, &mutate(&mut rng, &seed))).collect();
                let heard = current.exchange(&inputs);
                done += heard.done;
                peer = heard.alive.then_some(current);
            }
        });
    }
    let mut rng = StdRng::seed_from_u64(0);
    for command in TOO_LATE {
        let mut peer = Peer::fresh(&target.node, &mut rng).welcomed().expect("the node takes peers");
        assert!(!peer.exchange(&[message(command, &[1; 12])]).alive, "{command} after verack");
    }
}
