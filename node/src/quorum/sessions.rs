//! The open sessions of one co-signer: where each frame goes, and what `listsigningsessions` shows.
//!
//! A session is one thread that waits at its [`Inbox`]; the table here only hands bytes over and never waits. Frames
//! that come before their session has been opened are kept for a moment: other members may be faster than the
//! coordinator's request. Refuses more sessions, frames and bytes than the named limits, from each peer and in all.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::Txid;
use tss_wallet::{MemberId, SessionId, WalletId};

/// Signatures that a member may coordinate at a time.
pub const CONCURRENT_SIGNATURES: usize = 256;
/// Sessions that one member started: its signatures, and the leases and questions that go with them.
pub const MAX_SESSIONS_PER_PEER: usize = CONCURRENT_SIGNATURES + CONCURRENT_SIGNATURES / 2;
/// Sessions one co-signer takes part in at a time.
pub const MAX_SESSIONS: usize = 4 * CONCURRENT_SIGNATURES;
/// Frames that wait at one session.
const INBOX_FRAMES: usize = 256;
/// Frames of one peer kept for sessions not yet open: those of the first two rounds of as many as it may start.
const EARLY_FRAMES_PER_PEER: usize = 2 * MAX_SESSIONS_PER_PEER;
/// Of these, for one session; of all members together they fit into its inbox.
const EARLY_FRAMES_PER_SESSION: usize = 16;
/// Bytes of all such frames, and of those of one peer.
const EARLY_BYTES: usize = 64 << 20;
const EARLY_BYTES_PER_PEER: usize = 16 << 20;
/// How long they are kept.
const EARLY_AGE: Duration = Duration::from_secs(5);

/// What reaches a session.
#[derive(Debug)]
pub enum Inbound {
    /// An envelope, not yet opened.
    Frame { session: SessionId, from: MemberId, envelope: Vec<u8> },
    /// The connection to a member ended; what was sent may be lost.
    Down(MemberId),
    /// The operator, or the end of the process, wants it to end.
    Stop,
}

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    Probe,
    KeyGeneration,
    Redeal,
    Lease,
    Transaction,
    Message,
}

impl SessionKind {
    /// Takes longer than a user likes to wait in the dark.
    pub const fn is_ceremony(self) -> bool {
        matches!(self, Self::KeyGeneration | Self::Redeal)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::KeyGeneration => "keygeneration",
            Self::Redeal => "redeal",
            Self::Lease => "lease",
            Self::Transaction => "transaction",
            Self::Message => "message",
        }
    }
}

/// One row of `listsigningsessions`.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    pub id: SessionId,
    pub wallet: Option<WalletId>,
    pub kind: SessionKind,
    pub state: &'static str,
    pub coordinator: MemberId,
    pub signers: Vec<MemberId>,
    pub txid: Option<Txid>,
    /// Seconds since the Unix epoch.
    pub started: u64,
    pub expires: u64,
    pub waiting_for: Vec<MemberId>,
}

/// Why no session could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("too many sessions are open")]
    TooMany,
    #[error("this session is open already")]
    Twice,
    #[error("the co-signer is stopping")]
    Stopping,
}

struct Entry {
    info: SessionInfo,
    frames: SyncSender<Inbound>,
}

struct Early {
    session: SessionId,
    from: MemberId,
    envelope: Vec<u8>,
    at: Instant,
}

#[derive(Default)]
struct Table {
    open: HashMap<SessionId, Entry>,
    early: VecDeque<Early>,
    early_bytes: usize,
    stopping: bool,
}

impl Table {
    /// Whether one more early frame may be kept.
    fn has_room_for(&self, id: &SessionId, from: &MemberId, bytes: usize) -> bool {
        let (mut frames, mut of_session, mut of_peer) = (0, 0, bytes);
        for early in self.early.iter().filter(|early| early.from == *from) {
            frames += 1;
            of_session += usize::from(early.session == *id);
            of_peer = of_peer.saturating_add(early.envelope.len());
        }
        frames < EARLY_FRAMES_PER_PEER
            && of_session < EARLY_FRAMES_PER_SESSION
            && of_peer <= EARLY_BYTES_PER_PEER
            && self.early_bytes.saturating_add(bytes) <= EARLY_BYTES
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.early.front() {
            if now.duration_since(oldest.at) < EARLY_AGE && self.early_bytes <= EARLY_BYTES {
                return;
            }
            self.early_bytes = self.early_bytes.saturating_sub(oldest.envelope.len());
            self.early.pop_front();
        }
    }
}

/// The table of open sessions. Clones share it.
#[derive(Clone, Default)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    closed: Condvar,
}

impl Sessions {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session; frames that came early are waiting in its inbox.
    pub fn open(&self, info: SessionInfo) -> Result<Inbox, OpenError> {
        let (sender, frames) = sync_channel(INBOX_FRAMES);
        let id = info.id;
        self.admit(info, &sender)?;
        Ok(Inbox { ids: vec![id], frames, sessions: self.clone() })
    }

    fn admit(&self, info: SessionInfo, frames: &SyncSender<Inbound>) -> Result<(), OpenError> {
        let mut table = self.table();
        if table.stopping {
            return Err(OpenError::Stopping);
        }
        if table.open.contains_key(&info.id) {
            return Err(OpenError::Twice);
        }
        let by_peer = table.open.values().filter(|entry| entry.info.coordinator == info.coordinator).count();
        if table.open.len() >= MAX_SESSIONS || by_peer >= MAX_SESSIONS_PER_PEER {
            return Err(OpenError::TooMany);
        }
        table.forget_old(Instant::now());
        let id = info.id;
        let mut kept = VecDeque::with_capacity(table.early.len());
        for early in std::mem::take(&mut table.early) {
            if early.session == id {
                table.early_bytes = table.early_bytes.saturating_sub(early.envelope.len());
                // The inbox has more room than what all members may send early; what is lost is as if it had not come.
                let _ = frames.try_send(Inbound::Frame { session: id, from: early.from, envelope: early.envelope });
            } else {
                kept.push_back(early);
            }
        }
        table.early = kept;
        table.open.insert(id, Entry { info, frames: frames.clone() });
        Ok(())
    }

    /// How many sessions there are beside the caller's own.
    pub fn others_open(&self) -> u32 {
        // Never more than the limit above.
        u32::try_from(self.table().open.len().saturating_sub(1)).unwrap_or(0)
    }

    pub fn is_open(&self, id: &SessionId) -> bool {
        self.table().open.contains_key(id)
    }

    /// Hands a frame to its session, or keeps it for a moment. A session that does not read is stopped.
    pub fn deliver(&self, id: SessionId, from: MemberId, envelope: Vec<u8>) {
        let mut table = self.table();
        if let Some(entry) = table.open.get(&id) {
            if let Err(TrySendError::Full(_)) = entry.frames.try_send(Inbound::Frame { session: id, from, envelope }) {
                tracing::warn!(session = %id, "a session does not read its frames; dropped");
                table.open.remove(&id);
            }
            return;
        }
        let now = Instant::now();
        if table.has_room_for(&id, &from, envelope.len()) {
            table.early_bytes += envelope.len();
            table.early.push_back(Early { session: id, from, envelope, at: now });
        }
        table.forget_old(now);
    }

    /// Tells every session that a connection ended.
    pub fn peer_down(&self, member: MemberId) {
        let mut table = self.table();
        table.early.retain(|early| early.from != member);
        table.early_bytes = table.early.iter().map(|early| early.envelope.len()).sum();
        for entry in table.open.values() {
            let _ = entry.frames.try_send(Inbound::Down(member));
        }
    }

    /// Asks one session to end. False if there is none of that name.
    pub fn stop(&self, id: &SessionId) -> bool {
        self.table().open.get(id).is_some_and(|entry| entry.frames.try_send(Inbound::Stop).is_ok())
    }

    /// Ends all sessions of a wallet, or all there are and will be. Returns when they are gone, or after `patience`.
    pub fn stop_all(&self, wallet: Option<WalletId>, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut table = self.table();
        table.stopping |= wallet.is_none();
        let concerned = |entry: &Entry| wallet.is_none() || entry.info.wallet == wallet;
        for entry in table.open.values().filter(|entry| concerned(entry)) {
            let _ = entry.frames.try_send(Inbound::Stop);
        }
        while table.open.values().any(concerned) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("sessions are still open at the end of the wait for them");
                return;
            }
            table = self.shared.closed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn list(&self) -> Vec<SessionInfo> {
        let mut rows: Vec<SessionInfo> = self.table().open.values().map(|entry| entry.info.clone()).collect();
        rows.sort_by_key(|row| (row.started, row.id));
        rows
    }
}

/// Where one session waits, or several of one request. They are over when this is dropped.
pub struct Inbox {
    ids: Vec<SessionId>,
    frames: Receiver<Inbound>,
    sessions: Sessions,
}

impl Inbox {
    /// Opens another session that waits here too.
    pub fn open(&mut self, info: SessionInfo) -> Result<(), OpenError> {
        let id = info.id;
        let table = self.sessions.table();
        let frames = self.ids.iter().find_map(|id| table.open.get(id)).map(|entry| entry.frames.clone());
        drop(table);
        // None is left: they were stopped.
        self.sessions.admit(info, &frames.ok_or(OpenError::Stopping)?)?;
        self.ids.push(id);
        Ok(())
    }

    /// Ends one of them.
    pub fn close(&mut self, id: &SessionId) {
        self.ids.retain(|known| known != id);
        self.sessions.table().open.remove(id);
        self.sessions.shared.closed.notify_all();
    }

    /// What comes next, or `None` at the deadline.
    pub fn next(&self, deadline: Instant) -> Option<Inbound> {
        match self.frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(inbound) => Some(inbound),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Inbound::Stop),
        }
    }

    /// Writes down how far the session is; the steps of ceremonies, which take their time, go to the log.
    pub fn note(&self, state: &'static str, waiting_for: impl IntoIterator<Item = MemberId>) {
        let waiting_for: Vec<MemberId> = waiting_for.into_iter().collect();
        for id in &self.ids {
            self.change(id, |info| {
                let news = info.state != state && info.kind.is_ceremony();
                info.state = state;
                info.waiting_for.clone_from(&waiting_for);
                if news {
                    let (kind, waiting_for) = (info.kind.as_str(), info.waiting_for.len());
                    tracing::info!(session = %id, kind, state, waiting_for, "ceremony");
                }
            });
        }
    }

    /// Changes what one of them shows of itself.
    pub fn change(&self, id: &SessionId, change: impl FnOnce(&mut SessionInfo)) {
        if let Some(entry) = self.sessions.table().open.get_mut(id) {
            change(&mut entry.info);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        for id in &self.ids {
            table.open.remove(id);
        }
        drop(table);
        self.sessions.shared.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn session(id: u16) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        SessionId(bytes)
    }

    fn info(id: u16, coordinator: u8) -> SessionInfo {
        SessionInfo {
            id: session(id),
            wallet: None,
            kind: SessionKind::Transaction,
            state: "open",
            coordinator: MemberId([coordinator; 32]),
            signers: Vec::new(),
            txid: None,
            started: 0,
            expires: 0,
            waiting_for: Vec::new(),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn early_frames_reach_the_session_when_it_opens() {
        let sessions = Sessions::default();
        sessions.deliver(session(1), MemberId([2; 32]), vec![7]);
        let inbox = sessions.open(info(1, 9)).unwrap();
        assert!(matches!(inbox.next(soon()), Some(Inbound::Frame { envelope, .. }) if envelope == [7]));
        assert!(inbox.next(soon()).is_none());
    }

    #[test]
    fn a_peer_cannot_open_more_than_its_share() {
        let sessions = Sessions::default();
        let held: Vec<Inbox> =
            (0..MAX_SESSIONS_PER_PEER as u16).map(|id| sessions.open(info(id, 9)).unwrap()).collect();
        assert_eq!(sessions.open(info(2_000, 9)).err(), Some(OpenError::TooMany));
        assert!(sessions.open(info(2_001, 8)).is_ok());
        drop(held);
        assert!(sessions.open(info(2_000, 9)).is_ok());
    }

    #[test]
    fn early_frames_of_a_peer_are_bounded() {
        let sessions = Sessions::default();
        let liar = MemberId([2; 32]);
        for _ in 0..2 * EARLY_FRAMES_PER_SESSION {
            sessions.deliver(session(1), liar, vec![0; 10]);
        }
        assert_eq!(sessions.table().early.len(), EARLY_FRAMES_PER_SESSION);
        for id in 0..2 * EARLY_FRAMES_PER_PEER as u16 {
            sessions.deliver(session(id), liar, vec![0; 10]);
        }
        assert_eq!(sessions.table().early.len(), EARLY_FRAMES_PER_PEER);
        sessions.deliver(session(1), MemberId([3; 32]), vec![0; 10]);
        assert_eq!(sessions.table().early.len(), EARLY_FRAMES_PER_PEER + 1);
        sessions.peer_down(liar);
        assert_eq!(sessions.table().early_bytes, 10);
        for id in 0..3 {
            sessions.deliver(session(id), liar, vec![0; EARLY_BYTES_PER_PEER / 2]);
        }
        assert_eq!(sessions.table().early.len(), 3);
    }

    #[test]
    fn what_came_early_for_every_signature_of_a_coordinator_is_there_when_they_open() {
        let sessions = Sessions::default();
        let ids = 0..CONCURRENT_SIGNATURES as u16;
        for id in ids.clone() {
            sessions.deliver(session(id), MemberId([9; 32]), vec![7; 30_000]);
        }
        let inboxes: Vec<Inbox> = ids.map(|id| sessions.open(info(id, 9)).unwrap()).collect();
        assert!(inboxes.iter().all(|inbox| matches!(inbox.next(soon()), Some(Inbound::Frame { .. }))));
    }

    #[test]
    fn sessions_of_one_request_share_an_inbox_and_end_one_by_one() {
        let sessions = Sessions::default();
        let mut inbox = sessions.open(info(1, 9)).unwrap();
        sessions.deliver(session(2), MemberId([2; 32]), vec![7]);
        inbox.open(info(2, 9)).unwrap();
        assert_eq!(inbox.open(info(2, 9)), Err(OpenError::Twice));
        assert!(matches!(inbox.next(soon()), Some(Inbound::Frame { session: id, .. }) if id == session(2)));
        inbox.close(&session(2));
        assert!(!sessions.is_open(&session(2)) && sessions.is_open(&session(1)));
        drop(inbox);
        assert!(!sessions.is_open(&session(1)));
    }

    #[test]
    fn stopping_ends_sessions_and_refuses_new_ones() {
        let sessions = Sessions::default();
        let inbox = sessions.open(info(1, 9)).unwrap();
        let waiter = std::thread::spawn(move || {
            let stopped = matches!(inbox.next(Instant::now() + Duration::from_secs(5)), Some(Inbound::Stop));
            drop(inbox);
            stopped
        });
        sessions.stop_all(None, Duration::from_secs(5));
        assert!(waiter.join().unwrap());
        assert_eq!(sessions.open(info(1, 9)).err(), Some(OpenError::Stopping));
    }
}
