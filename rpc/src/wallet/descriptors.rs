//! Descriptors, and the methods that would bring private keys in or out.
//!
//! A threshold wallet has no private key to show, and takes none in: the answers are Core's own for wallets whose
//! private keys are disabled.

use std::collections::BTreeMap;

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{DescriptorView, Result};
use super::{params, select};

pub(super) async fn listdescriptors(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    if args.opt_bool(0)?.unwrap_or(false) {
        return Err(RpcError::wallet("Can't get private descriptor string for watch-only wallets"));
    }
    let mut found = select::query(wallet.as_ref(), |ledger| ledger.descriptors())?;
    found.sort_by(|a, b| a.desc.cmp(&b.desc));
    let descriptors = Value::arr(found.iter().map(descriptor_value));
    Ok(Value::obj().with("wallet_name", wallet.name()).with("descriptors", descriptors))
}

fn descriptor_value(view: &DescriptorView) -> Value {
    let mut out = Value::obj().with("desc", &view.desc).with("timestamp", view.timestamp).with("active", view.active);
    if view.active {
        out.push("internal", view.internal);
    }
    out.push("range", Value::arr([view.range.0, view.range.1]));
    out.push("next", view.next_index);
    out.push("next_index", view.next_index);
    out
}

pub(super) async fn gethdkeys(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let options = args.get(0);
    let active_only = params::optional(options, "active_only", args::bool_of)?.unwrap_or(false);
    if params::optional(options, "private", args::bool_of)?.unwrap_or(false) {
        return Err(RpcError::wallet("Can't get private descriptor string for watch-only wallets"));
    }
    let found = select::query(wallet.as_ref(), |ledger| ledger.descriptors())?;
    let mut by_key: BTreeMap<String, Vec<&DescriptorView>> = BTreeMap::new();
    for view in found.iter().filter(|view| view.active || !active_only) {
        if let Some(xpub) = xpub_in(&view.desc) {
            by_key.entry(xpub.to_owned()).or_default().push(view);
        }
    }
    let rows = by_key.into_iter().map(|(xpub, mut views)| {
        views.sort_by(|a, b| a.desc.cmp(&b.desc));
        let shown = views.into_iter().map(|view| Value::obj().with("desc", &view.desc).with("active", view.active));
        Value::obj().with("xpub", xpub).with("has_private", false).with("descriptors", Value::arr(shown))
    });
    Ok(Value::arr(rows))
}

/// The extended key of a descriptor with one key.
fn xpub_in(desc: &str) -> Option<&str> {
    let after_origin = desc.split_once(']').map_or(desc, |(_, rest)| rest);
    let start = after_origin.find("xpub").or_else(|| after_origin.find("tpub"))?;
    let key = after_origin.get(start..)?;
    key.split(|c: char| !c.is_ascii_alphanumeric()).next()
}

pub(super) async fn importdescriptors(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    select::ensure_not_scanning(wallet.as_ref())?;
    select::ensure_unlocked(wallet.as_ref())?;
    let requests = args.arr(0)?;
    for request in requests {
        check_timestamp(request)?;
    }
    let mut out = Vec::with_capacity(requests.len());
    for request in requests {
        let refusal = refuse_import(&ctx, request).await;
        out.push(Value::obj().with("success", false).with("error", refusal.to_value()));
    }
    Ok(Value::Arr(out))
}

fn check_timestamp(request: &Value) -> Result<()> {
    args::obj_of(request)?;
    match request.find("timestamp") {
        Some(Value::Num(_)) => Ok(()),
        Some(Value::Str(text)) if text == "now" => Ok(()),
        Some(other) => Err(RpcError::type_error(format!(
            "Expected number or \"now\" timestamp value for key. got type {}",
            other.type_name()
        ))),
        None => Err(RpcError::type_error("Missing required timestamp field for key")),
    }
}

/// Why one descriptor is not imported.
async fn refuse_import(ctx: &Ctx, request: &Value) -> RpcError {
    let Some(desc) = request.find("desc") else {
        return RpcError::invalid_parameter("Descriptor not found.");
    };
    if let Err(error) = params::label(request.member("label")) {
        return error;
    }
    let answer = match ctx.kernel("getdescriptorinfo", Value::Arr(vec![desc.clone()]).compact()).await {
        Ok(answer) => Value::parse(&answer).unwrap_or_default(),
        Err(error) => return error,
    };
    if answer.member("hasprivatekeys").as_bool().unwrap_or(false) {
        return RpcError::wallet("Cannot import private keys to a wallet with private keys disabled");
    }
    RpcError::wallet("Error: importing descriptors is not available in this version")
}

pub(super) async fn createwalletdescriptor(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    params::address_type(args.get(0))?;
    select::ensure_unlocked(wallet.as_ref())?;
    Err(RpcError::wallet("Descriptor already exists"))
}

pub(super) async fn addhdkey(ctx: Ctx, _args: Args) -> RpcResult {
    select::wallet(&ctx)?;
    Err(RpcError::wallet("addhdkey is not available for wallets without private keys"))
}
