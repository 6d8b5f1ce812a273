//! Descriptors, and the methods that would bring private keys in or out.
//!
//! A threshold wallet has no private key to show, and takes none in: the answers are Core's own for wallets whose
//! private keys are disabled.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::bip32::Xpub;

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
        select::ensure_unlocked(wallet.as_ref())?;
        let blank = wallet.settings().private_keys_enabled
            && select::query(wallet.as_ref(), |ledger| ledger.descriptors())?.is_empty();
        if !blank {
            return Err(RpcError::wallet("Can't get private descriptor string for watch-only wallets"));
        }
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
    let private = params::optional(options, "private", args::bool_of)?.unwrap_or(false);
    if private {
        select::ensure_unlocked(wallet.as_ref())?;
    }
    let found = select::query(wallet.as_ref(), |ledger| ledger.descriptors())?;
    let mut by_key: BTreeMap<String, Vec<&DescriptorView>> = BTreeMap::new();
    for view in found.iter().filter(|view| view.active || !active_only) {
        for xpub in xpubs_in(&view.desc) {
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

/// The extended keys of a descriptor, each once.
fn xpubs_in(desc: &str) -> BTreeSet<&str> {
    let words = desc.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("xpub") || word.starts_with("tpub")).collect()
}

/// A quorum's wallet has a descriptor for each type from the start; one without keys can have none made.
pub(super) async fn createwalletdescriptor(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    params::address_type(args.get(0))?;
    let options = args.get(1);
    params::optional(options, "internal", args::bool_of)?;
    let asked = params::optional(options, "hdkey", args::str_of)?;
    select::ensure_unlocked(wallet.as_ref())?;
    let found = select::query(wallet.as_ref(), |ledger| ledger.descriptors())?;
    let active: BTreeSet<&str> =
        found.iter().filter(|view| view.active).flat_map(|view| xpubs_in(&view.desc)).collect();
    let bad = |text: &str| RpcError::invalid_address_or_key(text);
    let holds_keys = wallet.settings().private_keys_enabled && !wallet.settings().blank;
    let key = match asked {
        Some(text) => {
            text.parse::<Xpub>().map_err(|_| bad("Unable to parse HD key. Please provide a valid xpub"))?.to_string()
        }
        None if holds_keys => return Err(RpcError::wallet("Descriptor already exists")),
        None => match (active.len(), active.first()) {
            (1, Some(only)) => (*only).to_owned(),
            _ => {
                return Err(bad(
                    "Unable to determine which HD key to use from active descriptors. Please specify with \
                                'hdkey'",
                ));
            }
        },
    };
    if holds_keys && active.contains(key.as_str()) {
        return Err(RpcError::wallet("Descriptor already exists"));
    }
    Err(bad(&format!("Private key for {key} is not known")))
}

pub(super) async fn addhdkey(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    select::ensure_unlocked(wallet.as_ref())?;
    Err(RpcError::wallet("addhdkey is not available for wallets without private keys"))
}
