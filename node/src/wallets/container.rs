//! A wallet that is not open, as one file: `wallet.dat`.
//!
//! Concerns wallets that this node alone holds: those of embedded co-signers, and those without keys. The share of a
//! real member stays a directory, for it is bound to its node. Opening unpacks the file beside itself, closing packs it
//! again; the file is a copy as `backupwallet` writes it. A crash leaves the directories, which are the wallet then.
//!
//! Which of the two is the wallet turns on one mark, `complete` in the directory: with it, the directory; without, the
//! file. `wallet.dat.part` is what goes from one to the other: without the mark it is the wallet, with it a left-over.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tss_wallet::WalletDb;
use tss_wallet::store::StoreError;

use super::backup::{self, BackupError, MAGIC};
use crate::quorum::holding::{self, HoldingError};

/// The name of the file, which is Core's.
pub(super) const FILE: &str = "wallet.dat";
const PART: &str = "wallet.dat.part";
/// Where the wallet without a name is unpacked, under the directory of all wallets.
const UNNAMED: &str = ".unnamed";
/// How long the last user of a wallet that is put into its file may take to let go of it.
const PACKED_WITHIN: Duration = Duration::from_secs(10);

/// Why a wallet was not unpacked or packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContainerError {
    /// Core's text, which names Core's database.
    #[error(
        "SQLiteDatabase: Unable to obtain an exclusive lock on the database, is it being used by another instance of \
         Bitcoin Core?"
    )]
    InUse,
    #[error(
        "{0} lies beside a wallet that was not closed. The directories beside it are the newer one; move one of the two \
         away."
    )]
    Both(PathBuf),
    #[error(transparent)]
    Copy(#[from] BackupError),
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Holding(#[from] HoldingError),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
}

impl From<StoreError> for ContainerError {
    fn from(error: StoreError) -> Self {
        if let StoreError::InUse(_) = error { Self::InUse } else { Self::Store(error) }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ContainerError + '_ {
    |error| ContainerError::Io { path: path.to_owned(), error }
}

/// Whether a file is a wallet at rest.
pub(super) fn is_container(file: &Path) -> std::io::Result<bool> {
    let mut start = [0; MAGIC.len()];
    let mut file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.read_exact(&mut start) {
        Ok(()) => Ok(start == *MAGIC),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a wallet lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// While it is open, or if it is no container.
    pub dir: PathBuf,
    /// While it is closed.
    pub file: PathBuf,
}

impl Place {
    /// Of a wallet under the directory of all wallets; a name may be an absolute path.
    pub fn of(wallets: &Path, name: &str) -> Self {
        let dir = wallets.join(name);
        if name.is_empty() {
            return Self { file: wallets.join(FILE), dir: wallets.join(UNNAMED) };
        }
        Self { file: dir.join(FILE), dir }
    }

    fn part(&self) -> PathBuf {
        self.file.with_file_name(PART)
    }

    /// Something of ours is there, whole or not.
    pub fn is_taken(&self) -> bool {
        self.file.symlink_metadata().is_ok() || self.part().exists() || holding::is_ours(&self.dir)
    }

    /// What lies there is a wallet at rest.
    pub fn is_packed(&self) -> bool {
        !holding::is_complete(&self.dir) && (self.part().exists() || is_container(&self.file).unwrap_or(false))
    }

    /// Ends what a crash interrupted.
    fn settle(&self) -> Result<(), ContainerError> {
        let part = self.part();
        if !part.exists() {
            return Ok(());
        }
        if holding::is_complete(&self.dir) {
            return fs::remove_file(&part).map_err(io(&part));
        }
        self.clear()?;
        fs::rename(&part, &self.file).map_err(io(&part))?;
        self.sync()
    }

    /// Removes what was unpacked, unless someone has it open.
    fn clear(&self) -> Result<(), ContainerError> {
        if holding::is_ours(&self.dir) {
            drop(WalletDb::open(&self.dir.join("db"))?);
        }
        remove_parts(&self.dir)
    }

    fn sync(&self) -> Result<(), ContainerError> {
        let parent = self.file.parent().unwrap_or(&self.dir);
        fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
    }

    /// Makes the directory ready for use, if the wallet lies packed.
    pub fn unpack(&self) -> Result<(), ContainerError> {
        self.settle()?;
        if holding::is_complete(&self.dir) {
            // The share of a member has no file, and a wallet that was not closed lost its file when it was opened.
            return if self.file.exists() { Err(ContainerError::Both(self.file.clone())) } else { Ok(()) };
        }
        if !is_container(&self.file).map_err(io(&self.file))? {
            return Ok(());
        }
        self.clear()?;
        let unpacked = backup::unpack(&self.file, &self.dir, backup::Unpack::AtRest);
        if let Err(error) = unpacked {
            self.clear()?;
            return Err(error.into());
        }
        let part = self.part();
        fs::rename(&self.file, &part).map_err(io(&part))?;
        self.sync()?;
        holding::set_complete(&self.dir)?;
        fs::remove_file(&part).map_err(io(&part))
    }

    /// Puts a wallet that was closed into its file. Waits a moment for the last user to let go; where one does not, the
    /// wallet stays as it is.
    pub fn pack(&self) -> Result<(), ContainerError> {
        if !holding::is_complete(&self.dir) || !backup::is_self_contained(&self.dir) {
            return Ok(());
        }
        let dirs = backup::part_dirs(&self.dir).map_err(io(&self.dir))?;
        let mut open = Vec::with_capacity(dirs.len());
        let deadline = Instant::now() + PACKED_WITHIN;
        for (name, dir) in dirs {
            let db = WalletDb::open_when_free(&dir.join("db"), deadline.saturating_duration_since(Instant::now()))?;
            open.push((name, dir, db));
        }
        let parts = open.iter().map(|(name, dir, db)| backup::part(dir, name, db)).collect::<Result<Vec<_>, _>>()?;
        let part = self.part();
        backup::write(parts, &part)?;
        self.sync()?;
        // From here on the file is the wallet.
        holding::unset_complete(&self.dir)?;
        fs::rename(&part, &self.file).map_err(io(&part))?;
        self.sync()?;
        drop(open);
        remove_parts(&self.dir)
    }
}

/// Removes what [`backup::unpack`] makes, and the directory if nothing else is in it and no file of ours.
fn remove_parts(dir: &Path) -> Result<(), ContainerError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(Result::ok),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ContainerError::Io { path: dir.to_owned(), error }),
    };
    for path in backup::parts_in(entries) {
        backup::remove(&path).map_err(io(&path))?;
    }
    if dir.file_name().is_some_and(|name| name == UNNAMED) {
        fs::remove_dir(dir).map_err(io(dir))?;
    }
    Ok(())
}
