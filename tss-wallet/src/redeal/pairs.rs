//! What DKLs23 needs between every two holders, made by the two alone: zero-share seeds and oblivious transfer.
//!
//! The library's own key generation makes this state inside a run of all n members. Its parts are public functions of
//! two parties, with the same messages, checks and order: seeds are committed to before they are opened, and the
//! set-up of oblivious transfer is proven. Every session id covers the whole ceremony, so no set-up fits another one.

use std::collections::BTreeMap;
use std::sync::Arc;

use dkls23_secp256k1::protocols::derivation::DerivData;
use dkls23_secp256k1::protocols::dkg::{TransmitInitMulPhase3to4, TransmitInitZeroSharePhase3to4};
use dkls23_secp256k1::protocols::{Parameters, PartiesMessage, PartyIndex as DklsIndex};
use dkls23_secp256k1::utilities::multiplication::{MulReceiver, MulSender};
use dkls23_secp256k1::utilities::ot::base::{OTReceiver, OTSender};
use dkls23_secp256k1::utilities::zero_shares::ZeroShare;
use k256::{AffinePoint, Scalar, Secp256k1};
use zeroize::{Zeroize, Zeroizing};

use super::params::RedealParams;
use super::wire::PairSetup;
use crate::dkg::DkgError;
use crate::ids::PartyIndex;
use crate::keys::{DklsParty, affine};

/// The halves of a pair's zero-share seed, before they are opened.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Committed {
    session: [u8; 32],
    me: DklsIndex,
    seeds: BTreeMap<PartyIndex, (Zeroizing<[u8; 32]>, Vec<u8>)>,
    #[cfg(test)]
    ahead: Option<Arc<(Opened, BTreeMap<PartyIndex, PairSetup>)>>,
}

#[cfg_attr(test, derive(Clone))]
struct Kept {
    ot_sender: OTSender<Secp256k1>,
    nonce: Scalar,
    ot_receiver: OTReceiver,
    correlation: Zeroizing<Vec<bool>>,
    vec_r: Zeroizing<Vec<Scalar>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.ot_sender.s.zeroize();
        self.ot_receiver.seed.zeroize();
    }
}

/// After this member's half of every set-up is sent.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Opened {
    committed: Committed,
    kept: BTreeMap<PartyIndex, Kept>,
}

fn own(what: &str) -> DkgError {
    DkgError::Own(what.to_owned())
}

fn dkls_index(party: PartyIndex) -> Result<DklsIndex, DkgError> {
    DklsIndex::new(party.get()).map_err(|error| DkgError::Own(error.to_string()))
}

/// The session id of the multiplication in which `receiver` is the receiver.
fn mul_session(session: &[u8; 32], receiver: DklsIndex, sender: DklsIndex) -> Vec<u8> {
    [b"keyless/redeal/multiplication/v1".as_slice(), &[receiver.as_u8(), sender.as_u8()], session].concat()
}

fn zero_context(session: &[u8; 32], sender: DklsIndex, receiver: DklsIndex) -> [u8; 32] {
    ZeroShare::seed_context(b"keyless/redeal", &[session], sender, receiver)
}

impl Committed {
    /// Draws seeds for every other holder, by its new index, and commits to them.
    pub fn new(
        session: [u8; 32],
        me: PartyIndex,
        others: impl Iterator<Item = PartyIndex>,
    ) -> Result<(Self, BTreeMap<PartyIndex, [u8; 32]>), DkgError> {
        let me = dkls_index(me)?;
        let (mut seeds, mut commitments) = (BTreeMap::new(), BTreeMap::new());
        for other in others {
            let context = zero_context(&session, me, dkls_index(other)?);
            let (seed, commitment, salt) = ZeroShare::generate_seed_with_bound_commitment(&context);
            seeds.insert(other, (Zeroizing::new(seed), salt));
            commitments.insert(other, commitment);
        }
        let committed = Self {
            session,
            me,
            seeds,
            #[cfg(test)]
            ahead: None,
        };
        Ok((committed, commitments))
    }

    /// Opens the seeds and begins the set-up of oblivious transfer in both directions. Heavy: some 100 ms a peer.
    pub fn open(self) -> Result<(Opened, BTreeMap<PartyIndex, PairSetup>), DkgError> {
        #[cfg(test)]
        if let Some(ahead) = &self.ahead {
            return Ok((**ahead).clone());
        }
        let (mut kept, mut sent) = (BTreeMap::new(), BTreeMap::new());
        for (&other, (seed, salt)) in &self.seeds {
            let receiver = dkls_index(other)?;
            let parties = PartiesMessage { sender: self.me, receiver };
            let (ot_sender, dlog_proof, nonce) =
                MulReceiver::<Secp256k1>::init_phase1(&mul_session(&self.session, self.me, receiver));
            let (ot_receiver, correlation, vec_r, enc_proofs) =
                MulSender::<Secp256k1>::init_phase1(&mul_session(&self.session, receiver, self.me));
            let zero = TransmitInitZeroSharePhase3to4 { parties: parties.clone(), seed: **seed, salt: salt.clone() };
            let mul = TransmitInitMulPhase3to4 { parties, dlog_proof, nonce, enc_proofs, seed: ot_receiver.seed };
            sent.insert(other, PairSetup { zero, mul });
            let (correlation, vec_r) = (Zeroizing::new(correlation), Zeroizing::new(vec_r));
            kept.insert(other, Kept { ot_sender, nonce, ot_receiver, correlation, vec_r });
        }
        Ok((Opened { committed: self, kept }, sent))
    }
}

#[cfg(test)]
impl Committed {
    /// With [`Self::open`] computed already: nothing that is received changes it.
    pub fn computed_ahead(&self) -> Result<Self, DkgError> {
        let ahead = match &self.ahead {
            Some(ahead) => Arc::clone(ahead),
            None => Arc::new(self.clone().open()?),
        };
        Ok(Self { ahead: Some(ahead), ..self.clone() })
    }
}

impl Opened {
    /// Checks the others' halves and makes this member's party. Culprits are named by their new index.
    pub fn finish(
        self,
        params: &RedealParams,
        poly_point: &Scalar,
        commitments: &BTreeMap<PartyIndex, [u8; 32]>,
        received: &BTreeMap<PartyIndex, PairSetup>,
    ) -> Result<Arc<DklsParty>, DkgError> {
        let Committed { session, me, seeds, .. } = self.committed;
        let (mut pairs, mut mul_senders, mut mul_receivers) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (&other, kept) in &self.kept {
            let malformed = || DkgError::Malformed { culprit: other };
            let invalid = |what: String| DkgError::InvalidShare { culprit: other, what };
            let index = dkls_index(other)?;
            let PairSetup { zero, mul } = received.get(&other).ok_or_else(malformed)?;
            let routed = |parties: &PartiesMessage| parties.sender == index && parties.receiver == me;
            if !routed(&zero.parties) || !routed(&mul.parties) || mul.dlog_proof.point == AffinePoint::IDENTITY {
                return Err(malformed());
            }
            let commitment = commitments.get(&other).ok_or_else(malformed)?;
            let context = zero_context(&session, index, me);
            if !ZeroShare::verify_bound_seed(&zero.seed, &context, commitment, &zero.salt) {
                return Err(invalid("the zero-share seed is not the one committed to".to_owned()));
            }
            let (seed, _) = seeds.get(&other).ok_or_else(|| own("a seed is missing"))?;
            pairs.push(ZeroShare::generate_seed_pair(me, index, seed, &zero.seed));
            let receiver = MulReceiver::<Secp256k1>::init_phase2(
                &kept.ot_sender,
                &mul_session(&session, me, index),
                &mul.seed,
                &mul.enc_proofs,
                &kept.nonce,
            )
            .map_err(|error| invalid(error.description.clone()))?;
            let sender = MulSender::<Secp256k1>::init_phase2(
                &kept.ot_receiver,
                &mul_session(&session, index, me),
                kept.correlation.to_vec(),
                &kept.vec_r,
                &mul.dlog_proof,
                &mul.nonce,
            )
            .map_err(|error| invalid(error.description.clone()))?;
            mul_receivers.insert(index, receiver);
            mul_senders.insert(index, sender);
        }
        let parameters = Parameters::new(params.roster.threshold(), params.roster.count())
            .map_err(|error| DkgError::Own(error.to_string()))?;
        let pk = affine(&params.old.ecdsa.public_key).ok_or_else(|| own("the group key is no point"))?;
        let derivation_data = DerivData {
            depth: 0,
            child_number: 0,
            parent_fingerprint: [0; 4],
            poly_point: *poly_point,
            pk,
            chain_code: params.old.ecdsa.chain_code,
        };
        Ok(Arc::new(DklsParty {
            parameters,
            party_index: me,
            session_id: session.to_vec(),
            poly_point: *poly_point,
            pk,
            zero_share: ZeroShare::initialize(pairs),
            mul_senders,
            mul_receivers,
            derivation_data,
            address: String::new(),
        }))
    }
}
