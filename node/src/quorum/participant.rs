//! A member's part in a signature that another one coordinates.
//!
//! Checks the request by itself ([`super::check`]), then runs the protocol until it is through, or until the
//! coordinator, the deadline or a failed check ends it. What it refuses, it refuses by name.

pub(super) mod one_round;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_wallet::sign::Verdict;
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{
    KeyShare, MemberId, Outgoing, PartyIndex, SessionId, SignError, SignItem, SignParams, SigningSession,
};

use super::blame::{self, Accusation};
use super::check::{self, Checked};
use super::core::Core;
use super::core::incoming::Opening;
use super::error::peer_name;
use super::fence;
use super::holding::Holding;
use super::judge::{self, Allowed, Asking};
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::{OpenError, SessionKind};
use super::sharing;
use super::wire::{CoinChoice, Message, SignRequest, Subject, Topic};
use crate::metrics::metrics;

/// How long a participant waits for others before it tells the coordinator that it is stuck.
const STUCK_AFTER: Duration = Duration::from_millis(900);
/// More for each item: they are computed one after the other.
const STUCK_PER_ITEM: Duration = Duration::from_millis(20);
/// More for each other session of this member: they share its processors.
pub(super) const PER_SESSION: Duration = Duration::from_millis(15);
/// Longest a coordinator may ask for.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn needs_ecdsa(items: &[SignItem]) -> bool {
    items.iter().any(|item| item.key.chain.address_type != AddressType::Bech32m)
}

pub(super) fn sign_items(checked: &Checked) -> Vec<SignItem> {
    checked.items.iter().map(|item| SignItem { key: item.key.id, message: item.message }).collect()
}

/// Sends what a machine wants sent. Answers with those who cannot be reached.
pub(super) fn post(link: &Link<'_>, holding: &Holding, outgoing: Vec<Outgoing>) -> BTreeSet<MemberId> {
    link.post(&outgoing, |member| holding.index_of(member))
}

/// A request as it came.
pub(super) struct Asked {
    pub request: SignRequest,
    /// Signed by its coordinator.
    pub envelope: Vec<u8>,
    pub slot: Opening,
}

/// Another member asks for this one's part.
pub(super) fn asked(core: &Arc<Core>, from: MemberId, topic: Topic, asked: Asked) {
    let holding = match core.holding(&topic.wallet) {
        Some(holding) if holding.index_of(&from).is_some() => holding,
        _ => return core.refuse(&topic, from, Refusal::UnknownWallet),
    };
    let result = take_part(core, &holding, from, topic, asked);
    metrics().decision(match &result {
        Ok(()) => "sign",
        Err(Refusal::NeedsApproval) => "ask",
        Err(_) => "refuse",
    });
    if let Err(refusal) = result {
        core.refuse(&topic, from, refusal);
    }
}

fn signers_of(holding: &Holding, from: &MemberId, raw: &[u8]) -> Result<Vec<PartyIndex>, Refusal> {
    let signers = raw
        .iter()
        .map(|index| PartyIndex::new(*index).ok().filter(|party| holding.public().roster.contains(*party)))
        .collect::<Option<Vec<PartyIndex>>>()
        .ok_or_else(|| Refusal::Malformed("a signer outside the roster".to_owned()))?;
    let ascending = signers.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || signers.len() != usize::from(holding.threshold()) {
        return Err(Refusal::Malformed("the set of signers".to_owned()));
    }
    let coordinator = holding.index_of(from);
    if !signers.contains(&holding.me()) || !coordinator.is_some_and(|index| signers.contains(&index)) {
        return Err(Refusal::NotASigner);
    }
    Ok(signers)
}

/// The share of the epoch that is spoken of, if it may be used at all.
fn ready_share(holding: &Holding, topic: &Topic) -> Result<Arc<KeyShare>, Refusal> {
    if holding.epoch() != topic.epoch {
        return Err(Refusal::OtherEpoch(holding.epoch().0));
    }
    let share = holding.share().ok_or(Refusal::Locked)?;
    if holding.is_unconfirmed() {
        return Err(Refusal::Restored);
    }
    if holding.is_fenced() {
        return Err(Refusal::Fenced);
    }
    Ok(share)
}

fn take_part(core: &Core, holding: &Holding, from: MemberId, topic: Topic, asked: Asked) -> Result<(), Refusal> {
    let Asked { request, envelope, slot } = asked;
    ready_share(holding, &topic)?;
    let signers = signers_of(holding, &from, &request.signers)?;
    let suspended = holding.suspended();
    if let Some(member) = members_of(holding, &signers).iter().find(|member| suspended.contains(member)) {
        return Err(Refusal::Suspended(peer_name(member)));
    }
    let key = request.idempotency_key.as_deref();
    let marks = holding.marks();
    let checked = check::check(judge::own(core, holding, &marks), &request.subject, key)?;
    let items = sign_items(&checked);
    let banned = holding.bans();
    if needs_ecdsa(&items)
        && let Some(party) = signers.iter().find(|party| banned.contains(party))
    {
        return Err(Refusal::Excluded(u16::from(party.get())));
    }
    let mut coins = match (request.coins, checked.txid) {
        (CoinChoice::Wallet, Some(txid)) => {
            if let Some(refusal) = sharing::refuse_spent(core, holding, from, &checked.inputs) {
                return Err(refusal);
            }
            Some(holding.take_coins(from, txid, &checked.inputs)?)
        }
        _ => None,
    };
    let before = key.and_then(|key| holding.payment(key));
    // What cannot be signed for its coins leaves the payment of that name as it is known.
    if let Some((name, txid)) = &checked.named
        && !holding
            .remember_payment(name, *txid, &checked.inputs)
            .map_err(|error| Refusal::Storage(error.to_string()))?
    {
        return Err(Refusal::OtherTransaction);
    }
    let kind = match request.subject {
        Subject::Transaction { .. } => SessionKind::Transaction,
        Subject::Message { .. } => SessionKind::Message,
    };
    let members: Vec<MemberId> =
        signers.iter().filter_map(|party| holding.public().roster.member(*party).copied()).collect();
    let mut info = core.session_info(&topic, kind, from);
    info.signers.clone_from(&members);
    info.txid = checked.txid;
    let inbox = match core.sessions.open(info) {
        Ok(inbox) => inbox,
        // The carrier brought the same request twice.
        Err(OpenError::Twice) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    drop(slot);
    let link = Link::new(core, topic, inbox, members);
    let asking = Asking {
        coordinator: from,
        session: Some(topic.session),
        agreed: request.agreed.iter().filter_map(|index| PartyIndex::new(*index).ok()).collect(),
        approval_seconds: u64::from(request.approval_seconds),
    };
    let allowed = judge::decide(core, holding, &asking, &checked)?;
    let params = SignParams { session: topic.session, signers, items, banned };
    let patience = Duration::from_millis(u64::from(request.patience_ms)).min(MAX_PATIENCE);
    let part = Part { core, holding, link: &link, asking: &asking, allowed: &allowed, checked: &checked };
    let signed = if request.nonces.is_empty() {
        run(part, &params, patience)?
    } else {
        one_round::give(part, &params, &request, &envelope, patience)?
    };
    if let Some(coins) = coins.as_mut().filter(|_| signed) {
        coins.signed();
    }
    if let Some((name, txid)) = &checked.named {
        let forgotten = holding.forget_payment(name, *txid, before.as_ref());
        forgotten.map_err(|error| Refusal::Storage(error.to_string()))?;
    }
    Ok(())
}

/// What one member does in one attempt.
#[derive(Clone, Copy)]
struct Part<'a> {
    core: &'a Core,
    holding: &'a Holding,
    link: &'a Link<'a>,
    asking: &'a Asking,
    allowed: &'a Allowed,
    checked: &'a Checked,
}

/// True if this member did its whole part.
fn run(part: Part<'_>, params: &SignParams, patience: Duration) -> Result<bool, Refusal> {
    let Part { core, holding, link, asking, allowed, checked } = part;
    let coordinator = asking.coordinator;
    let deadline = Instant::now() + patience;
    let items = u32::try_from(params.items.len()).unwrap_or(u32::MAX).min(2_000);
    let stuck_after = STUCK_AFTER + STUCK_PER_ITEM * items + PER_SESSION * core.sessions.others_open();
    let share = holding.share().ok_or(Refusal::Locked)?;
    let started = SigningSession::start(share, params, &core.fresh_seed());
    let (mut session, outgoing) = started.map_err(|error| failed(core, holding, link, &error))?;
    post(link, holding, outgoing);
    judge::settle(holding)?;
    let mut told = false;
    let mut next_deadline = (Instant::now() + stuck_after).min(deadline);
    let signatures = loop {
        if let Some(signatures) = session.finished() {
            break signatures;
        }
        let waiting: Vec<MemberId> = members_of(holding, &session.waiting_for());
        link.note("signing", waiting.iter().copied());
        match link.next(next_deadline) {
            Heard::Message(from, Message::Protocol(bodies)) => {
                let Some(index) = holding.index_of(&from) else { continue };
                for body in bodies {
                    match session.receive(index, &body.0) {
                        Ok(outgoing) => {
                            if session.gives_share() {
                                judge::release(core, holding, allowed, checked)?;
                            }
                            post(link, holding, outgoing);
                        }
                        Err(error) if error.verdict() == Verdict::Dropped => {
                            tracing::warn!(session = %link.topic().session, %from, %error, "message dropped");
                        }
                        Err(error) => return Err(failed(core, holding, link, &error)),
                    }
                }
                told = false;
                next_deadline = (Instant::now() + stuck_after).min(deadline);
            }
            // Only the coordinator decides that an attempt is over; what others report, it hears itself.
            Heard::Message(from, Message::Refuse(reason)) if from == coordinator => {
                tracing::info!(session = %link.topic().session, %reason, "the coordinator ended the attempt");
                return Ok(false);
            }
            Heard::Message(..) => {}
            Heard::Down(member) if member == coordinator => {
                tracing::info!(session = %link.topic().session, "the coordinator is gone; attempt dropped");
                return Ok(false);
            }
            Heard::Down(member) => {
                link.send(coordinator, 0, &Message::Stuck(vec![member]));
            }
            Heard::Stop => return Err(Refusal::Aborted("stopped by its operator".to_owned())),
            Heard::Deadline if Instant::now() >= deadline => return Ok(false),
            Heard::Deadline => {
                if !told {
                    link.send(coordinator, 0, &Message::Stuck(waiting));
                    told = true;
                }
                next_deadline = deadline;
            }
        }
    };
    judge::signed(core, holding, asking, checked, &signatures);
    tracing::info!(session = %link.topic().session, wallet = holding.name(), items = params.items.len(), "signed");
    Ok(true)
}

pub(super) fn members_of(holding: &Holding, parties: &[PartyIndex]) -> Vec<MemberId> {
    parties.iter().filter_map(|party| holding.public().roster.member(*party).copied()).collect()
}

/// Writes a ban down before anything else leaves, then names the reason.
fn failed(core: &Core, holding: &Holding, link: &Link<'_>, error: &SignError) -> Refusal {
    note_failure(core, holding, link.topic().session, error, || link.evidence());
    match (error.verdict(), error.culprit()) {
        (Verdict::Ban, Some(party)) => Refusal::Excluded(u16::from(party.get())),
        _ => Refusal::Failed(error.to_string()),
    }
}

/// Logs a failure with its culprit; a ban is durable when this returns.
pub(super) fn note_failure(
    core: &Core,
    holding: &Holding,
    session: SessionId,
    error: &SignError,
    evidence: impl FnOnce() -> Vec<Vec<u8>>,
) {
    tracing::warn!(%session, wallet = holding.name(), culprit = ?error.culprit(), %error, "signing failed");
    if error.verdict() == Verdict::Ban
        && let Some(party) = error.culprit()
        && let Err(error) = holding.ban(party, error.to_string(), core.chain.now())
    {
        tracing::error!(%session, %error, "a ban could not be stored; it holds until restart alone");
    }
    if error.verdict() == Verdict::Ban {
        fence::announce(core, holding);
    }
    let member = error.culprit().and_then(|party| holding.public().roster.member(party).copied());
    let Some((kind, member)) = blame::kind_of(error).zip(member) else { return };
    let evidence = if error.verdict() == Verdict::Ban { Vec::new() } else { evidence() };
    let (reason, time) = (error.to_string(), core.chain.now());
    let accusation = Accusation { member, kind: kind.to_owned(), session, time, reason, evidence };
    if let Err(error) = blame::accuse(holding, &accusation) {
        tracing::error!(%session, %error, "an accusation could not be stored");
    }
}
