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

use super::backend::DescriptorView;
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
    if let Some((first, last)) = view.range {
        out.push("range", Value::arr([first, last]));
        out.push("next", view.next_index);
        out.push("next_index", view.next_index);
    }
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
