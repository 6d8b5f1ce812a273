//! Copies of a wallet in one file: the rows of its databases, and what lies beside them.
//!
//! Shares go in sealed as they lie on the disk. Of a real member that is all: its copy opens only where its node's
//! identity and seal key are, or its passphrase is known. Of embedded co-signers (`-devquorum`) identities and seal
//! keys go in too, as in their directory, which protects nothing. The file is read with limits and checked by a hash.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bitcoin::hashes::{Hash, sha256};
use keyless_rpc::error::RpcError;
use serde::{Deserialize, Serialize};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::wallet::storage::StorageError;
use tss_wallet::{Family, WalletDb};

use super::container::Place;
use super::imports;
use super::loaded::{Keys, Loaded, Quorum};

pub(super) const MAGIC: &[u8; 8] = b"KLBACK01";
/// The file that makes a directory a wallet.
const COMPLETE: &str = "complete";
/// Larger than any copy: a file that claims more is not read.
const MAX_BYTES: u64 = 4 << 30;
/// Small files that make a wallet's directory what it is.
const FILES: [&str; 4] = ["identity", "seal.key", COMPLETE, "keyless"];
/// Of these, those without which a copy is a share of one node's, and opens nowhere else.
const OWN: [&str; 2] = ["identity", "keyless"];
const MAX_FILE_BYTES: u64 = 4096;
/// Under the node's own directory: exports that are being put together.
pub(super) const EXPORTS: &str = "exports";

/// Why no copy was made or restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] tss_wallet::store::StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("it is the wallet's own file")]
    Itself,
    #[error("Data is not in recognized format.")]
    Damaged,
    #[error("It is a copy of one member's share: use restorewallet on the node whose share it is.")]
    Bound,
}

/// Key and value.
type Row = (Vec<u8>, Vec<u8>);

/// One co-signer's directory.
#[derive(Serialize, Deserialize)]
pub(super) struct Part {
    /// Empty for the wallet's own directory, else `cosigner-2` and so on.
    dir: String,
    files: Vec<(String, Vec<u8>)>,
    /// Rows by the number of their family.
    rows: Vec<(u8, Vec<Row>)>,
}

#[derive(Serialize, Deserialize)]
struct Copy {
    parts: Vec<Part>,
}

impl Part {
    /// Puts a row in place of another.
    fn set(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        let number = Family::ALL.iter().position(|other| *other == family);
        let rows = self.rows.iter_mut().find(|(other, _)| Some(usize::from(*other)) == number);
        if let Some((_, rows)) = rows {
            rows.retain(|(other, _)| *other != key);
            rows.push((key, value));
        }
    }
}

/// Whether two paths lead to one place, the last step of which need not exist.
fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    whole(one).is_some_and(|one| whole(other) == Some(one))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError + '_ {
    |error| BackupError::Io { path: path.to_owned(), error }
}

/// What a co-signer's directory holds.
pub(super) fn part(dir: &Path, name: &str, db: &WalletDb) -> Result<Part, BackupError> {
    let mut files = Vec::new();
    for file in FILES {
        let path = dir.join(file);
        if fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE_BYTES) {
            files.push((file.to_owned(), fs::read(&path).map_err(io(&path))?));
        }
    }
    let families = (0_u8..).zip(Family::ALL);
    let rows = families.map(|(number, family)| Ok((number, db.rows(family)?))).collect::<Result<_, BackupError>>()?;
    Ok(Part { dir: name.to_owned(), files, rows })
}

impl Loaded {
    /// Writes the wallet to a file, in place of what was there.
    pub(super) fn back_up(&self, place: &Place, destination: &Path) -> Result<(), BackupError> {
        if is_same(destination, &place.file) {
            return Err(BackupError::Itself);
        }
        // The copy stands where the wallet stands now: it may be restored where earlier blocks are gone. No block comes in
        // between its rows and that.
        let own = {
            let wallet = self.wallet();
            let mut own = part(&place.dir, "", &self.db)?;
            let best = wallet.tip_row()?;
            if let Some(value) = best.value {
                own.set(best.table.into(), best.key, value);
            }
            own
        };
        let mut parts = vec![own];
        if let Some(Keys { quorum: Quorum::Embedded(embedded), .. }) = self.keys() {
            for core in embedded.cores().iter().skip(1) {
                for holding in core.holdings() {
                    let name = holding.dir().file_name().map(|name| name.to_string_lossy().into_owned());
                    parts.push(part(holding.dir(), &name.unwrap_or_default(), holding.db())?);
                }
            }
        }
        write(parts, destination)
    }
}

impl Loaded {
    /// Writes a wallet that watches the same addresses to a file that is not there yet.
    pub(super) fn export(&self, destination: &Path) -> Result<(), RpcError> {
        let refused = |error: std::io::Error| {
            tracing::error!(wallet = self.name, %error, "the watch-only wallet could not be written");
            RpcError::wallet(format!("Error: Could not create file '{}'", destination.display()))
        };
        fs::OpenOptions::new().write(true).create_new(true).open(destination).map_err(refused)?;
        let written = self.write_watch_only(destination);
        if written.is_err()
            && let Err(error) = fs::remove_file(destination)
        {
            tracing::warn!(wallet = self.name, %error, "a file that was not finished could not be removed");
        }
        written
    }

    fn write_watch_only(&self, destination: &Path) -> Result<(), RpcError> {
        let failed = |error: &dyn std::fmt::Display| {
            RpcError::wallet(format!("Error: Failed to create new watchonly wallet. {error}"))
        };
        // Put together in a directory of its own, which the next start clears after a crash.
        let dir = self.options.keyless_dir.join(EXPORTS).join(format!("{:016x}", rand::random::<u64>()));
        let db = imports::make_plain(&dir)?;
        let copied = self.wallet().export_watch_only(Box::new(std::sync::Arc::clone(&db)));
        copied.map_err(|error| RpcError::wallet(error.to_string()))?;
        let parts = vec![part(&dir, "", &db).map_err(|error| failed(&error))?];
        write(parts, destination).map_err(|error| failed(&error))?;
        drop(db);
        fs::remove_dir_all(&dir).map_err(|error| failed(&error))
    }
}

/// Writes parts to a file, in place of what was there.
pub(super) fn write(parts: Vec<Part>, destination: &Path) -> Result<(), BackupError> {
    let body = postcard::to_allocvec(&Copy { parts }).map_err(|_| BackupError::Damaged)?;
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(destination).map_err(io(destination))?;
    let digest = sha256::Hash::hash(&body);
    let written = [MAGIC.as_slice(), digest.as_byte_array(), &body].iter().try_for_each(|part| file.write_all(part));
    written.and_then(|()| file.sync_all()).map_err(io(destination))
}

fn read(file: &Path) -> Result<Copy, BackupError> {
    if fs::metadata(file).map_err(io(file))?.len() > MAX_BYTES {
        return Err(BackupError::Damaged);
    }
    let bytes = fs::read(file).map_err(io(file))?;
    let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or(BackupError::Damaged)?;
    let (digest, body) = rest.split_at_checked(32).ok_or(BackupError::Damaged)?;
    if sha256::Hash::hash(body).as_byte_array() != digest {
        return Err(BackupError::Damaged);
    }
    postcard::from_bytes(body).map_err(|_| BackupError::Damaged)
}

fn is_part(name: &str) -> bool {
    let number = name.strip_prefix("cosigner-").and_then(|number| number.parse::<u8>().ok());
    name.is_empty() || number.is_some_and(|number| (2..=15).contains(&number) && name == format!("cosigner-{number}"))
}

/// Whether a directory holds all that its wallet needs, so that it may be copied to another node.
pub(super) fn is_self_contained(dir: &Path) -> bool {
    OWN.iter().any(|name| dir.join(name).is_file())
}

/// The directories of a wallet's co-signers, its own first.
pub(super) fn part_dirs(dir: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_part(&name) && !name.is_empty() {
            others.push((name.clone(), dir.join(name)));
        }
    }
    others.sort();
    others.insert(0, (String::new(), dir.to_owned()));
    Ok(others)
}

/// What a copy is unpacked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpack {
    /// To be a wallet from now on.
    Restore,
    /// To be looked at, or to become a wallet when the caller says so; it must hold all that it needs.
    AtRest,
}

/// Writes the directory of a wallet from a copy. The mark of completeness comes last, or is left to the caller.
pub(super) fn unpack(file: &Path, dir: &Path, purpose: Unpack) -> Result<(), BackupError> {
    let copy = read(file)?;
    let own = copy.parts.first().is_some_and(|part| part.files.iter().any(|(name, _)| OWN.contains(&name.as_str())));
    if purpose == Unpack::AtRest && !own {
        return Err(BackupError::Bound);
    }
    let sound = |part: &Part| is_part(&part.dir) && part.files.iter().all(|(name, _)| FILES.contains(&name.as_str()));
    if !copy.parts.iter().all(sound) {
        return Err(BackupError::Damaged);
    }
    // The wallet's own part is the first, and the last to be complete.
    for part in copy.parts.iter().rev() {
        let dir = dir.join(&part.dir);
        let db = WalletDb::open(&dir.join("db"))?;
        let mut batch = Batch::new();
        for (number, rows) in &part.rows {
            let family = Family::ALL.get(usize::from(*number)).ok_or(BackupError::Damaged)?;
            for (key, value) in rows {
                batch.put(*family, key.as_slice(), value.as_slice());
            }
        }
        db.write(&batch, Sync::Yes)?;
        let (last, first): (Vec<_>, Vec<_>) = part.files.iter().partition(|(name, _)| name == COMPLETE);
        let left = purpose == Unpack::AtRest && part.dir.is_empty();
        for (name, bytes) in first.into_iter().chain(last.into_iter().filter(|_| !left)) {
            let path = dir.join(name);
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(io(&path))?;
        }
    }
    Ok(())
}

/// What [`unpack`] made in a directory that was there before.
pub(super) fn parts_in(entries: impl Iterator<Item = fs::DirEntry>) -> Vec<PathBuf> {
    let made = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name == "db" || FILES.contains(&name.as_ref()) || (is_part(&name) && !name.is_empty())
    });
    made.map(|entry| entry.path()).collect()
}

pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
