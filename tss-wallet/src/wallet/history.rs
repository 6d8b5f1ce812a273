//! What was sent and received, as `listtransactions` and `gettransaction` count it.
//! Source: Core's `CachedTxGetAmounts`, `wallet/rpc/transactions.cpp`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bitcoin::{Amount, OutPoint, ScriptBuf, SignedAmount, Transaction, Txid};

use super::Wallet;
use super::record::{BlockPosition, TxRecord};

/// Core's word for what an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    Send,
    Receive,
    Generate,
    Immature,
    Orphan,
}

impl Category {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Generate => "generate",
            Self::Immature => "immature",
            Self::Orphan => "orphan",
        }
    }
}

/// One output of a transaction, seen from the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub category: Category,
    pub script: ScriptBuf,
    pub vout: u32,
    /// Negative for what was sent.
    pub amount: SignedAmount,
    /// Negative or zero; for what was sent only.
    pub fee: Option<SignedAmount>,
    pub label: Option<String>,
    pub change: bool,
}

/// Whether a transaction says that it may be replaced (BIP125).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaceable {
    Yes,
    No,
    /// Outside the mempool, so its ancestors are not known.
    Unknown,
}

/// A wallet transaction and all that is shown with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxView {
    pub txid: Txid,
    pub tx: Arc<Transaction>,
    /// Negative when a block that deep made it impossible.
    pub confirmations: i64,
    pub coinbase: bool,
    pub immature: bool,
    pub trusted: bool,
    pub block: Option<BlockPosition>,
    pub in_mempool: bool,
    pub abandoned: bool,
    pub wallet_conflicts: Vec<Txid>,
    pub mempool_conflicts: Vec<Txid>,
    pub replaces: Option<Txid>,
    pub replaced_by: Option<Txid>,
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    pub time: u64,
    pub time_received: u64,
    pub replaceable: Replaceable,
    /// What it spends of ours, and what it pays to us.
    pub debit: Amount,
    pub credit: Amount,
    /// Debit less all outputs, negated as Core shows it; `None` unless it spends from us.
    pub fee: Option<SignedAmount>,
}

/// What a script received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    pub amount: Amount,
    /// The fewest confirmations of any payment.
    pub confirmations: i64,
    pub txids: Vec<Txid>,
}

/// Core's largest number of transactions whose ancestors it looks at.
const MAX_ANCESTORS: usize = 1000;

fn signed(amount: Amount) -> SignedAmount {
    amount.to_signed().unwrap_or(SignedAmount::MAX)
}

impl Wallet {
    /// What a transaction spends of ours.
    pub fn debit(&self, tx: &Transaction) -> Amount {
        if tx.is_coinbase() {
            return Amount::ZERO;
        }
        tx.input
            .iter()
            .filter_map(|input| self.ledger.coin(input.previous_output, &self.keys))
            .map(|output| output.value)
            .sum()
    }

    /// What a transaction pays to us.
    pub fn credit(&self, tx: &Transaction) -> Amount {
        tx.output.iter().filter(|output| self.keys.is_mine(&output.script_pubkey)).map(|output| output.value).sum()
    }

    /// A wallet transaction with all that is shown of it.
    pub fn transaction(&self, txid: &Txid) -> Option<TxView> {
        self.ledger.get(txid).map(|record| self.view(record))
    }

    /// Wallet transactions by order of arrival, oldest first.
    pub fn transactions(&self) -> impl DoubleEndedIterator<Item = &TxRecord> {
        self.ledger.ordered()
    }

    /// See [`Wallet::transaction`].
    pub fn view(&self, record: &TxRecord) -> TxView {
        let debit = self.debit(&record.tx);
        let paid: Amount = record.tx.output.iter().map(|output| output.value).sum();
        TxView {
            txid: record.txid,
            tx: Arc::clone(&record.tx),
            confirmations: self.ledger.depth(record),
            coinbase: record.tx.is_coinbase(),
            immature: self.ledger.is_immature(record),
            trusted: self.is_trusted(record),
            block: record.confirmed().copied(),
            in_mempool: record.in_mempool(),
            abandoned: record.is_abandoned(),
            wallet_conflicts: self.ledger.conflicts(record).into_iter().collect(),
            mempool_conflicts: record.mempool_conflicts.iter().copied().collect(),
            replaces: record.replaces,
            replaced_by: record.replaced_by,
            comment: record.comment.clone(),
            comment_to: record.comment_to.clone(),
            time: record.time(),
            time_received: record.time_received,
            replaceable: self.replaceable(record),
            debit,
            credit: self.credit(&record.tx),
            fee: (debit > Amount::ZERO).then(|| signed(paid) - signed(debit)),
        }
    }

    /// What a transaction sent and received, output by output: first all that was sent, then all that was received.
    pub fn entries(&self, record: &TxRecord, include_change: bool) -> Vec<Entry> {
        let debit = self.debit(&record.tx);
        let from_me = debit > Amount::ZERO;
        let paid: Amount = record.tx.output.iter().map(|output| output.value).sum();
        let fee = from_me.then(|| signed(paid) - signed(debit));
        let received_as = if !record.tx.is_coinbase() {
            Category::Receive
        } else if self.ledger.depth(record) < 1 {
            Category::Orphan
        } else if self.ledger.is_immature(record) {
            Category::Immature
        } else {
            Category::Generate
        };
        let mut sent = Vec::new();
        let mut received = Vec::new();
        for (vout, output) in (0u32..).zip(&record.tx.output) {
            let mine = self.keys.is_mine(&output.script_pubkey);
            let change = mine && self.is_change(&output.script_pubkey);
            if (from_me && change && !include_change) || (!from_me && !mine) {
                continue;
            }
            let entry = |category, amount, fee| Entry {
                category,
                script: output.script_pubkey.clone(),
                vout,
                amount,
                fee,
                label: self.book.label(&output.script_pubkey).map(str::to_owned),
                change,
            };
            if from_me {
                sent.push(entry(Category::Send, -signed(output.value), fee));
            }
            if mine {
                received.push(entry(received_as, signed(output.value), None));
            }
        }
        sent.append(&mut received);
        sent
    }

    /// Scripts that received, with what; `scripts` narrows it. Coinbases count from maturity on unless asked otherwise.
    pub fn received(
        &self,
        scripts: Option<&HashSet<ScriptBuf>>,
        min_conf: u32,
        include_immature: bool,
    ) -> BTreeMap<ScriptBuf, Tally> {
        let mut tallies: BTreeMap<ScriptBuf, Tally> = BTreeMap::new();
        for record in self.ledger.ordered() {
            let depth = self.ledger.depth(record);
            let coinbase_early =
                record.tx.is_coinbase() && (depth < 1 || (!include_immature && self.ledger.is_immature(record)));
            if depth < i64::from(min_conf) || coinbase_early {
                continue;
            }
            for output in &record.tx.output {
                let asked = scripts.is_none_or(|scripts| scripts.contains(&output.script_pubkey));
                if !asked || !self.keys.is_mine(&output.script_pubkey) {
                    continue;
                }
                let tally = tallies.entry(output.script_pubkey.clone()).or_insert_with(|| Tally {
                    amount: Amount::ZERO,
                    confirmations: i64::MAX,
                    txids: Vec::new(),
                });
                tally.amount += output.value;
                tally.confirmations = tally.confirmations.min(depth);
                tally.txids.push(record.txid);
            }
        }
        tallies
    }

    /// What scripts received in all.
    pub fn received_by(&self, scripts: &HashSet<ScriptBuf>, min_conf: u32, include_immature: bool) -> Amount {
        self.received(Some(scripts), min_conf, include_immature).values().map(|tally| tally.amount).sum()
    }

    /// BIP125 as far as the wallet can see: the transaction itself and those of its unconfirmed ancestors it knows.
    fn replaceable(&self, record: &TxRecord) -> Replaceable {
        if self.ledger.depth(record) > 0 {
            return Replaceable::No;
        }
        if record.tx.is_explicitly_rbf() {
            return Replaceable::Yes;
        }
        if !record.in_mempool() {
            return Replaceable::Unknown;
        }
        let mut seen: BTreeSet<Txid> = BTreeSet::new();
        let mut todo: Vec<OutPoint> = record.tx.input.iter().map(|input| input.previous_output).collect();
        while let Some(coin) = todo.pop() {
            let Some(parent) = self.ledger.get(&coin.txid) else { continue };
            if !parent.in_mempool() || !seen.insert(parent.txid) || seen.len() > MAX_ANCESTORS {
                continue;
            }
            if parent.tx.is_explicitly_rbf() {
                return Replaceable::Yes;
            }
            todo.extend(parent.tx.input.iter().map(|input| input.previous_output));
        }
        Replaceable::No
    }
}
