//! A network of two bitcoind and three keylessd: partitions, relay of transactions and packages, random reorganisations.
//!
//! `KEYLESS_REORGS=100` runs the long form of the last one.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "network/strangers.rs"]
mod strangers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bitcoin::consensus::encode;
use bitcoin::{Address, Network, ScriptBuf, Transaction, Witness, transaction};
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options, RpcFailure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// The longest chain wins on all nodes within this.
const TIP_DEADLINE: Duration = Duration::from_secs(5);
/// Two hops of inventory that is held back on purpose, and what a busy machine adds.
const RELAY_DEADLINE: Duration = Duration::from_secs(60);
const MAX_DEPTH: u64 = 20;
/// Reorganisations in the short form.
const REORGS: u64 = 8;

/// OP_TRUE as a witness script: anyone can spend it by a standard transaction.
fn anyone_script() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x51])
}

fn anyone_address() -> String {
    Address::p2wsh(&anyone_script(), Network::Regtest).to_string()
}

/// Nothing is held back from such peers, their headers are believed, and they keep their place.
const TRUSTED: &str = "-whitelist=noban,in,out@127.0.0.1";

/// Two bitcoind, then three keylessd, in a ring; every second link is encrypted.
struct Net {
    nodes: Vec<Daemon>,
}

/// Ends of a link, and whether it is encrypted.
const RING: [(usize, usize, bool); 5] = [(2, 0, true), (3, 1, false), (4, 2, true), (3, 4, false), (1, 0, true)];
/// Links between {0, 2} and {1, 3, 4}.
const CUT: [(usize, usize); 2] = [(4, 2), (1, 0)];

impl Net {
    /// Nodes that trust each other, or that are strangers.
    fn start(trusting: bool) -> Self {
        let started = |mut options: Options| {
            options.args.extend(trusting.then(|| TRUSTED.to_owned()));
            Daemon::start_new(options.arg("-checkblockindex=0"))
        };
        let core = || started(Options::core());
        let keyless = || started(Options::keyless().arg("-disablewallet"));
        let net = Self { nodes: vec![core(), core(), keyless(), keyless(), keyless()] };
        for (from, to, v2) in RING {
            net.link(from, to, v2);
        }
        net
    }

    fn link(&self, from: usize, to: usize, v2: bool) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let address = format!("127.0.0.1:{}", to.p2p_port);
        from.call("addnode", json!([address, "onetry", v2]));
        let transport = if v2 { "v2" } else { "v1" };
        until_true("linked", RELAY_DEADLINE, || {
            from.call("getpeerinfo", json!([])).as_array().unwrap().iter().any(|peer| {
                peer["addr"] == json!(address)
                    && peer["transport_protocol_type"] == transport
                    && peer["bytesrecv_per_msg"]["pong"].as_u64().is_some()
            })
        });
    }

    fn partition(&self) {
        for (from, to) in CUT {
            let address = format!("127.0.0.1:{}", self.nodes[to].p2p_port);
            self.nodes[from].call("disconnectnode", json!([address]));
        }
    }

    fn heal(&self) {
        for (from, to) in CUT {
            let v2 = RING.iter().any(|(a, b, v2)| (*a, *b) == (from, to) && *v2);
            self.link(from, to, v2);
        }
    }

    #[track_caller]
    fn one_tip(&self, expected: &str, within: Duration) -> Duration {
        let started = Instant::now();
        until_true("the same tip on all", within, || self.nodes.iter().all(|node| node.best() == expected));
        started.elapsed()
    }

    fn one_utxo_set(&self) {
        let set = |node: &Daemon| {
            let info = node.call("gettxoutsetinfo", json!(["muhash"]));
            (info["height"].clone(), info["muhash"].clone(), info["txouts"].clone())
        };
        let first = set(&self.nodes[0]);
        for node in &self.nodes {
            assert_eq!(set(node), first);
        }
    }

    fn has_in_mempool(&self, txid: &Value) {
        until_true("the transaction reaches all", RELAY_DEADLINE, || {
            self.nodes.iter().all(|node| mempool(node).contains(txid.as_str().unwrap()))
        });
    }
}

fn mempool(node: &Daemon) -> BTreeSet<String> {
    let ids = node.call("getrawmempool", json!([]));
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// An address that no other has: blocks of the same second on the same parent differ by it.
fn branch_address(salt: u64) -> String {
    let script = bitcoin::script::Builder::new().push_int(i64::try_from(salt).unwrap()).into_script();
    Address::p2wsh(&script, Network::Regtest).to_string()
}

fn mine(node: &Daemon, blocks: u64) -> Vec<String> {
    mine_to(node, blocks, &anyone_address())
}

fn mine_to(node: &Daemon, blocks: u64, address: &str) -> Vec<String> {
    let hashes = node.call("generatetoaddress", json!([blocks, address]));
    hashes.as_array().unwrap().iter().map(|hash| hash.as_str().unwrap().to_owned()).collect()
}

/// Spends output 0 of `txid` (of `sat`), paying `fee`, by a transaction of this version.
fn spend(txid: &str, sat: u64, fee: u64, version: i32) -> Transaction {
    let mut tx: Transaction = Transaction {
        version: transaction::Version(version),
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![bitcoin::TxIn {
            previous_output: bitcoin::OutPoint::new(txid.parse().unwrap(), 0),
            ..Default::default()
        }],
        output: vec![bitcoin::TxOut {
            value: bitcoin::Amount::from_sat(sat - fee),
            script_pubkey: ScriptBuf::new_p2wsh(&anyone_script().wscript_hash()),
        }],
    };
    tx.input[0].witness = Witness::from_slice(&[anyone_script().as_bytes()]);
    tx
}

fn hex(tx: &Transaction) -> String {
    encode::serialize_hex(tx)
}

fn coinbase(node: &Daemon, height: u64) -> String {
    let hash = node.call("getblockhash", json!([height]));
    node.call("getblock", json!([hash]))["tx"][0].as_str().unwrap().to_owned()
}

/// The subsidy until block 150 of regtest.
const SUBSIDY: u64 = 5_000_000_000;

#[test]
fn partitions_heal_and_transactions_and_packages_reach_all() {
    let net = Net::start(true);
    let tip = mine(&net.nodes[0], 110).pop().unwrap();
    net.one_tip(&tip, RELAY_DEADLINE);

    net.partition();
    mine(&net.nodes[2], 3);
    let longer = mine_to(&net.nodes[4], 5, &branch_address(1)).pop().unwrap();
    until_true("the cut holds", RELAY_DEADLINE, || net.nodes[1].best() == longer);
    assert_eq!(net.nodes[0].height(), 113);
    net.heal();
    net.one_tip(&longer, TIP_DEADLINE);

    // The other way round: bitcoind mines the longer branch.
    net.partition();
    mine(&net.nodes[4], 2);
    let longer = mine_to(&net.nodes[0], 4, &branch_address(2)).pop().unwrap();
    net.heal();
    net.one_tip(&longer, TIP_DEADLINE);
    net.one_utxo_set();

    for (height, at) in [(1, 0), (2, 2), (3, 4), (4, 1)] {
        let tx = spend(&coinbase(&net.nodes[0], height), SUBSIDY, 10_000, 2);
        let txid = net.nodes[at].call("sendrawtransaction", json!([hex(&tx), 0]));
        net.has_in_mempool(&txid);
    }
    // A parent that pays nothing gets in only together with its child.
    for (height, at) in [(5, 3), (6, 1)] {
        let parent = spend(&coinbase(&net.nodes[0], height), SUBSIDY, 0, 3);
        let child = spend(&parent.compute_txid().to_string(), SUBSIDY, 50_000, 3);
        let alone = net.nodes[at].call("testmempoolaccept", json!([[hex(&parent)]]));
        assert_eq!(alone[0]["allowed"], json!(false), "{alone}");
        let result = net.nodes[at].call("submitpackage", json!([[hex(&parent), hex(&child)]]));
        assert_eq!(result["package_msg"], "success", "{result}");
        net.has_in_mempool(&json!(parent.compute_txid().to_string()));
        net.has_in_mempool(&json!(child.compute_txid().to_string()));
    }
    let tip = mine(&net.nodes[3], 1).pop().unwrap();
    net.one_tip(&tip, TIP_DEADLINE);
    for node in &net.nodes {
        assert_eq!(mempool(node).len(), 0);
    }
    net.one_utxo_set();
}

#[test]
fn random_reorganisations_leave_the_same_coins_and_mempools() {
    let reorgs = std::env::var("KEYLESS_REORGS").ok().and_then(|n| n.parse().ok()).unwrap_or(REORGS);
    let mut rng = StdRng::seed_from_u64(6);
    let net = Net::start(true);
    let tip = mine(&net.nodes[0], 250).pop().unwrap();
    net.one_tip(&tip, RELAY_DEADLINE);
    let started = Instant::now();
    let mut sent: Vec<Transaction> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..reorgs {
        // A coin from below every reorganisation: what spends it is valid on every branch.
        let tx = spend(&coinbase(&net.nodes[0], 1 + round), SUBSIDY, 10_000 + round, 2);
        let at = rng.gen_range(0..net.nodes.len());
        let txid = net.nodes[at].call("sendrawtransaction", json!([hex(&tx), 0]));
        sent.push(tx);
        net.has_in_mempool(&txid);
        let depth = rng.gen_range(1..=MAX_DEPTH);
        let tip = mine_to(&net.nodes[rng.gen_range(0..5)], depth, &branch_address(100_000 + round)).pop().unwrap();
        slowest = slowest.max(net.one_tip(&tip, RELAY_DEADLINE));
        // One of the bitcoind makes a longer branch of its own, every second time without a transaction.
        let miner = &net.nodes[rng.gen_range(0..2)];
        let height = miner.height() as u64;
        let fork = miner.call("getblockhash", json!([height - depth + 1]));
        miner.call("invalidateblock", json!([fork]));
        let empty = round % 2 == 1;
        let address = branch_address(1_000 + round);
        let mut tip = String::new();
        for _ in 0..=depth {
            let hash = if empty {
                miner.call("generateblock", json!([address, []]))["hash"].clone()
            } else {
                json!(mine_to(miner, 1, &address).pop().unwrap())
            };
            tip = hash.as_str().unwrap().to_owned();
        }
        slowest = slowest.max(net.one_tip(&tip, TIP_DEADLINE));
        miner.call("reconsiderblock", json!([fork]));
        net.one_utxo_set();
    }
    println!("{reorgs} reorganisations in {:?}, the slowest tip reached all after {slowest:?}", started.elapsed());

    // A node that never saw a reorganisation; Core does not announce again what a reorganisation put back.
    let fresh = Daemon::start_new(Options::core().arg("-checkblockindex=0"));
    fresh.call("addnode", json!([format!("127.0.0.1:{}", net.nodes[0].p2p_port), "onetry"]));
    until_true("the fresh node follows", RELAY_DEADLINE, || fresh.best() == net.nodes[0].best());
    let (mined, waiting): (Vec<_>, Vec<_>) = sent.iter().partition(|tx| is_mined(&fresh, tx));
    println!("{} transactions are in blocks of the winning branch, {} wait", mined.len(), waiting.len());
    for tx in &mined {
        assert_eq!(announce(&fresh, tx).unwrap_err(), in_chain());
    }
    for tx in &waiting {
        announce(&fresh, tx).unwrap();
    }
    let expected: BTreeSet<String> = waiting.iter().map(|tx| tx.compute_txid().to_string()).collect();
    assert_eq!(mempool(&fresh), expected);
    // Ours have kept what waits, every one of them; between nodes it is announced again before it is compared.
    for node in &net.nodes[2..] {
        assert_eq!(mempool(node), expected, "{:?}", node.options.kind);
    }
    for node in &net.nodes {
        for tx in &waiting {
            announce(node, tx).unwrap();
        }
        for tx in &mined {
            assert_eq!(announce(node, tx).unwrap_err(), in_chain());
        }
        assert_eq!(mempool(node), expected, "{:?}", node.options.kind);
    }
}

fn announce(node: &Daemon, tx: &Transaction) -> Result<Value, RpcFailure> {
    node.rpc().try_call("sendrawtransaction", json!([hex(tx), 0]))
}

/// Its output is in the chain; nothing here spends one.
fn is_mined(node: &Daemon, tx: &Transaction) -> bool {
    !node.call("gettxout", json!([tx.compute_txid().to_string(), 0, false])).is_null()
}

/// The one reason for which a transaction is refused that is valid on every branch.
fn in_chain() -> RpcFailure {
    RpcFailure { code: -27, message: "Transaction outputs already in utxo set".to_owned() }
}
