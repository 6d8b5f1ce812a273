//! Transactions that peers send: the node judges them, what it took is announced to the others.

use bitcoin::hashes::Hash;
use bitcoin::{Txid, Wtxid};

use super::inventory::spoken_id;
use super::{Owner, Step, gone};
use crate::bitcoin::chain::{Relayed, TxRef};
use crate::bitcoin::handle::PeerId;
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// Transactions waiting to be announced to one peer.
const MAX_TO_SEND: usize = 100_000;

impl Owner {
    pub(super) fn on_tx(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if self.rejects_txs(peer) {
            return Err(gone(format!("transaction sent in violation of protocol, {}", peer.disconnecting())));
        }
        if self.chain.is_initial_block_download() {
            return Ok(());
        }
        let (txid, wtxid) = self.chain.transaction_ids(payload)?;
        peer.knows_tx(spoken_id(peer, &txid, &wtxid));
        if self.config.private_broadcast && self.chain.private_returned(payload) {
            tracing::debug!(
                target: "privatebroadcast",
                "Received our privately broadcast transaction (txid={txid}) from the network from {}; stopping private \
                 broadcast attempts",
                peer.log()
            );
        }
        let received = self.chain.receive_transaction(peer.id, payload);
        if !received.judged && peer.has(Permissions::FORCE_RELAY) {
            if received.in_mempool {
                tracing::info!("Force relaying tx {txid} (wtxid={wtxid}) from peer={}", peer.id);
                self.announce_tx(txid, wtxid);
            } else {
                tracing::info!(
                    "Not relaying non-mempool transaction {txid} (wtxid={wtxid}) from forcerelay peer={}",
                    peer.id
                );
            }
        }
        if received.judged && received.outcome.accepted.iter().any(|(_, accepted, _)| *accepted == wtxid) {
            peer.last_tx = self.chain.now();
        }
        self.relayed(peer, &received.outcome);
        Ok(())
    }

    /// Looks again at one transaction of the peer that waited for its parents. False if there was none.
    pub(super) fn reconsider(&mut self, peer: &mut Peer) -> bool {
        if !peer.ready || peer.is_private() {
            return false;
        }
        let Some(outcome) = self.chain.reconsider_orphan(peer.id) else { return false };
        self.relayed(peer, &outcome);
        true
    }

    /// After a transaction was taken, what waited for it, before anything else is read.
    pub(super) fn look_at_orphans(&mut self) {
        while std::mem::take(&mut self.orphans_due) {
            let ids: Vec<PeerId> = self.peers.keys().copied().collect();
            for id in ids {
                self.with_peer(id, |owner, peer| {
                    owner.reconsider(peer);
                    Ok(())
                });
            }
        }
    }

    fn relayed(&mut self, peer: &mut Peer, outcome: &Relayed) {
        for (id, txid) in &outcome.parents {
            let other = if *id == peer.id { None } else { self.peers.get_mut(id) };
            let knows = other.map_or(&mut *peer, |other| other);
            knows.knows_tx(txid.to_byte_array());
        }
        self.orphans_due |= !outcome.accepted.is_empty();
        for (txid, wtxid, _) in &outcome.accepted {
            self.announce_tx(*txid, *wtxid);
            peer.queue_tx(*txid, *wtxid, MAX_TO_SEND);
        }
    }

    /// Core's `InitiateTxBroadcastToAll`: every peer that does not know it hears of it at its next turn.
    pub(super) fn announce_tx(&mut self, txid: Txid, wtxid: Wtxid) {
        for peer in self.peers.values_mut() {
            peer.queue_tx(txid, wtxid, MAX_TO_SEND);
        }
    }

    /// Announces again what nobody has asked for yet.
    pub(super) fn announce_unbroadcast(&mut self) {
        for (txid, wtxid) in self.chain.unbroadcast() {
            if self.chain.has_transaction(TxRef::Wtxid(wtxid)) {
                self.announce_tx(txid, wtxid);
            } else {
                self.chain.remove_unbroadcast(&txid);
            }
        }
    }
}
