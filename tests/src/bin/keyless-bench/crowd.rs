//! Many payers without a wallet: coins that anyone can spend, and one transaction for each payment, put into blocks as
//! they are.

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use keyless_tests::RpcClient;
use serde_json::{Value, json};

/// Coins of one block reward, and payments in one block.
const FAN_OUT: u64 = 2_000;
const PER_BLOCK: usize = 2_000;
const FEE: Amount = Amount::from_sat(1_000);
const MATURITY: u64 = 100;
/// Block rewards at the start; regtest halves them every 150 blocks.
const REWARDS: u64 = 60;

/// The crowd, and a node that mines for it.
pub struct Crowd {
    node: RpcClient,
    /// Block rewards that are not spent yet.
    rewards: Vec<(OutPoint, Amount)>,
    coins: Vec<(OutPoint, Amount)>,
    /// Addresses of the wallet that were paid.
    paid: usize,
}

/// OP_TRUE.
fn anyone() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x51])
}

fn spend(coin: OutPoint, outputs: Vec<TxOut>) -> Transaction {
    let witness = Witness::from_slice(&[anyone().as_bytes()]);
    let input = TxIn { previous_output: coin, script_sig: ScriptBuf::new(), sequence: Sequence::MAX, witness };
    Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: vec![input], output: outputs }
}

impl Crowd {
    /// Mines its first coins.
    pub fn new(node: &RpcClient) -> Self {
        let to = Address::p2wsh(&anyone(), Network::Regtest).to_string();
        let hashes = node.call("generatetoaddress", json!([REWARDS, to]));
        node.call("generatetoaddress", json!([MATURITY, to]));
        let rewards = hashes.as_array().expect("blocks").iter().map(|hash| {
            let block = node.call("getblock", json!([hash, 2]));
            let output = &block["tx"][0]["vout"][0];
            let amount = Amount::from_sat(u64::try_from(keyless_tests::sat(&output["value"])).expect("an amount"));
            let txid: Txid = block["tx"][0]["txid"].as_str().expect("an id").parse().expect("an id");
            (OutPoint::new(txid, 0), amount)
        });
        Self { node: node.clone(), rewards: rewards.collect(), coins: Vec::new(), paid: 0 }
    }

    fn mine(&self, transactions: &[Transaction]) {
        let raw: Vec<String> = transactions.iter().map(serialize_hex).collect();
        let to = Address::p2wsh(&anyone(), Network::Regtest).to_string();
        self.node.call("generateblock", json!([to, raw]));
    }

    /// Makes one reward into many coins.
    fn split(&mut self) {
        let (reward, amount) = self.rewards.pop().expect("a block reward is left");
        let each = TxOut { value: (amount - FEE * 200) / FAN_OUT, script_pubkey: anyone().to_p2wsh() };
        let split = spend(reward, vec![each.clone(); usize::try_from(FAN_OUT).expect("it fits")]);
        let txid = split.compute_txid();
        self.mine(&[split]);
        self.coins.extend((0..u32::try_from(FAN_OUT).expect("it fits")).map(|n| (OutPoint::new(txid, n), each.value)));
    }

    /// So many payments to a wallet, each to the next of its addresses; gives its new coins.
    pub fn pay(&mut self, wallet: &RpcClient, kind: &str, count: usize) -> Vec<Value> {
        let descriptors = wallet.call("listdescriptors", json!([]));
        let prefix = if kind == "bech32m" { "tr(" } else { "wpkh(" };
        let rows = descriptors["descriptors"].as_array().expect("descriptors");
        let external = rows.iter().find(|row| {
            row["internal"] == json!(false) && row["desc"].as_str().is_some_and(|desc| desc.starts_with(prefix))
        });
        let desc = external.expect("the descriptor of the type")["desc"].clone();
        let mut coins = Vec::with_capacity(count);
        let mut left = count;
        while left > 0 {
            let some = left.min(PER_BLOCK);
            let range = [self.paid, self.paid + some - 1];
            let addresses = self.node.call("deriveaddresses", json!([desc, range]));
            let mut block = Vec::with_capacity(some);
            for address in addresses.as_array().expect("addresses") {
                if self.coins.is_empty() {
                    self.split();
                }
                let (coin, amount) = self.coins.pop().expect("a coin is left");
                let address: Address<_> = address.as_str().expect("an address").parse().expect("an address");
                let output = TxOut { value: amount - FEE, script_pubkey: address.assume_checked().script_pubkey() };
                block.push(spend(coin, vec![output]));
            }
            self.mine(&block);
            coins.extend(block.iter().map(|tx| json!({"txid": tx.compute_txid(), "vout": 0})));
            self.paid += some;
            left -= some;
        }
        coins
    }
}
