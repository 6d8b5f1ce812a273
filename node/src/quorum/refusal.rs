//! Why a member takes no part: every reason by its name, as it travels and as operators read it.

use serde::{Deserialize, Serialize};
use tss_wallet::policy::Denial;

/// A member's answer to what it will not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("it is on another network")]
    OtherNetwork,
    #[error("it speaks protocol version {0}")]
    OtherVersion(u32),
    #[error("the coordinator is not one of its co-signers")]
    UnknownCoordinator,
    #[error("its configuration has another set of members")]
    OtherMembers,
    #[error("its configuration has threshold {0}")]
    OtherThreshold(u16),
    #[error("the name \"{0}\" is not safe as a directory")]
    UnsafeName(String),
    #[error("it already has a wallet \"{0}\"")]
    NameTaken(String),
    #[error("it holds no share of this wallet")]
    UnknownWallet,
    #[error("it is in epoch {0}")]
    OtherEpoch(u32),
    #[error("its share is locked")]
    Locked,
    #[error("it has too many sessions open")]
    Busy,
    #[error("it is not among the chosen signers")]
    NotASigner,
    #[error("it excludes member {0} after a failed check")]
    Excluded(u16),
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    #[error("input {0} is not there")]
    NoSuchInput(u32),
    #[error("it does not know the output that input {0} spends")]
    UnknownPrevout(u32),
    #[error("the output that input {0} spends differs from its own chain")]
    OtherPrevout(u32),
    #[error("input {0} does not belong to the key named for it")]
    OtherScript(u32),
    #[error("input {0} has a sighash type that does not exist")]
    SighashType(u32),
    #[error("the request asks to sign nothing")]
    Nothing,
    #[error("the request was used before with another transaction")]
    OtherTransaction,
    #[error("the coin of input {0} is being spent by another co-signer")]
    CoinTaken(u32),
    #[error("its operator has not confirmed this: its configuration has other members or another threshold")]
    NotConfirmed,
    #[error("its operator has suspended {0}")]
    Suspended(String),
    #[error("epoch {0}, which it signed for, may be in force at {1}: they must take part")]
    Unsettled(u32, String),
    #[error("output {0} is said to be change, and is not")]
    NotChange(u32),
    #[error("its mempool would not take the transaction: {0}")]
    Mempool(String),
    #[error("{0}")]
    Policy(Denial),
    #[error("it was rolled back to an old state and has forgotten what it promised: repairshare deals it a new share")]
    Fenced,
    #[error("its operator has not approved this yet")]
    NeedsApproval,
    #[error("its share was restored from a backup, and waits for others to confirm that it is of the present epoch")]
    Restored,
    #[error("it has used a nonce of this request before")]
    NonceUsed,
    #[error("it does not know a nonce of this request")]
    NonceUnknown,
    #[error("its disk failed: {0}")]
    Storage(String),
    #[error("the attempt failed there: {0}")]
    Failed(String),
    #[error("the coordinator gave up: {0}")]
    Aborted(String),
    #[error("another ceremony of this wallet is under way there")]
    UnderWay,
}
