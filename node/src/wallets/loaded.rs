//! One loaded wallet: its ledger, its share and quorum, and what is going on with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bitcoin::{Transaction, Txid};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::Scanning;
use tss_wallet::wallet::Wallet;
use tss_wallet::{WalletDb, WalletId};

use super::chain_view::ChainView;
use super::detached::DetachedSend;
use super::feed::ChainFeed;
use super::locking::Relock;
use super::options::WalletOptions;
use super::spend::next_resend;
use crate::quorum::devquorum::Embedded;
use crate::quorum::{Core, Holding};

/// Where a wallet's signatures come from.
#[derive(Clone)]
pub enum Quorum {
    /// Co-signers embedded in this process.
    Embedded(Arc<Embedded>),
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

/// This member's share of a wallet, and the quorum it belongs to.
pub struct Keys {
    pub holding: Arc<Holding>,
    pub quorum: Quorum,
}

impl Keys {
    /// The share may have been dealt again since the wallet was loaded.
    fn of_now(&self) -> Self {
        let now = self.quorum.core().holding(&self.holding.wallet());
        Self { holding: now.unwrap_or_else(|| Arc::clone(&self.holding)), quorum: self.quorum.clone() }
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
    /// None for a wallet that has no keys.
    keys: Option<Keys>,
    pub(super) db: Arc<WalletDb>,
    pub(super) relock: Mutex<Relock>,
    wallet: Mutex<Wallet>,
    /// Transactions of the mempool that concern this wallet: their bytes are needed when they leave.
    pub(super) in_mempool: Mutex<BTreeMap<Txid, Transaction>>,
    pub(super) rescan: Rescan,
    /// One lease at a time.
    pub(super) leasing: Mutex<()>,
    pub(super) refilling: AtomicBool,
    pub(super) closed: AtomicBool,
    /// When unconfirmed transactions go to the peers again, seconds since 1970; 0 until set.
    pub(super) next_resend: AtomicU64,
    /// Payments that nobody waits for, the oldest first.
    pub(super) detached: Mutex<VecDeque<DetachedSend>>,
    /// What was sent and is not in the mempool yet: the chain may lack its coins still.
    pub(super) unsent: Mutex<BTreeSet<Txid>>,
}

impl Loaded {
    #[allow(clippy::too_many_arguments)] // The parts of one wallet, put together in one place.
    pub(super) fn new(
        name: String,
        options: Arc<WalletOptions>,
        chain: Arc<dyn ChainView>,
        feed: ChainFeed,
        keys: Option<Keys>,
        db: Arc<WalletDb>,
        wallet: Wallet,
    ) -> Self {
        let next_resend = AtomicU64::new(next_resend(chain.now()));
        Self {
            name,
            options,
            chain,
            feed,
            keys,
            db,
            relock: Mutex::default(),
            wallet: Mutex::new(wallet),
            in_mempool: Mutex::default(),
            rescan: Rescan::default(),
            leasing: Mutex::default(),
            refilling: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            next_resend,
            detached: Mutex::default(),
            unsent: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The share and its quorum, where the wallet has them.
    pub fn keys(&self) -> Option<Keys> {
        self.keys.as_ref().map(Keys::of_now)
    }

    /// Whether it is this wallet of a quorum.
    pub(super) fn is_of(&self, wallet: WalletId) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.holding.wallet() == wallet)
    }

    /// The same; −4 in Core's words where there are none.
    pub(super) fn signing_keys(&self) -> Result<Keys, RpcError> {
        let kind = self.wallet().kind();
        self.keys().ok_or_else(|| {
            RpcError::wallet(if kind.watch_only {
                "Error: Private keys are disabled for this wallet"
            } else {
                "Error: This wallet has no available keys"
            })
        })
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

    /// Labels of new addresses do not wait for the disk one by one.
    pub(super) fn sync_disk(&self) {
        if let Err(error) = self.db.sync_if_due() {
            tracing::error!(wallet = self.name, %error, "what was written may not be on the disk");
        }
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
