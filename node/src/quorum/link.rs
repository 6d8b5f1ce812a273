//! One session's end of the line: sends signed messages on its topic, and reads what belongs to it.
//!
//! Frames that do not check (forged, of another session, not a message) are dropped with a log line; they never end a
//! session by themselves, for their sender may not be who they claim.

use std::collections::BTreeSet;
use std::time::Instant;

use tss_wallet::MemberId;

use super::core::Core;
use super::sessions::{Inbound, Inbox};
use super::wire::{self, Message, Topic};

/// What a session hears.
#[derive(Debug)]
pub enum Heard {
    Message(MemberId, Message),
    /// The connection to a participant ended.
    Down(MemberId),
    Stop,
    Deadline,
}

/// The end of the line.
pub struct Link<'a> {
    core: &'a Core,
    topic: Topic,
    inbox: Inbox,
    others: BTreeSet<MemberId>,
}

impl<'a> Link<'a> {
    /// A line between this member and `others`.
    pub fn new(core: &'a Core, topic: Topic, inbox: Inbox, others: impl IntoIterator<Item = MemberId>) -> Self {
        let me = core.me();
        Self { core, topic, inbox, others: others.into_iter().filter(|member| *member != me).collect() }
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

    /// The next message of a participant, or what else ends the wait.
    pub fn next(&self, deadline: Instant) -> Heard {
        loop {
            match self.inbox.next(deadline) {
                None => return Heard::Deadline,
                Some(Inbound::Stop) => return Heard::Stop,
                Some(Inbound::Down(member)) if self.others.contains(&member) => return Heard::Down(member),
                Some(Inbound::Down(_)) => {}
                Some(Inbound::Frame { from, envelope }) => {
                    if !self.others.contains(&from) {
                        tracing::warn!(session = %self.topic.session, %from, "frame of a member that takes no part");
                        continue;
                    }
                    match wire::open(&envelope, self.core.me(), from, &self.topic) {
                        Ok(message) => return Heard::Message(from, message),
                        Err(error) => tracing::warn!(session = %self.topic.session, %from, %error, "frame dropped"),
                    }
                }
            }
        }
    }
}
