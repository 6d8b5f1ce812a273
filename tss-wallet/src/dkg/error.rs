//! Why a key generation, or a ceremony that deals shares again, refused a message or ended.

use thiserror::Error;

use crate::ids::PartyIndex;
use crate::sign::SignError;

/// Why a ceremony failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DkgError {
    /// This node's identity is not in the roster.
    #[error("this node is not a member of the quorum")]
    NotAMember,
    /// A fault of this member's own: nobody else is to blame.
    #[error("the ceremony failed at this member: {0}")]
    Own(String),

    /// A message from somebody who is not in the roster.
    #[error("{from} takes no part in the ceremony")]
    Stranger {
        /// Who sent it.
        from: PartyIndex,
    },
    /// A second message of one kind for one round.
    #[error("{from} sent a second message for a round")]
    Duplicate {
        /// Who sent it.
        from: PartyIndex,
    },
    /// A message for a round that is over.
    #[error("{from} sent a message for a round that is over")]
    Late {
        /// Who sent it.
        from: PartyIndex,
    },

    /// Bytes that are no message of this round.
    #[error("member {culprit} sent a malformed message")]
    Malformed {
        /// Who sent it.
        culprit: PartyIndex,
    },
    /// A member with other parameters: wallet, network, roster, threshold, options.
    #[error("member {culprit} takes part with other parameters")]
    OtherParameters {
        /// Who it is.
        culprit: PartyIndex,
    },
    /// A share, proof or commitment that does not verify.
    #[error("member {culprit} sent an invalid share: {what}")]
    InvalidShare {
        /// Who sent it.
        culprit: PartyIndex,
        /// What was checked.
        what: String,
    },
    /// Members saw different broadcasts. The signed envelopes show who sent two.
    #[error("member {with} saw other broadcasts than this member")]
    Equivocation {
        /// Whose view differs.
        with: PartyIndex,
    },
    /// A check failed that names nobody.
    #[error("the ceremony is void and nobody can be named for it: {0}")]
    Unattributed(String),
    /// A test signature failed.
    #[error("a test signature failed: {0}")]
    Trial(SignError),
}

impl DkgError {
    /// Whether the run is over. Otherwise the message was ignored and the run goes on.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Stranger { .. } | Self::Duplicate { .. } | Self::Late { .. })
    }

    /// The member to blame, if one can be named.
    #[must_use]
    pub fn culprit(&self) -> Option<PartyIndex> {
        match self {
            Self::Malformed { culprit } | Self::OtherParameters { culprit } | Self::InvalidShare { culprit, .. } => {
                Some(*culprit)
            }
            Self::Trial(error) => error.culprit(),
            _ => None,
        }
    }
}
