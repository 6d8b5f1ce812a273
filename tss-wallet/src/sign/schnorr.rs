//! The Schnorr part of a session: FROST in two rounds, all items in parallel.
//!
//! Nonces are made for one session, held in a type that is moved into the one call that uses them, and never leave
//! memory. A share is sent together with a hash of the commitments it was made for, so that a member who sends
//! different commitments to different peers makes the session fail instead of making an honest member look guilty.

use std::collections::{BTreeMap, BTreeSet};

use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use zeroize::Zeroizing;

use super::nonces::{COMMITMENT_BYTES, Commitment, commitment_bytes};
use super::{Batch, PerPeer, SignError, Signature, Step, Task};
use crate::ids::{PartyIndex, tagged_hash};
use crate::keys::{KeyShare, Scheme, frost_identifier};

pub(super) const SHARE_BYTES: usize = 32;

/// Nonces of one item. Neither `Clone` nor serializable: whoever signs with them takes them away.
struct Nonces(frost::round1::SigningNonces);

/// One signature to make, with the child key's packages.
pub(super) struct Item {
    pub position: usize,
    pub message: [u8; 32],
    pub key: KeyPackage,
    pub public: PublicKeyPackage,
}

enum State {
    New,
    Committed(Vec<(Nonces, [u8; COMMITMENT_BYTES])>),
    Signed { packages: Vec<frost::SigningPackage>, own: Vec<frost::round2::SignatureShare>, view: [u8; 32] },
    Over,
}

/// All taproot items of one session.
pub(super) struct SchnorrBatch {
    me: PartyIndex,
    peers: BTreeSet<PartyIndex>,
    items: Vec<Item>,
    rng: ChaCha20Rng,
    state: State,
}

impl SchnorrBatch {
    pub fn new(
        share: &KeyShare,
        peers: &BTreeSet<PartyIndex>,
        tasks: Vec<Task>,
        seed: &[u8; 32],
    ) -> Result<Self, SignError> {
        let items = tasks.into_iter().map(|task| child(share, peers, task)).collect::<Result<Vec<_>, _>>()?;
        let rng = ChaCha20Rng::from_seed(tagged_hash("keyless/signing/frost-nonces", &[seed]));
        Ok(Self { me: share.me(), peers: peers.clone(), items, rng, state: State::New })
    }

    fn commit(&mut self) -> Result<PerPeer, SignError> {
        let mut kept = Vec::with_capacity(self.items.len());
        let mut message = Vec::with_capacity(self.items.len() * COMMITMENT_BYTES);
        for item in &self.items {
            let (nonces, commitments) = frost::round1::commit(item.key.signing_share(), &mut self.rng);
            let bytes = commitment_bytes(&commitments).ok_or_else(|| own("nonce commitments"))?;
            message.extend_from_slice(&bytes);
            kept.push((Nonces(nonces), bytes));
        }
        self.state = State::Committed(kept);
        Ok(self.peers.iter().map(|peer| (*peer, message.clone())).collect())
    }

    fn sign(&mut self, kept: Vec<(Nonces, [u8; COMMITMENT_BYTES])>, received: &PerPeer) -> Result<Step, SignError> {
        let mut all: BTreeMap<PartyIndex, Vec<[u8; COMMITMENT_BYTES]>> = BTreeMap::new();
        for (&from, bytes) in received {
            all.insert(from, split(from, bytes, self.items.len())?);
        }
        all.insert(self.me, kept.iter().map(|(_, bytes)| *bytes).collect());
        let view = view_of(&all);
        let mut message = view.to_vec();
        let (mut packages, mut own_shares) = (Vec::new(), Vec::new());
        for (position, (item, (Nonces(nonces), _))) in self.items.iter().zip(kept).enumerate() {
            let mut commitments = BTreeMap::new();
            for (&party, list) in &all {
                let malformed = SignError::Malformed { culprit: party };
                let parsed = list.get(position).and_then(Commitment::parse).ok_or(malformed)?;
                commitments.insert(identifier(party)?, parsed.points);
            }
            let package = frost::SigningPackage::new(commitments, &item.message);
            let share = frost::round2::sign_with_tweak(&package, &nonces, &item.key, None)
                .map_err(|error| SignError::Unattributed(error.to_string()))?;
            message.extend_from_slice(&share.serialize());
            packages.push(package);
            own_shares.push(share);
        }
        self.state = State::Signed { packages, own: own_shares, view };
        Ok(Step::Share(self.peers.iter().map(|peer| (*peer, message.clone())).collect()))
    }

    fn aggregate(
        &mut self,
        packages: Vec<frost::SigningPackage>,
        own_shares: Vec<frost::round2::SignatureShare>,
        view: [u8; 32],
        received: &PerPeer,
    ) -> Result<Step, SignError> {
        let mut all: BTreeMap<PartyIndex, Vec<[u8; SHARE_BYTES]>> = BTreeMap::new();
        for (&from, bytes) in received {
            let (theirs, shares) = bytes.split_first_chunk::<32>().ok_or(SignError::Malformed { culprit: from })?;
            if *theirs != view {
                return Err(SignError::Equivocation { with: from });
            }
            all.insert(from, split(from, shares, self.items.len())?);
        }
        let mut signatures = Vec::with_capacity(self.items.len());
        for (position, ((item, package), own_share)) in self.items.iter().zip(packages).zip(own_shares).enumerate() {
            let mut shares = BTreeMap::from([(identifier(self.me)?, own_share)]);
            for (&from, list) in &all {
                let malformed = || SignError::Malformed { culprit: from };
                let bytes = list.get(position).ok_or_else(malformed)?;
                let share = frost::round2::SignatureShare::deserialize(bytes).map_err(|_| malformed())?;
                shares.insert(identifier(from)?, share);
            }
            let signature = frost::aggregate_with_tweak(&package, &shares, &item.public, None)
                .map_err(|error| self.blame(&error))?;
            let bytes = signature.serialize().map_err(|_| SignError::InvalidResult)?;
            let signature = secp256k1::schnorr::Signature::from_slice(&bytes).map_err(|_| SignError::InvalidResult)?;
            signatures.push((item.position, Signature::Schnorr(signature)));
        }
        Ok(Step::Done(signatures))
    }

    fn blame(&self, error: &frost::Error) -> SignError {
        let culprits = error.culprits();
        let named = self.peers.iter().find(|peer| frost_identifier(**peer).is_some_and(|id| culprits.contains(&id)));
        match named {
            Some(&culprit) => SignError::InvalidShare { culprit, what: error.to_string() },
            None => SignError::Unattributed(error.to_string()),
        }
    }
}

impl Batch for SchnorrBatch {
    fn start(&mut self) -> Result<PerPeer, SignError> {
        self.commit()
    }

    fn step(&mut self, received: &PerPeer) -> Result<Step, SignError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Committed(kept) => self.sign(kept, received),
            State::Signed { packages, own, view } => self.aggregate(packages, own, view, received),
            State::New | State::Over => Err(own("a round out of order")),
        }
    }
}

pub(super) fn own(what: &str) -> SignError {
    SignError::OwnState(what.to_owned())
}

pub(super) fn identifier(party: PartyIndex) -> Result<frost::Identifier, SignError> {
    frost_identifier(party).ok_or_else(|| own("a party index"))
}

/// The child's key packages: the tweak added to share, public shares and group key. The taproot tweak comes on top
/// of it when signing.
pub(super) fn child(share: &KeyShare, peers: &BTreeSet<PartyIndex>, task: Task) -> Result<Item, SignError> {
    let unusable = || own("a child key cannot be made");
    let tweak = Scalar::from(task.child.tweak);
    let parent = Zeroizing::new(share.frost().signing_share().serialize());
    let mut parent = SecretKey::from_slice(&parent).map_err(|_| unusable())?;
    let mut secret = parent.add_tweak(&tweak).map_err(|_| unusable())?;
    let bytes = Zeroizing::new(secret.secret_bytes());
    parent.non_secure_erase();
    secret.non_secure_erase();
    let signing_share = SigningShare::deserialize(bytes.as_slice()).map_err(|_| unusable())?;
    let group = frost::VerifyingKey::deserialize(&task.child.public_key.serialize()).map_err(|_| unusable())?;
    let mut verifying = BTreeMap::new();
    for &party in peers.iter().chain([&share.me()]) {
        let public: &PublicKey = share.public().share_of(Scheme::Schnorr, party).ok_or_else(unusable)?;
        let moved = public.add_exp_tweak(SECP256K1, &tweak).map_err(|_| unusable())?;
        let moved = VerifyingShare::deserialize(&moved.serialize()).map_err(|_| unusable())?;
        verifying.insert(identifier(party)?, moved);
    }
    let own_id = identifier(share.me())?;
    let own_verifying = *verifying.get(&own_id).ok_or_else(unusable)?;
    let threshold = u16::from(share.public().roster.threshold());
    Ok(Item {
        position: task.position,
        message: task.message,
        key: KeyPackage::new(own_id, signing_share, own_verifying, group, threshold),
        public: PublicKeyPackage::new(verifying, group, Some(threshold)),
    })
}

/// A hash of all commitments of a session, as one signer saw them.
pub(super) fn view_of(all: &BTreeMap<PartyIndex, Vec<[u8; COMMITMENT_BYTES]>>) -> [u8; 32] {
    let flat: Vec<Vec<u8>> = all.iter().map(|(party, list)| [&[party.get()][..], &list.concat()].concat()).collect();
    let parts: Vec<&[u8]> = flat.iter().map(Vec::as_slice).collect();
    tagged_hash("keyless/signing/frost-view", &parts)
}

pub(super) fn split<const N: usize>(
    culprit: PartyIndex,
    bytes: &[u8],
    count: usize,
) -> Result<Vec<[u8; N]>, SignError> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if chunks.len() == count && rest.is_empty() { Ok(chunks.to_vec()) } else { Err(SignError::Malformed { culprit }) }
}
