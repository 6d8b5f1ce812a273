//! Private broadcast: own transactions leave by connections of their own, through Tor or I2P, one transaction each, and tell
//! nothing of this node.
//!
//! Follows Core's `ThreadPrivateBroadcast` and the parts of `net_processing.cpp` for such connections. Which transaction goes
//! to whom is the node's to say ([`crate::bitcoin::chain::PrivateBroadcast`]).

use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message_blockdata::Inventory;
use rand::Rng;
use rand::seq::SliceRandom;

use super::{Halt, Owner, Step};
use crate::bitcoin::config::Proxy;
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message::{Version, WTXID_RELAY_VERSION};
use crate::bitcoin::net_addr::{Net, Nets};
use crate::bitcoin::peer::Peer;

/// What we claim to speak there.
pub(super) const PROTOCOL_VERSION: u32 = WTXID_RELAY_VERSION;
/// Core's constant: the same for all, whatever they run.
const USER_AGENT: &str = "/pynode:0.0.1/";
/// Core's `MAX_PRIVATE_BROADCAST_CONNECTIONS`.
const MAX_CONNECTIONS: usize = 64;
/// Calls under way at once: what one transaction wants.
const MAX_CALLS: usize = 3;
/// Core's `PRIVATE_BROADCAST_MAX_CONNECTION_LIFETIME`.
const MAX_LIFETIME: Duration = Duration::from_secs(3 * 60);
/// Addresses looked at in one turn.
const MAX_TRIES: usize = 100;
/// Between two looks at what has not come back, and up to a minute more.
const RETRY_INTERVAL: Duration = Duration::from_secs(2 * 60);
const RETRY_SPREAD: Duration = Duration::from_secs(60);
/// After nothing could be called.
const PAUSE: Duration = Duration::from_millis(500);
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(5);
/// All that may be said.
const MESSAGES: [&str; 5] = ["version", "verack", "inv", "tx", "ping"];

/// What is remembered between turns.
#[derive(Debug)]
pub(super) struct Private {
    /// A peer on Tor spoke to us: what counts as Tor's proxy is one, and leads to other networks unseen.
    tor_works: bool,
    next_call: Instant,
    pub(super) next_retry: Instant,
}

impl Private {
    pub(super) fn new(now: Instant) -> Self {
        Self { tor_works: false, next_call: now, next_retry: now }
    }
}

/// A greeting without a trace of this node.
pub(super) fn version(nonce: u64) -> Version {
    Version {
        version: PROTOCOL_VERSION.cast_signed(),
        services: 0,
        time: 0,
        receiver: None,
        nonce,
        user_agent: USER_AGENT.as_bytes().to_vec(),
        start_height: 0,
        relay: false,
    }
}

fn leave(reason: impl std::fmt::Display, peer: &Peer) -> Step {
    tracing::debug!(target: "privatebroadcast", "{reason}, {}", peer.log());
    Err(Halt::Gone)
}

pub(super) fn check_lifetime(peer: &Peer, now: Duration) -> Step {
    if peer.connected.saturating_add(MAX_LIFETIME) < now {
        let secs = MAX_LIFETIME.as_secs();
        return leave(format!("Disconnecting: did not complete the transaction send within {secs} seconds"), peer);
    }
    Ok(())
}

impl Owner {
    /// The proxy for a private connection. `None`: none is safe. On I2P it has a session of its own.
    pub(super) fn private_proxy(&self, net: Net) -> Option<&Proxy> {
        let tor = self.config.proxies.onion.as_ref().filter(|_| self.config.reachable.has(Net::Onion));
        match net {
            Net::Onion => tor,
            Net::Ipv4 | Net::Ipv6 => tor.filter(|_| self.private.tor_works && self.config.reachable.has(net)),
            Net::I2p | Net::Cjdns => None,
        }
    }

    /// Opens what is wanted, a few at a time.
    pub(super) fn dial_privately(&mut self) {
        let now = Instant::now();
        if !self.config.private_broadcast || self.private.next_call > now {
            return;
        }
        let wanted = usize::try_from(self.chain.private_wanted(0)).unwrap_or(usize::MAX);
        let open = self.count(ConnectionType::PrivateBroadcast);
        let calls = self.dials.targets(ConnectionType::PrivateBroadcast).count();
        let room = MAX_CONNECTIONS.saturating_sub(open).min(MAX_CALLS.min(wanted).saturating_sub(calls));
        for _ in 0..room {
            let Some(net) = self.private_net() else {
                tracing::warn!("Unable to open -privatebroadcast connections: neither Tor nor I2P is reachable");
                self.private.next_call = now + UNREACHABLE_PAUSE;
                return;
            };
            if !self.dial_privately_on(net) {
                tracing::debug!(
                    target: "privatebroadcast",
                    "Connections needed but addrman keeps returning bad addresses, will retry"
                );
                self.private.next_call = now + PAUSE;
                return;
            }
        }
    }

    fn private_net(&self) -> Option<Net> {
        let i2p = self.config.i2p.is_some() && self.config.reachable.has(Net::I2p);
        let usable = |net: &Net| if *net == Net::I2p { i2p } else { self.private_proxy(*net).is_some() };
        let nets: Vec<Net> = Net::ALL.into_iter().filter(usable).collect();
        nets.choose(&mut rand::thread_rng()).copied()
    }

    fn dial_privately_on(&mut self, net: Net) -> bool {
        let clock = self.chain.now();
        for _ in 0..MAX_TRIES {
            let Some((entry, _)) = self.chain.book_choose(false, Nets::NONE.with(net)) else { return false };
            if self.is_own(&entry.address) || self.is_unwelcome(&entry.address, clock) {
                continue;
            }
            let v2 = self.config.v2_transport && entry.services.has(ServiceFlags::P2P_V2);
            self.dial(&entry.address.to_string(), ConnectionType::PrivateBroadcast, v2, true);
            return true;
        }
        false
    }

    pub(super) fn private_opened(&self, node: &str) {
        let remaining = self.chain.private_wanted(1);
        tracing::debug!(
            target: "privatebroadcast",
            "Socket connected to {node}; remaining connections to open: {remaining}"
        );
    }

    pub(super) fn private_failed(&self, node: &str) {
        let remaining = self.chain.private_wanted(0);
        let next = if remaining == 0 {
            "will not retry, no more connections needed".to_owned()
        } else {
            format!("will retry to a different address; remaining connections to open: {remaining}")
        };
        tracing::debug!(target: "privatebroadcast", "Failed to connect to {node}, {next}");
    }

    /// Now and then: what did not come back is sent once more.
    pub(super) fn retry_privately(&mut self) {
        let now = Instant::now();
        if self.config.private_broadcast && self.private.next_retry <= now {
            let spread = rand::thread_rng().gen_range(Duration::ZERO..RETRY_SPREAD);
            self.private.next_retry = now + RETRY_INTERVAL + spread;
            self.chain.private_retry();
        }
    }

    /// Whether a message may go out on this connection; and whether Tor works, which an answer on Tor shows.
    pub(super) fn may_send(&mut self, peer: &Peer, command: &str) -> bool {
        if peer.is_private() && !MESSAGES.contains(&command) {
            tracing::debug!(
                target: "privatebroadcast",
                "Omitting send of message '{command}', {}", peer.log()
            );
            return false;
        }
        self.private.tor_works |= command == "verack" && !peer.is_inbound() && peer.target.net() == Net::Onion;
        true
    }

    pub(super) fn answer_private_version(&mut self, peer: &mut Peer, relays: bool) -> Step {
        if !relays {
            return leave("Disconnecting: does not support transaction relay (connected in vain)", peer);
        }
        self.send(peer, "verack", Vec::new());
        Ok(())
    }

    /// The greeting is over: offers one transaction.
    pub(super) fn offer_privately(&mut self, peer: &mut Peer) -> Step {
        let Some(tx) = self.chain.private_pick(peer.id, &peer.target) else {
            return leave("Disconnecting: no more transactions for private broadcast (connected in vain)", peer);
        };
        let witness = tx.txid.to_byte_array() != tx.wtxid.to_byte_array();
        tracing::debug!(
            target: "privatebroadcast",
            "P2P handshake completed, sending INV for txid={}{}, {}",
            tx.txid, if witness { format!(", wtxid={}", tx.wtxid) } else { String::new() }, peer.log()
        );
        self.send_inventory(peer, "inv", &vec![Inventory::Transaction(tx.txid)]);
        Ok(())
    }

    /// All that counts after the greeting.
    pub(super) fn on_private(&mut self, peer: &mut Peer, command: &str, payload: &[u8]) -> Step {
        match command {
            "pong" => self.on_pong(peer, payload),
            "getdata" => self.on_getdata(peer, payload),
            _ => {
                tracing::debug!(
                    target: "privatebroadcast",
                    "Ignoring incoming message '{}', {}",
                    crate::bitcoin::wire::sanitize(command.as_bytes()), peer.log()
                );
                Ok(())
            }
        }
    }

    /// Hands out what was offered, and a ping: its answer says that the transaction was read.
    pub(super) fn serve_privately(&mut self, peer: &mut Peer, items: &[Inventory]) -> Step {
        let Some(given) = self.chain.private_given(peer.id) else {
            return leave("Disconnecting: got GETDATA without sending an INV", peer);
        };
        match items {
            [Inventory::Transaction(txid)] if *txid == given.txid => {
                self.send(peer, "tx", given.raw);
                peer.ping.queued = true;
                self.maybe_ping(peer, self.chain.now())
            }
            _ => leave("Disconnecting: got an unexpected GETDATA message", peer),
        }
    }

    pub(super) fn private_delivered(&mut self, peer: &mut Peer) -> Step {
        self.chain.private_confirmed(peer.id);
        leave("Got a PONG (the transaction will probably reach the network), marking for disconnect", peer)
    }
}
