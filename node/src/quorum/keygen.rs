//! Making a wallet: the ceremony among all n members, and how it ends the same way for all of them.
//!
//! 1. The coordinator invites; every member compares the invitation with its own configuration and accepts or
//!    refuses by name. 2. All run the key generation of `tss_wallet`. 3. Each writes its sealed share down, durably,
//!    and tells all others so. 4. Whoever has heard it from all n makes the wallet live.
//!
//! A member that stored its share but has not heard from all keeps it as *pending*: invisible, and asked about
//! whenever a member connects. It becomes live when a member is live or all have stored theirs, and is dropped when
//! all others have answered and nobody holds it. So a crash at any point leaves no wallet half made.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::hashes::{Hash, sha256};
use tss_wallet::{Dkg, DkgParams, Epoch, KeyShare, MemberId, Roster, Split, WalletDb, WalletId};

use super::core::Core;
use super::error::{Missing, MissingList, QuorumError};
use super::holding::{self, Holding, HoldingError};
use super::link::{Heard, Link};
use super::redeal::join::Join;
use super::refusal::Refusal;
use super::sessions::{OpenError, SessionKind};
use super::wire::{Invitation, Message, Outcome, PROTOCOL_VERSION, Topic};

/// Within it, every member has answered the invitation.
const PREFLIGHT: Duration = Duration::from_millis(1_900);
/// Without a message, a ceremony waits this long, and longer with more members: each works for every other one.
const NO_PROGRESS: Duration = Duration::from_secs(8);
const NO_PROGRESS_PER_MEMBER: Duration = Duration::from_secs(3);
/// How long it waits for the others' shares to be stored, and then for the others to use the wallet.
const STORED_DEADLINE: Duration = Duration::from_secs(10);
const LIVE_DEADLINE: Duration = Duration::from_secs(3);
const OUTCOME_DEADLINE: Duration = Duration::from_millis(1_500);
/// Messages kept until the coordinator's word to begin.
const MAX_EARLY: usize = 64;
/// Longest name of a wallet, in bytes.
const MAX_NAME: usize = 255;

/// A share that is stored and sealed, in a wallet that does not live yet.
pub struct Pending {
    pub name: String,
    pub dir: PathBuf,
    wallet: WalletId,
    ceremony: tss_wallet::SessionId,
    members: Vec<MemberId>,
    db: Arc<WalletDb>,
    /// What is being done with it: whoever asks meanwhile must not take it for a share that was never stored.
    fate: Mutex<Option<Fate>>,
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

/// A name that can be a directory under `wallets/`, and nothing else.
pub fn is_safe_name(name: &str) -> bool {
    let plain = !name.is_empty() && name.len() <= MAX_NAME && !matches!(name, "." | "..");
    plain && !name.contains(['/', '\\', '\0']) && !name.chars().any(char::is_control)
}

fn params_of(core: &Core, topic: &Topic, roster: &Roster, invitation: &Invitation) -> Result<DkgParams, QuorumError> {
    let encoded = postcard::to_allocvec(invitation).map_err(|error| QuorumError::Internal(error.to_string()))?;
    Ok(DkgParams {
        wallet: topic.wallet,
        network: core.network(),
        roster: roster.clone(),
        session: topic.session,
        context: sha256::Hash::hash(&encoded).to_byte_array(),
    })
}

fn ceremony_failed(error: impl ToString) -> QuorumError {
    QuorumError::Ceremony(error.to_string())
}

/// Makes a wallet as its coordinator. Blocks. The wallet lives when this returns.
pub fn make(core: &Arc<Core>, mut invitation: Invitation) -> Result<Arc<Holding>, QuorumError> {
    invitation.version = PROTOCOL_VERSION;
    let roster = roster_of(&invitation).map_err(|refusal| ceremony_failed(refusal.to_string()))?;
    resolve_pending(core);
    let _name =
        core.reserve(&invitation.name).ok_or_else(|| ceremony_failed(Refusal::NameTaken(invitation.name.clone())))?;
    let session = core.fresh_session();
    let wallet = DkgParams::wallet_id(&invitation.name, core.network(), &roster, &session);
    let topic = Topic { wallet, epoch: Epoch(0), session };
    let mut info = core.session_info(&topic, SessionKind::KeyGeneration, core.me());
    info.signers = roster.members().to_vec();
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let link = Link::new(core, topic, inbox, roster.members().iter().copied());
    let result: Result<_, QuorumError> = (|| {
        preflight(core, &link, &roster, &invitation)?;
        let (pending, stored) = ceremony(core, &link, &roster, &invitation, VecDeque::new())?;
        let holding = finish(core, &link, pending, stored)?;
        await_live(&link);
        Ok(holding)
    })();
    if let Err(error) = &result {
        tracing::warn!(wallet = invitation.name, %error, "key generation failed");
        link.send_all(0, &Message::Refuse(Refusal::Aborted(error.to_string())));
    }
    result
}

fn roster_of(invitation: &Invitation) -> Result<Roster, Refusal> {
    let split = if invitation.split { Split::Accepted } else { Split::Refused };
    let roster = Roster::new(invitation.threshold, invitation.members.clone(), split);
    roster.map_err(|error| Refusal::Malformed(error.to_string()))
}

/// Invites all and waits for their word, with the absent and the unwilling by name.
fn preflight(core: &Core, link: &Link<'_>, roster: &Roster, invitation: &Invitation) -> Result<(), QuorumError> {
    let unreachable = link.others().iter().filter(|member| !core.is_online(member));
    let mut missing: Vec<Missing> = unreachable.map(|member| Missing::unreachable(core, *member)).collect();
    if missing.is_empty() {
        missing = link.ask_all(&Message::Invite(invitation.clone()), "inviting", PREFLIGHT)?.missing;
    }
    if !missing.is_empty() {
        return Err(QuorumError::Absent { members: usize::from(roster.count()), missing: MissingList(missing) });
    }
    // Nobody computes before all have agreed.
    link.send_all(0, &Message::Begin);
    Ok(())
}

/// Another member invites this one.
pub fn invited(core: &Arc<Core>, from: MemberId, topic: Topic, invitation: Invitation) {
    let roster = match judge(core, &from, &topic, &invitation) {
        Ok(roster) => roster,
        Err(refusal) => return core.refuse(&topic, from, refusal),
    };
    let Some(_name) = core.reserve(&invitation.name) else {
        return core.refuse(&topic, from, Refusal::NameTaken(invitation.name));
    };
    let mut info = core.session_info(&topic, SessionKind::KeyGeneration, from);
    info.signers = roster.members().to_vec();
    let inbox = match core.sessions.open(info) {
        Ok(inbox) => inbox,
        Err(OpenError::Twice) => return,
        Err(error) => return core.refuse(&topic, from, error.into()),
    };
    tracing::info!(wallet = invitation.name, coordinator = %from, "invitation to a new wallet accepted");
    let link = Link::new(core, topic, inbox, roster.members().iter().copied());
    link.send(from, 0, &Message::Accept);
    let result: Result<_, QuorumError> = (|| {
        let early = await_begin(core, &link, from)?;
        let (pending, stored) = ceremony(core, &link, &roster, &invitation, early)?;
        finish(core, &link, pending, stored)
    })();
    match result {
        Ok(holding) => {
            if let Some(host) = core.host() {
                host.wallet_made(&holding);
            }
            link.send(from, 0, &Message::Live);
        }
        Err(error) => {
            tracing::warn!(wallet = invitation.name, %error, "key generation failed");
            link.send_all(0, &Message::Refuse(Refusal::Failed(error.to_string())));
        }
    }
}

/// Compares an invitation with this member's own configuration.
fn judge(core: &Core, from: &MemberId, topic: &Topic, invitation: &Invitation) -> Result<Roster, Refusal> {
    let policy = core.policy();
    if invitation.version != PROTOCOL_VERSION {
        return Err(Refusal::OtherVersion(PROTOCOL_VERSION));
    }
    if invitation.network != core.network().magic().to_bytes() || invitation.genesis != core.genesis() {
        return Err(Refusal::OtherNetwork);
    }
    let roster = roster_of(invitation)?;
    let me = core.me();
    if roster.index_of(&me).is_none() || roster.index_of(from).is_none() {
        return Err(Refusal::OtherMembers);
    }
    if !policy.accepts_any {
        let mine: BTreeSet<MemberId> = policy.cosigners.iter().copied().chain([me]).collect();
        let theirs: BTreeSet<MemberId> = roster.members().iter().copied().collect();
        if mine != theirs {
            return Err(Refusal::OtherMembers);
        }
        let threshold = policy.threshold.unwrap_or_else(|| Roster::default_threshold(theirs.len()));
        if threshold != roster.threshold() {
            return Err(Refusal::OtherThreshold(u16::from(threshold)));
        }
        if invitation.split {
            return Err(Refusal::OtherThreshold(u16::from(threshold)));
        }
        if !is_safe_name(&invitation.name) {
            return Err(Refusal::UnsafeName(invitation.name.escape_debug().to_string()));
        }
    }
    let id = DkgParams::wallet_id(&invitation.name, core.network(), &roster, &topic.session);
    if id != topic.wallet || topic.epoch != Epoch(0) {
        return Err(Refusal::Malformed("the wallet's id does not fit the invitation".to_owned()));
    }
    if core.host().is_some_and(|host| !host.name_is_free(&invitation.name)) || is_pending(core, &invitation.name) {
        return Err(Refusal::NameTaken(invitation.name.clone()));
    }
    Ok(roster)
}

/// Messages that came before their turn.
type Early = VecDeque<(MemberId, Message)>;

fn await_begin(core: &Core, link: &Link<'_>, coordinator: MemberId) -> Result<Early, QuorumError> {
    let mut early = Early::new();
    let deadline = Instant::now() + PREFLIGHT + Duration::from_secs(1);
    loop {
        match link.next(deadline) {
            Heard::Message(from, Message::Begin) if from == coordinator => return Ok(early),
            Heard::Message(from, Message::Refuse(refusal)) => {
                return Err(ceremony_failed(Missing::refused(from, &refusal)));
            }
            // The others were told to begin a moment earlier.
            Heard::Message(from, message @ Message::Protocol(_)) if early.len() < MAX_EARLY => {
                early.push_back((from, message));
            }
            Heard::Message(..) => {}
            Heard::Down(member) => return Err(ceremony_failed(Missing::unreachable(core, member))),
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => return Err(ceremony_failed(Missing::silent(coordinator))),
        }
    }
}

/// Removes what a failed ceremony made.
struct Unfinished {
    dir: PathBuf,
    keep: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.keep {
            remove_unfinished(&self.dir);
        }
    }
}

/// Removes the directory of a wallet that never lived.
pub fn remove_unfinished(dir: &std::path::Path) {
    if holding::is_complete(dir) {
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "an unfinished wallet could not be removed");
    }
}

/// The key generation itself. On success the share is stored, and nothing is live; with it, the members that have
/// said already that theirs is.
fn ceremony(
    core: &Core,
    link: &Link<'_>,
    roster: &Roster,
    invitation: &Invitation,
    mut early: Early,
) -> Result<(Arc<Pending>, BTreeSet<MemberId>), QuorumError> {
    let params = params_of(core, link.topic(), roster, invitation)?;
    let started = Dkg::start(params, core.identity().clone(), core.fresh_seed());
    let (mut dkg, outgoing) = started.map_err(ceremony_failed)?;
    link.post(&outgoing, |member| roster.index_of(member));
    let pause = NO_PROGRESS + NO_PROGRESS_PER_MEMBER * u32::from(roster.count());
    let mut deadline = Instant::now() + pause;
    let mut stored = BTreeSet::new();
    while dkg.finished().is_none() {
        let waiting = dkg.waiting_for();
        link.note("generating keys", waiting.iter().filter_map(|party| roster.member(*party).copied()));
        let heard = match early.pop_front() {
            Some((from, message)) => Heard::Message(from, message),
            None => link.next(deadline),
        };
        match heard {
            Heard::Message(from, Message::Protocol(bodies)) => {
                let Some(index) = roster.index_of(&from) else { continue };
                for body in bodies {
                    match dkg.receive(index, &body.0) {
                        // A member that went away is reported as such by the line itself.
                        Ok(outgoing) => {
                            link.post(&outgoing, |member| roster.index_of(member));
                        }
                        Err(error) if error.is_fatal() => return Err(ceremony_failed(error)),
                        Err(error) => tracing::warn!(session = %link.topic().session, %from, %error, "message dropped"),
                    }
                }
                deadline = Instant::now() + pause;
            }
            Heard::Message(from, Message::Refuse(refusal)) => {
                return Err(ceremony_failed(Missing::refused(from, &refusal)));
            }
            Heard::Message(from, Message::Stored) => {
                stored.insert(from);
            }
            Heard::Message(..) => {}
            Heard::Down(member) => return Err(ceremony_failed(Missing::unreachable(core, member))),
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => {
                let silent = waiting.iter().filter_map(|party| roster.member(*party).copied()).map(Missing::silent);
                return Err(ceremony_failed(MissingList(silent.collect())));
            }
        }
    }
    let share = dkg.finished().cloned().ok_or_else(|| ceremony_failed("the machine lost its share"))?;
    Ok((store(core, link.topic(), invitation, &share)?, stored))
}

/// Writes the sealed share down. What is made here is removed again if that fails.
fn store(
    core: &Core,
    topic: &Topic,
    invitation: &Invitation,
    share: &Arc<KeyShare>,
) -> Result<Arc<Pending>, QuorumError> {
    let dir = core.layout.wallet_dir(&invitation.name);
    let mut unfinished = Unfinished { dir: dir.clone(), keep: false };
    let result = (|| {
        let db = Arc::new(WalletDb::open(&dir.join("db"))?);
        holding::store_facts(&db, topic.session.as_bytes(), invitation)?;
        holding::store_share(&db, &core.layout.seal_key(), core.me(), share, &core.fresh_seed())?;
        Ok::<_, HoldingError>(db)
    })();
    let db = result.map_err(|error| QuorumError::Storage(error.to_string()))?;
    unfinished.keep = true;
    let name = invitation.name.clone();
    let members = invitation.members.clone();
    let (wallet, ceremony) = (topic.wallet, topic.session);
    Ok(Arc::new(Pending { name, dir, wallet, ceremony, members, db, fate: Mutex::default() }))
}

/// Waits until all have stored their shares; then the wallet lives. Otherwise it stays pending.
fn finish(
    core: &Arc<Core>,
    link: &Link<'_>,
    pending: Arc<Pending>,
    stored: BTreeSet<MemberId>,
) -> Result<Arc<Holding>, QuorumError> {
    link.send_all(0, &Message::Stored);
    let mut waiting: BTreeSet<MemberId> = link.others().difference(&stored).copied().collect();
    let deadline = Instant::now() + STORED_DEADLINE;
    while !waiting.is_empty() {
        link.note("storing shares", waiting.iter().copied());
        match link.next(deadline) {
            // Whoever uses the wallet has heard from all.
            Heard::Message(_, Message::Live) => waiting.clear(),
            Heard::Message(from, Message::Stored) => {
                waiting.remove(&from);
            }
            Heard::Message(..) => {}
            Heard::Down(member) if !waiting.contains(&member) => {}
            Heard::Down(_) | Heard::Stop | Heard::Deadline => {
                let missing = waiting.iter().map(|member| {
                    if core.is_online(member) { Missing::silent(*member) } else { Missing::unreachable(core, *member) }
                });
                let missing = MissingList(missing.collect());
                tracing::warn!(wallet = pending.name, %missing, "the wallet is pending");
                core.add_pending(pending);
                return Err(QuorumError::Unfinished(missing));
            }
        }
    }
    activate(core, &pending).map_err(|error| QuorumError::Storage(error.to_string()))
}

fn activate(core: &Core, pending: &Pending) -> Result<Arc<Holding>, HoldingError> {
    holding::set_complete(&pending.dir)?;
    let holding =
        Holding::open(&pending.name, &pending.dir, Arc::clone(&pending.db), &core.layout.seal_key(), core.me())?;
    let holding = Arc::new(holding);
    core.hold(Arc::clone(&holding));
    let keys = holding.public().fingerprint();
    tracing::info!(wallet = holding.name(), id = %holding.wallet(), %keys, "wallet made by the quorum");
    Ok(holding)
}

/// Gives the others a moment to open the wallet, so that it can be used on every node at once.
fn await_live(link: &Link<'_>) {
    let mut waiting = link.others().clone();
    let deadline = Instant::now() + LIVE_DEADLINE;
    while !waiting.is_empty() {
        link.note("waiting for the others", waiting.iter().copied());
        match link.next(deadline) {
            Heard::Message(from, Message::Live) | Heard::Down(from) => {
                waiting.remove(&from);
            }
            Heard::Message(..) => {}
            Heard::Stop | Heard::Deadline => return,
        }
    }
}

fn is_pending(core: &Core, name: &str) -> bool {
    core.pending().iter().any(|pending| pending.name == name)
}

/// What became of a ceremony, for a member that did not see its end.
pub fn asked(core: &Arc<Core>, from: MemberId, topic: Topic, ceremony: tss_wallet::SessionId) {
    let outcome = if core.holding(&topic.wallet).is_some() {
        Outcome::Live
    } else if let Some(pending) = core.pending().iter().find(|pending| pending.wallet == topic.wallet) {
        pending.outcome()
    } else if core.sessions.is_open(&ceremony) {
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
        match open_one(core, name, &dir) {
            Ok(()) => {}
            Err(error) => tracing::error!(wallet = name, %error, "the share of a wallet cannot be opened"),
        }
    }
}

/// Opens one wallet's share.
pub fn open_one(core: &Core, name: &str, dir: &std::path::Path) -> Result<(), HoldingError> {
    let db = Arc::new(WalletDb::open(&dir.join("db"))?);
    let store = tss_wallet::ShareStore::new(Arc::clone(&db), core.me());
    let complete = holding::is_complete(dir);
    if holding::has_share(&db, core.me())? && store.has_share()? {
        if complete {
            core.hold(Arc::new(Holding::open(name, dir, db, &core.layout.seal_key(), core.me())?));
        } else if let Some((ceremony, facts)) = holding::stored_facts(&db)? {
            let wallet = holding::wallet_of(&db, core.me())?;
            let (name, dir) = (name.to_owned(), dir.to_owned());
            let ceremony = tss_wallet::SessionId(ceremony);
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
    } else if !store.promised()?.is_empty() {
        // A share dealt to this member may yet be certified by the others.
        core.add_join(Arc::new(Join { name: name.to_owned(), dir: dir.to_owned(), db }));
    } else if complete {
        tracing::info!(wallet = name, "this node has left the quorum of this wallet, or has lost its share");
    } else {
        drop((store, db));
        remove_unfinished(dir);
    }
    Ok(())
}
