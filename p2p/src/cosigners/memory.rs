//! The in-memory twin of the network: the same frames, events and statuses without a socket.
//!
//! Owns a hub that all embedded members of one process join; `-devquorum` and cluster tests use
//! it. Tests can bend it: a rule decides the fate of each frame, members can be taken away, pairs
//! cut apart. Limits on frames and queues are those of the real network.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};

use super::carrier::{Carrier, DownReason, Event, PeerStatus, SendError};
use super::events::{EventSender, Events, channel};
use super::identity::{fingerprint, public_key_of};
use super::limits::MAX_FRAME_BYTES;

/// Frames that a rule may hold back; more are dropped.
const MAX_HELD: usize = 10_000;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Deliver,
    Drop,
    Duplicate,
    /// Delivered later; frames that follow may overtake it. Needs a tokio runtime.
    Delay(Duration),
    /// Kept until [`Hub::release`].
    Hold,
}

type Rule = Box<dyn FnMut(&PeerId, &PeerId, &[u8]) -> Fate + Send>;

struct Slot {
    events: EventSender,
    attached: bool,
    height: u32,
    last_seen: Option<SystemTime>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<PeerId, Slot>,
    /// Pairs that cannot hear each other, lower PeerId first.
    cuts: HashSet<(PeerId, PeerId)>,
    held: VecDeque<(PeerId, PeerId, Vec<u8>)>,
    rule: Option<Rule>,
}

fn pair(a: &PeerId, b: &PeerId) -> (PeerId, PeerId) {
    if a < b { (*a, *b) } else { (*b, *a) }
}

impl State {
    fn attached(&self, peer: &PeerId) -> bool {
        self.members.get(peer).is_some_and(|slot| slot.attached && !slot.events.is_closed())
    }

    fn connected(&self, a: &PeerId, b: &PeerId) -> bool {
        a != b && self.attached(a) && self.attached(b) && !self.cuts.contains(&pair(a, b))
    }

    fn others(&self, peer: &PeerId) -> Vec<PeerId> {
        self.members.keys().filter(|other| self.connected(peer, other)).copied().collect()
    }

    /// A member that leaves no room for a change of state does not read: it is taken away.
    fn tell(&mut self, to: &PeerId, event: Event) {
        if let Some(slot) = self.members.get_mut(to)
            && !slot.events.try_send(event)
        {
            slot.attached = false;
        }
    }

    fn deliver(&mut self, from: &PeerId, to: &PeerId, bytes: Vec<u8>) -> Result<(), SendError> {
        if !self.connected(from, to) {
            return Err(SendError::NotConnected);
        }
        if let Some(sender) = self.members.get_mut(from) {
            sender.last_seen = Some(SystemTime::now());
        }
        let receiver = self.members.get(to).ok_or(SendError::NotConnected)?;
        let taken = receiver.events.try_send(Event::Frame { from: *from, bytes });
        if taken { Ok(()) } else { Err(SendError::QueueFull) }
    }
}

/// Where embedded members meet. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("members", &self.lock().members.len()).finish_non_exhaustive()
    }
}

impl Hub {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Joins, or joins again with a new queue: everyone else hears `Up`, and so does the newcomer
    /// about each of them.
    pub fn member(&self, peer: PeerId) -> (Memory, Events) {
        self.detach(&peer);
        let (sender, events) = channel();
        let slot = Slot { events: sender, attached: true, height: 0, last_seen: Some(SystemTime::now()) };
        let mut state = self.lock();
        state.members.insert(peer, slot);
        for other in state.others(&peer) {
            state.tell(&other, Event::Up(peer));
            state.tell(&peer, Event::Up(other));
        }
        drop(state);
        (Memory { hub: self.clone(), me: peer }, events)
    }

    /// Takes a member away, as if its process had died; its queue stays.
    pub fn detach(&self, peer: &PeerId) {
        let mut state = self.lock();
        let others = state.others(peer);
        for other in others {
            state.tell(&other, Event::Down(*peer, DownReason::ConnectionLost));
            state.tell(peer, Event::Down(other, DownReason::ConnectionLost));
        }
        if let Some(slot) = state.members.get_mut(peer) {
            slot.attached = false;
        }
    }

    /// Brings a member back that was taken away.
    pub fn attach(&self, peer: &PeerId) {
        let mut state = self.lock();
        match state.members.get_mut(peer) {
            Some(slot) if !slot.attached => slot.attached = true,
            _ => return,
        }
        for other in state.others(peer) {
            state.tell(&other, Event::Up(*peer));
            state.tell(peer, Event::Up(other));
        }
    }

    /// Cuts two members apart.
    pub fn cut(&self, a: &PeerId, b: &PeerId) {
        let mut state = self.lock();
        if state.connected(a, b) {
            state.tell(a, Event::Down(*b, DownReason::ConnectionLost));
            state.tell(b, Event::Down(*a, DownReason::ConnectionLost));
        }
        state.cuts.insert(pair(a, b));
    }

    /// Ends a cut.
    pub fn heal(&self, a: &PeerId, b: &PeerId) {
        let mut state = self.lock();
        if state.cuts.remove(&pair(a, b)) && state.connected(a, b) {
            state.tell(a, Event::Up(*b));
            state.tell(b, Event::Up(*a));
        }
    }

    /// From now on the rule decides about each frame: sender, receiver, bytes.
    pub fn set_rule(&self, rule: impl FnMut(&PeerId, &PeerId, &[u8]) -> Fate + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// Every frame is delivered again.
    pub fn clear_rule(&self) {
        self.lock().rule = None;
    }

    /// Delivers what was held, in order; returns how many arrived.
    pub fn release(&self) -> usize {
        let mut state = self.lock();
        let held = std::mem::take(&mut state.held);
        held.into_iter().filter(|(from, to, bytes)| state.deliver(from, to, bytes.clone()).is_ok()).count()
    }

    fn send(&self, from: &PeerId, to: &PeerId, bytes: Vec<u8>) -> Result<(), SendError> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(SendError::TooLarge);
        }
        let mut state = self.lock();
        if !state.connected(from, to) {
            return Err(SendError::NotConnected);
        }
        let fate = state.rule.as_mut().map_or(Fate::Deliver, |rule| rule(from, to, &bytes));
        match fate {
            Fate::Deliver => state.deliver(from, to, bytes),
            Fate::Drop => Ok(()),
            Fate::Duplicate => {
                state.deliver(from, to, bytes.clone())?;
                state.deliver(from, to, bytes)
            }
            Fate::Hold => {
                if state.held.len() < MAX_HELD {
                    state.held.push_back((*from, *to, bytes));
                }
                Ok(())
            }
            Fate::Delay(delay) => match tokio::runtime::Handle::try_current() {
                Ok(runtime) => {
                    let (hub, from, to) = (self.clone(), *from, *to);
                    runtime.spawn(async move {
                        tokio::time::sleep(delay).await;
                        // Late frames may find nobody: that is what the delay is for.
                        let _ = hub.lock().deliver(&from, &to, bytes);
                    });
                    Ok(())
                }
                Err(_) => state.deliver(from, to, bytes),
            },
        }
    }
}

/// One embedded member's handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    hub: Hub,
    me: PeerId,
}

impl Carrier for Memory {
    fn me(&self) -> PeerId {
        self.me
    }

    fn send(&self, peer: &PeerId, frame: Vec<u8>) -> Result<(), SendError> {
        self.hub.send(&self.me, peer, frame)
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let state = self.hub.lock();
        state
            .members
            .iter()
            .filter(|(peer, _)| **peer != self.me)
            .map(|(peer, slot)| {
                let online = state.connected(&self.me, peer);
                PeerStatus {
                    peer: *peer,
                    fingerprint: public_key_of(peer).map(fingerprint).unwrap_or_default(),
                    addresses: Vec::new(),
                    online,
                    latency: online.then_some(Duration::ZERO),
                    version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                    blocks: Some(slot.height),
                    last_seen: slot.last_seen,
                    reason_offline: (!online).then_some(DownReason::ConnectionLost),
                }
            })
            .collect()
    }

    fn is_online(&self, peer: &PeerId) -> bool {
        self.hub.lock().connected(&self.me, peer)
    }

    fn set_height(&self, height: u32) {
        if let Some(slot) = self.hub.lock().members.get_mut(&self.me) {
            slot.height = height;
        }
    }

    fn listen_addresses(&self) -> Vec<Multiaddr> {
        Vec::new()
    }
}
