//! Members that were rolled back to an old snapshot, noticed by the marks that they signed themselves.
//!
//! A member counts what it signs, and tells every other member the count with its own signature. Whoever connects gets
//! its latest mark back: one above its own count says that this member has forgotten what it promised (limits, bans,
//! payments). It signs nothing then until t−1 members have told their marks, and goes on above the highest. Nobody else
//! can fence a member: only its own signature counts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tss_wallet::audit::{Entry, Head, Kind};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, MemberId, SigningIdentity, WalletId};

use super::core::Core;
use super::guard::{Guard, GuardError, encode};
use super::holding::{Holding, HoldingError};
use super::judge;
use super::wire::{Blob, Message};

const OWN_KEY: &[u8] = b"fence/own";
const MARK_PREFIX: &[u8] = b"fence/of/";
const SIGNATURE_BYTES: usize = 64;

/// How much a member had signed, in its own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub count: u64,
    /// Head of its audit log.
    pub head: [u8; 32],
    pub signature: Blob,
}

impl Mark {
    fn make(count: u64, head: [u8; 32], wallet: &WalletId, identity: &SigningIdentity) -> Self {
        let signature = Head { entries: count, hash: head }.sign(wallet, identity);
        Self { count, head, signature: Blob(signature.to_vec()) }
    }

    /// Whether this member said so about this wallet.
    pub fn is_of(&self, wallet: &WalletId, member: &MemberId) -> bool {
        let Ok(signature) = <[u8; SIGNATURE_BYTES]>::try_from(self.signature.0.as_slice()) else { return false };
        Head { entries: self.count, hash: self.head }.is_signed(wallet, member, &signature)
    }
}

/// This member's own count, and whether its peers know a higher one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fence {
    count: u64,
    /// The highest count that peers hold, while it is above one's own.
    behind: Option<u64>,
    answered: BTreeSet<MemberId>,
}

/// What an answer of a peer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    None,
    /// This member signs nothing from now on.
    Shut {
        known: u64,
    },
    /// It may sign again.
    Open {
        count: u64,
    },
}

impl Fence {
    pub fn is_shut(&self) -> bool {
        self.behind.is_some()
    }

    fn next(&mut self) -> u64 {
        self.count = self.count.saturating_add(1);
        self.count
    }

    /// A peer tells the mark that it holds of this member.
    fn answer(&mut self, peer: MemberId, known: Option<u64>, needed: usize) -> Turn {
        let known = known.unwrap_or(0);
        let was_shut = self.is_shut();
        if known > self.count {
            self.behind = Some(self.behind.unwrap_or(0).max(known));
        }
        let Some(behind) = self.behind else { return Turn::None };
        self.answered.insert(peer);
        if self.answered.len() >= needed {
            self.count = behind.saturating_add(1);
            self.behind = None;
            self.answered.clear();
            return Turn::Open { count: self.count };
        }
        if was_shut { Turn::None } else { Turn::Shut { known: behind } }
    }
}

fn mark_key(member: &MemberId) -> Vec<u8> {
    [MARK_PREFIX, member.as_bytes().as_slice()].concat()
}

impl Guard {
    pub(super) fn open_fence(db: &tss_wallet::WalletDb) -> Result<Fence, HoldingError> {
        let Some(stored) = db.get(Family::Claims, OWN_KEY)? else { return Ok(Fence::default()) };
        postcard::from_bytes(&stored).map_err(|_| HoldingError::Guard(db.path().to_owned(), GuardError::Fence))
    }

    /// This member was rolled back, and signs nothing yet.
    pub fn is_fenced(&self) -> bool {
        self.state().fence.is_shut()
    }

    fn change_fence<T>(&self, sync: Sync, change: impl FnOnce(&mut Fence) -> T) -> Result<T, HoldingError> {
        let mut state = self.state();
        let mut fence = state.fence.clone();
        let result = change(&mut fence);
        if fence != state.fence {
            let mut batch = Batch::new();
            let stored = encode(&fence).map_err(|error| HoldingError::Guard(self.db.path().to_owned(), error))?;
            batch.put(Family::Claims, OWN_KEY, stored);
            self.db.write(&batch, sync)?;
            state.fence = fence;
        }
        Ok(result)
    }
}

/// After a signature: the others are told how much this member has signed.
pub fn announce(core: &Core, holding: &Holding) {
    let guard = holding.guard();
    let count = match guard.change_fence(Sync::No, Fence::next) {
        Ok(count) => count,
        Err(error) => {
            tracing::error!(wallet = holding.name(), %error, "the count of signatures could not be stored");
            return;
        }
    };
    let mark = Mark::make(count, guard.head().hash, &holding.wallet(), core.identity());
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    for member in holding.others().filter(|member| core.is_online(member)) {
        core.tell(&topic, member, &Message::Mark(mark.clone()));
    }
}

/// Another member tells its mark: it is kept if it is its own and the highest.
pub fn heard(holding: &Holding, from: MemberId, mark: &Mark) {
    if !mark.is_of(&holding.wallet(), &from) || of(holding, &from).is_some_and(|known| known.count >= mark.count) {
        return;
    }
    let Ok(stored) = encode(mark) else { return };
    let mut batch = Batch::new();
    batch.put(Family::Claims, mark_key(&from), stored);
    if let Err(error) = holding.db().write(&batch, Sync::No) {
        tracing::warn!(wallet = holding.name(), %error, "a member's mark could not be stored");
    }
}

/// The mark that this member holds of another one.
pub fn of(holding: &Holding, member: &MemberId) -> Option<Mark> {
    let stored = holding.db().get(Family::Claims, &mark_key(member)).ok().flatten()?;
    postcard::from_bytes(&stored).ok()
}

/// A peer has told the mark that it holds of this member.
pub fn compare(core: &Core, holding: &Holding, from: MemberId, mine: Option<&Mark>) {
    let me = core.me();
    let known = mine.filter(|mark| mark.is_of(&holding.wallet(), &me)).map(|mark| mark.count);
    let needed = usize::from(holding.threshold()) - 1;
    let turn = holding.guard().change_fence(Sync::Yes, |fence| fence.answer(from, known, needed));
    let (outcome, detail) = match turn {
        Ok(Turn::None) => return,
        Ok(Turn::Shut { known }) => ("shut", format!("a peer knows of {known} signatures, this member of fewer")),
        Ok(Turn::Open { count }) => ("open", format!("goes on at {count}, which {needed} members confirmed")),
        Err(error) => {
            tracing::error!(wallet = holding.name(), %error, "the fence could not be stored");
            return;
        }
    };
    tracing::warn!(wallet = holding.name(), outcome, detail, "this member was rolled back");
    let entry = Entry {
        time: core.chain().now(),
        kind: Kind::Fence,
        request: None,
        session: None,
        member: Some(from),
        txid: None,
        outcome: outcome.to_owned(),
        detail,
    };
    judge::note(holding, &entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8) -> MemberId {
        MemberId([number; 32])
    }

    #[test]
    fn a_member_behind_its_own_mark_waits_for_t_minus_one_answers_and_goes_on_above_the_highest() {
        let mut fence = Fence { count: 5, ..Fence::default() };
        assert_eq!(fence.answer(member(1), Some(5), 3), Turn::None);
        assert!(!fence.is_shut());
        assert_eq!(fence.answer(member(1), Some(7), 3), Turn::Shut { known: 7 });
        assert!(fence.is_shut());
        assert_eq!(fence.answer(member(1), Some(7), 3), Turn::None, "one member counts once");
        assert_eq!(fence.answer(member(2), Some(9), 3), Turn::None);
        assert_eq!(fence.answer(member(3), None, 3), Turn::Open { count: 10 });
        assert!(!fence.is_shut());
        assert_eq!(fence.next(), 11);
        assert_eq!(fence.answer(member(2), Some(9), 3), Turn::None, "an old mark shuts nobody again");
    }

    #[test]
    fn only_its_own_signature_makes_a_mark() {
        let identity = SigningIdentity::from_seed(&[1; 32]);
        let wallet = WalletId([2; 32]);
        let mark = Mark::make(7, [3; 32], &wallet, &identity);
        let me = identity.member_id();
        assert!(mark.is_of(&wallet, &me));
        assert!(!Mark { count: 8, ..mark.clone() }.is_of(&wallet, &me));
        assert!(!Mark { head: [4; 32], ..mark.clone() }.is_of(&wallet, &me));
        assert!(!mark.is_of(&WalletId([9; 32]), &me));
        assert!(!mark.is_of(&wallet, &member(1)));
        assert!(!Mark { signature: Blob(vec![0; 63]), ..mark }.is_of(&wallet, &me));
    }
}
