//! Core's `HeadersSyncState`: a peer must show a chain of enough work, twice, before its headers cost memory.
//!
//! One object for one peer and one sync. While it runs, headers go in by [`HeadersSync::process`]; those that come out
//! may be given to [`Kernel::process_headers`] with `min_pow_checked`.

use std::os::raw::c_int;

use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Work};

use crate::chain::join_headers;
use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// A low-work header sync with one peer.
#[derive(Debug)]
pub struct HeadersSync {
    id: u64,
}

/// What a batch of headers led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadersSyncStep {
    /// Headers that may now be processed.
    pub ready: Vec<Header>,
    /// The peer's headers did fit; if not, the sync is over.
    pub success: bool,
    /// Ask the peer for more, from [`HeadersSync::locator`].
    pub request_more: bool,
}

impl Kernel {
    /// Starts a low-work sync behind the known header `start`; `peer` is for log lines.
    pub fn headers_sync(&self, start: &BlockHash, minimum_work: Work, peer: i64) -> Result<HeadersSync, KernelError> {
        let work = minimum_work.to_le_bytes();
        let answer = Answer::new(ffi::kl_hsync_new(start.as_byte_array().into(), (&work).into(), peer));
        Ok(HeadersSync { id: answer.fields()?.u64()? })
    }
}

impl HeadersSync {
    /// Takes headers that are connected to each other and meet their own target. `full`: the message held 2,000.
    pub fn process(&mut self, headers: &[Header], full: bool) -> Result<HeadersSyncStep, KernelError> {
        let joined = join_headers(headers);
        let answer = Answer::new(ffi::kl_hsync_process(self.id, joined.as_slice().into(), c_int::from(full)));
        let mut f = answer.fields()?;
        Ok(HeadersSyncStep { success: f.bool()?, request_more: f.bool()?, ready: f.list(|f| f.consensus())? })
    }

    /// Where to ask the peer to go on.
    pub fn locator(&self) -> Result<Vec<BlockHash>, KernelError> {
        Answer::new(ffi::kl_hsync_locator(self.id)).fields()?.list(|f| f.block_hash())
    }
}

impl Drop for HeadersSync {
    fn drop(&mut self) {
        ffi::kl_hsync_free(self.id);
    }
}
