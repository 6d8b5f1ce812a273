//! Methods called by name over the twin: texts, codes, key order, number formats.
#![allow(clippy::unwrap_used, clippy::panic)]

mod results;
mod sweeps;
mod usage;

use std::sync::Arc;

use super::backend::{AddressType, Encryption, FeeChoice, Wallets};
use super::twin::{OURS, Records, THEIRS, TwinWallet, TwinWallets, script};
use super::*;
use crate::args::Args;
use crate::backend::{Ctx, KernelRpc, Services};
use crate::error::RpcError;
use crate::json::Value;
use crate::server::tests::twin::Twin;
use crate::table::{Handler, Method};

/// Core's handlers, for the few questions that wallet methods ask.
struct Kernel;

impl KernelRpc for Kernel {
    fn execute(&self, method: &str, params: &str, _user: &str, _uri: &str) -> Result<String, RpcError> {
        match method {
            "validateaddress" => {
                Ok(r#"{"isvalid":false,"error_locations":[],"error":"Invalid Bech32 checksum"}"#.into())
            }
            "getdescriptorinfo" if params.contains("prv") => Ok(r#"{"hasprivatekeys":true}"#.into()),
            "getdescriptorinfo" => Ok(r#"{"descriptor":"wpkh(tpub)#x","hasprivatekeys":false}"#.into()),
            "deriveaddresses" => Ok(format!("[\"{OURS}\"]")),
            "decodepsbt" => Err(RpcError::new(-22, "TX decode failed invalid base64")),
            "getblockhash" => Ok("\"00\"".into()),
            "getblockheader" => Ok(r#"{"time":1700000000}"#.into()),
            "gettxout" => Ok("null".into()),
            other => Err(RpcError::internal(format!("the twin does not answer {other}"))),
        }
    }

    fn help(&self, _method: &str) -> Option<String> {
        None
    }

    fn warmup(&self) -> Option<String> {
        None
    }
}

fn method(name: &str) -> Method {
    *METHODS.iter().copied().flatten().find(|method| method.name == name).unwrap()
}

/// Calls a method; `path` is the wallet of the URI.
fn call_at(wallets: &Arc<TwinWallets>, path: Option<&str>, name: &str, params: &str) -> Result<Value, RpcError> {
    let twin = Arc::new(Twin::default());
    let services = Services {
        kernel: Arc::new(Kernel),
        network: Arc::clone(&twin) as _,
        control: twin,
        wallets: Some(Arc::clone(wallets) as Arc<dyn Wallets>),
    };
    let ctx = Ctx { services: Arc::new(services), user: "u".into(), wallet: path.map(str::to_owned), uri: "/".into() };
    let method = method(name);
    let args = Args::bind(&method, Value::parse(params).unwrap(), || method.help())?;
    let Handler::Local(function) = method.handler else { panic!("{name} is not answered here") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(function(ctx, args))
}

fn one(wallet: TwinWallet) -> Arc<TwinWallets> {
    Arc::new(TwinWallets { loaded: vec![Arc::new(wallet)], ..TwinWallets::default() })
}

fn plain() -> Arc<TwinWallets> {
    one(TwinWallet::new("w", Records::default()))
}

fn call(name: &str, params: &str) -> Result<Value, RpcError> {
    call_at(&plain(), None, name, params)
}

fn refused(name: &str, params: &str) -> (i32, String) {
    let error = call(name, params).expect_err(&format!("{name} {params}"));
    (error.code, error.message)
}

#[test]
fn the_wallet_is_the_one_of_the_path_or_the_only_one() {
    let two = Arc::new(TwinWallets {
        loaded: ["a", "b"].map(|name| Arc::new(TwinWallet::new(name, Records::default()))).to_vec(),
        ..TwinWallets::default()
    });
    let none = Arc::new(TwinWallets::default());
    for (wallets, path, code) in
        [(&two, Some("a"), 0), (&two, Some("c"), -18), (&two, None, -19), (&none, None, -18), (&plain(), None, 0)]
    {
        let outcome = call_at(wallets, path, "getbalance", "[]").map_or_else(|error| error.code, |_| 0);
        assert_eq!(outcome, code, "{path:?}");
    }
    let unnamed = call_at(&two, None, "unloadwallet", "[]").unwrap_err();
    assert_eq!(unnamed.message, "Either the RPC endpoint wallet or the wallet name parameter must be provided");
    let both = call_at(&two, Some("a"), "unloadwallet", "[\"b\"]").unwrap_err();
    assert_eq!(both.message, "The RPC endpoint wallet and the wallet name parameter specify different wallets");
    assert_eq!(call_at(&two, Some("a"), "unloadwallet", "[]").unwrap().compact(), "{}");
}

#[test]
fn bad_payments_are_refused_in_cores_words() {
    let other = "bcrt1qplmtzkc2xharppzdlnpaql78rshj68u33rah7r";
    for (name, params, code, text) in [
        ("sendtoaddress", r#"["nope",1]"#.to_owned(), -5, "Invalid Bitcoin address: nope"),
        ("sendtoaddress", format!(r#"["{OURS}","x"]"#), -3, "Invalid amount"),
        ("sendtoaddress", format!(r#"["{OURS}",-1]"#), -3, "Amount out of range"),
        ("sendtoaddress", format!(r#"["{OURS}",1,"","",false,true,2,"unset",null,1]"#), -8, FEE_AND_TARGET),
        ("sendtoaddress", format!(r#"["{OURS}",1,"","",false,true,0]"#), -8, TARGET),
        ("sendtoaddress", format!(r#"["{OURS}",1,"","",false,true,1009]"#), -8, TARGET),
        ("sendtoaddress", format!(r#"["{OURS}",1,"","",false,true,2,"foo"]"#), -8, MODE),
        (
            "sendtoaddress",
            format!(r#"["{OURS}",1,"","",false,true,null,"economical",null,1]"#),
            -8,
            "Cannot specify both estimate_mode and fee_rate",
        ),
        ("sendtoaddress", format!(r#"["{OURS}",1,"","",false,true,null,null,null,1.2345]"#), -3, "Invalid amount"),
        (
            "sendtoaddress",
            format!(r#"["{OURS}",1,"","",false,true,null,null,true]"#),
            -4,
            "wallet does not have the \"avoid reuse\" feature enabled",
        ),
        ("sendmany", format!(r#"["x",{{"{OURS}":1}}]"#), -8, "Dummy value must be set to \"\""),
        (
            "sendmany",
            format!(r#"["",{{"{OURS}":1,"{OURS}":2}}]"#),
            -8,
            "Invalid parameter, duplicated address: bcrt1qtmp74ayg7p24uslctssvjm06q5phz4yrxucgnv",
        ),
        ("sendmany", format!(r#"["",{{"{OURS}":1}},0,"",["{OURS}","{OURS}"]]"#), -8, sffo("duplicated position: 0")),
        (
            "sendmany",
            format!(r#"["",{{"{OURS}":1}},0,"",["{other}"]]"#),
            -8,
            sffo("destination bcrt1qplmtzkc2xharppzdlnpaql78rshj68u33rah7r not found in tx outputs"),
        ),
        ("sendmany", format!(r#"["",{{"{OURS}":1}},0,"",[-5]]"#), -8, sffo("negative position: -5")),
        ("sendmany", format!(r#"["",{{"{OURS}":1}},0,"",[5]]"#), -8, sffo("position too large: 5")),
        ("sendmany", format!(r#"["",{{"{OURS}":1}},0,"",[false]]"#), -8, sffo("invalid value type: bool")),
        (
            "sendmany",
            format!(r#"["",{{"{OURS}":1,"{other}":1}},0,"",[0,"{OURS}"]]"#),
            -8,
            sffo("duplicated position: 0"),
        ),
    ] {
        assert_eq!(refused(name, &params), (code, text.to_owned()), "{name} {params}");
    }
}

const FEE_AND_TARGET: &str = "Cannot specify both conf_target and fee_rate. Please provide either a confirmation \
                              target in blocks for automatic fee estimation, or an explicit fee rate.";
const TARGET: &str = "Invalid conf_target, must be between 1 and 1008";
const MODE: &str = "Invalid estimate_mode parameter, must be one of: \"unset\", \"economical\", \"conservative\"";

/// Lives as long as the test needs it.
fn sffo(text: &str) -> &'static str {
    Box::leak(format!("Invalid parameter 'subtract fee from output', {text}").into_boxed_str())
}

#[test]
fn a_payment_reaches_the_wallet_as_it_was_asked_for() {
    let wallets = plain();
    let params =
        format!(r#"{{"address":"{THEIRS}","amount":"0.5","fee_rate":1.5,"verbose":true,"idempotency_key":"k"}}"#);
    let sent = call_at(&wallets, None, "sendtoaddress", &params).unwrap().compact();
    assert_eq!(sent, format!(r#"{{"txid":"{}","fee_reason":"Fallback fee"}}"#, "0".repeat(64)));
    let asked = wallets.loaded[0].asked.lock().unwrap();
    let request = asked.spend.as_ref().unwrap();
    assert_eq!(request.recipients[0].amount.to_sat(), 50_000_000);
    assert_eq!(request.recipients[0].script, script(THEIRS));
    assert_eq!(request.rbf, Some(true), "a rate of one's own makes it replaceable");
    let FeeChoice::Rate { rate, override_min: false } = request.fee else { panic!("{:?}", request.fee) };
    assert_eq!(rate.sat_per_kvb, 1_500);
    assert_eq!(asked.note.as_ref().unwrap().idempotency_key.as_deref(), Some("k"));
}

#[test]
fn want_of_money_is_minus_6_for_sendtoaddress_and_minus_4_for_send() {
    let mut wallet = TwinWallet::new("w", Records::default());
    wallet.poor = true;
    let wallets = one(wallet);
    for (name, params, code) in [
        ("sendtoaddress", format!(r#"["{OURS}",1]"#), -6),
        ("send", format!(r#"[{{"{OURS}":1}}]"#), -4),
        ("walletcreatefundedpsbt", format!(r#"[[],{{"{OURS}":1}}]"#), -4),
    ] {
        let error = call_at(&wallets, None, name, &params).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, "Insufficient funds"), "{name}");
    }
}

#[test]
fn a_locked_share_is_minus_13() {
    let mut wallet = TwinWallet::new("w", Records::default());
    wallet.encryption = Encryption::Locked;
    let wallets = one(wallet);
    for (name, params) in [
        ("sendtoaddress", format!(r#"["{OURS}",1]"#)),
        ("signmessage", format!(r#"["{THEIRS}","m"]"#)),
        ("keypoolrefill", "[]".to_owned()),
    ] {
        let error = call_at(&wallets, None, name, &params).unwrap_err();
        let text = "Error: Please enter the wallet passphrase with walletpassphrase first.";
        assert_eq!((error.code, error.message.as_str()), (-13, text), "{name}");
    }
}

#[test]
fn funding_takes_a_transaction_without_inputs() {
    let wallets = plain();
    // What `createrawtransaction [] {address: 1}` gives: it could be read as one with a witness, and is not.
    let raw = format!("02000000000100e1f50500000000{:02x}{}00000000", script(OURS).len(), script(OURS).to_hex_string());
    let funded = call_at(&wallets, None, "fundrawtransaction", &format!("[\"{raw}\"]")).unwrap();
    assert_eq!(funded.member("fee").compact(), "0.00000141");
    assert_eq!(funded.member("changepos").compact(), "-1");
    let asked = wallets.loaded[0].asked.lock().unwrap();
    assert_eq!(asked.spend.as_ref().unwrap().recipients[0].amount.to_btc(), 1.0);
    let options = [
        (r#"{"foo":1}"#, -3, "Unexpected key foo"),
        (r#"{"add_inputs":1}"#, -3, "JSON value of type number for field add_inputs is not of expected type bool"),
        (r#"{"changeAddress":"x"}"#, -5, "Change address must be a valid bitcoin address"),
        (r#"{"changePosition":2}"#, -8, "changePosition out of bounds"),
        (r#"{"change_type":"x"}"#, -5, "Unknown change type 'x'"),
        (r#"{"minconf":-1}"#, -8, "Negative minconf"),
        (r#"{"minconf":3,"maxconf":2}"#, -8, "maxconf can't be lower than minconf: 2 < 3"),
        (r#"{"feeRate":1,"fee_rate":1}"#, -8, "Cannot specify both fee_rate (sat/vB) and feeRate (BTC/kvB)"),
    ];
    for (given, code, text) in options {
        let got = refused("fundrawtransaction", &format!("[\"{raw}\",{given}]"));
        assert_eq!(got, (code, text.to_owned()), "{given}");
    }
    assert_eq!(refused("fundrawtransaction", "[\"zz\"]"), (-22, "TX decode failed".to_owned()));
}

#[test]
fn other_bad_arguments_are_refused_in_cores_words() {
    let sign = "signrawtransactionwithwallet";
    let tx = format!("0200000001{}00000000000000000001e80300000000000000{}", "11".repeat(32), "00000000");
    for (name, params, code, text) in [
        ("getnewaddress", r#"["*"]"#.to_owned(), -11, "Invalid label name"),
        ("getnewaddress", r#"["","x"]"#.to_owned(), -5, "Unknown address type 'x'"),
        ("getbalance", r#"["x"]"#.to_owned(), -32, "dummy first argument must be excluded or set to \"*\"."),
        (
            "getaddressinfo",
            r#"["bcrt1q049edschfnwystcqnsvyfpj23mpsg3jcedq9xv"]"#.to_owned(),
            -5,
            "Invalid Bech32 checksum",
        ),
        ("setlabel", r#"["x","y"]"#.to_owned(), -5, "Invalid Bitcoin address"),
        ("signmessage", r#"["invalid_addr","m"]"#.to_owned(), -5, "Invalid address"),
        ("signmessage", format!(r#"["{OURS}","m"]"#), -3, "Address does not refer to key"),
        ("listunspent", r#"[1,9,["x"]]"#.to_owned(), -5, "Invalid Bitcoin address: x"),
        ("gettransaction", r#"["00"]"#.to_owned(), -8, "txid must be of length 64 (not 2, for '00')"),
        ("gettransaction", format!(r#"["{}"]"#, "00".repeat(32)), -5, "Invalid or non-wallet transaction id"),
        ("listtransactions", r#"[""]"#.to_owned(), -8, "Label argument must be a valid label name or \"*\"."),
        ("listtransactions", r#"["*",-1]"#.to_owned(), -8, "Negative count"),
        ("listtransactions", r#"["*",1,-1]"#.to_owned(), -8, "Negative from"),
        ("getaddressesbylabel", r#"["x"]"#.to_owned(), -11, "No addresses with label x"),
        ("getreceivedbyaddress", format!(r#"["{THEIRS}"]"#), -4, "Address not found in wallet"),
        ("rescanblockchain", "[102]".to_owned(), -8, "Invalid start_height"),
        ("rescanblockchain", "[5,4]".to_owned(), -8, "stop_height must be greater than start_height"),
        ("lockunspent", r#"[false,[{"txid":"00"}]]"#.to_owned(), -3, "Missing vout"),
        ("walletprocesspsbt", r#"["x"]"#.to_owned(), -22, "TX decode failed invalid base64"),
        (sign, r#"["00"]"#.to_owned(), -22, "TX decode failed. Make sure the tx has at least one input."),
        (sign, format!(r#"["{tx}",[],"FOO"]"#), -8, "'FOO' is not a valid sighash parameter."),
        (sign, format!(r#"["{tx}",[{{"txid":"00","vout":0}}]]"#), -3, "Missing scriptPubKey"),
        ("addhdkey", "[]".to_owned(), -4, "addhdkey is not available for wallets without private keys"),
        ("walletlock", "[]".to_owned(), -15, "Error: running with an unencrypted wallet, but walletlock was called."),
        (
            "bumpfee",
            format!(r#"["{}", {{"confTarget":1,"conf_target":1}}]"#, "00".repeat(32)),
            -8,
            "confTarget and conf_target options should not both be set. Use conf_target (confTarget is deprecated).",
        ),
        (
            "bumpfee",
            format!(r#"["{}", {{"outputs":[]}}]"#, "00".repeat(32)),
            -8,
            "Invalid parameter, output argument cannot be an empty array",
        ),
        ("loadwallet", r#"["w"]"#.to_owned(), -35, "Wallet \"w\" is already loaded."),
        ("setwalletflag", r#"["x"]"#.to_owned(), -8, "Unknown wallet flag: x"),
        ("setwalletflag", r#"["descriptor_wallet"]"#.to_owned(), -8, "Wallet flag is immutable: descriptor_wallet"),
        ("send", format!(r#"[{{"{OURS}":1}},6]"#), -8, "Specify estimate_mode"),
        (
            "send",
            format!(r#"[{{"{OURS}":1}},null,null,null,{{"feeRate":1}}]"#),
            -8,
            "Use fee_rate (sat/vB) instead of feeRate",
        ),
        (
            "walletcreatefundedpsbt",
            "[[],[1]]".to_owned(),
            -8,
            "Invalid parameter, key-value pair not an object as expected",
        ),
        ("walletcreatefundedpsbt", "[[],{}]".to_owned(), -8, "TX must have at least one output"),
        (
            "walletcreatefundedpsbt",
            format!(r#"[[],{{"{OURS}":1}},0,{{}},true,4]"#),
            -8,
            "Invalid parameter, version out of range(1~3)",
        ),
    ] {
        assert_eq!(refused(name, &params), (code, text.to_owned()), "{name} {params}");
    }
}

#[test]
fn a_wallet_is_made_with_what_was_asked() {
    let wallets = Arc::new(TwinWallets::default());
    // As bitcoin-cli sends words it does not know: as a string.
    let params = r#"{"wallet_name":"w","passphrase":"","quorum":"{\"threshold\":2,\"members\":[\"a\",\"b\"]}"}"#;
    let made = call_at(&wallets, None, "createwallet", params).unwrap().compact();
    let warning = "Empty string given as passphrase, wallet will not be encrypted.";
    assert_eq!(made, format!(r#"{{"name":"w","warnings":["{warning}"]}}"#));
    let created = wallets.created.lock().unwrap();
    let quorum = created[0].quorum.as_ref().unwrap();
    assert_eq!((quorum.threshold, quorum.members.as_ref().unwrap().len()), (Some(2), 2));
    assert_eq!(created[0].passphrase, None);
    for (params, code, text) in [
        (
            r#"["w",false,false,"",false,false]"#,
            -4,
            "descriptors argument must be set to \"true\"; it is no longer possible to create a legacy wallet.",
        ),
        (r#"{"wallet_name":"w","quorum":{"threshold":0}}"#, -8, "Invalid quorum threshold, must be at least 1"),
        (r#"{"wallet_name":"w","quorum":{"members":["a","a"]}}"#, -8, "Invalid quorum, duplicated member: a"),
        (r#"{"wallet_name":"w","quorum":{"n":1}}"#, -3, "Unexpected key n"),
    ] {
        assert_eq!(refused("createwallet", params), (code, text.to_owned()));
    }
}

#[test]
fn private_descriptors_are_refused_one_by_one() {
    let params = r#"[[{"desc":"wpkh(tprv)#x","timestamp":"now"},{"desc":"wpkh(tpub)#x","timestamp":0},{"timestamp":0},
        {"desc":"wpkh(tpub)","timestamp":0},{"desc":"wpkh(tpub)#x","timestamp":0,"label":"*"}]]"#;
    let rows = call("importdescriptors", params).unwrap();
    let texts: Vec<_> =
        rows.as_arr().unwrap().iter().map(|row| row.member("error").member("message").val_str()).collect();
    assert_eq!(
        texts,
        [
            "Cannot import private keys to a wallet with private keys disabled",
            "Cannot import descriptor without private keys to a wallet with private keys enabled",
            "Descriptor not found.",
            "Missing checksum",
            "Invalid label name"
        ]
    );
    let missing = refused("importdescriptors", r#"[[{"desc":"x"}]]"#);
    assert_eq!(missing, (-3, "Missing required timestamp field for key".to_owned()));
}

#[test]
fn address_types_reach_the_wallet() {
    let wallets = plain();
    call_at(&wallets, None, "getnewaddress", r#"["tabby","bech32m"]"#).unwrap();
    let asked = wallets.loaded[0].asked.lock().unwrap().address.clone();
    assert_eq!(asked, Some(("tabby".to_owned(), AddressType::Bech32m)));
    call_at(&wallets, None, "getrawchangeaddress", "[]").unwrap();
    let asked = wallets.loaded[0].asked.lock().unwrap().address.clone();
    assert_eq!(asked, Some(("change".to_owned(), AddressType::Bech32)));
}
