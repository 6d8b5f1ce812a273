//! The ed25519 key of a node: who it is to its co-signers. It signs envelopes and certificates, never transactions.
//!
//! Verification is strict (RFC 8032 with small-order keys refused), so that a signature means the same to all.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::ids::MemberId;

/// Length of an ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A signature that does not fit key and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signature of member {0} is not valid")]
pub struct BadSignature(pub MemberId);

/// The secret identity of this node. Zeroized on drop, never printed.
pub struct SigningIdentity(SigningKey);

impl SigningIdentity {
    /// The identity of a 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public name of this identity.
    #[must_use]
    pub fn member_id(&self) -> MemberId {
        MemberId(self.0.verifying_key().to_bytes())
    }

    /// Signs a message; the caller puts a domain tag in front.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl Clone for SigningIdentity {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for SigningIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningIdentity({}, <redacted>)", self.member_id())
    }
}

/// Checks a member's signature.
///
/// # Errors
/// Fails when the member id is no key or the signature is not its own.
pub fn verify(member: &MemberId, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(member.as_bytes()).map_err(|_| BadSignature(*member))?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| BadSignature(*member))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_signature_fits_its_message_and_key_alone() {
        let identity = SigningIdentity::from_seed(&[1; 32]);
        let other = SigningIdentity::from_seed(&[2; 32]);
        let signature = identity.sign(b"hello");
        assert!(verify(&identity.member_id(), b"hello", &signature).is_ok());
        assert!(verify(&identity.member_id(), b"hullo", &signature).is_err());
        assert_eq!(verify(&other.member_id(), b"hello", &signature), Err(BadSignature(other.member_id())));
    }

    #[test]
    fn debug_output_holds_no_seed() {
        let identity = SigningIdentity::from_seed(&[0xab; 32]);
        assert!(format!("{identity:?}").contains("<redacted>"));
        assert!(!format!("{identity:?}").contains("abababab"));
    }
}
