//! The one thread that owns all peer state.
//!
//! It waits for frames, commands and chain events, does what each asks, and looks at every peer ten times a second
//! (Core's `SendMessages`). It may block in the chain; sockets meanwhile fill their bounded queues and then stop reading.
//! While a peer is worked on it is out of the map, so a handler holds it and the owner at the same time.

mod announce;
mod blocks;
mod commands;
mod compact;
mod connections;
mod dials;
mod extra;
mod fetch;
mod gossip;
mod handshake;
mod headers;
mod hidden;
mod inventory;
mod light;
mod private;
mod report;
mod seeding;
mod service;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use bitcoin::p2p::message_blockdata::Inventory;
use tokio::net::TcpListener;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;

use super::bans::Bans;
use super::capture::Capture;
use super::chain::{Chain, ChainEvent};
use super::config::Config;
use super::downloads::Downloads;
use super::handle::PeerId;
use super::inbox::Inbox;
use super::message::MessageError;
use super::net_addr::Gossip;
use super::peer::{Peer, Transport};
use super::socket::SocketEvent;
use super::transport::{Opening, TransportError};
use super::wire::Frame;
use dials::Dials;
use inventory::RecentBlock;

/// Frames and socket events waiting for the owner.
pub(super) const MAX_SOCKET_EVENTS: usize = 4_096;
/// How often every peer is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Socket events worked on before commands are looked at again.
const BATCH: usize = 64;
/// Up to so many peers, all are looked at whenever one sent something, as Core does; with more, the tick is soon enough.
const FEW_PEERS: usize = 16;
/// Chain events worked on in one go.
const EVENT_BATCH: usize = 1_000;

/// Why a handler stopped early.
#[derive(Debug)]
pub(super) enum Halt {
    /// The peer must go; the reason is logged.
    Gone,
    /// The payload is not what its type says. Core logs that and goes on.
    Malformed(String),
}

impl From<MessageError> for Halt {
    fn from(error: MessageError) -> Self {
        Self::Malformed(error.0)
    }
}

/// What handlers return.
pub(super) type Step = Result<(), Halt>;

/// Logs why a peer is disconnected.
fn gone(reason: impl std::fmt::Display) -> Halt {
    tracing::debug!(target: "net", "{reason}");
    Halt::Gone
}

pub(super) struct Owner {
    config: Config,
    chain: Arc<dyn Chain>,
    inbox: Arc<Inbox>,
    runtime: Runtime,
    events: mpsc::Receiver<SocketEvent>,
    /// Given to every socket task.
    events_in: mpsc::Sender<SocketEvent>,
    peers: BTreeMap<PeerId, Box<Peer>>,
    next_id: PeerId,
    /// Peers that sent something in this round: looked at once when it ends.
    due: BTreeSet<PeerId>,
    /// Peers that the chain knows of.
    told_peers: usize,
    active: bool,
    listening: Arc<Vec<SocketAddr>>,
    dials: Dials,
    bans: Bans,
    samples: gossip::Samples,
    relay_keys: gossip::RelayKeys,
    private: private::Private,
    hidden: hidden::Hidden,
    /// Peers for blocks only from before the last stop, to be tried first.
    anchors: Vec<Gossip>,
    capture: Capture,
    downloads: Downloads,
    block_sources: blocks::Sources,
    /// Peers asked to announce by compact blocks, the longest-serving first.
    announcers: Vec<PeerId>,
    /// A transaction was taken: what waited for it, whoever sent it, can be looked at.
    orphans_due: bool,
    /// The newest block that was announced before its validation, and its height.
    fast_announced: Option<(u32, BlockHash)>,
    /// Peers whose headers are being synced.
    syncing: usize,
    last_inv_headers_trigger: Option<BlockHash>,
    /// Transactions of the newest block, once a peer asked for one.
    recent_block: Option<RecentBlock>,
    /// The tip announced last.
    announced_tip: Option<(BlockHash, u32)>,
    extra: extra::Extra,
    received_total: u64,
    sent_total: u64,
    uploads: report::Uploads,
    last_tick: Instant,
    last_sweep: Instant,
}

/// What [`Owner`] needs besides configuration and chain.
pub(super) struct Wiring {
    pub(super) inbox: Arc<Inbox>,
    pub(super) runtime: Runtime,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) listening: Arc<Vec<SocketAddr>>,
}

impl Owner {
    pub(super) fn new(config: Config, chain: Arc<dyn Chain>, wiring: Wiring) -> Self {
        let (events_in, events) = mpsc::channel(MAX_SOCKET_EVENTS);
        for (bind, listener) in wiring.listeners.into_iter().enumerate() {
            wiring.runtime.spawn(super::socket::listen(listener, bind, events_in.clone()));
        }
        let now = chain.now();
        let tip = chain.tip();
        let started = Instant::now();
        Self {
            bans: Bans::load(config.ban_file.clone(), now.as_secs()),
            samples: gossip::Samples::default(),
            relay_keys: gossip::RelayKeys::default(),
            private: private::Private::new(started),
            hidden: hidden::Hidden::start(&config, &wiring.runtime, &events_in),
            anchors: Vec::new(),
            capture: Capture::new(config.capture_dir.clone()),
            dials: Dials::new(&config, started, now),
            active: config.network_active,
            config,
            chain,
            inbox: wiring.inbox,
            runtime: wiring.runtime,
            events,
            events_in,
            peers: BTreeMap::new(),
            next_id: 0,
            due: BTreeSet::new(),
            told_peers: 0,
            listening: wiring.listening,
            downloads: Downloads::default(),
            block_sources: blocks::Sources::default(),
            announcers: Vec::new(),
            orphans_due: false,
            fast_announced: None,
            syncing: 0,
            last_inv_headers_trigger: None,
            recent_block: None,
            announced_tip: Some((tip.hash, tip.height)),
            extra: extra::Extra::new(started, now),
            received_total: 0,
            sent_total: 0,
            uploads: report::Uploads::default(),
            last_tick: started,
            last_sweep: started,
        }
    }

    /// Runs until the handle stops it.
    pub(super) fn run(mut self) {
        let runtime = self.runtime.clone();
        self.take_anchors();
        while !self.inbox.is_stopping() {
            let first = runtime.block_on(self.wait());
            self.work(first);
        }
        self.keep_anchors();
        self.chain.book_save();
        self.peers.clear();
    }

    /// The next socket event, or nothing when something else is to be done.
    async fn wait(&mut self) -> Option<SocketEvent> {
        let inbox = Arc::clone(&self.inbox);
        let until_tick = TICK.saturating_sub(self.last_tick.elapsed());
        tokio::select! {
            biased;
            () = inbox.wake.notified() => None,
            event = self.events.recv() => event,
            () = tokio::time::sleep(until_tick) => None,
        }
    }

    fn work(&mut self, first: Option<SocketEvent>) {
        while let Some(command) = self.inbox.take_command() {
            self.command(command);
        }
        for _ in 0..EVENT_BATCH {
            let Some(event) = self.inbox.take_event() else { break };
            self.chain_event(event);
        }
        let mut next = first;
        for _ in 0..BATCH {
            let Some(event) = next.take().or_else(|| self.events.try_recv().ok()) else { break };
            self.socket_event(event);
        }
        let mut due = std::mem::take(&mut self.due);
        if !due.is_empty() && self.peers.len() <= FEW_PEERS {
            due.extend(self.peers.keys());
        }
        for id in due {
            self.with_peer(id, |owner, peer| owner.service(peer));
        }
        if self.last_tick.elapsed() >= TICK {
            self.tick();
        }
        if self.told_peers != self.peers.len() {
            self.told_peers = self.peers.len();
            self.chain.peers_connected(self.told_peers);
        }
    }

    fn tick(&mut self) {
        self.last_tick = Instant::now();
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.with_peer(id, |owner, peer| {
                owner.work_off(peer)?;
                owner.service(peer)
            });
        }
        self.check_extra_peers();
        self.dial_due();
        self.sweep();
    }

    /// Runs `act` on a peer and disconnects it if that is the outcome.
    fn with_peer(&mut self, id: PeerId, act: impl FnOnce(&mut Self, &mut Peer) -> Step) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        let mut outcome = act(self, &mut peer);
        if let Err(Halt::Malformed(reason)) = outcome {
            tracing::debug!(target: "net", "malformed message from peer={id}: {reason}");
            outcome = Ok(());
        }
        if outcome.is_ok() && peer.misbehaved {
            outcome = self.judge(&mut peer);
        }
        if outcome.is_ok() && peer.overflowed {
            outcome = Err(gone(format!("send queue overflow, {}", peer.disconnecting())));
        }
        match outcome {
            Ok(()) => {
                self.peers.insert(id, peer);
            }
            Err(_) => self.forget(*peer),
        }
    }

    fn socket_event(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted { stream, remote, bind } => self.accept(stream, remote, bind),
            SocketEvent::AcceptedI2p { stream, remote, me } => self.accept_i2p(stream, remote, me),
            SocketEvent::Reachable { address, up } => self.reached_by(address, up),
            SocketEvent::OnionProxy(address) => self.onion_proxy(address),
            SocketEvent::Dialed { ticket, result } => self.dialed(ticket, result),
            SocketEvent::Resolved { name, addresses } => self.resolved(&name, &addresses),
            SocketEvent::Frame { id, frame, permit } => {
                self.with_peer(id, |owner, peer| {
                    peer.look_at_counters(owner.chain.now());
                    peer.count_received(&frame.command, frame.wire_bytes);
                    peer.backlog.push_back((frame, permit));
                    owner.due.insert(peer.id);
                    owner.work_off(peer)
                });
                self.look_at_orphans();
            }
            SocketEvent::Dropped { id, error, wire_bytes } => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    tracing::debug!(target: "net", "{error}, peer={id}");
                    peer.count_received(super::peer::OTHER, wire_bytes);
                }
            }
            SocketEvent::Drained { id } => self.with_peer(id, |owner, peer| {
                owner.work_off(peer)?;
                owner.service(peer)
            }),
            SocketEvent::Opened { id, session } => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.transport = if session.is_some() { Transport::V2 } else { Transport::V1 };
                    peer.session = session.map(|id| super::wire::hex(&id)).unwrap_or_default();
                }
            }
            SocketEvent::Closed { id, reason } => self.closed(id, &reason),
        }
    }

    /// A socket ended. Who hung up on an encrypted greeting is called again in the old way.
    fn closed(&mut self, id: PeerId, reason: &TransportError) {
        let mut again = None;
        self.with_peer(id, |owner, peer| {
            peer.look_at_counters(owner.chain.now());
            let deaf = peer.transport == Transport::Detecting && peer.received_seen == 0;
            if peer.opening == Opening::Initiate && deaf && peer.sent_seen > 0 {
                tracing::debug!(target: "net", "retrying with v1 transport protocol for peer={id}");
                again = Some((peer.name.clone(), peer.kind));
            }
            Err(gone(match reason {
                TransportError::ByPeer => format!("socket closed, {}", peer.disconnecting()),
                TransportError::Io(error) => {
                    format!("socket recv error, {}: {error}", peer.disconnecting())
                }
                error => format!("{error}, peer={id}"),
            }))
        });
        if let Some((node, kind)) = again {
            self.start_dial(&node, kind, false);
        }
    }

    /// Works on what waits for a peer, in order, until its send buffer is full (Core's `ProcessMessages`).
    fn work_off(&mut self, peer: &mut Peer) -> Step {
        loop {
            if peer.misbehaved || peer.overflowed {
                return Ok(());
            }
            if !peer.getdata.is_empty() {
                self.serve_getdata(peer)?;
            }
            if !peer.getdata.is_empty() {
                return Ok(());
            }
            if self.reconsider(peer) {
                continue;
            }
            // What wants no answer is taken all the same: two full send buffers must not wait for each other.
            let asks = peer.backlog.front().is_some_and(|(frame, _)| wants_answer(&frame.command));
            if asks && peer.link.is_congested() {
                return Ok(());
            }
            let Some((frame, _permit)) = peer.backlog.pop_front() else { return Ok(()) };
            self.process(peer, &frame)?;
        }
    }

    fn process(&mut self, peer: &mut Peer, frame: &Frame) -> Step {
        self.capture.message(peer.address, &frame.command, &frame.payload, true, self.chain.now());
        tracing::debug!(
            target: "net",
            "received: {} ({} bytes) peer={}",
            super::wire::sanitize(frame.command.as_bytes()), frame.payload.len(), peer.id
        );
        match self.dispatch(peer, &frame.command, &frame.payload) {
            Err(Halt::Malformed(reason)) => {
                tracing::debug!(
                    target: "net",
                    "ProcessMessages({}, {} bytes): Exception '{reason}' (std::ios_base::failure) caught",
                    super::wire::sanitize(frame.command.as_bytes()), frame.payload.len()
                );
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn dispatch(&mut self, peer: &mut Peer, command: &str, payload: &[u8]) -> Step {
        if !self.handshake(peer, command, payload)? {
            return Ok(());
        }
        if peer.is_private() {
            return self.on_private(peer, command, payload);
        }
        match command {
            "ping" => self.on_ping(peer, payload),
            "pong" => self.on_pong(peer, payload),
            "addr" | "addrv2" => self.on_addresses(peer, payload, command == "addrv2"),
            "getaddr" => self.on_getaddr(peer),
            "inv" => self.on_inv(peer, payload),
            "getdata" => self.on_getdata(peer, payload),
            "notfound" => self.on_notfound(peer, payload),
            "getblocks" => self.on_getblocks(peer, payload),
            "getheaders" => self.on_getheaders(peer, payload),
            "headers" => self.on_headers(peer, payload),
            "block" => self.on_block(peer, payload),
            "tx" => self.on_tx(peer, payload),
            "mempool" => self.on_mempool(peer),
            "feefilter" => self.on_fee_filter(peer, payload),
            "filterload" | "filteradd" | "filterclear" => self.on_bloom(peer, command, payload),
            "getcfilters" | "getcfheaders" | "getcfcheckpt" => self.on_get_filters(peer, command, payload),
            "cmpctblock" => self.on_compact_block(peer, payload),
            "getblocktxn" => self.on_get_block_transactions(peer, payload),
            "blocktxn" => self.on_block_transactions(peer, payload),
            "merkleblock" | "alert" | "reject" => Ok(()),
            _ => {
                tracing::debug!(
                    target: "net",
                    "Unknown message type \"{}\" from peer={}",
                    super::wire::sanitize(command.as_bytes()), peer.id
                );
                Ok(())
            }
        }
    }

    /// Sends, and notes it where `-capturemessages` wants it.
    fn send(&mut self, peer: &mut Peer, command: &str, payload: Vec<u8>) {
        if !self.may_send(peer, command) {
            return;
        }
        self.capture.message(peer.address, command, &payload, false, self.chain.now());
        self.uploads.add(payload.len() as u64 + 24, self.chain.now());
        peer.send(command, payload);
    }

    fn send_inventory(&mut self, peer: &mut Peer, command: &str, items: &Vec<Inventory>) {
        if !items.is_empty() {
            self.send(peer, command, super::message::encode_inventory(items));
        }
    }

    fn chain_event(&mut self, event: ChainEvent) {
        match event {
            ChainEvent::TipChanged { hash, height, initial_download } => {
                self.tip_changed(hash, height, initial_download);
                self.serve_waiting();
            }
            ChainEvent::BlockRefused { hash, reason, punish } => {
                self.block_refused(&hash, &reason, punish);
                self.serve_waiting();
            }
            ChainEvent::NewBlock { hash, height } => self.announce_new_block(hash, height),
            ChainEvent::BlockConnected { hash } => self.block_connected(&hash),
            ChainEvent::Broadcast { txid, wtxid } => self.announce_tx(txid, wtxid),
        }
    }

    /// Peers that asked for a block which was being connected.
    fn serve_waiting(&mut self) {
        let waiting: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| !peer.getdata.is_empty()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.with_peer(id, |owner, peer| owner.work_off(peer));
        }
    }
}

/// Whether a message makes us send something.
fn wants_answer(command: &str) -> bool {
    matches!(
        command,
        "version" | "getdata" | "getblocks" | "getblocktxn" | "getheaders" | "getaddr" | "mempool" | "ping"
    )
}

/// Core's null hash: no stop.
fn no_stop() -> BlockHash {
    BlockHash::all_zeros()
}
