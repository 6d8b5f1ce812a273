//! Raw transactions, PSBTs and messages that the quorum signs.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::psbt::Psbt;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction};

use crate::amount;
use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{InputError, PrevOut, PsbtOptions, Result, SighashType, SignedTransaction, SpendRequest};
use super::params::{self, Forms};
use super::psbt::{self, Version};
use super::spending::change_position;
use super::{options, select};

/// How much of a script Core shows in an error.
const SHOWN_SCRIPT_DIGITS: usize = 30;

fn undecodable(text: impl Into<String>) -> RpcError {
    RpcError::new(code::RPC_DESERIALIZATION_ERROR, text)
}

pub(super) async fn signrawtransactionwithwallet(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let forms = Forms { witness: true, no_witness: false };
    let tx = params::decode_transaction(args.str(0)?, forms)
        .filter(|tx| !tx.input.is_empty())
        .ok_or_else(|| undecodable("TX decode failed. Make sure the tx has at least one input."))?;
    select::ensure_unlocked(wallet.as_ref())?;
    let mut prevouts = Vec::new();
    for entry in args.opt_arr(1)?.unwrap_or_default() {
        prevouts.push(prevout_of(entry)?);
    }
    let sighash = params::sighash(args.get(2))?.unwrap_or(SighashType(0));
    wallet.synced().await?;
    let signed = wallet.sign_transaction(tx, &prevouts, sighash).await?;
    signed_value(&signed, &prevouts)
}

fn prevout_of(entry: &Value) -> Result<PrevOut> {
    if entry.as_obj().is_none() {
        return Err(undecodable("expected object with {\"txid'\",\"vout\",\"scriptPubKey\"}"));
    }
    params::require_members(entry, &[("scriptPubKey", "string"), ("txid", "string"), ("vout", "number")])?;
    let txid = params::txid_of(entry.member("txid"))?;
    let vout: i32 = args::int_of(entry.member("vout"))?;
    let vout = u32::try_from(vout).map_err(|_| undecodable("vout cannot be negative"))?;
    let script = args::hex_of(entry.member("scriptPubKey"), "scriptPubKey")?;
    let script_in = |name: &str| -> Result<Option<ScriptBuf>> {
        params::optional(entry, name, |value| args::hex_of(value, name).map(ScriptBuf::from_bytes))
    };
    Ok(PrevOut {
        outpoint: OutPoint { txid, vout },
        script: ScriptBuf::from_bytes(script),
        amount: entry.find("amount").map(amount::from_value).transpose()?,
        redeem_script: script_in("redeemScript")?,
        witness_script: script_in("witnessScript")?,
    })
}

fn signed_value(signed: &SignedTransaction, prevouts: &[PrevOut]) -> RpcResult {
    let mut errors = Vec::with_capacity(signed.errors.len());
    for error in &signed.errors {
        errors.push(error_value(&signed.tx, error, prevouts)?);
    }
    let out = Value::obj().with("hex", serialize_hex(&signed.tx)).with("complete", signed.complete);
    Ok(if errors.is_empty() { out } else { out.with("errors", Value::Arr(errors)) })
}

fn error_value(tx: &Transaction, error: &InputError, prevouts: &[PrevOut]) -> RpcResult {
    let input =
        tx.input.get(error.input).ok_or_else(|| RpcError::internal("an error names an input that is not there"))?;
    if error.text == "Missing amount" {
        let prevout = prevouts.iter().find(|prevout| prevout.outpoint == input.previous_output);
        return Err(missing_amount(prevout));
    }
    use bitcoin::hex::DisplayHex;
    let witness = Value::arr(input.witness.iter().map(|item| item.to_lower_hex_string()));
    Ok(Value::obj()
        .with("txid", input.previous_output.txid)
        .with("vout", input.previous_output.vout)
        .with("witness", witness)
        .with("scriptSig", input.script_sig.to_hex_string())
        .with("sequence", input.sequence.0)
        .with("error", error.text.as_str()))
}

/// −3, naming the output as Core prints it.
fn missing_amount(prevout: Option<&PrevOut>) -> RpcError {
    let value = prevout.and_then(|prevout| prevout.amount).unwrap_or(Amount::MAX_MONEY);
    let script = prevout.map(|prevout| prevout.script.to_hex_string()).unwrap_or_default();
    let shown: String = script.chars().take(SHOWN_SCRIPT_DIGITS).collect();
    let value = amount::to_value(value).compact();
    RpcError::type_error(format!("Missing amount for CTxOut(nValue={value}, scriptPubKey={shown})"))
}

pub(super) async fn walletcreatefundedpsbt(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let empty = Value::obj();
    let options = if args.is_null(3) { &empty } else { args.get(3) };
    let rbf = params::optional(options, "replaceable", args::bool_of)?.unwrap_or(wallet.settings().signal_rbf);
    let lock_time = params::lock_time(args.get(2))?;
    let version = params::tx_version(args.opt_int::<i64>(5)?.unwrap_or(2))?;
    let inputs = options::chosen_inputs(args.get(0), lock_time, rbf)?;
    let outputs = params::outputs(args.get(1), network)?;
    let mut request = SpendRequest {
        recipients: options::recipients(outputs, options.member("subtractFeeFromOutputs"))?,
        add_inputs: inputs.is_empty(),
        inputs,
        lock_time: Some(lock_time),
        version,
        ..SpendRequest::default()
    };
    options::input_weights(&mut request, args.get(0), options)?;
    options::apply(&mut request, options, network, true)?;
    let version = Version::chosen(args.opt_int::<i32>(6)?.map(i64::from), wallet.as_ref())?;
    let bip32_derivs = args.opt_bool(4)?.unwrap_or(true);
    let funded = wallet.fund(&request).await?;
    let blank = Psbt::from_unsigned_tx(funded.tx)
        .map_err(|error| RpcError::internal(format!("the funded transaction makes no PSBT: {error}")))?;
    let update = PsbtOptions { sign: false, sighash: None, bip32_derivs, finalize: true };
    let filled = wallet.process_psbt(blank, update).await?.psbt;
    let version = Version::of_new(version, &filled);
    Ok(Value::obj()
        .with("psbt", psbt::encode(&filled, &version))
        .with("fee", funded.fee)
        .with("changepos", change_position(funded.change_position)))
}

pub(super) async fn walletprocesspsbt(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let text = args.str(0)?;
    let (given, mut version) = match psbt::decode(text) {
        Ok(decoded) => decoded,
        Err(error) => return Err(refusal(&ctx, text, &error).await),
    };
    let options = PsbtOptions {
        sign: args.opt_bool(1)?.unwrap_or(true),
        sighash: params::sighash(args.get(2))?,
        bip32_derivs: args.opt_bool(3)?.unwrap_or(true),
        finalize: args.opt_bool(4)?.unwrap_or(true),
    };
    if options.sign {
        select::ensure_unlocked(wallet.as_ref())?;
    }
    let signs = options.sign && wallet.settings().private_keys_enabled;
    let processed = wallet.process_psbt(given, PsbtOptions { sign: signs, ..options }).await?;
    if psbt::has_signatures(&processed.psbt) {
        version.fix_inputs_and_outputs();
    }
    let out = Value::obj().with("psbt", psbt::encode(&processed.psbt, &version)).with("complete", processed.complete);
    Ok(match processed.tx.filter(|_| processed.complete) {
        Some(tx) => out.with("hex", serialize_hex(&tx)),
        None => out,
    })
}

/// −22 in the words of Core's own reader.
pub(super) async fn refusal(ctx: &Ctx, text: &str, reason: &psbt::DecodeError) -> RpcError {
    match ctx.kernel("decodepsbt", Value::arr([text]).compact()).await {
        Ok(_) => undecodable(format!("TX decode failed {reason}")),
        Err(error) => error,
    }
}

pub(super) async fn signmessage(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    select::ensure_unlocked(wallet.as_ref())?;
    let network = ctx.wallets()?.network();
    let script = params::address_script(args.str(0)?, network, "Invalid address")?;
    if !script.is_p2pkh() {
        return Err(RpcError::type_error("Address does not refer to key"));
    }
    Ok(wallet.sign_message(&script, args.str(1)?).await?.into())
}
