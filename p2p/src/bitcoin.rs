//! Bitcoin's peer-to-peer protocol, spoken so that Bitcoin Core's nodes and tests see one of their own.
//!
//! Owns: sockets, the handshake, who is connected and why, headers-first sync, which block is asked from
//! whom, what was announced to whom, orphans, bans and addresses. Refuses to judge: every header, block and
//! transaction goes to a [`Chain`], whose verdict is final. Behaviour follows Core 31.99's `net.cpp` and
//! `net_processing.cpp`; log lines under the tracing target `net` use Core's words, for its tests read them.
//!
//! Map: [`chain`] what the node must provide, [`config`] options, [`handle`] what callers hold, `owner` the
//! one thread that owns all state, `peer` one peer's state, `downloads` bookkeeping without I/O,
//! `message`, `wire` and `transport` the formats, `socket` the only tasks that do I/O, `net_addr` addresses on all
//! networks, `i2p` the bridge to I2P, `tor` the control port of Tor, `bans` what is remembered about hosts.
//!
//! The owner is a plain thread because the chain's calls block; sockets are tokio tasks. Nothing here calls
//! the chain from a tokio worker.

mod bans;
mod capture;
pub mod chain;
pub mod config;
mod downloads;
pub mod handle;
mod i2p;
mod inbox;
mod message;
pub mod net_addr;
mod owner;
mod peer;
pub mod permissions;
mod rolling;
mod socket;
mod stream;
mod tor;
mod transport;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

pub use chain::{
    AddressBook, AddressSource, BlockOutcome, BlockRef, Chain, ChainEvent, CompactAnswer, CompactBlocks, CompactEnd,
    CompactStart, HeaderInfo, HeaderRef, HeadersError, InboundPeer, LightClients, LowWorkStep, LowWorkSync, Malformed,
    MempoolTx, PeerRules, PrivateBroadcast, PrivateTx, Received, RelayPeer, Relayed, Snapshot, TxRef, TxRelay,
};
pub use config::{Bind, Config, Outbound, Permissions};
pub use handle::{ConnectionType, Handle, PeerId, PeerInfo, StartError, Whom};
pub use message::{decode_addresses, encode_addresses};
pub use net_addr::{Gossip, Net, NetAddr, Nets};

use inbox::Inbox;
use owner::{Owner, Wiring};

/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: i32 = 4_096;

/// Opens the listening sockets and starts the owner, which runs until [`Handle::shutdown`]. Call it inside a tokio
/// runtime's context: sockets run there.
pub fn start(config: Config, chain: Arc<dyn Chain>) -> Result<Handle, StartError> {
    let mut listeners = Vec::new();
    let mut listening = Vec::new();
    for bind in &config.binds {
        let listener = open(bind.address)
            .map_err(|error| StartError::Bind { address: bind.address, reason: bind_reason(&error) })?;
        let address = listener.local_addr().unwrap_or(bind.address);
        tracing::info!("Bound to {address}");
        listening.push(address);
        listeners.push(listener);
    }
    let listening = Arc::new(listening);
    let inbox = Arc::new(Inbox::default());
    let handle = Handle { inbox: Arc::clone(&inbox), listening: Arc::clone(&listening), thread: Arc::default() };
    let wiring = Wiring { inbox, runtime: tokio::runtime::Handle::current(), listeners, listening };
    // Core names its threads so; who watches a start waits for these lines.
    for thread in ["net", "addcon", "msghand"] {
        tracing::info!("{thread} thread start");
    }
    let thread = std::thread::Builder::new()
        .name("b-msghand".to_owned())
        .spawn(move || Owner::new(config, chain, wiring).run())
        .map_err(StartError::Thread)?;
    handle.owns(thread);
    Ok(handle)
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // As Core: IPv4 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Core's words for why a bind failed.
fn bind_reason(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        ". Bitcoin Core is probably already running.".to_owned()
    } else {
        format!(" (bind returned error {})", error.to_string().replace("(os error ", "("))
    }
}
