//! A signature that this member coordinates: who signs, and what happens when somebody does not.
//!
//! Where all inputs are taproot's, members sign in one round and nobody waits for the silent ([`roast`]). Otherwise it
//! takes the first t−1 members that are ready. A member that refuses, fails or vanishes is left out of the next
//! attempt; one that is merely silent is tried again when there is nobody else. Every attempt is a new session with
//! new nonces. A member whose operator must be asked is waited for when nobody else can sign.
//! Ends within the signing timeout, or as soon as fewer than t members are ready, naming who is missing.

mod field;
mod lines;
mod roast;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyless_p2p::cosigners::peer_id_of;
use tss_wallet::sign::{MAX_ECDSA_ITEMS, Verdict};
use tss_wallet::{Epoch, MemberId, PartyIndex, SessionId, SignError, SignParams, Signature, SigningSession};

use self::field::{Candidate, Failure, Fault, Field};
use super::approvals::OPEN_SECONDS;
use super::check::{self, Checked};
use super::coins::TakenCoins;
use super::core::Core;
use super::error::{Missing, MissingList, QuorumError};
use super::holding::{Holding, HoldingError};
use super::judge::{self, Allowed, Asking};
use super::link::{Heard, Link};
use super::participant::{PER_SESSION, members_of, needs_ecdsa, note_failure, post, sign_items};
use super::refusal::Refusal;
use super::sessions::SessionKind;
use super::switching::{self, OtherEpoch};
use super::wire::{CoinChoice, Message, SignRequest, Subject, Topic};
use crate::metrics::metrics;

/// How long an attempt goes on without a message from those it waits for.
const NO_PROGRESS: Duration = Duration::from_millis(1_400);
const NO_PROGRESS_PER_ITEM: Duration = Duration::from_millis(30);
/// How long a member that has no room is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// ECDSA inputs of one ceremony: the largest message stays below a few megabytes.
const CHUNK: usize = if MAX_ECDSA_ITEMS < 100 { MAX_ECDSA_ITEMS } else { 100 };

/// How often members are asked again whether their operators have answered; an answer usually comes by itself.
const ANSWER_POLL: Duration = Duration::from_secs(3);
const OWN_ANSWER_POLL: Duration = Duration::from_millis(250);

/// What else a request says.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The user's own name for this payment, if there is one.
    pub idempotency_key: Option<&'a str>,
    pub coins: CoinChoice,
    /// The wallet has chosen coins several times: whoever says that one is taken is left out.
    pub last_draw: bool,
    /// How long to wait for operators, once one is asked.
    pub approval_seconds: u64,
}

impl Default for Terms<'_> {
    fn default() -> Self {
        let approval_seconds = OPEN_SECONDS;
        Self { idempotency_key: None, coins: CoinChoice::Caller, last_draw: false, approval_seconds }
    }
}

/// Signs a subject with the quorum. Blocks. Gives one signature for each item of the subject, in its order.
pub fn sign(
    core: &Core,
    holding: &Arc<Holding>,
    subject: &Subject,
    terms: Terms<'_>,
) -> Result<Vec<Signature>, QuorumError> {
    let started = Instant::now();
    let result = coordinate(core, holding, subject, terms);
    let what = match &result {
        Ok(_) => "signed",
        Err(QuorumError::OwnRefusal(_)) => "refused",
        Err(QuorumError::NotEnough { .. }) => "not enough members",
        Err(QuorumError::TimedOut { .. } | QuorumError::NotApproved { .. }) => "timed out",
        Err(_) => "failed",
    };
    metrics().signing(what, started.elapsed());
    result
}

fn coordinate(
    core: &Core,
    holding: &Arc<Holding>,
    subject: &Subject,
    terms: Terms<'_>,
) -> Result<Vec<Signature>, QuorumError> {
    if let Some(refusal) = holding.own_refusal(&core.me()) {
        return Err(QuorumError::OwnRefusal(refusal));
    }
    let started = Instant::now();
    let mut signatures = Vec::new();
    for part in parts(subject) {
        let marks = holding.marks();
        let checked = check::check(judge::own(core, holding, &marks), &part, terms.idempotency_key)
            .map_err(QuorumError::OwnRefusal)?;
        signatures.extend(switching::across(core, holding, |holding, other_epoch| {
            let request = Request {
                core,
                holding,
                subject: part.clone(),
                checked: checked.clone(),
                terms,
                deadline: Cell::new(started + core.signing_timeout),
                answers_by: started + Duration::from_secs(terms.approval_seconds),
                agreed: RefCell::new(BTreeSet::from([holding.me()])),
                other_epoch,
            };
            request.run()
        })?);
    }
    let wallet = holding.name();
    tracing::info!(wallet, signatures = signatures.len(), ms = started.elapsed().as_millis(), "signed by the quorum");
    Ok(signatures)
}

/// A transaction of very many inputs is signed in several ceremonies.
fn parts(subject: &Subject) -> Vec<Subject> {
    match subject {
        Subject::Transaction { psbt, inputs, change, .. } if inputs.len() > CHUNK => (0..inputs.len())
            .step_by(CHUNK)
            .map(|first| Subject::Transaction {
                psbt: psbt.clone(),
                inputs: inputs.clone(),
                change: change.clone(),
                // A transaction has fewer inputs than u32 counts.
                first: first as u32,
                count: CHUNK.min(inputs.len() - first) as u32,
            })
            .collect(),
        other => vec![other.clone()],
    }
}

struct Request<'a> {
    core: &'a Core,
    holding: &'a Holding,
    subject: Subject,
    checked: Checked,
    terms: Terms<'a>,
    /// Moved on when an operator has answered.
    deadline: Cell<Instant>,
    answers_by: Instant,
    agreed: RefCell<BTreeSet<PartyIndex>>,
    other_epoch: &'a OtherEpoch,
}

impl Request<'_> {
    fn run(&self) -> Result<Vec<Signature>, QuorumError> {
        let mut coins = match (self.terms.coins, self.checked.txid) {
            (CoinChoice::Wallet, Some(txid)) => {
                let taken = self.holding.take_coins(self.core.me(), txid, &self.checked.inputs);
                Some(taken.map_err(|refusal| self.coin_taken(refusal))?)
            }
            _ => None,
        };
        let named = self.checked.named.as_ref();
        let before = named.and_then(|(name, _)| self.holding.payment(name));
        let storage = |error: HoldingError| QuorumError::Storage(error.to_string());
        if let Some((name, txid)) = named
            && !self.holding.remember_payment(name, *txid, &self.checked.inputs).map_err(storage)?
        {
            return Err(QuorumError::OwnRefusal(Refusal::OtherTransaction));
        }
        let allowed = self.own_decision()?;
        let result = self.rounds(&allowed);
        if result.is_ok() {
            coins.iter_mut().for_each(TakenCoins::signed);
        }
        // Other coins will do, if this node's share has not left for these.
        if let (Some((name, txid)), Err(QuorumError::CoinTaken(_))) = (named, &result) {
            self.holding.forget_payment(name, *txid, before.as_ref()).map_err(storage)?;
        }
        result
    }

    /// Attempts with one set of signers after the other.
    fn rounds(&self, allowed: &Allowed) -> Result<Vec<Signature>, QuorumError> {
        let mut field = Field::default();
        let one_round = !needs_ecdsa(&sign_items(&self.checked));
        loop {
            let tried =
                if one_round { self.roast(&mut field, allowed).map(Some) } else { self.one_set(&mut field, allowed) };
            match tried {
                Ok(Some(signatures)) => return Ok(signatures),
                Ok(None) => {}
                Err(error) if field.asks() => self.wait_for_answers(&mut field, error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// One attempt with the signers of now; none if others are to be tried.
    fn one_set(&self, field: &mut Field, allowed: &Allowed) -> Result<Option<Vec<Signature>>, QuorumError> {
        let partners = self.choose(field)?;
        if Instant::now() >= self.deadline.get() {
            return Err(self.timed_out(field));
        }
        match self.attempt(&partners, allowed) {
            Ok(signatures) => return Ok(Some(signatures)),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Pair(one, other)) => field.apart(one, other),
            Err(Failure::Set(why)) => {
                tracing::warn!(wallet = self.holding.name(), why, "attempt failed; trying other signers");
                field.set_failed(partners);
            }
            Err(Failure::Silence(why)) => {
                tracing::warn!(wallet = self.holding.name(), why, "attempt failed; trying other signers first");
                field.set_silent(partners);
            }
            Err(Failure::Members(members)) => {
                if members.iter().any(|(_, fault)| *fault == Fault::Busy) {
                    std::thread::sleep(BUSY_PAUSE);
                }
                for (missing, fault) in members {
                    tracing::warn!(wallet = self.holding.name(), %missing, "signer replaced");
                    field.out.insert(missing.member, (missing, fault));
                }
            }
        }
        Ok(None)
    }

    fn coin_taken(&self, refusal: Refusal) -> QuorumError {
        let coin = match refusal {
            Refusal::CoinTaken(input) => self.checked.inputs.get(input as usize),
            _ => None,
        };
        coin.map_or(QuorumError::OwnRefusal(refusal), |coin| QuorumError::CoinTaken(*coin))
    }

    /// This node's own yes; waits for its operator where the policy says so.
    fn own_decision(&self) -> Result<Allowed, QuorumError> {
        loop {
            match judge::decide(self.core, self.holding, &self.asking(None), &self.checked) {
                Ok(allowed) => return Ok(allowed),
                Err(Refusal::NeedsApproval) => {
                    let me = Missing::refused(self.core.me(), &Refusal::NeedsApproval);
                    let missing = MissingList(vec![me]);
                    self.wait(OWN_ANSWER_POLL, [self.core.me()], &missing)?;
                }
                Err(refusal) => return Err(QuorumError::OwnRefusal(refusal)),
            }
        }
    }

    fn asking(&self, session: Option<SessionId>) -> Asking {
        Asking {
            coordinator: self.core.me(),
            session,
            agreed: self.agreed.borrow().iter().copied().collect(),
            approval_seconds: self.answers_by.saturating_duration_since(Instant::now()).as_secs(),
        }
    }

    /// Nobody else can sign: waits until an operator may have answered, and forgets who was waited for.
    fn wait_for_answers(&self, field: &mut Field, error: QuorumError) -> Result<(), QuorumError> {
        let QuorumError::NotEnough { missing, .. } = error else { return Err(error) };
        let asked: Vec<MemberId> =
            field.out.iter().filter(|(_, (_, fault))| *fault == Fault::Asked).map(|(member, _)| *member).collect();
        self.wait(ANSWER_POLL, asked, &missing)?;
        field.again();
        Ok(())
    }

    /// One wait in a session of the request's own name, in which members say that their operators have answered.
    fn wait(
        &self,
        poll: Duration,
        asked: impl IntoIterator<Item = MemberId>,
        missing: &MissingList,
    ) -> Result<(), QuorumError> {
        let Self { core, holding, .. } = *self;
        let now = Instant::now();
        if now >= self.answers_by {
            let seconds = self.terms.approval_seconds;
            return Err(QuorumError::NotApproved { seconds, missing: missing.clone() });
        }
        let topic =
            Topic { wallet: holding.wallet(), epoch: holding.epoch(), session: SessionId(self.checked.request) };
        let mut info = core.session_info(&topic, self.kind(), core.me());
        info.txid = self.checked.txid;
        info.expires = info.started.saturating_add(self.answers_by.saturating_duration_since(now).as_secs());
        let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
        let link = Link::new(core, topic, inbox, holding.others());
        link.note("waiting for approval", asked);
        let until = self.answers_by.min(now + poll);
        let stopped = loop {
            match link.next(until) {
                Heard::Message(_, Message::Answered) | Heard::Deadline => break false,
                Heard::Stop => break true,
                Heard::Message(..) | Heard::Down(_) => {}
            }
        };
        self.deadline.set(Instant::now() + core.signing_timeout);
        if stopped { Err(QuorumError::Stopped) } else { Ok(()) }
    }

    fn kind(&self) -> SessionKind {
        match self.subject {
            Subject::Transaction { .. } => SessionKind::Transaction,
            Subject::Message { .. } => SessionKind::Message,
        }
    }

    fn timed_out(&self, field: &Field) -> QuorumError {
        let missing = MissingList(field.out.values().map(|(missing, _)| missing.clone()).collect());
        QuorumError::TimedOut { seconds: self.core.signing_timeout.as_secs(), missing }
    }

    /// Members that may be asked, and those that may not, with the reason.
    fn candidates(&self, field: &Field, banned: &[MemberId]) -> (Vec<Candidate>, Vec<Missing>) {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut missing = Vec::new();
        for member in self.holding.others() {
            if banned.contains(&member) {
                missing.push(Missing { member, why: "excluded after a failed check".to_owned() });
                continue;
            }
            if self.holding.suspended().contains(&member) {
                missing.push(Missing { member, why: "suspended here".to_owned() });
                continue;
            }
            let status = self.core.carrier().peer(&peer_id_of(member.0));
            if !self.core.is_online(&member) {
                missing.push(Missing::unreachable(self.core, member));
                continue;
            }
            if let Some((known, _)) = field.out.get(&member).filter(|(_, fault)| !fault.passes()) {
                missing.push(known.clone());
                continue;
            }
            let latency = status.and_then(|status| status.latency).unwrap_or(Duration::MAX);
            candidates.push(Candidate { member, suspect: self.core.is_suspect(&member), latency });
        }
        (candidates, missing)
    }

    /// The fastest t−1 members that are ready, in roster order.
    fn choose(&self, field: &Field) -> Result<Vec<MemberId>, QuorumError> {
        let banned = members_of(self.holding, &Vec::from_iter(self.holding.bans()));
        let needed = usize::from(self.holding.threshold()) - 1;
        let (candidates, mut missing) = self.candidates(field, &banned);
        if let Some(set) = field.next(candidates.clone(), needed, &self.core.me()) {
            return Ok(set);
        }
        if candidates.len() >= needed {
            missing.extend(candidates.iter().map(|candidate| match field.out.get(&candidate.member) {
                Some((known, _)) => known.clone(),
                None => Missing { member: candidate.member, why: "the signature failed with it".to_owned() },
            }));
        }
        let ready = candidates.len().min(needed);
        Err(QuorumError::NotEnough { what: "sign", needed, ready, missing: MissingList(missing) })
    }

    /// Fewer than t−1 of the others are left.
    fn not_enough(&self, field: &Field) -> QuorumError {
        let needed = usize::from(self.holding.threshold()) - 1;
        let (candidates, mut missing) = self.candidates(field, &[]);
        let known = candidates.iter().filter_map(|candidate| field.out.get(&candidate.member));
        missing.extend(known.map(|(missing, _)| missing.clone()));
        let ready = candidates.len().min(needed);
        QuorumError::NotEnough { what: "sign", needed, ready, missing: MissingList(missing) }
    }

    /// What the signers of an attempt are asked, but for nonces.
    fn sign_request(&self, session: SessionId, signers: &[PartyIndex], patience: Duration) -> SignRequest {
        let asking = self.asking(Some(session));
        SignRequest {
            approval_seconds: u32::try_from(asking.approval_seconds).unwrap_or(u32::MAX),
            agreed: asking.agreed.iter().map(|party| party.get()).collect(),
            idempotency_key: self.terms.idempotency_key.map(str::to_owned),
            coins: self.terms.coins,
            signers: signers.iter().map(|party| party.get()).collect(),
            nonces: Vec::new(),
            subject: self.subject.clone(),
            patience_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// One session with these partners.
    fn attempt(&self, partners: &[MemberId], allowed: &Allowed) -> Result<Vec<Signature>, Failure> {
        let Self { core, holding, .. } = *self;
        let topic = core.fresh_topic(holding.wallet(), holding.epoch());
        let mut signers: Vec<PartyIndex> = partners.iter().filter_map(|member| holding.index_of(member)).collect();
        signers.push(holding.me());
        signers.sort_unstable();
        let mut info = core.session_info(&topic, self.kind(), core.me());
        info.signers = members_of(holding, &signers);
        info.txid = self.checked.txid;
        let inbox = core.sessions.open(info).map_err(|_| Failure::Final(QuorumError::Busy))?;
        let link = Link::new(core, topic, inbox, partners.iter().copied());
        let result = self.drive(&link, &topic, signers, allowed);
        if result.is_err() {
            link.send_all(0, &Message::Refuse(Refusal::Aborted("the attempt failed".to_owned())));
        }
        result
    }

    fn drive(
        &self,
        link: &Link<'_>,
        topic: &Topic,
        signers: Vec<PartyIndex>,
        allowed: &Allowed,
    ) -> Result<Vec<Signature>, Failure> {
        let Self { core, holding, .. } = *self;
        let items = sign_items(&self.checked);
        let patience = self.deadline.get().saturating_duration_since(Instant::now());
        let asking = self.asking(Some(topic.session));
        let request = Message::Sign(self.sign_request(topic.session, &signers, patience));
        gone(core, link.send_all(0, &request))?;
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX).min(2_000);
        let pause = || NO_PROGRESS + NO_PROGRESS_PER_ITEM * count + PER_SESSION * core.sessions.others_open();
        let params = SignParams { session: topic.session, signers, items, banned: holding.bans() };
        let share = holding.share().ok_or(Failure::Final(QuorumError::Locked))?;
        let (mut session, outgoing) =
            SigningSession::start(share, &params, &core.fresh_seed()).map_err(|error| self.fault(link, &error))?;
        gone(core, post(link, holding, outgoing))?;
        judge::settle(holding).map_err(own_refusal)?;
        let mut heard_at = Instant::now();
        let mut stuck: BTreeMap<MemberId, Vec<MemberId>> = BTreeMap::new();
        loop {
            if let Some(signatures) = session.finished() {
                judge::signed(core, holding, &asking, &self.checked, &signatures);
                return Ok(signatures);
            }
            let waiting = members_of(holding, &session.waiting_for());
            link.note("signing", waiting.iter().copied());
            let silence_ends = (heard_at + pause()).min(self.deadline.get());
            match link.next(silence_ends) {
                Heard::Message(from, Message::Protocol(bodies)) => {
                    let Some(index) = holding.index_of(&from) else { continue };
                    self.agreed.borrow_mut().insert(index);
                    for body in bodies {
                        match session.receive(index, &body.0) {
                            Ok(outgoing) => {
                                if session.gives_share() {
                                    judge::release(core, holding, allowed, &self.checked).map_err(own_refusal)?;
                                }
                                gone(core, post(link, holding, outgoing))?;
                            }
                            Err(error) if error.verdict() == Verdict::Dropped => {
                                tracing::warn!(session = %topic.session, %from, %error, "message dropped");
                            }
                            Err(error) => return Err(self.fault(link, &error)),
                        }
                    }
                    stuck.clear();
                    heard_at = Instant::now();
                }
                Heard::Message(from, Message::Refuse(Refusal::Excluded(other))) => {
                    let other = u8::try_from(other).ok().and_then(|index| PartyIndex::new(index).ok());
                    let member = other.and_then(|party| holding.public().roster.member(party).copied());
                    return Err(match member {
                        Some(member) => Failure::Pair(from, member),
                        None => refused(from, &Refusal::Malformed("refusal".to_owned())),
                    });
                }
                Heard::Message(from, Message::Refuse(Refusal::Failed(why))) if link.others().len() > 1 => {
                    return Err(Failure::Set(format!("{from}: {why}")));
                }
                Heard::Message(_, Message::Refuse(refusal @ Refusal::CoinTaken(_))) if !self.terms.last_draw => {
                    return Err(Failure::Final(self.coin_taken(refusal)));
                }
                Heard::Message(from, Message::Refuse(refusal)) => {
                    if let Refusal::OtherEpoch(theirs) = refusal {
                        holding.heard_of_epoch(Epoch(theirs));
                        self.other_epoch.note();
                    }
                    return Err(refused(from, &refusal));
                }
                Heard::Message(from, Message::Stuck(members)) => {
                    let vanished =
                        members.iter().find(|member| link.others().contains(member) && !core.is_online(member));
                    if let Some(member) = vanished {
                        return Err(Failure::Members(vec![(Missing::unreachable(core, *member), Fault::Gone)]));
                    }
                    stuck.insert(from, members);
                }
                Heard::Message(..) => {}
                Heard::Down(member) => {
                    return Err(Failure::Members(vec![(Missing::unreachable(core, member), Fault::Gone)]));
                }
                Heard::Stop => return Err(Failure::Final(QuorumError::Stopped)),
                // More sessions than before: all of them are slower.
                Heard::Deadline if Instant::now() < (heard_at + pause()).min(self.deadline.get()) => {}
                Heard::Deadline => return Err(silent(core, &waiting, &stuck)),
            }
        }
    }

    fn fault(&self, link: &Link<'_>, error: &SignError) -> Failure {
        note_failure(self.core, self.holding, link.topic().session, error, || link.evidence());
        let culprit = error.culprit().and_then(|party| self.holding.public().roster.member(party).copied());
        Failure::of(error, culprit, self.core.me())
    }
}

fn refused(from: MemberId, refusal: &Refusal) -> Failure {
    let fault = match refusal {
        Refusal::NeedsApproval => Fault::Asked,
        Refusal::Busy => Fault::Busy,
        _ => Fault::Refused,
    };
    Failure::Members(vec![(Missing::refused(from, refusal), fault)])
}

fn own_refusal(refusal: Refusal) -> Failure {
    Failure::Final(QuorumError::OwnRefusal(refusal))
}

fn gone(core: &Core, unreachable: BTreeSet<MemberId>) -> Result<(), Failure> {
    if unreachable.is_empty() {
        return Ok(());
    }
    let missing = unreachable.into_iter().map(|member| (Missing::unreachable(core, member), Fault::Gone));
    Err(Failure::Members(missing.collect()))
}

/// Those who said nothing. A member that reported whom it waits for is not to blame; where all did, nobody can be named.
fn silent(core: &Core, waiting: &[MemberId], stuck: &BTreeMap<MemberId, Vec<MemberId>>) -> Failure {
    let silent: Vec<MemberId> = waiting.iter().filter(|member| !stuck.contains_key(member)).copied().collect();
    if silent.is_empty() && waiting.len() > 1 {
        return Failure::Silence("the signers wait for each other".to_owned());
    }
    let silent = if silent.is_empty() { waiting.to_vec() } else { silent };
    let missing = silent.into_iter().map(|member| {
        core.suspect(member);
        (Missing::silent(member), Fault::Silent)
    });
    Failure::Members(missing.collect())
}
