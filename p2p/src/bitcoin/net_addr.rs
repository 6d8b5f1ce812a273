//! Addresses of nodes on all networks that BIP155 knows and we can speak of: as text, in `addrv2` and in `addr`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use bitcoin::p2p::ServiceFlags;
use data_encoding::BASE32_NOPAD;
use sha3::{Digest, Sha3_256};

/// A network that addresses belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Net {
    Ipv4,
    Ipv6,
    Onion,
    I2p,
    Cjdns,
}

impl Net {
    /// In the order in which `getnetworkinfo` names them.
    pub const ALL: [Self; 5] = [Self::Ipv4, Self::Ipv6, Self::Onion, Self::I2p, Self::Cjdns];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Onion => "onion",
            Self::I2p => "i2p",
            Self::Cjdns => "cjdns",
        }
    }

    /// Its number in BIP155.
    pub fn bip155(self) -> u8 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
            Self::Onion => 4,
            Self::I2p => 5,
            Self::Cjdns => 6,
        }
    }

    pub(crate) fn from_bip155(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|net| net.bip155() == number)
    }

    fn bytes(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::Cjdns => 16,
            Self::Onion | Self::I2p => 32,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Onion => "TORv3",
            Self::I2p => "I2P",
            Self::Cjdns => "CJDNS",
        }
    }
}

impl FromStr for Net {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|net| net.name() == text).ok_or(())
    }
}

/// A set of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nets(u32);

impl Nets {
    pub const NONE: Self = Self(0);

    pub fn with(self, net: Net) -> Self {
        Self(self.0 | 1 << net.bip155())
    }

    pub fn without(self, net: Net) -> Self {
        Self(self.0 & !(1 << net.bip155()))
    }

    pub fn has(self, net: Net) -> bool {
        self.0 & 1 << net.bip155() != 0
    }

    /// Bit n is BIP155's network n.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromIterator<Net> for Nets {
    fn from_iter<I: IntoIterator<Item = Net>>(nets: I) -> Self {
        nets.into_iter().fold(Self::NONE, Self::with)
    }
}

/// Host and port of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetAddr {
    net: Net,
    /// As many as the network has, then zeroes.
    bytes: [u8; 32],
    port: u16,
}

/// Why bytes are no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BIP155 {network} address with length {length} (should be {right}): iostream error")]
pub struct WrongLength {
    network: &'static str,
    length: usize,
    right: usize,
}

impl NetAddr {
    pub(crate) fn new(net: Net, address: &[u8], port: u16) -> Result<Self, WrongLength> {
        let right = net.bytes();
        if address.len() != right {
            return Err(WrongLength { network: net.title(), length: address.len(), right });
        }
        let mut bytes = [0; 32];
        if let Some(start) = bytes.get_mut(..right) {
            start.copy_from_slice(address);
        }
        Ok(Self { net, bytes, port })
    }

    pub fn net(&self) -> Net {
        self.net
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host alone, as what is remembered of hosts is kept by.
    pub(crate) fn without_port(self) -> Self {
        Self { port: 0, ..self }
    }

    pub(crate) fn address_bytes(&self) -> &[u8] {
        self.bytes.get(..self.net.bytes()).unwrap_or_default()
    }

    /// The IP address, of networks that have such (cjdns among them).
    pub fn ip(&self) -> Option<IpAddr> {
        let bytes = self.address_bytes();
        match self.net {
            Net::Ipv4 => bytes.try_into().map(|b: [u8; 4]| IpAddr::V4(Ipv4Addr::from(b))).ok(),
            Net::Ipv6 | Net::Cjdns => bytes.try_into().map(|b: [u8; 16]| IpAddr::V6(Ipv6Addr::from(b))).ok(),
            Net::Onion | Net::I2p => None,
        }
    }

    /// For networks that are dialed by TCP.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// `addr` can carry it; others go by `addrv2` alone.
    pub(crate) fn fits_v1(&self) -> bool {
        matches!(self.net, Net::Ipv4 | Net::Ipv6)
    }

    /// Reachable from anywhere, as far as the address tells.
    pub fn is_routable(&self) -> bool {
        match self.net {
            Net::Ipv4 | Net::Ipv6 => self.ip().is_some_and(is_routable),
            Net::Cjdns => self.bytes[0] == 0xfc,
            Net::Onion | Net::I2p => true,
        }
    }

    /// fc00::/8 is cjdns where that network is reachable, else just a private range.
    pub(crate) fn as_cjdns(self, reachable: bool) -> Self {
        let cjdns = reachable && self.net == Net::Ipv6 && self.bytes[0] == 0xfc;
        if cjdns { Self { net: Net::Cjdns, ..self } } else { self }
    }

    /// The host without its port.
    pub fn host(&self) -> String {
        match self.net {
            Net::Onion => {
                let mut sum = Sha3_256::new();
                sum.update(b".onion checksum");
                sum.update(self.address_bytes());
                sum.update([3]);
                let sum = sum.finalize();
                let mut all = self.address_bytes().to_vec();
                all.extend_from_slice(sum.get(..2).unwrap_or_default());
                all.push(3);
                format!("{}.onion", BASE32_NOPAD.encode(&all).to_lowercase())
            }
            Net::I2p => format!("{}.b32.i2p", BASE32_NOPAD.encode(self.address_bytes()).to_lowercase()),
            _ => self.ip().map(|ip| ip.to_string()).unwrap_or_default(),
        }
    }

    /// `host`, `host:port` or `[v6]:port`; names that have to be looked up are none.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Some(socket.into());
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, default_port).into());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, default_port),
        };
        if let Some(name) = host.strip_suffix(".onion") {
            let all = BASE32_NOPAD.decode(name.to_uppercase().as_bytes()).ok()?;
            let address = Self::new(Net::Onion, all.get(..32)?, port).ok()?;
            return (address.host() == host.to_lowercase()).then_some(address);
        }
        let name = host.strip_suffix(".b32.i2p")?;
        Self::new(Net::I2p, &BASE32_NOPAD.decode(name.to_uppercase().as_bytes()).ok()?, port).ok()
    }
}

impl From<SocketAddr> for NetAddr {
    fn from(socket: SocketAddr) -> Self {
        let mut bytes = [0; 32];
        let net = match socket.ip().to_canonical() {
            IpAddr::V4(ip) => {
                bytes[..4].copy_from_slice(&ip.octets());
                Net::Ipv4
            }
            IpAddr::V6(ip) => {
                bytes[..16].copy_from_slice(&ip.octets());
                Net::Ipv6
            }
        };
        Self { net, bytes, port: socket.port() }
    }
}

impl fmt::Display for NetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.net {
            Net::Ipv6 | Net::Cjdns => write!(f, "[{}]:{}", self.host(), self.port),
            _ => write!(f, "{}:{}", self.host(), self.port),
        }
    }
}

impl fmt::Debug for NetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address as gossip carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gossip {
    /// When it was last heard of, seconds since the epoch.
    pub time: u32,
    pub services: ServiceFlags,
    pub address: NetAddr,
}

/// Reachable from anywhere, as far as the number tells (Core's `IsRoutable`).
pub(crate) fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            let documentation = matches!([a, b, c], [192, 0, 2] | [198, 51, 100] | [203, 0, 113]);
            let nowhere = ip.is_unspecified() || ip.is_broadcast() || a == 0;
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || documentation
                || shared
                || benchmark
                || nowhere)
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            let documentation = first == 0x2001 && second == 0xdb8;
            let orchid = first == 0x2001 && matches!(second & 0xfff0, 0x10 | 0x20);
            !(ip.is_loopback()
                || ip.is_unspecified()
                || documentation
                || orchid
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    const I2P: &str = "zsxwyo6qcn3chqzwxnseusqgsnuw3maqnztkiypyfxtya4snkoka.b32.i2p";

    #[test]
    fn every_network_survives_its_text() {
        for text in ["1.2.3.4:8333", "[2001:db9::1]:5", &format!("{ONION}:8333"), &format!("{I2P}:0")] {
            assert_eq!(NetAddr::parse(text, 1).unwrap().to_string(), text);
        }
        assert_eq!(NetAddr::parse("::1", 7).unwrap().to_string(), "[::1]:7");
        assert_eq!(NetAddr::parse(ONION, 9).unwrap().port(), 9);
        assert_eq!(NetAddr::parse("seed.example", 7), None);
        let broken = ONION.replacen("pg", "ph", 1);
        assert_eq!(NetAddr::parse(&broken, 7), None, "a wrong checksum");
    }

    #[test]
    fn private_and_reserved_ranges_are_not_routable() {
        for ip in ["127.0.0.1", "10.1.1.1", "192.168.0.1", "0.0.0.0", "::1", "fe80::1", "fd00::1", "203.0.113.4"] {
            assert!(!is_routable(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.2.3.4", "2a00:1450::1", "::ffff:8.8.8.8", "192.0.0.8"] {
            assert!(is_routable(ip.parse().unwrap()), "{ip}");
        }
    }
}
