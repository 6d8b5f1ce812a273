//! Payments that nobody waits for (`wait=false`): made on a thread of their own, followed by `listsigningsessions`.
//!
//! Kept in memory: a payment that was not signed when the node stops was never made; one that was is in the wallet.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use keyless_rpc::RpcError;
use keyless_rpc::wallet::backend::{Result, SendNote, SigningSession, SpendRequest};
use rand::RngCore;
use tss_wallet::SessionId;

use super::loaded::Loaded;
use crate::quorum::approvals::OPEN_SECONDS_UNATTENDED;
use crate::quorum::peer_name;
use crate::quorum::sessions::CONCURRENT_SIGNATURES;

/// Payments under way at a time, and ended ones that are still shown.
const MAX_RUNNING: usize = CONCURRENT_SIGNATURES;
const MAX_ENDED: usize = 256;

/// One of them, as it is shown.
#[derive(Debug, Clone)]
pub(super) struct DetachedSend {
    id: String,
    started: u64,
    /// What came of it.
    end: Option<std::result::Result<bitcoin::Txid, String>>,
}

impl Loaded {
    fn detached_sends(&self) -> MutexGuard<'_, VecDeque<DetachedSend>> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a payment and gives the session that makes it.
    pub(super) fn send_later(self: &Arc<Self>, request: SpendRequest, note: SendNote) -> Result<String> {
        let mut id = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut id);
        let id = SessionId(id).to_string();
        {
            let mut sends = self.detached_sends();
            if sends.iter().filter(|row| row.end.is_none()).count() >= MAX_RUNNING {
                return Err(RpcError::wallet("Error: too many payments are under way"));
            }
            let ended = sends.iter().filter(|row| row.end.is_some()).count();
            if let Some(oldest) = sends.iter().position(|row| row.end.is_some()).filter(|_| ended >= MAX_ENDED) {
                sends.remove(oldest);
            }
            sends.push_back(DetachedSend { id: id.clone(), started: self.chain.now(), end: None });
        }
        let (loaded, session) = (Arc::clone(self), id.clone());
        tokio::task::spawn_blocking(move || {
            let sent = loaded.send_request(&request, &note).map_err(|error| loaded.explain(error));
            match &sent {
                Ok(sent) => tracing::info!(wallet = loaded.name, session, txid = %sent.txid, "payment made"),
                Err(error) => tracing::warn!(wallet = loaded.name, session, error = error.message, "payment failed"),
            }
            let end = sent.map(|sent| sent.txid).map_err(|error| error.message);
            if let Some(row) = loaded.detached_sends().iter_mut().find(|row| row.id == session) {
                row.end = Some(end);
            }
            loaded.refill_soon();
        });
        Ok(id)
    }

    /// They as sessions.
    pub(super) fn detached_sessions(&self) -> Vec<SigningSession> {
        let me = self.keys().map(|keys| peer_name(&keys.quorum.core().me())).unwrap_or_default();
        let shown = |row: &DetachedSend| SigningSession {
            id: row.id.clone(),
            kind: "payment".to_owned(),
            state: match &row.end {
                None => "under way",
                Some(Ok(_)) => "done",
                Some(Err(_)) => "failed",
            }
            .to_owned(),
            coordinator: me.clone(),
            signers: Vec::new(),
            txid: row.end.as_ref().and_then(|end| end.as_ref().ok()).copied(),
            started: row.started,
            expires: row.started.saturating_add(OPEN_SECONDS_UNATTENDED),
            waiting_for: Vec::new(),
            error: row.end.as_ref().and_then(|end| end.as_ref().err()).cloned(),
        };
        self.detached_sends().iter().map(shown).collect()
    }
}
