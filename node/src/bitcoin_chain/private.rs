//! Own transactions that leave by short connections, kept by Core's `PrivateBroadcast` in the kernel.

use keyless_kernel::private_broadcast as kernel;
use keyless_p2p::bitcoin::{NetAddr, PeerId, PrivateBroadcast, PrivateTx};

use super::addresses::one;
use super::relay::number;
use super::{KernelChain, or_empty};

fn private(tx: kernel::PrivateTx) -> PrivateTx {
    PrivateTx { txid: tx.txid, wtxid: tx.wtxid, raw: tx.raw }
}

impl PrivateBroadcast for KernelChain {
    fn private_wanted(&self, opened: u32) -> u64 {
        or_empty(self.kernel.private_wanted(opened))
    }

    fn private_pick(&self, peer: PeerId, address: &NetAddr) -> Option<PrivateTx> {
        or_empty(self.kernel.private_pick(number(peer), &one(address))).map(private)
    }

    fn private_given(&self, peer: PeerId) -> Option<PrivateTx> {
        or_empty(self.kernel.private_given(number(peer))).map(private)
    }

    fn private_confirmed(&self, peer: PeerId) {
        or_empty(self.kernel.private_confirmed(number(peer)));
    }

    fn private_ended(&self, peer: PeerId) {
        or_empty(self.kernel.private_ended(number(peer)));
    }

    fn private_returned(&self, raw: &[u8]) -> bool {
        or_empty(self.kernel.private_returned(raw))
    }

    fn private_retry(&self) {
        or_empty(self.kernel.private_retry());
    }
}
