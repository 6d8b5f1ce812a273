//! Who deals to whom: the members of the present epoch that take part, and the roster of the next one.
//!
//! Refuses what could leave two quorums side by side, or shares that cannot sign: fewer dealers than t or than a
//! majority of the old roster, a dealer without a share, a new member that is absent, too few members that will hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::ids::{Epoch, MemberId, PartyIndex, SessionId, tagged_hash};
use crate::keys::{CertificateError, PublicKeys};
use crate::roster::Roster;

/// How far the next epoch may lie above the present one: attempts that failed late lie between, and no liar takes the
/// numbers away.
pub const MAX_EPOCH_JUMP: u32 = 2_000;

/// What all who take part must agree on beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedealParams {
    /// The public keys of the present epoch, with their certificate.
    pub old: Arc<PublicKeys>,
    /// The next epoch. Above the present one, and above every epoch that an earlier attempt was for.
    pub epoch: Epoch,
    /// Members and threshold of the next epoch.
    pub roster: Roster,
    /// The members of the present epoch that deal their shares again.
    pub dealers: BTreeSet<MemberId>,
    /// Members of both rosters that take no part: they will hold no share of the next epoch.
    pub absent: BTreeSet<MemberId>,
    /// This run.
    pub session: SessionId,
    /// Hash of anything else they agreed on.
    pub context: [u8; 32],
}

/// Why shares cannot be dealt like this. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedealRefusal {
    /// The present epoch's keys do not hold together.
    #[error("the keys of the present epoch are not valid: {0}")]
    OldKeys(#[from] CertificateError),
    /// Not a later epoch.
    #[error("epoch {new} does not follow epoch {old}")]
    Epoch {
        /// The present one.
        old: Epoch,
        /// The one asked for.
        new: Epoch,
    },
    /// Further above the present epoch than attempts can have come.
    #[error("epoch {new} lies too far above epoch {old}")]
    EpochJump {
        /// The present one.
        old: Epoch,
        /// The one asked for.
        new: Epoch,
    },
    /// Fewer dealers than t, or not more than half of the roster.
    #[error("{got} members with a share take part; {needed} are needed: the threshold, and more than half of all")]
    TooFewDealers {
        /// How many there are.
        got: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A dealer that holds no share of the present epoch.
    #[error("{0} holds no share of the present epoch to deal again")]
    NotAHolder(MemberId),
    /// A new member must be there to receive its share.
    #[error("{0} is new to the quorum and must take part")]
    NewMemberAbsent(MemberId),
    /// Somebody is named as absent that is no member, or that deals.
    #[error("{0} cannot be absent")]
    NotAbsent(MemberId),
    /// The next epoch could not sign, or not be dealt again.
    #[error("{got} members would hold a share of the next epoch; {needed} are needed")]
    TooFewHolders {
        /// How many there would be.
        got: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// The least number of members that makes signatures and a majority.
fn enough(roster: &Roster) -> usize {
    usize::from(roster.threshold()).max(usize::from(roster.count()) / 2 + 1)
}

impl RedealParams {
    /// Checks all the rules.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn check(&self) -> Result<(), RedealRefusal> {
        self.old.verify()?;
        if self.epoch <= self.old.epoch {
            return Err(RedealRefusal::Epoch { old: self.old.epoch, new: self.epoch });
        }
        if self.epoch.0 - self.old.epoch.0 > MAX_EPOCH_JUMP {
            return Err(RedealRefusal::EpochJump { old: self.old.epoch, new: self.epoch });
        }
        let holds =
            |member: &MemberId| self.old.roster.index_of(member).is_some_and(|party| !self.old.absent.contains(&party));
        if let Some(member) = self.dealers.iter().find(|member| !holds(member)) {
            return Err(RedealRefusal::NotAHolder(*member));
        }
        let (got, needed) = (self.dealers.len(), enough(&self.old.roster));
        if got < needed {
            return Err(RedealRefusal::TooFewDealers { got, needed });
        }
        for member in &self.absent {
            if self.roster.index_of(member).is_none() || self.dealers.contains(member) {
                return Err(RedealRefusal::NotAbsent(*member));
            }
            if self.old.roster.index_of(member).is_none() {
                return Err(RedealRefusal::NewMemberAbsent(*member));
            }
        }
        let (got, needed) = (self.holders().count(), enough(&self.roster));
        if got < needed {
            return Err(RedealRefusal::TooFewHolders { got, needed });
        }
        Ok(())
    }

    /// The members that will hold a share, in the order of their indices.
    pub fn holders(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.roster.members().iter().copied().filter(|member| !self.absent.contains(member))
    }

    /// All who take part: dealers and holders, sorted. Their positions from 1 are the indices of the messages.
    #[must_use]
    pub fn participants(&self) -> Vec<MemberId> {
        self.dealers.iter().copied().chain(self.holders()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The dealers' indices in the present epoch.
    pub(super) fn dealer_indices(&self) -> Vec<u8> {
        self.dealers.iter().filter_map(|member| self.old.roster.index_of(member)).map(PartyIndex::get).collect()
    }

    pub(super) fn absent_indices(&self) -> BTreeSet<PartyIndex> {
        self.absent.iter().filter_map(|member| self.roster.index_of(member)).collect()
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        let flat = |members: &BTreeSet<MemberId>| members.iter().flat_map(|member| member.0).collect::<Vec<u8>>();
        tagged_hash(
            "keyless/redeal/v1",
            &[
                &self.old.statement(),
                &self.epoch.0.to_be_bytes(),
                &self.roster.canonical_bytes(),
                &flat(&self.dealers),
                &flat(&self.absent),
                self.session.as_bytes(),
                &self.context,
            ],
        )
    }
}
