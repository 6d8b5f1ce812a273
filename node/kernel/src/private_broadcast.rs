//! Own transactions that go out by short connections of their own (`-privatebroadcast`), by Core's `PrivateBroadcast`: which
//! to give to a connection, which came back from the network, which are to be sent again.
//!
//! The kernel counts the connections it wants; the network opens them. Ids of peers are the network's, each used once.

use bitcoin::{Txid, Wtxid};

use crate::codec::{Answer, Fields};
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// A transaction for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateTx {
    /// Without witness.
    pub txid: Txid,
    /// With witness.
    pub wtxid: Wtxid,
    /// Serialized with witness.
    pub raw: Vec<u8>,
}

impl Kernel {
    /// How many connections are still to be opened, after `opened` more were.
    pub fn private_wanted(&self, opened: u32) -> Result<u64, KernelError> {
        Answer::new(ffi::kl_private_wanted(opened)).fields()?.u64()
    }

    /// The transaction for a new connection to `address` (a payload of `addrv2` with one entry).
    pub fn private_pick(&self, peer: i64, address: &[u8]) -> Result<Option<PrivateTx>, KernelError> {
        Answer::new(ffi::kl_private_pick(peer, address.into())).fields()?.option(read)
    }

    /// What was picked for this connection.
    pub fn private_given(&self, peer: i64) -> Result<Option<PrivateTx>, KernelError> {
        Answer::new(ffi::kl_private_given(peer)).fields()?.option(read)
    }

    /// The peer has the transaction.
    pub fn private_confirmed(&self, peer: i64) -> Result<(), KernelError> {
        Answer::new(ffi::kl_private_confirmed(peer)).done()
    }

    /// A connection ended: what it did not do, another is to do.
    pub fn private_ended(&self, peer: i64) -> Result<(), KernelError> {
        Answer::new(ffi::kl_private_ended(peer)).done()
    }

    /// A transaction came from the network; true if it was being sent, which has come to its end.
    pub fn private_returned(&self, tx: &[u8]) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_private_returned(tx.into())).fields()?.bool()
    }

    /// Wants one more connection for each transaction that has not come back in time.
    pub fn private_retry(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_private_retry()).done()
    }
}

fn read(f: &mut Fields<'_>) -> Result<PrivateTx, KernelError> {
    Ok(PrivateTx { txid: f.txid()?, wtxid: f.wtxid()?, raw: f.bytes()?.to_vec() })
}
