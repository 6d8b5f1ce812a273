//! The node beside bitcoind of the same source: sync, RPC, start, memory, mining. Ratios, since both run here and now.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use bitcoin::consensus::encode;
use bitcoin::hashes::Hash;
use bitcoin::key::{Keypair, TapTweak, TweakedKeypair};
use bitcoin::secp256k1::{All, Message, Secp256k1, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, CompressedPublicKey, KnownHrp, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid,
    Witness, ecdsa, taproot, transaction,
};
use keyless_tests::wait::until;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::{Value, json};

/// Inputs of the one transaction of each block: half p2wpkh, half p2tr.
const SPENDS: usize = 10;
const MATURITY: u64 = 100;
const SUBSIDY: u64 = 5_000_000_000;
const CONNECTIONS: usize = 16;
const SYNC_DEADLINE: Duration = Duration::from_secs(3_600);

/// How much of everything.
pub struct Scale {
    pub blocks: u64,
    pub runs: usize,
    pub rpc_secs: u64,
    pub starts: usize,
}

pub const FULL: Scale = Scale { blocks: 20_000, runs: 3, rpc_secs: 5, starts: 7 };
pub const SHORT: Scale = Scale { blocks: 1_000, runs: 1, rpc_secs: 1, starts: 3 };

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

    /// Spends all coins into as many of the same value as one block shall spend, and signs every input.
    fn next(&mut self) -> Transaction {
        let total: Amount = self.coins.iter().map(|(_, coin)| coin.value).sum();
        let each = total / SPENDS as u64;
        let scripts = self.scripts();
        let mut tx = Transaction {
            version: transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: self.coins.iter().map(|(at, _)| TxIn { previous_output: *at, ..TxIn::default() }).collect(),
            output: (0..SPENDS).map(|n| TxOut { value: each, script_pubkey: scripts[n % 2].clone() }).collect(),
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
    let client = Http::open(&node);
    let mut client = client;
    for _ in MATURITY + 1..scale.blocks {
        let tx = encode::serialize_hex(&spender.next());
        let body = json!({"id": 1, "method": "generateblock", "params": [address, [tx]]}).to_string();
        let answer: Value = serde_json::from_str(&client.post(&body)).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    node
}

/// A kept connection that posts bodies.
struct Http {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Http {
    fn open(node: &Daemon) -> Self {
        let cookie = std::fs::read_to_string(node.net_dir().join(".cookie")).unwrap();
        let token = base64::engine::general_purpose::STANDARD.encode(cookie.trim());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.rpc_port()));
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {token}\r\nContent-Type: application/json\r\n"
        );
        Self { stream: BufReader::new(stream), head }
    }

    fn post(&mut self, body: &str) -> String {
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server hung up");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }
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
        client.post(r#"{"id":1,"method":"getblockcount","params":[]}"#).contains(&height).then_some(())
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
                    client.post(&body);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_secs(secs));
        over.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// From the start of the process to the first answer that is not −28.
fn start_time(node: &mut Daemon) -> f64 {
    node.stop();
    let started = Instant::now();
    node.start();
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

fn row(what: &str, keyless: f64, core: f64, unit: &str, more_is_better: bool, aim: &str) {
    let ratio = keyless / core;
    let speed = if more_is_better { ratio } else { core / keyless };
    println!("| {what} | {keyless:.3} {unit} | {core:.3} {unit} | {ratio:.2} | {speed:.2} | {aim} |");
}

pub fn run(scale: &Scale) {
    println!("| what | keylessd | bitcoind | keylessd ÷ bitcoind | speed against bitcoind's | aim |");
    println!("| --- | ---: | ---: | ---: | ---: | --- |");
    let source = source(scale);
    let (mut times, mut nodes) = ([Vec::new(), Vec::new()], Vec::new());
    for _ in 0..scale.runs {
        nodes.clear();
        for (at, kind) in [Kind::Keyless, Kind::Core].into_iter().enumerate() {
            let (secs, node) = sync(kind, &source);
            times[at].push(secs);
            nodes.push(node);
        }
    }
    let [keyless, core] = times.map(median);
    let name = format!("sync of {} blocks, {} signed spends", scale.blocks, scale.blocks as usize * SPENDS);
    row(&name, keyless, core, "s", false, "speed ≥ 1.0");
    drop(source);
    let tip = nodes[1].best();
    for (method, params, aim) in [
        ("getblockcount", json!([]), "≥ 1.2"),
        ("getblock", json!([tip, 1]), "≥ 1.0"),
        ("getblock", json!([tip, 2]), "≥ 1.0"),
    ] {
        let [ours, cores] = [0, 1].map(|at| throughput(&nodes[at], method, &params, scale.rpc_secs));
        let verbosity = params.get(1).map(|v| format!(" verbosity {v}")).unwrap_or_default();
        row(&format!("{method}{verbosity}, {CONNECTIONS} connections"), ours, cores, "/s", true, aim);
    }
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..scale.starts {
        for (at, node) in nodes.iter_mut().enumerate() {
            starts[at].push(start_time(node));
        }
    }
    let [keyless, core] = starts.map(median);
    row("start to the first answer", keyless, core, "s", false, "≤ 1.0 × the time");
    std::thread::sleep(Duration::from_secs(3));
    row("resident memory, idle", resident_mib(&nodes[0]), resident_mib(&nodes[1]), "MiB", false, "≤ 1.3 ×");
    drop(nodes);
    let mined = [Kind::Keyless, Kind::Core].map(|kind| median((0..scale.runs).map(|_| mining(kind)).collect()));
    row("1,000 generatetoaddress blocks", mined[0], mined[1], "s", false, "≤ 1.2 × the time");
}
