//! Passphrases of this member's share, and copies of what the wallet holds.
//!
//! Source: Core's `wallet/rpc/encrypt.cpp`, `wallet/rpc/backup.cpp`. A passphrase is never shown or logged.

use std::path::Path;

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Encryption, Result, WalletHandle};
use super::{manage, select};

/// Core's bound: about three years.
const MAX_SLEEP_S: i64 = 100_000_000;
const EMPTY: &str = "passphrase cannot be empty";
const NULL_CHARACTER: &str = "It contains a null character (ie - a zero byte). If the passphrase was set with a \
                              version of this software prior to 25.0, please try again with only the characters up to \
                              \u{2014} but not including \u{2014} the first null character.";
const ENCRYPTED: &str = "wallet encrypted; the share of this member is sealed with the passphrase. You need to make a \
                         new backup with the backupwallet RPC.";

fn wrong_state(text: &str) -> RpcError {
    RpcError::new(code::RPC_WALLET_WRONG_ENC_STATE, text)
}

fn ensure_encrypted(wallet: &dyn WalletHandle, method: &str) -> Result<()> {
    match wallet.encryption() {
        Encryption::None => {
            Err(wrong_state(&format!("Error: running with an unencrypted wallet, but {method} was called.")))
        }
        Encryption::Locked | Encryption::Unlocked { .. } => Ok(()),
    }
}

fn ensure_not_rescanning(wallet: &dyn WalletHandle, before: &str) -> Result<()> {
    match wallet.scanning() {
        Some(_) => Err(RpcError::wallet(format!(
            "Error: the wallet is currently being used to rescan the blockchain for related transactions. Please call \
             `abortrescan` before {before}."
        ))),
        None => Ok(()),
    }
}

/// Core's further words for a passphrase with a zero byte in it.
fn explain(error: RpcError, passphrase: &str, which: &str) -> RpcError {
    if error.code == code::RPC_WALLET_PASSPHRASE_INCORRECT && passphrase.contains('\0') {
        let advice = "If this is successful, please set a new passphrase to avoid this issue in the future.";
        let text = format!("Error: The {which}wallet passphrase entered is incorrect. {NULL_CHARACTER} {advice}");
        return RpcError::new(error.code, text);
    }
    error
}

pub(super) async fn encryptwallet(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let settings = wallet.settings();
    if !settings.private_keys_enabled || settings.blank {
        let text = "Error: wallet does not contain private keys, nothing to encrypt.";
        return Err(RpcError::new(code::RPC_WALLET_ENCRYPTION_FAILED, text));
    }
    if wallet.encryption() != Encryption::None {
        return Err(wrong_state("Error: running with an encrypted wallet, but encryptwallet was called."));
    }
    ensure_not_rescanning(wallet.as_ref(), "encrypting the wallet")?;
    let passphrase = args.str(0)?;
    if passphrase.is_empty() {
        return Err(RpcError::invalid_parameter(EMPTY));
    }
    wallet.encrypt(passphrase).await?;
    Ok(ENCRYPTED.into())
}

pub(super) async fn walletpassphrase(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    ensure_encrypted(wallet.as_ref(), "walletpassphrase")?;
    let passphrase = args.str(0)?;
    let seconds = args.int::<i64>(1)?;
    if seconds < 0 {
        return Err(RpcError::invalid_parameter("Timeout cannot be negative."));
    }
    if passphrase.is_empty() {
        return Err(RpcError::invalid_parameter(EMPTY));
    }
    wallet.unlock(passphrase, seconds.min(MAX_SLEEP_S)).await.map_err(|error| explain(error, passphrase, ""))?;
    Ok(Value::Null)
}

pub(super) async fn walletpassphrasechange(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    ensure_encrypted(wallet.as_ref(), "walletpassphrasechange")?;
    ensure_not_rescanning(wallet.as_ref(), "changing the passphrase")?;
    let (old, new) = (args.str(0)?, args.str(1)?);
    if old.is_empty() || new.is_empty() {
        return Err(RpcError::invalid_parameter(EMPTY));
    }
    wallet.change_passphrase(old, new).await.map_err(|error| explain(error, old, "old "))?;
    Ok(Value::Null)
}

pub(super) async fn walletlock(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    ensure_encrypted(wallet.as_ref(), "walletlock")?;
    ensure_not_rescanning(wallet.as_ref(), "locking the wallet")?;
    wallet.lock().await?;
    Ok(Value::Null)
}

pub(super) async fn backupwallet(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    wallet.backup(Path::new(args.str(0)?)).await?;
    Ok(Value::Null)
}

pub(super) async fn exportwatchonlywallet(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let destination = args.str(0)?;
    let text = if destination.is_empty() {
        "Error: Export destination cannot be empty".to_owned()
    } else if Path::new(destination).exists() {
        format!("Error: Export destination '{destination}' already exists")
    } else {
        wallet.export_watch_only(Path::new(destination)).await?;
        return Ok(Value::obj().with("exported_file", destination));
    };
    Err(RpcError::wallet(text))
}

pub(super) async fn restorewallet(ctx: Ctx, args: Args) -> RpcResult {
    let (name, file) = (args.str(0)?, args.str(1)?);
    let loaded =
        ctx.wallets()?.restore(name, Path::new(file), args.opt_bool(2)?, args.opt_bool(3)?.unwrap_or(false)).await?;
    Ok(manage::loaded_value(&loaded))
}
