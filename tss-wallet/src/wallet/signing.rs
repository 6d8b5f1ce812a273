//! What the quorum must sign for a transaction, and where its signatures go.
//!
//! Knows the scripts of the wallet's four address types; a foreign input is left as it is. Nothing here runs scripts:
//! whether an input that someone else signed is complete is asked of [`ScriptCheck`], which the node answers with
//! Core's own interpreter. Every signature is checked against its key before it is put in place.
//! Source: BIP143, BIP341, Core's `SignTransaction` for order and words.

use std::collections::BTreeMap;

use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::secp256k1::{self, Message, PublicKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Witness};
use secp256k1::SECP256K1;

use super::Wallet;
use super::keychain::{AddressType, KeyInfo};

/// The sighash type of one signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SighashKind {
    Ecdsa(EcdsaSighashType),
    Taproot(TapSighashType),
}

/// One signature to be made: which input, by which key, over what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningItem {
    /// Position of the input in the transaction; 0 for a signed message.
    pub input: usize,
    pub key: KeyInfo,
    /// The 32 bytes to sign: a sighash.
    pub message: [u8; 32],
    pub sighash: SighashKind,
}

/// What the quorum made of one [`SigningItem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupSignature {
    /// Low-S, for all but taproot.
    Ecdsa(secp256k1::ecdsa::Signature),
    /// BIP340, over the tweaked output key.
    Schnorr(secp256k1::schnorr::Signature),
}

/// A signature that does not fit what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("{got} signatures for {wanted} inputs")]
    Count { wanted: usize, got: usize },
    #[error("the signature for input {input} does not verify")]
    Invalid { input: usize },
    #[error("the transaction has no input {input}")]
    NoInput { input: usize },
}

/// A sighash type that Core does not know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:#04x} is not a valid sighash parameter.")]
pub struct UnknownSighash(pub u8);

/// A sighash type as asked for: 0 is taproot's default and stands for ALL elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SighashChoice(u8);

impl SighashChoice {
    pub const DEFAULT: Self = Self(0);

    pub fn new(byte: u8) -> Result<Self, UnknownSighash> {
        TapSighashType::from_consensus_u8(byte).map(|_| Self(byte)).map_err(|_| UnknownSighash(byte))
    }

    pub const fn byte(self) -> u8 {
        self.0
    }

    /// `SIGHASH_SINGLE`, alone or with `ANYONECANPAY`.
    pub const fn is_single(self) -> bool {
        self.0 & 0x7f == 3
    }

    pub fn kind(self, address_type: AddressType) -> SighashKind {
        match address_type {
            AddressType::Bech32m => {
                SighashKind::Taproot(TapSighashType::from_consensus_u8(self.0).unwrap_or(TapSighashType::Default))
            }
            _ => SighashKind::Ecdsa(EcdsaSighashType::from_consensus(u32::from(if self.0 == 0 { 1 } else { self.0 }))),
        }
    }
}

/// Asks whether an input is complete: the transaction, the input, what it spends, and all that is spent if known.
/// The error is Core's name for what the script said.
pub type ScriptCheck<'a> = dyn Fn(&Transaction, usize, &TxOut, Option<&[TxOut]>) -> Result<(), String> + 'a;

/// What is wrong with one input, in Core's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    pub input: usize,
    pub text: String,
}

/// A coin that a transaction to be signed spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrevCoin {
    pub script: ScriptBuf,
    /// Not known where a caller described the coin without it.
    pub amount: Option<Amount>,
}

impl PrevCoin {
    fn output(&self) -> TxOut {
        TxOut { value: self.amount.unwrap_or(Amount::MAX_MONEY), script_pubkey: self.script.clone() }
    }
}

/// Makes the item of one input of ours; `None` where nothing can be signed: SINGLE without its output, or a taproot
/// input while another input's coin is unknown.
pub(crate) fn item_for(
    cache: &mut SighashCache<&Transaction>,
    input: usize,
    coin: &TxOut,
    all_coins: Option<&[TxOut]>,
    key: KeyInfo,
    choice: SighashChoice,
) -> Option<SigningItem> {
    if choice.is_single() && input >= cache.transaction().output.len() {
        return None;
    }
    let sighash = choice.kind(key.address_type());
    let message = match sighash {
        SighashKind::Taproot(kind) => {
            let coins = Prevouts::All(all_coins?);
            *AsRef::<[u8; 32]>::as_ref(&cache.taproot_key_spend_signature_hash(input, &coins, kind).ok()?)
        }
        SighashKind::Ecdsa(kind) => match key.redeem_script() {
            Some(program) => *cache.p2wpkh_signature_hash(input, &program, coin.value, kind).ok()?.as_ref(),
            None if key.address_type() == AddressType::Bech32 => {
                *cache.p2wpkh_signature_hash(input, &key.script, coin.value, kind).ok()?.as_ref()
            }
            None => *cache.legacy_signature_hash(input, &key.script, kind.to_u32()).ok()?.as_ref(),
        },
    };
    Some(SigningItem { input, key, message, sighash })
}

/// The DER signature and its sighash byte.
pub(crate) fn ecdsa_bytes(signature: secp256k1::ecdsa::Signature, kind: EcdsaSighashType) -> Vec<u8> {
    bitcoin::ecdsa::Signature { signature, sighash_type: kind }.to_vec()
}

/// Whether a signature is one by the item's key over the item's message.
pub fn verify_signature(item: &SigningItem, signature: &GroupSignature) -> Result<(), SignatureError> {
    let invalid = SignatureError::Invalid { input: item.input };
    let message = Message::from_digest(item.message);
    match (signature, item.sighash) {
        (GroupSignature::Ecdsa(signature), SighashKind::Ecdsa(_)) => {
            SECP256K1.verify_ecdsa(&message, signature, &item.key.public_key).map_err(|_| invalid)
        }
        (GroupSignature::Schnorr(signature), SighashKind::Taproot(_)) => {
            use bitcoin::key::TapTweak;
            let (output_key, _) = item.key.internal_key().tap_tweak(SECP256K1, None);
            SECP256K1.verify_schnorr(signature, &message, &output_key.to_x_only_public_key()).map_err(|_| invalid)
        }
        _ => Err(invalid),
    }
}

/// Checks that there is one good signature for each item, in the same order.
pub fn verify_signatures(items: &[SigningItem], signatures: &[GroupSignature]) -> Result<(), SignatureError> {
    if items.len() != signatures.len() {
        return Err(SignatureError::Count { wanted: items.len(), got: signatures.len() });
    }
    items.iter().zip(signatures).try_for_each(|(item, signature)| verify_signature(item, signature))
}

fn push(bytes: &[u8]) -> PushBytesBuf {
    // A signature, a key or a witness program: far below the limit of a push.
    PushBytesBuf::try_from(bytes.to_vec()).unwrap_or_default()
}

fn sig_and_key(signature: &[u8], key: &PublicKey) -> Witness {
    let mut witness = Witness::new();
    witness.push(signature);
    witness.push(key.serialize());
    witness
}

/// The script and witness that spend a coin of ours, given its signature.
pub fn satisfaction(item: &SigningItem, signature: &GroupSignature) -> (ScriptBuf, Witness) {
    match (signature, item.sighash) {
        (GroupSignature::Ecdsa(signature), SighashKind::Ecdsa(kind)) => {
            let signature = ecdsa_bytes(*signature, kind);
            let key = &item.key.public_key;
            match item.key.redeem_script() {
                Some(program) => {
                    let script = Builder::new().push_slice(push(program.as_bytes())).into_script();
                    (script, sig_and_key(&signature, key))
                }
                None if item.key.address_type() == AddressType::Legacy => {
                    let script =
                        Builder::new().push_slice(push(&signature)).push_slice(push(&key.serialize())).into_script();
                    (script, Witness::new())
                }
                None => (ScriptBuf::new(), sig_and_key(&signature, key)),
            }
        }
        (GroupSignature::Schnorr(signature), SighashKind::Taproot(kind)) => {
            let signature = bitcoin::taproot::Signature { signature: *signature, sighash_type: kind };
            (ScriptBuf::new(), Witness::p2tr_key_spend(&signature))
        }
        _ => (ScriptBuf::new(), Witness::new()),
    }
}

/// Puts signatures in place, one for each item in the same order.
pub fn apply_signatures(
    tx: &mut Transaction,
    items: &[SigningItem],
    signatures: &[GroupSignature],
) -> Result<(), SignatureError> {
    verify_signatures(items, signatures)?;
    for (item, signature) in items.iter().zip(signatures) {
        let (script, witness) = satisfaction(item, signature);
        let input = tx.input.get_mut(item.input).ok_or(SignatureError::NoInput { input: item.input })?;
        input.script_sig = script;
        input.witness = witness;
    }
    Ok(())
}

/// A raw transaction on its way to being signed.
#[derive(Debug, Clone)]
pub struct RawSigning {
    tx: Transaction,
    coins: Vec<Option<PrevCoin>>,
    /// All that is spent, when every coin is known.
    outputs: Option<Vec<TxOut>>,
    items: Vec<SigningItem>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSigned {
    pub tx: Transaction,
    /// Empty when the transaction is complete.
    pub errors: Vec<InputError>,
}

impl RawSigned {
    pub fn complete(&self) -> bool {
        self.errors.is_empty()
    }
}

impl Wallet {
    /// Everything of ours that is to be signed in a transaction we made: all inputs, by the coins in the ledger.
    /// `None` when an input is not ours.
    pub fn signing_items(&self, tx: &Transaction, choice: SighashChoice) -> Option<Vec<SigningItem>> {
        let coins: Vec<TxOut> =
            tx.input.iter().map(|input| self.output(input.previous_output).cloned()).collect::<Option<_>>()?;
        let mut cache = SighashCache::new(tx);
        coins
            .iter()
            .enumerate()
            .map(|(input, coin)| {
                let key = self.key_info(&coin.script_pubkey)?;
                item_for(&mut cache, input, coin, Some(&coins), key, choice)
            })
            .collect()
    }

    /// Looks at a transaction that anyone may have made: which inputs are ours and still want a signature. `coins`
    /// are those the node knows to be unspent, and those the caller described.
    pub fn raw_signing(
        &self,
        tx: Transaction,
        coins: &BTreeMap<OutPoint, PrevCoin>,
        choice: SighashChoice,
        check: &ScriptCheck<'_>,
    ) -> RawSigning {
        let coins: Vec<Option<PrevCoin>> =
            tx.input.iter().map(|input| coins.get(&input.previous_output).cloned()).collect();
        let outputs: Option<Vec<TxOut>> = coins.iter().map(|coin| coin.as_ref().map(PrevCoin::output)).collect();
        let mut cache = SighashCache::new(&tx);
        let mut items = Vec::new();
        for (index, coin) in coins.iter().enumerate() {
            let Some(output) = coin.as_ref().map(PrevCoin::output) else { continue };
            let Some(key) = self.key_info(&output.script_pubkey) else { continue };
            let filled =
                tx.input.get(index).is_some_and(|input| !input.script_sig.is_empty() || !input.witness.is_empty());
            if filled && check(&tx, index, &output, outputs.as_deref()).is_ok() {
                continue;
            }
            items.extend(item_for(&mut cache, index, &output, outputs.as_deref(), key, choice));
        }
        RawSigning { tx, coins, outputs, items }
    }
}

impl RawSigning {
    /// What the quorum must sign; may be empty.
    pub fn items(&self) -> &[SigningItem] {
        &self.items
    }

    pub fn transaction(&self) -> &Transaction {
        &self.tx
    }

    /// Puts the signatures in place and says of each input what is missing, in Core's words.
    pub fn finish(
        mut self,
        signatures: &[GroupSignature],
        check: &ScriptCheck<'_>,
    ) -> Result<RawSigned, SignatureError> {
        apply_signatures(&mut self.tx, &self.items, signatures)?;
        let mut errors = Vec::new();
        for (index, coin) in self.coins.iter().enumerate() {
            let text = match coin {
                None => Some("Input not found or already spent".to_owned()),
                Some(coin) => self.fault(index, coin, check),
            };
            errors.extend(text.map(|text| InputError { input: index, text }));
        }
        Ok(RawSigned { tx: self.tx, errors })
    }

    fn fault(&self, index: usize, coin: &PrevCoin, check: &ScriptCheck<'_>) -> Option<String> {
        let input = self.tx.input.get(index)?;
        if coin.amount.is_none() && !input.witness.is_empty() {
            return Some("Missing amount".to_owned());
        }
        if self.items.iter().any(|item| item.input == index) {
            return None;
        }
        let unsigned = input.script_sig.is_empty() && input.witness.is_empty();
        if unsigned && (coin.script.is_p2pkh() || coin.script.is_p2sh() || coin.script.is_p2pk()) {
            return Some(UNABLE.to_owned());
        }
        let verdict = check(&self.tx, index, &coin.output(), self.outputs.as_deref());
        verdict.err().map(|text| match text.as_str() {
            "Operation not valid with the current stack size" => UNABLE.to_owned(),
            "Signature must be zero for failed CHECK(MULTI)SIG operation" => {
                "CHECK(MULTI)SIG failing with non-zero signature (possibly need more signatures)".to_owned()
            }
            _ => text,
        })
    }
}

const UNABLE: &str = "Unable to sign input, invalid stack size (possibly missing key)";
