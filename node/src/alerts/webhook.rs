//! `-approvalwebhook`: each question is posted to an address of the operator.
//!
//! One task posts them, one after the other, each within a deadline; those that come meanwhile wait in a bounded queue,
//! and one for which there is no room is given up. A failure is logged, without the address's path, which may be a secret.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// Questions that wait to be posted.
const MAX_QUEUED: usize = 64;
/// From the first packet to the head of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the end waits for a post that is under way.
const LAST_POST: Duration = Duration::from_secs(2);
const DEFAULT_PORT: u16 = 80;

/// Where to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the `Host` header has it.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("it is not an address such as http://127.0.0.1:8080/path")]
    NotAnAddress,
    #[error("only http:// is spoken; leave https:// to a proxy of this machine")]
    NotHttp,
    #[error("a user name in it is not sent; use a secret path")]
    UserName,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::NotAnAddress)?;
        let authority = uri.authority().ok_or(TargetError::NotAnAddress)?;
        if uri.scheme_str() != Some("http") {
            return Err(TargetError::NotHttp);
        }
        if authority.as_str().contains('@') {
            return Err(TargetError::UserName);
        }
        let host = authority.host();
        // The port of `http://host:x` is no number, and is none.
        if host.is_empty() || (authority.as_str().len() > host.len() && authority.port_u16().is_none()) {
            return Err(TargetError::NotAnAddress);
        }
        Ok(Self {
            authority: authority.to_string(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(DEFAULT_PORT),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

/// Why a question was not posted.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
}

struct Question {
    id: String,
    body: Bytes,
}

/// The operator's address, and the task that posts to it.
pub struct Webhook {
    authority: String,
    queue: Mutex<Option<mpsc::Sender<Question>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Webhook {
    /// Starts the task.
    pub fn start(target: Target, runtime: &Handle) -> Self {
        let (queue, questions) = mpsc::channel(MAX_QUEUED);
        let authority = target.authority.clone();
        let task = runtime.spawn(post_all(target, questions));
        Self { authority, queue: Mutex::new(Some(queue)), task: Mutex::new(Some(task)) }
    }

    /// Queues a question; returns at once.
    pub fn post(&self, id: String, body: Vec<u8>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else { return };
        if let Err(refused) = queue.try_send(Question { id, body: body.into() }) {
            let (mpsc::error::TrySendError::Full(question) | mpsc::error::TrySendError::Closed(question)) = refused;
            tracing::warn!(webhook = self.authority, request = question.id, "too many wait: this one is not posted");
        }
    }

    /// Takes no more, and gives what is queued a moment.
    pub async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(LAST_POST, &mut task).await.is_err() {
            tracing::warn!(webhook = self.authority, "requests that were not posted yet are given up");
            task.abort();
        }
    }
}

async fn post_all(target: Target, mut questions: mpsc::Receiver<Question>) {
    while let Some(Question { id, body }) = questions.recv().await {
        let posted = tokio::time::timeout(DEADLINE, post(&target, body)).await.unwrap_or(Err(PostError::Deadline));
        match posted {
            Ok(()) => tracing::info!(webhook = target.authority, request = id, "the operator's webhook was told"),
            Err(error) => {
                tracing::warn!(webhook = target.authority, request = id, %error, "the operator's webhook was not told");
            }
        }
    }
}

/// One POST on a connection of its own.
async fn post(target: &Target, body: Bytes) -> Result<(), PostError> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&target.path)
        .header(HOST, &target.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("keyless/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))?;
    let status = sender.send_request(request).await?.status();
    if status.is_success() { Ok(()) } else { Err(PostError::Status(status)) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_checked_at_the_start() {
        let target: Target = "http://[::1]:8080/hook?key=1".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port, target.path.as_str()), ("::1", 8080, "/hook?key=1"));
        let plain: Target = "http://localhost".parse().unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.path.as_str()), ("localhost", 80, "/"));
        for (text, error) in [
            ("", TargetError::NotAnAddress),
            ("/hook", TargetError::NotAnAddress),
            ("http://host:x/", TargetError::NotAnAddress),
            ("https://host/", TargetError::NotHttp),
            ("http://user:pass@host/", TargetError::UserName),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
    }

    /// Reads one request, to the end of a body of known length, and answers.
    async fn answer(listener: &TcpListener, status: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with("}") {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap();
            assert_ne!(count, 0, "{text}");
            text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_refused_post_does_not_keep_the_next_from_being_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let webhook = Webhook::start(url.parse().unwrap(), &Handle::current());
        webhook.post("1".into(), b"{\"n\":1}".to_vec());
        webhook.post("2".into(), b"{\"n\":2}".to_vec());
        let first = answer(&listener, "500 Internal Server Error").await;
        assert!(first.starts_with("POST /hook HTTP/1.1\r\n") && first.ends_with("{\"n\":1}"), "{first}");
        assert!(first.contains("content-type: application/json\r\n"), "{first}");
        assert!(answer(&listener, "204 No Content").await.ends_with("{\"n\":2}"));
        webhook.close().await;
    }

    #[tokio::test]
    async fn nobody_waits_for_an_address_that_does_not_answer() {
        // Connections are taken by the system and never answered.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let webhook = Webhook::start(url.parse().unwrap(), &Handle::current());
        let started = Instant::now();
        for number in 0..2 * MAX_QUEUED {
            webhook.post(number.to_string(), b"{}".to_vec());
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        webhook.close().await;
        assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    }
}
