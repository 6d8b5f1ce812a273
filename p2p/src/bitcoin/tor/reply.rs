//! Replies of Tor's control port: lines of a code, a mark and data. A reply ends with the line whose mark is a space.

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::hashes::hmac::{Hmac, HmacEngine};
use bitcoin::hashes::{Hash, HashEngine, sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

pub(super) const OK: u16 = 250;
pub(super) const UNRECOGNIZED: u16 = 510;
pub(super) const SYNTAX_ERROR: u16 = 512;
/// From here on codes are notices that nobody asked for.
const FIRST_NOTICE: u16 = 600;
/// Core's limits; the spec has none.
const MAX_LINE_BYTES: usize = 100_000;
const MAX_LINES: usize = 1_000;
const READ_BYTES: usize = 4_096;
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// Publishing a service asks nothing of the network: Tor answers at once, or is stuck.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("End of stream")]
    Closed,
    #[error("Control port reply exceeded {MAX_LINES} lines, disconnecting")]
    TooManyLines,
    #[error("max line length exceeded")]
    LongLine,
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A whole reply. It may hold a key.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// Without code and mark.
    pub(super) lines: Vec<Zeroizing<String>>,
}

impl Reply {
    pub(super) fn is_ok(&self) -> bool {
        self.code == OK
    }

    /// `KIND name=value ...`: the value.
    pub(super) fn value(&self, kind: &str, name: &str) -> Option<String> {
        let rests = self.lines.iter().filter_map(|line| line.split_once(' '));
        rests.filter(|(word, _)| *word == kind).find_map(|(_, rest)| pairs(rest).remove(name))
    }

    /// `name=value` at the beginning of any line: the value.
    pub(super) fn anywhere(&self, name: &str) -> Option<String> {
        self.lines.iter().find_map(|line| pairs(line).remove(name))
    }
}

/// Asks and is answered, in turn.
#[derive(Debug)]
pub(super) struct Conversation<S> {
    stream: S,
    pending: Zeroizing<Vec<u8>>,
    reply: Reply,
    lines: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, pending: Zeroizing::new(Vec::new()), reply: Reply::default(), lines: 0 }
    }

    pub(super) async fn ask(&mut self, command: &str) -> Result<Reply, ReplyError> {
        let line = Zeroizing::new(format!("{command}\r\n"));
        let sent = tokio::time::timeout(SEND_DEADLINE, self.stream.write_all(line.as_bytes())).await;
        sent.map_err(|_| ReplyError::Timeout)??;
        tokio::time::timeout(ANSWER_DEADLINE, self.next()).await.map_err(|_| ReplyError::Timeout)?
    }

    /// Takes what nobody asked for, to the end of the connection.
    pub(super) async fn until_closed(&mut self) -> ReplyError {
        loop {
            match self.next().await {
                Ok(reply) => tracing::debug!(target: "tor", "Received unexpected sync reply {}", reply.code),
                Err(error) => return error,
            }
        }
    }

    async fn next(&mut self) -> Result<Reply, ReplyError> {
        loop {
            while let Some(line) = self.line()? {
                if let Some(reply) = self.take(&line)? {
                    return Ok(reply);
                }
            }
            let mut buffer = Zeroizing::new([0_u8; READ_BYTES]);
            let count = self.stream.read(&mut *buffer).await?;
            let new = buffer.get(..count).filter(|new| !new.is_empty()).ok_or(ReplyError::Closed)?;
            self.pending.extend_from_slice(new);
        }
    }

    fn line(&mut self) -> Result<Option<Zeroizing<String>>, ReplyError> {
        let end = self.pending.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.pending.len()) > MAX_LINE_BYTES {
            return Err(ReplyError::LongLine);
        }
        let Some(end) = end else { return Ok(None) };
        let mut line: Zeroizing<Vec<u8>> = Zeroizing::new(self.pending.drain(..=end).collect());
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(Zeroizing::new(String::from_utf8_lossy(&line).into_owned())))
    }

    fn take(&mut self, line: &str) -> Result<Option<Reply>, ReplyError> {
        if self.lines == MAX_LINES {
            return Err(ReplyError::TooManyLines);
        }
        let (Some(code), Some(mark), Some(data)) = (line.get(..3), line.get(3..4), line.get(4..)) else {
            return Ok(None);
        };
        self.lines += 1;
        self.reply.code = code.parse().unwrap_or(0);
        self.reply.lines.push(Zeroizing::new(data.to_owned()));
        if mark != " " {
            return Ok(None);
        }
        self.lines = 0;
        let reply = std::mem::take(&mut self.reply);
        if reply.code >= FIRST_NOTICE {
            tracing::debug!(target: "tor", "Received async notification {}", reply.code);
            return Ok(None);
        }
        Ok(Some(reply))
    }
}

/// `key=value key="quoted value"`, as far as it goes; empty if a key or a quote does not end.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(['=', ' ']) else { return BTreeMap::new() };
        let (key, after) = rest.split_at(at);
        let Some(after) = after.strip_prefix('=') else { break };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => match unquote(quoted) {
                Some(split) => split,
                None => return BTreeMap::new(),
            },
            None => {
                let (value, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
                (value.to_owned(), after)
            }
        };
        found.insert(key.to_owned(), value);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    found
}

/// What stands before the closing quote, unescaped as the spec recommends (2.1.1), and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some((String::from_utf8_lossy(&value).into_owned(), text.get(at + 1..)?)),
            b'\\' => {
                let (byte, used) = escaped(bytes.get(at + 1..)?)?;
                value.push(byte);
                at += 1 + used;
            }
            byte => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

/// The byte behind a backslash, and how long its name is: up to three octal digits, of which the first of three is at most 3.
fn escaped(text: &[u8]) -> Option<(u8, usize)> {
    let first = *text.first()?;
    Some(match first {
        b'n' => (b'\n', 1),
        b't' => (b'\t', 1),
        b'r' => (b'\r', 1),
        b'0'..=b'7' => {
            let most = if first <= b'3' { 3 } else { 2 };
            let digits = text.iter().take(most).take_while(|digit| (b'0'..=b'7').contains(digit));
            let (value, count) =
                digits.fold((0_u8, 0), |(value, count), digit| (value << 3 | (digit - b'0'), count + 1));
            (value, count)
        }
        other => (other, 1),
    })
}

/// HMAC-SHA256.
pub(super) fn authenticator(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut engine = HmacEngine::<sha256::Hash>::new(key);
    parts.iter().for_each(|part| engine.input(part));
    Hmac::from_engine(engine).to_byte_array()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, key: &str) -> Option<String> {
        pairs(text).remove(key)
    }

    #[test]
    fn values_are_read_as_core_reads_them() {
        assert_eq!(value("METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"/home/x y\"", "COOKIEFILE").unwrap(), "/home/x y");
        assert_eq!(value("Foo=Bar=Baz Spam=", "Foo").unwrap(), "Bar=Baz");
        assert_eq!(value("Foo=Bar=Baz Spam=", "Spam").unwrap(), "");
        assert_eq!(value("a=\"x\\\"y\\\\\" b=1", "a").unwrap(), "x\"y\\");
        assert_eq!(value("a=\"\\n\\t\\r\\q\"", "a").unwrap(), "\n\t\rq");
        // Octal digits: at most three, and two where the first is over 3.
        assert_eq!(value("a=\"\\1\\11\\111\\1111\\477\\08\"", "a").unwrap(), "\u{1}\tII1'7\08");
        // The rest is free text.
        assert_eq!(value("a=1 and more=2", "a").unwrap(), "1");
        assert_eq!(pairs("a=1 and more=2").len(), 1);
        for broken in ["a=\"open", "a=1 b", "a=\"x\\"] {
            assert!(pairs(broken).is_empty(), "{broken}");
        }
    }

    #[tokio::test]
    async fn replies_end_where_their_mark_says_and_stay_within_limits() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut talk = Conversation::new(near);
        far.write_all(b"250-A x=1\r\nab\r\n650 NOTICE\r\n250 OK\r\n").await.unwrap();
        let notice_ends_it = talk.next().await.unwrap();
        assert_eq!((notice_ends_it.code, notice_ends_it.lines.len()), (250, 1));
        far.write_all(format!("250-{}\r\n", "A".repeat(MAX_LINE_BYTES - 5)).as_bytes()).await.unwrap();
        far.write_all(b"250 OK\r\n").await.unwrap();
        assert_eq!(talk.next().await.unwrap().lines.len(), 2);
        far.write_all(format!("250-{}\r\n", "A".repeat(MAX_LINE_BYTES - 4)).as_bytes()).await.unwrap();
        assert!(matches!(talk.next().await, Err(ReplyError::LongLine)));
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut talk = Conversation::new(near);
        far.write_all("250-x\r\n".repeat(MAX_LINES).as_bytes()).await.unwrap();
        far.write_all(b"250 OK\r\n").await.unwrap();
        assert!(matches!(talk.next().await, Err(ReplyError::TooManyLines)));
    }
}
