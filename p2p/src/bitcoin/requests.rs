//! Which transaction to ask from whom, and when. Pure: time is handed in.
//!
//! Follows Core's `txrequest`: each transaction is asked from one peer at a time, outbound peers first, inbound ones two
//! seconds later, and again from another when a request runs out or is answered by `notfound`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bitcoin::hashes::Hash;

use super::chain::TxRef;
use super::handle::PeerId;

/// Core's `MAX_PEER_TX_ANNOUNCEMENTS`.
pub(crate) const MAX_ANNOUNCEMENTS: usize = 5_000;
/// Core's `MAX_PEER_TX_REQUEST_IN_FLIGHT`.
const MAX_IN_FLIGHT: usize = 100;
const TXID_RELAY_DELAY: Duration = Duration::from_secs(2);
const NONPREF_PEER_DELAY: Duration = Duration::from_secs(2);
const OVERLOADED_PEER_DELAY: Duration = Duration::from_secs(2);
const EXPIRY: Duration = Duration::from_secs(60);

/// What matters about the announcing peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcer {
    pub(crate) peer: PeerId,
    /// Outbound, or trusted.
    pub(crate) preferred: bool,
    /// May announce and be asked without limit (`relay` permission).
    pub(crate) unlimited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Candidate,
    Requested { expires: Duration },
    Completed,
}

#[derive(Clone, Copy, Debug)]
struct Announcement {
    tx: TxRef,
    peer: PeerId,
    preferred: bool,
    from: Duration,
    state: State,
}

/// 32 bytes name a transaction, be they txid or wtxid.
type Key = [u8; 32];

pub(crate) fn key(tx: &TxRef) -> Key {
    match tx {
        TxRef::Txid(id) => id.to_byte_array(),
        TxRef::Wtxid(id) => id.to_byte_array(),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    by_tx: HashMap<Key, Vec<Announcement>>,
    /// In order of announcement.
    by_peer: HashMap<PeerId, BTreeMap<u64, Key>>,
    next: u64,
}

impl Requests {
    /// Notes that a peer has a transaction we lack. `wtxid_peers`: some peer speaks wtxid relay, so txids can wait.
    pub(crate) fn announced(&mut self, who: Announcer, tx: TxRef, now: Duration, wtxid_peers: bool) {
        let known = self.by_peer.entry(who.peer).or_default();
        let announcements = self.by_tx.entry(key(&tx)).or_default();
        let full = !who.unlimited && known.len() >= MAX_ANNOUNCEMENTS;
        if full || announcements.iter().any(|a| a.peer == who.peer) {
            if announcements.is_empty() {
                self.by_tx.remove(&key(&tx));
            }
            return;
        }
        let mut delay = Duration::ZERO;
        if !who.preferred {
            delay += NONPREF_PEER_DELAY;
        }
        if matches!(tx, TxRef::Txid(_)) && wtxid_peers {
            delay += TXID_RELAY_DELAY;
        }
        known.insert(self.next, key(&tx));
        self.next += 1;
        let in_flight = !who.unlimited && self.in_flight(who.peer) >= MAX_IN_FLIGHT;
        if in_flight {
            delay += OVERLOADED_PEER_DELAY;
        }
        if let Some(announcements) = self.by_tx.get_mut(&key(&tx)) {
            announcements.push(Announcement {
                tx,
                peer: who.peer,
                preferred: who.preferred,
                from: now + delay,
                state: State::Candidate,
            });
        }
    }

    fn in_flight(&self, peer: PeerId) -> usize {
        let Some(keys) = self.by_peer.get(&peer) else { return 0 };
        let requested = |key: &&Key| {
            self.by_tx
                .get(*key)
                .is_some_and(|all| all.iter().any(|a| a.peer == peer && matches!(a.state, State::Requested { .. })))
        };
        keys.values().filter(requested).count()
    }

    /// What to ask from `peer` now. Each is marked as asked.
    pub(crate) fn due(&mut self, peer: PeerId, now: Duration) -> Vec<TxRef> {
        let Some(keys) = self.by_peer.get(&peer) else { return Vec::new() };
        if keys.is_empty() {
            return Vec::new();
        }
        let keys: Vec<Key> = keys.values().copied().collect();
        let mut due = Vec::new();
        for key in keys {
            let Some(announcements) = self.by_tx.get_mut(&key) else { continue };
            expire(announcements, now);
            let busy = announcements.iter().any(|a| matches!(a.state, State::Requested { .. }));
            if busy || best(announcements, now) != Some(peer) {
                self.drop_if_done(key);
                continue;
            }
            if let Some(chosen) = announcements.iter_mut().find(|a| a.peer == peer) {
                chosen.state = State::Requested { expires: now + EXPIRY };
                due.push(chosen.tx);
            }
        }
        due
    }

    /// The peer answered, one way or the other.
    pub(crate) fn answered(&mut self, peer: PeerId, tx: &TxRef) {
        let key = key(tx);
        if let Some(announcements) = self.by_tx.get_mut(&key) {
            for announcement in announcements.iter_mut().filter(|a| a.peer == peer) {
                announcement.state = State::Completed;
            }
        }
        self.drop_if_done(key);
    }

    /// Nobody needs to be asked for it any more.
    pub(crate) fn forget(&mut self, tx: &TxRef) {
        self.forget_key(key(tx));
    }

    fn forget_key(&mut self, key: Key) {
        let Some(announcements) = self.by_tx.remove(&key) else { return };
        for announcement in announcements {
            if let Some(keys) = self.by_peer.get_mut(&announcement.peer) {
                keys.retain(|_, other| *other != key);
            }
        }
    }

    fn drop_if_done(&mut self, key: Key) {
        let done = self.by_tx.get(&key).is_some_and(|all| all.iter().all(|a| a.state == State::Completed));
        if done {
            self.forget_key(key);
        }
    }

    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        let Some(keys) = self.by_peer.remove(&peer) else { return };
        for key in keys.into_values() {
            if let Some(announcements) = self.by_tx.get_mut(&key) {
                announcements.retain(|a| a.peer != peer);
                if announcements.is_empty() {
                    self.by_tx.remove(&key);
                }
            }
            self.drop_if_done(key);
        }
    }
}

fn expire(announcements: &mut [Announcement], now: Duration) {
    for announcement in announcements {
        if matches!(announcement.state, State::Requested { expires } if expires <= now) {
            announcement.state = State::Completed;
        }
    }
}

/// The ready candidate to ask: preferred peers first, then who announced first.
fn best(announcements: &[Announcement], now: Duration) -> Option<PeerId> {
    let ready = |a: &&Announcement| a.state == State::Candidate && a.from <= now;
    let preferred = announcements.iter().filter(ready).find(|a| a.preferred);
    preferred.or_else(|| announcements.iter().find(ready)).map(|a| a.peer)
}

#[cfg(test)]
mod tests {
    use bitcoin::Wtxid;

    use super::*;

    const T: fn(u64) -> Duration = Duration::from_secs;

    fn tx(n: u8) -> TxRef {
        TxRef::Wtxid(Wtxid::from_byte_array([n; 32]))
    }

    fn who(peer: PeerId, preferred: bool) -> Announcer {
        Announcer { peer, preferred, unlimited: false }
    }

    #[test]
    fn outbound_peers_are_asked_first_inbound_after_two_seconds() {
        let mut requests = Requests::default();
        requests.announced(who(1, false), tx(1), T(0), true);
        requests.announced(who(2, true), tx(1), T(1), true);
        assert!(requests.due(1, T(1)).is_empty());
        assert_eq!(requests.due(2, T(1)), [tx(1)]);
        assert!(requests.due(1, T(3)).is_empty(), "one request at a time");
        assert_eq!(requests.due(1, T(61)), [tx(1)], "asked again when the request ran out");
    }

    #[test]
    fn notfound_passes_the_request_on_and_a_full_round_forgets() {
        let mut requests = Requests::default();
        requests.announced(who(1, true), tx(1), T(0), true);
        requests.announced(who(2, true), tx(1), T(0), true);
        assert_eq!(requests.due(1, T(0)), [tx(1)]);
        requests.answered(1, &tx(1));
        assert_eq!(requests.due(2, T(0)), [tx(1)]);
        requests.answered(2, &tx(1));
        assert!(requests.by_tx.is_empty());
        assert!(requests.by_peer.values().all(BTreeMap::is_empty));
    }

    #[test]
    fn txids_wait_for_wtxid_peers() {
        let mut requests = Requests::default();
        let txid = TxRef::Txid(bitcoin::Txid::from_byte_array([3; 32]));
        requests.announced(who(1, true), txid, T(0), true);
        assert!(requests.due(1, T(1)).is_empty());
        assert_eq!(requests.due(1, T(2)), [txid]);
    }

    #[test]
    fn announcements_of_one_peer_are_limited_and_leave_with_it() {
        let mut requests = Requests::default();
        for n in 0..6_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            requests.announced(who(1, true), TxRef::Wtxid(Wtxid::from_byte_array(id)), T(0), true);
        }
        assert_eq!(requests.by_tx.len(), MAX_ANNOUNCEMENTS);
        requests.forget_peer(1);
        assert!(requests.by_tx.is_empty() && requests.by_peer.is_empty());
    }
}
