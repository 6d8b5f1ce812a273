//! Signed messages: what is hashed, and the 65 bytes in base64 that `verifymessage` reads.
//!
//! Only legacy addresses sign messages, as in Core. Source: Core's `common/signmessage.cpp`.

use bitcoin::hashes::Hash as _;
use bitcoin::script::Script;
use bitcoin::secp256k1::Message;
use bitcoin::secp256k1::ecdsa::{RecoverableSignature, RecoveryId, Signature};
use bitcoin::sighash::EcdsaSighashType;
use bitcoin::sign_message::{MessageSignature, signed_msg_hash};
use secp256k1::SECP256K1;

use super::Wallet;
use super::keychain::AddressType;
use super::signing::{SighashKind, SigningItem};

/// Why a message cannot be signed; Core's texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("Address does not refer to key")]
    NotAKey,
    #[error("Private key not available")]
    NotOurs,
    #[error("Sign failed")]
    Invalid,
}

impl Wallet {
    /// What the quorum signs for a message: by the key of a legacy address, recoverably.
    pub fn message_item(&self, script: &Script, message: &str) -> Result<SigningItem, MessageError> {
        if !script.is_p2pkh() {
            return Err(MessageError::NotAKey);
        }
        let key = self.key_info(script).filter(|key| key.address_type() == AddressType::Legacy);
        let key = key.ok_or(MessageError::NotOurs)?;
        Ok(SigningItem {
            input: 0,
            key,
            message: signed_msg_hash(message).to_byte_array(),
            sighash: SighashKind::Ecdsa(EcdsaSighashType::All),
        })
    }
}

/// The base64 text of a signed message. The recovery id is found by trying the four there are.
pub fn encode_message_signature(item: &SigningItem, signature: &Signature) -> Result<String, MessageError> {
    let message = Message::from_digest(item.message);
    let compact = signature.serialize_compact();
    for id in 0..4 {
        let Ok(recovery) = RecoveryId::from_i32(id) else { continue };
        let Ok(candidate) = RecoverableSignature::from_compact(&compact, recovery) else { continue };
        if SECP256K1.recover_ecdsa(&message, &candidate).is_ok_and(|key| key == item.key.public_key) {
            return Ok(MessageSignature::new(candidate, true).to_base64());
        }
    }
    Err(MessageError::Invalid)
}
