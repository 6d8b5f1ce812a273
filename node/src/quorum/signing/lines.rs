//! The lines of one request to its signers: a session for each attempt, and one place to wait for all of them.
//!
//! As with [`Link`](super::super::link::Link), frames that do not check are dropped with a log line and end nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use tss_wallet::{MemberId, SessionId};

use super::super::core::Core;
use super::super::holding::Holding;
use super::super::link::EVIDENCE_BYTES;
use super::super::sessions::{Inbound, Inbox, OpenError, SessionInfo};
use super::super::wire::{self, Message, Topic};

/// What the lines hear.
pub(super) enum Heard {
    Message(SessionId, MemberId, Box<Message>),
    /// The connection to a member ended.
    Down(MemberId),
    Stop,
    Deadline,
}

pub(super) struct Lines<'a> {
    core: &'a Core,
    holding: &'a Holding,
    inbox: Inbox,
    /// Open sessions, with the signed answers that came in them.
    open: BTreeMap<SessionId, Vec<Vec<u8>>>,
}

impl<'a> Lines<'a> {
    pub fn new(core: &'a Core, holding: &'a Holding, first: SessionInfo) -> Result<Self, OpenError> {
        let id = first.id;
        let inbox = core.sessions.open(first)?;
        Ok(Self { core, holding, inbox, open: BTreeMap::from([(id, Vec::new())]) })
    }

    /// One more session.
    pub fn add(&mut self, info: SessionInfo) -> Result<(), OpenError> {
        let id = info.id;
        self.inbox.open(info)?;
        self.open.insert(id, Vec::new());
        Ok(())
    }

    pub fn close(&mut self, session: &SessionId) {
        self.inbox.close(session);
        self.open.remove(session);
    }

    /// How many sessions the request has.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    fn topic(&self, session: SessionId) -> Topic {
        Topic { wallet: self.holding.wallet(), epoch: self.holding.epoch(), session }
    }

    /// False if the member cannot be reached now.
    pub fn send(&self, session: SessionId, to: MemberId, message: &Message) -> bool {
        self.core.send(&self.topic(session), 0, to, message)
    }

    /// What `listsigningsessions` shows of a session.
    pub fn show(&self, session: &SessionId, state: &'static str, signers: Vec<MemberId>, waiting: Vec<MemberId>) {
        self.inbox.change(session, |info| {
            info.state = state;
            info.signers = signers;
            info.waiting_for = waiting;
        });
    }

    /// Signed answers of a session, as they came.
    pub fn evidence(&self, session: &SessionId) -> Vec<Vec<u8>> {
        self.open.get(session).cloned().unwrap_or_default()
    }

    /// The next message of another member, or what else ends the wait.
    pub fn next(&mut self, deadline: Instant) -> Heard {
        loop {
            match self.inbox.next(deadline) {
                None => return Heard::Deadline,
                Some(Inbound::Stop) => return Heard::Stop,
                Some(Inbound::Down(member)) => return Heard::Down(member),
                Some(Inbound::Frame { session, from, envelope }) => {
                    if self.holding.index_of(&from).is_none() || from == self.core.me() {
                        tracing::warn!(%session, %from, "frame of a member that takes no part");
                        continue;
                    }
                    match wire::open(&envelope, self.core.me(), from, &self.topic(session)) {
                        Ok(message) => {
                            self.keep(&session, &message, envelope);
                            return Heard::Message(session, from, Box::new(message));
                        }
                        Err(error) => tracing::warn!(%session, %from, %error, "frame dropped"),
                    }
                }
            }
        }
    }

    fn keep(&mut self, session: &SessionId, message: &Message, envelope: Vec<u8>) {
        let Some(kept) = self.open.get_mut(session).filter(|_| matches!(message, Message::Share { .. })) else {
            return;
        };
        let bytes: usize = kept.iter().map(Vec::len).sum();
        if bytes.saturating_add(envelope.len()) <= EVIDENCE_BYTES {
            kept.push(envelope);
        }
    }
}
