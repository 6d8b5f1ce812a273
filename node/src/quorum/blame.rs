//! Whom this member accuses, of what, and with what proof.
//!
//! Owns the rows of accusations. A malformed message or an invalid share is shown by the envelopes that its sender
//! signed; a ban rests on this member's private state and stays an accusation. Silence is never one. Keeps the latest of
//! them up to the named limit.

use serde::{Deserialize, Serialize};
use tss_wallet::audit::{self, Entry};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, MemberId, SessionId, SignError};

use super::guard::encode;
use super::holding::{Holding, HoldingError};
use super::judge;
use crate::metrics::metrics;

const PREFIX: &[u8] = b"blame/";
/// Accusations that are kept; the oldest go first.
const MAX_KEPT: usize = 1_000;

/// One accusation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    pub member: MemberId,
    pub kind: String,
    pub session: SessionId,
    /// Seconds since 1970.
    pub time: u64,
    pub reason: String,
    /// Signed envelopes of the session, as they came.
    pub evidence: Vec<Vec<u8>>,
}

/// What a failure accuses its culprit of; none where nobody is accused.
pub fn kind_of(error: &SignError) -> Option<&'static str> {
    match error {
        SignError::Malformed { .. } => Some("malformed"),
        SignError::InvalidShare { .. } => Some("invalid share"),
        SignError::Ban { .. } => Some("failed check"),
        _ => None,
    }
}

/// Writes an accusation down, in the log too.
pub fn accuse(holding: &Holding, accusation: &Accusation) -> Result<(), HoldingError> {
    let db = holding.db();
    let rows = db.rows_with_prefix(Family::Claims, PREFIX)?;
    let mut batch = Batch::new();
    for (key, _) in rows.iter().take(rows.len().saturating_sub(MAX_KEPT - 1)) {
        batch.delete(Family::Claims, key.as_slice());
    }
    let key = [PREFIX, &accusation.time.to_be_bytes(), accusation.session.as_bytes(), accusation.member.as_bytes()];
    let stored = encode(accusation).map_err(|error| HoldingError::Guard(db.path().to_owned(), error))?;
    batch.put(Family::Claims, key.concat(), stored);
    db.write(&batch, Sync::Yes)?;
    let entry = Entry {
        time: accusation.time,
        kind: audit::Kind::Blame,
        request: None,
        session: Some(accusation.session),
        member: Some(accusation.member),
        txid: None,
        outcome: accusation.kind.clone(),
        detail: accusation.reason.clone(),
    };
    judge::note(holding, &entry);
    metrics().blame(&accusation.kind);
    Ok(())
}

/// All that are kept, oldest first.
pub fn accusations(holding: &Holding) -> Result<Vec<Accusation>, HoldingError> {
    let rows = holding.db().rows_with_prefix(Family::Claims, PREFIX)?;
    Ok(rows.iter().filter_map(|(_, value)| postcard::from_bytes(value).ok()).collect())
}
