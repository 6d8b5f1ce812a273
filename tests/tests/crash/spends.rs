//! Transactions that spend coinbases anyone may spend, and what the indexes say of them.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{
    Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, absolute,
    transaction,
};
use keyless_tests::Daemon;
use serde_json::{Value, json};

use super::anyone;

/// The coinbase of a block mined in `round`.
pub fn coinbase(node: &Daemon, height: u32) -> Txid {
    let hash = node.call("getblockhash", json!([height]));
    serde_json::from_value(node.call("getblock", json!([hash]))["tx"][0].clone()).unwrap()
}

/// A transaction that spends the coinbase of a block mined in `round`, and pays `fee_sat`.
pub fn spend(node: &Daemon, round: u32, coinbase: Txid, fee_sat: u64) -> Transaction {
    let out = node.call("gettxout", json!([coinbase, 0]));
    let value = Amount::from_btc(out["value"].as_f64().unwrap()).unwrap();
    let script = anyone(round);
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(coinbase, 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[script.as_bytes()]),
        }],
        output: vec![TxOut {
            value: value - Amount::from_sat(fee_sat),
            script_pubkey: Address::p2wsh(&script, Network::Regtest).script_pubkey(),
        }],
    }
}

pub fn send(node: &Daemon, tx: &Transaction) {
    node.call("sendrawtransaction", json!([serialize_hex(tx)]));
}

/// What spends a coinbase, and in which block.
pub fn spender(node: &Daemon, coinbase: Txid) -> Value {
    let spent = node.call("gettxspendingprevout", json!([[{"txid": coinbase, "vout": 0}]]))[0].clone();
    let by = &spent["spendingtxid"];
    let block =
        if by.is_null() { Value::Null } else { node.call("getrawtransaction", json!([by, 1]))["blockhash"].clone() };
    json!({"spent": spent, "block": block})
}
