//! The work queue: so many calls run, so many wait, the rest are turned away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds the calls under way, as Core's `-rpcthreads` and `-rpcworkqueue` do.
pub struct Gate {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    depth: usize,
}

impl Gate {
    pub fn new(threads: usize, depth: usize) -> Gate {
        Gate { running: Arc::new(Semaphore::new(threads.max(1))), waiting: AtomicUsize::new(0), depth: depth.max(1) }
    }

    /// A place among those that run, after waiting for one; `None` when the queue is full.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.running).try_acquire_owned() {
            return Some(place);
        }
        let _waiting = Waiting::join(&self.waiting, self.depth)?;
        Arc::clone(&self.running).acquire_owned().await.ok()
    }
}

/// A place in the queue, given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn join(count: &AtomicUsize, depth: usize) -> Option<Waiting<'_>> {
        let joined = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < depth).then_some(n + 1));
        // Not made where there is none: dropping it would give back a place that was never taken.
        joined.is_ok().then(|| Waiting(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_queue_turns_away_what_is_beyond_its_depth() {
        let gate = Arc::new(Gate::new(1, 1));
        let first = gate.enter().await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.is_some() }
        });
        while gate.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            assert!(gate.enter().await.is_none());
        }
        drop(first);
        assert!(second.await.unwrap());
        assert!(gate.enter().await.is_some());
    }
}
