//! Addresses and subnets as operators write them: `1.2.3.4`, `1.2.3.0/24`, `1.2.3.4/255.255.255.0`, `::1/128`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: IpAddr,
    bits: u8,
}

impl Subnet {
    /// The subnet of one address.
    pub fn single(address: IpAddr) -> Subnet {
        let address = unmapped(address);
        Subnet { network: address, bits: width(address) }
    }

    /// Reads any of the forms above; `None` if it is none of them, or a netmask with holes.
    pub fn parse(text: &str) -> Option<Subnet> {
        let Some((address, mask)) = text.split_once('/') else {
            return parse_address(text).map(Subnet::single);
        };
        let address = parse_address(address)?;
        let bits = match mask.parse::<u8>() {
            Ok(bits) if mask.bytes().all(|byte| byte.is_ascii_digit()) => bits,
            _ => mask_bits(parse_address(mask)?, address)?,
        };
        if bits > width(address) {
            return None;
        }
        Some(Subnet { network: masked(address, bits), bits })
    }

    /// Whether the address lies in it; an IPv4 address in IPv6 dress counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = unmapped(address);
        width(address) == width(self.network) && masked(address, self.bits) == self.network
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.network, self.bits)
    }
}

/// An IP address, an IPv6 one also in brackets.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(unmapped)
}

fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

fn mask_bits(mask: IpAddr, address: IpAddr) -> Option<u8> {
    let (ones, zeros) = match (mask, address) {
        (IpAddr::V4(mask), IpAddr::V4(_)) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros()),
        (IpAddr::V6(mask), IpAddr::V6(_)) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros()),
        _ => return None,
    };
    if ones + zeros != u32::from(width(address)) {
        return None;
    }
    u8::try_from(ones).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_forms_are_read() {
        for (text, shown) in [
            ("1.2.3.4", "1.2.3.4/32"),
            ("1.2.3.4/24", "1.2.3.0/24"),
            ("1.2.3.4/255.255.0.0", "1.2.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("[::1]", "::1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("255.255.255.255/0.0.0.0", "0.0.0.0/0"),
        ] {
            assert_eq!(Subnet::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "a", "1.2.3", "1.2.3.4/33", "1.2.3.4/255.0.255.0", "::1/129", "1.2.3.4/ffff::", "1.2.3.4/-1"] {
            assert!(Subnet::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn membership_respects_family_and_mapping() {
        let subnet = Subnet::parse("127.0.0.0/8").unwrap();
        assert!(subnet.contains("127.3.2.1".parse().unwrap()));
        assert!(subnet.contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!subnet.contains("128.0.0.1".parse().unwrap()));
        assert!(!subnet.contains("::1".parse().unwrap()));
    }
}
