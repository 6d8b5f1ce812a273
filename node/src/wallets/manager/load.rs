//! Wallets that lie on the disk or in a copy: opened, caught up with the chain, and added to the set.

use std::path::Path;
use std::sync::Arc;

use bdk_chain::BlockId;
use bitcoin::Network;
use keyless_kernel::memory;
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{CreateWallet, Loaded as LoadedName, Result};
use tss_wallet::WalletDb;
use tss_wallet::store::LET_GO;
use tss_wallet::wallet::{Kind, Wallet, WalletOptions as LedgerOptions, WalletParams};

use super::{OTHER_CHAIN, PRUNED, UNVERIFIED, WalletManager, clear, locked, unverified};
use crate::quorum::devquorum::{Embedded, EmbeddedError};
use crate::quorum::redeal::restore;
use crate::quorum::{Core, Holding, holding, keygen};
use crate::wallets::container::ContainerError;
use crate::wallets::follow::FollowError;
use crate::wallets::imports::{is_plain, open_plain};
use crate::wallets::loaded::{Keys, Loaded, Quorum, storage_error};
use crate::wallets::{backup, names};

const UNKNOWN_FORMAT: &str = "Data is not in recognized format.";

impl WalletManager {
    pub(super) fn load_now(&self, name: &str) -> Result<LoadedName> {
        let _busy = self.reserve(name)?;
        if self.loaded(name).is_some() {
            let text = format!("Wallet \"{name}\" is already loaded.");
            return Err(RpcError::new(code::RPC_WALLET_ALREADY_LOADED, text));
        }
        names::check(self.options.wallets_dir(), name).map_err(unverified)?;
        let place = self.options.place(name);
        let dir = place.dir.clone();
        let missing = |why: &str| {
            let mut path = self.options.wallets_dir().to_owned();
            if !name.is_empty() {
                path.push(name);
            }
            RpcError::new(
                code::RPC_WALLET_NOT_FOUND,
                format!("{UNVERIFIED}Failed to load database path '{}'. {why}", path.display()),
            )
        };
        if dir.is_file() {
            return Err(missing(UNKNOWN_FORMAT));
        }
        if !place.is_taken() && !dir.exists() {
            return Err(missing(if name.is_empty() { UNKNOWN_FORMAT } else { "Path does not exist." }));
        }
        place.unpack().map_err(|error| match error {
            ContainerError::Copy(error) => missing(&error.to_string()),
            other => unverified(other.to_string()),
        })?;
        if !holding::is_ours(&dir) || !holding::is_complete(&dir) {
            return Err(missing(UNKNOWN_FORMAT));
        }
        if !is_plain(&dir) && backup::is_self_contained(&dir) {
            let db = WalletDb::open_when_free(&dir.join("db"), LET_GO)
                .map_err(|error| unverified(ContainerError::from(error).to_string()))?;
            self.same_chain(&db).map_err(missing)?;
        }
        if is_plain(&dir) {
            let db = open_plain(&dir)?;
            let network = Wallet::stored_network(&db).map_err(storage_error)?;
            if network.is_some_and(|network| network != self.chain.network()) {
                return Err(missing(OTHER_CHAIN));
            }
            self.open_ledger(name, db, None, None)?;
        } else {
            let keys = self.open_quorum(name, &dir)?;
            self.open_ledger(name, Arc::clone(keys.holding.db()), Some(keys), None)?;
        }
        // Rows as they lay on the disk.
        memory::give_back();
        Ok(LoadedName { name: name.to_owned(), warnings: self.options.warnings.clone() })
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
        match Embedded::open(name, dir, &self.surroundings()) {
            Ok((embedded, holding)) => Ok(Keys { quorum: Quorum::Embedded(Arc::new(embedded)), holding }),
            Err(EmbeddedError::Holding(error)) if error.is_in_use() => {
                Err(unverified(ContainerError::InUse.to_string()))
            }
            Err(error) => Err(RpcError::wallet(format!("Error: {error}"))),
        }
    }

    /// The share that this node's co-signer opened at its start, or can open now.
    fn held_share(&self, core: &Arc<Core>, name: &str, dir: &Path) -> Result<Arc<Holding>> {
        if let Some(holding) = core.holding_named(name) {
            return Ok(holding);
        }
        let opened = keygen::open_one(core, name, dir);
        // Whoever else opened it meanwhile has it for all.
        match (core.holding_named(name), opened) {
            (Some(holding), _) => Ok(holding),
            (None, Err(error)) => Err(RpcError::wallet(format!("Error: {error}"))),
            (None, Ok(())) => Err(RpcError::wallet("Error: this node holds no share of this wallet")),
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
    pub(super) fn open_ledger(
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
        adopt_marks(&loaded)?;
        loaded
            .wallet()
            .reconcile(|hash| self.chain.block_facts(hash).is_some_and(|facts| facts.in_active_chain))
            .map_err(storage_error)?;
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
        // What others said before the wallet was in the set reached the share alone.
        adopt_marks(&loaded)?;
        loaded.watch_ahead_soon();
        loaded.resume()?;
        loaded.ask_news();
        if let Some(Keys { quorum: Quorum::Embedded(embedded), .. }) = loaded.keys() {
            let quorum = embedded.devquorum();
            tracing::info!(
                wallet = name,
                "development quorum of {quorum}: all co-signers run in this process and lie in one directory, which protects nothing"
            );
        }
        Ok(loaded)
    }

    /// A wallet from a copy.
    pub(super) fn restore_now(&self, name: &str, file: &Path, force: bool) -> Result<LoadedName> {
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
}

/// The ledger watches every address that the share knows to be handed out.
fn adopt_marks(loaded: &Loaded) -> Result<()> {
    let marks = loaded.keys().map(|keys| keys.holding.marks()).unwrap_or_default();
    let mut wallet = loaded.wallet();
    for (chain, mark) in marks {
        let known = wallet.pool().leased_end(chain);
        if mark > known {
            wallet.leased_elsewhere(chain, known..mark).map_err(storage_error)?;
        }
    }
    Ok(())
}
