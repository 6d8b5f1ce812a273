//! `cmpctblock` and `blocktxn` where they are not passed over: the block is announced, its parent is the tip, the node
//! has asked for it, and one transaction is missing.

use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::bip152::ShortId;
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::{
    Amount, Block, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, absolute,
    transaction,
};
use keyless_tests::Daemon;
use rand::RngCore;
use rand::rngs::StdRng;
use serde_json::json;

use super::peer::{Peer, message};
use super::{Target, mutate};

/// Inputs between two waits.
const BATCH: usize = 100;
/// Blocks that may be refused for good.
const MOST_REBUILT: usize = 20;
/// Target of every block on regtest.
const BITS: u32 = 0x207f_ffff;

/// A block of nothing but a coinbase, which no mempool holds.
struct Pending {
    block: Block,
    /// Of the right type for this block and with a transaction that is not in it: ends what an input left open.
    wrong: Vec<u8>,
}

fn coinbase(height: i64, salt: u64) -> Transaction {
    let salt = PushBytesBuf::from(salt.to_le_bytes());
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: Builder::new().push_int(height).push_slice(salt).into_script(),
            sequence: Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(vec![0x51]) }],
    }
}

impl Pending {
    fn on_tip(node: &Daemon, rng: &mut StdRng) -> Self {
        let parent = node.best();
        let tip = node.call("getblockheader", json!([parent]));
        let height = tip["height"].as_i64().unwrap() + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let time = u32::try_from(now.max(tip["mediantime"].as_u64().unwrap() + 1)).unwrap();
        let coinbase_tx = coinbase(height, rng.next_u64());
        let header = Header {
            version: Version::from_consensus(0x2000_0000),
            prev_blockhash: parent.parse().unwrap(),
            merkle_root: coinbase_tx.compute_txid().to_raw_hash().into(),
            time,
            bits: CompactTarget::from_consensus(BITS),
            nonce: 0,
        };
        let mut block = Block { header, txdata: vec![coinbase_tx] };
        while block.header.validate_pow(block.header.target()).is_err() {
            block.header.nonce += 1;
        }
        let other = Block { header: block.header, txdata: vec![coinbase(height, rng.next_u64())] };
        Self { wrong: transactions(&other), block }
    }

    fn announcement(&self) -> Vec<u8> {
        message("headers", &[&[1][..], &serialize(&self.block.header), &[0]].concat())
    }

    /// All of it by a short id alone.
    fn compact(&self) -> Vec<u8> {
        let nonce = 7_u64;
        let keys = ShortId::calculate_siphash_keys(&self.block.header, nonce);
        let id = ShortId::with_siphash_keys(&self.block.txdata[0].compute_wtxid(), keys);
        [&serialize(&self.block.header)[..], &nonce.to_le_bytes(), &[1], id.as_ref(), &[0]].concat()
    }
}

/// `blocktxn` with every transaction of a block.
fn transactions(block: &Block) -> Vec<u8> {
    let hash = block.block_hash().to_byte_array();
    [&hash[..], &[1], &serialize(&block.txdata[0])].concat()
}

/// One input: the announcement, the compact block, its transactions, and what ends the attempt.
fn input(pending: &Pending, command: &str, rng: &mut StdRng) -> Vec<u8> {
    let (compact, full) = (pending.compact(), transactions(&pending.block));
    // What is behind the transactions is not read: such an input would be the block, and the tip then.
    let wrong =
        |rng: &mut StdRng| std::iter::repeat_with(|| mutate(rng, &full)).find(|bytes| !bytes.starts_with(&full));
    let parts = match command {
        "cmpctblock" => vec![message("cmpctblock", &mutate(rng, &compact))],
        _ => vec![message("cmpctblock", &compact), message("blocktxn", &wrong(rng).unwrap())],
    };
    [pending.announcement(), parts.concat(), message("blocktxn", &pending.wrong)].concat()
}

fn welcomed(node: &Daemon, rng: &mut StdRng) -> Peer {
    Peer::fresh(node, rng).welcomed().expect("the node takes peers")
}

/// Sends inputs until the node is done with `share` of them; of a `blocktxn` one counts when its block was asked for.
fn attack(target: &Target, command: &str, share: usize, rng: &mut StdRng) {
    let node = &target.node;
    let mut peer = welcomed(node, rng);
    let mut pending = Pending::on_tip(node, rng);
    let (mut done, mut rebuilt) = (0, 0);
    while done < share {
        let inputs: Vec<Vec<u8>> = (0..BATCH).map(|_| input(&pending, command, rng)).collect();
        let heard = peer.exchange(&inputs);
        done += if command == "blocktxn" { heard.asked } else { heard.done };
        let stuck = heard.asked < BATCH / 4;
        if stuck {
            // Refused for good, or too much was asked of this peer.
            pending = Pending::on_tip(node, rng);
            rebuilt += 1;
        }
        if !heard.alive || stuck {
            peer = welcomed(node, rng);
        }
        assert!(rebuilt <= MOST_REBUILT + done / 10, "the node does not ask for what is missing");
    }
}

#[test]
fn mutated_compact_blocks_that_the_node_waits_for_leave_a_node_that_answers() {
    let target = Target::start();
    for command in ["cmpctblock", "blocktxn"] {
        target.attack(&format!("{command} that is waited for"), |_, share, mut rng| {
            attack(&target, command, share, &mut rng);
        });
    }
}
