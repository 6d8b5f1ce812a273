//! Why a quorum could not do what was asked, in words for the user: always who, and why.

use std::fmt;
use std::time::SystemTime;

use bitcoin::OutPoint;
use keyless_p2p::cosigners::peer_id_of;
use tss_wallet::MemberId;

use super::core::Core;
use super::refusal::Refusal;

/// A member by the name operators know it by.
pub fn peer_name(member: &MemberId) -> String {
    peer_id_of(member.0).to_string()
}

/// A member that takes no part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub member: MemberId,
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", peer_name(&self.member), self.why)
    }
}

impl Missing {
    /// A member that the carrier cannot reach.
    pub fn unreachable(core: &Core, member: MemberId) -> Self {
        let status = core.carrier().peer(&peer_id_of(member.0));
        let mut why = match status.as_ref().and_then(|status| status.reason_offline.as_ref()) {
            Some(reason) => reason.to_string(),
            None => "not connected".to_owned(),
        };
        match status.and_then(|status| status.last_seen) {
            Some(seen) => {
                let ago = SystemTime::now().duration_since(seen).unwrap_or_default().as_secs();
                why.push_str(&format!("; last seen {ago} s ago"));
            }
            None => why.push_str("; never seen"),
        }
        Self { member, why }
    }

    pub fn silent(member: MemberId) -> Self {
        Self { member, why: "does not answer".to_owned() }
    }

    pub fn refused(member: MemberId, refusal: &Refusal) -> Self {
        Self { member, why: refusal.to_string() }
    }
}

/// Several of them, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingList(pub Vec<Missing>);

impl fmt::Display for MissingList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, missing) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            missing.fmt(f)?;
        }
        Ok(())
    }
}

fn missing_text(missing: &MissingList) -> String {
    if missing.0.is_empty() { String::new() } else { format!("; missing: {missing}") }
}

/// Why a ceremony, a lease or a signature did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    #[error("key generation needs all {members} members; not taking part: {missing}")]
    Absent { members: usize, missing: MissingList },
    #[error("key generation failed: {0}")]
    Ceremony(String),
    #[error(
        "key generation is not complete: waiting for {0}. The wallet will appear when they are back, or is dropped"
    )]
    Unfinished(MissingList),
    #[error("the quorum cannot {what}: {ready} of {needed} needed co-signers {is} ready; missing: {missing}",
        is = if *.ready == 1 { "is" } else { "are" })]
    NotEnough { what: &'static str, needed: usize, ready: usize, missing: MissingList },
    #[error("the quorum did not sign within {seconds} s; {missing}")]
    TimedOut { seconds: u64, missing: MissingList },
    #[error("the coin {0} is being spent by another co-signer")]
    CoinTaken(OutPoint),
    #[error("no operator has approved this within {seconds} s; missing: {missing}")]
    NotApproved { seconds: u64, missing: MissingList },
    #[error("this node refuses to sign: {0}")]
    OwnRefusal(Refusal),
    #[error("Please enter the wallet passphrase with walletpassphrase first.")]
    Locked,
    #[error("the shares cannot be dealt again: {why}{}", missing_text(.missing))]
    CannotRedeal { why: String, missing: MissingList },
    #[error("the shares were not dealt again: {0}. Those of now stay in force")]
    Redeal(String),
    #[error(
        "this member's share is of epoch {mine}, and the quorum is in epoch {theirs}: run repairshare \"{wallet}\" here"
    )]
    Stale { wallet: String, mine: u32, theirs: u32 },
    #[error("the quorum goes on without this member since epoch {epoch}: deleteshare erases its share")]
    Out { epoch: u32 },
    #[error("too many signing sessions are open")]
    Busy,
    #[error("the session was stopped")]
    Stopped,
    #[error("{0}")]
    Storage(String),
    #[error("{0}")]
    Internal(String),
}
