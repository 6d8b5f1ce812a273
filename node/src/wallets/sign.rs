//! Signatures of a wallet, all made by its quorum: for transactions, PSBTs and messages.

use std::collections::BTreeMap;

use bitcoin::psbt::Input;
use bitcoin::{OutPoint, Psbt, Script, ScriptBuf, Transaction, TxOut, Witness};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{InputError, PrevOut, ProcessedPsbt, PsbtOptions, SighashType, SignedTransaction};
use tss_wallet::Signature;
use tss_wallet::wallet::message::{MessageError, encode_message_signature};
use tss_wallet::wallet::psbt::{PsbtError, coins_of, extract, is_complete};
use tss_wallet::wallet::signing::{GroupSignature, PrevCoin, SighashChoice, SighashKind, SigningItem};

use super::loaded::Loaded;
use crate::quorum::QuorumError;
use crate::quorum::signing::{self, Terms};
use crate::quorum::wire::{Blob, InputKey, OutputKey, Subject};

/// −4 with the reason and the members it concerns.
pub(super) fn quorum_error(error: &QuorumError) -> RpcError {
    let text = format!("Error: {error}");
    match error {
        QuorumError::Locked => RpcError::new(code::RPC_WALLET_UNLOCK_NEEDED, text),
        _ => RpcError::wallet(text),
    }
}

/// Why a quorum gave no signatures.
pub(super) enum SignFailure {
    /// Another co-signer is spending this coin: choose others.
    CoinTaken(OutPoint),
    Other(RpcError),
}

impl From<QuorumError> for SignFailure {
    fn from(error: QuorumError) -> Self {
        match error {
            QuorumError::CoinTaken(coin) => Self::CoinTaken(coin),
            other => Self::Other(quorum_error(&other)),
        }
    }
}

impl From<RpcError> for SignFailure {
    fn from(error: RpcError) -> Self {
        Self::Other(error)
    }
}

impl From<SignFailure> for RpcError {
    fn from(failure: SignFailure) -> Self {
        match failure {
            SignFailure::CoinTaken(coin) => quorum_error(&QuorumError::CoinTaken(coin)),
            SignFailure::Other(error) => error,
        }
    }
}

fn sighash_byte(kind: SighashKind) -> u8 {
    match kind {
        // Every ECDSA sighash type is a byte.
        SighashKind::Ecdsa(kind) => kind.to_u32().to_le_bytes()[0],
        SighashKind::Taproot(kind) => kind as u8,
    }
}

fn group_signature(signature: &Signature) -> GroupSignature {
    match signature {
        Signature::Ecdsa { signature, .. } => GroupSignature::Ecdsa(*signature),
        Signature::Schnorr(signature) => GroupSignature::Schnorr(*signature),
    }
}

fn sighash_choice(sighash: SighashType) -> Result<SighashChoice, RpcError> {
    SighashChoice::new(sighash.0).map_err(|error| RpcError::invalid_parameter(error.to_string()))
}

impl Loaded {
    /// Signatures for the items of a transaction, in their order. Blocks.
    pub(super) fn quorum_sign(
        &self,
        tx: &Transaction,
        coins: &[Option<TxOut>],
        items: &[SigningItem],
        shown: &[Input],
        terms: Terms<'_>,
    ) -> Result<Vec<GroupSignature>, SignFailure> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let subject = self.subject(tx, coins, items, shown)?;
        let keys = self.signing_keys()?;
        let signed = signing::sign(keys.quorum.core(), &keys.holding, &subject, terms);
        Ok(signed?.iter().map(group_signature).collect())
    }

    /// A transaction as the members are asked about it. `shown` has the scripts that our keys share with others.
    pub(super) fn subject(
        &self,
        tx: &Transaction,
        coins: &[Option<TxOut>],
        items: &[SigningItem],
        shown: &[Input],
    ) -> Result<Subject, RpcError> {
        let mut bare = tx.clone();
        for input in &mut bare.input {
            input.script_sig = ScriptBuf::new();
            input.witness = Witness::new();
        }
        let mut psbt = Psbt::from_unsigned_tx(bare).map_err(|error| RpcError::internal(error.to_string()))?;
        for (input, coin) in psbt.inputs.iter_mut().zip(coins) {
            input.witness_utxo.clone_from(coin);
        }
        for item in items {
            let Some((input, shown)) = psbt.inputs.get_mut(item.input).zip(shown.get(item.input)) else { continue };
            if input.witness_utxo.as_ref().is_some_and(|coin| coin.script_pubkey != item.key.script) {
                input.redeem_script.clone_from(&shown.redeem_script);
                input.witness_script.clone_from(&shown.witness_script);
            }
        }
        let inputs: Vec<InputKey> = items
            .iter()
            .map(|item| InputKey {
                // A transaction has fewer inputs than u32 counts.
                input: item.input as u32,
                key: item.key.id,
                sighash: sighash_byte(item.sighash),
            })
            .collect();
        let change = {
            let wallet = self.wallet();
            let keys = tx.output.iter().zip(0_u32..);
            let ours = keys.filter_map(|(output, number)| Some((number, wallet.keys().key_of(&output.script_pubkey)?)));
            ours.filter(|(_, key)| key.chain.branch.is_change())
                .map(|(output, key)| OutputKey { output, key })
                .collect()
        };
        let count = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
        Ok(Subject::Transaction { psbt: Blob(psbt.serialize()), inputs, change, first: 0, count })
    }

    /// `signrawtransactionwithwallet`.
    pub(super) fn sign_raw(
        &self,
        tx: Transaction,
        prevouts: &[PrevOut],
        sighash: SighashType,
    ) -> Result<SignedTransaction, RpcError> {
        let choice = sighash_choice(sighash)?;
        let coins = self.coins_for(&tx, prevouts)?;
        let outputs: Vec<Option<TxOut>> = tx
            .input
            .iter()
            .map(|input| {
                let coin = coins.get(&input.previous_output)?;
                Some(TxOut {
                    value: coin.amount.unwrap_or(bitcoin::Amount::MAX_MONEY),
                    script_pubkey: coin.script.clone(),
                })
            })
            .collect();
        let check =
            |tx: &Transaction, input: usize, _: &TxOut, _: Option<&[TxOut]>| self.chain.verify_input(tx, input, &coins);
        let raw = self.wallet().raw_signing(tx, &coins, choice, &check);
        let signatures = self.quorum_sign(raw.transaction(), &outputs, raw.items(), &[], Terms::default())?;
        let signed = raw.finish(&signatures, &check).map_err(|error| RpcError::internal(error.to_string()))?;
        let complete = signed.complete();
        let errors = signed.errors.into_iter().map(|error| InputError { input: error.input, text: error.text });
        Ok(SignedTransaction { tx: signed.tx, complete, errors: errors.collect() })
    }

    /// What the node knows of the coins, and what the caller says of others.
    fn coins_for(&self, tx: &Transaction, prevouts: &[PrevOut]) -> Result<BTreeMap<OutPoint, PrevCoin>, RpcError> {
        let mut coins = BTreeMap::new();
        for input in &tx.input {
            if let Some(output) = self.chain.output(&input.previous_output) {
                coins.insert(
                    input.previous_output,
                    PrevCoin { script: output.script_pubkey, amount: Some(output.value) },
                );
            }
        }
        for prevout in prevouts {
            if let Some(known) = coins.get(&prevout.outpoint)
                && known.script != prevout.script
            {
                let text = format!(
                    "Previous output scriptPubKey mismatch:\n{}\nvs:\n{}",
                    self.chain.script_asm(&known.script),
                    self.chain.script_asm(&prevout.script)
                );
                return Err(RpcError::new(code::RPC_DESERIALIZATION_ERROR, text));
            }
            coins.insert(prevout.outpoint, PrevCoin { script: prevout.script.clone(), amount: prevout.amount });
        }
        Ok(coins)
    }

    /// `walletprocesspsbt`.
    pub(super) fn process(&self, mut psbt: Psbt, options: PsbtOptions) -> Result<ProcessedPsbt, RpcError> {
        let choice = options.sighash.map(sighash_choice).transpose()?;
        let items = {
            let wallet = self.wallet();
            wallet.fill_psbt(&mut psbt, options.bip32_derivs).map_err(psbt_error)?;
            // Without signing, too: the sighash type asked for is written down, and held against what stands there.
            let items = wallet.psbt_items(&mut psbt, choice).map_err(psbt_error)?;
            if options.sign { items } else { Vec::new() }
        };
        let coins: Vec<Option<TxOut>> = match coins_of(&psbt).map_err(psbt_error)? {
            Some(coins) => coins.into_iter().map(Some).collect(),
            None => psbt.iter_funding_utxos().map(|utxo| utxo.ok().cloned()).collect(),
        };
        let signatures = self.quorum_sign(&psbt.unsigned_tx, &coins, &items, &psbt.inputs, Terms::default())?;
        let wallet = self.wallet();
        wallet.apply_psbt(&mut psbt, &items, &signatures, options.finalize).map_err(psbt_error)?;
        if options.finalize {
            wallet.finalize_psbt(&mut psbt).map_err(psbt_error)?;
        }
        // As Core counts: an input whose signatures are not put together yet is not complete.
        let complete = is_complete(&psbt);
        let tx = if complete { extract(&psbt) } else { None };
        Ok(ProcessedPsbt { psbt, complete, tx })
    }

    /// `signmessage`.
    pub(super) fn sign_text(&self, script: &Script, text: &str) -> Result<String, RpcError> {
        let item = self.wallet().message_item(script, text).map_err(message_error)?;
        let subject = Subject::Message { text: text.to_owned(), key: item.key.id };
        let keys = self.signing_keys()?;
        let signatures = signing::sign(keys.quorum.core(), &keys.holding, &subject, Terms::default());
        match signatures.map_err(|error| quorum_error(&error))?.first() {
            Some(Signature::Ecdsa { signature, .. }) => {
                encode_message_signature(&item, signature).map_err(message_error)
            }
            _ => Err(message_error(MessageError::Invalid)),
        }
    }
}

pub(super) fn psbt_error(error: PsbtError) -> RpcError {
    match error {
        PsbtError::SighashMismatch => RpcError::new(code::RPC_DESERIALIZATION_ERROR, error.to_string()),
        PsbtError::MissingInputs => RpcError::new(code::RPC_TRANSACTION_ERROR, error.to_string()),
        other => RpcError::wallet(other.to_string()),
    }
}

fn message_error(error: MessageError) -> RpcError {
    let code = match error {
        MessageError::NotAKey => code::RPC_TYPE_ERROR,
        MessageError::NotOurs => code::RPC_WALLET_ERROR,
        MessageError::Invalid => code::RPC_INVALID_ADDRESS_OR_KEY,
    };
    RpcError::new(code, error.to_string())
}
