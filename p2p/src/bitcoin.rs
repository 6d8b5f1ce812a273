//! Bitcoin's peer-to-peer protocol, spoken so that Bitcoin Core's nodes and tests see one of their own.
//!
//! Owns: sockets, the handshake, who is connected and why, headers-first sync, which block is asked from
//! whom, what was announced to whom, orphans, bans and addresses. Refuses to judge: every header, block and
//! transaction goes to a [`Chain`], whose verdict is final. Behaviour follows Core 31.99's `net.cpp` and
//! `net_processing.cpp`; log lines under the tracing target `net` use Core's words, for its tests read them.
//!
//! Map: [`chain`] what the node must provide, [`config`] options, [`handle`] what callers hold, `owner` the
//! one thread that owns all state, `peer` one peer's state, `sync` block download bookkeeping, `txs`
//! transaction relay bookkeeping, `message` and `wire` the formats, `socket` the only tasks that do I/O,
//! `dial` who to connect to, `addresses` and `bans` what is remembered about hosts.
//!
//! The owner is a plain thread because the chain's calls block; sockets are tokio tasks. Nothing here calls
//! the chain from a tokio worker.

pub mod chain;
pub mod config;
pub mod handle;
mod inbox;
pub mod permissions;

pub use chain::{
    BlockOutcome, BlockRef, Chain, ChainEvent, HeaderInfo, HeaderRef, HeadersError, MempoolTx,
    TxOutcome, TxRef,
};
pub use config::{Bind, Config, Permissions};
pub use handle::{Handle, PeerId, PeerInfo, StartError};
