//! Why a signing session refused a message or ended. Who is to blame, and what may be done next, are data.

use thiserror::Error;

use crate::ids::PartyIndex;
use crate::keys::DeriveError;

/// What an error asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message was ignored; the session goes on.
    Dropped,
    /// The session is over; another may be tried, with other signers if there is a culprit.
    Retry,
    /// The session is over, and this member must never again run DKLs23 with that one on the present pair state.
    /// Write it down durably before anything else is sent.
    Ban,
    /// The caller's own parameters or state are wrong; trying again will not help.
    Fatal,
}

/// Why signing failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignError {
    /// A signer outside the roster.
    #[error("{0} is not a member of the quorum")]
    UnknownSigner(PartyIndex),
    /// This member is not among the signers.
    #[error("this member is not among the signers")]
    NotASigner,
    /// Not exactly t different signers.
    #[error("{got} signers where the threshold is {expected}")]
    SignerCount {
        /// t
        expected: usize,
        /// what there was
        got: usize,
    },
    /// Nothing to sign, or too much for one ceremony.
    #[error("a ceremony of {items} items, {ecdsa} of them ECDSA, is out of bounds")]
    ItemCount {
        /// all
        items: usize,
        /// of the ECDSA scheme
        ecdsa: usize,
    },
    /// Not one commitment for each signer and item, or one that is not of the nonce it is used with.
    #[error("the nonce commitments do not fit the request")]
    Commitments,
    /// A banned partner.
    #[error("member {0} is banned from signing with this member until the pair is set up anew")]
    Banned(PartyIndex),
    /// No such child key.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// This member's own state does not fit: nobody else is at fault.
    #[error("the key share of this member is unusable: {0}")]
    OwnState(String),

    /// A message from somebody who is not in the session.
    #[error("{from} takes no part in the session")]
    Stranger {
        /// Who sent it.
        from: PartyIndex,
    },
    /// A second message for one round.
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
    /// A message for another session, other items or other signers.
    #[error("{from} sent a message of another session")]
    OtherSession {
        /// Who sent it.
        from: PartyIndex,
    },

    /// Bytes that are no message of this round.
    #[error("member {culprit} sent a malformed message")]
    Malformed {
        /// Who sent it.
        culprit: PartyIndex,
    },
    /// A commitment that was not kept, a share that does not verify.
    #[error("member {culprit} sent an invalid share: {what}")]
    InvalidShare {
        /// Who sent it.
        culprit: PartyIndex,
        /// What was checked.
        what: String,
    },
    /// The signers saw different nonce commitments: somebody sent different ones to different peers. The signed
    /// envelopes show who; this machine cannot.
    #[error("member {with} saw other nonce commitments than this member")]
    Equivocation {
        /// Whose view differs.
        with: PartyIndex,
    },
    /// The signature does not verify and no member can be named: try other signers.
    #[error("the signature is not valid and nobody can be named for it: {0}")]
    Unattributed(String),
    /// A library returned a signature that libsecp256k1 does not accept.
    #[error("the signature does not verify")]
    InvalidResult,
    /// A failed check of oblivious transfer or multiplication: retrying with this member would leak key bits.
    #[error("member {culprit} failed a check that bans it: {what}")]
    Ban {
        /// The other end of the banned edge. An accusation: it rests on this member's private state.
        culprit: PartyIndex,
        /// What was checked.
        what: String,
    },
}

impl SignError {
    /// What the caller may do next.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::UnknownSigner(_)
            | Self::NotASigner
            | Self::SignerCount { .. }
            | Self::ItemCount { .. }
            | Self::Commitments
            | Self::Banned(_)
            | Self::Derive(_)
            | Self::OwnState(_) => Verdict::Fatal,
            Self::Stranger { .. } | Self::Duplicate { .. } | Self::Late { .. } | Self::OtherSession { .. } => {
                Verdict::Dropped
            }
            Self::Malformed { .. }
            | Self::InvalidShare { .. }
            | Self::Equivocation { .. }
            | Self::Unattributed(_)
            | Self::InvalidResult => Verdict::Retry,
            Self::Ban { .. } => Verdict::Ban,
        }
    }

    /// The member to leave out next time, if one can be named.
    #[must_use]
    pub fn culprit(&self) -> Option<PartyIndex> {
        match self {
            Self::Malformed { culprit } | Self::InvalidShare { culprit, .. } | Self::Ban { culprit, .. } => {
                Some(*culprit)
            }
            _ => None,
        }
    }
}
