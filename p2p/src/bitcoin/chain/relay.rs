//! Transactions that peers announce and send. The node keeps what is known of them (who announced what, what was asked,
//! what waits for its parents); the network reports and asks.

use bitcoin::{Txid, Wtxid};

use super::TxRef;
use crate::bitcoin::handle::PeerId;

/// A payload that is not what its type says; the text is Core's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// What matters about a peer whose handshake is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayPeer {
    /// Asked before others.
    pub preferred: bool,
    /// May announce without limit (`relay` permission).
    pub unlimited: bool,
    /// Announces by wtxid (BIP339).
    pub wtxid_relay: bool,
}

/// What a message about transactions led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// In the mempool now, and who sent it: to be announced.
    pub accepted: Vec<(Txid, Wtxid, PeerId)>,
    /// Parents that a peer must know, since it sent a child.
    pub parents: Vec<(PeerId, Txid)>,
}

/// What became of a transaction that a peer sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// It was judged; false when it was known already.
    pub judged: bool,
    /// It is in the mempool.
    pub in_mempool: bool,
    /// What happened besides: orphans and packages.
    pub outcome: Relayed,
}

/// Which transaction to ask from whom, orphans, and packages of a parent and a child.
pub trait TxRelay {
    /// A peer may announce from now on.
    fn peer_joined(&self, peer: PeerId, what: RelayPeer);
    /// A peer is gone, or never joined.
    fn peer_left(&self, peer: PeerId);
    /// A peer has a transaction. True if there is no need to ask for it.
    fn announced(&self, peer: PeerId, tx: TxRef) -> bool;
    /// What to ask from the peer now. Each counts as asked.
    fn requests(&self, peer: PeerId) -> Vec<TxRef>;
    /// The peer does not have what it was asked for.
    fn not_found(&self, peer: PeerId, txs: &[TxRef]);
    /// The ids of a serialized transaction.
    fn transaction_ids(&self, raw: &[u8]) -> Result<(Txid, Wtxid), Malformed>;
    /// Judges a transaction that the peer sent.
    fn receive_transaction(&self, peer: PeerId, raw: &[u8]) -> Received;
    /// Looks again at one transaction of the peer whose parents came. `None`: there is none to look at.
    fn reconsider_orphan(&self, peer: PeerId) -> Option<Relayed>;
}
