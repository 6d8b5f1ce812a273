//! Two wallets, each of three processes, pay each other from all six at once: no coin is spent twice, none is stuck, no
//! address is given to two callers, and every satoshi is accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::Rng;
use bitcoin::secp256k1::rand::SeedableRng;
use bitcoin::secp256k1::rand::rngs::StdRng;
use keyless_tests::quorum::Discovery;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Quorum, RpcClient, sat};
use serde_json::{Map, Value, json};

use crate::{TYPES, btc, dice, length};

const DEADLINE: Duration = Duration::from_secs(60);
/// Payments under way at a time.
const AT_ONCE: usize = 8;
/// Coins of each wallet at the start.
const COINS: usize = 40;
const COIN_SAT: i64 = 100_000_000;
const SHORT: usize = 48;
/// Coins of one transaction at the end.
const SPENT_TOGETHER: usize = 100;
/// Before a payment that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Between blocks.
const BLOCK_PAUSE: Duration = Duration::from_millis(1_500);
/// Nobody's: it only takes the coinbases.
const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";

/// What one caller did.
struct Payment {
    from: usize,
    amount: i64,
    address: String,
    txid: String,
}

struct Sides {
    quorums: [Quorum; 2],
}

const NAMES: [&str; 2] = ["a", "b"];

impl Sides {
    fn members(&self) -> impl Iterator<Item = &Daemon> {
        self.quorums.iter().flat_map(|quorum| &quorum.members)
    }

    fn sync(&self) {
        until_true("six nodes on one tip", DEADLINE, || {
            let tip = self.quorums[0].members[0].best();
            self.members().all(|member| member.best() == tip)
        });
    }

    fn mine(&self, blocks: usize, to: &str) {
        self.quorums[0].members[0].call("generatetoaddress", json!([blocks, to]));
        self.sync();
    }

    fn mempool(&self, member: &Daemon) -> BTreeSet<String> {
        let list = member.call("getrawmempool", json!([]));
        list.as_array().unwrap().iter().map(|txid| txid.as_str().unwrap().to_owned()).collect()
    }

    /// Transactions of all wallets, as all members see them, that are in no block.
    fn unconfirmed(&self) -> usize {
        let wallets = (0..2).flat_map(|side| (0..3).map(move |m| self.quorums[side].wallet(m, NAMES[side])));
        let open = |wallet: RpcClient| {
            let rows = wallet.call("listtransactions", json!(["*", 100_000]));
            rows.as_array().unwrap().iter().filter(|row| row["confirmations"] == json!(0)).count()
        };
        wallets.map(open).sum()
    }

    fn start() -> Self {
        let sides = Self { quorums: [0, 1].map(|_| Quorum::start(2, 3, Discovery::Static)) };
        let first = &sides.quorums[0].members[0];
        for member in &sides.quorums[1].members {
            member.call("addnode", json!([format!("127.0.0.1:{}", first.p2p_port), "add"]));
        }
        for (quorum, name) in sides.quorums.iter().zip(NAMES) {
            quorum.create_wallet(name);
            let to = quorum.wallet(0, name).call("getnewaddress", json!([]));
            sides.mine(1, to.as_str().unwrap());
        }
        sides.mine(100, NOBODY);
        for (quorum, name) in sides.quorums.iter().zip(NAMES) {
            let wallet = quorum.wallet(0, name);
            let mut outputs = Map::new();
            for n in 0..COINS {
                let to = wallet.call("getnewaddress", json!(["", TYPES[n % 4]]));
                outputs.insert(to.as_str().unwrap().to_owned(), json!(btc(COIN_SAT)));
            }
            wallet.call("sendmany", json!(["", outputs]));
        }
        sides.mine(1, NOBODY);
        sides
    }

    fn balance(&self, side: usize, member: usize) -> i64 {
        let balances = self.quorums[side].wallet(member, NAMES[side]).call("getbalances", json!([]));
        assert_eq!(sat(&balances["mine"]["untrusted_pending"]) + sat(&balances["mine"]["immature"]), 0, "{balances}");
        sat(&balances["mine"]["trusted"])
    }

    /// One payment from a member picked at random to an address that a member of the other side gives.
    fn pay(&self, dice: &mut StdRng) -> Payment {
        let from = dice.gen_range(0..2);
        let to = 1 - from;
        let giver = self.quorums[to].wallet(dice.gen_range(0..3), NAMES[to]);
        let address = giver.call("getnewaddress", json!(["", TYPES[dice.gen_range(0..4)]]));
        let amount = dice.gen_range(10_000..COIN_SAT / 4);
        let payer = self.quorums[from].wallet(dice.gen_range(0..3), NAMES[from]);
        let start = Instant::now();
        let txid = loop {
            match payer.try_call("sendtoaddress", json!([address, btc(amount)])) {
                Ok(txid) => break txid,
                // The caller tries again: what failed must have left no trace, or the sums do not fit.
                Err(error) if may_pass(&error.message) && start.elapsed() < DEADLINE => {
                    println!("again: {error}");
                    std::thread::sleep(AGAIN);
                }
                Err(error) => panic!("sendtoaddress: {error}"),
            }
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Payment { from, amount, address: text(&address), txid: text(&txid) }
    }
}

/// Whether a failure is one of the moment: on a machine with too much to do co-signers lose each other, and between two
/// blocks the wallet's change may be as long a chain as mempools take.
fn may_pass(error: &str) -> bool {
    error.contains("the quorum") || error.starts_with("Unconfirmed UTXOs are available")
}

/// Runs all payments, [`AT_ONCE`] at a time, with a block now and then.
fn pay_all(sides: &Sides, count: usize) -> Vec<Payment> {
    let mut dice = dice();
    let seeds: Vec<u64> = (0..AT_ONCE).map(|_| dice.gen_range(0..u64::MAX)).collect();
    let started = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let miner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(BLOCK_PAUSE);
                sides.quorums[0].members[0].call("generatetoaddress", json!([1, NOBODY]));
            }
        });
        let worker = |seed: u64| {
            let (started, sides) = (&started, sides);
            move || {
                let mut dice = StdRng::seed_from_u64(seed);
                let mut made = Vec::new();
                while started.fetch_add(1, Ordering::Relaxed) < count {
                    made.push(sides.pay(&mut dice));
                }
                made
            }
        };
        let workers: Vec<_> = seeds.into_iter().map(|seed| scope.spawn(worker(seed))).collect();
        let all: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        miner.join().unwrap();
        all.into_iter().flat_map(|made| made.expect("every payment succeeds")).collect()
    })
}

fn settle(sides: &Sides) {
    sides.sync();
    until_true("all mempools agree", DEADLINE, || {
        let first = sides.mempool(&sides.quorums[0].members[0]);
        sides.members().all(|member| sides.mempool(member) == first)
    });
    // What a node could not take yet, for want of a parent, goes out again at the next block.
    until_true("everything is mined", DEADLINE, || {
        sides.mine(1, NOBODY);
        std::thread::sleep(AGAIN);
        sides.unconfirmed() == 0
    });
    let left = sides.mempool(&sides.quorums[0].members[0]);
    assert!(left.is_empty(), "everything is mined: {left:?}");
}

/// Fee of a payment in satoshi, as every member of the payer tells it; all see it deep in the chain.
fn fee_of(sides: &Sides, payment: &Payment) -> i64 {
    let seen: BTreeSet<i64> = (0..3)
        .map(|member| {
            let wallet = sides.quorums[payment.from].wallet(member, NAMES[payment.from]);
            let tx = wallet.call("gettransaction", json!([payment.txid]));
            assert!(tx["confirmations"].as_i64().unwrap() > 0, "{tx}");
            assert_eq!(tx["walletconflicts"], json!([]), "{tx}");
            -sat(&tx["fee"])
        })
        .collect();
    assert_eq!(seen.len(), 1, "members agree on the fee of {}", payment.txid);
    seen.into_iter().next().unwrap()
}

/// Each outpoint is spent once, over all blocks.
fn no_coin_twice(node: &Daemon) {
    let mut spent = BTreeSet::new();
    for height in 1..=node.height() {
        let block = node.call("getblock", json!([node.call("getblockhash", json!([height])), 2]));
        for input in block["tx"].as_array().unwrap().iter().skip(1).flat_map(|tx| tx["vin"].as_array().unwrap()) {
            assert!(spent.insert((input["txid"].to_string(), input["vout"].to_string())), "spent twice: {input}");
        }
    }
}

fn coins(sides: &Sides, side: usize, member: usize) -> BTreeMap<String, i64> {
    let wallet = sides.quorums[side].wallet(member, NAMES[side]);
    let list = wallet.call("listunspent", json!([0]));
    let name = |coin: &Value| format!("{}:{}", coin["txid"].as_str().unwrap(), coin["vout"]);
    list.as_array().unwrap().iter().map(|coin| (name(coin), sat(&coin["amount"]))).collect()
}

fn outpoint(name: &str) -> Value {
    let (txid, vout) = name.split_once(':').unwrap();
    json!({"txid": txid, "vout": vout.parse::<u32>().unwrap()})
}

#[test]
fn two_wallets_of_six_processes_pay_each_other_at_once_to_the_last_satoshi() {
    let count = length("KEYLESS_PAYMENTS", SHORT);
    let sides = Sides::start();
    let before = [0, 1].map(|side| sides.balance(side, 0));
    let start = Instant::now();
    let payments = pay_all(&sides, count);
    println!("{count} payments, {AT_ONCE} at a time: {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(payments.len(), count);
    settle(&sides);

    let distinct = |key: fn(&Payment) -> &String| payments.iter().map(key).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(|payment| &payment.address), count, "no address is given twice");
    assert_eq!(distinct(|payment| &payment.txid), count, "every payment is its own transaction");
    no_coin_twice(&sides.quorums[1].members[2]);
    let mut expected = before;
    for payment in &payments {
        expected[payment.from] -= payment.amount + fee_of(&sides, payment);
        expected[1 - payment.from] += payment.amount;
    }
    for side in 0..2 {
        let first = coins(&sides, side, 0);
        assert_eq!(first.values().sum::<i64>(), expected[side], "coins of wallet {}", NAMES[side]);
        for member in 0..3 {
            assert_eq!(sides.balance(side, member), expected[side], "balance of {} at {member}", NAMES[side]);
            assert_eq!(coins(&sides, side, member), first, "coins of {} at {member}", NAMES[side]);
            let wallet = sides.quorums[side].wallet(member, NAMES[side]);
            assert_eq!(wallet.call("listlockunspent", json!([])), json!([]));
            assert_eq!(wallet.call("listsigningsessions", json!([])), json!([]));
        }
        // Nothing is stuck: every coin can be spent, by any member.
        for (n, some) in Vec::from_iter(first.keys()).chunks(SPENT_TOGETHER).enumerate() {
            let inputs: Vec<Value> = some.iter().map(|coin| outpoint(coin)).collect();
            let wallet = sides.quorums[side].wallet(n % 3, NAMES[side]);
            let all = wallet.call("sendall", json!([[NOBODY], null, null, null, {"inputs": inputs}]));
            assert_eq!(all["complete"], json!(true), "{all}");
        }
    }
    settle(&sides);
    for (side, name) in NAMES.into_iter().enumerate() {
        assert_eq!(sides.balance(side, 1), 0, "nothing is left in {name}");
    }
}
