//! What guards one share: the operator's policy, the memory of what was signed, and the audit log.
//!
//! Owns their rows in the wallet's database and the one copy in memory; every decision and its log entry are one write.
//! That write is ordered at once and made durable by [`Guard::settle`], which runs before a share leaves. Refuses to
//! open when the log does not end where its head says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::Network;
use serde::{Deserialize, Serialize};
use tss_wallet::audit::{self, AuditError, Entry, Head};
use tss_wallet::policy::{Denial, Facts, Policy, Reservation, SpendBook, Verdict};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::{Family, WalletDb};

use super::approvals::{Approval, Approvals, Asked};
use super::fence::{self, Fence};
use super::holding::HoldingError;

const POLICY_KEY: &[u8] = b"policy";
const SPEND_PREFIX: &[u8] = b"spend/";
const HEAD_KEY: &[u8] = b"audit-head";

/// A policy as it was set: the count of settings, and itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// 0: nobody has set one.
    pub version: u64,
    pub policy: Option<Policy>,
}

/// What a member does about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Sign,
    /// Its operator is asked.
    Wait(Asked),
    Refuse(Denial),
}

pub(super) struct State {
    pub policy: Versioned,
    pub book: SpendBook,
    pub head: Head,
    pub approvals: Approvals,
    pub fence: Fence,
    /// The count of the fence that is on the disk for sure.
    pub settled: u64,
}

/// The guards of one share.
pub struct Guard {
    pub(super) db: Arc<WalletDb>,
    state: Mutex<State>,
}

/// Why a guard cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("the signing policy cannot be read")]
    Policy,
    #[error("the memory of signed requests cannot be read")]
    Book,
    #[error("the audit log is damaged: {0}")]
    Audit(#[from] AuditError),
    #[error("an approval cannot be read")]
    Approval,
    #[error("the count of signatures cannot be read")]
    Fence,
    #[error("it cannot be written")]
    Encode,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, GuardError> {
    postcard::to_allocvec(value).map_err(|_| GuardError::Encode)
}

fn spend_key(request: &[u8; 32]) -> Vec<u8> {
    [SPEND_PREFIX, request.as_slice()].concat()
}

impl Guard {
    /// Reads what is stored; nothing stored is a new wallet.
    pub fn open(db: Arc<WalletDb>, network: Network) -> Result<Self, HoldingError> {
        let damaged = |error: GuardError| HoldingError::Guard(db.path().to_owned(), error);
        let policy = match db.get(Family::Claims, POLICY_KEY)? {
            Some(stored) => postcard::from_bytes(&stored).map_err(|_| damaged(GuardError::Policy))?,
            None => Versioned { version: 0, policy: Policy::default_of(network) },
        };
        let mut book = SpendBook::default();
        for (key, value) in db.rows_with_prefix(Family::Claims, SPEND_PREFIX)? {
            let request = key.strip_prefix(SPEND_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
            let entry = postcard::from_bytes::<Reservation>(&value).ok();
            let (request, entry) = request.zip(entry).ok_or_else(|| damaged(GuardError::Book))?;
            book.insert(request, entry);
        }
        let head = match db.get(Family::Claims, HEAD_KEY)? {
            Some(stored) => postcard::from_bytes(&stored).map_err(|_| damaged(AuditError::Missing(0).into()))?,
            None => Head::EMPTY,
        };
        if let Some(last) = head.entries.checked_sub(1) {
            let stored = db.get(Family::Audit, &audit::key(last))?;
            let stored = stored.ok_or_else(|| damaged(AuditError::Missing(last).into()))?;
            let (hash, _) = audit::read(last, &stored).map_err(|error| damaged(error.into()))?;
            if hash != head.hash {
                return Err(damaged(AuditError::Changed(last).into()));
            }
        }
        let approvals = Approvals::open(&db).map_err(|error| match error {
            super::approvals::OpenError::Store(error) => HoldingError::Store(error),
            super::approvals::OpenError::Damaged => damaged(GuardError::Approval),
        })?;
        let fence = Self::open_fence(&db)?;
        let settled = fence.count();
        Ok(Self { db, state: Mutex::new(State { policy, book, head, approvals, fence, settled }) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: GuardError) -> HoldingError {
        HoldingError::Guard(PathBuf::from(self.db.path()), error)
    }

    pub fn policy(&self) -> Versioned {
        self.state().policy.clone()
    }

    /// Whether the policy wants this member's mempool to take what is signed.
    pub fn wants_acceptance(&self) -> bool {
        self.state().policy.policy.as_ref().is_some_and(|policy| policy.test_acceptance)
    }

    /// Puts a policy in force; durable when this returns. Gives its version.
    pub fn set_policy(&self, policy: Policy, now: u64) -> Result<u64, HoldingError> {
        let mut state = self.state();
        let set = Versioned { version: state.policy.version.saturating_add(1), policy: Some(policy) };
        let entry = Entry {
            time: now,
            kind: audit::Kind::Policy,
            request: None,
            session: None,
            member: None,
            txid: None,
            outcome: "set".to_owned(),
            detail: format!("version {}", set.version),
        };
        let mut batch = Batch::new();
        batch.put(Family::Claims, POLICY_KEY, encode(&set).map_err(|error| self.failed(error))?);
        let head = self.append_to(&mut batch, &state.head, &entry)?;
        self.db.write(&batch, Sync::Yes)?;
        state.head = head;
        state.policy = set;
        Ok(state.policy.version)
    }

    fn append_to(&self, batch: &mut Batch, head: &Head, entry: &Entry) -> Result<Head, HoldingError> {
        let (head, key, value) = audit::row(head, entry).map_err(|error| self.failed(error.into()))?;
        batch.put(Family::Audit, key, value);
        batch.put(Family::Claims, HEAD_KEY, encode(&head).map_err(|error| self.failed(error))?);
        Ok(head)
    }

    /// What the policy of now says, with nothing written.
    pub fn would(&self, facts: &Facts) -> Verdict {
        judge(&self.state(), facts)
    }

    /// Decides about a request and writes down what was decided, with the reservation that a yes is. Durable after
    /// [`Guard::settle`]. `entry` is what the log says of the request; outcome and reason are added here. `ask` is what
    /// the operator is shown where the policy asks.
    pub fn decide(&self, facts: &Facts, mut entry: Entry, ask: Approval) -> Result<Decision, HoldingError> {
        let mut state = self.state();
        let mut batch = Batch::new();
        let (decision, outcome, reason) = match judge(&state, facts) {
            Verdict::Sign { rule } => (Decision::Sign, "sign", format!("rule \"{rule}\"")),
            Verdict::Refuse(denial) => (Decision::Refuse(denial.clone()), "refuse", denial.to_string()),
            Verdict::Ask { rule } => match state.approvals.answer(&facts.request, entry.time) {
                Some(Ok(())) => (Decision::Sign, "sign", format!("approved by the operator, rule \"{rule}\"")),
                Some(Err(reason)) => {
                    let denial = Denial::Rejected(reason);
                    (Decision::Refuse(denial.clone()), "refuse", denial.to_string())
                }
                None => {
                    let ask = Approval { rule: rule.clone(), ..ask };
                    let asked = state.approvals.ask(&mut batch, facts.request, ask);
                    let asked = asked.map_err(|error| self.failed(error))?;
                    (Decision::Wait(asked), "ask", format!("rule \"{rule}\""))
                }
            },
        };
        outcome.clone_into(&mut entry.outcome);
        if !entry.detail.is_empty() {
            entry.detail.push_str("; ");
        }
        entry.detail.push_str(&reason);
        let reservation = if decision == Decision::Sign { reserve(&state, facts) } else { None };
        let mut gone = Vec::new();
        if let Some(reservation) = &reservation {
            let stored = encode(reservation).map_err(|error| self.failed(error))?;
            batch.put(Family::Claims, spend_key(&facts.request), stored);
            if let Some(memory) = state.policy.policy.as_ref().and_then(Policy::memory_seconds) {
                gone = state.book.forget_before(reservation.block_time.saturating_sub(memory));
            }
            for request in &gone {
                batch.delete(Family::Claims, spend_key(request));
            }
        }
        let fence = if decision == Decision::Sign { state.fence.next() } else { state.fence.clone() };
        batch.put(Family::Claims, fence::OWN_KEY, encode(&fence).map_err(|error| self.failed(error))?);
        let head = self.append_to(&mut batch, &state.head, &entry)?;
        self.db.write(&batch, Sync::No)?;
        (state.head, state.fence) = (head, fence);
        if let Some(reservation) = reservation {
            state.book.insert(facts.request, reservation);
        }
        Ok(decision)
    }

    /// Whether the policy of this moment still lets a share leave. An approval that was given holds.
    pub fn still(&self, facts: &Facts) -> Result<(), Denial> {
        let state = self.state();
        match judge(&state, facts) {
            Verdict::Sign { .. } => Ok(()),
            Verdict::Refuse(denial) => Err(denial),
            Verdict::Ask { .. } => match state.approvals.given(&facts.request) {
                Some(Ok(())) => Ok(()),
                Some(Err(reason)) => Err(Denial::Rejected(reason)),
                None => Err(Denial::NoRule),
            },
        }
    }

    /// Returns when every decision taken so far is on the disk.
    pub fn settle(&self) -> Result<(), HoldingError> {
        let count = self.state().fence.count();
        self.db.sync()?;
        let mut state = self.state();
        state.settled = state.settled.max(count);
        Ok(())
    }

    /// How many requests this member has agreed to sign, as far as that is on the disk.
    pub fn settled_count(&self) -> u64 {
        self.state().settled
    }

    /// Adds an entry to the log; durable with the next settled decision.
    pub fn log(&self, entry: &Entry) -> Result<(), HoldingError> {
        let mut state = self.state();
        let mut batch = Batch::new();
        let head = self.append_to(&mut batch, &state.head, entry)?;
        self.db.write(&batch, Sync::No)?;
        state.head = head;
        Ok(())
    }

    /// Writes an answer of the operator with its entry in the log; durable when this returns.
    pub(super) fn write_answer(&self, state: &mut State, mut batch: Batch, entry: &Entry) -> Result<(), HoldingError> {
        let head = self.append_to(&mut batch, &state.head, entry)?;
        self.db.write(&batch, Sync::Yes)?;
        state.head = head;
        Ok(())
    }

    pub fn head(&self) -> Head {
        self.state().head
    }

    /// Entries of the log with their numbers and hashes: the latest `count` but `skip`, oldest first.
    pub fn entries(&self, count: u64, skip: u64) -> Result<Vec<(u64, [u8; 32], Entry)>, HoldingError> {
        let end = self.head().entries.saturating_sub(skip);
        let begin = end.saturating_sub(count);
        (begin..end)
            .map(|number| {
                let stored = self.db.get(Family::Audit, &audit::key(number))?;
                let stored = stored.ok_or_else(|| self.failed(AuditError::Missing(number).into()))?;
                let (hash, entry) = audit::read(number, &stored).map_err(|error| self.failed(error.into()))?;
                Ok((number, hash, entry))
            })
            .collect()
    }

    /// Reads the whole log and checks it. The outer error is the database's.
    pub fn verify(&self) -> Result<(Head, Result<(), AuditError>), HoldingError> {
        let state = self.state();
        let rows = self.db.rows(Family::Audit)?;
        let checked = audit::verify(rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())), &state.head);
        Ok((state.head, checked))
    }
}

fn judge(state: &State, facts: &Facts) -> Verdict {
    match &state.policy.policy {
        Some(policy) => policy.judge(facts, &state.book),
        None => Verdict::Refuse(Denial::NoPolicy),
    }
}

/// What must be remembered of a request that is signed; nothing where no guard would ask for it.
fn reserve(state: &State, facts: &Facts) -> Option<Reservation> {
    state.policy.policy.as_ref()?.memory_seconds()?;
    Reservation::of(facts)
}
