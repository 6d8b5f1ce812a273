//! The libp2p set-up: transport, behaviours, limits, listening.
//!
//! The allow-list stands first among the behaviours: a stranger is refused before any other sees
//! it. Kademlia's protocol name carries network and genesis, so it is a table of this quorum's
//! network alone; it stores no records.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::identity::PublicKey;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder};
use libp2p::{identify, kad, mdns, noise, tcp, yamux};
use libp2p_allow_block_list::AllowedPeers;
use libp2p_connection_limits::ConnectionLimits;
use tracing::warn;

use super::config::{Config, Hello};
use super::limits;
use super::network::StartError;

/// The stream that carries frames.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/keyless/cosigner");
const IDENTIFY_PROTOCOL: &str = "/keyless/id/1";

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) allow: libp2p_allow_block_list::Behaviour<AllowedPeers>,
    limits: libp2p_connection_limits::Behaviour,
    pub(crate) stream: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) kad: Toggle<kad::Behaviour<MemoryStore>>,
}

pub(crate) fn build(config: &Config) -> Result<Swarm<Behaviour>, StartError> {
    let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    let muxer = || {
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(limits::MAX_STREAMS_PER_CONNECTION);
        muxer
    };
    let swarm = SwarmBuilder::with_existing_identity(config.identity.keypair().clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, muxer)
        .map_err(|error| setup(&error))?
        .with_behaviour(|keypair| behaviour(config, keypair.public()))
        .map_err(|error| setup(&error))?
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(limits::IDLE_CONNECTION)
                .with_max_negotiating_inbound_streams(limits::MAX_STREAMS_PER_CONNECTION)
        })
        .with_connection_timeout(limits::CONNECT_DEADLINE)
        .build();
    Ok(swarm)
}

fn behaviour(config: &Config, public_key: PublicKey) -> Behaviour {
    let me = public_key.to_peer_id();
    let mut allow = libp2p_allow_block_list::Behaviour::<AllowedPeers>::default();
    for member in &config.members {
        allow.allow_peer(member.peer);
    }
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(limits::MAX_PENDING_OUTGOING))
        .with_max_established_per_peer(Some(limits::MAX_CONNECTIONS_PER_PEER))
        .with_max_established(Some(limits::MAX_CONNECTIONS));
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), public_key)
        .with_agent_version(format!("keyless/{}", config.hello.version))
        .with_push_listen_addr_updates(true);
    Behaviour {
        allow,
        limits: libp2p_connection_limits::Behaviour::new(limits),
        stream: libp2p_stream::Behaviour::new(),
        identify: identify::Behaviour::new(identify),
        mdns: config.discovery.mdns.then(|| multicast(me)).flatten().into(),
        kad: config.discovery.dht.then(|| kademlia(me, &config.hello)).flatten().into(),
    }
}

/// A host without multicast still has its other ways of discovery.
fn multicast(me: PeerId) -> Option<mdns::tokio::Behaviour> {
    let config =
        mdns::Config { ttl: limits::MDNS_TTL, query_interval: limits::MDNS_QUERY_INTERVAL, enable_ipv6: false };
    mdns::tokio::Behaviour::new(config, me)
        .inspect_err(|error| warn!(%error, "mDNS is not available; co-signers are not discovered by it"))
        .ok()
}

fn kademlia(me: PeerId, hello: &Hello) -> Option<kad::Behaviour<MemoryStore>> {
    let genesis: String = hello.genesis.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("/keyless/kad/{}/{genesis}", hello.network);
    let protocol =
        StreamProtocol::try_from_owned(name).inspect_err(|error| warn!(%error, "Kademlia is not available")).ok()?;
    let mut config = kad::Config::new(protocol);
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_query_timeout(Duration::from_secs(5))
        .set_periodic_bootstrap_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let mut behaviour = kad::Behaviour::with_config(me, MemoryStore::new(me), config);
    behaviour.set_mode(Some(kad::Mode::Server));
    Some(behaviour)
}

/// What happened while the listeners started.
pub(crate) struct Listening {
    pub(crate) addresses: Vec<Multiaddr>,
    /// For the owner: mDNS may have told of a member already, and tells of each address once.
    pub(crate) missed: Vec<SwarmEvent<BehaviourEvent>>,
}

/// Listens and waits until each listener has an address.
pub(crate) async fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<Listening, StartError> {
    let mut listening = Listening { addresses: Vec::new(), missed: Vec::new() };
    for wanted in addresses {
        let id = swarm.listen_on(wanted.clone()).map_err(|error| match error {
            libp2p::TransportError::Other(source) => StartError::Bind { address: wanted.clone(), source },
            libp2p::TransportError::MultiaddrNotSupported(address) => StartError::BadListenAddress(address),
        })?;
        let found = tokio::time::timeout(limits::LISTEN_DEADLINE, async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { listener_id, address } => {
                        listening.addresses.push(address);
                        if listener_id == id {
                            return;
                        }
                    }
                    other if listening.missed.len() < limits::MAX_EVENTS_AT_START => listening.missed.push(other),
                    _ => {}
                }
            }
        });
        found.await.map_err(|_| StartError::ListenTimeout(wanted.clone()))?;
    }
    Ok(listening)
}
