//! Compact blocks (BIP152) and what light clients ask for (BIP37, BIP157). The node makes and reads the payloads, for they
//! are made of its mempool, its blocks and its indexes.

use bitcoin::block::Header;
use bitcoin::{BlockHash, Txid};

use super::relay::Malformed;
use crate::bitcoin::handle::PeerId;

/// What the first look at a compact block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactStart {
    /// All is here but the transactions at these places.
    Missing(Vec<u32>),
    /// The message contradicts itself.
    Invalid,
    /// Short ids collide: the whole block has to be asked for.
    Failed,
}

/// What became of a half-built block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactEnd {
    /// The serialized block.
    Block(Vec<u8>),
    /// The transactions are not those asked for.
    Invalid,
    /// They fit the short ids, but not the block.
    Failed,
    /// It failed before.
    Again,
}

/// What answers a `getblocktxn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactAnswer {
    /// The block is not here.
    NoBlock,
    /// An index is beyond the block's end.
    OutOfBounds,
    /// The payload of `blocktxn`.
    Transactions(Vec<u8>),
}

/// Making and rebuilding compact blocks.
pub trait CompactBlocks {
    /// A stored block as the payload of `cmpctblock`.
    fn compact_block(&self, hash: &BlockHash) -> Option<Vec<u8>>;
    /// The header of a `cmpctblock` that can be read to its end.
    fn compact_header(&self, payload: &[u8]) -> Result<Header, Malformed>;
    /// Starts to rebuild a block from this peer's message; it is kept until it is forgotten.
    fn begin_compact(&self, peer: PeerId, payload: &[u8]) -> CompactStart;
    /// Completes it by the payload of a `blocktxn`.
    fn fill_compact(&self, peer: PeerId, payload: &[u8]) -> Result<CompactEnd, Malformed>;
    /// The whole block, if nothing is missing.
    fn try_compact(&self, payload: &[u8]) -> Option<Vec<u8>>;
    fn forget_compact(&self, peer: PeerId, hash: &BlockHash);
    /// The payload of `getblocktxn`.
    fn compact_request(&self, hash: &BlockHash, indexes: &[u32]) -> Vec<u8>;
    /// The block that a `getblocktxn` is about.
    fn compact_requested(&self, payload: &[u8]) -> Result<BlockHash, Malformed>;
    fn compact_answer(&self, payload: &[u8]) -> CompactAnswer;
}

/// Payloads for light clients.
pub trait LightClients {
    /// Payloads of `cfilter`, from a height to a known block. `None`: the index has not all of them.
    fn filters(&self, start: u32, stop: &BlockHash) -> Option<Vec<Vec<u8>>>;
    /// The payload of `cfheaders`.
    fn filter_headers(&self, start: u32, stop: &BlockHash) -> Option<Vec<u8>>;
    /// The payload of `cfcheckpt`.
    fn filter_checkpoints(&self, stop: &BlockHash) -> Option<Vec<u8>>;
    /// Sets the peer's bloom filter. False if it is too large.
    fn bloom_load(&self, peer: PeerId, payload: &[u8]) -> Result<bool, Malformed>;
    /// Adds to it. False if the element is too large or there is no filter.
    fn bloom_add(&self, peer: PeerId, payload: &[u8]) -> Result<bool, Malformed>;
    fn bloom_clear(&self, peer: PeerId);
    /// Whether a transaction of the mempool passes the peer's filter; all do when there is none.
    fn bloom_matches(&self, peer: PeerId, txid: &Txid) -> bool;
    /// The payload of `merkleblock`, and those of `tx` that go with it. `None` without a filter.
    fn bloom_block(&self, peer: PeerId, hash: &BlockHash) -> Option<(Vec<u8>, Vec<Vec<u8>>)>;
}
