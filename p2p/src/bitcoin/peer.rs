//! Everything known about one connected peer. Plain state: the owner reads and writes it.
//!
//! Every collection a peer can grow has a limit here or where it is filled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message_blockdata::Inventory;
use bitcoin::{BlockHash, Txid, Wtxid};
use tokio::sync::OwnedSemaphorePermit;

use super::chain::{HeaderRef, LowWorkSync};
use super::handle::{ConnectionType, PeerId};
use super::net_addr::{Gossip, NetAddr};
use super::permissions::Permissions;
use super::rolling::RollingSet;
use super::socket::{Link, Outgoing};
use super::transport::{self, Opening};
use super::wire::Frame;

/// Announcements remembered for each peer (Core's filter holds as many).
const KNOWN_TXS: usize = 50_000;
/// Addresses remembered as known to a peer.
const KNOWN_ADDRESSES: usize = 5_000;
/// Message types Core counts by name; all others are counted together.
const KNOWN_TYPES: [&str; 36] = [
    "version",
    "verack",
    "addr",
    "addrv2",
    "sendaddrv2",
    "inv",
    "getdata",
    "merkleblock",
    "getblocks",
    "getheaders",
    "tx",
    "headers",
    "block",
    "getaddr",
    "mempool",
    "ping",
    "pong",
    "notfound",
    "filterload",
    "filteradd",
    "filterclear",
    "sendheaders",
    "feefilter",
    "sendcmpct",
    "cmpctblock",
    "getblocktxn",
    "blocktxn",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "wtxidrelay",
    "sendtxrcncl",
    "feature",
];
/// Core's `NET_MESSAGE_TYPE_OTHER`.
pub(crate) const OTHER: &str = "*other*";

/// Transaction relay with one peer; absent where none is wanted.
#[derive(Debug)]
pub(crate) struct TxRelay {
    /// The peer wants announcements.
    pub(crate) wanted: bool,
    pub(crate) to_send: BTreeSet<Wtxid>,
    /// Ids of the kind the peer speaks, announced by either side.
    pub(crate) known: RollingSet<[u8; 32]>,
    pub(crate) next_send: Duration,
    /// Mempool sequence at the last announcement: nothing younger is handed out.
    pub(crate) last_inv_sequence: u64,
    /// sat/kvB.
    pub(crate) fee_filter: u64,
    /// The peer asked for the whole mempool.
    pub(crate) send_mempool: bool,
    /// It set a bloom filter.
    pub(crate) bloom: bool,
}

impl TxRelay {
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            to_send: BTreeSet::new(),
            known: RollingSet::new(KNOWN_TXS),
            next_send: Duration::ZERO,
            last_inv_sequence: 1,
            fee_filter: 0,
            send_mempool: false,
            bloom: false,
        }
    }
}

/// Address gossip with one peer.
#[derive(Debug)]
pub(crate) struct AddressRelay {
    pub(crate) enabled: bool,
    pub(crate) known: RollingSet<NetAddr>,
    pub(crate) to_send: Vec<Gossip>,
    pub(crate) next_send: Duration,
    pub(crate) next_self: Duration,
    /// Addresses that may be processed now; refills with time.
    pub(crate) tokens: f64,
    pub(crate) tokens_at: Duration,
    pub(crate) getaddr_sent: bool,
    pub(crate) getaddr_received: bool,
    pub(crate) processed: u64,
    pub(crate) rate_limited: u64,
}

/// Watching whether an outbound peer's chain keeps up (Core's `ChainSyncTimeoutState`).
#[derive(Debug, Default)]
pub(crate) struct ChainSync {
    pub(crate) timeout: Option<Duration>,
    pub(crate) work_header: Option<HeaderRef>,
    pub(crate) sent_getheaders: bool,
    pub(crate) protect: bool,
}

/// The format below the messages, as far as it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Detecting,
    V1,
    V2,
}

impl Transport {
    /// Core's `TransportTypeAsString`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Detecting => "detecting",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A sync of headers with too little work so far.
pub(crate) struct LowWork {
    pub(crate) sync: Box<dyn LowWorkSync>,
    /// Height reached, for reports.
    pub(crate) height: u64,
}

impl std::fmt::Debug for LowWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LowWork").field("height", &self.height).finish_non_exhaustive()
    }
}

/// How far BIP330's handshake got. The protocol itself is not spoken yet, by us as by Core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reconciliation {
    No,
    Offered,
    Agreed,
}

#[derive(Debug)]
pub(crate) struct Ping {
    pub(crate) nonce: u64,
    pub(crate) start: Duration,
    pub(crate) queued: bool,
    pub(crate) last: Option<Duration>,
    pub(crate) min: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    /// Its IP address; unspecified where there is none (behind a proxy that looks names up).
    pub(crate) address: SocketAddr,
    /// Its address on its network.
    pub(crate) target: NetAddr,
    pub(crate) bound: Option<NetAddr>,
    pub(crate) onion: bool,
    /// It misbehaved before it came.
    pub(crate) discouraged: bool,
    pub(crate) kind: ConnectionType,
    pub(crate) permissions: Permissions,
    pub(crate) connected: Duration,
    pub(crate) link: Link,
    pub(crate) log_address: bool,
    pub(crate) opening: Opening,
    pub(crate) transport: Transport,
    /// Hex of v2's session id.
    pub(crate) session: String,

    // Handshake.
    pub(crate) nonce: u64,
    pub(crate) version: u32,
    pub(crate) common_version: u32,
    /// Both sides said `verack`.
    pub(crate) ready: bool,
    pub(crate) version_sent: bool,
    pub(crate) services: ServiceFlags,
    pub(crate) user_agent: String,
    pub(crate) address_of_us: Option<SocketAddr>,
    pub(crate) time_offset: i64,
    pub(crate) wtxid_relay: bool,
    pub(crate) wants_addrv2: bool,
    pub(crate) reconciliation: Reconciliation,
    pub(crate) prefers_headers: bool,
    pub(crate) sent_sendheaders: bool,
    pub(crate) provides_compact: bool,
    /// It wants new blocks as compact blocks at once.
    pub(crate) high_bandwidth_from: bool,
    /// We want them so from it.
    pub(crate) high_bandwidth_to: bool,

    // Headers and blocks.
    pub(crate) preferred_download: bool,
    pub(crate) best_known: Option<HeaderRef>,
    pub(crate) last_unknown: Option<BlockHash>,
    pub(crate) best_header_sent: Option<HeaderRef>,
    pub(crate) last_common: Option<u32>,
    pub(crate) sync_started: bool,
    pub(crate) headers_timeout: Option<Duration>,
    pub(crate) low_work: Option<LowWork>,
    pub(crate) last_getheaders: Duration,
    pub(crate) inv_triggered_getheaders: bool,
    pub(crate) last_block_announcement: Duration,
    pub(crate) chain_sync: ChainSync,
    /// New blocks to announce, oldest first.
    pub(crate) announce: Vec<BlockHash>,
    pub(crate) announce_by_inv: Vec<BlockHash>,
    pub(crate) continuation: Option<BlockHash>,

    // Work that waits for room in the send buffer.
    pub(crate) getdata: VecDeque<Inventory>,
    /// Frames whose bytes still count against the reader.
    pub(crate) backlog: VecDeque<(Frame, OwnedSemaphorePermit)>,

    pub(crate) txs: Option<TxRelay>,
    pub(crate) fee_filter_sent: u64,
    pub(crate) next_fee_filter: Duration,
    pub(crate) last_tx: Duration,
    pub(crate) last_block: Duration,
    pub(crate) addresses: AddressRelay,
    pub(crate) ping: Ping,
    /// Broke a rule; the owner decides at its next look.
    pub(crate) misbehaved: bool,

    // Accounting.
    pub(crate) received_seen: u64,
    pub(crate) sent_seen: u64,
    pub(crate) last_received: Duration,
    pub(crate) last_sent: Duration,
    pub(crate) received_by_type: BTreeMap<String, u64>,
    pub(crate) sent_by_type: BTreeMap<String, u64>,
    /// The send queue overflowed.
    pub(crate) overflowed: bool,
}

/// What is known when a connection begins.
pub(crate) struct NewPeer {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) target: NetAddr,
    pub(crate) bound: Option<NetAddr>,
    pub(crate) onion: bool,
    pub(crate) discouraged: bool,
    pub(crate) kind: ConnectionType,
    pub(crate) permissions: Permissions,
    pub(crate) nonce: u64,
    pub(crate) log_address: bool,
    pub(crate) opening: Opening,
}

impl Peer {
    pub(crate) fn new(new: NewPeer, link: Link, now: Duration) -> Self {
        Self {
            id: new.id,
            name: new.name,
            address: new.address,
            target: new.target,
            bound: new.bound,
            onion: new.onion,
            discouraged: new.discouraged,
            kind: new.kind,
            permissions: new.permissions,
            connected: now,
            link,
            log_address: new.log_address,
            opening: new.opening,
            transport: if new.opening == Opening::V1 { Transport::V1 } else { Transport::Detecting },
            session: String::new(),
            nonce: new.nonce,
            version: 0,
            common_version: 0,
            ready: false,
            version_sent: false,
            services: ServiceFlags::NONE,
            user_agent: String::new(),
            address_of_us: None,
            time_offset: 0,
            wtxid_relay: false,
            wants_addrv2: false,
            reconciliation: Reconciliation::No,
            prefers_headers: false,
            sent_sendheaders: false,
            provides_compact: false,
            high_bandwidth_from: false,
            high_bandwidth_to: false,
            preferred_download: false,
            best_known: None,
            last_unknown: None,
            best_header_sent: None,
            last_common: None,
            sync_started: false,
            headers_timeout: None,
            low_work: None,
            last_getheaders: Duration::ZERO,
            inv_triggered_getheaders: false,
            last_block_announcement: Duration::ZERO,
            chain_sync: ChainSync::default(),
            announce: Vec::new(),
            announce_by_inv: Vec::new(),
            continuation: None,
            getdata: VecDeque::new(),
            backlog: VecDeque::new(),
            txs: None,
            fee_filter_sent: 0,
            next_fee_filter: Duration::ZERO,
            last_tx: Duration::ZERO,
            last_block: Duration::ZERO,
            addresses: AddressRelay {
                enabled: false,
                known: RollingSet::new(KNOWN_ADDRESSES),
                to_send: Vec::new(),
                next_send: Duration::ZERO,
                next_self: Duration::ZERO,
                tokens: 1.0,
                tokens_at: now,
                getaddr_sent: false,
                getaddr_received: false,
                processed: 0,
                rate_limited: 0,
            },
            ping: Ping { nonce: 0, start: Duration::ZERO, queued: false, last: None, min: None },
            misbehaved: false,
            received_seen: 0,
            sent_seen: 0,
            last_received: Duration::ZERO,
            last_sent: Duration::ZERO,
            received_by_type: BTreeMap::new(),
            sent_by_type: BTreeMap::new(),
            overflowed: false,
        }
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.kind == ConnectionType::Inbound
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.kind == ConnectionType::Manual
    }

    /// Outbound, chosen by us for its chain: subject to eviction when it lags.
    pub(crate) fn is_outbound_or_block_relay(&self) -> bool {
        matches!(self.kind, ConnectionType::OutboundFullRelay | ConnectionType::BlockRelay)
    }

    pub(crate) fn is_block_only(&self) -> bool {
        self.kind == ConnectionType::BlockRelay
    }

    pub(crate) fn is_private(&self) -> bool {
        self.kind == ConnectionType::PrivateBroadcast
    }

    /// The peer must offer what we want, or go (Core's `ExpectServicesFromConn`).
    pub(crate) fn must_serve(&self) -> bool {
        matches!(self.kind, ConnectionType::OutboundFullRelay | ConnectionType::BlockRelay | ConnectionType::AddrFetch)
    }

    pub(crate) fn can_serve_blocks(&self) -> bool {
        self.services.has(ServiceFlags::NETWORK) || self.services.has(ServiceFlags::NETWORK_LIMITED)
    }

    /// Keeps only the last blocks.
    pub(crate) fn is_limited(&self) -> bool {
        !self.services.has(ServiceFlags::NETWORK) && self.services.has(ServiceFlags::NETWORK_LIMITED)
    }

    pub(crate) fn can_serve_witnesses(&self) -> bool {
        self.services.has(ServiceFlags::WITNESS)
    }

    pub(crate) fn has(&self, permission: Permissions) -> bool {
        self.permissions.has(permission)
    }

    /// Core's `LogPeer`.
    pub(crate) fn log(&self) -> String {
        if self.log_address { format!("peer={}, peeraddr={}", self.id, self.name) } else { format!("peer={}", self.id) }
    }

    /// Core's `DisconnectMsg`.
    pub(crate) fn disconnecting(&self) -> String {
        format!("disconnecting {}", self.log())
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, command: &str, payload: Vec<u8>) {
        tracing::debug!(target: "net", "sending {command} ({} bytes) peer={}", payload.len(), self.id);
        let v2 = self.transport != Transport::V1;
        let bytes = transport::wire_bytes(v2, command, payload.len()) as u64;
        count(&mut self.sent_by_type, command, bytes);
        let message = Outgoing { command: command.to_owned(), payload };
        if !self.link.send(message) {
            self.overflowed = true;
        }
    }

    pub(crate) fn count_received(&mut self, command: &str, wire_bytes: usize) {
        count(&mut self.received_by_type, command, wire_bytes as u64);
    }

    /// Looks at the socket's counters; movement since the last look happened now.
    pub(crate) fn look_at_counters(&mut self, now: Duration) {
        let received = self.link.counters.received.load(Ordering::Relaxed);
        if received != self.received_seen {
            self.received_seen = received;
            self.last_received = now;
        }
        let sent = self.link.counters.sent.load(Ordering::Relaxed);
        if sent != self.sent_seen {
            self.sent_seen = sent;
            self.last_sent = now;
        }
    }

    /// Notes that the peer knows a transaction, by the kind of id it speaks.
    pub(crate) fn knows_tx(&mut self, id: [u8; 32]) {
        if let Some(txs) = &mut self.txs {
            txs.known.insert(id);
        }
    }

    /// Puts a transaction on the list of what to announce.
    pub(crate) fn queue_tx(&mut self, txid: Txid, wtxid: Wtxid, limit: usize) {
        use bitcoin::hashes::Hash;
        let id = if self.wtxid_relay { wtxid.to_byte_array() } else { txid.to_byte_array() };
        let ready = self.ready;
        let Some(txs) = &mut self.txs else { return };
        if ready && !txs.known.contains(&id) && txs.to_send.len() < limit {
            txs.to_send.insert(wtxid);
        }
    }
}

fn count(into: &mut BTreeMap<String, u64>, command: &str, bytes: u64) {
    let name = if KNOWN_TYPES.contains(&command) { command } else { OTHER };
    *into.entry(name.to_owned()).or_default() += bytes;
}
