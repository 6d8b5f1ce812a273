//! Signing many inputs in one ceremony.
//!
//! [`SigningSession`] runs DKLs23 for the inputs of ECDSA addresses and FROST for taproot inputs side by side, all
//! inputs in the same messages: two messages to each peer for taproot inputs, three when there is an ECDSA input, and two
//! more each time that one of those has a high R (`ecdsa`). Every signer ends with all signatures, each verified against
//! the child key it is for.
//!
//! Where all inputs are taproot's, [`Roast`] and [`answer`] do the same in one round, over commitments that members told
//! before ([`nonces`]): the request names them, the answer is the share.
//!
//! Refuses: anything but exactly t signers, a partner on the ban list, a message for other items, signers or another
//! session (all are hashed into every message), and messages twice. Nothing of a session can be stored: a crash means
//! a new session with new nonces.
//! Source: DKLs23 (<https://eprint.iacr.org/2023/765>, protocol 3.6), FROST (RFC 9591) with BIP340/341 as in
//! `frost-secp256k1-tr`.

mod ecdsa;
mod error;
pub mod nonces;
mod one_round;
mod roast;
mod schnorr;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bitcoin::key::TapTweak;
use secp256k1::{Message, PublicKey, SECP256K1};

use ecdsa::ChosenR;
pub use error::{SignError, Verdict};
pub use nonces::{Commitment, NonceError, NoncePool};
pub use one_round::{Commitments, answer, nonce_use};
pub use roast::{Roast, Started};

use crate::ids::{Outgoing, PartyIndex, Recipient, SessionId, tagged_hash};
use crate::keys::{KeyShare, KeyTree, Scheme};
use crate::wallet::keychain::KeyId;

/// The most items of one ceremony. A DKLs23 item costs about 82 KB to each peer: see [`MAX_ECDSA_ITEMS`].
pub const MAX_ITEMS: usize = 1000;

/// The most ECDSA items of one ceremony, so that its largest message stays below 8 MB. The caller splits larger
/// transactions into several sessions.
pub const MAX_ECDSA_ITEMS: usize = 128;

const LAST_ROUND: u8 = ecdsa::MAX_ROUNDS;

/// The round of the messages that carry shares of taproot items.
const SCHNORR_SHARE_ROUND: u8 = 2;
const BINDING_BYTES: usize = 32;

/// One signature to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignItem {
    /// The child key; its address type decides the scheme.
    pub key: KeyId,
    /// What is signed: a sighash (for taproot of a key path spend with no script tree), or a message hash.
    pub message: [u8; 32],
}

/// A finished signature, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Low-S and low-R: at most 70 bytes of DER.
    Ecdsa {
        /// r and s.
        signature: secp256k1::ecdsa::Signature,
        /// 0 to 3: which of the points with this r was meant; `signmessage` needs it.
        recovery_id: u8,
    },
    /// BIP340, under the tweaked output key.
    Schnorr(secp256k1::schnorr::Signature),
}

/// What all signers of a session must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignParams {
    /// Fresh for each attempt.
    pub session: SessionId,
    /// Exactly t members, this one among them.
    pub signers: Vec<PartyIndex>,
    /// What to sign, in the same order for all.
    pub items: Vec<SignItem>,
    /// Members this one must not run DKLs23 with any more; see [`SignError::Ban`].
    pub banned: BTreeSet<PartyIndex>,
}

/// One scheme's part of a session: all its items, round by round. Messages are for each peer apart.
pub(crate) trait Batch: Send {
    /// The messages of the first round.
    fn start(&mut self) -> Result<PerPeer, SignError>;
    /// Takes the messages of the round just gone from all peers.
    fn step(&mut self, received: &PerPeer) -> Result<Step, SignError>;
}

/// A message for, or from, each peer.
pub(crate) type PerPeer = BTreeMap<PartyIndex, Vec<u8>>;

/// What a round ends in.
pub(crate) enum Step {
    Send(PerPeer),
    /// The same, and this member's part of signatures is in it: it cannot be taken back.
    Share(PerPeer),
    Done(Vec<(usize, Signature)>),
}

struct Part {
    scheme: Scheme,
    batch: Box<dyn Batch>,
}

/// One member's part in one ceremony. Feed it what arrives; send what it returns.
pub struct SigningSession {
    me: PartyIndex,
    peers: BTreeSet<PartyIndex>,
    binding: [u8; BINDING_BYTES],
    round: u8,
    parts: Vec<Part>,
    inbox: BTreeMap<(u8, PartyIndex), Vec<u8>>,
    expected: Vec<(PublicKey, SignItem)>,
    signatures: BTreeMap<usize, Signature>,
    gives_share: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Finished,
    Failed,
}

impl fmt::Debug for SigningSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (me, round, state) = (self.me, self.round, self.state);
        write!(f, "SigningSession {{ me: {me}, round: {round}, items: {}, {state:?} }}", self.expected.len())
    }
}

impl SigningSession {
    /// Starts this member's part, with fresh randomness in `seed`. CPU: about 1.5 ms an ECDSA item and peer, 0.2 ms a
    /// taproot item.
    ///
    /// # Errors
    /// Fails for parameters that cannot make a session, all of them the caller's own.
    pub fn start(
        share: Arc<KeyShare>,
        params: &SignParams,
        seed: &[u8; 32],
    ) -> Result<(Self, Vec<Outgoing>), SignError> {
        Self::begin(share, params, seed, ChosenR::Low)
    }

    /// The same in three rounds always, for signatures that nobody will pay for.
    pub(crate) fn start_any_r(
        share: Arc<KeyShare>,
        params: &SignParams,
        seed: &[u8; 32],
    ) -> Result<(Self, Vec<Outgoing>), SignError> {
        Self::begin(share, params, seed, ChosenR::Any)
    }

    fn begin(
        share: Arc<KeyShare>,
        params: &SignParams,
        seed: &[u8; 32],
        chosen: ChosenR,
    ) -> Result<(Self, Vec<Outgoing>), SignError> {
        check_params(&share, params)?;
        let me = share.me();
        let peers: BTreeSet<PartyIndex> = params.signers.iter().copied().filter(|party| *party != me).collect();
        let binding = binding(&share, params);
        let mut tree = KeyTree::new(share.public());
        let mut of_scheme: BTreeMap<Scheme, Vec<Task>> = BTreeMap::new();
        let mut expected = Vec::with_capacity(params.items.len());
        for (position, item) in params.items.iter().enumerate() {
            let child = tree.child(&item.key)?;
            expected.push((child.public_key, *item));
            let scheme = Scheme::of(item.key.chain.address_type);
            of_scheme.entry(scheme).or_default().push(Task { position, child, message: item.message });
        }
        let mut parts = Vec::new();
        for (scheme, tasks) in of_scheme {
            let batch: Box<dyn Batch> = match scheme {
                Scheme::Ecdsa => Box::new(ecdsa::EcdsaBatch::new(&share, &peers, tasks, &binding, chosen)?),
                Scheme::Schnorr => Box::new(schnorr::SchnorrBatch::new(&share, &peers, tasks, seed)?),
            };
            parts.push(Part { scheme, batch });
        }
        let mut session = Self {
            me,
            peers,
            binding,
            round: 1,
            parts,
            inbox: BTreeMap::new(),
            expected,
            signatures: BTreeMap::new(),
            gives_share: false,
            state: State::Running,
        };
        let mut first = Vec::new();
        for part in &mut session.parts {
            first.push((part.scheme, part.batch.start()?));
        }
        let out = session.outgoing(1, first);
        Ok((session, out))
    }

    /// Takes a message from a peer whose envelope was checked, and returns what to send. Messages of a later round
    /// wait until their round comes.
    ///
    /// # Errors
    /// See [`SignError::verdict`]: a dropped message leaves the session as it was; every other error ends it.
    pub fn receive(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, SignError> {
        self.gives_share = false;
        let result = self.accept(from, body).and_then(|()| self.advance());
        if result.as_ref().is_err_and(|error| error.verdict() != Verdict::Dropped) {
            self.state = State::Failed;
            self.parts.clear();
            self.inbox.clear();
        }
        result
    }

    /// The signatures in the order of the items, once all are made.
    #[must_use]
    pub fn finished(&self) -> Option<Vec<Signature>> {
        (self.state == State::Finished).then(|| self.signatures.values().copied().collect())
    }

    /// Whether what the last message gave to send carries this member's part of a signature. Nothing before that commits
    /// it to one: this is the moment for a last look.
    #[must_use]
    pub fn gives_share(&self) -> bool {
        self.gives_share
    }

    /// The peers whose message of the present round has not come.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<PartyIndex> {
        if self.state != State::Running {
            return Vec::new();
        }
        self.peers.iter().copied().filter(|peer| !self.inbox.contains_key(&(self.round, *peer))).collect()
    }

    fn accept(&mut self, from: PartyIndex, body: &[u8]) -> Result<(), SignError> {
        if !self.peers.contains(&from) {
            return Err(SignError::Stranger { from });
        }
        let Some((&round, rest)) = body.split_first() else {
            return Err(SignError::Malformed { culprit: from });
        };
        if self.state != State::Running || round < self.round {
            return Err(SignError::Late { from });
        }
        let Some((binding, payload)) = rest.split_at_checked(BINDING_BYTES) else {
            return Err(SignError::Malformed { culprit: from });
        };
        if binding != self.binding {
            return Err(SignError::OtherSession { from });
        }
        // Nobody is further than one round ahead: a member's message answers those of all others.
        if round > LAST_ROUND || round > self.round + 1 {
            return Err(SignError::Malformed { culprit: from });
        }
        if self.inbox.contains_key(&(round, from)) {
            return Err(SignError::Duplicate { from });
        }
        self.inbox.insert((round, from), payload.to_vec());
        Ok(())
    }

    fn advance(&mut self) -> Result<Vec<Outgoing>, SignError> {
        let mut out = Vec::new();
        while self.state == State::Running && self.waiting_for().is_empty() {
            let mut received: BTreeMap<Scheme, PerPeer> = BTreeMap::new();
            for &peer in &self.peers {
                let payload = self.inbox.remove(&(self.round, peer)).unwrap_or_default();
                let schemes: Vec<Scheme> = self.parts.iter().map(|part| part.scheme).collect();
                let split = split_payload(&schemes, &payload).ok_or(SignError::Malformed { culprit: peer })?;
                for (scheme, message) in split {
                    received.entry(scheme).or_default().insert(peer, message);
                }
            }
            let mut next = Vec::new();
            let mut running = Vec::new();
            for mut part in std::mem::take(&mut self.parts) {
                let messages = received.remove(&part.scheme).unwrap_or_default();
                let step = part.batch.step(&messages)?;
                self.gives_share |= matches!(step, Step::Share(_));
                match step {
                    Step::Send(messages) | Step::Share(messages) => {
                        next.push((part.scheme, messages));
                        running.push(part);
                    }
                    Step::Done(signatures) => self.take_signatures(signatures)?,
                }
            }
            self.parts = running;
            self.round += 1;
            if self.parts.is_empty() {
                self.state = State::Finished;
            } else {
                out.extend(self.outgoing(self.round, next));
            }
        }
        Ok(out)
    }

    /// Verifies with libsecp256k1 what the threshold libraries made, before anyone sees it.
    fn take_signatures(&mut self, signatures: Vec<(usize, Signature)>) -> Result<(), SignError> {
        for (position, signature) in signatures {
            let (key, item) = self.expected.get(position).ok_or(SignError::InvalidResult)?;
            if !is_valid(key, item, &signature) {
                return Err(SignError::InvalidResult);
            }
            self.signatures.insert(position, signature);
        }
        Ok(())
    }

    fn outgoing(&self, round: u8, mut parts: Vec<(Scheme, PerPeer)>) -> Vec<Outgoing> {
        self.peers
            .iter()
            .map(|peer| {
                let mut body = vec![round];
                body.extend_from_slice(&self.binding);
                for (_, messages) in &mut parts {
                    let message = messages.remove(peer).unwrap_or_default();
                    // A message is far below 4 GiB: the number of items is limited.
                    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
                    body.extend_from_slice(&message);
                }
                Outgoing { to: Recipient::One(*peer), body }
            })
            .collect()
    }
}

/// One item of a scheme's batch.
pub(crate) struct Task {
    pub position: usize,
    pub child: crate::keys::Child,
    pub message: [u8; 32],
}

fn is_valid(key: &PublicKey, item: &SignItem, signature: &Signature) -> bool {
    let message = Message::from_digest(item.message);
    match signature {
        Signature::Ecdsa { signature, .. } => SECP256K1.verify_ecdsa(&message, signature, key).is_ok(),
        Signature::Schnorr(signature) => {
            let output = key.x_only_public_key().0.tap_tweak(SECP256K1, None).0.to_x_only_public_key();
            SECP256K1.verify_schnorr(signature, &message, &output).is_ok()
        }
    }
}

/// Checks signatures that another member put together, each against the child key it is for.
///
/// # Errors
/// Fails unless there is exactly one valid signature for each item, of its own scheme.
pub fn verify(share: &KeyShare, items: &[SignItem], signatures: &[Signature]) -> Result<(), SignError> {
    if items.len() != signatures.len() {
        return Err(SignError::InvalidResult);
    }
    let mut tree = KeyTree::new(share.public());
    for (item, signature) in items.iter().zip(signatures) {
        let key = tree.child(&item.key)?.public_key;
        let scheme = if matches!(signature, Signature::Schnorr(_)) { Scheme::Schnorr } else { Scheme::Ecdsa };
        if Scheme::of(item.key.chain.address_type) != scheme || !is_valid(&key, item, signature) {
            return Err(SignError::InvalidResult);
        }
    }
    Ok(())
}

fn split_payload(schemes: &[Scheme], mut payload: &[u8]) -> Option<Vec<(Scheme, Vec<u8>)>> {
    let mut out = Vec::with_capacity(schemes.len());
    for &scheme in schemes {
        let (length, rest) = payload.split_first_chunk::<4>()?;
        let (message, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        out.push((scheme, message.to_vec()));
        payload = rest;
    }
    payload.is_empty().then_some(out)
}

fn check_params(share: &KeyShare, params: &SignParams) -> Result<(), SignError> {
    let roster = &share.public().roster;
    let unique: BTreeSet<PartyIndex> = params.signers.iter().copied().collect();
    if let Some(stranger) = unique.iter().find(|party| !roster.contains(**party)) {
        return Err(SignError::UnknownSigner(*stranger));
    }
    if !unique.contains(&share.me()) {
        return Err(SignError::NotASigner);
    }
    let expected = usize::from(roster.threshold());
    if unique.len() != expected || params.signers.len() != expected {
        return Err(SignError::SignerCount { expected, got: params.signers.len() });
    }
    let ecdsa = params.items.iter().filter(|item| Scheme::of(item.key.chain.address_type) == Scheme::Ecdsa).count();
    if params.items.is_empty() || params.items.len() > MAX_ITEMS || ecdsa > MAX_ECDSA_ITEMS {
        return Err(SignError::ItemCount { items: params.items.len(), ecdsa });
    }
    match params.banned.iter().find(|party| ecdsa > 0 && unique.contains(party)) {
        Some(banned) => Err(SignError::Banned(*banned)),
        None => Ok(()),
    }
}

/// What every message carries: a hash of all that the signers must see alike.
fn binding(share: &KeyShare, params: &SignParams) -> [u8; BINDING_BYTES] {
    let signers: Vec<u8> =
        params.signers.iter().map(|party| party.get()).collect::<BTreeSet<u8>>().into_iter().collect();
    let items: Vec<u8> = params
        .items
        .iter()
        .flat_map(|item| {
            let mut bytes = vec![item.key.chain.address_type.purpose() as u8, item.key.chain.branch.number() as u8];
            bytes.extend_from_slice(&item.key.index.to_be_bytes());
            bytes.extend_from_slice(&item.message);
            bytes
        })
        .collect();
    tagged_hash("keyless/signing/v1", &[&share.public().statement(), params.session.as_bytes(), &signers, &items])
}
