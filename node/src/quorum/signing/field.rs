//! Who signs next: what is known of the other members in the course of one request.
//!
//! A member that refuses or has vanished is out, one that was silent comes last. Where nobody can be named for a failure,
//! whoever was in the fewest failed sets comes first: liars that are the fastest of all cost one attempt, and so does a
//! single one wherever it stands. A set that failed openly is not tried again; one that only kept silent is, when all
//! others have been tried as often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tss_wallet::sign::Verdict;
use tss_wallet::{MemberId, SignError};

use super::super::error::{Missing, QuorumError};

/// Why an attempt ended without signatures.
pub(super) enum Failure {
    /// These members did not do their part.
    Members(Vec<(Missing, Fault)>),
    /// These two do not sign with each other.
    Pair(MemberId, MemberId),
    /// Nobody can be named: try other signers.
    Set(String),
    /// Each of them waited for others, until the coordinator waited no more.
    Silence(String),
    /// Trying again does not help.
    Final(QuorumError),
}

impl Failure {
    /// What this member's own machine found; `culprit` where it names one.
    pub fn of(error: &SignError, culprit: Option<MemberId>, me: MemberId) -> Self {
        match (error.verdict(), culprit) {
            (Verdict::Ban, Some(member)) => Self::Pair(me, member),
            (Verdict::Retry, Some(member)) => {
                Self::Members(vec![(Missing { member, why: error.to_string() }, Fault::Refused)])
            }
            (Verdict::Fatal, _) => Self::Final(QuorumError::Internal(error.to_string())),
            _ => Self::Set(error.to_string()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Gone,
    Refused,
    Silent,
    /// It has no room for another session at this moment.
    Busy,
    /// Its operator has not answered yet.
    Asked,
}

impl Fault {
    /// Whether the member may be asked again in the same request.
    pub fn passes(self) -> bool {
        matches!(self, Self::Silent | Self::Busy)
    }
}

/// A member that could sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub member: MemberId,
    /// It let a deadline pass and was not heard since.
    pub suspect: bool,
    pub latency: Duration,
}

/// What is known of the other members in the course of one request.
#[derive(Default)]
pub(super) struct Field {
    pub out: BTreeMap<MemberId, (Missing, Fault)>,
    pairs: BTreeSet<(MemberId, MemberId)>,
    failed: BTreeSet<Vec<MemberId>>,
    silent: BTreeMap<Vec<MemberId>, u32>,
}

impl Field {
    /// Somebody's operator has not answered yet.
    pub fn asks(&self) -> bool {
        self.out.values().any(|(_, fault)| *fault == Fault::Asked)
    }

    pub fn apart(&mut self, one: MemberId, other: MemberId) {
        self.pairs.insert((one.min(other), one.max(other)));
    }

    /// These signers failed, in roster order, and nobody knows by whom.
    pub fn set_failed(&mut self, signers: Vec<MemberId>) {
        self.failed.insert(signers);
    }

    /// The same, by waiting for each other.
    pub fn set_silent(&mut self, signers: Vec<MemberId>) {
        *self.silent.entry(signers).or_default() += 1;
    }

    /// Operators have answered: everyone is asked again.
    pub fn again(&mut self) {
        self.out.retain(|_, (_, fault)| *fault != Fault::Asked);
        self.failed.clear();
    }

    /// In how many sets that failed a member was.
    fn failures(&self, member: &MemberId) -> u32 {
        let failed = self.failed.iter().filter(|set| set.contains(member)).count();
        let silent = self.silent.iter().filter(|(set, _)| set.contains(member)).map(|(_, times)| *times);
        silent.fold(u32::try_from(failed).unwrap_or(u32::MAX), u32::saturating_add)
    }

    /// Whom to ask first.
    pub fn order(&self, mut candidates: Vec<Candidate>) -> Vec<MemberId> {
        candidates.sort_by_cached_key(|one| {
            let silent = self.out.contains_key(&one.member);
            (silent, self.failures(&one.member), one.suspect, one.latency, one.member)
        });
        candidates.iter().map(|candidate| candidate.member).collect()
    }

    /// The next `needed` signers beside `me`, in roster order.
    pub fn next(&self, candidates: Vec<Candidate>, needed: usize, me: &MemberId) -> Option<Vec<MemberId>> {
        let members = self.order(candidates);
        let apart = |one: &MemberId, other: &MemberId| self.pairs.contains(&(*one.min(other), *one.max(other)));
        let clique = |set: &[MemberId]| {
            let mut each = set.iter().enumerate();
            each.all(|(position, one)| !apart(one, me) && set[..position].iter().all(|other| !apart(one, other)))
        };
        let most = self.silent.values().copied().max().unwrap_or(0);
        (0..=most).find_map(|times| {
            let fits = |set: &[MemberId]| {
                let mut sorted = set.to_vec();
                sorted.sort_unstable();
                let silent = self.silent.get(&sorted).copied().unwrap_or(0);
                clique(set) && silent <= times && !self.failed.contains(&sorted)
            };
            let mut set = first_subset(&members, needed, &fits)?;
            set.sort_unstable();
            Some(set)
        })
    }
}

/// The first subset of a size, in the order of preference, that fits.
fn first_subset(from: &[MemberId], size: usize, fits: &dyn Fn(&[MemberId]) -> bool) -> Option<Vec<MemberId>> {
    fn extend(from: &[MemberId], size: usize, chosen: &mut Vec<MemberId>, fits: &dyn Fn(&[MemberId]) -> bool) -> bool {
        if chosen.len() == size {
            return fits(chosen);
        }
        for (position, member) in from.iter().enumerate() {
            chosen.push(*member);
            if extend(&from[position + 1..], size, chosen, fits) {
                return true;
            }
            chosen.pop();
        }
        false
    }
    let mut chosen = Vec::with_capacity(size);
    extend(from, size, &mut chosen, fits).then_some(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use tss_wallet::PartyIndex;

    use super::*;

    const ME: MemberId = MemberId([0; 32]);

    fn member(id: u8) -> MemberId {
        MemberId([id; 32])
    }

    fn members(ids: &[u8]) -> Vec<MemberId> {
        ids.iter().map(|id| member(*id)).collect()
    }

    /// Those named, the fastest first.
    fn candidates(ids: &[u8]) -> Vec<Candidate> {
        let times = ids.iter().zip(1..);
        times
            .map(|(id, ms)| Candidate { member: member(*id), suspect: false, latency: Duration::from_millis(ms) })
            .collect()
    }

    #[test]
    fn the_first_fitting_subset_keeps_the_order_of_preference() {
        let from = members(&[4, 2, 3]);
        assert_eq!(first_subset(&from, 2, &|_| true), Some(members(&[4, 2])));
        assert_eq!(first_subset(&from, 2, &|set| !set.contains(&member(2))), Some(members(&[4, 3])));
        assert_eq!(first_subset(&from, 2, &|_| false), None);
        assert_eq!(first_subset(&from, 4, &|_| true), None);
    }

    #[test]
    fn members_that_are_apart_are_not_asked_together() {
        let mut field = Field::default();
        field.apart(member(2), member(1));
        assert_eq!(field.next(candidates(&[1, 2, 3]), 2, &ME), Some(members(&[1, 3])));
        field.apart(ME, member(3));
        assert_eq!(field.next(candidates(&[1, 2, 3]), 2, &ME), None);
    }

    /// Attempts until only honest members sign, with liars that nobody can name.
    fn attempts(order: &[u8], needed: usize, liars: &[u8], openly: bool) -> usize {
        let mut field = Field::default();
        for attempt in 1..100 {
            let signers = field.next(candidates(order), needed, &ME).expect("honest ones are left");
            if !signers.iter().any(|signer| liars.iter().any(|liar| *signer == member(*liar))) {
                return attempt;
            }
            if openly { field.set_failed(signers) } else { field.set_silent(signers) }
        }
        panic!("no end");
    }

    #[test]
    fn two_liars_of_five_that_are_the_fastest_and_that_nobody_can_name_cost_one_attempt() {
        let orders = [[1, 2, 3, 4], [1, 3, 2, 4], [1, 3, 4, 2], [3, 1, 2, 4], [3, 1, 4, 2], [3, 4, 1, 2]];
        for openly in [true, false] {
            assert_eq!(attempts(&orders[0], 2, &[1, 2], openly), 2);
            for order in &orders {
                // With two liars among four all six sets are alike, but none is tried twice.
                assert!(attempts(order, 2, &[1, 2], openly) <= 6);
                assert!(attempts(order, 2, &[1], openly) <= 2, "{order:?}");
            }
        }
    }

    #[test]
    fn liars_among_many_cost_few_of_the_many_sets() {
        // There are 70 sets of four among eight.
        let order: Vec<u8> = (1..=8).collect();
        assert_eq!(attempts(&order, 4, &[1, 2, 3, 4], true), 2);
        for liar in 1..=8 {
            assert!(attempts(&order, 4, &[liar], true) <= 2);
        }
        let pairs = (1..=8).flat_map(|one| (one + 1..=8).map(move |other| [one, other]));
        let counts: Vec<usize> = pairs.map(|liars| attempts(&order, 4, &liars, true)).collect();
        assert!(counts.iter().all(|count| *count <= 10), "{counts:?}");
        assert!(counts.iter().sum::<usize>() <= 5 * counts.len(), "{counts:?}");
    }

    #[test]
    fn a_set_that_failed_openly_is_not_tried_again_and_a_silent_one_after_all_others() {
        let mut field = Field::default();
        field.set_failed(members(&[1]));
        field.set_silent(members(&[2]));
        assert_eq!(field.next(candidates(&[1, 2, 3]), 1, &ME), Some(members(&[3])));
        field.set_silent(members(&[3]));
        assert_eq!(field.next(candidates(&[1, 2, 3]), 1, &ME), Some(members(&[2])));
        field.set_failed(members(&[2]));
        field.set_failed(members(&[3]));
        assert_eq!(field.next(candidates(&[1, 2, 3]), 1, &ME), None);
    }

    #[test]
    fn only_errors_that_name_nobody_are_held_against_all_signers() {
        let party = PartyIndex::new(2).unwrap();
        let of = |error: SignError, culprit: Option<MemberId>| Failure::of(&error, culprit, ME);
        for error in [
            SignError::Unattributed("the last broadcast".to_owned()),
            SignError::Equivocation { with: party },
            SignError::InvalidResult,
        ] {
            assert!(matches!(of(error, None), Failure::Set(_)));
        }
        let named = Some(member(2));
        let malformed = of(SignError::Malformed { culprit: party }, named);
        assert!(matches!(malformed, Failure::Members(list) if list.len() == 1 && list[0].0.member == member(2)));
        let banned = of(SignError::Ban { culprit: party, what: "a check".to_owned() }, named);
        assert!(matches!(banned, Failure::Pair(ME, other) if other == member(2)));
        assert!(matches!(of(SignError::NotASigner, None), Failure::Final(_)));
    }
}
