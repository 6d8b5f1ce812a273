//! One wallet's share in the hands of this member, with what it promised about it.
//!
//! Owns the share in memory ([`sealed`]), the directory's marker of a complete wallet and the wallet's facts ([`directory`]),
//! address leases it granted and payments it signed for by name ([`promises`]). A promise is on the disk before anyone
//! hears of it.

mod directory;
mod promises;
mod sealed;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::{OutPoint, Txid};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tss_wallet::seal::{Protection, SealKey};
use tss_wallet::store::{Ban, Batch, StoreError, Sync};
use tss_wallet::wallet::keychain::{ChainId, Keychains};
use tss_wallet::{Epoch, Family, KeyShare, MemberId, PartyIndex, PublicKeys, ShareStore, WalletDb, WalletId};

pub use directory::{
    has_share, is_complete, is_ours, set_complete, set_unconfirmed, store_facts, store_share, stored_facts,
    unset_complete, wallet_of,
};
use sealed::Share;

use super::coins::CoinClaims;
use super::guard::{Guard, GuardError};
use super::names::Holds;
use super::nonces::Nonces;
use super::refusal::Refusal;
use super::wire::Invitation;

const MARK_PREFIX: &[u8] = b"mark/";
const SUSPENDED_PREFIX: &[u8] = b"suspended/";
const PAYMENT_PREFIX: &[u8] = b"payment/";
/// Set while a restored share waits for others.
const RESTORED_KEY: &[u8] = b"restored";
/// The present epoch and when this member first saw itself in it.
const DEALT_KEY: &[u8] = b"dealt";
/// How far a mark of another member may lie above one's own: no liar exhausts the indexes.
const MAX_MARK_JUMP: u32 = 20_000;

/// Why a share could not be opened or a promise not kept.
#[derive(Debug, thiserror::Error)]
pub enum HoldingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Share(#[from] tss_wallet::store::ShareStoreError),
    #[error(transparent)]
    Seal(#[from] tss_wallet::seal::SealError),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("the wallet in {0} is damaged: {1}")]
    Damaged(PathBuf, &'static str),
    #[error("the wallet in {0} is damaged: {1}")]
    Guard(PathBuf, GuardError),
}

impl HoldingError {
    /// Somebody else has the wallet's database open.
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::Store(StoreError::InUse(_)))
    }
}

/// One wallet of this member.
pub struct Holding {
    name: String,
    dir: PathBuf,
    facts: Invitation,
    public: Arc<PublicKeys>,
    me: PartyIndex,
    seal_key: PathBuf,
    share: Mutex<Share>,
    keys: Keychains,
    db: Arc<WalletDb>,
    store: ShareStore,
    marks: Arc<Mutex<BTreeMap<ChainId, u32>>>,
    /// Names under which a share has left, since the start. Held over every change of what is noted of names.
    payments: Arc<Mutex<HashSet<[u8; 32]>>>,
    names: Arc<Mutex<Holds>>,
    /// Of this epoch alone.
    nonces: Nonces,
    coins: Arc<Mutex<CoinClaims>>,
    suspended: Arc<Mutex<BTreeMap<MemberId, String>>>,
    guard: Arc<Guard>,
    /// The highest epoch that another member claims to be in; explains failures, decides nothing.
    claimed: AtomicU32,
    /// The quorum has gone on without this member.
    out: AtomicBool,
    unconfirmed: AtomicBool,
    bans: Arc<Mutex<BTreeSet<MemberId>>>,
}

#[derive(Serialize, Deserialize)]
struct Payment {
    txid: Txid,
    /// Inputs that every transaction signed under the name has in common.
    inputs: Vec<OutPoint>,
}

pub(super) fn nonce() -> [u8; 24] {
    let mut nonce = [0; 24];
    rand::rngs::OsRng.fill_bytes(&mut nonce);
    nonce
}

impl Holding {
    /// Opens the share in a directory whose database is open.
    pub fn open(
        name: &str,
        dir: &Path,
        db: Arc<WalletDb>,
        seal_key: &Path,
        me: MemberId,
    ) -> Result<Self, HoldingError> {
        let damaged = |what| HoldingError::Damaged(dir.to_owned(), what);
        let (_, facts) = stored_facts(&db)?.ok_or_else(|| damaged("it has no description"))?;
        let store = ShareStore::new(Arc::clone(&db), me);
        let encrypted = matches!(store.protection()?, Protection::Passphrase(_));
        let share = if encrypted { None } else { Some(Arc::new(store.unlock(&SealKey::load(seal_key)?)?)) };
        let public = match &share {
            Some(share) => Arc::clone(share.public()),
            None => Arc::new(store.public()?.ok_or_else(|| damaged("it holds no share"))?),
        };
        let index = public.roster.index_of(&me).ok_or_else(|| damaged("its share is another member's"))?;
        let accounts = public.accounts().map_err(|_| damaged("its accounts cannot be derived"))?;
        let keys = Keychains::new(public.network, &accounts).map_err(|_| damaged("its accounts do not fit"))?;
        let mut marks = BTreeMap::new();
        for (key, value) in db.rows_with_prefix(Family::Claims, MARK_PREFIX)? {
            let chain: ChainId = key
                .strip_prefix(MARK_PREFIX)
                .and_then(|key| postcard::from_bytes(key).ok())
                .ok_or_else(|| damaged("a lease cannot be read"))?;
            let mark = <[u8; 4]>::try_from(value.as_slice()).map_err(|_| damaged("a lease cannot be read"))?;
            marks.insert(chain, u32::from_be_bytes(mark));
        }
        let mut suspended = BTreeMap::new();
        for (key, reason) in db.rows_with_prefix(Family::Claims, SUSPENDED_PREFIX)? {
            let member = key.strip_prefix(SUSPENDED_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
            let member = member.ok_or_else(|| damaged("a suspension cannot be read"))?;
            suspended.insert(MemberId(member), String::from_utf8_lossy(&reason).into_owned());
        }
        let bans = store.bans()?.into_keys().collect();
        let guard = Arc::new(Guard::open(Arc::clone(&db), public.network)?);
        let unconfirmed = db.get(Family::Claims, RESTORED_KEY)?.is_some();
        Ok(Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            facts,
            public,
            me: index,
            seal_key: seal_key.to_owned(),
            share: Mutex::new(Share { open: share, encrypted, key: None }),
            keys,
            db,
            store,
            marks: Arc::new(Mutex::new(marks)),
            payments: Arc::default(),
            names: Arc::default(),
            nonces: Nonces::default(),
            suspended: Arc::new(Mutex::new(suspended)),
            coins: Arc::default(),
            guard,
            claimed: AtomicU32::new(0),
            out: AtomicBool::new(false),
            unconfirmed: AtomicBool::new(unconfirmed),
            bans: Arc::new(Mutex::new(bans)),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn facts(&self) -> &Invitation {
        &self.facts
    }

    pub fn db(&self) -> &Arc<WalletDb> {
        &self.db
    }

    /// Policy, memory and log of this member.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Nonces of one-round signatures.
    pub fn nonces(&self) -> &Nonces {
        &self.nonces
    }

    /// Another member says that it is in this epoch.
    pub fn heard_of_epoch(&self, epoch: Epoch) {
        self.claimed.fetch_max(epoch.0, Ordering::Relaxed);
    }

    /// An epoch above this share's own that another member says it is in.
    pub fn later_epoch(&self) -> Option<Epoch> {
        let claimed = Epoch(self.claimed.load(Ordering::Relaxed));
        (claimed > self.epoch()).then_some(claimed)
    }

    /// Whether this share was restored from a backup and waits for others to confirm its epoch.
    pub fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    /// Ends the wait.
    pub(super) fn confirm(&self) -> Result<(), HoldingError> {
        if self.is_unconfirmed() {
            let mut batch = Batch::new();
            batch.delete(Family::Claims, RESTORED_KEY);
            self.db.write(&batch, Sync::Yes)?;
            self.unconfirmed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Why this member takes part in nothing, if so.
    pub(crate) fn own_refusal(&self, me: &MemberId) -> Option<Refusal> {
        if self.suspended().contains(me) {
            return Some(Refusal::Suspended("its own share".to_owned()));
        }
        if self.is_fenced() {
            return Some(Refusal::Fenced);
        }
        self.is_unconfirmed().then_some(Refusal::Restored)
    }

    /// Whether this member was rolled back, and has no share yet that it did not have before.
    pub fn is_fenced(&self) -> bool {
        self.guard.is_fenced(self.epoch())
    }

    pub(super) fn set_out(&self, out: bool) {
        self.out.store(out, Ordering::Relaxed);
    }

    /// Whether the others have gone on without this member.
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Since when this member is in its present epoch, in seconds since 1970; from now on if nothing is noted yet.
    pub(super) fn dealt_at(&self, now: u64) -> Result<u64, HoldingError> {
        if let Some(row) = self.db.get(Family::Claims, DEALT_KEY)?
            && let Some((epoch, time)) = row.split_first_chunk::<4>()
            && u32::from_be_bytes(*epoch) == self.epoch().0
            && let Ok(time) = <[u8; 8]>::try_from(time)
        {
            return Ok(u64::from_be_bytes(time));
        }
        let mut batch = Batch::new();
        batch.put(Family::Claims, DEALT_KEY, [self.epoch().0.to_be_bytes().as_slice(), &now.to_be_bytes()].concat());
        self.db.write(&batch, Sync::Yes)?;
        Ok(now)
    }

    /// Members this one takes part in nothing with, by its operator's word; itself among them stops its own share.
    pub fn suspended(&self) -> BTreeSet<MemberId> {
        self.suspended.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Suspends a member for a reason, or ends that; durable when this returns.
    pub fn suspend(&self, member: MemberId, reason: Option<&str>) -> Result<(), HoldingError> {
        let mut suspended = self.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        let key = [SUSPENDED_PREFIX, member.as_bytes().as_slice()].concat();
        let mut batch = Batch::new();
        match reason {
            Some(reason) => {
                batch.put(Family::Claims, key, reason.as_bytes());
                self.db.write(&batch, Sync::Yes)?;
                suspended.insert(member, reason.to_owned());
                let mine = self.index_of(&member) == Some(self.me);
                if mine { self.nonces.clear() } else { self.nonces.forget(&member) }
            }
            None => {
                batch.delete(Family::Claims, key);
                self.db.write(&batch, Sync::Yes)?;
                suspended.remove(&member);
            }
        }
        Ok(())
    }

    /// Names of payments that are being made.
    pub(super) fn names(&self) -> &Mutex<Holds> {
        &self.names
    }

    pub(super) fn store(&self) -> &ShareStore {
        &self.store
    }

    /// The same wallet with the share of another epoch, which is stored already. What was promised is shared with it,
    /// so that sessions under way with the old one and new ones promise nothing twice.
    pub(super) fn renewed(&self, share: KeyShare) -> Result<Self, HoldingError> {
        // A share that the others have just dealt needs no one to confirm it.
        self.confirm()?;
        let held = self.held();
        let public = Arc::clone(share.public());
        Ok(Self {
            name: self.name.clone(),
            dir: self.dir.clone(),
            facts: self.facts.clone(),
            me: share.me(),
            seal_key: self.seal_key.clone(),
            keys: self.keys.clone(),
            db: Arc::clone(&self.db),
            store: self.store.clone(),
            marks: Arc::clone(&self.marks),
            payments: Arc::clone(&self.payments),
            names: Arc::clone(&self.names),
            nonces: Nonces::default(),
            suspended: Arc::clone(&self.suspended),
            coins: Arc::clone(&self.coins),
            guard: Arc::clone(&self.guard),
            claimed: AtomicU32::new(0),
            out: AtomicBool::new(false),
            unconfirmed: AtomicBool::new(false),
            bans: Arc::clone(&self.bans),
            share: Mutex::new(Share {
                // A share that was locked meanwhile stays so.
                open: (!held.encrypted || held.key.is_some()).then(|| Arc::new(share)),
                encrypted: held.encrypted,
                key: held.key.clone(),
            }),
            public,
        })
    }

    pub fn public(&self) -> &Arc<PublicKeys> {
        &self.public
    }

    pub fn keys(&self) -> &Keychains {
        &self.keys
    }

    pub fn wallet(&self) -> WalletId {
        self.public().wallet
    }

    pub fn epoch(&self) -> Epoch {
        self.public().epoch
    }

    pub fn me(&self) -> PartyIndex {
        self.me
    }

    pub fn threshold(&self) -> u8 {
        self.public().roster.threshold()
    }

    pub fn members(&self) -> &[MemberId] {
        self.public().roster.members()
    }

    /// All members but this one.
    pub fn others(&self) -> impl Iterator<Item = MemberId> + '_ {
        let me = self.public().roster.member(self.me()).copied();
        self.members().iter().copied().filter(move |member| Some(*member) != me)
    }

    pub fn index_of(&self, member: &MemberId) -> Option<PartyIndex> {
        self.public().roster.index_of(member)
    }

    fn banned(&self) -> MutexGuard<'_, BTreeSet<MemberId>> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members of this epoch that this one does not sign ECDSA with.
    pub fn bans(&self) -> BTreeSet<PartyIndex> {
        self.banned().iter().filter_map(|member| self.index_of(member)).collect()
    }

    /// Never again with this member, until the pair is set up anew and the operator agrees. In force even if it could not be stored.
    pub fn ban(&self, party: PartyIndex, reason: String, now: u64) -> Result<(), HoldingError> {
        let member = self.public().roster.member(party).copied();
        let member = member.ok_or_else(|| HoldingError::Damaged(self.dir.clone(), "a ban of no member"))?;
        self.banned().insert(member);
        Ok(self.store.ban(&Ban { member, epoch: self.epoch(), time_seconds: now, reason })?)
    }

    /// Ends a ban; durable when this returns.
    pub(super) fn end_ban(&self, member: &MemberId) -> Result<(), HoldingError> {
        self.store.lift_ban(member)?;
        self.banned().remove(member);
        Ok(())
    }
}
