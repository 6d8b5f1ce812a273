//! Feldman's sharing of λᵢ·sᵢ, for both keys: each dealer's polynomial begins with its own weighted share.
//!
//! The points f(1)·G … f(n)·G are public. They must lie on a polynomial of the new degree whose value at 0 is λᵢ·Sᵢ, the
//! dealer's public share of the present epoch with its Lagrange weight; so the sum of all polynomials begins with the
//! group's private key, whoever deals, and nobody can change or lower it. A fragment that does not fit names its dealer.
//! Source: Feldman 1987; Desmedt and Jajodia 1997 (redistribution to new access structures).

use std::collections::BTreeMap;

use k256::elliptic_curve::group::GroupEncoding;
use k256::{ProjectivePoint, Scalar};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use zeroize::{Zeroize, Zeroizing};

use super::params::RedealParams;
use super::wire::{Fragments, Points};
use crate::dkg::DkgError;
use crate::ids::{MemberId, PartyIndex, tagged_hash};
use crate::keys::{KeyShare, Scheme, interpolate, lagrange, point, scalar_from_bytes};

/// A list of scalars that is erased when dropped.
type Secrets = Zeroizing<Vec<Scalar>>;

/// What this member deals: its two polynomials at every new index.
pub(super) struct Dealing {
    ecdsa: Secrets,
    schnorr: Secrets,
    pub points: Points,
}

/// This member's new shares and everyone's new public shares.
pub(super) struct Sums {
    pub ecdsa: Zeroizing<Scalar>,
    pub schnorr: Zeroizing<Scalar>,
    pub public: PublicShares,
}

/// Public shares of the next epoch, in roster order.
#[derive(Default)]
pub(super) struct PublicShares {
    pub ecdsa: Vec<secp256k1::PublicKey>,
    pub schnorr: Vec<secp256k1::PublicKey>,
}

fn own(what: &str) -> DkgError {
    DkgError::Own(what.to_owned())
}

/// The weight of a dealer's share in the private key.
fn weight(params: &RedealParams, dealer: &MemberId) -> Option<Scalar> {
    let indices = params.dealer_indices();
    let index = params.old.roster.index_of(dealer)?.get();
    let position = indices.iter().position(|other| *other == index)?;
    lagrange(&indices, 0)?.get(position).copied()
}

/// A scalar that is not zero.
fn random_scalar(rng: &mut ChaCha20Rng) -> Scalar {
    loop {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        match scalar_from_bytes(bytes.as_ref()) {
            Some(scalar) if scalar != Scalar::ZERO => return scalar,
            _ => {}
        }
    }
}

/// A random polynomial of degree t−1 that begins with `constant`, at 1 … n.
fn evaluations(constant: &Scalar, threshold: u8, count: u8, rng: &mut ChaCha20Rng) -> Secrets {
    let mut coefficients: Secrets = Zeroizing::new(Vec::with_capacity(usize::from(threshold)));
    coefficients.push(*constant);
    coefficients.extend((1..threshold).map(|_| random_scalar(rng)));
    let at = |x: u8| {
        let x = Scalar::from(u64::from(x));
        coefficients.iter().rev().fold(Scalar::ZERO, |sum, coefficient| sum * x + coefficient)
    };
    Zeroizing::new((1..=count).map(at).collect())
}

fn points_of(values: &Secrets) -> Result<Vec<k256::PublicKey>, DkgError> {
    let point = |value: &Scalar| k256::PublicKey::from_affine((ProjectivePoint::GENERATOR * value).to_affine());
    values.iter().map(point).collect::<Result<_, _>>().map_err(|_| own("a fragment of zero"))
}

/// The commitment of round 1.
pub(super) fn commitment(params_hash: &[u8; 32], dealer: &MemberId, points: &Points) -> [u8; 32] {
    let flat = |keys: &[k256::PublicKey]| keys.iter().flat_map(|key| key.as_affine().to_bytes()).collect::<Vec<u8>>();
    let (ecdsa, schnorr) = (flat(&points.ecdsa), flat(&points.schnorr));
    tagged_hash("keyless/redeal/points/v1", &[params_hash, dealer.as_bytes(), &ecdsa, &schnorr, &points.salt])
}

impl Dealing {
    pub fn new(
        params: &RedealParams,
        dealer: &MemberId,
        share: &KeyShare,
        seed: &[u8; 32],
    ) -> Result<Self, DkgError> {
        let weight = weight(params, dealer).ok_or_else(|| own("not a dealer"))?;
        let mut rng = ChaCha20Rng::from_seed(tagged_hash("keyless/redeal/polynomials", &[seed]));
        let (threshold, count) = (params.roster.threshold(), params.roster.count());
        let ecdsa = Zeroizing::new(share.dkls().poly_point * weight);
        let bytes = Zeroizing::new(share.frost().signing_share().serialize());
        let mut secret = scalar_from_bytes(&bytes).ok_or_else(|| own("the share is no scalar"))?;
        let schnorr = Zeroizing::new(secret * weight);
        secret.zeroize();
        let ecdsa = evaluations(&ecdsa, threshold, count, &mut rng);
        let schnorr = evaluations(&schnorr, threshold, count, &mut rng);
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        let points = Points { ecdsa: points_of(&ecdsa)?, schnorr: points_of(&schnorr)?, salt };
        Ok(Self { ecdsa, schnorr, points })
    }

    fn at(values: &Secrets, party: PartyIndex) -> Result<&Scalar, DkgError> {
        values.get(party.position()).ok_or_else(|| own("an index outside the roster"))
    }

    /// What one holder gets.
    pub fn fragments(&self, party: PartyIndex) -> Result<Fragments, DkgError> {
        Ok(Fragments {
            ecdsa: Self::at(&self.ecdsa, party)?.to_bytes().to_vec(),
            schnorr: Self::at(&self.schnorr, party)?.to_bytes().to_vec(),
        })
    }
}

/// Checks one dealer's points: their number, their degree, and where they begin.
pub(super) fn check_points(
    params: &RedealParams,
    culprit: PartyIndex,
    dealer: &MemberId,
    points: &Points,
) -> Result<(), DkgError> {
    let index = params.old.roster.index_of(dealer).ok_or_else(|| own("not a dealer"))?;
    let weight = weight(params, dealer).ok_or_else(|| own("not a dealer"))?;
    for (scheme, keys) in [(Scheme::Ecdsa, &points.ecdsa), (Scheme::Schnorr, &points.schnorr)] {
        if keys.len() != usize::from(params.roster.count()) {
            return Err(DkgError::Malformed { culprit });
        }
        let keys: Vec<ProjectivePoint> = keys.iter().map(k256::PublicKey::to_projective).collect();
        let invalid = |what: &str| DkgError::InvalidShare { culprit, what: what.to_owned() };
        let at_zero = interpolate(&keys, params.roster.threshold())
            .ok_or_else(|| invalid("the dealt points are not on a polynomial of the right degree"))?;
        let share = params.old.share_of(scheme, index).and_then(point).ok_or_else(|| own("a public share"))?;
        if at_zero != share * weight {
            return Err(invalid("what is dealt is not the dealer's own share"));
        }
    }
    Ok(())
}

/// Adds the dealers' points up to the public shares of the next epoch.
pub(super) fn public_shares<'a>(
    params: &RedealParams,
    dealt: impl Iterator<Item = &'a Points> + Clone,
) -> Result<PublicShares, DkgError> {
    let sum = |keys: fn(&Points) -> &Vec<k256::PublicKey>| {
        (0..usize::from(params.roster.count()))
            .map(|position| {
                let sum: ProjectivePoint =
                    dealt.clone().filter_map(|points| keys(points).get(position)).map(|key| key.to_projective()).sum();
                secp256k1::PublicKey::from_slice(&sum.to_affine().to_bytes())
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| own("a public share is no point"))
    };
    Ok(PublicShares { ecdsa: sum(|points| &points.ecdsa)?, schnorr: sum(|points| &points.schnorr)? })
}

/// Checks the fragments against their dealers' points, and adds them up to this member's new shares.
pub(super) fn collect(
    me: PartyIndex,
    public: PublicShares,
    dealt: &BTreeMap<PartyIndex, Points>,
    fragments: &BTreeMap<PartyIndex, Fragments>,
) -> Result<Sums, DkgError> {
    let (mut ecdsa, mut schnorr) = (Zeroizing::new(Scalar::ZERO), Zeroizing::new(Scalar::ZERO));
    for (&dealer, points) in dealt {
        let fragments = fragments.get(&dealer).ok_or(DkgError::Malformed { culprit: dealer })?;
        let pairs =
            [(&fragments.ecdsa, &points.ecdsa, &mut ecdsa), (&fragments.schnorr, &points.schnorr, &mut schnorr)];
        for (bytes, points, sum) in pairs {
            let value = scalar_from_bytes(bytes).map(Zeroizing::new).ok_or(DkgError::Malformed { culprit: dealer })?;
            let expected = points.get(me.position()).map(k256::PublicKey::to_projective);
            if expected != Some(ProjectivePoint::GENERATOR * *value) {
                let what = "the fragment does not fit the dealt points".to_owned();
                return Err(DkgError::InvalidShare { culprit: dealer, what });
            }
            **sum += *value;
        }
    }
    Ok(Sums { ecdsa, schnorr, public })
}

impl Drop for Fragments {
    fn drop(&mut self) {
        self.ecdsa.zeroize();
        self.schnorr.zeroize();
    }
}
