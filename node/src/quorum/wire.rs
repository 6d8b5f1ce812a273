//! What co-signers say to each other: the messages, their frames, and the envelope around them.
//!
//! A frame is one byte (does it open a session, or belong to one), the session it is for, and a signed envelope. The
//! first two only route; the envelope repeats the session under its signature, and a frame that lies about it is
//! dropped. Refuses bodies that are not exactly one message.

use std::fmt;

use bitcoin::BlockHash;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tss_wallet::wallet::keychain::{ChainId, KeyId};
use tss_wallet::{Envelope, EnvelopeError, Epoch, Expected, MemberId, SessionId, SigningIdentity, WalletId};

use super::fence::Mark;
use super::names::{NameAnswer, NameRequest};
use super::refusal::Refusal;
use super::sharing::AddressLabel;

/// Of the messages below.
pub const PROTOCOL_VERSION: u32 = 6;

const OPENS: u8 = 1;
const BELONGS: u8 = 0;
const PREFIX_BYTES: usize = 33;

/// Bytes that are encoded in one piece, not one by one.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A ceremony that makes a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub version: u32,
    pub name: String,
    /// Bitcoin's network magic.
    pub network: [u8; 4],
    pub genesis: BlockHash,
    pub threshold: u8,
    pub members: Vec<MemberId>,
    /// The operator accepted 2t ≤ n.
    pub split: bool,
    /// Birthday of the wallet: seconds, and the coordinator's height.
    pub birth_time: u64,
    pub birth_height: u32,
    pub avoid_reuse: bool,
}

/// Indexes of one chain of scripts, asked for by one coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRange {
    pub chain: ChainId,
    pub first: u32,
    pub count: u32,
}

/// The key that an input of a transaction is said to belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputKey {
    pub input: u32,
    pub key: KeyId,
    /// Sighash type by its byte; 0 is taproot's default.
    pub sighash: u8,
}

/// The key that an output is said to be change of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputKey {
    pub output: u32,
    pub key: KeyId,
}

/// What is to be signed: always the whole thing, never a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A PSBT with the transaction and the outputs that it spends.
    /// `inputs` are all that want a signature of the wallet; this ceremony makes `count` of them from `first` on.
    Transaction { psbt: Blob, inputs: Vec<InputKey>, change: Vec<OutputKey>, first: u32, count: u32 },
    /// A text for `signmessage`.
    Message { text: String, key: KeyId },
}

/// Who chose the coins of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoinChoice {
    /// The coordinator's wallet, as free ones.
    Wallet,
    /// The caller: they may be spent elsewhere, too (a replacement, a raw transaction).
    Caller,
}

/// What one signer of a one-round attempt told of its nonces before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerNonces {
    /// One commitment for each signature.
    pub commitments: Blob,
    /// Further ones that the coordinator holds of this signer.
    pub stock: u16,
}

/// One attempt at one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignRequest {
    /// The user's own name for this payment, if there is one.
    pub idempotency_key: Option<String>,
    /// Roster indexes of those who sign, ascending.
    pub signers: Vec<u8>,
    /// Of each signer, where all inputs are taproot's and one round will do; none: the signers exchange them.
    pub nonces: Vec<SignerNonces>,
    pub subject: Subject,
    /// The coordinator chose the coins by itself: none may be in a payment that another one is making.
    pub coins: CoinChoice,
    /// When the coordinator gives up, in milliseconds from now.
    pub patience_ms: u32,
    /// How long a question to an operator may stay open, in seconds.
    pub approval_seconds: u32,
    /// Roster indexes of those whose operators have agreed so far, as the coordinator says.
    pub agreed: Vec<u8>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub tip_height: u32,
    pub tip: BlockHash,
    pub wallets: Vec<WalletStatus>,
}

/// One wallet of a member's [`Status`]; only wallets that the asker is a member of are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletStatus {
    pub wallet: WalletId,
    pub name: String,
    pub epoch: Epoch,
    pub locked: bool,
    /// Restored from a backup, and not yet confirmed by others.
    pub unconfirmed: bool,
    /// Rolled back to an old state, and not yet repaired.
    pub fenced: bool,
    /// The highest epoch whose certificate it signed and does not hold complete.
    pub promised: Option<Epoch>,
    pub marks: Vec<(ChainId, u32)>,
    /// What the asker has said of itself to this member.
    pub yours: Option<Mark>,
}

/// Why shares are dealt again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedealKind {
    /// Same members, same threshold, new shares.
    Refresh,
    /// Other members or another threshold.
    Reshare,
    /// Same members; this one has lost its share or slept through an epoch.
    Repair(MemberId),
}

/// A wallet's shares are to be dealt again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub version: u32,
    pub kind: RedealKind,
    /// The wallet, with threshold and members as they are to be.
    pub facts: Invitation,
    /// The ceremony that made the wallet.
    pub made_by: SessionId,
    /// The public keys of the present epoch with their certificate.
    pub keys: Blob,
    pub epoch: Epoch,
    pub dealers: Vec<MemberId>,
    pub absent: Vec<MemberId>,
}

/// How far a member is with a wallet that another one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It holds the acknowledgements of all members: the wallet lives.
    Live,
    /// Its share is on its disk.
    Stored,
    /// The ceremony is still running there.
    Running,
    /// It holds nothing of it and never will.
    Unknown,
}

/// Everything that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    // These open a session at the receiver.
    Probe,
    Invite(Invitation),
    Lease(Vec<LeaseRange>),
    Sign(SignRequest),
    /// What became of the wallet named in the envelope, made by the ceremony with this id?
    AskOutcome(SessionId),
    /// Signed transactions of the wallet that are in the mempools: the members need not wait for their relay.
    Sent(Vec<Blob>),
    /// The sender has opened this wallet: what may it have missed?
    AskNews,
    /// What receiving addresses are called. `fill`: only those that have no label yet.
    Labels {
        fill: bool,
        labels: Vec<AddressLabel>,
    },
    Redeal(Box<Proposal>),
    /// The sender has no usable share of this wallet: have the shares dealt again to it.
    AskRepair(String),
    /// The public keys of the epoch that the receiver holds?
    AskKeys,
    /// So many nonce commitments for taproot signatures, beside those that the sender still holds.
    AskNonces {
        count: u16,
        stock: u16,
    },
    /// How much the sender has signed.
    Mark(Mark),
    /// The sender is about to pay under this name.
    Name(NameRequest),
    /// It is through with it.
    NameDone(NameRequest),
    // These belong to one.
    Status(Status),
    Accept,
    /// All have accepted.
    Begin,
    Refuse(Refusal),
    /// Bodies of a protocol machine, in their order.
    Protocol(Vec<Blob>),
    /// Nonce commitments, each told once.
    Nonces(Blob),
    /// The sender's part of signatures in one round, and its next nonce commitments.
    Share {
        answer: Blob,
        next: Blob,
    },
    /// The signatures that came of it, 64 bytes each.
    Signatures(Blob),
    /// The sender hears nothing from these members and cannot go on.
    Stuck(Vec<MemberId>),
    /// The sender's operator has answered; asking again is worth it.
    Answered,
    /// The share is on the disk.
    Stored,
    /// The wallet is in use.
    Live,
    /// Hash of all scripts of the leased ranges, as derived by the sender, and its marks afterwards.
    Granted {
        scripts: [u8; 32],
    },
    /// The marks of a member that could not grant.
    Behind(Vec<(ChainId, u32)>),
    Outcome(Outcome),
    /// Public keys with their certificate, where there are some.
    Keys(Option<Blob>),
    Named(NameAnswer),
}

impl Message {
    fn opens(&self) -> bool {
        matches!(
            self,
            Self::Probe
                | Self::Invite(_)
                | Self::Lease(_)
                | Self::Sign(_)
                | Self::AskOutcome(_)
                | Self::Sent(_)
                | Self::Labels { .. }
                | Self::AskNews
                | Self::Redeal(_)
                | Self::AskRepair(_)
                | Self::AskKeys
                | Self::AskNonces { .. }
                | Self::Mark(_)
                | Self::Name(_)
                | Self::NameDone(_)
        )
    }
}

/// Why bytes of a peer were dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the frame is too short")]
    Short,
    #[error("the frame's kind {0} is unknown")]
    Kind(u8),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("the body is not a message")]
    Body,
    #[error("the message is in the wrong place")]
    Place,
}

/// A frame, routed but not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opens: bool,
    pub session: SessionId,
    pub envelope: Vec<u8>,
}

impl Frame {
    pub fn parse(mut bytes: Vec<u8>) -> Result<Self, WireError> {
        if bytes.len() < PREFIX_BYTES {
            return Err(WireError::Short);
        }
        let envelope = bytes.split_off(PREFIX_BYTES);
        let mut session = [0; 32];
        session.copy_from_slice(&bytes[1..]);
        let opens = match bytes[0] {
            OPENS => true,
            BELONGS => false,
            other => return Err(WireError::Kind(other)),
        };
        Ok(Self { opens, session: SessionId(session), envelope })
    }
}

/// What all messages of one session have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub wallet: WalletId,
    pub epoch: Epoch,
    pub session: SessionId,
}

/// The topic of what is about no wallet yet.
pub const NO_WALLET: WalletId = WalletId([0; 32]);

/// Signs and frames one message.
pub fn seal(
    identity: &SigningIdentity,
    topic: &Topic,
    round: u16,
    to: MemberId,
    message: &Message,
) -> Result<Vec<u8>, WireError> {
    let body = postcard::to_allocvec(message).map_err(|_| WireError::Body)?;
    let envelope = Envelope {
        wallet: topic.wallet,
        epoch: topic.epoch,
        session: topic.session,
        attempt: 0,
        round,
        sender: identity.member_id(),
        receiver: Some(to),
        body,
    }
    .seal(identity)?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + envelope.len());
    frame.push(if message.opens() { OPENS } else { BELONGS });
    frame.extend_from_slice(topic.session.as_bytes());
    frame.extend_from_slice(&envelope);
    Ok(frame)
}

/// Checks an envelope that belongs to a session under way.
pub fn open(envelope: &[u8], me: MemberId, from: MemberId, topic: &Topic) -> Result<Message, WireError> {
    let expected = Expected {
        me,
        sender: from,
        wallet: Some(topic.wallet),
        epoch: Some(topic.epoch),
        session: Some(topic.session),
        attempt: Some(0),
        round: None,
    };
    let message = decode(&Envelope::open(envelope, &expected)?.into_envelope().body)?;
    if message.opens() { Err(WireError::Place) } else { Ok(message) }
}

/// Checks an envelope that opens a session; the topic is what it says.
pub fn open_first(frame: &Frame, me: MemberId, from: MemberId) -> Result<(Topic, Message), WireError> {
    let session = Some(frame.session);
    let expected = Expected { me, sender: from, wallet: None, epoch: None, session, attempt: Some(0), round: None };
    let envelope = Envelope::open(&frame.envelope, &expected)?.into_envelope();
    let message = decode(&envelope.body)?;
    if !message.opens() {
        return Err(WireError::Place);
    }
    Ok((Topic { wallet: envelope.wallet, epoch: envelope.epoch, session: envelope.session }, message))
}

fn decode(body: &[u8]) -> Result<Message, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Body),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn topic() -> Topic {
        Topic { wallet: WalletId([1; 32]), epoch: Epoch(0), session: SessionId([2; 32]) }
    }

    #[test]
    fn a_message_arrives_whole_at_its_receiver_alone() {
        let alice = SigningIdentity::from_seed(&[1; 32]);
        let bob = SigningIdentity::from_seed(&[2; 32]).member_id();
        let bytes = seal(&alice, &topic(), 0, bob, &Message::Stored).unwrap();
        let frame = Frame::parse(bytes).unwrap();
        assert!(!frame.opens);
        assert_eq!(open(&frame.envelope, bob, alice.member_id(), &topic()), Ok(Message::Stored));
        let other = Topic { session: SessionId([3; 32]), ..topic() };
        let mismatch = |field| Err(WireError::Envelope(EnvelopeError::Mismatch(field)));
        assert_eq!(open(&frame.envelope, bob, alice.member_id(), &other), mismatch("session"));
        assert_eq!(open(&frame.envelope, alice.member_id(), alice.member_id(), &topic()), mismatch("receiver"));
        assert_eq!(open_first(&frame, bob, alice.member_id()), Err(WireError::Place));
        let moved = Frame { session: SessionId([3; 32]), ..frame };
        assert_eq!(
            open_first(&moved, bob, alice.member_id()),
            Err(WireError::Envelope(EnvelopeError::Mismatch("session")))
        );
    }

    #[test]
    fn a_body_that_is_no_message_to_its_last_byte_is_refused() {
        let alice = SigningIdentity::from_seed(&[1; 32]);
        let bob = SigningIdentity::from_seed(&[2; 32]).member_id();
        let stored = postcard::to_allocvec(&Message::Stored).unwrap();
        for body in [Vec::new(), vec![0xff; 3], [stored.as_slice(), &[0]].concat()] {
            let Topic { wallet, epoch, session } = topic();
            let (sender, receiver) = (alice.member_id(), Some(bob));
            let envelope = Envelope { wallet, epoch, session, attempt: 0, round: 0, sender, receiver, body };
            let sealed = envelope.seal(&alice).unwrap();
            assert_eq!(open(&sealed, bob, alice.member_id(), &topic()), Err(WireError::Body));
        }
    }

    #[test]
    fn an_opening_message_is_refused_inside_a_session() {
        let alice = SigningIdentity::from_seed(&[1; 32]);
        let bob = SigningIdentity::from_seed(&[2; 32]).member_id();
        let frame = Frame::parse(seal(&alice, &topic(), 0, bob, &Message::Probe).unwrap()).unwrap();
        assert!(frame.opens);
        assert_eq!(open_first(&frame, bob, alice.member_id()), Ok((topic(), Message::Probe)));
        assert_eq!(open(&frame.envelope, bob, alice.member_id(), &topic()), Err(WireError::Place));
    }

    #[test]
    fn short_and_unknown_frames_are_refused() {
        assert_eq!(Frame::parse(vec![0; 32]), Err(WireError::Short));
        assert_eq!(Frame::parse(vec![9; 40]), Err(WireError::Kind(9)));
    }
}
