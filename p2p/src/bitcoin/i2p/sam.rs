//! The words of SAM 3.1: one line asks, one line answers; then, on sockets of connections, the peer's bytes follow.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::key::{self, PrivateKey};
use crate::bitcoin::net_addr::NetAddr;

/// Core's `MAX_MSG_SIZE`, bytes of one line.
const MAX_LINE_BYTES: usize = 65_536;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The router may have to ask its network first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3 * 60);
const PEEK_BYTES: usize = 2_048;

/// Why the bridge did not do what it was asked. Texts are Core's where it has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SamError {
    #[error("Cannot connect to {0}")]
    Unreachable(String),
    #[error("Missing {key}= in the reply to \"{request}\"")]
    Missing { key: &'static str, request: String },
    #[error("Reply to \"{0}\": had a RESULT not equal to OK.")]
    NotOk(String),
    #[error("\"{0}\"")]
    Refused(String),
    /// The peer is not there, or does not answer; the bridge did its work.
    #[error("\"{0}\"")]
    PeerUnreachable(String),
    #[error("Invalid session id")]
    InvalidId,
    #[error("unexpected reply that hints the session is unusable: {0}")]
    SessionClosed(String),
    #[error("Cannot decode Base64")]
    Base64,
    #[error("not a destination")]
    Destination,
    #[error("the private key is too short")]
    ShortKey,
    #[error("{0}: {1}")]
    KeyFile(String, io::Error),
    #[error("Received too many bytes without a terminator")]
    LongLine,
    #[error("Connection unexpectedly closed by peer")]
    Closed,
    #[error("Receive timeout")]
    Timeout,
    #[error("the node stops")]
    Stopped,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SamError {
    /// The bridge is at fault, not the peer.
    pub(crate) fn is_of_bridge(&self) -> bool {
        !matches!(self, Self::PeerUnreachable(_))
    }

    pub(super) fn ends_session(&self) -> bool {
        matches!(self, Self::SessionClosed(_))
    }
}

/// An answer. It may hold a private key.
struct Reply {
    request: String,
    text: Zeroizing<String>,
}

impl Reply {
    fn get(&self, key: &'static str) -> Result<&str, SamError> {
        let mut pairs = self.text.split(' ').filter_map(|word| word.split_once('='));
        let found = pairs.find(|(name, _)| *name == key).map(|(_, value)| value);
        found.ok_or_else(|| SamError::Missing { key, request: self.request.clone() })
    }
}

/// Reads one line and not a byte more: what follows is the peer's.
async fn line(stream: &mut TcpStream, deadline: Duration) -> Result<Zeroizing<String>, SamError> {
    let read = async {
        let mut line = Zeroizing::new(Vec::new());
        let mut seen = Zeroizing::new([0_u8; PEEK_BYTES]);
        loop {
            let count = stream.peek(&mut *seen).await?;
            let new = seen.get(..count).filter(|new| !new.is_empty()).ok_or(SamError::Closed)?;
            let end = new.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(count, |at| at + 1);
            if line.len() + length > MAX_LINE_BYTES {
                return Err(SamError::LongLine);
            }
            let start = line.len();
            line.resize(start + length, 0);
            stream.read_exact(line.get_mut(start..).unwrap_or_default()).await?;
            if end.is_some() {
                line.pop();
                return Ok(Zeroizing::new(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    };
    tokio::time::timeout(deadline, read).await.map_err(|_| SamError::Timeout)?
}

async fn ask(stream: &mut TcpStream, request: &str) -> Result<Reply, SamError> {
    let line_out = Zeroizing::new(format!("{request}\n"));
    let write = tokio::time::timeout(ANSWER_DEADLINE, stream.write_all(line_out.as_bytes()));
    write.await.map_err(|_| SamError::Timeout)??;
    let shown = if request.starts_with("SESSION CREATE") { "SESSION CREATE ..." } else { request };
    Ok(Reply { request: shown.to_owned(), text: line(stream, ANSWER_DEADLINE).await? })
}

async fn ask_ok(stream: &mut TcpStream, request: &str) -> Result<Reply, SamError> {
    let reply = ask(stream, request).await?;
    if reply.get("RESULT")? != "OK" {
        return Err(SamError::NotOk(reply.request));
    }
    Ok(reply)
}

/// A socket on which the version is agreed.
pub(super) async fn hello(bridge: &str) -> Result<TcpStream, SamError> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(bridge)).await;
    let mut stream = connected.ok().and_then(Result::ok).ok_or_else(|| SamError::Unreachable(bridge.to_owned()))?;
    ask_ok(&mut stream, "HELLO VERSION MIN=3.1 MAX=3.1").await?;
    Ok(stream)
}

/// Type 7 is Ed25519; older routers know only the number.
pub(super) async fn generate(stream: &mut TcpStream) -> Result<PrivateKey, SamError> {
    let reply = ask(stream, "DEST GENERATE SIGNATURE_TYPE=7").await?;
    PrivateKey::from_base64(reply.get("PRIV")?)
}

pub(super) async fn create_transient(stream: &mut TcpStream, id: &str) -> Result<PrivateKey, SamError> {
    let request = format!(
        "SESSION CREATE STYLE=STREAM ID={id} DESTINATION=TRANSIENT SIGNATURE_TYPE=7 i2cp.leaseSetEncType=4,0 \
         inbound.quantity=1 outbound.quantity=1"
    );
    let reply = ask_ok(stream, &request).await?;
    PrivateKey::from_base64(reply.get("DESTINATION")?)
}

pub(super) async fn create(stream: &mut TcpStream, id: &str, key: &PrivateKey) -> Result<(), SamError> {
    let request = Zeroizing::new(format!(
        "SESSION CREATE STYLE=STREAM ID={id} DESTINATION={} i2cp.leaseSetEncType=4,0 inbound.quantity=3 \
         outbound.quantity=3",
        *key.to_base64()
    ));
    ask_ok(stream, &request).await.map(|_| ())
}

pub(super) async fn connect(bridge: &str, id: &str, to: &NetAddr) -> Result<TcpStream, SamError> {
    let mut stream = hello(bridge).await?;
    let found = ask_ok(&mut stream, &format!("NAMING LOOKUP NAME={}", to.host())).await?;
    let request = format!("STREAM CONNECT ID={id} DESTINATION={} SILENT=false", found.get("VALUE")?);
    let reply = ask(&mut stream, &request).await?;
    match reply.get("RESULT")? {
        "OK" => Ok(stream),
        "INVALID_ID" => Err(SamError::InvalidId),
        "CANT_REACH_PEER" | "TIMEOUT" => Err(SamError::PeerUnreachable(reply.text.to_string())),
        _ => Err(SamError::Refused(reply.text.to_string())),
    }
}

/// A socket that the next peer is to come in by.
pub(super) async fn accept(bridge: &str, id: &str) -> Result<TcpStream, SamError> {
    let mut stream = hello(bridge).await?;
    let reply = ask(&mut stream, &format!("STREAM ACCEPT ID={id} SILENT=false")).await?;
    match reply.get("RESULT")? {
        "OK" => Ok(stream),
        "INVALID_ID" => Err(SamError::InvalidId),
        _ => Err(SamError::Refused(reply.text.to_string())),
    }
}

/// The destination of the peer that came in; its bytes follow.
pub(super) async fn peer(stream: &mut TcpStream, deadline: Duration) -> Result<Zeroizing<Vec<u8>>, SamError> {
    let text = line(stream, deadline).await?;
    // Instead of a peer the router may report that the session is over.
    if text.contains("RESULT=I2P_ERROR") {
        return Err(SamError::SessionClosed(text.to_string()));
    }
    key::decode(&text)
}

/// Fails if the bridge has closed a socket on which nothing is expected.
pub(super) fn check_open(stream: &TcpStream) -> Result<(), SamError> {
    match stream.try_read(&mut [0]) {
        Ok(0) => Err(SamError::Closed),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}
