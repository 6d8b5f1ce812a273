//! What a co-signer checks by itself before it contributes to a signature.
//!
//! Gets the whole transaction and the keys its inputs are said to belong to; derives every script itself, takes the
//! spent outputs from its own chain and mempool, and computes every hash that is signed. What it does not know falls
//! back to what the PSBT says, as Core's signing does. Source: `adversary.md`, "what every co-signer checks"; BIP143,
//! BIP341, BIP174.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{EcdsaSighashType, OutPoint, Psbt, TapSighashType, Transaction, TxOut, Txid};
use tss_wallet::WalletId;
use tss_wallet::wallet::keychain::{AddressType, KeyInfo, Keychains};

use super::refusal::Refusal;
use super::wire::{InputKey, Subject};
use crate::wallets::chain_view::ChainView;

/// Largest number of signatures in one request.
pub const MAX_ITEMS: usize = 2_000;

/// One signature to be made, as this member computed it.
#[derive(Debug, Clone)]
pub struct CheckedItem {
    pub key: KeyInfo,
    pub message: [u8; 32],
}

/// A request that passed.
#[derive(Debug, Clone)]
pub struct Checked {
    pub items: Vec<CheckedItem>,
    pub txid: Option<Txid>,
    /// All coins the transaction spends.
    pub inputs: Vec<OutPoint>,
    /// H(wallet, subject, idempotency key).
    pub request: [u8; 32],
}

/// Checks a subject against this member's own keys, chain and mempool.
pub fn check(
    wallet: &WalletId,
    keys: &Keychains,
    chain: &dyn ChainView,
    subject: &Subject,
    idempotency_key: Option<&str>,
) -> Result<Checked, Refusal> {
    match subject {
        Subject::Transaction { psbt, inputs } => {
            let psbt = Psbt::deserialize(&psbt.0).map_err(|error| Refusal::Malformed(error.to_string()))?;
            let items = transaction_items(keys, chain, &psbt, inputs)?;
            let txid = psbt.unsigned_tx.compute_txid();
            let request = request_id(wallet, &txid.to_byte_array(), idempotency_key);
            let inputs = psbt.unsigned_tx.input.iter().map(|input| input.previous_output).collect();
            Ok(Checked { items, txid: Some(txid), inputs, request })
        }
        Subject::Message { text, key } => {
            let key = keys.derive(*key).ok_or(Refusal::OtherScript(0))?;
            if key.address_type() != AddressType::Legacy {
                return Err(Refusal::OtherScript(0));
            }
            let message = bitcoin::sign_message::signed_msg_hash(text).to_byte_array();
            let request = request_id(wallet, &message, None);
            Ok(Checked { items: vec![CheckedItem { key, message }], txid: None, inputs: Vec::new(), request })
        }
    }
}

fn request_id(wallet: &WalletId, subject: &[u8; 32], key: Option<&str>) -> [u8; 32] {
    let mut engine = sha256::Hash::engine();
    engine.input(b"keyless/request/v1");
    engine.input(wallet.as_bytes());
    engine.input(subject);
    engine.input(key.unwrap_or_default().as_bytes());
    sha256::Hash::from_engine(engine).to_byte_array()
}

fn transaction_items(
    keys: &Keychains,
    chain: &dyn ChainView,
    psbt: &Psbt,
    inputs: &[InputKey],
) -> Result<Vec<CheckedItem>, Refusal> {
    if inputs.is_empty() {
        return Err(Refusal::Nothing);
    }
    if inputs.len() > MAX_ITEMS {
        return Err(Refusal::Malformed(format!("more than {MAX_ITEMS} signatures")));
    }
    let tx = &psbt.unsigned_tx;
    let named: std::collections::HashSet<u32> = inputs.iter().map(|item| item.input).collect();
    let prevouts = (0..tx.input.len())
        .map(|index| prevout(chain, psbt, index, named.contains(&(index as u32))))
        .collect::<Result<Vec<Option<TxOut>>, Refusal>>()?;
    let mut cache = SighashCache::new(tx);
    inputs.iter().map(|item| checked_item(keys, tx, &prevouts, &mut cache, item)).collect()
}

/// The output that an input spends: this node's own view first, then the PSBT's.
fn prevout(chain: &dyn ChainView, psbt: &Psbt, index: usize, ours: bool) -> Result<Option<TxOut>, Refusal> {
    // A transaction has fewer inputs than u32 counts.
    let number = index as u32;
    let (Some(input), Some(spent)) = (psbt.inputs.get(index), psbt.unsigned_tx.input.get(index)) else {
        return Err(Refusal::NoSuchInput(number));
    };
    let outpoint = spent.previous_output;
    let mut told = input.witness_utxo.clone();
    if let Some(parent) = &input.non_witness_utxo {
        let output = parent.output.get(outpoint.vout as usize);
        let fits = parent.compute_txid() == outpoint.txid && told.as_ref().is_none_or(|told| Some(told) == output);
        match output {
            Some(output) if fits => told = Some(output.clone()),
            _ => return Err(Refusal::OtherPrevout(number)),
        }
    }
    match (chain.output(&outpoint), told) {
        (Some(known), Some(told)) if known != told => Err(Refusal::OtherPrevout(number)),
        (Some(known), _) => Ok(Some(known)),
        (None, Some(told)) => Ok(Some(told)),
        (None, None) if ours => Err(Refusal::UnknownPrevout(number)),
        (None, None) => Ok(None),
    }
}

fn checked_item(
    keys: &Keychains,
    tx: &Transaction,
    prevouts: &[Option<TxOut>],
    cache: &mut SighashCache<&Transaction>,
    item: &InputKey,
) -> Result<CheckedItem, Refusal> {
    let index = item.input as usize;
    let output = match prevouts.get(index) {
        None => return Err(Refusal::NoSuchInput(item.input)),
        Some(None) => return Err(Refusal::UnknownPrevout(item.input)),
        Some(Some(output)) => output,
    };
    let key = keys.derive(item.key).ok_or(Refusal::OtherScript(item.input))?;
    if key.script != output.script_pubkey {
        return Err(Refusal::OtherScript(item.input));
    }
    let wrong_type = || Refusal::SighashType(item.input);
    let message = if key.address_type() == AddressType::Bech32m {
        let sighash = TapSighashType::from_consensus_u8(item.sighash).map_err(|_| wrong_type())?;
        if matches!(sighash, TapSighashType::Single | TapSighashType::SinglePlusAnyoneCanPay)
            && index >= tx.output.len()
        {
            return Err(wrong_type());
        }
        let anyone_can_pay = item.sighash & 0x80 != 0;
        let hash = if anyone_can_pay {
            cache.taproot_key_spend_signature_hash(index, &Prevouts::One(index, output), sighash)
        } else {
            let all = prevouts.iter().map(Option::as_ref).collect::<Option<Vec<&TxOut>>>();
            let missing = || prevouts.iter().position(Option::is_none).unwrap_or(index) as u32;
            let all = all.ok_or_else(|| Refusal::UnknownPrevout(missing()))?;
            cache.taproot_key_spend_signature_hash(index, &Prevouts::All(&all), sighash)
        };
        hash.map_err(|_| wrong_type())?.to_byte_array()
    } else {
        let sighash = EcdsaSighashType::from_standard(u32::from(item.sighash)).map_err(|_| wrong_type())?;
        // Without an output of its own, SINGLE signs the number one: a signature over anything.
        let single = matches!(sighash, EcdsaSighashType::Single | EcdsaSighashType::SinglePlusAnyoneCanPay);
        if single && index >= tx.output.len() {
            return Err(wrong_type());
        }
        match key.address_type() {
            AddressType::Legacy => cache
                .legacy_signature_hash(index, &output.script_pubkey, u32::from(item.sighash))
                .map_err(|_| wrong_type())?
                .to_byte_array(),
            _ => {
                let program = key.redeem_script().unwrap_or_else(|| output.script_pubkey.clone());
                cache
                    .p2wpkh_signature_hash(index, &program, output.value, sighash)
                    .map_err(|_| wrong_type())?
                    .to_byte_array()
            }
        }
    };
    Ok(CheckedItem { key, message })
}
