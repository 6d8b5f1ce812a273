//! Frames on a co-signer stream: `length: u32 BE` (of what follows), `kind: u8`, body.
//!
//! Owns their encoding alone; reading and deadlines are in `link`. The first frame of each side is
//! its hello; the head of a hello (magic, protocol version) stays the same for ever, so that any
//! two versions can tell each other why they part.

use super::carrier::DownReason;
use super::config::Hello;
use super::limits::{MAX_FRAME_BYTES, PROTOCOL_VERSION};

pub(crate) const HEADER_BYTES: usize = 5;
pub(crate) const PAYLOAD: u8 = 1;
const HELLO: u8 = 0;
const PING: u8 = 2;
const PONG: u8 = 3;
const GOODBYE: u8 = 4;

const MAGIC: &[u8; 8] = b"keyless\0";
const MAX_NETWORK_BYTES: usize = 32;
const MAX_VERSION_BYTES: usize = 64;
const MAX_HELLO_BYTES: usize = 512;

/// What the first five bytes announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) body_bytes: usize,
}

/// A frame that is not payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Ping { nonce: u64, height: u32 },
    Pong { nonce: u64 },
    Goodbye,
}

/// What the other side said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerHello {
    pub(crate) version: String,
    pub(crate) height: u32,
}

fn bad(what: &str) -> DownReason {
    DownReason::BadFrame(what.to_owned())
}

/// Reads a header and checks the announced size against the limit of its kind.
pub(crate) fn decode_header(bytes: [u8; HEADER_BYTES]) -> Result<Header, DownReason> {
    let [a, b, c, d, kind] = bytes;
    let length = u32::from_be_bytes([a, b, c, d]);
    let body = length.checked_sub(1).ok_or_else(|| bad("empty frame"))?;
    let body_bytes = usize::try_from(body).map_err(|_| DownReason::FrameTooLarge(u64::from(body)))?;
    match kind {
        PAYLOAD if body_bytes > MAX_FRAME_BYTES => Err(DownReason::FrameTooLarge(u64::from(body))),
        HELLO if body_bytes > MAX_HELLO_BYTES => Err(bad("hello too long")),
        PAYLOAD | HELLO => Ok(Header { kind, body_bytes }),
        PING if body_bytes == 12 => Ok(Header { kind, body_bytes }),
        PONG if body_bytes == 8 => Ok(Header { kind, body_bytes }),
        GOODBYE if body_bytes == 0 => Ok(Header { kind, body_bytes }),
        PING | PONG | GOODBYE => Err(bad("control frame of a wrong length")),
        _ => Err(bad("unknown kind of frame")),
    }
}

/// The header of a payload. The caller has checked its size.
pub(crate) fn payload_header(body_bytes: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(body_bytes.min(MAX_FRAME_BYTES)).unwrap_or(u32::MAX - 1) + 1;
    let [a, b, c, d] = length.to_be_bytes();
    [a, b, c, d, PAYLOAD]
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&payload_header(body.len()));
    if let Some(slot) = bytes.get_mut(HEADER_BYTES - 1) {
        *slot = kind;
    }
    bytes.extend_from_slice(body);
    bytes
}

impl Control {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Ping { nonce, height } => {
                let mut body = nonce.to_be_bytes().to_vec();
                body.extend_from_slice(&height.to_be_bytes());
                frame(PING, &body)
            }
            Self::Pong { nonce } => frame(PONG, &nonce.to_be_bytes()),
            Self::Goodbye => frame(GOODBYE, &[]),
        }
    }

    pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Self, DownReason> {
        let mut fields = Fields(body);
        match kind {
            PING => Ok(Self::Ping { nonce: fields.u64()?, height: fields.u32()? }),
            PONG => Ok(Self::Pong { nonce: fields.u64()? }),
            GOODBYE => Ok(Self::Goodbye),
            _ => Err(bad("hello out of turn")),
        }
    }
}

/// This side's hello. Texts above their limits are cut.
pub(crate) fn encode_hello(hello: &Hello, height: u32) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    push_text(&mut body, &hello.network, MAX_NETWORK_BYTES);
    body.extend_from_slice(&hello.genesis);
    push_text(&mut body, &hello.version, MAX_VERSION_BYTES);
    body.extend_from_slice(&height.to_be_bytes());
    frame(HELLO, &body)
}

fn push_text(body: &mut Vec<u8>, text: &str, limit: usize) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    body.push(u8::try_from(end).unwrap_or(0));
    body.extend_from_slice(text.as_bytes().get(..end).unwrap_or_default());
}

/// Checks the other side's hello against ours: network first, since it is the likeliest mistake.
pub(crate) fn check_hello(kind: u8, body: &[u8], ours: &Hello) -> Result<PeerHello, DownReason> {
    if kind != HELLO {
        return Err(bad("no hello at the start"));
    }
    let mut fields = Fields(body);
    if fields.take(MAGIC.len())? != MAGIC {
        return Err(bad("not a co-signer's hello"));
    }
    let theirs = fields.u16()?;
    if theirs != PROTOCOL_VERSION {
        return Err(DownReason::OtherProtocol { theirs, ours: PROTOCOL_VERSION });
    }
    let network = fields.text(MAX_NETWORK_BYTES)?;
    let genesis = fields.take(32)?;
    let version = fields.text(MAX_VERSION_BYTES)?;
    let height = fields.u32()?;
    if network != ours.network {
        return Err(DownReason::OtherNetwork { theirs: network, ours: ours.network.clone() });
    }
    if genesis != ours.genesis {
        return Err(DownReason::OtherGenesis { theirs: block_hash_hex(genesis), ours: block_hash_hex(&ours.genesis) });
    }
    Ok(PeerHello { version, height })
}

/// As Bitcoin prints hashes: reversed.
fn block_hash_hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads fields off the front of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DownReason> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(|| bad("frame too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DownReason> {
        self.take(N)?.try_into().map_err(|_| bad("frame too short"))
    }

    fn u16(&mut self) -> Result<u16, DownReason> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DownReason> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DownReason> {
        self.array().map(u64::from_be_bytes)
    }

    /// Printable ASCII only: it goes to logs and RPC results.
    fn text(&mut self, limit: usize) -> Result<String, DownReason> {
        let [length] = self.array()?;
        let length = usize::from(length);
        if length > limit {
            return Err(bad("text too long"));
        }
        let bytes = self.take(length)?;
        if !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return Err(bad("text is not printable"));
        }
        Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn hello() -> Hello {
        Hello { network: "regtest".into(), genesis: [6; 32], version: "0.1.0".into() }
    }

    fn split(bytes: &[u8]) -> (Header, Vec<u8>) {
        let header = decode_header(bytes[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(header.body_bytes, bytes.len() - HEADER_BYTES);
        (header, bytes[HEADER_BYTES..].to_vec())
    }

    #[test]
    fn hello_round_trips_and_names_each_difference() {
        let (header, body) = split(&encode_hello(&hello(), 101));
        assert_eq!(
            check_hello(header.kind, &body, &hello()).unwrap(),
            PeerHello { version: "0.1.0".into(), height: 101 }
        );
        let signet = Hello { network: "signet".into(), ..hello() };
        assert_eq!(
            check_hello(header.kind, &body, &signet).unwrap_err().to_string(),
            "other network: regtest vs signet"
        );
        let custom = Hello { genesis: [7; 32], ..hello() };
        assert!(matches!(check_hello(header.kind, &body, &custom), Err(DownReason::OtherGenesis { .. })));
        let mut newer = body.clone();
        newer[9] = 9;
        newer.truncate(10);
        assert_eq!(check_hello(header.kind, &newer, &hello()), Err(DownReason::OtherProtocol { theirs: 9, ours: 1 }));
    }

    #[test]
    fn every_cut_or_bent_hello_is_refused() {
        let (header, body) = split(&encode_hello(&hello(), 1));
        for end in 0..body.len() {
            assert!(check_hello(header.kind, &body[..end], &hello()).is_err(), "{end}");
        }
        let mut control_characters = body.clone();
        control_characters[11] = 0x1b;
        assert!(matches!(check_hello(header.kind, &control_characters, &hello()), Err(DownReason::BadFrame(_))));
        assert!(matches!(check_hello(PAYLOAD, &body, &hello()), Err(DownReason::BadFrame(_))));
    }

    #[test]
    fn control_frames_round_trip() {
        for control in
            [Control::Ping { nonce: 7, height: 800_000 }, Control::Pong { nonce: u64::MAX }, Control::Goodbye]
        {
            let (header, body) = split(&control.encode());
            assert_eq!(Control::decode(header.kind, &body).unwrap(), control);
        }
    }

    #[test]
    fn headers_out_of_bounds_are_refused() {
        let limit = u32::try_from(MAX_FRAME_BYTES).unwrap();
        let header = |length: u32, kind: u8| {
            let [a, b, c, d] = length.to_be_bytes();
            decode_header([a, b, c, d, kind])
        };
        assert!(header(limit + 1, PAYLOAD).is_ok());
        assert_eq!(header(limit + 2, PAYLOAD), Err(DownReason::FrameTooLarge(u64::from(limit) + 1)));
        assert_eq!(header(u32::MAX, PAYLOAD), Err(DownReason::FrameTooLarge(u64::from(u32::MAX) - 1)));
        assert!(header(0, PAYLOAD).is_err());
        assert!(header(12, PING).is_err());
        assert!(header(2, GOODBYE).is_err());
        assert!(header(1, 5).is_err());
        assert_eq!(payload_header(3), [0, 0, 0, 4, PAYLOAD]);
    }
}
