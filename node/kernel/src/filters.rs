//! What light clients ask for: block filters (BIP157, from `-blockfilterindex`) as ready payloads, and bloom filters (BIP37),
//! one for each peer.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Txid};

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// What a `getdata` for a filtered block is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilteredBlock {
    /// The payload of `merkleblock`.
    pub merkle_block: Vec<u8>,
    /// Payloads of `tx`.
    pub transactions: Vec<Vec<u8>>,
}

impl Kernel {
    /// Payloads of `cfilter`, from a height up to a known block. `None`: the index has not all of them.
    pub fn filters(&self, start: u32, stop: &BlockHash) -> Result<Option<Vec<Vec<u8>>>, KernelError> {
        let answer = Answer::new(ffi::kl_filter_range(start, stop.as_byte_array().into()));
        answer.fields()?.option(|f| f.list(|f| Ok(f.bytes()?.to_vec())))
    }

    /// The payload of `cfheaders`.
    pub fn filter_headers(&self, start: u32, stop: &BlockHash) -> Result<Option<Vec<u8>>, KernelError> {
        let answer = Answer::new(ffi::kl_filter_headers(start, stop.as_byte_array().into()));
        answer.fields()?.option(|f| Ok(f.bytes()?.to_vec()))
    }

    /// The payload of `cfcheckpt`.
    pub fn filter_checkpoints(&self, stop: &BlockHash) -> Result<Option<Vec<u8>>, KernelError> {
        let answer = Answer::new(ffi::kl_filter_checkpoints(stop.as_byte_array().into()));
        answer.fields()?.option(|f| Ok(f.bytes()?.to_vec()))
    }

    /// `filterload`: false if the filter is too large. The error is the text of Core's exception.
    pub fn bloom_load(&self, peer: i64, payload: &[u8]) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_bloom_load(peer, payload.into())).fields()?.bool()
    }

    /// `filteradd`: false if the element is too large or there is no filter.
    pub fn bloom_add(&self, peer: i64, payload: &[u8]) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_bloom_add(peer, payload.into())).fields()?.bool()
    }

    /// `filterclear`, or the peer is gone.
    pub fn bloom_clear(&self, peer: i64) {
        ffi::kl_bloom_clear(peer);
    }

    /// Whether a transaction of the mempool passes the peer's filter; all do when there is none.
    pub fn bloom_matches(&self, peer: i64, txid: &Txid) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_bloom_matches(peer, txid.as_byte_array().into())).fields()?.bool()
    }

    /// A stored block, by the peer's filter. `None` without one.
    pub fn bloom_block(&self, peer: i64, hash: &BlockHash) -> Result<Option<FilteredBlock>, KernelError> {
        Answer::new(ffi::kl_bloom_block(peer, hash.as_byte_array().into())).fields()?.option(|f| {
            Ok(FilteredBlock { merkle_block: f.bytes()?.to_vec(), transactions: f.list(|f| Ok(f.bytes()?.to_vec()))? })
        })
    }
}
