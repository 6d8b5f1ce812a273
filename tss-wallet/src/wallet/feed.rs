//! What the node tells a wallet: blocks that came and went, transactions that entered or left the mempool, blocks
//! of a rescan, and the wallet's own transactions once they are signed.
//!
//! Every call is one transition: the ledger changes, and what changed is stored in one batch. Each gives the
//! transactions it touched, for those who want to be told. Membership of the chain may be lost in a crash and is
//! found again from [`Wallet::best_block`] on; a transaction the wallet sent is on the disk before it leaves.

use std::collections::BTreeSet;

use bdk_chain::BlockId;
use bitcoin::{Block, Transaction, Txid};

use super::Wallet;
use super::keychain::Branch;
use super::keychain::imported::ScriptId;
use super::labels::Purpose;
use super::ledger::Arrival;
use super::record::{BlockPosition, TxState};
use super::storage::{Durability, StorageError, Write};

/// Seconds a block's time may be before the wallet's birth and still be looked at.
const BIRTH_WINDOW_S: u64 = 2 * 2 * 60 * 60;

/// Why a transaction left the mempool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// A block spends its coins in another way.
    Conflict,
    /// Any other: replaced, expired, evicted, mined, thrown out by a reorganisation.
    Other,
}

/// What the owner of the wallet notes with a transaction that is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendNote {
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    pub replaces: Option<Txid>,
}

/// Transactions that a transition touched.
pub type Touched = BTreeSet<Txid>;

impl Wallet {
    /// A block joined the active chain on top of [`Wallet::tip`]. `now` is this node's clock, seconds since 1970.
    pub fn block_connected(&mut self, block: &Block, height: u32, now: u64) -> Result<Touched, StorageError> {
        self.top_up(usize::MAX);
        let hash = block.block_hash();
        self.ledger.set_tip(Some(BlockId { height, hash }));
        let mut touched = Touched::new();
        if u64::from(block.header.time).saturating_add(BIRTH_WINDOW_S) < self.meta.birth_time {
            return Ok(touched);
        }
        let writes = self.take_block(block, BlockId { height, hash }, Arrival::Live { now }, &mut touched)?;
        self.store_changes(writes, Durability::Replayable)?;
        Ok(touched)
    }

    /// A block of the active chain is looked at again. `block_time_max` is the highest time of any block up to it.
    pub fn rescan_block(
        &mut self,
        block: &Block,
        height: u32,
        block_time_max: u64,
        now: u64,
    ) -> Result<Touched, StorageError> {
        self.top_up(usize::MAX);
        let mut touched = Touched::new();
        let place = BlockId { height, hash: block.block_hash() };
        let writes = self.take_block(block, place, Arrival::Rescan { now, block_time_max }, &mut touched)?;
        self.store_changes(writes, Durability::Replayable)?;
        Ok(touched)
    }

    fn take_block(
        &mut self,
        block: &Block,
        place: BlockId,
        arrival: Arrival,
        touched: &mut Touched,
    ) -> Result<Vec<Write>, StorageError> {
        let mut writes = Vec::new();
        for (index, tx) in block.txdata.iter().enumerate() {
            if !self.ledger.concerns(tx, &self.keys) {
                continue;
            }
            let position = BlockPosition {
                hash: place.hash,
                height: place.height,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                time: u64::from(block.header.time),
            };
            self.ledger.mark_conflicts_of(tx, &position, &self.keys);
            writes.extend(self.take_tx(tx, TxState::Confirmed(position), arrival, touched)?);
            let txid = tx.compute_txid();
            touched.extend(self.ledger.drop_mempool_conflicts(tx, txid, &self.keys));
        }
        Ok(writes)
    }

    /// The last block left the active chain.
    pub fn block_disconnected(&mut self, block: &Block, height: u32, now: u64) -> Result<Touched, StorageError> {
        let mut touched = Touched::new();
        let mut writes = Vec::new();
        for (index, tx) in block.txdata.iter().enumerate() {
            if !self.ledger.concerns(tx, &self.keys) {
                continue;
            }
            let state = TxState::Inactive { abandoned: index == 0 };
            writes.extend(self.take_tx(tx, state, Arrival::Live { now }, &mut touched)?);
            self.ledger.unmark_conflicts_of(tx, height, &self.keys);
        }
        let parent = height.checked_sub(1).map(|height| BlockId { height, hash: block.header.prev_blockhash });
        self.ledger.set_tip(parent);
        self.store_changes(writes, Durability::Replayable)?;
        Ok(touched)
    }

    /// A transaction entered the mempool, or was found there at start.
    pub fn mempool_added(&mut self, tx: &Transaction, now: u64) -> Result<Touched, StorageError> {
        self.top_up(usize::MAX);
        let mut touched = Touched::new();
        if !self.ledger.concerns(tx, &self.keys) {
            return Ok(touched);
        }
        let writes = self.take_tx(tx, TxState::InMempool, Arrival::Live { now }, &mut touched)?;
        touched.extend(self.ledger.add_mempool_conflicts(tx, tx.compute_txid(), &self.keys));
        self.store_changes(writes, Durability::Replayable)?;
        Ok(touched)
    }

    /// A transaction left the mempool. Its bytes are needed to free what it was in conflict with.
    pub fn mempool_removed(
        &mut self,
        tx: &Transaction,
        reason: RemovalReason,
        now: u64,
    ) -> Result<Touched, StorageError> {
        let mut touched = Touched::new();
        if !self.ledger.concerns(tx, &self.keys) {
            return Ok(touched);
        }
        let txid = tx.compute_txid();
        let inactive = TxState::Inactive { abandoned: false };
        if self.ledger.get(&txid).is_some_and(super::record::TxRecord::in_mempool) {
            self.ledger.force_state(txid, inactive, &self.keys);
            touched.insert(txid);
        }
        let mut writes = Vec::new();
        if reason == RemovalReason::Conflict {
            writes = self.take_tx(tx, inactive, Arrival::Live { now }, &mut touched)?;
        }
        touched.extend(self.ledger.drop_mempool_conflicts(tx, txid, &self.keys));
        self.store_changes(writes, Durability::Replayable)?;
        Ok(touched)
    }

    /// A signed transaction of ours, before it goes to the mempool: on the disk when this returns.
    pub fn commit_transaction(&mut self, tx: &Transaction, note: SendNote, now: u64) -> Result<Txid, StorageError> {
        let txid = tx.compute_txid();
        let mut touched = Touched::new();
        let state = self.ledger.get(&txid).map_or(TxState::Inactive { abandoned: false }, |record| record.state);
        let writes = self.put_tx(tx, state, Arrival::Live { now }, &mut touched)?;
        self.ledger.edit(&txid, |record| {
            record.replaces = note.replaces.or(record.replaces);
            record.comment = note.comment.or(record.comment.take());
            record.comment_to = note.comment_to.or(record.comment_to.take());
        });
        self.store_changes(writes, Durability::Promise)?;
        Ok(txid)
    }

    /// Notes that one transaction of ours was replaced by another. False when the first is not known.
    pub fn mark_replaced(&mut self, original: Txid, replacement: Txid) -> Result<bool, StorageError> {
        let known = self.ledger.edit(&original, |record| record.replaced_by = Some(replacement));
        self.store_changes(Vec::new(), Durability::Promise)?;
        Ok(known)
    }

    /// Takes in a transaction of the active chain whose place is proven. False when nothing in it is ours.
    pub fn import_confirmed(
        &mut self,
        tx: &Transaction,
        position: BlockPosition,
        now: u64,
    ) -> Result<bool, StorageError> {
        if !tx.output.iter().any(|output| self.keys.is_mine(&output.script_pubkey)) {
            return Ok(false);
        }
        let mut touched = Touched::new();
        let writes = self.put_tx(tx, TxState::Confirmed(position), Arrival::Live { now }, &mut touched)?;
        self.store_changes(writes, Durability::Promise)?;
        Ok(true)
    }

    /// Forgets a transaction. False when it is not the wallet's.
    pub fn remove_transaction(&mut self, txid: &Txid) -> Result<bool, StorageError> {
        let removed = self.ledger.remove(txid, &self.keys);
        self.store_changes(Vec::new(), Durability::Promise)?;
        Ok(removed)
    }

    /// Gives a transaction up, and all that spends from it, so that its coins are free again.
    pub fn abandon_transaction(&mut self, txid: Txid) -> Result<(), AbandonError> {
        let Some(record) = self.ledger.get(&txid) else { return Err(AbandonError::Unknown) };
        if self.ledger.depth(record) != 0 || record.in_mempool() {
            return Err(AbandonError::NotEligible);
        }
        self.ledger.update_recursively(txid, &self.keys, |record| {
            let change = !record.is_block_conflicted() && !record.is_abandoned() && !record.is_confirmed();
            if change {
                record.state = TxState::Inactive { abandoned: true };
            }
            change
        });
        self.store_changes(Vec::new(), Durability::Promise)?;
        Ok(())
    }

    /// The chainstate has flushed up to a block that this wallet has processed: a restart begins there.
    pub fn commit_best_block(&mut self, block: BlockId) -> Result<(), StorageError> {
        self.best_block = Some(block);
        let row = self.best_block_row()?;
        self.storage.write(&[row], Durability::Promise)
    }

    /// Sets where the wallet stands in the chain, when it begins to follow from another block than its own.
    pub fn set_tip(&mut self, tip: Option<BlockId>) {
        self.ledger.set_tip(tip);
    }

    /// Takes a transaction that concerns us; one that only rivals ours is not ours to keep.
    fn take_tx(
        &mut self,
        tx: &Transaction,
        state: TxState,
        arrival: Arrival,
        touched: &mut Touched,
    ) -> Result<Vec<Write>, StorageError> {
        let known = self.ledger.get(&tx.compute_txid()).is_some();
        let mine = tx.output.iter().any(|output| self.keys.is_mine(&output.script_pubkey));
        if !known && !mine && !self.ledger.is_from_me(tx, &self.keys) {
            return Ok(Vec::new());
        }
        self.put_tx(tx, state, arrival, touched)
    }

    fn put_tx(
        &mut self,
        tx: &Transaction,
        state: TxState,
        arrival: Arrival,
        touched: &mut Touched,
    ) -> Result<Vec<Write>, StorageError> {
        let mut writes = self.mark_seen_scripts(tx)?;
        if self.meta.avoid_reuse {
            writes.extend(self.mark_spent_scripts(tx)?);
        }
        let new = self.ledger.get(&tx.compute_txid()).is_none();
        let (txid, changed) = self.ledger.put(tx, state, arrival, &mut self.keys);
        if changed {
            touched.insert(txid);
        }
        if !new {
            return Ok(writes);
        }
        if !tx.is_coinbase() {
            for input in &tx.input {
                if self.locks.is_locked(input.previous_output) {
                    self.locks.unlock(input.previous_output);
                    writes.push(self.locks.row(input.previous_output)?);
                }
            }
        }
        if let Some(time) = self.ledger.get(&txid).map(super::record::TxRecord::time)
            && time < self.meta.birth_time
        {
            self.meta.birth_time = time;
            writes.push(self.meta_row()?);
        }
        Ok(writes)
    }

    /// Scripts seen in a transaction are used: the pool skips them, and receiving ones get an empty label.
    fn mark_seen_scripts(&mut self, tx: &Transaction) -> Result<Vec<Write>, StorageError> {
        let mut writes = Vec::new();
        for output in &tx.output {
            let key = match self.keys.script_id(&output.script_pubkey) {
                Some(ScriptId::Key(key)) => key,
                Some(ScriptId::Imported { descriptor, index }) => {
                    writes.extend(self.mark_imported(descriptor, index)?);
                    continue;
                }
                None => continue,
            };
            let before = self.pool.used_end(key.chain);
            let fresh = self.pool.seen(key.chain, key.index);
            if key.chain.branch == Branch::External {
                // One below was handed out by another coordinator.
                let first = if fresh { before.min(key.index) } else { key.index };
                for index in first..=key.index {
                    let Some(info) = self.keys.derive(super::keychain::KeyId { chain: key.chain, index }) else {
                        continue;
                    };
                    if self.book.entry(&info.script).is_none() {
                        self.book.set(&info.script, "", Some(Purpose::Receive));
                        writes.push(self.book.row(&info.script)?);
                    }
                }
            }
            if !fresh {
                continue;
            }
            writes.push(self.pool.row(key.chain)?);
            let end = self.pool.range_end(key.chain, self.options.keypool_size);
            self.keys.want(key.chain, end);
            self.keys.top_up(usize::MAX);
        }
        Ok(writes)
    }

    pub(super) fn mark_spent_scripts(&mut self, tx: &Transaction) -> Result<Vec<Write>, StorageError> {
        let mut writes = Vec::new();
        if tx.is_coinbase() {
            return Ok(writes);
        }
        for input in &tx.input {
            let Some((_, output)) = self.keys.scripts().txout(input.previous_output) else { continue };
            let script = output.script_pubkey.clone();
            if self.book.set_spent(&script) {
                self.ledger.changed();
                writes.push(self.book.row(&script)?);
            }
        }
        Ok(writes)
    }
}

/// Why a transaction cannot be given up; Core's texts.
#[derive(Debug, thiserror::Error)]
pub enum AbandonError {
    #[error("Invalid or non-wallet transaction id")]
    Unknown,
    #[error("Transaction not eligible for abandonment")]
    NotEligible,
    #[error(transparent)]
    Storage(#[from] StorageError),
}
