//! The messages of key generation, and the box that those of every ceremony wait in.
//!
//! A body is one byte of round, one of kind, and a postcard message that must be consumed to its last byte. At most one
//! message of each kind and round is kept for each member, so a peer cannot make the box grow.

use std::collections::{BTreeMap, BTreeSet};

use dkls23_secp256k1::protocols::dkg::{
    BroadcastDerivationPhase3to4, TransmitInitMulPhase3to4, TransmitInitZeroSharePhase3to4,
};
use dkls23_secp256k1::utilities::proofs::DLogProof;
use k256::Secp256k1;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::DkgError;
use crate::ids::PartyIndex;

/// The largest message of a key generation: the set-up of oblivious transfer with one peer is about 130 KB.
pub(super) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Broadcast,
    Private,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Round1 {
    pub params_hash: [u8; 32],
    pub frost_package: Vec<u8>,
    pub chain_commitment: [u8; 32],
    pub points_commitment: [u8; 32],
}

#[derive(Serialize, Deserialize)]
pub(super) struct Round2 {
    pub proof_commitment: [u8; 32],
    pub chain_commitment: [u8; 32],
}

#[derive(Serialize, Deserialize)]
pub(super) struct Private2 {
    pub frost_share: Vec<u8>,
    pub zero_commitment: [u8; 32],
}

/// A value and the salt of its commitment.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Opening {
    pub value: [u8; 32],
    pub salt: [u8; 32],
}

#[derive(Serialize, Deserialize)]
pub(super) struct EcdsaReveal {
    pub proof: DLogProof<Secp256k1>,
    pub chain: BroadcastDerivationPhase3to4,
    pub points: Vec<k256::PublicKey>,
    pub points_salt: [u8; 32],
}

#[derive(Serialize, Deserialize)]
pub(super) struct Round3 {
    pub ecdsa: EcdsaReveal,
    pub schnorr_chain: Opening,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Private3 {
    pub zero: TransmitInitZeroSharePhase3to4,
    pub mul: TransmitInitMulPhase3to4<Secp256k1>,
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, DkgError> {
    postcard::to_allocvec(message).map_err(|error| DkgError::Own(error.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(culprit: PartyIndex, bytes: &[u8]) -> Result<T, DkgError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(DkgError::Malformed { culprit }),
    }
}

pub(crate) fn frame(round: u8, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + 2);
    body.push(round);
    body.push(match kind {
        Kind::Broadcast => 0,
        Kind::Private => 1,
    });
    body.extend_from_slice(payload);
    body
}

/// Messages that have come and not been used. They may hold shares, and are erased when dropped.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Inbox {
    peers: BTreeSet<PartyIndex>,
    /// What each peer sends in a round.
    kinds: fn(u8) -> &'static [Kind],
    messages: BTreeMap<(u8, Kind, PartyIndex), Zeroizing<Vec<u8>>>,
}

impl Inbox {
    pub fn new(peers: BTreeSet<PartyIndex>, kinds: fn(u8) -> &'static [Kind]) -> Self {
        Self { peers, kinds, messages: BTreeMap::new() }
    }

    pub fn accept(&mut self, present: u8, last: u8, from: PartyIndex, body: &[u8]) -> Result<(), DkgError> {
        if !self.peers.contains(&from) {
            return Err(DkgError::Stranger { from });
        }
        let malformed = DkgError::Malformed { culprit: from };
        let ([round, kind], payload) = body.split_first_chunk::<2>().ok_or_else(|| malformed.clone())?;
        let kind = match kind {
            0 => Kind::Broadcast,
            1 => Kind::Private,
            _ => return Err(malformed),
        };
        if *round < present {
            return Err(DkgError::Late { from });
        }
        if *round > last || payload.len() > MAX_MESSAGE_BYTES || !(self.kinds)(*round).contains(&kind) {
            return Err(malformed);
        }
        if self.messages.contains_key(&(*round, kind, from)) {
            return Err(DkgError::Duplicate { from });
        }
        self.messages.insert((*round, kind, from), Zeroizing::new(payload.to_vec()));
        Ok(())
    }

    pub fn missing(&self, round: u8, kinds: &[Kind]) -> Vec<PartyIndex> {
        let has_all = |peer: &PartyIndex| kinds.iter().all(|kind| self.messages.contains_key(&(round, *kind, *peer)));
        self.peers.iter().copied().filter(|peer| !has_all(peer)).collect()
    }

    pub fn take(&mut self, round: u8, kind: Kind) -> BTreeMap<PartyIndex, Zeroizing<Vec<u8>>> {
        let peers = &self.peers;
        let messages = &mut self.messages;
        peers.iter().filter_map(|peer| Some((*peer, messages.remove(&(round, kind, *peer))?))).collect()
    }
}
