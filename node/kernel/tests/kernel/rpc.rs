//! Core's RPC table through the safe interface.

use keyless_kernel::RpcCall;
use serde_json::json;

use crate::support::{Node, build};

#[test]
fn results_keep_cores_number_format() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    node.mine(1);
    let out = build::coinbase_of(&node, 1);
    let text = node.kernel.rpc(RpcCall::internal("gettxout", &json!([out.txid, 0]).to_string())).unwrap();
    assert!(text.contains("\"value\":50.00000000,"), "{text}");
    node.close();
}

#[test]
fn named_arguments_and_errors_are_cores() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    assert_eq!(node.rpc("getblockhash", json!({"height": 0})), node.rpc("getbestblockhash", json!([])));
    let unknown = node.try_rpc("getblockhash", json!({"hight": 0})).unwrap_err();
    assert_eq!((unknown.code, unknown.message.as_str()), (-8, "Unknown named parameter hight"));
    let method = node.try_rpc("nosuchmethod", json!([])).unwrap_err();
    assert_eq!((method.code, method.message.as_str()), (-32601, "Method not found"));
    let range = node.try_rpc("getblockhash", json!([5])).unwrap_err();
    assert_eq!((range.code, range.message.as_str()), (-8, "Block height out of range"));
    let kind = node.try_rpc("getblockhash", json!(["x"])).unwrap_err();
    assert_eq!(kind.code, -3);
    let help = node.rpc("help", json!(["getblockcount"]));
    assert!(help.as_str().unwrap().starts_with("getblockcount\n"));
    assert!(node.kernel.rpc_commands().unwrap().contains(&"getblockchaininfo".to_string()));
    node.close();
}

#[test]
fn waiting_calls_end_at_stop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let waiters: Vec<_> = ["waitfornewblock", "getblocktemplate"]
        .into_iter()
        .map(|method| {
            let kernel = node.kernel.clone();
            let tip = node.rpc("getbestblockhash", json!([]));
            let params = match method {
                "getblocktemplate" => {
                    json!([{"rules": ["segwit"], "longpollid": format!("{}1", tip.as_str().unwrap())}])
                }
                _ => json!([]),
            };
            std::thread::spawn(move || kernel.rpc(RpcCall::internal(method, &params.to_string())))
        })
        .collect();
    loop {
        let active = node.rpc("getrpcinfo", json!([]));
        if active["active_commands"].as_array().unwrap().len() == 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let begun = std::time::Instant::now();
    node.close();
    for waiter in waiters {
        // An answer or "Shutting down", but an end.
        let _ = waiter.join().unwrap();
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn stop_is_told_to_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    assert!(!node.kernel.shutdown_requested());
    node.rpc("stop", json!([]));
    assert!(node.kernel.shutdown_requested());
    node.kernel.wait_for_shutdown();
    assert!(node.events.all().contains(&keyless_kernel::Notification::ShutdownRequested));
    node.close();
}

#[test]
fn templates_off_test_networks_need_peers() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open_chain(dir.path(), &["-chain=main"]).unwrap();
    let alone = node.try_rpc("getblocktemplate", json!([{"rules": ["segwit"]}])).unwrap_err();
    assert_eq!((alone.code, alone.message.as_str()), (-9, "Bitcoin Core is not connected!"));
    node.kernel.set_peer_count(1);
    let syncing = node.try_rpc("getblocktemplate", json!([{"rules": ["segwit"]}])).unwrap_err();
    assert_eq!(
        (syncing.code, syncing.message.as_str()),
        (-10, "Bitcoin Core is in initial sync and waiting for blocks...")
    );
    let mock = node.try_rpc("setmocktime", json!([1])).unwrap_err();
    assert_eq!(mock.message, "setmocktime is for regression testing (-regtest mode) only");
    node.close();
}

#[test]
fn calls_after_shutdown_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &[]);
    let kernel = node.kernel.clone();
    node.close();
    assert_eq!(kernel.tip(), Err(keyless_kernel::KernelError::NotRunning));
    assert_eq!(kernel.rpc(RpcCall::internal("getblockcount", "[]")).unwrap_err().code, -9);
    kernel.shutdown().unwrap();
}
