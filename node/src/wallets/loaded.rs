//! One loaded wallet: its ledger, its share and quorum, and what is going on with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bitcoin::{Transaction, Txid};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::Scanning;
use tss_wallet::wallet::Wallet;

use super::chain_view::ChainView;
use super::feed::ChainFeed;
use super::options::WalletOptions;
use crate::quorum::devquorum::Embedded;
use crate::quorum::{Core, Holding};

/// Where a wallet's signatures come from.
pub enum Quorum {
    /// Co-signers embedded in this process.
    Embedded(Embedded),
    /// Other nodes, over the network of co-signers.
    Network(Arc<Core>),
}

impl Quorum {
    /// This node's own co-signer.
    pub fn core(&self) -> &Arc<Core> {
        match self {
            Self::Embedded(embedded) => embedded.own(),
            Self::Network(core) => core,
        }
    }
}

/// A rescan under way.
#[derive(Debug, Default)]
pub(super) struct Rescan {
    pub running: AtomicBool,
    pub abort: AtomicBool,
    pub progress_ppm: AtomicU32,
    pub started: Mutex<Option<Instant>>,
}

/// One loaded wallet.
pub struct Loaded {
    pub(super) name: String,
    pub(super) options: Arc<WalletOptions>,
    pub(super) chain: Arc<dyn ChainView>,
    pub(super) feed: ChainFeed,
    pub(super) holding: Arc<Holding>,
    pub(super) quorum: Quorum,
    wallet: Mutex<Wallet>,
    /// Transactions of the mempool that concern this wallet: their bytes are needed when they leave.
    pub(super) in_mempool: Mutex<BTreeMap<Txid, Transaction>>,
    pub(super) rescan: Rescan,
    /// One lease at a time.
    pub(super) leasing: Mutex<()>,
    pub(super) refilling: AtomicBool,
    pub(super) closed: AtomicBool,
}

impl Loaded {
    #[allow(clippy::too_many_arguments)] // The parts of one wallet, put together in one place.
    pub(super) fn new(
        name: String,
        options: Arc<WalletOptions>,
        chain: Arc<dyn ChainView>,
        feed: ChainFeed,
        holding: Arc<Holding>,
        quorum: Quorum,
        wallet: Wallet,
    ) -> Self {
        Self {
            name,
            options,
            chain,
            feed,
            holding,
            quorum,
            wallet: Mutex::new(wallet),
            in_mempool: Mutex::default(),
            rescan: Rescan::default(),
            leasing: Mutex::default(),
            refilling: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn holding(&self) -> &Arc<Holding> {
        &self.holding
    }

    pub fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    pub fn core(&self) -> &Arc<Core> {
        self.quorum.core()
    }

    /// The ledger, for short work.
    pub fn wallet(&self) -> MutexGuard<'_, Wallet> {
        self.wallet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn scanning(&self) -> Option<Scanning> {
        if !self.rescan.running.load(Ordering::Relaxed) {
            return None;
        }
        let started = *self.rescan.started.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Scanning {
            duration_s: started.map_or(0, |started| started.elapsed().as_secs()),
            progress_ppm: self.rescan.progress_ppm.load(Ordering::Relaxed),
        })
    }

    /// Returns once the wallet has seen every block the node had when this was called. Blocks.
    pub fn sync(&self) {
        let tip = self.chain.tip();
        if self.wallet().tip().is_none_or(|mine| mine.hash != tip.hash) {
            self.chain.flush_notifications();
        }
        self.feed.settle();
    }
}

/// A failed write of the wallet's store, as RPC tells it.
pub(super) fn storage_error(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(keyless_rpc::error::code::RPC_DATABASE_ERROR, format!("Error: {error}"))
}
