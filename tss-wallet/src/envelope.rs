//! The signed envelope every protocol message travels in.
//!
//! It binds wallet, epoch, session, attempt, round, sender and receiver, so that a message replayed elsewhere is
//! refused, and a contradiction between two signed messages shows who made it. The encoding is fixed, not
//! self-describing: one envelope has exactly one encoding, and trailing bytes are refused.

use thiserror::Error;

use crate::identity::{self, SIGNATURE_BYTES, SigningIdentity};
use crate::ids::{Epoch, MemberId, SessionId, WalletId, tagged_hash};

const MAGIC: &[u8; 4] = b"KLE1";
const SIGNATURE_TAG: &str = "keyless/envelope/v1";

/// The largest body an envelope carries.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

const HEADER_BYTES: usize = 4 + 32 + 4 + 32 + 4 + 2 + 32 + 1 + 32 + 4;

/// Bytes an envelope adds to its body.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SIGNATURE_BYTES;

/// A message with all that its signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The wallet it is about.
    pub wallet: WalletId,
    /// The wallet's epoch.
    pub epoch: Epoch,
    /// The run of the protocol.
    pub session: SessionId,
    /// The attempt within the session.
    pub attempt: u32,
    /// The round of the protocol; see [`crate::Outgoing::round`].
    pub round: u16,
    /// Who wrote it.
    pub sender: MemberId,
    /// Whom it is for; nobody means all.
    pub receiver: Option<MemberId>,
    /// The message.
    pub body: Vec<u8>,
}

/// What a receiver knows before it reads. `None` accepts any value, and the caller checks it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The node that reads.
    pub me: MemberId,
    /// The peer the bytes came from.
    pub sender: MemberId,
    /// The wallet.
    pub wallet: Option<WalletId>,
    /// The epoch.
    pub epoch: Option<Epoch>,
    /// The session.
    pub session: Option<SessionId>,
    /// The attempt.
    pub attempt: Option<u32>,
    /// The round.
    pub round: Option<u16>,
}

/// Why an envelope was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Too short, too long, or trailing bytes.
    #[error("an envelope of {0} bytes does not fit its own length field")]
    Length(usize),
    /// Not an envelope of this version.
    #[error("not an envelope of version 1")]
    Version,
    /// A receiver flag other than 0 and 1, or bytes in an absent receiver.
    #[error("the receiver field is not canonical")]
    Receiver,
    /// The body is above [`MAX_BODY_BYTES`].
    #[error("a body of {0} bytes is above the limit")]
    TooLarge(usize),
    /// A bound field differs from what is expected.
    #[error("the envelope is for another {0}")]
    Mismatch(&'static str),
    /// The signature does not fit.
    #[error("the signature of sender {0} is not valid")]
    BadSignature(MemberId),
}

/// An envelope whose signature and bound fields were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    envelope: Envelope,
    signature: [u8; SIGNATURE_BYTES],
}

impl Verified {
    /// The checked fields.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The checked fields, by value.
    #[must_use]
    pub fn into_envelope(self) -> Envelope {
        self.envelope
    }

    /// The signed bytes again: evidence that a third party can check with [`Envelope::open`].
    #[must_use]
    pub fn evidence(&self) -> Vec<u8> {
        let mut bytes = self.envelope.unsigned_bytes();
        bytes.extend_from_slice(&self.signature);
        bytes
    }
}

impl Envelope {
    fn unsigned_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(OVERHEAD_BYTES + self.body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.wallet.as_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(self.session.as_bytes());
        bytes.extend_from_slice(&self.attempt.to_be_bytes());
        bytes.extend_from_slice(&self.round.to_be_bytes());
        bytes.extend_from_slice(self.sender.as_bytes());
        bytes.push(u8::from(self.receiver.is_some()));
        bytes.extend_from_slice(self.receiver.map_or([0; 32], |member| member.0).as_slice());
        // MAX_BODY_BYTES fits in 32 bits; `seal` refuses more.
        bytes.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Signs the envelope; the sender field must be the signer's own.
    ///
    /// # Errors
    /// Fails when the body is too large or the sender is not the signer.
    pub fn seal(&self, identity: &SigningIdentity) -> Result<Vec<u8>, EnvelopeError> {
        if self.body.len() > MAX_BODY_BYTES {
            return Err(EnvelopeError::TooLarge(self.body.len()));
        }
        if self.sender != identity.member_id() {
            return Err(EnvelopeError::Mismatch("sender"));
        }
        let mut bytes = self.unsigned_bytes();
        let signature = identity.sign(&tagged_hash(SIGNATURE_TAG, &[&bytes]));
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Decodes an envelope and checks every bound field and the signature.
    ///
    /// # Errors
    /// Fails for bytes that are no envelope, for a field that differs from the expected one, for another receiver, and
    /// for a signature that does not fit.
    pub fn open(bytes: &[u8], expected: &Expected) -> Result<Verified, EnvelopeError> {
        let (envelope, signature) = Self::decode(bytes)?;
        let check = |fits: bool, field| if fits { Ok(()) } else { Err(EnvelopeError::Mismatch(field)) };
        check(envelope.sender == expected.sender, "sender")?;
        check(envelope.receiver.is_none_or(|receiver| receiver == expected.me), "receiver")?;
        check(expected.wallet.is_none_or(|wallet| wallet == envelope.wallet), "wallet")?;
        check(expected.epoch.is_none_or(|epoch| epoch == envelope.epoch), "epoch")?;
        check(expected.session.is_none_or(|session| session == envelope.session), "session")?;
        check(expected.attempt.is_none_or(|attempt| attempt == envelope.attempt), "attempt")?;
        check(expected.round.is_none_or(|round| round == envelope.round), "round")?;
        let signed = &bytes[..bytes.len() - SIGNATURE_BYTES];
        identity::verify(&envelope.sender, &tagged_hash(SIGNATURE_TAG, &[signed]), &signature)
            .map_err(|_| EnvelopeError::BadSignature(envelope.sender))?;
        Ok(Verified { envelope, signature })
    }

    fn decode(bytes: &[u8]) -> Result<(Self, [u8; SIGNATURE_BYTES]), EnvelopeError> {
        if bytes.len() > OVERHEAD_BYTES + MAX_BODY_BYTES {
            return Err(EnvelopeError::TooLarge(bytes.len()));
        }
        let mut reader = Reader { rest: bytes, total: bytes.len() };
        if reader.array::<4>()? != *MAGIC {
            return Err(EnvelopeError::Version);
        }
        let wallet = WalletId(reader.array()?);
        let epoch = Epoch(u32::from_be_bytes(reader.array()?));
        let session = SessionId(reader.array()?);
        let attempt = u32::from_be_bytes(reader.array()?);
        let round = u16::from_be_bytes(reader.array()?);
        let sender = MemberId(reader.array()?);
        let [flag] = reader.array()?;
        let receiver_bytes: [u8; 32] = reader.array()?;
        let receiver = match (flag, receiver_bytes) {
            (0, empty) if empty == [0; 32] => None,
            (1, member) => Some(MemberId(member)),
            _ => return Err(EnvelopeError::Receiver),
        };
        let length = u32::from_be_bytes(reader.array()?) as usize;
        if reader.rest.len() != length + SIGNATURE_BYTES {
            return Err(EnvelopeError::Length(bytes.len()));
        }
        let body = reader.take(length)?.to_vec();
        let signature = reader.array()?;
        Ok((Self { wallet, epoch, session, attempt, round, sender, receiver, body }, signature))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], EnvelopeError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(EnvelopeError::Length(self.total))?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EnvelopeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parties() -> (SigningIdentity, SigningIdentity) {
        (SigningIdentity::from_seed(&[1; 32]), SigningIdentity::from_seed(&[2; 32]))
    }

    fn envelope(from: &SigningIdentity, to: Option<MemberId>) -> Envelope {
        Envelope {
            wallet: WalletId([3; 32]),
            epoch: Epoch(4),
            session: SessionId([5; 32]),
            attempt: 6,
            round: 7,
            sender: from.member_id(),
            receiver: to,
            body: b"a message".to_vec(),
        }
    }

    fn expected(from: &SigningIdentity, me: &SigningIdentity) -> Expected {
        Expected {
            me: me.member_id(),
            sender: from.member_id(),
            wallet: Some(WalletId([3; 32])),
            epoch: Some(Epoch(4)),
            session: Some(SessionId([5; 32])),
            attempt: Some(6),
            round: Some(7),
        }
    }

    #[test]
    fn an_envelope_opens_where_it_belongs() {
        let (alice, bob) = parties();
        for receiver in [None, Some(bob.member_id())] {
            let sent = envelope(&alice, receiver);
            let bytes = sent.seal(&alice).unwrap();
            assert_eq!(bytes.len(), OVERHEAD_BYTES + sent.body.len());
            let verified = Envelope::open(&bytes, &expected(&alice, &bob)).unwrap();
            assert_eq!(verified.envelope(), &sent);
            assert_eq!(verified.evidence(), bytes);
        }
    }

    #[test]
    fn a_replay_into_anything_else_is_refused() {
        let (alice, bob) = parties();
        let bytes = envelope(&alice, Some(bob.member_id())).seal(&alice).unwrap();
        let fits = expected(&alice, &bob);
        let elsewhere = [
            (Expected { wallet: Some(WalletId([9; 32])), ..fits }, "wallet"),
            (Expected { epoch: Some(Epoch(5)), ..fits }, "epoch"),
            (Expected { session: Some(SessionId([9; 32])), ..fits }, "session"),
            (Expected { attempt: Some(7), ..fits }, "attempt"),
            (Expected { round: Some(8), ..fits }, "round"),
            (Expected { me: MemberId([9; 32]), ..fits }, "receiver"),
            (Expected { sender: bob.member_id(), ..fits }, "sender"),
        ];
        for (expected, field) in elsewhere {
            assert_eq!(Envelope::open(&bytes, &expected), Err(EnvelopeError::Mismatch(field)));
        }
    }

    #[test]
    fn every_single_bit_is_covered() {
        let (alice, bob) = parties();
        let bytes = envelope(&alice, Some(bob.member_id())).seal(&alice).unwrap();
        let open =
            Expected { wallet: None, epoch: None, session: None, attempt: None, round: None, ..expected(&alice, &bob) };
        assert!(Envelope::open(&bytes, &open).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::open(&flipped, &open).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        let (alice, bob) = parties();
        let bytes = envelope(&alice, None).seal(&alice).unwrap();
        for length in 0..bytes.len() {
            assert!(Envelope::open(&bytes[..length], &expected(&alice, &bob)).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Envelope::open(&longer, &expected(&alice, &bob)).is_err());
    }

    #[test]
    fn nobody_signs_in_anothers_name() {
        let (alice, bob) = parties();
        assert_eq!(envelope(&bob, None).seal(&alice), Err(EnvelopeError::Mismatch("sender")));
    }

    #[test]
    fn bytes_that_are_no_envelope_are_refused_by_name() {
        let (alice, bob) = parties();
        let refused = |bytes: &[u8]| Envelope::open(bytes, &expected(&alice, &bob)).unwrap_err();
        let bytes = envelope(&alice, Some(bob.member_id())).seal(&alice).unwrap();
        let changed = |at: usize, to: u8| {
            let mut changed = bytes.clone();
            changed[at] = to;
            changed
        };
        // Magic; wallet, epoch, session, attempt, round, sender; receiver with its flag; length.
        let flag = 4 + 32 + 4 + 32 + 4 + 2 + 32;
        let length = flag + 1 + 32;
        assert_eq!(refused(&changed(0, 0)), EnvelopeError::Version);
        assert_eq!(refused(&changed(flag, 2)), EnvelopeError::Receiver);
        assert_eq!(refused(&changed(flag, 0)), EnvelopeError::Receiver, "bytes in an absent receiver");
        assert_eq!(refused(&changed(length + 3, 8)), EnvelopeError::Length(bytes.len()));
        assert_eq!(refused(&bytes[..20]), EnvelopeError::Length(20));
        assert_eq!(refused(&changed(length + 4, b'A')), EnvelopeError::BadSignature(alice.member_id()));
        assert_eq!(
            refused(&changed(bytes.len() - 1, !bytes[bytes.len() - 1])),
            EnvelopeError::BadSignature(alice.member_id())
        );
        // Limits at their figure.
        let of = |body: usize| Envelope { body: vec![0; body], ..envelope(&alice, None) }.seal(&alice);
        let largest = of(MAX_BODY_BYTES).unwrap();
        assert!(Envelope::open(&largest, &expected(&alice, &bob)).is_ok());
        assert_eq!(of(MAX_BODY_BYTES + 1), Err(EnvelopeError::TooLarge(MAX_BODY_BYTES + 1)));
        let larger = [largest.as_slice(), &[0]].concat();
        assert_eq!(refused(&larger), EnvelopeError::TooLarge(larger.len()));
    }
}
