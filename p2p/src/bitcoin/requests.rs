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
/// How soon another peer's turn is looked at again.
const RECHECK: Duration = Duration::from_millis(500);

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
    /// Its place among the peer's announcements.
    place: u64,
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
struct PeerTxs {
    /// In order of announcement.
    keys: BTreeMap<u64, Key>,
    in_flight: usize,
    /// Nothing can be due before.
    look_at: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    by_tx: HashMap<Key, Vec<Announcement>>,
    by_peer: HashMap<PeerId, PeerTxs>,
    next_place: u64,
}

impl Requests {
    /// Notes that a peer has a transaction we lack. `wtxid_peers`: some peer speaks wtxid relay, so txids can wait.
    pub(crate) fn announced(&mut self, who: Announcer, tx: TxRef, now: Duration, wtxid_peers: bool) {
        let known = self.by_peer.entry(who.peer).or_default();
        if !who.unlimited && known.keys.len() >= MAX_ANNOUNCEMENTS {
            return;
        }
        let announcements = self.by_tx.entry(key(&tx)).or_default();
        if announcements.iter().any(|a| a.peer == who.peer) {
            return;
        }
        let mut delay = Duration::ZERO;
        if !who.preferred {
            delay += NONPREF_PEER_DELAY;
        }
        if matches!(tx, TxRef::Txid(_)) && wtxid_peers {
            delay += TXID_RELAY_DELAY;
        }
        if !who.unlimited && known.in_flight >= MAX_IN_FLIGHT {
            delay += OVERLOADED_PEER_DELAY;
        }
        let from = now + delay;
        let place = self.next_place;
        self.next_place += 1;
        known.keys.insert(place, key(&tx));
        known.look_at = known.look_at.min(from);
        let (peer, preferred) = (who.peer, who.preferred);
        announcements.push(Announcement { tx, peer, place, preferred, from, state: State::Candidate });
    }

    /// What to ask from `peer` now. Each is marked as asked.
    pub(crate) fn due(&mut self, peer: PeerId, now: Duration) -> Vec<TxRef> {
        let Some(known) = self.by_peer.get_mut(&peer) else { return Vec::new() };
        if known.keys.is_empty() || now < known.look_at {
            return Vec::new();
        }
        known.look_at = Duration::MAX;
        let keys: Vec<Key> = known.keys.values().copied().collect();
        let mut due = Vec::new();
        for key in keys {
            self.expire(key, now);
            let Some(announcements) = self.by_tx.get_mut(&key) else { continue };
            let mut look_at = now + RECHECK;
            let busy = announcements.iter().find_map(|a| match a.state {
                State::Requested { expires } => Some(expires),
                _ => None,
            });
            match (busy, best(announcements, now)) {
                (Some(expires), _) => look_at = expires,
                (None, Some(chosen)) if chosen == peer => {
                    if let Some(own) = announcements.iter_mut().find(|a| a.peer == peer) {
                        look_at = now + EXPIRY;
                        own.state = State::Requested { expires: look_at };
                        due.push(own.tx);
                    }
                }
                _ => {}
            }
            if let Some(known) = self.by_peer.get_mut(&peer) {
                known.look_at = known.look_at.min(look_at);
            }
        }
        if let Some(known) = self.by_peer.get_mut(&peer) {
            known.in_flight += due.len();
        }
        due
    }

    /// Ends requests that ran out.
    fn expire(&mut self, key: Key, now: Duration) {
        let Some(announcements) = self.by_tx.get(&key) else { return };
        let over = |a: &&Announcement| matches!(a.state, State::Requested { expires } if expires <= now);
        let late: Vec<PeerId> = announcements.iter().filter(over).map(|a| a.peer).collect();
        for peer in late {
            self.complete(peer, key);
        }
    }

    /// The peer answered, one way or the other.
    pub(crate) fn answered(&mut self, peer: PeerId, tx: &TxRef) {
        self.complete(peer, key(tx));
    }

    fn complete(&mut self, peer: PeerId, key: Key) {
        let Some(announcements) = self.by_tx.get_mut(&key) else { return };
        for announcement in announcements.iter_mut() {
            let Some(known) = self.by_peer.get_mut(&announcement.peer) else { continue };
            known.look_at = Duration::ZERO;
            if announcement.peer == peer {
                if matches!(announcement.state, State::Requested { .. }) {
                    known.in_flight = known.in_flight.saturating_sub(1);
                }
                announcement.state = State::Completed;
            }
        }
        if announcements.iter().all(|a| a.state == State::Completed) {
            self.forget_key(key);
        }
    }

    /// Nobody needs to be asked for it any more.
    pub(crate) fn forget(&mut self, tx: &TxRef) {
        self.forget_key(key(tx));
    }

    fn forget_key(&mut self, key: Key) {
        for announcement in self.by_tx.remove(&key).unwrap_or_default() {
            if let Some(known) = self.by_peer.get_mut(&announcement.peer) {
                known.keys.remove(&announcement.place);
                if matches!(announcement.state, State::Requested { .. }) {
                    known.in_flight = known.in_flight.saturating_sub(1);
                }
            }
        }
    }

    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        let Some(known) = self.by_peer.remove(&peer) else { return };
        for key in known.keys.into_values() {
            let Some(announcements) = self.by_tx.get_mut(&key) else { continue };
            announcements.retain(|a| a.peer != peer);
            for other in announcements.iter() {
                if let Some(known) = self.by_peer.get_mut(&other.peer) {
                    known.look_at = Duration::ZERO;
                }
            }
            if announcements.iter().all(|a| a.state == State::Completed) {
                self.forget_key(key);
            }
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
        assert!(requests.by_peer.values().all(|known| known.keys.is_empty() && known.in_flight == 0));
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
