//! REST and the envelope of JSON-RPC beside bitcoind, byte for byte; the work queue.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use keyless_tests::http::Http;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Options};
use serde_json::json;

use super::{SYNC_DEADLINE, connect, mine};

const BLOCKS: u32 = 120;

/// What is behind `/rest/`, with and without meaning; `{tip}`, `{first}` and `{tx}` are filled in, and every ending put behind.
const PATHS: [&str; 34] = [
    "tx/{tx}",
    "tx/0000000000000000000000000000000000000000000000000000000000000000",
    "tx/zz",
    "tx",
    "block/{tip}",
    "block/notxdetails/{tip}",
    "block/0000000000000000000000000000000000000000000000000000000000000000",
    "headers/5/{first}",
    "headers/{first}",
    "headers/",
    "blockfilterheaders/basic/3/{first}",
    "blockfilterheaders/basic/{first}",
    "blockfilter/basic/{tip}",
    "blockfilter/foo/{tip}",
    "blockhashbyheight/5",
    "blockhashbyheight/500",
    "blockhashbyheight/x",
    "getutxos/checkmempool/{tx}-0",
    "getutxos/{tx}-0/{tx}-5",
    "getutxos/x",
    "getutxos",
    "chaininfo",
    "chaininfoandmore",
    "deploymentinfo",
    "deploymentinfo/{tip}",
    "deploymentinfo/zz",
    "mempool/contents",
    "mempool/foo",
    "mempool",
    "spenttxouts/{tip}",
    "blockpart/{tip}",
    "nonsense",
    "",
    "/",
];
const ENDINGS: [&str; 13] = [
    "",
    ".json",
    ".bin",
    ".hex",
    ".foo",
    ".json?count=3",
    ".json?count=0",
    ".json?count=x",
    ".json?verbose=false",
    ".json?verbose=x",
    ".hex?offset=0&size=10",
    ".hex?offset=0&size=100000",
    ".json?verbose=false&mempool_sequence=true",
];
const BODIES: [&str; 20] = [
    "",
    "{",
    "[]",
    "[1]",
    "1",
    r#"{"method":1}"#,
    r#"{"params":[]}"#,
    r#"{"method":"nope","id":7}"#,
    r#"{"jsonrpc":"2.0","method":"nope","id":7}"#,
    r#"{"jsonrpc":"2.0","method":"uptime"}"#,
    r#"{"jsonrpc":"3.0","method":"getblockcount","id":1}"#,
    r#"{"jsonrpc":2,"method":"getblockcount","id":1}"#,
    r#"[{"jsonrpc":"2.0","method":"getblockcount"}]"#,
    r#"[{"method":"getblockcount","id":1},{"jsonrpc":"2.0","method":"getblockcount","id":2},5]"#,
    r#"{"method":"getblockhash","params":{"height":1},"id":1}"#,
    r#"{"method":"getblockhash","params":{"hight":1},"id":1}"#,
    r#"{"method":"getblockhash","params":{"args":[1]},"id":1}"#,
    r#"{"method":"getblockhash","params":{"args":[1],"height":1},"id":1}"#,
    r#"{"method":"getblockhash","params":5,"id":1}"#,
    r#"{"method":"getblock","params":["00"],"id":null}"#,
];

/// Without how far the chain is by the clock.
fn timeless(body: &[u8]) -> Vec<u8> {
    const MEMBER: &str = "\"verificationprogress\":";
    let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
    let Some((before, rest)) = text.split_once(MEMBER) else { return body.to_vec() };
    let after = rest.split_once(',').map_or("", |(_, after)| after);
    format!("{before}{MEMBER}{after}").into_bytes()
}

/// Status line, type and body of what is answered to a GET.
fn get(node: &Daemon, path: &str) -> (String, Option<String>, Vec<u8>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.rpc_port())).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let kind = head.lines().find_map(|line| Some(line.split_once("ontent-Type: ")?.1.to_owned()));
    (head.lines().next().unwrap().to_owned(), kind, timeless(&bytes[end + 4..]))
}

#[test]
fn rest_and_json_rpc_answer_as_bitcoind_to_sense_and_nonsense() {
    let with = |options: Options| options.arg("-rest").arg("-txindex").arg("-blockfilterindex");
    let core = Daemon::start_new(with(Options::core()));
    let hashes = mine(&core, BLOCKS);
    let ours = Daemon::start_new(with(Options::keyless()).arg("-disablewallet"));
    connect(&ours, &core);
    until_true("the chain is there", SYNC_DEADLINE, || ours.best() == core.best());
    let indexed = |node: &Daemon| {
        let info = node.call("getindexinfo", json!([]));
        info.as_object().unwrap().values().all(|index| index["best_block_height"] == json!(BLOCKS))
    };
    until_true("the indexes are there", SYNC_DEADLINE, || indexed(&ours) && indexed(&core));
    let coinbase = core.call("getblock", json!([hashes[0]]))["tx"][0].as_str().unwrap().to_owned();
    let mut alike = 0;
    for path in PATHS {
        let path =
            path.replace("{tip}", hashes.last().unwrap()).replace("{first}", &hashes[0]).replace("{tx}", &coinbase);
        for ending in ENDINGS {
            let path = format!("/rest/{path}{ending}");
            assert_eq!(get(&ours, &path), get(&core, &path), "{path}");
            alike += 1;
        }
    }
    println!("{alike} addresses are answered alike");
    for body in BODIES {
        // What has not been a request ends the connection.
        assert_eq!(Http::open(&ours).post(body).unwrap(), Http::open(&core).post(body).unwrap(), "{body}");
    }
}

/// One call runs, one waits; all others are turned away, however many there were before.
#[test]
fn a_full_work_queue_stays_full() {
    for options in [Options::core(), Options::keyless().arg("-disablewallet")] {
        let node = Daemon::start_new(options.arg("-rpcthreads=1").arg("-rpcworkqueue=1"));
        // Long enough that all come while the first is answered.
        let body = r#"{"method":"waitforblockheight","params":[5,5000],"id":1}"#;
        let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..12).map(|_| scope.spawn(|| Http::open(&node).post(body).unwrap())).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        assert_eq!(taken.len(), 2, "{:?}: {answers:?}", node.options.kind);
        assert!(refused.iter().all(|answer| **answer == (503, "Work queue depth exceeded".to_owned())), "{refused:?}");
    }
}
