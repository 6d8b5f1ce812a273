//! The share in memory: open, locked, sealed with a passphrase or with the node's key file.

use std::sync::{Arc, MutexGuard, PoisonError};

use rand::RngCore;
use tss_wallet::KeyShare;
use tss_wallet::seal::{KdfParams, Protection, SealError, SealKey};
use tss_wallet::store::ShareStoreError;

use super::{Holding, HoldingError, nonce};

/// The share as it lies in memory.
pub(super) struct Share {
    /// None while it is locked.
    pub open: Option<Arc<KeyShare>>,
    /// Sealed with a passphrase.
    pub encrypted: bool,
    /// The key of the passphrase while it is open: shares dealt again are sealed with it too.
    pub key: Option<SealKey>,
}

/// A key of a passphrase with a salt of its own.
fn fresh_key(passphrase: &[u8]) -> Result<SealKey, SealError> {
    let mut salt = [0; 16];
    rand::rngs::OsRng.fill_bytes(&mut salt);
    SealKey::from_passphrase(passphrase, KdfParams::recommended(salt))
}

fn wrong_passphrase(error: ShareStoreError) -> Result<bool, HoldingError> {
    match error {
        ShareStoreError::Seal(SealError::Refused) => Ok(false),
        other => Err(other.into()),
    }
}

impl Holding {
    /// None while it is locked.
    pub fn share(&self) -> Option<Arc<KeyShare>> {
        self.held().open.clone()
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the share is sealed with a passphrase.
    pub fn is_encrypted(&self) -> bool {
        self.held().encrypted
    }

    /// Forgets a share that a passphrase can bring back.
    pub fn lock(&self) {
        let mut held = self.held();
        if held.encrypted {
            held.open = None;
            held.key = None;
            self.nonces.clear();
        }
    }

    /// Seals the share with a passphrase instead of the node's key file, and locks it.
    pub fn encrypt(&self, passphrase: &[u8]) -> Result<(), HoldingError> {
        let mut held = self.held();
        self.store.reseal(&SealKey::load(&self.seal_key)?, &fresh_key(passphrase)?, nonce)?;
        *held = Share { open: None, encrypted: true, key: None };
        self.nonces.clear();
        Ok(())
    }

    /// Opens the share; false for another passphrase.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<bool, HoldingError> {
        let Some(key) = self.key_of(passphrase)? else { return Ok(false) };
        match self.store.unlock(&key) {
            Ok(share) => {
                let mut held = self.held();
                held.open = Some(Arc::new(share));
                held.key = Some(key);
                Ok(true)
            }
            Err(error) => wrong_passphrase(error),
        }
    }

    /// Seals the share with another passphrase; whether it is locked stays as it is.
    pub fn change_passphrase(&self, old: &[u8], new: &[u8]) -> Result<bool, HoldingError> {
        let Some(key) = self.key_of(old)? else { return Ok(false) };
        let fresh = fresh_key(new)?;
        match self.store.reseal(&key, &fresh, nonce) {
            Ok(()) => {
                let mut held = self.held();
                if held.open.is_some() {
                    held.key = Some(fresh);
                }
                Ok(true)
            }
            Err(error) => wrong_passphrase(error),
        }
    }

    /// The key that seals what is stored now; none while the share is locked.
    pub(in crate::quorum) fn seal_key(&self) -> Result<Option<SealKey>, HoldingError> {
        let held = self.held();
        if held.encrypted { Ok(held.key.clone()) } else { Ok(Some(SealKey::load(&self.seal_key)?)) }
    }

    /// Erases every share of this member from the disk and from memory.
    pub fn erase(&self) -> Result<(), HoldingError> {
        self.store.erase_all()?;
        let mut held = self.held();
        held.open = None;
        held.key = None;
        self.nonces.clear();
        Ok(())
    }

    fn key_of(&self, passphrase: &[u8]) -> Result<Option<SealKey>, HoldingError> {
        match self.store.protection()? {
            Protection::Passphrase(params) => Ok(Some(SealKey::from_passphrase(passphrase, params)?)),
            Protection::KeyFile => Ok(None),
        }
    }
}
