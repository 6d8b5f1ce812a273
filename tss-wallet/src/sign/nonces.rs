//! Nonces made ahead of time, so that a member answers a request for taproot signatures with its share at once.
//!
//! Owns one coordinator's pool on one member: [`NoncePool`]. A nonce leaves it by value, once, for one use; it has no
//! `Clone`, no serialization, and lives in memory alone, so that no crash and no old state of a disk brings it back.
//! Refuses commitments that it does not hold, by name those that were used before, and one commitment twice in a
//! request. Every table is bounded; the oldest entries go first, and a nonce that is gone was never used.
//! Source: FROST with preprocessing (<https://eprint.iacr.org/2020/852>, section 5.1), RFC 9591 section 5.1.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use frost_secp256k1_tr as frost;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use thiserror::Error;

use crate::ids::tagged_hash;
use crate::keys::KeyShare;

const POINT_BYTES: usize = 33;

/// Bytes of one commitment: two points.
pub const COMMITMENT_BYTES: usize = 2 * POINT_BYTES;

/// Commitments that a coordinator keeps of a member: one payment of a hundred inputs, or a hundred small ones at once.
pub const POOL_TARGET: usize = 128;
/// Nonces that a member keeps for one coordinator; those of requests under way are among them.
pub const MAX_POOLED: usize = 4_096;
/// Uses that a member remembers of one coordinator.
const MAX_USED: usize = 4_096;

/// A secret nonce. Neither `Clone` nor serializable: whoever signs with it takes it away.
pub struct Nonce {
    pub(super) secret: frost::round1::SigningNonces,
    pub(super) public: Commitment,
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce {{ <redacted> }}")
    }
}

/// What everyone may know of a nonce. Both points are on the curve, and not the identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Commitment {
    bytes: [u8; COMMITMENT_BYTES],
    pub(super) points: frost::round1::SigningCommitments,
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitment({:02x}{:02x}…)", self.bytes[1], self.bytes[2])
    }
}

impl Commitment {
    /// None for bytes that are not two points.
    #[must_use]
    pub fn parse(bytes: &[u8; COMMITMENT_BYTES]) -> Option<Self> {
        let (hiding, binding) = bytes.split_at(POINT_BYTES);
        let hiding = frost::round1::NonceCommitment::deserialize(hiding).ok()?;
        let binding = frost::round1::NonceCommitment::deserialize(binding).ok()?;
        Some(Self { bytes: *bytes, points: frost::round1::SigningCommitments::new(hiding, binding) })
    }

    /// Several, one after the other; none where a byte is too much or a point wrong.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (chunks, []) = bytes.as_chunks() else { return None };
        chunks.iter().map(Self::parse).collect()
    }

    /// The bytes that [`Self::parse_all`] reads.
    #[must_use]
    pub fn concat(all: &[Self]) -> Vec<u8> {
        all.iter().flat_map(|commitment| commitment.bytes).collect()
    }

    /// Its encoding.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; COMMITMENT_BYTES] {
        &self.bytes
    }
}

/// Fresh nonces, hedged with the member's share. Public ones are what [`Nonce::public`] says.
pub(super) fn fresh(share: &KeyShare, count: usize, seed: &[u8; 32]) -> Vec<Nonce> {
    let mut rng = ChaCha20Rng::from_seed(tagged_hash("keyless/signing/pooled-nonces", &[seed]));
    let one = || {
        let (secret, points) = frost::round1::commit(share.frost().signing_share(), &mut rng);
        let bytes = commitment_bytes(&points)?;
        Some(Nonce { secret, public: Commitment { bytes, points } })
    };
    std::iter::repeat_with(one).take(count).flatten().collect()
}

pub(super) fn commitment_bytes(commitments: &frost::round1::SigningCommitments) -> Option<[u8; COMMITMENT_BYTES]> {
    let mut out = [0; COMMITMENT_BYTES];
    let (hiding, binding) = out.split_at_mut(POINT_BYTES);
    hiding.copy_from_slice(&commitments.hiding().serialize().ok()?);
    binding.copy_from_slice(&commitments.binding().serialize().ok()?);
    Some(out)
}

/// Why a request for nonces was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NonceError {
    /// Never told, or gone: dropped at the end of an epoch, of a connection, of the process.
    #[error("a nonce of this request is not known here")]
    Unknown,
    /// A second use. `other`: for other messages than the first.
    #[error("a nonce of this request was used before")]
    Used {
        /// Nobody honest asks for this.
        other: bool,
    },
}

/// What a member keeps for one coordinator.
#[derive(Default)]
pub struct NoncePool {
    /// Made, and told to nobody yet.
    reserve: Vec<Nonce>,
    told: BTreeMap<[u8; COMMITMENT_BYTES], Nonce>,
    told_order: VecDeque<[u8; COMMITMENT_BYTES]>,
    /// What each was used for.
    used: BTreeMap<[u8; COMMITMENT_BYTES], [u8; 32]>,
    used_order: VecDeque<[u8; COMMITMENT_BYTES]>,
}

impl fmt::Debug for NoncePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoncePool {{ {} told, {} in reserve }}", self.told.len(), self.reserve.len())
    }
}

impl NoncePool {
    /// How many are told and not used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Tells `count` fresh nonces to the coordinator, making those that are not in reserve. At most [`POOL_TARGET`].
    pub fn issue(&mut self, share: &KeyShare, count: usize, seed: &[u8; 32]) -> Vec<Commitment> {
        let count = count.min(POOL_TARGET);
        let missing = count.saturating_sub(self.reserve.len());
        self.reserve.extend(fresh(share, missing, seed));
        self.issue_ready(count)
    }

    /// The same from the reserve alone: takes no time.
    pub fn issue_ready(&mut self, count: usize) -> Vec<Commitment> {
        let from = self.reserve.len().saturating_sub(count);
        let issued: Vec<Nonce> = self.reserve.split_off(from);
        let public = issued.iter().map(|nonce| nonce.public).collect();
        for nonce in issued {
            let bytes = nonce.public.bytes;
            self.told.insert(bytes, nonce);
            self.told_order.push_back(bytes);
        }
        while self.told.len() > MAX_POOLED {
            let Some(oldest) = self.told_order.pop_front() else { break };
            self.told.remove(&oldest);
        }
        // Those that were used went out of order.
        if self.told_order.len() > 2 * MAX_POOLED {
            let told = &self.told;
            self.told_order.retain(|bytes| told.contains_key(bytes));
        }
        public
    }

    /// Nonces that are missing in the reserve.
    #[must_use]
    pub fn wanted(&self) -> usize {
        POOL_TARGET.saturating_sub(self.reserve.len())
    }

    /// Puts nonces in reserve that [`prepare`] made.
    pub fn restock(&mut self, made: Vec<Nonce>) {
        let wanted = self.wanted();
        self.reserve.extend(made.into_iter().take(wanted));
    }

    /// Takes the nonces of a request away, all or none. `what` says what they are used for.
    ///
    /// # Errors
    /// See [`NonceError`]; then nothing was taken.
    pub fn take(&mut self, commitments: &[Commitment], what: &[u8; 32]) -> Result<Vec<Nonce>, NonceError> {
        let mut seen = BTreeSet::new();
        for Commitment { bytes, .. } in commitments {
            if !seen.insert(*bytes) {
                return Err(NonceError::Used { other: true });
            }
            match self.used.get(bytes) {
                Some(before) => return Err(NonceError::Used { other: before != what }),
                None if !self.told.contains_key(bytes) => return Err(NonceError::Unknown),
                None => {}
            }
        }
        let taken: Vec<Nonce> =
            commitments.iter().filter_map(|commitment| self.told.remove(&commitment.bytes)).collect();
        for Commitment { bytes, .. } in commitments {
            self.used.insert(*bytes, *what);
            self.used_order.push_back(*bytes);
        }
        while self.used.len() > MAX_USED {
            let Some(oldest) = self.used_order.pop_front() else { break };
            self.used.remove(&oldest);
        }
        Ok(taken)
    }

    /// Drops every nonce that was not used. What was used stays in mind.
    pub fn clear(&mut self) {
        self.reserve.clear();
        self.told.clear();
        self.told_order.clear();
    }
}

/// Makes nonces for the reserve: apart from it, so that nobody waits meanwhile.
#[must_use]
pub fn prepare(share: &KeyShare, count: usize, seed: &[u8; 32]) -> Vec<Nonce> {
    fresh(share, count.min(POOL_TARGET), seed)
}
