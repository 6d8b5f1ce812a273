//! Handing out addresses, once each, from what the quorum confirmed; and the labels they carry.
//!
//! [`Wallet::propose_lease`] says what to ask of the quorum, [`Wallet::pool_confirmed`] writes down what it granted,
//! [`Wallet::new_address`] hands out. An address is on the disk as handed out before its caller sees it; one write sets
//! a few aside, so that not every caller waits for the disk.

use std::ops::Range;

use bitcoin::{Address, Script, ScriptBuf};

use super::Wallet;
use super::keychain::{AddressType, Branch, ChainId, KeyId, KeyInfo};
use super::labels::Purpose;
use super::storage::{Durability, StorageError};

/// Core's words for an empty pool.
pub const POOL_EMPTY: &str = "Error: Keypool ran out, please call keypoolrefill first";

/// Why no address was handed out.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The quorum must confirm more indexes first; Core's text for an empty pool.
    #[error("{POOL_EMPTY}")]
    PoolEmpty(ChainId),
    /// A wallet without a quorum has no active descriptor of this type.
    #[error("Error: No {0} addresses available.")]
    NoAddresses(AddressType),
    /// BIP32 has no key at this index, or none is left.
    #[error("Error: no key can be derived at index {0}")]
    Underivable(u32),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An address taken from the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    pub key: KeyInfo,
    pub address: Address,
}

impl Wallet {
    /// The next `count` indexes of a chain that nobody is known to hold, to be confirmed by the quorum.
    pub fn propose_lease(&self, chain: ChainId, count: u32) -> Range<u32> {
        let start = self.pool.leased_end(chain);
        start..start.saturating_add(count).min(1 << 31)
    }

    /// The keys of a range, as every co-signer derives them for itself.
    pub fn keys_of(&self, chain: ChainId, range: Range<u32>) -> Vec<KeyInfo> {
        range.filter_map(|index| self.keys.derive(KeyId { chain, index })).collect()
    }

    /// The quorum leased `range` of a chain to this coordinator. On the disk when this returns.
    pub fn pool_confirmed(&mut self, chain: ChainId, range: Range<u32>) -> Result<(), StorageError> {
        self.pools_confirmed(&[(chain, range)])
    }

    /// The same for several chains in one write.
    pub fn pools_confirmed(&mut self, leases: &[(ChainId, Range<u32>)]) -> Result<(), StorageError> {
        let mut writes = Vec::with_capacity(leases.len());
        for (chain, range) in leases {
            self.pool.confirmed(*chain, range.clone());
            writes.push(self.pool.row(*chain)?);
        }
        self.want_lookahead();
        self.storage.write(&writes, Durability::Promise)
    }

    /// Another coordinator holds `range`: it is watched, and never handed out here.
    pub fn leased_elsewhere(&mut self, chain: ChainId, range: Range<u32>) -> Result<(), StorageError> {
        self.pool.leased_elsewhere(chain, range);
        self.want_lookahead();
        let row = self.pool.row(chain)?;
        self.storage.write(&[row], Durability::Promise)
    }

    /// Addresses ready to be handed out.
    pub fn pool_available(&self, chain: ChainId) -> u32 {
        self.pool.available(chain)
    }

    /// Addresses ready to be handed out, over the four address types.
    pub fn keypool_size(&self, branch: Branch) -> u32 {
        if self.keys.is_watching() {
            return self.imported_ahead(branch.is_change());
        }
        AddressType::ALL.into_iter().map(|kind| self.pool.available(ChainId::new(kind, branch))).sum()
    }

    fn take(&mut self, chain: ChainId) -> Result<Reserved, AddressError> {
        let index = self.pool.take(chain).ok_or(AddressError::PoolEmpty(chain))?;
        let id = KeyId { chain, index };
        // Whoever pays to it relies on it: not on what a disk holds.
        let key = self.keys.derive_anew(id).ok_or(AddressError::Underivable(index))?;
        let address = key.address(self.meta.network).ok_or(AddressError::Underivable(index))?;
        self.keys.watch(id);
        self.want_lookahead();
        Ok(Reserved { key, address })
    }

    /// Hands out a receiving address with a label. That the address is taken is on the disk when this returns, its
    /// label a second later.
    pub fn new_address(&mut self, label: &str, address_type: AddressType) -> Result<Reserved, AddressError> {
        let chain = ChainId::new(address_type, Branch::External);
        let reserved = self.take(chain)?;
        self.book.set(&reserved.key.script, label, Some(Purpose::Receive));
        let labelled = self.book.row(&reserved.key.script)?;
        if self.pool.is_set_aside(chain, reserved.key.index()) {
            self.storage.write(&[labelled], Durability::Soon)?;
        } else {
            self.pool.set_aside(chain, reserved.key.index());
            self.storage.write(&[self.pool.row(chain)?, labelled], Durability::Promise)?;
        }
        Ok(reserved)
    }

    /// The last write before the wallet is put away: a later start goes on with the very next address.
    pub fn settle(&mut self) -> Result<(), StorageError> {
        let writes = self.pool.settle()?;
        if writes.is_empty() { Ok(()) } else { self.storage.write(&writes, Durability::Promise) }
    }

    /// Hands out a change address.
    pub fn change_address(&mut self, address_type: AddressType) -> Result<Reserved, AddressError> {
        let chain = ChainId::new(address_type, Branch::Change);
        let reserved = self.take(chain)?;
        let row = self.pool.row(chain)?;
        self.storage.write(&[row], Durability::Promise)?;
        Ok(reserved)
    }

    /// Puts a change address back that no transaction came to use, if it was the last one taken.
    pub fn return_change_address(&mut self, reserved: &Reserved) -> Result<(), StorageError> {
        let id = reserved.key.id;
        self.pool.give_back(id.chain, id.index);
        let row = self.pool.row(id.chain)?;
        self.storage.write(&[row], Durability::Replayable)
    }

    /// Labels an address; the purpose is left as it is unless one is given.
    pub fn set_label(&mut self, script: &Script, label: &str, purpose: Option<Purpose>) -> Result<(), StorageError> {
        self.book.set(script, label, purpose);
        let row = self.book.row(script)?;
        self.storage.write(&[row], Durability::Promise)
    }

    /// Another member's word for a receiving address; `replace` changes one that has a label.
    pub fn label_key(&mut self, id: KeyId, label: &str, replace: bool) -> Result<(), StorageError> {
        let Some(key) = self.keys.derive(id) else { return Ok(()) };
        let known = self.book.label(&key.script);
        if known == Some(label) || (known.is_some_and(|known| !known.is_empty()) && !replace) {
            return Ok(());
        }
        // That member has it on its disk; what is lost here is told again.
        self.book.set(&key.script, label, Some(Purpose::Receive));
        let row = self.book.row(&key.script)?;
        self.storage.write(&[row], Durability::Soon)
    }

    /// Core's `setlabel`: purpose "receive" for our own addresses, "send" for others.
    pub fn set_address_label(&mut self, script: &Script, label: &str) -> Result<(), StorageError> {
        let purpose = if self.keys.is_mine(script) { Purpose::Receive } else { Purpose::Send };
        self.set_label(script, label, Some(purpose))
    }

    pub fn is_mine(&self, script: &Script) -> bool {
        self.keys.is_mine(script)
    }

    /// The key of a script of ours.
    pub fn key_info(&self, script: &Script) -> Option<KeyInfo> {
        self.keys.info_of(script)
    }

    /// Ours, and in no one's address book.
    pub fn is_change(&self, script: &Script) -> bool {
        self.keys.is_mine(script) && self.book.entry(script).is_none()
    }

    /// Scripts with a label, in Core's order of nothing in particular: that of their bytes.
    pub fn by_label(&self, label: &str) -> Vec<ScriptBuf> {
        self.book
            .labelled()
            .filter(|(_, entry)| entry.label.as_deref() == Some(label))
            .map(|(script, _)| script.clone())
            .collect()
    }
}
