//! The node below its sockets: Bitcoin Core's own code behind a safe interface.
//!
//! Owns the C++ shim (`../shim`), every line of `unsafe` in the project, and the one node a process can hold: options
//! and `bitcoin.conf`, `debug.log`, block files, chainstate, mempool, fee estimates, templates, indexes, and the RPC
//! methods whose answers lie there. It refuses to know sockets, peers, HTTP, wallets and keys. No vendored file is
//! edited or copied; the shim only calls (ADR 0001, ADR 0005).
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`args`] | the command line, `bitcoin.conf`, `settings.json`, paths |
//! | [`node`] | [`Kernel`]: prepare, start, load, interrupt, shut down |
//! | [`addresses`] | Core's address manager, groups of networks, anchors, fixed seeds |
//! | [`chain`] | headers, blocks, undo data, coins, locators, anti-DoS thresholds |
//! | [`headers_sync`] | Core's low-work header filter, one for each peer |
//! | [`mempool`] | acceptance, packages, entries, fee rates, broadcast |
//! | [`relay`] | transactions that peers announce and send: requests, orphans, packages |
//! | [`private_broadcast`] | own transactions that go out by short connections, and to which |
//! | [`compact`] | compact blocks, made and rebuilt |
//! | [`filters`] | block filters and bloom filters, for light clients |
//! | [`unconfirmed`] | ancestors and what they lack, limits on clusters |
//! | [`rpc`] | Core's RPC table: execution, warm-up, command list |
//! | [`notify`] | what the node tells: blocks, transactions, flushes, shutdown |
//! | [`log`] | lines and categories of `debug.log`, the layer that feeds `tracing` into it |
//! | [`daemon`] | the fork of `-daemon` |
//! | [`memory`] | what is given back to the operating system |
//! | [`error`] | the errors |
//!
//! Calls block: run them on their own threads (`spawn_blocking`), never on a reactor. Options, parameters, mock time and
//! logger are global to a process, so a process opens one node, once.
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod addresses;
pub mod args;
pub mod chain;
mod codec;
pub mod compact;
pub mod daemon;
pub mod error;
mod ffi;
pub mod filters;
pub mod headers_sync;
pub mod log;
pub mod memory;
pub mod mempool;
pub mod node;
pub mod notify;
pub mod private_broadcast;
pub mod relay;
pub mod rpc;
pub mod rules;
pub mod unconfirmed;

/// The vendored tree this crate was built from.
pub const CORE_SOURCE: &str = env!("KEYLESS_CORE_SOURCE");

pub use args::Args;
pub use chain::{BlockInfo, BlockOutcome, BlockVerdict, BlockVerdictKind, Coin, HeadersOutcome, Tip};
pub use error::{ArgsError, InitError, KernelError};
pub use headers_sync::HeadersSync;
pub use mempool::{Acceptance, Accepted, MempoolEntry, MempoolInfo, PackageOutcome, RejectKind, Rejection};
pub use node::Kernel;
pub use notify::{Notification, Notifications};
pub use rpc::{RpcCall, RpcFailure};
pub use unconfirmed::MempoolAncestry;
