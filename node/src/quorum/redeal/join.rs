//! A share in a wallet that does not live here yet: dealt to this member, its certificate not seen complete.
//!
//! Such a member is new to the quorum, or back after it had left or lost all. Its directory is kept, because the others
//! may hold the certificate already and count on it; when it turns up, the wallet lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tss_wallet::seal::SealKey;
use tss_wallet::{PublicKeys, ShareStore, WalletDb, WalletId};

use super::super::core::Core;
use super::super::error::QuorumError;
use super::super::holding::{self, Holding, HoldingError, nonce};
use super::super::lease;

/// The wallet's directory with its open database.
pub struct Join {
    pub name: String,
    pub wallet: WalletId,
    pub dir: PathBuf,
    pub db: Arc<WalletDb>,
}

impl Join {
    pub(super) fn store(&self, core: &Core) -> ShareStore {
        ShareStore::new(Arc::clone(&self.db), core.me())
    }

    /// Puts the share of a certificate in force, and the wallet with it.
    pub(super) fn come_true(&self, core: &Arc<Core>, keys: &PublicKeys) -> Result<(), HoldingError> {
        let key = SealKey::load(&core.layout.seal_key())?;
        let store = self.store(core);
        store.take_up(keys.epoch)?;
        store.switch(keys.certificate.clone(), &key, &nonce())?;
        live(core, &self.name, &self.dir, &self.db)?;
        tracing::info!(wallet = self.name, epoch = %keys.epoch, "the certificate has turned up; the wallet lives here");
        Ok(())
    }
}

/// Marks a directory as a wallet that lives, and holds its share.
pub(super) fn live(core: &Core, name: &str, dir: &Path, db: &Arc<WalletDb>) -> Result<(), HoldingError> {
    holding::set_complete(dir)?;
    let made = Holding::open(name, dir, Arc::clone(db), &core.layout.seal_key(), core.me())?;
    core.hold(Arc::new(made));
    Ok(())
}

/// The wallet of a new member opens once it knows how far addresses were handed out, so that it sees all coins. It reads
/// the whole chain since the wallet's birth: nothing else of the wallet may have to wait for it.
pub(super) fn open(core: &Arc<Core>, keys: &PublicKeys) {
    for member in keys.roster.members().iter().filter(|member| **member != core.me()) {
        lease::compare_marks(core, *member);
    }
    if let (Some(holding), Some(host)) = (core.holding(&keys.wallet), core.host()) {
        host.wallet_made(&holding);
    }
}

/// The place of a share that is dealt to this member in a wallet that does not live here: what an earlier attempt or an
/// earlier membership left, or a new directory.
pub(super) fn place(core: &Core, name: &str, wallet: WalletId) -> Result<Arc<Join>, QuorumError> {
    if let Some(join) = core.join(name) {
        return Ok(join);
    }
    let dir = core.layout.wallet_dir(name);
    let db = WalletDb::open(&dir.join("db")).map_err(|error| QuorumError::Storage(error.to_string()))?;
    let join = Arc::new(Join { name: name.to_owned(), wallet, dir, db: Arc::new(db) });
    core.add_join(Arc::clone(&join));
    Ok(join)
}

/// A directory of this name holds what an earlier attempt dealt to this member, or what is left of an earlier
/// membership in the same wallet, or nothing yet: an attempt ended before anything was written. A share is in none.
pub(super) fn resumable(core: &Core, name: &str, keys: &PublicKeys) -> bool {
    let dir = core.layout.wallet_dir(name);
    let of_this_wallet = |store: &ShareStore| {
        let mut known = store.promised().ok()?;
        known.extend(store.public().ok()?);
        let begun = !known.is_empty() || !holding::is_complete(&dir);
        Some(!store.has_share().ok()? && begun && known.iter().all(|mine| mine.same_wallet(keys)))
    };
    if let Some(join) = core.join(name) {
        return of_this_wallet(&join.store(core)) == Some(true);
    }
    if !holding::is_ours(&dir) {
        return false;
    }
    let Ok(db) = WalletDb::open(&dir.join("db")) else { return false };
    of_this_wallet(&ShareStore::new(Arc::new(db), core.me())) == Some(true)
}
