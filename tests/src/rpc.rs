//! A small JSON-RPC client: one connection for each call, Basic authentication, errors as data.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

/// Longest a call may take; a hang fails the test instead of blocking it.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// An error that the server answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcFailure {
    pub code: i64,
    pub message: String,
}

impl std::fmt::Display for RpcFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Where a server is and how to get in. Cheap to clone; one thread each may use it at once.
#[derive(Debug, Clone)]
pub struct RpcClient {
    address: SocketAddr,
    authorization: String,
    wallet: Option<String>,
}

impl RpcClient {
    /// `credentials` are `user:password`.
    pub fn new(address: SocketAddr, credentials: &str) -> Self {
        let token = base64::engine::general_purpose::STANDARD.encode(credentials.trim());
        Self { address, authorization: format!("Basic {token}"), wallet: None }
    }

    /// The same server, calls on `/wallet/<name>`.
    pub fn wallet(&self, name: &str) -> Self {
        Self { wallet: Some(name.to_owned()), ..self.clone() }
    }

    /// Calls and expects success.
    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Value {
        match self.try_call(method, params.clone()) {
            Ok(value) => value,
            Err(error) => panic!("{method} {params}: {error}"),
        }
    }

    /// Calls and expects an error.
    #[track_caller]
    pub fn fail(&self, method: &str, params: Value) -> RpcFailure {
        match self.try_call(method, params.clone()) {
            Ok(value) => panic!("{method} {params} should have failed, gave {value}"),
            Err(error) => error,
        }
    }

    /// Calls; a connection that fails is code 0.
    pub fn try_call(&self, method: &str, params: Value) -> Result<Value, RpcFailure> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let (_, text) = self.post(&body).map_err(|error| RpcFailure { code: 0, message: error.to_string() })?;
        let answer: Value = serde_json::from_str(&text)
            .map_err(|error| RpcFailure { code: 0, message: format!("{error} in {text:?}") })?;
        match answer.get("error") {
            Some(error) if !error.is_null() => Err(RpcFailure {
                code: error["code"].as_i64().unwrap_or(0),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
            _ => Ok(answer.get("result").cloned().unwrap_or(Value::Null)),
        }
    }

    /// The same server without credentials.
    pub fn anonymous(&self) -> Self {
        Self { authorization: String::new(), ..self.clone() }
    }

    /// Gets a path; answers with status code and body.
    pub fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        self.request("GET", path, "")
    }

    /// Posts a raw body; answers with status code and body.
    pub fn post(&self, body: &str) -> std::io::Result<(u16, String)> {
        self.request("POST", &self.path(), body)
    }

    /// Sends a call and closes the connection after a while, whatever has been answered until then.
    pub fn hang_up(&self, method: &str, params: &Value, after: Duration) -> std::io::Result<()> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let _unread = self.send("POST", &self.path(), &body)?;
        std::thread::sleep(after);
        Ok(())
    }

    /// One request; answers with status code and body.
    pub fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = self.send(method, path, body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, body.to_owned()))
    }

    fn path(&self) -> String {
        self.wallet.as_ref().map_or_else(|| "/".to_owned(), |name| format!("/wallet/{name}"))
    }

    fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(CALL_DEADLINE))?;
        stream.set_nodelay(true)?;
        let authorization = match self.authorization.as_str() {
            "" => String::new(),
            credentials => format!("Authorization: {credentials}\r\n"),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        Ok(stream)
    }
}

/// A JSON amount in satoshi. Amounts have eight decimals, so a double carries them exactly enough to round.
#[track_caller]
pub fn sat(amount: &Value) -> i64 {
    let btc = amount.as_f64().unwrap_or_else(|| panic!("{amount} is no amount"));
    #[allow(clippy::cast_possible_truncation)]
    let sat = (btc * 1e8).round() as i64;
    sat
}
