//! Methods of Core's wallet that this version does not do.
//!
//! Each checks which wallet is meant, as the working ones do, and then says plainly that it is not available: −4, or
//! Core's own text where Core refuses such a wallet too. None pretends.

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::table::RpcResult;

use super::{params, select};

fn refuse(ctx: &Ctx, method: &str) -> RpcResult {
    select::wallet(ctx)?;
    Err(missing(method))
}

fn missing(method: &str) -> RpcError {
    RpcError::wallet(format!("Error: {method} is not available in this version"))
}

pub(super) async fn importprunedfunds(ctx: Ctx, _args: Args) -> RpcResult {
    refuse(&ctx, "importprunedfunds")
}

pub(super) async fn removeprunedfunds(ctx: Ctx, _args: Args) -> RpcResult {
    refuse(&ctx, "removeprunedfunds")
}

pub(super) async fn bumpfee(ctx: Ctx, _args: Args) -> RpcResult {
    refuse(&ctx, "bumpfee")
}

pub(super) async fn psbtbumpfee(ctx: Ctx, _args: Args) -> RpcResult {
    refuse(&ctx, "psbtbumpfee")
}

pub(super) async fn exportwatchonlywallet(ctx: Ctx, _args: Args) -> RpcResult {
    refuse(&ctx, "exportwatchonlywallet")
}

/// Core's text for a wallet that is of the new kind already.
pub(super) async fn migratewallet(ctx: Ctx, args: Args) -> RpcResult {
    select::unique_name(&ctx, &args, 0)?;
    Err(RpcError::wallet("Error: This wallet is already a descriptor wallet"))
}

/// Core's text for an address that no external signer stands behind.
pub(super) async fn walletdisplayaddress(ctx: Ctx, args: Args) -> RpcResult {
    select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    params::address_script(args.str(0)?, network, "Invalid address")?;
    Err(RpcError::misc("There is no ScriptPubKeyManager for this address"))
}
