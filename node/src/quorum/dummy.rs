//! A transaction with signatures of the right size that sign nothing: what mempool acceptance can be asked about before
//! anybody has signed.
//!
//! Source: the shapes of standard inputs (BIP141, BIP341); sizes are those of low-S ECDSA signatures with low R, the
//! smallest that can come out, so that no rate is taken for lower than it will be.

use bitcoin::script::{PushBytesBuf, ScriptBuf};
use bitcoin::{Psbt, Transaction, Witness};
use tss_wallet::wallet::keychain::AddressType;

use super::check::CheckedItem;
use super::wire::InputKey;

/// The DER form of r and s of 32 bytes each that no key ever signed with.
fn ecdsa(sighash: u8) -> Vec<u8> {
    const INTEGER: [u8; 2] = [0x02, 32];
    let number = [1_u8; 32];
    let mut out = vec![0x30, 68];
    for _ in 0..2 {
        out.extend_from_slice(&INTEGER);
        out.extend_from_slice(&number);
    }
    out.push(sighash);
    out
}

fn schnorr(sighash: u8) -> Vec<u8> {
    let mut out = vec![1; 64];
    if sighash != 0 {
        out.push(sighash);
    }
    out
}

/// A script of pushes; what is too long for one is left out.
fn pushes(parts: &[Vec<u8>]) -> ScriptBuf {
    let mut script = ScriptBuf::new();
    for part in parts {
        if let Ok(bytes) = PushBytesBuf::try_from(part.clone()) {
            script.push_slice(bytes);
        }
    }
    script
}

/// The PSBT's transaction with dummy signatures in the inputs named, and the final ones that others left in theirs.
pub fn sign(psbt: &Psbt, inputs: &[InputKey], items: &[CheckedItem]) -> Transaction {
    let mut tx = psbt.unsigned_tx.clone();
    for (input, described) in tx.input.iter_mut().zip(&psbt.inputs) {
        input.script_sig = described.final_script_sig.clone().unwrap_or_default();
        input.witness = described.final_script_witness.clone().unwrap_or_default();
    }
    for (named, item) in inputs.iter().zip(items) {
        let Some(input) = tx.input.get_mut(named.input as usize) else { continue };
        let coin = psbt.inputs.get(named.input as usize).and_then(|input| input.witness_utxo.as_ref());
        // What a script shared with others wants in full is not for us to say.
        if coin.is_some_and(|coin| coin.script_pubkey != item.key.script) {
            continue;
        }
        let key = item.key.public_key.serialize().to_vec();
        let signature = ecdsa(named.sighash);
        let (script, witness) = match item.key.address_type() {
            AddressType::Legacy => (pushes(&[signature, key]), Witness::new()),
            AddressType::P2shSegwit => {
                let redeem = item.key.redeem_script().unwrap_or_default().into_bytes();
                (pushes(&[redeem]), Witness::from_slice(&[signature, key]))
            }
            AddressType::Bech32 => (ScriptBuf::new(), Witness::from_slice(&[signature, key])),
            AddressType::Bech32m => (ScriptBuf::new(), Witness::from_slice(&[schnorr(named.sighash)])),
        };
        input.script_sig = script;
        input.witness = witness;
    }
    tx
}
