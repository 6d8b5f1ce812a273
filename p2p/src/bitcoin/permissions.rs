//! What a peer may do beyond the ordinary: Core's `net_permissions`, names and error texts included.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::BitOr;
use std::str::FromStr;

/// A set of permissions, with Core's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    pub const NONE: Self = Self(0);
    pub const BLOOM_FILTER: Self = Self(1 << 1);
    pub const RELAY: Self = Self(1 << 3);
    pub const FORCE_RELAY: Self = Self((1 << 2) | (1 << 3));
    pub const DOWNLOAD: Self = Self(1 << 6);
    pub const NO_BAN: Self = Self((1 << 4) | (1 << 6));
    pub const MEMPOOL: Self = Self(1 << 5);
    pub const ADDR: Self = Self(1 << 7);
    /// No permissions were named: Core's defaults apply.
    pub const IMPLICIT: Self = Self(1 << 31);
    pub const ALL: Self = Self(0b1111_1110);

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn without_implicit(self) -> Self {
        Self(self.0 & !Self::IMPLICIT.0)
    }

    /// Core's names in Core's order, as `getpeerinfo` lists them.
    pub fn names(self) -> Vec<&'static str> {
        const NAMED: [(Permissions, &str); 7] = [
            (Permissions::BLOOM_FILTER, "bloomfilter"),
            (Permissions::NO_BAN, "noban"),
            (Permissions::FORCE_RELAY, "forcerelay"),
            (Permissions::RELAY, "relay"),
            (Permissions::MEMPOOL, "mempool"),
            (Permissions::DOWNLOAD, "download"),
            (Permissions::ADDR, "addr"),
        ];
        NAMED.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect()
    }
}

impl BitOr for Permissions {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Text is Core's, ready to follow `Error: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    #[error("Invalid P2P permission: '{0}'")]
    Unknown(String),
    #[error("Only direction was set, no permissions: '{0}'")]
    OnlyDirection(String),
    #[error("whitebind may only be used for incoming connections (\"out\" was passed)")]
    OutOnWhitebind,
    #[error("Invalid netmask specified in -whitelist: '{0}'")]
    BadNetmask(String),
    #[error("Cannot resolve -whitebind address: '{0}'")]
    BadAddress(String),
    #[error("Need to specify a port with -whitebind: '{0}'")]
    NoPort(String),
}

/// A range of IP addresses, or one host of a network that hides them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subnet {
    Range(IpRange),
    /// `.onion` or `.b32.i2p`, in lower case.
    Hidden(String),
}

/// A range of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

/// Text was neither an address nor `address/prefix` nor `address/netmask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Error: Invalid IP/Subnet")]
pub struct SubnetError;

impl Subnet {
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self::Range(IpRange { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        matches!(self, Self::Range(range) if range.contains(address))
    }

    /// The address, if it covers one only.
    pub fn single_address(&self) -> Option<IpAddr> {
        let Self::Range(range) = self else { return None };
        let full = if range.address.is_ipv4() { 32 } else { 128 };
        (range.prefix == full).then_some(range.address)
    }
}

impl IpRange {
    /// `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if prefix <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)))
            }
            IpAddr::V6(a) if prefix <= 128 => IpAddr::V6(Ipv6Addr::from_bits(
                a.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0),
            )),
            _ => return None,
        };
        Some(Self { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address.to_canonical(), self.prefix).is_some_and(|masked| masked.address == self.address)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let Some((address, mask)) = text.split_once('/') else {
            if text.ends_with(".onion") || text.ends_with(".b32.i2p") {
                return Ok(Self::Hidden(text.to_ascii_lowercase()));
            }
            return text.parse().map(Self::single).map_err(|_| SubnetError);
        };
        let address: IpAddr = address.parse().map_err(|_| SubnetError)?;
        let prefix = match mask.parse::<u8>() {
            Ok(prefix) => Some(prefix),
            Err(_) => match (address, mask.parse::<IpAddr>().map_err(|_| SubnetError)?) {
                (IpAddr::V4(_), IpAddr::V4(m)) => contiguous(m.to_bits().leading_ones(), m.to_bits().into(), 32),
                (IpAddr::V6(_), IpAddr::V6(m)) => contiguous(m.to_bits().leading_ones(), m.to_bits(), 128),
                _ => None,
            },
        };
        prefix.and_then(|prefix| IpRange::new(address, prefix)).map(Self::Range).ok_or(SubnetError)
    }
}

fn contiguous(ones: u32, mask: u128, width: u32) -> Option<u8> {
    (mask.count_ones() == ones && ones <= width).then(|| u8::try_from(ones).ok()).flatten()
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => write!(f, "{}/{}", range.address, range.prefix),
            Self::Hidden(name) => f.write_str(name),
        }
    }
}

/// One `-whitelist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhitelistEntry {
    pub subnet: Subnet,
    pub permissions: Permissions,
    pub inbound: bool,
    pub outbound: bool,
}

struct Flags<'a> {
    permissions: Permissions,
    inbound: bool,
    outbound: bool,
    rest: &'a str,
}

fn parse_flags(text: &str, whitebind: bool) -> Result<Flags<'_>, PermissionError> {
    let Some((names, rest)) = text.split_once('@') else {
        return Ok(Flags { permissions: Permissions::IMPLICIT, inbound: true, outbound: false, rest: text });
    };
    let mut flags = Flags { permissions: Permissions::NONE, inbound: false, outbound: false, rest };
    for name in names.split(',') {
        let granted = match name {
            "bloomfilter" | "bloom" => Permissions::BLOOM_FILTER,
            "noban" => Permissions::NO_BAN,
            "forcerelay" => Permissions::FORCE_RELAY,
            "mempool" => Permissions::MEMPOOL,
            "download" => Permissions::DOWNLOAD,
            "all" => Permissions::ALL,
            "relay" => Permissions::RELAY,
            "addr" => Permissions::ADDR,
            "" => Permissions::NONE,
            "in" => {
                flags.inbound = true;
                Permissions::NONE
            }
            "out" if whitebind => return Err(PermissionError::OutOnWhitebind),
            "out" => {
                flags.outbound = true;
                Permissions::NONE
            }
            other => return Err(PermissionError::Unknown(other.to_owned())),
        };
        flags.permissions = flags.permissions | granted;
    }
    if !flags.inbound && !flags.outbound {
        flags.inbound = true;
    } else if flags.permissions.is_none() {
        return Err(PermissionError::OnlyDirection(text.to_owned()));
    }
    Ok(flags)
}

/// `-whitelist=[permissions@]subnet`.
pub fn parse_whitelist(text: &str) -> Result<WhitelistEntry, PermissionError> {
    let flags = parse_flags(text, false)?;
    let subnet = flags.rest.parse().map_err(|_| PermissionError::BadNetmask(flags.rest.to_owned()))?;
    Ok(WhitelistEntry { subnet, permissions: flags.permissions, inbound: flags.inbound, outbound: flags.outbound })
}

/// `-whitebind=[permissions@]address:port`. `read` knows the forms of an address; one without a port gets port 0.
pub fn parse_whitebind(
    text: &str,
    read: impl Fn(&str) -> Option<SocketAddr>,
) -> Result<(Permissions, SocketAddr), PermissionError> {
    let flags = parse_flags(text, true)?;
    let address = read(flags.rest).ok_or_else(|| PermissionError::BadAddress(flags.rest.to_owned()))?;
    if address.port() == 0 {
        return Err(PermissionError::NoPort(flags.rest.to_owned()));
    }
    Ok((flags.permissions, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_permissions_and_directions_are_read_as_core_does() {
        let entry = parse_whitelist("noban,in,out@127.0.0.1").unwrap();
        assert_eq!(entry.permissions.names(), ["noban", "download"]);
        assert!(entry.inbound && entry.outbound);
        assert!(entry.subnet.contains("127.0.0.1".parse().unwrap()));
        assert!(parse_whitelist("127.0.0.0/8").unwrap().permissions.has(Permissions::IMPLICIT));
        assert_eq!(parse_whitelist("oopsie@127.0.0.1").unwrap_err().to_string(), "Invalid P2P permission: 'oopsie'");
        assert_eq!(
            parse_whitelist("in,out@127.0.0.1").unwrap_err().to_string(),
            "Only direction was set, no permissions: 'in,out@127.0.0.1'"
        );
        assert_eq!(
            parse_whitebind("noban@127.0.0.1", |_| "127.0.0.1:0".parse().ok()).unwrap_err(),
            PermissionError::NoPort("127.0.0.1".into())
        );
        assert_eq!(Permissions::ALL.names().len(), 7);
    }

    #[test]
    fn subnets_mask_what_they_are_given() {
        let net: Subnet = "10.1.2.3/255.255.0.0".parse().unwrap();
        assert_eq!(net.to_string(), "10.1.0.0/16");
        assert!(net.contains("::ffff:10.1.9.9".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Subnet>().is_err());
        assert!("10.0.0.0/255.0.255.0".parse::<Subnet>().is_err());
        let hidden = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
        assert_eq!(hidden.parse::<Subnet>().unwrap().to_string(), hidden);
        assert!("0.0.0.0/0".parse::<Subnet>().unwrap().contains("9.9.9.9".parse().unwrap()));
    }
}
