//! Transactions whose parents are not here yet. Pure and bounded: by number, by size, and by time.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bitcoin::{OutPoint, Txid, Wtxid};

use super::handle::{Orphan, PeerId};

/// Orphans kept at once; the oldest make room.
const MAX_ORPHANS: usize = 3_000;
/// Bytes kept at once.
const MAX_TOTAL_BYTES: usize = 10_000_000;
/// Core's `MAX_STANDARD_TX_WEIGHT`: anything larger could not be relayed anyway. Serialized bytes.
const MAX_ORPHAN_BYTES: usize = 400_000;
/// Orphans of children whose parents never came leave after this.
const EXPIRY: Duration = Duration::from_secs(20 * 60);
/// Peers remembered as having announced one orphan.
const MAX_ANNOUNCERS: usize = 32;

#[derive(Debug)]
struct Entry {
    raw: Vec<u8>,
    txid: Txid,
    parents: BTreeSet<Txid>,
    spends: Vec<OutPoint>,
    from: Vec<PeerId>,
    expires: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Orphans {
    entries: HashMap<Wtxid, Entry>,
    order: VecDeque<Wtxid>,
    children: HashMap<Txid, HashSet<Wtxid>>,
    bytes: usize,
}

impl Orphans {
    /// False if it is too large or known already; another announcer is noted then.
    pub(crate) fn add(
        &mut self,
        raw: Vec<u8>,
        (txid, wtxid): (Txid, Wtxid),
        parents: &[Txid],
        spends: Vec<OutPoint>,
        from: PeerId,
        now: Duration,
    ) -> bool {
        if let Some(entry) = self.entries.get_mut(&wtxid) {
            if !entry.from.contains(&from) && entry.from.len() < MAX_ANNOUNCERS {
                entry.from.push(from);
            }
            return false;
        }
        if raw.len() > MAX_ORPHAN_BYTES {
            return false;
        }
        while self.entries.len() >= MAX_ORPHANS || self.bytes + raw.len() > MAX_TOTAL_BYTES {
            let Some(oldest) = self.order.front().copied() else { break };
            self.remove(&oldest);
        }
        let parents: BTreeSet<Txid> = parents.iter().copied().collect();
        for parent in &parents {
            self.children.entry(*parent).or_default().insert(wtxid);
        }
        self.order.push_back(wtxid);
        self.bytes += raw.len();
        let entry = Entry { raw, txid, parents, spends, from: vec![from], expires: now + EXPIRY };
        self.entries.insert(wtxid, entry);
        true
    }

    pub(crate) fn contains(&self, wtxid: &Wtxid) -> bool {
        self.entries.contains_key(wtxid)
    }

    /// Serialized orphans that spend `parent`, those of `prefer` first, with who sent them.
    pub(crate) fn children_of(&self, parent: &Txid, prefer: PeerId) -> Vec<(Wtxid, Vec<u8>, PeerId)> {
        let Some(children) = self.children.get(parent) else { return Vec::new() };
        let mut found: Vec<_> = children
            .iter()
            .filter_map(|wtxid| {
                let entry = self.entries.get(wtxid)?;
                let from = entry.from.iter().find(|p| **p == prefer).or_else(|| entry.from.first())?;
                Some((*wtxid, entry.raw.clone(), *from))
            })
            .collect();
        found.sort_by_key(|(wtxid, _, from)| (*from != prefer, *wtxid));
        found
    }

    pub(crate) fn remove(&mut self, wtxid: &Wtxid) {
        let Some(entry) = self.entries.remove(wtxid) else { return };
        self.bytes = self.bytes.saturating_sub(entry.raw.len());
        self.order.retain(|other| other != wtxid);
        for parent in &entry.parents {
            if let Some(children) = self.children.get_mut(parent) {
                children.remove(wtxid);
                if children.is_empty() {
                    self.children.remove(parent);
                }
            }
        }
    }

    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        let mut lonely = Vec::new();
        for (wtxid, entry) in &mut self.entries {
            entry.from.retain(|from| *from != peer);
            if entry.from.is_empty() {
                lonely.push(*wtxid);
            }
        }
        lonely.iter().for_each(|wtxid| self.remove(wtxid));
    }

    /// Removes what a block contains or conflicts with, and tells how many that were.
    pub(crate) fn block(&mut self, transactions: &[(Txid, Wtxid)], spent: &[OutPoint]) -> usize {
        if self.entries.is_empty() {
            return 0;
        }
        let spent: HashSet<&OutPoint> = spent.iter().collect();
        let mut gone: HashSet<Wtxid> =
            transactions.iter().map(|(_, wtxid)| *wtxid).filter(|wtxid| self.contains(wtxid)).collect();
        for (wtxid, entry) in &self.entries {
            if entry.spends.iter().any(|outpoint| spent.contains(outpoint)) {
                gone.insert(*wtxid);
            }
        }
        gone.iter().for_each(|wtxid| self.remove(wtxid));
        gone.len()
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        let old: Vec<Wtxid> = self.entries.iter().filter(|(_, e)| e.expires <= now).map(|(w, _)| *w).collect();
        old.iter().for_each(|wtxid| self.remove(wtxid));
    }

    pub(crate) fn list(&self) -> Vec<Orphan> {
        let entry = |wtxid: &Wtxid| {
            let entry = self.entries.get(wtxid)?;
            Some(Orphan { raw: entry.raw.clone(), txid: entry.txid, wtxid: *wtxid, from: entry.from.clone() })
        };
        self.order.iter().filter_map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn ids(n: u32) -> (Txid, Wtxid) {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        (Txid::from_byte_array(id), Wtxid::from_byte_array(id))
    }

    #[test]
    fn the_oldest_makes_room_and_indexes_stay_clean() {
        let mut orphans = Orphans::default();
        let parent = ids(9_999).0;
        for n in 0..3_050 {
            assert!(orphans.add(vec![0], ids(n), &[parent], Vec::new(), 1, Duration::ZERO));
        }
        assert!(!orphans.contains(&ids(49).1) && orphans.contains(&ids(50).1));
        assert_eq!(orphans.children_of(&parent, 1).len(), MAX_ORPHANS);
        orphans.forget_peer(1);
        assert!(orphans.entries.is_empty() && orphans.children.is_empty() && orphans.order.is_empty());
    }

    #[test]
    fn children_of_the_asking_peer_come_first() {
        let mut orphans = Orphans::default();
        let parent = ids(1).0;
        orphans.add(vec![2], ids(2), &[parent], Vec::new(), 1, Duration::ZERO);
        orphans.add(vec![3], ids(3), &[parent], Vec::new(), 2, Duration::ZERO);
        assert_eq!(orphans.children_of(&parent, 2)[0].1, vec![3]);
        assert!(!orphans.add(vec![3], ids(3), &[parent], Vec::new(), 1, Duration::ZERO));
        assert_eq!(orphans.list()[1].from, [2, 1]);
        orphans.expire(EXPIRY);
        assert!(orphans.list().is_empty());
        assert!(!orphans.add(vec![0; MAX_ORPHAN_BYTES + 1], ids(4), &[parent], Vec::new(), 1, Duration::ZERO));
    }
}
