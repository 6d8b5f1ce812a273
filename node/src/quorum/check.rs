//! What a co-signer checks by itself before it contributes to a signature.
//!
//! Gets the whole transaction and the keys its inputs are said to belong to; derives every script itself, takes the
//! spent outputs from its own chain and mempool, and computes every hash that is signed. What it does not know falls
//! back to what the PSBT says, as Core's signing does. Source: `adversary.md`, "what every co-signer checks"; BIP143,
//! BIP341, BIP174.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{Amount, EcdsaSighashType, OutPoint, Psbt, ScriptBuf, TapSighashType, Transaction, TxOut, Txid};
use tss_wallet::WalletId;
use tss_wallet::policy::Spend;
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyInfo, Keychains};
use tss_wallet::wallet::psbt::shared_sighash;
use tss_wallet::wallet::signing::{SighashKind, SigningItem};

use super::dummy;
use super::refusal::Refusal;
use super::wire::{InputKey, OutputKey, Subject};
use crate::wallets::chain_view::ChainView;

/// Largest number of signatures in one request.
pub const MAX_ITEMS: usize = 2_000;

/// Change may lie so far above the highest lease that this member knows of: others may have granted more meanwhile.
pub const CHANGE_WINDOW: u32 = 1_000;

/// One signature to be made, as this member computed it.
#[derive(Debug, Clone)]
pub struct CheckedItem {
    pub key: KeyInfo,
    pub message: [u8; 32],
    /// Where in the transaction the signature goes; none for a message.
    pub to_sign: Option<SigningItem>,
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
    /// The user's own name for a payment, and what it would be remembered by.
    pub named: Option<(String, Txid)>,
    /// What a policy judges; none for a message.
    pub spend: Option<Spend>,
    /// Proven change.
    pub change: Amount,
    /// The transaction with signatures of the right size that sign nothing.
    pub dummy: Option<Transaction>,
    /// The ceremony makes every signature that the transaction still wants.
    pub whole: bool,
    /// The text of a message.
    pub text: Option<String>,
}

/// What this member knows of a wallet by itself.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    pub wallet: WalletId,
    pub keys: &'a Keychains,
    /// First index of each chain that was granted to nobody.
    pub marks: &'a [(ChainId, u32)],
    pub chain: &'a dyn ChainView,
}

/// Checks a subject against this member's own keys, chain and mempool.
pub fn check(own: Own<'_>, subject: &Subject, idempotency_key: Option<&str>) -> Result<Checked, Refusal> {
    match subject {
        Subject::Transaction { psbt, inputs, change, first, count } => {
            let psbt = Psbt::deserialize(&psbt.0).map_err(|error| Refusal::Malformed(error.to_string()))?;
            let part = part_of(inputs.len(), *first, *count)?;
            no_coin_twice(&psbt.unsigned_tx)?;
            let prevouts = prevouts(own.chain, &psbt, inputs)?;
            let mut items = transaction_items(own.keys, &psbt, &prevouts, inputs)?;
            let dummy = dummy::sign(&psbt, inputs, &items);
            let (recipients, change) = recipients(own, &psbt.unsigned_tx, change)?;
            let txid = psbt.unsigned_tx.compute_txid();
            let request = request_id(&own.wallet, &txid.to_byte_array(), idempotency_key);
            let coins: Vec<OutPoint> = psbt.unsigned_tx.input.iter().map(|input| input.previous_output).collect();
            let spend = Spend {
                txid,
                inputs: coins.clone(),
                recipients,
                fee: fee(&psbt.unsigned_tx, &prevouts),
                vsize: u64::try_from(dummy.vsize()).ok(),
                odd_sighash: inputs.iter().find(|item| !matches!(item.sighash, 0 | 1)).map(|item| item.input),
                // A transaction has fewer inputs than u32 counts.
                unknown_prevout: prevouts.iter().position(|prevout| !prevout.own).map(|index| index as u32),
            };
            let shared = |(named, item): (&InputKey, &CheckedItem)| {
                prevouts
                    .get(named.input as usize)
                    .and_then(|prevout| prevout.output.as_ref())
                    .is_some_and(|output| output.script_pubkey != item.key.script)
            };
            let whole = part.len() == items.len() && !inputs.iter().zip(&items).any(shared);
            let items = items.drain(part).collect();
            let named = idempotency_key.map(|name| (name.to_owned(), txid));
            let (txid, spend, dummy) = (Some(txid), Some(spend), Some(dummy));
            Ok(Checked { items, txid, inputs: coins, request, named, spend, change, dummy, whole, text: None })
        }
        Subject::Message { text, key } => {
            let key = own.keys.derive(*key).ok_or(Refusal::OtherScript(0))?;
            if key.address_type() != AddressType::Legacy {
                return Err(Refusal::OtherScript(0));
            }
            let message = bitcoin::sign_message::signed_msg_hash(text).to_byte_array();
            let request = request_id(&own.wallet, &message, None);
            let items = vec![CheckedItem { key, message, to_sign: None }];
            let (inputs, change) = (Vec::new(), Amount::ZERO);
            let text = Some(text.clone());
            let (txid, named, spend, dummy) = (None, None, None, None);
            Ok(Checked { items, txid, inputs, request, named, spend, change, dummy, whole: true, text })
        }
    }
}

/// Such a transaction is never valid, and its fee and amounts would be counted twice.
fn no_coin_twice(tx: &Transaction) -> Result<(), Refusal> {
    let mut seen = std::collections::HashSet::new();
    let again = tx.input.iter().find(|input| !seen.insert(input.previous_output));
    again.map_or(Ok(()), |input| Err(Refusal::Malformed(format!("coin {} is spent twice", input.previous_output))))
}

/// The signatures that one ceremony makes, of all that the request names.
fn part_of(all: usize, first: u32, count: u32) -> Result<std::ops::Range<usize>, Refusal> {
    if all == 0 || count == 0 {
        return Err(Refusal::Nothing);
    }
    if all > MAX_ITEMS {
        return Err(Refusal::Malformed(format!("more than {MAX_ITEMS} signatures")));
    }
    let end = first.checked_add(count).map(|end| end as usize).filter(|end| *end <= all);
    end.map(|end| first as usize..end).ok_or_else(|| Refusal::Malformed("a part of the inputs".to_owned()))
}

fn request_id(wallet: &WalletId, subject: &[u8; 32], key: Option<&str>) -> [u8; 32] {
    let mut engine = sha256::Hash::engine();
    engine.input(b"keyless/request/v1");
    engine.input(wallet.as_bytes());
    engine.input(subject);
    engine.input(key.unwrap_or_default().as_bytes());
    sha256::Hash::from_engine(engine).to_byte_array()
}

/// The coin of an input, and how it is known.
struct Prevout {
    output: Option<TxOut>,
    /// This node's own chain or mempool has it.
    own: bool,
    /// Its amount is certain: known here, or proven by the whole transaction that made it.
    certain: bool,
}

fn prevouts(chain: &dyn ChainView, psbt: &Psbt, inputs: &[InputKey]) -> Result<Vec<Prevout>, Refusal> {
    let named: std::collections::HashSet<u32> = inputs.iter().map(|item| item.input).collect();
    // A transaction has fewer inputs than u32 counts.
    (0..psbt.unsigned_tx.input.len())
        .map(|index| prevout(chain, psbt, index, named.contains(&(index as u32))))
        .collect()
}

fn transaction_items(
    keys: &Keychains,
    psbt: &Psbt,
    prevouts: &[Prevout],
    inputs: &[InputKey],
) -> Result<Vec<CheckedItem>, Refusal> {
    let outputs: Vec<Option<TxOut>> = prevouts.iter().map(|prevout| prevout.output.clone()).collect();
    let mut cache = SighashCache::new(&psbt.unsigned_tx);
    inputs.iter().map(|item| checked_item(keys, psbt, &outputs, &mut cache, item)).collect()
}

/// Inputs less outputs; none unless every amount is certain.
fn fee(tx: &Transaction, prevouts: &[Prevout]) -> Option<Amount> {
    let certain = |prevout: &Prevout| prevout.output.as_ref().filter(|_| prevout.certain).map(|output| output.value);
    let add = |sum: Amount, value: Amount| sum.checked_add(value);
    let spent = prevouts.iter().map(certain).try_fold(Amount::ZERO, |sum, value| add(sum, value?))?;
    let paid = tx.output.iter().map(|output| output.value).try_fold(Amount::ZERO, add)?;
    spent.checked_sub(paid)
}

/// What is paid, and the sum of the change. Change is what this member derives on the internal branch, in its window.
fn recipients(
    own: Own<'_>,
    tx: &Transaction,
    change: &[OutputKey],
) -> Result<(Vec<(ScriptBuf, Amount)>, Amount), Refusal> {
    let mut proven = std::collections::HashSet::new();
    let mut sum = Amount::ZERO;
    for claim in change {
        let refused = || Refusal::NotChange(claim.output);
        let output = tx.output.get(claim.output as usize).ok_or_else(refused)?;
        let mark = own.marks.iter().find(|(chain, _)| *chain == claim.key.chain).map_or(0, |(_, mark)| *mark);
        let in_window = claim.key.index < mark.saturating_add(CHANGE_WINDOW);
        if claim.key.chain.branch != Branch::Change || !in_window {
            return Err(refused());
        }
        let key = own.keys.derive(claim.key).ok_or_else(refused)?;
        if key.script != output.script_pubkey || !proven.insert(claim.output) {
            return Err(refused());
        }
        sum = sum.checked_add(output.value).ok_or_else(refused)?;
    }
    let paid = tx.output.iter().zip(0_u32..).filter(|(_, number)| !proven.contains(number));
    Ok((paid.map(|(output, _)| (output.script_pubkey.clone(), output.value)).collect(), sum))
}

/// The output that an input spends: this node's own view first, then the PSBT's.
fn prevout(chain: &dyn ChainView, psbt: &Psbt, index: usize, ours: bool) -> Result<Prevout, Refusal> {
    // A transaction has fewer inputs than u32 counts.
    let number = index as u32;
    let (Some(input), Some(spent)) = (psbt.inputs.get(index), psbt.unsigned_tx.input.get(index)) else {
        return Err(Refusal::NoSuchInput(number));
    };
    let outpoint = spent.previous_output;
    let mut told = input.witness_utxo.clone();
    let mut proven = false;
    if let Some(parent) = &input.non_witness_utxo {
        let output = parent.output.get(outpoint.vout as usize);
        let fits = parent.compute_txid() == outpoint.txid && told.as_ref().is_none_or(|told| Some(told) == output);
        match output {
            Some(output) if fits => told = Some(output.clone()),
            _ => return Err(Refusal::OtherPrevout(number)),
        }
        proven = true;
    }
    match (chain.output(&outpoint), told) {
        (Some(known), Some(told)) if known != told => Err(Refusal::OtherPrevout(number)),
        (Some(known), _) => Ok(Prevout { output: Some(known), own: true, certain: true }),
        (None, None) if ours => Err(Refusal::UnknownPrevout(number)),
        (None, told) => Ok(Prevout { output: told, own: false, certain: proven }),
    }
}

fn checked_item(
    keys: &Keychains,
    psbt: &Psbt,
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
    let tx = &psbt.unsigned_tx;
    let key = keys.derive(item.key).ok_or(Refusal::OtherScript(item.input))?;
    if key.script != output.script_pubkey {
        return shared_item(psbt, output, cache, item, key);
    }
    let wrong_type = || Refusal::SighashType(item.input);
    let (message, kind) = if key.address_type() == AddressType::Bech32m {
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
        (hash.map_err(|_| wrong_type())?.to_byte_array(), SighashKind::Taproot(sighash))
    } else {
        let sighash = EcdsaSighashType::from_standard(u32::from(item.sighash)).map_err(|_| wrong_type())?;
        // Without an output of its own, SINGLE signs the number one: a signature over anything.
        let single = matches!(sighash, EcdsaSighashType::Single | EcdsaSighashType::SinglePlusAnyoneCanPay);
        if single && index >= tx.output.len() {
            return Err(wrong_type());
        }
        let message = match key.address_type() {
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
        };
        (message, SighashKind::Ecdsa(sighash))
    };
    let to_sign = Some(SigningItem { input: index, key: key.clone(), message, sighash: kind });
    Ok(CheckedItem { key, message, to_sign })
}

/// An input whose script the key shares with others: signed for what it is, a part of what the script wants.
fn shared_item(
    psbt: &Psbt,
    output: &TxOut,
    cache: &mut SighashCache<&Transaction>,
    item: &InputKey,
    key: KeyInfo,
) -> Result<CheckedItem, Refusal> {
    let index = item.input as usize;
    let shown = psbt.inputs.get(index).filter(|input| input.redeem_script.is_some() || input.witness_script.is_some());
    let shown = shown.filter(|_| key.address_type() != AddressType::Bech32m);
    let shown = shown.ok_or(Refusal::OtherScript(item.input))?;
    let kind = EcdsaSighashType::from_standard(u32::from(item.sighash)).ok();
    let kind = kind.ok_or(Refusal::SighashType(item.input))?;
    let single = matches!(kind, EcdsaSighashType::Single | EcdsaSighashType::SinglePlusAnyoneCanPay);
    if single && index >= psbt.unsigned_tx.output.len() {
        return Err(Refusal::SighashType(item.input));
    }
    let message = shared_sighash(shown, index, output, cache, kind, &key.public_key);
    let message = message.ok_or(Refusal::OtherScript(item.input))?;
    let sighash = SighashKind::Ecdsa(kind);
    let to_sign = Some(SigningItem { input: index, key: key.clone(), message, sighash });
    Ok(CheckedItem { key, message, to_sign })
}
