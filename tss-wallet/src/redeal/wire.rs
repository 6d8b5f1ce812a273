//! The messages of a ceremony that deals shares again.

use dkls23_secp256k1::protocols::dkg::{TransmitInitMulPhase3to4, TransmitInitZeroSharePhase3to4};
use k256::Secp256k1;
use serde::{Deserialize, Serialize};

/// To all: what is dealt is committed to before anyone opens.
#[derive(Serialize, Deserialize)]
pub(super) struct Commit {
    pub params_hash: [u8; 32],
    /// Of a dealer.
    pub points: Option<[u8; 32]>,
}

/// To one: a commitment to this member's half of the pair's zero-share seed, where both will hold a share.
#[derive(Serialize, Deserialize)]
pub(super) struct PrivateCommit {
    pub zero: Option<[u8; 32]>,
}

/// f(1)·G … f(n)·G of a dealer's two polynomials.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Points {
    pub ecdsa: Vec<k256::PublicKey>,
    pub schnorr: Vec<k256::PublicKey>,
    pub salt: [u8; 32],
}

/// To all: the points of a dealer.
#[derive(Serialize, Deserialize)]
pub(super) struct Open {
    pub points: Option<Points>,
}

/// A dealer's polynomials at the receiver's index.
#[derive(Serialize, Deserialize)]
pub(super) struct Fragments {
    pub ecdsa: Vec<u8>,
    pub schnorr: Vec<u8>,
}

/// The set-up of DKLs23 with one other holder.
#[cfg_attr(test, derive(Clone))]
#[derive(Serialize, Deserialize)]
pub(super) struct PairSetup {
    pub zero: TransmitInitZeroSharePhase3to4,
    pub mul: TransmitInitMulPhase3to4<Secp256k1>,
}

/// To one: fragments from a dealer to a holder, the set-up between two holders.
#[derive(Serialize, Deserialize)]
pub(super) struct PrivateOpen {
    pub fragments: Option<Fragments>,
    pub pair: Option<Box<PairSetup>>,
}
