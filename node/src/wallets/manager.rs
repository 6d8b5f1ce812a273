//! The set of wallets of this node.
//!
//! Owns which wallets are loaded, the thread that feeds them, and the node's co-signer. Codes and texts are Core's
//! where Core has them (`wallet/wallet.cpp`, `wallet/rpc/wallet.cpp`).

mod create;
mod host;
mod load;
mod serve;

pub(super) use self::create::{bad_quorum, unknown_member};

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use keyless_kernel::memory;
use keyless_p2p::cosigners::{self, Carrier};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::Result;
use tss_wallet::{SigningIdentity, WalletDb, WalletId};

use super::chain_view::ChainView;
use super::container::{ContainerError, Place};
use super::feed::{ChainFeed, FeedEvent, Queued};
use super::loaded::{Keys, Loaded, Quorum};
use super::options::WalletOptions;
use super::{backup, info};
use crate::metrics::Snapshot;
use crate::quorum::devquorum::Surroundings;
use crate::quorum::sharing;
use crate::quorum::{Core, CoreConfig, Host, Layout, Policy, holding, keygen};

/// How long an unload waits for a refill of the pool.
const REFILLED_WITHIN: Duration = Duration::from_secs(3);

/// Why the wallets could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{0}")]
    Wallet(String),
}

/// All wallets of this node. Held by `Arc`.
pub struct WalletManager {
    pub(super) options: Arc<WalletOptions>,
    chain: Arc<dyn ChainView>,
    runtime: tokio::runtime::Handle,
    feed: ChainFeed,
    loaded: Mutex<Vec<Arc<Loaded>>>,
    /// Held while an event is applied, and while a wallet joins.
    applying: Mutex<()>,
    /// The wallet without a name is loaded though no list says so, and none was written yet.
    unnamed_by_default: AtomicBool,
    /// Names that are being created, loaded or unloaded.
    busy: Mutex<BTreeSet<String>>,
    core: OnceLock<Arc<Core>>,
    network: OnceLock<cosigners::Network>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    me: OnceLock<std::sync::Weak<Self>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that nobody else works on meanwhile.
struct Busy<'a> {
    manager: &'a WalletManager,
    name: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        locked(&self.manager.busy).remove(&self.name);
    }
}

fn private_dir(path: &Path) -> std::result::Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| StartError::Io { path: path.display().to_string(), error })
}

impl WalletManager {
    /// A manager that has no wallets yet: RPC may ask it, and [`WalletManager::start`] loads them.
    pub fn new(
        options: WalletOptions,
        chain: Arc<dyn ChainView>,
        runtime: tokio::runtime::Handle,
    ) -> std::result::Result<Arc<Self>, StartError> {
        if options.wallets_fallback.is_none() {
            private_dir(&options.wallets_dir)?;
        }
        private_dir(&options.keyless_dir)?;
        let unfinished = options.keyless_dir.join(backup::EXPORTS);
        if unfinished.exists()
            && let Err(error) = std::fs::remove_dir_all(&unfinished)
        {
            tracing::warn!(%error, "what a crash left of an export could not be removed");
        }
        let manager = Arc::new(Self {
            unnamed_by_default: AtomicBool::new(options.unnamed_by_default),
            options: Arc::new(options),
            chain,
            runtime,
            feed: ChainFeed::default(),
            loaded: Mutex::default(),
            applying: Mutex::default(),
            busy: Mutex::default(),
            core: OnceLock::new(),
            network: OnceLock::new(),
            thread: Mutex::default(),
            me: OnceLock::new(),
        });
        // Set once, here.
        let _ = manager.me.set(Arc::downgrade(&manager));
        Ok(manager)
    }

    /// What there is to say of the options each time a wallet is opened.
    pub fn warnings(&self) -> &[String] {
        &self.options.warnings
    }

    /// Joins the network of co-signers, loads the wallets that want it, and begins to follow the chain. Blocks; needs
    /// a tokio runtime. Attach the answer to the kernel's notifications.
    pub fn start(
        self: &Arc<Self>,
        network: Option<(cosigners::Network, cosigners::Events)>,
    ) -> std::result::Result<ChainFeed, StartError> {
        let carrier = network.map(|(network, events)| {
            let carrier: Arc<dyn Carrier> = Arc::new(network.clone());
            // Set once: a manager is started once.
            let _ = self.network.set(network);
            (carrier, events)
        });
        self.start_over(carrier)
    }

    /// The same over any carrier.
    pub fn start_over(
        self: &Arc<Self>,
        carrier: Option<(Arc<dyn Carrier>, cosigners::Events)>,
    ) -> std::result::Result<ChainFeed, StartError> {
        let directories = self.directories();
        self.remove_unfinished(&directories);
        let is_share = |name: &String| {
            let dir = self.options.wallet_dir(name);
            !backup::is_self_contained(&dir) && holding::is_ours(&dir)
        };
        let shares: Vec<String> = directories.into_iter().filter(is_share).collect();
        if let Some((carrier, events)) = carrier {
            self.join_network(carrier, events, &shares);
        }
        for name in &self.options.load {
            let result = self.load_now(name);
            match result {
                Ok(_) => {}
                Err(error) if error.code == code::RPC_WALLET_NOT_FOUND => {
                    tracing::warn!("Skipping -wallet path that doesn't exist. {}", error.message);
                }
                Err(error) => {
                    let text = error.message.strip_prefix(UNVERIFIED).unwrap_or(&error.message);
                    return Err(StartError::Wallet(text.to_owned()));
                }
            }
        }
        let weak = Arc::downgrade(self);
        let feed = self.feed.clone();
        let thread = std::thread::Builder::new().name("wallets".to_owned()).spawn(move || {
            while let Some(event) = feed.next() {
                let Some(manager) = weak.upgrade() else { break };
                manager.apply(&event);
                if !matches!(event, Queued::Idle) {
                    feed.applied();
                }
            }
            feed.ended();
        });
        let thread = thread.map_err(|error| StartError::Io { path: "thread".to_owned(), error })?;
        *locked(&self.thread) = Some(thread);
        Ok(self.feed.clone())
    }

    fn join_network(self: &Arc<Self>, carrier: Arc<dyn Carrier>, events: cosigners::Events, directories: &[String]) {
        let config = CoreConfig {
            identity: SigningIdentity::from_seed(self.options.identity.seed()),
            layout: Layout::Node {
                wallets: self.options.wallets_dir().to_owned(),
                seal_key: self.options.keyless_dir.join("seal.key"),
            },
            policy: Policy {
                cosigners: self.options.cosigners.iter().copied().collect(),
                threshold: self.options.threshold,
                accepts_any: false,
                repairs_itself: self.options.repair_shares,
                refresh_interval: self.options.refresh_interval,
            },
            signing_timeout: self.options.signing_timeout,
            alerts: self.options.alerts.clone(),
        };
        let core = Core::new(config, Arc::clone(&carrier), Arc::clone(&self.chain));
        let weak: std::sync::Weak<dyn Host> = Arc::downgrade(self) as _;
        core.set_host(weak);
        keygen::open_all(&core, directories);
        core.listen(events);
        carrier.set_height(self.chain.tip().height);
        // Set once: a manager is started once.
        let _ = self.core.set(core);
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            signing_timeout: self.options.signing_timeout,
            alerts: self.options.alerts.clone(),
            chain: Arc::clone(&self.chain),
        }
    }

    /// Directories under `wallets/` that hold something of ours.
    fn directories(&self) -> Vec<String> {
        let wallets = self.options.wallets_dir();
        let entries = match std::fs::read_dir(wallets) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("Error scanning directory entries under {}: {error}", wallets.display());
                return Vec::new();
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| keygen::is_safe_name(name))
            .collect();
        names.sort();
        names
    }

    /// What a crash left of embedded co-signers that were being made. Real shares are the co-signer's affair.
    fn remove_unfinished(&self, directories: &[String]) {
        for name in directories {
            let dir = self.options.wallet_dir(name);
            if dir.join("identity").is_file() && !holding::is_complete(&dir) && !self.options.place(name).is_packed() {
                tracing::warn!(wallet = name, "a wallet whose making never ended is dropped");
                clear(&dir);
            }
        }
    }

    fn apply(&self, event: &Queued) {
        if matches!(event, Queued::Idle) {
            let wallets = locked(&self.loaded).clone();
            return wallets.iter().for_each(|wallet| {
                wallet.sync_disk();
                wallet.resend_when_due();
            });
        }
        let _applying = locked(&self.applying);
        if let (Queued::Event(FeedEvent::TipChanged { height }), Some(core)) = (event, self.core.get()) {
            core.carrier().set_height(*height);
            sharing::place_again(core);
        }
        let wallets = locked(&self.loaded).clone();
        for wallet in wallets {
            wallet.apply(event);
        }
    }

    /// The queue for chain events, for whoever feeds it.
    pub fn feed(&self) -> &ChainFeed {
        &self.feed
    }

    /// This node's co-signer, where it has one.
    pub fn core(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    /// Why a wallet of this node could not sign now; `None` when all could.
    pub fn not_ready(&self) -> Option<String> {
        let loaded = locked(&self.loaded).clone();
        loaded.iter().find_map(|wallet| info::not_ready(&wallet.keys()?))
    }

    /// Figures for [`crate::metrics`].
    pub fn snapshot(&self) -> Snapshot {
        let loaded = locked(&self.loaded).clone();
        let mut cores: Vec<Arc<Core>> = self.core().cloned().into_iter().collect();
        let mut wallets = Vec::new();
        for wallet in &loaded {
            let Some(keys) = wallet.keys() else { continue };
            let core = keys.quorum.core();
            if !cores.iter().any(|known| Arc::ptr_eq(known, core)) {
                cores.push(Arc::clone(core));
            }
            wallets.push(info::snapshot(wallet, &keys));
        }
        Snapshot { sessions: cores.iter().map(|core| core.sessions().len()).sum(), wallets, ..Snapshot::default() }
    }

    pub fn loaded(&self, name: &str) -> Option<Arc<Loaded>> {
        locked(&self.loaded).iter().find(|wallet| wallet.name == name).cloned()
    }

    fn of_quorum(&self, wallet: WalletId) -> Option<Arc<Loaded>> {
        locked(&self.loaded).iter().find(|loaded| loaded.is_of(wallet)).cloned()
    }

    fn reserve(&self, name: &str) -> Result<Busy<'_>> {
        if !locked(&self.busy).insert(name.to_owned()) {
            return Err(RpcError::wallet("Wallet already loading."));
        }
        Ok(Busy { manager: self, name: name.to_owned() })
    }

    /// The error says why it is not a wallet of this chain.
    fn same_chain(&self, db: &WalletDb) -> std::result::Result<(), &'static str> {
        match holding::stored_facts(db) {
            Ok(Some((_, facts))) if facts.genesis != self.chain.genesis() => Err(OTHER_CHAIN),
            // A share that cannot be read says so when it is opened.
            _ => Ok(()),
        }
    }

    /// Whether new wallets belong to a quorum of nodes.
    fn is_networked(&self) -> bool {
        self.core.get().is_some() && !self.options.cosigners.is_empty()
    }

    pub(super) fn set_startup(&self, name: &str, load: Option<bool>, warnings: &mut Vec<String>) {
        let Some(load) = load else { return };
        // The wallet without a name is loaded while the list is not there; making the list must not end that.
        let first = self.unnamed_by_default.swap(false, std::sync::atomic::Ordering::Relaxed);
        let kept = !first || self.chain.set_load_on_startup("", true);
        if !kept || !self.chain.set_load_on_startup(name, load) {
            warnings.push(if load {
                "Wallet load on startup setting could not be updated, so wallet may not be loaded next node startup."
                    .to_owned()
            } else {
                "Wallet load on startup setting could not be updated, so wallet may still be loaded next node startup."
                    .to_owned()
            });
        }
    }

    pub(super) fn unload_now(&self, name: &str) -> Result<()> {
        let _busy = self.reserve(name)?;
        let wallet = {
            let _applying = locked(&self.applying);
            let mut loaded = locked(&self.loaded);
            let position = loaded.iter().position(|wallet| wallet.name == name).ok_or_else(|| {
                RpcError::new(code::RPC_WALLET_NOT_FOUND, "Requested wallet does not exist or is not loaded")
            })?;
            loaded.remove(position)
        };
        close(wallet, &self.options.place(name));
        memory::give_back();
        Ok(())
    }

    /// Ends everything. The kernel must still answer.
    pub async fn shutdown(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let ended = self.runtime.spawn_blocking(move || {
            if let Some(core) = this.core.get() {
                core.stop();
            }
            this.feed.stop();
            if let Some(thread) = locked(&this.thread).take()
                && thread.join().is_err()
            {
                tracing::error!("the thread of the wallets ended with a panic");
            }
            let wallets = std::mem::take(&mut *locked(&this.loaded));
            for wallet in wallets {
                let place = this.options.place(&wallet.name);
                close(wallet, &place);
            }
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "the wallets did not end as they should");
        }
        if let Some(network) = self.network.get() {
            network.shutdown().await;
        }
    }

    fn arc(&self) -> Result<Arc<Self>> {
        self.me.get().and_then(std::sync::Weak::upgrade).ok_or_else(|| RpcError::internal("the node is stopping"))
    }
}

/// Ends a wallet and, where it lies in a file while it is closed, puts it there.
fn close(wallet: Arc<Loaded>, place: &Place) {
    wallet.closed.store(true, std::sync::atomic::Ordering::Release);
    wallet.lock_turn(None);
    wallet.await_refill(REFILLED_WITHIN);
    if let Err(error) = wallet.wallet().settle() {
        tracing::warn!(wallet = wallet.name, %error, "addresses set aside will not be given out");
    }
    if let Some(Keys { quorum: Quorum::Embedded(embedded), .. }) = wallet.keys() {
        embedded.stop();
    }
    let name = wallet.name.clone();
    drop(wallet);
    match place.pack() {
        Ok(()) => {}
        // Calls that are not done yet keep it open; it stays the directory that it is.
        Err(ContainerError::InUse) => tracing::info!(wallet = name, "the closed wallet stays a directory"),
        Err(error) => tracing::warn!(wallet = name, %error, "the closed wallet stays a directory"),
    }
}

/// What comes before Core's texts about a wallet's path.
const UNVERIFIED: &str = "Wallet file verification failed. ";
const OTHER_CHAIN: &str = "It is a wallet of another chain.";
const PRUNED: &str = "Wallet loading failed. Prune: last wallet synchronisation goes beyond pruned data. You need to \
                      -reindex (download the whole blockchain again in case of a pruned node)";

fn unverified(text: String) -> RpcError {
    RpcError::wallet(format!("{UNVERIFIED}{text}"))
}

fn last_step(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}

/// Removes what a wallet that was not made or restored left in its directory, and nothing else.
fn clear(dir: &Path) {
    let parts = std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    for path in backup::parts_in(parts) {
        if let Err(error) = backup::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a wallet that was not made could not be removed");
        }
    }
}
