//! The two transports under the messages: v1 in the clear, v2 encrypted (BIP 324, by the crate `bip324`).
//!
//! Owns the handshake of v2, the telling apart of the two on incoming connections, and the packing of messages. The
//! seam is [`Opening`] (which bytes come first), [`Unseal`] (bytes to frames) and [`Seal`] (messages to bytes).

use std::io;
use std::sync::atomic::Ordering;

use bip324::{GarbageResult, Handshake, InboundCipher, OutboundCipher, PacketType, Role, VersionResult};
use bitcoin::p2p::Magic;
use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handle::PeerId;
use super::socket::Counters;
use super::stream::{ReadHalf, WriteHalf};
use super::wire::{self, FrameError, FrameHeader, HEADER_BYTES, MAX_PAYLOAD, WireError};

/// An encoded public key.
const KEY_BYTES: usize = 64;
const LENGTH_BYTES: usize = 3;
/// Bytes that a packet takes beyond its contents: length, flags, tag.
const PACKET_OVERHEAD: usize = 20;
const MAX_GARBAGE_BYTES: usize = 4_095;
const TERMINATOR_BYTES: usize = 16;
/// Type in full, then the payload.
const MAX_CONTENTS: usize = 1 + 12 + MAX_PAYLOAD;
/// A v1 connection opens with magic and `version`, padded.
const V1_PREFIX_BYTES: usize = 16;
/// Packets before the version packet; each may be a decoy, and none carries more than this.
const MAX_DECOYS: usize = 64;
/// Payload is read in steps of this size, so that a header alone claims little memory.
const READ_STEP_BYTES: usize = 256 * 1_024;
/// Types with one-byte names, in BIP 324's order from 1; `feature` is 37.
const SHORT_NAMES: [&str; 28] = [
    "addr",
    "block",
    "blocktxn",
    "cmpctblock",
    "feefilter",
    "filteradd",
    "filterclear",
    "filterload",
    "getblocks",
    "getblocktxn",
    "getdata",
    "getheaders",
    "headers",
    "inv",
    "mempool",
    "merkleblock",
    "notfound",
    "ping",
    "pong",
    "sendcmpct",
    "tx",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "addrv2",
];
const FEATURE_ID: u8 = 37;

/// The connection ended. Texts are Core's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("socket closed")]
    ByPeer,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("V2 transport error: packet too large ({0} bytes)")]
    TooLarge(usize),
    #[error("V2 transport error: packet decryption failure ({0} bytes)")]
    Decryption(usize),
    #[error("V2 transport error: missing garbage terminator")]
    NoTerminator,
    #[error("V2 transport error: V1 peer with wrong MessageStart {0}")]
    WrongNetwork(String),
    #[error("V2 transport error: {0}")]
    Handshake(bip324::Error),
    #[error("socket recv error: {0}")]
    Io(#[from] io::Error),
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// v1 and nothing else.
    V1,
    /// We called: v2.
    Initiate,
    /// We were called: v2, unless the first bytes are those of v1.
    Respond,
}

/// Reads of one connection, counted; bytes read too far are kept.
#[derive(Debug)]
pub(crate) struct Input {
    id: PeerId,
    half: ReadHalf,
    kept: Vec<u8>,
    counters: std::sync::Arc<Counters>,
}

impl Input {
    pub(crate) fn new(id: PeerId, half: ReadHalf, counters: std::sync::Arc<Counters>) -> Self {
        Self { id, half, kept: Vec::new(), counters }
    }

    async fn read_some(&mut self, into: &mut [u8]) -> Result<usize, TransportError> {
        let read = self.half.read(into).await?;
        if read == 0 {
            return Err(TransportError::ByPeer);
        }
        self.counters.received.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    async fn fill(&mut self, into: &mut [u8]) -> Result<(), TransportError> {
        let mut filled = self.kept.len().min(into.len());
        for (slot, byte) in into.iter_mut().zip(self.kept.drain(..filled)) {
            *slot = byte;
        }
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += self.read_some(rest).await?;
        }
        Ok(())
    }

    /// `length` bytes, claimed step by step.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>, TransportError> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let start = bytes.len();
            bytes.resize(length.min(start + READ_STEP_BYTES), 0);
            self.fill(bytes.get_mut(start..).unwrap_or_default()).await?;
        }
        Ok(bytes)
    }
}

/// Writes all and counts it.
pub(crate) async fn write_all(output: &mut WriteHalf, bytes: &[u8], counters: &Counters) -> Result<(), TransportError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = output.write(rest).await?;
        if written == 0 {
            return Err(TransportError::ByPeer);
        }
        counters.sent.fetch_add(written as u64, Ordering::Relaxed);
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Bytes to frames.
pub(crate) enum Unseal {
    V1(Magic),
    V2(Box<InboundCipher>),
}

/// Messages to bytes.
pub(crate) enum Seal {
    V1(Magic),
    V2(Box<OutboundCipher>),
}

/// A connection that may carry messages.
pub(crate) struct Opened {
    pub(crate) unseal: Unseal,
    pub(crate) seal: Seal,
    /// v2's, by which both ends can compare that nobody sits between them.
    pub(crate) session: Option<[u8; 32]>,
}

impl Opened {
    fn v1(magic: Magic) -> Self {
        Self { unseal: Unseal::V1(magic), seal: Seal::V1(magic), session: None }
    }
}

/// Shakes hands as `opening` says. Holds no deadline: the owner watches how long a handshake takes.
pub(crate) async fn open(
    opening: Opening,
    magic: Magic,
    input: &mut Input,
    output: &mut WriteHalf,
) -> Result<Opened, TransportError> {
    let role = match opening {
        Opening::V1 => return Ok(Opened::v1(magic)),
        Opening::Initiate => Role::Initiator,
        Opening::Respond => {
            if is_v1(magic, input).await? {
                return Ok(Opened::v1(magic));
            }
            Role::Responder
        }
    };
    encrypt(role, magic, input, output).await
}

/// Whether the caller speaks v1. What was read stays to be read.
async fn is_v1(magic: Magic, input: &mut Input) -> Result<bool, TransportError> {
    let mut v1 = magic.to_bytes().to_vec();
    v1.extend_from_slice(b"version\0\0\0\0\0");
    let mut seen = Vec::new();
    while seen.len() < V1_PREFIX_BYTES && v1.starts_with(&seen) {
        let mut more = [0; V1_PREFIX_BYTES];
        let room = more.get_mut(..V1_PREFIX_BYTES - seen.len()).unwrap_or_default();
        let read = input.read_some(room).await?;
        seen.extend_from_slice(more.get(..read).unwrap_or_default());
    }
    let matches = v1 == seen;
    input.kept = seen;
    Ok(matches)
}

async fn encrypt(
    role: Role,
    magic: Magic,
    input: &mut Input,
    output: &mut WriteHalf,
) -> Result<Opened, TransportError> {
    let garbage = random_garbage();
    let counters = std::sync::Arc::clone(&input.counters);
    let mut hello = vec![0; KEY_BYTES + garbage.len()];
    let handshake = Handshake::new(magic.to_bytes(), role)
        .and_then(|fresh| fresh.send_key(Some(&garbage), &mut hello))
        .map_err(TransportError::Handshake)?;
    tracing::debug!(target: "net", "start sending v2 handshake to peer={}", input.id);
    write_all(output, &hello, &counters).await?;
    let mut key = [0; KEY_BYTES];
    let (prefix, rest) = key.split_at_mut(V1_PREFIX_BYTES);
    input.fill(prefix).await?;
    if role == Role::Responder && prefix.ends_with(b"version\0\0\0\0\0") {
        return Err(TransportError::WrongNetwork(wire::hex(prefix.get(..4).unwrap_or_default())));
    }
    input.fill(rest).await?;
    let handshake = match handshake.receive_key(key) {
        // The library takes a key that begins as the network's magic for v1, as one in 2³² does. Such a peer is left to the
        // deadline, like one whose garbage does not end, and calls again with another key.
        Err(bip324::Error::V1Protocol) => return Err(unending_garbage(input).await),
        received => received.map_err(TransportError::Handshake)?,
    };
    let mut version = vec![0; TERMINATOR_BYTES + PACKET_OVERHEAD];
    let mut handshake = handshake.send_version(&mut version, None).map_err(TransportError::Handshake)?;
    write_all(output, &version, &counters).await?;

    let mut seen = std::mem::take(&mut input.kept);
    let (mut handshake, used) = loop {
        match handshake.receive_garbage(&seen) {
            Ok(GarbageResult::FoundGarbage { handshake, consumed_bytes }) => {
                break (handshake, consumed_bytes);
            }
            Ok(GarbageResult::NeedMoreData(same)) => handshake = same,
            Err(bip324::Error::NoGarbageTerminator) => return Err(TransportError::NoTerminator),
            Err(error) => return Err(TransportError::Handshake(error)),
        }
        let mut more = [0; 1_024];
        let room = (MAX_GARBAGE_BYTES + TERMINATOR_BYTES).saturating_sub(seen.len()).clamp(1, more.len());
        let read = input.read_some(more.get_mut(..room).unwrap_or_default()).await?;
        seen.extend_from_slice(more.get(..read).unwrap_or_default());
    };
    input.kept = seen.get(used..).unwrap_or_default().to_vec();
    for _ in 0..MAX_DECOYS {
        let mut length = [0; LENGTH_BYTES];
        input.fill(&mut length).await?;
        let length = handshake.decrypt_packet_len(length).map_err(TransportError::Handshake)?;
        let mut packet = packet(input, length).await?;
        match handshake.receive_version(&mut packet) {
            Ok(VersionResult::Complete { cipher }) => {
                let session = Some(*cipher.id());
                let (inbound, outbound) = cipher.into_split();
                return Ok(Opened {
                    unseal: Unseal::V2(Box::new(inbound)),
                    seal: Seal::V2(Box::new(outbound)),
                    session,
                });
            }
            Ok(VersionResult::Decoy(next)) => handshake = next,
            Err(_) => return Err(TransportError::Decryption(length)),
        }
    }
    Err(TransportError::TooLarge(MAX_DECOYS))
}

/// Reads as much as may come before the terminator, which never does.
async fn unending_garbage(input: &mut Input) -> TransportError {
    let mut seen = [0; MAX_GARBAGE_BYTES + TERMINATOR_BYTES];
    input.fill(&mut seen).await.err().unwrap_or(TransportError::NoTerminator)
}

fn random_garbage() -> Vec<u8> {
    let mut rng = rand::thread_rng();
    let length = rng.next_u32() as usize % (MAX_GARBAGE_BYTES + 1);
    let mut garbage = vec![0; length];
    rng.fill_bytes(&mut garbage);
    garbage
}

/// The rest of a packet: flags, contents, tag.
async fn packet(input: &mut Input, length: usize) -> Result<Vec<u8>, TransportError> {
    let contents = length.saturating_sub(PACKET_OVERHEAD - LENGTH_BYTES);
    if contents > MAX_CONTENTS {
        return Err(TransportError::TooLarge(contents));
    }
    input.take(length).await
}

/// What follows on the wire.
pub(crate) enum Next {
    V1(FrameHeader),
    /// Bytes of a v2 packet after its length.
    V2(usize),
}

impl Next {
    /// Bytes to come.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::V1(header) => header.length,
            Self::V2(length) => *length,
        }
    }
}

/// A frame, a message that is dropped (with its size), or nothing (a decoy).
pub(crate) type Unsealed = Option<Result<wire::Frame, (FrameError, usize)>>;

impl Unseal {
    /// The head of the next message.
    pub(crate) async fn next(&mut self, input: &mut Input) -> Result<Next, TransportError> {
        match self {
            Self::V1(magic) => {
                let mut header = [0; HEADER_BYTES];
                input.fill(&mut header).await?;
                Ok(Next::V1(FrameHeader::parse(*magic, &header)?))
            }
            Self::V2(cipher) => {
                let mut length = [0; LENGTH_BYTES];
                input.fill(&mut length).await?;
                let length = cipher.decrypt_packet_len(length);
                let contents = length.saturating_sub(PACKET_OVERHEAD - LENGTH_BYTES);
                if contents > MAX_CONTENTS {
                    return Err(TransportError::TooLarge(contents));
                }
                Ok(Next::V2(length))
            }
        }
    }

    /// The message itself.
    pub(crate) async fn message(&mut self, next: Next, input: &mut Input) -> Result<Unsealed, TransportError> {
        match next {
            Next::V1(header) => {
                let payload = input.take(header.length).await?;
                let bytes = payload.len() + HEADER_BYTES;
                Ok(Some(header.finish(payload).map_err(|error| (error, bytes))))
            }
            Next::V2(length) => {
                let Self::V2(cipher) = self else { return Err(TransportError::Decryption(length)) };
                let mut packet = packet(input, length).await?;
                let (kind, plain) =
                    cipher.decrypt_in_place(&mut packet, None).map_err(|_| TransportError::Decryption(length))?;
                if kind == PacketType::Decoy {
                    return Ok(None);
                }
                Ok(Some(unpack(plain.get(1..).unwrap_or_default())))
            }
        }
    }
}

/// Type and payload of a v2 message.
fn unpack(contents: &[u8]) -> Result<wire::Frame, (FrameError, usize)> {
    let wire_bytes = contents.len() + PACKET_OVERHEAD;
    let bad = || (FrameError::Contents { bytes: contents.len() }, wire_bytes);
    let (id, rest) = contents.split_first().ok_or_else(bad)?;
    let (command, payload) = match *id {
        0 => {
            let (name, payload) = rest.split_at_checked(12).ok_or_else(bad)?;
            (wire::command_name(name).ok_or_else(bad)?, payload)
        }
        FEATURE_ID => ("feature".to_owned(), rest),
        id => {
            let name = SHORT_NAMES.get(usize::from(id) - 1).ok_or_else(bad)?;
            ((*name).to_owned(), rest)
        }
    };
    Ok(wire::Frame { command, payload: payload.to_vec(), wire_bytes })
}

fn short_id(command: &str) -> Option<u8> {
    if command == "feature" {
        return Some(FEATURE_ID);
    }
    let at = SHORT_NAMES.iter().position(|name| *name == command)?;
    u8::try_from(at + 1).ok()
}

/// Bytes that a message takes on the wire.
pub(crate) fn wire_bytes(v2: bool, command: &str, payload: usize) -> usize {
    match (v2, short_id(command)) {
        (false, _) => HEADER_BYTES + payload,
        (true, Some(_)) => PACKET_OVERHEAD + 1 + payload,
        (true, None) => PACKET_OVERHEAD + 13 + payload,
    }
}

impl Seal {
    pub(crate) fn message(&mut self, command: &str, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V1(magic) => wire::encode(*magic, command, payload),
            Self::V2(cipher) => {
                let mut contents = Vec::with_capacity(13 + payload.len());
                match short_id(command) {
                    Some(id) => contents.push(id),
                    None => {
                        contents.push(0);
                        contents.extend_from_slice(&wire::padded(command));
                    }
                }
                contents.extend_from_slice(payload);
                cipher.encrypt_to_vec(&contents, PacketType::Genuine, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    struct End {
        input: Input,
        output: WriteHalf,
    }

    fn end(stream: TcpStream) -> End {
        let (read, write) = super::super::stream::Stream::Tcp(stream).into_split();
        End { input: Input::new(0, read, Arc::default()), output: write }
    }

    async fn opened(one: Opening, two: Opening) -> [(End, Result<Opened, TransportError>); 2] {
        let (a, b) = pair().await;
        let (mut a, mut b) = (end(a), end(b));
        let (x, y) = tokio::join!(
            open(one, Magic::REGTEST, &mut a.input, &mut a.output),
            open(two, Magic::REGTEST, &mut b.input, &mut b.output)
        );
        [(a, x), (b, y)]
    }

    #[tokio::test]
    async fn both_ends_of_v2_agree_and_carry_any_type() {
        let [(mut a, x), (mut b, y)] = opened(Opening::Initiate, Opening::Respond).await;
        let (mut x, mut y) = (x.unwrap(), y.unwrap());
        assert!(x.session.is_some() && x.session == y.session);
        for (command, size) in [("ping", 8), ("feature", 3), ("wtxidrelay", 0), ("block", 3_900_000)] {
            let payload = vec![7; size];
            let bytes = x.seal.message(command, &payload);
            assert_eq!(bytes.len(), wire_bytes(true, command, size));
            let counters = Counters::default();
            let send = write_all(&mut a.output, &bytes, &counters);
            let receive = async {
                let next = y.unseal.next(&mut b.input).await.unwrap();
                y.unseal.message(next, &mut b.input).await.unwrap().unwrap().unwrap()
            };
            let (_, frame) = tokio::join!(send, receive);
            assert_eq!((frame.command.as_str(), frame.payload), (command, payload));
        }
    }

    #[tokio::test]
    async fn an_old_caller_is_recognised_and_loses_no_byte() {
        let (a, b) = pair().await;
        let (mut a, mut b) = (end(a), end(b));
        let message = wire::encode(Magic::REGTEST, "version", &[1; 90]);
        write_all(&mut a.output, &message, &Counters::default()).await.unwrap();
        let mut opened = open(Opening::Respond, Magic::REGTEST, &mut b.input, &mut b.output).await.unwrap();
        let next = opened.unseal.next(&mut b.input).await.unwrap();
        let frame = opened.unseal.message(next, &mut b.input).await.unwrap().unwrap().unwrap();
        assert_eq!((frame.command.as_str(), frame.payload.len()), ("version", 90));
    }

    #[tokio::test]
    async fn a_caller_of_another_network_is_told_apart() {
        let (a, b) = pair().await;
        let (mut a, mut b) = (end(a), end(b));
        let message = wire::encode(Magic::BITCOIN, "version", &[1; 90]);
        write_all(&mut a.output, &message, &Counters::default()).await.unwrap();
        let refused = open(Opening::Respond, Magic::REGTEST, &mut b.input, &mut b.output).await;
        assert!(matches!(refused, Err(TransportError::WrongNetwork(_))));
    }

    #[test]
    fn contents_that_name_no_message_cost_that_message() {
        assert!(unpack(&[]).is_err());
        assert!(unpack(&[29, 0]).is_err());
        assert!(unpack(&[0; 12]).is_err());
        assert_eq!(unpack(&[18, 1]).unwrap().command, "ping");
    }
}
