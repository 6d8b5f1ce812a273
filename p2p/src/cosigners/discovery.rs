//! What discovery tells the owner: addresses of members, never authority.
//!
//! Owns the handling of mDNS, Kademlia and identify events, and DNS names in static addresses.
//! Peers that are not on the allow-list are passed over in silence: any host may announce itself.

use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p::{identify, kad, mdns};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::debug;

use super::book::Source;
use super::limits::{DHT_QUERIES_PER_ROUND, MAX_ADDRESSES_PER_PEER, MAX_RESOLVED, RESOLVE_DEADLINE};
use super::owner::Owner;
use super::swarm::{Behaviour, BehaviourEvent};

impl Owner {
    pub(super) fn on_discovery(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    if self.is_member(&peer) {
                        self.learn(peer, Source::Mdns, address);
                    } else {
                        self.book.note_stranger(peer, address);
                    }
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, address) in gone {
                    self.book.expire(&peer, Source::Mdns, address);
                    self.publish_addresses(&peer);
                }
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identify(peer_id, info.listen_addrs, &info.observed_addr);
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(result),
                ..
            }) => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for info in peers {
                    for address in info.addrs {
                        self.learn(info.peer_id, Source::Dht, address);
                    }
                }
            }
            _ => {}
        }
    }

    /// A member names its own addresses. Loopback counts only between processes of one host: the
    /// member sees us at loopback exactly then.
    fn on_identify(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, observed: &Multiaddr) {
        if !self.is_member(&peer) {
            return;
        }
        let same_host = is_loopback(observed);
        // What it names now replaces what it named before.
        forget(&mut self.swarm, &peer);
        let usable = addresses.into_iter().filter(|address| same_host || !is_loopback(address));
        for address in usable.take(MAX_ADDRESSES_PER_PEER) {
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.add_address(&peer, address.clone());
            }
            self.learn(peer, Source::Member, address);
        }
    }

    /// Asks the members that are there for those that are not.
    pub(super) fn ask_dht(&mut self) {
        let absent: Vec<PeerId> = self.absent().take(DHT_QUERIES_PER_ROUND).collect();
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        if kad.kbuckets().next().is_none() {
            return;
        }
        for peer in absent {
            kad.get_closest_peers(peer);
        }
    }
}

pub(super) fn forget(swarm: &mut Swarm<Behaviour>, peer: &PeerId) {
    if let Some(kad) = swarm.behaviour_mut().kad.as_mut() {
        kad.remove_peer(peer);
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Whether the address has to be resolved.
pub(super) fn is_name(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
}

/// Replaces names by what they resolve to; a name that does not resolve is left out.
pub(super) async fn resolve(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut resolved = Vec::new();
    for address in addresses {
        let mut parts = address.iter();
        let (name, v4, v6) = match parts.next() {
            Some(Protocol::Dns(name)) => (name, true, true),
            Some(Protocol::Dns4(name)) => (name, true, false),
            Some(Protocol::Dns6(name)) => (name, false, true),
            _ => {
                resolved.push(address);
                continue;
            }
        };
        let Some(Protocol::Tcp(port)) = parts.next() else { continue };
        match timeout(RESOLVE_DEADLINE, lookup_host((name.as_ref(), port))).await {
            Ok(Ok(found)) => resolved.extend(
                found
                    .filter(|socket| if socket.is_ipv4() { v4 } else { v6 })
                    .take(MAX_RESOLVED)
                    .map(|socket| Multiaddr::from(socket.ip()).with(Protocol::Tcp(port))),
            ),
            Ok(Err(error)) => debug!(%name, %error, "co-signer's name does not resolve"),
            Err(_) => debug!(%name, "co-signer's name did not resolve in time"),
        }
    }
    resolved
}

/// One line for operators instead of libp2p's nested text.
pub(super) fn short_dial_error(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => {
            let texts: Vec<String> = attempts
                .iter()
                .take(3)
                .map(|(address, error)| match error {
                    TransportError::Other(error) => format!("{} ({})", without_peer(address), innermost(error)),
                    TransportError::MultiaddrNotSupported(_) => format!("{} (not supported)", without_peer(address)),
                })
                .collect();
            texts.join(", ")
        }
        DialError::Denied { cause } => format!("denied: {cause}"),
        other => other.to_string(),
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

fn innermost(error: &std::io::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}
