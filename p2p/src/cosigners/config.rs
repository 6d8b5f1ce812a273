//! Configuration of the co-signer network, and the parsing of `-cosigner` and
//! `-cosignerdiscovery`.

use std::collections::HashSet;
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::identity::{Identity, public_key_of};
use super::limits::MAX_MEMBERS;

/// What both sides must agree on before any frame passes, and what they tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// `main`, `test`, `testnet4`, `signet` or `regtest`.
    pub network: String,
    /// Hash of the genesis block, in internal byte order.
    pub genesis: [u8; 32],
    /// Software version, shown to operators.
    pub version: String,
}

/// Where addresses of members come from. None of these gives authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Addresses given with `-cosigner=<PeerId>@<address>`.
    pub addresses: bool,
    /// Multicast DNS on the local network.
    pub mdns: bool,
    /// A Kademlia table among the members.
    pub dht: bool,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { addresses: true, mdns: true, dht: true }
    }
}

impl Discovery {
    /// Configured addresses only.
    pub const STATIC: Self = Self { addresses: true, mdns: false, dht: false };
}

/// A word of `-cosignerdiscovery` that is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unknown -cosignerdiscovery value: '{0}' (use static, mdns, dht)")]
pub struct DiscoveryError(String);

impl FromStr for Discovery {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, DiscoveryError> {
        let mut discovery = Self { addresses: false, mdns: false, dht: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "static" => discovery.addresses = true,
                "mdns" => discovery.mdns = true,
                "dht" => discovery.dht = true,
                other => return Err(DiscoveryError(other.to_owned())),
            }
        }
        Ok(discovery)
    }
}

/// One entry of the allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub peer: PeerId,
    /// A static address, without `/p2p/...` at its end.
    pub address: Option<Multiaddr>,
}

/// What is wrong with a `-cosigner` value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    #[error("Invalid -cosigner value '{value}': '{peer}' is not a PeerId")]
    BadPeerId { value: String, peer: String },
    #[error("Invalid -cosigner value '{value}': the PeerId holds no ed25519 key")]
    NotEd25519 { value: String },
    #[error("Invalid -cosigner value '{value}': '{address}' is not an address like /ip4/192.0.2.1/tcp/18447")]
    BadAddress { value: String, address: String },
    #[error("Invalid -cosigner value '{value}': the address names another PeerId, {other}")]
    OtherPeerInAddress { value: String, other: PeerId },
    #[error("Invalid -cosigner value '{value}': this is the PeerId of this node itself")]
    Own { value: String },
    #[error("Invalid -cosigner value '{value}': this PeerId is given twice")]
    Duplicate { value: String },
    #[error("Too many -cosigner values: at most {MAX_MEMBERS} are allowed")]
    TooMany,
}

impl Member {
    /// Parses `<PeerId>` or `<PeerId>@<multiaddr>`.
    pub fn parse(text: &str, own: &PeerId) -> Result<Self, MemberError> {
        let value = || text.to_owned();
        let (peer_text, address_text) = match text.split_once('@') {
            Some((peer, address)) => (peer.trim(), Some(address.trim())),
            None => (text.trim(), None),
        };
        let peer = PeerId::from_str(peer_text)
            .map_err(|_| MemberError::BadPeerId { value: value(), peer: peer_text.to_owned() })?;
        if public_key_of(&peer).is_none() {
            return Err(MemberError::NotEd25519 { value: value() });
        }
        if peer == *own {
            return Err(MemberError::Own { value: value() });
        }
        let address = address_text.map(|address| parse_address(text, address, &peer)).transpose()?;
        Ok(Self { peer, address })
    }
}

fn parse_address(value: &str, text: &str, peer: &PeerId) -> Result<Multiaddr, MemberError> {
    let bad = || MemberError::BadAddress { value: value.to_owned(), address: text.to_owned() };
    let mut address = Multiaddr::from_str(text).map_err(|_| bad())?;
    if let Some(Protocol::P2p(named)) = address.iter().last() {
        if named != *peer {
            return Err(MemberError::OtherPeerInAddress { value: value.to_owned(), other: named });
        }
        address.pop();
    }
    if is_dialable(&address) { Ok(address) } else { Err(bad()) }
}

/// Whether the address is a host (number or name) and a TCP port, and nothing else.
pub fn is_dialable(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => !name.is_empty(),
        _ => false,
    };
    host && matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0) && parts.next().is_none()
}

/// Parses all `-cosigner` values; a PeerId may appear once.
pub fn parse_members<S: AsRef<str>>(values: &[S], own: &PeerId) -> Result<Vec<Member>, MemberError> {
    if values.len() > MAX_MEMBERS {
        return Err(MemberError::TooMany);
    }
    let mut seen = HashSet::new();
    let mut members = Vec::with_capacity(values.len());
    for value in values {
        let member = Member::parse(value.as_ref(), own)?;
        if !seen.insert(member.peer) {
            return Err(MemberError::Duplicate { value: value.as_ref().to_owned() });
        }
        members.push(member);
    }
    Ok(members)
}

/// All that [`start`](super::start) needs.
#[derive(Clone, Debug)]
pub struct Config {
    pub identity: Identity,
    /// `/ip4/<address>/tcp/<port>`; port 0 lets the system choose. Empty: dials only.
    pub listen: Vec<Multiaddr>,
    /// The allow-list.
    pub members: Vec<Member>,
    pub discovery: Discovery,
    pub hello: Hello,
    /// Height of this node's chain at the start.
    pub height: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn member_with_and_without_address() {
        let own = Identity::generate().peer_id();
        let peer = Identity::generate().peer_id();
        let plain = Member::parse(&peer.to_string(), &own).unwrap();
        assert_eq!(plain, Member { peer, address: None });
        let member = Member::parse(&format!("{peer}@/ip4/127.0.0.1/tcp/18447"), &own).unwrap();
        assert_eq!(member.address.unwrap().to_string(), "/ip4/127.0.0.1/tcp/18447");
        let member = Member::parse(&format!("{peer}@/dns4/signer.example/tcp/1/p2p/{peer}"), &own).unwrap();
        assert_eq!(member.address.unwrap().to_string(), "/dns4/signer.example/tcp/1");
    }

    #[test]
    fn bad_members_are_named() {
        let own = Identity::generate().peer_id();
        let peer = Identity::generate().peer_id();
        let other = Identity::generate().peer_id();
        let text = |value: &str| Member::parse(value, &own).unwrap_err().to_string();
        assert_eq!(text("nonsense"), "Invalid -cosigner value 'nonsense': 'nonsense' is not a PeerId");
        assert!(text("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N").contains("holds no ed25519 key"));
        assert!(text(&own.to_string()).contains("this node itself"));
        for address in [
            "127.0.0.1:18447",
            "/ip4/127.0.0.1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/udp/1",
            "",
        ] {
            assert!(text(&format!("{peer}@{address}")).contains("is not an address like"), "{address}");
        }
        assert!(text(&format!("{peer}@/ip4/1.2.3.4/tcp/1/p2p/{other}")).contains("another PeerId"));
        let twice = [peer.to_string(), format!("{peer}@/ip4/1.2.3.4/tcp/1")];
        assert!(parse_members(&twice, &own).unwrap_err().to_string().contains("given twice"));
        let many: Vec<String> = (0..=MAX_MEMBERS).map(|_| peer.to_string()).collect();
        assert_eq!(parse_members(&many, &own), Err(MemberError::TooMany));
    }

    #[test]
    fn discovery_is_a_list_of_known_words() {
        assert_eq!("static".parse(), Ok(Discovery::STATIC));
        assert_eq!("static,mdns,dht".parse(), Ok(Discovery::default()));
        assert_eq!(
            "bogus".parse::<Discovery>().unwrap_err().to_string(),
            "Unknown -cosignerdiscovery value: 'bogus' (use static, mdns, dht)"
        );
    }
}
