//! Dealing a wallet's shares again with the members that are there: refresh, reshare, repair.
//!
//! 1. The coordinator probes every member of the old and the new roster, and names who is absent, of another version,
//!    on another chain or stale. 2. It proposes who deals and who is absent; every participant checks the rules itself
//!    and accepts or refuses by name. 3. All run the machine of `tss_wallet` ([`ceremony`]). A member writes its new
//!    share down before it signs the certificate. 4. Whoever holds the complete certificate switches to the new epoch,
//!    says so, and erases its old share when all have said so; a member that signed and saw no certificate keeps both
//!    and asks ([`settle`]).
//!
//! Signing goes on meanwhile with the old shares. A refresh needs no consent of the operators; a reshare must match each
//! participant's own configuration, and off regtest nobody helps to repair a share without its operator.

mod ceremony;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network;
use bitcoin::hashes::{Hash, sha256};
use rand::RngCore;
use tss_wallet::{Epoch, MemberId, PublicKeys, RedealParams, Roster, ShareStore, Split, WalletDb};

pub use settle::{asked_for_keys, asked_to_repair, promised, repair_here, settle_all};

use super::core::Core;
use super::error::{Missing, MissingList, QuorumError, peer_name};
use super::holding::{self, Holding};
use super::keygen::is_safe_name;
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::{OpenError, SessionKind};
use super::wire::{Blob, Message, NO_WALLET, PROTOCOL_VERSION, Proposal, RedealKind, Status, Topic};
use ceremony::{Ceremony, Early};

/// Within these two, the answer to a request that cannot be met is known.
const PROBE: Duration = Duration::from_millis(950);
const ACCEPT: Duration = Duration::from_millis(1_000);
/// How long a participant waits for the word to begin.
const BEGIN: Duration = Duration::from_secs(3);
/// How many blocks behind a member may be (not on regtest).
const MAX_BEHIND: u32 = 6;
/// Coordinators that met step back for a random time and look again.
const MAX_TRIES: u64 = 4;
const STEP_BACK_MS: u64 = 400;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: RedealKind,
    /// Members and threshold of the next epoch.
    pub roster: Roster,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Done {
    pub keys: Arc<PublicKeys>,
    pub dealers: Vec<MemberId>,
}

/// What those who answered say of themselves.
type Ready = BTreeMap<MemberId, Status>;
/// Who did not, and why.
type Absent = BTreeMap<MemberId, Missing>;

fn failed(error: impl ToString) -> QuorumError {
    QuorumError::Redeal(error.to_string())
}

fn decode_keys(bytes: &Blob) -> Option<PublicKeys> {
    match postcard::take_from_bytes::<PublicKeys>(&bytes.0) {
        Ok((keys, [])) if keys.verify().is_ok() => Some(keys),
        _ => None,
    }
}

fn encode_keys(keys: &PublicKeys) -> Option<Blob> {
    postcard::to_allocvec(keys).ok().map(Blob)
}

/// A name no wallet can have: one ceremony of a wallet at a time.
fn guard_name(keys: &PublicKeys) -> String {
    format!("\0{}", keys.wallet)
}

/// Deals the shares of a wallet again, as coordinator. Blocks. The new epoch is in force when this returns.
pub fn run(core: &Arc<Core>, holding: &Arc<Holding>, request: &Request) -> Result<Done, QuorumError> {
    let before = holding.epoch();
    for tries in 1.. {
        settle::settle(core, holding);
        let current = core.holding(&holding.wallet()).unwrap_or_else(|| Arc::clone(holding));
        // Another coordinator's refresh is as good as one's own: simultaneous ones settle on one.
        if request.kind == RedealKind::Refresh && tries > 1 && current.epoch() > before {
            let dealers = current.members().to_vec();
            return Ok(Done { keys: Arc::clone(current.public()), dealers });
        }
        match attempt(core, &current, request) {
            Err(QuorumError::Busy) if tries < MAX_TRIES => {
                let pause = STEP_BACK_MS * tries + rand::rngs::OsRng.next_u64() % (STEP_BACK_MS * tries);
                std::thread::sleep(Duration::from_millis(pause));
            }
            other => return other,
        }
    }
    Err(QuorumError::Busy)
}

fn attempt(core: &Arc<Core>, holding: &Arc<Holding>, request: &Request) -> Result<Done, QuorumError> {
    let _one_at_a_time = core.reserve(&guard_name(holding.public())).ok_or(QuorumError::Busy)?;
    if holding.share().is_none() {
        return Err(QuorumError::Locked);
    }
    if holding.suspended().contains(&core.me()) {
        return Err(QuorumError::OwnRefusal(Refusal::Suspended("its own share".to_owned())));
    }
    let old = Arc::clone(holding.public());
    let everyone: BTreeSet<MemberId> = old
        .roster
        .members()
        .iter()
        .chain(request.roster.members())
        .copied()
        .filter(|member| *member != core.me())
        .collect();
    let (ready, missing) = probe(core, &everyone)?;
    let proposal = plan(core, holding, request, &ready, missing)?;
    let topic = core.fresh_topic(old.wallet, old.epoch);
    let params = params_of(&topic, &proposal).map_err(failed)?;
    let mut info = core.session_info(&topic, SessionKind::Redeal, core.me());
    let participants = params.participants();
    info.signers.clone_from(&participants);
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let link = Link::new(core, topic, inbox, participants);
    let dealers = proposal.dealers.clone();
    let result = invite(core, &link, &proposal).and_then(|()| {
        let ceremony = Ceremony { core, link: &link, params, proposal: &proposal, holding: Some(holding) };
        ceremony.run(Early::new())
    });
    match result {
        Ok(keys) => Ok(Done { keys, dealers }),
        Err(error) => {
            tracing::warn!(wallet = holding.name(), %error, "the shares were not dealt again");
            link.send_all(0, &Message::Refuse(Refusal::Aborted(error.to_string())));
            Err(error)
        }
    }
}

/// Who answered, with what they are; who is missing, and why.
type Present = (BTreeMap<MemberId, Status>, BTreeMap<MemberId, Missing>);

/// Asks all how they are; who does not answer in time is named with the reason.
fn probe(core: &Core, members: &BTreeSet<MemberId>) -> Result<Present, QuorumError> {
    let topic = core.fresh_topic(NO_WALLET, Epoch(0));
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let link = Link::new(core, topic, inbox, members.iter().copied());
    let (mut ready, mut missing) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = link.others().clone();
    for member in link.send_all(0, &Message::Probe) {
        waiting.remove(&member);
        missing.insert(member, Missing::unreachable(core, member));
    }
    let deadline = Instant::now() + PROBE;
    let height = core.chain().tip().height;
    while !waiting.is_empty() {
        match link.next(deadline) {
            Heard::Message(from, Message::Status(status)) if waiting.remove(&from) => {
                let behind =
                    core.network() != Network::Regtest && status.tip_height.saturating_add(MAX_BEHIND) < height;
                if status.version != PROTOCOL_VERSION {
                    missing.insert(from, Missing::refused(from, &Refusal::OtherVersion(status.version)));
                } else if behind {
                    let why = format!("its chain ends at block {}, this one at {height}", status.tip_height);
                    missing.insert(from, Missing { member: from, why });
                } else {
                    ready.insert(from, status);
                }
            }
            Heard::Message(..) => {}
            Heard::Down(member) => {
                if waiting.remove(&member) {
                    missing.insert(member, Missing::unreachable(core, member));
                }
            }
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => {
                missing
                    .extend(std::mem::take(&mut waiting).into_iter().map(|member| (member, Missing::silent(member))));
            }
        }
    }
    Ok((ready, missing))
}

/// Who deals, who receives, who is absent; or why it cannot be done, and for want of whom.
fn plan(
    core: &Core,
    holding: &Holding,
    request: &Request,
    ready: &Ready,
    mut missing: Absent,
) -> Result<Proposal, QuorumError> {
    let old = holding.public();
    let mut dealers = BTreeSet::from([core.me()]);
    let mut absent = BTreeSet::new();
    let mut epoch = old.epoch.0.max(promised(holding).map_or(0, |epoch| epoch.0));
    let suspended = holding.suspended();
    for (member, status) in ready {
        if suspended.contains(member) {
            missing.insert(*member, Missing { member: *member, why: "suspended here".to_owned() });
            continue;
        }
        let row = status.wallets.iter().find(|row| row.wallet == old.wallet);
        epoch = epoch.max(row.and_then(|row| row.promised).map_or(0, |epoch| epoch.0));
        let holds = old.roster.index_of(member).is_some_and(|party| !old.absent.contains(&party));
        match row {
            Some(row) if row.epoch > old.epoch => {
                let (wallet, mine, theirs) = (holding.name().to_owned(), old.epoch.0, row.epoch.0);
                return Err(QuorumError::Stale { wallet, mine, theirs });
            }
            Some(row) if row.epoch == old.epoch && holds && row.locked => {
                missing.insert(*member, Missing::refused(*member, &Refusal::Locked));
            }
            Some(row) if row.epoch == old.epoch && holds => {
                dealers.insert(*member);
            }
            // It has lost its share or slept through an epoch: a share for it is a repair, and needs consent.
            _ if old.roster.index_of(member).is_some() && !repairs(core, request, member) => {
                let why = "it has no share of this epoch; run repairshare there".to_owned();
                missing.insert(*member, Missing { member: *member, why });
            }
            _ => {}
        }
    }
    for member in missing.keys() {
        if request.roster.index_of(member).is_some() && old.roster.index_of(member).is_some() {
            absent.insert(*member);
        }
    }
    let mut facts = holding.facts().clone();
    facts.version = PROTOCOL_VERSION;
    facts.threshold = request.roster.threshold();
    facts.members = request.roster.members().to_vec();
    facts.split = 2 * usize::from(request.roster.threshold()) <= usize::from(request.roster.count());
    let (made_by, _) = holding::stored_facts(holding.db())
        .ok()
        .flatten()
        .ok_or_else(|| QuorumError::Storage("the wallet's description cannot be read".to_owned()))?;
    let proposal = Proposal {
        version: PROTOCOL_VERSION,
        kind: request.kind,
        facts,
        made_by: tss_wallet::SessionId(made_by),
        keys: encode_keys(old).ok_or_else(|| QuorumError::Internal("public keys".to_owned()))?,
        epoch: Epoch(epoch.saturating_add(1)),
        dealers: dealers.into_iter().collect(),
        absent: absent.into_iter().collect(),
    };
    let new_and_missing = request
        .roster
        .members()
        .iter()
        .any(|member| missing.contains_key(member) && old.roster.index_of(member).is_none());
    let checked = params_of(&core.fresh_topic(old.wallet, old.epoch), &proposal)
        .map_err(|refusal| refusal.to_string())
        .and_then(|params| params.check().map_err(|refusal| refusal.to_string()));
    let lost = match request.kind {
        RedealKind::Repair(target) => missing.contains_key(&target),
        RedealKind::Refresh | RedealKind::Reshare => false,
    };
    let why = match checked {
        Err(why) => why,
        Ok(()) if new_and_missing => "every new member must take part".to_owned(),
        Ok(()) if lost => "the member to repair must take part".to_owned(),
        Ok(()) => return Ok(proposal),
    };
    Err(QuorumError::CannotRedeal { why, missing: MissingList(missing.into_values().collect()) })
}

/// Whether a member that has no share of the present epoch gets one.
fn repairs(core: &Core, request: &Request, member: &MemberId) -> bool {
    request.kind == RedealKind::Repair(*member) || core.network() == Network::Regtest
}

/// The rules of the proposal as the machine takes them.
fn params_of(topic: &Topic, proposal: &Proposal) -> Result<RedealParams, Refusal> {
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    let old = decode_keys(&proposal.keys).ok_or_else(|| malformed("the public keys"))?;
    let split = if proposal.facts.split { Split::Accepted } else { Split::Refused };
    let roster = Roster::new(proposal.facts.threshold, proposal.facts.members.clone(), split);
    let encoded = postcard::to_allocvec(proposal).map_err(|error| Refusal::Malformed(error.to_string()))?;
    Ok(RedealParams {
        old: Arc::new(old),
        epoch: proposal.epoch,
        roster: roster.map_err(|error| Refusal::Malformed(error.to_string()))?,
        dealers: proposal.dealers.iter().copied().collect(),
        absent: proposal.absent.iter().copied().collect(),
        session: topic.session,
        context: sha256::Hash::hash(&encoded).to_byte_array(),
    })
}

/// Proposes to all participants and waits for their word.
fn invite(core: &Core, link: &Link<'_>, proposal: &Proposal) -> Result<(), QuorumError> {
    let mut waiting = link.others().clone();
    let mut missing = Vec::new();
    let mut busy = false;
    for member in link.send_all(0, &Message::Redeal(Box::new(proposal.clone()))) {
        waiting.remove(&member);
        missing.push(Missing::unreachable(core, member));
    }
    let deadline = Instant::now() + ACCEPT;
    while !waiting.is_empty() {
        link.note("proposing", waiting.iter().copied());
        match link.next(deadline) {
            Heard::Message(from, Message::Accept) => {
                waiting.remove(&from);
            }
            Heard::Message(from, Message::Refuse(refusal)) => {
                busy |= refusal == Refusal::Busy;
                if waiting.remove(&from) {
                    missing.push(Missing::refused(from, &refusal));
                }
            }
            Heard::Message(..) => {}
            Heard::Down(member) => {
                if waiting.remove(&member) {
                    missing.push(Missing::unreachable(core, member));
                }
            }
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => missing.extend(std::mem::take(&mut waiting).into_iter().map(Missing::silent)),
        }
    }
    if busy {
        return Err(QuorumError::Busy);
    }
    if !missing.is_empty() {
        let why = "not all who were there take part".to_owned();
        return Err(QuorumError::CannotRedeal { why, missing: MissingList(missing) });
    }
    link.send_all(0, &Message::Begin);
    Ok(())
}

/// Another member proposes to deal shares again.
pub fn proposed(core: &Arc<Core>, from: MemberId, topic: Topic, proposal: &Proposal) {
    let (params, holding) = match judge(core, &from, &topic, proposal) {
        Ok(judged) => judged,
        Err(refusal) => return core.refuse(&topic, from, refusal),
    };
    let Some(_one_at_a_time) = core.reserve(&guard_name(&params.old)) else {
        return core.refuse(&topic, from, Refusal::Busy);
    };
    let mut info = core.session_info(&topic, SessionKind::Redeal, from);
    info.signers = params.participants();
    let participants = info.signers.clone();
    let inbox = match core.sessions.open(info) {
        Ok(inbox) => inbox,
        Err(OpenError::Twice) => return,
        Err(error) => return core.refuse(&topic, from, error.into()),
    };
    let name = proposal.facts.name.clone();
    tracing::info!(wallet = name, coordinator = %from, kind = ?proposal.kind, epoch = %proposal.epoch, "proposal accepted");
    let link = Link::new(core, topic, inbox, participants);
    link.send(from, 0, &Message::Accept);
    let result = await_begin(core, &link, from)
        .and_then(|early| Ceremony { core, link: &link, params, proposal, holding: holding.as_ref() }.run(early));
    if let Err(error) = result {
        tracing::warn!(wallet = name, %error, "the shares were not dealt again");
        link.send_all(0, &Message::Refuse(Refusal::Failed(error.to_string())));
    }
}

fn await_begin(core: &Core, link: &Link<'_>, coordinator: MemberId) -> Result<Early, QuorumError> {
    let mut early = Early::new();
    let deadline = Instant::now() + BEGIN;
    loop {
        match link.next(deadline) {
            Heard::Message(from, Message::Begin) if from == coordinator => return Ok(early),
            Heard::Message(from, Message::Refuse(refusal)) => return Err(failed(Missing::refused(from, &refusal))),
            Heard::Message(from, message @ Message::Protocol(_)) => early.keep(from, message),
            Heard::Message(..) => {}
            Heard::Down(member) if member == coordinator => return Err(failed(Missing::unreachable(core, member))),
            Heard::Down(_) => {}
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => return Err(failed(Missing::silent(coordinator))),
        }
    }
}

/// What a participant checks by itself before it takes part.
fn judge(
    core: &Core,
    from: &MemberId,
    topic: &Topic,
    proposal: &Proposal,
) -> Result<(RedealParams, Option<Arc<Holding>>), Refusal> {
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    if proposal.version != PROTOCOL_VERSION {
        return Err(Refusal::OtherVersion(PROTOCOL_VERSION));
    }
    if proposal.facts.network != core.network().magic().to_bytes() || proposal.facts.genesis != core.genesis() {
        return Err(Refusal::OtherNetwork);
    }
    let params = params_of(topic, proposal)?;
    params.check().map_err(|refusal| Refusal::Malformed(refusal.to_string()))?;
    let old = &params.old;
    if topic.wallet != old.wallet || topic.epoch != old.epoch || old.network != core.network() {
        return Err(malformed("the topic does not fit the keys"));
    }
    if !params.dealers.contains(from) || !params.participants().contains(&core.me()) {
        return Err(Refusal::UnknownCoordinator);
    }
    if proposal.kind != RedealKind::Reshare && params.roster != old.roster {
        return Err(malformed("a refresh or a repair changes neither members nor threshold"));
    }
    if !consents(core, proposal, &params) {
        return Err(Refusal::NotConfirmed);
    }
    let holding = core.holding(&old.wallet);
    let deals = params.dealers.contains(&core.me());
    match &holding {
        Some(holding) => {
            let mine = holding.public();
            if !mine.same_wallet(old) {
                return Err(malformed("the keys are not those of the wallet"));
            }
            if mine.epoch > old.epoch || (deals && mine.statement() != old.statement()) {
                return Err(Refusal::OtherEpoch(mine.epoch.0));
            }
            let known = promised(holding).map_or(0, |epoch| epoch.0).max(mine.epoch.0);
            if proposal.epoch.0 <= known {
                return Err(Refusal::OtherEpoch(known));
            }
            if holding.share().is_none() {
                return Err(Refusal::Locked);
            }
            let suspended = holding.suspended();
            if let Some(member) = params.participants().iter().find(|member| suspended.contains(member)) {
                return Err(Refusal::Suspended(peer_name(member)));
            }
        }
        None if deals => return Err(Refusal::UnknownWallet),
        None => {
            let name = &proposal.facts.name;
            if !is_safe_name(name) {
                return Err(Refusal::UnsafeName(name.escape_debug().to_string()));
            }
            if core.host().is_some_and(|host| !host.name_is_free(name)) && !resumable(core, name, old) {
                return Err(Refusal::NameTaken(name.clone()));
            }
        }
    }
    Ok((params, holding))
}

/// A directory of this name holds what an earlier attempt dealt to this member, and nothing else.
fn resumable(core: &Core, name: &str, keys: &PublicKeys) -> bool {
    let dir = core.layout.wallet_dir(name);
    if holding::is_complete(&dir) || !holding::is_ours(&dir) {
        return false;
    }
    let Ok(db) = WalletDb::open(&dir.join("db")) else { return false };
    let promised = ShareStore::new(Arc::new(db), core.me()).promised();
    promised.is_ok_and(|promised| !promised.is_empty() && promised.iter().all(|mine| mine.same_wallet(keys)))
}

/// Roster changes and repairs are the operators' affair; on regtest, and among embedded co-signers, all is granted.
fn consents(core: &Core, proposal: &Proposal, params: &RedealParams) -> bool {
    let policy = core.policy();
    if policy.accepts_any || core.network() == Network::Regtest {
        return true;
    }
    match proposal.kind {
        RedealKind::Refresh => true,
        RedealKind::Repair(target) => target == core.me(),
        RedealKind::Reshare => {
            let mine: BTreeSet<MemberId> = policy.cosigners.iter().copied().chain([core.me()]).collect();
            let theirs: BTreeSet<MemberId> = params.roster.members().iter().copied().collect();
            let threshold = policy.threshold.unwrap_or_else(|| Roster::default_threshold(theirs.len()));
            mine == theirs && threshold == params.roster.threshold() && !proposal.facts.split
        }
    }
}
