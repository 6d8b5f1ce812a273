//! I2P, through the SAM bridge of an I2P router (SAM 3.1): sessions, connections out of them and into them.
//!
//! A session is the socket it was made on: it ends with it. The node has one of its own, under its lasting address, if it is
//! to be reached ([`Own`]); without it each outgoing connection has a session, and an address, to itself. Follows Core's
//! `i2p.cpp`, whose log lines it uses.

use std::path::PathBuf;
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::net_addr::{Net, NetAddr};
use super::socket::SocketEvent;

mod key;
mod sam;

use key::PrivateKey;
use sam::SamError;

/// SAM 3.1 knows no ports; all addresses have this one.
pub(crate) const PORT: u16 = 0;
/// Questions to the own session that may wait.
const MAX_ASKS: usize = 64;
/// Pauses after the bridge failed while we listen: the first, what each adds, the last.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_STEP: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(5 * 60);
/// Once something comes in, who it is from has to follow within this.
const PEER_DEADLINE: Duration = Duration::from_secs(60);

/// Where a session has its address from.
#[derive(Debug)]
enum Address {
    /// Made by the router, for this session alone.
    Transient,
    /// Kept in a file, which is written if it is not there.
    Kept(PathBuf),
}

/// A session, or what is needed to make one. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Session {
    bridge: String,
    address: Address,
    control: Option<Control>,
}

/// The socket that a session lives on.
#[derive(Debug)]
struct Control {
    stream: TcpStream,
    ready: Ready,
}

impl Drop for Control {
    fn drop(&mut self) {
        tracing::info!("Destroying I2P SAM session {}", self.ready.id);
    }
}

/// What connections of a session need to know of it.
#[derive(Clone, Debug)]
struct Ready {
    bridge: String,
    id: String,
    me: NetAddr,
}

/// The address of a destination.
fn address(destination: &[u8]) -> Result<NetAddr, SamError> {
    let hash = sha256::Hash::hash(destination);
    NetAddr::new(Net::I2p, hash.as_byte_array(), PORT).map_err(|_| SamError::Destination)
}

impl Session {
    pub(crate) fn transient(bridge: String) -> Self {
        Self { bridge, address: Address::Transient, control: None }
    }

    fn kept(bridge: String, file: PathBuf) -> Self {
        Self { bridge, address: Address::Kept(file), control: None }
    }

    /// Makes the session unless it is there.
    async fn ready(&mut self) -> Result<Ready, SamError> {
        self.look();
        if let Some(control) = &self.control {
            return Ok(control.ready.clone());
        }
        let id = format!("{:010x}", rand::random::<u64>() >> 24);
        let kind = match self.address {
            Address::Transient => "transient",
            Address::Kept(_) => "persistent",
        };
        tracing::debug!(target: "i2p", "Creating {kind} I2P SAM session {id} with {}", self.bridge);
        let mut stream = sam::hello(&self.bridge).await?;
        let key = match &self.address {
            Address::Transient => sam::create_transient(&mut stream, &id).await?,
            Address::Kept(file) => {
                let key = match PrivateKey::read(file)? {
                    Some(key) => key,
                    None => {
                        let key = sam::generate(&mut stream).await?;
                        key.write(file)?;
                        key
                    }
                };
                sam::create(&mut stream, &id, &key).await?;
                key
            }
        };
        let me = address(key.destination()?)?;
        let title = if kind == "transient" { "Transient" } else { "Persistent" };
        tracing::info!("{title} I2P SAM session {id} created, my address={me}");
        let ready = Ready { bridge: self.bridge.clone(), id, me };
        self.control = Some(Control { stream, ready: ready.clone() });
        Ok(ready)
    }

    /// Ends a session whose socket the bridge has closed.
    fn look(&mut self) {
        if let Some(control) = &self.control
            && let Err(error) = sam::check_open(&control.stream)
        {
            tracing::debug!(target: "i2p", "Control socket error: {error}");
            self.control = None;
        }
    }

    /// After a connection failed: `broken` says that the bridge does not know the session any more.
    fn failed(&mut self, id: &str, broken: bool) {
        if broken && self.control.as_ref().is_some_and(|control| control.ready.id == id) {
            self.control = None;
        }
        self.look();
    }

    async fn connect(&mut self, to: &NetAddr) -> Result<(TcpStream, NetAddr), SamError> {
        let ready = self.ready().await?;
        let result = sam::connect(&ready.bridge, &ready.id, to).await;
        if let Err(error) = &result {
            self.failed(&ready.id, matches!(error, SamError::InvalidId));
        }
        result.map(|stream| (stream, ready.me))
    }
}

enum Ask {
    Ready(oneshot::Sender<Result<Ready, SamError>>),
    Failed { id: String, broken: bool },
}

/// A handle of the node's own session, which a task keeps until the last handle is gone.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    asks: mpsc::Sender<Ask>,
}

impl Own {
    /// Starts the task. The session is made when it is first needed.
    pub(crate) fn start(runtime: &tokio::runtime::Handle, bridge: String, file: PathBuf) -> Self {
        let (asks, mut waiting) = mpsc::channel(MAX_ASKS);
        runtime.spawn(async move {
            let mut session = Session::kept(bridge, file);
            while let Some(ask) = waiting.recv().await {
                match ask {
                    Ask::Ready(reply) => {
                        // Who no longer waits is no error.
                        let _ = reply.send(session.ready().await);
                    }
                    Ask::Failed { id, broken } => session.failed(&id, broken),
                }
            }
        });
        Self { asks }
    }

    async fn ready(&self) -> Result<Ready, SamError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Ready(reply)).await.map_err(|_| SamError::Stopped)?;
        answer.await.map_err(|_| SamError::Stopped)?
    }

    async fn failed(&self, id: String, broken: bool) {
        // The task is gone only when nothing is needed of it.
        let _ = self.asks.send(Ask::Failed { id, broken }).await;
    }

    async fn connect(&self, to: &NetAddr) -> Result<(TcpStream, NetAddr), SamError> {
        let ready = self.ready().await?;
        match sam::connect(&ready.bridge, &ready.id, to).await {
            Ok(stream) => Ok((stream, ready.me)),
            Err(error) => {
                self.failed(ready.id, matches!(error, SamError::InvalidId)).await;
                Err(error)
            }
        }
    }

    /// A socket that waits for a peer, and the address it is reached by.
    async fn listen(&self) -> Result<(TcpStream, Ready), SamError> {
        let ready = self.ready().await?;
        match sam::accept(&ready.bridge, &ready.id).await {
            Ok(stream) => Ok((stream, ready)),
            Err(error) => {
                self.failed(ready.id, matches!(error, SamError::InvalidId)).await;
                Err(error)
            }
        }
    }

    async fn wait_for_peer(&self, stream: &mut TcpStream, ready: &Ready) -> Result<NetAddr, SamError> {
        let result = async {
            stream.readable().await?;
            sam::peer(stream, PEER_DEADLINE).await
        };
        match result.await {
            Ok(destination) => address(&destination),
            Err(error) => {
                let broken = error.ends_session();
                let what = if broken { " (will close the session)" } else { "" };
                tracing::debug!(target: "i2p", "Error accepting{what}: {error}");
                self.failed(ready.id.clone(), broken).await;
                Err(error)
            }
        }
    }
}

/// From which session a call goes out.
#[derive(Debug)]
pub(crate) enum Way {
    Own(Own),
    /// With an address to itself.
    Alone(Box<Session>),
}

/// A connection, and what has to live as long.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) me: NetAddr,
    pub(crate) session: Option<Box<Session>>,
}

/// Connects. A session of its own comes back from a failure, to be used again: making one takes long.
pub(crate) async fn dial(way: Way, to: &NetAddr) -> Result<Connected, (SamError, Option<Box<Session>>)> {
    let (result, session) = match way {
        Way::Own(own) => (own.connect(to).await, None),
        Way::Alone(mut session) => (session.connect(to).await, Some(session)),
    };
    match result {
        Ok((stream, me)) => Ok(Connected { stream, me, session }),
        Err(error) => {
            tracing::debug!(target: "i2p", "Error connecting to {to}: {error}");
            Err((error, session))
        }
    }
}

/// Accepts peers, and tells the address they reach us by, until the owner is gone.
pub(crate) async fn accept_all(own: Own, events: mpsc::Sender<SocketEvent>) {
    let mut pause = PAUSE_FIRST;
    let mut told = None;
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&own, &mut told, &events) => accepted,
            () = events.closed() => return,
        };
        match accepted {
            Ok(event) => {
                pause = PAUSE_FIRST;
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(_) => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause + PAUSE_STEP).min(PAUSE_LAST),
                    () = events.closed() => return,
                }
            }
        }
    }
}

async fn accept_one(
    own: &Own,
    told: &mut Option<NetAddr>,
    events: &mpsc::Sender<SocketEvent>,
) -> Result<SocketEvent, SamError> {
    let listening = own.listen().await;
    let now = listening.as_ref().ok().map(|(_, ready)| ready.me);
    if *told != now {
        // An owner that is gone is noticed by the caller.
        if let Some(address) = told.take() {
            let _ = events.send(SocketEvent::Reachable { address, up: false }).await;
        }
        if let Some(address) = now {
            let _ = events.send(SocketEvent::Reachable { address, up: true }).await;
        }
        *told = now;
    }
    let (mut stream, ready) = listening.inspect_err(|error| tracing::error!("Couldn't listen: {error}"))?;
    let remote = own.wait_for_peer(&mut stream, &ready).await?;
    Ok(SocketEvent::AcceptedI2p { stream, remote, me: ready.me })
}
