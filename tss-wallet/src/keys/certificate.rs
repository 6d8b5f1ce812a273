//! The certificate of an epoch: every member's signature over the public result of a ceremony.
//!
//! A certificate is complete only with the signatures of all who hold a share: all n after key generation. No address
//! is handed out before.

use std::collections::{BTreeMap, BTreeSet};

use k256::elliptic_curve::group::GroupEncoding;
use k256::{AffinePoint, ProjectivePoint, Scalar};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::{self, SIGNATURE_BYTES, SigningIdentity};
use crate::ids::{PartyIndex, tagged_hash};
use crate::roster::Roster;

const TAG: &str = "keyless/certificate/signature/v1";

/// Why a certificate or the keys under it were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// A member has not signed.
    #[error("member {0} has not signed the certificate")]
    Missing(PartyIndex),
    /// A signature by somebody who is no member.
    #[error("the certificate is signed by {0}, who is not in the roster")]
    Unknown(PartyIndex),
    /// A signature that does not fit.
    #[error("the signature of member {culprit} on the certificate is not valid")]
    BadSignature {
        /// Whose it claims to be.
        culprit: PartyIndex,
    },
    /// Not one public share for each member.
    #[error("{got} public shares for {expected} members")]
    ShareCount {
        /// n
        expected: usize,
        /// what there was
        got: usize,
    },
    /// Fewer members hold a share than sign, or than make a majority.
    #[error("{holders} of {members} members hold a share of this epoch")]
    TooFewHolders {
        /// who hold one
        holders: usize,
        /// n
        members: usize,
    },
    /// The public shares do not belong to one sharing of the group key.
    #[error("the public shares do not make the group key")]
    Inconsistent,
}

/// Signatures over a statement, by party.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    signatures: BTreeMap<PartyIndex, ([u8; 32], [u8; 32])>,
}

impl Certificate {
    /// One member's signature over a statement.
    #[must_use]
    pub fn sign(identity: &SigningIdentity, statement: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
        identity.sign(&tagged_hash(TAG, &[statement]))
    }

    /// Adds a signature after checking it. Adding one's own again changes nothing.
    ///
    /// # Errors
    /// Fails for a party outside the roster and for a signature that does not fit.
    pub fn add(
        &mut self,
        roster: &Roster,
        statement: &[u8; 32],
        party: PartyIndex,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), CertificateError> {
        let member = roster.member(party).ok_or(CertificateError::Unknown(party))?;
        identity::verify(member, &tagged_hash(TAG, &[statement]), signature)
            .map_err(|_| CertificateError::BadSignature { culprit: party })?;
        let mut halves = ([0; 32], [0; 32]);
        halves.0.copy_from_slice(&signature[..32]);
        halves.1.copy_from_slice(&signature[32..]);
        self.signatures.insert(party, halves);
        Ok(())
    }

    /// The signature of a party.
    #[must_use]
    pub fn signature(&self, party: PartyIndex) -> Option<[u8; SIGNATURE_BYTES]> {
        let (first, second) = self.signatures.get(&party)?;
        let mut out = [0; SIGNATURE_BYTES];
        out[..32].copy_from_slice(first);
        out[32..].copy_from_slice(second);
        Some(out)
    }

    /// Whether all n members signed.
    #[must_use]
    pub fn is_complete(&self, roster: &Roster) -> bool {
        roster.indices().all(|party| self.signatures.contains_key(&party))
    }

    /// Checks that exactly the n members signed the statement.
    ///
    /// # Errors
    /// Names the first member whose signature is missing or wrong.
    pub fn verify(&self, roster: &Roster, statement: &[u8; 32]) -> Result<(), CertificateError> {
        self.verify_by(roster, roster.indices(), statement)
    }

    /// Checks that exactly these members signed the statement.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_by(
        &self,
        roster: &Roster,
        signers: impl Iterator<Item = PartyIndex>,
        statement: &[u8; 32],
    ) -> Result<(), CertificateError> {
        let signers: BTreeSet<PartyIndex> = signers.collect();
        if let Some(stranger) = self.signatures.keys().find(|party| !signers.contains(party)) {
            return Err(CertificateError::Unknown(*stranger));
        }
        let message = tagged_hash(TAG, &[statement]);
        for party in signers {
            let member = roster.member(party).ok_or(CertificateError::Unknown(party))?;
            let signature = self.signature(party).ok_or(CertificateError::Missing(party))?;
            identity::verify(member, &message, &signature)
                .map_err(|_| CertificateError::BadSignature { culprit: party })?;
        }
        Ok(())
    }
}

/// A point of the group as k256 0.14 holds it.
pub(crate) fn affine(key: &PublicKey) -> Option<AffinePoint> {
    let bytes = k256::CompressedPoint::try_from(key.serialize().as_slice()).ok()?;
    AffinePoint::from_bytes(&bytes).into()
}

/// [`affine`], for sums and products.
pub(crate) fn point(key: &PublicKey) -> Option<ProjectivePoint> {
    affine(key).map(ProjectivePoint::from)
}

/// Lagrange coefficients at `at` for the points 1-based `xs`.
pub(crate) fn lagrange(xs: &[u8], at: u8) -> Option<Vec<Scalar>> {
    let scalar = |x: u8| Scalar::from(u64::from(x));
    xs.iter()
        .map(|&i| {
            let (mut numerator, mut denominator) = (Scalar::ONE, Scalar::ONE);
            for &j in xs.iter().filter(|&&j| j != i) {
                numerator *= scalar(at) - scalar(j);
                denominator *= scalar(i) - scalar(j);
            }
            let inverse: Option<Scalar> = denominator.invert().into();
            inverse.map(|inverse| numerator * inverse)
        })
        .collect()
}

/// Whether points at 1..=n lie on one polynomial of degree below t, and what it is at 0.
pub(crate) fn interpolate(points: &[ProjectivePoint], threshold: u8) -> Option<ProjectivePoint> {
    let base: Vec<u8> = (1..=threshold).collect();
    let at = |x: u8| -> Option<ProjectivePoint> {
        let coefficients = lagrange(&base, x)?;
        Some(coefficients.iter().zip(points).map(|(coefficient, point)| *point * *coefficient).sum())
    };
    let count = u8::try_from(points.len()).ok()?;
    if count < threshold {
        return None;
    }
    for x in threshold + 1..=count {
        if at(x)? != points[usize::from(x) - 1] {
            return None;
        }
    }
    at(0)
}

/// Checks that there is one share for each member and that they make the group key.
pub(super) fn check_shares(roster: &Roster, shares: &[PublicKey], group: &PublicKey) -> Result<(), CertificateError> {
    let expected = usize::from(roster.count());
    if shares.len() != expected {
        return Err(CertificateError::ShareCount { expected, got: shares.len() });
    }
    let points: Option<Vec<ProjectivePoint>> = shares.iter().map(point).collect();
    let made = points.and_then(|points| interpolate(&points, roster.threshold()));
    if made.is_some() && made == point(group) { Ok(()) } else { Err(CertificateError::Inconsistent) }
}
