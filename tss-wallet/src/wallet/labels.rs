//! The address book: labels and purposes of scripts, and which of our scripts have been spent from.
//!
//! A script of ours without a label is change, as in Core. Keys are scripts, not address strings: one address, one
//! entry, whatever network it is printed for.

use std::collections::BTreeMap;

use bitcoin::{Script, ScriptBuf};
use serde::{Deserialize, Serialize};

use super::storage::{StorageError, Table, Write};

/// What an address in the book is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    Receive,
    Send,
}

impl Purpose {
    /// Core's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// What the book says about one script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressEntry {
    /// `None` for change: it is in the book only because it was spent from.
    pub label: Option<String>,
    pub purpose: Option<Purpose>,
    /// A coin of this script has been spent (kept only with `avoid_reuse`).
    pub spent: bool,
}

/// All entries of a wallet.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    entries: BTreeMap<ScriptBuf, AddressEntry>,
}

const CORRUPT: StorageError = StorageError::Corrupt { what: "label" };

impl AddressBook {
    pub(crate) fn load(rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, StorageError> {
        let mut entries = BTreeMap::new();
        for (key, value) in rows {
            let entry: AddressEntry = postcard::from_bytes(&value).map_err(|_| CORRUPT)?;
            entries.insert(ScriptBuf::from_bytes(key), entry);
        }
        Ok(Self { entries })
    }

    pub(crate) fn row(&self, script: &Script) -> Result<Write, StorageError> {
        let value = match self.entries.get(script) {
            Some(entry) => Some(postcard::to_stdvec(entry).map_err(|_| CORRUPT)?),
            None => None,
        };
        Ok(Write { table: Table::Label, key: script.to_bytes(), value })
    }

    /// The label of a script; `None` for change and for scripts that are not in the book.
    pub fn label(&self, script: &Script) -> Option<&str> {
        self.entries.get(script).and_then(|entry| entry.label.as_deref())
    }

    /// The entry of a script that has a label.
    pub fn entry(&self, script: &Script) -> Option<&AddressEntry> {
        self.entries.get(script).filter(|entry| entry.label.is_some())
    }

    /// True when a coin of this script has been spent.
    pub fn is_spent(&self, script: &Script) -> bool {
        self.entries.get(script).is_some_and(|entry| entry.spent)
    }

    /// Labelled scripts, in the order of their bytes.
    pub fn labelled(&self) -> impl Iterator<Item = (&ScriptBuf, &AddressEntry)> {
        self.entries.iter().filter(|(_, entry)| entry.label.is_some())
    }

    pub(crate) fn set(&mut self, script: &Script, label: &str, purpose: Option<Purpose>) {
        let entry = self.entries.entry(script.to_owned()).or_default();
        entry.label = Some(label.to_owned());
        if purpose.is_some() {
            entry.purpose = purpose;
        }
    }

    /// True when this is news.
    pub(crate) fn set_spent(&mut self, script: &Script) -> bool {
        let entry = self.entries.entry(script.to_owned()).or_default();
        !std::mem::replace(&mut entry.spent, true)
    }
}
