//! The passphrase of this member's share: sealed with it, opened for a while, locked again.
//!
//! A locked member coordinates nothing and takes no part; what is public (addresses, balances, history) stays open.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::Encryption;

use super::loaded::{Loaded, storage_error};

/// When an open share locks itself again.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Relock {
    /// Seconds since 1970.
    until: i64,
    /// Counts openings and lockings, so that an old timer does nothing.
    turn: u64,
}

fn incorrect() -> RpcError {
    let text = "Error: The wallet passphrase entered was incorrect.";
    RpcError::new(code::RPC_WALLET_PASSPHRASE_INCORRECT, text)
}

impl Loaded {
    pub(super) fn encryption(&self) -> Encryption {
        let Some(keys) = self.keys().filter(|keys| keys.holding.is_encrypted()) else { return Encryption::None };
        if keys.holding.share().is_none() {
            return Encryption::Locked;
        }
        Encryption::Unlocked { until: self.relock.lock().unwrap_or_else(PoisonError::into_inner).until }
    }

    /// Seals the share with a passphrase, and locks it.
    pub(super) fn encrypt(&self, passphrase: &str) -> Result<(), RpcError> {
        let failed = |error| {
            tracing::error!(wallet = self.name, %error, "the share could not be sealed with the passphrase");
            RpcError::new(code::RPC_WALLET_ENCRYPTION_FAILED, "Error: Failed to encrypt the wallet.")
        };
        self.signing_keys()?.holding.encrypt(passphrase.as_bytes()).map_err(failed)
    }

    /// Opens the share for so many seconds. Blocks; must run on a blocking thread of a tokio runtime.
    pub(super) fn unlock(self: &Arc<Self>, passphrase: &str, seconds: i64) -> Result<(), RpcError> {
        let holding = &self.signing_keys()?.holding;
        if !holding.unlock(passphrase.as_bytes()).map_err(storage_error)? {
            return Err(incorrect());
        }
        let turn = {
            let mut relock = self.relock.lock().unwrap_or_else(PoisonError::into_inner);
            let now = i64::try_from(self.chain.now()).unwrap_or(i64::MAX);
            *relock = Relock { until: now.saturating_add(seconds), turn: relock.turn + 1 };
            relock.turn
        };
        let wallet: Weak<Self> = Arc::downgrade(self);
        let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        // Ends with its pause, or with the runtime; nobody needs its result.
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if let Some(wallet) = wallet.upgrade() {
                wallet.lock_turn(Some(turn));
            }
        });
        Ok(())
    }

    /// Locks the share; with a turn, only if nothing was opened or locked since.
    pub(super) fn lock_turn(&self, turn: Option<u64>) {
        let mut relock = self.relock.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_some_and(|turn| turn != relock.turn) {
            return;
        }
        *relock = Relock { until: 0, turn: relock.turn + 1 };
        if let Some(keys) = self.keys() {
            keys.holding.lock();
        }
    }

    /// Seals the share with another passphrase; it stays open or locked as it is.
    pub(super) fn change_passphrase(&self, old: &str, new: &str) -> Result<(), RpcError> {
        let changed = self.signing_keys()?.holding.change_passphrase(old.as_bytes(), new.as_bytes());
        if changed.map_err(storage_error)? { Ok(()) } else { Err(incorrect()) }
    }
}
