//! Shares whose ceremony did not end here: stored, sealed, and of a wallet that does not live yet.
//!
//! Each is asked about whenever a member connects. It becomes live when a member is live or all have stored theirs, and
//! is dropped when all others have answered and nobody holds it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tss_wallet::store::LET_GO;
use tss_wallet::{Epoch, MemberId, SessionId, ShareStore, WalletDb, WalletId};

use super::super::core::Core;
use super::super::holding::{self, Holding, HoldingError};
use super::super::link::{Heard, Link};
use super::super::redeal::join::Join;
use super::super::sessions::SessionKind;
use super::super::wire::{Message, Outcome, Topic};

const OUTCOME_DEADLINE: Duration = Duration::from_millis(1_500);

/// A share that is stored and sealed, in a wallet that does not live yet.
pub struct Pending {
    pub name: String,
    pub dir: PathBuf,
    pub(super) wallet: WalletId,
    pub(super) ceremony: SessionId,
    pub(super) members: Vec<MemberId>,
    pub(super) db: Arc<WalletDb>,
    /// What is being done with it: whoever asks meanwhile must not take it for a share that was never stored.
    pub(super) fate: Mutex<Option<Fate>>,
}

/// What becomes of a pending share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Live,
    Dropped,
}

impl Pending {
    /// True for the one caller that carries it out.
    fn decide(&self, fate: Fate) -> bool {
        let mut decided = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        let first = decided.is_none();
        decided.get_or_insert(fate);
        first
    }

    fn undecided(&self) {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn outcome(&self) -> Outcome {
        match *self.fate.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Outcome::Stored,
            Some(Fate::Live) => Outcome::Live,
            Some(Fate::Dropped) => Outcome::Unknown,
        }
    }
}

/// Removes the directory of a wallet that never lived.
pub fn remove_unfinished(dir: &Path) {
    if holding::is_complete(dir) {
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "an unfinished wallet could not be removed");
    }
}

/// Makes the wallet of a stored share live.
pub(super) fn activate(core: &Core, pending: &Pending) -> Result<Arc<Holding>, HoldingError> {
    holding::set_complete(&pending.dir)?;
    let holding =
        Holding::open(&pending.name, &pending.dir, Arc::clone(&pending.db), &core.layout.seal_key(), core.me())?;
    let holding = Arc::new(holding);
    core.hold(Arc::clone(&holding));
    let keys = holding.public().fingerprint();
    tracing::info!(wallet = holding.name(), id = %holding.wallet(), %keys, "wallet made by the quorum");
    Ok(holding)
}

/// Whether a wallet of this name waits for its end.
pub(super) fn is_pending(core: &Core, name: &str) -> bool {
    core.pending().iter().any(|pending| pending.name == name)
}

/// What became of a ceremony, for a member that did not see its end.
pub fn asked(core: &Arc<Core>, from: MemberId, topic: Topic, ceremony: SessionId) {
    let outcome = if core.holding(&topic.wallet).is_some() {
        Outcome::Live
    } else if let Some(pending) = core.pending().iter().find(|pending| pending.wallet == topic.wallet) {
        pending.outcome()
    } else if core.sessions.is_open(&ceremony) || !core.knows_its_shares() {
        // Whoever hears "unknown" of all others drops its share: not said of one that may lie here unopened.
        Outcome::Running
    } else {
        Outcome::Unknown
    };
    core.send(&topic, 0, from, &Message::Outcome(outcome));
}

/// Asks the others about every pending wallet; makes it live, drops it, or keeps it pending.
pub fn resolve_pending(core: &Arc<Core>) {
    for pending in core.pending() {
        let Some(decision) = ask_outcome(core, &pending) else { continue };
        if !pending.decide(if decision { Fate::Live } else { Fate::Dropped }) {
            continue;
        }
        if !decision {
            tracing::info!(wallet = pending.name, "a wallet whose making never ended is dropped");
            remove_unfinished(&pending.dir);
            core.end_pending(&pending);
            continue;
        }
        match activate(core, &pending) {
            Ok(holding) => {
                core.end_pending(&pending);
                if let Some(host) = core.host() {
                    host.wallet_made(&holding);
                }
            }
            Err(error) => {
                tracing::error!(wallet = pending.name, %error, "a wallet could not be opened");
                pending.undecided();
            }
        }
    }
}

/// True: live. False: it never will be. None: not known yet.
fn ask_outcome(core: &Core, pending: &Pending) -> Option<bool> {
    let topic = Topic { wallet: pending.wallet, epoch: Epoch(0), session: core.fresh_session() };
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let link = Link::new(core, topic, core.sessions.open(info).ok()?, pending.members.iter().copied());
    let mut waiting = link.others().clone();
    for unreachable in link.send_all(0, &Message::AskOutcome(pending.ceremony)) {
        waiting.remove(&unreachable);
    }
    let (mut stored, mut unknown) = (0, 0);
    let deadline = Instant::now() + OUTCOME_DEADLINE;
    while !waiting.is_empty() {
        match link.next(deadline) {
            Heard::Message(from, Message::Outcome(outcome)) if waiting.remove(&from) => match outcome {
                Outcome::Live => return Some(true),
                Outcome::Stored => stored += 1,
                Outcome::Unknown => unknown += 1,
                Outcome::Running => {}
            },
            Heard::Message(..) => {}
            Heard::Down(member) => {
                waiting.remove(&member);
            }
            Heard::Stop | Heard::Deadline => break,
        }
    }
    let others = link.others().len();
    if stored == others {
        return Some(true);
    }
    (unknown > 0 && stored + unknown == others).then_some(false)
}

/// Opens what lies on the disk: complete wallets are held, shares of unfinished ceremonies are pending, the rest of
/// such a ceremony is removed. A wallet that cannot be opened is logged and left alone.
pub fn open_all(core: &Core, names: &[String]) {
    for name in names {
        let dir = core.layout.wallet_dir(name);
        if !holding::is_ours(&dir) {
            continue;
        }
        if let Err(error) = open_one(core, name, &dir) {
            core.note_unopened(name);
            tracing::error!(wallet = name, %error, "the share of a wallet cannot be opened");
        }
    }
}

/// Opens one wallet's share.
pub fn open_one(core: &Core, name: &str, dir: &Path) -> Result<(), HoldingError> {
    let db = Arc::new(WalletDb::open_when_free(&dir.join("db"), LET_GO)?);
    let store = ShareStore::new(Arc::clone(&db), core.me());
    let complete = holding::is_complete(dir);
    if holding::has_share(&db, core.me())? && store.has_share()? {
        if complete {
            core.hold(Arc::new(Holding::open(name, dir, db, &core.layout.seal_key(), core.me())?));
        } else if let Some((ceremony, facts)) = holding::stored_facts(&db)? {
            let wallet = holding::wallet_of(&db, core.me())?;
            let (name, dir) = (name.to_owned(), dir.to_owned());
            let ceremony = SessionId(ceremony);
            core.add_pending(Arc::new(Pending {
                name,
                dir,
                wallet,
                ceremony,
                members: facts.members,
                db,
                fate: Mutex::default(),
            }));
        }
    } else if let Some(promised) = store.promised()?.first() {
        // A share dealt to this member may yet be certified by the others.
        core.add_join(Arc::new(Join { name: name.to_owned(), wallet: promised.wallet, dir: dir.to_owned(), db }));
    } else if complete {
        tracing::info!(wallet = name, "this node has left the quorum of this wallet, or has lost its share");
    } else {
        drop((store, db));
        remove_unfinished(dir);
    }
    core.note_opened(name);
    Ok(())
}
