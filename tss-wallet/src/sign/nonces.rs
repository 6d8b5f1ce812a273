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
    hedged(share.frost().signing_share(), count, seed)
}

fn hedged(share: &frost::keys::SigningShare, count: usize, seed: &[u8; 32]) -> Vec<Nonce> {
    let mut rng = ChaCha20Rng::from_seed(tagged_hash("keyless/signing/pooled-nonces", &[seed]));
    let one = || {
        let (secret, points) = frost::round1::commit(share, &mut rng);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Of no member's share.
    fn made(count: usize, seed: u8) -> Vec<Nonce> {
        let share = frost::keys::SigningShare::deserialize(&[1; 32]).unwrap();
        hedged(&share, count, &[seed; 32])
    }

    fn told(pool: &mut NoncePool, count: usize, seed: u8) -> Vec<Commitment> {
        pool.restock(made(count, seed));
        let told = pool.issue_ready(count);
        assert_eq!(told.len(), count);
        told
    }

    fn refusal(pool: &mut NoncePool, commitment: Commitment, what: u8) -> NonceError {
        pool.take(&[commitment], &[what; 32]).unwrap_err()
    }

    #[test]
    fn what_a_pool_remembers_is_bounded_and_the_latest_uses_are_known() {
        let mut pool = NoncePool::default();
        let rounds = u8::try_from(2 * MAX_POOLED / POOL_TARGET).unwrap();
        let mut all = Vec::new();
        for round in 0..=rounds {
            let round_told = told(&mut pool, POOL_TARGET, round);
            // Those that were used leave the order when it is twice as long as there can be told, not at every step.
            let expected = if round < rounds { (usize::from(round) + 1) * POOL_TARGET } else { POOL_TARGET };
            assert_eq!(pool.told_order.len(), expected, "{round}");
            assert_eq!(pool.take(&round_told, &[round; 32]).unwrap().len(), POOL_TARGET);
            let used = ((usize::from(round) + 1) * POOL_TARGET).min(MAX_USED);
            assert_eq!((pool.used.len(), pool.used_order.len(), pool.len()), (used, used, 0));
            all.extend(round_told);
        }
        let oldest_known = all.len() - MAX_USED;
        assert_eq!(refusal(&mut pool, all[oldest_known], 0), NonceError::Used { other: true });
        assert_eq!(refusal(&mut pool, all[all.len() - 1], rounds), NonceError::Used { other: false });
        // A nonce that is forgotten is gone: it is not signed with either.
        assert_eq!(refusal(&mut pool, all[oldest_known - 1], 0), NonceError::Unknown);
    }

    #[test]
    fn the_latest_nonces_that_were_told_are_kept() {
        let mut pool = NoncePool::default();
        assert!(pool.is_empty());
        let rounds = u8::try_from(MAX_POOLED / POOL_TARGET).unwrap();
        let all: Vec<Commitment> = (0..rounds).flat_map(|round| told(&mut pool, POOL_TARGET, round)).collect();
        assert_eq!((pool.len(), pool.is_empty()), (MAX_POOLED, false));
        let one_more = told(&mut pool, 1, 255)[0];
        assert_eq!(pool.len(), MAX_POOLED);
        assert_eq!(refusal(&mut pool, all[0], 0), NonceError::Unknown, "the oldest");
        assert_eq!(pool.take(&[all[1], one_more], &[0; 32]).unwrap().len(), 2);
        assert_eq!(pool.wanted(), POOL_TARGET);
        pool.restock(made(3, 0));
        assert_eq!(pool.wanted(), POOL_TARGET - 3);
        pool.restock(made(POOL_TARGET, 1));
        assert_eq!((pool.wanted(), pool.reserve.len()), (0, POOL_TARGET));
        pool.clear();
        assert_eq!((pool.wanted(), pool.len(), pool.told_order.len()), (POOL_TARGET, 0, 0));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let nonce = made(1, 0).remove(0);
        assert_eq!(format!("{nonce:?}"), "Nonce { <redacted> }");
        let [_, first, second, ..] = *nonce.public.as_bytes();
        assert_eq!(format!("{:?}", nonce.public), format!("Commitment({first:02x}{second:02x}…)"));
        let mut pool = NoncePool::default();
        told(&mut pool, 2, 0);
        pool.restock(made(1, 1));
        assert_eq!(format!("{pool:?}"), "NoncePool { 2 told, 1 in reserve }");
    }
}
