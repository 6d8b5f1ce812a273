//! Importing public descriptors into a wallet that has no quorum, and handing out addresses from them.
//!
//! The caller has had Core's parser read the descriptor. A descriptor that is known already is updated; its range may
//! only grow. What is imported is on the disk before the call returns; finding its transactions is the rescan's.
//! Source: Core's `CWallet::AddWalletDescriptor`, `DescriptorScriptPubKeyMan`.

use bitcoin::{Address, ScriptBuf};

use super::keychain::AddressType;
use super::keychain::imported::{ImportError, Imported, Scripts, StoredDescriptor};
use super::labels::Purpose;
use super::storage::{Durability, StorageError, Table, Write};
use super::{CORRUPT_META, Wallet};

pub(super) const DESCRIPTOR_PREFIX: &[u8] = b"descriptor/";
const CORRUPT: StorageError = StorageError::Corrupt { what: "descriptor" };

/// What is asked for with one descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// As Core writes it, with its checksum.
    pub desc: String,
    pub scripts: Scripts,
    /// When its keys were made, seconds since 1970.
    pub timestamp: u64,
    pub active: bool,
    pub internal: bool,
    pub label: String,
    pub ranged: bool,
    /// First index, and the one after the last.
    pub start: u32,
    pub end: u32,
    pub next_index: u32,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    #[error(transparent)]
    Refused(#[from] ImportError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What the user should know of a descriptor that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imports {
    Done,
    /// It was to be active, and stands for no type of address.
    NotActive,
}

impl Wallet {
    /// Takes in one descriptor. Ask for [`Wallet::look_again`] and a rescan afterwards.
    pub fn import(&mut self, request: Import) -> Result<Imports, ImportFailure> {
        let mut imported = Imported::new(StoredDescriptor {
            desc: request.desc,
            scripts: request.scripts,
            timestamp: request.timestamp,
            ranged: request.ranged,
            start: request.start,
            end: request.end,
            next_index: request.next_index,
            active: None,
        })?;
        let known = self.keys.imported().iter().position(|other| other.stored().desc == imported.stored().desc);
        if let Some(before) = known.and_then(|number| self.keys.imported().get(number)).map(Imported::stored) {
            if before.ranged && (imported.stored().start > before.start || imported.stored().end < before.end) {
                return Err(ImportError::Range { start: before.start, last: before.end.saturating_sub(1) }.into());
            }
            imported.stored.active = before.active;
        }
        imported.extend(self.options.keypool_size);
        let kind = imported.output_type();
        imported.stored.active = match kind {
            Some(kind) if request.active => Some((kind, request.internal)),
            // An inactive import ends what was active on its side.
            _ => imported.stored.active.filter(|side| *side != (kind.unwrap_or(side.0), request.internal)),
        };
        let mut changed = self.displace(imported.stored.active, known);
        let labelled: Vec<ScriptBuf> =
            if request.ranged || request.internal { Vec::new() } else { self.label_scripts(&imported) };
        let number = match known {
            Some(number) => {
                if let Some(place) = self.keys.imported_mut().get_mut(number) {
                    *place = imported;
                }
                number
            }
            None => {
                self.keys.imported_mut().push(imported);
                self.keys.imported().len() - 1
            }
        };
        self.keys.restart_imported(number);
        self.keys.top_up(usize::MAX);
        changed.push(number);
        let mut writes = changed.iter().map(|number| self.descriptor_row(*number)).collect::<Result<Vec<_>, _>>()?;
        for script in labelled {
            self.book.set(&script, &request.label, Some(Purpose::Receive));
            writes.push(self.book.row(&script)?);
        }
        self.meta.birth_time = self.meta.birth_time.min(request.timestamp);
        writes.push(self.meta_row()?);
        self.storage.write(&writes, Durability::Promise)?;
        Ok(if request.active && kind.is_none() { Imports::NotActive } else { Imports::Done })
    }

    /// Another descriptor takes the place of the one that was active.
    fn displace(&mut self, active: Option<(AddressType, bool)>, by: Option<usize>) -> Vec<usize> {
        let mut changed = Vec::new();
        for (number, imported) in self.keys.imported_mut().iter_mut().enumerate() {
            if active.is_some() && imported.stored.active == active && Some(number) != by {
                imported.stored.active = None;
                changed.push(number);
            }
        }
        changed
    }

    fn label_scripts(&self, imported: &Imported) -> Vec<ScriptBuf> {
        imported
            .all_scripts()
            .into_iter()
            .filter(|script| Address::from_script(script, self.meta.network).is_ok())
            .collect()
    }

    /// Transactions known already may pay to scripts that were imported since.
    pub fn look_again(&mut self) {
        self.ledger.look_again(&mut self.keys);
    }

    /// Whether an address could be handed out at all.
    pub fn can_hand_out(&self, change: bool) -> bool {
        !self.keys.is_watching() || AddressType::ALL.iter().any(|kind| self.keys.active_import(*kind, change).is_some())
    }

    /// Whether addresses of a type can be handed out.
    pub fn hands_out(&self, kind: AddressType, change: bool) -> bool {
        !self.keys.is_watching() || self.keys.active_import(kind, change).is_some()
    }

    /// Scripts of active descriptors that are watched and not handed out.
    pub(super) fn imported_ahead(&self, change: bool) -> u32 {
        let active = self.keys.imported().iter().map(Imported::stored);
        let active = active.filter(|stored| stored.active.is_some_and(|(_, of_change)| of_change == change));
        active.map(|stored| stored.end.saturating_sub(stored.next_index)).sum()
    }

    /// The script that [`Wallet::take_imported`] would hand out.
    pub(super) fn peek_imported(&self, kind: AddressType, change: bool) -> Option<ScriptBuf> {
        let imported = self.keys.imported().get(self.keys.active_import(kind, change)?)?;
        imported.script_at(imported.stored().next_index)
    }

    /// Hands out the next address of an active descriptor, with a label unless it is for change.
    pub fn take_imported(
        &mut self,
        kind: AddressType,
        change: bool,
        label: Option<&str>,
    ) -> Result<Option<ScriptBuf>, StorageError> {
        let Some(script) = self.peek_imported(kind, change) else { return Ok(None) };
        let Some(number) = self.keys.active_import(kind, change) else { return Ok(None) };
        let next = self.keys.imported().get(number).map_or(0, |imported| imported.stored().next_index);
        let mut writes = self.imported_used(number, next)?;
        if let Some(label) = label {
            self.book.set(&script, label, Some(Purpose::Receive));
            writes.push(self.book.row(&script)?);
        }
        self.storage.write(&writes, Durability::Promise)?;
        Ok(Some(script))
    }

    /// An index was handed out or seen: the next one follows it.
    fn imported_used(&mut self, number: usize, index: u32) -> Result<Vec<Write>, StorageError> {
        let keypool = self.options.keypool_size;
        if let Some(imported) = self.keys.imported_mut().get_mut(number) {
            imported.stored.next_index = imported.stored.next_index.max(index.saturating_add(1));
            imported.extend(keypool);
        }
        self.keys.top_up(usize::MAX);
        Ok(vec![self.descriptor_row(number)?])
    }

    /// A script of an imported descriptor was seen in a transaction: it and those before it are used.
    pub(super) fn mark_imported(&mut self, descriptor: u32, index: u32) -> Result<Vec<Write>, StorageError> {
        let number = usize::try_from(descriptor).unwrap_or(usize::MAX);
        let Some(stored) = self.keys.imported().get(number).map(Imported::stored) else { return Ok(Vec::new()) };
        if !stored.ranged || index < stored.next_index {
            return Ok(Vec::new());
        }
        let (first, active) = (stored.next_index, stored.active);
        let mut writes = self.imported_used(number, index)?;
        if active.is_some_and(|(_, change)| !change) {
            for index in first..=index {
                let script = self.keys.imported().get(number).and_then(|imported| imported.script_at(index));
                if let Some(script) = script.filter(|script| self.book.entry(script).is_none()) {
                    self.book.set(&script, "", Some(Purpose::Receive));
                    writes.push(self.book.row(&script)?);
                }
            }
        }
        Ok(writes)
    }

    fn descriptor_row(&self, number: usize) -> Result<Write, StorageError> {
        let key = [DESCRIPTOR_PREFIX, &u32::try_from(number).map_err(|_| CORRUPT)?.to_be_bytes()].concat();
        let stored = self.keys.imported().get(number).ok_or(CORRUPT)?.stored();
        let value = postcard::to_stdvec(stored).map_err(|_| CORRUPT_META)?;
        Ok(Write { table: Table::Meta, key, value: Some(value) })
    }

    /// What was imported before; rows come in the order of their numbers.
    pub(super) fn restore_imports(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StorageError> {
        for (key, value) in rows {
            if key.starts_with(DESCRIPTOR_PREFIX) {
                let stored: StoredDescriptor = postcard::from_bytes(value).map_err(|_| CORRUPT)?;
                self.keys.push_imported(stored).map_err(|_| CORRUPT)?;
            }
        }
        let keypool = self.options.keypool_size;
        for imported in self.keys.imported_mut() {
            imported.extend(keypool);
        }
        Ok(())
    }
}
