//! The v1 wire format: a 24-byte header, then the payload. Pure: bytes in, frames out.
//!
//! Refuses a foreign network's magic and sizes above [`MAX_PAYLOAD`] (the connection ends, as in Core's
//! `V1Transport`); a wrong checksum or a malformed type costs only that message.

use bitcoin::hashes::{Hash, sha256d};
use bitcoin::p2p::Magic;

/// Core's `MAX_PROTOCOL_MESSAGE_LENGTH`.
pub(crate) const MAX_PAYLOAD: usize = 4_000_000;
/// Magic, type, length, checksum.
pub(crate) const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;

/// A message as it came or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) command: String,
    pub(crate) payload: Vec<u8>,
    /// Bytes it took on the wire, header included.
    pub(crate) wire_bytes: usize,
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    command: [u8; TYPE_BYTES],
    pub(crate) length: usize,
    checksum: [u8; 4],
}

/// The connection cannot go on. Texts are Core's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("Header error: Wrong MessageStart {0} received")]
    Magic(String),
    #[error("Header error: Size too large ({0}, {1} bytes)")]
    TooLarge(String, usize),
}

/// One message is dropped; the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("Header error: Wrong checksum ({command}, {bytes} bytes), expected {expected} was {got}")]
    Checksum { command: String, bytes: usize, expected: String, got: String },
    #[error("Header error: Invalid message type ({command}, {bytes} bytes)")]
    Type { command: String, bytes: usize },
    #[error("V2 transport error: invalid message type ({bytes} bytes contents)")]
    Contents { bytes: usize },
}

/// Core's `SanitizeString` with its default alphabet.
pub(crate) fn sanitize(text: &[u8]) -> String {
    const SAFE: &[u8] = b" .,;-_/:?@()";
    text.iter()
        .filter(|byte| byte.is_ascii_alphanumeric() || SAFE.contains(byte))
        .map(|byte| char::from(*byte))
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let hash = sha256d::Hash::hash(payload).to_byte_array();
    [hash[0], hash[1], hash[2], hash[3]]
}

impl FrameHeader {
    pub(crate) fn parse(magic: Magic, bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let (start, rest) = bytes.split_at(4);
        if start != magic.to_bytes() {
            return Err(WireError::Magic(hex(start)));
        }
        let mut command = [0; TYPE_BYTES];
        command.copy_from_slice(&rest[..TYPE_BYTES]);
        let length = u32::from_le_bytes([rest[12], rest[13], rest[14], rest[15]]) as usize;
        let header = Self { command, length, checksum: [rest[16], rest[17], rest[18], rest[19]] };
        if length > MAX_PAYLOAD {
            return Err(WireError::TooLarge(header.printable(), length));
        }
        Ok(header)
    }

    fn end(&self) -> usize {
        self.command.iter().position(|byte| *byte == 0).unwrap_or(TYPE_BYTES)
    }

    fn printable(&self) -> String {
        sanitize(&self.command[..self.end()])
    }

    /// The message, once its payload is complete.
    pub(crate) fn finish(self, payload: Vec<u8>) -> Result<Frame, FrameError> {
        let got = checksum(&payload);
        if got != self.checksum {
            return Err(FrameError::Checksum {
                command: self.printable(),
                bytes: payload.len(),
                expected: hex(&got),
                got: hex(&self.checksum),
            });
        }
        let Some(command) = command_name(&self.command) else {
            return Err(FrameError::Type { command: self.printable(), bytes: payload.len() });
        };
        Ok(Frame { command, wire_bytes: HEADER_BYTES + payload.len(), payload })
    }
}

/// The name in a padded field: printable, then zeroes alone.
pub(crate) fn command_name(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at_checked(end)?;
    let clean = name.iter().all(|byte| (b' '..=b'~').contains(byte)) && padding.iter().all(|byte| *byte == 0);
    clean.then(|| String::from_utf8_lossy(name).into_owned())
}

/// A name as a padded field; beyond 12 bytes it is cut.
pub(crate) fn padded(command: &str) -> [u8; TYPE_BYTES] {
    let mut field = [0; TYPE_BYTES];
    field.iter_mut().zip(command.bytes()).for_each(|(slot, byte)| *slot = byte);
    field
}

/// Header and payload of an outgoing message. `command` beyond 12 bytes is cut.
pub(crate) fn encode(magic: Magic, command: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&magic.to_bytes());
    bytes.extend_from_slice(&padded(command));
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(payload));
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
        FrameHeader::parse(Magic::REGTEST, &header).unwrap().finish(bytes[HEADER_BYTES..].to_vec())
    }

    #[test]
    fn a_pong_takes_32_bytes_and_comes_back() {
        let bytes = encode(Magic::REGTEST, "pong", &[1; 8]);
        let frame = decode(&bytes).unwrap();
        assert_eq!((frame.command.as_str(), frame.wire_bytes), ("pong", 32));
    }

    #[test]
    fn foreign_magic_and_giants_end_the_connection() {
        let mut bytes: [u8; HEADER_BYTES] = encode(Magic::BITCOIN, "ping", &[]).try_into().unwrap();
        assert_eq!(
            FrameHeader::parse(Magic::REGTEST, &bytes).unwrap_err().to_string(),
            "Header error: Wrong MessageStart f9beb4d9 received"
        );
        bytes[..4].copy_from_slice(&Magic::REGTEST.to_bytes());
        bytes[16..20].copy_from_slice(&4_000_001_u32.to_le_bytes());
        assert_eq!(
            FrameHeader::parse(Magic::REGTEST, &bytes).unwrap_err().to_string(),
            "Header error: Size too large (ping, 4000001 bytes)"
        );
    }

    #[test]
    fn a_bad_checksum_or_type_costs_one_message() {
        let mut bytes = encode(Magic::REGTEST, "ping", &[0; 8]);
        bytes[21] ^= 1;
        assert!(matches!(decode(&bytes), Err(FrameError::Checksum { .. })));
        let mut bytes = encode(Magic::REGTEST, "ping", &[]);
        bytes[4 + 6] = b'x';
        assert!(matches!(decode(&bytes), Err(FrameError::Type { .. })));
    }
}
