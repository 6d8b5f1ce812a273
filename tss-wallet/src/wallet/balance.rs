//! Balances by Core's rules of trust.
//!
//! A coin is trusted when it is confirmed, or when it is change of ours in the mempool all of whose inputs are ours
//! and trusted in turn. Source: Core's `wallet/receive.cpp`.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint, ScriptBuf, SignedAmount, Txid};

use super::Wallet;
use super::record::TxRecord;

/// What a wallet holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balances {
    pub trusted: Amount,
    pub untrusted_pending: Amount,
    pub immature: Amount,
    /// Trusted coins on scripts that were spent from before; counted apart when `avoid_reuse` is on.
    pub used: Amount,
    /// What coins spent by transactions outside the mempool take from the sum of the others; zero or less.
    pub nonmempool: SignedAmount,
}

/// How a coin is spent, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    No,
    /// By a transaction that is neither in a block nor in the mempool, and not given up.
    OutsideMempool,
    InMempool,
    Confirmed,
}

/// Balances at one revision of the ledger, by what was asked.
#[derive(Debug, Default)]
pub(crate) struct KeptBalances {
    revision: u64,
    answers: BTreeMap<(u32, bool, bool), Balances>,
}

/// Questions about the balance whose answers are kept.
const MAX_KEPT: usize = 8;

/// Transactions already found to be trusted, or not.
pub(crate) type TrustCache = BTreeMap<Txid, bool>;

impl Wallet {
    /// Core's `HowSpent`.
    pub fn how_spent(&self, outpoint: OutPoint) -> Spent {
        let mut spent = Spent::No;
        for spender in self.ledger.spenders(outpoint) {
            if spender.is_confirmed() {
                return Spent::Confirmed;
            }
            if spender.in_mempool() {
                spent = Spent::InMempool;
            } else if spender.is_live() && spent == Spent::No {
                spent = Spent::OutsideMempool;
            }
        }
        spent
    }

    /// Whether a transaction's coins may be counted on.
    pub fn is_trusted(&self, record: &TxRecord) -> bool {
        self.trusted(record, &mut TrustCache::new())
    }

    /// Walks up the unconfirmed ancestors without recursion, so that a long chain costs no stack.
    pub(crate) fn trusted(&self, record: &TxRecord, cache: &mut TrustCache) -> bool {
        if record.is_confirmed() {
            return true;
        }
        if let Some(known) = cache.get(&record.txid) {
            return *known;
        }
        let mut seen = BTreeSet::from([record.txid]);
        let mut todo = vec![record];
        let mut trusted = true;
        'walk: while let Some(current) = todo.pop() {
            if current.is_confirmed() || cache.get(&current.txid) == Some(&true) {
                continue;
            }
            let able = self.options.spend_zero_conf_change
                && current.in_mempool()
                && self.ledger.is_from_me(&current.tx, &self.keys);
            if !able || cache.get(&current.txid) == Some(&false) {
                trusted = false;
                break;
            }
            for input in &current.tx.input {
                let coin = input.previous_output;
                let parent = self.keys.scripts().txout(coin).and_then(|_| self.ledger.get(&coin.txid));
                let Some(parent) = parent else {
                    trusted = false;
                    break 'walk;
                };
                if seen.insert(parent.txid) {
                    todo.push(parent);
                }
            }
        }
        cache.insert(record.txid, trusted);
        if trusted {
            for txid in seen {
                cache.insert(txid, true);
            }
        }
        trusted
    }

    /// What the wallet holds. `min_depth` concerns the trusted coins alone; `avoid_used` counts coins on scripts that
    /// were spent from apart, where the wallet's flag asks for it. With `include_nonmempool`, as `getbalances` has it,
    /// coins spent outside the mempool count in their sum and against [`Balances::nonmempool`]; without, as
    /// `getbalance` has it, they do not count.
    ///
    /// The answer is kept until the ledger changes.
    pub fn balances(&self, min_depth: u32, avoid_used: bool, include_nonmempool: bool) -> Balances {
        let question = (min_depth, avoid_used, include_nonmempool);
        let revision = self.ledger.revision();
        let mut kept = self.kept_balances.borrow_mut();
        if kept.revision != revision || kept.answers.len() >= MAX_KEPT {
            *kept = KeptBalances { revision, answers: BTreeMap::new() };
        }
        *kept.answers.entry(question).or_insert_with(|| self.count_balances(min_depth, avoid_used, include_nonmempool))
    }

    fn count_balances(&self, min_depth: u32, avoid_used: bool, include_nonmempool: bool) -> Balances {
        let apart = avoid_used && self.meta.avoid_reuse;
        let mut cache = TrustCache::new();
        let mut sums = Balances::default();
        for (outpoint, record) in self.ledger.open_coins() {
            let Some((_, output)) = self.keys.scripts().txout(outpoint) else { continue };
            let spent = self.how_spent(outpoint);
            match spent {
                Spent::No => {}
                Spent::OutsideMempool if include_nonmempool => {}
                Spent::OutsideMempool | Spent::InMempool | Spent::Confirmed => continue,
            }
            let trusted = self.trusted(record, &mut cache);
            let bucket = if record.is_confirmed() && self.ledger.is_immature(record) {
                &mut sums.immature
            } else if trusted && self.ledger.depth(record) >= i64::from(min_depth) {
                &mut sums.trusted
            } else if !trusted && record.in_mempool() {
                &mut sums.untrusted_pending
            } else {
                continue;
            };
            let bucket = if apart && self.book.is_spent(&output.script_pubkey) { &mut sums.used } else { bucket };
            if spent == Spent::OutsideMempool {
                let value = output.value.to_signed().unwrap_or(SignedAmount::MAX);
                sums.nonmempool -= value;
            }
            *bucket += output.value;
        }
        sums
    }

    /// What each of the wallet's scripts holds of coins that may be counted on; spent ones show with zero.
    pub fn address_balances(&self) -> BTreeMap<ScriptBuf, Amount> {
        let mut cache = TrustCache::new();
        let mut balances = BTreeMap::new();
        for (_, outpoint, output) in self.keys.scripts().txouts() {
            let Some(record) = self.ledger.get(&outpoint.txid) else { continue };
            if !self.trusted(record, &mut cache) || self.ledger.is_immature(record) {
                continue;
            }
            let least = i64::from(!self.ledger.is_from_me(&record.tx, &self.keys));
            if self.ledger.depth(record) < least {
                continue;
            }
            let value = if self.ledger.is_spent(outpoint) { Amount::ZERO } else { output.value };
            *balances.entry(output.script_pubkey.clone()).or_insert(Amount::ZERO) += value;
        }
        balances
    }
}
