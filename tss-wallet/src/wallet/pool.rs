//! Which addresses may be handed out: leases of indexes that the quorum confirmed to this coordinator.
//!
//! An index belongs to at most one coordinator. [`Pool`] knows the ranges that are this one's, and how far any
//! coordinator's leases are known to reach; it hands out the lowest index first, once. What a lease rests on (the
//! members' signatures) is kept by those who made it.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::keychain::ChainId;
use super::storage::{StorageError, Table, Write};

/// The leases of one chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// Confirmed to this coordinator and not handed out; ascending, disjoint.
    free: Vec<(u32, u32)>,
    /// Above every index that any coordinator holds.
    leased_end: u32,
    /// Above every index handed out here or seen in a transaction.
    used_end: u32,
    /// On the disk, indexes below this count as handed out: those up to here need no write of their own.
    #[serde(skip)]
    set_aside: u32,
    /// The next index when Core would have topped up last: before an index was handed out, or after one was seen.
    #[serde(skip)]
    topped_up: u32,
}

impl Lease {
    /// As it stands on the disk: what is set aside is handed out.
    fn as_stored(&self) -> Self {
        let above = |(start, end): &(u32, u32)| (self.set_aside < *end).then(|| ((*start).max(self.set_aside), *end));
        Self {
            free: self.free.iter().filter_map(above).collect(),
            leased_end: self.leased_end,
            used_end: self.used_end.max(self.set_aside),
            set_aside: 0,
            topped_up: 0,
        }
    }

    fn available(&self) -> u32 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }

    fn first_free(&self) -> u32 {
        self.free.first().map_or(self.used_end, |(start, _)| (*start).max(self.used_end))
    }
}

/// The leases of all chains of a wallet.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    leases: BTreeMap<ChainId, Lease>,
}

/// Receiving addresses that one write to the disk is good for.
const SET_ASIDE: u32 = 31;

const CORRUPT: StorageError = StorageError::Corrupt { what: "address pool" };

impl Pool {
    pub(crate) fn load(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, StorageError> {
        let mut leases = BTreeMap::new();
        for (key, value) in rows {
            let chain: ChainId = postcard::from_bytes(key).map_err(|_| CORRUPT)?;
            let mut lease: Lease = postcard::from_bytes(value).map_err(|_| CORRUPT)?;
            if lease.free.iter().any(|(start, end)| start > end) {
                return Err(CORRUPT);
            }
            lease.topped_up = lease.first_free();
            leases.insert(chain, lease);
        }
        Ok(Self { leases })
    }

    pub(crate) fn row(&self, chain: ChainId) -> Result<Write, StorageError> {
        let lease = self.leases.get(&chain).map(Lease::as_stored).unwrap_or_default();
        Ok(Write {
            table: Table::Pool,
            key: postcard::to_stdvec(&chain).map_err(|_| CORRUPT)?,
            value: Some(postcard::to_stdvec(&lease).map_err(|_| CORRUPT)?),
        })
    }

    /// Whether the disk has an index as handed out already.
    pub(crate) fn is_set_aside(&self, chain: ChainId, index: u32) -> bool {
        self.leases.get(&chain).is_some_and(|lease| index < lease.set_aside)
    }

    /// Sets some indexes aside from `index` on: write the row, and they can be handed out without another. What was
    /// not handed out when a process ends in a crash never is.
    pub(crate) fn set_aside(&mut self, chain: ChainId, index: u32) {
        let Some(lease) = self.leases.get_mut(&chain) else { return };
        let end = index.saturating_add(1 + SET_ASIDE).min(lease.leased_end);
        lease.set_aside = lease.set_aside.max(end);
    }

    /// Takes back what was set aside and not handed out: the rows to write, which are exact.
    pub(crate) fn settle(&mut self) -> Result<Vec<Write>, StorageError> {
        let chains: Vec<ChainId> =
            self.leases.iter().filter(|(_, lease)| lease.set_aside > 0).map(|(id, _)| *id).collect();
        for lease in self.leases.values_mut() {
            lease.set_aside = 0;
        }
        chains.into_iter().map(|chain| self.row(chain)).collect()
    }

    /// Indexes that may still be handed out.
    pub fn available(&self, chain: ChainId) -> u32 {
        self.leases.get(&chain).map_or(0, Lease::available)
    }

    /// The first index that no coordinator is known to hold.
    pub fn leased_end(&self, chain: ChainId) -> u32 {
        self.leases.get(&chain).map_or(0, |lease| lease.leased_end.max(lease.used_end))
    }

    /// The index that would be handed out next.
    pub fn next_index(&self, chain: ChainId) -> u32 {
        let Some(lease) = self.leases.get(&chain) else { return 0 };
        lease.free.first().map_or(lease.leased_end.max(lease.used_end), |(start, _)| *start)
    }

    /// Above every index handed out here or seen in a transaction.
    pub fn used_end(&self, chain: ChainId) -> u32 {
        self.leases.get(&chain).map_or(0, |lease| lease.used_end)
    }

    /// Above every index that is watched: `keypool_size` scripts from the next one on, never fewer than before.
    pub fn range_end(&self, chain: ChainId, keypool_size: u32) -> u32 {
        let first_free = self.leases.get(&chain).map_or(0, Lease::first_free);
        first_free.saturating_add(keypool_size).max(self.leased_end(chain))
    }

    /// Above the range as Core shows it: of the last top-up, one short of what is watched once an index was handed out.
    pub fn shown_end(&self, chain: ChainId, keypool_size: u32) -> u32 {
        let topped_up = self.leases.get(&chain).map_or(0, |lease| lease.topped_up);
        topped_up.saturating_add(keypool_size).max(self.leased_end(chain))
    }

    pub(crate) fn confirmed(&mut self, chain: ChainId, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        let lease = self.leases.entry(chain).or_default();
        lease.leased_end = lease.leased_end.max(range.end);
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(lease.free.len() + 1);
        lease.free.push((range.start, range.end));
        lease.free.sort_unstable();
        for (start, end) in lease.free.drain(..) {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        lease.free = merged;
    }

    pub(crate) fn leased_elsewhere(&mut self, chain: ChainId, range: Range<u32>) {
        let lease = self.leases.entry(chain).or_default();
        lease.leased_end = lease.leased_end.max(range.end);
    }

    pub(crate) fn take(&mut self, chain: ChainId) -> Option<u32> {
        let lease = self.leases.get_mut(&chain)?;
        let (start, end) = *lease.free.first()?;
        lease.topped_up = lease.topped_up.max(start);
        if start + 1 == end {
            lease.free.remove(0);
        } else if let Some(first) = lease.free.first_mut() {
            first.0 = start + 1;
        }
        lease.used_end = lease.used_end.max(start + 1);
        Some(start)
    }

    /// Puts back the index that was taken last, if nothing was taken after it.
    pub(crate) fn give_back(&mut self, chain: ChainId, index: u32) {
        let Some(lease) = self.leases.get_mut(&chain) else { return };
        if lease.used_end == index + 1 {
            lease.used_end = index;
            self.confirmed(chain, index..index + 1);
        }
    }

    /// A script was seen in a transaction: it, and what lies below it in the same lease, is not handed out again.
    pub(crate) fn seen(&mut self, chain: ChainId, index: u32) -> bool {
        let lease = self.leases.entry(chain).or_default();
        let before = lease.clone();
        for range in &mut lease.free {
            if (range.0..range.1).contains(&index) {
                range.0 = index + 1;
            }
        }
        lease.free.retain(|(start, end)| start < end);
        lease.used_end = lease.used_end.max(index + 1);
        let news = *lease != before;
        lease.topped_up = lease.topped_up.max(lease.first_free());
        news
    }
}
