//! Own transactions that leave by short connections of their own. The node keeps them and counts the connections it
//! wants; the network opens these, and reports.

use bitcoin::{Txid, Wtxid};

use crate::bitcoin::handle::PeerId;
use crate::bitcoin::net_addr::NetAddr;

/// A transaction for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateTx {
    pub txid: Txid,
    pub wtxid: Wtxid,
    /// With witness.
    pub raw: Vec<u8>,
}

/// Core's `PrivateBroadcast`. Each connection sends at most one transaction.
pub trait PrivateBroadcast {
    /// Connections still to be opened, after `opened` more were.
    fn private_wanted(&self, opened: u32) -> u64;
    /// The transaction for a new connection. `None`: it was opened in vain.
    fn private_pick(&self, peer: PeerId, address: &NetAddr) -> Option<PrivateTx>;
    /// What was picked for this connection.
    fn private_given(&self, peer: PeerId) -> Option<PrivateTx>;
    /// The peer has it.
    fn private_confirmed(&self, peer: PeerId);
    /// A connection ended: what it did not do, another is to do.
    fn private_ended(&self, peer: PeerId);
    /// A transaction came from the network. True if it was one that was being sent; now it is not.
    fn private_returned(&self, raw: &[u8]) -> bool;
    /// Wants one more connection for each transaction that has not come back in time.
    fn private_retry(&self);
}
