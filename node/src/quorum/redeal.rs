//! Dealing a wallet's shares again with the members that are there: refresh, reshare, repair.
//!
//! 1. The coordinator probes every member of the old and the new roster, and names who is absent, of another version,
//!    on another chain or stale. 2. It proposes who deals and who is absent; every participant checks the rules itself
//!    and accepts or refuses by name. 3. All run the machine of `tss_wallet` ([`ceremony`]). A member writes its new
//!    share down before it signs the certificate. 4. Whoever holds the complete certificate switches to the new epoch,
//!    says so, and erases its old share when all have said so; a member that signed and saw no certificate keeps both
//!    and asks ([`settle`]).
//!
//! Signing goes on meanwhile with the old shares. A refresh needs no consent of the operators, and ends no ban without
//! it ([`bans`]); a reshare must match each participant's own configuration, and off regtest nobody helps to repair a share
//! without its operator.

mod bans;
mod ceremony;
mod consent;
pub mod join;
mod plan;
mod repair;
pub mod restore;
mod schedule;
mod settle;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;
use tss_wallet::audit::{self, Entry};
use tss_wallet::{MemberId, PublicKeys, Roster, WalletId};

pub use repair::{asked_to_repair, repair_here};
pub use settle::{asked_for_keys, promised, tend};

use super::core::Core;
use super::error::{Missing, MissingList, QuorumError};
use super::holding::Holding;
use super::judge;
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::{OpenError, SessionKind};
use super::wire::{Blob, Message, Proposal, RedealKind, Topic};
use ceremony::{Ceremony, Dealt, Early};

/// Together with the probe, the answer to a request that cannot be met is known within two seconds.
const ACCEPT: Duration = Duration::from_millis(1_000);
/// How long a participant waits for the word to begin.
const BEGIN: Duration = Duration::from_secs(3);
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

/// An entry of the audit log about the shares of a wallet.
fn note(core: &Core, holding: &Holding, outcome: &str, detail: String) {
    let entry = Entry {
        time: core.chain().now(),
        kind: audit::Kind::Shares,
        request: None,
        session: None,
        member: None,
        txid: None,
        outcome: outcome.to_owned(),
        detail,
    };
    judge::note(holding, &entry);
}

/// A name no wallet can have: one ceremony of a wallet at a time.
fn guard_name(wallet: &WalletId) -> String {
    format!("\0{wallet}")
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
            Err(Failure::Again(_)) if tries < MAX_TRIES => {
                let pause = STEP_BACK_MS * tries + rand::rngs::OsRng.next_u64() % (STEP_BACK_MS * tries);
                std::thread::sleep(Duration::from_millis(pause));
            }
            Err(Failure::Again(error) | Failure::Over(error)) => return Err(error),
            Ok(done) => return Ok(done),
        }
    }
    Err(QuorumError::Busy)
}

/// Why an attempt came to nothing.
enum Failure {
    /// Others may have met it, or were slow: once more.
    Again(QuorumError),
    Over(QuorumError),
}

impl From<QuorumError> for Failure {
    fn from(error: QuorumError) -> Self {
        Self::Over(error)
    }
}

fn under_way() -> Failure {
    let why = "another ceremony of this wallet is under way".to_owned();
    Failure::Again(QuorumError::CannotRedeal { why, missing: MissingList(Vec::new()) })
}

fn attempt(core: &Arc<Core>, holding: &Arc<Holding>, request: &Request) -> Result<Done, Failure> {
    let _one_at_a_time = core.reserve(&guard_name(&holding.wallet())).ok_or_else(under_way)?;
    if holding.share().is_none() {
        return Err(QuorumError::Locked.into());
    }
    if let Some(refusal) = holding.own_refusal(&core.me()) {
        return Err(QuorumError::OwnRefusal(refusal).into());
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
    let mut field = plan::probe(core, &everyone)?;
    plan::believe_no_later_epoch(core, holding, &mut field)?;
    let proposal = plan::plan(core, holding, request, field)?;
    let topic = core.fresh_topic(old.wallet, old.epoch);
    let params = plan::params_of(&topic, &proposal).map_err(failed)?;
    consent::unsettled(holding, &params).map_err(QuorumError::OwnRefusal)?;
    let mut info = core.session_info(&topic, SessionKind::Redeal, core.me());
    let participants = params.participants();
    info.signers.clone_from(&participants);
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let link = Link::new(core, topic, inbox, participants);
    let dealers = proposal.dealers.clone();
    let result: Result<_, Failure> = invite(&link, &proposal).and_then(|()| {
        let ceremony = Ceremony { core, link: &link, params, proposal: &proposal, holding: Some(holding) };
        Ok(ceremony.run(Early::new())?.keys)
    });
    match result {
        Ok(keys) => Ok(Done { keys, dealers }),
        Err(failure) => {
            let (Failure::Again(error) | Failure::Over(error)) = &failure;
            tracing::warn!(wallet = holding.name(), %error, "the shares were not dealt again");
            note(core, holding, "failed", error.to_string());
            link.send_all(0, &Message::Refuse(Refusal::Aborted(error.to_string())));
            Err(failure)
        }
    }
}

/// Proposes to all participants and waits for their word. Whoever answered the probe and not this is asked again.
fn invite(link: &Link<'_>, proposal: &Proposal) -> Result<(), Failure> {
    let proposed = Message::Redeal(Box::new(proposal.clone()));
    let answers = link.ask_all(&proposed, "proposing", ACCEPT).map_err(Failure::Over)?;
    if !answers.missing.is_empty() {
        let again = answers.busy || answers.missing.iter().all(|missing| *missing == Missing::silent(missing.member));
        let why = "not all who were there take part".to_owned();
        let error = QuorumError::CannotRedeal { why, missing: MissingList(answers.missing) };
        return Err(if again { Failure::Again(error) } else { Failure::Over(error) });
    }
    link.send_all(0, &Message::Begin);
    Ok(())
}

/// Another member proposes to deal shares again.
pub fn proposed(core: &Arc<Core>, from: MemberId, topic: Topic, proposal: &Proposal) {
    let (params, holding) = match consent::judge(core, &from, &topic, proposal) {
        Ok(judged) => judged,
        Err(refusal) => return core.refuse(&topic, from, refusal),
    };
    let Some(one_at_a_time) = core.reserve(&guard_name(&params.old.wallet)) else {
        let open = core.sessions.list().into_iter().filter(|row| row.wallet == Some(params.old.wallet));
        let open: Vec<_> = open.map(|row| (row.kind, row.state, row.started, row.id.to_string())).collect();
        tracing::info!(wallet = proposal.facts.name, ?open, "a proposal meets another ceremony");
        return core.refuse(&topic, from, Refusal::UnderWay);
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
    match result {
        Ok(Dealt { keys, joined }) => {
            // The next ceremony need not wait until the chain was read.
            drop((link, one_at_a_time));
            if joined {
                join::open(core, &keys);
            }
        }
        Err(error) => {
            tracing::warn!(wallet = name, %error, "the shares were not dealt again");
            if let Some(holding) = &holding {
                note(core, holding, "failed", error.to_string());
            }
            link.send_all(0, &Message::Refuse(Refusal::Failed(error.to_string())));
        }
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
