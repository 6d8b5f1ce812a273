//! Members that were rolled back to an old snapshot, noticed by the marks that they signed themselves.
//!
//! A member counts the requests that it agrees to sign, and tells every other member the count and its epoch with its own
//! signature. Whoever connects gets its latest mark back. One above its own count, or of a later epoch, proves that this
//! member has forgotten what it promised (bans, limits, payments): it signs, leases and deals nothing in this epoch any
//! more. Only a new epoch, with a share and pairs of its own, ends that: its share is repaired like a lost one. Nobody
//! else can fence a member: only its own signature counts.

use serde::{Deserialize, Serialize};
use tss_wallet::audit::{Entry, Kind};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Epoch, Family, MemberId, SigningIdentity, WalletId, verify_signature};

use super::core::Core;
use super::guard::{Guard, GuardError, encode};
use super::holding::{Holding, HoldingError};
use super::judge;
use super::wire::{Blob, Message};

pub(super) const OWN_KEY: &[u8] = b"fence/2/own";
const MARK_PREFIX: &[u8] = b"fence/2/of/";
const SIGNATURE_BYTES: usize = 64;
const TAG: &[u8] = b"keyless/mark/v2";

/// How much a member had signed: its epoch first, then its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reached {
    pub epoch: Epoch,
    pub count: u64,
}

/// The same in its own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub reached: Reached,
    pub signature: Blob,
}

impl Mark {
    fn make(reached: Reached, wallet: &WalletId, identity: &SigningIdentity) -> Self {
        Self { reached, signature: Blob(identity.sign(&statement(&reached, wallet)).to_vec()) }
    }

    /// Whether this member said so about this wallet.
    pub fn is_of(&self, wallet: &WalletId, member: &MemberId) -> bool {
        let Ok(signature) = <[u8; SIGNATURE_BYTES]>::try_from(self.signature.0.as_slice()) else { return false };
        verify_signature(member, &statement(&self.reached, wallet), &signature).is_ok()
    }
}

/// What is signed. Nothing else that members sign begins like it.
fn statement(reached: &Reached, wallet: &WalletId) -> Vec<u8> {
    [TAG, wallet.as_bytes(), &reached.epoch.0.to_be_bytes(), &reached.count.to_be_bytes()].concat()
}

/// This member's own count, and what its peers know that it has forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fence {
    count: u64,
    /// The highest mark that peers hold, while it is above one's own.
    behind: Option<Reached>,
}

impl Fence {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One more request that this member signs.
    pub fn next(&self) -> Self {
        Self { count: self.count.saturating_add(1), behind: self.behind }
    }

    /// Whether this member, with a share of this epoch, was rolled back.
    fn is_shut(&self, epoch: Epoch) -> bool {
        self.behind.is_some_and(|known| known.epoch >= epoch)
    }

    /// A peer tells the mark that it holds of this member. True if that shuts it.
    fn hear(&mut self, known: Reached, epoch: Epoch) -> bool {
        let was_shut = self.is_shut(epoch);
        if known > (Reached { epoch, count: self.count }) {
            self.behind = self.behind.max(Some(known));
        }
        self.is_shut(epoch) && !was_shut
    }

    /// Forgets what a new epoch has mended. True if there was something.
    fn open(&mut self, epoch: Epoch) -> bool {
        self.behind.take_if(|known| known.epoch < epoch).is_some()
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

    /// This member was rolled back, and takes part in nothing with a share of this epoch.
    pub fn is_fenced(&self, epoch: Epoch) -> bool {
        self.state().fence.is_shut(epoch)
    }

    fn change_fence<T>(&self, change: impl FnOnce(&mut Fence) -> T) -> Result<T, HoldingError> {
        let mut state = self.state();
        let mut fence = state.fence.clone();
        let result = change(&mut fence);
        if fence != state.fence {
            let mut batch = Batch::new();
            let stored = encode(&fence).map_err(|error| HoldingError::Guard(self.db.path().to_owned(), error))?;
            batch.put(Family::Claims, OWN_KEY, stored);
            self.db.write(&batch, Sync::Yes)?;
            state.fence = fence;
        }
        Ok(result)
    }
}

/// After a signature or a ban: the others are told how much this member has signed, as far as that is on its disk.
pub fn announce(core: &Core, holding: &Holding) {
    let reached = Reached { epoch: holding.epoch(), count: holding.guard().settled_count() };
    let mark = Mark::make(reached, &holding.wallet(), core.identity());
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    for member in holding.others().filter(|member| core.is_online(member)) {
        core.tell(&topic, member, &Message::Mark(mark.clone()));
    }
}

/// Another member tells its mark: it is kept if it is its own and the highest.
pub fn heard(holding: &Holding, from: MemberId, mark: &Mark) {
    if !mark.is_of(&holding.wallet(), &from) || of(holding, &from).is_some_and(|known| known.reached >= mark.reached) {
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
    let Some(mark) = mine.filter(|mark| mark.is_of(&holding.wallet(), &core.me())) else { return };
    let Reached { epoch, count } = mark.reached;
    match holding.guard().change_fence(|fence| fence.hear(mark.reached, holding.epoch())) {
        Ok(false) => {}
        Ok(true) => {
            let wallet = holding.name();
            tracing::error!(wallet, %epoch, count, "this member was rolled back: it has signed more than it remembers");
            let detail = format!("it had signed {count} requests up to epoch {epoch}, and remembers fewer");
            note(core, holding, Some(from), "shut", detail);
        }
        Err(error) => tracing::error!(wallet = holding.name(), %error, "the fence could not be stored"),
    }
}

/// A member that was rolled back and has been dealt a new share takes part again.
pub fn settle(core: &Core, holding: &Holding) {
    match holding.guard().change_fence(|fence| fence.open(holding.epoch())) {
        Ok(false) => {}
        Ok(true) => {
            note(core, holding, None, "open", format!("epoch {} has a share and pairs of its own", holding.epoch()))
        }
        Err(error) => tracing::error!(wallet = holding.name(), %error, "the fence could not be stored"),
    }
}

fn note(core: &Core, holding: &Holding, member: Option<MemberId>, outcome: &str, detail: String) {
    let entry = Entry {
        time: core.chain().now(),
        kind: Kind::Fence,
        request: None,
        session: None,
        member,
        txid: None,
        outcome: outcome.to_owned(),
        detail,
    };
    judge::note(holding, &entry);
}

#[cfg(test)]
mod tests {
    use tss_wallet::audit::Head;

    use super::*;

    fn reached(epoch: u32, count: u64) -> Reached {
        Reached { epoch: Epoch(epoch), count }
    }

    #[test]
    fn a_member_behind_its_own_mark_is_shut_until_an_epoch_above_it() {
        let mut fence = Fence { count: 5, ..Fence::default() };
        let now = Epoch(1);
        assert!(!fence.hear(reached(1, 5), now) && !fence.is_shut(now));
        assert!(!fence.hear(reached(0, 9), now) && !fence.is_shut(now), "what was signed with an older share");
        assert!(fence.hear(reached(1, 6), now) && fence.is_shut(now));
        assert!(!fence.hear(reached(1, 7), now), "once");
        assert!(!fence.hear(reached(1, 5), now) && fence.is_shut(now), "no other mark opens it");
        assert!(!fence.open(now));
        fence = fence.next();
        assert_eq!((fence.count(), fence.is_shut(now)), (6, true));
        // A share that had been dealt before the rollback, and is found again, is no new one.
        assert!(!fence.hear(reached(2, 8), now) && fence.is_shut(Epoch(2)) && !fence.open(Epoch(2)));
        assert!(!fence.is_shut(Epoch(3)) && fence.open(Epoch(3)) && !fence.open(Epoch(3)));
        assert!(!fence.hear(reached(2, 8), Epoch(3)), "an old mark shuts nobody again");
    }

    #[test]
    fn only_its_own_signature_makes_a_mark() {
        let identity = SigningIdentity::from_seed(&[1; 32]);
        let wallet = WalletId([2; 32]);
        let mark = Mark::make(reached(3, 7), &wallet, &identity);
        let me = identity.member_id();
        assert!(mark.is_of(&wallet, &me));
        assert!(!Mark { reached: reached(3, 8), ..mark.clone() }.is_of(&wallet, &me));
        assert!(!Mark { reached: reached(4, 7), ..mark.clone() }.is_of(&wallet, &me));
        assert!(!mark.is_of(&WalletId([9; 32]), &me));
        assert!(!mark.is_of(&wallet, &MemberId([1; 32])));
        assert!(!Mark { signature: Blob(vec![0; 63]), ..mark.clone() }.is_of(&wallet, &me));
        // What an operator shows of its audit log is no mark.
        let head = Head { entries: 7, hash: [0; 32] }.sign(&wallet, &identity);
        assert!(!Mark { signature: Blob(head.to_vec()), ..mark }.is_of(&wallet, &me));
    }
}
