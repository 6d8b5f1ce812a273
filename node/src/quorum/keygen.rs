//! Making a wallet: the ceremony among all n members, and how it ends the same way for all of them.
//!
//! 1. The coordinator invites; every member compares the invitation with its own configuration and accepts or
//!    refuses by name. 2. All run the key generation of `tss_wallet`. 3. Each writes its sealed share down, durably,
//!    and tells all others so. 4. Whoever has heard it from all n makes the wallet live.
//!
//! A member that stored its share but has not heard from all keeps it as *pending* ([`pending`]): invisible, until it is
//! known what became of it. So a crash at any point leaves no wallet half made.

mod pending;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bitcoin::hashes::{Hash, sha256};
use tss_wallet::{Dkg, DkgParams, Epoch, KeyShare, MemberId, Roster, Split, WalletDb};

pub use pending::{Pending, asked, open_all, open_one, remove_unfinished, resolve_pending};

use super::core::Core;
use super::error::{Missing, MissingList, QuorumError};
use super::holding::{self, Holding, HoldingError};
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::{OpenError, SessionKind};
use super::wire::{Invitation, Message, PROTOCOL_VERSION, Topic};

/// Within it, every member has answered the invitation.
const PREFLIGHT: Duration = Duration::from_millis(1_900);
/// Without a message, a ceremony waits this long, and longer with more members: each works for every other one.
const NO_PROGRESS: Duration = Duration::from_secs(8);
const NO_PROGRESS_PER_MEMBER: Duration = Duration::from_secs(3);
/// How long it waits for the others' shares to be stored, and then for the others to use the wallet.
const STORED_DEADLINE: Duration = Duration::from_secs(10);
const LIVE_DEADLINE: Duration = Duration::from_secs(3);
/// Messages kept until the coordinator's word to begin.
const MAX_EARLY: usize = 64;
/// Longest name of a wallet, in bytes.
const MAX_NAME: usize = 255;

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
    if core.host().is_some_and(|host| !host.name_is_free(&invitation.name))
        || pending::is_pending(core, &invitation.name)
    {
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
    link.post_to_all(&outgoing, |member| roster.index_of(member));
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
                        Ok(outgoing) => link.post_to_all(&outgoing, |member| roster.index_of(member)),
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
    pending::activate(core, &pending).map_err(|error| QuorumError::Storage(error.to_string()))
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
