//! Transactions of peers, by Core's own bookkeeping in the kernel.

use bitcoin::{Txid, Wtxid};
use keyless_kernel::relay as kernel;
use keyless_p2p::bitcoin::{Malformed, PeerId, Received, RelayPeer, Relayed, TxRef, TxRelay};

use super::{KernelChain, exception, or_empty};

/// The kernel counts peers in a signed number.
pub(super) fn number(peer: PeerId) -> i64 {
    i64::try_from(peer).unwrap_or(i64::MAX)
}

fn name(tx: &TxRef) -> kernel::TxName {
    match tx {
        TxRef::Txid(id) => kernel::TxName::Txid(*id),
        TxRef::Wtxid(id) => kernel::TxName::Wtxid(*id),
    }
}

fn relayed(outcome: kernel::Relayed) -> Relayed {
    let id = |peer: i64| PeerId::try_from(peer).unwrap_or(PeerId::MAX);
    Relayed {
        accepted: outcome.accepted.into_iter().map(|(txid, wtxid, peer)| (txid, wtxid, id(peer))).collect(),
        parents: outcome.parents.into_iter().map(|(peer, txid)| (id(peer), txid)).collect(),
    }
}

impl TxRelay for KernelChain {
    fn peer_joined(&self, peer: PeerId, what: RelayPeer) {
        let RelayPeer { preferred, unlimited, wtxid_relay } = what;
        or_empty(self.kernel.relay_joined(number(peer), kernel::RelayPeer { preferred, unlimited, wtxid_relay }));
    }

    fn peer_left(&self, peer: PeerId) {
        or_empty(self.kernel.relay_left(number(peer)));
    }

    fn announced(&self, peer: PeerId, tx: TxRef) -> bool {
        or_empty(self.kernel.relay_announced(number(peer), name(&tx)))
    }

    fn requests(&self, peer: PeerId) -> Vec<TxRef> {
        let due = or_empty(self.kernel.relay_requests(number(peer)));
        due.into_iter()
            .map(|tx| match tx {
                kernel::TxName::Txid(id) => TxRef::Txid(id),
                kernel::TxName::Wtxid(id) => TxRef::Wtxid(id),
            })
            .collect()
    }

    fn not_found(&self, peer: PeerId, txs: &[TxRef]) {
        let names: Vec<kernel::TxName> = txs.iter().map(name).collect();
        or_empty(self.kernel.relay_not_found(number(peer), &names));
    }

    fn transaction_ids(&self, raw: &[u8]) -> Result<(Txid, Wtxid), Malformed> {
        self.kernel.relay_decode(raw).map_err(|error| Malformed(exception(&error)))
    }

    fn receive_transaction(&self, peer: PeerId, raw: &[u8]) -> Received {
        match self.kernel.relay_transaction(number(peer), raw) {
            Ok(received) => Received {
                judged: received.judged,
                in_mempool: received.in_mempool,
                outcome: relayed(received.outcome),
            },
            Err(error) => {
                tracing::debug!(target: "net", %error, "the kernel did not answer");
                Received::default()
            }
        }
    }

    fn reconsider_orphan(&self, peer: PeerId) -> Option<Relayed> {
        or_empty(self.kernel.relay_orphan(number(peer))).map(relayed)
    }
}
