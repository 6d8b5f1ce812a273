//! One round of FROST over commitments that the coordinator knew before: a member's answer to a request.
//!
//! The answer holds a share for each item, the hash of what the signers agree on, and the hash of the commitments that
//! the shares were made for: with its sender's envelope it proves a bad share, and no coordinator can frame a member by
//! showing others different commitments.
//! Refuses ECDSA items, and commitments that are not one for each signer and item.

use std::collections::{BTreeMap, BTreeSet};

use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::keys::{PublicKeyPackage, Tweak};

use super::nonces::{Commitment, Nonce};
use super::schnorr::{Item, SHARE_BYTES, child, identifier, own, split, view_of};
use super::{BINDING_BYTES, SCHNORR_SHARE_ROUND, SignError, SignParams, Task, binding, check_params};
use crate::ids::{PartyIndex, tagged_hash};
use crate::keys::{KeyShare, KeyTree, Scheme};

/// Of each signer, one for each item, in the order of the items.
pub type Commitments = BTreeMap<PartyIndex, Vec<Commitment>>;

type Shares = Vec<frost::round2::SignatureShare>;

/// What signers sign, and for which commitments.
pub(super) struct Prepared {
    items: Vec<Item>,
    packages: Vec<frost::SigningPackage>,
    binding: [u8; BINDING_BYTES],
    view: [u8; 32],
}

/// Makes this member's shares. The nonces are gone, whatever comes of it.
///
/// # Errors
/// Fails for parameters and commitments that cannot make a session: the coordinator's, or this member's own fault.
pub fn answer(
    share: &KeyShare,
    params: &SignParams,
    commitments: &Commitments,
    nonces: Vec<Nonce>,
) -> Result<Vec<u8>, SignError> {
    let prepared = Prepared::new(share, params, commitments)?;
    let shares = prepared.sign(nonces)?;
    let mut body = vec![SCHNORR_SHARE_ROUND];
    body.extend_from_slice(&prepared.binding);
    body.extend_from_slice(&prepared.view);
    body.extend(shares.iter().flat_map(|share| share.serialize()));
    Ok(body)
}

/// What nonces of a request are used for: the same for every session and signer of the same messages.
#[must_use]
pub fn nonce_use(params: &SignParams) -> [u8; 32] {
    let messages: Vec<&[u8]> = params.items.iter().map(|item| item.message.as_slice()).collect();
    tagged_hash("keyless/signing/nonce-use", &messages)
}

impl Prepared {
    pub fn new(share: &KeyShare, params: &SignParams, commitments: &Commitments) -> Result<Self, SignError> {
        check_params(share, params)?;
        let signers: BTreeSet<PartyIndex> = params.signers.iter().copied().collect();
        let named: BTreeSet<PartyIndex> = commitments.keys().copied().collect();
        if named != signers || commitments.values().any(|list| list.len() != params.items.len()) {
            return Err(SignError::Commitments);
        }
        let peers: BTreeSet<PartyIndex> = signers.into_iter().filter(|party| *party != share.me()).collect();
        let mut tree = KeyTree::new(share.public());
        let mut items = Vec::with_capacity(params.items.len());
        for (position, item) in params.items.iter().enumerate() {
            if Scheme::of(item.key.chain.address_type) != Scheme::Schnorr {
                return Err(SignError::ItemCount { items: params.items.len(), ecdsa: 1 });
            }
            let task = Task { position, child: tree.child(&item.key)?, message: item.message };
            items.push(child(share, &peers, task)?);
        }
        let mut packages = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            let mut of_item = BTreeMap::new();
            for (&party, list) in commitments {
                of_item.insert(identifier(party)?, list.get(position).ok_or(SignError::Commitments)?.points);
            }
            packages.push(frost::SigningPackage::new(of_item, &item.message));
        }
        let shown = commitments.iter().map(|(party, list)| (*party, list.iter().map(|one| *one.as_bytes()).collect()));
        let view = view_of(&shown.collect());
        Ok(Self { items, packages, binding: binding(share, params), view })
    }

    /// One share for each item. Fails where a nonce is not that of the commitment.
    pub fn sign(&self, nonces: Vec<Nonce>) -> Result<Shares, SignError> {
        if nonces.len() != self.items.len() {
            return Err(SignError::Commitments);
        }
        let each = self.items.iter().zip(&self.packages).zip(nonces);
        each.map(|((item, package), nonce)| {
            frost::round2::sign_with_tweak(package, &nonce.secret, &item.key, None)
                .map_err(|error| SignError::Unattributed(error.to_string()))
        })
        .collect()
    }

    /// Reads another member's answer, unproven. All it says about the session must be what the coordinator told it.
    pub fn read(&self, from: PartyIndex, body: &[u8]) -> Result<Shares, SignError> {
        let malformed = || SignError::Malformed { culprit: from };
        let rest = body.strip_prefix(&[SCHNORR_SHARE_ROUND]).ok_or_else(malformed)?;
        let rest = rest.strip_prefix(&self.binding).ok_or_else(malformed)?;
        let shares = rest.strip_prefix(&self.view).ok_or_else(malformed)?;
        let shares: Vec<[u8; SHARE_BYTES]> = split(from, shares, self.items.len())?;
        let read = shares.iter().map(|bytes| frost::round2::SignatureShare::deserialize(bytes));
        read.collect::<Result<_, _>>().map_err(|_| malformed())
    }

    /// Proves each of a member's shares.
    pub fn prove(&self, from: PartyIndex, shares: &Shares) -> Result<(), SignError> {
        for ((item, package), share) in self.items.iter().zip(&self.packages).zip(shares) {
            let id = identifier(from)?;
            let public: PublicKeyPackage = item.public.clone().tweak::<&[u8]>(None);
            let verifying = public.verifying_shares().get(&id).ok_or_else(|| own("a public share"))?;
            frost_core::verify_signature_share(id, verifying, share, package, public.verifying_key())
                .map_err(|error| SignError::InvalidShare { culprit: from, what: error.to_string() })?;
        }
        Ok(())
    }

    /// The signatures, 64 bytes each. An error names nobody: see [`Self::prove`].
    pub fn aggregate(&self, shares: &BTreeMap<PartyIndex, Shares>) -> Result<Vec<[u8; 64]>, SignError> {
        let mut signatures = Vec::with_capacity(self.items.len());
        for (position, (item, package)) in self.items.iter().zip(&self.packages).enumerate() {
            let mut of_item = BTreeMap::new();
            for (&party, list) in shares {
                of_item.insert(identifier(party)?, *list.get(position).ok_or_else(|| own("a share"))?);
            }
            let made = frost::aggregate_with_tweak(package, &of_item, &item.public, None)
                .map_err(|error| SignError::Unattributed(error.to_string()))?;
            let bytes = made.serialize().map_err(|_| SignError::InvalidResult)?;
            signatures.push(bytes.try_into().map_err(|_| SignError::InvalidResult)?);
        }
        Ok(signatures)
    }
}
