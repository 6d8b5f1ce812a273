//! Random lives of one wallet's shares, with real processes beside a bitcoind that mines and judges.
//!
//! Owns a fleet of nodes (members and spares), what the test knows of it, and one step of a life: send, refresh,
//! reshare, disks lost, repair, backup and restore, suspension, leaving, kill -9 in the middle. After every step the
//! keys are the same, the members that run agree on the epoch, and a payment is accepted by bitcoind.

mod steps;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::rngs::StdRng;
use bitcoin::secp256k1::rand::seq::SliceRandom;
use bitcoin::secp256k1::rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Options};
use crate::quorum::{Discovery, Quorum};
use crate::rpc::{RpcClient, RpcFailure};
use crate::wait::until_true;

pub use steps::Step;

/// The wallet of every life.
pub const WALLET: &str = "w";
/// Nodes that are no members at first.
const SPARES: usize = 2;
/// Members agree on the epoch, and a returned one is repaired, within this; other builds may take the CPU.
const SETTLED: Duration = Duration::from_secs(90);
const TYPES: [&str; 4] = ["legacy", "p2sh-segwit", "bech32", "bech32m"];
/// Coinbases of each address type that the wallet starts with.
const COINS_OF_TYPE: u32 = 3;
/// What a node says whose wallet is gone with its disk, as bitcoind would.
const LOST: &str = "Skipping -wallet path that doesn't exist";
const NOBODY: &str = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202";

/// A backup that was made, of whom and of which epoch.
struct Backup {
    of: usize,
    epoch: u64,
    file: PathBuf,
}

/// A fleet and what the test knows of it.
pub struct Life {
    pub quorum: Quorum,
    pub core: Daemon,
    rng: StdRng,
    roster: BTreeSet<usize>,
    threshold: usize,
    keys: (Value, Value),
    addresses: Vec<String>,
    backups: Vec<Backup>,
    kept: tempfile::TempDir,
    started: Instant,
    /// How long a ceremony takes here: a kill comes within it.
    moments_ms: u64,
    /// The longest that members took to agree on the epoch after a kill.
    pub slowest: Duration,
}

impl Life {
    /// Makes a wallet among `n` members, with coins of every address type. The spares run too.
    pub fn begin(threshold: usize, n: usize, seed: u64) -> Self {
        let mut quorum = Quorum::configured(threshold, n + SPARES, Discovery::Static);
        // The key is generated among exactly the configured co-signers: the spares are configured afterwards.
        let whole: Vec<Vec<String>> = quorum.members.iter().map(|member| member.options.conf.clone()).collect();
        let spares: Vec<String> = quorum.peer_ids[n..].to_vec();
        for member in &mut quorum.members[..n] {
            member.options.conf.retain(|line| {
                !line.starts_with("cosigner=") || !spares.iter().any(|spare| line.contains(spare.as_str()))
            });
            member.configure();
            member.spawn();
        }
        for m in 0..n {
            quorum.members[m].wait_ready();
        }
        for m in 0..n {
            quorum.wait_connected(m);
        }
        quorum.create_wallet(WALLET);
        for member in &mut quorum.members[..n] {
            member.stop();
        }
        for (member, conf) in quorum.members.iter_mut().zip(whole) {
            member.options.conf = conf;
            member.configure();
            member.spawn();
        }
        for member in &mut quorum.members {
            member.wait_ready();
        }
        let mut options = Options::core();
        for member in &quorum.members {
            options = options.conf(format!("addnode=127.0.0.1:{}", member.p2p_port));
        }
        let core = Daemon::start_new(options);
        let mut life = Self {
            quorum,
            core,
            rng: StdRng::seed_from_u64(seed),
            roster: (0..n).collect(),
            threshold,
            keys: (Value::Null, Value::Null),
            addresses: Vec::new(),
            backups: Vec::new(),
            kept: tempfile::tempdir().expect("a temporary folder"),
            started: Instant::now(),
            moments_ms: 3_000,
            slowest: Duration::ZERO,
        };
        life.quorum.wait_connected(0);
        life.keys = life.keys_of(0);
        life.fund();
        life
    }

    fn note(&self, text: &str) {
        println!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64());
    }

    fn fund(&mut self) {
        let wallet = self.wallet(0);
        for kind in TYPES {
            let address = wallet.call("getnewaddress", json!(["", kind]));
            self.core.call("generatetoaddress", json!([COINS_OF_TYPE, address]));
            self.addresses.push(address.as_str().expect("an address").to_owned());
        }
        self.core.call("generatetoaddress", json!([100, NOBODY]));
        self.sync_blocks();
    }

    /// Until every node that runs has bitcoind's tip.
    pub fn sync_blocks(&self) {
        let tip = self.core.best();
        until_true("all nodes on bitcoind's tip", SETTLED, || {
            self.quorum.members.iter().filter(|member| member.is_running()).all(|member| member.best() == tip)
        });
    }

    fn wallet(&self, m: usize) -> RpcClient {
        self.quorum.wallet(m, WALLET)
    }

    fn info(&self, m: usize) -> Result<Value, RpcFailure> {
        self.wallet(m).try_call("getquoruminfo", json!([]))
    }

    fn keys_of(&self, m: usize) -> (Value, Value) {
        let info = self.wallet(m).call("getquoruminfo", json!([]));
        (info["ecdsa"].clone(), info["schnorr"].clone())
    }

    fn epoch_of(&self, m: usize) -> Option<u64> {
        self.info(m).ok()?["epoch"].as_u64()
    }

    fn running(&self) -> Vec<usize> {
        self.roster.iter().copied().filter(|m| self.quorum.members[*m].is_running()).collect()
    }

    /// Why a member's share signs nothing, as it says itself.
    fn refuses(&self, m: usize) -> Option<String> {
        let info = self.info(m).ok()?;
        info["refuses"].as_str().map(str::to_owned)
    }

    /// The highest epoch that a running member is in.
    fn epoch(&self) -> u64 {
        self.running().into_iter().filter_map(|m| self.epoch_of(m)).max().expect("a member holds a share")
    }

    /// Members that run and have a share of the present epoch.
    fn holders(&self) -> Vec<usize> {
        let epoch = self.epoch();
        self.running().into_iter().filter(|m| self.epoch_of(*m) == Some(epoch)).collect()
    }

    fn pick(&mut self, from: &[usize]) -> Option<usize> {
        from.choose(&mut self.rng).copied()
    }

    fn wait_connected(&self) {
        for m in 0..self.quorum.members.len() {
            if self.quorum.members[m].is_running() {
                self.quorum.wait_connected(m);
            }
        }
    }

    /// One random step, then everything that must hold.
    pub fn step(&mut self) -> Step {
        loop {
            let step = *Step::ALL.choose(&mut self.rng).expect("there are steps");
            if self.try_step(step) {
                self.settle();
                self.check();
                return step;
            }
        }
    }

    /// Until all members that run have a share of one epoch, and none waits for another one.
    fn settle(&self) {
        self.wait_connected();
        let mut seen = Vec::new();
        let deadline = Instant::now() + SETTLED;
        loop {
            let epochs: Vec<(usize, Option<u64>)> = self.running().into_iter().map(|m| (m, self.epoch_of(m))).collect();
            let first = epochs.first().and_then(|(_, epoch)| *epoch);
            // A member that was set back to an old backup signs nothing until the others have dealt it a new share.
            let sign = || self.running().into_iter().all(|m| self.refuses(m).is_none());
            if first.is_some() && epochs.iter().all(|(_, epoch)| *epoch == first) && sign() {
                return;
            }
            if seen.last() != Some(&epochs) {
                self.note(&format!("waiting for one epoch: {epochs:?}"));
                seen.push(epochs);
            }
            assert!(Instant::now() < deadline, "the members do not come to one epoch: {seen:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// The keys never change, known addresses stay the wallet's, and bitcoind accepts what the quorum signs.
    fn check(&mut self) {
        let running = self.running();
        for m in &running {
            assert_eq!(self.keys_of(*m), self.keys, "member {m} has other keys");
            for address in &self.addresses {
                // Members compare how far addresses were handed out from time to time.
                until_true("every member knows every address", SETTLED, || {
                    self.wallet(*m).call("getaddressinfo", json!([address]))["ismine"] == json!(true)
                });
            }
        }
        if running.len() >= self.threshold {
            let from = self.pick(&running).expect("someone runs");
            self.send(from);
        }
    }

    /// A payment to a new address of the wallet, which bitcoind accepts; sometimes a block.
    fn send(&mut self, from: usize) {
        self.sync_blocks();
        let wallet = self.wallet(from);
        let kind = TYPES[self.rng.gen_range(0..TYPES.len())];
        let deadline = Instant::now() + SETTLED;
        let (address, txid) = loop {
            let sent = wallet.try_call("getnewaddress", json!(["", kind])).and_then(|address| {
                let txid = wallet.try_call("sendtoaddress", json!([address, "0.5"]))?;
                Ok((address, txid))
            });
            match sent {
                Ok(sent) => break sent,
                // A co-signer that has just come back may not be ready at once.
                Err(error) if Instant::now() < deadline && error.code != 0 => {
                    self.note(&format!("member {from}: {error}; again"));
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(error) => panic!("member {from} cannot send: {error}"),
            }
        };
        let hex = wallet.call("gettransaction", json!([txid]))["hex"].clone();
        match self.core.rpc().try_call("sendrawtransaction", json!([hex])) {
            Ok(accepted) => assert_eq!(accepted, txid),
            Err(error) => panic!("bitcoind refuses {txid}: {error}"),
        }
        self.addresses.push(address.as_str().expect("an address").to_owned());
        if self.rng.gen_bool(0.5) {
            self.core.call("generatetoaddress", json!([1, NOBODY]));
            self.sync_blocks();
        }
    }

    /// All nodes up, in one epoch; every member sends; then old disks with one new one, which cannot.
    pub fn end(mut self) {
        for m in 0..self.quorum.members.len() {
            if !self.quorum.members[m].is_running() {
                self.start(m);
            }
        }
        self.settle();
        for m in self.roster.clone() {
            self.send(m);
        }
        self.old_disks_do_not_sign();
    }

    /// t−1 disks of the epoch before and one of the present one: t members, and no signature.
    fn old_disks_do_not_sign(&mut self) {
        let members: Vec<usize> = self.roster.iter().copied().collect();
        let thieves: Vec<usize> = members[..self.threshold].to_vec();
        for m in &thieves[1..] {
            self.quorum.members[*m].stop_saying(LOST);
            copy_dir(&self.wallet_dir(*m), &self.kept.path().join(format!("disk-{m}")));
            self.start(*m);
        }
        self.settle();
        let before = self.epoch();
        self.ceremony(members[0], "refreshshares", json!([]));
        self.settle();
        assert!(self.epoch() > before);
        for member in self.quorum.members.iter_mut().filter(|member| member.is_running()) {
            member.stop_saying(LOST);
        }
        for m in &thieves[1..] {
            let dir = self.wallet_dir(*m);
            std::fs::remove_dir_all(&dir).expect("the wallet's directory");
            copy_dir(&self.kept.path().join(format!("disk-{m}")), &dir);
        }
        for m in &thieves {
            self.quorum.members[*m].start();
        }
        for m in &thieves {
            self.quorum.wait_connected(*m);
        }
        for m in &thieves {
            for kind in TYPES {
                let coins = self.wallet(*m).call("listunspent", json!([0]));
                let coin = coins.as_array().expect("a list").iter().find(|coin| is_of(coin, kind)).cloned();
                let Some(coin) = coin else { continue };
                let inputs = json!([{"txid": coin["txid"], "vout": coin["vout"]}]);
                let raw = self.wallet(*m).call("createrawtransaction", json!([inputs, [{NOBODY: "0.1"}]]));
                let signed = self.wallet(*m).try_call("signrawtransactionwithwallet", json!([raw]));
                assert!(signed.is_err(), "old and new disks signed: {signed:?}");
            }
        }
        self.note("old disks and a new one did not sign");
    }

    fn wallet_dir(&self, m: usize) -> PathBuf {
        self.quorum.members[m].net_dir().join("wallets").join(WALLET)
    }

    fn start(&mut self, m: usize) {
        self.quorum.members[m].start();
        self.wait_connected();
        self.sync_blocks();
    }

    /// A ceremony that must succeed; members that have just come back may need a moment.
    fn ceremony(&self, coordinator: usize, method: &str, params: Value) -> Value {
        let deadline = Instant::now() + SETTLED;
        loop {
            let client =
                if method == "repairshare" { self.quorum.members[coordinator].rpc() } else { self.wallet(coordinator) };
            match client.try_call(method, params.clone()) {
                Ok(value) => return value,
                Err(error) => {
                    self.note(&format!("{method} at {coordinator}: {error}"));
                    assert!(Instant::now() < deadline, "{method} at {coordinator}: {error}");
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }
}

fn is_of(coin: &Value, kind: &str) -> bool {
    let prefix = match kind {
        "legacy" => "pkh(",
        "p2sh-segwit" => "sh(wpkh(",
        "bech32" => "wpkh(",
        _ => "tr(",
    };
    coin["desc"].as_str().is_some_and(|desc| desc.starts_with(prefix))
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
