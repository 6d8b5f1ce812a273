//! A set that remembers at least its last `n` members and forgets the rest.
//!
//! Where Core uses a rolling bloom filter; exact, so it cannot mistake one transaction for another.

use std::collections::HashSet;
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct RollingSet<T> {
    generation: usize,
    new: HashSet<T>,
    old: HashSet<T>,
}

impl<T: Hash + Eq> RollingSet<T> {
    /// Remembers the last `members`, and holds at most twice as many.
    pub(crate) fn new(members: usize) -> Self {
        Self { generation: members.max(1), new: HashSet::new(), old: HashSet::new() }
    }

    /// False if it was remembered already.
    pub(crate) fn insert(&mut self, member: T) -> bool {
        if self.contains(&member) {
            return false;
        }
        if self.new.len() >= self.generation {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(member)
    }

    pub(crate) fn contains(&self, member: &T) -> bool {
        self.new.contains(member) || self.old.contains(member)
    }

    pub(crate) fn clear(&mut self) {
        self.new.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_members_are_remembered_and_memory_is_bounded() {
        let mut set = RollingSet::new(10);
        for n in 0..1_000 {
            assert!(set.insert(n));
            assert!(!set.insert(n));
        }
        assert!((990..1_000).all(|n| set.contains(&n)));
        assert!(set.new.len() + set.old.len() <= 20);
    }
}
