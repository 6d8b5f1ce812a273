//! `send` and `sendall`: what is divided, what is refused, what is shown when it is not sent.

use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, Txid};

use super::super::backend::{CoinState, Unspent};
use super::*;

const OTHER: &str = "bcrt1qplmtzkc2xharppzdlnpaql78rshj68u33rah7r";

fn coin(vout: u32, sat: u64) -> Unspent {
    Unspent {
        outpoint: OutPoint { txid: Txid::all_zeros(), vout },
        script: script(OURS),
        amount: Amount::from_sat(sat),
        confirmations: 1,
        solvable: true,
        safe: true,
        reused: false,
    }
}

fn with_coins(sats: &[u64]) -> Arc<TwinWallets> {
    let unspent: Vec<Unspent> = (0..).zip(sats).map(|(vout, sat)| coin(vout, *sat)).collect();
    let coins = [(coin(7, 1).outpoint, CoinState::Spent)].into();
    one(TwinWallet::new("w", Records { unspent, coins, ..Records::default() }))
}

#[test]
fn all_coins_go_to_the_recipients_less_the_fee() {
    let wallets = with_coins(&[100_000, 50_001]);
    let sent = call_at(&wallets, None, "sendall", &format!(r#"[["{OTHER}",{{"{OURS}":0.0001}},"{THEIRS}"]]"#)).unwrap();
    assert_eq!(sent.as_obj().unwrap().iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["txid", "complete"]);
    let tx = wallets.loaded[0].asked.lock().unwrap().committed.clone().unwrap();
    assert_eq!(tx.input.len(), 2);
    assert_eq!(tx.output[1].value.to_sat(), 10_000);
    let fee = 150_001 - tx.output.iter().map(|output| output.value.to_sat()).sum::<u64>();
    assert!((200..300).contains(&fee), "{fee}");
    assert!(tx.output[0].value >= tx.output[2].value, "the odd satoshi goes to the first");
    assert!(tx.output[0].value.to_sat() - tx.output[2].value.to_sat() <= 1);
    assert!((1..=101).contains(&tx.lock_time.to_consensus_u32()), "near the tip");
}

#[test]
fn what_is_not_sent_is_shown() {
    let wallets = with_coins(&[100_000]);
    for (options, keys) in [
        (r#"{"add_to_wallet":false}"#, &["psbt", "txid", "hex", "complete"][..]),
        (r#"{"psbt":true}"#, &["psbt", "txid", "hex", "complete"]),
    ] {
        for (name, outputs) in [("send", format!(r#"{{"{OTHER}":0.1}}"#)), ("sendall", format!(r#"["{OTHER}"]"#))] {
            let shown = call_at(&wallets, None, name, &format!("[{outputs},null,null,null,{options}]")).unwrap();
            let shown: Vec<_> = shown.as_obj().unwrap().iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(shown, keys, "{name} {options}");
            assert!(wallets.loaded[0].asked.lock().unwrap().committed.is_none());
        }
    }
}

#[test]
fn sweeps_that_make_no_sense_are_refused_in_cores_words() {
    let zero = "0".repeat(64);
    let wallets = with_coins(&[100_000]);
    let inputs = |vout: u32| format!(r#"{{"inputs":[{{"txid":"{zero}","vout":{vout}}}]}}"#);
    for (params, code, text) in [
        (
            format!(r#"[[{{"{OTHER}":1}}]]"#),
            -8,
            "Must provide at least one address without a specified amount".to_owned(),
        ),
        (format!(r#"[["{OTHER}","{OTHER}"]]"#), -8, format!("Invalid parameter, duplicated address: {OTHER}")),
        (
            format!(r#"[["{OTHER}",{{"{OURS}":1}}]]"#),
            -6,
            "Assigned more value to outputs than available funds.".to_owned(),
        ),
        (
            format!(r#"[["{OTHER}",{{"{OURS}":0.001}}]]"#),
            -6,
            "Insufficient funds for fees after creating specified outputs.".to_owned(),
        ),
        (
            format!(r#"[["{OTHER}",{{"{OURS}":0.0009980}}]]"#),
            -6,
            "Dynamically assigned remainder results in dust output.".to_owned(),
        ),
        (
            format!(r#"[["{OTHER}",{{"{OURS}":0.00000001}}]]"#),
            -8,
            format!("Specified output amount to {OURS} is below dust threshold."),
        ),
        (
            format!(r#"[["{OTHER}"],null,null,null,{{"minconf":-2}}]"#),
            -8,
            "Invalid minconf (minconf cannot be negative): -2".to_owned(),
        ),
        (
            format!(r#"[["{OTHER}"],null,null,null,{{"minconf":7}}]"#),
            -6,
            "Total value of UTXO pool too low to pay for transaction. Try using lower feerate or excluding uneconomic \
             UTXOs with 'send_max' option."
                .to_owned(),
        ),
        (
            format!(r#"[["{OTHER}"],null,null,null,{}]"#, inputs(7)),
            -8,
            format!("Input not available. UTXO ({zero}:7) was already spent."),
        ),
        (
            format!(r#"[["{OTHER}"],null,null,null,{}]"#, inputs(8)),
            -8,
            format!("Input not found. UTXO ({zero}:8) is not part of wallet."),
        ),
        (
            format!(r#"[["{OTHER}"],null,null,null,{{"inputs":[],"send_max":true}}]"#),
            -8,
            "Cannot combine send_max with specific inputs.".to_owned(),
        ),
    ] {
        let error = call_at(&wallets, None, "sendall", &params).unwrap_err();
        assert_eq!((error.code, error.message), (code, text), "{params}");
    }
}
