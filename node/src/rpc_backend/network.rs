//! The Bitcoin network behind `getnetworkinfo`, `getpeerinfo`, `addnode` and their kin.
//!
//! Owns the translation between [`keyless_p2p::bitcoin`]'s types and those of [`keyless_rpc::backend`]. The network
//! starts after RPC does: until then there are no peers.

use std::net::SocketAddr;
use std::sync::OnceLock;

use async_trait::async_trait;
use bitcoin::Amount;
use keyless_kernel::Kernel;
use keyless_p2p::bitcoin::Net;
use keyless_p2p::bitcoin::handle::{ConnectionType, Handle, NetTotals, PeerInfo, Whom};
use keyless_p2p::bitcoin::permissions::Subnet;
use keyless_rpc::RpcError;
use keyless_rpc::backend::{self as rpc, Network};

/// Core 31.99 as an integer.
const CLIENT_VERSION_NUMBER: u32 = 319_900;

/// Facts of the configuration that the network's methods show.
#[derive(Debug, Clone)]
pub struct NetworkFacts {
    pub v2_transport: bool,
    pub default_ban_secs: i64,
}

/// [`Network`] over the running P2P network.
#[derive(Debug)]
pub struct NetworkBackend {
    handle: OnceLock<Handle>,
    kernel: Kernel,
    facts: NetworkFacts,
}

impl NetworkBackend {
    pub fn new(kernel: Kernel, facts: NetworkFacts) -> Self {
        Self { handle: OnceLock::new(), kernel, facts }
    }

    /// Called once, when the network is up.
    pub fn attach(&self, handle: Handle) {
        // A second network in a process does not exist.
        let _ = self.handle.set(handle);
    }

    /// Runs `ask` where blocking is allowed.
    async fn with<T: Send + 'static>(&self, ask: impl FnOnce(Handle) -> T + Send + 'static) -> Result<T, RpcError> {
        let handle = self.handle.get().cloned().ok_or_else(disabled)?;
        tokio::task::spawn_blocking(move || ask(handle)).await.map_err(|_| disabled())
    }
}

fn disabled() -> RpcError {
    let message = "Error: Peer-to-peer functionality missing or disabled".to_owned();
    RpcError { code: keyless_rpc::code::RPC_CLIENT_P2P_DISABLED, message }
}

fn invalid_subnet() -> RpcError {
    let message = "Error: Invalid IP/Subnet".to_owned();
    RpcError { code: keyless_rpc::code::RPC_CLIENT_INVALID_IP_OR_SUBNET, message }
}

fn secs(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[async_trait]
impl Network for NetworkBackend {
    async fn network_info(&self) -> Result<rpc::NetworkInfo, RpcError> {
        let kernel = self.kernel.clone();
        let (info, mempool) = self.with(move |handle| (handle.info(), kernel.mempool_info())).await?;
        let info = info.ok_or_else(disabled)?;
        let mempool = mempool.map_err(|error| RpcError::internal(error.to_string()))?;
        Ok(rpc::NetworkInfo {
            version: CLIENT_VERSION_NUMBER,
            subversion: info.user_agent,
            protocol_version: info.protocol_version,
            local_services: info.services.to_u64(),
            local_relay: info.local_relay,
            time_offset_secs: info.time_offset,
            active: info.active,
            connections_in: info.connections.inbound,
            connections_out: info.connections.outbound,
            networks: Net::ALL
                .map(|net| {
                    let proxy = info.proxies.of(net);
                    rpc::NetworkEntry {
                        name: net.name().to_owned(),
                        reachable: info.reachable.has(net),
                        proxy: proxy.map(|proxy| proxy.address.clone()).unwrap_or_default(),
                        proxy_randomize_credentials: proxy.is_some_and(|proxy| proxy.randomize),
                    }
                })
                .to_vec(),
            relay_fee: Amount::from_sat(mempool.min_relay_sat_kvb),
            incremental_fee: Amount::from_sat(mempool.incremental_sat_kvb),
            local_addresses: info
                .local_addresses
                .into_iter()
                .map(|(address, score)| rpc::LocalAddress {
                    address: address.host(),
                    port: address.port(),
                    score: i32::try_from(score).unwrap_or(i32::MAX),
                })
                .collect(),
            warnings: self.kernel.warnings().unwrap_or_default(),
        })
    }

    async fn peers(&self) -> Result<Vec<rpc::PeerInfo>, RpcError> {
        let peers = self.with(|handle| handle.peers()).await?;
        Ok(peers.into_iter().map(peer_info).collect())
    }

    async fn connection_count(&self) -> Result<usize, RpcError> {
        let counts = self.with(|handle| handle.connection_counts()).await?;
        Ok(counts.inbound.saturating_add(counts.outbound))
    }

    async fn ping(&self) -> Result<(), RpcError> {
        self.with(|handle| handle.ping_all()).await
    }

    async fn totals(&self) -> Result<rpc::NetTotals, RpcError> {
        let totals = self.with(|handle| handle.totals()).await?;
        Ok(net_totals(&totals))
    }

    fn v2_transport(&self) -> bool {
        self.facts.v2_transport
    }

    async fn add_node(&self, node: &str, v2: bool) -> Result<bool, RpcError> {
        let node = node.to_owned();
        self.with(move |handle| handle.add_node(&node, v2)).await
    }

    async fn remove_node(&self, node: &str) -> Result<bool, RpcError> {
        let node = node.to_owned();
        self.with(move |handle| handle.remove_node(&node)).await
    }

    async fn connect_once(&self, node: &str, v2: bool) -> Result<(), RpcError> {
        let node = node.to_owned();
        self.with(move |handle| handle.onetry(&node, v2)).await
    }

    async fn add_connection(&self, node: &str, kind: &str, v2: bool) -> Result<bool, RpcError> {
        let kind = match kind {
            "outbound-full-relay" => ConnectionType::OutboundFullRelay,
            "block-relay-only" => ConnectionType::BlockRelay,
            "addr-fetch" => ConnectionType::AddrFetch,
            _ => ConnectionType::Feeler,
        };
        let node = node.to_owned();
        self.with(move |handle| handle.connect(&node, kind, v2)).await
    }

    async fn disconnect_address(&self, address: &str) -> Result<bool, RpcError> {
        let whom = match address.parse::<Subnet>() {
            Ok(subnet) if address.contains('/') => Whom::Subnet(subnet),
            _ => Whom::Address(address.to_owned()),
        };
        self.with(move |handle| handle.disconnect(whom)).await
    }

    async fn disconnect_id(&self, id: i64) -> Result<bool, RpcError> {
        let Ok(id) = u64::try_from(id) else { return Ok(false) };
        self.with(move |handle| handle.disconnect(Whom::Id(id))).await
    }

    async fn added_nodes(&self) -> Result<Vec<rpc::AddedNode>, RpcError> {
        let nodes = self.with(|handle| handle.added_nodes()).await?;
        let shown =
            |(address, inbound): (SocketAddr, bool)| rpc::AddedConnection { address: address.to_string(), inbound };
        Ok(nodes.into_iter().map(|n| rpc::AddedNode { node: n.node, connected: n.connected.map(shown) }).collect())
    }

    async fn set_active(&self, active: bool) -> Result<bool, RpcError> {
        self.with(move |handle| {
            handle.set_network_active(active);
            handle.info().map_or(active, |info| info.active)
        })
        .await
    }

    async fn banned(&self) -> Result<Vec<rpc::Ban>, RpcError> {
        let bans = self.with(|handle| handle.bans()).await?;
        Ok(bans
            .into_iter()
            .map(|ban| rpc::Ban {
                address: ban.subnet.to_string(),
                created_secs: secs(ban.created),
                until_secs: secs(ban.until),
            })
            .collect())
    }

    async fn ban(&self, text: &str, until_secs: i64) -> Result<bool, RpcError> {
        let subnet = text.parse::<Subnet>().map_err(|_| invalid_subnet())?;
        let until = u64::try_from(until_secs).unwrap_or(0);
        let exact = text.contains('/');
        self.with(move |handle| handle.ban(subnet, until, exact)).await
    }

    async fn unban(&self, subnet: &str) -> Result<bool, RpcError> {
        let subnet = subnet.parse::<Subnet>().map_err(|_| invalid_subnet())?;
        self.with(move |handle| handle.unban(subnet)).await
    }

    async fn clear_bans(&self) -> Result<(), RpcError> {
        self.with(|handle| handle.clear_bans()).await
    }

    fn default_ban_secs(&self) -> i64 {
        self.facts.default_ban_secs
    }

    async fn advance_schedule(&self, by: std::time::Duration) -> Result<(), RpcError> {
        self.with(move |handle| handle.advance_schedule(by)).await
    }

    async fn send_message(&self, peer: i64, message: &str, payload: &[u8]) -> Result<bool, RpcError> {
        let Ok(id) = u64::try_from(peer) else { return Ok(false) };
        let (message, payload) = (message.to_owned(), payload.to_vec());
        self.with(move |handle| handle.send_raw(id, &message, payload)).await
    }
}

fn net_totals(totals: &NetTotals) -> rpc::NetTotals {
    rpc::NetTotals {
        recv_bytes: totals.bytes_recv,
        sent_bytes: totals.bytes_sent,
        upload: rpc::UploadTarget {
            timeframe_secs: totals.upload.timeframe_secs,
            target_bytes: totals.upload.target_bytes,
            reached: totals.upload.target_reached,
            serve_historical_blocks: totals.upload.serve_historical_blocks,
            left_bytes: totals.upload.bytes_left_in_cycle,
            left_secs: totals.upload.time_left_in_cycle_secs,
        },
    }
}

fn peer_info(peer: PeerInfo) -> rpc::PeerInfo {
    rpc::PeerInfo {
        id: secs(peer.id),
        addr: peer.addr,
        addr_bind: peer.addrbind.map(|address| address.to_string()),
        addr_local: peer.addrlocal.map(|address| address.to_string()),
        network: peer.network.to_owned(),
        mapped_as: peer.mapped_as,
        services: peer.services.to_u64(),
        relay_txes: peer.relay_txes,
        last_inv_sequence: peer.last_inv_sequence,
        inv_to_send: peer.inv_to_send,
        last_send: secs(peer.last_send),
        last_recv: secs(peer.last_recv),
        last_transaction: secs(peer.last_transaction),
        last_block: secs(peer.last_block),
        bytes_sent: peer.bytes_sent,
        bytes_recv: peer.bytes_recv,
        conn_time: secs(peer.conn_time),
        time_offset_secs: peer.time_offset,
        ping_secs: peer.ping_time.map(|ping| ping.as_secs_f64()),
        min_ping_secs: peer.min_ping.map(|ping| ping.as_secs_f64()),
        ping_wait_secs: peer.ping_wait.map(|ping| ping.as_secs_f64()),
        version: peer.version,
        subver: peer.subver,
        inbound: peer.inbound,
        hb_to: peer.bip152_hb_to,
        hb_from: peer.bip152_hb_from,
        presynced_headers: peer.presynced_headers,
        synced_headers: peer.synced_headers,
        synced_blocks: peer.synced_blocks,
        inflight: peer.inflight,
        addr_relay_enabled: peer.addr_relay_enabled,
        addr_processed: peer.addr_processed,
        addr_rate_limited: peer.addr_rate_limited,
        permissions: peer.permissions.names().into_iter().map(str::to_owned).collect(),
        min_fee_filter: Amount::from_sat(peer.min_fee_filter),
        sent_per_msg: peer.bytes_sent_per_msg.into_iter().collect(),
        recv_per_msg: peer.bytes_recv_per_msg.into_iter().collect(),
        connection_type: peer.connection_type.name().to_owned(),
        transport: peer.transport.to_owned(),
        session_id: peer.session_id,
    }
}
