//! The node beside real Bitcoin Core: sync, relay, reorganisation, shared data directories, options, start and stop;
//! what it tells others.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "node/hostile.rs"]
mod hostile;
#[path = "node/interfaces.rs"]
mod interfaces;
#[path = "node/notifications.rs"]
mod notifications;
#[path = "node/router.rs"]
mod router;
#[path = "node/snapshot.rs"]
mod snapshot;

use std::time::Duration;

use bitcoin::consensus::encode;
use bitcoin::{Address, Network, ScriptBuf, Transaction, Witness};
use keyless_tests::daemon::{bitcoin_cli, built, free_port};
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::{Value, json};

const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// `raw(51)`: anyone can spend it.
const ANYONE: &str = "raw(51)#8lvh9jxk";

/// OP_TRUE as a witness script: anyone can spend it by a standard transaction.
fn anyone_script() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x51])
}

fn anyone_address() -> String {
    Address::p2wsh(&anyone_script(), Network::Regtest).to_string()
}

/// Shows the script of [`anyone_address`] in every input.
fn with_witness(raw: &Value) -> String {
    let mut tx: Transaction = encode::deserialize_hex(raw.as_str().unwrap()).unwrap();
    for input in &mut tx.input {
        input.witness = Witness::from_slice(&[anyone_script().as_bytes()]);
    }
    encode::serialize_hex(&tx)
}

fn connect(from: &Daemon, to: &Daemon) {
    from.call("addnode", json!([format!("127.0.0.1:{}", to.p2p_port), "onetry", false]));
    until_true("connected", SYNC_DEADLINE, || {
        from.call("getpeerinfo", json!([])).as_array().unwrap().iter().any(|peer| {
            peer["addr"] == json!(format!("127.0.0.1:{}", to.p2p_port)) && peer["version"].as_u64() > Some(0)
        })
    });
}

fn mine(node: &Daemon, blocks: u32) -> Vec<String> {
    let hashes = node.call("generatetodescriptor", json!([blocks, ANYONE]));
    hashes.as_array().unwrap().iter().map(|hash| hash.as_str().unwrap().to_owned()).collect()
}

fn same_tip(nodes: &[&Daemon], within: Duration) {
    until_true("one tip on all", within, || nodes.iter().all(|node| node.best() == nodes[0].best()));
}

#[test]
fn a_chain_of_5000_blocks_comes_from_bitcoind_and_own_blocks_go_back() {
    let core = Daemon::start_new(Options::core().arg("-checkblockindex=0"));
    mine(&core, 5_000);
    let keyless = Daemon::start_new(Options::keyless().arg("-disablewallet").arg("-checkblockindex=0"));
    connect(&keyless, &core);
    until_true("5,000 blocks", SYNC_DEADLINE, || keyless.height() == 5_000);
    same_tip(&[&core, &keyless], SYNC_DEADLINE);

    mine(&keyless, 3);
    until_true("own blocks reach bitcoind", SYNC_DEADLINE, || core.height() == 5_003);

    // bitcoind connecting to us, after the first connection is gone.
    keyless.call("disconnectnode", json!([format!("127.0.0.1:{}", core.p2p_port)]));
    connect(&core, &keyless);
    mine(&core, 2);
    until_true("blocks over an inbound connection", SYNC_DEADLINE, || keyless.height() == 5_005);
    let set = |node: &Daemon| node.call("gettxoutsetinfo", json!(["muhash"]))["muhash"].clone();
    assert_eq!(set(&core), set(&keyless));
}

#[test]
fn transactions_are_relayed_both_ways() {
    let core = Daemon::start_new(Options::core());
    let keyless = Daemon::start_new(Options::keyless().arg("-disablewallet"));
    connect(&keyless, &core);
    let blocks = core.call("generatetoaddress", json!([102, anyone_address()]));
    same_tip(&[&core, &keyless], SYNC_DEADLINE);
    for (n, (from, to)) in [(&core, &keyless), (&keyless, &core)].into_iter().enumerate() {
        let coinbase = from.call("getblock", json!([blocks[n]]))["tx"][0].clone();
        let spend = from.call(
            "createrawtransaction",
            json!([[{"txid": coinbase, "vout": 0}], [{"bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080": 49.99}]]),
        );
        let txid = from.call("sendrawtransaction", json!([with_witness(&spend), 0]));
        until_true("the transaction arrives", SYNC_DEADLINE, || {
            to.call("getrawmempool", json!([])).as_array().unwrap().contains(&txid)
        });
    }
    mine(&keyless, 1);
    until_true("mined and gone", SYNC_DEADLINE, || core.call("getrawmempool", json!([])) == json!([]));
}

#[test]
fn the_longer_chain_wins_after_a_partition() {
    let core = Daemon::start_new(Options::core());
    let keyless = Daemon::start_new(Options::keyless().arg("-disablewallet"));
    connect(&keyless, &core);
    mine(&core, 10);
    same_tip(&[&core, &keyless], SYNC_DEADLINE);
    keyless.call("disconnectnode", json!([format!("127.0.0.1:{}", core.p2p_port)]));
    mine(&core, 3);
    keyless.call("generatetoaddress", json!([6, anyone_address()]));
    connect(&keyless, &core);
    same_tip(&[&core, &keyless], Duration::from_secs(10));
    assert_eq!(core.height(), 16);
    let tips = core.call("getchaintips", json!([]));
    assert!(
        tips.as_array().unwrap().iter().any(|tip| tip["status"] == "valid-fork" && tip["branchlen"] == 3),
        "{tips}"
    );
}

/// The wallet's last block is on no chain any more: it walks back to the fork, and forward.
#[test]
fn a_wallet_that_was_closed_follows_a_reorganisation_when_it_is_opened() {
    let node = Daemon::start_new(Options::keyless());
    mine(&node, 5);
    node.call("createwallet", json!(["w"]));
    let address = node.call("getnewaddress", json!([]));
    let stale = node.call("generatetoaddress", json!([1, address]));
    node.call("unloadwallet", json!(["w"]));
    node.call("invalidateblock", json!([node.call("getblockhash", json!([4]))]));
    node.call("generatetoaddress", json!([4, address]));
    node.call("loadwallet", json!(["w"]));
    let info = node.call("getwalletinfo", json!([]));
    assert_eq!(info["lastprocessedblock"]["hash"], json!(node.best()));
    let listed = node.call("listtransactions", json!([]));
    let mined: Vec<_> = listed.as_array().unwrap().iter().filter(|tx| tx["category"] == "immature").collect();
    assert_eq!(mined.len(), 4, "{listed}");
    assert!(mined.iter().all(|tx| tx["blockhash"] != stale[0]));
}

/// What a wallet could not look for is said, descriptor by descriptor; what it could stands.
#[test]
fn a_descriptor_from_before_what_was_pruned_is_said_to_be_incomplete() {
    let node = Daemon::start_new(Options::keyless().conf("prune=1").conf("fastprune=1"));
    mine(&node, 500);
    let time = node.call("getblockheader", json!([node.best()]))["time"].as_i64().unwrap();
    node.call("setmocktime", json!([time + 24 * 60 * 60]));
    mine(&node, 500);
    let kept = node.call("pruneblockchain", json!([500])).as_i64().unwrap();
    assert!(kept > 0, "nothing was pruned");
    node.call("createwallet", json!(["watch", true, true]));
    let paid = node.call("getdescriptorinfo", json!(["raw(52)"]))["descriptor"].clone();
    let imports = json!([
        {"desc": ANYONE, "timestamp": 0},
        {"desc": paid, "timestamp": "now"},
    ]);
    let answers = node.call("importdescriptors", json!([imports]));
    assert_eq!(answers[1], json!({"success": true}));
    assert_eq!((&answers[0]["success"], &answers[0]["error"]["code"]), (&json!(false), &json!(-1)));
    let text = answers[0]["error"]["message"].as_str().unwrap();
    let last = node.call("getblockheader", json!([node.call("getblockhash", json!([kept]))]));
    let begin = format!(
        "Rescan failed for descriptor with timestamp 0. There was an error reading a block from time {}, which is after \
         or within 7200 seconds of key creation, and could contain transactions pertaining to the desc. As a result, \
         transactions and coins using this desc may not appear in the wallet. This error could be caused by pruning",
        last["time"]
    );
    assert!(text.starts_with(&begin), "{text}");
    // The blocks that are left were looked at.
    let found = node.call("listunspent", json!([]));
    assert!(found.as_array().unwrap().iter().all(|coin| coin["confirmations"].as_i64().unwrap() <= 1000 - kept));
    assert!(!found.as_array().unwrap().is_empty());
}

/// One data directory, two programs in turn.
#[test]
fn a_data_directory_serves_bitcoind_and_keylessd_in_turn() {
    let mut node = Daemon::start_new(Options::core());
    let wallets = node.net_dir().join("wallets");
    mine(&node, 20);
    let by_core = node.call("gettxoutsetinfo", json!([]));
    node.stop();
    node.options.kind = Kind::Keyless;
    node.start();
    assert_eq!(node.call("gettxoutsetinfo", json!([])), by_core);
    assert_eq!(std::fs::read_dir(wallets).unwrap().count(), 0, "wallets/ is empty at first start");
    mine(&node, 5);
    let tip = node.best();
    node.stop();
    node.options.kind = Kind::Core;
    node.options.conf.retain(|line| !line.starts_with("fallbackfee"));
    node.configure();
    node.start();
    assert_eq!(node.best(), tip);
    assert_eq!(node.call("verifychain", json!([4, 0])), json!(true));
    node.stop();
}

#[test]
fn a_kill_leaves_a_data_directory_that_starts_again() {
    let mut node = Daemon::start_new(Options::keyless().arg("-disablewallet"));
    mine(&node, 30);
    node.kill9();
    node.start();
    assert!(node.height() <= 30);
    assert_eq!(node.call("verifychain", json!([4, 0])), json!(true));
    node.stop();
}

#[test]
fn options_are_refused_as_bitcoind_refuses_them() {
    let cases: &[(&[&str], &str)] = &[
        (&["-nosuchoption"], "Error: Error parsing command line arguments: Invalid parameter -nosuchoption"),
        (&["loose"], "Error: Command line contains unexpected token 'loose', see bitcoind -h for a list of options."),
        (&["-uacomment=a(b"], "Error: User Agent comment (a(b) contains unsafe characters."),
        (&["-externalip=localhost", "-dns=0"], "Error: Cannot resolve -externalip address: 'localhost'"),
        (&["-bind=nonsense"], "Error: Cannot resolve -bind address: 'nonsense'"),
        (&["-bind=localhost"], "Error: Cannot resolve -bind address: 'localhost'"),
        (&["-bind=127.0.0.1:99999"], "Error: Invalid port specified in -bind: '127.0.0.1:99999'"),
        (&["-whitebind=127.1"], "Error: Need to specify a port with -whitebind: '127.1'"),
        (
            &["-maxtxfee=0.00000099"],
            "Error: Invalid amount for -maxtxfee=<amount>: '0.00000099' (must be at least the minrelay fee of \
             0.00000100 BTC/kvB to prevent stuck transactions)",
        ),
        (&["-rpcport=99999"], "Error: Invalid port specified in -rpcport: '99999'"),
        (&["-devquorum=4/3"], "Error: Invalid -devquorum value '4/3': the threshold is above the number of members"),
        (&["-cosigner=nonsense"], "Error: Invalid -cosigner value 'nonsense': 'nonsense' is not a PeerId"),
        (
            &["-threshold=2"],
            "Error: Invalid -threshold value '2': it is about a quorum of nodes (-cosigner); embedded co-signers take theirs from -devquorum",
        ),
        (
            &["-cosignerdiscovery=smoke", "-cosignerbind=/ip4/127.0.0.1/tcp/0"],
            "Error: Unknown -cosignerdiscovery value: 'smoke'",
        ),
        (&["-walletpsbtversion=1"], "Error: Invalid -walletpsbtversion value '1': use 0 or 2"),
        (&["-signingtimeout=0"], "Error: Invalid -signingtimeout value '0'"),
        (&["-signingtimeout=soon"], "Error: Invalid -signingtimeout value 'soon'"),
        (&["-rpcallowip=zz"], "Error: Invalid -rpcallowip subnet specification: zz. Valid values are"),
    ];
    for (args, expected) in cases {
        let mut options = Options::keyless();
        options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut node = Daemon::new(options);
        node.spawn();
        assert_eq!(node.wait_end().code(), Some(1), "{args:?}: {}", node.stderr());
        assert!(node.stderr().starts_with(expected), "{args:?}: {:?} is not {expected:?}", node.stderr());
        // Core says in a second line that there is no server then.
        let lines = if args[0].starts_with("-rpcallowip") { 2 } else { 1 };
        assert_eq!(node.stderr().trim_end().lines().count(), lines, "{args:?}: {:?}", node.stderr());
    }
}

#[test]
fn a_port_that_no_peer_will_connect_to_is_warned_of() {
    // The second option ends the node before it binds.
    let mut node = Daemon::new(Options::keyless().arg("-bind=127.0.0.1:6667").arg("-whitebind=127.1"));
    node.spawn();
    assert_eq!(node.wait_end().code(), Some(1), "{}", node.stderr());
    let warning = "Warning: -bind request to listen on port 6667. This port is considered \"bad\"";
    assert!(node.stderr().contains(warning), "{}", node.stderr());
}

#[test]
fn what_core_throws_while_it_loads_is_said() {
    let mut node = Daemon::new(Options::keyless().arg("-disablewallet").arg("-txindex"));
    let indexes = node.net_dir().join("indexes");
    std::fs::create_dir_all(&indexes).unwrap();
    std::fs::write(indexes.join("txindex"), "not a folder").unwrap();
    node.spawn();
    assert_eq!(node.wait_end().code(), Some(1));
    assert!(node.stderr().starts_with("Error: ") && node.stderr().contains("txindex"), "{}", node.stderr());
}

#[test]
fn option_forms_and_precedence_are_cores() {
    let options = Options::keyless()
        .conf("uacomment=conf")
        .conf("unknownkey=1")
        .arg("--uacomment=line")
        .arg("-nonatpmp")
        .arg("-disablewallet=1");
    let mut node = Daemon::start_new(options);
    let info = node.call("getnetworkinfo", json!([]));
    assert_eq!(info["subversion"], "/Satoshi:31.99.0(line; conf)/");
    assert!(
        node.log().contains("Ignoring unknown configuration value regtest.unknownkey")
            || node.log().contains("Ignoring unknown configuration value unknownkey")
    );
    assert_eq!(node.fail("getbalance", json!([])).code, -32601);
    node.stop();
}

#[test]
fn help_and_version_go_to_stdout() {
    for (flag, expected) in [("-version", "31.99"), ("-help", "-cosigner=<peerid>")] {
        let output = std::process::Command::new(built("keylessd")).arg(flag).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(expected), "{flag}: {text}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn signals_and_daemonwait() {
    let mut node = Daemon::start_new(Options::keyless());
    let before = node.log().len();
    std::fs::rename(node.net_dir().join("debug.log"), node.net_dir().join("debug.log.1")).unwrap();
    node.signal(libc::SIGHUP);
    until_true("the log is opened anew", SYNC_DEADLINE, || {
        node.call("setmocktime", json!([0]));
        mine(&node, 1);
        node.net_dir().join("debug.log").exists()
    });
    assert!(node.log().len() < before || before == 0 || !node.log().is_empty());
    node.signal(libc::SIGTERM);
    assert_eq!(node.wait_end().code(), Some(0));
    assert_eq!(node.stderr(), "");
    node.start();
    node.signal(libc::SIGINT);
    assert_eq!(node.wait_end().code(), Some(0));

    // -daemonwait: the parent ends with 0 once RPC works.
    let status = std::process::Command::new(built("keylessd"))
        .arg(format!("-datadir={}", node.datadir().display()))
        .arg("-daemonwait")
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let pid: i32 = std::fs::read_to_string(node.net_dir().join("bitcoind.pid")).unwrap().trim().parse().unwrap();
    assert_eq!(node.height(), node.call("getblockcount", json!([])).as_i64().unwrap());
    node.call("stop", json!([]));
    until_true("the daemon ends", SYNC_DEADLINE, || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_second_node_on_a_folder_is_refused() {
    let node = Daemon::start_new(Options::keyless());
    let output = std::process::Command::new(built("keylessd"))
        .arg(format!("-datadir={}", node.datadir().display()))
        .arg(format!("-rpcport={}", free_port()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("Cannot obtain a lock on directory"), "{text}");
    assert!(node.height() >= 0);
}

#[test]
fn bad_requests_get_cores_errors() {
    let node = Daemon::start_new(Options::keyless());
    let cases = [
        ("getblockhash", json!([1_000_000]), -8, "Block height out of range"),
        ("getblockhash", json!(["x"]), -3, "JSON value of type string is not of expected type number"),
        ("getblock", json!(["00"]), -8, "blockhash must be of length 64 (not 2, for '00')"),
        (
            "getblock",
            json!(["zz00000000000000000000000000000000000000000000000000000000000000"]),
            -8,
            "must be hexadecimal string",
        ),
        ("decoderawtransaction", json!(["00"]), -22, "TX decode failed"),
        ("sendrawtransaction", json!(["nothex"]), -22, "TX decode failed. Make sure the tx has at least one input."),
        ("nosuchmethod", json!([]), -32601, "Method not found"),
        ("getbalance", json!(["*", "x"]), -3, "JSON value of type string is not of expected type number"),
        ("getwalletinfo", json!([]), -18, "No wallet is loaded."),
        ("loadwallet", json!(["nosuchwallet"]), -18, "Path does not exist"),
        ("loadwallet", json!([""]), -18, "/wallets'. Data is not in recognized format."),
        ("loadwallet", json!(["notes"]), -18, "/wallets/notes'. Data is not in recognized format."),
    ];
    std::fs::write(node.net_dir().join("wallets/notes"), "no wallet").unwrap();
    for (method, params, code, text) in cases {
        let failure = node.fail(method, params.clone());
        assert_eq!(failure.code, code, "{method} {params}: {failure}");
        assert!(failure.message.contains(text), "{method} {params}: {failure}");
    }
    let (status, _) = node.rpc().post("{").unwrap();
    assert_eq!(status, 500);
}

#[test]
fn bitcoin_cli_and_keyless_cli_find_the_node_and_agree() {
    let node = Daemon::start_new(Options::keyless());
    for args in
        [vec!["getblockcount"], vec!["-named", "getblockhash", "height=0"], vec!["getblockchaininfo"], vec!["help"]]
    {
        let [a, b] = [bitcoin_cli(), built("keyless-cli")].map(|binary| node.cli(&binary, args.clone()));
        assert_eq!(String::from_utf8_lossy(&a.stdout), String::from_utf8_lossy(&b.stdout), "{args:?}");
        assert_eq!(a.status.code(), b.status.code());
        assert_eq!(a.status.code(), Some(0), "{}", String::from_utf8_lossy(&a.stderr));
    }
    for (args, code) in
        [(vec!["getblockhash", "77"], 8), (vec!["nosuch"], 89), (vec!["-rpcport=1", "getblockcount"], 1)]
    {
        let [a, b] = [bitcoin_cli(), built("keyless-cli")].map(|binary| node.cli(&binary, args.clone()));
        assert_eq!(a.status.code(), Some(code), "{args:?}");
        assert_eq!(b.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&b.stderr));
        assert_eq!(
            String::from_utf8_lossy(&a.stderr).lines().next(),
            String::from_utf8_lossy(&b.stderr).lines().next()
        );
    }
}
