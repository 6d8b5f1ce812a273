//! Which wallet a request means, and the checks that come before any work on it.

use std::sync::Arc;

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::{RpcError, code};

use super::backend::{Encryption, Ledger, Result, WalletHandle};

const NOT_LOADED: &str = "Requested wallet does not exist or is not loaded";
const NONE_LOADED: &str = "No wallet is loaded. Load a wallet using loadwallet or create a new one with createwallet. \
                           (Note: A default wallet is no longer automatically created)";
const SEVERAL_LOADED: &str = "Multiple wallets are loaded. Please select which wallet to use by requesting the RPC \
                              through the /wallet/<walletname> URI path.";

/// −18: there is no such wallet, or it is not loaded.
pub(super) fn not_loaded() -> RpcError {
    RpcError::new(code::RPC_WALLET_NOT_FOUND, NOT_LOADED)
}

/// The wallet of the request's path; without one, the only wallet there is.
pub(super) fn wallet(ctx: &Ctx) -> Result<Arc<dyn WalletHandle>> {
    let wallets = ctx.wallets()?;
    if let Some(name) = &ctx.wallet {
        return wallets.get(name).ok_or_else(not_loaded);
    }
    let loaded = wallets.list();
    match loaded.as_slice() {
        [] => Err(RpcError::new(code::RPC_WALLET_NOT_FOUND, NONE_LOADED)),
        [only] => wallets.get(only).ok_or_else(not_loaded),
        _ => Err(RpcError::new(code::RPC_WALLET_NOT_SPECIFIED, SEVERAL_LOADED)),
    }
}

/// [`wallet`], once it has seen all that the node has shown this user already.
pub(super) async fn synced(ctx: &Ctx) -> Result<Arc<dyn WalletHandle>> {
    let wallet = wallet(ctx)?;
    wallet.synced().await?;
    Ok(wallet)
}

/// −13 where this member's share is locked.
pub(super) fn ensure_unlocked(wallet: &dyn WalletHandle) -> Result<()> {
    match wallet.encryption() {
        Encryption::Locked => Err(RpcError::new(
            code::RPC_WALLET_UNLOCK_NEEDED,
            "Error: Please enter the wallet passphrase with walletpassphrase first.",
        )),
        Encryption::None | Encryption::Unlocked { .. } => Ok(()),
    }
}

/// −4 where the wallet cannot sign.
pub(super) fn ensure_keys(wallet: &dyn WalletHandle) -> Result<()> {
    if wallet.settings().private_keys_enabled {
        return Ok(());
    }
    Err(RpcError::wallet("Error: Private keys are disabled for this wallet"))
}

/// −4 while a rescan runs.
pub(super) fn ensure_not_scanning(wallet: &dyn WalletHandle) -> Result<()> {
    match wallet.scanning() {
        Some(_) => Err(RpcError::wallet("Wallet is currently rescanning. Abort existing rescan or wait.")),
        None => Ok(()),
    }
}

/// The name of a wallet that is given by the path, by an argument, or by both alike.
pub(super) fn unique_name(ctx: &Ctx, args: &Args, index: usize) -> Result<String> {
    match (&ctx.wallet, args.opt_str(index)?) {
        (Some(path), Some(name)) if path != name => Err(RpcError::invalid_parameter(
            "The RPC endpoint wallet and the wallet name parameter specify different wallets",
        )),
        (Some(path), _) => Ok(path.clone()),
        (None, Some(name)) => Ok(name.to_owned()),
        (None, None) => Err(RpcError::invalid_parameter(
            "Either the RPC endpoint wallet or the wallet name parameter must be provided",
        )),
    }
}

/// Asks the ledger something, under its lock.
pub(super) fn query<T>(wallet: &dyn WalletHandle, ask: impl FnOnce(&dyn Ledger) -> T) -> Result<T> {
    let mut ask = Some(ask);
    let mut answer = None;
    wallet.read(&mut |ledger| {
        if let Some(ask) = ask.take() {
            answer = Some(ask(ledger));
        }
    });
    answer.ok_or_else(|| RpcError::internal("the wallet's records cannot be read"))
}

/// Whether coins on addresses spent from before are left out: the flag of the wallet, unless the caller says.
pub(super) fn avoid_reuse(wallet: &dyn WalletHandle, asked: Option<bool>) -> Result<bool> {
    let possible = wallet.settings().avoid_reuse;
    let wanted = asked.unwrap_or(possible);
    if wanted && !possible {
        return Err(RpcError::wallet("wallet does not have the \"avoid reuse\" feature enabled"));
    }
    Ok(wanted)
}
