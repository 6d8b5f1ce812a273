//! The queue of events to the owner of this node's wallets, bounded in number and in bytes.
//!
//! A frame holds its share of the byte budget until it is received, so that peers cannot fill the
//! memory: a reader that finds no room waits, and its peer with it. Waiting readers are served in
//! turn, one frame each.

use std::sync::Arc;

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::carrier::Event;
use super::limits::{EVENT_QUEUE, EVENT_QUEUE_BYTES, MAX_FRAME_BYTES};

type Item = (Event, Option<OwnedSemaphorePermit>);

/// The receiving end; shaped like a channel's receiver.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Item>,
}

impl Events {
    /// The next event; none after the carrier has stopped and all events were received.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        self.queue.recv().await.map(|(event, _)| event)
    }

    /// The next event if one is waiting.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.queue.try_recv().ok().map(|(event, _)| event)
    }

    /// The next event, for a thread outside the reactor.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        self.queue.blocking_recv().map(|(event, _)| event)
    }
}

/// The receiver is gone: the carrier has no one to work for.
#[derive(Debug)]
pub(crate) struct Closed;

#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    queue: mpsc::Sender<Item>,
    budget: Arc<Semaphore>,
}

/// Permits that a frame of this size takes; never more than there are.
fn weight(size_bytes: usize) -> u32 {
    u32::try_from(size_bytes.min(MAX_FRAME_BYTES)).unwrap_or(u32::MAX)
}

impl EventSender {
    pub(crate) async fn send(&self, event: Event) -> Result<(), Closed> {
        self.queue.send((event, None)).await.map_err(|_| Closed)
    }

    pub(crate) async fn frame(&self, from: PeerId, bytes: Vec<u8>) -> Result<(), Closed> {
        let permit = Arc::clone(&self.budget).acquire_many_owned(weight(bytes.len())).await.map_err(|_| Closed)?;
        self.queue.send((Event::Frame { from, bytes }, Some(permit))).await.map_err(|_| Closed)
    }

    /// Whether the receiver is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Resolves when the receiver is gone.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Without waiting; false when there is no room.
    pub(crate) fn try_send(&self, event: Event) -> bool {
        let permit = match &event {
            Event::Frame { bytes, .. } => match Arc::clone(&self.budget).try_acquire_many_owned(weight(bytes.len())) {
                Ok(permit) => Some(permit),
                Err(_) => return false,
            },
            _ => None,
        };
        self.queue.try_send((event, permit)).is_ok()
    }
}

pub(crate) fn channel() -> (EventSender, Events) {
    let (sender, queue) = mpsc::channel(EVENT_QUEUE);
    (EventSender { queue: sender, budget: Arc::new(Semaphore::new(EVENT_QUEUE_BYTES)) }, Events { queue })
}
