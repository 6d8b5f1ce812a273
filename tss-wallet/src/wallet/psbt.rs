//! Partially signed transactions: filled with what the wallet knows, signed by the quorum, made final.
//!
//! Version 0 (BIP174, BIP371). Fields are set and dropped as Core's `FillPSBT` and `SignPSBTInput` do; paths have no
//! hardened step. Besides its own four address types the wallet signs in scripts it shares with others, where the PSBT
//! shows the script and a key of ours with its origin; what others signed is kept.
//! Refuses a sighash type that contradicts the PSBT, and a coin that is not the one its input names.

use bitcoin::psbt::{Input, PsbtSighashType};
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::{Psbt, ScriptBuf, Transaction, TxOut};
use miniscript::descriptor::{DefiniteDescriptorKey, Descriptor};
use miniscript::psbt::{PsbtExt, PsbtInputExt, PsbtOutputExt};
use secp256k1::{PublicKey, SECP256K1};

use super::Wallet;
use super::keychain::{AddressType, KeyInfo};
use super::signing::{
    GroupSignature, SighashChoice, SighashKind, SignatureError, SigningItem, item_for, satisfaction, verify_signatures,
};

/// Why a PSBT cannot be worked on; Core's texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PsbtError {
    #[error("Inputs missing or spent")]
    MissingInputs,
    #[error("Specified sighash value does not match value stored in PSBT")]
    SighashMismatch,
    #[error("The transaction already has signatures")]
    Signed,
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// True when an input needs nothing more.
pub fn is_final(input: &Input) -> bool {
    input.final_script_sig.is_some() || input.final_script_witness.is_some()
}

/// The coin an input spends, when the PSBT says it truthfully. `Ok(None)` when it says nothing.
fn coin_of(psbt: &Psbt, index: usize) -> Result<Option<TxOut>, PsbtError> {
    let (Some(input), Some(txin)) = (psbt.inputs.get(index), psbt.unsigned_tx.input.get(index)) else {
        return Err(PsbtError::MissingInputs);
    };
    let Some(previous) = &input.non_witness_utxo else { return Ok(input.witness_utxo.clone()) };
    if previous.compute_txid() != txin.previous_output.txid {
        return Err(PsbtError::MissingInputs);
    }
    let vout = usize::try_from(txin.previous_output.vout).map_err(|_| PsbtError::MissingInputs)?;
    previous.output.get(vout).cloned().map(Some).ok_or(PsbtError::MissingInputs)
}

/// All coins, when every input's is known.
pub fn coins_of(psbt: &Psbt) -> Result<Option<Vec<TxOut>>, PsbtError> {
    (0..psbt.inputs.len()).map(|index| coin_of(psbt, index)).collect()
}

impl Wallet {
    /// A PSBT of an unsigned transaction; scripts and witnesses already there are refused.
    pub fn make_psbt(&self, tx: Transaction) -> Result<Psbt, PsbtError> {
        Psbt::from_unsigned_tx(tx).map_err(|_| PsbtError::Signed)
    }

    /// Adds what the wallet knows: coins, scripts and, if wanted, key origins.
    pub fn fill_psbt(&self, psbt: &mut Psbt, bip32_derivs: bool) -> Result<(), PsbtError> {
        for index in 0..psbt.inputs.len() {
            let Some(txin) = psbt.unsigned_tx.input.get(index) else { return Err(PsbtError::MissingInputs) };
            let outpoint = txin.previous_output;
            if let Some(input) = psbt.inputs.get_mut(index) {
                if is_final(input) {
                    continue;
                }
                if input.non_witness_utxo.is_none() {
                    input.non_witness_utxo = self.ledger.get(&outpoint.txid).map(|record| record.tx.as_ref().clone());
                }
            }
            let Some(coin) = coin_of(psbt, index)? else { continue };
            let Some(input) = psbt.inputs.get_mut(index) else { return Err(PsbtError::MissingInputs) };
            if let Some(key) = self.key_info(&coin.script_pubkey) {
                describe_input(input, coin, &key, bip32_derivs);
            } else if let Some(definite) = self.keys.definite(&coin.script_pubkey) {
                describe_imported(input, coin, &definite, bip32_derivs);
            }
        }
        for (output, txout) in psbt.outputs.iter_mut().zip(&psbt.unsigned_tx.output) {
            let Some(key) = self.key_info(&txout.script_pubkey) else {
                if let Some(definite) = self.keys.definite(&txout.script_pubkey) {
                    // Refused only for a script that is not the descriptor's own, which this one is.
                    let _ = output.update_with_descriptor_unchecked(&definite);
                    if !bip32_derivs {
                        output.bip32_derivation.clear();
                        output.tap_key_origins.clear();
                    }
                }
                continue;
            };
            let origin = (key.fingerprint, key.path.clone());
            if key.address_type() == AddressType::Bech32m {
                output.tap_internal_key = Some(key.internal_key());
                if bip32_derivs {
                    output.tap_key_origins.insert(key.internal_key(), (Vec::new(), origin));
                }
            } else {
                output.redeem_script = key.redeem_script().or(output.redeem_script.take());
                if bip32_derivs {
                    output.bip32_derivation.insert(key.public_key, origin);
                }
            }
        }
        drop_unneeded_transactions(psbt);
        Ok(())
    }

    /// What the quorum must sign in a PSBT. Checks every input of ours first: sighash types and coins.
    pub fn psbt_items(&self, psbt: &mut Psbt, asked: Option<SighashChoice>) -> Result<Vec<SigningItem>, PsbtError> {
        let coins = coins_of(psbt)?;
        let tx = psbt.unsigned_tx.clone();
        let mut cache = SighashCache::new(&tx);
        let mut items = Vec::new();
        for index in 0..psbt.inputs.len() {
            let Some(coin) = coin_of(psbt, index)? else { continue };
            let Some(input) = psbt.inputs.get_mut(index) else { return Err(PsbtError::MissingInputs) };
            if is_final(input) {
                continue;
            }
            let Some(key) = self.key_info(&coin.script_pubkey) else {
                items.extend(self.shared_items(input, index, &coin, &mut cache, asked)?);
                continue;
            };
            // Without the whole transaction the coin's value is only claimed, which a legacy signature would not show.
            if input.non_witness_utxo.is_none() && key.address_type() == AddressType::Legacy {
                continue;
            }
            let choice = settle_sighash(input, &key, asked)?;
            if already_signed(input, &key) {
                continue;
            }
            items.extend(item_for(&mut cache, index, &coin, coins.as_deref(), key, choice));
        }
        Ok(items)
    }

    /// Puts signatures into a PSBT, as final scripts or as partial signatures.
    pub fn apply_psbt(
        &self,
        psbt: &mut Psbt,
        items: &[SigningItem],
        signatures: &[GroupSignature],
        finalize: bool,
    ) -> Result<(), PsbtError> {
        verify_signatures(items, signatures)?;
        for (item, signature) in items.iter().zip(signatures) {
            let own = coin_of(psbt, item.input)?.is_some_and(|coin| coin.script_pubkey == item.key.script);
            let input = psbt.inputs.get_mut(item.input).ok_or(PsbtError::MissingInputs)?;
            if finalize && own {
                finalize_input(input, item, signature);
                continue;
            }
            match (signature, item.sighash) {
                (GroupSignature::Ecdsa(signature), SighashKind::Ecdsa(sighash_type)) => {
                    let signature = bitcoin::ecdsa::Signature { signature: *signature, sighash_type };
                    input.partial_sigs.insert(bitcoin::PublicKey::new(item.key.public_key), signature);
                }
                (GroupSignature::Schnorr(signature), SighashKind::Taproot(sighash_type)) => {
                    input.tap_key_sig = Some(bitcoin::taproot::Signature { signature: *signature, sighash_type });
                }
                _ => return Err(SignatureError::Invalid { input: item.input }.into()),
            }
            if finalize {
                // Others may still have to sign; then it stays as it is.
                let _ = psbt.finalize_inp_mut(SECP256K1, item.input);
            }
        }
        Ok(())
    }

    /// What is ours to sign in an input whose script is shared: each listed key that is ours.
    fn shared_items(
        &self,
        input: &mut Input,
        index: usize,
        coin: &TxOut,
        cache: &mut SighashCache<&Transaction>,
        asked: Option<SighashChoice>,
    ) -> Result<Vec<SigningItem>, PsbtError> {
        let keys: Vec<KeyInfo> = input
            .bip32_derivation
            .iter()
            .filter_map(|(key, (fingerprint, path))| {
                // Whoever made the script may have known no more of the key than its bytes.
                let by_origin = self.keys.key_by_origin(*fingerprint, path, key);
                by_origin.or_else(|| self.keys.key_by_public(key))
            })
            .filter(|key| !already_signed(input, key))
            .collect();
        let mut items = Vec::new();
        for key in keys {
            let choice = settle_sighash(input, &key, asked)?;
            let SighashKind::Ecdsa(kind) = choice.kind(key.address_type()) else { continue };
            if choice.is_single() && index >= cache.transaction().output.len() {
                continue;
            }
            let certain = input.non_witness_utxo.is_some();
            let found = shared_message(input, index, coin, cache, kind, certain);
            let sighash = SighashKind::Ecdsa(kind);
            items.extend(found.map(|(message, _)| SigningItem { input: index, key, message, sighash }));
        }
        Ok(items)
    }

    /// Makes final what holds a signature of ours already, from this wallet or from another copy of it.
    pub fn finalize_psbt(&self, psbt: &mut Psbt) -> Result<(), PsbtError> {
        for index in 0..psbt.inputs.len() {
            let Some(coin) = coin_of(psbt, index)? else { continue };
            let Some(key) = self.key_info(&coin.script_pubkey) else { continue };
            let Some(input) = psbt.inputs.get_mut(index).filter(|input| !is_final(input)) else { continue };
            let held = match key.address_type() {
                AddressType::Bech32m => input
                    .tap_key_sig
                    .map(|held| (GroupSignature::Schnorr(held.signature), SighashKind::Taproot(held.sighash_type))),
                _ => input
                    .partial_sigs
                    .get(&bitcoin::PublicKey::new(key.public_key))
                    .map(|held| (GroupSignature::Ecdsa(held.signature), SighashKind::Ecdsa(held.sighash_type))),
            };
            if let Some((signature, sighash)) = held {
                let item = SigningItem { input: index, key, message: [0; 32], sighash };
                finalize_input(input, &item, &signature);
            }
        }
        Ok(())
    }
}

/// True when every input is final.
pub fn is_complete(psbt: &Psbt) -> bool {
    psbt.inputs.iter().all(is_final)
}

/// The network transaction of a PSBT all of whose inputs are final.
pub fn extract(psbt: &Psbt) -> Option<Transaction> {
    if !is_complete(psbt) {
        return None;
    }
    let mut tx = psbt.unsigned_tx.clone();
    for (txin, input) in tx.input.iter_mut().zip(&psbt.inputs) {
        txin.script_sig = input.final_script_sig.clone().unwrap_or_default();
        txin.witness = input.final_script_witness.clone().unwrap_or_default();
    }
    Some(tx)
}

/// The sighash of a shared script, when the scripts shown are those the coin commits to. `certain`: so is its value, which
/// a signature of the old kind would not show.
fn shared_message(
    input: &Input,
    index: usize,
    coin: &TxOut,
    cache: &mut SighashCache<&Transaction>,
    kind: EcdsaSighashType,
    certain: bool,
) -> Option<([u8; 32], ScriptBuf)> {
    let wrapped = input.redeem_script.as_ref().filter(|script| script.to_p2sh() == coin.script_pubkey);
    let outer = wrapped.unwrap_or(&coin.script_pubkey);
    if let Some(script) = input.witness_script.as_ref().filter(|script| script.to_p2wsh() == *outer) {
        let message = cache.p2wsh_signature_hash(index, script, coin.value, kind).ok()?;
        return Some((*message.as_ref(), script.clone()));
    }
    let script = wrapped.filter(|script| !script.is_witness_program() && certain)?;
    let message = cache.legacy_signature_hash(index, script, kind.to_u32()).ok()?;
    Some((*message.as_ref(), script.clone()))
}

/// What a key signs in an input whose script it shares with others, by a member that knows the coin itself; none unless
/// the scripts shown are what the coin commits to and name the key.
pub fn shared_sighash(
    input: &Input,
    index: usize,
    coin: &TxOut,
    cache: &mut SighashCache<&Transaction>,
    kind: EcdsaSighashType,
    key: &PublicKey,
) -> Option<[u8; 32]> {
    let (message, script) = shared_message(input, index, coin, cache, kind, true)?;
    let key = key.serialize();
    let named =
        script.instructions().flatten().any(|part| part.push_bytes().is_some_and(|push| push.as_bytes() == key));
    named.then_some(message)
}

fn describe_input(input: &mut Input, coin: TxOut, key: &KeyInfo, bip32_derivs: bool) {
    let origin = (key.fingerprint, key.path.clone());
    if key.address_type() != AddressType::Legacy {
        input.witness_utxo = Some(coin);
    }
    if key.address_type() == AddressType::Bech32m {
        input.tap_internal_key = Some(key.internal_key());
        if bip32_derivs {
            input.tap_key_origins.insert(key.internal_key(), (Vec::new(), origin));
        }
        return;
    }
    if let Some(program) = key.redeem_script() {
        input.redeem_script = Some(program);
    }
    if bip32_derivs {
        input.bip32_derivation.insert(key.public_key, origin);
    }
}

/// The same for a coin of an imported descriptor.
fn describe_imported(input: &mut Input, coin: TxOut, definite: &Descriptor<DefiniteDescriptorKey>, bip32_derivs: bool) {
    if definite.desc_type().segwit_version().is_some() {
        input.witness_utxo = Some(coin);
    }
    let before = (input.bip32_derivation.clone(), input.tap_key_origins.clone());
    // Refused only for a descriptor without a script, which has no coin.
    let _ = input.update_with_descriptor_unchecked(definite);
    if !bip32_derivs {
        (input.bip32_derivation, input.tap_key_origins) = before;
    }
}

/// Taproot signatures cover all coins, so a transaction that has only such inputs needs no whole previous ones.
fn drop_unneeded_transactions(psbt: &mut Psbt) {
    let all_taproot = psbt.inputs.iter().all(|input| {
        let taproot = input
            .witness_utxo
            .as_ref()
            .is_some_and(|coin| coin.script_pubkey.witness_version().is_some_and(|version| version.to_num() >= 1));
        let anyone = input.sighash_type.is_some_and(|sighash| sighash.to_u32() & 0x80 != 0);
        taproot && !anyone
    });
    if all_taproot {
        for input in &mut psbt.inputs {
            input.non_witness_utxo = None;
        }
    }
}

fn already_signed(input: &Input, key: &KeyInfo) -> bool {
    match key.address_type() {
        AddressType::Bech32m => input.tap_key_sig.is_some(),
        _ => input.partial_sigs.contains_key(&bitcoin::PublicKey::new(key.public_key)),
    }
}

/// The sighash type of one input: asked for, or the usual one; what the PSBT already says must agree.
fn settle_sighash(input: &mut Input, key: &KeyInfo, asked: Option<SighashChoice>) -> Result<SighashChoice, PsbtError> {
    let taproot = key.address_type() == AddressType::Bech32m;
    let usual = if taproot { 0 } else { 1 };
    let byte = asked.map_or(usual, SighashChoice::byte);
    if input.sighash_type.is_some_and(|stored| stored.to_u32() != u32::from(byte)) {
        return Err(PsbtError::SighashMismatch);
    }
    let unusual = if taproot { byte != 0 } else { byte > 1 };
    if unusual {
        input.sighash_type = Some(PsbtSighashType::from_u32(u32::from(byte)));
    }
    let choice = SighashChoice::new(byte).map_err(|_| PsbtError::SighashMismatch)?;
    let held_otherwise = match choice.kind(key.address_type()) {
        SighashKind::Taproot(kind) => input.tap_key_sig.is_some_and(|held| held.sighash_type != kind),
        SighashKind::Ecdsa(kind) => input.partial_sigs.values().any(|held| held.sighash_type != kind),
    };
    if held_otherwise { Err(PsbtError::SighashMismatch) } else { Ok(choice) }
}

/// Final scripts in place of all that led to them: Core writes none of it once an input is final.
fn finalize_input(input: &mut Input, item: &SigningItem, signature: &GroupSignature) {
    let (script, witness) = satisfaction(item, signature);
    *input = Input {
        non_witness_utxo: input.non_witness_utxo.take(),
        witness_utxo: input.witness_utxo.take(),
        final_script_sig: (!script.is_empty()).then_some(script),
        final_script_witness: (!witness.is_empty()).then_some(witness),
        proprietary: std::mem::take(&mut input.proprietary),
        unknown: std::mem::take(&mut input.unknown),
        ..Input::default()
    };
}
