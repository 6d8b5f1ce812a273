//! Payloads: what `bitcoin::p2p` has, decoded as leniently as Core does, and what it lacks.
//!
//! Trailing bytes are ignored, for Core ignores them. A failure is the sender's fault and costs one message.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bitcoin::block::Header;
use bitcoin::consensus::Decodable;
use bitcoin::consensus::encode::{self, VarInt, deserialize_partial, serialize};
use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message_blockdata::{GetHeadersMessage, Inventory};
use bitcoin::{Block, BlockHash, Transaction};

use super::net_addr::{Gossip, Net, NetAddr};

/// What we speak (BIP 434's `feature` included, of which we offer none).
pub(crate) const PROTOCOL_VERSION: u32 = 70_017;
pub(crate) const MIN_PEER_PROTOCOL_VERSION: u32 = 31_800;
pub(crate) const BIP0031_VERSION: u32 = 60_000;
pub(crate) const SENDHEADERS_VERSION: u32 = 70_012;
pub(crate) const FEEFILTER_VERSION: u32 = 70_013;
pub(crate) const SHORT_IDS_BLOCKS_VERSION: u32 = 70_014;
pub(crate) const WTXID_RELAY_VERSION: u32 = 70_016;
pub(crate) const FEATURE_VERSION: u32 = 70_017;
/// Version written into block locators, as Core does.
const LOCATOR_VERSION: u32 = 70_016;
/// Core's `MAX_SUBVERSION_LENGTH`.
const MAX_SUBVERSION_BYTES: usize = 256;
/// Core's `MAX_ADDRV2_SIZE`.
const MAX_ADDRV2_BYTES: u64 = 512;
/// Core's `MAX_HEADERS_RESULTS`.
pub(crate) const MAX_HEADERS: usize = 2_000;

/// A payload that is not what its type says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MessageError(pub String);

pub(crate) fn decode<T: Decodable>(payload: &[u8]) -> Result<T, MessageError> {
    deserialize_partial(payload).map(|(value, _)| value).map_err(decode_error)
}

fn decode_error(error: encode::Error) -> MessageError {
    match error {
        encode::Error::Io(_) => end_of_data(),
        other => MessageError(other.to_string()),
    }
}

/// Core's words for a payload that ends early.
fn end_of_data() -> MessageError {
    MessageError("DataStream::read(): end of data: iostream error".to_owned())
}

/// Takes bytes off the front of a payload.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], MessageError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(end_of_data)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn value<T: Decodable>(&mut self) -> Result<T, MessageError> {
        let (value, used) = deserialize_partial(self.0).map_err(decode_error)?;
        self.0 = self.0.get(used..).unwrap_or_default();
        Ok(value)
    }

    /// A string or vector of at most `limit` bytes.
    pub(crate) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], MessageError> {
        let VarInt(length) = self.value()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limit {
            return Err(MessageError("String length limit exceeded: iostream error".into()));
        }
        self.take(length)
    }
}

/// `version`; fields after the receiver may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) version: i32,
    pub(crate) services: u64,
    pub(crate) time: i64,
    /// The receiver's address as the sender sees it.
    pub(crate) receiver: Option<SocketAddr>,
    pub(crate) nonce: u64,
    pub(crate) user_agent: Vec<u8>,
    pub(crate) start_height: i32,
    pub(crate) relay: bool,
}

fn v1_address(bytes: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    let port: [u8; 2] = bytes.get(16..18)?.try_into().ok()?;
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), u16::from_be_bytes(port)))
}

fn push_v1_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    let (ip, port) = match address {
        Some(SocketAddr::V4(a)) => (a.ip().to_ipv6_mapped(), a.port()),
        Some(SocketAddr::V6(a)) => (*a.ip(), a.port()),
        None => (Ipv6Addr::UNSPECIFIED, 0),
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&port.to_be_bytes());
}

impl Version {
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let mut version = Self {
            version: reader.value()?,
            services: reader.value()?,
            time: reader.value::<i64>()?.max(0),
            receiver: None,
            nonce: 1,
            user_agent: Vec::new(),
            start_height: -1,
            relay: true,
        };
        reader.take(8)?;
        version.receiver = v1_address(reader.take(18)?);
        if !reader.is_empty() {
            reader.take(26)?;
            version.nonce = reader.value()?;
        }
        if !reader.is_empty() {
            version.user_agent = reader.bytes(MAX_SUBVERSION_BYTES)?.to_vec();
        }
        if !reader.is_empty() {
            version.start_height = reader.value()?;
        }
        if !reader.is_empty() {
            version.relay = reader.take(1)? != [0];
        }
        Ok(version)
    }

    /// `their_services` as known before the handshake; our own address is never told.
    pub(crate) fn encode(&self, their_services: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.services.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&their_services.to_le_bytes());
        push_v1_address(&mut out, self.receiver);
        out.extend_from_slice(&self.services.to_le_bytes());
        push_v1_address(&mut out, None);
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&serialize(&self.user_agent));
        out.extend_from_slice(&self.start_height.to_le_bytes());
        out.push(u8::from(self.relay));
        out
    }
}

/// `headers`: each is followed by a transaction count that means nothing.
pub(crate) fn decode_headers(payload: &[u8]) -> Result<Vec<Header>, TooManyHeaders> {
    let mut reader = Reader(payload);
    let VarInt(count) = reader.value()?;
    if count > MAX_HEADERS as u64 {
        return Err(TooManyHeaders::TooMany(count));
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push(reader.value()?);
        let VarInt(_) = reader.value()?;
    }
    Ok(headers)
}

/// What can be wrong with `headers`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooManyHeaders {
    #[error("headers message size = {0}")]
    TooMany(u64),
    #[error(transparent)]
    Malformed(#[from] MessageError),
}

pub(crate) fn encode_headers(headers: &[Header]) -> Vec<u8> {
    let mut out = serialize(&VarInt::from(headers.len()));
    for header in headers {
        out.extend_from_slice(&serialize(header));
        out.push(0);
    }
    out
}

pub(crate) fn encode_locator(locator: Vec<BlockHash>, stop: BlockHash) -> Vec<u8> {
    serialize(&GetHeadersMessage { version: LOCATOR_VERSION, locator_hashes: locator, stop_hash: stop })
}

pub(crate) fn encode_inventory(items: &Vec<Inventory>) -> Vec<u8> {
    serialize(items)
}

/// Core's `CInv::ToString`.
pub(crate) fn inventory_name(item: &Inventory) -> String {
    match item {
        Inventory::Error => format!("0x00000000 {}", BlockHash::all_zeros()),
        Inventory::Transaction(id) => format!("tx {id}"),
        Inventory::Block(hash) => format!("block {hash}"),
        Inventory::CompactBlock(hash) => format!("cmpctblock {hash}"),
        Inventory::WTx(id) => format!("wtx {id}"),
        Inventory::WitnessTransaction(id) => format!("witness-tx {id}"),
        Inventory::WitnessBlock(hash) => format!("witness-block {hash}"),
        Inventory::Unknown { inv_type, hash } => {
            format!("0x{inv_type:08x} {}", BlockHash::from_byte_array(*hash))
        }
    }
}

/// Entries of an `addr` or `addrv2`: how many there were, and those of networks we know.
pub fn decode_addresses(payload: &[u8], v2: bool) -> Result<(usize, Vec<Gossip>), MessageError> {
    let mut reader = Reader(payload);
    let VarInt(count) = reader.value()?;
    let mut usable = Vec::new();
    for _ in 0..count {
        let entry = if v2 { next_v2(&mut reader)? } else { next_v1(&mut reader)? };
        usable.extend(entry);
    }
    Ok((usize::try_from(count).unwrap_or(usize::MAX), usable))
}

fn next_v1(reader: &mut Reader<'_>) -> Result<Option<Gossip>, MessageError> {
    let time: u32 = reader.value()?;
    let services = ServiceFlags::from(reader.value::<u64>()?);
    let address = v1_address(reader.take(18)?);
    Ok(address.filter(|a| !a.ip().is_unspecified()).map(|a| Gossip { time, services, address: a.into() }))
}

/// BIP 155: an entry of a network that we do not know is skipped.
fn next_v2(reader: &mut Reader<'_>) -> Result<Option<Gossip>, MessageError> {
    let time: u32 = reader.value()?;
    let VarInt(services) = reader.value()?;
    let network: u8 = reader.value()?;
    let VarInt(length) = reader.value()?;
    if length > MAX_ADDRV2_BYTES {
        return Err(MessageError(format!("Address too long: {length} > {MAX_ADDRV2_BYTES}: iostream error")));
    }
    let bytes = reader.take(usize::try_from(length).unwrap_or(usize::MAX))?;
    let port = reader.take(2)?.iter().fold(0, |port, byte| port << 8 | u16::from(*byte));
    let Some(net) = Net::from_bip155(network) else { return Ok(None) };
    let address = NetAddr::new(net, bytes, port).map_err(|error| MessageError(error.to_string()))?;
    // An IPv4 address has its own form, and the old one of onion addresses is gone.
    let hidden = matches!(address.ip(), Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some());
    Ok((!hidden).then(|| Gossip { time, services: ServiceFlags::from(services), address }))
}

/// The payload of `addr` or `addrv2`; `addr` leaves out what it cannot carry.
pub fn encode_addresses(entries: &[Gossip], v2: bool) -> Vec<u8> {
    let fitting: Vec<&Gossip> = entries.iter().filter(|entry| v2 || entry.address.fits_v1()).collect();
    let mut out = serialize(&VarInt::from(fitting.len()));
    for entry in fitting {
        out.extend_from_slice(&entry.time.to_le_bytes());
        if !v2 {
            out.extend_from_slice(&entry.services.to_u64().to_le_bytes());
            push_v1_address(&mut out, entry.address.socket());
            continue;
        }
        let bytes = entry.address.address_bytes();
        out.extend_from_slice(&serialize(&VarInt(entry.services.to_u64())));
        out.push(entry.address.net().bip155());
        out.extend_from_slice(&serialize(&VarInt::from(bytes.len())));
        out.extend_from_slice(bytes);
        out.extend_from_slice(&entry.address.port().to_be_bytes());
    }
    out
}

/// The block's serialization with every witness left out. `None` if it is no block.
pub(crate) fn block_without_witness(raw: &[u8]) -> Option<Vec<u8>> {
    let (mut block, _) = deserialize_partial::<Block>(raw).ok()?;
    block.txdata.iter_mut().for_each(strip_witness);
    Some(serialize(&block))
}

/// The transaction's serialization without its witness. `None` if it is no transaction.
pub(crate) fn transaction_without_witness(raw: &[u8]) -> Option<Vec<u8>> {
    let (mut tx, _) = deserialize_partial::<Transaction>(raw).ok()?;
    strip_witness(&mut tx);
    Some(serialize(&tx))
}

fn strip_witness(tx: &mut Transaction) {
    for input in &mut tx.input {
        input.witness.clear();
    }
}

/// The header at the front of a serialized block.
pub(crate) fn block_header(raw: &[u8]) -> Option<Header> {
    decode(raw.get(..80)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version {
            version: 70_017,
            services: 9,
            time: 1_700_000_000,
            receiver: Some("1.2.3.4:8333".parse().unwrap()),
            nonce: 42,
            user_agent: b"/Satoshi:31.99.0(testnode0)/".to_vec(),
            start_height: 7,
            relay: true,
        }
    }

    #[test]
    fn a_version_comes_back_and_may_end_early() {
        let bytes = version().encode(0);
        assert_eq!(Version::decode(&bytes).unwrap(), version());
        let short = Version::decode(&bytes[..46]).unwrap();
        assert_eq!((short.nonce, short.start_height, short.relay), (1, -1, true));
        assert!(Version::decode(&bytes[..45]).is_err());
        assert!(Version::decode(&bytes[..50]).is_err());
    }

    #[test]
    fn headers_carry_a_zero_count_each() {
        let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest).header;
        let bytes = encode_headers(&[genesis, genesis]);
        assert_eq!(bytes.len(), 1 + 2 * 81);
        assert_eq!(decode_headers(&bytes).unwrap(), [genesis, genesis]);
        let giant = serialize(&VarInt(2_001));
        assert_eq!(decode_headers(&giant).unwrap_err().to_string(), "headers message size = 2001");
        assert!(matches!(decode_headers(&bytes[..100]), Err(TooManyHeaders::Malformed(_))));
    }

    #[test]
    fn mutated_payloads_are_refused_or_read_but_never_panic() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
        let gossip =
            Gossip { time: 5, services: ServiceFlags::NETWORK, address: NetAddr::parse("9.8.7.6", 18444).unwrap() };
        let items = vec![Inventory::Block(genesis.block_hash()), Inventory::Transaction(Hash::all_zeros())];
        let seeds = [
            version().encode(0),
            encode_headers(&[genesis.header; 3]),
            encode_inventory(&items),
            encode_addresses(&[gossip; 3], false),
            encode_addresses(&[gossip; 3], true),
            encode_locator(vec![genesis.block_hash(); 4], genesis.block_hash()),
            serialize(&genesis),
            serialize(&genesis.txdata[0]),
        ];
        for _ in 0..20_000 {
            let mut bytes = seeds[rng.gen_range(0..seeds.len())].clone();
            for _ in 0..rng.gen_range(0..4) {
                let at = rng.gen_range(0..bytes.len());
                bytes[at] = rng.r#gen();
            }
            bytes.truncate(rng.gen_range(0..=bytes.len()));
            let _ = Version::decode(&bytes);
            if let Ok(headers) = decode_headers(&bytes) {
                for header in &headers {
                    let _ = header.validate_pow(header.target());
                }
            }
            let _ = decode_addresses(&bytes, false);
            let _ = decode_addresses(&bytes, true);
            let _ = decode::<Vec<Inventory>>(&bytes).map(|items| items.iter().map(inventory_name).count());
            let _ = decode::<GetHeadersMessage>(&bytes);
            let _ = block_without_witness(&bytes);
            let _ = transaction_without_witness(&bytes);
            let _ = block_header(&bytes);
        }
    }

    #[test]
    fn addresses_survive_both_formats() {
        let entries = [
            Gossip { time: 5, services: ServiceFlags::NETWORK, address: NetAddr::parse("9.8.7.6", 18444).unwrap() },
            Gossip {
                time: 6,
                services: ServiceFlags::WITNESS,
                address: NetAddr::parse("[2001:db8::1]:8333", 0).unwrap(),
            },
        ];
        for v2 in [false, true] {
            let bytes = encode_addresses(&entries, v2);
            assert_eq!(decode_addresses(&bytes, v2).unwrap(), (2, entries.to_vec()));
        }
    }
}
