//! A call: where, with which credentials, how long; and what is said when it does not come back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;

use super::CliError;
use super::http;
use super::names::names;
use super::options::Options;
use crate::code;
use crate::json::Value;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_TIMEOUT_SECS: i64 = 900;
/// For -rpcclienttimeout=0: longer than anybody waits.
const NO_TIMEOUT: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// Between two attempts with -rpcwait.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A request object.
pub fn request(method: &str, params: Value, id: Value) -> Value {
    Value::obj().with("method", method).with("params", params).with("id", id).with("jsonrpc", "2.0")
}

/// The replies of a batch, by their ids 0, 1, ...
pub fn batch_replies(batch: &Value, count: usize) -> Result<Vec<Value>, CliError> {
    let replies = batch.as_arr().ok_or_else(|| CliError::other("Batch must be an array"))?;
    let mut out = vec![Value::Null; count];
    for reply in replies {
        let id = reply.member("id").as_i64().and_then(|id| usize::try_from(id).ok());
        let slot = id.and_then(|id| out.get_mut(id));
        *slot.ok_or_else(|| CliError::other("Batch member id is larger than batch size"))? = reply.clone();
    }
    Ok(out)
}

/// How the password was come by.
enum Secret {
    Given,
    Cookie,
    CookieUnreadable,
    CookieDisabled,
}

/// Calls the node that the options name.
pub struct Client<'a> {
    options: &'a Options,
}

impl<'a> Client<'a> {
    pub fn new(options: &'a Options) -> Client<'a> {
        Client { options }
    }

    /// Sends a request or a batch; with -rpcwait again and again while the node is not up.
    pub fn call(&self, request: Value, wallet: Option<&str>) -> Result<Value, CliError> {
        let wait = self.options.bool("-rpcwait", false);
        let limit = u64::try_from(self.options.int("-rpcwaittimeout", 0)).unwrap_or(0);
        let started = Instant::now();
        let path = wallet.map_or_else(|| "/".to_owned(), |name| format!("/wallet/{}", url_encode(name)));
        let body = format!("{}\n", request.compact());
        loop {
            let outcome = self.once(&path, &body).and_then(|reply| {
                let warming = reply.member("error").member("code").as_i64() == Some(i64::from(code::RPC_IN_WARMUP));
                if wait && warming { Err(CliError::Connection("server in warmup".to_owned())) } else { Ok(reply) }
            });
            match outcome {
                Err(CliError::Connection(_)) if wait && (limit == 0 || started.elapsed().as_secs() < limit) => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(CliError::Connection(text)) if wait => {
                    return Err(CliError::Connection(format!("timeout on transient error: {text}")));
                }
                other => return other,
            }
        }
    }

    /// There is no way but HTTP.
    fn refuse_ipc(&self) -> Result<(), CliError> {
        let given = self.options.get("-ipcconnect").filter(|given| given != "0" && given != "auto");
        if given.is_none() {
            return Ok(());
        }
        let both = self.options.get("-rpcconnect").is_some() && !self.options.is_negated("-rpcconnect");
        Err(CliError::other(if both {
            "-rpcconnect and -ipcconnect options cannot both be enabled".to_owned()
        } else {
            format!("{} was not built with IPC support", names().program)
        }))
    }

    fn once(&self, path: &str, body: &str) -> Result<Value, CliError> {
        self.refuse_ipc()?;
        let (host, port) = self.endpoint()?;
        let timeout = match u64::try_from(self.options.int("-rpcclienttimeout", DEFAULT_TIMEOUT_SECS)) {
            Ok(0) | Err(_) => NO_TIMEOUT,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        let (credentials, secret) = self.credentials();
        let authorization = base64::engine::general_purpose::STANDARD.encode(credentials);
        let answer = http::post(&host, port, path, &authorization, body, timeout).map_err(|error| {
            CliError::Connection(format!(
                "Error while attempting to communicate with server {host}:{port} ({error})\n\nMake sure the {} \
                 server is running and that you are connecting to the correct RPC port.\nUse \"{} -help\" \
                 for more info.",
                names().daemon,
                names().program
            ))
        })?;
        match answer.status {
            401 => return Err(self.refused(&secret)),
            503 => return Err(CliError::other(format!("Server response: {}", answer.body))),
            400 | 404 | 500 => {}
            status if status >= 400 => {
                return Err(CliError::other(format!("server returned HTTP error {status}")));
            }
            _ => {}
        }
        if answer.body.is_empty() {
            return Err(CliError::other("no response from server"));
        }
        Value::parse(answer.body.trim_end()).map_err(|_| CliError::other("couldn't parse reply from server"))
    }

    fn endpoint(&self) -> Result<(String, u16), CliError> {
        let given = self.options.get("-rpcconnect").unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let (host, own_port) = split_host_port(&given)
            .ok_or_else(|| CliError::other(format!("Invalid port provided in -rpcconnect: {given}")))?;
        let Some(text) = self.options.get("-rpcport") else {
            return Ok((host, own_port.unwrap_or(self.options.chain().rpc_port())));
        };
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| CliError::other(format!("Invalid port provided in -rpcport: {text}")))?;
        if own_port.is_some() {
            super::complain(&format!(
                "Warning: Port specified in both -rpcconnect and -rpcport. Using -rpcport {port}"
            ));
        }
        Ok((host, port))
    }

    fn credentials(&self) -> (String, Secret) {
        let password = self.options.get("-rpcpassword").unwrap_or_default();
        if !password.is_empty() && !self.options.is_negated("-rpcpassword") {
            let user = self.options.get("-rpcuser").unwrap_or_default();
            return (format!("{user}:{password}"), Secret::Given);
        }
        if self.options.is_negated("-rpccookiefile") {
            return (String::new(), Secret::CookieDisabled);
        }
        let file = self.options.get("-rpccookiefile").filter(|name| !name.is_empty());
        let path: PathBuf = self.options.net_dir().join(file.unwrap_or_else(|| ".cookie".to_owned()));
        match std::fs::read_to_string(path) {
            Ok(text) => (text.lines().next().unwrap_or_default().to_owned(), Secret::Cookie),
            Err(_) => (String::new(), Secret::CookieUnreadable),
        }
    }

    fn refused(&self, secret: &Secret) -> CliError {
        let why = match secret {
            Secret::Given => "Incorrect rpcuser or rpcpassword were specified.",
            Secret::Cookie => "Cookie file credentials were invalid and no rpcpassword was specified.",
            Secret::CookieUnreadable => "Failed to read cookie file and no rpcpassword was specified.",
            Secret::CookieDisabled => "Cookie file was disabled via -norpccookiefile and no rpcpassword was specified.",
        };
        let path = self.options.config_path().display();
        CliError::other(format!("Authorization failed: {why} Configuration file: ({path})"))
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or a bare IPv6 address; `None` if what follows the colon is no port.
fn split_host_port(text: &str) -> Option<(String, Option<u16>)> {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let colons = text.matches(':').count();
    match text.rsplit_once(':') {
        Some((host, port)) if colons == 1 || host.ends_with(']') => {
            let port = port.parse::<u16>().ok().filter(|number| *number > 0 && !port.starts_with('+'))?;
            Some((bare(host), Some(port)))
        }
        _ => Some((bare(text), None)),
    }
}

fn url_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:80", "::1", Some(80)),
            ("node.example:9", "node.example", Some(9)),
        ] {
            assert_eq!(split_host_port(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in ["h:notaport", "h:-1", "h:0", "h:65536", "[::1]:0", "[::1]:x", "h:"] {
            assert_eq!(split_host_port(text), None, "{text}");
        }
    }

    #[test]
    fn wallet_names_are_encoded_for_the_path() {
        assert_eq!(url_encode("a b/ü~"), "a%20b%2F%C3%BC~");
    }
}
