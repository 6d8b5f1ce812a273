//! The server: sockets, HTTP/1.1, authentication, work queue, JSON-RPC envelopes.
//!
//! Owns the listening sockets, the cookie file and every connection's task. A request passes [`http1`] (bytes),
//! `connection` (who, where, how many), [`envelope`] (JSON-RPC) and `dispatch` (jsonrpsee's module over the method
//! table). HTTP is read here and not by a library, because Core's limits and status codes are part of what scripts
//! see. Source: Core's `httpserver.cpp`, `httprpc.cpp`.

mod auth;
mod connection;
mod dispatch;
mod envelope;
mod gate;
mod http1;
mod listen;
mod rest;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::backend::Services;
use crate::subnet::Subnet;

use auth::Access;
pub use auth::COOKIE_USER;
use dispatch::Dispatcher;
use gate::Gate;

/// Connections open at once; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 2048;
/// How long a stop waits for running calls.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// `-rest`: answers without a password under `/rest/`.
    pub rest: bool,
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
            rest: false,
            threads: 16,
            work_queue: 64,
            timeout: Duration::from_secs(30),
        }
    }
}

/// The server cannot start. Core shows this one line for every reason, and the reason in its log; so does this.
#[derive(Debug, thiserror::Error)]
#[error("Unable to start HTTP server. See debug log for details.")]
pub struct StartError {
    /// The reason, as it stands in the log.
    #[source]
    pub reason: StartReason,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartReason {
    #[error("{0}")]
    Config(String),
    /// Core shows this one on the terminal, too.
    #[error("{0}")]
    Subnet(String),
    #[error("Unable to bind any endpoint for RPC server")]
    Bind,
    #[error("Unable to write the cookie authentication file: {0}")]
    Cookie(#[source] std::io::Error),
}

/// What every connection needs.
struct Shared {
    access: Access,
    allowed: Vec<Subnet>,
    dispatcher: Dispatcher,
    gate: Gate,
    interrupted: AtomicBool,
    timeout: Duration,
    rest: bool,
}

/// A running server. Dropping it closes the sockets at once; [`Server::stop`] lets answers finish.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    closing: watch::Sender<bool>,
    acceptors: JoinSet<()>,
}

impl Server {
    /// Binds, writes the cookie and serves. Methods answer -28 until the kernel's warm-up is over. Connections live in
    /// the runtime that this is called in, whose threads wait for the kernel where a call is brief: it has more of
    /// them than `config.threads`, and nothing else to do. All other calls run in `tasks`.
    pub async fn start(config: Config, services: Arc<Services>, tasks: Handle) -> Result<Server, StartError> {
        let started = Server::try_start(config, services, tasks).await;
        started.map_err(|reason| {
            error!(target: "http", "{reason}");
            StartError { reason }
        })
    }

    async fn try_start(config: Config, services: Arc<Services>, tasks: Handle) -> Result<Server, StartReason> {
        let allowed = listen::allowed(&config.allow_ip)?;
        let listeners = listen::bind(&config).await?;
        let shared = Arc::new(Shared {
            dispatcher: Dispatcher::new(services, tasks)?,
            access: Access::new(&config)?,
            allowed,
            gate: Gate::new(config.threads, config.work_queue),
            interrupted: AtomicBool::new(false),
            timeout: config.timeout,
            rest: config.rest,
        });
        tracing::debug!(target: "http", "Starting HTTP server");
        let (closing, _) = watch::channel(false);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut addresses = Vec::new();
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                addresses.push(address);
            }
            acceptors.spawn(accept(listener, Arc::clone(&shared), closing.subscribe(), Arc::clone(&places)));
        }
        info!(target: "http", threads = config.threads, ?addresses, "RPC server listens");
        Ok(Server { shared, addresses, closing, acceptors })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Refuses new calls from now on (503); running ones go on.
    pub fn interrupt(&self) {
        self.shared.interrupted.store(true, Ordering::Relaxed);
    }

    /// Lets running calls answer (for at most [`STOP_PATIENCE`]), closes every connection, removes the cookie.
    pub async fn stop(mut self) {
        self.interrupt();
        let _ = self.closing.send(true);
        let all_done = async { while self.acceptors.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, all_done).await.is_err() {
            warn!(target: "http", "Timeout waiting for HTTP clients to disconnect gracefully, continuing shutdown");
        }
    }
}

/// Accepts until the end, then waits for its connections.
async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut closing: watch::Receiver<bool>,
    places: Arc<Semaphore>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (shared, closing) = (Arc::clone(&shared), closing.clone());
                connections.spawn(async move {
                    connection::serve(stream, peer, shared, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(target: "http", %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

#[cfg(test)]
pub(crate) mod tests;
