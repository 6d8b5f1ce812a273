//! The members of a quorum and its threshold.
//!
//! Refuses what cannot be a quorum: fewer than two members, a threshold out of range, a member named twice, and,
//! unless the caller accepts a split, 2t ≤ n: two disjoint quorums could then sign apart.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{MemberId, PartyIndex};

/// The most members a quorum may have: a ceremony costs each member work for every other one.
pub const MAX_MEMBERS: usize = 15;

/// Why a roster was refused. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RosterError {
    /// Fewer than two.
    #[error("a quorum needs at least 2 members, not {0}")]
    TooFewMembers(usize),
    /// More than [`MAX_MEMBERS`].
    #[error("a quorum has at most {MAX_MEMBERS} members, not {0}")]
    TooManyMembers(usize),
    /// A threshold of one would put the whole key into each share.
    #[error("threshold {0} is below 2")]
    ThresholdTooLow(u8),
    /// t > n.
    #[error("threshold {threshold} is above the number of members {members}")]
    ThresholdAboveMembers {
        /// t
        threshold: u8,
        /// n
        members: usize,
    },
    /// 2t ≤ n without consent to a split.
    #[error(
        "threshold {threshold} of {members} members lets two disjoint quorums sign apart; at least {least} is needed"
    )]
    Split {
        /// t
        threshold: u8,
        /// n
        members: usize,
        /// The least t with 2t > n.
        least: u8,
    },
    /// One member twice.
    #[error("member {0} is named twice")]
    DuplicateMember(MemberId),
}

/// Whether 2t ≤ n is acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Refuse it: any two quorums share a member.
    Refused,
    /// The operator asked for it, and was told what it loses.
    Accepted,
}

/// The sorted members of a quorum and the number of them that sign. Sorting makes the party indices the same for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedRoster", into = "UncheckedRoster")]
pub struct Roster {
    threshold: u8,
    members: Vec<MemberId>,
}

#[derive(Serialize, Deserialize)]
struct UncheckedRoster {
    threshold: u8,
    members: Vec<MemberId>,
}

impl TryFrom<UncheckedRoster> for Roster {
    type Error = RosterError;
    fn try_from(raw: UncheckedRoster) -> Result<Self, RosterError> {
        Self::new(raw.threshold, raw.members, Split::Accepted)
    }
}

impl From<Roster> for UncheckedRoster {
    fn from(roster: Roster) -> Self {
        Self { threshold: roster.threshold, members: roster.members }
    }
}

impl Roster {
    /// A roster of these members in their sorted order.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn new(threshold: u8, mut members: Vec<MemberId>, split: Split) -> Result<Self, RosterError> {
        let count = members.len();
        if count < 2 {
            return Err(RosterError::TooFewMembers(count));
        }
        if count > MAX_MEMBERS {
            return Err(RosterError::TooManyMembers(count));
        }
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RosterError::DuplicateMember(pair[0]));
        }
        if threshold < 2 {
            return Err(RosterError::ThresholdTooLow(threshold));
        }
        if usize::from(threshold) > count {
            return Err(RosterError::ThresholdAboveMembers { threshold, members: count });
        }
        if 2 * usize::from(threshold) <= count && split == Split::Refused {
            let least = Self::default_threshold(count);
            return Err(RosterError::Split { threshold, members: count, least });
        }
        Ok(Self { threshold, members })
    }

    /// ⌊n/2⌋ + 1, and 2 at least: the least threshold at which any two quorums share a member.
    #[must_use]
    pub fn default_threshold(members: usize) -> u8 {
        u8::try_from(members / 2 + 1).unwrap_or(u8::MAX).max(2)
    }

    /// t: how many members sign.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// n.
    #[must_use]
    pub fn count(&self) -> u8 {
        // At most MAX_MEMBERS by construction.
        self.members.len() as u8
    }

    /// The members in the order of their indices.
    #[must_use]
    pub fn members(&self) -> &[MemberId] {
        &self.members
    }

    /// All party indices, from 1 to n.
    pub fn indices(&self) -> impl Iterator<Item = PartyIndex> + Clone + use<> {
        (1..=self.count()).filter_map(|index| PartyIndex::new(index).ok())
    }

    /// All party indices but one.
    pub fn others(&self, me: PartyIndex) -> impl Iterator<Item = PartyIndex> + Clone + use<> {
        self.indices().filter(move |index| *index != me)
    }

    /// The index of a member, if it is one.
    #[must_use]
    pub fn index_of(&self, member: &MemberId) -> Option<PartyIndex> {
        let position = self.members.binary_search(member).ok()?;
        PartyIndex::new(u8::try_from(position + 1).ok()?).ok()
    }

    /// The member at an index.
    #[must_use]
    pub fn member(&self, index: PartyIndex) -> Option<&MemberId> {
        self.members.get(index.position())
    }

    /// Whether the index lies in the roster.
    #[must_use]
    pub fn contains(&self, index: PartyIndex) -> bool {
        index.get() <= self.count()
    }

    /// The canonical bytes of the roster, for hashes and certificates.
    #[must_use]
    pub(crate) fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.threshold, self.count()];
        for member in &self.members {
            bytes.extend_from_slice(member.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn members(count: u8) -> Vec<MemberId> {
        (1..=count).rev().map(|byte| MemberId([byte; 32])).collect()
    }

    #[test]
    fn members_are_sorted_and_indexed_from_one() {
        let roster = Roster::new(2, members(3), Split::Refused).unwrap();
        assert_eq!(roster.index_of(&MemberId([1; 32])), PartyIndex::new(1).ok());
        assert_eq!(roster.member(PartyIndex::new(3).unwrap()), Some(&MemberId([3; 32])));
        assert_eq!(roster.index_of(&MemberId([9; 32])), None);
        assert_eq!(roster.others(PartyIndex::new(2).unwrap()).map(PartyIndex::get).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let refused = |threshold, members| Roster::new(threshold, members, Split::Refused).unwrap_err();
        let above = RosterError::ThresholdAboveMembers { threshold: 4, members: 3 };
        assert_eq!(refused(4, members(3)), above);
        assert_eq!(refused(1, members(3)), RosterError::ThresholdTooLow(1));
        assert_eq!(refused(0, members(3)), RosterError::ThresholdTooLow(0));
        assert_eq!(refused(2, members(1)), RosterError::TooFewMembers(1));
        assert_eq!(refused(9, members(16)), RosterError::TooManyMembers(16));
        assert_eq!(refused(2, members(4)), RosterError::Split { threshold: 2, members: 4, least: 3 });
        let twice = vec![MemberId([1; 32]), MemberId([2; 32]), MemberId([1; 32])];
        assert_eq!(refused(2, twice), RosterError::DuplicateMember(MemberId([1; 32])));
        assert!(
            Roster::new(15, members(15), Split::Refused).is_ok() && Roster::new(2, members(2), Split::Refused).is_ok()
        );
    }

    #[test]
    fn a_split_is_accepted_only_on_request() {
        assert!(Roster::new(2, members(4), Split::Accepted).is_ok());
        assert!(Roster::new(2, members(4), Split::Refused).is_err());
        assert_eq!([2, 3, 4, 5, 10].map(Roster::default_threshold), [2, 2, 3, 3, 6]);
    }

    #[test]
    fn decoding_checks_the_rules() {
        let good = Roster::new(2, members(3), Split::Refused).unwrap();
        let bytes = postcard::to_allocvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<Roster>(&bytes).unwrap(), good);
        let mut bad = bytes;
        bad[0] = 9;
        assert!(postcard::from_bytes::<Roster>(&bad).is_err());
    }
}
