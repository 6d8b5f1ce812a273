//! The transactions of a wallet: their states, their conflicts, what each coin was spent by.
//!
//! The graph of transactions and spends is `bdk_chain`'s; the states on top of it are Core's, because Core keeps a
//! transaction that left the mempool as spending its coins until its owner abandons it, which a canonical view
//! drawn from sightings does not. Owns no scripts: [`Keychains`] says what is ours. Writes nothing: it remembers
//! which records changed, and [`super::Wallet`] stores them.
//! Source: Core's `wallet.cpp` (AddToWallet, MarkConflicted, AbandonTransaction, ComputeTimeSmart).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bdk_chain::{BlockId, ConfirmationBlockTime, TxGraph};
use bitcoin::{BlockHash, OutPoint, Transaction, TxOut, Txid};

use super::keychain::Keychains;
use super::record::{BlockPosition, TRUC_VERSION, TxRecord, TxState};

/// Seconds by which a transaction's time may lie ahead of this node's clock.
const TIME_TOLERANCE_S: u64 = 300;

/// Confirmations after which a coinbase may be spent is one more than this, as in Core.
const COINBASE_MATURITY: i64 = 100;

/// When a transaction arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrival {
    /// Now, by this node's clock.
    Live { now: u64 },
    /// In a rescan: the highest block time up to its block.
    Rescan { now: u64, block_time_max: u64 },
}

impl Arrival {
    const fn now(self) -> u64 {
        match self {
            Self::Live { now } | Self::Rescan { now, .. } => now,
        }
    }
}

/// The same but for the scripts that unlock its inputs.
fn same_payment(one: &Transaction, other: &Transaction) -> bool {
    one.version == other.version
        && one.lock_time == other.lock_time
        && one.output == other.output
        && one.input.len() == other.input.len()
        && one
            .input
            .iter()
            .zip(&other.input)
            .all(|(one, other)| one.previous_output == other.previous_output && one.sequence == other.sequence)
}

/// All transactions of a wallet.
#[derive(Debug, Default)]
pub struct Ledger {
    records: HashMap<Txid, TxRecord>,
    graph: TxGraph<ConfirmationBlockTime>,
    by_order: BTreeMap<u64, Txid>,
    next_order: u64,
    tip: Option<BlockId>,
    /// Coins of ours that no confirmed transaction spends.
    open: BTreeSet<OutPoint>,
    /// Records changed since they were last stored.
    dirty: BTreeSet<Txid>,
    /// Grows with every change that a question about money can see.
    revision: u64,
}

impl Ledger {
    pub fn tip(&self) -> Option<BlockId> {
        self.tip
    }

    pub(crate) fn set_tip(&mut self, tip: Option<BlockId>) {
        self.tip = tip;
        self.changed();
    }

    /// The state of the ledger by number: what was worked out at one holds until there is another.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Something changed that answers depend on, here or in what stands beside the ledger.
    pub(crate) fn changed(&mut self) {
        self.revision += 1;
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn get(&self, txid: &Txid) -> Option<&TxRecord> {
        self.records.get(txid)
    }

    /// Records by order of arrival.
    pub fn ordered(&self) -> impl DoubleEndedIterator<Item = &TxRecord> {
        self.by_order.values().filter_map(|txid| self.records.get(txid))
    }

    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Txid> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn edit(&mut self, txid: &Txid, edit: impl FnOnce(&mut TxRecord)) -> bool {
        self.revision += 1;
        let Some(record) = self.records.get_mut(txid) else { return false };
        edit(record);
        self.dirty.insert(*txid);
        true
    }

    /// Core's depth: positive in a block, 0 outside, negative when a block made it impossible.
    pub fn depth(&self, record: &TxRecord) -> i64 {
        let tip = self.tip.map_or(0, |tip| i64::from(tip.height));
        match &record.state {
            TxState::Confirmed(position) => tip - i64::from(position.height) + 1,
            TxState::BlockConflicted { height, .. } => -(tip - i64::from(*height) + 1),
            TxState::InMempool | TxState::Inactive { .. } => 0,
        }
    }

    pub fn is_immature(&self, record: &TxRecord) -> bool {
        record.tx.is_coinbase() && COINBASE_MATURITY + 1 > self.depth(record)
    }

    /// Wallet transactions that spend a coin, whatever their state.
    pub fn spenders(&self, outpoint: OutPoint) -> impl Iterator<Item = &TxRecord> {
        self.graph.outspends(outpoint).iter().filter_map(|txid| self.records.get(txid))
    }

    /// Spent by any transaction that could still be mined, in the mempool or not.
    pub fn is_spent(&self, outpoint: OutPoint) -> bool {
        self.spenders(outpoint).any(TxRecord::is_live)
    }

    /// Coins of ours that no confirmed transaction spends, with their transaction.
    pub fn open_coins(&self) -> impl Iterator<Item = (OutPoint, &TxRecord)> {
        self.open.iter().filter_map(|outpoint| Some((*outpoint, self.records.get(&outpoint.txid)?)))
    }

    /// Other wallet transactions that spend a coin this one spends.
    pub fn conflicts(&self, record: &TxRecord) -> BTreeSet<Txid> {
        if record.tx.is_coinbase() {
            return BTreeSet::new();
        }
        let mut conflicts: BTreeSet<Txid> = BTreeSet::new();
        for input in &record.tx.input {
            conflicts.extend(self.spenders(input.previous_output).map(|spender| spender.txid));
        }
        conflicts.remove(&record.txid);
        conflicts
    }

    /// True when an input spends a coin of ours.
    pub fn is_from_me(&self, tx: &Transaction, keys: &Keychains) -> bool {
        !tx.is_coinbase() && tx.input.iter().any(|input| self.coin(input.previous_output, keys).is_some())
    }

    /// A coin of ours, spent or not; none of a transaction that was removed.
    pub fn coin<'k>(&self, outpoint: OutPoint, keys: &'k Keychains) -> Option<&'k TxOut> {
        self.records
            .contains_key(&outpoint.txid)
            .then(|| keys.scripts().txout(outpoint))
            .flatten()
            .map(|(_, coin)| coin)
    }

    /// Forgets a transaction, as if it had never been seen. The graph keeps its spends, which name no record then.
    pub(crate) fn remove(&mut self, txid: &Txid, keys: &Keychains) -> bool {
        let Some(record) = self.records.remove(txid) else { return false };
        self.by_order.remove(&record.order);
        self.dirty.insert(*txid);
        self.refresh_open_around(*txid, &record.tx, keys);
        true
    }

    /// True when the wallet has to hear of this transaction: it pays to us, spends from us, is already known, or
    /// spends a coin that a known transaction spends, or in version 3 spends from a known one.
    pub fn concerns(&self, tx: &Transaction, keys: &Keychains) -> bool {
        let spends = !tx.is_coinbase()
            && tx.input.iter().any(|input| {
                let coin = input.previous_output;
                keys.scripts().txout(coin).is_some()
                    || !self.graph.outspends(coin).is_empty()
                    || (tx.version.0 == TRUC_VERSION && self.records.contains_key(&coin.txid))
            });
        spends || tx.output.iter().any(|output| keys.is_mine(&output.script_pubkey))
    }

    fn insert(&mut self, record: TxRecord, keys: &mut Keychains) {
        self.changed();
        let txid = record.txid;
        let tx = Arc::clone(&record.tx);
        self.next_order = self.next_order.max(record.order.saturating_add(1));
        self.by_order.insert(record.order, txid);
        let _ = self.graph.insert_tx(Arc::clone(&tx));
        keys.scripts_mut().scan(&tx);
        self.records.insert(txid, record);
        self.refresh_open_around(txid, &tx, keys);
        self.share_notes(txid, &tx);
    }

    /// A transaction that differs from a known one in its scripts alone is the same payment under another name: all of
    /// them take the notes of the first.
    fn share_notes(&mut self, txid: Txid, tx: &Transaction) {
        if tx.is_coinbase() {
            return;
        }
        let first = tx
            .input
            .iter()
            .flat_map(|input| self.graph.outspends(input.previous_output))
            .filter_map(|spender| self.records.get(spender))
            .filter(|record| record.txid != txid && same_payment(&record.tx, tx))
            .min_by_key(|record| record.order)
            .cloned();
        let Some(first) = first else { return };
        if let Some(record) = self.records.get_mut(&txid).filter(|record| first.order < record.order) {
            record.comment = first.comment;
            record.comment_to = first.comment_to;
            record.replaces = first.replaces;
            record.replaced_by = first.replaced_by;
            record.time_smart = first.time_smart;
        }
    }

    /// Scripts have come to be watched: outputs that pay to them are ours from now on.
    pub(crate) fn look_again(&mut self, keys: &mut Keychains) {
        self.changed();
        let known: Vec<(Txid, Arc<Transaction>)> =
            self.records.values().map(|record| (record.txid, Arc::clone(&record.tx))).collect();
        for (txid, tx) in known {
            keys.scripts_mut().scan(&tx);
            self.refresh_open_around(txid, &tx, keys);
        }
    }

    /// Puts a stored record back in place.
    pub(crate) fn restore(&mut self, record: TxRecord, keys: &mut Keychains) {
        self.insert(record, keys);
    }

    fn refresh_open_around(&mut self, txid: Txid, tx: &Transaction, keys: &Keychains) {
        for vout in 0..u32::try_from(tx.output.len()).unwrap_or(u32::MAX) {
            self.refresh_open(OutPoint::new(txid, vout), keys);
        }
        if !tx.is_coinbase() {
            for input in &tx.input {
                self.refresh_open(input.previous_output, keys);
            }
        }
    }

    fn refresh_open(&mut self, outpoint: OutPoint, keys: &Keychains) {
        let ours = keys.scripts().txout(outpoint).is_some() && self.records.contains_key(&outpoint.txid);
        if ours && !self.spenders(outpoint).any(TxRecord::is_confirmed) {
            self.open.insert(outpoint);
        } else {
            self.open.remove(&outpoint);
        }
    }

    /// Adds a transaction, or moves a known one to a new state. True when something changed.
    pub(crate) fn put(
        &mut self,
        tx: &Transaction,
        state: TxState,
        arrival: Arrival,
        keys: &mut Keychains,
    ) -> (Txid, bool) {
        let txid = tx.compute_txid();
        self.changed();
        let changed = match self.records.get_mut(&txid) {
            Some(record) => {
                let mut changed = record.state != state;
                record.state = state;
                let witness = |tx: &Transaction| tx.input.iter().any(|input| !input.witness.is_empty());
                if witness(tx) && !witness(&record.tx) {
                    record.tx = Arc::new(tx.clone());
                    changed = true;
                }
                let tx = Arc::clone(&record.tx);
                // Scripts may have come to be watched since.
                keys.scripts_mut().scan(&tx);
                self.refresh_open_around(txid, &tx, keys);
                changed
            }
            None => {
                let time_smart = self.smart_time(&state, arrival);
                let record = TxRecord {
                    txid,
                    tx: Arc::new(tx.clone()),
                    state,
                    time_received: arrival.now(),
                    time_smart,
                    order: self.next_order,
                    comment: None,
                    comment_to: None,
                    replaces: None,
                    replaced_by: None,
                    mempool_conflicts: BTreeSet::new(),
                    truc_child: None,
                };
                self.insert(record, keys);
                true
            }
        };
        if tx.is_coinbase() && matches!(state, TxState::Inactive { .. }) {
            self.abandon_with_descendants(txid, keys);
        }
        if changed {
            self.dirty.insert(txid);
        }
        (txid, changed)
    }

    /// A coinbase that lost its block can never return, nor can what was paid from it.
    fn abandon_with_descendants(&mut self, txid: Txid, keys: &Keychains) {
        self.update_recursively(txid, keys, |record| {
            let abandoned = TxState::Inactive { abandoned: true };
            let change = record.state != abandoned;
            record.state = abandoned;
            change || record.txid == txid
        });
    }

    /// Applies `update` to a transaction and, as long as it says that something changed, to what spends from it.
    pub(crate) fn update_recursively(
        &mut self,
        start: Txid,
        keys: &Keychains,
        mut update: impl FnMut(&mut TxRecord) -> bool,
    ) -> bool {
        self.changed();
        let mut todo = BTreeSet::from([start]);
        let mut done = BTreeSet::new();
        let mut any = false;
        while let Some(txid) = todo.pop_first() {
            done.insert(txid);
            let Some(record) = self.records.get_mut(&txid) else { continue };
            if !update(record) {
                continue;
            }
            any = true;
            self.dirty.insert(txid);
            let tx = Arc::clone(&record.tx);
            self.refresh_open_around(txid, &tx, keys);
            for (_, spenders) in self.graph.tx_spends(txid) {
                todo.extend(spenders.iter().copied().filter(|spender| !done.contains(spender)));
            }
        }
        any
    }

    /// Marks what a block made impossible: every other spender of the coins this transaction spends.
    pub(crate) fn mark_conflicts_of(&mut self, tx: &Transaction, position: &BlockPosition, keys: &Keychains) {
        if tx.is_coinbase() {
            return;
        }
        let mut losers: BTreeSet<Txid> = BTreeSet::new();
        for input in &tx.input {
            losers.extend(self.graph.outspends(input.previous_output).iter().copied());
        }
        if losers.is_empty() {
            return;
        }
        losers.remove(&tx.compute_txid());
        let tip = self.tip.map_or(0, |tip| i64::from(tip.height));
        let depth = -(tip - i64::from(position.height) + 1);
        if depth >= 0 {
            return;
        }
        let conflicted = TxState::BlockConflicted { hash: position.hash, height: position.height };
        for loser in losers {
            self.update_recursively(loser, keys, |record| {
                let current = match &record.state {
                    TxState::Confirmed(position) => tip - i64::from(position.height) + 1,
                    TxState::BlockConflicted { height, .. } => -(tip - i64::from(*height) + 1),
                    TxState::InMempool | TxState::Inactive { .. } => 0,
                };
                let lower = depth < current;
                if lower {
                    record.state = conflicted;
                }
                lower
            });
        }
    }

    /// Frees what a disconnected block had made impossible.
    pub(crate) fn unmark_conflicts_of(&mut self, tx: &Transaction, height: u32, keys: &Keychains) {
        if tx.is_coinbase() {
            return;
        }
        let mut losers: BTreeSet<Txid> = BTreeSet::new();
        for input in &tx.input {
            losers.extend(
                self.spenders(input.previous_output)
                    .filter(|record| record.is_block_conflicted())
                    .map(|record| record.txid),
            );
        }
        for loser in losers {
            self.update_recursively(loser, keys, |record| match record.state {
                TxState::BlockConflicted { height: at, .. } if at >= height => {
                    record.state = TxState::Inactive { abandoned: false };
                    true
                }
                _ => false,
            });
        }
    }

    /// Notes that a mempool transaction spends coins that wallet transactions spend too.
    pub(crate) fn add_mempool_conflicts(&mut self, tx: &Transaction, txid: Txid, keys: &Keychains) -> BTreeSet<Txid> {
        for parent in self.truc_parents(tx) {
            if let Some(record) = self.records.get_mut(&parent).filter(|record| !record.is_confirmed()) {
                record.truc_child = Some(txid);
            }
        }
        self.each_rival(tx, Some(txid), keys, |record| record.mempool_conflicts.insert(txid))
    }

    /// Takes the note back when that transaction left the mempool.
    pub(crate) fn drop_mempool_conflicts(&mut self, tx: &Transaction, txid: Txid, keys: &Keychains) -> BTreeSet<Txid> {
        for parent in self.truc_parents(tx) {
            if let Some(record) = self.records.get_mut(&parent).filter(|record| record.truc_child == Some(txid)) {
                record.truc_child = None;
            }
        }
        self.each_rival(tx, None, keys, |record| record.mempool_conflicts.remove(&txid))
    }

    fn each_rival(
        &mut self,
        tx: &Transaction,
        except: Option<Txid>,
        keys: &Keychains,
        mut update: impl FnMut(&mut TxRecord) -> bool,
    ) -> BTreeSet<Txid> {
        let mut rivals: BTreeSet<Txid> = BTreeSet::new();
        if !tx.is_coinbase() {
            for input in &tx.input {
                rivals.extend(self.graph.outspends(input.previous_output).iter().copied());
            }
        }
        // Children of one parent of version 3 exclude each other, whatever coins they spend.
        for parent in self.truc_parents(tx) {
            let confirmed = self.records.get(&parent).is_some_and(TxRecord::is_confirmed);
            if except.is_none() || !confirmed {
                rivals.extend(self.graph.tx_spends(parent).flat_map(|(_, spenders)| spenders.iter().copied()));
            }
        }
        if let Some(except) = except {
            rivals.remove(&except);
        }
        rivals.retain(|rival| self.update_recursively(*rival, keys, &mut update));
        rivals
    }

    /// Transactions of the wallet that one of version 3 spends from.
    fn truc_parents(&self, tx: &Transaction) -> Vec<Txid> {
        if tx.version.0 != TRUC_VERSION || tx.is_coinbase() {
            return Vec::new();
        }
        let parents = tx.input.iter().map(|input| input.previous_output.txid);
        parents.filter(|parent| self.records.contains_key(parent)).collect()
    }

    /// Core's smart time: the block's time, but never before what was already known, nor after now.
    fn smart_time(&self, state: &TxState, arrival: Arrival) -> u64 {
        let TxState::Confirmed(position) = state else { return arrival.now() };
        if let Arrival::Rescan { block_time_max, .. } = arrival {
            return block_time_max;
        }
        let now = arrival.now();
        let latest_entry =
            self.ordered().rev().map(TxRecord::time).find(|time| *time <= now.saturating_add(TIME_TOLERANCE_S));
        let latest_now = latest_entry.map_or(now, |entry| now.max(entry));
        latest_entry.unwrap_or(0).max(position.time.min(latest_now))
    }

    /// Records whose state rests on a block, with that block.
    pub(crate) fn blocks_relied_on(&self) -> impl Iterator<Item = (Txid, BlockHash)> {
        self.records.values().filter_map(|record| match &record.state {
            TxState::Confirmed(position) => Some((record.txid, position.hash)),
            TxState::BlockConflicted { hash, .. } => Some((record.txid, *hash)),
            TxState::InMempool | TxState::Inactive { .. } => None,
        })
    }

    /// Sets a state outright, for what a start finds.
    pub(crate) fn force_state(&mut self, txid: Txid, state: TxState, keys: &Keychains) {
        let Some(record) = self.records.get_mut(&txid) else { return };
        if record.state.same_kind(&state) && record.state == state {
            return;
        }
        record.state = state;
        let tx = Arc::clone(&record.tx);
        self.dirty.insert(txid);
        self.changed();
        self.refresh_open_around(txid, &tx, keys);
    }
}
