//! Taproot signatures in one round, from whoever answers first: the coordinator's side of
//! [`Roast`](tss_wallet::sign::Roast).
//!
//! Commitments come from the stock that members keep filled with their answers; whoever has none is asked, and whoever
//! answers is known to respond. One attempt is under way while it may still end soon. Once it cannot, or has not within a
//! short while, another one begins beside it, as soon as enough members respond. Nobody waits for the silent, who are
//! asked again last, and blamed never.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tss_wallet::sign::{Commitment, Roast, Verdict};
use tss_wallet::{Epoch, MemberId, PartyIndex, SessionId, SignError, Signature};

use super::super::error::{Missing, QuorumError};
use super::super::judge::{self, Allowed};
use super::super::participant::{PER_SESSION, members_of, note_failure, sign_items};
use super::super::refusal::Refusal;
use super::super::sessions::SessionInfo;
use super::super::wire::{Blob, Message, SignRequest, SignerNonces, Topic};
use super::field::{Fault, Field};
use super::lines::{Heard, Lines};
use super::{BUSY_PAUSE, NO_PROGRESS, NO_PROGRESS_PER_ITEM, Request};

/// How long an attempt is left alone before another one begins beside it.
const HEDGE: Duration = Duration::from_millis(400);
const HEDGE_PER_ITEM: Duration = Duration::from_millis(10);
/// How often a member may not know its own nonces (it has started anew, or had too many) in one request.
const MAX_UNKNOWN: u32 = 3;

/// An attempt under way.
struct Begun {
    session: SessionId,
    at: Instant,
}

struct Run<'a> {
    request: &'a Request<'a>,
    allowed: &'a Allowed,
    machine: Roast,
    lines: Lines<'a>,
    /// Of the request: commitments are asked for in it, and the first attempt is made in it.
    home: SessionId,
    attempts: Vec<Begun>,
    /// Asked for commitments, and have not answered.
    asked: BTreeMap<MemberId, Instant>,
    /// Have no room now.
    later: BTreeMap<MemberId, Instant>,
    unknown: BTreeMap<MemberId, u32>,
    /// The home session has been an attempt's.
    used: bool,
    /// When to look again for room for another session.
    full_until: Option<Instant>,
}

impl Request<'_> {
    /// Signs with whoever answers first. An error of too few members may pass once operators have answered.
    pub(super) fn roast(&self, field: &mut Field, allowed: &Allowed) -> Result<Vec<Signature>, QuorumError> {
        let share = self.holding.share().ok_or(QuorumError::Locked)?;
        let internal = |error: SignError| QuorumError::Internal(error.to_string());
        let machine = Roast::new(share, sign_items(&self.checked)).map_err(internal)?;
        let home = self.core.fresh_session();
        let lines = Lines::new(self.core, self.holding, self.info(home)).map_err(|_| QuorumError::Busy)?;
        let mut run = Run {
            request: self,
            allowed,
            machine,
            lines,
            home,
            attempts: Vec::new(),
            asked: BTreeMap::new(),
            later: BTreeMap::new(),
            unknown: BTreeMap::new(),
            used: false,
            full_until: None,
        };
        let result = run.drive(field);
        run.end(result)
    }

    fn info(&self, session: SessionId) -> SessionInfo {
        let topic = Topic { wallet: self.holding.wallet(), epoch: self.holding.epoch(), session };
        let mut info = self.core.session_info(&topic, self.kind(), self.core.me());
        info.txid = self.checked.txid;
        info
    }
}

impl Run<'_> {
    /// Gives the signatures with the session that they were made in.
    fn drive(&mut self, field: &mut Field) -> Result<(SessionId, Vec<Signature>), QuorumError> {
        loop {
            let now = Instant::now();
            if now >= self.request.deadline.get() {
                return Err(self.request.timed_out(field));
            }
            self.tire_of(now, field);
            if self.is_due(now) {
                let order = self.fill(now, field)?;
                self.begin(now, &order, field)?;
            }
            if self.is_hopeless() {
                return Err(self.request.not_enough(field));
            }
            match self.lines.next(self.wake(now)) {
                Heard::Message(session, from, message) => {
                    if let Some(signatures) = self.hear(session, from, *message, field)? {
                        return Ok((session, signatures));
                    }
                }
                Heard::Down(member) => self.gone(member, field),
                Heard::Stop => return Err(QuorumError::Stopped),
                Heard::Deadline => {}
            }
        }
    }

    /// What it has answered is none the worse for it.
    fn gone(&mut self, member: MemberId, field: &mut Field) {
        let Some(party) = self.request.holding.index_of(&member) else { return };
        if self.asked.contains_key(&member) || !self.machine.wants(party) {
            self.leave_out(member, Missing::unreachable(self.request.core, member), Fault::Gone, field);
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.request.checked.items.len()).unwrap_or(u32::MAX).min(2_000)
    }

    /// All sessions of this member share its processors. Another attempt of this request makes none of them longer.
    fn grown(&self, base: Duration, per_item: Duration) -> Duration {
        let own = u32::try_from(self.lines.count().saturating_sub(1)).unwrap_or(u32::MAX);
        let others = self.request.core.sessions.others_open().saturating_sub(own);
        base + per_item * self.count() + PER_SESSION * others
    }

    fn hedge(&self) -> Duration {
        self.grown(HEDGE, HEDGE_PER_ITEM)
    }

    fn pause(&self) -> Duration {
        self.grown(NO_PROGRESS, NO_PROGRESS_PER_ITEM)
    }

    /// Whether another attempt may begin: none under way will end soon.
    fn is_due(&self, now: Instant) -> bool {
        let hedge = self.hedge();
        self.full_until.is_none()
            && !self.attempts.iter().any(|begun| now < begun.at + hedge && self.machine.can_finish(begun.session))
    }

    /// Nothing is under way that could end in signatures, and nobody is left to ask.
    fn is_hopeless(&self) -> bool {
        let waits = |begun: &Begun| {
            self.machine.can_finish(begun.session) || !self.machine.waiting_for(begun.session).is_empty()
        };
        let rests = self.asked.is_empty() && self.later.is_empty() && self.full_until.is_none();
        rests && !self.attempts.iter().any(waits)
    }

    /// When something is to be done though nobody speaks.
    fn wake(&self, now: Instant) -> Instant {
        let (hedge, pause) = (self.hedge(), self.pause());
        let attempts = self.attempts.iter().flat_map(|begun| [begun.at + hedge, begun.at + pause]);
        let asked = self.asked.values().map(|at| *at + pause);
        let later = self.later.values().copied().chain(self.full_until);
        let all = attempts.chain(asked).chain(later).filter(|at| *at > now);
        all.fold(self.request.deadline.get(), Instant::min)
    }

    fn members(&self, parties: &[PartyIndex]) -> Vec<MemberId> {
        members_of(self.request.holding, parties)
    }

    /// Who has been silent for too long is left, to be asked again when there is nobody else.
    fn tire_of(&mut self, now: Instant, field: &mut Field) {
        let pause = self.pause();
        let mut silent: Vec<MemberId> = Vec::new();
        for begun in std::mem::take(&mut self.attempts) {
            if now < begun.at + pause {
                self.attempts.push(begun);
                continue;
            }
            silent.extend(self.members(&self.machine.waiting_for(begun.session)));
            self.give_up(begun.session);
        }
        let overdue = self.asked.iter().filter(|(_, at)| now >= **at + pause).map(|(member, _)| *member);
        silent.extend(overdue);
        for member in silent {
            self.asked.remove(&member);
            self.request.core.suspect(member);
            tracing::warn!(wallet = self.request.holding.name(), %member, "signer replaced (does not answer)");
            field.out.insert(member, (Missing::silent(member), Fault::Silent));
        }
        self.later.retain(|_, until| *until > now);
        self.full_until = self.full_until.filter(|until| *until > now);
    }

    /// Tells the signers of an attempt that nothing comes of it.
    fn give_up(&mut self, session: SessionId) {
        self.tell_signers(session, &Message::Refuse(Refusal::Aborted("the attempt failed".to_owned())));
        self.machine.give_up(session);
        if session != self.home {
            self.lines.close(&session);
        }
    }

    fn tell_signers(&self, session: SessionId, message: &Message) {
        for member in self.signers_of(session).into_iter().filter(|member| *member != self.request.core.me()) {
            self.lines.send(session, member, message);
        }
    }

    /// Gets commitments for one attempt: from the stock, or by asking. Gives the members in order of preference.
    fn fill(&mut self, now: Instant, field: &mut Field) -> Result<Vec<MemberId>, QuorumError> {
        let Request { core, holding, .. } = *self.request;
        let (candidates, _) = self.request.candidates(field, &[]);
        let order = field.order(candidates);
        let items = self.request.checked.items.len();
        for member in &order {
            if self.machine.ready().count() >= self.machine.needed() {
                break;
            }
            let Some(party) = holding.index_of(member).filter(|party| self.machine.wants(*party)) else { continue };
            if self.asked.contains_key(member) || self.later.contains_key(member) {
                continue;
            }
            if let Some(commitments) = holding.nonces().draw(member, items) {
                self.offer(*member, party, commitments, field)?;
                continue;
            }
            let ask = Message::AskNonces {
                count: u16::try_from(items).unwrap_or(u16::MAX),
                stock: holding.nonces().stock(member),
            };
            if self.lines.send(self.home, *member, &ask) {
                self.asked.insert(*member, now);
            } else {
                self.leave_out(*member, Missing::unreachable(core, *member), Fault::Gone, field);
            }
        }
        Ok(order)
    }

    fn offer(
        &mut self,
        member: MemberId,
        party: PartyIndex,
        commitments: Vec<Commitment>,
        field: &mut Field,
    ) -> Result<(), QuorumError> {
        let session = self.machine.session_of(party).unwrap_or(self.home);
        match self.machine.offer(party, commitments) {
            Ok(_) => Ok(()),
            Err(error) => self.blame(session, member, &error, field),
        }
    }

    /// Begins an attempt if enough members are ready.
    fn begin(&mut self, now: Instant, order: &[MemberId], field: &mut Field) -> Result<(), QuorumError> {
        let Request { core, holding, .. } = *self.request;
        if self.machine.ready().count() < self.machine.needed() {
            return Ok(());
        }
        let session = if self.used { core.fresh_session() } else { self.home };
        if self.used && self.lines.add(self.request.info(session)).is_err() {
            // What is under way goes on meanwhile.
            self.full_until = Some(now + BUSY_PAUSE);
            return Ok(());
        }
        let preferred: Vec<PartyIndex> = order.iter().filter_map(|member| holding.index_of(member)).collect();
        let Some(started) = self.machine.start(session, &preferred, &core.fresh_seed()) else { return Ok(()) };
        self.used = true;
        let nonces = started.commitments.iter().map(|(party, list)| SignerNonces {
            commitments: Blob(Commitment::concat(list)),
            stock: holding.public().roster.member(*party).map_or(0, |member| holding.nonces().stock(member)),
        });
        let patience = self.request.deadline.get().saturating_duration_since(now);
        let request = self.request.sign_request(session, &started.signers, patience);
        let message = Message::Sign(SignRequest { nonces: nonces.collect(), ..request });
        let signers = self.members(&started.signers);
        self.lines.show(&session, "signing", signers.clone(), signers.clone());
        for member in signers.into_iter().filter(|member| *member != core.me()) {
            if !self.lines.send(session, member, &message) {
                self.leave_out(member, Missing::unreachable(core, member), Fault::Gone, field);
            }
        }
        self.attempts.push(Begun { session, at: now });
        // While the others work.
        judge::settle(holding).map_err(QuorumError::OwnRefusal)?;
        self.machine.work(session).map_err(|error| QuorumError::Internal(error.to_string()))
    }

    fn hear(
        &mut self,
        session: SessionId,
        from: MemberId,
        message: Message,
        field: &mut Field,
    ) -> Result<Option<Vec<Signature>>, QuorumError> {
        let Some(party) = self.request.holding.index_of(&from) else { return Ok(None) };
        match message {
            Message::Nonces(told) if session == self.home && self.asked.remove(&from).is_some() => {
                self.told(from, party, &told.0, field)?;
            }
            Message::Share { answer, next } => return self.answered(session, from, &answer.0, &next.0, field),
            Message::Refuse(refusal) => self.refused(session, from, party, refusal, field)?,
            _ => {}
        }
        Ok(None)
    }

    /// A member answers with commitments.
    fn told(&mut self, from: MemberId, party: PartyIndex, told: &[u8], field: &mut Field) -> Result<(), QuorumError> {
        let nonces = self.request.holding.nonces();
        let Some(told) = Commitment::parse_all(told) else {
            return self.blame(self.home, from, &SignError::Malformed { culprit: party }, field);
        };
        nonces.learn(from, told);
        match nonces.draw(&from, self.request.checked.items.len()) {
            Some(commitments) => self.offer(from, party, commitments, field),
            None => {
                let refusal = Refusal::Malformed("too few nonces".to_owned());
                self.leave_out(from, Missing::refused(from, &refusal), Fault::Refused, field);
                Ok(())
            }
        }
    }

    fn answered(
        &mut self,
        session: SessionId,
        from: MemberId,
        answer: &[u8],
        next: &[u8],
        field: &mut Field,
    ) -> Result<Option<Vec<Signature>>, QuorumError> {
        let Request { core, holding, .. } = *self.request;
        let Some(party) = holding.index_of(&from) else { return Ok(None) };
        let waiting = self.machine.waiting_for(session);
        if waiting.contains(&party) {
            match Commitment::parse_all(next) {
                Some(next) => holding.nonces().learn(from, next),
                None => {
                    let malformed = SignError::Malformed { culprit: party };
                    return self.blame(session, from, &malformed, field).map(|()| None);
                }
            }
        }
        if waiting == [party] {
            // With this answer the signatures are made: the last look before this member's share is used.
            judge::release(core, holding, self.allowed, &self.request.checked).map_err(QuorumError::OwnRefusal)?;
        }
        match self.machine.receive(session, party, answer) {
            Ok(signatures) => {
                self.request.agreed.borrow_mut().insert(party);
                let waiting = self.members(&self.machine.waiting_for(session));
                self.lines.show(&session, "signing", self.signers_of(session), waiting);
                Ok(signatures)
            }
            Err(error) => self.blame(session, from, &error, field).map(|()| None),
        }
    }

    fn signers_of(&self, session: SessionId) -> Vec<MemberId> {
        self.members(&self.machine.signers(session))
    }

    /// Leaves out whom the error names; what names nobody is this member's own fault.
    fn blame(
        &mut self,
        session: SessionId,
        from: MemberId,
        error: &SignError,
        field: &mut Field,
    ) -> Result<(), QuorumError> {
        let Request { core, holding, .. } = *self.request;
        if error.verdict() == Verdict::Dropped {
            tracing::warn!(%session, %from, %error, "message dropped");
            return Ok(());
        }
        note_failure(core, holding, session, error, || self.lines.evidence(&session));
        let member = error.culprit().and_then(|party| holding.public().roster.member(party).copied());
        let member = member.ok_or_else(|| QuorumError::Internal(error.to_string()))?;
        self.leave_out(member, Missing { member, why: error.to_string() }, Fault::Refused, field);
        Ok(())
    }

    fn leave_out(&mut self, member: MemberId, missing: Missing, fault: Fault, field: &mut Field) {
        tracing::warn!(wallet = self.request.holding.name(), %missing, "signer replaced");
        self.asked.remove(&member);
        if let Some(party) = self.request.holding.index_of(&member) {
            self.machine.leave_out(party);
        }
        field.out.insert(member, (missing, fault));
    }

    fn refused(
        &mut self,
        session: SessionId,
        from: MemberId,
        party: PartyIndex,
        refusal: Refusal,
        field: &mut Field,
    ) -> Result<(), QuorumError> {
        let Request { holding, terms, other_epoch, .. } = *self.request;
        let was_asked = session == self.home && self.asked.remove(&from).is_some();
        // What a member says after its answer changes nothing.
        if !was_asked && !self.machine.waiting_for(session).contains(&party) {
            return Ok(());
        }
        match refusal {
            Refusal::CoinTaken(_) if !terms.last_draw => return Err(self.request.coin_taken(refusal)),
            Refusal::Busy => {
                self.later.insert(from, Instant::now() + BUSY_PAUSE);
                self.machine.ask_again(party);
                return Ok(());
            }
            Refusal::NonceUnknown => {
                holding.nonces().disbelieve(&from);
                let times = self.unknown.entry(from).or_default();
                *times += 1;
                if *times < MAX_UNKNOWN {
                    self.machine.ask_again(party);
                    return Ok(());
                }
            }
            Refusal::OtherEpoch(theirs) => {
                holding.heard_of_epoch(Epoch(theirs));
                other_epoch.note();
            }
            _ => {}
        }
        let fault = if refusal == Refusal::NeedsApproval { Fault::Asked } else { Fault::Refused };
        self.leave_out(from, Missing::refused(from, &refusal), fault, field);
        Ok(())
    }

    /// Whoever let an attempt of others pass comes last next time, until it is heard again.
    fn suspect_overtaken(&self) {
        let (now, hedge) = (Instant::now(), self.hedge());
        for begun in self.attempts.iter().filter(|begun| now >= begun.at + hedge) {
            for member in self.members(&self.machine.waiting_for(begun.session)) {
                self.request.core.suspect(member);
            }
        }
    }

    /// Tells the signers how it ended.
    fn end(mut self, result: Result<(SessionId, Vec<Signature>), QuorumError>) -> Result<Vec<Signature>, QuorumError> {
        let Request { core, holding, checked, .. } = self.request;
        let done = result.as_ref().ok().map(|(session, signatures)| (*session, signatures));
        if let Some((session, signatures)) = done {
            let bytes = signatures.iter().filter_map(|signature| match signature {
                Signature::Schnorr(signature) => Some(signature.serialize()),
                Signature::Ecdsa { .. } => None,
            });
            self.tell_signers(session, &Message::Signatures(Blob(bytes.flatten().collect())));
        }
        self.suspect_overtaken();
        let over = Message::Refuse(Refusal::Aborted("the attempt is over".to_owned()));
        for Begun { session, .. } in std::mem::take(&mut self.attempts) {
            if done.is_none_or(|(made, _)| made != session) {
                self.tell_signers(session, &over);
            }
        }
        for (party, commitments) in self.machine.into_unused() {
            if let Some(member) = holding.public().roster.member(party) {
                holding.nonces().learn(*member, commitments);
            }
        }
        if let Some((session, signatures)) = done {
            judge::signed(core, holding, &self.request.asking(Some(session)), checked, signatures);
        }
        result.map(|(_, signatures)| signatures)
    }
}
