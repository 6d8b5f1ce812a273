//! A quorum of real processes, and what its operations take.

use std::time::{Duration, Instant};

use bitcoin::secp256k1::{Keypair, SECP256K1, SecretKey};
use bitcoin::{Address, CompressedPublicKey, Network};
use keyless_tests::quorum::Discovery;
use keyless_tests::{Quorum, RpcClient, sat};
use serde_json::{Map, Value, json};
use tss_wallet::wallet::keychain::AddressType;

use crate::cpu;
use crate::stats::Sample;

/// The coins of a wallet that is measured.
pub const COINS: usize = 150;
const COIN: &str = "0.3";
const PAYMENT: &str = "0.1";
const INPUTS: usize = 100;
/// A block after so many payments, well before chains of unconfirmed change matter.
const PAYMENTS_PER_BLOCK: usize = 20;

/// The name that RPC has for a type.
pub fn type_name(address_type: AddressType) -> &'static str {
    if address_type == AddressType::Bech32m { "bech32m" } else { "bech32" }
}

/// Somebody else's address, of the same type so that change is too.
pub fn foreign(address_type: AddressType) -> String {
    let key = SecretKey::from_slice(&[7; 32]).expect("a valid key");
    let pair = Keypair::from_secret_key(SECP256K1, &key);
    let address = if address_type == AddressType::Bech32m {
        Address::p2tr(SECP256K1, pair.x_only_public_key().0, None, Network::Regtest)
    } else {
        Address::p2wpkh(&CompressedPublicKey(pair.public_key()), Network::Regtest)
    };
    address.to_string()
}

/// Payments between two changes of the policy.
const PAYMENTS_PER_TURN: usize = 10;

/// The processes.
pub struct Live {
    pub quorum: Quorum,
    names: Vec<String>,
    /// The wallet that is measured.
    current: String,
}

impl Live {
    /// Starts n members with Core's default of addresses watched ahead.
    pub fn start(threshold: usize, n: usize) -> Self {
        let mut quorum = Quorum::configured(threshold, n, Discovery::Static);
        for member in &mut quorum.members {
            member.options.conf.retain(|line| !line.starts_with("keypool="));
            member.configure();
            member.spawn();
        }
        for member in &mut quorum.members {
            member.wait_ready();
        }
        for m in 0..n {
            quorum.wait_connected(m);
        }
        Self { quorum, names: Vec::new(), current: String::new() }
    }

    fn cpu(&self) -> Vec<Duration> {
        self.quorum.members.iter().map(|member| cpu::of_process(member.pid())).collect()
    }

    /// Measures one call; only its own time counts.
    fn measure<T>(&self, sample: &mut Sample, call: impl FnOnce() -> T) -> T {
        let before = self.cpu();
        let start = Instant::now();
        let result = call();
        let wall = start.elapsed();
        // What members do after the answer is theirs too: give them a moment, outside the measured time.
        std::thread::sleep(Duration::from_millis(20));
        let spent = self.cpu().into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
        sample.add(wall, spent);
        result
    }

    /// `createwallet`, several times.
    pub fn create_wallets(&mut self, runs: usize) -> Sample {
        let mut sample = Sample::default();
        for run in 0..runs {
            let name = format!("w{run}");
            let rpc = self.quorum.members[0].rpc();
            self.measure(&mut sample, || rpc.call("createwallet", json!([name])));
            self.quorum.wait_wallet(&name);
            self.names.push(name);
        }
        sample
    }

    pub fn mine(&self, blocks: usize, to: &str) {
        self.quorum.members[0].call("generatetoaddress", json!([blocks, to]));
        self.quorum.sync_blocks();
    }

    /// A wallet that was made and not used yet.
    pub fn next_wallet(&mut self) -> (String, RpcClient) {
        let name = self.names.pop().expect("a wallet that was made");
        let wallet = self.quorum.wallet(0, &name);
        self.current.clone_from(&name);
        (name, wallet)
    }

    /// A wallet with [`COINS`] confirmed coins of one type, each on an address of its own, and one coin of change.
    pub fn fund(&mut self, address_type: AddressType) -> RpcClient {
        let (_, wallet) = self.next_wallet();
        let address = || wallet.call("getnewaddress", json!(["", type_name(address_type)]));
        let mining = address();
        self.mine(1, mining.as_str().expect("an address"));
        self.mine(100, &foreign(address_type));
        let outputs: Map<String, Value> =
            (0..COINS).map(|_| (address().as_str().expect("an address").to_owned(), json!(COIN))).collect();
        wallet.call("sendmany", json!(["", outputs]));
        self.mine(1, &foreign(address_type));
        let coins = wallet.call("listunspent", json!([1]));
        assert_eq!(coins.as_array().expect("a list").len(), COINS + 1, "coins of the wallet");
        wallet
    }

    /// `sendtoaddress`, each with one input.
    pub fn sends(&self, wallet: &RpcClient, address_type: AddressType, runs: usize) -> Sample {
        let to = foreign(address_type);
        let mut sample = Sample::default();
        for run in 0..runs {
            if run % PAYMENTS_PER_BLOCK == 0 {
                self.mine(1, &to);
            }
            let txid = self.measure(&mut sample, || wallet.call("sendtoaddress", json!([to, PAYMENT])));
            let raw = wallet.call("gettransaction", json!([txid, true, true]));
            let inputs = raw["decoded"]["vin"].as_array().expect("inputs").len();
            assert_eq!(inputs, 1, "a payment of one input");
        }
        self.mine(1, &to);
        sample
    }

    fn set_policy(&self, policy: &Value) {
        for member in 0..self.quorum.members.len() {
            self.quorum.wallet(member, &self.current).call("setsigningpolicy", json!([policy]));
        }
    }

    /// `sendtoaddress` under the policy that a wallet of regtest begins with, and under one with every guard but a
    /// question to the operator; in short turns, so that what else the machine does meets both alike.
    pub fn guarded(&self, wallet: &RpcClient, address_type: AddressType, runs: usize) -> [Sample; 2] {
        let open = wallet.call("getsigningpolicy", json!([]))["policy"].clone();
        // Blocks of the test are as old as their mock time; all else is as outside of tests.
        let strict = json!({
            "max_fee": 0.01, "max_tip_age": null, "test_acceptance": true, "resign": false,
            "limits": [{"amount": 1_000, "seconds": 86_400}],
            "rules": [
                {"name": "large", "action": "ask", "max_amount": 0, "hours": "00:00-24:00"},
                {"name": "known", "action": "sign", "max_amount": 1, "recipients": [foreign(address_type)]},
            ],
        });
        let to = foreign(address_type);
        let mut samples = [Sample::default(), Sample::default()];
        for _ in 0..runs.div_ceil(PAYMENTS_PER_TURN) {
            for (sample, policy) in samples.iter_mut().zip([&open, &strict]) {
                self.set_policy(policy);
                self.mine(1, &to);
                for _ in 0..PAYMENTS_PER_TURN {
                    self.measure(sample, || wallet.call("sendtoaddress", json!([to, PAYMENT])));
                }
            }
        }
        self.set_policy(&open);
        self.mine(1, &to);
        samples
    }

    /// `signrawtransactionwithwallet` of a transaction with [`INPUTS`] inputs.
    pub fn hundred_inputs(&self, wallet: &RpcClient, address_type: AddressType, runs: usize) -> Sample {
        let coins = wallet.call("listunspent", json!([1]));
        let coins: Vec<&Value> = coins.as_array().expect("a list").iter().take(INPUTS).collect();
        assert_eq!(coins.len(), INPUTS, "enough coins");
        let inputs: Vec<Value> = coins.iter().map(|coin| json!({"txid": coin["txid"], "vout": coin["vout"]})).collect();
        let amount = coins.iter().map(|coin| sat(&coin["amount"])).sum::<i64>() - 100_000;
        let amount = format!("{}.{:08}", amount / 100_000_000, amount % 100_000_000);
        let raw = wallet.call("createrawtransaction", json!([inputs, [{foreign(address_type): amount}]]));
        let mut sample = Sample::default();
        let mut signed = Value::Null;
        for _ in 0..runs {
            signed = self.measure(&mut sample, || wallet.call("signrawtransactionwithwallet", json!([raw])));
            assert_eq!(signed["complete"], json!(true), "{signed}");
        }
        let tested = wallet.call("testmempoolaccept", json!([[signed["hex"]]]));
        assert_eq!(tested[0]["allowed"], json!(true), "{tested}");
        sample
    }

    /// Ends the processes as an operator would.
    pub fn stop(mut self) {
        for member in &mut self.quorum.members {
            member.stop();
        }
    }
}
