//! Every limit and deadline of the co-signer network.

use std::time::Duration;

/// Version of the framing and the hello; a peer with another one is refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// Largest frame a peer may send.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// Frames waiting to be written to one peer.
pub const SEND_QUEUE_FRAMES: usize = 4096;
/// Bytes waiting to be written to one peer.
pub const SEND_QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// Events waiting for the owner of this node's wallets.
pub const EVENT_QUEUE: usize = 1024;
/// Bytes of received frames waiting for the owner of this node's wallets, over all peers.
pub const EVENT_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Commands waiting for the owner task.
pub const COMMAND_QUEUE: usize = 64;
/// Answers to pings waiting to be written to one peer.
pub const PONG_QUEUE: usize = 4;

/// Members on the allow-list.
pub const MAX_MEMBERS: usize = 128;
/// Addresses kept for one member; static ones are never pushed out.
pub const MAX_ADDRESSES_PER_PEER: usize = 12;
/// Events kept for the owner task while the listeners start.
pub const MAX_EVENTS_AT_START: usize = 1_000;
/// Addresses kept that mDNS told of peers that are not members yet.
pub const MAX_STRANGER_ADDRESSES: usize = 256;
/// Refused strangers kept for the operator to see.
pub const MAX_REFUSED_KEPT: usize = 32;

/// Connections whose handshake is under way, inbound.
pub const MAX_PENDING_INCOMING: u32 = 256;
/// Connections whose handshake is under way, outbound.
pub const MAX_PENDING_OUTGOING: u32 = 64;
/// Established connections with one member (two at a simultaneous dial, more while old ones die).
pub const MAX_CONNECTIONS_PER_PEER: u32 = 6;
/// Established connections in all.
pub const MAX_CONNECTIONS: u32 = 512;
/// Streams on one connection.
pub const MAX_STREAMS_PER_CONNECTION: usize = 64;

/// TCP connect, Noise and yamux together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// From the connection to the checked hello.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(3);
/// A member's streams that follow each other faster are dropped.
pub const MIN_STREAM_INTERVAL: Duration = Duration::from_millis(100);
/// How long a refused peer may take to read why.
pub const REFUSAL_LINGER: Duration = Duration::from_millis(500);
/// How long a goodbye may take.
pub const GOODBYE_DEADLINE: Duration = Duration::from_millis(300);
/// How often each side says that it lives.
pub const PING_INTERVAL: Duration = Duration::from_millis(400);
/// A peer that was not heard for so long is down.
pub const SILENCE_LIMIT: Duration = Duration::from_millis(1_800);
/// A deadline that is noticed so late tells of this process standing still, not of the peer.
pub const STALL_SIGN: Duration = Duration::from_millis(500);
/// A peer that took no byte for so long while some were waiting is down.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Least time between two pings that only tell a new height.
pub const HEIGHT_INTERVAL: Duration = Duration::from_millis(100);
/// A connection that carries no stream is closed after this.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// First and longest wait between two dials of a member.
pub const DIAL_BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// See [`DIAL_BACKOFF_FIRST`].
pub const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Wait after a peer was refused (other network, bad frame) before it is tried again.
pub const REFUSED_BACKOFF: Duration = Duration::from_secs(4);
/// Two log lines about the same refused stranger are at least so far apart.
pub const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How often mDNS asks when nothing was heard.
pub const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(5);
/// How long others may keep an mDNS record of ours.
pub const MDNS_TTL: Duration = Duration::from_secs(120);
/// How often Kademlia is asked for members that are offline.
pub const DHT_QUERY_INTERVAL: Duration = Duration::from_secs(3);
/// How long a listener may take until it has an address.
pub const LISTEN_DEADLINE: Duration = Duration::from_secs(3);
/// How long a stop waits for goodbyes.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);
/// How long a DNS name in a static address may take.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);
/// Addresses taken from one DNS name.
pub const MAX_RESOLVED: usize = 4;
/// Offline members asked for in one round of Kademlia.
pub const DHT_QUERIES_PER_ROUND: usize = 8;
