//! Payments replaced by ones that pay more: bumpfee, psbtbumpfee.
//!
//! Source: Core's `bumpfee_helper` of `wallet/rpc/spend.cpp`: the same checks in the same order.

use bitcoin::psbt::Psbt;
use bitcoin::{Network, TxOut};

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{BumpRequest, PsbtOptions, Replacement, Result};
use super::params::{self, MemberType};
use super::psbt::{self, Version};
use super::select;

const KNOWN: &[(&str, MemberType)] = &[
    ("confTarget", Some("number")),
    ("conf_target", Some("number")),
    ("estimate_mode", Some("string")),
    ("fee_rate", None),
    ("original_change_index", Some("number")),
    ("outputs", None),
    ("psbt_version", Some("number")),
    ("replaceable", Some("bool")),
];

pub(super) async fn bumpfee(ctx: Ctx, args: Args) -> RpcResult {
    bump(ctx, args, false).await
}

pub(super) async fn psbtbumpfee(ctx: Ctx, args: Args) -> RpcResult {
    bump(ctx, args, true).await
}

async fn bump(ctx: Ctx, args: Args, want_psbt: bool) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    if !want_psbt && !wallet.settings().private_keys_enabled {
        return Err(RpcError::wallet(
            "bumpfee is not available with wallets that have private keys disabled. Use psbtbumpfee instead.",
        ));
    }
    let txid = params::txid_of(args.get(0))?;
    let empty = Value::obj();
    let options = if args.is_null(1) { &empty } else { args.get(1) };
    params::check_options(options, KNOWN)?;
    let target = target(options)?;
    let rbf = params::optional(options, "replaceable", args::bool_of)?.unwrap_or(true);
    let fee = params::fee_choice(target, options.member("estimate_mode"), options.member("fee_rate"), false)?;
    let outputs = outputs(options, network)?;
    let change_index = params::optional(options, "original_change_index", args::int_of::<u32>)?;
    let version = params::optional(options, "psbt_version", args::int_of::<u32>)?.map(i64::from);
    let version = Version::chosen(version, wallet.as_ref())?;
    wallet.synced().await?;
    select::ensure_unlocked(wallet.as_ref())?;
    let bumped = wallet.bump(&BumpRequest { txid, fee, rbf, outputs, change_index }, want_psbt).await?;
    let out = match bumped.replacement {
        Replacement::Sent(txid) => Value::obj().with("txid", txid),
        Replacement::Unsigned(tx) => {
            let blank = Psbt::from_unsigned_tx(tx)
                .map_err(|error| RpcError::internal(format!("the replacement makes no PSBT: {error}")))?;
            let update = PsbtOptions { sign: false, sighash: None, bip32_derivs: true, finalize: true };
            let filled = wallet.process_psbt(blank, update).await?.psbt;
            let version = Version::of_new(version, &filled);
            Value::obj().with("psbt", psbt::encode(&filled, &version))
        }
    };
    Ok(out.with("origfee", bumped.old_fee).with("fee", bumped.fee).with("errors", Value::arr(bumped.errors)))
}

/// The target under its name or its older one.
fn target(options: &Value) -> Result<&Value> {
    if options.find("confTarget").is_some() && options.find("conf_target").is_some() {
        return Err(RpcError::invalid_parameter(
            "confTarget and conf_target options should not both be set. Use conf_target (confTarget is deprecated).",
        ));
    }
    Ok(options.find("confTarget").unwrap_or_else(|| options.member("conf_target")))
}

/// Outputs in place of the old ones; none where they stay.
fn outputs(options: &Value, network: Network) -> Result<Vec<TxOut>> {
    let given = options.member("outputs");
    if given.is_null() {
        return Ok(Vec::new());
    }
    if given.as_arr().is_some_and(<[Value]>::is_empty) {
        return Err(RpcError::invalid_parameter("Invalid parameter, output argument cannot be an empty array"));
    }
    let parsed = params::outputs(given, network)?;
    Ok(parsed.into_iter().map(|output| TxOut { value: output.amount, script_pubkey: output.script }).collect())
}
