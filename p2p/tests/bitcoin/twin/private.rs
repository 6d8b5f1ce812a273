//! Own transactions of a twin that leave by connections of their own.

use bitcoin::Transaction;
use bitcoin::consensus::encode::serialize;
use keyless_p2p::bitcoin::{NetAddr, PeerId, PrivateBroadcast, PrivateTx};

use super::Twin;

#[derive(Default)]
pub(super) struct Private {
    sending: Vec<Transaction>,
    wanted: u64,
    /// Which connection sends what, and whether the peer has it.
    given: Vec<(PeerId, Transaction, bool)>,
}

fn private(tx: &Transaction) -> PrivateTx {
    PrivateTx { txid: tx.compute_txid(), wtxid: tx.compute_wtxid(), raw: serialize(tx) }
}

impl Twin {
    /// Wants a transaction sent by `connections` connections of its own.
    pub fn send_privately(&self, tx: &Transaction, connections: u64) {
        let private = &mut self.lock().private;
        private.sending.push(tx.clone());
        private.wanted += connections;
    }

    /// Peers that have what was sent to them.
    pub fn delivered(&self) -> usize {
        self.lock().private.given.iter().filter(|(_, _, confirmed)| *confirmed).count()
    }

    /// Whether anything is being sent.
    pub fn is_sending(&self) -> bool {
        !self.lock().private.sending.is_empty()
    }
}

impl PrivateBroadcast for Twin {
    fn private_wanted(&self, opened: u32) -> u64 {
        let private = &mut self.lock().private;
        private.wanted = private.wanted.saturating_sub(opened.into());
        private.wanted
    }

    fn private_pick(&self, peer: PeerId, _: &NetAddr) -> Option<PrivateTx> {
        let private = &mut self.lock().private;
        let tx = private.sending.first()?.clone();
        private.given.push((peer, tx.clone(), false));
        Some(self::private(&tx))
    }

    fn private_given(&self, peer: PeerId) -> Option<PrivateTx> {
        self.lock().private.given.iter().find(|(id, _, _)| *id == peer).map(|(_, tx, _)| private(tx))
    }

    fn private_confirmed(&self, peer: PeerId) {
        let private = &mut self.lock().private;
        private.given.iter_mut().filter(|(id, _, _)| *id == peer).for_each(|entry| entry.2 = true);
    }

    fn private_ended(&self, peer: PeerId) {
        let private = &mut self.lock().private;
        let confirmed = private.given.iter().any(|(id, _, confirmed)| *id == peer && *confirmed);
        private.wanted += u64::from(!confirmed && !private.sending.is_empty());
    }

    fn private_returned(&self, raw: &[u8]) -> bool {
        let private = &mut self.lock().private;
        let before = private.sending.len();
        private.sending.retain(|tx| serialize(tx) != raw);
        private.sending.len() != before
    }

    fn private_retry(&self) {}
}
