//! The traps of the design, §3: each with a test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyless_kernel::log::CoreLog;
use keyless_kernel::{Args, InitError, Kernel, Notification, Notifications};
use serde_json::json;

use crate::support::{Node, build};

const CHILD_DIR: &str = "KEYLESS_TEST_CHILD_DIR";
const CHILD_FLUSHES: &str = "KEYLESS_TEST_CHILD_FLUSHES";

/// Runs this test binary's `victim` in a process of its own and kills it once it has mined.
fn kill_a_node_that_mined(dir: &Path, flush: bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "traps::victim", "--nocapture"]).env(CHILD_DIR, dir).stdout(Stdio::piped());
    if flush {
        command.env(CHILD_FLUSHES, "1");
    }
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("victim has mined")), "the victim died by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Does nothing by itself: the other tests run it as a child and kill it.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let node = Node::open(Path::new(&dir), &["-txindex"]);
    node.mine(20);
    if std::env::var_os(CHILD_FLUSHES).is_some() {
        node.kernel.flush().unwrap();
    }
    println!("victim has mined");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_node_opens_again_though_it_may_have_lost_blocks() {
    let dir = tempfile::tempdir().unwrap();
    kill_a_node_that_mined(dir.path(), false);
    let node = Node::open(dir.path(), &["-txindex"]);
    assert!(node.kernel.tip().unwrap().height <= 20);
    node.mine(25);
    node.close();
}

#[test]
fn a_killed_node_keeps_what_was_flushed_and_its_index_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    kill_a_node_that_mined(dir.path(), true);
    let node = Node::open(dir.path(), &["-txindex"]);
    assert_eq!(node.kernel.tip().unwrap().height, 20);
    let out = build::coinbase_of(&node, 20);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while node.rpc("getindexinfo", json!([]))["txindex"]["synced"] != true {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(node.try_rpc("getrawtransaction", json!([out.txid])).is_ok());
    node.close();
}

#[test]
fn a_flush_is_notified_after_the_blocks_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(2);
    node.kernel.flush().unwrap();
    node.kernel.sync_notifications().unwrap();
    let tip = node.kernel.tip().unwrap().hash;
    let events = node.events.all();
    let block =
        events.iter().position(|event| matches!(event, Notification::BlockConnected { hash, .. } if *hash == tip));
    let flush = events
        .iter()
        .position(|event| matches!(event, Notification::ChainStateFlushed { best, background: false } if *best == tip));
    assert!(block.unwrap() < flush.unwrap());
    node.close();
}

#[test]
fn a_settled_tip_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(2);
    let tip = node.kernel.tip().unwrap().hash;
    node.wait_for("flush", |events| {
        events.iter().any(|event| matches!(event, Notification::ChainStateFlushed { best, .. } if *best == tip))
    });
    node.close();
}

#[test]
fn stopping_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(2);
    let (events, tip) = (node.events.clone(), node.kernel.tip().unwrap().hash);
    node.close();
    let flushed = |event: &Notification| matches!(event, Notification::ChainStateFlushed { best, .. } if *best == tip);
    assert!(events.all().iter().any(flushed));
}

/// Panics at every new tip.
struct Panics(AtomicUsize);

impl Notifications for Panics {
    fn notify(&self, event: Notification) {
        if matches!(event, Notification::TipChanged { .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("a handler that panics");
        }
    }
}

fn start_with(dir: &Path, sink: Arc<dyn Notifications>) -> Kernel {
    let argv =
        ["keylessd".into(), format!("-datadir={}", dir.display()), "-regtest".into(), "-printtoconsole=0".into()];
    let args = Args::parse(&argv as &[String]).unwrap();
    Kernel::prepare(&args).unwrap();
    Kernel::lock_directories().unwrap();
    let kernel = Kernel::start(&args, sink).unwrap();
    kernel.load().unwrap();
    kernel.ready().unwrap();
    kernel
}

#[test]
fn a_panic_in_a_handler_is_caught_and_logged() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Panics(AtomicUsize::new(0)));
    let kernel = start_with(dir.path(), sink.clone());
    let mine = keyless_kernel::RpcCall::internal("generatetodescriptor", r#"[2, "raw(51)"]"#);
    // Without its checksum the descriptor is accepted too.
    kernel.rpc(mine).unwrap();
    kernel.sync_notifications().unwrap();
    assert!(sink.0.load(Ordering::SeqCst) > 0);
    assert_eq!(kernel.tip().unwrap().height, 2);
    kernel.interrupt().unwrap();
    kernel.shutdown().unwrap();
    let log = std::fs::read_to_string(dir.path().join("regtest/debug.log")).unwrap();
    assert!(log.contains("[error] a handler panicked on notification 1"), "{log}");
}

#[test]
fn one_process_has_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let again = Kernel::start(&node.args, node.events.clone());
    assert!(matches!(again, Err(InitError::Refused(_))));
    node.close();
}

#[test]
fn pruned_blocks_are_absent_not_errors() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-prune=1", "-fastprune"]);
    node.mine(600);
    node.rpc("pruneblockchain", json!([300]));
    let state = node.kernel.chain_state().unwrap();
    assert!(state.pruned);
    let kept = state.prune_height.unwrap();
    assert!((2..=301).contains(&kept), "{kept}");
    let first = node.kernel.block_hash(1).unwrap().unwrap();
    assert_eq!(node.kernel.read_block_bytes(&first).unwrap(), None);
    assert_eq!(node.kernel.spent_coins(&first).unwrap(), None);
    assert!(!node.kernel.block_info(&first).unwrap().unwrap().have_data);
    node.close();
}

#[test]
fn filters_come_from_cores_index() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-blockfilterindex=basic"]);
    node.mine(3);
    let hash = node.kernel.tip().unwrap().hash;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let found = loop {
        if let Some(found) = node.kernel.block_filter(&hash).unwrap() {
            break found;
        }
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let rpc = node.rpc("getblockfilter", json!([hash]));
    let hex: String = found.filter.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(rpc["filter"], hex);
    node.close();
}

#[test]
fn tracing_goes_into_the_debug_log_by_cores_categories() {
    let dir = tempfile::tempdir().unwrap();
    assert!(CoreLog::install());
    let node = Node::open(dir.path(), &["-debug=net"]);
    tracing::info!(target: "keyless_node::quorum", session = 7, "share accepted");
    tracing::info!(target: "libp2p_swarm", "noise of others");
    tracing::debug!(target: "keyless_node::quorum", "only with -debug=1");
    tracing::debug!(target: "net", peer = 3, "a peer came");
    tracing::debug!(target: "rpc", "not enabled");
    tracing::warn!("odd");
    node.rpc("logging", json!([["rpc"], []]));
    tracing::debug!(target: "rpc", "enabled now");
    node.close();
    let log = std::fs::read_to_string(dir.path().join("regtest/debug.log")).unwrap();
    for line in
        ["Z share accepted session=7\n", "Z [net] a peer came peer=3\n", "Z [warning] odd\n", "Z [rpc] enabled now\n"]
    {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    for line in ["not enabled", "noise of others", "only with -debug=1"] {
        assert!(!log.contains(line), "{line:?} in {log}");
    }
}

#[test]
fn the_mempool_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(101);
    let tx = build::spend(&[build::coinbase_of(&node, 1)], bitcoin::Amount::from_sat(49_9999_0000));
    node.kernel.broadcast(&build::bytes(&tx), bitcoin::Amount::ZERO, false).unwrap();
    node.wait_for_mempool();
    node.close();
    assert!(dir.path().join("regtest/mempool.dat").metadata().unwrap().len() > 100);
}

#[test]
fn pruning_waits_for_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-prune=1", "-fastprune", "-blockfilterindex=basic"]);
    node.mine(600);
    node.rpc("pruneblockchain", json!([300]));
    let early = node.kernel.block_hash(5).unwrap().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while node.kernel.block_filter(&early).unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "pruned before it was indexed");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    node.close();
}

#[test]
fn reindexing_rebuilds_the_chain_from_block_files() {
    let dir = tempfile::tempdir().unwrap();
    kill_a_node_that_mined(dir.path(), true);
    let node = Node::open(dir.path(), &["-reindex"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while node.kernel.tip().unwrap().height < 20 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    node.close();
}

#[test]
fn stopatheight_asks_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &["-stopatheight=2"]);
    // The call itself may end with the node.
    let _ = node.try_rpc("generatetodescriptor", json!([3, "raw(51)"]));
    node.kernel.wait_for_shutdown();
    assert!(node.events.all().contains(&Notification::ShutdownRequested));
    assert_eq!(node.kernel.exit_status(), 0);
    node.close();
}

#[test]
fn notify_commands_run() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("said");
    let say = |what: &str| format!("echo {what} >> {}", log.display());
    let options = [
        format!("-blocknotify={}", say("block %s")),
        format!("-startupnotify={}", say("startup")),
        format!("-shutdownnotify={}", say("shutdown")),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let node = Node::open(dir.path(), &options);
    let hash = node.mine(1).remove(0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    while !(read().contains(&format!("block {hash}")) && read().contains("startup")) {
        assert!(std::time::Instant::now() < deadline, "{}", read());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    node.close();
    assert!(read().contains("shutdown"));
}
