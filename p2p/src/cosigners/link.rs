//! One logical connection to a member: hello, then frames both ways until it ends.
//!
//! A link is a task that ends with a reason. Reading and writing are two futures of that task that
//! never wait for each other: a peer that does not read costs only its own link, and one that is
//! silent is noticed while we write. Every wait here has a deadline from `limits`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream};
use libp2p_stream::{Control as StreamControl, OpenStreamError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use super::carrier::{DownReason, Event};
use super::config::Hello;
use super::events::EventSender;
use super::limits::{
    GOODBYE_DEADLINE, HEIGHT_INTERVAL, HELLO_DEADLINE, PING_INTERVAL, PONG_QUEUE, REFUSAL_LINGER, SILENCE_LIMIT,
    STALL_SIGN, WRITE_DEADLINE,
};
use super::shared::{Queued, Shared};
use super::swarm::PROTOCOL;
use super::wire::{self, Control, HEADER_BYTES, PAYLOAD, PeerHello};

/// Bodies are read, and small frames gathered, in pieces of this size: an announced length alone
/// allocates nothing.
const PIECE_BYTES: usize = 64 * 1024;

/// Who opened the stream. The member with the lower PeerId always opens, so that two who dial each
/// other at once still end with one link.
pub(crate) enum Origin {
    Open(StreamControl),
    Accepted(Stream),
}

pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
    pub(crate) hello: Arc<Hello>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: EventSender,
    /// Ends the link with that reason.
    pub(crate) stop: oneshot::Receiver<DownReason>,
    /// Resolves when the link that this one replaces has told its end.
    pub(crate) previous: Option<oneshot::Receiver<()>>,
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) peer: PeerId,
    pub(crate) generation: u64,
    pub(crate) reason: DownReason,
    pub(crate) was_up: bool,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Link {
    /// Runs to the end of the link. `_done` is dropped then, after the last event was sent.
    pub(crate) async fn run(self, _done: oneshot::Sender<()>) -> Ended {
        let Self { peer, generation, origin, hello, shared, events, mut stop, previous } = self;
        let ended = |reason, was_up| Ended { peer, generation, reason, was_up };
        let height = *shared.height().borrow();
        let established = tokio::select! {
            biased;
            reason = &mut stop => Err(reason.unwrap_or(DownReason::ShuttingDown)),
            result = establish(peer, origin, &hello, height) => result,
        };
        let (stream, their_hello) = match established {
            Ok(established) => established,
            Err(reason) => return ended(reason, false),
        };
        if let Some(previous) = previous {
            // Its sender is never used: it resolves when dropped.
            let _ = previous.await;
        }
        let (version, blocks) = (their_hello.version.clone(), their_hello.height);
        let Some(queue) = shared.up(&peer, generation, their_hello) else {
            return ended(DownReason::Removed, false);
        };
        info!(%peer, version, blocks, "co-signer is online");
        let reason = match events.send(Event::Up(peer)).await {
            Ok(()) => carry(peer, stream, queue, &shared, &events, &mut stop).await,
            Err(_) => DownReason::ShuttingDown,
        };
        shared.down(&peer, generation, reason.clone());
        // If nobody listens any more, nobody needs to know.
        let _ = events.send(Event::Down(peer, reason.clone())).await;
        ended(reason, true)
    }
}

/// Opens or takes the stream and exchanges hellos.
async fn establish(peer: PeerId, origin: Origin, ours: &Hello, height: u32) -> Result<(Stream, PeerHello), DownReason> {
    let no_hello = || DownReason::NoHello(millis(HELLO_DEADLINE));
    let mut stream = match origin {
        Origin::Accepted(stream) => stream,
        Origin::Open(mut control) => {
            let opening = timeout(HELLO_DEADLINE, control.open_stream(peer, PROTOCOL));
            match opening.await.map_err(|_| no_hello())? {
                Ok(stream) => stream,
                Err(OpenStreamError::UnsupportedProtocol(_)) => {
                    return Err(DownReason::BadFrame("the peer is no co-signer".to_owned()));
                }
                Err(_) => return Err(DownReason::ClosedBeforeHello),
            }
        }
    };
    let greeting = timeout(HELLO_DEADLINE, greet(&mut stream, ours, height));
    let checked = greeting.await.map_err(|_| no_hello())?;
    match checked {
        Ok(hello) => Ok((stream, hello)),
        Err(reason) => {
            if reason.is_refusal() {
                let_the_peer_read(&mut stream).await;
            }
            Err(reason)
        }
    }
}

async fn greet(stream: &mut Stream, ours: &Hello, height: u32) -> Result<PeerHello, DownReason> {
    let closed = |_: std::io::Error| DownReason::ClosedBeforeHello;
    stream.write_all(&wire::encode_hello(ours, height)).await.map_err(closed)?;
    stream.flush().await.map_err(closed)?;
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(closed)?;
    let header = wire::decode_header(header)?;
    if header.kind == PAYLOAD {
        return Err(DownReason::BadFrame("no hello at the start".to_owned()));
    }
    let mut body = vec![0; header.body_bytes];
    stream.read_exact(&mut body).await.map_err(closed)?;
    wire::check_hello(header.kind, &body, ours)
}

/// Both sides find the same difference in each other's hello, if both can read it: close our half
/// and wait a moment for the other's.
async fn let_the_peer_read(stream: &mut Stream) {
    let lingering = async {
        stream.close().await?;
        let mut sink = [0; 256];
        while stream.read(&mut sink).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    // Neither an error nor the deadline changes the verdict.
    let _ = timeout(REFUSAL_LINGER, lingering).await;
}

async fn carry(
    peer: PeerId,
    stream: Stream,
    queue: mpsc::Receiver<Queued>,
    shared: &Shared,
    events: &EventSender,
    stop: &mut oneshot::Receiver<DownReason>,
) -> DownReason {
    let (read, mut write) = stream.split();
    let mut read = BufReader::with_capacity(PIECE_BYTES, read);
    let (pongs, pending_pongs) = mpsc::channel(PONG_QUEUE);
    let last_ping = Mutex::new(None);
    let mid_frame = AtomicBool::new(false);
    let reason = {
        let receiver = Receiver { peer, stream: &mut read, shared, events, pongs, last_ping: &last_ping };
        let transmitter = Transmitter {
            stream: &mut write,
            queue,
            pongs: pending_pongs,
            height: shared.height(),
            last_ping: &last_ping,
            mid_frame: &mid_frame,
        };
        tokio::select! {
            biased;
            reason = stop => reason.unwrap_or(DownReason::ShuttingDown),
            reason = receiver.run() => reason,
            reason = transmitter.run() => reason,
        }
    };
    let polite = matches!(reason, DownReason::ShuttingDown | DownReason::Removed);
    if polite && !mid_frame.load(Ordering::Relaxed) {
        let goodbye = async {
            write.write_all(&Control::Goodbye.encode()).await?;
            write.close().await?;
            // Closing a socket with data unread resets it, and a reset overtakes the goodbye: wait
            // until the peer has closed its half.
            let mut sink = [0; 1024];
            while read.read(&mut sink).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        // A peer that cannot be told notices the closed connection.
        let _ = timeout(GOODBYE_DEADLINE, goodbye).await;
    }
    reason
}

/// The ping that waits for its pong.
type LastPing = Mutex<Option<(u64, Instant)>>;

struct Receiver<'a> {
    peer: PeerId,
    stream: &'a mut BufReader<ReadHalf<Stream>>,
    shared: &'a Shared,
    events: &'a EventSender,
    pongs: mpsc::Sender<u64>,
    last_ping: &'a LastPing,
}

impl Receiver<'_> {
    async fn run(mut self) -> DownReason {
        loop {
            if let Err(reason) = self.frame().await {
                return reason;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), DownReason> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header).await?;
        let header = wire::decode_header(header)?;
        let mut body = Vec::new();
        while body.len() < header.body_bytes {
            let start = body.len();
            body.resize(header.body_bytes.min(start.saturating_add(PIECE_BYTES)), 0);
            self.fill(body.get_mut(start..).unwrap_or_default()).await?;
        }
        if header.kind == PAYLOAD {
            self.shared.heard(&self.peer, None, None);
            return self.events.frame(self.peer, body).await.map_err(|_| DownReason::ShuttingDown);
        }
        match Control::decode(header.kind, &body)? {
            Control::Ping { nonce, height } => {
                self.shared.heard(&self.peer, Some(height), None);
                // A peer that pings faster than it reads gets fewer answers.
                let _ = self.pongs.try_send(nonce);
            }
            Control::Pong { nonce } => {
                let sent = self.last_ping.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
                let latency = sent.filter(|(expected, _)| *expected == nonce).map(|(_, at)| at.elapsed());
                self.shared.heard(&self.peer, None, latency);
            }
            Control::Goodbye => return Err(DownReason::PeerStopped),
        }
        Ok(())
    }

    /// Fills the buffer; each byte that arrives shows that the peer lives.
    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), DownReason> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let asked = Instant::now();
            match timeout(SILENCE_LIMIT, self.stream.read(rest)).await {
                // The alarm itself came late: this process stood still, the peer may not have.
                Err(_) if asked.elapsed() > SILENCE_LIMIT + STALL_SIGN => {}
                Err(_) => return Err(DownReason::Silent(millis(SILENCE_LIMIT))),
                Ok(Ok(0) | Err(_)) => return Err(DownReason::ConnectionLost),
                Ok(Ok(count)) => filled += count,
            }
        }
        Ok(())
    }
}

struct Transmitter<'a> {
    stream: &'a mut WriteHalf<Stream>,
    queue: mpsc::Receiver<Queued>,
    pongs: mpsc::Receiver<u64>,
    height: watch::Receiver<u32>,
    last_ping: &'a LastPing,
    /// Set while a frame is partly written.
    mid_frame: &'a AtomicBool,
}

impl Transmitter<'_> {
    async fn run(mut self) -> DownReason {
        let mut nonce = 0u64;
        let mut last = Instant::now();
        let mut next = last;
        loop {
            let sent = tokio::select! {
                biased;
                Some(nonce) = self.pongs.recv() => self.write(&Control::Pong { nonce }.encode()).await,
                () = sleep_until(next) => {
                    nonce = nonce.wrapping_add(1);
                    last = Instant::now();
                    next = last + PING_INTERVAL;
                    self.ping(nonce).await
                }
                Ok(()) = self.height.changed() => {
                    next = next.min(last + HEIGHT_INTERVAL);
                    continue;
                }
                queued = self.queue.recv() => match queued {
                    Some(queued) => self.payloads(queued).await,
                    None => Err(DownReason::Removed),
                },
            };
            if let Err(reason) = sent {
                return reason;
            }
            if let Err(reason) = self.flush().await {
                return reason;
            }
        }
    }

    async fn ping(&mut self, nonce: u64) -> Result<(), DownReason> {
        let height = *self.height.borrow_and_update();
        *self.last_ping.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((nonce, Instant::now()));
        self.write(&Control::Ping { nonce, height }.encode()).await
    }

    /// Writes this frame and those that wait behind it, small ones in one piece.
    async fn payloads(&mut self, first: Queued) -> Result<(), DownReason> {
        let mut gathered = Vec::new();
        let mut next = Some(first);
        while let Some(queued) = next {
            gathered.extend_from_slice(&wire::payload_header(queued.bytes.len()));
            if queued.bytes.len() > PIECE_BYTES {
                self.write(&gathered).await?;
                gathered.clear();
                self.mid_frame.store(true, Ordering::Relaxed);
                self.write(&queued.bytes).await?;
            } else {
                gathered.extend_from_slice(&queued.bytes);
            }
            next = if gathered.len() < PIECE_BYTES { self.queue.try_recv().ok() } else { None };
        }
        self.write(&gathered).await
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), DownReason> {
        self.mid_frame.store(true, Ordering::Relaxed);
        while !bytes.is_empty() {
            match timeout(WRITE_DEADLINE, self.stream.write(bytes)).await {
                Err(_) => return Err(DownReason::NotReading(millis(WRITE_DEADLINE))),
                Ok(Ok(0) | Err(_)) => return Err(DownReason::ConnectionLost),
                Ok(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
            }
        }
        self.mid_frame.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DownReason> {
        match timeout(WRITE_DEADLINE, self.stream.flush()).await {
            Err(_) => Err(DownReason::NotReading(millis(WRITE_DEADLINE))),
            Ok(Err(_)) => Err(DownReason::ConnectionLost),
            Ok(Ok(())) => Ok(()),
        }
    }
}
