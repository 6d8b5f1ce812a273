//! A real server on a port of its own, with backends that answer by rote.
#![allow(clippy::unwrap_used, clippy::panic)]

pub(crate) mod twin;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use twin::{Twin, services};

/// The response to one request over a connection of its own: status, head, body.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

async fn exchange(address: SocketAddr, raw: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(raw).await.unwrap();
    let mut text = Vec::new();
    // A server that closes with unread bytes in its buffer resets the connection; what came before counts.
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

struct Running {
    server: Server,
    address: SocketAddr,
    authorization: String,
    twin: Arc<Twin>,
}

async fn start_with(config: Config) -> Running {
    start_in(config, Handle::current()).await
}

async fn start_in(config: Config, tasks: Handle) -> Running {
    let twin = Arc::new(Twin::default());
    let config = Config { user: "u".into(), password: "p".into(), ..config };
    let server = Server::start(config, services(&twin), tasks).await.unwrap();
    let address = *server.addresses().iter().find(|address| address.is_ipv4()).unwrap();
    Running { server, address, authorization: "Basic dTpw".into(), twin }
}

async fn start() -> Running {
    start_with(Config::default()).await
}

impl Running {
    async fn post_to(&self, path: &str, body: &str) -> Reply {
        let length = body.len();
        let authorization = &self.authorization;
        let raw = format!(
            "POST {path} HTTP/1.1\r\nAuthorization: {authorization}\r\nConnection: close\r\nContent-Length: \
             {length}\r\n\r\n{body}"
        );
        exchange(self.address, raw.as_bytes()).await
    }

    async fn post(&self, body: &str) -> Reply {
        self.post_to("/", body).await
    }
}

#[tokio::test]
async fn envelopes_and_statuses_are_cores() {
    let running = start().await;
    for (request, status, body) in [
        (r#"{"method":"getblockcount","id":1}"#, 200, r#"{"result":7,"error":null,"id":1}"#),
        (r#"{"method":"getblockcount"}"#, 200, r#"{"result":7,"error":null}"#),
        (r#"{"jsonrpc":"2.0","method":"getblockcount","id":"x"}"#, 200, r#"{"jsonrpc":"2.0","result":7,"id":"x"}"#),
        (r#"{"jsonrpc":"2.0","method":"getblockcount"}"#, 204, ""),
        (r#"{"jsonrpc":"2.0","method":"nope"}"#, 204, ""),
        (
            r#"{"method":"nope","id":0}"#,
            404,
            r#"{"result":null,"error":{"code":-32601,"message":"Method not found"},"id":0}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"nope","id":0}"#,
            200,
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":0}"#,
        ),
        (
            r#"{"method":"getblockhash","params":[42],"id":0}"#,
            500,
            r#"{"result":null,"error":{"code":-8,"message":"Block height out of range"},"id":0}"#,
        ),
        ("", 500, r#"{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}"#),
        ("bad", 500, r#"{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}"#),
        ("1", 500, r#"{"result":null,"error":{"code":-32700,"message":"Top-level object parse error"},"id":null}"#),
        (
            r#"{"jsonrpc":2,"method":"getblockcount"}"#,
            400,
            r#"{"result":null,"error":{"code":-32600,"message":"jsonrpc field must be a string"}}"#,
        ),
        ("[]", 200, "[]"),
        (r#"[{"jsonrpc":"2.0","method":"getblockcount"}]"#, 204, ""),
        (
            r#"[{"method":"getblockcount","id":1},{"pizza":1,"id":2},{"jsonrpc":"2.0","method":"getblockcount"},3]"#,
            200,
            concat!(
                r#"[{"result":7,"error":null,"id":1},"#,
                r#"{"result":null,"error":{"code":-32600,"message":"Missing method"},"id":2}]"#
            ),
        ),
    ] {
        let reply = running.post(request).await;
        assert_eq!(reply.status, status, "{request}");
        let expected = if body.is_empty() { String::new() } else { format!("{body}\n") };
        assert_eq!(reply.body, expected, "{request}");
        assert_eq!(reply.head.contains("Content-Type: application/json\r\n"), !body.is_empty(), "{}", reply.head);
    }
    running.server.stop().await;
}

#[tokio::test]
async fn arguments_go_to_the_kernel_as_they_came() {
    let running = start().await;
    let request = r#"{"method":"echo","params":{"arg1":1.50,"arg0":[1e3, "é"]},"id":1}"#;
    let reply = running.post_to("/wallet/a%20b", request).await;
    let expected = r#"["echo",{"arg1":1.50,"arg0":[1e3,"é"]},"u","/wallet/a%20b"]"#;
    assert_eq!(reply.body, format!("{{\"result\":{expected},\"error\":null,\"id\":1}}\n"));
    running.server.stop().await;
}

#[tokio::test]
async fn who_may_not_enter_is_told_by_status() {
    let running = start().await;
    let at = running.address;
    for (raw, status) in [
        ("POST / HTTP/1.1\r\nConnection: close\r\n\r\n", 401),
        ("POST / HTTP/1.1\r\nConnection: close\r\nAuthorization: Basic dTpx\r\n\r\n", 401),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
        ("POST /x HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        ("POST /wallet HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        ("GET /%2e%2e/etc HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        ("nonsense of some length\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 33554433\r\n\r\n", 413),
    ] {
        let reply = exchange(at, raw.as_bytes()).await;
        assert_eq!(reply.status, status, "{raw:?}");
        assert_eq!(reply.head.contains("WWW-Authenticate: Basic realm=\"jsonrpc\""), status == 401);
    }
    running.server.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_answered_late() {
    let running = start().await;
    let before = tokio::time::Instant::now();
    let raw = "POST / HTTP/1.1\r\nConnection: close\r\nAuthorization: Basic dTpx\r\n\r\n";
    assert_eq!(exchange(running.address, raw.as_bytes()).await.status, 401);
    assert!(before.elapsed() >= Duration::from_millis(250));
    running.server.stop().await;
}

#[tokio::test]
async fn whitelists_forbid() {
    let whitelist = vec!["u:getblockcount,echo".to_owned()];
    let running = start_with(Config { whitelist, ..Config::default() }).await;
    let count = r#"{"method":"getblockcount","id":1}"#;
    let hash = r#"{"method":"getblockhash","params":[0],"id":1}"#;
    assert_eq!(running.post(count).await.status, 200);
    assert_eq!(running.post(hash).await.status, 403);
    assert_eq!(running.post(&format!("[{count},{hash}]")).await.status, 403);
    assert_eq!(running.post(&format!("[{count},{count}]")).await.status, 200);
    let closed = start_with(Config { whitelist: vec!["other:x".into()], ..Config::default() }).await;
    assert_eq!(closed.post(count).await.status, 403);
    running.server.stop().await;
    closed.server.stop().await;
}

#[tokio::test]
async fn warm_up_comes_before_everything() {
    let running = start().await;
    *running.twin.warmup.lock().unwrap() = Some("Loading block index…".into());
    let expected = "{\"result\":null,\"error\":{\"code\":-28,\"message\":\"Loading block index…\"},\"id\":1}\n";
    for method in ["getblockcount", "uptime", "nope"] {
        let reply = running.post(&format!(r#"{{"method":"{method}","id":1}}"#)).await;
        assert_eq!((reply.status, reply.body.as_str()), (500, expected));
    }
    running.server.stop().await;
}

#[tokio::test]
async fn a_full_work_queue_turns_calls_away() {
    let running = start_with(Config { threads: 1, work_queue: 1, ..Config::default() }).await;
    let request = r#"{"method":"waitfornewblock","id":1}"#;
    let (replies, ()) = tokio::join!(
        futures::future::join_all((0..3).map(|_| running.post(request))),
        running.twin.release_when_waiting()
    );
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    assert!(replies.iter().any(|reply| reply.body == "Work queue depth exceeded"));
    running.server.stop().await;
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut raw = String::new();
    for id in 0..3 {
        let close = if id == 2 { "Connection: close\r\n" } else { "" };
        let body = format!(r#"{{"method":"getblockcount","id":{id}}}"#);
        let length = body.len();
        raw.push_str(&format!(
            "POST / HTTP/1.1\r\nAuthorization: Basic dTpw\r\n{close}Content-Length: {length}\r\n\r\n{body}"
        ));
    }
    stream.write_all(raw.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let places: Vec<usize> = (0..3).map(|id| text.find(&format!("\"id\":{id}")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    running.server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_a_waiting_one_is_not() {
    let running = start_with(Config { timeout: Duration::from_millis(200), ..Config::default() }).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut got = Vec::new();
    silent.read_to_end(&mut got).await.unwrap();
    assert!(got.is_empty());
    let (reply, ()) = tokio::join!(running.post(r#"{"method":"waitfornewblock","id":1}"#), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        running.twin.release();
    });
    assert_eq!(reply.status, 200);
    running.server.stop().await;
}

#[tokio::test]
async fn stop_is_answered_before_the_sockets_close() {
    let running = start().await;
    let reply = running.post(r#"{"method":"stop","id":1}"#).await;
    assert_eq!(reply.body, "{\"result\":\"Bitcoin Core stopping\",\"error\":null,\"id\":1}\n");
    assert!(running.twin.stopped.load(Ordering::SeqCst));
    running.server.interrupt();
    assert_eq!(running.post(r#"{"method":"uptime","id":1}"#).await.status, 503);
    running.server.stop().await;
}

#[tokio::test]
async fn network_methods_speak_cores_texts() {
    let running = start().await;
    for (request, code, text) in [
        (r#"{"method":"addnode","params":["a","add"]}"#, -23, "Error: Node already added"),
        (r#"{"method":"addnode","params":["a","what"]}"#, -1, "addnode usage\n"),
        (r#"{"method":"addnode","params":["a"]}"#, -1, "addnode usage\n"),
        (r#"{"method":"disconnectnode","params":["x"]}"#, -29, "Node not found in connected nodes"),
        (
            r#"{"method":"disconnectnode","params":["x",1]}"#,
            -32602,
            "Only one of address and nodeid should be provided.",
        ),
        (r#"{"method":"setban","params":["300.1.1.1","add"]}"#, -30, "Error: Invalid IP/Subnet"),
        (r#"{"method":"setban","params":["127.0.0.1","add",1,true]}"#, -8, "Error: Absolute timestamp is in the past"),
        (
            r#"{"method":"setnetworkactive","params":[1]}"#,
            -3,
            "Wrong type passed:\n{\n    \"Position 1 (state)\": \"JSON value of type number is not of expected type \
             bool\"\n}",
        ),
    ] {
        let reply = running.post(request).await;
        let error = crate::json::Value::parse(&reply.body).unwrap().member("error").clone();
        assert_eq!((error.member("code").as_i64(), error.member("message").as_str()), (Some(code), Some(text)));
    }
    running.server.stop().await;
}

#[tokio::test]
async fn a_brief_call_waits_for_no_other() {
    // Nothing runs in it.
    let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let running = start_in(Config::default(), idle.handle().clone()).await;
    let uptime = tokio::time::timeout(Duration::from_millis(100), running.post(r#"{"method":"uptime","id":1}"#));
    assert!(uptime.await.is_err(), "other calls run there");
    let brief = running.post(r#"{"method":"getblockcount","id":1}"#).await;
    assert_eq!(brief.body.trim_end(), r#"{"result":7,"error":null,"id":1}"#);
    idle.shutdown_background();
    running.server.stop().await;
}

#[tokio::test]
async fn slow_senders_do_not_delay_others() {
    let running = start().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nx").await.unwrap();
        slow.push(stream);
    }
    let before = tokio::time::Instant::now();
    assert_eq!(running.post(r#"{"method":"getblockcount","id":1}"#).await.status, 200);
    assert!(before.elapsed() < Duration::from_millis(500), "{:?}", before.elapsed());
    let batch = format!("[{}]", vec![r#"{"method":"getblockcount","id":1}"#; 10_000].join(","));
    assert_eq!(running.post(&batch).await.body.matches("\"result\":7").count(), 10_000);
    drop(slow);
    running.server.stop().await;
}
