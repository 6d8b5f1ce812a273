//! The only tasks that do I/O: listeners, dials, and one reader and writer for each connection.
//!
//! They hold no protocol state. Readers hand frames to the owner over one bounded queue and stop reading while
//! the owner has not processed what they brought (permits count KiB). Writers take from a bounded queue.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bitcoin::p2p::Magic;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::config::Proxy;
use super::handle::PeerId;
use super::i2p;
use super::net_addr::NetAddr;
use super::stream::{self, Stream, WriteHalf};
use super::transport::{self, Input, Opened, Opening, Seal, TransportError, Unseal};
use super::wire::{Frame, FrameError, HEADER_BYTES, MAX_PAYLOAD};

/// Messages waiting to be written to one peer; one more disconnects it.
pub(crate) const MAX_OUTGOING: usize = 8_192;
/// What was queued before a disconnect has this long to leave.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// Addresses taken from one name.
const MAX_RESOLVED: usize = 256;

/// What sockets tell the owner.
#[derive(Debug)]
pub(crate) enum SocketEvent {
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        bind: usize,
    },
    AcceptedI2p {
        stream: TcpStream,
        remote: NetAddr,
        /// Our own address there.
        me: NetAddr,
    },
    /// We are reached by an address, or no longer.
    Reachable {
        address: NetAddr,
        up: bool,
    },
    /// Tor says where its proxy is.
    OnionProxy(String),
    Dialed {
        ticket: u64,
        result: Result<Dialed, DialError>,
    },
    Frame {
        id: PeerId,
        frame: Frame,
        permit: OwnedSemaphorePermit,
    },
    /// One message was dropped; it took this many bytes.
    Dropped {
        id: PeerId,
        error: FrameError,
        wire_bytes: usize,
    },
    /// The send queue fell below its limit again.
    Drained {
        id: PeerId,
    },
    /// The transport is settled; v2 has a session id.
    Opened {
        id: PeerId,
        session: Option<[u8; 32]>,
    },
    Closed {
        id: PeerId,
        reason: TransportError,
    },
    Resolved {
        name: String,
        addresses: Vec<SocketAddr>,
    },
}

/// A call that was answered.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    /// Unknown for a name that a proxy looked up.
    pub(crate) remote: Option<NetAddr>,
    /// Our end, where the socket does not know it.
    pub(crate) me: Option<NetAddr>,
    /// Has to live as long as the connection.
    pub(crate) session: Option<Box<i2p::Session>>,
}

impl Dialed {
    fn plain(stream: Stream, remote: Option<NetAddr>) -> Self {
        Self { stream, remote, me: None, session: None }
    }
}

/// A call that was not.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct DialError {
    text: String,
    /// The proxy is at fault.
    pub(crate) by_proxy: bool,
    /// To be used again.
    pub(crate) session: Option<Box<i2p::Session>>,
}

impl DialError {
    fn of_node(text: String) -> Self {
        Self { text, by_proxy: false, session: None }
    }
}

/// Live byte counts of one connection.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Bytes queued and not yet written.
    pub(crate) queued: AtomicUsize,
}

/// A message to write.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) command: String,
    pub(crate) payload: Vec<u8>,
}

impl Outgoing {
    /// What it counts for in the send buffer.
    fn counted(&self) -> usize {
        self.payload.len() + HEADER_BYTES
    }
}

/// The owner's end of a connection. Dropping it flushes shortly and closes the socket.
#[derive(Debug)]
pub(crate) struct Link {
    outgoing: Option<mpsc::Sender<Outgoing>>,
    closing: Arc<Notify>,
    pub(crate) counters: Arc<Counters>,
    limit: usize,
}

impl Link {
    /// False if the peer reads so slowly that the queue is full.
    pub(crate) fn send(&self, message: Outgoing) -> bool {
        let bytes = message.counted();
        let Some(queue) = &self.outgoing else { return false };
        self.counters.queued.fetch_add(bytes, Ordering::AcqRel);
        queue.try_send(message).is_ok()
    }

    /// The send buffer is full: answer nothing more until [`SocketEvent::Drained`].
    pub(crate) fn is_congested(&self) -> bool {
        self.counters.queued.load(Ordering::Acquire) > self.limit
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outgoing = None;
        self.closing.notify_one();
    }
}

/// Limits and format of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketConfig {
    pub(crate) magic: Magic,
    pub(crate) opening: Opening,
    pub(crate) max_receive_bytes: usize,
    pub(crate) max_send_bytes: usize,
}

/// What every task of a connection has.
struct Connection {
    id: PeerId,
    config: SocketConfig,
    events: mpsc::Sender<SocketEvent>,
    counters: Arc<Counters>,
    /// Ends when the connection does.
    _session: Option<Box<i2p::Session>>,
}

/// Starts the tasks of a connection.
pub(crate) fn open(
    runtime: &tokio::runtime::Handle,
    stream: Stream,
    id: PeerId,
    config: SocketConfig,
    events: mpsc::Sender<SocketEvent>,
    session: Option<Box<i2p::Session>>,
) -> Link {
    let (outgoing, queue) = mpsc::channel(MAX_OUTGOING);
    let closing = Arc::new(Notify::new());
    let counters = Arc::new(Counters::default());
    let link = Link {
        outgoing: Some(outgoing),
        closing: Arc::clone(&closing),
        counters: Arc::clone(&counters),
        limit: config.max_send_bytes,
    };
    runtime.spawn(run(stream, Connection { id, config, events, counters, _session: session }, queue, closing));
    link
}

async fn run(stream: Stream, connection: Connection, queue: mpsc::Receiver<Outgoing>, closing: Arc<Notify>) {
    let (input, mut output) = stream.into_split();
    let mut input = Input::new(connection.id, input, Arc::clone(&connection.counters));
    let Connection { id, config, ref events, .. } = connection;
    let opened = tokio::select! {
        opened = transport::open(config.opening, config.magic, &mut input, &mut output) => opened,
        () = closing.notified() => return,
    };
    let Opened { unseal, seal, session } = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            let _ = events.send(SocketEvent::Closed { id, reason }).await;
            return;
        }
    };
    if events.send(SocketEvent::Opened { id, session }).await.is_err() {
        return;
    }
    let mut reader = Box::pin(read_loop(input, unseal, &connection));
    let mut writer = Box::pin(write_loop(output, seal, queue, &connection));
    let reason = tokio::select! {
        reason = &mut reader => reason,
        result = &mut writer => match result {
            Ok(()) => return,
            Err(error) => error,
        },
        () = closing.notified() => {
            let _ = tokio::time::timeout(FLUSH_DEADLINE, writer).await;
            return;
        }
    };
    let _ = events.send(SocketEvent::Closed { id, reason }).await;
}

async fn read_loop(mut input: Input, mut unseal: Unseal, connection: &Connection) -> TransportError {
    let most = connection.config.max_receive_bytes.max(MAX_PAYLOAD);
    let kib = (most / 1_024).saturating_add(2).min(Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(kib));
    loop {
        if let Err(reason) = read_message(&mut input, &mut unseal, connection, &room).await {
            return reason;
        }
    }
}

async fn read_message(
    input: &mut Input,
    unseal: &mut Unseal,
    connection: &Connection,
    room: &Arc<Semaphore>,
) -> Result<(), TransportError> {
    let id = connection.id;
    let next = unseal.next(input).await?;
    let permits = u32::try_from(next.bytes() / 1_024 + 1).unwrap_or(u32::MAX);
    let permit = Arc::clone(room).acquire_many_owned(permits).await.map_err(|_| TransportError::ByPeer)?;
    let event = match unseal.message(next, input).await? {
        None => return Ok(()),
        Some(Ok(frame)) => SocketEvent::Frame { id, frame, permit },
        Some(Err((error, wire_bytes))) => SocketEvent::Dropped { id, error, wire_bytes },
    };
    connection.events.send(event).await.map_err(|_| TransportError::ByPeer)
}

async fn write_loop(
    mut output: WriteHalf,
    mut seal: Seal,
    mut queue: mpsc::Receiver<Outgoing>,
    connection: &Connection,
) -> Result<(), TransportError> {
    let limit = connection.config.max_send_bytes;
    while let Some(message) = queue.recv().await {
        let bytes = seal.message(&message.command, &message.payload);
        transport::write_all(&mut output, &bytes, &connection.counters).await?;
        let counted = message.counted();
        let before = connection.counters.queued.fetch_sub(counted, Ordering::AcqRel);
        let crossed = before > limit && before.saturating_sub(counted) <= limit;
        let drained = SocketEvent::Drained { id: connection.id };
        if crossed && connection.events.send(drained).await.is_err() {
            break;
        }
    }
    output.shutdown().await?;
    Ok(())
}

/// Accepts until the owner is gone.
pub(crate) async fn listen(listener: TcpListener, bind: usize, events: mpsc::Sender<SocketEvent>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                    let event = SocketEvent::Accepted { stream, remote, bind };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                // Out of descriptors or a connection that died in the queue: both pass.
                Err(error) => {
                    tracing::debug!(target: "net", "socket error accept failed: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = events.closed() => return,
        }
    }
}

/// `host`, `host:port`, `[v6]:port` to a form that has a port.
pub(crate) fn with_port(node: &str, default_port: u16) -> String {
    if let Ok(ip) = node.trim_start_matches('[').trim_end_matches(']').parse() {
        return SocketAddr::new(ip, default_port).to_string();
    }
    let (host, port) = match node.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, Some(port)),
        _ => (node, None),
    };
    if let Some(ip) = short_ipv4(host) {
        return format!("{ip}:{}", port.map_or(default_port.to_string(), str::to_owned));
    }
    match node.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => node.to_owned(),
        _ => format!("{node}:{default_port}"),
    }
}

/// `127.1` for `127.0.0.1`, as the C library reads numbers.
fn short_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.is_empty() || first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let shift = |at: usize| 24 - 8 * u32::try_from(at).unwrap_or(0);
    let high: u32 = first.iter().enumerate().map(|(at, part)| part << shift(at)).sum();
    let room = 8 * (4 - u32::try_from(first.len()).ok()?);
    (u64::from(*last) < 1 << room).then(|| Ipv4Addr::from_bits(high | last))
}

async fn resolve(node: &str, default_port: u16) -> Result<Vec<SocketAddr>, String> {
    let node = with_port(node, default_port);
    if let Ok(address) = node.parse() {
        return Ok(vec![address]);
    }
    let found = tokio::net::lookup_host(&node).await.map_err(|error| error.to_string())?;
    Ok(found.take(MAX_RESOLVED).collect())
}

/// How to reach a node.
#[derive(Debug)]
pub(crate) enum Route {
    /// Resolved here.
    Direct,
    /// By a proxy; the address, if it is one.
    Through(Proxy, Option<NetAddr>),
    I2p(i2p::Way, NetAddr),
}

/// Connects, all within `deadline`. Through a proxy the deadline is the proxy's own.
pub(crate) async fn dial(
    ticket: u64,
    node: String,
    default_port: u16,
    route: Route,
    deadline: Duration,
    events: mpsc::Sender<SocketEvent>,
) {
    let result = match route {
        Route::Direct => match tokio::time::timeout(deadline, directly(&node, default_port)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::of_node("timeout".to_owned())),
        },
        Route::Through(proxy, address) => {
            let (host, port) = match address {
                Some(address) => (address.host(), address.port()),
                None => split(&with_port(&node, default_port), default_port),
            };
            match stream::through(&proxy, &host, port).await {
                Ok(stream) => Ok(Dialed::plain(stream, address)),
                Err(error) => Err(DialError { by_proxy: error.is_of_proxy(), text: error.to_string(), session: None }),
            }
        }
        Route::I2p(way, address) => match i2p::dial(way, &address).await {
            Ok(i2p::Connected { stream, me, session }) => {
                Ok(Dialed { stream: Stream::Tcp(stream), remote: Some(address), me: Some(me), session })
            }
            Err((error, session)) => {
                Err(DialError { text: error.to_string(), by_proxy: error.is_of_bridge(), session })
            }
        },
    };
    let _ = events.send(SocketEvent::Dialed { ticket, result }).await;
}

fn split(node: &str, default_port: u16) -> (String, u16) {
    match node.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().unwrap_or(default_port)),
        None => (node.to_owned(), default_port),
    }
}

async fn directly(node: &str, default_port: u16) -> Result<Dialed, DialError> {
    let mut last = format!("Cannot resolve {node}");
    for address in resolve(node, default_port).await.map_err(DialError::of_node)? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(Dialed::plain(Stream::Tcp(stream), Some(address.into()))),
            Err(error) => last = error.to_string(),
        }
    }
    Err(DialError::of_node(last))
}

/// Asks a seed for addresses.
pub(crate) async fn ask_seed(name: String, default_port: u16, deadline: Duration, events: mpsc::Sender<SocketEvent>) {
    let found = tokio::time::timeout(deadline, resolve(&name, default_port)).await;
    let addresses = found.ok().and_then(Result::ok).unwrap_or_default();
    let _ = events.send(SocketEvent::Resolved { name, addresses }).await;
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_missing_port_is_the_default_one() {
        assert_eq!(with_port("1.2.3.4", 8333), "1.2.3.4:8333");
        assert_eq!(with_port("1.2.3.4:1", 8333), "1.2.3.4:1");
        assert_eq!(with_port("127.1:5", 8333), "127.0.0.1:5");
        assert_eq!(with_port("::1", 8333), "[::1]:8333");
        assert_eq!(with_port("[::1]:5", 8333), "[::1]:5");
        assert_eq!(with_port("seed.example", 8333), "seed.example:8333");
    }
}
