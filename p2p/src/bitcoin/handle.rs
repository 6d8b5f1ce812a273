//! What the rest of the node holds of the network: commands to the owner, and the data it answers with.
//!
//! Calls block until the owner answers, which may wait for a block being validated; call them from blocking
//! threads. [`Handle::notify`] never blocks and may be called anywhere. A stopped network answers with nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;

use super::chain::ChainEvent;
use super::config::Proxies;
use super::inbox::Inbox;
use super::net_addr::{NetAddr, Nets};
use super::permissions::{Permissions, Subnet};

/// Longest wait for an answer of the owner.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// Core's `NodeId`: counts connections from 0.
pub type PeerId = u64;

/// Why a connection exists. Names are `getpeerinfo`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionType {
    Inbound,
    Manual,
    OutboundFullRelay,
    BlockRelay,
    Feeler,
    AddrFetch,
    PrivateBroadcast,
}

impl ConnectionType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Manual => "manual",
            Self::OutboundFullRelay => "outbound-full-relay",
            Self::BlockRelay => "block-relay-only",
            Self::Feeler => "feeler",
            Self::AddrFetch => "addr-fetch",
            Self::PrivateBroadcast => "private-broadcast",
        }
    }
}

/// Everything `getpeerinfo` prints, in its order.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub id: PeerId,
    /// As given to `addnode`, or `ip:port`.
    pub addr: String,
    pub addrbind: Option<NetAddr>,
    /// Our address as the peer sees it.
    pub addrlocal: Option<SocketAddr>,
    /// A network's name, or `not_publicly_routable`.
    pub network: &'static str,
    /// The autonomous system, with `-asmap`.
    pub mapped_as: Option<u32>,
    pub services: ServiceFlags,
    pub relay_txes: bool,
    pub last_inv_sequence: u64,
    pub inv_to_send: u64,
    /// Seconds since the epoch, 0 for never; so all times below.
    pub last_send: u64,
    pub last_recv: u64,
    pub last_transaction: u64,
    pub last_block: u64,
    pub bytes_sent: u64,
    pub bytes_recv: u64,
    pub conn_time: u64,
    pub time_offset: i64,
    pub ping_time: Option<Duration>,
    pub min_ping: Option<Duration>,
    pub ping_wait: Option<Duration>,
    pub version: u32,
    pub subver: String,
    pub inbound: bool,
    pub bip152_hb_to: bool,
    pub bip152_hb_from: bool,
    pub presynced_headers: i64,
    pub synced_headers: i64,
    pub synced_blocks: i64,
    /// Heights of blocks asked from this peer.
    pub inflight: Vec<u32>,
    pub addr_relay_enabled: bool,
    pub addr_processed: u64,
    pub addr_rate_limited: u64,
    pub permissions: Permissions,
    /// sat/kvB.
    pub min_fee_filter: u64,
    pub bytes_sent_per_msg: BTreeMap<String, u64>,
    pub bytes_recv_per_msg: BTreeMap<String, u64>,
    pub connection_type: ConnectionType,
    /// `detecting`, `v1` or `v2`.
    pub transport: &'static str,
    /// Hex, empty for v1.
    pub session_id: String,
}

/// `getnettotals`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetTotals {
    pub bytes_recv: u64,
    pub bytes_sent: u64,
    pub upload: UploadTarget,
}

/// State of `-maxuploadtarget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadTarget {
    pub timeframe_secs: u64,
    pub target_bytes: u64,
    pub target_reached: bool,
    pub serve_historical_blocks: bool,
    pub bytes_left_in_cycle: u64,
    pub time_left_in_cycle_secs: u64,
}

/// What `getnetworkinfo` needs from here.
#[derive(Clone, Debug)]
pub struct NetworkInfo {
    pub user_agent: String,
    pub protocol_version: u32,
    pub services: ServiceFlags,
    pub local_relay: bool,
    /// Median over outbound peers.
    pub time_offset: i64,
    pub active: bool,
    pub connections: ConnectionCounts,
    /// Address and score.
    pub local_addresses: Vec<(NetAddr, u32)>,
    /// Networks that are dialed, and through what.
    pub reachable: Nets,
    pub proxies: Proxies,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    pub inbound: usize,
    pub outbound: usize,
}

/// `getaddednodeinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedNode {
    pub node: String,
    /// Remote address, and whether the connection came from there.
    pub connected: Option<(SocketAddr, bool)>,
}

/// `listbanned`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub subnet: Subnet,
    /// Seconds since the epoch.
    pub created: u64,
    pub until: u64,
}

/// Which peers to disconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// By `getpeerinfo`'s `addr`, exactly.
    Address(String),
    Id(PeerId),
    Subnet(Subnet),
}

type Reply<T> = SyncSender<T>;

/// What callers ask of the owner.
#[derive(Debug)]
pub(crate) enum Command {
    Peers(Reply<Vec<PeerInfo>>),
    Info(Reply<NetworkInfo>),
    Totals(Reply<NetTotals>),
    AddNode { node: String, v2: bool, reply: Reply<bool> },
    RemoveNode { node: String, reply: Reply<bool> },
    AddedNodes(Reply<Vec<AddedNode>>),
    Connect { node: String, kind: ConnectionType, v2: bool, reply: Reply<bool> },
    Disconnect { whom: Whom, reply: Reply<bool> },
    PingAll,
    SetActive(bool),
    Ban { subnet: Subnet, until: u64, exact: bool, reply: Reply<bool> },
    Unban { subnet: Subnet, reply: Reply<bool> },
    Bans(Reply<Vec<Ban>>),
    ClearBans(Reply<()>),
    SendRaw { id: PeerId, command: String, payload: Vec<u8>, reply: Reply<bool> },
    FetchBlock { id: PeerId, hash: bitcoin::BlockHash, reply: Reply<Result<(), FetchError>> },
    Advance(Duration),
}

/// Why `getblockfrompeer` cannot ask. Texts are Core's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("Peer does not exist")]
    NoPeer,
    #[error("Pre-SegWit peer")]
    PreSegwit,
    #[error("Already requested from this peer")]
    AlreadyRequested,
    #[error("Failed to fetch block from peer")]
    Failed,
}

/// The network could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Core's text of a failed bind.
    #[error("Unable to bind to {address} on this computer{reason}")]
    Bind { address: SocketAddr, reason: String },
    #[error("cannot start the network thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// A cheap handle on the running network.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) listening: Arc<Vec<SocketAddr>>,
    /// The owner's, until it was joined.
    pub(crate) thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Handle {
    pub(crate) fn owns(&self, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Disconnects all and waits for the owner. Blocks; the second call does nothing.
    pub fn shutdown(&self) {
        self.inbox.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the network thread panicked");
        }
    }

    fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.inbox.command(make(reply)).then(|| answer.recv_timeout(ANSWER_DEADLINE).ok()).flatten()
    }

    /// Tells the network what happened in the node. Never blocks.
    pub fn notify(&self, event: ChainEvent) {
        self.inbox.event(event);
    }

    pub fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).unwrap_or_default()
    }

    /// `None` after the network stopped.
    pub fn info(&self) -> Option<NetworkInfo> {
        self.ask(Command::Info)
    }

    pub fn connection_counts(&self) -> ConnectionCounts {
        self.info().map(|info| info.connections).unwrap_or_default()
    }

    pub fn totals(&self) -> NetTotals {
        self.ask(Command::Totals).unwrap_or_default()
    }

    /// `addnode add`: kept connected from now on. False if it was there already.
    pub fn add_node(&self, node: &str, v2: bool) -> bool {
        self.ask(|reply| Command::AddNode { node: node.to_owned(), v2, reply }).unwrap_or(false)
    }

    /// `addnode remove`: false if it was not there. An existing connection stays.
    pub fn remove_node(&self, node: &str) -> bool {
        self.ask(|reply| Command::RemoveNode { node: node.to_owned(), reply }).unwrap_or(false)
    }

    pub fn added_nodes(&self) -> Vec<AddedNode> {
        self.ask(Command::AddedNodes).unwrap_or_default()
    }

    /// `addnode onetry`: starts one attempt and returns.
    pub fn onetry(&self, node: &str, v2: bool) {
        self.connect(node, ConnectionType::Manual, v2);
    }

    /// `addconnection`: false when there is no room for another of this kind.
    pub fn connect(&self, node: &str, kind: ConnectionType, v2: bool) -> bool {
        self.ask(|reply| Command::Connect { node: node.to_owned(), kind, v2, reply }).unwrap_or(false)
    }

    /// False if there is no such peer. When it returns, the peer is no longer in [`Self::peers`].
    pub fn disconnect(&self, whom: Whom) -> bool {
        self.ask(|reply| Command::Disconnect { whom, reply }).unwrap_or(false)
    }

    pub fn ping_all(&self) {
        self.inbox.command(Command::PingAll);
    }

    /// Off: disconnects all, and neither dials nor accepts.
    pub fn set_network_active(&self, active: bool) {
        self.inbox.command(Command::SetActive(active));
    }

    /// `setban add`, with the end as seconds since the epoch (0: the default ban time from now). Disconnects who is
    /// covered. False if it is banned already: with `exact` (the operator wrote a `/`) by exactly this subnet, else by any.
    pub fn ban(&self, subnet: Subnet, until: u64, exact: bool) -> bool {
        self.ask(|reply| Command::Ban { subnet, until, exact, reply }).unwrap_or(false)
    }

    /// False if exactly this was not banned.
    pub fn unban(&self, subnet: Subnet) -> bool {
        self.ask(|reply| Command::Unban { subnet, reply }).unwrap_or(false)
    }

    pub fn bans(&self) -> Vec<Ban> {
        self.ask(Command::Bans).unwrap_or_default()
    }

    pub fn clear_bans(&self) {
        self.ask(Command::ClearBans);
    }

    /// `sendmsgtopeer`: false if there is no such peer. `command` has at most 12 bytes.
    pub fn send_raw(&self, id: PeerId, command: &str, payload: Vec<u8>) -> bool {
        let command = command.to_owned();
        self.ask(|reply| Command::SendRaw { id, command, payload, reply }).unwrap_or(false)
    }

    /// `getblockfrompeer`.
    pub fn fetch_block(&self, id: PeerId, hash: bitcoin::BlockHash) -> Result<(), FetchError> {
        self.ask(|reply| Command::FetchBlock { id, hash, reply }).unwrap_or(Err(FetchError::Failed))
    }

    /// `mockscheduler`: what is done every few minutes (announcing own transactions again) comes nearer by this much.
    pub fn advance_schedule(&self, by: Duration) {
        self.inbox.command(Command::Advance(by));
    }

    /// Addresses of the open listening sockets, with the ports the system chose.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}
