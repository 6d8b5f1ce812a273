//! Transactions that peers announce and send, by Core's own `TxDownloadManager`: which to ask from whom and when, what waits
//! for its parents, packages of a parent and a child, and what acceptance or refusal does to all of these.
//!
//! Time is the node's. A peer is known from [`Kernel::relay_joined`] to [`Kernel::relay_left`]; ids of peers are the network's.

use std::os::raw::c_int;

use bitcoin::hashes::Hash;
use bitcoin::{Txid, Wtxid};

use crate::codec::{Answer, Fields};
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// What matters about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayPeer {
    /// Asked before others.
    pub preferred: bool,
    /// May announce without limit (`relay` permission).
    pub unlimited: bool,
    /// Announces by wtxid (BIP339).
    pub wtxid_relay: bool,
}

/// How a peer names a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxName {
    /// Without witness.
    Txid(Txid),
    /// With witness.
    Wtxid(Wtxid),
}

/// What a transaction of a peer led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relayed {
    /// In the mempool now, in this order, and by whom: to be announced.
    pub accepted: Vec<(Txid, Wtxid, i64)>,
    /// Parents that a peer must know, since it sent a child.
    pub parents: Vec<(i64, Txid)>,
}

/// What became of a transaction that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// It was judged; false when it was known already.
    pub judged: bool,
    /// It is in the mempool.
    pub in_mempool: bool,
    /// What else happened.
    pub outcome: Relayed,
}

impl Kernel {
    /// The handshake with a peer is over.
    pub fn relay_joined(&self, peer: i64, what: RelayPeer) -> Result<(), KernelError> {
        let flag = c_int::from;
        let (preferred, unlimited, wtxid) = (flag(what.preferred), flag(what.unlimited), flag(what.wtxid_relay));
        Answer::new(ffi::kl_relay_joined(peer, preferred, unlimited, wtxid)).done()
    }

    /// A peer is gone.
    pub fn relay_left(&self, peer: i64) -> Result<(), KernelError> {
        Answer::new(ffi::kl_relay_left(peer)).done()
    }

    /// A peer announced a transaction; true if there is no need to ask for it.
    pub fn relay_announced(&self, peer: i64, name: TxName) -> Result<bool, KernelError> {
        let (id, is_wtxid) = parts(&name);
        Answer::new(ffi::kl_relay_announced(peer, (&id).into(), c_int::from(is_wtxid))).fields()?.bool()
    }

    /// What to ask from a peer now. Each counts as asked.
    pub fn relay_requests(&self, peer: i64) -> Result<Vec<TxName>, KernelError> {
        Answer::new(ffi::kl_relay_requests(peer))
            .fields()?
            .list(|f| Ok(if f.bool()? { TxName::Wtxid(f.wtxid()?) } else { TxName::Txid(f.txid()?) }))
    }

    /// A peer does not have what it was asked for.
    pub fn relay_not_found(&self, peer: i64, names: &[TxName]) -> Result<(), KernelError> {
        let mut ids = Vec::with_capacity(names.len() * 33);
        for name in names {
            let (id, is_wtxid) = parts(name);
            ids.push(u8::from(is_wtxid));
            ids.extend_from_slice(&id);
        }
        Answer::new(ffi::kl_relay_not_found(peer, ids.as_slice().into())).done()
    }

    /// The ids of a transaction in a peer's encoding, read by Core; the error is the text of Core's exception.
    pub fn relay_decode(&self, tx: &[u8]) -> Result<(Txid, Wtxid), KernelError> {
        let answer = Answer::new(ffi::kl_relay_decode(tx.into()));
        let mut f = answer.fields()?;
        Ok((f.txid()?, f.wtxid()?))
    }

    /// Judges a transaction that a peer sent.
    pub fn relay_transaction(&self, peer: i64, tx: &[u8]) -> Result<Received, KernelError> {
        let answer = Answer::new(ffi::kl_relay_transaction(peer, tx.into()));
        let mut f = answer.fields()?;
        Ok(Received { judged: f.bool()?, in_mempool: f.bool()?, outcome: read_relayed(&mut f)? })
    }

    /// Looks again at one transaction of a peer whose parents came. `None`: there is none to look at.
    pub fn relay_orphan(&self, peer: i64) -> Result<Option<Relayed>, KernelError> {
        Answer::new(ffi::kl_relay_orphan(peer)).fields()?.option(read_relayed)
    }
}

fn parts(name: &TxName) -> ([u8; 32], bool) {
    match name {
        TxName::Txid(id) => (id.to_byte_array(), false),
        TxName::Wtxid(id) => (id.to_byte_array(), true),
    }
}

fn read_relayed(f: &mut Fields<'_>) -> Result<Relayed, KernelError> {
    Ok(Relayed {
        accepted: f.list(|f| Ok((f.txid()?, f.wtxid()?, f.i64()?)))?,
        parents: f.list(|f| Ok((f.i64()?, f.txid()?)))?,
    })
}
