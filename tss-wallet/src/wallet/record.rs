//! One wallet transaction: its bytes, its state, and what its owner noted about it.
//!
//! The states are Core's (`wallet/transaction.h`): a transaction is in a block, in the mempool, made impossible by
//! a block, or none of these and perhaps abandoned.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::consensus::encode;
use bitcoin::{BlockHash, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::storage::StorageError;

/// The place of a transaction in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPosition {
    pub hash: BlockHash,
    pub height: u32,
    /// Position in the block; 0 is the coinbase.
    pub index: u32,
    /// The block's own time, seconds since 1970.
    pub time: u64,
}

/// Where a wallet transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxState {
    Confirmed(BlockPosition),
    InMempool,
    /// A block spends one of its inputs, or an ancestor's, in another way.
    BlockConflicted {
        hash: BlockHash,
        height: u32,
    },
    /// Known to the wallet alone.
    Inactive {
        abandoned: bool,
    },
}

impl TxState {
    /// Of the same kind, whatever the block.
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// One wallet transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxRecord {
    pub txid: Txid,
    pub tx: Arc<Transaction>,
    pub state: TxState,
    /// When this node first saw it, seconds since 1970.
    pub time_received: u64,
    /// The time shown to users, in step with the order of arrival.
    pub time_smart: u64,
    /// Order of arrival in the wallet.
    pub order: u64,
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    pub replaces: Option<Txid>,
    pub replaced_by: Option<Txid>,
    /// Mempool transactions that spend the same coins, its ancestors' included. Not stored: the mempool tells.
    pub mempool_conflicts: BTreeSet<Txid>,
    /// The one child of version 3 that the mempool holds of it (BIP431). Not stored: the mempool tells.
    pub truc_child: Option<Txid>,
}

/// The version of transactions that the mempool keeps in pairs (BIP431).
pub(crate) const TRUC_VERSION: i32 = 3;

impl TxRecord {
    pub fn confirmed(&self) -> Option<&BlockPosition> {
        match &self.state {
            TxState::Confirmed(position) => Some(position),
            _ => None,
        }
    }

    pub fn is_confirmed(&self) -> bool {
        self.confirmed().is_some()
    }

    pub fn in_mempool(&self) -> bool {
        matches!(self.state, TxState::InMempool)
    }

    pub fn is_abandoned(&self) -> bool {
        matches!(self.state, TxState::Inactive { abandoned: true })
    }

    pub fn is_inactive(&self) -> bool {
        matches!(self.state, TxState::Inactive { .. })
    }

    pub fn is_block_conflicted(&self) -> bool {
        matches!(self.state, TxState::BlockConflicted { .. })
    }

    pub fn is_mempool_conflicted(&self) -> bool {
        !self.mempool_conflicts.is_empty()
    }

    /// Still able to spend its inputs.
    pub fn is_live(&self) -> bool {
        !self.is_abandoned() && !self.is_block_conflicted() && !self.is_mempool_conflicted()
    }

    /// Core's `GetTxTime`.
    pub fn time(&self) -> u64 {
        if self.time_smart == 0 { self.time_received } else { self.time_smart }
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    tx: Vec<u8>,
    state: TxState,
    time_received: u64,
    time_smart: u64,
    order: u64,
    comment: Option<String>,
    comment_to: Option<String>,
    replaces: Option<Txid>,
    replaced_by: Option<Txid>,
}

const CORRUPT: StorageError = StorageError::Corrupt { what: "wallet transaction" };

impl TxRecord {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StorageError> {
        // Membership of the mempool is the node's to tell again after a start.
        let state = match self.state {
            TxState::InMempool => TxState::Inactive { abandoned: false },
            state => state,
        };
        let row = Row {
            tx: encode::serialize(self.tx.as_ref()),
            state,
            time_received: self.time_received,
            time_smart: self.time_smart,
            order: self.order,
            comment: self.comment.clone(),
            comment_to: self.comment_to.clone(),
            replaces: self.replaces,
            replaced_by: self.replaced_by,
        };
        postcard::to_stdvec(&row).map_err(|_| CORRUPT)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let row: Row = postcard::from_bytes(bytes).map_err(|_| CORRUPT)?;
        let tx: Transaction = encode::deserialize(&row.tx).map_err(|_| CORRUPT)?;
        Ok(Self {
            txid: tx.compute_txid(),
            tx: Arc::new(tx),
            state: row.state,
            time_received: row.time_received,
            time_smart: row.time_smart,
            order: row.order,
            comment: row.comment,
            comment_to: row.comment_to,
            replaces: row.replaces,
            replaced_by: row.replaced_by,
            mempool_conflicts: BTreeSet::new(),
            truc_child: None,
        })
    }
}
