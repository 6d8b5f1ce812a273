//! One POST over HTTP/1.1, blocking: connect, send, read the answer in whatever way it is framed.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::CliError;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

fn failed(text: impl Into<String>) -> CliError {
    CliError::Connection(text.into())
}

/// Sends a body to `path`. Each wait is at most `limit`.
pub fn post(
    host: &str,
    port: u16,
    path: &str,
    authorization: &str,
    body: &str,
    limit: Duration,
) -> Result<Answer, CliError> {
    let deadline = Instant::now().checked_add(limit);
    let mut stream = connect(host, port, limit)?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\nContent-Type: \
         application/json\r\nAuthorization: Basic {authorization}\r\n\r\n{body}"
    );
    // The server may answer before it has read all, and close: read even when sending fails.
    let sent = stream.set_write_timeout(Some(limit)).and_then(|()| stream.write_all(request.as_bytes()));
    let answer = read(&mut stream, deadline);
    match (answer, sent) {
        (Err(_), Err(_)) => Err(failed("Failed to send HTTP request")),
        (answer, _) => parse(&answer?),
    }
}

fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, CliError> {
    let addresses = (host, port).to_socket_addrs().map_err(|_| failed(format!("Could not resolve host: {host}")))?;
    for address in addresses {
        if let Ok(stream) = TcpStream::connect_timeout(&address, limit) {
            return Ok(stream);
        }
    }
    Err(failed("Could not connect to the server"))
}

/// Reads until the end, or until the answer is complete by its own account.
fn read(stream: &mut TcpStream, deadline: Option<Instant>) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0u8; 64 * 1024];
    while !is_complete(&bytes) {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(failed("timeout"));
        }
        stream.set_read_timeout(left).map_err(|error| failed(error.to_string()))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(failed("timeout"));
            }
            Err(error) => return Err(failed(format!("Read error: {error}"))),
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(failed("HTTP error: the answer is too large"));
        }
    }
    Ok(bytes)
}

fn split(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(bytes.get(..end)?).into_owned(), bytes.get(end + 4..)?))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn is_chunked(head: &str) -> bool {
    header(head, "transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
}

fn is_complete(bytes: &[u8]) -> bool {
    let Some((head, body)) = split(bytes) else {
        return false;
    };
    if is_chunked(&head) {
        return unchunk(body).is_ok_and(|body| body.is_some());
    }
    let length = header(&head, "content-length").and_then(|text| text.parse::<usize>().ok());
    length.is_some_and(|length| length > 0 && body.len() >= length)
}

fn parse(bytes: &[u8]) -> Result<Answer, CliError> {
    if bytes.is_empty() {
        return Err(failed("EOF"));
    }
    let (head, body) = split(bytes).ok_or_else(|| failed("EOF"))?;
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/").and_then(|rest| rest.split(' ').nth(1));
    let status = status.and_then(|text| text.parse().ok()).ok_or_else(|| failed("HTTP error: Invalid status line"))?;
    let body = if is_chunked(&head) {
        unchunk(body)?.ok_or_else(|| failed("EOF"))?
    } else {
        match header(&head, "content-length") {
            Some(text) => {
                let length: usize = text.parse().map_err(|_| failed("HTTP error: Invalid Content-Length"))?;
                body.get(..length).ok_or_else(|| failed("EOF"))?.to_vec()
            }
            None => body.to_vec(),
        }
    };
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// The chunks joined; `None` when the last one has not arrived.
fn unchunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, CliError> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| failed("HTTP error: Invalid chunk size"))?;
        rest = rest.get(end + 2..).unwrap_or_default();
        if size == 0 {
            return Ok(Some(body));
        }
        let (Some(chunk), Some(after)) = (rest.get(..size), rest.get(size.saturating_add(2)..)) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_framing_is_read() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1;x\r\n}\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n{}",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), Answer { status: 200, body: "{}".into() }, "{text}");
        }
        for text in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", "FTP/1 200\r\n\r\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
