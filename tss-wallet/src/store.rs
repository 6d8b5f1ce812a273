//! The database of one wallet: a RocksDB under `wallets/<name>/db`, with a column family for each concern.
//!
//! Owns opening, the version of the format, atomic batches, and which writes are synced. What stands in a family is
//! its owner's affair; the sealed share and what guards it is [`ShareStore`]'s. Refuses a database of another format
//! and one that another process has open.

mod shares;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options, WriteBatch, WriteOptions};
use thiserror::Error;

pub use shares::{Ban, ShareStore, ShareStoreError};

use crate::wallet::storage::{Durability, Rows, Storage, StorageError, Table, Write};

/// The version of the format; a database of another is refused.
const FORMAT: &[u8] = b"keyless-wallet-2";
const FORMAT_KEY: &[u8] = b"format";

/// The column families of a wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Format version, public keys, flags.
    Keys,
    /// Sealed shares, bans, epoch marks.
    Share,
    /// The wallet's own: name, accounts, best block.
    Meta,
    /// Transactions.
    Tx,
    /// Address leases and pools.
    Pool,
    /// Labels.
    Label,
    /// Locked and claimed coins.
    Lock,
    /// Scripts that were derived.
    Script,
    /// What a co-signer agreed to: requests, leases, counters.
    Claims,
    /// The audit log.
    Audit,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Keys,
        Self::Share,
        Self::Meta,
        Self::Tx,
        Self::Pool,
        Self::Label,
        Self::Lock,
        Self::Script,
        Self::Claims,
        Self::Audit,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Share => "share",
            Self::Meta => "meta",
            Self::Tx => "tx",
            Self::Pool => "pool",
            Self::Label => "label",
            Self::Lock => "lock",
            Self::Script => "script",
            Self::Claims => "claims",
            Self::Audit => "audit",
        }
    }
}

impl From<Table> for Family {
    fn from(table: Table) -> Self {
        match table {
            Table::Meta => Self::Meta,
            Table::Tx => Self::Tx,
            Table::Pool => Self::Pool,
            Table::Label => Self::Label,
            Table::Lock => Self::Lock,
            Table::Script => Self::Script,
        }
    }
}

/// Why the database failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the wallet database {0} is in use by another process")]
    InUse(PathBuf),
    /// Written by another version.
    #[error("the wallet database {0} has a format this version does not know")]
    Format(PathBuf),
    /// RocksDB failed.
    #[error("the wallet database failed: {0}")]
    Database(#[from] rocksdb::Error),
    /// The directory could not be made.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// RocksDB's two words for a database that somebody has open: another process, or this one.
fn is_locked(error: &rocksdb::Error) -> bool {
    let text = error.to_string();
    error.kind() == rocksdb::ErrorKind::IOError && (text.contains("While lock file") || text.contains("lock hold by"))
}

/// Whether a write must be on the disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Yes: whatever protects a secret or a promise.
    Yes,
    /// A crash may lose it.
    No,
}

/// Writes that happen all or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<(Family, Vec<u8>, Option<Vec<u8>>)>);

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((family, key.into(), Some(value.into())));
        self
    }

    /// Removes a key.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((family, key.into(), None));
        self
    }
}

/// A wallet's database. Share it in an `Arc`: it is safe to use from several threads.
pub struct WalletDb {
    db: DB,
    path: PathBuf,
    /// Something was written that is not synced yet and should be.
    unsynced: AtomicBool,
}

impl std::fmt::Debug for WalletDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WalletDb({})", self.path.display())
    }
}

/// What a family gathers in memory before it goes to a file of its own.
const WRITE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// How long the last user of a database in this process may take to let go of it.
pub const LET_GO: Duration = Duration::from_secs(3);
const LET_GO_POLL: Duration = Duration::from_millis(10);

impl WalletDb {
    /// Opens the database in a directory, making it (mode 0700) when there is none.
    ///
    /// # Errors
    /// Says when another process holds it and when its format is unknown.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_open_files(64);
        options.set_keep_log_file_num(1);
        options.set_max_log_file_size(1024 * 1024);
        options.increase_parallelism(1);
        // The log of a database takes as much disk at once as its greatest buffer, also that of the family without use.
        let names = Family::ALL.into_iter().map(Family::name).chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME]);
        let families = names.map(|name| {
            let mut options = Options::default();
            options.set_write_buffer_size(WRITE_BUFFER_BYTES);
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| {
            if is_locked(&error) { StoreError::InUse(path.to_owned()) } else { StoreError::Database(error) }
        })?;
        let store = Self { db, path: path.to_owned(), unsynced: AtomicBool::new(false) };
        match store.get(Family::Keys, FORMAT_KEY)? {
            Some(format) if format == FORMAT => {}
            Some(_) => return Err(StoreError::Format(path.to_owned())),
            None => {
                let mut batch = Batch::new();
                batch.put(Family::Keys, FORMAT_KEY, FORMAT);
                store.write(&batch, Sync::Yes)?;
            }
        }
        Ok(store)
    }

    /// The same, once whoever still reads a database that was just closed has let go of it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where it is in use for longer than `within`.
    pub fn open_when_free(path: &Path, within: Duration) -> Result<Self, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            match Self::open(path) {
                Err(StoreError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(LET_GO_POLL),
                opened => return opened,
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn family(&self, family: Family) -> Result<&rocksdb::ColumnFamily, StoreError> {
        // Every family of `ALL` was opened or made by `open`.
        self.db.cf_handle(family.name()).ok_or_else(|| StoreError::Format(self.path.clone()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.family(family)?, key)?)
    }

    /// All rows of a family, in the order of their keys.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn rows(&self, family: Family) -> Result<Rows, StoreError> {
        self.rows_from(family, &[])
    }

    /// The rows of a family whose keys start with a prefix.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn rows_with_prefix(&self, family: Family, prefix: &[u8]) -> Result<Rows, StoreError> {
        self.rows_from(family, prefix)
    }

    fn rows_from(&self, family: Family, prefix: &[u8]) -> Result<Rows, StoreError> {
        let mode = IteratorMode::From(prefix, rocksdb::Direction::Forward);
        let mut rows = Rows::new();
        for row in self.db.iterator_cf(self.family(family)?, mode) {
            let (key, value) = row?;
            if !key.starts_with(prefix) {
                break;
            }
            rows.push((key.into_vec(), value.into_vec()));
        }
        Ok(rows)
    }

    /// Rewrites a family's files, so that what was deleted is no longer in them.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn scrub(&self, family: Family) -> Result<(), StoreError> {
        let family = self.family(family)?;
        self.db.flush_cf(family)?;
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    /// Returns when everything written so far is on the disk. Callers that wait at once share the work.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn sync(&self) -> Result<(), StoreError> {
        Ok(self.db.flush_wal(true)?)
    }

    /// The same, where something was written that is to be there soon.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn sync_if_due(&self) -> Result<(), StoreError> {
        if self.unsynced.swap(false, Ordering::AcqRel) { self.sync() } else { Ok(()) }
    }

    /// Writes a batch: all of it or nothing.
    ///
    /// # Errors
    /// Fails when the database does; then nothing was written.
    pub fn write(&self, batch: &Batch, sync: Sync) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        for (family, key, value) in &batch.0 {
            let family = self.family(*family)?;
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync == Sync::Yes);
        Ok(self.db.write_opt(writes, &options)?)
    }
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        Self::Io(error.to_string())
    }
}

impl Storage for Arc<WalletDb> {
    fn rows(&self, table: Table) -> Result<Rows, StorageError> {
        Ok(WalletDb::rows(self, table.into())?)
    }

    fn write(&self, writes: &[Write], durability: Durability) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        for write in writes {
            match &write.value {
                Some(value) => batch.put(write.table.into(), write.key.as_slice(), value.as_slice()),
                None => batch.delete(write.table.into(), write.key.as_slice()),
            };
        }
        let sync = if durability == Durability::Promise { Sync::Yes } else { Sync::No };
        WalletDb::write(self, &batch, sync)?;
        if durability == Durability::Soon {
            self.unsynced.store(true, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_batch_is_kept_over_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w").join("db");
        {
            let db = WalletDb::open(&path).unwrap();
            let mut batch = Batch::new();
            batch.put(Family::Tx, b"b".as_slice(), b"2".as_slice());
            batch.put(Family::Tx, b"a1".as_slice(), b"1".as_slice());
            batch.put(Family::Tx, b"a2".as_slice(), b"1".as_slice());
            batch.put(Family::Label, b"b".as_slice(), b"3".as_slice());
            db.write(&batch, Sync::No).unwrap();
            let mut batch = Batch::new();
            batch.delete(Family::Tx, b"a1".as_slice());
            db.write(&batch, Sync::Yes).unwrap();
        }
        let db = WalletDb::open(&path).unwrap();
        assert_eq!(db.get(Family::Tx, b"b").unwrap().unwrap(), b"2");
        assert_eq!(db.rows(Family::Tx).unwrap().len(), 2);
        assert_eq!(db.rows_with_prefix(Family::Tx, b"a").unwrap(), [(b"a2".to_vec(), b"1".to_vec())]);
        assert_eq!(db.rows(Family::Label).unwrap().len(), 1);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777;
        assert_eq!(mode, 0o700);
    }

    #[test]
    fn a_database_in_use_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let _first = WalletDb::open(dir.path()).unwrap();
        assert!(matches!(WalletDb::open(dir.path()), Err(StoreError::InUse(_))));
        let within = Duration::from_millis(50);
        assert!(matches!(WalletDb::open_when_free(dir.path(), within), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_database_opens_as_soon_as_its_last_user_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = WalletDb::open(dir.path()).unwrap();
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || WalletDb::open_when_free(&path, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        {
            let db = WalletDb::open(dir.path()).unwrap();
            let mut batch = Batch::new();
            batch.put(Family::Keys, FORMAT_KEY, b"keyless-wallet-999".as_slice());
            db.write(&batch, Sync::Yes).unwrap();
        }
        assert!(matches!(WalletDb::open(dir.path()), Err(StoreError::Format(_))));
    }
}
