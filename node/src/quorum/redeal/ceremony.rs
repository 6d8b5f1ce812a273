//! One participant's run of the machine, and its switch to the new epoch.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_wallet::seal::SealKey;
use tss_wallet::{KeyShare, MemberId, Outgoing, PublicKeys, Redeal, RedealParams, ShareStore};

use super::super::core::Core;
use super::super::error::{Missing, MissingList, QuorumError};
use super::super::holding::{self, Holding, HoldingError, nonce};
use super::super::link::{Heard, Link};
use super::super::wire::{Blob, Message, Proposal};
use super::join::{self, Join};
use super::{bans, failed, note, settle};

/// Without a message, a ceremony waits this long, and longer with more members.
const NO_PROGRESS: Duration = Duration::from_secs(8);
const NO_PROGRESS_PER_MEMBER: Duration = Duration::from_secs(3);
/// So many times longer where a member may be computing, on a machine that has much else to do: the line would tell if it
/// were gone, and giving up leaves it with its computation, and unable to begin anew before that ends.
const WHILE_COMPUTING: u32 = 3;
/// Up to this round nobody can have signed the certificate: others are at most one round ahead.
const UNSIGNED: u8 = 5;
/// How long the end waits for the others to say that they have switched.
const SWITCHED: Duration = Duration::from_secs(10);
/// Messages kept until the word to begin.
const MAX_EARLY: usize = 128;

/// Messages that came before their turn.
#[derive(Default)]
pub(super) struct Early(VecDeque<(MemberId, Message)>);

impl Early {
    pub fn new() -> Self {
        Self::default()
    }

    fn has_room(&self) -> bool {
        self.0.len() < MAX_EARLY
    }

    pub fn keep(&mut self, from: MemberId, message: Message) {
        if self.has_room() {
            self.0.push_back((from, message));
        }
    }

    fn pop(&mut self) -> Option<Heard> {
        self.0.pop_front().map(|(from, message)| Heard::Message(from, message))
    }
}

/// A participant's part.
pub(super) struct Ceremony<'a> {
    pub core: &'a Arc<Core>,
    pub link: &'a Link<'a>,
    pub params: RedealParams,
    pub proposal: &'a Proposal,
    /// None for a member that is new, or has lost all.
    pub holding: Option<&'a Arc<Holding>>,
}

/// Where the new share lies.
struct Place {
    store: ShareStore,
    key: SealKey,
    /// Of a member to whom the wallet is new.
    join: Option<Arc<Join>>,
}

/// What came of it.
pub(super) struct Dealt {
    pub keys: Arc<PublicKeys>,
    /// The wallet is new to this node.
    pub joined: bool,
}

/// What this member wrote down before its signature left.
#[derive(Default)]
struct Written {
    place: Option<Place>,
    leaving: bool,
}

fn storage(error: impl Into<HoldingError>) -> QuorumError {
    QuorumError::Storage(error.into().to_string())
}

impl Ceremony<'_> {
    /// Runs to the end. The new epoch is in force here when this returns, and the old share is erased if all others
    /// have said that it is there too. A wallet that is new to this node is to be opened, once all else is let go.
    pub fn run(self, early: Early) -> Result<Dealt, QuorumError> {
        let mut written = Written::default();
        let (machine, mut switched) = self.drive(early, &mut written)?;
        let keys = machine.finished().cloned().ok_or_else(|| failed("the machine lost its result"))?;
        match &written.place {
            Some(place) => self.switch(&keys, place)?,
            None => tracing::info!(epoch = %keys.epoch, "the quorum goes on without this member"),
        }
        self.link.send_all(0, &Message::Stored);
        self.await_others(&mut switched);
        let join = written.place.as_ref().and_then(|place| place.join.as_ref());
        join.iter().for_each(|join| self.core.end_join(join));
        let all = self.link.others().is_subset(&switched);
        self.clean_up(&machine, all)?;
        Ok(Dealt { keys, joined: join.is_some() })
    }

    fn drive(&self, mut early: Early, written: &mut Written) -> Result<(Redeal, BTreeSet<MemberId>), QuorumError> {
        let share = self.holding.and_then(|holding| holding.share());
        let identity = self.core.identity().clone();
        let started = Redeal::start(self.params.clone(), identity, share.as_deref(), self.core.fresh_seed());
        let (mut machine, outgoing) = started.map_err(failed)?;
        drop(share);
        self.post(&machine, &outgoing);
        let count = u32::try_from(self.link.others().len()).unwrap_or(u32::MAX);
        let pause = NO_PROGRESS + NO_PROGRESS_PER_MEMBER * count;
        let mut since = Instant::now();
        let mut switched = BTreeSet::new();
        while machine.finished().is_none() {
            self.link.note("dealing shares", machine.waiting_for());
            let unsigned = machine.round() <= UNSIGNED;
            let ending = if unsigned { self.ending(&mut early) } else { None };
            let heard = match ending.or_else(|| early.pop()) {
                Some(heard) => heard,
                None => self.link.next(since + if unsigned { pause * WHILE_COMPUTING } else { pause }),
            };
            match heard {
                Heard::Message(from, Message::Protocol(bodies)) => {
                    self.feed(&mut machine, from, &bodies, written)?;
                    since = Instant::now();
                }
                Heard::Message(from, Message::Refuse(refusal)) => return Err(failed(Missing::refused(from, &refusal))),
                Heard::Message(from, Message::Stored) => {
                    switched.insert(from);
                }
                Heard::Message(..) => {}
                Heard::Down(member) => return Err(failed(Missing::unreachable(self.core, member))),
                Heard::Stop => return Err(QuorumError::Stopped),
                Heard::Deadline => {
                    let silent = machine.waiting_for().into_iter().map(Missing::silent).collect();
                    return Err(failed(MissingList(silent)));
                }
            }
        }
        Ok((machine, switched))
    }

    /// What ends a ceremony that needs everyone still, wherever it stands in the line. What stands before it would only
    /// be computed for nothing, and nothing else of the wallet could begin meanwhile.
    fn ending(&self, early: &mut Early) -> Option<Heard> {
        while early.has_room() {
            match self.link.next(Instant::now()) {
                Heard::Deadline => return None,
                Heard::Message(from, message @ (Message::Protocol(_) | Message::Stored)) => early.keep(from, message),
                ending @ (Heard::Message(_, Message::Refuse(_)) | Heard::Down(_) | Heard::Stop) => return Some(ending),
                Heard::Message(..) => {}
            }
        }
        None
    }

    fn feed(
        &self,
        machine: &mut Redeal,
        from: MemberId,
        bodies: &[Blob],
        written: &mut Written,
    ) -> Result<(), QuorumError> {
        let Some(index) = machine.index_of(&from) else { return Ok(()) };
        for body in bodies {
            match machine.receive(index, &body.0) {
                Ok(outgoing) => {
                    // On the disk before this member's signature leaves.
                    self.write_down(machine, written)?;
                    self.post(machine, &outgoing);
                }
                Err(error) if error.is_fatal() => {
                    let culprit = machine.culprit(&error).map(|member| super::super::peer_name(&member));
                    tracing::warn!(session = %self.link.topic().session, ?culprit, %error, "ceremony void");
                    return Err(failed(match culprit {
                        Some(culprit) => format!("{error} ({culprit})"),
                        None => error.to_string(),
                    }));
                }
                Err(error) => tracing::warn!(session = %self.link.topic().session, %from, %error, "message dropped"),
            }
        }
        Ok(())
    }

    fn post(&self, machine: &Redeal, outgoing: &[Outgoing]) {
        self.link.post_to_all(outgoing, |member| machine.index_of(member));
    }

    /// The new share, or that there will be none, once this member's signature is about to be sent.
    fn write_down(&self, machine: &Redeal, written: &mut Written) -> Result<(), QuorumError> {
        let Some(keys) = machine.certifying().or_else(|| machine.finished()) else { return Ok(()) };
        // All other signatures may have been here before this member's own was made.
        match (machine.pending().or_else(|| machine.share()), self.holding) {
            (Some(share), _) if written.place.is_none() => written.place = Some(self.store_pending(share)?),
            (None, Some(holding)) if !written.leaving => {
                holding.store().put_leaving(keys).map_err(storage)?;
                written.leaving = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn store_pending(&self, share: &KeyShare) -> Result<Place, QuorumError> {
        let place = match self.holding {
            Some(holding) => {
                let key = holding.seal_key().map_err(storage)?.ok_or(QuorumError::Locked)?;
                Place { store: holding.store().clone(), key, join: None }
            }
            None => self.new_place()?,
        };
        place.store.put_pending(share, &place.key, &nonce()).map_err(storage)?;
        Ok(place)
    }

    /// The directory of a wallet that is new to this node.
    fn new_place(&self) -> Result<Place, QuorumError> {
        let join = join::place(self.core, &self.proposal.facts.name, self.params.old.wallet)?;
        holding::store_facts(&join.db, self.proposal.made_by.as_bytes(), &self.proposal.facts).map_err(storage)?;
        let key = SealKey::load_or_create(&self.core.layout.seal_key(), &self.core.fresh_seed()).map_err(storage)?;
        Ok(Place { store: join.store(self.core), key, join: Some(join) })
    }

    /// Durable first, then in force.
    fn switch(&self, keys: &PublicKeys, place: &Place) -> Result<(), QuorumError> {
        let share = place.store.switch(keys.certificate.clone(), &place.key, &nonce()).map_err(storage)?;
        match (self.holding, &place.join) {
            (Some(holding), _) => self.core.hold(Arc::new(holding.renewed(share).map_err(storage)?)),
            (None, Some(join)) => join::live(self.core, &join.name, &join.dir, &join.db).map_err(storage)?,
            (None, None) => return Err(failed("the share has no place")),
        }
        tracing::info!(wallet = self.proposal.facts.name, epoch = %keys.epoch, "new epoch in force");
        if let Some(holding) = self.core.holding(&keys.wallet) {
            let (kind, members) = (self.proposal.kind, keys.roster.count());
            let detail = format!("{kind:?}: epoch {}, {} of {members}", keys.epoch, keys.roster.threshold());
            note(self.core, &holding, "dealt", detail);
            bans::settle(self.core, &holding);
        }
        Ok(())
    }

    /// Hears the others say that they have switched, within a deadline.
    fn await_others(&self, switched: &mut BTreeSet<MemberId>) {
        let deadline = Instant::now() + SWITCHED;
        loop {
            let waiting: Vec<MemberId> = self.link.others().difference(switched).copied().collect();
            if waiting.is_empty() {
                return;
            }
            self.link.note("switching", waiting.iter().copied());
            match self.link.next(deadline) {
                Heard::Message(from, Message::Stored) => {
                    switched.insert(from);
                }
                Heard::Message(..) => {}
                Heard::Down(member) if switched.contains(&member) => {}
                Heard::Down(_) | Heard::Stop | Heard::Deadline => {
                    let waiting: Vec<String> = waiting.iter().map(super::super::peer_name).collect();
                    tracing::warn!(?waiting, "the old share is kept until these have the new epoch too");
                    return;
                }
            }
        }
    }

    /// Erases what nobody needs any more.
    fn clean_up(&self, machine: &Redeal, all: bool) -> Result<(), QuorumError> {
        let Some(holding) = self.holding else { return Ok(()) };
        if !all {
            return Ok(());
        }
        if machine.share().is_some() {
            return holding.store().erase_previous().map_err(storage);
        }
        settle::leave(self.core, holding);
        Ok(())
    }
}
