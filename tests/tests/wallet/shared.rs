//! Coins that a wallet's keys share with others, and what a script does to a wallet that it should not: answers as Core
//! gives them.

use keyless_tests::{Daemon, Options, RpcClient, sat};
use serde_json::{Value, json};

const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A node with a funded wallet `a`.
fn node() -> (Daemon, RpcClient) {
    let node = Daemon::start_new(Options::keyless().conf("fallbackfee=0.0001"));
    node.call("createwallet", json!(["a"]));
    let wallet = node.rpc().wallet("a");
    let own = wallet.call("getnewaddress", json!([]));
    node.call("generatetoaddress", json!([101, own]));
    (node, wallet)
}

/// The account key that a wallet's bech32 receiving descriptor has, with its origin.
fn account(wallet: &RpcClient) -> String {
    let listed = wallet.call("listdescriptors", json!([]));
    let found = listed["descriptors"].as_array().unwrap().iter().find_map(|row| {
        let desc = text(&row["desc"]).strip_prefix("wpkh(")?.split_once(')')?.0;
        (row["internal"] == json!(false)).then(|| desc.to_owned())
    });
    found.expect("a bech32 descriptor")
}

#[test]
fn keys_of_two_wallets_sign_for_a_script_that_they_share() {
    let (node, a) = node();
    node.call("createwallet", json!(["b"]));
    let b = node.rpc().wallet("b");
    node.call("createwallet", json!(["both", true, true]));
    let both = node.rpc().wallet("both");
    let keys = format!("{},{}", account(&a), account(&b));
    // Of the last the script's maker knows no more than two public keys.
    let public = |wallet: &RpcClient| {
        let address = wallet.call("getnewaddress", json!([]));
        text(&wallet.call("getaddressinfo", json!([address]))["pubkey"]).to_owned()
    };
    let bare = format!("{},{}", public(&a), public(&b));
    let all = [
        ("wsh(sortedmulti(2,K))", &keys),
        ("sh(wsh(multi(2,K)))", &keys),
        ("sh(multi(2,K))", &keys),
        ("wsh(multi(2,K))", &bare),
    ];
    for (script, keys) in all {
        let desc = script.replace('K', keys);
        let desc = node.call("getdescriptorinfo", json!([desc]))["descriptor"].clone();
        let ranged = keys.contains('*');
        let mut import = json!({"desc": desc, "timestamp": "now"});
        if ranged {
            import["range"] = json!(5);
        }
        let imported = both.call("importdescriptors", json!([[import]]));
        assert_eq!(imported[0]["success"], json!(true), "{imported}");
        let which = if ranged { json!([desc, [3, 3]]) } else { json!([desc]) };
        let address = node.call("deriveaddresses", which)[0].clone();
        let txid = a.call("sendtoaddress", json!([address, 2]));
        a.call("generatetoaddress", json!([1, NOBODY]));
        let shared = both.call("listunspent", json!([1, 999, [address]]))[0].clone();
        assert_eq!(shared["txid"], txid, "{script}");
        // Beside it a coin of one wallet alone: what is shared must not be in the way of what is not.
        let own = a.call("listunspent", json!([])).as_array().unwrap()[0].clone();
        let inputs = json!([{"txid": txid, "vout": shared["vout"]}, {"txid": own["txid"], "vout": own["vout"]}]);
        let sum = format!("{:.8}", (2_0000_0000 + sat(&own["amount"]) - 10_000) as f64 / 1e8);
        let psbt = node.call("createpsbt", json!([inputs, [{NOBODY: sum}]]));
        let psbt = both.call("walletprocesspsbt", json!([psbt, false]))["psbt"].clone();
        let first = a.call("walletprocesspsbt", json!([psbt]));
        assert_eq!(first["complete"], json!(false), "{script}");
        let second = b.call("walletprocesspsbt", json!([first["psbt"]]));
        assert_eq!(second["complete"], json!(true), "{script}: {second}");
        node.call("sendrawtransaction", json!([second["hex"]]));
        a.call("generatetoaddress", json!([1, NOBODY]));
        assert_eq!(node.call("gettxout", json!([txid, shared["vout"]])), Value::Null, "{script}: spent");
    }
}

#[test]
fn a_coin_named_twice_is_spent_once() {
    let (node, wallet) = node();
    let coin = wallet.call("listunspent", json!([]))[0].clone();
    let twice = json!([{"txid": coin["txid"], "vout": coin["vout"]}, {"txid": coin["txid"], "vout": coin["vout"]}]);
    let options = json!({"inputs": twice, "add_inputs": false, "fee_rate": 3});
    let refused = wallet.fail("send", json!([[{NOBODY: 60}], null, null, null, options]));
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            -4,
            "The preselected coins total amount does not cover the transaction target. Please allow other inputs to be \
             automatically selected or include more coins manually"
        )
    );
    let funded = wallet.call("walletcreatefundedpsbt", json!([twice, [{NOBODY: 1}]]));
    let shown = node.call("decodepsbt", json!([funded["psbt"]]));
    assert_eq!(shown["inputs"].as_array().unwrap().len(), 1);
    let sent = wallet.call("send", json!([[{NOBODY: 1}], null, null, null, options]));
    assert_eq!(sent["complete"], json!(true));
    assert!(node.call("getmempoolentry", json!([sent["txid"]])).is_object());
    // Nor is such a transaction signed when others made it.
    let raw =
        format!("0200000002{0}{0}0100e1f5050000000016{1}00000000", input(&coin), "0014".to_owned() + &"01".repeat(20));
    let refused = wallet.fail("signrawtransactionwithwallet", json!([raw]));
    assert!(refused.message.contains("is spent twice"), "{refused:?}");
}

/// An input of a transaction in hex, spending a coin.
fn input(coin: &Value) -> String {
    let txid: bitcoin::Txid = text(&coin["txid"]).parse().unwrap();
    let vout = u32::try_from(coin["vout"].as_u64().unwrap()).unwrap();
    let input = bitcoin::TxIn { previous_output: bitcoin::OutPoint { txid, vout }, ..bitcoin::TxIn::default() };
    bitcoin::consensus::encode::serialize_hex(&input)
}

#[test]
fn small_answers_are_cores() {
    let (node, wallet) = node();
    let tip = node.call("getblock", json!([node.best()]));
    assert_eq!(sat(&wallet.call("gettransaction", json!([tip["tx"][0]]))["amount"]), 0, "not mature yet");
    // The sighash type stays with a PSBT that is not signed yet.
    let coin = wallet.call("listunspent", json!([]))[0].clone();
    let inputs = json!([{"txid": coin["txid"], "vout": coin["vout"]}]);
    let psbt = node.call("createpsbt", json!([inputs, [{NOBODY: 1}]]));
    let noted = wallet.call("walletprocesspsbt", json!([psbt, false, "NONE"]))["psbt"].clone();
    assert_eq!(node.call("decodepsbt", json!([noted]))["inputs"][0]["sighash"], json!("NONE"));
    assert_eq!(wallet.fail("walletprocesspsbt", json!([noted])).code, -22);
    let missing = node.call("createpsbt", json!([[{"txid": coin["txid"], "vout": 9}], [{NOBODY: 1}]]));
    assert_eq!(wallet.fail("walletprocesspsbt", json!([missing])).code, -25);
    assert_eq!(node.fail("migratewallet", json!(["nope"])).message, "Error: Wallet does not exist");
    let unknown = json!({"input_weights": [{"txid": "ab".repeat(32), "vout": 0, "weight": 600}]});
    let raw = node.call("createrawtransaction", json!([[], [{NOBODY: 1}]]));
    let refused = wallet.fail("fundrawtransaction", json!([raw, unknown]));
    assert_eq!(refused.message, "Not found pre-selected input COutPoint(ababababab, 0)");
    let null = wallet.fail("fundrawtransaction", json!([raw, {"change_type": null}]));
    assert_eq!((null.code, null.message.as_str()), (-3, "JSON value of type null is not of expected type string"));
    let private = wallet.fail("listdescriptors", json!([true]));
    assert_eq!(
        (private.code, private.message.as_str()),
        (-4, "Can't get private descriptor string for watch-only wallets")
    );
    node.call("createwallet", json!(["blank", false, true]));
    let blank = node.rpc().wallet("blank");
    assert_eq!(blank.call("listdescriptors", json!([true]))["descriptors"], json!([]));
    assert_eq!(blank.fail("keypoolrefill", json!([])).message, "Error refreshing keypool.");
    // A payment given up twice is given up.
    let sent = wallet.call("sendtoaddress", json!([NOBODY, 1]));
    node.call("generateblock", json!([NOBODY, []]));
    assert_eq!(wallet.fail("abandontransaction", json!([sent])).code, -5, "it is in the mempool");
}

#[test]
fn what_a_locked_wallet_sends_is_handed_out_unsigned() {
    let (_node, wallet) = node();
    wallet.call("encryptwallet", json!(["p"]));
    for (method, params) in [
        ("send", json!([[{NOBODY: 1}], null, null, 2])),
        ("sendall", json!([[NOBODY], null, null, 2])),
        ("send", json!([[{NOBODY: 1}], null, null, 2, {"psbt": true}])),
    ] {
        let unsigned = wallet.call(method, params);
        assert_eq!(unsigned["complete"], json!(false), "{method}");
        assert!(unsigned["psbt"].is_string(), "{method}: {unsigned}");
    }
    assert_eq!(wallet.fail("sendtoaddress", json!([NOBODY, 1])).code, -13);
}
