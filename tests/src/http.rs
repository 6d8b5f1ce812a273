//! HTTP as it is on the wire: a kept connection, and requests that are not well-formed on purpose.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;

use crate::daemon::Daemon;

/// Longest a read or write may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// One connection to a node's RPC server.
pub struct Http {
    stream: BufReader<TcpStream>,
    authorization: String,
}

impl Http {
    #[track_caller]
    pub fn open(node: &Daemon) -> Self {
        Self::try_open(node).expect("the server takes connections")
    }

    pub fn try_open(node: &Daemon) -> io::Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, node.rpc_port())))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let cookie = std::fs::read_to_string(node.net_dir().join(".cookie"))?;
        let token = base64::engine::general_purpose::STANDARD.encode(cookie.trim());
        Ok(Self { stream: BufReader::new(stream), authorization: format!("Basic {token}") })
    }

    /// Request line and headers of a POST with the right password; `more` are whole lines.
    pub fn head(&self, more: &str) -> String {
        format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: application/json\r\n{more}\r\n",
            self.authorization
        )
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a whole request.
    pub fn ask(&mut self, body: &[u8]) -> io::Result<()> {
        let head = self.head(&format!("Content-Length: {}\r\n", body.len()));
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Status and body of the next answer.
    pub fn answer(&mut self) -> io::Result<(u16, String)> {
        let mut status = 0;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status == 0 {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        String::from_utf8(body).map(|body| (status, body)).map_err(io::Error::other)
    }

    /// Posts a body; answers with status and body.
    pub fn post(&mut self, body: &str) -> io::Result<(u16, String)> {
        self.ask(body.as_bytes())?;
        self.answer()
    }
}
