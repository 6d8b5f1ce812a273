//! The ECDSA part of a session: DKLs23, phases 1 to 4, all items in parallel.
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

struct Item {
    position: usize,
    data: SignData,
    derived: DerivData<Secp256k1>,
}

type Kept1 = (UniqueKeep1to2<Secp256k1>, BTreeMap<DklsIndex, KeepPhase1to2<Secp256k1>>);
type Kept2 = (UniqueKeep2to3<Secp256k1>, BTreeMap<DklsIndex, KeepPhase2to3<Secp256k1>>);

enum State {
    New,
    Phase1(Vec<Kept1>),
    Phase2(Vec<Kept2>),
    Phase3(Vec<(String, Broadcast3to4<Secp256k1>)>),
    Over,
}

/// All ECDSA items of one session.
pub(super) struct EcdsaBatch {
    me: DklsIndex,
    peers: BTreeSet<PartyIndex>,
    party: Box<DklsParty>,
    items: Vec<Item>,
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
    ) -> Result<Self, SignError> {
        let party = Box::new(share.dkls().clone());
        let counterparties = peers.iter().copied().map(dkls_index).collect::<Result<Vec<_>, _>>()?;
        let items = tasks
            .into_iter()
            .map(|task| {
                let sign_id = tagged_hash("keyless/signing/item", &[binding, &task.position.to_be_bytes()]);
                let data = SignData {
                    sign_id: sign_id.to_vec(),
                    counterparties: counterparties.clone(),
                    message_hash: task.message,
                };
                let derived = derive(&party, &task)?;
                Ok(Item { position: task.position, data, derived })
            })
            .collect::<Result<Vec<_>, SignError>>()?;
        Ok(Self { me: dkls_index(share.me())?, peers: peers.clone(), party, items, state: State::New })
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

    fn phase1(&mut self) -> Result<PerPeer, SignError> {
        let mut kept = Vec::with_capacity(self.items.len());
        let mut sent: BTreeMap<PartyIndex, Vec<TransmitPhase1to2>> = BTreeMap::new();
        for item in &self.items {
            let (unique, keep, transmit) = Self::with_child(&mut self.party, item, DklsParty::sign_phase1)?;
            kept.push((unique, keep));
            for message in transmit {
                let to = ours(message.parties.receiver).ok_or(SignError::InvalidResult)?;
                sent.entry(to).or_default().push(message);
            }
        }
        self.state = State::Phase1(kept);
        encode_all(&sent)
    }

    fn phase2(&mut self, kept: Vec<Kept1>, received: &PerPeer) -> Result<Step, SignError> {
        let by_item = self.by_item::<TransmitPhase1to2>(received, |message| &message.parties)?;
        let mut next = Vec::with_capacity(self.items.len());
        let mut sent: BTreeMap<PartyIndex, Vec<TransmitPhase2to3<Secp256k1>>> = BTreeMap::new();
        for ((item, (unique, keep)), messages) in self.items.iter().zip(kept).zip(by_item) {
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
        let mut next = Vec::with_capacity(self.items.len());
        for ((item, (unique, keep)), messages) in self.items.iter().zip(kept).zip(by_item) {
            for message in &messages {
                refuse_identity(message)?;
            }
            next.push(Self::with_child(&mut self.party, item, |party, data| {
                party.sign_phase3(data, unique, keep, &messages)
            })?);
        }
        let broadcasts: Vec<&Broadcast3to4<Secp256k1>> = next.iter().map(|(_, broadcast)| broadcast).collect();
        let message = encode(&broadcasts)?;
        self.state = State::Phase3(next);
        Ok(Step::Send(self.peers.iter().map(|peer| (*peer, message.clone())).collect()))
    }

    fn phase4(&mut self, own: Vec<(String, Broadcast3to4<Secp256k1>)>, received: &PerPeer) -> Result<Step, SignError> {
        let mut all: Vec<Vec<Broadcast3to4<Secp256k1>>> = vec![Vec::new(); self.items.len()];
        for (&from, bytes) in received {
            let messages: Vec<Broadcast3to4<Secp256k1>> = decode(from, bytes)?;
            if messages.len() != self.items.len() {
                return Err(SignError::Malformed { culprit: from });
            }
            all.iter_mut().zip(messages).for_each(|(list, message)| list.push(message));
        }
        let mut signatures = Vec::with_capacity(self.items.len());
        for ((item, (r, broadcast)), mut messages) in self.items.iter().zip(own).zip(all) {
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

    /// Decodes one message per item from each peer, and turns them into one list per item.
    fn by_item<T: DeserializeOwned>(
        &self,
        received: &PerPeer,
        parties: impl Fn(&T) -> &PartiesMessage,
    ) -> Result<Vec<Vec<T>>, SignError> {
        let mut all: Vec<Vec<T>> = self.items.iter().map(|_| Vec::with_capacity(received.len())).collect();
        for (&from, bytes) in received {
            let messages: Vec<T> = decode(from, bytes)?;
            let routed = |message: &T| {
                let PartiesMessage { sender, receiver } = parties(message);
                sender.as_u8() == from.get() && *receiver == self.me
            };
            if messages.len() != self.items.len() || !messages.iter().all(routed) {
                return Err(SignError::Malformed { culprit: from });
            }
            all.iter_mut().zip(messages).for_each(|(list, message)| list.push(message));
        }
        Ok(all)
    }
}

impl Batch for EcdsaBatch {
    fn start(&mut self) -> Result<PerPeer, SignError> {
        self.phase1()
    }

    fn step(&mut self, received: &PerPeer) -> Result<Step, SignError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Phase1(kept) => self.phase2(kept, received),
            State::Phase2(kept) => self.phase3(kept, received),
            State::Phase3(own) => self.phase4(own, received),
            State::New | State::Over => Err(SignError::OwnState("a round out of order".to_owned())),
        }
    }
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
