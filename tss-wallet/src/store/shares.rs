//! The sealed share of this member, and what must never be forgotten with it: bans and the highest epoch.
//!
//! Public keys lie beside it in plain, so that a locked wallet still knows its addresses. Every write here is synced.
//! A share that was made but whose certificate is not complete waits in the pending slot: it is written before this
//! member's own signature leaves, and either becomes the active share or is dropped. The share that it replaces is kept
//! in the previous slot until all who took part have acknowledged the new one; then it is erased from the files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Batch, Family, StoreError, Sync, WalletDb};
use crate::ids::{Epoch, MemberId, PartyIndex};
use crate::keys::{Certificate, CertificateError, KeyShare, PublicKeys};
use crate::seal::{self, Protection, SealContext, SealError, SealKey};

const ACTIVE: Slot = Slot { public: b"active/public", sealed: b"active/share", kind: "share" };
const PENDING: Slot = Slot { public: b"pending/public", sealed: b"pending/share", kind: "pending" };
/// The share of the epoch before, until all have acknowledged the present one. Its seal is that of the active slot.
const PREVIOUS: Slot = Slot { public: b"previous/public", sealed: b"previous/share", kind: "share" };
/// Shares that this member signed a certificate for in attempts before the pending one, by epoch.
const EARLIER_PREFIX: &[u8] = b"earlier/";
const EARLIER_PUBLIC: &[u8] = b"/public";
const EARLIER_SHARE: &[u8] = b"/share";
/// The epoch that this member has dealt to others and will hold no share of: public keys alone.
const LEAVING: &[u8] = b"leaving/public";
/// Members of earlier rosters that are in the present one no more.
const FORMER_PREFIX: &[u8] = b"former/";
const EPOCH_KEY: &[u8] = b"epoch";
const BAN_PREFIX: &[u8] = b"ban/";

struct Slot {
    public: &'static [u8],
    sealed: &'static [u8],
    kind: &'static str,
}

impl Slot {
    fn kind_of(&self, epoch: Epoch) -> String {
        format!("{}/{epoch}", self.kind)
    }
}

/// Why the share could not be read or written.
#[derive(Debug, Error)]
pub enum ShareStoreError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The seal did not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The public keys on the disk do not hold together.
    #[error("the stored public keys are not valid: {0}")]
    Certificate(#[from] CertificateError),
    /// Bytes that this version cannot read, or a secret that does not fit its public keys.
    #[error("the stored {0} cannot be read")]
    Corrupt(&'static str),
    /// There is no share.
    #[error("there is no key share in this wallet")]
    Missing,
    /// An epoch below one that this member has already held.
    #[error("epoch {epoch} is older than epoch {highest}, which this member has held")]
    Stale {
        /// What was to be written.
        epoch: Epoch,
        /// What was held.
        highest: Epoch,
    },
}

/// A durable refusal to run DKLs23 with one member: see [`crate::sign::SignError::Ban`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The other end of the edge.
    pub member: MemberId,
    /// The epoch whose pair state is spoilt.
    pub epoch: Epoch,
    /// When, in seconds since 1970, by the caller's clock.
    pub time_seconds: u64,
    /// What the library said.
    pub reason: String,
}

/// The store of one member's share of one wallet.
#[derive(Debug, Clone)]
pub struct ShareStore {
    db: Arc<WalletDb>,
    member: MemberId,
}

impl ShareStore {
    /// The store of this member's share in a wallet's database.
    #[must_use]
    pub fn new(db: Arc<WalletDb>, member: MemberId) -> Self {
        Self { db, member }
    }

    /// The public keys of the active share; they need no key to be read.
    ///
    /// # Errors
    /// Fails when they do not hold together with their certificate.
    pub fn public(&self) -> Result<Option<PublicKeys>, ShareStoreError> {
        let Some(keys) = self.public_in(&ACTIVE)? else { return Ok(None) };
        keys.verify()?;
        Ok(Some(keys))
    }

    /// The public keys of a share whose certificate is not complete.
    ///
    /// # Errors
    /// Fails for bytes that cannot be read.
    pub fn pending(&self) -> Result<Option<PublicKeys>, ShareStoreError> {
        self.public_in(&PENDING)
    }

    fn public_in(&self, slot: &Slot) -> Result<Option<PublicKeys>, ShareStoreError> {
        let Some(bytes) = self.db.get(Family::Share, slot.public)? else { return Ok(None) };
        decode(&bytes, "public keys").map(Some)
    }

    /// How the active share is sealed.
    ///
    /// # Errors
    /// [`ShareStoreError::Missing`] when there is none.
    pub fn protection(&self) -> Result<Protection, ShareStoreError> {
        let sealed = self.db.get(Family::Share, ACTIVE.sealed)?.ok_or(ShareStoreError::Missing)?;
        Ok(seal::protection_of(&sealed)?)
    }

    /// Keeps a share whose certificate is not complete. Write before sending this member's signature.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn put_pending(&self, share: &KeyShare, key: &SealKey, nonce: &[u8; 24]) -> Result<(), ShareStoreError> {
        let mut batch = Batch::new();
        if let Some(before) = self.pending()?.filter(|before| before.statement() != share.public().statement()) {
            self.set_aside(&mut batch, before.epoch)?;
        }
        self.put(&mut batch, &PENDING, share, key, nonce)?;
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// Moves the pending share to those of earlier attempts: its certificate may yet turn up complete.
    fn set_aside(&self, batch: &mut Batch, epoch: Epoch) -> Result<(), ShareStoreError> {
        for (from, what) in [(PENDING.public, EARLIER_PUBLIC), (PENDING.sealed, EARLIER_SHARE)] {
            let value = self.db.get(Family::Share, from)?.ok_or(ShareStoreError::Corrupt("pending share"))?;
            batch.put(Family::Share, earlier_key(epoch, what), value);
        }
        Ok(())
    }

    /// The public keys of every epoch whose certificate this member signed and does not hold complete.
    ///
    /// # Errors
    /// Fails for bytes that cannot be read.
    pub fn promised(&self) -> Result<Vec<PublicKeys>, ShareStoreError> {
        let mut all: Vec<PublicKeys> = self.pending()?.into_iter().collect();
        for (key, value) in self.db.rows_with_prefix(Family::Share, EARLIER_PREFIX)? {
            if key.ends_with(EARLIER_PUBLIC) {
                all.push(decode(&value, "public keys")?);
            }
        }
        Ok(all)
    }

    /// Makes the share of an earlier attempt the pending one again: its certificate has turned up.
    ///
    /// # Errors
    /// [`ShareStoreError::Missing`] when there is none of this epoch.
    pub fn take_up(&self, epoch: Epoch) -> Result<(), ShareStoreError> {
        let present = self.pending()?;
        if present.as_ref().is_some_and(|keys| keys.epoch == epoch) {
            return Ok(());
        }
        let mut batch = Batch::new();
        if let Some(present) = present {
            self.set_aside(&mut batch, present.epoch)?;
        }
        for (what, to) in [(EARLIER_PUBLIC, PENDING.public), (EARLIER_SHARE, PENDING.sealed)] {
            let key = earlier_key(epoch, what);
            let value = self.db.get(Family::Share, &key)?.ok_or(ShareStoreError::Missing)?;
            batch.put(Family::Share, to, value).delete(Family::Share, key);
        }
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// Makes a share the active one and forgets the pending one, in one write.
    ///
    /// # Errors
    /// Refuses a share whose certificate is not complete, and one of an epoch below the highest held.
    pub fn put_active(&self, share: &KeyShare, key: &SealKey, nonce: &[u8; 24]) -> Result<(), ShareStoreError> {
        share.public().verify()?;
        let epoch = share.public().epoch;
        if let Some(highest) = self.highest_epoch()?.filter(|highest| epoch < *highest) {
            return Err(ShareStoreError::Stale { epoch, highest });
        }
        let mut batch = Batch::new();
        self.put(&mut batch, &ACTIVE, share, key, nonce)?;
        batch.put(Family::Share, EPOCH_KEY, epoch.0.to_be_bytes());
        batch.delete(Family::Share, PENDING.public).delete(Family::Share, PENDING.sealed);
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// Makes the pending share the active one under its complete certificate, and keeps the one before in the
    /// previous slot: all in one write. Bans stay: that a pair was set up anew is not enough to end one.
    ///
    /// # Errors
    /// Refuses a certificate that does not complete the pending share, and an epoch that was held before.
    pub fn switch(
        &self,
        certificate: Certificate,
        key: &SealKey,
        nonce: &[u8; 24],
    ) -> Result<KeyShare, ShareStoreError> {
        let share = self.unlock_pending(key)?.certified(certificate)?;
        let epoch = share.public().epoch;
        if let Some(highest) = self.highest_epoch()?.filter(|highest| epoch <= *highest) {
            return Err(ShareStoreError::Stale { epoch, highest });
        }
        let mut batch = Batch::new();
        // A member that had left, and is back, has no share to keep.
        let before = (self.db.get(Family::Share, ACTIVE.public)?, self.db.get(Family::Share, ACTIVE.sealed)?);
        if let (Some(keys), Some(sealed)) = before {
            batch.put(Family::Share, PREVIOUS.public, keys).put(Family::Share, PREVIOUS.sealed, sealed);
        }
        self.put(&mut batch, &ACTIVE, &share, key, nonce)?;
        batch.put(Family::Share, EPOCH_KEY, epoch.0.to_be_bytes());
        batch.delete(Family::Share, PENDING.public).delete(Family::Share, PENDING.sealed);
        for keys in self.promised()?.iter().filter(|keys| keys.epoch <= epoch) {
            for what in [EARLIER_PUBLIC, EARLIER_SHARE] {
                batch.delete(Family::Share, earlier_key(keys.epoch, what));
            }
        }
        batch.delete(Family::Share, LEAVING);
        let public = share.public();
        for member in public.roster.members() {
            batch.delete(Family::Share, former_key(member));
        }
        for member in self.public_in(&ACTIVE)?.iter().flat_map(|before| before.roster.members()) {
            if public.roster.index_of(member).is_none() {
                batch.put(Family::Share, former_key(member), epoch.0.to_be_bytes());
            }
        }
        self.db.write(&batch, Sync::Yes)?;
        Ok(share)
    }

    /// The public keys of the epoch before, while its share is still kept.
    ///
    /// # Errors
    /// Fails for bytes that cannot be read.
    pub fn previous(&self) -> Result<Option<PublicKeys>, ShareStoreError> {
        self.public_in(&PREVIOUS)
    }

    /// Erases the share of the epoch before, from the database's files too.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn erase_previous(&self) -> Result<(), ShareStoreError> {
        let mut batch = Batch::new();
        batch.delete(Family::Share, PREVIOUS.public).delete(Family::Share, PREVIOUS.sealed);
        self.db.write(&batch, Sync::Yes)?;
        Ok(self.db.scrub(Family::Share)?)
    }

    /// Erases every share of this member: it has left the quorum. Public keys and the highest epoch stay.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn erase_all(&self) -> Result<(), ShareStoreError> {
        let mut batch = Batch::new();
        for slot in [&ACTIVE, &PENDING, &PREVIOUS] {
            batch.delete(Family::Share, slot.sealed);
        }
        batch.delete(Family::Share, PENDING.public).delete(Family::Share, PREVIOUS.public);
        batch.delete(Family::Share, LEAVING);
        for (key, _) in self.db.rows_with_prefix(Family::Share, EARLIER_PREFIX)? {
            batch.delete(Family::Share, key);
        }
        self.db.write(&batch, Sync::Yes)?;
        Ok(self.db.scrub(Family::Share)?)
    }

    /// Whether there is an active share, sealed or not.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn has_share(&self) -> Result<bool, ShareStoreError> {
        Ok(self.db.get(Family::Share, ACTIVE.sealed)?.is_some())
    }

    /// Notes the epoch that goes on without this member. Write before this member's consent is sent.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn put_leaving(&self, keys: &PublicKeys) -> Result<(), ShareStoreError> {
        let value = postcard::to_allocvec(keys).map_err(|_| ShareStoreError::Corrupt("public keys"))?;
        let mut batch = Batch::new();
        batch.put(Family::Share, LEAVING, value);
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// The epoch that goes on without this member once its certificate is complete.
    ///
    /// # Errors
    /// Fails for bytes that cannot be read.
    pub fn leaving(&self) -> Result<Option<PublicKeys>, ShareStoreError> {
        let Some(bytes) = self.db.get(Family::Share, LEAVING)? else { return Ok(None) };
        decode(&bytes, "public keys").map(Some)
    }

    /// Whether a member was in the roster of an earlier epoch that this member held, and is no more.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn is_former(&self, member: &MemberId) -> Result<bool, ShareStoreError> {
        Ok(self.db.get(Family::Share, &former_key(member))?.is_some())
    }

    /// Forgets the pending share.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn drop_pending(&self) -> Result<(), ShareStoreError> {
        let mut batch = Batch::new();
        batch.delete(Family::Share, PENDING.public).delete(Family::Share, PENDING.sealed);
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    fn put(
        &self,
        batch: &mut Batch,
        slot: &Slot,
        share: &KeyShare,
        key: &SealKey,
        nonce: &[u8; 24],
    ) -> Result<(), ShareStoreError> {
        let public: &PublicKeys = share.public();
        let secret = share.secret_bytes().map_err(|_| ShareStoreError::Corrupt("key share"))?;
        let sealed = seal::seal(key, &self.context(public, &slot.kind_of(public.epoch)), &secret, nonce)?;
        let public = postcard::to_allocvec(public).map_err(|_| ShareStoreError::Corrupt("public keys"))?;
        batch.put(Family::Share, slot.public, public).put(Family::Share, slot.sealed, sealed);
        Ok(())
    }

    fn context<'a>(&'a self, public: &'a PublicKeys, kind: &'a str) -> SealContext<'a> {
        SealContext { wallet: &public.wallet, member: &self.member, kind }
    }

    /// Opens the active share and checks it against its public keys.
    ///
    /// # Errors
    /// [`ShareStoreError::Seal`] for a wrong key or passphrase; [`ShareStoreError::Corrupt`] when share and public keys
    /// do not fit.
    pub fn unlock(&self, key: &SealKey) -> Result<KeyShare, ShareStoreError> {
        let public = self.public()?.ok_or(ShareStoreError::Missing)?;
        self.open(&ACTIVE, public, key)
    }

    /// Opens the pending share; its certificate may be incomplete.
    ///
    /// # Errors
    /// As [`Self::unlock`].
    pub fn unlock_pending(&self, key: &SealKey) -> Result<KeyShare, ShareStoreError> {
        let public = self.pending()?.ok_or(ShareStoreError::Missing)?;
        self.open(&PENDING, public, key)
    }

    fn open(&self, slot: &Slot, public: PublicKeys, key: &SealKey) -> Result<KeyShare, ShareStoreError> {
        let sealed = self.db.get(Family::Share, slot.sealed)?.ok_or(ShareStoreError::Missing)?;
        let secret = seal::open(key, &self.context(&public, &slot.kind_of(public.epoch)), &sealed)?;
        let share = KeyShare::from_secret_bytes(&secret, Arc::new(public))
            .map_err(|_| ShareStoreError::Corrupt("key share"))?;
        match share.public().roster.index_of(&self.member) {
            Some(index) if index == share.me() => Ok(share),
            _ => Err(ShareStoreError::Corrupt("key share")),
        }
    }

    /// Seals every stored share anew under another key: a new passphrase, or the first one. Those of attempts and of the
    /// epoch before too, and nothing of the old seals is left in the files.
    ///
    /// # Errors
    /// As [`Self::unlock`]; the old seals stay when anything fails before the write.
    pub fn reseal(
        &self,
        old: &SealKey,
        new: &SealKey,
        mut nonce: impl FnMut() -> [u8; 24],
    ) -> Result<(), ShareStoreError> {
        let active = self.unlock(old)?;
        let mut batch = Batch::new();
        self.put(&mut batch, &ACTIVE, &active, new, &nonce())?;
        for slot in [&PENDING, &PREVIOUS] {
            let (Some(public), Some(sealed)) = (self.public_in(slot)?, self.db.get(Family::Share, slot.sealed)?) else {
                continue;
            };
            batch.put(Family::Share, slot.sealed, self.sealed_anew(&public, slot, &sealed, (old, new), &nonce())?);
        }
        for (key, sealed) in self.db.rows_with_prefix(Family::Share, EARLIER_PREFIX)? {
            let Some(stem) = key.strip_suffix(EARLIER_SHARE) else { continue };
            let public = self.db.get(Family::Share, &[stem, EARLIER_PUBLIC].concat())?;
            let public: PublicKeys = decode(&public.ok_or(ShareStoreError::Corrupt("public keys"))?, "public keys")?;
            batch.put(
                Family::Share,
                key.as_slice(),
                self.sealed_anew(&public, &PENDING, &sealed, (old, new), &nonce())?,
            );
        }
        self.db.write(&batch, Sync::Yes)?;
        Ok(self.db.scrub(Family::Share)?)
    }

    fn sealed_anew(
        &self,
        public: &PublicKeys,
        slot: &Slot,
        sealed: &[u8],
        (old, new): (&SealKey, &SealKey),
        nonce: &[u8; 24],
    ) -> Result<Vec<u8>, ShareStoreError> {
        let kind = slot.kind_of(public.epoch);
        let context = self.context(public, &kind);
        Ok(seal::seal(new, &context, &seal::open(old, &context, sealed)?, nonce)?)
    }

    /// The highest epoch this member has held.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn highest_epoch(&self) -> Result<Option<Epoch>, ShareStoreError> {
        let Some(bytes) = self.db.get(Family::Share, EPOCH_KEY)? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| ShareStoreError::Corrupt("epoch"))?;
        Ok(Some(Epoch(u32::from_be_bytes(bytes))))
    }

    /// Bans a member, durably, before the call returns. The first ban of an edge is kept.
    ///
    /// # Errors
    /// Fails when the database does: then nothing more may be sent in the session.
    pub fn ban(&self, ban: &Ban) -> Result<(), ShareStoreError> {
        let key = ban_key(&ban.member);
        if self.db.get(Family::Share, &key)?.is_some() {
            return Ok(());
        }
        let value = postcard::to_allocvec(ban).map_err(|_| ShareStoreError::Corrupt("ban"))?;
        let mut batch = Batch::new();
        batch.put(Family::Share, key, value);
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// Ends a ban; only after a fresh pair set-up, and by the operator's word.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn lift_ban(&self, member: &MemberId) -> Result<(), ShareStoreError> {
        let mut batch = Batch::new();
        batch.delete(Family::Share, ban_key(member));
        Ok(self.db.write(&batch, Sync::Yes)?)
    }

    /// All bans.
    ///
    /// # Errors
    /// Fails for a ban that cannot be read: signing must not go on then.
    pub fn bans(&self) -> Result<BTreeMap<MemberId, Ban>, ShareStoreError> {
        let rows = self.db.rows_with_prefix(Family::Share, BAN_PREFIX)?;
        rows.iter()
            .map(|(_, value)| {
                let ban: Ban = decode(value, "ban")?;
                Ok((ban.member, ban))
            })
            .collect()
    }

    /// The banned members by their index, for [`crate::SignParams::banned`].
    ///
    /// # Errors
    /// As [`Self::bans`].
    pub fn banned_parties(&self, keys: &PublicKeys) -> Result<BTreeSet<PartyIndex>, ShareStoreError> {
        Ok(self.bans()?.keys().filter_map(|member| keys.roster.index_of(member)).collect())
    }
}

fn earlier_key(epoch: Epoch, what: &[u8]) -> Vec<u8> {
    [EARLIER_PREFIX, &epoch.0.to_be_bytes(), what].concat()
}

fn former_key(member: &MemberId) -> Vec<u8> {
    [FORMER_PREFIX, member.as_bytes()].concat()
}

fn ban_key(member: &MemberId) -> Vec<u8> {
    [BAN_PREFIX, member.as_bytes()].concat()
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, ShareStoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(ShareStoreError::Corrupt(what)),
    }
}
