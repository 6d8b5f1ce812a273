//! What the node tells others by itself: ZMQ's topics, as bitcoind publishes them, and what waits for its operator.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use keyless_tests::daemon::free_port;
use keyless_tests::wait::{until, until_true};
use keyless_tests::{Daemon, Options};
use serde_json::{Value, json};

use super::{SYNC_DEADLINE, anyone_address, mine, with_witness};

/// Longest that a message may take.
const MESSAGE_MS: i32 = 30_000;
/// A subscriber that connects while a block comes may miss it.
const TRY_MS: i32 = 200;

/// libzmq's subscriber.
struct Subscriber(zmq::Socket);

/// Topic, body as hex digits, and the notifier's count.
type Message = (String, String, u32);

impl Subscriber {
    fn to(address: &str, topic: &str) -> Self {
        let socket = zmq::Context::new().socket(zmq::SUB).unwrap();
        socket.set_ipv6(address.contains('[')).unwrap();
        socket.set_subscribe(topic.as_bytes()).unwrap();
        socket.connect(address).unwrap();
        Self(socket)
    }

    fn within(&self, wait_ms: i32) -> Option<Vec<Vec<u8>>> {
        self.0.set_rcvtimeo(wait_ms).unwrap();
        match self.0.recv_multipart(0) {
            Ok(parts) => Some(parts),
            Err(zmq::Error::EAGAIN) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&self) -> Message {
        let parts = self.within(MESSAGE_MS).expect("a message comes");
        let [topic, body, count] = <[Vec<u8>; 3]>::try_from(parts).unwrap();
        let count = u32::from_le_bytes(count.try_into().unwrap());
        (String::from_utf8(topic).unwrap(), hex(&body), count)
    }

    /// Mines until a block comes through, and forgets what came with it.
    fn joined(&self, node: &Daemon) {
        until_true("the subscription arrives", SYNC_DEADLINE, || {
            mine(node, 1);
            self.within(TRY_MS).is_some()
        });
        while self.within(TRY_MS).is_some() {}
    }

    /// The next messages of each topic, without their counts, which follow one another.
    fn take(&self, count: usize) -> Vec<(String, String)> {
        let messages: Vec<Message> = (0..count).map(|_| self.next()).collect();
        for (position, (topic, _, number)) in messages.iter().enumerate() {
            let before = messages[..position].iter().rev().find(|(of, ..)| of == topic);
            assert!(before.is_none_or(|(.., before)| before + 1 == *number), "{messages:?}");
        }
        messages.into_iter().map(|(topic, body, _)| (topic, body)).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn messages<const N: usize>(expected: [(&str, String); N]) -> Vec<(String, String)> {
    expected.into_iter().map(|(topic, body)| (topic.to_owned(), body)).collect()
}

#[test]
fn blocks_and_transactions_are_published_as_bitcoind_publishes_them() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = format!("tcp://127.0.0.1:{}", free_port());
    let path = folder.path().join("zmq");
    let ipc = format!("ipc://{}", path.display());
    let mut options = Options::keyless().arg("-disablewallet").arg("-zmqpubhashtxhwm=7");
    for topic in ["hashblock", "hashtx", "rawblock", "rawtx", "sequence"] {
        options = options.conf(format!("zmqpub{topic}={tcp}"));
    }
    let node = Daemon::start_new(options.conf(format!("zmqpubhashblock=unix:{}", path.display())));
    let row = |kind: &str, address: &str, hwm: u32| json!({"type": kind, "address": address, "hwm": hwm});
    assert_eq!(
        node.call("getzmqnotifications", json!([])),
        json!([
            row("pubhashblock", &tcp, 1000),
            row("pubhashblock", &ipc, 1000),
            row("pubhashtx", &tcp, 7),
            row("pubrawblock", &tcp, 1000),
            row("pubrawtx", &tcp, 1000),
            row("pubsequence", &tcp, 1000),
        ])
    );

    let (all, tips) = (Subscriber::to(&tcp, ""), Subscriber::to(&ipc, "hashblock"));
    all.joined(&node);
    tips.joined(&node);
    while all.within(TRY_MS).is_some() {}
    let hash = text(&node.call("generatetoaddress", json!([1, anyone_address()]))[0]);
    let coinbase = node.call("getblock", json!([hash, 2]))["tx"][0].clone();
    let block = messages([
        ("hashtx", text(&coinbase["txid"])),
        ("rawtx", text(&coinbase["hex"])),
        ("sequence", format!("{hash}{}", hex(b"C"))),
        ("hashblock", hash.clone()),
        ("rawblock", text(&node.call("getblock", json!([hash, 0])))),
    ]);
    assert_eq!(all.take(5), block);
    assert_eq!(tips.take(1), messages([("hashblock", hash.clone())]));

    // A block that goes tells its transactions, but no tip: the one before it was the tip once.
    node.call("invalidateblock", json!([hash]));
    let gone = messages([
        ("hashtx", text(&coinbase["txid"])),
        ("rawtx", text(&coinbase["hex"])),
        ("sequence", format!("{hash}{}", hex(b"D"))),
    ]);
    assert_eq!(all.take(3), gone);
    node.call("reconsiderblock", json!([hash]));
    assert_eq!(all.take(5), block);
    assert_eq!(tips.take(1), messages([("hashblock", hash)]));

    let blocks = mine(&node, 100);
    assert_eq!(all.take(500).last().unwrap().0, "rawblock");
    assert_eq!(tips.take(100).last().unwrap().1, blocks[99]);
    let spend = node.call(
        "createrawtransaction",
        json!([[{"txid": coinbase["txid"], "vout": 0}], [{"bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080": 49.99}]]),
    );
    let raw = with_witness(&spend);
    let next = node.call("getrawmempool", json!([false, true]))["mempool_sequence"].as_u64().unwrap();
    let txid = text(&node.call("sendrawtransaction", json!([raw, 0])));
    let added = format!("{txid}{}{}", hex(b"A"), hex(&next.to_le_bytes()));
    assert_eq!(all.take(3), messages([("hashtx", txid.clone()), ("rawtx", raw.clone()), ("sequence", added)]));

    // In a block it comes once more.
    mine(&node, 1);
    let mined = all.take(7);
    assert!(mined.contains(&("hashtx".to_owned(), txid)) && mined.contains(&("rawtx".to_owned(), raw)), "{mined:?}");
}

/// As in bitcoind one address that cannot be had ends all of it, and the node runs on; not so where the operator is to
/// be asked.
#[test]
fn an_address_that_cannot_be_bound_stops_the_start_only_where_approvals_are_published() {
    let good = format!("tcp://127.0.0.1:{}", free_port());
    let lenient = Options::keyless().arg("-disablewallet").arg("-debug=zmq");
    let node = Daemon::start_new(lenient.arg("-zmqpubrawtx=foo").arg(format!("-zmqpubhashblock={good}")));
    assert_eq!(node.call("getzmqnotifications", json!([])), json!([]));
    let log = node.log();
    assert!(log.contains("[zmq] Error: Failed to bind address, msg: Invalid argument"), "{log}");
    assert!(log.contains("[zmq] Notifier pubrawtx failed (address = foo)"), "{log}");

    for (option, expected) in [
        (
            "-zmqpubpendingapproval=foo",
            "Error: Unable to publish by ZMQ at -zmqpubpendingapproval=foo: Invalid argument",
        ),
        ("-approvalwebhook=https://127.0.0.1/", "Error: Invalid -approvalwebhook: only http:// is spoken"),
        ("-zmqpubhashtx=tcp://127.0.0.1", "Error: Invalid port specified in -zmqpubhashtx: 'tcp://127.0.0.1'"),
    ] {
        let mut node = Daemon::new(Options::keyless().arg(option));
        node.spawn();
        assert_eq!(node.wait_end().code(), Some(1), "{option}");
        assert!(node.stderr().starts_with(expected), "{option}: {}", node.stderr());
    }
}

/// A service of the operator: gives the body of each POST to whoever waits for it.
fn webhook() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/approvals", listener.local_addr().unwrap());
    let (posted, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut read = Vec::new();
            let body = until("a whole request", SYNC_DEADLINE, || {
                let mut chunk = [0; 4096];
                let count = stream.read(&mut chunk).unwrap();
                read.extend_from_slice(&chunk[..count]);
                let head = read.windows(4).position(|window| window == b"\r\n\r\n")?;
                assert!(read.starts_with(b"POST /approvals HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&read));
                serde_json::from_slice(&read[head + 4..]).ok()
            });
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            if posted.send(body).is_err() {
                return;
            }
        }
    });
    (url, bodies)
}

#[test]
fn a_payment_that_waits_for_the_operator_is_told_by_zmq_and_to_the_webhook() {
    let (url, posted) = webhook();
    let address = format!("tcp://127.0.0.1:{}", free_port());
    let options =
        Options::keyless().arg(format!("-zmqpubpendingapproval={address}")).arg(format!("-approvalwebhook={url}"));
    let node = Daemon::start_new(options.arg(format!("-zmqpubhashblock={address}")));
    node.call("createwallet", json!(["w"]));
    let wallet = node.rpc().wallet("w");
    let own = wallet.call("getnewaddress", json!([]));
    node.call("generatetoaddress", json!([101, own]));
    let subscriber = Subscriber::to(&address, "");
    subscriber.joined(&node);
    wallet.call("setsigningpolicy", json!([{"max_tip_age": null, "rules": [{"name": "all", "action": "ask"}]}]));

    let (client, to) = (wallet.clone(), own.clone());
    let payment = std::thread::spawn(move || client.call("sendtoaddress", json!([to, 1])));
    let mut told: Vec<Value> = Vec::new();
    let mut listed = false;
    while !payment.is_finished() {
        let Some(parts) = subscriber.within(TRY_MS) else { continue };
        assert_eq!(parts[0], b"pendingapproval");
        assert_eq!(parts[2], u32::try_from(told.len()).unwrap().to_le_bytes());
        let body: Value = serde_json::from_slice(&parts[1]).unwrap();
        assert_eq!((&body["rule"], &body["payments"][0]["address"]), (&json!("all"), &own));
        // The list's row, and whose wallet it is; an answer is for all members that ask by then.
        let rows = wallet.call("listpendingapprovals", json!([]));
        if let Some(row) = rows.as_array().unwrap().iter().find(|row| row["member"] == body["member"]) {
            let mut expected = row.clone();
            expected["wallet"] = json!("w");
            assert_eq!(body, expected);
            wallet.call("approvesigning", json!([body["id"]]));
            listed = true;
        }
        told.push(body);
    }
    let txid = payment.join().unwrap();
    assert!(listed && told.len() >= 2, "two members sign, and both ask: {told:?}");
    assert_eq!(wallet.call("gettransaction", json!([txid]))["txid"], txid);

    let mut heard: Vec<Value> = told.iter().map(|_| posted.recv_timeout(SYNC_DEADLINE).unwrap()).collect();
    assert!(posted.recv_timeout(Duration::from_millis(200)).is_err(), "each question once");
    let by_member = |body: &Value| text(&body["member"]);
    heard.sort_by_key(by_member);
    told.sort_by_key(by_member);
    assert_eq!(heard, told, "the same to both");
}
