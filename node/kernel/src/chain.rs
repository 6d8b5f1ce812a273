//! Headers, blocks, undo data and coins of the running node.
//!
//! A block that was accepted for processing is not yet valid: [`BlockOutcome::verdict`] carries Core's judgement, and is
//! `None` as long as there is none (a block beside the active chain is stored unjudged).

use std::os::raw::c_int;

use bitcoin::block::Header;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, Block, BlockHash, OutPoint, ScriptBuf, TxOut, Work};

use crate::codec::{Answer, Fields};
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// The tip of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Its hash.
    pub hash: BlockHash,
    /// Its height.
    pub height: u32,
    /// Work of the chain up to it.
    pub chainwork: Work,
    /// Time in its header, in seconds since 1970.
    pub time: u32,
    /// Median of the last eleven header times.
    pub median_time: u32,
}

/// What the block index knows of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// The block's hash.
    pub hash: BlockHash,
    /// The header.
    pub header: Header,
    /// Its height.
    pub height: u32,
    /// Work of the chain up to it.
    pub chainwork: Work,
    /// Median of the last eleven header times.
    pub median_time: u32,
    /// Number of transactions, 0 while unknown.
    pub tx_count: u32,
    /// The block is stored (and not pruned).
    pub have_data: bool,
    /// The undo data is stored.
    pub have_undo: bool,
    /// It belongs to the active chain.
    pub in_active_chain: bool,
    /// It, or one below it, was found invalid.
    pub failed: bool,
}

/// What became of a batch of headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadersOutcome {
    /// The last header now in the index, if any was accepted.
    pub last: Option<BlockInfo>,
    /// Why the batch was refused.
    pub rejection: Option<BlockVerdict>,
}

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOutcome {
    /// It was accepted for processing (not: valid).
    pub accepted: bool,
    /// It was not known before.
    pub new: bool,
    /// Core's judgement, once there is one.
    pub verdict: Option<BlockVerdict>,
}

/// Core's judgement of a block or header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockVerdict {
    /// What kind of judgement.
    pub kind: BlockVerdictKind,
    /// Reject reason, as in BIP22 answers (`bad-txnmrklroot`); empty when valid.
    pub reason: String,
    /// More detail for logs.
    pub debug: String,
}

/// Kinds of judgement, named as Core's `BlockValidationResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockVerdictKind {
    /// Valid, and connected.
    Valid,
    /// Against consensus rules.
    Consensus,
    /// Known invalid, reason not kept.
    CachedInvalid,
    /// Proof of work or time of the header.
    InvalidHeader,
    /// Data does not fit the header's commitment: says nothing about the block itself.
    Mutated,
    /// Its parent is not known.
    MissingPrev,
    /// An ancestor is invalid.
    InvalidPrev,
    /// More than two hours in the future.
    TimeFuture,
    /// Its chain has too little work.
    LowWork,
    /// An error of this node (disk, memory): says nothing about the block.
    NodeError,
}

impl BlockVerdictKind {
    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Valid,
            1 => Self::Consensus,
            2 => Self::CachedInvalid,
            3 => Self::InvalidHeader,
            4 => Self::Mutated,
            5 => Self::MissingPrev,
            6 => Self::InvalidPrev,
            7 => Self::TimeFuture,
            8 => Self::LowWork,
            _ => Self::NodeError,
        }
    }
}

/// An unspent (or, in undo data, spent) output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    /// Amount and script.
    pub output: TxOut,
    /// Height of its block; `None` in the mempool.
    pub height: Option<u32>,
    /// It comes from a coinbase.
    pub coinbase: bool,
}

/// A block's BIP158 basic filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFilter {
    /// The encoded filter.
    pub filter: Vec<u8>,
    /// Its filter header, in the order of bytes that is hashed.
    pub header: [u8; 32],
}

/// Heights and hashes between which blocks are validated behind a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoricalRange {
    /// The last block that was validated on the way.
    pub done: (u32, BlockHash),
    /// The block whose coins were loaded.
    pub base: (u32, BlockHash),
}

/// State of the chain as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainState {
    /// Initial block download is not over.
    pub initial_download: bool,
    /// Least work a header chain must show before it is stored (anti-DoS).
    pub anti_dos_work: Work,
    /// The chain's configured minimum work.
    pub minimum_work: Work,
    /// Blocks are pruned.
    pub pruned: bool,
    /// Blocks of this height and above are stored, when pruned.
    pub prune_height: Option<u32>,
    /// Local service bits that the chain's state gives (network, limited, witness, filters).
    pub services: u64,
    /// Blocks are being imported or indexed anew.
    pub loading_blocks: bool,
}

/// Parameters of the chosen chain, custom signets included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainParams {
    /// First bytes of every P2P message.
    pub magic: [u8; 4],
    /// Hash of the first block.
    pub genesis: BlockHash,
    /// Names to ask for addresses of peers.
    pub dns_seeds: Vec<String>,
}

impl Kernel {
    /// Tip of the active chain.
    pub fn tip(&self) -> Result<Tip, KernelError> {
        Answer::new(ffi::kl_tip()).fields().and_then(|mut f| read_tip(&mut f))
    }

    /// The header with most work that is not known invalid.
    pub fn best_header(&self) -> Result<BlockInfo, KernelError> {
        Answer::new(ffi::kl_best_header()).fields().and_then(|mut f| read_info(&mut f))
    }

    /// What is known of a block, `None` when nothing.
    pub fn block_info(&self, hash: &BlockHash) -> Result<Option<BlockInfo>, KernelError> {
        let answer = Answer::new(ffi::kl_block_info(hash.as_byte_array().into()));
        answer.fields()?.option(read_info)
    }

    /// Hash of the active chain at a height.
    pub fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, KernelError> {
        Answer::new(ffi::kl_block_hash(height)).fields()?.option(|f| f.block_hash())
    }

    /// The ancestor of a known header at a height.
    pub fn ancestor(&self, hash: &BlockHash, height: u32) -> Result<Option<BlockInfo>, KernelError> {
        Answer::new(ffi::kl_ancestor(hash.as_byte_array().into(), height)).fields()?.option(read_info)
    }

    /// Block locator of a known header, for `getheaders`.
    pub fn locator(&self, of: &BlockHash) -> Result<Vec<BlockHash>, KernelError> {
        Answer::new(ffi::kl_locator(of.as_byte_array().into())).fields()?.list(|f| f.block_hash())
    }

    /// Headers of the active chain behind the first locator entry it contains, up to `stop` (all zero: none) and `max`.
    pub fn headers_after(&self, locator: &[BlockHash], stop: &BlockHash, max: u32) -> Result<Vec<Header>, KernelError> {
        let joined = join_hashes(locator);
        let answer = Answer::new(ffi::kl_headers_after(joined.as_slice().into(), stop.as_byte_array().into(), max));
        answer.fields()?.list(|f| f.consensus())
    }

    /// Hands headers to Core. `min_pow_checked` says that the caller knows their chain to have enough work
    /// ([`ChainState::anti_dos_work`], [`crate::HeadersSync`]); without it, every header not yet known is refused
    /// as [`BlockVerdictKind::LowWork`].
    pub fn process_headers(&self, headers: &[Header], min_pow_checked: bool) -> Result<HeadersOutcome, KernelError> {
        let joined = join_headers(headers);
        let answer = Answer::new(ffi::kl_process_headers(joined.as_slice().into(), c_int::from(min_pow_checked)));
        let mut fields = answer.fields()?;
        let last = fields.option(read_info)?;
        let rejection = fields.option(read_verdict)?;
        Ok(HeadersOutcome { last, rejection })
    }

    /// Hands a block, in consensus encoding, to Core. `force`: the block was asked for, so it is processed wherever it
    /// stands; else only when it may be of use. `min_pow_checked` as in [`Kernel::process_headers`].
    pub fn process_block(&self, block: &[u8], force: bool, min_pow_checked: bool) -> Result<BlockOutcome, KernelError> {
        let answer = Answer::new(ffi::kl_process_block(block.into(), c_int::from(force), c_int::from(min_pow_checked)));
        let mut fields = answer.fields()?;
        Ok(BlockOutcome { accepted: fields.bool()?, new: fields.bool()?, verdict: fields.option(read_verdict)? })
    }

    /// A stored block in consensus encoding; `None` when it is unknown, not yet there, or pruned.
    pub fn read_block_bytes(&self, hash: &BlockHash) -> Result<Option<Vec<u8>>, KernelError> {
        Answer::new(ffi::kl_read_block(hash.as_byte_array().into())).fields()?.option(|f| Ok(f.bytes()?.to_vec()))
    }

    /// A stored block, decoded.
    pub fn read_block(&self, hash: &BlockHash) -> Result<Option<Block>, KernelError> {
        Answer::new(ffi::kl_read_block(hash.as_byte_array().into())).fields()?.option(|f| f.consensus())
    }

    /// The coins that a connected block spent: for each transaction but the coinbase, one for each input.
    pub fn spent_coins(&self, hash: &BlockHash) -> Result<Option<Vec<Vec<Coin>>>, KernelError> {
        let answer = Answer::new(ffi::kl_read_undo(hash.as_byte_array().into()));
        answer.fields()?.option(|f| f.list(|f| f.list(read_coin)))
    }

    /// Blocks to fetch: those on the path to `target`, from height `from` on, that are not stored, lowest first, at most
    /// `max`.
    pub fn missing_blocks(
        &self,
        target: &BlockHash,
        from: u32,
        max: u32,
    ) -> Result<Vec<(u32, BlockHash)>, KernelError> {
        let answer = Answer::new(ffi::kl_missing_blocks(target.as_byte_array().into(), from, max));
        answer.fields()?.list(|f| Ok((f.u32()?, f.block_hash()?)))
    }

    /// While blocks below a loaded snapshot are being validated: the last one that was, and the snapshot's base.
    pub fn historical_range(&self) -> Result<Option<HistoricalRange>, KernelError> {
        Answer::new(ffi::kl_historical_range())
            .fields()?
            .option(|f| Ok(HistoricalRange { done: (f.u32()?, f.block_hash()?), base: (f.u32()?, f.block_hash()?) }))
    }

    /// The last block that a known header's chain shares with the active chain.
    pub fn fork_point(&self, hash: &BlockHash) -> Result<Option<BlockInfo>, KernelError> {
        Answer::new(ffi::kl_fork_point(hash.as_byte_array().into())).fields()?.option(read_info)
    }

    /// Initial download, work thresholds, pruning.
    pub fn chain_state(&self) -> Result<ChainState, KernelError> {
        let answer = Answer::new(ffi::kl_chain_state());
        let mut f = answer.fields()?;
        Ok(ChainState {
            initial_download: f.bool()?,
            anti_dos_work: read_work(&mut f)?,
            minimum_work: read_work(&mut f)?,
            pruned: f.bool()?,
            prune_height: f.option(|f| f.u32())?,
            services: f.u64()?,
            loading_blocks: f.bool()?,
        })
    }

    /// Parameters of the chosen chain.
    pub fn chain_params(&self) -> Result<ChainParams, KernelError> {
        let answer = Answer::new(ffi::kl_chain_params());
        let mut f = answer.fields()?;
        let magic = f.bytes()?.try_into().map_err(|_| KernelError::Malformed("magic"))?;
        Ok(ChainParams { magic, genesis: f.block_hash()?, dns_seeds: f.list(|f| f.string())? })
    }

    /// Whether initial block download is still going on.
    pub fn is_initial_download(&self) -> Result<bool, KernelError> {
        Ok(self.chain_state()?.initial_download)
    }

    /// An unspent output; with the mempool, outputs of its transactions count and what they spend does not.
    pub fn coin(&self, outpoint: &OutPoint, with_mempool: bool) -> Result<Option<Coin>, KernelError> {
        let bytes = bitcoin::consensus::serialize(outpoint);
        let answer = Answer::new(ffi::kl_coin(bytes.as_slice().into(), c_int::from(with_mempool)));
        answer.fields()?.option(read_coin)
    }

    /// BIP158 basic filter, from `-blockfilterindex`; `None` when there is no index or no entry.
    pub fn block_filter(&self, hash: &BlockHash) -> Result<Option<StoredFilter>, KernelError> {
        let answer = Answer::new(ffi::kl_block_filter(hash.as_byte_array().into()));
        answer.fields()?.option(|f| Ok(StoredFilter { filter: f.bytes()?.to_vec(), header: f.hash32()? }))
    }

    /// Writes chainstate and block index to disk now. It happens by itself two seconds after the last new tip, from time
    /// to time while blocks come in, and at the end.
    pub fn flush(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_flush()).done()
    }
}

pub(crate) fn join_headers(headers: &[Header]) -> Vec<u8> {
    headers.iter().flat_map(bitcoin::consensus::serialize).collect()
}

fn join_hashes(hashes: &[BlockHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.to_byte_array()).collect()
}

fn read_work(f: &mut Fields<'_>) -> Result<Work, KernelError> {
    Ok(Work::from_le_bytes(f.hash32()?))
}

pub(crate) fn read_tip(f: &mut Fields<'_>) -> Result<Tip, KernelError> {
    Ok(Tip { hash: f.block_hash()?, height: f.u32()?, chainwork: read_work(f)?, time: f.u32()?, median_time: f.u32()? })
}

pub(crate) fn read_info(f: &mut Fields<'_>) -> Result<BlockInfo, KernelError> {
    let (hash, header, height) = (f.block_hash()?, f.consensus()?, f.u32()?);
    let (chainwork, median_time, tx_count) = (read_work(f)?, f.u32()?, f.u32()?);
    let flags = f.u8()?;
    Ok(BlockInfo {
        hash,
        header,
        height,
        chainwork,
        median_time,
        tx_count,
        have_data: flags & 1 != 0,
        have_undo: flags & 2 != 0,
        in_active_chain: flags & 4 != 0,
        failed: flags & 8 != 0,
    })
}

pub(crate) fn read_verdict(f: &mut Fields<'_>) -> Result<BlockVerdict, KernelError> {
    Ok(BlockVerdict { kind: BlockVerdictKind::from_code(f.u8()?), reason: f.string()?, debug: f.string()? })
}

fn read_coin(f: &mut Fields<'_>) -> Result<Coin, KernelError> {
    let value: Amount = f.amount()?;
    let script_pubkey = ScriptBuf::from_bytes(f.bytes()?.to_vec());
    let height = f.option(|f| f.u32())?;
    let coinbase = f.bool()?;
    Ok(Coin { output: TxOut { value, script_pubkey }, height, coinbase })
}
