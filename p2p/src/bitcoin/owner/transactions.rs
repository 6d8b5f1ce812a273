//! Transactions that peers send: the mempool's verdict, orphans, packages of a parent and a child, and passing them on.

use std::collections::VecDeque;

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, Transaction, Txid, Wtxid};

use super::inventory::{announcer, spoken_id};
use super::{Owner, Step, gone};
use crate::bitcoin::chain::{TxOutcome, TxRef};
use crate::bitcoin::handle::PeerId;
use crate::bitcoin::message;
use crate::bitcoin::orphans::Orphans;
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::requests::Requests;
use crate::bitcoin::rolling::RollingSet;

/// Verdicts remembered (Core's filters hold as many).
const REMEMBERED: usize = 120_000;
/// Orphans looked at again because of one transaction.
const MAX_RECONSIDERED: usize = 100;
/// Transactions waiting to be announced to one peer.
const MAX_TO_SEND: usize = 100_000;

/// Bookkeeping of transaction relay.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) requests: Requests,
    pub(super) orphans: Orphans,
    /// Refused since the last block; ids of either kind.
    rejected: RollingSet<[u8; 32]>,
    /// Refused for their feerate alone: a child may pay.
    reconsiderable: RollingSet<[u8; 32]>,
    confirmed: RollingSet<[u8; 32]>,
    /// Ready peers that speak wtxid relay.
    pub(super) wtxid_peers: usize,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            requests: Requests::default(),
            orphans: Orphans::default(),
            rejected: RollingSet::new(REMEMBERED),
            reconsiderable: RollingSet::new(REMEMBERED),
            confirmed: RollingSet::new(REMEMBERED / 2),
            wtxid_peers: 0,
        }
    }
}

impl Relay {
    /// The mempool has it: ask nobody.
    pub(super) fn entered(&mut self, txid: &Txid, wtxid: &Wtxid) {
        self.requests.forget(&TxRef::Txid(*txid));
        self.requests.forget(&TxRef::Wtxid(*wtxid));
        self.orphans.remove(wtxid);
    }

    /// A new tip may make refused transactions valid.
    pub(super) fn forget_verdicts(&mut self) {
        self.rejected.clear();
        self.reconsiderable.clear();
    }

    pub(super) fn confirmed(&mut self, transactions: &[(Txid, Wtxid)]) {
        for (txid, wtxid) in transactions {
            self.requests.forget(&TxRef::Txid(*txid));
            self.requests.forget(&TxRef::Wtxid(*wtxid));
            self.confirmed.insert(txid.to_byte_array());
            self.confirmed.insert(wtxid.to_byte_array());
        }
    }

    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        self.requests.forget_peer(peer);
        self.orphans.forget_peer(peer);
    }
}

/// A transaction to be judged and who sent it.
struct Submission {
    raw: Vec<u8>,
    txid: Txid,
    wtxid: Wtxid,
    from: PeerId,
}

impl Owner {
    /// Core's `AlreadyHaveTx`.
    pub(super) fn already_have(&self, tx: TxRef) -> bool {
        let id = crate::bitcoin::requests::key(&tx);
        let orphan = matches!(tx, TxRef::Wtxid(wtxid) if self.relay.orphans.contains(&wtxid));
        orphan
            || self.relay.rejected.contains(&id)
            || self.relay.reconsiderable.contains(&id)
            || self.relay.confirmed.contains(&id)
            || self.chain.has_transaction(tx)
    }

    pub(super) fn on_tx(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if self.rejects_txs(peer) {
            return Err(gone(format!("transaction sent in violation of protocol, {}", peer.disconnecting())));
        }
        if self.chain.is_initial_block_download() {
            return Ok(());
        }
        let tx: Transaction = match message::decode(payload) {
            Ok(tx) => tx,
            Err(error) => {
                // The kernel reads a few forms that are never valid, and has its own word for them.
                if let TxOutcome::Rejected { reason, .. } = self.chain.accept_transaction(payload) {
                    tracing::debug!(target: "mempoolrej", "tx from peer={} was not accepted: {reason}", peer.id);
                }
                return Err(error.into());
            }
        };
        let (txid, wtxid) = (tx.compute_txid(), tx.compute_wtxid());
        peer.knows_tx(spoken_id(peer, &txid, &wtxid));
        self.relay.requests.answered(peer.id, &TxRef::Txid(txid));
        self.relay.requests.answered(peer.id, &TxRef::Wtxid(wtxid));
        if self.already_have(TxRef::Wtxid(wtxid)) {
            self.received_again(peer, txid, wtxid, payload);
            return Ok(());
        }
        let raw = payload.to_vec();
        self.submit(peer, Submission { raw, txid, wtxid, from: peer.id });
        Ok(())
    }

    fn received_again(&mut self, peer: &mut Peer, txid: Txid, wtxid: Wtxid, raw: &[u8]) {
        if peer.has(Permissions::FORCE_RELAY) {
            if self.chain.has_transaction(TxRef::Txid(txid)) {
                tracing::info!("Force relaying tx {txid} (wtxid={wtxid}) from peer={}", peer.id);
                self.announce_tx(txid, wtxid);
            } else {
                tracing::info!(
                    "Not relaying non-mempool transaction {txid} (wtxid={wtxid}) from forcerelay peer={}",
                    peer.id
                );
            }
        }
        if self.relay.reconsiderable.contains(&wtxid.to_byte_array()) {
            self.try_package(peer, &Submission { raw: raw.to_vec(), txid, wtxid, from: peer.id });
        }
    }

    /// Judges a transaction, and then the orphans that waited for it.
    fn submit(&mut self, peer: &mut Peer, first: Submission) {
        let mut queue = VecDeque::from([first]);
        let mut judged = 0;
        while let Some(next) = queue.pop_front() {
            judged += 1;
            if !self.judge_tx(peer, &next) || judged > MAX_RECONSIDERED {
                continue;
            }
            for (wtxid, raw, from) in self.relay.orphans.children_of(&next.txid, peer.id) {
                let Ok(tx) = message::decode::<Transaction>(&raw) else { continue };
                self.relay.orphans.remove(&wtxid);
                queue.push_back(Submission { raw, txid: tx.compute_txid(), wtxid, from });
            }
        }
    }

    /// True if it is in the mempool now.
    fn judge_tx(&mut self, peer: &mut Peer, tx: &Submission) -> bool {
        match self.chain.accept_transaction(&tx.raw) {
            TxOutcome::Accepted { txid, wtxid, .. } => {
                tracing::debug!(
                    target: "mempool",
                    "AcceptToMemoryPool: peer={}: accepted {txid} (wtxid={wtxid})", tx.from
                );
                self.accepted(peer, tx);
                true
            }
            TxOutcome::Known { txid, wtxid } => {
                self.relay.entered(&txid, &wtxid);
                false
            }
            TxOutcome::MissingInputs { parents, .. } => {
                log_refusal(tx, "bad-txns-inputs-missingorspent");
                self.keep_orphan(peer, tx, &parents);
                false
            }
            TxOutcome::Rejected { reason, reconsiderable, witness_stripped, .. } => {
                log_refusal(tx, &reason);
                self.refused(tx, reconsiderable, witness_stripped);
                if reconsiderable {
                    self.try_package(peer, tx);
                }
                false
            }
        }
    }

    fn accepted(&mut self, peer: &mut Peer, tx: &Submission) {
        self.relay.entered(&tx.txid, &tx.wtxid);
        if tx.from == peer.id {
            peer.last_tx = self.chain.now();
        }
        self.announce_tx(tx.txid, tx.wtxid);
        peer.queue_tx(tx.txid, tx.wtxid, MAX_TO_SEND);
    }

    fn refused(&mut self, tx: &Submission, reconsiderable: bool, witness_stripped: bool) {
        self.relay.orphans.remove(&tx.wtxid);
        if witness_stripped {
            return;
        }
        let wtxid = tx.wtxid.to_byte_array();
        if reconsiderable {
            self.relay.reconsiderable.insert(wtxid);
        } else {
            self.relay.rejected.insert(wtxid);
        }
        self.relay.requests.forget(&TxRef::Wtxid(tx.wtxid));
        if tx.txid.to_byte_array() == wtxid {
            self.relay.requests.forget(&TxRef::Txid(tx.txid));
        }
    }

    /// Waits for the parents, and asks who sent the child for them.
    fn keep_orphan(&mut self, peer: &mut Peer, tx: &Submission, parents: &[Txid]) {
        // One parent of too low a feerate may get in together with this child; two cannot.
        let low_fee = parents.iter().filter(|id| self.relay.reconsiderable.contains(&id.to_byte_array())).count();
        let hopeless =
            low_fee > 1 || parents.iter().any(|parent| self.relay.rejected.contains(&parent.to_byte_array()));
        if hopeless {
            tracing::debug!(
                target: "mempool",
                "not keeping orphan with rejected parents {} (wtxid={})", tx.txid, tx.wtxid
            );
            self.relay.rejected.insert(tx.wtxid.to_byte_array());
            self.relay.requests.forget(&TxRef::Wtxid(tx.wtxid));
            return;
        }
        let now = self.chain.now();
        for parent in parents {
            let id = TxRef::Txid(*parent);
            peer.knows_tx(parent.to_byte_array());
            // A parent refused for its feerate is worth asking for again: with this child it may get in.
            let low_fee = self.relay.reconsiderable.contains(&parent.to_byte_array());
            if tx.from == peer.id && (low_fee || !self.already_have(id)) {
                let wtxid_peers = self.relay.wtxid_peers > 0;
                self.relay.requests.announced(announcer(peer), id, now, wtxid_peers);
            }
        }
        let ids = (tx.txid, tx.wtxid);
        let spends = message::decode::<Transaction>(&tx.raw)
            .map(|tx| tx.input.iter().map(|input| input.previous_output).collect())
            .unwrap_or_default();
        if self.relay.orphans.add(tx.raw.clone(), ids, parents, spends, tx.from, now) {
            tracing::debug!(
                target: "txpackages",
                "stored orphan tx {} (wtxid={}), weight: {}", tx.txid, tx.wtxid, tx.raw.len()
            );
        }
        self.relay.requests.forget(&TxRef::Txid(tx.txid));
        self.relay.requests.forget(&TxRef::Wtxid(tx.wtxid));
    }

    /// A parent below the minimum feerate and an orphan that spends it, judged together.
    fn try_package(&mut self, peer: &mut Peer, parent: &Submission) {
        let children = self.relay.orphans.children_of(&parent.txid, parent.from);
        let Some((wtxid, raw, from)) = children.into_iter().next() else { return };
        let Ok(tx) = message::decode::<Transaction>(&raw) else { return };
        let child = Submission { raw, txid: tx.compute_txid(), wtxid, from };
        let outcomes = self.chain.accept_package(&parent.raw, &child.raw);
        let accepted = matches!(outcomes[1], TxOutcome::Accepted { .. });
        tracing::debug!(
            target: "txpackages",
            "package evaluation for parent {} (wtxid={}, sender={}) + child {} (wtxid={}, sender={}): package {}",
            parent.txid, parent.wtxid, parent.from, child.txid, child.wtxid, child.from,
            if accepted { "accepted" } else { "rejected" }
        );
        for (tx, outcome) in [(parent, &outcomes[0]), (&child, &outcomes[1])] {
            match outcome {
                TxOutcome::Accepted { .. } => {
                    self.relay.reconsiderable.remove(&tx.wtxid.to_byte_array());
                    self.accepted(peer, tx);
                }
                TxOutcome::Known { txid, wtxid } => self.relay.entered(txid, wtxid),
                TxOutcome::Rejected { reason, reconsiderable, witness_stripped, .. } => {
                    log_refusal(tx, reason);
                    self.refused(tx, *reconsiderable, *witness_stripped);
                }
                TxOutcome::MissingInputs { .. } => {}
            }
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

    pub(super) fn block_connected(&mut self, transactions: &[(Txid, Wtxid)], spent: &[OutPoint]) {
        // Blocks of the initial download are not what peers announce transactions of.
        if !self.chain.is_initial_block_download() {
            self.relay.confirmed(transactions);
        }
        let erased = self.relay.orphans.block(transactions, spent);
        if erased > 0 {
            tracing::debug!(
                target: "txpackages",
                "Erased {erased} orphan transaction(s) included or conflicted by block"
            );
        }
        if let Some(timeout) = self.downloads.relax() {
            tracing::debug!(
                target: "net",
                "Decreased stalling timeout to {} seconds", timeout.as_secs()
            );
        }
    }
}

fn log_refusal(tx: &Submission, reason: &str) {
    tracing::debug!(
        target: "mempoolrej",
        "{} (wtxid={}) from peer={} was not accepted: {reason}", tx.txid, tx.wtxid, tx.from
    );
}
