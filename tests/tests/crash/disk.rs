//! Disks that fill up and disks that cannot be written: what the node says, how it ends, and that it goes on later.
//! What Core's code says is compared with bitcoind, which goes through the same beside it.

use std::path::Path;

use keyless_tests::disk::{Disk, MIB, ReadOnly};
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::{Value, json};

use super::{DEADLINE, mine};

/// Core wants 50 MiB free; block files, databases and a wallet take less than the rest.
const SIZE: u64 = 192 * MIB;
/// Below what Core wants, and yet something.
const LOW: u64 = 30 * MIB;
/// More than are leased at once.
const MOST_ADDRESSES: usize = 500;
const KINDS: [Kind; 2] = [Kind::Core, Kind::Keyless];
/// How the nodes end when a block cannot be stored.
const FATAL: &str = "Error: A fatal internal error occurred, see debug.log for details: ";

/// A node whose network's folder is a disk of its own. `None` where nothing may be mounted.
fn on_disk(kind: Kind, args: &[&str]) -> Option<(Daemon, Disk)> {
    let options = match kind {
        Kind::Core => Options::core(),
        Kind::Keyless => Options::keyless().arg("-disablewallet"),
    };
    let node = Daemon::new(args.iter().fold(options.arg("-checkblockindex=0"), |options, arg| options.arg(*arg)));
    let disk = Disk::mount(&node.net_dir(), SIZE)?;
    Some((node, disk))
}

/// What it wrote to stderr, with its folder named alike for every node.
fn said(node: &Daemon) -> String {
    node.stderr().replace(&node.datadir().display().to_string(), "<datadir>")
}

/// It ends with code 1 by itself; what it said.
fn ends(node: &mut Daemon) -> String {
    let status = node.wait_end();
    assert_eq!(status.code(), Some(1), "{:?}: {}", node.options.kind, node.stderr());
    said(node)
}

/// It does not start, and ends with code 1; what it said.
fn refuses(node: &mut Daemon) -> String {
    node.spawn();
    ends(node)
}

fn coins(node: &Daemon) -> Value {
    node.call("gettxoutsetinfo", json!(["muhash"]))["muhash"].clone()
}

/// Follows `steady`, whose chain grows while there are but `left` bytes; then with space again. What it said when the
/// space was gone, and when it was started without.
fn fills_up(kind: Kind, left: u64, steady: &Daemon) -> Option<(String, String)> {
    let connect = format!("-connect=127.0.0.1:{}", steady.p2p_port);
    // Small block files, so that a new one is soon needed.
    let (mut node, disk) = on_disk(kind, &["-fastprune", "-txindex", &connect])?;
    node.start();
    until_true("the first blocks", DEADLINE, || node.best() == steady.best());
    disk.fill_but(left);
    mine(steady, 0, 300);
    let full = ends(&mut node);
    let again = refuses(&mut node);
    disk.make_room();
    node.start();
    until_true("it goes on", DEADLINE, || node.best() == steady.best());
    let indexed = || node.call("getindexinfo", json!([]))["txindex"]["synced"] == json!(true);
    until_true("the index goes on", DEADLINE, indexed);
    assert_eq!(coins(&node), coins(steady));
    assert_eq!(node.call("verifychain", json!([4, 0])), json!(true));
    node.stop();
    println!("{kind:?} with {left} bytes left: {full:?}, then {again:?}");
    Some((full, again))
}

#[test]
fn a_disk_that_fills_up_while_it_syncs_ends_the_node_and_with_space_it_goes_on() {
    let steady = Daemon::start_new(Options::core().arg("-checkblockindex=0"));
    mine(&steady, 0, 150);
    let Some((core, core_again)) = fills_up(Kind::Core, LOW, &steady) else { return };
    let (ours, ours_again) = fills_up(Kind::Keyless, LOW, &steady).unwrap();
    assert_eq!(ours.lines().next(), Some(format!("{FATAL}Disk space is too low!").as_str()));
    assert_eq!(ours.lines().next(), core.lines().next());
    assert_eq!(ours_again, core_again);
    // Without a single byte an index cannot be written either: bitcoind aborts there.
    let (none, none_again) = fills_up(Kind::Keyless, 0, &steady).unwrap();
    assert!(none.lines().all(|line| line.starts_with(FATAL)), "{none}");
    assert!(none_again.starts_with("Error: "), "{none_again}");
}

/// What one address is worth knowing of.
fn is_mine(node: &Daemon, address: &Value) -> bool {
    node.call("getaddressinfo", json!([address]))["ismine"] == json!(true)
}

#[test]
fn a_full_disk_takes_nothing_from_a_wallet() {
    let mut node = Daemon::new(Options::keyless().arg("-checkblockindex=0"));
    let Some(disk) = Disk::mount(&node.net_dir(), SIZE) else { return };
    node.start();
    node.call("createwallet", json!(["w"]));
    let mut given = vec![node.call("getnewaddress", json!([]))];
    node.call("generatetoaddress", json!([101, given[0]]));
    assert_eq!(node.call("getbalance", json!([])), json!(50.0));
    // Core writes down its chain, which it else would lose: this is about the wallet.
    node.call("gettxoutsetinfo", json!([]));
    disk.fill_but(0);
    // Addresses that are leased already may still come; what cannot be written down is refused. Two seconds after the last
    // block it is written down, which ends the node: then there is no answer, code 0.
    let rpc = node.rpc();
    let mut refused = None;
    while refused.is_none() && given.len() < MOST_ADDRESSES {
        match rpc.try_call("getnewaddress", json!([])) {
            Ok(address) => given.push(address),
            Err(failure) => refused = Some(failure),
        }
    }
    let paid = rpc.try_call("sendtoaddress", json!([given[0], 1]));
    println!("with a full disk: {} addresses, then {refused:?}; a payment: {paid:?}", given.len());
    for failure in refused.iter().chain(paid.as_ref().err()).filter(|failure| failure.code != 0) {
        assert!(failure.message.contains("No space left on device"), "{failure}");
    }
    let _ = rpc.try_call("generatetoaddress", json!([1, given[0]]));
    // Whatever still wanted to be written down before the node ended said so, too.
    let said = ends(&mut node);
    assert!(!said.is_empty() && said.lines().all(|line| line == format!("{FATAL}Disk space is too low!")), "{said}");
    disk.make_room();
    node.start();
    node.call("loadwallet", json!(["w"]));
    assert!(given.iter().all(|address| is_mine(&node, address)));
    let next = node.call("getnewaddress", json!([]));
    assert!(!given.contains(&next), "an address is handed out twice");
    let txid = match paid {
        Ok(txid) => txid,
        Err(_) => node.call("sendtoaddress", json!([next, 1])),
    };
    node.call("generatetoaddress", json!([101, given[0]]));
    assert!(node.call("gettransaction", json!([txid]))["confirmations"].as_i64() > Some(0));
    assert!(node.call("getbalance", json!([])).as_f64() > Some(50.0));
    node.stop();
}

#[test]
fn a_disk_that_cannot_be_written_is_named_at_the_start() {
    let mut words = Vec::new();
    for kind in KINDS {
        let Some((mut node, disk)) = on_disk(kind, &["-txindex"]) else { return };
        node.start();
        mine(&node, 0, 20);
        node.stop();
        disk.set_read_only(true);
        let whole = refuses(&mut node);
        disk.set_read_only(false);
        let mut said = vec![("the whole disk".to_owned(), whole)];
        for folder in ["blocks", "blocks/index", "chainstate", "indexes/txindex"] {
            let closed = ReadOnly::folder(&node.net_dir().join(folder));
            said.push((folder.to_owned(), refuses(&mut node)));
            drop(closed);
        }
        node.start();
        assert_eq!(node.height(), 20);
        node.stop();
        words.push(said);
    }
    let [core, keyless] = &words[..] else { panic!("two kinds") };
    for (theirs, ours) in core.iter().zip(keyless) {
        println!("{}: {:?}, bitcoind {:?}", ours.0, ours.1, theirs.1);
        assert!(ours.1.starts_with("Error"), "{ours:?}");
        // Where bitcoind ends with an exception, it is told as an error.
        if theirs.1.starts_with("Error") {
            assert_eq!(theirs, ours);
        } else {
            assert!(ours.1.contains("Read-only file system"), "{ours:?}");
        }
    }
}

#[test]
fn a_disk_that_turns_read_only_ends_the_node() {
    let mut words = Vec::new();
    for kind in KINDS {
        let Some((mut node, _disk)) = on_disk(kind, &["-fastprune"]) else { return };
        node.start();
        mine(&node, 0, 20);
        let closed = ReadOnly::folder(&node.net_dir().join("blocks"));
        let failure = node.fail("generatetodescriptor", json!([1, "raw(51)#8lvh9jxk"]));
        let said = ends(&mut node);
        drop(closed);
        println!("{kind:?}: {failure}; {said:?}");
        assert!(said.starts_with(FATAL), "{kind:?}: {said}");
        node.start();
        mine(&node, 0, 1);
        assert_eq!(node.call("verifychain", json!([4, 0])), json!(true));
        node.stop();
        words.push((failure.code, said.lines().next().map(str::to_owned)));
    }
    assert_eq!(words[0], words[1]);
}

#[test]
fn a_wallet_on_a_disk_that_cannot_be_written_is_named() {
    let mut node = Daemon::new(Options::keyless());
    let Some(_disk) = Disk::mount(&node.net_dir(), SIZE) else { return };
    // Where this folder is missing, Core keeps wallets beside the blocks.
    std::fs::create_dir(wallets(&node)).unwrap();
    node.start();
    node.call("createwallet", json!(["w"]));
    let address = node.call("getnewaddress", json!([]));
    node.stop();
    let closed = ReadOnly::folder(&wallets(&node));
    node.start();
    let failure = node.fail("loadwallet", json!(["w"]));
    println!("loadwallet: {failure}");
    assert!(failure.message.contains("Read-only file system"), "{failure}");
    let failure = node.fail("createwallet", json!(["v"]));
    println!("createwallet: {failure}");
    assert!(failure.message.contains("Read-only file system"), "{failure}");
    node.stop();
    drop(closed);
    node.start();
    node.call("loadwallet", json!(["w"]));
    assert!(is_mine(&node, &address));
    node.stop();
}

fn wallets(node: &Daemon) -> std::path::PathBuf {
    Path::join(&node.net_dir(), "wallets")
}
