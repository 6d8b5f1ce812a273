//! The owner of all wallets: loads them, feeds them the chain, fills their address pools, and sends.
//!
//! Owns: the set of wallets ([`manager`]), the queue of chain events and the one thread that applies them ([`feed`]),
//! catching up and rescanning ([`follow`]), leases of addresses ([`pool`]), fees ([`fees`]), payments ([`spend`]) and
//! signatures ([`sign`]). A wallet's ledger is `tss_wallet::wallet::Wallet`, behind a mutex that is held for short
//! work and never over an `await`; whatever waits for the quorum or the disk runs on blocking threads.
//!
//! Refuses: key shares (they are [`crate::quorum`]'s), JSON (it is `keyless_rpc`'s), and consensus.
//!
//! | module | owns |
//! | --- | --- |
//! | [`options`] | what the configuration says about wallets |
//! | [`chain_view`] | what wallets need of the node |
//! | [`manager`] | the set of wallets: create, load, unload, list |
//! | [`loaded`] | one loaded wallet |
//! | [`feed`], [`follow`] | chain events, in order; catching up, rescans |
//! | [`pool`], [`fees`], [`spend`], [`sign`] | addresses, fee rates, payments, signatures |
//! | [`detached`] | payments that nobody waits for |
//! | [`imports`] | wallets without keys: descriptors taken in, and looked for |
//! | [`names`], [`container`] | where a wallet lies; `wallet.dat`, which it is while it is closed |
//! | [`locking`], [`backup`] | passphrases; copies of a wallet |
//! | [`guard`] | policy, approvals, audit log, accusations |
//! | [`lifecycle`] | shares dealt again, repaired; members suspended |
//! | [`notify`] | `-walletnotify` |
//! | [`bump`] | a payment replaced by one that pays more |
//! | [`unconfirmed`] | the mempool as coin selection sees it |
//! | [`handle`], [`info`] | one wallet as RPC sees it; its quorum as RPC shows it |

mod backup;
mod bump;
pub mod chain_view;
mod container;
mod detached;
pub mod feed;
mod fees;
mod follow;
mod guard;
mod handle;
mod imports;
mod info;
mod lifecycle;
pub mod loaded;
mod locking;
pub mod manager;
mod named;
mod names;
mod notify;
pub mod options;
mod pool;
mod shared;
mod sign;
mod spend;
mod unconfirmed;

pub use chain_view::ChainView;
pub use feed::{ChainFeed, FeedEvent};
pub use manager::WalletManager;
pub use options::WalletOptions;
