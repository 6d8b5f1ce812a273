//! The life of a wallet's shares, as RPC asks for it: refresh, reshare, repair, suspension, leaving, backups proven.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyless_p2p::cosigners::{Identity, PeerId, public_key_of};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{BackupCheck, Redealt};
use rand::RngCore;
use tss_wallet::seal::{Protection, SealKey};
use tss_wallet::{MemberId, Roster, ShareStore, Split, WalletDb};

use super::backup;
use super::loaded::{Keys, Loaded, Quorum, storage_error};
use super::manager::{WalletManager, bad_quorum, unknown_member};
use super::sign::quorum_error;
use crate::quorum::redeal::{self, Done, Request};
use crate::quorum::wire::RedealKind;
use crate::quorum::{Core, QuorumError, holding, peer_name};

fn member_of(text: &str) -> Option<MemberId> {
    PeerId::from_str(text).ok().and_then(|peer| public_key_of(&peer)).map(MemberId)
}

fn redealt(done: &Done, started: Instant) -> Redealt {
    let keys = &done.keys;
    let members = keys.roster.members();
    Redealt {
        epoch: u64::from(keys.epoch.0),
        threshold: u16::from(keys.roster.threshold()),
        members: members.iter().map(peer_name).collect(),
        absent: keys.absent.iter().filter_map(|party| keys.roster.member(*party)).map(peer_name).collect(),
        helpers: done.dealers.iter().map(peer_name).collect(),
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Whom this node may make a quorum with.
fn is_known(core: &Core, keys: &Keys, member: &MemberId) -> bool {
    let embedded = match &keys.quorum {
        Quorum::Embedded(embedded) => embedded.members().contains(member),
        Quorum::Network(_) => core.policy().cosigners.contains(member),
    };
    embedded || *member == core.me() || keys.holding.index_of(member).is_some()
}

impl Loaded {
    fn redeal(&self, keys: &Keys, request: &Request) -> Result<Redealt, RpcError> {
        let started = Instant::now();
        let done = redeal::run(keys.quorum.core(), &keys.holding, request).map_err(|error| quorum_error(&error))?;
        Ok(redealt(&done, started))
    }

    /// Adds to a failure that this member's share is stale, if others say so.
    pub(super) fn explain(&self, error: RpcError) -> RpcError {
        let Some(keys) = self.keys() else { return error };
        let Some(later) = keys.holding.later_epoch() else { return error };
        let (wallet, mine, theirs) = (self.name.clone(), keys.holding.epoch().0, later.0);
        let stale = if keys.holding.is_out() {
            QuorumError::Out { epoch: theirs }
        } else {
            QuorumError::Stale { wallet, mine, theirs }
        };
        RpcError { message: format!("{} ({stale})", error.message), ..error }
    }

    /// `refreshshares`.
    pub(super) fn refresh(&self) -> Result<Redealt, RpcError> {
        let keys = self.signing_keys()?;
        let request = Request { kind: RedealKind::Refresh, roster: keys.holding.public().roster.clone() };
        self.redeal(&keys, &request)
    }

    /// `resharequorum`.
    pub(super) fn reshare(&self, threshold: u16, members: &[String]) -> Result<Redealt, RpcError> {
        let keys = self.signing_keys()?;
        let core = keys.quorum.core();
        let members = members
            .iter()
            .map(|text| {
                member_of(text).filter(|member| is_known(core, &keys, member)).ok_or_else(|| unknown_member(text))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if matches!(keys.quorum, Quorum::Embedded(_)) && !members.contains(&core.me()) {
            let text = "Invalid quorum: the node's own co-signer cannot leave a development quorum";
            return Err(RpcError::invalid_parameter(text));
        }
        let threshold = u8::try_from(threshold).unwrap_or(u8::MAX);
        let roster = Roster::new(threshold, members, Split::Refused).map_err(|error| bad_quorum(&error))?;
        self.redeal(&keys, &Request { kind: RedealKind::Reshare, roster })
    }

    /// `suspendcosigner`, `resumecosigner`.
    pub(super) fn suspend(&self, peerid: &str, reason: Option<&str>) -> Result<(), RpcError> {
        let keys = self.signing_keys()?;
        let member = member_of(peerid).filter(|member| keys.holding.index_of(member).is_some());
        let member = member.ok_or_else(|| {
            RpcError::invalid_address_or_key(format!("{peerid} is not a member of this wallet's quorum"))
        })?;
        keys.holding.suspend(member, reason).map_err(storage_error)?;
        let suspended = reason.is_some();
        tracing::warn!(wallet = self.name, member = peerid, suspended, reason, "suspension by the operator");
        Ok(())
    }
}

/// How long whoever still reads a database that was closed may take to let go of it.
const LET_GO: Duration = Duration::from_secs(5);
const LET_GO_POLL: Duration = Duration::from_millis(20);

/// Removes a directory in which a database that somebody still has open may make files meanwhile.
fn remove_when_free(dir: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + LET_GO;
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                std::thread::sleep(LET_GO_POLL);
            }
            removed => return removed,
        }
    }
}

impl WalletManager {
    /// `repairshare`.
    pub(super) fn repair(&self, name: &str) -> Result<Redealt, RpcError> {
        let started = Instant::now();
        let core = self.core().ok_or_else(|| RpcError::wallet("Error: this node has no co-signers (-cosigner)"))?;
        let done = redeal::repair_here(core, name).map_err(|error| quorum_error(&error))?;
        Ok(redealt(&done, started))
    }

    /// `deleteshare`.
    pub(super) fn delete_now(&self, name: &str, force: bool) -> Result<(), RpcError> {
        let loaded = self.loaded(name).ok_or_else(|| {
            RpcError::new(code::RPC_WALLET_NOT_FOUND, "Requested wallet does not exist or is not loaded")
        })?;
        let keys = loaded.signing_keys()?;
        if !force {
            self.leave(&loaded, &keys)?;
        }
        let wallet = keys.holding.wallet();
        keys.holding.erase().map_err(storage_error)?;
        let core = Arc::clone(keys.quorum.core());
        drop((loaded, keys));
        core.release(wallet);
        // Leaving may have unloaded it already.
        if self.loaded(name).is_some() {
            self.unload_now(name)?;
        }
        let mut warnings = Vec::new();
        self.set_startup(name, Some(false), &mut warnings);
        let dir = self.options.wallet_dir(name);
        remove_when_free(&dir).map_err(|error| storage_error(format!("{}: {error}", dir.display())))?;
        tracing::warn!(wallet = name, force, "this member's share is erased");
        Ok(())
    }

    /// Has the others deal their shares again without this member.
    fn leave(&self, loaded: &Loaded, keys: &Keys) -> Result<(), RpcError> {
        let refused = |text: String| RpcError::invalid_parameter(format!("{text}. Only force erases the share now"));
        if matches!(keys.quorum, Quorum::Embedded(_)) {
            return Err(refused("All shares of a development quorum lie here".to_owned()));
        }
        let public = keys.holding.public();
        let others: Vec<MemberId> = keys.holding.others().collect();
        let roster = Roster::new(public.roster.threshold(), others, Split::Accepted)
            .map_err(|error| refused(format!("The others cannot go on without this member: {error}")))?;
        let request = Request { kind: RedealKind::Reshare, roster };
        loaded.redeal(keys, &request).map(|_| ()).map_err(|error| refused(error.message))
    }

    /// `verifysharebackup`. Unpacks into a private directory, which is gone when this returns.
    pub(super) fn check_backup(&self, file: &Path, passphrase: Option<&str>) -> Result<BackupCheck, RpcError> {
        if !file.is_file() {
            return Err(RpcError::invalid_parameter("Backup file does not exist"));
        }
        let mut random = [0; 8];
        rand::rngs::OsRng.fill_bytes(&mut random);
        let dir = self.options.keyless_dir.join(format!("verify-{:016x}", u64::from_le_bytes(random)));
        let check = self.check_unpacked(file, &dir, passphrase);
        if let Err(error) = backup::remove(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "an unpacked backup could not be removed");
        }
        Ok(check)
    }

    fn check_unpacked(&self, file: &Path, dir: &Path, passphrase: Option<&str>) -> BackupCheck {
        let bad = |reason: String| BackupCheck { reason: Some(reason), ..BackupCheck::default() };
        if let Err(error) = backup::unpack(file, dir, backup::Unpack::Restore) {
            return bad(error.to_string());
        }
        let embedded = dir.join("identity");
        let (me, seal_key) = if embedded.is_file() {
            match Identity::load_or_create(&embedded) {
                Ok(identity) => (MemberId(identity.public_key()), dir.join("seal.key")),
                Err(error) => return bad(error.to_string()),
            }
        } else {
            (MemberId(self.options.identity.public_key()), self.options.keyless_dir.join("seal.key"))
        };
        let found = WalletDb::open(&dir.join("db")).map_err(|error| error.to_string()).and_then(|db| {
            let db = Arc::new(db);
            let public = ShareStore::new(Arc::clone(&db), me).public().map_err(|error| error.to_string())?;
            let public = public.ok_or_else(|| "the copy holds no key share".to_owned())?;
            let name = holding::stored_facts(&db).ok().flatten().map(|(_, facts)| facts.name);
            Ok((db, public, name))
        });
        let (db, public, wallet) = match found {
            Ok(found) => found,
            Err(reason) => return bad(reason),
        };
        let reason = if public.roster.index_of(&me).is_none() {
            Some("it is the share of another node".to_owned())
        } else {
            opens(&ShareStore::new(db, me), &seal_key, passphrase).err()
        };
        let newer = self.core().and_then(|core| core.holding(&public.wallet)).map(|holding| holding.epoch());
        let reason = reason.or_else(|| {
            let newer = newer.filter(|newer| *newer > public.epoch)?;
            Some(format!("it is of epoch {}, and the quorum is in epoch {newer}", public.epoch))
        });
        BackupCheck { wallet, peerid: Some(peer_name(&me)), epoch: Some(u64::from(public.epoch.0)), reason }
    }
}

/// Whether a share opens and fits its public keys.
fn opens(store: &ShareStore, seal_key: &Path, passphrase: Option<&str>) -> Result<(), String> {
    let protection = store.protection().map_err(|error| error.to_string())?;
    let key = match (protection, passphrase) {
        (Protection::Passphrase(_), None) => return Err("it is sealed with a passphrase, which is needed".to_owned()),
        (Protection::Passphrase(params), Some(text)) => SealKey::from_passphrase(text.as_bytes(), params),
        (Protection::KeyFile, _) => SealKey::load(seal_key),
    };
    let key = key.map_err(|error| error.to_string())?;
    store.unlock(&key).map(|_| ()).map_err(|error| error.to_string())
}
