//! Compact blocks (BIP152): a stored block as short ids, and a block rebuilt from short ids and the mempool.
//!
//! A half-built block is kept for the peer it comes from until [`Kernel::compact_forget`].

use bitcoin::BlockHash;
use bitcoin::block::Header;
use bitcoin::hashes::Hash;

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// What the first look at a compact block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactStart {
    /// All but the transactions at these places is here.
    Missing(Vec<u32>),
    /// The message contradicts itself.
    Invalid,
    /// Short ids collide: the whole block has to be asked for.
    Failed,
}

/// What became of a half-built block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactEnd {
    /// The block, in consensus encoding.
    Block(Vec<u8>),
    /// The transactions do not fit.
    Invalid,
    /// They fit the short ids, but not the block.
    Failed,
    /// It failed before.
    Again,
}

/// What answers a `getblocktxn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactAnswer {
    /// The block is not here.
    NoBlock,
    /// An index is beyond the block's end.
    OutOfBounds,
    /// The payload of `blocktxn`.
    Transactions(Vec<u8>),
}

impl Kernel {
    /// A stored block as the payload of `cmpctblock`.
    pub fn compact_block(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>, KernelError> {
        Answer::new(ffi::kl_compact_make(hash.as_byte_array().into())).fields()?.option(|f| Ok(f.bytes()?.to_vec()))
    }

    /// The header of a `cmpctblock`; the error is the text of Core's exception.
    pub fn compact_header(&self, payload: &[u8]) -> Result<Header, KernelError> {
        Answer::new(ffi::kl_compact_decode(payload.into())).fields()?.consensus()
    }

    /// Starts to rebuild a block for a peer.
    pub fn compact_begin(&self, peer: i64, payload: &[u8]) -> Result<CompactStart, KernelError> {
        let answer = Answer::new(ffi::kl_compact_begin(peer, payload.into()));
        let mut f = answer.fields()?;
        match f.u8()? {
            0 => Ok(CompactStart::Missing(f.list(|f| f.u32())?)),
            1 => Ok(CompactStart::Invalid),
            _ => Ok(CompactStart::Failed),
        }
    }

    /// Completes it by the payload of a `blocktxn`.
    pub fn compact_fill(&self, peer: i64, payload: &[u8]) -> Result<CompactEnd, KernelError> {
        let answer = Answer::new(ffi::kl_compact_fill(peer, payload.into()));
        let mut f = answer.fields()?;
        match f.u8()? {
            0 => Ok(CompactEnd::Block(f.bytes()?.to_vec())),
            1 => Ok(CompactEnd::Invalid),
            2 => Ok(CompactEnd::Failed),
            _ => Ok(CompactEnd::Again),
        }
    }

    /// The whole block of a `cmpctblock`, if the mempool has all of it.
    pub fn compact_try(&self, payload: &[u8]) -> Result<Option<Vec<u8>>, KernelError> {
        Answer::new(ffi::kl_compact_try(payload.into())).fields()?.option(|f| Ok(f.bytes()?.to_vec()))
    }

    /// The peer is no longer asked for this block.
    pub fn compact_forget(&self, peer: i64, hash: &BlockHash) {
        ffi::kl_compact_forget(peer, hash.as_byte_array().into());
    }

    /// The payload of a `getblocktxn` for the transactions at `indexes`, in ascending order.
    pub fn compact_request(&self, hash: &BlockHash, indexes: &[u32]) -> Result<Vec<u8>, KernelError> {
        let bytes: Vec<u8> = indexes.iter().flat_map(|index| index.to_le_bytes()).collect();
        let answer = Answer::new(ffi::kl_compact_ask(hash.as_byte_array().into(), bytes.as_slice().into()));
        let mut f = answer.fields()?;
        Ok(f.bytes()?.to_vec())
    }

    /// The block that a `getblocktxn` is about; the error is the text of Core's exception.
    pub fn compact_requested(&self, payload: &[u8]) -> Result<BlockHash, KernelError> {
        Answer::new(ffi::kl_compact_request(payload.into())).fields()?.block_hash()
    }

    /// What to answer to the payload of a `getblocktxn`.
    pub fn compact_answer(&self, payload: &[u8]) -> Result<CompactAnswer, KernelError> {
        let answer = Answer::new(ffi::kl_compact_answer(payload.into()));
        let mut f = answer.fields()?;
        match f.u8()? {
            0 => Ok(CompactAnswer::NoBlock),
            1 => Ok(CompactAnswer::OutOfBounds),
            _ => Ok(CompactAnswer::Transactions(f.bytes()?.to_vec())),
        }
    }
}
