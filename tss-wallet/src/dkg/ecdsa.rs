//! The ECDSA half of key generation: DKLs23, phases 1 to 4, with the dealt points made public.
//!
//! The library notices that some fragment was wrong, but not whose. So each dealer also commits in round 1 to the
//! points f(1)·G … f(n)·G of its polynomial and opens them in round 3, when nobody can choose his own by them any
//! more: a fragment that does not fit and a polynomial of too high a degree name a member. A proof for another point does
//! not: whoever made it may have been dealt a wrong fragment.

use std::collections::BTreeMap;
use std::sync::Arc;

use dkls23_secp256k1::protocols::dkg::{
    self, BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4, KeepInitMulPhase3to4, KeepInitZeroSharePhase2to3,
    KeepInitZeroSharePhase3to4, ProofCommitment, SessionData, TransmitInitMulPhase3to4, TransmitInitZeroSharePhase2to4,
    TransmitInitZeroSharePhase3to4, UniqueKeepDerivationPhase2to3,
};
use dkls23_secp256k1::protocols::{Abort, AbortReason, Parameters, PartiesMessage, PartyIndex as DklsIndex};
use k256::elliptic_curve::group::GroupEncoding;
use k256::{AffinePoint, ProjectivePoint, Scalar, Secp256k1};
use zeroize::{Zeroize, Zeroizing};

use super::wire::{EcdsaReveal, Private2, Private3, Round1, Round2, Round3};
use super::{DkgError, own};
use crate::ids::{PartyIndex, tagged_hash};
use crate::keys::{DklsParty, GroupKey, interpolate, scalar_from_bytes};
use crate::roster::Roster;

type Fragments = BTreeMap<PartyIndex, Vec<u8>>;
type Received = BTreeMap<PartyIndex, Zeroizing<Vec<u8>>>;

/// A scalar that is erased when dropped.
#[cfg_attr(test, derive(Clone))]
struct Secret(Scalar);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// After dealing: what this member dealt.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Dealt {
    data: SessionData,
    me: PartyIndex,
    own_fragment: Secret,
    points: Vec<k256::PublicKey>,
    salt: [u8; 32],
}

/// After all fragments are in and the commitments are made.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Committed {
    dealt: Dealt,
    fragments: BTreeMap<PartyIndex, Secret>,
    points_commitments: BTreeMap<PartyIndex, [u8; 32]>,
    share: Secret,
    proof: ProofCommitment<Secp256k1>,
    zero_kept: BTreeMap<DklsIndex, KeepInitZeroSharePhase2to3>,
    chain_kept: UniqueKeepDerivationPhase2to3,
    chain_commitment: BroadcastDerivationPhase2to4,
    #[cfg(test)]
    ahead: Option<Arc<Phase3>>,
}

/// After all commitments are in and the openings are sent.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Revealed {
    committed: Committed,
    proof_commitments: BTreeMap<PartyIndex, [u8; 32]>,
    zero_commitments: Vec<TransmitInitZeroSharePhase2to4>,
    chain_commitments: BTreeMap<DklsIndex, BroadcastDerivationPhase2to4>,
    chain_opening: BroadcastDerivationPhase3to4,
    zero_kept: BTreeMap<DklsIndex, KeepInitZeroSharePhase3to4>,
    mul_kept: BTreeMap<DklsIndex, KeepInitMulPhase3to4<Secp256k1>>,
}

/// What the library's phase 3 keeps and sends.
type Phase3 = (
    BTreeMap<DklsIndex, KeepInitZeroSharePhase3to4>,
    Vec<TransmitInitZeroSharePhase3to4>,
    BTreeMap<DklsIndex, KeepInitMulPhase3to4<Secp256k1>>,
    Vec<TransmitInitMulPhase3to4<Secp256k1>>,
    BroadcastDerivationPhase3to4,
);

/// What round 2 sends.
pub(super) struct CommitRound {
    pub broadcast: Round2,
    pub private: BTreeMap<PartyIndex, [u8; 32]>,
}

/// The result.
pub(super) struct Made {
    pub party: Arc<DklsParty>,
    pub group: GroupKey,
    pub shares: Vec<secp256k1::PublicKey>,
}

fn dkls_index(party: PartyIndex) -> Result<DklsIndex, DkgError> {
    DklsIndex::new(party.get()).map_err(|error| DkgError::Own(error.to_string()))
}

fn ours(index: DklsIndex) -> Option<PartyIndex> {
    PartyIndex::new(index.as_u8()).ok()
}

fn points_commitment(params_hash: &[u8], dealer: PartyIndex, points: &[k256::PublicKey], salt: &[u8; 32]) -> [u8; 32] {
    let flat: Vec<u8> = points.iter().flat_map(|point| point.as_affine().to_bytes()).collect();
    tagged_hash("keyless/dkg/points/v1", &[params_hash, &[dealer.get()], &flat, salt])
}

/// Draws a polynomial and evaluates it for everyone.
pub(super) fn deal(
    roster: &Roster,
    me: PartyIndex,
    params_hash: &[u8; 32],
    seed: &[u8; 32],
) -> Result<(Dealt, [u8; 32], Fragments), DkgError> {
    let parameters = Parameters::new(roster.threshold(), roster.count()).map_err(|error| own(&error.to_string()))?;
    let data = SessionData { parameters, party_index: dkls_index(me)?, session_id: params_hash.to_vec() };
    let evaluations = Zeroizing::new(dkg::phase1::<Secp256k1>(&data));
    let points = evaluations
        .iter()
        .map(|value| k256::PublicKey::from_affine((ProjectivePoint::GENERATOR * value).to_affine()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| own("a fragment of zero"))?;
    let at = |party: PartyIndex| evaluations.get(party.position()).copied().ok_or_else(|| own("too few fragments"));
    let mut fragments = Fragments::new();
    for to in roster.others(me) {
        fragments.insert(to, at(to)?.to_bytes().to_vec());
    }
    let salt = tagged_hash("keyless/dkg/points-salt", &[seed]);
    let commitment = points_commitment(params_hash, me, &points, &salt);
    Ok((Dealt { data, me, own_fragment: Secret(at(me)?), points, salt }, commitment, fragments))
}

impl Dealt {
    /// Adds up the fragments and commits to a proof of the sum.
    pub fn commit(
        self,
        broadcasts: &BTreeMap<PartyIndex, Round1>,
        received: &Received,
    ) -> Result<(Committed, CommitRound), DkgError> {
        let mut fragments = BTreeMap::new();
        for (&from, bytes) in received {
            let fragment = scalar_from_bytes(bytes).ok_or(DkgError::Malformed { culprit: from })?;
            fragments.insert(from, Secret(fragment));
        }
        let mut all = Zeroizing::new(fragments.values().map(|fragment| fragment.0).collect::<Vec<_>>());
        all.push(self.own_fragment.0);
        let (share, proof, zero_kept, zero_sent, chain_kept, chain_commitment) =
            dkg::phase2::<Secp256k1>(&self.data, &all);
        let mut private = BTreeMap::new();
        for message in zero_sent {
            let to = ours(message.parties.receiver).ok_or_else(|| own("a party index"))?;
            private.insert(to, message.commitment);
        }
        let broadcast = Round2 { proof_commitment: proof.commitment, chain_commitment: chain_commitment.cc_commitment };
        let points_commitments = broadcasts.iter().map(|(from, message)| (*from, message.points_commitment)).collect();
        let committed = Committed {
            dealt: self,
            fragments,
            points_commitments,
            share: Secret(share),
            proof,
            zero_kept,
            chain_kept,
            chain_commitment,
            #[cfg(test)]
            ahead: None,
        };
        Ok((committed, CommitRound { broadcast, private }))
    }
}

impl Committed {
    /// Heavy: some 100 ms a peer.
    fn phase3(&self) -> Phase3 {
        #[cfg(test)]
        if let Some(ahead) = &self.ahead {
            return (**ahead).clone();
        }
        dkg::phase3::<Secp256k1>(&self.dealt.data, &self.zero_kept, &self.chain_kept)
    }

    /// With [`Self::phase3`] computed already: nothing that is received changes it.
    #[cfg(test)]
    pub fn computed_ahead(&self) -> Self {
        let ahead = self.ahead.clone().unwrap_or_else(|| Arc::new(self.phase3()));
        Self { ahead: Some(ahead), ..self.clone() }
    }

    /// Opens what was committed to, now that all commitments are in, and begins the set-up with each peer.
    #[allow(clippy::type_complexity)]
    pub fn reveal(
        self,
        broadcasts: BTreeMap<PartyIndex, Round2>,
        private: &BTreeMap<PartyIndex, Private2>,
    ) -> Result<(Revealed, EcdsaReveal, BTreeMap<PartyIndex, Private3>), DkgError> {
        let data = &self.dealt.data;
        let mut chain_commitments = BTreeMap::from([(data.party_index, self.chain_commitment.clone())]);
        let mut zero_commitments = Vec::new();
        for (&from, message) in &broadcasts {
            let sender_index = dkls_index(from)?;
            let cc_commitment = message.chain_commitment;
            chain_commitments.insert(sender_index, BroadcastDerivationPhase2to4 { sender_index, cc_commitment });
        }
        for (&from, message) in private {
            let parties = PartiesMessage { sender: dkls_index(from)?, receiver: data.party_index };
            zero_commitments.push(TransmitInitZeroSharePhase2to4 { parties, commitment: message.zero_commitment });
        }
        let (zero_kept, zero_sent, mul_kept, mul_sent, chain_opening) = self.phase3();
        let mut sent = BTreeMap::new();
        for (zero, mul) in zero_sent.into_iter().zip(mul_sent) {
            if zero.parties.receiver != mul.parties.receiver {
                return Err(own("the library's messages are in another order"));
            }
            let to = ours(zero.parties.receiver).ok_or_else(|| own("a party index"))?;
            sent.insert(to, Private3 { zero, mul });
        }
        let reveal = EcdsaReveal {
            proof: self.proof.proof.clone(),
            chain: chain_opening.clone(),
            points: self.dealt.points.clone(),
            points_salt: self.dealt.salt,
        };
        let proof_commitments = broadcasts.iter().map(|(from, message)| (*from, message.proof_commitment)).collect();
        let revealed = Revealed {
            committed: self,
            proof_commitments,
            zero_commitments,
            chain_commitments,
            chain_opening,
            zero_kept,
            mul_kept,
        };
        Ok((revealed, reveal, sent))
    }
}

impl Revealed {
    /// Checks every opening and makes the party.
    pub fn finish(
        self,
        broadcasts: BTreeMap<PartyIndex, Round3>,
        private: BTreeMap<PartyIndex, Private3>,
    ) -> Result<Made, DkgError> {
        self.check_points(&broadcasts)?;
        let Self {
            committed,
            proof_commitments,
            zero_commitments,
            chain_commitments,
            chain_opening,
            zero_kept,
            mul_kept,
        } = self;
        let data = &committed.dealt.data;
        let mut proofs = vec![committed.proof.clone()];
        let mut chain = BTreeMap::from([(data.party_index, chain_opening)]);
        for (from, message) in broadcasts {
            let index = dkls_index(from)?;
            let malformed = DkgError::Malformed { culprit: from };
            let commitment = *proof_commitments.get(&from).ok_or_else(|| malformed.clone())?;
            if message.ecdsa.chain.sender_index != index {
                return Err(malformed);
            }
            proofs.push(ProofCommitment { index, proof: message.ecdsa.proof, commitment });
            chain.insert(index, message.ecdsa.chain);
        }
        let (mut zero, mut mul) = (Vec::new(), Vec::new());
        for (from, message) in private {
            if message.mul.dlog_proof.point == AffinePoint::IDENTITY {
                return Err(DkgError::Malformed { culprit: from });
            }
            for parties in [&message.zero.parties, &message.mul.parties] {
                if parties.sender.as_u8() != from.get() || parties.receiver != data.party_index {
                    return Err(DkgError::Malformed { culprit: from });
                }
            }
            zero.push(message.zero);
            mul.push(message.mul);
        }
        let (party, public) = dkg::phase4::<Secp256k1>(
            data,
            &committed.share.0,
            &proofs,
            &zero_kept,
            &zero_commitments,
            &zero,
            &mul_kept,
            &mul,
            &chain_commitments,
            &chain,
            |_| String::new(),
        )
        .map_err(|abort| dkg_error(&abort))?;
        let shares = (1..=data.parameters.share_count)
            .map(|index| {
                let index = DklsIndex::new(index).ok()?;
                public_key(public.verifying_share(index)?)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| own("a public share is missing"))?;
        let public_key = public_key(&party.pk).ok_or_else(|| own("the group key is no point"))?;
        let group = GroupKey { public_key, chain_code: party.derivation_data.chain_code };
        Ok(Made { party: Arc::new(party), group, shares })
    }

    /// Checks each dealer's points against its commitment, its fragment and its degree, and each proof against the
    /// sum of the points.
    fn check_points(&self, broadcasts: &BTreeMap<PartyIndex, Round3>) -> Result<(), DkgError> {
        let dealt = &self.committed.dealt;
        let (threshold, count) = (dealt.data.parameters.threshold, usize::from(dealt.data.parameters.share_count));
        let mut sums: Vec<ProjectivePoint> = dealt.points.iter().map(k256::PublicKey::to_projective).collect();
        for (&dealer, message) in broadcasts {
            let invalid = |what: &str| DkgError::InvalidShare { culprit: dealer, what: what.to_owned() };
            let points = &message.ecdsa.points;
            if points.len() != count {
                return Err(DkgError::Malformed { culprit: dealer });
            }
            let commitment = points_commitment(&dealt.data.session_id, dealer, points, &message.ecdsa.points_salt);
            if self.committed.points_commitments.get(&dealer) != Some(&commitment) {
                return Err(invalid("the dealt points are not those committed to"));
            }
            let points: Vec<ProjectivePoint> = points.iter().map(k256::PublicKey::to_projective).collect();
            let fragment = self.committed.fragments.get(&dealer).ok_or_else(|| own("a fragment is missing"))?;
            if points.get(dealt.me.position()) != Some(&(ProjectivePoint::GENERATOR * fragment.0)) {
                return Err(invalid("the fragment does not fit the dealt points"));
            }
            if interpolate(&points, threshold).is_none() {
                return Err(invalid("the dealt points are not on a polynomial of the right degree"));
            }
            sums.iter_mut().zip(points).for_each(|(sum, point)| *sum += point);
        }
        for (&prover, message) in broadcasts {
            if sums.get(prover.position()) != Some(&ProjectivePoint::from(message.ecdsa.proof.point)) {
                // It lies, or added up what a dealer dealt to it alone. It committed before it could tell, and knows
                // since the points are open: only it can name the dealer.
                let what = format!("the proof of member {prover} is for another point than the sum of what was dealt");
                return Err(DkgError::Unattributed(what));
            }
        }
        Ok(())
    }
}

fn public_key(point: &AffinePoint) -> Option<secp256k1::PublicKey> {
    secp256k1::PublicKey::from_slice(&point.to_bytes()).ok()
}

fn dkg_error(abort: &Abort) -> DkgError {
    let what = abort.description();
    let named = match &abort.reason {
        AbortReason::ProofVerificationFailed { counterparty }
        | AbortReason::ZeroShareDecommitFailed { counterparty }
        | AbortReason::CommitmentMismatch { counterparty }
        | AbortReason::OtConsistencyCheckFailed { counterparty }
        | AbortReason::MultiplicationVerificationFailed { counterparty, .. } => ours(*counterparty),
        AbortReason::ChainCodeCommitmentFailed { party } | AbortReason::MissingMessageFromParty { party } => {
            ours(*party)
        }
        AbortReason::UnexpectedSender { sender } | AbortReason::DuplicateSender { sender } => ours(*sender),
        _ => None,
    };
    match named {
        Some(culprit) => DkgError::InvalidShare { culprit, what },
        None => DkgError::Unattributed(what),
    }
}
