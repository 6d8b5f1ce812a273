//! Three `keylessd` processes that are one wallet, beside a bitcoind that knows nothing of quorums.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "quorum/operator.rs"]
mod operator;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyless_tests::daemon::built;
use keyless_tests::quorum::Discovery;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options, Quorum, RpcClient, sat};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
/// Nodes tell peers of transactions at random moments, 2 and 5 seconds apart on average: 30 are not enough now and then.
const RELAY_DEADLINE: Duration = Duration::from_secs(120);
const TYPES: [&str; 4] = ["legacy", "p2sh-segwit", "bech32", "bech32m"];
const FEE_SAT: i64 = 2_000;

/// A bitcoind that is a Bitcoin peer of member 0.
fn witness(quorum: &Quorum) -> Daemon {
    let core = Daemon::start_new(Options::core().conf(format!("addnode=127.0.0.1:{}", quorum.members[0].p2p_port)));
    until_true("bitcoind is connected", DEADLINE, || core.call("getconnectioncount", json!([])) != json!(0));
    core
}

fn address(wallet: &RpcClient, kind: &str) -> String {
    wallet.call("getnewaddress", json!(["", kind])).as_str().unwrap().to_owned()
}

fn mine(quorum: &Quorum, m: usize, blocks: u32, to: &str) {
    quorum.members[m].call("generatetoaddress", json!([blocks, to]));
    quorum.sync_blocks();
}

/// 101 blocks to the wallet, then one coin of each type.
fn fund(quorum: &Quorum, name: &str) {
    let wallet = quorum.wallet(0, name);
    let mining = address(&wallet, "bech32");
    mine(quorum, 0, 101, &mining);
    for kind in TYPES {
        let to = address(&wallet, kind);
        wallet.call("sendtoaddress", json!([to, 1]));
    }
    mine(quorum, 0, 1, &mining);
}

fn coin_of(wallet: &RpcClient, kind: &str) -> Value {
    let prefix = match kind {
        "legacy" => ["pkh("],
        "p2sh-segwit" => ["sh(wpkh("],
        "bech32" => ["wpkh("],
        _ => ["tr("],
    };
    let unspent = wallet.call("listunspent", json!([1]));
    let found = unspent.as_array().unwrap().iter().find(|coin| {
        prefix.iter().any(|p| coin["desc"].as_str().unwrap_or_default().starts_with(p))
            && sat(&coin["amount"]) <= 100_000_000
    });
    found.unwrap_or_else(|| panic!("no coin of type {kind} in {unspent}")).clone()
}

/// Spends a coin by the raw-transaction commands.
fn spend_raw(wallet: &RpcClient, coin: &Value, to: &str) -> String {
    let amount = sat(&coin["amount"]) - FEE_SAT;
    let amount = format!("{}.{:08}", amount / 100_000_000, amount % 100_000_000);
    let raw =
        wallet.call("createrawtransaction", json!([[{"txid": coin["txid"], "vout": coin["vout"]}], [{to: amount}]]));
    let signed = wallet.call("signrawtransactionwithwallet", json!([raw]));
    assert_eq!(signed["complete"], json!(true), "{signed}");
    wallet.call("sendrawtransaction", json!([signed["hex"]])).as_str().unwrap().to_owned()
}

/// A small number, a push and an opcode: what scripts are written with.
const OTHER_SCRIPT: &str = "02e80303aabbcc05010203040576";

fn a_wrong_script_is_named_as_core_names_it(wallet: &RpcClient, core: &Daemon) {
    let coin = coin_of(wallet, "bech32");
    let spent = json!({"txid": coin["txid"], "vout": coin["vout"]});
    let raw = wallet.call("createrawtransaction", json!([[spent], [{"data": "00"}]]));
    let claimed = json!([{"txid": coin["txid"], "vout": coin["vout"], "scriptPubKey": OTHER_SCRIPT, "amount": 1}]);
    let ours = wallet.fail("signrawtransactionwithwallet", json!([raw, claimed]));
    let cores = core.fail("signrawtransactionwithkey", json!([raw, [], claimed]));
    assert_eq!((ours.code, ours.message), (cores.code, cores.message));
}

fn accepted_by(core: &Daemon, txid: &str) {
    until_true("bitcoind accepts the transaction", RELAY_DEADLINE, || {
        core.call("getrawmempool", json!([])).as_array().unwrap().contains(&json!(txid))
    });
}

#[test]
fn every_address_type_receives_and_spends_and_every_member_coordinates() {
    let quorum = Quorum::start(2, 3, Discovery::Static);
    let core = witness(&quorum);
    quorum.create_wallet("w");
    fund(&quorum, "w");
    let mining = address(&quorum.wallet(0, "w"), "bech32");
    until_true("bitcoind has the chain", DEADLINE, || core.best() == quorum.members[0].best());
    a_wrong_script_is_named_as_core_names_it(&quorum.wallet(0, "w"), &core);

    for (n, kind) in TYPES.into_iter().enumerate() {
        let wallet = quorum.wallet(n % 3, "w");
        let to = address(&wallet, kind);
        assert!(core.call("validateaddress", json!([to]))["isvalid"] == json!(true));
        let txid = spend_raw(&wallet, &coin_of(&wallet, kind), &to);
        accepted_by(&core, &txid);
    }
    mine(&quorum, 0, 1, &mining);
    for (n, kind) in TYPES.into_iter().enumerate() {
        let wallet = quorum.wallet(n % 3, "w");
        let to = address(&wallet, kind);
        let sent = wallet.call("sendtoaddress", json!([to, "0.5"]));
        accepted_by(&core, sent.as_str().unwrap());
        mine(&quorum, n % 3, 1, &mining);
        until_true("bitcoind accepts the block", DEADLINE, || core.best() == quorum.members[0].best());
    }
    assert_eq!(core.call("getrawmempool", json!([])), json!([]));

    // Every member sees every coin and transaction.
    let balances: Vec<Value> =
        (0..3).map(|m| quorum.wallet(m, "w").call("getbalances", json!([]))["mine"].clone()).collect();
    assert_eq!(balances[0], balances[1]);
    assert_eq!(balances[0], balances[2]);
    let message = quorum.wallet(1, "w");
    let signer = address(&message, "legacy");
    let signature = message.call("signmessage", json!([signer, "hello"]));
    assert_eq!(core.call("verifymessage", json!([signer, signature, "hello"])), json!(true));
    let mut quorum = quorum;
    for member in &mut quorum.members {
        member.stop();
    }
}

#[test]
fn shares_are_refreshed_and_the_addresses_stay() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    fund(&quorum, "w");
    let wallet = quorum.wallet(0, "w");
    let keys = |wallet: &RpcClient| {
        let info = wallet.call("getquoruminfo", json!([]));
        (info["epoch"].as_u64().unwrap(), info["ecdsa"].clone(), info["schnorr"].clone())
    };
    let (epoch, ecdsa, schnorr) = keys(&wallet);
    assert_eq!(wallet.call("refreshshares", json!([]))["epoch"], json!(epoch + 1));
    until_true("all members in the new epoch", DEADLINE, || {
        (0..3).all(|m| keys(&quorum.wallet(m, "w")) == (epoch + 1, ecdsa.clone(), schnorr.clone()))
    });
    // Old coins are spent with the new shares, by any two, and after a restart.
    for kind in TYPES {
        let to = address(&wallet, kind);
        spend_raw(&quorum.wallet(1, "w"), &coin_of(&quorum.wallet(1, "w"), kind), &to);
    }
    quorum.members[0].kill9();
    let survivor = quorum.wallet(2, "w");
    survivor.call("sendtoaddress", json!([address(&survivor, "bech32m"), "0.1"]));
    quorum.members[0].start();
    quorum.wait_connected(0);
    if quorum.members[0].call("listwallets", json!([])) == json!([]) {
        quorum.members[0].call("loadwallet", json!(["w"]));
    }
    assert_eq!(keys(&quorum.wallet(0, "w")), (epoch + 1, ecdsa, schnorr));
    let back = quorum.wallet(0, "w");
    until_true("the returned one signs", DEADLINE, || {
        back.try_call("sendtoaddress", json!([address(&back, "bech32"), "0.1"])).is_ok()
    });
}

#[test]
fn members_find_each_other_by_mdns() {
    let quorum = Quorum::start(2, 3, Discovery::Mdns);
    quorum.create_wallet("w");
    let wallet = quorum.wallet(2, "w");
    assert!(address(&wallet, "bech32").starts_with("bcrt1q"));
}

#[test]
fn one_lost_member_costs_little_two_are_named_and_a_return_needs_no_command() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    fund(&quorum, "w");
    let wallet = quorum.wallet(0, "w");
    let to = address(&wallet, "bech32");
    let normal = timed(|| wallet.call("sendtoaddress", json!([to, "0.1"])));

    quorum.members[1].kill9();
    let first = timed(|| wallet.call("sendtoaddress", json!([to, "0.1"])));
    assert!(first <= normal + Duration::from_secs(2), "{first:?} after {normal:?}");
    let later = timed(|| wallet.call("sendtoaddress", json!([to, "0.1"])));
    assert!(later <= normal + Duration::from_millis(500), "the dead one is waited for once: {later:?}");

    quorum.members[2].kill9();
    let before = wallet.call("getbalances", json!([]))["mine"].clone();
    let start = Instant::now();
    let failure = wallet.fail("sendtoaddress", json!([to, "0.1"]));
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    for lost in [1, 2] {
        assert!(failure.message.contains(&quorum.peer_ids[lost]), "{failure} names {}", quorum.peer_ids[lost]);
    }
    assert_eq!(wallet.call("getbalances", json!([]))["mine"], before);
    assert_eq!(wallet.call("listlockunspent", json!([])), json!([]));

    quorum.members[1].start();
    quorum.wait_connected(0);
    until_true("sends work again", DEADLINE, || wallet.try_call("sendtoaddress", json!([to, "0.1"])).is_ok());
    // Also when the returned one asks.
    quorum.wait_connected(1);
    let returned = quorum.members[1].rpc();
    if returned.call("listwallets", json!([])) == json!([]) {
        returned.call("loadwallet", json!(["w"]));
    }
    until_true("the returned one has the chain", DEADLINE, || quorum.members[1].best() == quorum.members[0].best());
    until_true("and coordinates", DEADLINE, || {
        returned.wallet("w").try_call("sendtoaddress", json!([to, "0.1"])).is_ok()
    });
}

fn timed<T>(call: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    call();
    start.elapsed()
}

#[test]
fn a_coordinator_killed_while_signing_leaves_no_coin_stuck() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    fund(&quorum, "w");
    let to = address(&quorum.wallet(1, "w"), "bech32");
    for delay_ms in [1, 5, 10, 20, 40] {
        let client = quorum.wallet(0, "w");
        let target = to.clone();
        let sending = std::thread::spawn(move || client.try_call("sendtoaddress", json!([target, "0.01"])).is_ok());
        std::thread::sleep(Duration::from_millis(delay_ms));
        quorum.members[0].kill9();
        let _ = sending.join();
        quorum.members[0].start();
        quorum.wait_connected(0);
        if quorum.members[0].call("listwallets", json!([])) == json!([]) {
            quorum.members[0].call("loadwallet", json!(["w"]));
        }
    }
    // Everything can be spent at once: nothing is locked anywhere.
    let wallet = quorum.wallet(1, "w");
    until_true("members agree on the chain", DEADLINE, || {
        quorum.members.iter().all(|m| m.best() == quorum.members[1].best())
    });
    assert_eq!(wallet.call("listlockunspent", json!([])), json!([]));
    let all = wallet.call("getbalance", json!([]));
    wallet.call("sendtoaddress", json!([to, all, "", "", true]));
    let client = quorum.wallet(0, "w");
    assert_eq!(client.call("listsigningsessions", json!([])).as_array().unwrap().len(), 0);
    no_nonce_twice(&quorum);
}

/// Every signature that anyone can see, by what its nonce shows: the same r is in the same signature alone.
fn no_nonce_twice(quorum: &Quorum) {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for member in &quorum.members {
        let mut transactions = Vec::new();
        for txid in member.call("getrawmempool", json!([])).as_array().unwrap() {
            transactions.push(member.call("getrawtransaction", json!([txid, 1])));
        }
        for height in 102..=member.height() {
            let block = member.call("getblock", json!([member.call("getblockhash", json!([height])), 2]));
            transactions.extend(block["tx"].as_array().unwrap().iter().skip(1).cloned());
        }
        for input in transactions.iter().flat_map(|tx| tx["vin"].as_array().unwrap()) {
            let witness = input["txinwitness"][0].as_str();
            let signature = witness.or_else(|| input["scriptSig"]["asm"].as_str()?.split(['[', ' ']).next()).unwrap();
            // DER: 30 len 02 len r …; BIP340: r first.
            let r = match signature.strip_prefix("30") {
                Some(der) if signature.len() > 130 => &der[6..6 + 2 * usize::from_str_radix(&der[4..6], 16).unwrap()],
                _ => &signature[..64],
            };
            let earlier = seen.insert(r.to_owned(), signature.to_owned());
            assert!(earlier.is_none_or(|earlier| earlier == signature), "a nonce was used twice: {signature}");
        }
    }
    assert!(seen.len() > 4, "there are signatures to compare");
}

#[test]
fn a_coordinator_killed_while_making_a_wallet_leaves_none_half_made() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    for (n, delay_ms) in [20u64, 150, 400, 900, 1500].into_iter().enumerate() {
        let name = format!("w{n}");
        let client = quorum.members[0].rpc();
        let wanted = name.clone();
        let making = std::thread::spawn(move || client.try_call("createwallet", json!([wanted])).is_ok());
        std::thread::sleep(Duration::from_millis(delay_ms));
        quorum.members[0].kill9();
        let _ = making.join();
        quorum.members[0].start();
        for m in 0..3 {
            quorum.wait_connected(m);
        }
        // All have it or none has it, and whoever has it can use it.
        let has = |m: usize| {
            let listed = quorum.members[m].call("listwalletdir", json!([]));
            listed["wallets"].as_array().unwrap().iter().any(|wallet| wallet["name"] == json!(name))
        };
        until_true("all or none", DEADLINE, || (has(0) == has(1)) && (has(1) == has(2)));
        if has(0) {
            for m in 0..3 {
                let loaded = quorum.members[m].call("listwallets", json!([]));
                if !loaded.as_array().unwrap().contains(&json!(name)) {
                    quorum.members[m].call("loadwallet", json!([name]));
                }
            }
            address(&quorum.wallet(1, &name), "bech32m");
        } else {
            // The others may not yet have given the ceremony up.
            let again = || quorum.members[0].rpc().try_call("createwallet", json!([name])).is_ok();
            until_true("the name is free again", DEADLINE, again);
        }
    }
}

#[test]
fn strangers_and_nonsense_are_refused_and_lose_nothing() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    let rpc = quorum.members[0].rpc();
    let me = &quorum.peer_ids[0].clone();
    let other = &quorum.peer_ids[1].clone();
    let unknown = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let cases = [
        (json!({"threshold": 4, "members": [me, other, quorum.peer_ids[2]]}), "threshold"),
        (json!({"threshold": 2, "members": [me, other, other]}), "duplicated member"),
        (json!({"threshold": 2, "members": [me, other, unknown]}), unknown),
        (json!({"threshold": 2, "members": [me, other, "nonsense"]}), "nonsense"),
    ];
    for (quorum_json, expected) in cases {
        let failure = rpc.fail("createwallet", json!({"wallet_name": "bad", "quorum": quorum_json}));
        assert!(failure.message.contains(expected), "{quorum_json}: {failure} should name {expected}");
    }
    assert_eq!(rpc.call("listwalletdir", json!([]))["wallets"], json!([]));

    // An unlisted peer, one of another network, and garbage on the port.
    let port = bind_port(&quorum.members[0]).to_owned();
    let stranger = Daemon::start_new(
        Options::keyless()
            .conf("cosignerbind=/ip4/127.0.0.1/tcp/0")
            .conf(format!("cosigner={me}@/ip4/127.0.0.1/tcp/{port}")),
    );
    let mut raw = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    raw.write_all(&[0xff; 4096]).unwrap();
    until_true("the stranger is refused", DEADLINE, || {
        stranger.call("enumeratecosigners", json!([]))[0]["online"] == json!(false)
            && quorum.members[0].log().contains("not on the list of co-signers")
    });
    let failure = stranger.fail("createwallet", json!(["x"]));
    assert!(failure.message.contains(me.as_str()), "{failure}");
    assert_eq!(quorum.online(0), 2);
    other_network_is_refused(&mut quorum);
    quorum.create_wallet("good");
    let wallet = quorum.wallet(0, "good");
    let bad_address = wallet.fail("sendtoaddress", json!(["bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 1]));
    assert_eq!(bad_address.code, -5, "{bad_address}");
    assert_eq!(wallet.fail("signrawtransactionwithwallet", json!(["zz"])).code, -22);
}

/// Member 2 comes back with its identity, on signet: it is refused, and welcome again on regtest.
fn other_network_is_refused(quorum: &mut Quorum) {
    quorum.members[2].stop();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("signet/indexes/keyless");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::copy(quorum.members[2].net_dir().join("indexes/keyless/identity"), keys.join("identity")).unwrap();
    let port = bind_port(&quorum.members[0]);
    let mut elsewhere = Command::new(built("keylessd"))
        .args(["-signet", "-connect=0", "-listen=0", "-server=0", "-cosignerdiscovery=static"])
        .arg(format!("-datadir={}", folder.path().display()))
        .arg("-cosignerbind=/ip4/127.0.0.1/tcp/0")
        .arg(format!("-cosigner={}@/ip4/127.0.0.1/tcp/{port}", quorum.peer_ids[0]))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(folder.path().join("signet/debug.log")).unwrap_or_default();
    until_true("both sides say why", DEADLINE, || {
        quorum.members[0].log().contains("other network: signet vs regtest")
            && log().contains("other network: regtest vs signet")
    });
    assert_eq!(quorum.online(0), 1);
    elsewhere.kill().unwrap();
    elsewhere.wait().unwrap();
    quorum.members[2].start();
    quorum.wait_connected(0);
    quorum.wait_connected(2);
}

/// The port on which a member listens for co-signers.
fn bind_port(member: &Daemon) -> &str {
    let lines = &member.options.conf;
    lines.iter().find_map(|line| line.strip_prefix("cosignerbind=/ip4/127.0.0.1/tcp/")).unwrap()
}
