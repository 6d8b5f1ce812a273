//! The node beside bitcoind of the same source: sync, RPC, start, memory, mining. Ratios, since both run here and now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;
use bitcoin::key::{Keypair, TapTweak, TweakedKeypair};
use bitcoin::secp256k1::{All, Message, Secp256k1, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, CompressedPublicKey, KnownHrp, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid,
    Witness, ecdsa, taproot, transaction,
};
use keyless_tests::http::Http;
use keyless_tests::wait::until;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::{Value, json};

/// Spends for each block of the chain; the first 101 blocks have none, so the others have a few more.
const SPENDS: u64 = 10;
const MATURITY: u64 = 100;
const SUBSIDY: u64 = 5_000_000_000;
const CONNECTIONS: usize = 16;
/// Between two questions whether a started node answers: what is measured takes tenths of a second.
const START_POLL: Duration = Duration::from_millis(1);
const SYNC_DEADLINE: Duration = Duration::from_secs(3_600);

/// How much of everything. Runs are even in number: each program is the first in half of them.
pub struct Scale {
    pub blocks: u64,
    pub runs: usize,
    pub rpc_secs: u64,
    pub starts: usize,
}

pub const FULL: Scale = Scale { blocks: 20_000, runs: 4, rpc_secs: 5, starts: 8 };
pub const SHORT: Scale = Scale { blocks: 1_000, runs: 2, rpc_secs: 1, starts: 4 };

/// Two keys, and the coins of the last block's transaction.
struct Spender {
    secp: Secp256k1<All>,
    secret: SecretKey,
    tweaked: TweakedKeypair,
    wpkh: Address,
    tr: Address,
    coins: Vec<(OutPoint, TxOut)>,
}

impl Spender {
    fn new() -> Self {
        let secp = Secp256k1::new();
        let secret = SecretKey::from_slice(&[7; 32]).unwrap();
        let pair = Keypair::from_secret_key(&secp, &secret);
        let wpkh = Address::p2wpkh(&CompressedPublicKey(secret.public_key(&secp)), KnownHrp::Regtest);
        let tr = Address::p2tr(&secp, pair.x_only_public_key().0, None, KnownHrp::Regtest);
        let tweaked = pair.tap_tweak(&secp, None);
        Self { secp, secret, tweaked, wpkh, tr, coins: Vec::new() }
    }

    fn scripts(&self) -> [ScriptBuf; 2] {
        [self.wpkh.script_pubkey(), self.tr.script_pubkey()]
    }

    /// Spends all coins into `outputs` of the same value, which the next block spends, and signs every input.
    fn next(&mut self, outputs: usize) -> Transaction {
        let total: Amount = self.coins.iter().map(|(_, coin)| coin.value).sum();
        let each = total / outputs as u64;
        let scripts = self.scripts();
        let mut tx = Transaction {
            version: transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: self.coins.iter().map(|(at, _)| TxIn { previous_output: *at, ..TxIn::default() }).collect(),
            output: (0..outputs).map(|n| TxOut { value: each, script_pubkey: scripts[n % 2].clone() }).collect(),
        };
        let spent: Vec<TxOut> = self.coins.iter().map(|(_, coin)| coin.clone()).collect();
        let mut witnesses = Vec::new();
        let mut cache = SighashCache::new(&tx);
        for (n, coin) in spent.iter().enumerate() {
            witnesses.push(if coin.script_pubkey == scripts[0] {
                let kind = EcdsaSighashType::All;
                let hash = cache.p2wpkh_signature_hash(n, &coin.script_pubkey, coin.value, kind).unwrap();
                let signature = self.secp.sign_ecdsa(&Message::from_digest(hash.to_byte_array()), &self.secret);
                let signature = ecdsa::Signature { signature, sighash_type: kind };
                Witness::p2wpkh(&signature, &self.secret.public_key(&self.secp))
            } else {
                let kind = TapSighashType::Default;
                let hash = cache.taproot_key_spend_signature_hash(n, &Prevouts::All(&spent), kind).unwrap();
                let message = Message::from_digest(hash.to_byte_array());
                let signature = self.secp.sign_schnorr_no_aux_rand(&message, &self.tweaked.to_keypair());
                Witness::p2tr_key_spend(&taproot::Signature { signature, sighash_type: kind })
            });
        }
        for (input, witness) in tx.input.iter_mut().zip(witnesses) {
            input.witness = witness;
        }
        let txid = tx.compute_txid();
        self.coins = tx.output.iter().zip(0..).map(|(o, n)| (OutPoint::new(txid, n), o.clone())).collect();
        tx
    }
}

fn options(kind: Kind) -> Options {
    let base = match kind {
        Kind::Core => Options::core(),
        Kind::Keyless => Options::keyless().arg("-disablewallet"),
    };
    base.arg("-checkblockindex=0").arg("-par=2")
}

/// A bitcoind with the chain that is synced from.
fn source(scale: &Scale) -> Daemon {
    let node = Daemon::start_new(options(Kind::Core));
    let mut spender = Spender::new();
    let address = spender.wpkh.to_string();
    let first = node.call("generatetoaddress", json!([MATURITY + 1, address]))[0].clone();
    let coinbase: Txid = node.call("getblock", json!([first]))["tx"][0].as_str().unwrap().parse().unwrap();
    let coin = TxOut { value: Amount::from_sat(SUBSIDY), script_pubkey: spender.wpkh.script_pubkey() };
    spender.coins = vec![(OutPoint::new(coinbase, 0), coin)];
    let mut client = Http::open(&node);
    let plan = inputs(scale);
    let mut spent = 0;
    for (at, inputs) in plan.iter().enumerate() {
        let tx = spender.next(plan.get(at + 1).copied().unwrap_or(2));
        assert_eq!(tx.input.len(), *inputs);
        spent += tx.input.len() as u64;
        let body = json!({"id": 1, "method": "generateblock", "params": [address, [encode::serialize_hex(&tx)]]});
        let (status, answer) = client.post(&body.to_string()).unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!((spent, node.height()), (scale.spends(), scale.blocks.cast_signed()));
    node
}

impl Scale {
    fn spends(&self) -> u64 {
        self.blocks * SPENDS
    }
}

/// How many coins each block spends after the first 101: one the first, the others as many as are left, evenly.
fn inputs(scale: &Scale) -> Vec<usize> {
    let others = scale.blocks - (MATURITY + 1) - 1;
    let (each, more) = ((scale.spends() - 1) / others, (scale.spends() - 1) % others);
    let count = |n| usize::try_from(each + u64::from(n < more)).unwrap();
    std::iter::once(1).chain((0..others).map(count)).collect()
}

/// Seconds to fetch and validate the source's chain.
fn sync(kind: Kind, source: &Daemon) -> (f64, Daemon) {
    let node = Daemon::start_new(options(kind));
    let goal = source.height();
    let started = Instant::now();
    node.call("addnode", json!([format!("127.0.0.1:{}", source.p2p_port), "onetry", true]));
    let mut client = Http::open(&node);
    let height = format!("\"result\":{goal},");
    until("synced", SYNC_DEADLINE, || {
        client.post(r#"{"id":1,"method":"getblockcount","params":[]}"#).unwrap().1.contains(&height).then_some(())
    });
    (started.elapsed().as_secs_f64(), node)
}

/// Requests a second over 16 connections.
fn throughput(node: &Daemon, method: &str, params: &Value, secs: u64) -> f64 {
    let body = json!({"id": 1, "method": method, "params": params}).to_string();
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut client = Http::open(node);
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.post(&body).unwrap().0, 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_secs(secs));
        over.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

/// Of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

/// From the start of the process to the first answer that is not −28.
fn start_time(node: &mut Daemon) -> f64 {
    node.stop();
    let started = Instant::now();
    node.spawn();
    node.wait_ready_polling(START_POLL);
    started.elapsed().as_secs_f64()
}

fn resident_mib(node: &Daemon) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
}

fn mining(kind: Kind) -> f64 {
    let node = Daemon::start_new(options(kind));
    let address = Address::p2wsh(&ScriptBuf::from_bytes(vec![0x51]), Network::Regtest).to_string();
    let started = Instant::now();
    node.call("generatetoaddress", json!([1_000, address]));
    started.elapsed().as_secs_f64()
}

/// What was promised of keylessd's figure, as a multiple of bitcoind's.
#[derive(Clone, Copy)]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least:.1} ×"),
            Self::AtMost(most) => write!(f, "≤ {most:.1} ×"),
        }
    }
}

/// The table; counts what was missed.
#[derive(Default)]
struct Table {
    missed: Vec<String>,
}

impl Table {
    fn begin() -> Self {
        println!("| what | keylessd | bitcoind | keylessd ÷ bitcoind | aim | |");
        println!("| --- | ---: | ---: | ---: | --- | --- |");
        Self::default()
    }

    fn row(&mut self, what: &str, [keyless, core]: [f64; 2], unit: &str, aim: Aim) {
        let ratio = keyless / core;
        let verdict = if aim.is_met(ratio) { "met" } else { "MISSED" };
        println!("| {what} | {keyless:.3} {unit} | {core:.3} {unit} | {ratio:.2} | {aim} | {verdict} |");
        if !aim.is_met(ratio) {
            self.missed.push(what.to_owned());
        }
    }
}

const KINDS: [Kind; 2] = [Kind::Keyless, Kind::Core];

/// Places in [`KINDS`], another one first in every second run: who comes first finds another machine.
fn order(run: usize) -> [usize; 2] {
    if run.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

/// Medians of `runs` runs of both.
fn compare(runs: usize, mut measure: impl FnMut(usize) -> f64) -> [f64; 2] {
    let mut samples = [Vec::new(), Vec::new()];
    for run in 0..runs {
        for at in order(run) {
            samples[at].push(measure(at));
        }
    }
    samples.map(median)
}

/// Prints the table; true if every aim was met.
pub fn run(scale: &Scale) -> bool {
    let mut table = Table::begin();
    let source = source(scale);
    let mut synced = [None, None];
    let times = compare(scale.runs, |at| {
        synced[at] = None;
        let (secs, node) = sync(KINDS[at], &source);
        synced[at] = Some(node);
        secs
    });
    // A sync's speed is the inverse of its time: at least bitcoind's is at most its time.
    table.row(
        &format!("sync of {} blocks, {} signed spends", scale.blocks, scale.spends()),
        times,
        "s",
        Aim::AtMost(1.0),
    );
    drop(source);
    let mut nodes = synced.map(|node| node.expect("every program was synced"));
    let tip = nodes[1].best();
    for (method, params, least) in
        [("getblockcount", json!([]), 1.2), ("getblock", json!([tip, 1]), 1.0), ("getblock", json!([tip, 2]), 1.0)]
    {
        let rates = compare(scale.runs, |at| throughput(&nodes[at], method, &params, scale.rpc_secs));
        let verbosity = params.get(1).map(|v| format!(" verbosity {v}")).unwrap_or_default();
        table.row(&format!("{method}{verbosity}, {CONNECTIONS} connections"), rates, "/s", Aim::AtLeast(least));
    }
    let starts = compare(scale.starts, |at| start_time(&mut nodes[at]));
    table.row("start to the first answer", starts, "s", Aim::AtMost(1.0));
    std::thread::sleep(Duration::from_secs(3));
    table.row("resident memory, idle", nodes.each_ref().map(resident_mib), "MiB", Aim::AtMost(1.3));
    drop(nodes);
    table.row("1,000 generatetoaddress blocks", compare(scale.runs, |at| mining(KINDS[at])), "s", Aim::AtMost(1.2));
    match table.missed.as_slice() {
        [] => println!("\nevery aim was met"),
        missed => println!("\nMISSED: {}", missed.join("; ")),
    }
    table.missed.is_empty()
}
