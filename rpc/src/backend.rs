//! Where answers come from: traits that the node implements, and the context a method is called with.
//!
//! This crate knows no chain, no sockets to peers and no keys; it asks through these.

use std::sync::Arc;

use async_trait::async_trait;
use bitcoin::Amount;

use crate::error::RpcError;
use crate::wallet::backend::Wallets;

/// Core's own RPC handlers, in the kernel. All calls block: the server makes them on threads for it.
pub trait KernelRpc: Send + Sync {
    /// Runs a method. `params_json` is an array, or an object of named arguments; the result is JSON text.
    /// While the node starts it answers -28 with the current step; an unknown method is -32601.
    fn execute(&self, method: &str, params_json: &str, user: &str, uri: &str) -> Result<String, RpcError>;

    /// Core's help: of everything for `""` (as `help` prints it), of one method otherwise; `None` if it knows no such
    /// method.
    fn help(&self, method: &str) -> Option<String>;

    /// What the node is doing while it starts, for -28; `None` once it is up.
    fn warmup(&self) -> Option<String>;
}

/// The process: life, time, options.
#[async_trait]
pub trait Control: Send + Sync {
    /// Begins the shutdown. The answer to `stop` is sent before the sockets close.
    fn request_shutdown(&self);

    /// Seconds since start, by a clock that nobody sets.
    fn uptime_secs(&self) -> u64;

    /// Whether `-deprecatedrpc=<name>` was given.
    fn deprecated_rpc_enabled(&self, name: &str) -> bool;

    /// Whether the chain is regtest.
    fn is_regtest(&self) -> bool;

    /// Unix time in seconds, mock time included.
    fn time_secs(&self) -> i64;

    /// Why the node is not ready to do its work now; `None` when it is. `/ready` shows it.
    fn not_ready(&self) -> Option<String> {
        None
    }

    /// Who publishes what by ZMQ, in the order of `getzmqnotifications`.
    fn zmq_notifications(&self) -> Vec<ZmqNotification> {
        Vec::new()
    }

    /// Figures in Prometheus' text format, where there are some. May block.
    fn metrics(&self) -> Option<String> {
        None
    }
}

/// One row of `getzmqnotifications`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZmqNotification {
    /// `pubhashblock` and the like.
    pub kind: String,
    pub address: String,
    /// Messages that may wait for one subscriber.
    pub high_water_mark: i32,
}

/// The Bitcoin network as `rpc` shows it. Amounts per kvB.
#[async_trait]
pub trait Network: Send + Sync {
    async fn network_info(&self) -> Result<NetworkInfo, RpcError>;
    async fn peers(&self) -> Result<Vec<PeerInfo>, RpcError>;
    async fn connection_count(&self) -> Result<usize, RpcError>;
    /// Sends a ping to every peer.
    async fn ping(&self) -> Result<(), RpcError>;
    async fn totals(&self) -> Result<NetTotals, RpcError>;

    /// Whether `-v2transport` is on.
    fn v2_transport(&self) -> bool;
    /// Remembers a node and keeps connecting to it; false if it is known already.
    async fn add_node(&self, node: &str, v2: bool) -> Result<bool, RpcError>;
    /// Forgets a node; false if it is not known.
    async fn remove_node(&self, node: &str) -> Result<bool, RpcError>;
    /// Tries one connection.
    async fn connect_once(&self, node: &str, v2: bool) -> Result<(), RpcError>;
    /// Opens an outbound connection of a kind (regtest only); false when there is no room.
    async fn add_connection(&self, node: &str, kind: &str, v2: bool) -> Result<bool, RpcError>;
    /// Disconnects whoever has this address; false if nobody has.
    async fn disconnect_address(&self, address: &str) -> Result<bool, RpcError>;
    /// Disconnects a peer by its number; false if there is none.
    async fn disconnect_id(&self, id: i64) -> Result<bool, RpcError>;
    async fn added_nodes(&self) -> Result<Vec<AddedNode>, RpcError>;
    /// Turns all networking on or off; returns what holds now.
    async fn set_active(&self, active: bool) -> Result<bool, RpcError>;

    async fn banned(&self) -> Result<Vec<Ban>, RpcError>;
    /// Bans a subnet (as [`Ban::address`]) or a single address (no `/`) until a Unix time, and disconnects it; false if
    /// the same subnet, or one around the address, is banned already.
    async fn ban(&self, subnet: &str, until_secs: i64) -> Result<bool, RpcError>;
    /// Ends a ban; false if there is none.
    async fn unban(&self, subnet: &str) -> Result<bool, RpcError>;
    async fn clear_bans(&self) -> Result<(), RpcError>;
    /// `-bantime`.
    fn default_ban_secs(&self) -> i64;

    /// What is done every few minutes comes nearer by this much (tests).
    async fn advance_schedule(&self, by: std::time::Duration) -> Result<(), RpcError>;
    /// Sends a raw message to a peer (tests); false if there is no such peer.
    async fn send_message(&self, peer: i64, message: &str, payload: &[u8]) -> Result<bool, RpcError>;
}

/// `getnetworkinfo`.
#[derive(Clone, Debug, Default)]
pub struct NetworkInfo {
    /// As an integer: 319900.
    pub version: u32,
    pub subversion: String,
    pub protocol_version: u32,
    /// Service bits that this node offers.
    pub local_services: u64,
    /// Whether transactions are wanted from peers.
    pub local_relay: bool,
    pub time_offset_secs: i64,
    pub active: bool,
    pub connections_in: usize,
    pub connections_out: usize,
    pub networks: Vec<NetworkEntry>,
    pub relay_fee: Amount,
    pub incremental_fee: Amount,
    pub local_addresses: Vec<LocalAddress>,
    pub warnings: Vec<String>,
}

/// One kind of network in `getnetworkinfo`: ipv4, ipv6, onion, i2p, cjdns, in this order.
#[derive(Clone, Debug, Default)]
pub struct NetworkEntry {
    pub name: String,
    pub reachable: bool,
    pub proxy: String,
    pub proxy_randomize_credentials: bool,
}

/// An address this node is known by.
#[derive(Clone, Debug)]
pub struct LocalAddress {
    pub address: String,
    pub port: u16,
    pub score: i32,
}

/// A peer, as `getpeerinfo` shows it. Times are Unix seconds, 0 for never; durations are seconds.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    pub id: i64,
    pub addr: String,
    pub addr_bind: Option<String>,
    pub addr_local: Option<String>,
    pub network: String,
    pub mapped_as: Option<u32>,
    pub services: u64,
    pub relay_txes: bool,
    pub last_inv_sequence: u64,
    pub inv_to_send: u64,
    pub last_send: i64,
    pub last_recv: i64,
    pub last_transaction: i64,
    pub last_block: i64,
    pub bytes_sent: u64,
    pub bytes_recv: u64,
    pub conn_time: i64,
    pub time_offset_secs: i64,
    pub ping_secs: Option<f64>,
    pub min_ping_secs: Option<f64>,
    pub ping_wait_secs: Option<f64>,
    pub version: u32,
    pub subver: String,
    pub inbound: bool,
    pub hb_to: bool,
    pub hb_from: bool,
    /// -1 if no low-work synchronisation runs.
    pub presynced_headers: i64,
    /// -1 if none in common.
    pub synced_headers: i64,
    /// -1 if none in common.
    pub synced_blocks: i64,
    /// Heights of blocks being fetched.
    pub inflight: Vec<u32>,
    pub addr_relay_enabled: bool,
    pub addr_processed: u64,
    pub addr_rate_limited: u64,
    pub permissions: Vec<String>,
    pub min_fee_filter: Amount,
    /// Bytes with headers by message type, sorted by name.
    pub sent_per_msg: Vec<(String, u64)>,
    pub recv_per_msg: Vec<(String, u64)>,
    /// `outbound-full-relay`, `block-relay-only`, `inbound`, `manual`, `addr-fetch`, `feeler`.
    pub connection_type: String,
    /// `detecting`, `v1`, `v2`.
    pub transport: String,
    /// Hex, empty without v2.
    pub session_id: String,
}

/// `getnettotals`; without an upload target all of `upload` is zero and false.
#[derive(Clone, Debug, Default)]
pub struct NetTotals {
    pub recv_bytes: u64,
    pub sent_bytes: u64,
    pub upload: UploadTarget,
}

/// `-maxuploadtarget` and where it stands.
#[derive(Clone, Debug)]
pub struct UploadTarget {
    pub timeframe_secs: u64,
    pub target_bytes: u64,
    pub reached: bool,
    pub serve_historical_blocks: bool,
    pub left_bytes: u64,
    pub left_secs: u64,
}

impl Default for UploadTarget {
    fn default() -> UploadTarget {
        UploadTarget {
            timeframe_secs: 86_400,
            target_bytes: 0,
            reached: false,
            serve_historical_blocks: true,
            left_bytes: 0,
            left_secs: 0,
        }
    }
}

/// A node added by `addnode`.
#[derive(Clone, Debug)]
pub struct AddedNode {
    pub node: String,
    /// Where it is connected, if it is.
    pub connected: Option<AddedConnection>,
}

/// The connection to an added node.
#[derive(Clone, Debug)]
pub struct AddedConnection {
    pub address: String,
    pub inbound: bool,
}

/// A ban.
#[derive(Clone, Debug)]
pub struct Ban {
    /// `1.2.3.4/32`, `1.2.3.0/24`, `::1/128`.
    pub address: String,
    pub created_secs: i64,
    pub until_secs: i64,
}

/// Everything a method may ask.
pub struct Services {
    pub kernel: Arc<dyn KernelRpc>,
    pub network: Arc<dyn Network>,
    pub control: Arc<dyn Control>,
    /// `None` with `-disablewallet`: no wallet method is registered then.
    pub wallets: Option<Arc<dyn Wallets>>,
}

/// The context of one call.
#[derive(Clone)]
pub struct Ctx {
    pub services: Arc<Services>,
    /// The authenticated RPC user.
    pub user: String,
    /// The wallet named by the path `/wallet/<name>`, decoded; may be empty (the wallet named "").
    pub wallet: Option<String>,
    /// The request's path as it came.
    pub uri: String,
}

impl Ctx {
    /// The wallets, or -32601 as Core answers without them.
    pub fn wallets(&self) -> Result<&Arc<dyn Wallets>, RpcError> {
        self.services.wallets.as_ref().ok_or_else(RpcError::method_not_found)
    }

    /// A method of Core's handlers, run where blocking is allowed.
    pub async fn kernel(&self, method: &'static str, params_json: String) -> Result<String, RpcError> {
        let kernel = Arc::clone(&self.services.kernel);
        let (user, uri) = (self.user.clone(), self.uri.clone());
        let call = move || kernel.execute(method, &params_json, &user, &uri);
        let joined = tokio::task::spawn_blocking(call).await;
        joined.unwrap_or_else(|_| Err(RpcError::internal("the kernel call was interrupted")))
    }
}
