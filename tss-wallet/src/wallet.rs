//! The public half of a wallet: which scripts are ours, which coins they hold, what was paid and received, how a
//! spend is put together and where signatures go. Kept as Bitcoin Core's wallet keeps it, so that Core's users see
//! the numbers they know.
//!
//! Owns: scripts and address leases, labels, wallet transactions and their states, locked coins, drafts, PSBTs.
//! Refuses: private keys (it never sees one), clocks, sockets, randomness of its own. Signatures are asked for as
//! [`signing::SigningItem`]s and put in place when the quorum has made them.
//! Source: Bitcoin Core's `src/wallet` for behaviour, BIP32, BIP174, BIP371, BIP341; `bdk_chain` keeps the graph of
//! transactions and the index of scripts, `bdk_coin_select` chooses coins.
//!
//! | module | owns |
//! | --- | --- |
//! | [`keychain`] | the eight chains of scripts, and which script is ours |
//! | [`pool`] | address leases and the confirmed pool |
//! | [`labels`], [`locks`] | the address book; locked and claimed coins |
//! | [`record`] | one wallet transaction and its state |
//! | [`ledger`] | all of them, their conflicts and spends |
//! | [`feed`] | what the node tells: blocks, mempool, reorganisations, rescans |
//! | [`addresses`] | handing out addresses, labels |
//! | [`balance`], [`coins`], [`history`] | questions about money |
//! | [`spend`] | coin selection, fees, change |
//! | [`solving`] | how scripts of others are spent |
//! | [`export`] | a copy that only watches |
//! | [`signing`], [`psbt`], [`message`] | what must be signed, and where signatures go |
//! | [`descriptors`] | descriptors as others import them |
//! | [`imports`] | public descriptors that a wallet without a quorum watches |
//! | [`storage`] | the trait of the store, and its twin in memory |

pub mod addresses;
pub mod balance;
pub mod coins;
pub mod descriptors;
pub mod export;
pub mod feed;
pub mod history;
pub mod imports;
pub mod keychain;
pub mod labels;
pub mod ledger;
pub mod locks;
pub mod message;
pub mod pool;
pub mod psbt;
pub mod record;
pub mod signing;
pub mod solving;
pub mod spend;
pub mod storage;

use std::cell::RefCell;
use std::collections::HashMap;

use bdk_chain::BlockId;
use bitcoin::{BlockHash, Network, OutPoint};
use serde::{Deserialize, Serialize};

use self::balance::KeptBalances;
use self::keychain::{AccountError, AccountXpub, ChainId, Keychains};
use self::labels::AddressBook;
use self::ledger::Ledger;
use self::locks::Locks;
use self::pool::Pool;
use self::record::{TxRecord, TxState};
use self::storage::{Durability, Storage, StorageError, Table, Write};

/// The birth time of a wallet that has no keys yet.
const UNBORN: u64 = u64::MAX;
/// Scripts of each chain that are watched beyond all leases known, at least.
const WATCHED_BEYOND_LEASES: u32 = 100;
/// The version of what this module stores.
const FORMAT: u32 = 1;
const META_KEY: &[u8] = b"wallet";
const BEST_BLOCK_KEY: &[u8] = b"best_block";
const KIND_KEY: &[u8] = b"kind";
const CORRUPT_META: StorageError = StorageError::Corrupt { what: "wallet description" };

/// What a new wallet is made from.
#[derive(Debug, Clone)]
pub struct WalletParams {
    pub name: String,
    pub network: Network,
    /// One for each address type; none for a wallet without a quorum.
    pub accounts: Vec<AccountXpub>,
    /// When the keys were made, seconds since 1970.
    pub birth_time: u64,
    pub avoid_reuse: bool,
    pub kind: Kind,
}

/// What kind of wallet it is, in Core's flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// It watches, and never signs.
    pub watch_only: bool,
    /// It was made without keys; public descriptors do not change that, as in Core.
    pub blank: bool,
}

/// What the node's configuration says; may change from one start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalletOptions {
    /// `-keypool`: scripts watched ahead of the last one used.
    pub keypool_size: u32,
    /// `-spendzeroconfchange`.
    pub spend_zero_conf_change: bool,
}

impl Default for WalletOptions {
    fn default() -> Self {
        Self { keypool_size: 1000, spend_zero_conf_change: true }
    }
}

/// Why a wallet could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the wallet was stored in format {found}, this version reads {FORMAT}")]
    Format { found: u32 },
    #[error("there is no wallet in this store")]
    Absent,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    format: u32,
    name: String,
    network: Network,
    accounts: Vec<AccountXpub>,
    /// When the keys were made.
    created: u64,
    /// That, or the time of an older transaction.
    birth_time: u64,
    avoid_reuse: bool,
}

/// How far a rescan has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scanning {
    /// When it began, seconds since 1970.
    pub started: u64,
    /// From 0 to 1.
    pub progress: f64,
}

/// One wallet's public state. Owned by one task; every call is synchronous.
pub struct Wallet {
    meta: Meta,
    kind: Kind,
    options: WalletOptions,
    keys: Keychains,
    ledger: Ledger,
    pool: Pool,
    book: AddressBook,
    locks: Locks,
    storage: Box<dyn Storage>,
    /// What a restart begins from: committed only when the chainstate has flushed.
    best_block: Option<BlockId>,
    scanning: Option<Scanning>,
    kept_balances: RefCell<KeptBalances>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("name", &self.meta.name).field("tip", &self.ledger.tip()).finish_non_exhaustive()
    }
}

impl Wallet {
    /// Makes a wallet and stores it. `tip` is the block from which it begins to follow the chain.
    pub fn create(
        params: WalletParams,
        options: WalletOptions,
        tip: Option<BlockId>,
        storage: Box<dyn Storage>,
    ) -> Result<Self, WalletError> {
        // Without keys nothing can have been paid to it yet.
        let birth_time = if params.accounts.is_empty() { UNBORN } else { params.birth_time };
        let meta = Meta {
            format: FORMAT,
            name: params.name,
            network: params.network,
            accounts: params.accounts,
            created: params.birth_time,
            birth_time,
            avoid_reuse: params.avoid_reuse,
        };
        let keys = keychains(&meta)?;
        let mut ledger = Ledger::default();
        ledger.set_tip(tip);
        let mut wallet = Self {
            meta,
            kind: params.kind,
            options,
            keys,
            ledger,
            pool: Pool::default(),
            book: AddressBook::default(),
            locks: Locks::default(),
            storage,
            best_block: tip,
            scanning: None,
            kept_balances: RefCell::default(),
        };
        wallet.want_lookahead();
        let writes = [wallet.meta_row()?, wallet.kind_row()?, wallet.best_block_row()?];
        wallet.storage.write(&writes, Durability::Promise)?;
        Ok(wallet)
    }

    /// Opens a stored wallet. Its tip is its best block; [`Wallet::reconcile`] and the blocks after it come next.
    pub fn load(storage: Box<dyn Storage>, options: WalletOptions) -> Result<Self, WalletError> {
        let rows = storage.rows(Table::Meta)?;
        let row = |wanted: &[u8]| rows.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_slice());
        let meta: Meta = match row(META_KEY) {
            Some(value) => postcard::from_bytes(value).map_err(|_| CORRUPT_META)?,
            None => return Err(WalletError::Absent),
        };
        if meta.format != FORMAT {
            return Err(WalletError::Format { found: meta.format });
        }
        let best_block: Option<(u32, BlockHash)> = match row(BEST_BLOCK_KEY) {
            Some(value) => postcard::from_bytes(value).map_err(|_| CORRUPT_META)?,
            None => None,
        };
        let best_block = best_block.map(|(height, hash)| BlockId { height, hash });
        let kind: Kind = match row(KIND_KEY) {
            Some(value) => postcard::from_bytes(value).map_err(|_| CORRUPT_META)?,
            None => Kind::default(),
        };
        let mut wallet = Self {
            keys: keychains(&meta)?,
            meta,
            kind,
            options,
            ledger: Ledger::default(),
            pool: Pool::load(&storage.rows(Table::Pool)?)?,
            book: AddressBook::load(storage.rows(Table::Label)?)?,
            locks: Locks::load(&storage.rows(Table::Lock)?)?,
            storage,
            best_block,
            scanning: None,
            kept_balances: RefCell::default(),
        };
        wallet.ledger.set_tip(best_block);
        wallet.restore_imports(&rows)?;
        wallet.want_handed_out();
        wallet.keys.restore_rows(&wallet.storage.rows(Table::Script)?);
        wallet.keys.top_up(usize::MAX);
        let rows = wallet.storage.rows(Table::Tx)?;
        for (_, value) in rows {
            wallet.ledger.restore(TxRecord::decode(&value)?, &mut wallet.keys);
        }
        wallet.want_lookahead();
        Ok(wallet)
    }

    /// True when the store holds a wallet.
    pub fn exists(storage: &dyn Storage) -> Result<bool, StorageError> {
        Ok(storage.rows(Table::Meta)?.iter().any(|(key, _)| key == META_KEY))
    }

    /// The chain that a stored wallet belongs to, if the store holds one.
    pub fn stored_network(storage: &dyn Storage) -> Result<Option<Network>, StorageError> {
        let rows = storage.rows(Table::Meta)?;
        let Some((_, value)) = rows.iter().find(|(key, _)| key == META_KEY) else { return Ok(None) };
        let meta: Meta = postcard::from_bytes(value).map_err(|_| CORRUPT_META)?;
        Ok(Some(meta.network))
    }

    /// After a start: states that rest on a block which is not in the active chain fall back to unconfirmed.
    /// `is_active` is asked once for each such block.
    pub fn reconcile(&mut self, is_active: impl Fn(&BlockHash) -> bool) -> Result<(), StorageError> {
        let mut known: HashMap<BlockHash, bool> = HashMap::new();
        let relied = self.ledger.blocks_relied_on();
        let stale = relied.filter(|(_, hash)| !*known.entry(*hash).or_insert_with(|| is_active(hash)));
        let stale: Vec<_> = stale.map(|(txid, _)| txid).collect();
        for txid in stale {
            let coinbase = self.ledger.get(&txid).is_some_and(|record| record.tx.is_coinbase());
            self.ledger.force_state(txid, TxState::Inactive { abandoned: coinbase }, &self.keys);
        }
        self.store_changes(Vec::new(), Durability::Replayable)
    }

    pub fn name(&self) -> &str {
        &self.meta.name
    }

    pub fn network(&self) -> Network {
        self.meta.network
    }

    pub fn accounts(&self) -> &[AccountXpub] {
        &self.meta.accounts
    }

    pub fn options(&self) -> &WalletOptions {
        &self.options
    }

    /// When the oldest key was made, or the oldest transaction seen; seconds since 1970. None without any.
    pub fn birth_time(&self) -> Option<u64> {
        (self.meta.birth_time != UNBORN).then_some(self.meta.birth_time)
    }

    /// When the keys were made, seconds since 1970.
    pub fn key_time(&self) -> u64 {
        self.meta.created
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn avoid_reuse(&self) -> bool {
        self.meta.avoid_reuse
    }

    /// Sets the `avoid_reuse` flag; gives what it was. Setting it marks every script that was spent from.
    pub fn set_avoid_reuse(&mut self, value: bool) -> Result<bool, StorageError> {
        let before = std::mem::replace(&mut self.meta.avoid_reuse, value);
        self.ledger.changed();
        let mut writes = vec![self.meta_row()?];
        if value && !before {
            let txids: Vec<_> = self.ledger.ordered().map(|record| record.txid).collect();
            for txid in txids {
                if let Some(record) = self.ledger.get(&txid) {
                    let tx = std::sync::Arc::clone(&record.tx);
                    writes.extend(self.mark_spent_scripts(&tx)?);
                }
            }
        }
        self.storage.write(&writes, Durability::Promise)?;
        Ok(before)
    }

    /// The last block this wallet has processed.
    pub fn tip(&self) -> Option<BlockId> {
        self.ledger.tip()
    }

    /// The block a restart begins from.
    pub fn best_block(&self) -> Option<BlockId> {
        self.best_block
    }

    pub fn tx_count(&self) -> usize {
        self.ledger.len()
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn keys(&self) -> &Keychains {
        &self.keys
    }

    pub fn address_book(&self) -> &AddressBook {
        &self.book
    }

    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn scanning(&self) -> Option<Scanning> {
        self.scanning
    }

    /// Notes how far a rescan has come; `None` when it ended.
    pub fn set_scanning(&mut self, scanning: Option<Scanning>) {
        self.scanning = scanning;
    }

    /// Locks a coin against automatic selection; a persistent lock survives a restart.
    pub fn lock_coin(&mut self, outpoint: OutPoint, persistent: bool) -> Result<(), StorageError> {
        self.locks.lock(outpoint, persistent);
        self.storage.write(&[self.locks.row(outpoint)?], Durability::Promise)
    }

    pub fn unlock_coin(&mut self, outpoint: OutPoint) -> Result<(), StorageError> {
        self.locks.unlock(outpoint);
        self.storage.write(&[self.locks.row(outpoint)?], Durability::Promise)
    }

    pub fn unlock_all_coins(&mut self) -> Result<(), StorageError> {
        let locked: Vec<OutPoint> = self.locks.locked().collect();
        let mut writes = Vec::with_capacity(locked.len());
        for outpoint in locked {
            self.locks.unlock(outpoint);
            writes.push(self.locks.row(outpoint)?);
        }
        self.storage.write(&writes, Durability::Promise)
    }

    /// Claims coins for a request, all or none, before anything is signed for it.
    pub fn claim(&mut self, outpoints: &[OutPoint], claim: locks::ClaimId) -> Result<(), ClaimError> {
        self.locks.claim(outpoints, claim)?;
        let writes = outpoints.iter().map(|outpoint| self.locks.row(*outpoint)).collect::<Result<Vec<_>, _>>()?;
        self.storage.write(&writes, Durability::Promise)?;
        Ok(())
    }

    /// Ends a claim.
    pub fn release(&mut self, claim: locks::ClaimId) -> Result<(), StorageError> {
        let held = self.locks.release(claim);
        let writes = held.iter().map(|outpoint| self.locks.row(*outpoint)).collect::<Result<Vec<_>, _>>()?;
        if writes.is_empty() { Ok(()) } else { self.storage.write(&writes, Durability::Promise) }
    }

    /// Scripts that are still to be derived before the whole look-ahead is watched.
    pub fn lookahead_pending(&self) -> u32 {
        self.keys.pending()
    }

    /// Derives at most `limit` scripts of the look-ahead; true when all are watched. Feeding a block or a
    /// mempool transaction derives the rest by itself.
    pub fn top_up(&mut self, limit: usize) -> bool {
        self.keys.top_up(limit)
    }

    fn want_handed_out(&mut self) {
        for chain in ChainId::all() {
            self.keys.want(chain, self.pool.used_end(chain));
        }
    }

    fn want_lookahead(&mut self) {
        // Another coordinator's next lease may be heard of after a payment to it.
        let beyond = self.options.keypool_size.max(WATCHED_BEYOND_LEASES);
        for chain in ChainId::all() {
            let next = self.pool.next_index(chain).max(self.pool.used_end(chain)).max(self.pool.leased_end(chain));
            let range_end = self.pool.range_end(chain, self.options.keypool_size);
            self.keys.want(chain, range_end.max(next.saturating_add(beyond)));
        }
    }

    fn meta_row(&self) -> Result<Write, StorageError> {
        let value = postcard::to_stdvec(&self.meta).map_err(|_| CORRUPT_META)?;
        Ok(Write { table: Table::Meta, key: META_KEY.to_vec(), value: Some(value) })
    }

    fn kind_row(&self) -> Result<Write, StorageError> {
        let value = postcard::to_stdvec(&self.kind).map_err(|_| CORRUPT_META)?;
        Ok(Write { table: Table::Meta, key: KIND_KEY.to_vec(), value: Some(value) })
    }

    /// Where the wallet stands, as a copy of it stores it.
    pub fn tip_row(&self) -> Result<Write, StorageError> {
        self.block_row(self.tip())
    }

    fn best_block_row(&self) -> Result<Write, StorageError> {
        self.block_row(self.best_block)
    }

    fn block_row(&self, block: Option<BlockId>) -> Result<Write, StorageError> {
        let best = block.map(|block| (block.height, block.hash));
        let value = postcard::to_stdvec(&best).map_err(|_| CORRUPT_META)?;
        Ok(Write { table: Table::Meta, key: BEST_BLOCK_KEY.to_vec(), value: Some(value) })
    }

    /// Stores what changed in the ledger, together with `writes`.
    fn store_changes(&mut self, mut writes: Vec<Write>, durability: Durability) -> Result<(), StorageError> {
        use bitcoin::hashes::Hash as _;
        for txid in self.ledger.take_dirty() {
            let value = match self.ledger.get(&txid) {
                Some(record) => Some(record.encode()?),
                None => None,
            };
            writes.push(Write { table: Table::Tx, key: txid.to_byte_array().to_vec(), value });
        }
        writes.extend(self.keys.take_rows());
        if writes.is_empty() { Ok(()) } else { self.storage.write(&writes, durability) }
    }
}

fn keychains(meta: &Meta) -> Result<Keychains, AccountError> {
    if meta.accounts.is_empty() {
        Ok(Keychains::watching(meta.network))
    } else {
        Keychains::new(meta.network, &meta.accounts)
    }
}

/// Why coins could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Claimed(#[from] locks::AlreadyClaimed),
    #[error(transparent)]
    Storage(#[from] StorageError),
}
