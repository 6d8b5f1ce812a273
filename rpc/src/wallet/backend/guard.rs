//! What a wallet's own member is asked about signing: its policy, what waits for its operator, its log, whom it accuses.

use async_trait::async_trait;
use bitcoin::{Amount, Psbt, ScriptBuf, Txid};
use tss_wallet::MemberId;
use tss_wallet::policy::Policy;

use super::Result;

/// `getsigningpolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInfo {
    /// How often it was set; 0 for what a wallet begins with.
    pub version: u64,
    /// `None`: nothing is signed.
    pub policy: Option<Policy>,
    pub members: u8,
    pub threshold: u8,
}

/// A payment of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub script: ScriptBuf,
    pub amount: Amount,
}

/// `testsigningpolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyAnswer {
    /// `sign`, `ask` or `refuse`.
    pub decision: String,
    pub rule: Option<String>,
    /// Why not.
    pub reason: Option<String>,
    pub txid: Option<Txid>,
    pub payments: Vec<Payment>,
    pub change: Amount,
    pub fee: Option<Amount>,
}

/// One entry of `listpendingapprovals`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingApproval {
    pub id: String,
    /// Whose operator is asked: with embedded co-signers there are several of them here.
    pub member: String,
    pub coordinator: String,
    pub txid: Option<Txid>,
    /// Consensus encoding, unsigned.
    pub transaction: Vec<u8>,
    pub text: Option<String>,
    pub payments: Vec<Payment>,
    pub change: Amount,
    pub fee: Option<Amount>,
    pub agreed: Vec<String>,
    pub rule: String,
    pub asked: u64,
    pub expires: u64,
}

/// One entry of `getauditlog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    pub number: u64,
    pub time: u64,
    pub kind: &'static str,
    pub request: Option<String>,
    pub session: Option<String>,
    pub member: Option<String>,
    pub txid: Option<Txid>,
    pub outcome: String,
    pub detail: String,
    pub hash: String,
}

/// `verifyauditlog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditCheck {
    pub entries: u64,
    pub head: String,
    /// The member's signature over wallet, number of entries and head.
    pub signature: String,
    /// What does not fit.
    pub error: Option<String>,
}

/// One entry of `listblame`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blame {
    pub peerid: String,
    pub kind: String,
    pub session: String,
    pub time: u64,
    pub reason: String,
    /// Signed envelopes, as hex; empty for what rests on private state.
    pub evidence: Vec<String>,
    pub banned: bool,
}

/// What guards this member's share of a wallet.
#[async_trait]
pub trait Guarded: Send + Sync {
    /// −4 for a wallet without keys, as all of these.
    fn signing_policy(&self) -> Result<PolicyInfo>;
    /// Puts a policy in force and gives its version.
    async fn set_signing_policy(&self, policy: Policy) -> Result<u64>;
    /// What this member would say; nothing is written.
    async fn test_signing_policy(&self, psbt: Psbt) -> Result<PolicyAnswer>;
    fn pending_approvals(&self) -> Result<Vec<PendingApproval>>;
    /// The operator's answer: `Some` is a rejection with its reason. −5 where nothing of this id waits.
    async fn answer_approval(&self, id: &str, rejection: Option<&str>) -> Result<()>;
    /// The latest `count` entries but `skip`, oldest first.
    async fn audit_log(&self, count: u64, skip: u64) -> Result<Vec<AuditEntry>>;
    async fn verify_audit_log(&self) -> Result<AuditCheck>;
    fn blames(&self) -> Result<Vec<Blame>>;
    /// The member that a PeerId names; −8 for text that is none.
    fn member_of(&self, peerid: &str) -> Result<MemberId>;
    fn peerid_of(&self, member: &MemberId) -> String;
}
