//! The task that owns the swarm, the address book and all links.
//!
//! Everything else holds a handle: commands come in over a bounded channel, links report their end
//! by ending. For each member without a link one clock (`next`) says when it is tried again: the
//! member with the lower PeerId opens the stream, both dial. Backoff is short at first, so that a
//! restarted member is back within a moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt as _;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm};
use libp2p_stream::{Control as StreamControl, IncomingStreams};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::book::{Book, Source};
use super::carrier::{DownReason, Event};
use super::config::{Config, Discovery, Hello, Member};
use super::discovery;
use super::events::EventSender;
use super::limits::{
    DHT_QUERY_INTERVAL, DIAL_BACKOFF_FIRST, DIAL_BACKOFF_MAX, HELLO_DEADLINE, MAX_MEMBERS, MIN_STREAM_INTERVAL,
    REFUSED_BACKOFF, REFUSED_LOG_INTERVAL, SHUTDOWN_DEADLINE,
};
use super::link::{Ended, Link, Origin};
use super::network::{MemberChangeError, RefusedPeer, StartError};
use super::shared::Shared;
use super::swarm::{Behaviour, BehaviourEvent, PROTOCOL};

pub(crate) enum Command {
    Allow(Member, oneshot::Sender<Result<(), MemberChangeError>>),
    Remove(PeerId, oneshot::Sender<Result<(), MemberChangeError>>),
    Shutdown(oneshot::Sender<()>),
}

/// One member, as the owner keeps it.
struct Peer {
    /// Of the current link.
    generation: u64,
    /// Established connections, without those we told to close: one that hangs in its close for
    /// want of a peer must not keep us from dialing.
    connections: HashSet<ConnectionId>,
    link: Option<Current>,
    dialing: bool,
    /// When to try again, while there is no link.
    next: Instant,
    backoff: std::time::Duration,
    /// A link ended since the connection was made: its reason stands.
    explained: bool,
    /// When its last stream was taken.
    last_stream: Option<Instant>,
    /// The last reason that was logged.
    logged: Option<DownReason>,
}

struct Current {
    stop: Option<oneshot::Sender<DownReason>>,
    done: oneshot::Receiver<()>,
}

impl Peer {
    fn new() -> Self {
        Self {
            generation: 0,
            connections: HashSet::new(),
            link: None,
            dialing: false,
            next: Instant::now(),
            backoff: DIAL_BACKOFF_FIRST,
            explained: false,
            last_stream: None,
            logged: None,
        }
    }

    fn retry_later(&mut self) {
        self.next = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(DIAL_BACKOFF_MAX);
    }
}

pub(crate) struct Owner {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Arc<Shared>,
    pub(super) book: Book,
    pub(super) discovery: Discovery,
    control: StreamControl,
    incoming: IncomingStreams,
    hello: Arc<Hello>,
    events: EventSender,
    commands: mpsc::Receiver<Command>,
    peers: HashMap<PeerId, Peer>,
    /// Counts links over all peers.
    generation: u64,
    links: JoinSet<Ended>,
    lookups: JoinSet<(PeerId, Vec<Multiaddr>)>,
    next_dht_round: Instant,
}

impl Owner {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        config: Config,
        shared: Arc<Shared>,
        events: EventSender,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, StartError> {
        let mut control = swarm.behaviour().stream.new_control();
        let incoming = control.accept(PROTOCOL).map_err(|error| StartError::Setup(error.to_string()))?;
        let mut owner = Self {
            swarm,
            shared,
            book: Book::default(),
            discovery: config.discovery,
            control,
            incoming,
            hello: Arc::new(config.hello),
            events,
            commands,
            peers: HashMap::new(),
            generation: 0,
            links: JoinSet::new(),
            lookups: JoinSet::new(),
            next_dht_round: Instant::now() + DHT_QUERY_INTERVAL,
        };
        for member in config.members {
            owner.add_member(member);
        }
        Ok(owner)
    }

    pub(crate) async fn run(mut self) {
        let reply = loop {
            self.try_peers();
            let wake = self.next_wake();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some((peer, stream)) = self.incoming.next() => self.on_stream(peer, stream),
                Some(ended) = self.links.join_next() => match ended {
                    Ok(ended) => self.on_link_ended(ended),
                    Err(error) => {
                        warn!(%error, "a co-signer link ended badly");
                        self.bury_dead_links();
                    }
                },
                Some(found) = self.lookups.join_next() => if let Ok((peer, addresses)) = found {
                    self.dial(peer, addresses);
                },
                command = self.commands.recv() => match command {
                    Some(Command::Allow(member, reply)) => { let _ = reply.send(self.allow(member)); }
                    Some(Command::Remove(peer, reply)) => { let _ = reply.send(self.remove(&peer)); }
                    Some(Command::Shutdown(reply)) => break Some(reply),
                    None => break None,
                },
                () = self.events.closed() => break None,
                () = sleep_until(wake) => {}
            }
        };
        self.stop().await;
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    fn add_member(&mut self, member: Member) {
        let Member { peer, address } = member;
        self.shared.add(peer);
        self.swarm.behaviour_mut().allow.allow_peer(peer);
        let entry = self.peers.entry(peer).or_insert_with(Peer::new);
        entry.next = Instant::now();
        // A table begins somewhere: those who are found by it alone are asked at the addresses that are known.
        let used = self.discovery.addresses || self.discovery.dht;
        self.book.set_static(peer, address.filter(|_| used));
        self.publish_addresses(&peer);
    }

    fn allow(&mut self, member: Member) -> Result<(), MemberChangeError> {
        if member.peer == *self.swarm.local_peer_id() {
            return Err(MemberChangeError::Own);
        }
        if !self.peers.contains_key(&member.peer) && self.peers.len() >= MAX_MEMBERS {
            return Err(MemberChangeError::TooMany);
        }
        let peer = member.peer;
        self.add_member(member);
        for address in self.book.take_stranger(&peer) {
            self.learn(peer, Source::Mdns, address);
        }
        Ok(())
    }

    fn remove(&mut self, peer: &PeerId) -> Result<(), MemberChangeError> {
        let entry = self.peers.remove(peer).ok_or(MemberChangeError::Unknown)?;
        if let Some(stop) = entry.link.and_then(|link| link.stop) {
            let _ = stop.send(DownReason::Removed);
        } else {
            self.swarm.behaviour_mut().allow.disallow_peer(*peer);
        }
        self.book.remove(peer);
        discovery::forget(&mut self.swarm, peer);
        self.shared.remove(peer);
        Ok(())
    }

    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Members without a link.
    pub(super) fn absent(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.iter().filter(|(_, state)| state.link.is_none()).map(|(peer, _)| *peer)
    }

    /// A new address is reason to try at once.
    pub(super) fn learn(&mut self, peer: PeerId, source: Source, address: Multiaddr) {
        if self.is_member(&peer) && self.book.add(peer, source, address) {
            self.publish_addresses(&peer);
            if let Some(state) = self.peers.get_mut(&peer)
                && state.link.is_none()
                && state.connections.is_empty()
            {
                state.next = Instant::now();
            }
        }
    }

    pub(super) fn publish_addresses(&self, peer: &PeerId) {
        self.shared.set_addresses(peer, self.book.addresses(peer));
    }

    fn next_wake(&self) -> Instant {
        let idle = self.peers.values().filter(|state| state.link.is_none() && !state.dialing);
        let next = idle.map(|state| state.next).min();
        next.map_or(self.next_dht_round, |next| next.min(self.next_dht_round))
    }

    fn try_peers(&mut self) {
        let now = Instant::now();
        if self.next_dht_round <= now {
            self.next_dht_round = now + DHT_QUERY_INTERVAL;
            self.ask_dht();
        }
        let due: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, state)| state.link.is_none() && !state.dialing && state.next <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            if !self.is_connected(&peer) {
                self.look_up_and_dial(peer);
            } else if self.opens(&peer) {
                self.start_link(peer, Origin::Open(self.control.clone()));
            } else {
                // The other side should have opened its stream by now.
                self.note(&peer, DownReason::NoHello(HELLO_DEADLINE.as_secs() * 1_000));
                self.disconnect(&peer);
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.explained = true;
                    state.retry_later();
                }
            }
        }
    }

    fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| !state.connections.is_empty())
    }

    /// The lower PeerId opens.
    fn opens(&self, peer: &PeerId) -> bool {
        *self.swarm.local_peer_id() < *peer
    }

    fn look_up_and_dial(&mut self, peer: PeerId) {
        let addresses = self.book.addresses(&peer);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.retry_later();
            if addresses.is_empty() {
                self.note(&peer, DownReason::NoAddress);
                return;
            }
            state.dialing = true;
        }
        if addresses.iter().any(discovery::is_name) {
            self.lookups.spawn(async move { (peer, discovery::resolve(addresses).await) });
        } else {
            self.dial(peer, addresses);
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if !self.is_member(&peer) {
            return;
        }
        // A new port each time: dialing from the listening port makes two members who dial each
        // other at once meet in a TCP simultaneous open that Noise cannot finish.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::NotDialing)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_error(peer, &error);
        }
    }

    fn on_dial_error(&mut self, peer: PeerId, error: &DialError) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.dialing = false;
        if state.link.is_some() || !state.connections.is_empty() {
            return;
        }
        // Why the last connection was refused says more than that the next one was not made.
        if state.logged.as_ref().is_some_and(DownReason::is_refusal) {
            return;
        }
        let reason = match error {
            DialError::Aborted | DialError::DialPeerConditionFalse(_) => return,
            DialError::NoAddresses => DownReason::NoAddress,
            DialError::WrongPeerId { obtained, .. } => DownReason::WrongIdentity(*obtained),
            other => DownReason::DialFailed(discovery::short_dial_error(other)),
        };
        self.note(&peer, reason);
    }

    /// Keeps the reason for the status, and logs it when it is news.
    fn note(&mut self, peer: &PeerId, reason: DownReason) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if state.logged.as_ref() != Some(&reason) {
            if reason.is_refusal() {
                warn!(%peer, %reason, "co-signer refused");
            } else {
                info!(%peer, %reason, "co-signer is offline");
            }
            state.logged = Some(reason.clone());
        }
        self.shared.set_reason(peer, reason);
    }

    fn disconnect(&mut self, peer: &PeerId) {
        // An error says that there is no connection.
        let _ = self.swarm.disconnect_peer_id(*peer);
        if let Some(state) = self.peers.get_mut(peer) {
            state.connections.clear();
        }
    }

    fn start_link(&mut self, peer: PeerId, origin: Origin) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        self.generation += 1;
        state.generation = self.generation;
        let (stop, stopped) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let replaced = state.link.replace(Current { stop: Some(stop), done: is_done });
        let previous = replaced.map(|current| {
            if let Some(stop) = current.stop {
                let _ = stop.send(DownReason::Replaced);
            }
            current.done
        });
        let link = Link {
            peer,
            generation: state.generation,
            origin,
            hello: Arc::clone(&self.hello),
            shared: Arc::clone(&self.shared),
            events: self.events.clone(),
            stop: stopped,
            previous,
        };
        self.links.spawn(link.run(done));
    }

    fn on_stream(&mut self, peer: PeerId, stream: Stream) {
        if self.opens(&peer) {
            debug!(%peer, "a stream from the side that should wait for ours is dropped");
            return;
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.last_stream.is_some_and(|last| last.elapsed() < MIN_STREAM_INTERVAL) {
            debug!(%peer, "streams follow each other too fast");
            return;
        }
        state.last_stream = Some(Instant::now());
        self.start_link(peer, Origin::Accepted(stream));
    }

    /// A link that panicked cannot tell its end.
    fn bury_dead_links(&mut self) {
        let dead: Vec<(PeerId, u64)> = self
            .peers
            .iter_mut()
            .filter_map(|(peer, state)| {
                let ended = matches!(state.link.as_mut()?.done.try_recv(), Err(oneshot::error::TryRecvError::Closed));
                ended.then_some((*peer, state.generation))
            })
            .collect();
        for (peer, generation) in dead {
            let reason = DownReason::ConnectionLost;
            self.shared.down(&peer, generation, reason.clone());
            if !self.events.try_send(Event::Down(peer, reason.clone())) {
                warn!(%peer, "the end of a link could not be told");
            }
            self.on_link_ended(Ended { peer, generation, reason, was_up: true });
        }
    }

    fn on_link_ended(&mut self, ended: Ended) {
        let Ended { peer, generation, reason, was_up } = ended;
        if reason == DownReason::Removed && !self.is_member(&peer) {
            // Refused from now on, and what is left of its connections is closed.
            self.swarm.behaviour_mut().allow.disallow_peer(peer);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.generation != generation {
            debug!(%peer, %reason, "an older link of a co-signer ended");
            return;
        }
        state.link = None;
        state.explained = true;
        if was_up {
            state.backoff = DIAL_BACKOFF_FIRST;
            // Coming and going is news each time.
            state.logged = None;
        }
        state.retry_later();
        if reason.is_refusal() {
            state.next = Instant::now() + REFUSED_BACKOFF;
        }
        let keeps_connection = matches!(reason, DownReason::ConnectionLost | DownReason::Replaced);
        self.note(&peer, reason);
        if !keeps_connection {
            self.disconnect(&peer);
        }
    }

    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_discovery(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(&peer_id, connection_id, endpoint.is_dialer());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.on_disconnected(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_dial_error(peer, &error);
            }
            SwarmEvent::IncomingConnectionError { peer_id, send_back_addr, error, .. } => {
                self.on_refused(peer_id, send_back_addr, &error);
            }
            SwarmEvent::NewListenAddr { .. }
            | SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ListenerClosed { .. } => {
                self.shared.set_listening(self.swarm.listeners().cloned().collect());
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "listener for co-signers"),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: &PeerId, connection: ConnectionId, dialed: bool) {
        let opens = self.opens(peer);
        let Some(state) = self.peers.get_mut(peer) else { return };
        if dialed {
            state.dialing = false;
        }
        state.connections.insert(connection);
        if state.connections.len() > 1 || state.link.is_some() {
            return;
        }
        state.explained = false;
        let now = Instant::now();
        let refused = state.next > now + DIAL_BACKOFF_MAX;
        if !opens {
            // Time for the other side to open its stream.
            state.next = state.next.max(now + HELLO_DEADLINE);
        } else if !refused {
            state.next = now;
        }
    }

    fn on_disconnected(&mut self, peer: &PeerId, connection: ConnectionId) {
        let opens = self.opens(peer);
        let Some(state) = self.peers.get_mut(peer) else { return };
        let known = state.connections.remove(&connection);
        if !known || !state.connections.is_empty() || state.link.is_some() {
            return;
        }
        if !state.explained {
            state.retry_later();
            self.note(peer, DownReason::ClosedBeforeHello);
        } else if !opens && state.next <= Instant::now() + HELLO_DEADLINE {
            // It was waiting for a stream that cannot come any more.
            state.next = state.next.min(Instant::now() + state.backoff);
        }
    }

    fn on_refused(&mut self, peer: Option<PeerId>, address: Multiaddr, error: &ListenError) {
        match peer {
            Some(peer) if matches!(error, ListenError::Denied { .. }) && !self.is_member(&peer) => {
                let stranger = RefusedPeer { peer, address: address.clone(), last: SystemTime::now() };
                if self.shared.note_refused(stranger, REFUSED_LOG_INTERVAL) {
                    warn!(%peer, %address, "refused a peer that is not on the list of co-signers (Denied)");
                }
            }
            _ => debug!(%address, %error, "inbound co-signer connection failed"),
        }
    }

    /// Tells all links to end, and lets goodbyes and closes reach the wire.
    async fn stop(mut self) {
        for state in self.peers.values_mut() {
            if let Some(stop) = state.link.as_mut().and_then(|link| link.stop.take()) {
                let _ = stop.send(DownReason::ShuttingDown);
            }
        }
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        let farewell = async {
            while !self.links.is_empty() {
                tokio::select! {
                    _ = self.links.join_next() => {}
                    _ = self.swarm.select_next_some() => {}
                }
            }
            for peer in peers {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(SHUTDOWN_DEADLINE, farewell).await.is_err() {
            debug!("co-signer connections did not close in time");
        }
        self.links.shutdown().await;
        self.lookups.shutdown().await;
    }
}
