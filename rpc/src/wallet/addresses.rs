//! Addresses handed out, and the labels on them.

use std::collections::BTreeSet;

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Purpose, WalletHandle};
use super::{describe, params, select};

pub(super) async fn getnewaddress(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    ensure_has_keys(wallet.as_ref(), false)?;
    let label = params::label(args.get(0))?;
    let address_type = params::address_type(args.get(1))?.unwrap_or(wallet.settings().address_type);
    Ok(wallet.new_address(&label, address_type).await?.into())
}

pub(super) async fn getrawchangeaddress(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    ensure_has_keys(wallet.as_ref(), true)?;
    let settings = wallet.settings();
    let default = settings.change_type.unwrap_or(settings.address_type);
    let address_type = params::address_type(args.get(0))?.unwrap_or(default);
    Ok(wallet.change_address(address_type).await?.into())
}

fn ensure_has_keys(wallet: &dyn WalletHandle, change: bool) -> Result<(), RpcError> {
    if !select::query(wallet, |ledger| ledger.can_hand_out(change))? {
        return Err(RpcError::wallet("Error: This wallet has no available keys"));
    }
    Ok(())
}

pub(super) async fn keypoolrefill(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let size = match args.opt_int::<i32>(0)? {
        None => None,
        Some(size) => Some(
            u32::try_from(size).map_err(|_| RpcError::invalid_parameter("Invalid parameter, expected valid size."))?,
        ),
    };
    select::ensure_unlocked(wallet.as_ref())?;
    if !select::query(wallet.as_ref(), |ledger| ledger.can_hand_out(false))? {
        return Err(RpcError::wallet("Error refreshing keypool."));
    }
    wallet.keypool_refill(size.filter(|size| *size > 0)).await?;
    Ok(Value::Null)
}

pub(super) async fn setlabel(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let script = params::address_script(args.str(0)?, network, "Invalid Bitcoin address")?;
    let label = params::label(args.get(1))?;
    wallet.set_label(&script, &label).await?;
    Ok(Value::Null)
}

pub(super) async fn listlabels(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let purpose = match args.opt_str(0)?.unwrap_or_default() {
        "" => None,
        "receive" => Some(Purpose::Receive),
        "send" => Some(Purpose::Send),
        "refund" => return Ok(Value::Arr(Vec::new())),
        _ => {
            return Err(RpcError::invalid_parameter(
                "Invalid 'purpose' argument, must be a known purpose string, typically 'send', or 'receive'.",
            ));
        }
    };
    let book = select::query(wallet.as_ref(), |ledger| ledger.address_book())?;
    let wanted = book.into_iter().filter(|entry| purpose.is_none() || entry.purpose == purpose);
    let labels: BTreeSet<String> = wanted.map(|entry| entry.label).collect();
    Ok(Value::arr(labels))
}

pub(super) async fn getaddressesbylabel(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let label = params::label(args.get(0))?;
    let book = select::query(wallet.as_ref(), |ledger| ledger.address_book())?;
    let mut out = Value::obj();
    let mut found = false;
    for entry in book.into_iter().filter(|entry| entry.label == label) {
        let Some(address) = params::address_of(&entry.script, network) else { continue };
        let purpose = entry.purpose.map_or("unknown", Purpose::as_str);
        out.push(&address.to_string(), Value::obj().with("purpose", purpose));
        found = true;
    }
    if found {
        return Ok(out);
    }
    Err(RpcError::new(code::RPC_WALLET_INVALID_LABEL_NAME, format!("No addresses with label {label}")))
}

pub(super) async fn getaddressinfo(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let text = args.str(0)?;
    let Some(script) = params::script_of(text, network) else {
        return Err(describe::refusal(&ctx, text).await);
    };
    let address = params::address_of(&script, network).map_or_else(|| text.to_owned(), |found| found.to_string());
    select::query(wallet.as_ref(), |ledger| describe::address_info(ledger, &address, &script, network))
}
