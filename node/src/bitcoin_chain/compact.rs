//! Compact blocks and the payloads for light clients, made and read in the kernel.

use bitcoin::block::Header;
use bitcoin::{BlockHash, Txid};
use keyless_kernel::{KernelError, compact as kernel};
use keyless_p2p::bitcoin::{CompactAnswer, CompactBlocks, CompactEnd, CompactStart, LightClients, Malformed, PeerId};

use super::relay::number;
use super::{KernelChain, exception, or_empty};

fn malformed(error: KernelError) -> Malformed {
    Malformed(exception(&error))
}

impl CompactBlocks for KernelChain {
    fn compact_block(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        or_empty(self.kernel.compact_block(hash))
    }

    fn compact_header(&self, payload: &[u8]) -> Result<Header, Malformed> {
        self.kernel.compact_header(payload).map_err(malformed)
    }

    fn begin_compact(&self, peer: PeerId, payload: &[u8]) -> CompactStart {
        match self.kernel.compact_begin(number(peer), payload) {
            Ok(kernel::CompactStart::Missing(indexes)) => CompactStart::Missing(indexes),
            Ok(kernel::CompactStart::Invalid) => CompactStart::Invalid,
            Ok(kernel::CompactStart::Failed) | Err(_) => CompactStart::Failed,
        }
    }

    fn fill_compact(&self, peer: PeerId, payload: &[u8]) -> Result<CompactEnd, Malformed> {
        Ok(match self.kernel.compact_fill(number(peer), payload).map_err(malformed)? {
            kernel::CompactEnd::Block(raw) => CompactEnd::Block(raw),
            kernel::CompactEnd::Invalid => CompactEnd::Invalid,
            kernel::CompactEnd::Failed => CompactEnd::Failed,
            kernel::CompactEnd::Again => CompactEnd::Again,
        })
    }

    fn try_compact(&self, payload: &[u8]) -> Option<Vec<u8>> {
        or_empty(self.kernel.compact_try(payload))
    }

    fn forget_compact(&self, peer: PeerId, hash: &BlockHash) {
        self.kernel.compact_forget(number(peer), hash);
    }

    fn compact_request(&self, hash: &BlockHash, indexes: &[u32]) -> Vec<u8> {
        or_empty(self.kernel.compact_request(hash, indexes))
    }

    fn compact_requested(&self, payload: &[u8]) -> Result<BlockHash, Malformed> {
        self.kernel.compact_requested(payload).map_err(malformed)
    }

    fn compact_answer(&self, payload: &[u8]) -> CompactAnswer {
        match self.kernel.compact_answer(payload) {
            Ok(kernel::CompactAnswer::Transactions(payload)) => CompactAnswer::Transactions(payload),
            Ok(kernel::CompactAnswer::OutOfBounds) => CompactAnswer::OutOfBounds,
            Ok(kernel::CompactAnswer::NoBlock) | Err(_) => CompactAnswer::NoBlock,
        }
    }
}

impl LightClients for KernelChain {
    fn filters(&self, start: u32, stop: &BlockHash) -> Option<Vec<Vec<u8>>> {
        or_empty(self.kernel.filters(start, stop))
    }

    fn filter_headers(&self, start: u32, stop: &BlockHash) -> Option<Vec<u8>> {
        or_empty(self.kernel.filter_headers(start, stop))
    }

    fn filter_checkpoints(&self, stop: &BlockHash) -> Option<Vec<u8>> {
        or_empty(self.kernel.filter_checkpoints(stop))
    }

    fn bloom_load(&self, peer: PeerId, payload: &[u8]) -> Result<bool, Malformed> {
        self.kernel.bloom_load(number(peer), payload).map_err(malformed)
    }

    fn bloom_add(&self, peer: PeerId, payload: &[u8]) -> Result<bool, Malformed> {
        self.kernel.bloom_add(number(peer), payload).map_err(malformed)
    }

    fn bloom_clear(&self, peer: PeerId) {
        self.kernel.bloom_clear(number(peer));
    }

    fn bloom_matches(&self, peer: PeerId, txid: &Txid) -> bool {
        self.kernel.bloom_matches(number(peer), txid).unwrap_or(true)
    }

    fn bloom_block(&self, peer: PeerId, hash: &BlockHash) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        or_empty(self.kernel.bloom_block(number(peer), hash)).map(|found| (found.merkle_block, found.transactions))
    }
}
