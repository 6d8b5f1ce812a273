//! The Schnorr half of key generation: FROST's, with a chain code made by commitment and opening.
//!
//! FROST's own checks name the dealer of a bad proof or share. The library tweaks the group key once, as BIP341 asks
//! of keys without scripts; the wallet's tree starts from the tweaked key.

use std::collections::BTreeMap;
use std::sync::Arc;

use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::Identifier;
use frost_secp256k1_tr::keys::SigningShare;
use frost_secp256k1_tr::keys::dkg::{part1, part2, part3, round1, round2};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::wire::{Opening, Private2, Round1, Round3};
use super::{DkgError, own};
use crate::ids::{PartyIndex, tagged_hash};
use crate::keys::{FrostPackage, GroupKey, frost_identifier};
use crate::roster::Roster;

/// After dealing: this member's polynomial and its part of the chain code.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Dealt {
    roster: Roster,
    me: PartyIndex,
    secret: round1::SecretPackage,
    opening: Opening,
}

/// After all proofs are checked: the shares for the others are out.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Shared {
    roster: Roster,
    me: PartyIndex,
    secret: round2::SecretPackage,
    packages: BTreeMap<Identifier, round1::Package>,
    commitments: BTreeMap<PartyIndex, [u8; 32]>,
    opening: Opening,
}

/// After the others' shares are in.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Received {
    shared: Shared,
    shares: BTreeMap<Identifier, round2::Package>,
}

/// The result.
pub(super) struct Made {
    pub package: Arc<FrostPackage>,
    pub group: GroupKey,
    pub shares: Vec<secp256k1::PublicKey>,
}

fn identifier(party: PartyIndex) -> Result<Identifier, DkgError> {
    frost_identifier(party).ok_or_else(|| own("a party index"))
}

fn chain_commitment(party: PartyIndex, opening: &Opening) -> [u8; 32] {
    tagged_hash("keyless/dkg/schnorr-chain/v1", &[&[party.get()], &opening.value, &opening.salt])
}

/// Draws the polynomial and the part of the chain code.
pub(super) fn deal(roster: &Roster, me: PartyIndex, seed: &[u8; 32]) -> Result<(Dealt, Vec<u8>, [u8; 32]), DkgError> {
    let mut rng = ChaCha20Rng::from_seed(tagged_hash("keyless/dkg/frost", &[seed]));
    let (count, threshold) = (u16::from(roster.count()), u16::from(roster.threshold()));
    let (secret, package) =
        part1(identifier(me)?, count, threshold, &mut rng).map_err(|error| own(&error.to_string()))?;
    let mut opening = Opening { value: [0; 32], salt: [0; 32] };
    rng.fill_bytes(&mut opening.value);
    rng.fill_bytes(&mut opening.salt);
    let commitment = chain_commitment(me, &opening);
    let package = package.serialize().map_err(|error| own(&error.to_string()))?;
    Ok((Dealt { roster: roster.clone(), me, secret, opening }, package, commitment))
}

impl Dealt {
    /// Checks everyone's proof of knowledge and evaluates the polynomial for them.
    pub fn share(
        self,
        broadcasts: &BTreeMap<PartyIndex, Round1>,
    ) -> Result<(Shared, BTreeMap<PartyIndex, Vec<u8>>), DkgError> {
        let mut packages = BTreeMap::new();
        for (&from, message) in broadcasts {
            let malformed = || DkgError::Malformed { culprit: from };
            let package = round1::Package::deserialize(&message.frost_package).map_err(|_| malformed())?;
            // One encoding only, with exactly t coefficients.
            if package.serialize().ok().as_ref() != Some(&message.frost_package)
                || package.commitment().coefficients().len() != usize::from(self.roster.threshold())
            {
                return Err(malformed());
            }
            packages.insert(identifier(from)?, package);
        }
        let commitments = broadcasts.iter().map(|(from, message)| (*from, message.chain_commitment)).collect();
        let (secret, for_others) = part2(self.secret, &packages).map_err(|error| dkg_error(&self.roster, &error))?;
        let mut shares = BTreeMap::new();
        for to in self.roster.others(self.me) {
            let package = for_others.get(&identifier(to)?).ok_or_else(|| own("a share for each peer"))?;
            shares.insert(to, package.signing_share().serialize());
        }
        let Self { roster, me, opening, .. } = self;
        Ok((Shared { roster, me, secret, packages, commitments, opening }, shares))
    }
}

impl Shared {
    /// Takes the shares of the others, and opens this member's part of the chain code.
    pub fn receive(self, private: &BTreeMap<PartyIndex, Private2>) -> Result<(Received, Opening), DkgError> {
        let mut shares = BTreeMap::new();
        for (&from, message) in private {
            let share =
                SigningShare::deserialize(&message.frost_share).map_err(|_| DkgError::Malformed { culprit: from })?;
            shares.insert(identifier(from)?, round2::Package::new(share));
        }
        let opening = self.opening.clone();
        Ok((Received { shared: self, shares }, opening))
    }
}

impl Received {
    /// Checks the shares against their dealers' commitments, and the openings, and makes the key package.
    pub fn finish(self, broadcasts: &BTreeMap<PartyIndex, Round3>) -> Result<Made, DkgError> {
        let Shared { roster, me, secret, packages, commitments, opening } = self.shared;
        let mut openings = BTreeMap::from([(me, opening)]);
        for (&from, message) in broadcasts {
            if commitments.get(&from) != Some(&chain_commitment(from, &message.schnorr_chain)) {
                let what = "the chain code is not the one committed to".to_owned();
                return Err(DkgError::InvalidShare { culprit: from, what });
            }
            openings.insert(from, message.schnorr_chain.clone());
        }
        let values: Vec<&[u8]> = openings.values().map(|opening| opening.value.as_slice()).collect();
        let chain_code = tagged_hash("keyless/dkg/schnorr-chain-code/v1", &values);
        let (package, public) = part3(&secret, &packages, &self.shares).map_err(|error| dkg_error(&roster, &error))?;
        let key = |bytes: Result<Vec<u8>, frost::Error>| {
            bytes.ok().and_then(|bytes| secp256k1::PublicKey::from_slice(&bytes).ok())
        };
        let public_key = key(public.verifying_key().serialize()).ok_or_else(|| own("the group key is no point"))?;
        let shares = roster
            .indices()
            .map(|party| key(public.verifying_shares().get(&frost_identifier(party)?)?.serialize()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| own("a public share is missing"))?;
        Ok(Made { package: Arc::new(package), group: GroupKey { public_key, chain_code }, shares })
    }
}

fn dkg_error(roster: &Roster, error: &frost::Error) -> DkgError {
    let culprits = error.culprits();
    let named = roster.indices().find(|party| frost_identifier(*party).is_some_and(|id| culprits.contains(&id)));
    match named {
        Some(culprit) => DkgError::InvalidShare { culprit, what: error.to_string() },
        None => DkgError::Unattributed(error.to_string()),
    }
}
