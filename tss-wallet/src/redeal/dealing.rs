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
#[cfg_attr(test, derive(Clone))]
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
    pub fn new(params: &RedealParams, dealer: &MemberId, share: &KeyShare, seed: &[u8; 32]) -> Result<Self, DkgError> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use bitcoin::Network;

    use super::*;
    use crate::ids::{Epoch, SessionId, WalletId};
    use crate::keys::{Certificate, GroupKey, PublicKeys};
    use crate::roster::{Roster, Split};

    /// Keys whose shares lie on 5 + 7x, for both schemes.
    fn params(threshold: u8, count: u8) -> RedealParams {
        let public = |scalar: Scalar| {
            let point = (ProjectivePoint::GENERATOR * scalar).to_affine();
            secp256k1::PublicKey::from_slice(&point.to_bytes()).unwrap()
        };
        let share = |x: u64| public(Scalar::from(5_u64) + Scalar::from(7_u64) * Scalar::from(x));
        let group = GroupKey { public_key: public(Scalar::from(5_u64)), chain_code: [0; 32] };
        let members = |count: u8| (1..=count).map(|byte| MemberId([byte; 32])).collect::<Vec<_>>();
        let shares: Vec<_> = (1..=3).map(share).collect();
        let old = PublicKeys {
            wallet: WalletId([0; 32]),
            epoch: Epoch(0),
            network: Network::Regtest,
            roster: Roster::new(2, members(3), Split::Refused).unwrap(),
            absent: BTreeSet::new(),
            ecdsa: group,
            schnorr: group,
            ecdsa_shares: shares.clone(),
            schnorr_shares: shares,
            transcript: [0; 32],
            certificate: Certificate::default(),
        };
        RedealParams {
            old: Arc::new(old),
            epoch: Epoch(1),
            roster: Roster::new(threshold, members(count), Split::Accepted).unwrap(),
            dealers: [MemberId([1; 32]), MemberId([3; 32])].into(),
            absent: BTreeSet::new(),
            session: SessionId([0; 32]),
            context: [0; 32],
        }
    }

    fn dealt(constant: Scalar, threshold: u8, count: u8) -> Points {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut points = || points_of(&evaluations(&constant, threshold, count, &mut rng)).unwrap();
        Points { ecdsa: points(), schnorr: points(), salt: [0; 32] }
    }

    #[test]
    fn only_the_dealers_own_weighted_share_of_the_right_degree_passes() {
        let (params, dealer) = (params(3, 5), MemberId([1; 32]));
        let culprit = PartyIndex::new(1).unwrap();
        let check = |points: &Points| check_points(&params, culprit, &dealer, points);
        let own = Scalar::from(12_u64) * weight(&params, &dealer).unwrap();
        check(&dealt(own, 3, 5)).unwrap();
        check(&dealt(own, 2, 5)).unwrap();
        let what = |points: &Points| match check(points) {
            Err(DkgError::InvalidShare { culprit, what }) if culprit.get() == 1 => what,
            other => panic!("{other:?}"),
        };
        assert!(what(&dealt(own + Scalar::ONE, 3, 5)).contains("not the dealer's own share"));
        assert!(what(&dealt(Scalar::from(12_u64), 3, 5)).contains("not the dealer's own share"));
        assert!(what(&dealt(own, 4, 5)).contains("right degree"));
        assert_eq!(check(&dealt(own, 3, 4)), Err(DkgError::Malformed { culprit }));
        let mut one_key = dealt(own, 3, 5);
        one_key.schnorr = dealt(own + Scalar::ONE, 3, 5).schnorr;
        assert!(what(&one_key).contains("not the dealer's own share"));
    }

    #[test]
    fn the_sum_of_all_dealings_begins_with_the_private_key() {
        let params = params(3, 5);
        let at = |x: u64| Scalar::from(5_u64) + Scalar::from(7_u64) * Scalar::from(x);
        let deal = |byte: u8| dealt(at(u64::from(byte)) * weight(&params, &MemberId([byte; 32])).unwrap(), 3, 5);
        let dealt = [deal(1), deal(3)];
        let shares = public_shares(&params, dealt.iter()).unwrap();
        for keys in [&shares.ecdsa, &shares.schnorr] {
            let points: Vec<ProjectivePoint> = keys.iter().map(|key| point(key).unwrap()).collect();
            assert_eq!(interpolate(&points, 3), point(&params.old.ecdsa.public_key));
        }
    }
}
