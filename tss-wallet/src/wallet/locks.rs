//! Coins that must not be chosen: locked by their owner, or claimed by a spend that is being signed.
//!
//! A claim belongs to one request and is durable: after a crash the owner of the wallet decides what becomes of it,
//! so that a request that is tried again spends a coin of its first attempt. Locks are Core's `lockunspent`.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::consensus::encode;
use bitcoin::{OutPoint, Txid};
use serde::{Deserialize, Serialize};

use super::storage::{StorageError, Table, Write};

/// The request that holds a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimId(pub [u8; 32]);

/// A coin is claimed by another request already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("coin {txid}:{vout} is being spent by another request")]
pub struct AlreadyClaimed {
    pub txid: Txid,
    pub vout: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    /// Locked by the owner; true when the lock survives a restart.
    locked: Option<bool>,
    claim: Option<ClaimId>,
}

/// Locks and claims of a wallet.
#[derive(Debug, Clone, Default)]
pub struct Locks {
    holds: BTreeMap<OutPoint, Hold>,
}

const CORRUPT: StorageError = StorageError::Corrupt { what: "coin lock" };

impl Locks {
    pub(crate) fn load(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, StorageError> {
        let mut holds = BTreeMap::new();
        for (key, value) in rows {
            let outpoint: OutPoint = encode::deserialize(key).map_err(|_| CORRUPT)?;
            let hold: Hold = postcard::from_bytes(value).map_err(|_| CORRUPT)?;
            holds.insert(outpoint, hold);
        }
        Ok(Self { holds })
    }

    pub(crate) fn row(&self, outpoint: OutPoint) -> Result<Write, StorageError> {
        let stored = self
            .holds
            .get(&outpoint)
            .map(|hold| Hold { locked: hold.locked.filter(|persistent| *persistent), claim: hold.claim })
            .filter(|hold| *hold != Hold::default());
        let value = match stored {
            Some(hold) => Some(postcard::to_stdvec(&hold).map_err(|_| CORRUPT)?),
            None => None,
        };
        Ok(Write { table: Table::Lock, key: encode::serialize(&outpoint), value })
    }

    fn edit(&mut self, outpoint: OutPoint, edit: impl FnOnce(&mut Hold)) {
        let hold = self.holds.entry(outpoint).or_default();
        edit(hold);
        if *hold == Hold::default() {
            self.holds.remove(&outpoint);
        }
    }

    pub fn is_locked(&self, outpoint: OutPoint) -> bool {
        self.holds.get(&outpoint).is_some_and(|hold| hold.locked.is_some())
    }

    pub fn is_claimed(&self, outpoint: OutPoint) -> bool {
        self.holds.get(&outpoint).is_some_and(|hold| hold.claim.is_some())
    }

    /// Locked coins, in order.
    pub fn locked(&self) -> impl Iterator<Item = OutPoint> {
        self.holds.iter().filter(|(_, hold)| hold.locked.is_some()).map(|(outpoint, _)| *outpoint)
    }

    /// All claims that are held.
    pub fn claims(&self) -> BTreeMap<ClaimId, BTreeSet<OutPoint>> {
        let mut claims: BTreeMap<ClaimId, BTreeSet<OutPoint>> = BTreeMap::new();
        for (outpoint, hold) in &self.holds {
            if let Some(claim) = hold.claim {
                claims.entry(claim).or_default().insert(*outpoint);
            }
        }
        claims
    }

    pub(crate) fn lock(&mut self, outpoint: OutPoint, persistent: bool) {
        self.edit(outpoint, |hold| hold.locked = Some(hold.locked.unwrap_or(false) || persistent));
    }

    pub(crate) fn unlock(&mut self, outpoint: OutPoint) {
        self.edit(outpoint, |hold| hold.locked = None);
    }

    pub(crate) fn claim(&mut self, outpoints: &[OutPoint], claim: ClaimId) -> Result<(), AlreadyClaimed> {
        for outpoint in outpoints {
            let held = self.holds.get(outpoint).and_then(|hold| hold.claim);
            if held.is_some_and(|held| held != claim) {
                return Err(AlreadyClaimed { txid: outpoint.txid, vout: outpoint.vout });
            }
        }
        for outpoint in outpoints {
            self.edit(*outpoint, |hold| hold.claim = Some(claim));
        }
        Ok(())
    }

    /// Ends a claim; gives the coins it held.
    pub(crate) fn release(&mut self, claim: ClaimId) -> Vec<OutPoint> {
        let held: Vec<OutPoint> =
            self.holds.iter().filter(|(_, hold)| hold.claim == Some(claim)).map(|(outpoint, _)| *outpoint).collect();
        for outpoint in &held {
            self.edit(*outpoint, |hold| hold.claim = None);
        }
        held
    }
}
