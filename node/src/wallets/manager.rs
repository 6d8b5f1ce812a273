//! The set of wallets of this node.
//!
//! Owns which wallets are loaded, the thread that feeds them, and the node's co-signer. Codes and texts are Core's
//! where Core has them (`wallet/wallet.cpp`, `wallet/rpc/wallet.cpp`).

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bdk_chain::BlockId;
use bitcoin::{Network, OutPoint, Transaction};
use keyless_p2p::cosigners::{self, Carrier, PeerId, fingerprint, public_key_of};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{
    BackupCheck, Cosigner, CosignerInfo, CreateWallet, Loaded as LoadedName, QuorumSpec, Redealt, Result, WalletHandle,
    WalletOnDisk, Wallets,
};
use tss_wallet::wallet::{Kind, Wallet, WalletOptions as LedgerOptions, WalletParams};
use tss_wallet::{MemberId, Roster, SigningIdentity, Split, WalletDb, WalletId};

use super::backup;
use super::chain_view::ChainView;
use super::container::{self, ContainerError, Place};
use super::feed::{ChainFeed, FeedEvent, Queued};
use super::follow::FollowError;
use super::handle::{Handle, blocking};
use super::imports::{is_plain, make_plain, open_plain};
use super::info;
use super::loaded::{Keys, Loaded, Quorum, storage_error};
use super::names;
use super::options::WalletOptions;
use super::sign::quorum_error;
use crate::metrics::Snapshot;
use crate::quorum::devquorum::{Devquorum, Embedded, EmbeddedError};
use crate::quorum::redeal::restore;
use crate::quorum::sharing::{self, AddressLabel};
use crate::quorum::wire::{Invitation, LeaseRange, PROTOCOL_VERSION};
use crate::quorum::{Core, CoreConfig, Holding, Host, Layout, Policy, holding, keygen};

/// How long a load waits for the end of the unload before it.
const REOPEN: Duration = Duration::from_secs(3);

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

    fn load_now(&self, name: &str) -> Result<LoadedName> {
        let _busy = self.reserve(name)?;
        if self.loaded(name).is_some() {
            let text = format!("Wallet \"{name}\" is already loaded.");
            return Err(RpcError::new(code::RPC_WALLET_ALREADY_LOADED, text));
        }
        names::check(self.options.wallets_dir(), name).map_err(unverified)?;
        let place = self.options.place(name);
        let dir = place.dir.clone();
        let missing = |why: &str| {
            let path = self.options.wallets_dir().join(name);
            RpcError::new(
                code::RPC_WALLET_NOT_FOUND,
                format!("{UNVERIFIED}Failed to load database path '{}'. {why}", path.display()),
            )
        };
        if !place.is_taken() && !dir.exists() {
            return Err(missing("Path does not exist."));
        }
        place.unpack().map_err(|error| match error {
            ContainerError::Copy(error) => missing(&error.to_string()),
            other => unverified(other.to_string()),
        })?;
        if !holding::is_ours(&dir) || !holding::is_complete(&dir) {
            return Err(missing("Data is not in recognized format."));
        }
        if !is_plain(&dir) && backup::is_self_contained(&dir) {
            let db = container::open_when_free(&dir).map_err(|error| unverified(error.to_string()))?;
            self.same_chain(&db).map_err(missing)?;
        }
        if is_plain(&dir) {
            self.open_ledger(name, open_plain(&dir)?, None, None)?;
        } else {
            let keys = self.open_quorum(name, &dir)?;
            self.open_ledger(name, Arc::clone(keys.holding.db()), Some(keys), None)?;
        }
        Ok(LoadedName { name: name.to_owned(), warnings: Vec::new() })
    }

    /// The error says why it is not a wallet of this chain.
    fn same_chain(&self, db: &WalletDb) -> std::result::Result<(), &'static str> {
        match holding::stored_facts(db) {
            Ok(Some((_, facts))) if facts.genesis != self.chain.genesis() => Err("It is a wallet of another chain."),
            // A share that cannot be read says so when it is opened.
            _ => Ok(()),
        }
    }

    fn open_quorum(&self, name: &str, dir: &Path) -> Result<Keys> {
        if !dir.join("identity").is_file() {
            let core = self.core.get().ok_or_else(|| {
                RpcError::wallet(
                    "Error: this wallet belongs to a quorum of nodes; start with -cosigner=<PeerId>@<multiaddr> for each of them",
                )
            })?;
            let holding = self.held_share(core, name, dir)?;
            return Ok(Keys { quorum: Quorum::Network(Arc::clone(core)), holding });
        }
        if self.chain.network() == Network::Bitcoin {
            return Err(RpcError::wallet("Error: a wallet of embedded co-signers is not available on the main chain"));
        }
        let deadline = Instant::now() + REOPEN;
        loop {
            match Embedded::open(name, dir, self.options.signing_timeout, &self.chain) {
                Ok((embedded, holding)) => return Ok(Keys { quorum: Quorum::Embedded(Arc::new(embedded)), holding }),
                // The last user of the wallet that was just unloaded is about to let go.
                Err(error) if Instant::now() < deadline && error.to_string().contains("in use") => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) if error.to_string().contains("in use") => {
                    return Err(unverified(ContainerError::InUse.to_string()));
                }
                Err(error) => return Err(RpcError::wallet(format!("Error: {error}"))),
            }
        }
    }

    /// The share that this node's co-signer opened at its start, or can open now.
    fn held_share(&self, core: &Arc<Core>, name: &str, dir: &Path) -> Result<Arc<Holding>> {
        let deadline = Instant::now() + REOPEN;
        loop {
            if let Some(holding) = core.holding_named(name) {
                return Ok(holding);
            }
            match keygen::open_one(core, name, dir) {
                // The last user of the wallet is about to let go.
                Err(error) if Instant::now() < deadline && error.to_string().contains("in use") => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(RpcError::wallet(format!("Error: {error}"))),
                Ok(()) => {
                    let holding = core.holding_named(name);
                    return holding.ok_or_else(|| RpcError::wallet("Error: this node holds no share of this wallet"));
                }
            }
        }
    }

    /// What a new ledger is made from, and the height it begins at.
    fn ledger_params(
        &self,
        name: &str,
        keys: Option<&Keys>,
        request: Option<&CreateWallet>,
    ) -> Result<(WalletParams, u32)> {
        let mut params = WalletParams {
            name: name.to_owned(),
            network: self.chain.network(),
            accounts: Vec::new(),
            birth_time: self.chain.now(),
            avoid_reuse: request.is_some_and(|request| request.avoid_reuse),
            kind: Kind {
                watch_only: request.is_some_and(|request| request.disable_private_keys),
                blank: request.is_some_and(|request| request.blank),
            },
        };
        let Some(keys) = keys else { return Ok((params, self.chain.tip().height)) };
        let facts = keys.holding.facts();
        let accounts = keys.holding.public().accounts().map_err(|error| RpcError::internal(error.to_string()))?;
        params.accounts = accounts.to_vec();
        params.birth_time = facts.birth_time;
        params.avoid_reuse = facts.avoid_reuse;
        params.kind = Kind::default();
        Ok((params, facts.birth_height.min(self.chain.tip().height)))
    }

    /// Opens or makes the ledger, catches up with the chain, and adds the wallet to the set.
    fn open_ledger(
        &self,
        name: &str,
        db: Arc<WalletDb>,
        keys: Option<Keys>,
        request: Option<&CreateWallet>,
    ) -> Result<Arc<Loaded>> {
        let storage = Box::new(Arc::clone(&db));
        let options = LedgerOptions {
            keypool_size: self.options.keypool,
            spend_zero_conf_change: self.options.spend_zero_conf_change,
        };
        let wallet = if Wallet::exists(storage.as_ref()).map_err(storage_error)? {
            Wallet::load(storage, options).map_err(storage_error)?
        } else {
            let (params, height) = self.ledger_params(name, keys.as_ref(), request)?;
            let tip = self.chain.active_hash(height).map(|hash| BlockId { height, hash });
            Wallet::create(params, options, tip, storage).map_err(storage_error)?
        };
        let loaded = Arc::new(Loaded::new(
            name.to_owned(),
            Arc::clone(&self.options),
            Arc::clone(&self.chain),
            self.feed.clone(),
            keys,
            db,
            wallet,
        ));
        {
            let mut wallet = loaded.wallet();
            for (chain, mark) in loaded.keys().map(|keys| keys.holding.marks()).unwrap_or_default() {
                let known = wallet.pool().leased_end(chain);
                if mark > known {
                    wallet.leased_elsewhere(chain, known..mark).map_err(storage_error)?;
                }
            }
            wallet
                .reconcile(|hash| self.chain.block_facts(hash).is_some_and(|facts| facts.in_active_chain))
                .map_err(storage_error)?;
        }
        loaded.catch_up().map_err(|error| match error {
            FollowError::NoBlock(_) if self.chain.prune_height().is_some() => RpcError::wallet(PRUNED),
            other => storage_error(other),
        })?;
        {
            // The rest between two events, so that none is missed and none applied too early.
            let _applying = locked(&self.applying);
            loaded.catch_up().map_err(storage_error)?;
            loaded.scan_mempool().map_err(storage_error)?;
            locked(&self.loaded).push(Arc::clone(&loaded));
        }
        loaded.resume()?;
        if let Some(Keys { quorum: Quorum::Embedded(embedded), .. }) = loaded.keys() {
            let quorum = embedded.devquorum();
            tracing::info!(
                wallet = name,
                "development quorum of {quorum}: all co-signers run in this process and lie in one directory, which protects nothing"
            );
        }
        Ok(loaded)
    }

    fn create_now(&self, request: &CreateWallet) -> Result<LoadedName> {
        let name = request.name.as_str();
        self.check_request(request)?;
        let _busy = self.reserve(name)?;
        let place = self.options.place(name);
        let dir = place.dir.clone();
        if place.is_taken() || self.loaded(name).is_some() {
            let text = format!("Failed to create database path '{}'. Database already exists.", dir.display());
            return Err(unverified(text));
        }
        if request.disable_private_keys || request.blank {
            return self.create_plain(request, &dir);
        }
        let tip = self.chain.tip();
        let invitation = Invitation {
            version: PROTOCOL_VERSION,
            // Of embedded co-signers the name may be a path; the last step of it is what they know.
            name: last_step(name).to_owned(),
            network: self.chain.network().magic().to_bytes(),
            genesis: self.chain.genesis(),
            threshold: 0,
            members: Vec::new(),
            split: request.quorum.as_ref().is_some_and(|quorum| quorum.split),
            birth_time: self.chain.now(),
            birth_height: tip.height,
            avoid_reuse: request.avoid_reuse,
        };
        let networked = self.core.get().filter(|_| self.is_networked());
        let (quorum, holding, on_startup) = match networked {
            Some(core) => {
                let invitation = self.network_invitation(core, invitation, request.quorum.as_ref())?;
                let holding = keygen::make(core, invitation).map_err(|error| quorum_error(&error))?;
                // A member works again after a restart without any command.
                (Quorum::Network(Arc::clone(core)), holding, Some(request.load_on_startup.unwrap_or(true)))
            }
            None => {
                let devquorum = self.devquorum(request.quorum.as_ref())?;
                let made = Embedded::create(&dir, devquorum, invitation, self.options.signing_timeout, &self.chain);
                let (embedded, holding) = made.map_err(|error| {
                    clear(&dir);
                    match error {
                        EmbeddedError::Quorum(error) => quorum_error(&error),
                        other => unverified(other.to_string()),
                    }
                })?;
                (Quorum::Embedded(Arc::new(embedded)), holding, request.load_on_startup)
            }
        };
        let db = Arc::clone(holding.db());
        let loaded = self.open_ledger(name, db, Some(Keys { holding, quorum }), Some(request))?;
        let mut warnings = Vec::new();
        if let Err(error) = loaded.first_fill() {
            warnings.push(error.message);
        }
        if let Some(passphrase) = &request.passphrase {
            loaded.encrypt(passphrase)?;
        }
        self.set_startup(name, on_startup, &mut warnings);
        // In the runtime of its caller: a blocking thread of it.
        loaded.refill_soon();
        Ok(LoadedName { name: name.to_owned(), warnings })
    }

    /// A wallet without keys.
    fn create_plain(&self, request: &CreateWallet, dir: &Path) -> Result<LoadedName> {
        let name = request.name.as_str();
        let made = make_plain(dir).and_then(|db| self.open_ledger(name, db, None, Some(request)));
        if let Err(error) = made {
            clear(dir);
            return Err(error);
        }
        let mut warnings = Vec::new();
        self.set_startup(name, request.load_on_startup, &mut warnings);
        Ok(LoadedName { name: name.to_owned(), warnings })
    }

    /// A wallet from a copy.
    fn restore_now(&self, name: &str, file: &Path, force: bool) -> Result<LoadedName> {
        if name.is_empty() {
            return Err(RpcError::invalid_parameter("Wallet name cannot be empty"));
        }
        if !file.exists() {
            return Err(RpcError::invalid_parameter("Backup file does not exist"));
        }
        names::check(self.options.wallets_dir(), name).map_err(unverified)?;
        let place = self.options.place(name);
        let dir = place.dir.clone();
        let exists = |text: String| Err(RpcError::new(code::RPC_WALLET_ALREADY_EXISTS, text));
        if dir.exists() && !dir.is_dir() {
            return exists(format!("Failed to restore wallet. Database file exists '{}'.", dir.display()));
        }
        if place.is_taken() {
            return exists(format!("Failed to restore wallet. Database file exists in '{}'.", place.file.display()));
        }
        let there = dir.exists();
        let restored = {
            let _busy = self.reserve(name)?;
            let unpacked = backup::unpack(file, &dir, backup::Unpack::Restore);
            unpacked.map_err(|error| error.to_string()).and_then(|()| self.take_up(name, &dir, force))
        };
        let loaded = match restored {
            Ok(()) => self.load_now(name),
            Err(error) => Err(RpcError::new(
                code::RPC_WALLET_NOT_FOUND,
                format!("{UNVERIFIED}Failed to load database path '{}'. {error}", dir.display()),
            )),
        };
        if loaded.is_err() {
            clear(&dir);
            // Removed only if it is empty, and only if it was not there before.
            if !there && let Err(error) = std::fs::remove_dir(&dir) {
                tracing::warn!(wallet = name, %error, "the directory of a wallet that was not restored is left");
            }
        }
        loaded
    }

    /// Lets this node's co-signer open a share that was restored. It holds one share of a wallet.
    fn take_up(&self, name: &str, dir: &Path, force: bool) -> std::result::Result<(), String> {
        let Some(core) = self.core.get().filter(|_| !is_plain(dir) && !dir.join("identity").is_file()) else {
            return Ok(());
        };
        let db = Arc::new(WalletDb::open(&dir.join("db")).map_err(|error| error.to_string())?);
        let store = tss_wallet::ShareStore::new(Arc::clone(&db), core.me());
        let keys = store.public().map_err(|error| error.to_string())?.ok_or("The copy holds no key share.")?;
        if core.holding(&keys.wallet).is_some() {
            return Err("This node holds the share of this wallet already.".to_owned());
        }
        let unconfirmed = restore::admit(core, &keys, name, force)?;
        holding::set_unconfirmed(&db, unconfirmed).map_err(|error| error.to_string())?;
        drop((store, db));
        keygen::open_one(core, name, dir).map_err(|error| {
            format!("{error}; it may be the copy of another node, or of a node with another seal key")
        })?;
        if let Some(holding) = core.holding(&keys.wallet) {
            restore::lift(core, &holding);
        }
        Ok(())
    }

    fn check_request(&self, request: &CreateWallet) -> Result<()> {
        if request.name.is_empty() {
            return Err(RpcError::invalid_parameter("Wallet name cannot be empty"));
        }
        names::check(self.options.wallets_dir(), &request.name).map_err(unverified)?;
        let shared = !request.disable_private_keys && !request.blank && self.is_networked();
        if (shared && !keygen::is_safe_name(&request.name)) || !keygen::is_safe_name(last_step(&request.name)) {
            return Err(unverified(format!(
                "The wallet name '{}' cannot be used as the name of a directory.",
                request.name
            )));
        }
        if request.passphrase.is_some() {
            if request.disable_private_keys {
                return Err(RpcError::wallet(
                    "Passphrase provided but private keys are disabled. A passphrase is only used to encrypt private \
                     keys, so cannot be used for wallets with private keys disabled.",
                ));
            }
            if request.blank {
                let text = "Error: wallet does not contain private keys, nothing to encrypt.";
                return Err(RpcError::new(code::RPC_WALLET_ENCRYPTION_FAILED, text));
            }
        }
        if request.disable_private_keys || request.blank {
            return Ok(());
        }
        if self.chain.network() == Network::Bitcoin && !self.options.experimental_tss {
            return Err(RpcError::wallet(
                "Error: threshold wallets are experimental; to make one on the main chain, start with -experimental=tss",
            ));
        }
        Ok(())
    }

    /// Whether new wallets belong to a quorum of nodes.
    fn is_networked(&self) -> bool {
        self.core.get().is_some() && !self.options.cosigners.is_empty()
    }

    fn devquorum(&self, spec: Option<&QuorumSpec>) -> Result<Devquorum> {
        let mut devquorum = self.options.devquorum.ok_or_else(|| {
            RpcError::wallet(
                "Error: no co-signers are configured: start with -cosigner=<PeerId>@<multiaddr> for each other member \
                 (-printcosignerid prints a node's PeerId), or on a test network with -devquorum=2/3",
            )
        })?;
        let Some(spec) = spec else { return Ok(devquorum) };
        if let Some(member) = spec.members.as_ref().and_then(|members| members.first()) {
            return Err(unknown_member(member));
        }
        if let Some(threshold) = spec.threshold {
            let threshold = u8::try_from(threshold).unwrap_or(u8::MAX);
            let members = (1..=devquorum.members).map(|id| MemberId([id; 32])).collect();
            Roster::new(threshold, members, split(spec)).map_err(|error| bad_quorum(&error))?;
            devquorum.threshold = threshold;
        }
        Ok(devquorum)
    }

    fn network_invitation(
        &self,
        core: &Core,
        mut invitation: Invitation,
        spec: Option<&QuorumSpec>,
    ) -> Result<Invitation> {
        let default = QuorumSpec::default();
        let spec = spec.unwrap_or(&default);
        let me = core.me();
        let mut members: Vec<MemberId> = Vec::new();
        match &spec.members {
            None => members.extend(&self.options.cosigners),
            Some(named) => {
                for text in named {
                    let member = PeerId::from_str(text).ok().and_then(|peer| public_key_of(&peer)).map(MemberId);
                    let known = member.filter(|member| *member == me || self.options.cosigners.contains(member));
                    members.push(known.ok_or_else(|| unknown_member(text))?);
                }
            }
        }
        if !members.contains(&me) {
            members.push(me);
        }
        let chosen = spec.threshold.map(|threshold| u8::try_from(threshold).unwrap_or(u8::MAX));
        let threshold = chosen.or(self.options.threshold).unwrap_or_else(|| Roster::default_threshold(members.len()));
        let roster = Roster::new(threshold, members, split(spec)).map_err(|error| bad_quorum(&error))?;
        invitation.threshold = roster.threshold();
        invitation.members = roster.members().to_vec();
        Ok(invitation)
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

fn split(spec: &QuorumSpec) -> Split {
    if spec.split { Split::Accepted } else { Split::Refused }
}

pub(super) fn bad_quorum(error: &tss_wallet::RosterError) -> RpcError {
    RpcError::invalid_parameter(format!("Invalid quorum: {error}"))
}

pub(super) fn unknown_member(text: &str) -> RpcError {
    RpcError::invalid_parameter(format!("Invalid quorum: {text} is not a configured co-signer (-cosigner)"))
}

impl Host for WalletManager {
    fn wallet_left(&self, wallet: WalletId) {
        let name = locked(&self.loaded).iter().find(|loaded| loaded.is_of(wallet)).map(|loaded| loaded.name.clone());
        let Some(name) = name else { return };
        match self.unload_now(&name) {
            Ok(()) => {
                let mut warnings = Vec::new();
                self.set_startup(&name, Some(false), &mut warnings);
                tracing::info!(wallet = name, "this node has left the quorum of the wallet; it is unloaded");
            }
            Err(error) => tracing::warn!(wallet = name, error = error.message, "a wallet that was left stays loaded"),
        }
    }

    fn name_is_free(&self, name: &str) -> bool {
        !self.options.wallet_dir(name).exists() && !locked(&self.busy).contains(name)
    }

    fn wallet_made(&self, holding: &Arc<Holding>) {
        let name = holding.name().to_owned();
        let Ok(_busy) = self.reserve(&name) else { return };
        let Some(core) = self.core.get() else { return };
        if self.loaded(&name).is_some() {
            return;
        }
        let keys = Keys { quorum: Quorum::Network(Arc::clone(core)), holding: Arc::clone(holding) };
        match self.open_ledger(&name, Arc::clone(holding.db()), Some(keys), None) {
            Ok(_) => {
                let mut warnings = Vec::new();
                self.set_startup(&name, Some(true), &mut warnings);
                for warning in warnings {
                    tracing::warn!(wallet = name, warning);
                }
            }
            Err(error) => tracing::error!(wallet = name, error = error.message, "a new wallet could not be loaded"),
        }
    }

    fn spender(&self, wallet: WalletId, coin: &OutPoint) -> Option<Transaction> {
        self.of_quorum(wallet)?.spender(coin)
    }

    fn unconfirmed(&self, wallet: WalletId) -> Vec<Transaction> {
        self.of_quorum(wallet).map(|loaded| loaded.unconfirmed()).unwrap_or_default()
    }

    fn labels(&self, wallet: WalletId) -> Vec<AddressLabel> {
        self.of_quorum(wallet).map(|loaded| loaded.labels()).unwrap_or_default()
    }

    fn labelled(&self, wallet: WalletId, labels: &[AddressLabel], fill: bool) {
        if let Some(loaded) = self.of_quorum(wallet) {
            loaded.labelled(labels, fill);
        }
    }

    fn leased_elsewhere(&self, wallet: WalletId, ranges: &[LeaseRange]) {
        let Some(loaded) = self.of_quorum(wallet) else { return };
        let mut ledger = loaded.wallet();
        for range in ranges {
            let end = range.first.saturating_add(range.count);
            if let Err(error) = ledger.leased_elsewhere(range.chain, range.first..end) {
                tracing::error!(wallet = loaded.name, %error, "another coordinator's addresses could not be noted");
            }
        }
    }
}

#[async_trait]
impl Wallets for WalletManager {
    fn network(&self) -> Network {
        self.chain.network()
    }

    async fn create(&self, request: CreateWallet) -> Result<LoadedName> {
        let this = self.arc()?;
        blocking(move || this.create_now(&request)).await
    }

    async fn load(&self, name: &str, load_on_startup: Option<bool>) -> Result<LoadedName> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || {
            let mut loaded = this.load_now(&name)?;
            this.set_startup(&name, load_on_startup, &mut loaded.warnings);
            Ok(loaded)
        })
        .await
    }

    async fn unload(&self, name: &str, load_on_startup: Option<bool>) -> Result<LoadedName> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || {
            this.unload_now(&name)?;
            let mut unloaded = LoadedName { name: name.clone(), warnings: Vec::new() };
            this.set_startup(&name, load_on_startup, &mut unloaded.warnings);
            Ok(unloaded)
        })
        .await
    }

    async fn restore(&self, name: &str, file: &Path, load_on_startup: Option<bool>, force: bool) -> Result<LoadedName> {
        let (this, name, file) = (self.arc()?, name.to_owned(), file.to_owned());
        blocking(move || {
            let mut loaded = this.restore_now(&name, &file, force)?;
            this.set_startup(&name, load_on_startup, &mut loaded.warnings);
            Ok(loaded)
        })
        .await
    }

    fn list(&self) -> Vec<String> {
        locked(&self.loaded).iter().map(|wallet| wallet.name.clone()).collect()
    }

    async fn list_dir(&self) -> Result<Vec<WalletOnDisk>> {
        let this = self.arc()?;
        blocking(move || {
            let names = names::list(this.options.wallets_dir());
            Ok(names.into_iter().map(|name| WalletOnDisk { name, warnings: Vec::new() }).collect())
        })
        .await
    }

    fn get(&self, name: &str) -> Option<Arc<dyn WalletHandle>> {
        self.loaded(name).map(|wallet| Arc::new(Handle(wallet)) as Arc<dyn WalletHandle>)
    }

    async fn repair_share(&self, name: &str) -> Result<Redealt> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || this.repair(&name)).await
    }

    async fn verify_backup(&self, file: &Path, passphrase: Option<&str>) -> Result<BackupCheck> {
        let (this, file, passphrase) = (self.arc()?, file.to_owned(), passphrase.map(str::to_owned));
        blocking(move || this.check_backup(&file, passphrase.as_deref())).await
    }

    async fn delete_share(&self, name: &str, force: bool) -> Result<()> {
        let (this, name) = (self.arc()?, name.to_owned());
        blocking(move || this.delete_now(&name, force)).await
    }

    fn cosigner_info(&self) -> Result<CosignerInfo> {
        let identity = &self.options.identity;
        let peer = identity.peer_id();
        let addresses = self.network.get().map(|network| network.listen_addresses()).unwrap_or_default();
        Ok(CosignerInfo {
            peerid: peer.to_string(),
            fingerprint: fingerprint(identity.public_key()),
            addresses: addresses.iter().map(|address| format!("{address}/p2p/{peer}")).collect(),
            protocol_version: PROTOCOL_VERSION,
            network: self.chain.network().to_core_arg().to_owned(),
        })
    }

    async fn cosigners(&self) -> Result<Vec<Cosigner>> {
        Ok(self.core.get().map(|core| info::cosigners(core)).unwrap_or_default())
    }
}
