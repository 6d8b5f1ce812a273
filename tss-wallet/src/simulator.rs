//! Whole ceremonies in one thread, with every message in the hands of the test: no socket, clock or task.
//!
//! An honest run is staged once and kept as it was when each round began. Every run with a fault begins as a copy of the
//! round it is in. Dealing and oblivious transfer cost most of a ceremony: a member that has received nothing but the
//! staged messages goes on as the staged member did, unless a run is to compute everything.
//!
//! | module | owns |
//! | --- | --- |
//! | [`stage`] | honest runs, round by round, and copies of them |
//! | [`net`] | one run from a round on: what arrives, what comes of it |
//! | [`faults`] | what one member can do wrong |
//! | [`ceremonies`] | which ceremonies there are, among whom |
//! | [`cells`] | every fault in every round of every ceremony, and what must hold |
//! | [`equivocation`] | two broadcasts in the place of one, also among five and seven |
//! | [`mutants`] | changed messages of every kind |
//! | [`replays`] | messages in the place of others |

#![allow(clippy::unwrap_used, clippy::panic)]

mod cells;
mod ceremonies;
mod equivocation;
mod faults;
mod mutants;
mod net;
mod replays;
mod stage;

use std::sync::Arc;

use crate::ids::{Outgoing, PartyIndex};
use crate::{Dkg, DkgError, KeyShare, PublicKeys, Redeal};

/// One member's machine of any ceremony.
trait Machine: Sized {
    /// The round in which all compare what they saw; test signatures follow.
    const ECHO: u8;
    const LAST: u8;
    fn copy(&self, seed: [u8; 32]) -> Option<Self>;
    fn round(&self) -> u8;
    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError>;
    fn blames(&self, error: &DkgError) -> Option<PartyIndex>;
    /// Under the complete certificate.
    fn keys(&self) -> Option<&Arc<PublicKeys>>;
    fn held(&self) -> Option<&Arc<KeyShare>>;
    /// What this member has signed a certificate of, and does not hold complete.
    fn signed(&self) -> Option<&Arc<PublicKeys>>;
}

impl Machine for Dkg {
    const ECHO: u8 = 4;
    const LAST: u8 = 8;

    fn copy(&self, seed: [u8; 32]) -> Option<Self> {
        self.fork(seed)
    }

    fn round(&self) -> u8 {
        Dkg::round(self)
    }

    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError> {
        self.receive(from, body)
    }

    fn blames(&self, error: &DkgError) -> Option<PartyIndex> {
        error.culprit()
    }

    fn keys(&self) -> Option<&Arc<PublicKeys>> {
        self.finished().map(|share| share.public())
    }

    fn held(&self) -> Option<&Arc<KeyShare>> {
        self.finished()
    }

    fn signed(&self) -> Option<&Arc<PublicKeys>> {
        self.pending().map(|share| share.public())
    }
}

impl Machine for Redeal {
    const ECHO: u8 = 3;
    const LAST: u8 = 7;

    fn copy(&self, seed: [u8; 32]) -> Option<Self> {
        self.fork(seed)
    }

    fn round(&self) -> u8 {
        Redeal::round(self)
    }

    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError> {
        self.receive(from, body)
    }

    fn blames(&self, error: &DkgError) -> Option<PartyIndex> {
        self.culprit(error).and_then(|member| self.index_of(&member))
    }

    fn keys(&self) -> Option<&Arc<PublicKeys>> {
        self.finished()
    }

    fn held(&self) -> Option<&Arc<KeyShare>> {
        self.share()
    }

    fn signed(&self) -> Option<&Arc<PublicKeys>> {
        self.certifying()
    }
}
