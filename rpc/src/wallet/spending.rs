//! Payments: sendtoaddress, sendmany, send, and fundrawtransaction.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::psbt::Psbt;
use bitcoin::{OutPoint, Transaction};

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{
    ChosenInput, FeeChoice, Ledger, PsbtOptions, Recipient, Result, SendNote, Sent, SpendRequest, WalletHandle,
};
use super::params::{self, Forms};
use super::psbt::{self, Version};
use super::{options, select};

pub(super) async fn sendtoaddress(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let note = SendNote {
        comment: params::nonempty(args.opt_str(2)?),
        comment_to: params::nonempty(args.opt_str(3)?),
        idempotency_key: params::nonempty(args.opt_str(11)?),
        detached: !args.opt_bool(12)?.unwrap_or(true),
    };
    let mut request = SpendRequest { shuffle: true, rbf: args.opt_bool(5)?, ..SpendRequest::default() };
    request.avoid_reuse = Some(select::avoid_reuse(wallet.as_ref(), args.opt_bool(8)?)?);
    set_fee(&mut request, args.get(6), args.get(7), args.get(9))?;
    select::ensure_unlocked(wallet.as_ref())?;
    let payment = Value::Obj(vec![(args.str(0)?.to_owned(), args.get(1).clone())]);
    let outputs = params::outputs(&payment, network)?;
    let subtract_fee = args.opt_bool(4)?.unwrap_or(false);
    request.recipients =
        outputs.into_iter().map(|out| Recipient { script: out.script, amount: out.amount, subtract_fee }).collect();
    send_money(wallet.as_ref(), request, note, args.opt_bool(10)?.unwrap_or(false)).await
}

pub(super) async fn sendmany(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    if !args.opt_str(0)?.unwrap_or_default().is_empty() {
        return Err(RpcError::invalid_parameter("Dummy value must be set to \"\""));
    }
    let note = SendNote {
        comment: params::nonempty(args.opt_str(3)?),
        comment_to: None,
        idempotency_key: params::nonempty(args.opt_str(10)?),
        detached: !args.opt_bool(11)?.unwrap_or(true),
    };
    let mut request = SpendRequest { shuffle: true, rbf: args.opt_bool(5)?, ..SpendRequest::default() };
    set_fee(&mut request, args.get(6), args.get(7), args.get(8))?;
    let outputs = params::outputs(args.get(1), network)?;
    request.recipients = options::recipients(outputs, args.get(4))?;
    send_money(wallet.as_ref(), request, note, args.opt_bool(9)?.unwrap_or(false)).await
}

fn set_fee(request: &mut SpendRequest, target: &Value, mode: &Value, rate: &Value) -> Result<()> {
    request.fee = params::fee_choice(target, mode, rate, false)?;
    if let FeeChoice::Rate { .. } = request.fee {
        request.rbf = request.rbf.or(Some(true));
    }
    Ok(())
}

async fn send_money(wallet: &dyn WalletHandle, request: SpendRequest, note: SendNote, verbose: bool) -> RpcResult {
    select::ensure_unlocked(wallet)?;
    select::ensure_keys(wallet)?;
    if note.detached {
        return Ok(Value::obj().with("session", wallet.send_later(&request, &note).await?));
    }
    let Sent { txid, fee_reason } = wallet.send(&request, &note).await?;
    if verbose {
        return Ok(Value::obj().with("txid", txid).with("fee_reason", fee_reason.as_str()));
    }
    Ok(txid.into())
}

pub(super) async fn fundrawtransaction(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let forms = match args.opt_bool(2)? {
        None => Forms { witness: true, no_witness: true },
        Some(witness) => Forms { witness, no_witness: !witness },
    };
    let tx = params::decode_transaction(args.str(0)?, forms)
        .ok_or_else(|| RpcError::new(code::RPC_DESERIALIZATION_ERROR, "TX decode failed"))?;
    let options = args.get(1);
    let names = vec!["dummy"; tx.output.len()];
    let bear = params::subtract_fee_from(options.member("subtractFeeFromOutputs"), &names)?;
    let mut request = SpendRequest {
        recipients: tx
            .output
            .iter()
            .zip(bear)
            .map(|(out, subtract_fee)| Recipient { script: out.script_pubkey.clone(), amount: out.value, subtract_fee })
            .collect(),
        inputs: tx
            .input
            .iter()
            .map(|input| ChosenInput { outpoint: input.previous_output, sequence: Some(input.sequence), weight: None })
            .collect(),
        lock_time: Some(tx.lock_time.to_consensus_u32()),
        version: tx.version.0,
        ..SpendRequest::default()
    };
    wallet.synced().await?;
    options::apply(&mut request, options, network, true)?;
    let mut funded = wallet.fund(&request).await?;
    // What others have signed stays.
    for before in tx.input.iter().filter(|input| !input.script_sig.is_empty() || !input.witness.is_empty()) {
        let mut inputs = funded.tx.input.iter_mut();
        if let Some(input) = inputs.find(|input| input.previous_output == before.previous_output) {
            input.clone_from(before);
        }
    }
    Ok(Value::obj()
        .with("hex", serialize_hex(&funded.tx))
        .with("fee", funded.fee)
        .with("changepos", change_position(funded.change_position)))
}

/// −1 where there is no change.
pub(super) fn change_position(position: Option<u32>) -> i64 {
    position.map_or(-1, i64::from)
}

pub(super) async fn send(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let options = send_options(&args)?;
    let rbf = params::optional(&options, "replaceable", crate::args::bool_of)?;
    let signal = rbf.unwrap_or(wallet.settings().signal_rbf);
    let outputs = params::outputs(args.get(0), network)?;
    let lock_time = params::lock_time(options.member("locktime"))?;
    let inputs = options::chosen_inputs(options.member("inputs"), lock_time, signal)?;
    let mut request = SpendRequest {
        recipients: options::recipients(outputs, options.member("subtract_fee_from_outputs"))?,
        add_inputs: inputs.is_empty(),
        inputs,
        rbf,
        lock_time: options.find("locktime").filter(|value| !value.is_null()).map(|_| lock_time),
        version: params::tx_version(args.opt_int::<i64>(5)?.unwrap_or(2))?,
        ..SpendRequest::default()
    };
    options::input_weights(&mut request, options.member("inputs"), &options)?;
    wallet.synced().await?;
    options::apply(&mut request, &options, network, false)?;
    let want_psbt = options.member("psbt").as_bool().unwrap_or(false);
    let add_to_wallet = options.member("add_to_wallet").as_bool().unwrap_or(true);
    let own =
        select::query(wallet.as_ref(), |ledger| request.inputs.iter().all(|input| is_own(ledger, input.outpoint)))?;
    let unlocked = select::ensure_unlocked(wallet.as_ref()).is_ok();
    if own && wallet.settings().private_keys_enabled && unlocked && !want_psbt && add_to_wallet {
        let note = SendNote { idempotency_key: params::nonempty(args.opt_str(6)?), ..SendNote::default() };
        let sent = wallet.send(&request, &note).await.map_err(as_wallet_error)?;
        return Ok(Value::obj().with("txid", sent.txid).with("complete", true));
    }
    let funded = wallet.fund(&request).await?;
    finish(wallet.as_ref(), funded.tx, &options).await
}

/// Whether a coin is the wallet's.
fn is_own(ledger: &dyn Ledger, outpoint: OutPoint) -> bool {
    let vout = usize::try_from(outpoint.vout).unwrap_or(usize::MAX);
    let found = ledger.transaction(&outpoint.txid, false);
    found.and_then(|found| found.tx.output.get(vout).cloned()).is_some_and(|coin| ledger.is_mine(&coin.script_pubkey))
}

/// `send` reports a failure to fund as −4, not −6.
fn as_wallet_error(error: RpcError) -> RpcError {
    match error.code {
        code::RPC_WALLET_INSUFFICIENT_FUNDS => RpcError::wallet(error.message),
        _ => error,
    }
}

/// Core's `FinishTransaction`: signed; sent if it is complete and the options do not say otherwise, shown if not sent.
pub(super) async fn finish(wallet: &dyn WalletHandle, tx: Transaction, options: &Value) -> RpcResult {
    let blank = Psbt::from_unsigned_tx(tx)
        .map_err(|error| RpcError::internal(format!("the funded transaction makes no PSBT: {error}")))?;
    // What a locked wallet cannot sign is handed out unsigned.
    let sign = wallet.settings().private_keys_enabled && select::ensure_unlocked(wallet).is_ok();
    let update = PsbtOptions { sign, sighash: None, bip32_derivs: true, finalize: true };
    let processed = wallet.process_psbt(blank, update).await?;
    let want_psbt = options.member("psbt").as_bool().unwrap_or(false);
    let add_to_wallet = options.member("add_to_wallet").as_bool().unwrap_or(true);
    let mut out = Value::obj();
    if want_psbt || !processed.complete || !add_to_wallet {
        let version = Version::of_new(wallet.settings().psbt_version, &processed.psbt);
        out.push("psbt", psbt::encode(&processed.psbt, &version));
    }
    if let Some(tx) = processed.tx.filter(|_| processed.complete) {
        out.push("txid", tx.compute_txid());
        if add_to_wallet && !want_psbt {
            wallet.commit(tx, &SendNote::default()).await?;
        } else {
            out.push("hex", serialize_hex(&tx));
        }
    }
    out.push("complete", processed.complete);
    Ok(out)
}

/// The options object with the arguments beside it that mean the same.
pub(super) fn send_options(args: &Args) -> Result<Value> {
    let bad = RpcError::invalid_parameter;
    let mut options = if args.is_null(4) { Value::obj() } else { args.get(4).clone() };
    if options.find("conf_target").is_some() || options.find("estimate_mode").is_some() {
        if !args.is_null(1) || !args.is_null(2) {
            return Err(bad(
                "Pass conf_target and estimate_mode either as arguments or in the options object, but not both",
            ));
        }
    } else {
        push_given(&mut options, "conf_target", args.get(1));
        push_given(&mut options, "estimate_mode", args.get(2));
    }
    if options.find("fee_rate").is_some() {
        if !args.is_null(3) {
            return Err(bad("Pass the fee_rate either as an argument, or in the options object, but not both"));
        }
    } else {
        push_given(&mut options, "fee_rate", args.get(3));
    }
    let mode = options.member("estimate_mode");
    if !options.member("conf_target").is_null() && (mode.is_null() || mode.as_str() == Some("unset")) {
        return Err(bad("Specify estimate_mode"));
    }
    refuse_outdated(&options)?;
    Ok(options)
}

fn push_given(options: &mut Value, name: &str, value: &Value) {
    if !value.is_null() {
        options.push(name, value.clone());
    }
}

fn refuse_outdated(options: &Value) -> Result<()> {
    let outdated = [
        ("feeRate", "Use fee_rate (sat/vB) instead of feeRate"),
        ("changeAddress", "Use change_address instead of changeAddress"),
        ("changePosition", "Use change_position instead of changePosition"),
        ("lockUnspents", "Use lock_unspents instead of lockUnspents"),
        ("subtractFeeFromOutputs", "Use subtract_fee_from_outputs instead of subtractFeeFromOutputs"),
    ];
    match outdated.iter().find(|(name, _)| options.find(name).is_some()) {
        Some((_, text)) => Err(RpcError::invalid_parameter(*text)),
        None => Ok(()),
    }
}
