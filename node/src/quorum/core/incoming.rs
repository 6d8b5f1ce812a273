//! What comes in from other members: who is there, and which of its requests opens what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use keyless_p2p::cosigners::{Event, Events, PeerId, public_key_of};
use tss_wallet::MemberId;

use super::{Core, MAX_OPENING_PER_PEER, TEND, locked};
use crate::metrics::metrics;
use crate::quorum::participant::{self, Asked, one_round};
use crate::quorum::rate::Bucket;
use crate::quorum::refusal::Refusal;
use crate::quorum::wire::{self, Frame, Message, Topic};
use crate::quorum::{fence, keygen, lease, names, redeal, sharing};

impl Core {
    fn member_of(&self, peer: &PeerId) -> Option<MemberId> {
        let mut peers = locked(&self.peers);
        if let Some(member) = peers.get(peer) {
            return Some(*member);
        }
        let member = MemberId(public_key_of(peer)?);
        peers.insert(*peer, member);
        Some(member)
    }

    fn heard(&self, member: &MemberId) {
        let mut suspects = locked(&self.suspects);
        if !suspects.is_empty() {
            suspects.remove(member);
        }
    }

    fn on_event(self: &Arc<Self>, event: Event) {
        match event {
            Event::Up(peer) => {
                let Some(member) = self.member_of(&peer) else { return };
                tracing::info!(%peer, "co-signer connected");
                self.heard(&member);
                self.spawn(move |core| {
                    lease::compare_marks(core, member);
                    sharing::catch_up(core, member);
                    core.tend();
                });
            }
            Event::Down(peer, reason) => {
                let Some(member) = self.member_of(&peer) else { return };
                tracing::info!(%peer, %reason, "co-signer disconnected");
                self.sessions.peer_down(member);
                // Whoever comes back may have lost what it was told.
                self.holdings().iter().for_each(|holding| holding.nonces().forget(&member));
                names::gone(self, &member);
            }
            Event::Frame { from, bytes } => {
                let Some(member) = self.member_of(&from) else { return };
                self.heard(&member);
                match Frame::parse(bytes) {
                    Ok(frame) if frame.opens => self.admit(member, frame),
                    Ok(frame) => self.sessions.deliver(frame.session, member, frame.envelope),
                    Err(error) => tracing::warn!(peer = %from, %error, "frame dropped"),
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, from: MemberId, frame: Frame) {
        if !locked(&self.rates).entry(from).or_insert_with(|| Bucket::full(Instant::now())).take(Instant::now()) {
            metrics().dropped();
            tracing::debug!(%from, "too many requests in a time; dropped");
            return;
        }
        let Some(slot) = Opening::take(self, from) else {
            tracing::warn!(%from, "too many requests at a time");
            return match wire::open_first(&frame, self.me, from) {
                Ok((topic, _)) => self.refuse(&topic, from, Refusal::Busy),
                Err(error) => tracing::warn!(%from, %error, "request dropped"),
            };
        };
        self.spawn(move |core| match wire::open_first(&frame, core.me, from) {
            Ok((topic, message)) => core.begin(from, topic, message, frame.envelope, slot),
            Err(error) => tracing::warn!(%from, %error, "request dropped"),
        });
    }

    /// A request of another member, on its own blocking thread.
    fn begin(self: &Arc<Self>, from: MemberId, topic: Topic, message: Message, envelope: Vec<u8>, slot: Opening) {
        match message {
            Message::Probe => {
                self.send(&topic, 0, from, &Message::Status(self.status(&from)));
            }
            Message::Invite(invitation) => keygen::invited(self, from, topic, invitation),
            Message::AskOutcome(ceremony) => keygen::asked(self, from, topic, ceremony),
            Message::Lease(ranges) => lease::asked(self, from, topic, &ranges),
            Message::Sign(request) => participant::asked(self, from, topic, Asked { request, envelope, slot }),
            Message::AskNonces { count, stock } => one_round::asked(self, from, &topic, count, stock),
            Message::Sent(transactions) => sharing::sent_by(self, from, &topic, &transactions),
            Message::AskNews => sharing::news_for(self, from, &topic),
            Message::Labels { fill, labels } => sharing::labels_by(self, from, &topic, fill, &labels),
            Message::Redeal(proposal) => redeal::proposed(self, from, topic, &proposal),
            Message::AskRepair(name) => redeal::asked_to_repair(self, from, topic, &name),
            Message::AskKeys => redeal::asked_for_keys(self, from, topic),
            Message::Mark(mark) => {
                let holding = self.holding(&topic.wallet).filter(|holding| holding.index_of(&from).is_some());
                holding.iter().for_each(|holding| fence::heard(holding, from, &mark));
            }
            Message::Name(request) => names::asked(self, from, topic, &request),
            Message::NameDone(request) => names::done(self, from, topic, &request),
            // `open_first` lets nothing else through.
            _ => {}
        }
    }
}

/// The place of a request among those of its sender that are being opened. Whoever has opened a session gives it back.
pub(in crate::quorum) struct Opening {
    core: Arc<Core>,
    from: MemberId,
}

impl Opening {
    fn take(core: &Arc<Core>, from: MemberId) -> Option<Self> {
        let mut opening = locked(&core.opening);
        let count = opening.entry(from).or_default();
        if *count >= MAX_OPENING_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Self { core: Arc::clone(core), from })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opening = locked(&self.core.opening);
        if let Some(count) = opening.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                opening.remove(&self.from);
            }
        }
    }
}

/// Counts one piece of blocking work while it lasts.
pub(super) struct AtWork(Arc<AtomicUsize>);

impl AtWork {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) async fn run(core: Weak<Core>, mut events: Events) {
    let mut tend = tokio::time::interval(TEND);
    tend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            _ = tend.tick() => None,
        };
        let Some(core) = core.upgrade() else { return };
        match event {
            Some(event) => core.on_event(event),
            None => core.spawn(Core::tend),
        }
    }
}
