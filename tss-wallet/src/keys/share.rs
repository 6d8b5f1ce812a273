//! A member's secret: its shares of both group keys, and what DKLs23 needs with each other member.
//!
//! The types of the two libraries end here. Bytes of a share exist only inside this crate, on their way into or out
//! of the sealed store, and are zeroized.

use std::fmt;
use std::sync::Arc;

use frost_secp256k1_tr as frost;
use k256::elliptic_curve::PrimeField;
use k256::{ProjectivePoint, Scalar, Secp256k1};
use thiserror::Error;
use zeroize::Zeroizing;

use super::certificate::point;
use super::{Certificate, CertificateError, PublicKeys, Scheme};
use crate::ids::PartyIndex;

pub(crate) type DklsParty = dkls23_secp256k1::protocols::Party<Secp256k1>;
pub(crate) type FrostPackage = frost::keys::KeyPackage;

const VERSION: u8 = 1;

/// Stored bytes that are not the share of this member of this wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShareError {
    /// Not decodable, or of another version.
    #[error("the key share cannot be read")]
    Malformed,
    /// The share times G is not the public share.
    #[error("the key share does not fit the wallet's public keys")]
    Mismatch,
}

/// The shares of one member in one epoch. Secret; not `Clone`, so that it is erased when its last user drops it.
pub struct KeyShare {
    public: Arc<PublicKeys>,
    me: PartyIndex,
    ecdsa: Arc<DklsParty>,
    schnorr: Arc<FrostPackage>,
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KeyShare {{ wallet: {}, epoch: {}, me: {}, <redacted> }}",
            self.public.wallet, self.public.epoch, self.me
        )
    }
}

impl KeyShare {
    /// Puts a share together after checking that both secrets fit their public shares.
    pub(crate) fn new(
        public: Arc<PublicKeys>,
        me: PartyIndex,
        ecdsa: Arc<DklsParty>,
        schnorr: Arc<FrostPackage>,
    ) -> Result<Self, ShareError> {
        let expected = |scheme| public.share_of(scheme, me).and_then(point).ok_or(ShareError::Mismatch);
        let fits = ProjectivePoint::GENERATOR * ecdsa.poly_point == expected(Scheme::Ecdsa)?
            && ecdsa.party_index.as_u8() == me.get()
            && ecdsa.parameters.threshold == public.roster.threshold()
            && ecdsa.parameters.share_count == public.roster.count()
            && Some(ProjectivePoint::from(ecdsa.pk)) == point(&public.ecdsa.public_key);
        let bytes = Zeroizing::new(schnorr.signing_share().serialize());
        let secret = Zeroizing::new(scalar_from_bytes(&bytes).ok_or(ShareError::Malformed)?);
        let group = schnorr.verifying_key().serialize().map_err(|_| ShareError::Malformed)?;
        let fits = fits
            && ProjectivePoint::GENERATOR * *secret == expected(Scheme::Schnorr)?
            && *schnorr.min_signers() == u16::from(public.roster.threshold())
            && frost_identifier(me) == Some(*schnorr.identifier())
            && group == public.schnorr.public_key.serialize();
        if fits { Ok(Self { public, me, ecdsa, schnorr }) } else { Err(ShareError::Mismatch) }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &Arc<PublicKeys> {
        &self.public
    }

    /// This member's index.
    #[must_use]
    pub fn me(&self) -> PartyIndex {
        self.me
    }

    /// The same share under a complete certificate: the end of key generation, or of a pending share that was left
    /// without it by a crash and got it from another member.
    ///
    /// # Errors
    /// Fails when the certificate is not complete or not for these keys.
    pub fn certified(&self, certificate: Certificate) -> Result<Self, CertificateError> {
        let public = PublicKeys { certificate, ..(*self.public).clone() };
        public.verify()?;
        let (ecdsa, schnorr) = (self.ecdsa.clone(), self.schnorr.clone());
        Ok(Self { public: Arc::new(public), me: self.me, ecdsa, schnorr })
    }

    pub(crate) fn dkls(&self) -> &DklsParty {
        &self.ecdsa
    }

    pub(crate) fn frost(&self) -> &FrostPackage {
        &self.schnorr
    }

    /// The secret half as bytes, for sealing.
    pub(crate) fn secret_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ShareError> {
        let frost = Zeroizing::new(self.schnorr.serialize().map_err(|_| ShareError::Malformed)?);
        let stored = (VERSION, self.me, &*self.ecdsa, frost.as_slice());
        postcard::to_allocvec(&stored).map(Zeroizing::new).map_err(|_| ShareError::Malformed)
    }

    /// Reads [`Self::secret_bytes`] again, and checks the share against the public keys.
    pub(crate) fn from_secret_bytes(bytes: &[u8], public: Arc<PublicKeys>) -> Result<Self, ShareError> {
        type Stored = (u8, PartyIndex, DklsParty, Vec<u8>);
        let ((version, me, ecdsa, frost), rest): (Stored, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(|_| ShareError::Malformed)?;
        let frost = Zeroizing::new(frost);
        if version != VERSION || !rest.is_empty() {
            return Err(ShareError::Malformed);
        }
        let schnorr = FrostPackage::deserialize(&frost).map_err(|_| ShareError::Malformed)?;
        Self::new(public, me, Arc::new(ecdsa), Arc::new(schnorr))
    }
}

/// The FROST identifier of a party: its index as a scalar.
pub(crate) fn frost_identifier(party: PartyIndex) -> Option<frost::Identifier> {
    frost::Identifier::try_from(u16::from(party.get())).ok()
}

/// A canonical scalar.
pub(crate) fn scalar_from_bytes(bytes: &[u8]) -> Option<Scalar> {
    let repr = k256::FieldBytes::try_from(bytes).ok()?;
    Scalar::from_repr(repr).into()
}
