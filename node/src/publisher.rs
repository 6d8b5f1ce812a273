//! What happens, published by ZMQ as bitcoind publishes it (Core's `doc/zmq.md`), and what waits for the operator.
//!
//! Owns the notifiers of `-zmqpub…` and their sequence numbers. Called on the kernel's notification threads: a publishing
//! socket never waits, it drops what a slow subscriber has no room for. Each message has three parts: topic, body, and
//! the notifier's count, little-endian.
//!
//! | module | holds |
//! | --- | --- |
//! | [`topics`] | the topics, and what each makes of an event |
//! | [`options`] | `-zmqpub…` |
//! | [`sockets`] | one socket for each address |

pub mod options;
mod sockets;
pub mod topics;

use std::sync::{Mutex, MutexGuard, PoisonError};

use bitcoin::{Block, BlockHash, Transaction, Txid};

use self::options::Wanted;
use self::sockets::Sockets;
use self::topics::{Event, Topic};

/// An address could not be bound, or its socket not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{option}={address}: {error}")]
pub struct OpenError {
    option: String,
    address: String,
    error: zmq::Error,
}

/// One `-zmqpub…` at work.
struct Notifier {
    wanted: Wanted,
    /// Of the next message.
    sequence: u32,
}

#[derive(Default)]
struct State {
    notifiers: Vec<Notifier>,
    sockets: Sockets,
    /// The block that was connected last, in consensus encoding: where `rawblock` is wanted.
    last_block: Option<(BlockHash, Vec<u8>)>,
}

/// All notifiers of this node.
#[derive(Default)]
pub struct Publisher {
    state: Mutex<State>,
}

impl Publisher {
    /// Binds every address. As in Core, one that fails ends all.
    pub fn open(wanted: Vec<Wanted>) -> Result<Self, OpenError> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let (major, minor, patch) = zmq::version();
        tracing::debug!(target: "zmq", "version {major}.{minor}.{patch}");
        tracing::debug!(target: "zmq", "Initialize notification interface");
        let mut sockets = Sockets::default();
        for notifier in &wanted {
            let (kind, address) = (notifier.topic.kind(), &notifier.address);
            if let Err(error) = sockets.bind(notifier) {
                tracing::debug!(target: "zmq", "Notifier {kind} failed (address = {address})");
                return Err(OpenError { option: notifier.topic.option(), address: address.clone(), error });
            }
            tracing::debug!(target: "zmq", "Notifier {kind} ready (address = {address})");
        }
        let notifiers = wanted.into_iter().map(|wanted| Notifier { wanted, sequence: 0 }).collect();
        Ok(Self { state: Mutex::new(State { notifiers, sockets, last_block: None }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is told anything.
    pub fn is_silent(&self) -> bool {
        self.state().notifiers.is_empty()
    }

    /// The notifiers that are at work, in the order of `getzmqnotifications`.
    pub fn active(&self) -> Vec<Wanted> {
        self.state().notifiers.iter().map(|notifier| notifier.wanted.clone()).collect()
    }

    /// The active chain has a new tip. `fork`: the last block shared with the chain before.
    pub fn tip_changed(&self, hash: BlockHash, fork: Option<BlockHash>, initial_download: bool) {
        // While blocks are loaded, or were only disconnected, Core says nothing.
        if initial_download || fork == Some(hash) {
            return;
        }
        let mut state = self.state();
        let kept = state.last_block.take();
        let block = kept.as_ref().filter(|(of, _)| *of == hash).map(|(_, block)| block.as_slice());
        // A tip is told after its block.
        if kept.is_some() && block.is_none() {
            tracing::debug!(target: "zmq", "Error: Can't read block from disk, msg: {hash} was not connected last");
        }
        state.publish(&Event::Tip { hash, block });
        state.last_block = kept;
    }

    /// A block of the active chain was connected; `raw` is its consensus encoding.
    pub fn block_connected(&self, block: &Block, raw: Vec<u8>) {
        let mut state = self.state();
        if state.notifiers.iter().any(|notifier| notifier.wanted.topic == Topic::RawBlock) {
            state.last_block = Some((block.block_hash(), raw));
        }
        state.publish_block(block, &Event::Connected(block.block_hash()));
    }

    /// A block of the active chain was disconnected.
    pub fn block_disconnected(&self, block: &Block) {
        self.state().publish_block(block, &Event::Disconnected(block.block_hash()));
    }

    /// A transaction came into the mempool, whose count this is.
    pub fn transaction_added(&self, transaction: &Transaction, txid: Txid, mempool_sequence: u64) {
        let mut state = self.state();
        state.publish(&Event::Transaction { transaction, txid });
        state.publish(&Event::Added { txid, mempool_sequence });
    }

    /// A transaction left the mempool, but not by a block.
    pub fn transaction_removed(&self, txid: Txid, mempool_sequence: u64) {
        self.state().publish(&Event::Removed { txid, mempool_sequence });
    }

    /// A request begins to wait for this node's operator; the body is JSON.
    pub fn approval_wanted(&self, id: &str, body: &[u8]) {
        self.state().publish(&Event::ApprovalWanted { id, body });
    }

    /// Closes all sockets. What nobody has read is dropped.
    pub fn close(&self) {
        let mut state = self.state();
        if state.notifiers.is_empty() {
            return;
        }
        tracing::debug!(target: "zmq", "Shutdown notification interface");
        for notifier in &state.notifiers {
            let (kind, address) = (notifier.wanted.topic.kind(), &notifier.wanted.address);
            tracing::debug!(target: "zmq", "Shutdown notifier {kind} at {address}");
        }
        *state = State::default();
    }
}

impl State {
    /// All transactions of a block, then itself.
    fn publish_block(&mut self, block: &Block, event: &Event<'_>) {
        if self.notifiers.is_empty() {
            return;
        }
        for transaction in &block.txdata {
            self.publish(&Event::Transaction { transaction, txid: transaction.compute_txid() });
        }
        self.publish(event);
    }

    fn publish(&mut self, event: &Event<'_>) {
        let Self { notifiers, sockets, .. } = self;
        let before = notifiers.len();
        notifiers.retain_mut(|notifier| notifier.publish(sockets, event));
        if notifiers.len() < before {
            sockets.keep(|address| notifiers.iter().any(|notifier| notifier.wanted.address == *address));
        }
    }
}

impl Notifier {
    /// False if its socket is of no use any more.
    fn publish(&mut self, sockets: &Sockets, event: &Event<'_>) -> bool {
        let (topic, address) = (self.wanted.topic, &self.wanted.address);
        let Some(body) = topic.body(event) else { return true };
        tracing::debug!(target: "zmq", "Publish {} to {address}", topic.described(event));
        if let Err(error) = sockets.send(address, topic.name(), &body, self.sequence) {
            tracing::debug!(target: "zmq", "Error: Unable to send ZMQ msg, msg: {error}");
            return false;
        }
        self.sequence = self.sequence.wrapping_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn wanted(address: &str, high_water_mark: i32) -> Wanted {
        Wanted { topic: Topic::PendingApproval, address: address.to_owned(), high_water_mark }
    }

    fn subscriber(address: &str) -> zmq::Socket {
        let socket = zmq::Context::new().socket(zmq::SUB).unwrap();
        socket.set_rcvhwm(1).unwrap();
        socket.set_rcvtimeo(1_000).unwrap();
        socket.set_subscribe(b"").unwrap();
        socket.connect(address).unwrap();
        socket
    }

    fn count_of(parts: &[Vec<u8>]) -> u32 {
        u32::from_le_bytes(parts[2].clone().try_into().unwrap())
    }

    #[test]
    fn a_subscriber_that_does_not_read_misses_messages_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("ipc://{}", folder.path().join("slow").display());
        let publisher = Publisher::open(vec![wanted(&address, 3)]).unwrap();
        let slow = subscriber(&address);
        let deadline = Instant::now() + Duration::from_secs(20);
        slow.set_rcvtimeo(20).unwrap();
        while slow.recv_multipart(0).is_err() {
            assert!(Instant::now() < deadline, "the subscription does not arrive");
            publisher.approval_wanted("0", b"{}");
        }
        slow.set_rcvtimeo(1_000).unwrap();
        let body = vec![b' '; 100_000];
        let started = Instant::now();
        const SENT: u32 = 2_000;
        for _ in 0..SENT {
            publisher.approval_wanted("1", &body);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let mut counts = Vec::new();
        while let Ok(parts) = slow.recv_multipart(0) {
            if parts[1].len() == body.len() {
                counts.push(count_of(&parts));
            }
        }
        assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
        assert!(counts.len() < 200, "200 MB were kept for it: {}", counts.len());
        publisher.approval_wanted("2", b"{}");
        let last = slow.recv_multipart(0).unwrap();
        assert!(count_of(&last) - counts.last().unwrap() > 1, "the numbers tell what it missed");
        publisher.close();
        assert!(publisher.is_silent());
    }

    #[test]
    fn one_address_that_fails_ends_all_and_frees_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let good = format!("ipc://{}", folder.path().join("good").display());
        let error = Publisher::open(vec![wanted(&good, 1), wanted("foo", 1)]).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "-zmqpubpendingapproval=foo: Invalid argument");
        let twice = Publisher::open(vec![wanted(&good, 1), wanted(&good, 2)]).unwrap();
        assert_eq!(twice.active().len(), 2);
    }
}
