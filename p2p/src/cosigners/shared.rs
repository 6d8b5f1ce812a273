//! The snapshot that handles read and links write: one small map under a mutex, never held over an
//! await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::carrier::{DownReason, PeerStatus, SendError};
use super::identity::{fingerprint, public_key_of};
use super::limits::{MAX_FRAME_BYTES, MAX_REFUSED_KEPT, SEND_QUEUE_BYTES, SEND_QUEUE_FRAMES};
use super::network::RefusedPeer;
use super::wire::PeerHello;

/// A frame on its way out, with its share of the peer's byte budget.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) bytes: Vec<u8>,
    _budget: OwnedSemaphorePermit,
}

/// Where frames for a peer that is up are put.
#[derive(Debug)]
struct Outlet {
    generation: u64,
    queue: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
}

#[derive(Debug)]
struct PeerState {
    fingerprint: String,
    addresses: Vec<Multiaddr>,
    outlet: Option<Outlet>,
    latency: Option<Duration>,
    version: Option<String>,
    blocks: Option<u32>,
    last_seen: Option<SystemTime>,
    reason: DownReason,
}

#[derive(Debug)]
pub(crate) struct Shared {
    me: PeerId,
    peers: Mutex<BTreeMap<PeerId, PeerState>>,
    listen: Mutex<Vec<Multiaddr>>,
    refused: Mutex<VecDeque<RefusedPeer>>,
    height: watch::Sender<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the map whole, so a poisoned one is still good.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    pub(crate) fn new(me: PeerId, height: u32) -> Self {
        Self {
            me,
            peers: Mutex::default(),
            listen: Mutex::default(),
            refused: Mutex::default(),
            height: watch::channel(height).0,
        }
    }

    pub(crate) fn me(&self) -> PeerId {
        self.me
    }

    pub(crate) fn add(&self, peer: PeerId) {
        lock(&self.peers).entry(peer).or_insert_with(|| PeerState {
            fingerprint: public_key_of(&peer).map(fingerprint).unwrap_or_default(),
            addresses: Vec::new(),
            outlet: None,
            latency: None,
            version: None,
            blocks: None,
            last_seen: None,
            reason: DownReason::NotConnectedYet,
        });
    }

    pub(crate) fn remove(&self, peer: &PeerId) {
        lock(&self.peers).remove(peer);
    }

    pub(crate) fn set_addresses(&self, peer: &PeerId, addresses: Vec<Multiaddr>) {
        if let Some(state) = lock(&self.peers).get_mut(peer) {
            state.addresses = addresses;
        }
    }

    /// Opens the peer's outgoing queue; none if it was removed meanwhile.
    pub(crate) fn up(&self, peer: &PeerId, generation: u64, hello: PeerHello) -> Option<mpsc::Receiver<Queued>> {
        let mut peers = lock(&self.peers);
        let state = peers.get_mut(peer)?;
        let (queue, frames) = mpsc::channel(SEND_QUEUE_FRAMES);
        let budget = Arc::new(Semaphore::new(SEND_QUEUE_BYTES));
        state.outlet = Some(Outlet { generation, queue, budget });
        state.version = Some(hello.version);
        state.blocks = Some(hello.height);
        state.latency = None;
        state.last_seen = Some(SystemTime::now());
        Some(frames)
    }

    /// Closes the queue of that generation.
    pub(crate) fn down(&self, peer: &PeerId, generation: u64, reason: DownReason) {
        if let Some(state) = lock(&self.peers).get_mut(peer)
            && state.outlet.as_ref().is_some_and(|outlet| outlet.generation == generation)
        {
            state.outlet = None;
            state.latency = None;
            state.reason = reason;
        }
    }

    /// Notes why a peer that is not up is not.
    pub(crate) fn set_reason(&self, peer: &PeerId, reason: DownReason) {
        if let Some(state) = lock(&self.peers).get_mut(peer) {
            state.reason = reason;
        }
    }

    pub(crate) fn heard(&self, peer: &PeerId, height: Option<u32>, latency: Option<Duration>) {
        if let Some(state) = lock(&self.peers).get_mut(peer) {
            state.last_seen = Some(SystemTime::now());
            state.blocks = height.or(state.blocks);
            state.latency = latency.or(state.latency);
        }
    }

    pub(crate) fn send(&self, peer: &PeerId, bytes: Vec<u8>) -> Result<(), SendError> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(SendError::TooLarge);
        }
        let peers = lock(&self.peers);
        let outlet = peers.get(peer).and_then(|state| state.outlet.as_ref()).ok_or(SendError::NotConnected)?;
        let weight = u32::try_from(bytes.len()).map_err(|_| SendError::TooLarge)?;
        let budget = Arc::clone(&outlet.budget).try_acquire_many_owned(weight).map_err(|_| SendError::QueueFull)?;
        outlet.queue.try_send(Queued { bytes, _budget: budget }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
        })
    }

    pub(crate) fn statuses(&self) -> Vec<PeerStatus> {
        lock(&self.peers).iter().map(|(peer, state)| status(peer, state)).collect()
    }

    pub(crate) fn status(&self, peer: &PeerId) -> Option<PeerStatus> {
        lock(&self.peers).get(peer).map(|state| status(peer, state))
    }

    pub(crate) fn is_online(&self, peer: &PeerId) -> bool {
        lock(&self.peers).get(peer).is_some_and(|state| state.outlet.is_some())
    }

    pub(crate) fn set_height(&self, height: u32) {
        self.height.send_if_modified(|current| {
            let changed = *current != height;
            *current = height;
            changed
        });
    }

    pub(crate) fn height(&self) -> watch::Receiver<u32> {
        self.height.subscribe()
    }

    pub(crate) fn listen_addresses(&self) -> Vec<Multiaddr> {
        lock(&self.listen).clone()
    }

    pub(crate) fn set_listening(&self, addresses: Vec<Multiaddr>) {
        *lock(&self.listen) = addresses;
    }

    pub(crate) fn refused(&self) -> Vec<RefusedPeer> {
        lock(&self.refused).iter().cloned().collect()
    }

    /// Keeps the newest strangers; true if a line should be logged for this one.
    pub(crate) fn note_refused(&self, stranger: RefusedPeer, log_interval: Duration) -> bool {
        let mut refused = lock(&self.refused);
        let known = refused.iter().position(|entry| entry.peer == stranger.peer);
        let recent = known
            .and_then(|index| refused.remove(index))
            .is_some_and(|entry| stranger.last.duration_since(entry.last).is_ok_and(|since| since < log_interval));
        if refused.len() >= MAX_REFUSED_KEPT {
            refused.pop_front();
        }
        refused.push_back(stranger);
        !recent
    }
}

fn status(peer: &PeerId, state: &PeerState) -> PeerStatus {
    let online = state.outlet.is_some();
    PeerStatus {
        peer: *peer,
        fingerprint: state.fingerprint.clone(),
        addresses: state.addresses.clone(),
        online,
        latency: state.latency,
        version: state.version.clone(),
        blocks: state.blocks,
        last_seen: state.last_seen,
        reason_offline: (!online).then(|| state.reason.clone()),
    }
}
