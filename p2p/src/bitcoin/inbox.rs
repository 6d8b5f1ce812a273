//! The owner's queue for commands and chain events: bounded, and never blocking for those who fill it.
//!
//! Chain events come from threads that validation waits for, so a full queue must not hold them up: tips
//! replace each other, and of transactions the oldest are forgotten (they stay in the mempool).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::chain::ChainEvent;
use super::handle::Command;

/// Commands waiting at once; further callers are refused.
const MAX_COMMANDS: usize = 1_024;
/// Chain events waiting at once; the oldest go first.
const MAX_EVENTS: usize = 50_000;

#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<Command>,
    events: VecDeque<ChainEvent>,
    stopping: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    pub(crate) wake: Notify,
}

impl Inbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the command was refused: the network stops, or too many wait.
    pub(crate) fn command(&self, command: Command) -> bool {
        {
            let mut waiting = self.lock();
            if waiting.stopping || waiting.commands.len() >= MAX_COMMANDS {
                return false;
            }
            waiting.commands.push_back(command);
        }
        self.wake.notify_one();
        true
    }

    pub(crate) fn event(&self, event: ChainEvent) {
        {
            let mut waiting = self.lock();
            if waiting.stopping {
                return;
            }
            if matches!(event, ChainEvent::TipChanged { .. })
                && let Some(last @ ChainEvent::TipChanged { .. }) = waiting.events.back_mut()
            {
                *last = event;
                return;
            }
            if waiting.events.len() >= MAX_EVENTS {
                waiting.events.pop_front();
            }
            waiting.events.push_back(event);
        }
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        let mut waiting = self.lock();
        waiting.stopping = true;
        waiting.commands.clear();
        waiting.events.clear();
        drop(waiting);
        self.wake.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(crate) fn take_command(&self) -> Option<Command> {
        self.lock().commands.pop_front()
    }

    pub(crate) fn take_event(&self) -> Option<ChainEvent> {
        self.lock().events.pop_front()
    }
}
