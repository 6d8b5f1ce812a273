//! What every carrier of co-signer frames offers, over libp2p or in memory.

use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};

/// Why a member is not reachable. The text is meant for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    #[error("no address is known")]
    NoAddress,
    #[error("not connected yet")]
    NotConnectedYet,
    #[error("cannot connect: {0}")]
    DialFailed(String),
    #[error("another node, {0}, answers at its address")]
    WrongIdentity(PeerId),
    #[error("connection lost")]
    ConnectionLost,
    #[error("nothing heard for {0} ms")]
    Silent(u64),
    #[error("took no data for {0} ms")]
    NotReading(u64),
    #[error("closed the connection before its hello (is this node on its list of co-signers?)")]
    ClosedBeforeHello,
    #[error("no hello within {0} ms")]
    NoHello(u64),
    #[error("other network: {theirs} vs {ours}")]
    OtherNetwork { theirs: String, ours: String },
    #[error("other genesis block: {theirs} vs {ours}")]
    OtherGenesis { theirs: String, ours: String },
    #[error("other protocol version: {theirs} vs {ours}")]
    OtherProtocol { theirs: u16, ours: u16 },
    #[error("bad frame: {0}")]
    BadFrame(String),
    #[error("frame of {0} bytes is above the limit")]
    FrameTooLarge(u64),
    #[error("replaced by a new connection")]
    Replaced,
    #[error("the peer stopped")]
    PeerStopped,
    #[error("not on the list of co-signers")]
    Removed,
    #[error("this node is stopping")]
    ShuttingDown,
}

impl DownReason {
    /// Whether a quick retry is pointless: the peer was refused for what it is or did.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::OtherNetwork { .. }
                | Self::OtherGenesis { .. }
                | Self::OtherProtocol { .. }
                | Self::BadFrame(_)
                | Self::FrameTooLarge(_)
        )
    }
}

/// What the owner of this node's wallets hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The member is connected and its hello was accepted.
    Up(PeerId),
    /// The member is gone; frames that were queued for it are dropped.
    Down(PeerId, DownReason),
    /// One frame, whole, from that member.
    Frame { from: PeerId, bytes: Vec<u8> },
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("not connected")]
    NotConnected,
    #[error("too many frames are waiting for this peer")]
    QueueFull,
    #[error("frame is above the limit")]
    TooLarge,
}

/// One member as seen from here.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub peer: PeerId,
    /// Four groups of four hex digits; empty if the PeerId holds no ed25519 key.
    pub fingerprint: String,
    pub addresses: Vec<Multiaddr>,
    pub online: bool,
    /// Last measured round trip, while online.
    pub latency: Option<Duration>,
    /// Software version the peer named in its last hello.
    pub version: Option<String>,
    /// Height of the peer's chain as it last told.
    pub blocks: Option<u32>,
    /// When the peer was last heard; none if never.
    pub last_seen: Option<SystemTime>,
    /// Why it is offline; none while online.
    pub reason_offline: Option<DownReason>,
}

/// Carries frames to the members of this node's allow-list. All calls return at once.
pub trait Carrier: Send + Sync + 'static {
    /// This node's own PeerId.
    fn me(&self) -> PeerId;

    /// Queues a frame. Taken is not delivered: if the connection ends, queued frames are dropped
    /// and `Event::Down` tells so.
    fn send(&self, peer: &PeerId, frame: Vec<u8>) -> Result<(), SendError>;

    /// All members of the allow-list, in the order of their PeerIds.
    fn peers(&self) -> Vec<PeerStatus>;

    /// One member; none if it is not on the allow-list.
    fn peer(&self, peer: &PeerId) -> Option<PeerStatus> {
        self.peers().into_iter().find(|status| status.peer == *peer)
    }

    /// Whether a frame to the member would be taken for sending now.
    fn is_online(&self, peer: &PeerId) -> bool;

    /// Tells the members the height of this node's chain.
    fn set_height(&self, height: u32);

    /// Where this node listens.
    fn listen_addresses(&self) -> Vec<Multiaddr>;
}
