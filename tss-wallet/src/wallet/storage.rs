//! What a wallet asks of its store: tables of bytes, read whole at start, written in atomic batches.
//!
//! [`Durability::Promise`] is for what others rely on (an address handed out, a coin claimed, a transaction sent):
//! it is on the disk when the call returns. [`MemoryStore`] is the twin that tests use.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The tables of a wallet's public half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Name, accounts, best block, flags.
    Meta,
    /// Wallet transactions by id.
    Tx,
    /// Leases and pools by chain.
    Pool,
    /// Labels and purposes by script.
    Label,
    /// Locked and claimed coins.
    Lock,
    /// Scripts that were derived.
    Script,
}

impl Table {
    pub const ALL: [Self; 6] = [Self::Meta, Self::Tx, Self::Pool, Self::Label, Self::Lock, Self::Script];
}

/// One change of a batch; `None` removes the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// How long a write may stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// May be lost in a crash, and is found again by following the chain.
    Replayable,
    /// Outlives this process, and is on the disk a second later.
    Soon,
    /// On the disk before the call returns.
    Promise,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the wallet's store failed: {0}")]
    Io(String),
    #[error("the wallet's store holds a {what} that cannot be read")]
    Corrupt { what: &'static str },
}

/// Rows of a table: key and value.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The store of one wallet's public half.
pub trait Storage: Send {
    /// All rows of a table, in the order of their keys.
    fn rows(&self, table: Table) -> Result<Rows, StorageError>;
    /// All of the writes, or none.
    fn write(&self, writes: &[Write], durability: Durability) -> Result<(), StorageError>;
}

type MemoryRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A store in memory. Clones share their rows, so a test can open a wallet again.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    rows: std::sync::Arc<Mutex<MemoryRows>>,
}

impl Storage for MemoryStore {
    fn rows(&self, table: Table) -> Result<Rows, StorageError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows
            .iter()
            .filter(|((of, _), _)| *of == table)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn write(&self, writes: &[Write], _durability: Durability) -> Result<(), StorageError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            let key = (write.table, write.key.clone());
            match &write.value {
                Some(value) => rows.insert(key, value.clone()),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }
}
