//! One session's end of the line: sends signed messages on its topic, and reads what belongs to it.
//!
//! Frames that do not check (forged, of another session, not a message) are dropped with a log line; they never end a
//! session by themselves, for their sender may not be who they claim.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tss_wallet::{MemberId, Outgoing, PartyIndex, Recipient};

use super::core::Core;
use super::error::{Missing, QuorumError};
use super::refusal::Refusal;
use super::sessions::{Inbound, Inbox};
use super::wire::{self, Blob, Message, Topic};

/// Bytes of envelopes that a session keeps as evidence. Larger sessions keep their first ones.
pub(super) const EVIDENCE_BYTES: usize = 256 << 10;

/// How long members may take to connect to each other once a session that needs them all has begun.
const CONNECTING: Duration = Duration::from_millis(500);
const CONNECTING_POLL: Duration = Duration::from_millis(20);

/// What a session hears.
#[derive(Debug)]
pub enum Heard {
    Message(MemberId, Message),
    /// The connection to a participant ended, or there never was one.
    Down(MemberId),
    Stop,
    Deadline,
}

/// What the participants of a ceremony answered to its proposal.
#[derive(Default)]
pub struct Answers {
    /// Who does not take part, and why.
    pub missing: Vec<Missing>,
    /// One of them is busy with another ceremony.
    pub busy: bool,
}

/// The end of the line.
pub struct Link<'a> {
    core: &'a Core,
    topic: Topic,
    inbox: Inbox,
    others: BTreeSet<MemberId>,
    evidence: RefCell<Vec<Vec<u8>>>,
    /// What was for them did not leave, and the session has not heard so yet.
    unreached: RefCell<BTreeSet<MemberId>>,
}

impl<'a> Link<'a> {
    /// A line between this member and `others`.
    pub fn new(core: &'a Core, topic: Topic, inbox: Inbox, others: impl IntoIterator<Item = MemberId>) -> Self {
        let me = core.me();
        let others = others.into_iter().filter(|member| *member != me).collect();
        Self { core, topic, inbox, others, evidence: RefCell::default(), unreached: RefCell::default() }
    }

    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    pub fn others(&self) -> &BTreeSet<MemberId> {
        &self.others
    }

    pub fn note(&self, state: &'static str, waiting_for: impl IntoIterator<Item = MemberId>) {
        self.inbox.note(state, waiting_for);
    }

    /// Sends to one member. False if it cannot be reached now.
    pub fn send(&self, to: MemberId, round: u16, message: &Message) -> bool {
        self.core.send(&self.topic, round, to, message)
    }

    /// Sends to all others; answers with those who cannot be reached.
    pub fn send_all(&self, round: u16, message: &Message) -> BTreeSet<MemberId> {
        self.others.iter().copied().filter(|other| !self.send(*other, round, message)).collect()
    }

    /// Sends what a machine wants sent, one message to each peer. Answers with those who cannot be reached.
    pub fn post(
        &self,
        outgoing: &[Outgoing],
        index_of: impl Fn(&MemberId) -> Option<PartyIndex>,
    ) -> BTreeSet<MemberId> {
        self.post_to(&self.others, outgoing, &index_of)
    }

    /// The same in a session that needs them all: whoever cannot be reached within a moment is heard of as down. Two
    /// members may still be connecting when a third one begins.
    pub fn post_to_all(&self, outgoing: &[Outgoing], index_of: impl Fn(&MemberId) -> Option<PartyIndex>) {
        let deadline = Instant::now() + CONNECTING;
        let mut left = self.post(outgoing, &index_of);
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(CONNECTING_POLL);
            left = self.post_to(&left, outgoing, &index_of);
        }
        self.unreached.borrow_mut().extend(left);
    }

    fn post_to(
        &self,
        others: &BTreeSet<MemberId>,
        outgoing: &[Outgoing],
        index_of: &impl Fn(&MemberId) -> Option<PartyIndex>,
    ) -> BTreeSet<MemberId> {
        let mut unreachable = BTreeSet::new();
        for other in others {
            let Some(index) = index_of(other) else { continue };
            let for_it = |to: &Recipient| match to {
                Recipient::All => true,
                Recipient::One(party) => *party == index,
            };
            let mut round = 0;
            let mut bodies = Vec::new();
            for message in outgoing.iter().filter(|message| for_it(&message.to)) {
                round = message.round();
                bodies.push(Blob(message.body.clone()));
            }
            if !bodies.is_empty() && !self.send(*other, round, &Message::Protocol(bodies)) {
                unreachable.insert(*other);
            }
        }
        unreachable
    }

    /// Proposes something to all others, and waits for their word until a deadline.
    pub fn ask_all(&self, message: &Message, state: &'static str, patience: Duration) -> Result<Answers, QuorumError> {
        let mut answers = Answers::default();
        let mut waiting = self.others.clone();
        let deadline = Instant::now() + patience;
        for member in self.send_all(0, message) {
            waiting.remove(&member);
            answers.missing.push(Missing::unreachable(self.core, member));
        }
        while !waiting.is_empty() {
            self.note(state, waiting.iter().copied());
            match self.next(deadline) {
                Heard::Message(from, Message::Accept) => {
                    waiting.remove(&from);
                }
                Heard::Message(from, Message::Refuse(refusal)) => {
                    answers.busy |= matches!(refusal, Refusal::Busy | Refusal::UnderWay);
                    if waiting.remove(&from) {
                        answers.missing.push(Missing::refused(from, &refusal));
                    }
                }
                Heard::Message(..) => {}
                Heard::Down(member) => {
                    if waiting.remove(&member) {
                        answers.missing.push(Missing::unreachable(self.core, member));
                    }
                }
                Heard::Stop => return Err(QuorumError::Stopped),
                Heard::Deadline => {
                    answers.missing.extend(std::mem::take(&mut waiting).into_iter().map(Missing::silent));
                }
            }
        }
        Ok(answers)
    }

    /// Signed envelopes of the protocol, as they came.
    pub fn evidence(&self) -> Vec<Vec<u8>> {
        self.evidence.borrow().clone()
    }

    fn keep(&self, message: &Message, envelope: Vec<u8>) {
        let mut kept = self.evidence.borrow_mut();
        let bytes: usize = kept.iter().map(Vec::len).sum();
        if matches!(message, Message::Protocol(_)) && bytes.saturating_add(envelope.len()) <= EVIDENCE_BYTES {
            kept.push(envelope);
        }
    }

    /// The next message of a participant, or what else ends the wait.
    pub fn next(&self, deadline: Instant) -> Heard {
        if let Some(member) = self.unreached.borrow_mut().pop_first() {
            return Heard::Down(member);
        }
        loop {
            match self.inbox.next(deadline) {
                None => return Heard::Deadline,
                Some(Inbound::Stop) => return Heard::Stop,
                Some(Inbound::Down(member)) if self.others.contains(&member) => return Heard::Down(member),
                Some(Inbound::Down(_)) => {}
                Some(Inbound::Frame { from, envelope, .. }) => {
                    if !self.others.contains(&from) {
                        tracing::warn!(session = %self.topic.session, %from, "frame of a member that takes no part");
                        continue;
                    }
                    match wire::open(&envelope, self.core.me(), from, &self.topic) {
                        Ok(message) => {
                            self.keep(&message, envelope);
                            return Heard::Message(from, message);
                        }
                        Err(error) => tracing::warn!(session = %self.topic.session, %from, %error, "frame dropped"),
                    }
                }
            }
        }
    }
}
