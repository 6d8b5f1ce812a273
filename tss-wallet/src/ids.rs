//! The words the crate speaks in: members, indices, epochs, wallets and sessions.
//!
//! Each is a newtype that is checked once at the edge. None of them is secret.

use std::fmt;
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A tagged hash: SHA256(SHA256(tag) || SHA256(tag) || parts), every part preceded by its length, so that two
/// different lists of parts never hash alike.
pub(crate) fn tagged_hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag_hash = Sha256::digest(tag.as_bytes());
    let mut engine = Sha256::new();
    engine.update(tag_hash);
    engine.update(tag_hash);
    for part in parts {
        engine.update((part.len() as u64).to_be_bytes());
        engine.update(part);
    }
    engine.finalize().into()
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                write_hex(f, &self.0)?;
                f.write_str(")")
            }
        }
    };
}

id32!(
    /// A co-signer: the ed25519 public key of its node.
    MemberId
);
id32!(
    /// A wallet of a quorum: the same for all its members and for all its epochs.
    WalletId
);
id32!(
    /// One run of one protocol. Two runs never share an id, nor do two attempts at one request.
    SessionId
);

impl MemberId {
    /// A short fingerprint to compare aloud: the first 8 bytes of SHA256("keyless/fingerprint" || key), as four groups
    /// of four hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash: [u8; 32] = Sha256::new().chain_update(b"keyless/fingerprint").chain_update(self.0).finalize().into();
        let groups: Vec<String> = hash[..8].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
        groups.join(" ")
    }
}

impl SessionId {
    /// A session id bound to all that must differ between two sessions.
    #[must_use]
    pub fn derive(kind: &str, parts: &[&[u8]]) -> Self {
        let mut all: Vec<&[u8]> = vec![kind.as_bytes()];
        all.extend_from_slice(parts);
        Self(tagged_hash("keyless/session", &all))
    }
}

/// A party index of zero, which no polynomial may be evaluated at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a party index is between 1 and 255")]
pub struct InvalidPartyIndex;

/// The position of a member in the sorted roster, from 1: the point at which its shares are evaluated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PartyIndex(NonZeroU8);

impl PartyIndex {
    /// # Errors
    /// Fails for 0.
    pub const fn new(index: u8) -> Result<Self, InvalidPartyIndex> {
        match NonZeroU8::new(index) {
            Some(index) => Ok(Self(index)),
            None => Err(InvalidPartyIndex),
        }
    }

    /// The index as a number, from 1.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// The position in a list that starts at 0.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl TryFrom<u8> for PartyIndex {
    type Error = InvalidPartyIndex;
    fn try_from(index: u8) -> Result<Self, Self::Error> {
        Self::new(index)
    }
}

impl From<PartyIndex> for u8 {
    fn from(index: PartyIndex) -> Self {
        index.get()
    }
}

impl fmt::Display for PartyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for PartyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Counts refreshes and reshares of a wallet; key generation makes epoch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recipient {
    /// Every other party of the session; the sender must send the same bytes to all.
    All,
    /// One party alone, over a confidential channel: the body may hold its secret.
    One(PartyIndex),
}

/// A message that a protocol machine wants sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Whom it is for.
    pub to: Recipient,
    /// The message; its first byte is its round.
    pub body: Vec<u8>,
}

impl Outgoing {
    /// The round of the protocol the body belongs to, for [`crate::envelope::Envelope::round`].
    #[must_use]
    pub fn round(&self) -> u16 {
        self.body.first().copied().map_or(0, u16::from)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing {{ to: {:?}, round: {}, {} bytes }}", self.to, self.round(), self.body.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn party_index_zero_is_refused() {
        assert_eq!(PartyIndex::new(0), Err(InvalidPartyIndex));
        assert!(postcard::from_bytes::<PartyIndex>(&[0]).is_err());
        assert_eq!(PartyIndex::new(7).unwrap().position(), 6);
    }

    #[test]
    fn fingerprint_is_four_groups_of_four_digits() {
        let print = MemberId([7; 32]).fingerprint();
        let groups: Vec<&str> = print.split(' ').collect();
        assert_eq!(groups.len(), 4);
        assert!(groups.iter().all(|group| group.len() == 4 && group.chars().all(|c| c.is_ascii_hexdigit())));
    }

    #[test]
    fn moving_a_byte_between_parts_changes_the_hash() {
        assert_ne!(tagged_hash("t", &[b"ab", b"c"]), tagged_hash("t", &[b"a", b"bc"]));
    }
}
