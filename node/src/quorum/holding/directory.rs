//! What lies in a wallet's directory beside the share: the marker of a complete wallet, the wallet's facts.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tss_wallet::seal::SealKey;
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, KeyShare, MemberId, ShareStore, WalletDb, WalletId};

use super::{HoldingError, RESTORED_KEY, nonce};
use crate::quorum::wire::Invitation;

/// The file that says that all members hold their shares: the wallet lives.
const COMPLETE: &str = "complete";
const FACTS_KEY: &[u8] = b"invitation";
const CEREMONY_KEY: &[u8] = b"ceremony";

/// A directory holds a wallet that lives.
pub fn is_complete(dir: &Path) -> bool {
    dir.join(COMPLETE).is_file()
}

/// A directory holds a database of ours, complete or not.
pub fn is_ours(dir: &Path) -> bool {
    dir.join("db").join("CURRENT").is_file()
}

/// Makes a wallet live: durable when this returns.
pub fn set_complete(dir: &Path) -> Result<(), HoldingError> {
    let path = dir.join(COMPLETE);
    let failed = |error| HoldingError::Io { path: path.clone(), error };
    fs::File::create(&path).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Takes the mark away: durable when this returns.
pub fn unset_complete(dir: &Path) -> Result<(), HoldingError> {
    let path = dir.join(COMPLETE);
    let failed = |error| HoldingError::Io { path: path.clone(), error };
    fs::remove_file(&path).map_err(failed)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Stores what a wallet is, before its share.
pub fn store_facts(db: &WalletDb, ceremony: &[u8; 32], facts: &Invitation) -> Result<(), HoldingError> {
    let encoded = postcard::to_allocvec(facts)
        .map_err(|_| HoldingError::Damaged(db.path().to_owned(), "its description cannot be written"))?;
    let mut batch = Batch::new();
    batch.put(Family::Claims, FACTS_KEY, encoded);
    batch.put(Family::Claims, CEREMONY_KEY, ceremony.as_slice());
    Ok(db.write(&batch, Sync::Yes)?)
}

/// The ceremony and the facts of a wallet, complete or not; none if the ceremony never came that far.
pub fn stored_facts(db: &WalletDb) -> Result<Option<([u8; 32], Invitation)>, HoldingError> {
    let damaged = |what| HoldingError::Damaged(db.path().to_owned(), what);
    let (Some(facts), Some(ceremony)) = (db.get(Family::Claims, FACTS_KEY)?, db.get(Family::Claims, CEREMONY_KEY)?)
    else {
        return Ok(None);
    };
    let facts = postcard::from_bytes(&facts).map_err(|_| damaged("its description cannot be read"))?;
    let ceremony = ceremony.try_into().map_err(|_| damaged("the id of its ceremony cannot be read"))?;
    Ok(Some((ceremony, facts)))
}

/// Notes in a restored database whether its share waits for others to confirm it.
pub fn set_unconfirmed(db: &WalletDb, unconfirmed: bool) -> Result<(), HoldingError> {
    let mut batch = Batch::new();
    if unconfirmed {
        batch.put(Family::Claims, RESTORED_KEY, [1])
    } else {
        batch.delete(Family::Claims, RESTORED_KEY)
    };
    Ok(db.write(&batch, Sync::Yes)?)
}

/// Seals and stores a share; durable when this returns.
pub fn store_share(
    db: &Arc<WalletDb>,
    seal_key: &Path,
    me: MemberId,
    share: &KeyShare,
    random: &[u8; 32],
) -> Result<(), HoldingError> {
    let key = SealKey::load_or_create(seal_key, random)?;
    Ok(ShareStore::new(Arc::clone(db), me).put_active(share, &key, &nonce())?)
}

/// Whether the database holds a share of this member.
pub fn has_share(db: &Arc<WalletDb>, me: MemberId) -> Result<bool, HoldingError> {
    let public = ShareStore::new(Arc::clone(db), me).public()?;
    Ok(public.is_some_and(|keys| keys.roster.index_of(&me).is_some()))
}

/// The wallet whose share the database holds.
pub fn wallet_of(db: &Arc<WalletDb>, me: MemberId) -> Result<WalletId, HoldingError> {
    let public = ShareStore::new(Arc::clone(db), me).public()?;
    public.map(|keys| keys.wallet).ok_or_else(|| HoldingError::Damaged(db.path().to_owned(), "it holds no share"))
}
