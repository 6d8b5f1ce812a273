//! Wallets without keys: made, opened, given descriptors, and looked for in the blocks.
//!
//! Such a wallet is a database and a mark; no co-signer has a part in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitcoin::{BlockHash, Transaction};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{Import, Imports};
use tss_wallet::WalletDb;
use tss_wallet::store::{LET_GO, StoreError};
use tss_wallet::wallet::imports::ImportFailure;
use tss_wallet::wallet::record::BlockPosition;

use super::container::ContainerError;
use super::follow::{Gaps, ScanEnd};
use super::loaded::{Loaded, storage_error};
use crate::quorum::holding;

/// The file that tells a wallet without keys from a share.
const MARK: &str = "keyless";
/// How long before its time a descriptor may have been paid: Core's window.
const TIMESTAMP_WINDOW_S: u64 = 2 * 60 * 60;

/// Whether a directory holds a wallet without keys.
pub(super) fn is_plain(dir: &Path) -> bool {
    dir.join(MARK).is_file()
}

fn failed(path: PathBuf, error: &std::io::Error) -> RpcError {
    RpcError::wallet(format!("Wallet file verification failed. {}: {error}", path.display()))
}

/// Makes the directory of a wallet without keys; complete when this returns.
pub(super) fn make_plain(dir: &Path) -> Result<Arc<WalletDb>, RpcError> {
    let db = Arc::new(WalletDb::open(&dir.join("db")).map_err(storage_error)?);
    let mark = dir.join(MARK);
    std::fs::File::create(&mark).and_then(|file| file.sync_all()).map_err(|error| failed(mark, &error))?;
    holding::set_complete(dir).map_err(storage_error)?;
    Ok(db)
}

/// Opens the database of a wallet without keys.
pub(super) fn open_plain(dir: &Path) -> Result<Arc<WalletDb>, RpcError> {
    match WalletDb::open_when_free(&dir.join("db"), LET_GO) {
        Ok(db) => Ok(Arc::new(db)),
        Err(StoreError::InUse(_)) => {
            Err(RpcError::wallet(format!("Wallet file verification failed. {}", ContainerError::InUse)))
        }
        Err(error) => Err(storage_error(error)),
    }
}

impl Loaded {
    /// Takes in one descriptor.
    pub(super) fn import_descriptor(&self, import: Import) -> Result<Imports, RpcError> {
        let mut wallet = self.wallet();
        let done = wallet.import(import).map_err(|error| match error {
            ImportFailure::Refused(error) => RpcError::wallet(error.to_string()),
            ImportFailure::Storage(error) => storage_error(error),
        })?;
        wallet.look_again();
        Ok(done)
    }

    /// Takes in a transaction that a proof shows at `index` of a block.
    pub(super) fn import_proven(&self, tx: &Transaction, block: BlockHash, index: Option<u32>) -> Result<(), RpcError> {
        let bad = RpcError::invalid_address_or_key;
        let mut wallet = self.wallet();
        let tip = wallet.tip().map_or(0, |tip| tip.height);
        let facts = self.chain.block_facts(&block).filter(|facts| facts.in_active_chain && facts.height <= tip);
        let facts = facts.ok_or_else(|| bad("Block not found in chain"))?;
        let index = index.ok_or_else(|| bad("Transaction given doesn't exist in proof"))?;
        let position = BlockPosition { hash: block, height: facts.height, index, time: u64::from(facts.time) };
        if wallet.import_confirmed(tx, position, self.chain.now()).map_err(storage_error)? {
            return Ok(());
        }
        Err(bad("No addresses in wallet correspond to included transaction"))
    }

    /// Looks at the blocks from two hours before a time on, and at the mempool. Blocks until it is done. Answers from which
    /// time on all blocks were there: the one asked for, unless blocks are missing.
    pub(super) fn rescan_time(&self, time: u64) -> Result<u64, RpcError> {
        let since = time.saturating_sub(TIMESTAMP_WINDOW_S);
        let tip = self.wallet().tip().map_or(0, |tip| tip.height);
        let is_later = |height: &u32| {
            let facts = self.chain.active_hash(*height).and_then(|hash| self.chain.block_facts(&hash));
            facts.is_none_or(|facts| u64::from(facts.time) >= since)
        };
        let start = (0..=tip).find(is_later);
        let blocks = start.map_or(0, |start| tip - start + 1);
        tracing::info!("[{}] RescanFromTime: Rescanning last {blocks} blocks", self.name);
        let end = match start {
            Some(start) => self.scan(start, None, Gaps::Skip)?.end,
            None => ScanEnd::Done,
        };
        self.scan_mempool().map_err(storage_error)?;
        match end {
            ScanEnd::Done => Ok(time),
            ScanEnd::Gap(last) => Ok(last.saturating_add(TIMESTAMP_WINDOW_S + 1)),
            ScanEnd::Aborted => Err(RpcError::misc("Rescan aborted by user.")),
        }
    }
}
