//! What this member has agreed to sign: the memory behind rolling limits and behind "not for other recipients".
//!
//! A reservation is made when a request is allowed, not when it is broadcast, and is durable before the share leaves;
//! its owner stores it. Conflicting spends of one coin count once, at their largest.

use std::collections::{BTreeMap, HashMap};

use bitcoin::{Amount, OutPoint};
use serde::{Deserialize, Serialize};

use super::{Facts, Limit, Spend, Subject, saturating};
use crate::ids::tagged_hash;

/// One request that was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    pub inputs: Vec<OutPoint>,
    /// Payments and fee.
    #[serde(with = "bitcoin::amount::serde::as_sat")]
    pub outflow: Amount,
    /// Hash of whom it pays how much.
    pub recipients: [u8; 32],
    /// Median time past of the tip when it was allowed.
    pub block_time: u64,
}

impl Reservation {
    /// Of a request; none for a message, and where a figure is not known.
    pub fn of(facts: &Facts) -> Option<Self> {
        let Subject::Transaction(spend) = &facts.subject else { return None };
        Some(Self {
            inputs: spend.inputs.clone(),
            outflow: spend.outflow()?,
            recipients: recipients_hash(spend),
            block_time: facts.block_time?,
        })
    }
}

/// The same for the same payments in another order.
fn recipients_hash(spend: &Spend) -> [u8; 32] {
    let mut rows: Vec<Vec<u8>> = spend
        .recipients
        .iter()
        .map(|(script, amount)| [amount.to_sat().to_be_bytes().as_slice(), script.as_bytes()].concat())
        .collect();
    rows.sort_unstable();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    tagged_hash("keyless/policy/recipients", &rows)
}

/// All reservations of one wallet that still matter, by request id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpendBook {
    entries: BTreeMap<[u8; 32], Reservation>,
}

impl SpendBook {
    pub fn insert(&mut self, request: [u8; 32], reservation: Reservation) {
        self.entries.insert(request, reservation);
    }

    pub fn get(&self, request: &[u8; 32]) -> Option<&Reservation> {
        self.entries.get(request)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets what was allowed before a time; gives the requests that are gone.
    pub fn forget_before(&mut self, block_time: u64) -> Vec<[u8; 32]> {
        let old: Vec<[u8; 32]> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.block_time < block_time)
            .map(|(request, _)| *request)
            .collect();
        for request in &old {
            self.entries.remove(request);
        }
        old
    }

    /// A coin of this spend that another request signed for other recipients.
    pub(super) fn signed_for_others(&self, request: &[u8; 32], spend: &Spend) -> Option<OutPoint> {
        let recipients = recipients_hash(spend);
        self.entries
            .iter()
            .filter(|(other, entry)| *other != request && entry.recipients != recipients)
            .find_map(|(_, entry)| spend.inputs.iter().find(|input| entry.inputs.contains(input)).copied())
    }

    /// What leaves within the limit's window, this request included; the error names what is not known.
    pub(super) fn total_with(&self, facts: &Facts, spend: &Spend, limit: &Limit) -> Result<Amount, &'static str> {
        let now = facts.block_time.ok_or("the time of the last block")?;
        let outflow = spend.outflow().ok_or("the fee")?;
        let since = now.saturating_sub(limit.window_seconds);
        let before = self
            .entries
            .iter()
            .filter(|(request, entry)| **request != facts.request && entry.block_time > since)
            .map(|(_, entry)| (entry.inputs.as_slice(), entry.outflow));
        Ok(total_of(std::iter::once((spend.inputs.as_slice(), outflow)).chain(before)))
    }
}

/// The most that can confirm. Spends that all share one coin exclude each other, so each such group counts its largest;
/// every spend is in one group, which makes the sum an upper bound whatever else conflicts.
fn total_of<'a>(spends: impl Iterator<Item = (&'a [OutPoint], Amount)>) -> Amount {
    let mut groups: Vec<Group<'a>> = Vec::new();
    // Which group a coin is common to: a day's payments are many, and each is asked about twice.
    let mut of_coin: HashMap<&OutPoint, usize> = HashMap::new();
    for (inputs, outflow) in spends {
        let found = inputs.iter().filter_map(|coin| of_coin.get(coin).copied()).min();
        if let Some((number, group)) = found.and_then(|number| Some((number, groups.get_mut(number)?))) {
            let common = std::mem::take(&mut group.common);
            let (shared, left) = common.into_iter().partition::<Vec<_>, _>(|coin| inputs.contains(*coin));
            for coin in left {
                of_coin.remove(coin);
            }
            debug_assert!(shared.iter().all(|coin| of_coin.get(*coin) == Some(&number)), "a coin of one group");
            (group.common, group.most) = (shared, group.most.max(outflow));
        } else {
            of_coin.extend(inputs.iter().map(|coin| (coin, groups.len())));
            groups.push(Group { common: inputs.iter().collect(), most: outflow });
        }
    }
    groups.into_iter().map(|group| group.most).fold(Amount::ZERO, saturating)
}

/// Spends that exclude each other.
struct Group<'a> {
    /// Coins that all of them spend.
    common: Vec<&'a OutPoint>,
    /// The most that one of them pays.
    most: Amount,
}
