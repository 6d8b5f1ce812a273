//! The ECDSA part of a session: DKLs23, phases 1 to 4, all items in parallel.
//!
//! Core signs again until R is low, so that a signature takes 71 bytes at most; so do we, for a quorum's payments to cost
//! and look the same. R is known before any share of a signature leaves: items with a high R (every second) run phases 1
//! to 3 anew, with fresh nonces, and shares are sent once all are low. Each message of such a choice carries a hash of
//! the points that its sender saw, so that one who shows different points to different peers frames nobody.
//!
//! The long-lived state of a pair is shared by all child keys; a child differs in share, public key and chain code,
//! which are put into one working copy of the party before each call. What the library keeps between phases is
//! consumed by the next phase and erased on drop.

use std::collections::{BTreeMap, BTreeSet};

use dkls23_secp256k1::protocols::derivation::DerivData;
use dkls23_secp256k1::protocols::signing::{
    Broadcast3to4, KeepPhase1to2, KeepPhase2to3, SignData, TransmitPhase1to2, TransmitPhase2to3, UniqueKeep1to2,
    UniqueKeep2to3,
};
use dkls23_secp256k1::protocols::{Abort, AbortKind, AbortReason, PartiesMessage, PartyIndex as DklsIndex};
use k256::{AffinePoint, Scalar, Secp256k1};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Batch, PerPeer, SignError, Signature, Step, Task};
use crate::ids::{PartyIndex, tagged_hash};
use crate::keys::{DklsParty, KeyShare, scalar_from_bytes};

/// How often an item is begun anew: a high R each time is as likely as finding a key.
const MAX_TRIES: u8 = 60;
/// Rounds until all items have a low R, at most.
pub(super) const MAX_ROUNDS: u8 = 3 + 2 * MAX_TRIES;
const VIEW_BYTES: usize = 32;

/// Which R will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChosenR {
    Low,
    Any,
}

struct Item {
    position: usize,
    data: SignData,
    derived: DerivData<Secp256k1>,
    /// R and this member's share, once R is low.
    ready: Option<(String, Broadcast3to4<Secp256k1>)>,
}

type Kept1 = (UniqueKeep1to2<Secp256k1>, BTreeMap<DklsIndex, KeepPhase1to2<Secp256k1>>);
type Kept2 = (UniqueKeep2to3<Secp256k1>, BTreeMap<DklsIndex, KeepPhase2to3<Secp256k1>>);

/// What the points of a choice hash to.
type View = [u8; VIEW_BYTES];

enum State {
    New,
    /// The first time, or for items whose R was high: then their messages say which points they saw.
    Phase1(Vec<Kept1>, Option<View>),
    Phase2(Vec<Kept2>),
    Phase3(View),
    Over,
}

/// All ECDSA items of one session.
pub(super) struct EcdsaBatch {
    me: DklsIndex,
    peers: BTreeSet<PartyIndex>,
    party: Box<DklsParty>,
    binding: [u8; 32],
    chosen: ChosenR,
    items: Vec<Item>,
    /// Positions in `items` of those whose R is not low yet.
    open: Vec<usize>,
    tries: u8,
    state: State,
}

fn dkls_index(party: PartyIndex) -> Result<DklsIndex, SignError> {
    DklsIndex::new(party.get()).map_err(|error| SignError::OwnState(error.to_string()))
}

fn ours(index: DklsIndex) -> Option<PartyIndex> {
    PartyIndex::new(index.as_u8()).ok()
}

impl EcdsaBatch {
    pub fn new(
        share: &KeyShare,
        peers: &BTreeSet<PartyIndex>,
        tasks: Vec<Task>,
        binding: &[u8; 32],
        chosen: ChosenR,
    ) -> Result<Self, SignError> {
        let party = Box::new(share.dkls().clone());
        let counterparties = peers.iter().copied().map(dkls_index).collect::<Result<Vec<_>, _>>()?;
        let items = tasks
            .into_iter()
            .map(|task| {
                let data = SignData {
                    sign_id: sign_id(binding, task.position, 0),
                    counterparties: counterparties.clone(),
                    message_hash: task.message,
                };
                let derived = derive(&party, &task)?;
                Ok(Item { position: task.position, data, derived, ready: None })
            })
            .collect::<Result<Vec<_>, SignError>>()?;
        Ok(Self {
            me: dkls_index(share.me())?,
            peers: peers.clone(),
            party,
            binding: *binding,
            chosen,
            open: (0..items.len()).collect(),
            items,
            tries: 0,
            state: State::New,
        })
    }

    /// Runs a phase for an item with the working copy turned into the item's child key.
    fn with_child<T>(
        party: &mut DklsParty,
        item: &Item,
        phase: impl FnOnce(&DklsParty, &SignData) -> Result<T, Abort>,
    ) -> Result<T, SignError> {
        party.poly_point = item.derived.poly_point;
        party.pk = item.derived.pk;
        party.derivation_data = item.derived.clone();
        phase(party, &item.data).map_err(|abort| sign_error(&abort))
    }

    fn phase1(&mut self, view: Option<View>) -> Result<PerPeer, SignError> {
        let mut kept = Vec::with_capacity(self.open.len());
        let mut sent: BTreeMap<PartyIndex, Vec<TransmitPhase1to2>> = BTreeMap::new();
        for item in self.open.iter().filter_map(|position| self.items.get(*position)) {
            let (unique, keep, transmit) = Self::with_child(&mut self.party, item, DklsParty::sign_phase1)?;
            kept.push((unique, keep));
            for message in transmit {
                let to = ours(message.parties.receiver).ok_or(SignError::InvalidResult)?;
                sent.entry(to).or_default().push(message);
            }
        }
        self.state = State::Phase1(kept, view);
        encode_all(&sent)
    }

    fn phase2(&mut self, kept: Vec<Kept1>, received: &PerPeer) -> Result<Step, SignError> {
        let by_item = self.by_item::<TransmitPhase1to2>(received, |message| &message.parties)?;
        let mut next = Vec::with_capacity(kept.len());
        let mut sent: BTreeMap<PartyIndex, Vec<TransmitPhase2to3<Secp256k1>>> = BTreeMap::new();
        let open = self.open.iter().filter_map(|position| self.items.get(*position));
        for ((item, (unique, keep)), messages) in open.zip(kept).zip(by_item) {
            let (unique, keep, transmit) = Self::with_child(&mut self.party, item, |party, data| {
                party.sign_phase2(data, unique, keep, &messages)
            })?;
            next.push((unique, keep));
            for message in transmit {
                let to = ours(message.parties.receiver).ok_or(SignError::InvalidResult)?;
                sent.entry(to).or_default().push(message);
            }
        }
        self.state = State::Phase2(next);
        Ok(Step::Send(encode_all(&sent)?))
    }

    fn phase3(&mut self, kept: Vec<Kept2>, received: &PerPeer) -> Result<Step, SignError> {
        let by_item = self.by_item::<TransmitPhase2to3<Secp256k1>>(received, |message| &message.parties)?;
        let mut points = Vec::with_capacity(kept.len());
        let mut high = Vec::new();
        for ((position, (unique, keep)), messages) in std::mem::take(&mut self.open).into_iter().zip(kept).zip(by_item)
        {
            let Some(item) = self.items.get_mut(position) else { continue };
            for message in &messages {
                refuse_identity(message)?;
            }
            let (r, broadcast) = Self::with_child(&mut self.party, item, |party, data| {
                party.sign_phase3(data, unique, keep, &messages)
            })?;
            points.push(r.clone());
            if self.chosen == ChosenR::Any || is_low(&r) {
                item.ready = Some((r, broadcast));
            } else {
                high.push(position);
            }
        }
        let points: Vec<&[u8]> = points.iter().map(String::as_bytes).collect();
        let view = tagged_hash("keyless/signing/ecdsa-view", &points);
        let low = high.is_empty();
        let messages = if low { self.shares(view)? } else { self.again(high, view)? };
        let with_view = |message: Vec<u8>| [view.as_slice(), &message].concat();
        let messages = messages.into_iter().map(|(peer, message)| (peer, with_view(message))).collect();
        Ok(if low { Step::Share(messages) } else { Step::Send(messages) })
    }

    /// Every R is low: this member's shares of all items.
    fn shares(&mut self, view: View) -> Result<PerPeer, SignError> {
        let broadcasts: Vec<&Broadcast3to4<Secp256k1>> =
            self.items.iter().filter_map(|item| Some(&item.ready.as_ref()?.1)).collect();
        let message = encode(&broadcasts)?;
        self.state = State::Phase3(view);
        Ok(self.peers.iter().map(|peer| (*peer, message.clone())).collect())
    }

    /// New nonces for items whose R is high.
    fn again(&mut self, high: Vec<usize>, view: View) -> Result<PerPeer, SignError> {
        self.tries += 1;
        if self.tries > MAX_TRIES {
            return Err(SignError::Unattributed("no low R was found".to_owned()));
        }
        for position in &high {
            if let Some(item) = self.items.get_mut(*position) {
                item.data.sign_id = sign_id(&self.binding, item.position, self.tries);
            }
        }
        self.open = high;
        self.phase1(Some(view))
    }

    fn phase4(&mut self, received: &PerPeer) -> Result<Step, SignError> {
        let mut all: Vec<Vec<Broadcast3to4<Secp256k1>>> = vec![Vec::new(); self.items.len()];
        for (&from, bytes) in received {
            let messages: Vec<Broadcast3to4<Secp256k1>> = decode(from, bytes)?;
            if messages.len() != self.items.len() {
                return Err(SignError::Malformed { culprit: from });
            }
            all.iter_mut().zip(messages).for_each(|(list, message)| list.push(message));
        }
        let mut signatures = Vec::with_capacity(self.items.len());
        for (item, mut messages) in self.items.iter_mut().zip(all) {
            let (r, broadcast) = item.ready.take().ok_or(SignError::InvalidResult)?;
            messages.push(broadcast);
            let (s, recovery_id) =
                Self::with_child(&mut self.party, item, |party, data| party.sign_phase4(data, &r, &messages, true))?;
            let signature = format!("{r}{s}");
            let compact =
                <[u8; 64] as bitcoin::hex::FromHex>::from_hex(&signature).map_err(|_| SignError::InvalidResult)?;
            let signature =
                secp256k1::ecdsa::Signature::from_compact(&compact).map_err(|_| SignError::InvalidResult)?;
            signatures.push((item.position, Signature::Ecdsa { signature, recovery_id }));
        }
        Ok(Step::Done(signatures))
    }

    /// Decodes one message per open item from each peer, and turns them into one list per item.
    fn by_item<T: DeserializeOwned>(
        &self,
        received: &PerPeer,
        parties: impl Fn(&T) -> &PartiesMessage,
    ) -> Result<Vec<Vec<T>>, SignError> {
        let mut all: Vec<Vec<T>> = self.open.iter().map(|_| Vec::with_capacity(received.len())).collect();
        for (&from, bytes) in received {
            let messages: Vec<T> = decode(from, bytes)?;
            let routed = |message: &T| {
                let PartiesMessage { sender, receiver } = parties(message);
                sender.as_u8() == from.get() && *receiver == self.me
            };
            if messages.len() != self.open.len() || !messages.iter().all(routed) {
                return Err(SignError::Malformed { culprit: from });
            }
            all.iter_mut().zip(messages).for_each(|(list, message)| list.push(message));
        }
        Ok(all)
    }
}

impl Batch for EcdsaBatch {
    fn start(&mut self) -> Result<PerPeer, SignError> {
        self.phase1(None)
    }

    fn step(&mut self, received: &PerPeer) -> Result<Step, SignError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Phase1(kept, None) => self.phase2(kept, received),
            State::Phase1(kept, Some(view)) => self.phase2(kept, &same_view(received, &view)?),
            State::Phase2(kept) => self.phase3(kept, received),
            State::Phase3(view) => self.phase4(&same_view(received, &view)?),
            State::New | State::Over => Err(SignError::OwnState("a round out of order".to_owned())),
        }
    }
}

/// What nonces and checks of one try are bound to.
fn sign_id(binding: &[u8; 32], position: usize, tries: u8) -> Vec<u8> {
    tagged_hash("keyless/signing/item", &[binding, &position.to_be_bytes(), &[tries]]).to_vec()
}

/// Whether R, in hexadecimal, takes 32 bytes in DER.
fn is_low(r: &str) -> bool {
    r.starts_with(|digit: char| digit.to_digit(16).is_some_and(|digit| digit < 8))
}

/// The messages without the hash that each begins with, which must be this member's own.
fn same_view(received: &PerPeer, view: &View) -> Result<PerPeer, SignError> {
    let rest = received.iter().map(|(&from, bytes)| {
        let (theirs, rest) = bytes.split_first_chunk().ok_or(SignError::Malformed { culprit: from })?;
        if theirs == view { Ok((from, rest.to_vec())) } else { Err(SignError::Equivocation { with: from }) }
    });
    rest.collect()
}

fn derive(party: &DklsParty, task: &Task) -> Result<DerivData<Secp256k1>, SignError> {
    let unusable = || SignError::OwnState("a child key cannot be made".to_owned());
    let tweak: Scalar = scalar_from_bytes(&task.child.tweak.secret_bytes()).ok_or_else(unusable)?;
    let pk = crate::keys::affine(&task.child.public_key).ok_or_else(unusable)?;
    Ok(DerivData {
        depth: task.child.depth,
        child_number: task.child.child_number,
        parent_fingerprint: task.child.parent_fingerprint,
        poly_point: party.poly_point + tweak,
        pk,
        chain_code: task.child.chain_code,
    })
}

fn refuse_identity(message: &TransmitPhase2to3<Secp256k1>) -> Result<(), SignError> {
    let points = [message.instance_point, message.public_share, message.gamma_u, message.gamma_v];
    let identity = points.contains(&AffinePoint::IDENTITY);
    match ours(message.parties.sender) {
        Some(culprit) if identity => Err(SignError::Malformed { culprit }),
        _ => Ok(()),
    }
}

fn sign_error(abort: &Abort) -> SignError {
    let what = abort.description();
    if let AbortKind::BanCounterparty(party) = abort.kind {
        return match ours(party) {
            Some(culprit) => SignError::Ban { culprit, what },
            None => SignError::OwnState(what),
        };
    }
    let named = match &abort.reason {
        AbortReason::CommitmentMismatch { counterparty }
        | AbortReason::TrivialInstancePoint { counterparty }
        | AbortReason::ProofVerificationFailed { counterparty } => ours(*counterparty),
        AbortReason::UnexpectedSender { sender } | AbortReason::DuplicateSender { sender } => ours(*sender),
        AbortReason::MissingMulState { .. } | AbortReason::InvalidLocalState { .. } => {
            return SignError::OwnState(what);
        }
        _ => None,
    };
    match named {
        Some(culprit) => SignError::InvalidShare { culprit, what },
        None => SignError::Unattributed(what),
    }
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, SignError> {
    postcard::to_allocvec(value).map_err(|error| SignError::OwnState(error.to_string()))
}

fn encode_all<T: Serialize>(messages: &BTreeMap<PartyIndex, Vec<T>>) -> Result<PerPeer, SignError> {
    messages.iter().map(|(to, list)| Ok((*to, encode(list)?))).collect()
}

fn decode<T: DeserializeOwned>(culprit: PartyIndex, bytes: &[u8]) -> Result<T, SignError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(SignError::Malformed { culprit }),
    }
}
