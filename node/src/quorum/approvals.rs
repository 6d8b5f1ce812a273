//! Requests that wait for this member's operator, and what the operator said.
//!
//! Owns their rows. An answer binds to the request id, so to one transaction; it is durable before anyone hears of it,
//! and it holds until it expires. Refuses more open questions than the named limit.

use std::collections::BTreeMap;

use bitcoin::hex::DisplayHex;
use bitcoin::{Amount, ScriptBuf, Txid};
use keyless_rpc::wallet::backend::{self, PendingApproval};
use serde::{Deserialize, Serialize};
use tss_wallet::audit::{self, Entry};
use tss_wallet::store::{Batch, StoreError};
use tss_wallet::{Family, MemberId, WalletDb};

use super::core::Core;
use super::error::peer_name;
use super::guard::{Guard, GuardError, encode};
use super::holding::{Holding, HoldingError};

/// Questions that may be open at a time.
pub const MAX_OPEN: usize = 256;
/// How long a question stays open: below the 900 s after which bitcoin-cli gives up.
pub const OPEN_SECONDS: u64 = 850;
/// How long a question of a session that nobody waits for stays open.
pub const OPEN_SECONDS_UNATTENDED: u64 = 24 * 60 * 60;
/// Answers are forgotten so long after they expired.
const KEEP_SECONDS: u64 = 24 * 60 * 60;

const PREFIX: &[u8] = b"approval/";

/// A payment as the operator is shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The script it goes to, and satoshi.
    pub script: Vec<u8>,
    pub sat: u64,
}

/// What the operator said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Approved,
    Rejected(String),
}

/// One question, and its answer once there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who asked.
    pub coordinator: MemberId,
    pub txid: Option<Txid>,
    /// The transaction without its signatures, in consensus encoding.
    pub transaction: Vec<u8>,
    /// The text of a message.
    pub text: String,
    pub payments: Vec<Payment>,
    /// Proven change, in satoshi.
    pub change_sat: u64,
    pub fee_sat: Option<u64>,
    /// Members that had agreed when the question came.
    pub agreed: Vec<MemberId>,
    /// The rule that asks.
    pub rule: String,
    /// Seconds since 1970.
    pub asked: u64,
    pub expires: u64,
    pub answer: Option<Answer>,
}

impl Approval {
    /// A question that is asked now and stays open for so long, with nothing in it yet but who asks and by which rule.
    pub fn new(coordinator: MemberId, rule: &str, now: u64, open_seconds: u64) -> Self {
        Self {
            coordinator,
            txid: None,
            transaction: Vec::new(),
            text: String::new(),
            payments: Vec::new(),
            change_sat: 0,
            fee_sat: None,
            agreed: Vec::new(),
            rule: rule.to_owned(),
            asked: now,
            expires: now.saturating_add(open_seconds.clamp(1, OPEN_SECONDS_UNATTENDED)),
            answer: None,
        }
    }
}

/// A question as it stands after it was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub expires: u64,
    /// It was not open before.
    pub opened: bool,
}

/// What the operator says to a question about the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Answered(Result<(), String>),
    /// Nothing yet.
    Waits(Asked),
}

/// Why they could not be read.
pub(super) enum OpenError {
    Store(StoreError),
    Damaged,
}

/// All of one wallet.
#[derive(Debug, Default)]
pub(super) struct Approvals {
    all: BTreeMap<[u8; 32], Approval>,
}

/// Why the operator's answer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("no such request is waiting for an approval")]
    Unknown,
    #[error("the request has expired")]
    Expired,
    #[error(transparent)]
    Holding(#[from] HoldingError),
}

fn row_key(request: &[u8; 32]) -> Vec<u8> {
    [PREFIX, request.as_slice()].concat()
}

impl Approvals {
    pub fn open(db: &WalletDb) -> Result<Self, OpenError> {
        let mut all = BTreeMap::new();
        for (key, value) in db.rows_with_prefix(Family::Claims, PREFIX).map_err(OpenError::Store)? {
            let request = key.strip_prefix(PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
            let approval = postcard::from_bytes(&value).ok();
            let (request, approval) = request.zip(approval).ok_or(OpenError::Damaged)?;
            all.insert(request, approval);
        }
        Ok(Self { all })
    }

    /// The operator's answer, while it holds.
    pub fn answer(&self, request: &[u8; 32], now: u64) -> Option<Result<(), String>> {
        let approval = self.all.get(request).filter(|approval| approval.expires > now)?;
        approval.answer.as_ref().map(as_result)
    }

    /// The same for a request that was begun while it held.
    pub fn given(&self, request: &[u8; 32]) -> Option<Result<(), String>> {
        self.all.get(request)?.answer.as_ref().map(as_result)
    }

    /// Opens a question, or leaves the one that is open.
    pub fn ask(&mut self, batch: &mut Batch, request: [u8; 32], ask: Approval) -> Result<Asked, GuardError> {
        let now = ask.asked;
        let old = |approval: &Approval| approval.expires.saturating_add(KEEP_SECONDS) <= now;
        for key in self.all.iter().filter(|(_, approval)| old(approval)).map(|(key, _)| *key).collect::<Vec<_>>() {
            self.all.remove(&key);
            batch.delete(Family::Claims, row_key(&key));
        }
        let open = |approval: &&Approval| approval.answer.is_none() && approval.expires > now;
        if let Some(known) = self.all.get_mut(&request).filter(|known| open(&&**known)) {
            known.agreed = ask.agreed;
            return Ok(Asked { expires: known.expires, opened: false });
        }
        if self.all.values().filter(open).count() >= MAX_OPEN {
            return Err(GuardError::Approval);
        }
        batch.put(Family::Claims, row_key(&request), encode(&ask)?);
        let expires = ask.expires;
        self.all.insert(request, ask);
        Ok(Asked { expires, opened: true })
    }
}

fn as_result(answer: &Answer) -> Result<(), String> {
    match answer {
        Answer::Approved => Ok(()),
        Answer::Rejected(reason) => Err(reason.clone()),
    }
}

/// Tells the operator of a question that was opened.
pub(super) fn announce(core: &Core, holding: &Holding, request: &[u8; 32]) {
    core.alerts().tell(holding.name(), || {
        let question = holding.guard().question(request)?;
        Some(pending(core, request, &question))
    });
}

/// A question as RPC and the operator's other channels show it.
pub fn pending(core: &Core, id: &[u8; 32], approval: &Approval) -> PendingApproval {
    let shown = |payment: &Payment| backend::Payment {
        script: ScriptBuf::from_bytes(payment.script.clone()),
        amount: Amount::from_sat(payment.sat),
    };
    PendingApproval {
        id: id.to_lower_hex_string(),
        member: peer_name(&core.me()),
        coordinator: peer_name(&approval.coordinator),
        txid: approval.txid,
        transaction: approval.transaction.clone(),
        text: approval.txid.is_none().then(|| approval.text.clone()),
        payments: approval.payments.iter().map(shown).collect(),
        change: Amount::from_sat(approval.change_sat),
        fee: approval.fee_sat.map(Amount::from_sat),
        agreed: approval.agreed.iter().map(peer_name).collect(),
        rule: approval.rule.clone(),
        asked: approval.asked,
        expires: approval.expires,
    }
}

impl Guard {
    /// The operator's answer to a question about the roster; the question is put and logged where there is none yet.
    pub(super) fn ask_operator(&self, request: [u8; 32], ask: Approval) -> Result<Said, HoldingError> {
        let mut state = self.state();
        if let Some(answer) = state.approvals.answer(&request, ask.asked) {
            return Ok(Said::Answered(answer));
        }
        let known = state.approvals.all.get(&request).filter(|known| known.expires > ask.asked);
        if let Some(known) = known {
            return Ok(Said::Waits(Asked { expires: known.expires, opened: false }));
        }
        let entry = Entry {
            time: ask.asked,
            kind: audit::Kind::Shares,
            request: Some(request),
            session: None,
            member: Some(ask.coordinator),
            txid: None,
            outcome: "ask".to_owned(),
            detail: ask.text.clone(),
        };
        let mut batch = Batch::new();
        let asked = state.approvals.ask(&mut batch, request, ask);
        let asked = asked.map_err(|error| HoldingError::Guard(self.db.path().to_owned(), error))?;
        self.write_answer(&mut state, batch, &entry)?;
        Ok(Said::Waits(asked))
    }

    /// A question that has no answer yet.
    fn question(&self, request: &[u8; 32]) -> Option<Approval> {
        let state = self.state();
        state.approvals.all.get(request).filter(|row| row.answer.is_none()).cloned()
    }

    /// Questions that are open now.
    pub fn open_questions(&self, now: u64) -> Vec<([u8; 32], Approval)> {
        let state = self.state();
        let open = state.approvals.all.iter().filter(|(_, row)| row.answer.is_none() && row.expires > now);
        open.map(|(request, row)| (*request, row.clone())).collect()
    }

    /// Takes the operator's answer; durable when this returns. Gives what was asked.
    pub fn answer(&self, request: &[u8; 32], answer: Answer, now: u64) -> Result<Approval, AnswerError> {
        let mut state = self.state();
        let row = state.approvals.all.get(request).filter(|row| row.answer.is_none()).ok_or(AnswerError::Unknown)?;
        if row.expires <= now {
            return Err(AnswerError::Expired);
        }
        let (outcome, detail) = match &answer {
            Answer::Approved => ("approve", String::new()),
            Answer::Rejected(reason) => ("reject", reason.clone()),
        };
        let entry = Entry {
            time: now,
            kind: audit::Kind::Approval,
            request: Some(*request),
            session: None,
            member: Some(row.coordinator),
            txid: row.txid,
            outcome: outcome.to_owned(),
            detail,
        };
        let answered = Approval { answer: Some(answer), ..row.clone() };
        let mut batch = Batch::new();
        let stored = encode(&answered).map_err(|_| AnswerError::Unknown)?;
        batch.put(Family::Claims, row_key(request), stored);
        self.write_answer(&mut state, batch, &entry)?;
        state.approvals.all.insert(*request, answered.clone());
        Ok(answered)
    }
}
