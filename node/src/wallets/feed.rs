//! Chain events on their way to the wallets: a queue that never blocks the kernel, and the one thread that applies
//! them in order.
//!
//! The queue is bounded in number and bytes. Block bodies beyond the limit are read again from the disk when their
//! turn comes; should even the events be too many, they are dropped and every wallet catches up from the chain itself,
//! which it can at any time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::{Block, BlockHash, Transaction, Txid};

/// Events that wait.
const MAX_EVENTS: usize = 200_000;
/// Transactions of waiting blocks that are kept in memory.
const MAX_TRANSACTIONS: usize = 50_000;

/// How long the thread that applies sleeps at most.
const IDLE: Duration = Duration::from_secs(1);

/// What the node tells.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    BlockConnected {
        height: u32,
        block: Block,
    },
    BlockDisconnected {
        height: u32,
        hash: BlockHash,
    },
    MempoolAdded {
        transaction: Transaction,
    },
    /// `reason` is Core's word, such as `conflict`.
    MempoolRemoved {
        txid: Txid,
        reason: String,
    },
    /// Everything up to this block is on the disk.
    ChainStateFlushed {
        best: BlockHash,
    },
    TipChanged {
        height: u32,
    },
}

/// An event as it waits.
#[derive(Debug)]
pub(super) enum Queued {
    Event(FeedEvent),
    /// A connected block whose body was too much to keep.
    Connected {
        height: u32,
        hash: BlockHash,
    },
    /// Events were lost: look at the chain.
    Resync,
    /// Nothing happened for a while: time for what is due by the clock.
    Idle,
    Stop,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Queued>,
    transactions: usize,
    pushed: u64,
    done: u64,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The end that the node writes to. Cheap to clone; never blocks for long.
#[derive(Clone, Default)]
pub struct ChainFeed {
    shared: Arc<Shared>,
}

impl ChainFeed {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event.
    pub fn notify(&self, event: FeedEvent) {
        let mut queue = self.queue();
        if queue.stopped {
            return;
        }
        if queue.events.len() >= MAX_EVENTS {
            tracing::warn!("wallets fall behind: they will read the chain again");
            let lost = queue.events.len() as u64;
            queue.events.clear();
            queue.transactions = 0;
            queue.done = queue.done.saturating_add(lost);
            queue.events.push_back(Queued::Resync);
            queue.pushed += 1;
        }
        let queued = match event {
            FeedEvent::BlockConnected { height, block }
                if queue.transactions.saturating_add(block.txdata.len()) > MAX_TRANSACTIONS =>
            {
                Queued::Connected { height, hash: block.block_hash() }
            }
            event => {
                if let FeedEvent::BlockConnected { block, .. } = &event {
                    queue.transactions += block.txdata.len();
                }
                Queued::Event(event)
            }
        };
        queue.events.push_back(queued);
        queue.pushed += 1;
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Returns when everything queued before this call has been applied. Blocks.
    pub fn settle(&self) {
        let mut queue = self.queue();
        let goal = queue.pushed;
        while queue.done < goal && !queue.stopped {
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether nothing waits and nothing is being applied.
    pub fn is_settled(&self) -> bool {
        let queue = self.queue();
        queue.done == queue.pushed || queue.stopped
    }

    /// The next event; `None` once stopped. Call [`Self::applied`] after each but [`Queued::Idle`].
    pub(super) fn next(&self) -> Option<Queued> {
        let mut queue = self.queue();
        loop {
            if let Some(event) = queue.events.pop_front() {
                if let Queued::Event(FeedEvent::BlockConnected { block, .. }) = &event {
                    queue.transactions = queue.transactions.saturating_sub(block.txdata.len());
                }
                return match event {
                    Queued::Stop => None,
                    event => Some(event),
                };
            }
            if queue.stopped {
                return None;
            }
            let (guard, wait) = self.shared.changed.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            if wait.timed_out() && queue.events.is_empty() {
                return Some(Queued::Idle);
            }
        }
    }

    pub(super) fn applied(&self) {
        self.queue().done += 1;
        self.shared.changed.notify_all();
    }

    /// Ends the thread that applies, after what is queued; later events are dropped.
    pub(super) fn stop(&self) {
        let mut queue = self.queue();
        queue.events.push_back(Queued::Stop);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// The thread has ended: nobody waits any longer.
    pub(super) fn ended(&self) {
        self.queue().stopped = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn settle_waits_for_what_was_queued_before() {
        let feed = ChainFeed::default();
        feed.settle();
        feed.notify(FeedEvent::TipChanged { height: 1 });
        assert!(!feed.is_settled());
        let waiter = {
            let feed = feed.clone();
            std::thread::spawn(move || feed.settle())
        };
        assert!(feed.next().is_some());
        feed.applied();
        waiter.join().unwrap();
        assert!(feed.is_settled());
    }

    #[test]
    fn after_the_end_nobody_waits() {
        let feed = ChainFeed::default();
        feed.notify(FeedEvent::TipChanged { height: 1 });
        feed.stop();
        assert!(feed.next().is_some());
        assert!(feed.next().is_none());
        feed.ended();
        feed.settle();
    }
}
