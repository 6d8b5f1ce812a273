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
use serde::{Deserialize, Serialize};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, WalletDb};

use super::loaded::{Keys, Loaded, Quorum};

const MAGIC: &[u8; 8] = b"KLBACK01";
/// Larger than any copy: a file that claims more is not read.
const MAX_BYTES: u64 = 4 << 30;
/// Small files that make a wallet's directory what it is.
const FILES: [&str; 4] = ["identity", "seal.key", "complete", "keyless"];
const MAX_FILE_BYTES: u64 = 4096;

/// Why no copy was made or restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] tss_wallet::store::StoreError),
    #[error("Data is not in recognized format.")]
    Damaged,
}

/// Key and value.
type Row = (Vec<u8>, Vec<u8>);

/// One co-signer's directory.
#[derive(Serialize, Deserialize)]
struct Part {
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

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError + '_ {
    |error| BackupError::Io { path: path.to_owned(), error }
}

fn part(dir: &Path, name: &str, db: &WalletDb) -> Result<Part, BackupError> {
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
    pub(super) fn back_up(&self, dir: &Path, destination: &Path) -> Result<(), BackupError> {
        let mut parts = vec![part(dir, "", &self.db)?];
        if let Some(Keys { quorum: Quorum::Embedded(embedded), .. }) = self.keys() {
            for core in embedded.cores().iter().skip(1) {
                for holding in core.holdings() {
                    let name = holding.dir().file_name().map(|name| name.to_string_lossy().into_owned());
                    parts.push(part(holding.dir(), &name.unwrap_or_default(), holding.db())?);
                }
            }
        }
        let body = postcard::to_allocvec(&Copy { parts }).map_err(|_| BackupError::Damaged)?;
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(destination).map_err(io(destination))?;
        let digest = sha256::Hash::hash(&body);
        let written =
            [MAGIC.as_slice(), digest.as_byte_array(), &body].iter().try_for_each(|part| file.write_all(part));
        written.and_then(|()| file.sync_all()).map_err(io(destination))
    }
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

/// Writes the directory of a wallet from a copy. The mark of completeness comes last.
pub(super) fn unpack(file: &Path, dir: &Path) -> Result<(), BackupError> {
    let copy = read(file)?;
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
        let (last, first): (Vec<_>, Vec<_>) = part.files.iter().partition(|(name, _)| name == "complete");
        for (name, bytes) in first.into_iter().chain(last) {
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
