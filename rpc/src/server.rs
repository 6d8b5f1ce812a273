//! The server: sockets, HTTP/1.1, authentication, work queue, JSON-RPC envelopes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Services;

/// How the server listens and whom it lets in. Names are those of Core's options.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-rpcbind` as given (`host`, `host:port`, `[v6]:port`); ignored unless `allow_ip` is given too.
    pub bind: Vec<String>,
    /// `-rpcport`, or the chain's. 0 lets the system choose.
    pub port: u16,
    /// `-rpcallowip`: addresses, `address/bits`, `address/netmask`. Loopback is always allowed.
    pub allow_ip: Vec<String>,
    /// `-rpcuser`, `-rpcpassword`: with a password no cookie is made.
    pub user: String,
    pub password: String,
    /// `-rpcauth=user:salt$hmac`.
    pub auth: Vec<String>,
    /// Where the cookie goes; `None` with `-norpccookiefile`.
    pub cookie_file: Option<PathBuf>,
    /// `-rpccookieperms`: `owner`, `group` or `all`.
    pub cookie_perms: Option<String>,
    /// `-rpcwhitelist=user:method,method`.
    pub whitelist: Vec<String>,
    /// `-rpcwhitelistdefault`, if given.
    pub whitelist_default: Option<bool>,
    /// `-rpcthreads`: calls that run at once.
    pub threads: usize,
    /// `-rpcworkqueue`: calls that wait.
    pub work_queue: usize,
    /// `-rpcservertimeout`: idle connections are closed after it; zero for never.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bind: Vec::new(),
            port: 0,
            allow_ip: Vec::new(),
            user: String::new(),
            password: String::new(),
            auth: Vec::new(),
            cookie_file: None,
            cookie_perms: None,
            whitelist: Vec::new(),
            whitelist_default: None,
            threads: 16,
            work_queue: 64,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Shown as Core shows it.
    #[error("{0}")]
    Config(String),
    #[error("Unable to bind any endpoint for RPC server")]
    Bind,
    #[error("cookie file: {0}")]
    Cookie(#[source] std::io::Error),
}

/// A running server. Dropping it closes the sockets at once; [`Server::stop`] lets answers finish.
pub struct Server {}

impl Server {
    /// Binds, writes the cookie and serves. Methods answer -28 until the kernel's warm-up is over.
    pub async fn start(_config: Config, _services: Arc<Services>) -> Result<Server, StartError> {
        Err(StartError::Bind)
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> &[std::net::SocketAddr] {
        &[]
    }

    /// Refuses new calls from now on (503) and closes idle connections; running ones go on.
    pub fn interrupt(&self) {}

    /// Waits for running calls to answer, closes every connection, removes the cookie.
    pub async fn stop(self) {}
}
