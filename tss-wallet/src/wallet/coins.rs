//! The coins a wallet could spend, filtered as Core filters them. Source: Core's `AvailableCoins`, `listunspent`.

use std::collections::{BTreeMap, HashSet};

use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut, Txid};

use super::Wallet;
use super::balance::TrustCache;
use super::keychain::imported::{ScriptId, Spending};
use super::record::{TRUC_VERSION, TxRecord};

/// Which coins are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoinFilter {
    pub min_depth: u32,
    pub max_depth: u32,
    /// Leave out coins that are not safe: unconfirmed from others, replacing or replaced.
    pub only_safe: bool,
    /// Leave out coins on scripts that were spent from, where the wallet's flag is set.
    pub avoid_used: bool,
    pub include_immature: bool,
    pub skip_locked: bool,
    /// Leave out coins that a spend under way has claimed.
    pub skip_claimed: bool,
    pub min_amount: Amount,
    pub max_amount: Amount,
    /// Stop when the coins found amount to this.
    pub min_sum: Option<Amount>,
    pub max_count: Option<usize>,
    /// Only coins of these scripts; empty for all.
    pub scripts: HashSet<ScriptBuf>,
    /// The version of the transaction that will spend them: unconfirmed parents of version 3 do not mix with others.
    pub for_version: Option<i32>,
}

impl Default for CoinFilter {
    fn default() -> Self {
        Self {
            min_depth: 0,
            max_depth: 9_999_999,
            only_safe: true,
            avoid_used: true,
            include_immature: false,
            skip_locked: true,
            skip_claimed: false,
            min_amount: Amount::ZERO,
            max_amount: Amount::MAX_MONEY,
            min_sum: None,
            max_count: None,
            scripts: HashSet::new(),
            for_version: None,
        }
    }
}

/// A coin of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    pub outpoint: OutPoint,
    pub output: TxOut,
    pub key: ScriptId,
    /// What spending it takes; none where that cannot be known.
    pub spending: Option<Spending>,
    pub depth: u32,
    pub safe: bool,
    pub from_me: bool,
    pub coinbase: bool,
    /// When the wallet saw its transaction, seconds since 1970.
    pub time: u64,
    /// A coin of its script was spent before.
    pub reused: bool,
}

/// Where a coin of the wallet stands; for `lockunspent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoinState {
    UnknownTransaction,
    OutOfBounds,
    Spent,
    Unspent { locked: bool },
}

impl Wallet {
    /// The coins that pass a filter, in the order of their outpoints.
    pub fn unspent(&self, filter: &CoinFilter) -> Vec<Coin> {
        let mut cache = TrustCache::new();
        let mut found = Vec::new();
        let mut sum = Amount::ZERO;
        for (outpoint, record) in self.ledger.open_coins() {
            let Some((key, output)) = self.keys.scripts().txout(outpoint) else { continue };
            let depth = self.ledger.depth(record);
            let Ok(depth) = u32::try_from(depth) else { continue };
            if (!filter.include_immature && self.ledger.is_immature(record)) || (depth == 0 && !record.in_mempool()) {
                continue;
            }
            let replaces = depth == 0 && (record.replaces.is_some() || record.replaced_by.is_some());
            let safe = !replaces && self.trusted(record, &mut cache);
            if depth == 0 && filter.for_version.is_some_and(|version| !self.may_spend_in(record, version)) {
                continue;
            }
            let wanted = (safe || !filter.only_safe)
                && (filter.min_depth..=filter.max_depth).contains(&depth)
                && (filter.min_amount..=filter.max_amount).contains(&output.value)
                && (filter.scripts.is_empty() || filter.scripts.contains(&output.script_pubkey))
                && !(filter.skip_locked && self.locks.is_locked(outpoint))
                && !(filter.skip_claimed && self.locks.is_claimed(outpoint))
                && !self.ledger.is_spent(outpoint);
            let reused = self.book.is_spent(&output.script_pubkey);
            if !wanted || (filter.avoid_used && self.meta.avoid_reuse && reused) {
                continue;
            }
            sum += output.value;
            found.push(Coin {
                outpoint,
                output: output.clone(),
                key: *key,
                spending: self.keys.spending(&output.script_pubkey),
                depth,
                safe,
                from_me: self.ledger.is_from_me(&record.tx, &self.keys),
                coinbase: record.tx.is_coinbase(),
                time: record.time(),
                reused,
            });
            let enough = filter.min_sum.is_some_and(|least| sum >= least)
                || filter.max_count.is_some_and(|most| most > 0 && found.len() >= most);
            if enough {
                break;
            }
        }
        if filter.for_version == Some(TRUC_VERSION) {
            self.keep_one_truc_parent(&mut found);
        }
        found
    }

    /// A child of version 3 has one unconfirmed parent: the one that pays us most.
    fn keep_one_truc_parent(&self, coins: &mut Vec<Coin>) {
        let mut sums: BTreeMap<Txid, Amount> = BTreeMap::new();
        for coin in coins.iter().filter(|coin| coin.depth == 0) {
            *sums.entry(coin.outpoint.txid).or_default() += coin.output.value;
        }
        let best = sums.into_iter().max_by_key(|(_, sum)| *sum).map(|(txid, _)| txid);
        coins.retain(|coin| coin.depth > 0 || Some(coin.outpoint.txid) == best);
    }

    /// BIP431: unconfirmed coins of version 3 are spent in version 3 alone, by one child of a parent without parents.
    fn may_spend_in(&self, record: &TxRecord, version: i32) -> bool {
        if record.tx.version.0 != TRUC_VERSION {
            return version != TRUC_VERSION;
        }
        version == TRUC_VERSION && record.truc_child.is_none() && !self.has_unconfirmed_parent(record)
    }

    /// As far as the wallet knows them; of others' parents the mempool tells.
    fn has_unconfirmed_parent(&self, record: &TxRecord) -> bool {
        record
            .tx
            .input
            .iter()
            .any(|input| self.ledger.get(&input.previous_output.txid).is_some_and(|parent| !parent.is_confirmed()))
    }

    /// Where a coin stands.
    pub fn coin_state(&self, outpoint: OutPoint) -> CoinState {
        let Some(record) = self.ledger.get(&outpoint.txid) else { return CoinState::UnknownTransaction };
        let inside = usize::try_from(outpoint.vout).is_ok_and(|vout| vout < record.tx.output.len());
        if !inside {
            CoinState::OutOfBounds
        } else if self.ledger.is_spent(outpoint) {
            CoinState::Spent
        } else {
            CoinState::Unspent { locked: self.locks.is_locked(outpoint) }
        }
    }

    /// An output of a wallet transaction, ours or not.
    pub fn output(&self, outpoint: OutPoint) -> Option<&TxOut> {
        let record = self.ledger.get(&outpoint.txid)?;
        record.tx.output.get(usize::try_from(outpoint.vout).ok()?)
    }
}
