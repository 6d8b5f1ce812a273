//! Results: which keys, in which order, numbers in which form.

use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, OutPoint, SignedAmount, Transaction, TxIn, TxOut, Txid};

use super::super::backend::{
    Balances, BookEntry, CoinState, DescriptorView, InBlock, KeyView, Movement, Purpose, Replaceable, Unspent, WalletTx,
};
use super::*;

fn key() -> KeyView {
    KeyView {
        pubkey: Some("02aa".to_owned()),
        desc: Some("wpkh([00000001/84/1/0/0/5]02aa)#x".to_owned()),
        parent_desc: "wpkh([00000001/84/1/0]tpubD6/0/*)#y".to_owned(),
        redeem_script: None,
        witness_script: None,
        origin: Some(("m/84/1/0/0/5".to_owned(), "00000001".parse().unwrap())),
        timestamp: 7,
        internal: false,
    }
}

/// A wallet with one address, one coin on it, and a payment of it to somebody.
fn records() -> Records {
    let received = Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![TxIn { previous_output: OutPoint { txid: Txid::all_zeros(), vout: 1 }, ..TxIn::default() }],
        output: vec![TxOut { value: Amount::from_sat(150_000_000), script_pubkey: script(OURS) }],
    };
    let coin = OutPoint { txid: received.compute_txid(), vout: 0 };
    let spent = Transaction {
        input: vec![TxIn { previous_output: coin, ..TxIn::default() }],
        output: vec![TxOut { value: Amount::from_sat(149_999_000), script_pubkey: script(THEIRS) }],
        ..received.clone()
    };
    let view = |tx: &Transaction| WalletTx {
        tx: Arc::new(tx.clone()),
        confirmations: 0,
        block: None,
        trusted: false,
        abandoned: false,
        immature: false,
        time: 10,
        time_received: 11,
        replaceable: Replaceable::Yes,
        wallet_conflicts: Vec::new(),
        mempool_conflicts: Vec::new(),
        replaces: None,
        replaced_by: None,
        comment: None,
        comment_to: None,
        debit: Amount::ZERO,
        credit: Amount::ZERO,
        sent: Vec::new(),
        received: Vec::new(),
    };
    let movement = |tx: &Transaction| vec![Movement { vout: 0, amount: tx.output[0].value, change: false }];
    Records {
        balances: Balances {
            trusted: Amount::from_sat(150_000_000),
            nonmempool: SignedAmount::from_sat(-5),
            ..Balances::default()
        },
        unspent: vec![Unspent {
            outpoint: coin,
            script: script(OURS),
            amount: received.output[0].value,
            confirmations: 0,
            solvable: true,
            safe: false,
            reused: false,
        }],
        txs: vec![
            WalletTx {
                confirmations: 2,
                block: Some(InBlock { hash: BlockHash::all_zeros(), height: 100, index: 1, time: 9 }),
                credit: received.output[0].value,
                received: movement(&received),
                ..view(&received)
            },
            WalletTx {
                debit: received.output[0].value,
                sent: movement(&spent),
                comment: Some("c".to_owned()),
                comment_to: Some("d".to_owned()),
                ..view(&spent)
            },
        ],
        keys: [(script(OURS), key())].into(),
        book: vec![BookEntry { script: script(OURS), label: "tabby".to_owned(), purpose: Some(Purpose::Receive) }],
        coins: [(coin, CoinState::Unspent { locked: true })].into(),
        locked: vec![coin],
        descriptors: vec![DescriptorView {
            desc: key().parent_desc,
            timestamp: 7,
            active: true,
            internal: false,
            range: Some((0, 999)),
            next_index: 5,
        }],
    }
}

fn full() -> Arc<TwinWallets> {
    one(TwinWallet::new("w", records()))
}

fn ask(name: &str, params: &str) -> Value {
    call_at(&full(), None, name, params).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_obj().unwrap().iter().map(|(key, _)| key.as_str()).collect()
}

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn balances_have_eight_decimals() {
    assert_eq!(ask("getbalance", "[]").compact(), "1.50000000");
    assert_eq!(
        ask("getbalances", "[]").compact(),
        format!(
            "{{\"mine\":{{\"trusted\":1.50000000,\"untrusted_pending\":0.00000000,\"immature\":0.00000000,\
             \"nonmempool\":-0.00000005}},\"lastprocessedblock\":{{\"hash\":\"{ZEROS}\",\"height\":101}}}}"
        )
    );
}

#[test]
fn wallet_state_has_cores_keys_then_ours() {
    let info = ask("getwalletinfo", "[]");
    assert_eq!(
        keys(&info),
        [
            "walletname",
            "walletversion",
            "format",
            "txcount",
            "keypoolsize",
            "keypoolsize_hd_internal",
            "private_keys_enabled",
            "avoid_reuse",
            "scanning",
            "descriptors",
            "external_signer",
            "blank",
            "birthtime",
            "flags",
            "lastprocessedblock",
            "quorum"
        ]
    );
    let quorum = info.member("quorum").compact();
    assert_eq!(quorum, r#"{"epoch":1,"threshold":2,"members":0,"devquorum":"2/3","ceremonies":[]}"#);
}

#[test]
fn an_unspent_coin_is_shown_as_core_shows_it() {
    let rows = ask("listunspent", "[0]");
    assert_eq!(
        keys(rows.item(0)),
        [
            "txid",
            "vout",
            "address",
            "label",
            "scriptPubKey",
            "amount",
            "confirmations",
            "ancestorcount",
            "ancestorsize",
            "ancestorfees",
            "spendable",
            "solvable",
            "desc",
            "parent_descs",
            "safe"
        ]
    );
    assert_eq!(rows.item(0).member("ancestorfees").compact(), "282", "in satoshi");
    assert_eq!(ask("listunspent", "[]").compact(), "[]", "one confirmation unless asked");
}

#[test]
fn payments_are_listed_oldest_first() {
    let rows = ask("listtransactions", "[]");
    let categories: Vec<_> = rows.as_arr().unwrap().iter().map(|row| row.member("category").val_str()).collect();
    assert_eq!(categories, ["receive", "send"]);
    let received = rows.item(0);
    assert_eq!(
        keys(received),
        [
            "address",
            "parent_descs",
            "category",
            "amount",
            "label",
            "vout",
            "abandoned",
            "confirmations",
            "blockhash",
            "blockheight",
            "blockindex",
            "blocktime",
            "txid",
            "wtxid",
            "walletconflicts",
            "mempoolconflicts",
            "time",
            "timereceived"
        ]
    );
    let sent = rows.item(1);
    assert_eq!(
        keys(sent),
        [
            "address",
            "category",
            "amount",
            "vout",
            "fee",
            "confirmations",
            "trusted",
            "txid",
            "wtxid",
            "walletconflicts",
            "mempoolconflicts",
            "time",
            "timereceived",
            "comment",
            "to",
            "abandoned"
        ]
    );
    assert_eq!(sent.member("amount").compact(), "-1.49999000");
    assert_eq!(sent.member("fee").compact(), "-0.00001000");
    assert_eq!(ask("listtransactions", r#"["tabby"]"#).as_arr().unwrap().len(), 1);
    assert_eq!(ask("listtransactions", r#"["*",1,1]"#).item(0).member("category").val_str(), "receive");
}

#[test]
fn one_transaction_is_shown_with_its_details() {
    let txid = records().txs[1].txid();
    let shown = ask("gettransaction", &format!("[\"{txid}\"]"));
    assert_eq!(
        keys(&shown),
        [
            "amount",
            "fee",
            "confirmations",
            "trusted",
            "txid",
            "wtxid",
            "walletconflicts",
            "mempoolconflicts",
            "time",
            "timereceived",
            "comment",
            "to",
            "details",
            "hex",
            "lastprocessedblock"
        ]
    );
    assert_eq!(shown.member("amount").compact(), "-1.49999000");
    assert_eq!(
        shown.member("details").compact(),
        format!(
            "[{{\"address\":\"{THEIRS}\",\"category\":\"send\",\"amount\":-1.49999000,\"vout\":0,\"fee\":-0.00001000,\
             \"abandoned\":false}}]"
        )
    );
}

#[test]
fn an_address_of_ours_is_described_in_full() {
    let info = ask("getaddressinfo", &format!("[\"{OURS}\"]"));
    assert_eq!(
        keys(&info),
        [
            "address",
            "scriptPubKey",
            "ismine",
            "solvable",
            "desc",
            "parent_desc",
            "iswatchonly",
            "isscript",
            "iswitness",
            "witness_version",
            "witness_program",
            "pubkey",
            "ischange",
            "timestamp",
            "hdkeypath",
            "hdseedid",
            "hdmasterfingerprint",
            "labels"
        ]
    );
    assert_eq!(info.member("labels").compact(), "[\"tabby\"]");
    let theirs = ask("getaddressinfo", &format!("[\"{THEIRS}\"]"));
    let expected =
        ["address", "scriptPubKey", "ismine", "solvable", "iswatchonly", "isscript", "iswitness", "ischange", "labels"];
    assert_eq!(keys(&theirs), expected);
    let unknown_witness = ask("getaddressinfo", "[\"bcrt1p424qxxyd0r\"]");
    assert!(unknown_witness.find("isscript").is_none());
    assert_eq!(unknown_witness.member("witness_version").compact(), "1");
}

#[test]
fn what_was_received_is_summed() {
    assert_eq!(ask("getreceivedbyaddress", &format!("[\"{OURS}\"]")).compact(), "1.50000000");
    assert_eq!(ask("getreceivedbyaddress", &format!("[\"{OURS}\",3]")).compact(), "0.00000000");
    assert_eq!(ask("getreceivedbylabel", "[\"tabby\"]").compact(), "1.50000000");
    let row = r#"{"amount":1.50000000,"confirmations":2,"label":"tabby"}"#;
    assert_eq!(ask("listreceivedbylabel", "[]").compact(), format!("[{row}]"));
    let txid = records().txs[0].txid();
    assert_eq!(
        ask("listreceivedbyaddress", "[]").compact(),
        format!(
            "[{{\"address\":\"{OURS}\",\"amount\":1.50000000,\"confirmations\":2,\"label\":\"tabby\",\
             \"txids\":[\"{txid}\"]}}]"
        )
    );
}

#[test]
fn locks_follow_cores_rules() {
    let coin = records().locked[0];
    let locked = format!("{{\"txid\":\"{}\",\"vout\":0}}", coin.txid);
    assert_eq!(ask("listlockunspent", "[]").compact(), format!("[{locked}]"));
    assert_eq!(ask("lockunspent", &format!("[true,[{locked}]]")).compact(), "true");
    assert_eq!(ask("lockunspent", &format!("[false,[{locked}],true]")).compact(), "true");
    let twice = call_at(&full(), None, "lockunspent", &format!("[false,[{locked}]]")).unwrap_err();
    assert_eq!(twice.message, "Invalid parameter, output already locked");
}

#[test]
fn labels_are_listed_by_purpose() {
    assert_eq!(ask("listlabels", "[]").compact(), "[\"tabby\"]");
    assert_eq!(ask("listlabels", "[\"send\"]").compact(), "[]");
    let shown = ask("getaddressesbylabel", "[\"tabby\"]").compact();
    assert_eq!(shown, format!("{{\"{OURS}\":{{\"purpose\":\"receive\"}}}}"));
}

#[test]
fn descriptors_show_range_and_next_index() {
    assert_eq!(
        ask("listdescriptors", "[]").compact(),
        "{\"wallet_name\":\"w\",\"descriptors\":[{\"desc\":\"wpkh([00000001/84/1/0]tpubD6/0/*)#y\",\"timestamp\":7,\
         \"active\":true,\"internal\":false,\"range\":[0,999],\"next\":5,\"next_index\":5}]}"
    );
    assert_eq!(
        ask("gethdkeys", "[]").compact(),
        "[{\"xpub\":\"tpubD6\",\"has_private\":false,\"descriptors\":[{\"desc\":\"wpkh([00000001/84/1/0]tpubD6/0/*)#y\",\
         \"active\":true}]}]"
    );
}

#[test]
fn signing_errors_name_the_input() {
    let tx = bitcoin::consensus::encode::serialize_hex(records().txs[1].tx.as_ref());
    let signed = ask("signrawtransactionwithwallet", &format!("[\"{tx}\"]"));
    assert_eq!(keys(&signed), ["hex", "complete", "errors"]);
    let error = signed.member("errors").item(0);
    assert_eq!(keys(error), ["txid", "vout", "witness", "scriptSig", "sequence", "error"]);
    assert_eq!(error.member("sequence").compact(), "4294967295");
}

#[test]
fn shares_dealt_again_are_told_with_who_was_away() {
    assert_eq!(ask("refreshshares", "[]").compact(), "{\"epoch\":2,\"seconds\":1.250,\"absent\":[\"12D3KooX\"]}");
    assert_eq!(
        ask("resharequorum", "[3,[\"a\",\"b\"]]").compact(),
        "{\"epoch\":2,\"threshold\":3,\"members\":[\"a\",\"b\"],\"seconds\":0.040}"
    );
    assert_eq!(ask("repairshare", "[\"w\"]").compact(), "{\"epoch\":3,\"helpers\":[\"12D3KooW\"],\"seconds\":0.007}");
    assert_eq!(ask("suspendcosigner", "[\"a\"]").compact(), "{\"peerid\":\"a\",\"suspended\":true}");
    assert_eq!(ask("deleteshare", "[\"w\",\"w\"]").compact(), "{\"wallet\":\"w\",\"erased\":true}");
    assert_eq!(
        ask("verifysharebackup", "[\"f\"]").compact(),
        "{\"valid\":false,\"wallet\":\"w\",\"epoch\":2,\"reason\":\"a passphrase is needed\"}"
    );
    assert_eq!(ask("resumecosigner", "[\"a\"]").compact(), "{\"peerid\":\"a\",\"suspended\":false}");
}

#[test]
fn cosigners_are_listed_with_null_for_what_is_unknown() {
    let known = ask("enumeratecosigners", "[]").compact();
    let expected = "[{\"peerid\":\"12D3KooW\",\"fingerprint\":\"\",\"addresses\":[],\"online\":false,\
                    \"latency_ms\":0.412,\"version\":null,\"blocks\":null,\"suspended\":false,\"banned\":false,\
                    \"wallets\":[]}]";
    assert_eq!(known, expected);
    assert_eq!(
        keys(&ask("getquoruminfo", "[]")),
        ["wallet", "epoch", "threshold", "fingerprint", "members", "ecdsa", "schnorr", "devquorum"]
    );
    let info = ask("getcosignerinfo", "[]");
    assert_eq!(keys(&info), ["peerid", "fingerprint", "addresses", "protocolversion", "network"]);
}

#[test]
fn since_a_block_comes_with_the_block_to_ask_from_next() {
    let since = ask("listsinceblock", "[]");
    assert_eq!(keys(&since), ["transactions", "removed", "lastblock"]);
    assert_eq!(since.member("transactions").as_arr().unwrap().len(), 2);
}

#[test]
fn addresses_spent_together_are_one_group() {
    let groups = ask("listaddressgroupings", "[]").compact();
    assert_eq!(groups, format!("[[[\"{OURS}\",0.00000000,\"tabby\"]]]"));
}

#[test]
fn a_policy_is_shown_as_it_was_set_and_what_it_leaves_out_is_strict() {
    let policy = r#"{"max_fee":0.001,"max_feerate":20.5,"limits":[{"amount":1,"seconds":86400}],"messages":true,
        "max_tip_age":null,"rules":[{"name":"small","action":"sign","max_amount":0.1,"recipients":["RECIPIENT"],
        "coordinators":["peer1"],"hours":"22:00-06:30","limit":{"amount":"0.5","seconds":3600}},
        {"name":"rest","action":"ask"}]}"#;
    let set = ask("setsigningpolicy", &format!("[{}]", policy.replace("RECIPIENT", OURS)));
    let shown = r#"{"version":1,"policy":{"max_fee":0.00100000,"max_feerate":20.500,"limits":[{"amount":1.00000000,"seconds":86400}],"any_sighash":false,"unknown_prevouts":false,"test_acceptance":true,"resign":false,"messages":true,"max_tip_age":null,"rules":[{"name":"small","action":"sign","max_amount":0.10000000,"recipients":["RECIPIENT"],"coordinators":["peer1"],"hours":"22:00-06:30","limit":{"amount":0.50000000,"seconds":3600}},{"name":"rest","action":"ask"}]},"limits_worth":[{"compromised":0,"factor":1},{"compromised":1,"factor":2}]}"#;
    assert_eq!(set.compact(), shown.replace("RECIPIENT", OURS));
    let none =
        r#"{"version":0,"policy":null,"limits_worth":[{"compromised":0,"factor":1},{"compromised":1,"factor":2}]}"#;
    assert_eq!(ask("getsigningpolicy", "[]").compact(), none);
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_by_what_is_wrong() {
    let cases = [
        (r#"{"rule":[]}"#, -3, "Unexpected key rule"),
        (r#"{"max_fee":"x"}"#, -3, "Invalid amount"),
        (r#"{"rules":[{"name":"a","action":"maybe"}]}"#, -8, "Invalid action \"maybe\", must be one of"),
        (r#"{"rules":[{"name":"","action":"ask"}]}"#, -8, "Invalid policy: the name of a rule"),
        (r#"{"rules":[{"name":"a","action":"ask","hours":"8-9"}]}"#, -8, "Invalid hours \"8-9\""),
        (r#"{"rules":[{"name":"a","action":"ask","hours":"08:60-09:00"}]}"#, -8, "Invalid hours"),
        (r#"{"rules":[{"name":"a","action":"ask","hours":"25:00-09:00"}]}"#, -8, "Invalid policy: rule \"a\""),
        (r#"{"rules":[{"name":"a","action":"ask","recipients":["nobody"]}]}"#, -5, "\"nobody\" is neither"),
        (
            r#"{"rules":[{"name":"a","action":"ask","limit":{"amount":1,"seconds":0}}]}"#,
            -8,
            "Invalid policy: the window",
        ),
    ];
    for (policy, code, text) in cases {
        let error = call_at(&full(), None, "setsigningpolicy", &format!("[{policy}]")).unwrap_err();
        assert_eq!(error.code, code, "{policy}: {error}");
        assert!(error.message.contains(text), "{policy}: {error}");
    }
}

#[test]
fn approvals_log_and_blame_are_shown() {
    let pending = ask("listpendingapprovals", "[]");
    let row = pending.item(0);
    assert_eq!(row.member("hex").as_str(), Some("0102"));
    assert_eq!(row.member("payments").item(0).member("address").as_str(), Some(OURS));
    assert_eq!(row.member("fee").compact(), "0.00000141");
    assert_eq!(ask("approvesigning", "[\"aa\"]").compact(), "{\"id\":\"aa\",\"approved\":true}");
    assert_eq!(ask("rejectsigning", "[\"aa\",\"no\"]").compact(), "{\"id\":\"aa\",\"approved\":false}");
    assert_eq!(ask("getauditlog", "[5,3]").item(0).member("number").compact(), "3");
    let error = call_at(&full(), None, "getauditlog", "[-1]").unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (-8, "Negative count"));
    assert_eq!(keys(&ask("verifyauditlog", "[]")), ["valid", "entries", "head", "signature"]);
    assert_eq!(ask("listblame", "[]").item(0).member("time").compact(), "7");
}
