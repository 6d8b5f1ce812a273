//! Methods that Core's wallet refuses for wallets such as these, in its own words.

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::table::RpcResult;

use super::{params, select};

/// Core's text for a wallet that is of the new kind already.
pub(super) async fn migratewallet(ctx: Ctx, args: Args) -> RpcResult {
    let name = select::unique_name(&ctx, &args, 0)?;
    let wallets = ctx.wallets()?;
    let there = wallets.list().contains(&name) || wallets.list_dir().await?.iter().any(|wallet| wallet.name == name);
    let text = if there { "Error: This wallet is already a descriptor wallet" } else { "Error: Wallet does not exist" };
    Err(RpcError::wallet(text))
}

/// Core's text for an address that no external signer stands behind.
pub(super) async fn walletdisplayaddress(ctx: Ctx, args: Args) -> RpcResult {
    select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    params::address_script(args.str(0)?, network, "Invalid address")?;
    Err(RpcError::misc("There is no ScriptPubKeyManager for this address"))
}
