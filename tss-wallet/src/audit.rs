//! The log of what this member was asked, what it decided and what it signed, each entry bound to the one before it.
//!
//! Owns the form of an entry and its hash: H(previous hash, number, entry). Refuses a chain in which a byte was changed,
//! an entry is missing, or the end is not where the head says. The head is signed by the member's identity when the log
//! is shown, so that an exported log can be compared later. Storing is the caller's affair; see [`row`] for the form.

use bitcoin::Txid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::{SIGNATURE_BYTES, SigningIdentity};
use crate::ids::{MemberId, SessionId, WalletId, tagged_hash};

const ENTRY_TAG: &str = "keyless/audit/v1";
const HEAD_TAG: &str = "keyless/audit-head/v1";
const HASH_BYTES: usize = 32;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A signature was asked for, and what this member answered.
    Request,
    /// Signatures were made.
    Signed,
    /// The operator decided about a pending request.
    Approval,
    /// The policy was changed.
    Policy,
    /// A member was accused.
    Blame,
    /// The shares were dealt again, or a roster change was asked for.
    Shares,
    /// This member found itself behind what its peers know of it, or was let back in.
    Fence,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Signed => "signed",
            Self::Approval => "approval",
            Self::Policy => "policy",
            Self::Blame => "blame",
            Self::Shares => "shares",
            Self::Fence => "fence",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970, by the node's clock.
    pub time: u64,
    pub kind: Kind,
    /// H(wallet, subject, idempotency key).
    pub request: Option<[u8; 32]>,
    pub session: Option<SessionId>,
    /// Who asked, or whom it is about.
    pub member: Option<MemberId>,
    pub txid: Option<Txid>,
    /// One word: `sign`, `ask`, `refuse`, …
    pub outcome: String,
    /// The reason, the rule, the payments: for people.
    pub detail: String,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Entries so far.
    pub entries: u64,
    /// Hash of the last; zero for an empty log.
    pub hash: [u8; 32],
}

impl Head {
    pub const EMPTY: Self = Self { entries: 0, hash: [0; 32] };

    fn statement(&self, wallet: &WalletId) -> [u8; 32] {
        tagged_hash(HEAD_TAG, &[wallet.as_bytes(), &self.entries.to_be_bytes(), &self.hash])
    }

    /// A signature by which others hold this member to its log.
    pub fn sign(&self, wallet: &WalletId, identity: &SigningIdentity) -> [u8; SIGNATURE_BYTES] {
        identity.sign(&self.statement(wallet))
    }

    /// Whether a member signed this head.
    pub fn is_signed(&self, wallet: &WalletId, member: &MemberId, signature: &[u8; SIGNATURE_BYTES]) -> bool {
        crate::identity::verify(member, &self.statement(wallet), signature).is_ok()
    }
}

/// Why a log does not hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuditError {
    #[error("entry {0} cannot be read")]
    Unreadable(u64),
    #[error("entry {0} is missing")]
    Missing(u64),
    #[error("entry {0} was changed")]
    Changed(u64),
    #[error("the log ends after {found} entries, and its head says {expected}")]
    End { found: u64, expected: u64 },
}

/// An entry as it is stored: its key orders the log, its value is the hash and the encoded entry.
pub fn row(head: &Head, entry: &Entry) -> Result<(Head, Vec<u8>, Vec<u8>), AuditError> {
    let number = head.entries;
    let body = postcard::to_allocvec(entry).map_err(|_| AuditError::Unreadable(number))?;
    let hash = hash_of(&head.hash, number, &body);
    let value = [hash.as_slice(), &body].concat();
    Ok((Head { entries: number.saturating_add(1), hash }, key(number), value))
}

/// The key of an entry by its number, from 0.
pub fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn hash_of(previous: &[u8; 32], number: u64, body: &[u8]) -> [u8; 32] {
    tagged_hash(ENTRY_TAG, &[previous, &number.to_be_bytes(), body])
}

/// Reads one stored entry: its hash and itself. The chain is not checked.
///
/// # Errors
/// Fails for bytes that are no entry.
pub fn read(number: u64, value: &[u8]) -> Result<([u8; 32], Entry), AuditError> {
    let (hash, body) = value.split_first_chunk::<HASH_BYTES>().ok_or(AuditError::Unreadable(number))?;
    match postcard::take_from_bytes(body) {
        Ok((entry, [])) => Ok((*hash, entry)),
        _ => Err(AuditError::Unreadable(number)),
    }
}

/// Checks a whole log, from its first entry, against its head.
///
/// # Errors
/// Names the first entry that does not fit.
pub fn verify<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>, head: &Head) -> Result<(), AuditError> {
    let mut at = Head::EMPTY;
    for (stored_key, value) in rows {
        let number = at.entries;
        if stored_key != key(number) {
            return Err(AuditError::Missing(number));
        }
        let (stored, _) = read(number, value)?;
        let hash = hash_of(&at.hash, number, &value[HASH_BYTES..]);
        if stored != hash {
            return Err(AuditError::Changed(number));
        }
        at = Head { entries: number + 1, hash };
    }
    if at.entries != head.entries {
        return Err(AuditError::End { found: at.entries, expected: head.entries });
    }
    if at.hash != head.hash {
        return Err(AuditError::Changed(at.entries.saturating_sub(1)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            time: 1_000 + number,
            kind: Kind::Request,
            request: Some([3; 32]),
            session: Some(SessionId([4; 32])),
            member: Some(MemberId([5; 32])),
            txid: None,
            outcome: "sign".to_owned(),
            detail: "rule \"all\"".to_owned(),
        }
    }

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn log(count: u64) -> (Head, Rows) {
        let mut head = Head::EMPTY;
        let mut rows = Vec::new();
        for number in 0..count {
            let (next, key, value) = row(&head, &entry(number)).unwrap();
            head = next;
            rows.push((key, value));
        }
        (head, rows)
    }

    fn check(rows: &[(Vec<u8>, Vec<u8>)], head: &Head) -> Result<(), AuditError> {
        verify(rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())), head)
    }

    #[test]
    fn a_log_that_nobody_touched_is_valid() {
        for count in [0, 1, 7] {
            let (head, rows) = log(count);
            assert_eq!(head.entries, count);
            assert_eq!(check(&rows, &head), Ok(()));
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let (head, rows) = log(4);
        for at in 0..rows.len() {
            for byte in 0..rows[at].1.len() {
                for flip in [1, 0x80] {
                    let mut changed = rows.clone();
                    changed[at].1[byte] ^= flip;
                    assert!(check(&changed, &head).is_err(), "entry {at}, byte {byte}");
                }
            }
            for byte in 0..rows[at].0.len() {
                let mut changed = rows.clone();
                changed[at].0[byte] ^= 1;
                assert!(check(&changed, &head).is_err(), "key {at}, byte {byte}");
            }
        }
    }

    #[test]
    fn entries_left_out_swapped_or_added_are_found() {
        let (head, rows) = log(4);
        for at in 0..rows.len() {
            let mut fewer = rows.clone();
            fewer.remove(at);
            assert!(check(&fewer, &head).is_err(), "without {at}");
        }
        let mut swapped = rows.clone();
        let (first, second) = (swapped[1].1.clone(), swapped[2].1.clone());
        swapped[1].1 = second;
        swapped[2].1 = first;
        assert_eq!(check(&swapped, &head), Err(AuditError::Changed(1)));
        assert_eq!(check(&rows[..3], &head), Err(AuditError::End { found: 3, expected: 4 }));
        let (longer, more) = log(5);
        assert_eq!(check(&more, &head), Err(AuditError::End { found: 5, expected: 4 }));
        assert_eq!(check(&more, &Head { hash: head.hash, ..longer }), Err(AuditError::Changed(4)));
    }

    #[test]
    fn an_entry_has_one_encoding() {
        let (_, rows) = log(1);
        assert_eq!(read(0, &rows[0].1).unwrap().1, entry(0));
        assert!(read(0, &[rows[0].1.clone(), vec![0]].concat()).is_err());
        assert!(read(0, &rows[0].1[..31]).is_err());
    }

    #[test]
    fn a_head_is_signed_for_one_wallet_by_one_member() {
        let (head, _) = log(2);
        let identity = SigningIdentity::from_seed(&[1; 32]);
        let (wallet, me) = (WalletId([1; 32]), identity.member_id());
        let signature = head.sign(&wallet, &identity);
        assert!(head.is_signed(&wallet, &me, &signature));
        assert!(!head.is_signed(&WalletId([2; 32]), &me, &signature));
        assert!(!Head { entries: 3, ..head }.is_signed(&wallet, &me, &signature));
        let other = SigningIdentity::from_seed(&[2; 32]).member_id();
        assert!(!head.is_signed(&wallet, &other, &signature));
    }
}
