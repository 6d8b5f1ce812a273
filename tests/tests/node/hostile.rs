//! RPC clients that ask too much, beside bitcoind, which is asked the same: bodies and headers at their limits, deep
//! nesting, long batches, a thousand connections, slow senders.
//!
//! `KEYLESS_P99_MS=100` is the aim on an idle machine; the short form allows what a busy one needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyless_tests::http::Http;
use keyless_tests::{Daemon, Kind, Options};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const MAX_BODY: usize = 32 * MIB;
/// Request line and headers together.
const MAX_HEADERS: usize = 8_192;
const BATCH: usize = 10_000;
const CONNECTIONS: usize = 1_000;
const SLOW_SENDERS: usize = 500;
/// Between two bytes of a slow sender.
const SLOW_PAUSE: Duration = Duration::from_millis(200);
/// How long the healthy client is measured.
const MEASURED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
/// Resident memory that may come and stay: buffers of a thousand connections, the allocator.
const MAX_GROWTH_MIB: u64 = 256;
const COUNT: &str = r#"{"id":1,"method":"getblockcount","params":[]}"#;

/// bitcoind, then keylessd.
fn pair() -> [Daemon; 2] {
    allow_many_files();
    [Options::core(), Options::keyless().arg("-disablewallet")].map(Daemon::start_new)
}

/// Two ends of a thousand connections are more than the usual limit.
fn allow_many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local value of the right type.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(8_192);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    assert!(limit.rlim_cur > 2_048, "open files are limited to {}", limit.rlim_cur);
}

fn resident_mib(node: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// A request with a head of our own; the answer, or nothing if the node hung up without one.
type Answer = Option<(u16, String)>;

fn answer(node: &Daemon, request: impl FnOnce(&Http) -> Vec<u8>) -> Answer {
    let mut http = Http::open(node);
    let bytes = request(&http);
    // A node may answer and hang up before it has read all: what cannot be sent does not matter.
    let _ = http.send(&bytes);
    http.answer().ok()
}

/// The same of both, or it is an error; answers with what it was.
fn same(nodes: &[Daemon; 2], what: &str, request: impl Fn(&Http) -> Vec<u8>) -> Answer {
    let [core, keyless] = nodes.each_ref().map(|node| answer(node, &request));
    let short =
        |answer: &Answer| answer.as_ref().map(|(status, body)| (*status, body.chars().take(120).collect::<String>()));
    println!("{what}: {:?}", short(&core));
    assert!(core == keyless, "{what}: bitcoind {:?}, keylessd {:?}", short(&core), short(&keyless));
    core
}

fn status(answer: &Answer) -> Option<u16> {
    answer.as_ref().map(|(status, _)| *status)
}

fn padded(length: usize) -> Vec<u8> {
    let mut body = COUNT.as_bytes().to_vec();
    body.resize(length, b' ');
    body
}

fn posted(http: &Http, body: &[u8]) -> Vec<u8> {
    [http.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes(), body].concat()
}

/// One chunk that claims this size, and the end.
fn chunked(size: usize, body: &[u8]) -> impl Fn(&Http) -> Vec<u8> {
    let head = format!("{size:x}\r\n").into_bytes();
    move |http: &Http| [http.head("Transfer-Encoding: chunked\r\n").as_bytes(), &head, body, b"\r\n0\r\n\r\n"].concat()
}

#[test]
fn bodies_at_the_limit_are_answered_and_above_it_refused_as_bitcoind_does() {
    let nodes = pair();
    let before = nodes.each_ref().map(resident_mib);
    let whole = padded(MAX_BODY);
    assert_eq!(status(&same(&nodes, "32 MiB", |http| posted(http, &whole))), Some(200));
    let nothing = vec![b'x'; MAX_BODY];
    assert_eq!(status(&same(&nodes, "32 MiB of nonsense", |http| posted(http, &nothing))), Some(500));
    let string = [br#"{"id":1,"method":"echo","params":[""#, &vec![b'a'; MAX_BODY - 38][..], br#""]}"#].concat();
    assert!(string.len() <= MAX_BODY);
    assert_eq!(status(&same(&nodes, "a string of 32 MiB", |http| posted(http, &string))), Some(200));
    // Told by the head alone: the node need not wait for a body that it refuses.
    let above = format!("Content-Length: {}\r\n", MAX_BODY + 1);
    assert_eq!(status(&same(&nodes, "one byte more", |http| http.head(&above).into_bytes())), Some(413));
    let giant = "Content-Length: 18446744073709551615\r\n";
    assert_eq!(status(&same(&nodes, "2^64 - 1 bytes", |http| http.head(giant).into_bytes())), Some(413));
    assert_eq!(status(&same(&nodes, "32 MiB in one chunk", chunked(MAX_BODY, &whole))), Some(200));
    assert_eq!(status(&same(&nodes, "a chunk of one byte more", chunked(MAX_BODY + 1, b""))), Some(413));
    let two = |http: &Http| {
        let first = format!("{:x}\r\n", whole.len()).into_bytes();
        [http.head("Transfer-Encoding: chunked\r\n").as_bytes(), &first, &whole, b"\r\n1\r\n \r\n0\r\n\r\n"].concat()
    };
    assert_eq!(status(&same(&nodes, "two chunks, one byte above together", two)), Some(413));
    for (node, before) in nodes.iter().zip(before) {
        println!("{:?}: resident memory {before} MiB, then {} MiB", node.options.kind, resident_mib(node));
        assert_eq!(node.call("getblockcount", json!([])), json!(0));
    }
    let grown = resident_mib(&nodes[1]) - before[1].min(resident_mib(&nodes[1]));
    assert!(grown < MAX_GROWTH_MIB, "memory grew by {grown} MiB");
}

#[test]
fn headers_above_8_kib_are_refused_as_bitcoind_does() {
    let nodes = pair();
    // So long that request line and headers have this many bytes.
    let request = |total: usize| {
        move |http: &Http| {
            let more = format!("Content-Length: {}\r\nX: ", COUNT.len());
            let used = http.head(&format!("{more}\r\n")).len();
            let head = http.head(&format!("{more}{}\r\n", "x".repeat(total - used)));
            assert_eq!(head.len(), total);
            [head.as_bytes(), COUNT.as_bytes()].concat()
        }
    };
    for total in [1_000, MAX_HEADERS - 1, MAX_HEADERS] {
        assert_eq!(status(&same(&nodes, &format!("{total} bytes of headers"), request(total))), Some(200));
    }
    for total in [MAX_HEADERS + 1, MAX_HEADERS + 2, 2 * MAX_HEADERS, MIB] {
        assert_eq!(status(&same(&nodes, &format!("{total} bytes of headers"), request(total))), Some(400));
    }
    let many = |http: &Http| http.head(&"A: b\r\n".repeat(3_000)).into_bytes();
    assert_eq!(status(&same(&nodes, "3,000 headers", many)), Some(400));
    let endless = |_: &Http| b"POST /".iter().copied().chain(std::iter::repeat_n(b'a', MIB)).collect();
    assert_eq!(status(&same(&nodes, "a request line without end", endless)), Some(400));
    let trailer = |http: &Http| {
        let chunk = format!("{:x}\r\n{COUNT}\r\n0\r\n", COUNT.len());
        [http.head("Transfer-Encoding: chunked\r\n"), chunk, "T: x\r\n".repeat(3_000), "\r\n".to_owned()]
            .concat()
            .into_bytes()
    };
    same(&nodes, "3,000 lines of trailer", trailer);
}

#[test]
fn deep_json_is_answered_as_bitcoind_answers_it() {
    let nodes = pair();
    let nested =
        |depth: usize| format!(r#"{{"id":1,"method":"echo","params":[{}{}]}}"#, "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| {
        let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(r#"{{"id":1,"method":"echo","params":[{open}1{close}]}}"#)
    };
    for depth in [1, 100, 500, 508, 509, 510, 511, 512, 513, 600, 5_000, 1_000_000] {
        let body = nested(depth);
        same(&nodes, &format!("{depth} arrays"), |http| posted(http, body.as_bytes()));
        let body = objects(depth);
        same(&nodes, &format!("{depth} objects"), |http| posted(http, body.as_bytes()));
    }
    for body in
        ["[".repeat(MIB), r#"{"a":"#.repeat(MIB), "[[],".repeat(MIB), format!("{}{}", "[".repeat(512), "]".repeat(512))]
    {
        let name = format!("{} bytes that begin {}", body.len(), &body[..4]);
        same(&nodes, &name, |http| posted(http, body.as_bytes()));
    }
}

#[test]
fn a_batch_of_10000_is_answered_as_bitcoind_answers_it() {
    let nodes = pair();
    let methods = ["getblockcount", "nosuchmethod", "getblockhash", "uptime2", "echo"];
    let entry = |n: usize| match n % 7 {
        5 => json!(n),
        6 => json!({"jsonrpc": "2.0", "method": "getblockcount"}),
        kind => json!({"id": n, "method": methods[kind], "params": [n % 3]}),
    };
    let mixed = Value::Array((0..BATCH).map(entry).collect()).to_string();
    let answer = same(&nodes, "a mixed batch of 10,000", |http| posted(http, mixed.as_bytes()));
    let (code, body) = answer.unwrap();
    let replies: Value = serde_json::from_str(&body).unwrap();
    let silent = (0..BATCH).filter(|n| n % 7 == 6).count();
    assert_eq!((code, replies.as_array().unwrap().len()), (200, BATCH - silent));
    let silent = Value::Array((0..BATCH).map(|_| entry(6)).collect()).to_string();
    assert_eq!(status(&same(&nodes, "10,000 notifications", |http| posted(http, silent.as_bytes()))), Some(204));
    let nonsense = format!("[{}1]", "1,".repeat(BATCH - 1));
    same(&nodes, "10,000 numbers", |http| posted(http, nonsense.as_bytes()));
}

/// Calls one after another until told otherwise; answers with the time of each.
fn healthy(node: &Daemon, during: Duration) -> Vec<Duration> {
    let mut http = Http::open(node);
    let started = Instant::now();
    let mut times = Vec::new();
    while started.elapsed() < during {
        let asked = Instant::now();
        let (status, _) = http.post(COUNT).unwrap();
        assert_eq!(status, 200);
        times.push(asked.elapsed());
        std::thread::sleep(PAUSE);
    }
    times.sort_unstable();
    times
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// The most that p99 of the healthy client may be.
fn allowed() -> Duration {
    Duration::from_millis(std::env::var("KEYLESS_P99_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(1_000))
}

#[test]
fn a_thousand_connections_at_once_get_bitcoinds_status_codes() {
    for node in &pair() {
        let kind = node.options.kind;
        let before = resident_mib(node);
        let mut open: Vec<Http> = (0..CONNECTIONS).map(|_| Http::open(node)).collect();
        for http in &mut open {
            http.ask(COUNT.as_bytes()).unwrap();
        }
        let statuses: Vec<u16> = open.iter_mut().map(|http| http.answer().unwrap().0).collect();
        let count = |code| statuses.iter().filter(|status| **status == code).count();
        println!("{kind:?}: {} times 200, {} times 503", count(200), count(503));
        assert_eq!(count(200) + count(503), CONNECTIONS, "{kind:?}: {statuses:?}");
        assert!(count(200) > 0);
        // They stay open and idle; one more is served beside them.
        let times = healthy(node, MEASURED);
        println!("{kind:?}: p99 of {} calls beside them: {:?}", times.len(), p99(&times));
        let grown = resident_mib(node).saturating_sub(before);
        println!("{kind:?}: resident memory grew by {grown} MiB");
        if kind == Kind::Keyless {
            assert!(p99(&times) <= allowed(), "{:?}", p99(&times));
            assert!(grown < MAX_GROWTH_MIB);
        }
        for http in &mut open {
            assert_eq!(http.post(COUNT).unwrap().0, 200, "{kind:?}");
        }
    }
}

/// Opens connections that send one byte after another, in the head, in a body, or as strangers, until it is over.
fn send_slowly(node: &Daemon, over: &AtomicBool) {
    let mut senders: Vec<Http> = (0..SLOW_SENDERS).map(|_| Http::open(node)).collect();
    let texts: Vec<Vec<u8>> = (0..SLOW_SENDERS)
        .map(|n| match n % 3 {
            0 => format!("POST / HTTP/1.1\r\nHost: {}", "x".repeat(8_000)).into_bytes(),
            1 => senders[n].head(&format!("Content-Length: {MAX_BODY}\r\n")).into_bytes(),
            _ => format!("POST / HTTP/1.1\r\nContent-Length: {MAX_BODY}\r\n\r\n").into_bytes(),
        })
        .collect();
    for at in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let round = Instant::now();
        for (http, text) in senders.iter_mut().zip(&texts) {
            // The head of a body comes whole, what follows byte by byte.
            let bytes = match at {
                0 => &text[..text.len().min(200)],
                _ => &b" "[..],
            };
            http.send(bytes).unwrap();
        }
        std::thread::sleep(SLOW_PAUSE.saturating_sub(round.elapsed()));
    }
}

#[test]
fn slow_senders_do_not_slow_down_others() {
    for node in &pair() {
        let kind = node.options.kind;
        let before = resident_mib(node);
        let over = AtomicBool::new(false);
        let (alone, beside) = std::thread::scope(|scope| {
            let alone = healthy(node, MEASURED);
            scope.spawn(|| send_slowly(node, &over));
            std::thread::sleep(SLOW_PAUSE * 2);
            let beside = healthy(node, MEASURED);
            over.store(true, Ordering::Relaxed);
            (alone, beside)
        });
        let grown = resident_mib(node).saturating_sub(before);
        println!("{kind:?}: p99 {:?} alone, {:?} beside {SLOW_SENDERS} slow senders", p99(&alone), p99(&beside));
        println!("{kind:?}: resident memory grew by {grown} MiB");
        if kind == Kind::Keyless {
            assert!(p99(&beside) <= allowed(), "{:?}", p99(&beside));
            assert!(grown < MAX_GROWTH_MIB);
        }
    }
}
