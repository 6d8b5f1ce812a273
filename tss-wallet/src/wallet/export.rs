//! A copy of a wallet that watches and never signs: its descriptors, transactions, labels and locked coins.
//!
//! What others import of it derives the addresses that the quorum hands out. Source: Core's `wallet/export.cpp`.

use super::imports::{Import, ImportFailure};
use super::keychain::imported::Scripts;
use super::storage::{Durability, Storage, Table, Write};
use super::{Kind, Wallet, WalletError, WalletParams};

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("Error: Wallet has no descriptors to export")]
    NoDescriptors,
    #[error("Error: Failed to create new watchonly wallet. {0}")]
    Wallet(#[from] WalletError),
    #[error("Error: Failed to create new watchonly wallet. {0}")]
    Import(#[from] ImportFailure),
}

impl Wallet {
    /// Writes the copy to a store that holds no wallet yet.
    pub fn export_watch_only(&self, storage: Box<dyn Storage>) -> Result<(), ExportError> {
        let descriptors = self.descriptors();
        if descriptors.is_empty() {
            return Err(ExportError::NoDescriptors);
        }
        let params = WalletParams {
            name: self.meta.name.clone(),
            network: self.meta.network,
            accounts: Vec::new(),
            birth_time: self.meta.created,
            avoid_reuse: self.meta.avoid_reuse,
            kind: Kind { watch_only: true, blank: self.kind.blank },
        };
        let mut copy = Self::create(params, self.options, self.tip(), storage)?;
        for found in descriptors {
            let known = self.keys.imported().iter().find(|imported| imported.stored().desc == found.desc);
            let scripts = known.map_or_else(
                || Scripts::Forms(vec![found.desc.split('#').next().unwrap_or_default().to_owned()]),
                |imported| imported.stored().scripts.clone(),
            );
            let (start, last) = found.range.unwrap_or((0, 0));
            copy.import(Import {
                desc: found.desc,
                scripts,
                timestamp: found.timestamp,
                active: found.active,
                internal: found.internal,
                label: String::new(),
                ranged: found.range.is_some(),
                start,
                end: last.saturating_add(1),
                next_index: found.next_index,
            })?;
        }
        let mut writes = Vec::new();
        for table in [Table::Tx, Table::Label, Table::Lock] {
            let rows = self.storage.rows(table).map_err(WalletError::from)?;
            writes.extend(rows.into_iter().map(|(key, value)| Write { table, key, value: Some(value) }));
        }
        copy.storage.write(&writes, Durability::Promise).map_err(WalletError::from)?;
        Ok(())
    }
}
