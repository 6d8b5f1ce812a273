//! Options of the Bitcoin network, already parsed, and the permissions that `-whitelist` and `-whitebind` grant.
//!
//! Owns no defaults of the command line beyond [`Config::new`], which gives Core's.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::p2p::Magic;

use super::net_addr::{Net, NetAddr, Nets};
pub use super::permissions::{PermissionError, Permissions, Subnet, WhitelistEntry, parse_whitebind, parse_whitelist};
pub use super::tor::{Password, TorControl};

/// Core's `DEFAULT_MAX_PEER_CONNECTIONS`.
pub const DEFAULT_MAX_CONNECTIONS: usize = 125;
/// Core's `DEFAULT_PEER_CONNECT_TIMEOUT`.
pub const DEFAULT_PEER_TIMEOUT: Duration = Duration::from_secs(60);
/// Core's `DEFAULT_MISBEHAVING_BANTIME`.
pub const DEFAULT_BAN_TIME: Duration = Duration::from_secs(60 * 60 * 24);

/// Core's `MAX_OUTBOUND_FULL_RELAY_CONNECTIONS`.
const MAX_OUTBOUND_FULL: usize = 8;
/// Core's `MAX_BLOCK_RELAY_ONLY_CONNECTIONS`.
const MAX_BLOCK_RELAY: usize = 2;
/// Core's `MAX_FEELER_CONNECTIONS`.
const MAX_FEELER: usize = 1;

/// One listening address and what its guests may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub address: SocketAddr,
    /// `-whitebind`; none for `-bind`.
    pub permissions: Option<Permissions>,
    /// `-bind=...=onion`: peers count as coming through Tor.
    pub onion: bool,
}

impl Bind {
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, permissions: None, onion: false }
    }
}

/// Which peers the node looks for by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// From the address book and seeds: eight full peers and two for blocks only.
    Automatic,
    /// `-connect=<host>...`: these and no others. Empty for `-connect=0`.
    Only(Vec<String>),
}

/// A SOCKS5 proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`, or `unix:` and a path.
    pub address: String,
    /// New credentials for each connection, so that Tor takes a new path.
    pub randomize: bool,
}

/// Through which proxy each network is dialed; none is directly (and Tor then not at all).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    pub ipv4: Option<Proxy>,
    pub ipv6: Option<Proxy>,
    pub onion: Option<Proxy>,
    pub cjdns: Option<Proxy>,
    /// The SAM bridge: named in reports, not dialed through.
    pub i2p: Option<Proxy>,
    /// For names: the proxy looks them up.
    pub names: Option<Proxy>,
}

impl Proxies {
    pub fn of(&self, net: Net) -> Option<&Proxy> {
        match net {
            Net::Ipv4 => self.ipv4.as_ref(),
            Net::Ipv6 => self.ipv6.as_ref(),
            Net::Onion => self.onion.as_ref(),
            Net::Cjdns => self.cjdns.as_ref(),
            Net::I2p => self.i2p.as_ref(),
        }
    }
}

/// How I2P is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I2p {
    /// `-i2psam`, as host and port.
    pub bridge: String,
    /// Where our lasting address is kept. `None`: we are not to be reached, and each connection has an address of its own.
    pub key_file: Option<PathBuf>,
}

/// Everything the network is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub network: Network,
    pub magic: Magic,
    pub default_port: u16,
    /// `Satoshi:31.99.0(comments)`, with the slashes.
    pub user_agent: String,
    /// Sockets to open; empty for `-listen=0`. Where a bind has no permissions and is unspecified, failing is an error.
    pub binds: Vec<Bind>,
    pub outbound: Outbound,
    /// `-addnode`.
    pub added: Vec<String>,
    /// `-seednode`.
    pub seed_nodes: Vec<String>,
    /// `-dns`: names may be looked up.
    pub dns: bool,
    /// Names to ask for addresses; empty for `-dnsseed=0`.
    pub dns_seeds: Vec<String>,
    pub max_connections: usize,
    /// `-peertimeout`: the handshake's deadline.
    pub peer_timeout: Duration,
    /// `-timeout`: the deadline of an outgoing TCP connection.
    pub connect_timeout: Duration,
    /// `-bantime`.
    pub ban_time: Duration,
    pub whitelist: Vec<WhitelistEntry>,
    /// `-whitelistrelay`, `-whitelistforcerelay`: what implicit permissions grant.
    pub whitelist_relay: bool,
    pub whitelist_force_relay: bool,
    /// `-blocksonly`: ask for no transactions.
    pub blocks_only: bool,
    pub v2_transport: bool,
    /// `-txreconciliation`: offer BIP330's handshake.
    pub tx_reconciliation: bool,
    /// `-privatebroadcast`: own transactions leave by connections of their own.
    pub private_broadcast: bool,
    /// `-networkactive`.
    pub network_active: bool,
    /// Addresses we are reached by: `-externalip`, and services on hidden networks while they are up.
    pub external: Vec<NetAddr>,
    /// Networks to dial by ourselves (`-onlynet`, and those that have a way out).
    pub reachable: Nets,
    pub proxies: Proxies,
    pub i2p: Option<I2p>,
    /// `-listenonion`: the control port to ask for a service.
    pub tor: Option<TorControl>,
    /// `-fixedseeds`.
    pub fixed_seeds: bool,
    /// `-discover`.
    pub discover: bool,
    /// `-maxuploadtarget`, bytes in a day; 0 is no limit.
    pub max_upload_bytes: u64,
    /// `-maxreceivebuffer` and `-maxsendbuffer` in bytes, for each peer.
    pub max_receive_bytes: usize,
    pub max_send_bytes: usize,
    /// `-forcednsseed`.
    pub force_dns_seed: bool,
    /// `-capturemessages`: directory to write every message to.
    pub capture_dir: Option<PathBuf>,
    /// `banlist.json`.
    pub ban_file: Option<PathBuf>,
    /// `-logips`.
    pub log_ips: bool,
}

impl Config {
    /// Core's defaults for `network`, listening nowhere.
    pub fn new(network: Network) -> Self {
        let default_port = match network {
            Network::Bitcoin => 8333,
            Network::Testnet => 18333,
            Network::Testnet4 => 48333,
            Network::Signet => 38333,
            _ => 18444,
        };
        Self {
            network,
            magic: network.magic(),
            default_port,
            user_agent: "/Satoshi:31.99.0/".to_owned(),
            binds: Vec::new(),
            outbound: Outbound::Only(Vec::new()),
            added: Vec::new(),
            seed_nodes: Vec::new(),
            dns: true,
            dns_seeds: Vec::new(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
            peer_timeout: DEFAULT_PEER_TIMEOUT,
            connect_timeout: Duration::from_secs(5),
            ban_time: DEFAULT_BAN_TIME,
            whitelist: Vec::new(),
            whitelist_relay: true,
            whitelist_force_relay: false,
            blocks_only: false,
            v2_transport: true,
            tx_reconciliation: false,
            private_broadcast: false,
            network_active: true,
            external: Vec::new(),
            reachable: [Net::Ipv4, Net::Ipv6].into_iter().collect(),
            proxies: Proxies::default(),
            i2p: None,
            tor: None,
            fixed_seeds: true,
            discover: true,
            max_upload_bytes: 0,
            max_receive_bytes: 5_000_000,
            max_send_bytes: 1_000_000,
            force_dns_seed: false,
            capture_dir: None,
            ban_file: None,
            log_ips: false,
        }
    }

    /// Full peers of our own choice.
    pub(crate) fn max_full_relay(&self) -> usize {
        MAX_OUTBOUND_FULL.min(self.max_connections)
    }

    /// `-maxconnections` leaves room for all of them.
    pub(crate) fn has_all_full_relay(&self) -> bool {
        self.max_full_relay() == MAX_OUTBOUND_FULL
    }

    /// Peers of our own choice for blocks only.
    pub(crate) fn max_block_relay(&self) -> usize {
        MAX_BLOCK_RELAY.min(self.max_connections - self.max_full_relay())
    }

    fn max_automatic(&self) -> usize {
        self.max_full_relay() + self.max_block_relay() + MAX_FEELER
    }

    /// Outbound peers at a time that the operator did not name: feelers and extra peers share the one place left over.
    pub(crate) fn max_chosen(&self) -> usize {
        self.max_automatic().min(self.max_connections)
    }

    pub(crate) fn max_inbound(&self) -> usize {
        self.max_connections.saturating_sub(self.max_automatic())
    }

    /// Permissions of a peer from `address`, before those of the bind it came in by.
    pub(crate) fn whitelisted(&self, address: IpAddr, inbound: bool) -> Permissions {
        let mut granted = Permissions::NONE;
        for entry in &self.whitelist {
            let applies = if inbound { entry.inbound } else { entry.outbound };
            if applies && entry.subnet.contains(address) {
                granted = granted | entry.permissions;
            }
        }
        granted
    }

    /// Turns the mark of implicit permissions into what Core grants for it.
    pub(crate) fn resolve_implicit(&self, granted: Permissions) -> Permissions {
        if !granted.has(Permissions::IMPLICIT) {
            return granted;
        }
        let mut out = granted.without_implicit();
        if self.whitelist_force_relay {
            out = out | Permissions::FORCE_RELAY;
        }
        if self.whitelist_relay {
            out = out | Permissions::RELAY;
        }
        out | Permissions::MEMPOOL | Permissions::NO_BAN
    }
}
