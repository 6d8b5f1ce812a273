//! A wallet of a 2-of-3 in daily use and as it grows: addresses, payments, queries, load, memory, rescan.

use std::time::{Duration, Instant};

use keyless_tests::RpcClient;
use keyless_tests::wait::until_true;
use serde_json::{Value, json};
use tss_wallet::wallet::keychain::AddressType;

use crate::crowd::Crowd;
use crate::live::{COINS, Live, foreign, type_name};
use crate::stats::{Sample, ms};

const GROWN: AddressType = AddressType::Bech32m;
/// One payment out for so many transactions, which spends what those brought but the few that stay as coins.
const PER_SEND: usize = 200;
const INPUTS_PER_SEND: usize = 197;
const FOLLOW_DEADLINE: Duration = Duration::from_secs(300);

/// How much is done.
pub struct Runs {
    pub addresses: usize,
    pub sends: usize,
    pub queries: usize,
    pub loads: usize,
    /// Transactions at which the wallet is measured, growing.
    pub sizes: &'static [usize],
    pub empty_blocks: usize,
}

pub const FULL: Runs =
    Runs { addresses: 500, sends: 100, queries: 9, loads: 3, sizes: &[1_000, 10_000, 100_000], empty_blocks: 20_000 };
pub const SHORT: Runs =
    Runs { addresses: 100, sends: 12, queries: 5, loads: 2, sizes: &[400, 2_000], empty_blocks: 2_000 };

fn row(what: &str, sample: &Sample, aim: &str) {
    println!("| {what} | {} | {} | {} | {aim} |", sample.runs(), ms(sample.median()), ms(sample.p99()));
}

fn timed(runs: usize, mut call: impl FnMut()) -> Sample {
    let mut sample = Sample::default();
    for _ in 0..runs {
        let start = Instant::now();
        call();
        sample.add(start.elapsed(), Vec::new());
    }
    sample
}

/// Prints all tables.
pub fn run(runs: &Runs) {
    let mut live = Live::start(2, 3);
    live.create_wallets(3);
    println!("| 2-of-3 | runs | median ms | p99 ms | aim ms |\n| --- | ---: | ---: | ---: | ---: |");
    for (address_type, aim) in [(AddressType::Bech32m, "40"), (AddressType::Bech32, "60")] {
        let wallet = live.fund(address_type);
        let name = type_name(address_type);
        wallet.call("keypoolrefill", json!([runs.addresses + 1]));
        let addresses = timed(runs.addresses, || {
            wallet.call("getnewaddress", json!(["", name]));
        });
        row(&format!("getnewaddress, {name}, from the pool"), &addresses, "2");
        let sends = live.sends(&wallet, address_type, runs.sends);
        row(&format!("sendtoaddress, {name}, {COINS} coins"), &sends, aim);
    }
    grow(&mut live, runs);
    live.stop();
}

/// One row for each query: its median at each size.
struct Growth {
    rows: Vec<(&'static str, Option<Duration>, Vec<Duration>)>,
}

impl Growth {
    fn add(&mut self, what: &'static str, aim: Option<Duration>, value: Duration) {
        match self.rows.iter_mut().find(|(name, _, _)| *name == what) {
            Some((_, _, values)) => values.push(value),
            None => self.rows.push((what, aim, vec![value])),
        }
    }

    /// Prints the table; the last column compares the growth of the time with that of n log n.
    fn print(&self, sizes: &[usize]) {
        let heads: Vec<String> = sizes.iter().map(|size| format!("{size}")).collect();
        println!("\n| transactions: | {} | aim | time ×, n log n × |", heads.join(" | "));
        println!("| --- | {}---: | ---: |", "---: | ".repeat(sizes.len()));
        let n_log_n = |n: usize| n as f64 * (n as f64).ln();
        let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return };
        let allowed = n_log_n(*last) / n_log_n(*first);
        for (what, aim, values) in &self.rows {
            let cells: Vec<String> = values.iter().map(|value| ms(*value)).collect();
            let aim = aim.map_or_else(|| "-".to_owned(), ms);
            let (Some(small), Some(large)) = (values.first(), values.last()) else { continue };
            let grown = large.as_secs_f64() / small.as_secs_f64();
            println!("| {what}, ms | {} | {aim} | {grown:.1}, {allowed:.0} |", cells.join(" | "));
            assert!(grown <= allowed, "{what} grows faster than n log n");
        }
    }
}

/// Resident memory of member 0 in MiB.
fn memory_mib(live: &Live) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", live.quorum.members[0].pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory of the process");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
}

fn grow(live: &mut Live, runs: &Runs) {
    let (name, wallet) = live.next_wallet();
    let mut crowd = Crowd::new(&live.quorum.members[0].rpc());
    let (mut growth, mut memory) = (Growth { rows: Vec::new() }, vec![memory_mib(live)]);
    let count = || {
        let info = wallet.call("getwalletinfo", json!([]));
        usize::try_from(info["txcount"].as_u64().expect("a count")).expect("it fits")
    };
    for size in runs.sizes {
        let start = Instant::now();
        let missing = size - count();
        let sends = missing / PER_SEND;
        let coins = crowd.pay(&wallet, type_name(GROWN), missing - sends);
        live.quorum.sync_blocks();
        send_all(live, &wallet, &coins, sends);
        until_true("the wallet has them all", FOLLOW_DEADLINE, || count() == *size);
        let coins = wallet.call("listunspent", json!([])).as_array().expect("a list").len();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{size} transactions, {coins} coins; the last {missing} took {seconds:.0} s");
        measure(live, &name, &wallet, runs, &mut growth);
        memory.push(memory_mib(live));
    }
    growth.print(runs.sizes);
    println!("\nMemory of the coordinator, before and at each size: {memory:?} MiB (aim: 500).");
    rescan(live, &wallet, runs.empty_blocks);
}

/// Payments of the quorum that spend nearly all of the coins.
fn send_all(live: &Live, wallet: &RpcClient, coins: &[Value], sends: usize) {
    for (n, inputs) in coins.chunks(INPUTS_PER_SEND).take(sends).enumerate() {
        let sent = wallet.call("sendall", json!([[foreign(GROWN)], null, null, null, {"inputs": inputs}]));
        assert_eq!(sent["complete"], json!(true), "{sent}");
        if n % 20 == 19 {
            live.mine(1, &foreign(GROWN));
        }
    }
    live.mine(1, &foreign(GROWN));
}

fn measure(live: &Live, name: &str, wallet: &RpcClient, runs: &Runs, growth: &mut Growth) {
    let aim = Some(Duration::from_millis(100));
    let queries: [(&'static str, &str, Value, Option<Duration>); 6] = [
        ("listtransactions", "listtransactions", json!([]), aim),
        // At 100,000 these rows are of payments with 197 inputs each.
        ("listtransactions of 1,000", "listtransactions", json!(["*", 1_000]), None),
        ("getbalance", "getbalance", json!([]), aim),
        ("getbalances", "getbalances", json!([]), aim),
        ("listunspent", "listunspent", json!([]), aim),
        ("listsinceblock of the last 6", "listsinceblock", json!([block_before(live, 6)]), None),
    ];
    for (what, method, params, aim) in queries {
        let mut sample = Sample::default();
        for _ in 0..runs.queries {
            // Nothing of an earlier answer helps: a block came in between.
            live.mine(1, &foreign(GROWN));
            wallet.call("getwalletinfo", json!([]));
            let one = timed(1, || {
                wallet.call(method, params.clone());
            });
            sample.add(one.median(), Vec::new());
        }
        growth.add(what, aim, sample.median());
    }
    let sends = timed(runs.queries, || {
        wallet.call("sendtoaddress", json!([foreign(GROWN), "0.0001"]));
    });
    growth.add("sendtoaddress", None, sends.median());
    live.mine(1, &foreign(GROWN));
    let addresses = timed(runs.queries, || {
        wallet.call("getnewaddress", json!(["", type_name(GROWN)]));
    });
    growth.add("getnewaddress", None, addresses.median());
    let node = live.quorum.members[0].rpc();
    let mut loads = Sample::default();
    for _ in 0..runs.loads {
        node.call("unloadwallet", json!([name]));
        let load = timed(1, || {
            node.call("loadwallet", json!([name]));
        });
        loads.add(load.median(), Vec::new());
    }
    growth.add("loadwallet", Some(Duration::from_secs(5)), loads.median());
}

fn block_before(live: &Live, depth: i64) -> Value {
    let node = &live.quorum.members[0];
    node.call("getblockhash", json!([node.height() - depth]))
}

fn rescan(live: &Live, wallet: &RpcClient, blocks: usize) {
    let node = &live.quorum.members[0];
    let first = node.height() + 1;
    let mut left = blocks;
    while left > 0 {
        let some = left.min(1_000);
        live.mine(some, &foreign(AddressType::Bech32));
        left -= some;
    }
    let sample = timed(3, || {
        wallet.call("rescanblockchain", json!([first]));
    });
    let rate = blocks as f64 / sample.median().as_secs_f64();
    println!("Rescan of {blocks} blocks with a coinbase alone: {rate:.0} blocks/s (aim: 5,000).");
}
