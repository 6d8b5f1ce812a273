//! The harness of the end-to-end tests: real processes, real sockets, a real Bitcoin Core beside ours.
//!
//! Owns child processes (it ends only those it started, by id, and they die with it), their data directories, ports
//! chosen by the system, an RPC client, and waits with deadlines. Refuses sleeps as a way to wait, and mocks.
//!
//! | module | holds |
//! | --- | --- |
//! | [`daemon`] | one node process, `keylessd` or `bitcoind` |
//! | [`disk`] | a small disk that fills up or turns read-only |
//! | [`http`] | one connection to an RPC server, byte by byte |
//! | [`life`] | random lives of a wallet's shares |
//! | [`rogue`] | a member that keeps to nothing, with a real identity and share |
//! | [`router`] | a router that gives ports away, and the networks around it |
//! | [`rpc`] | JSON-RPC over HTTP, and amounts |
//! | [`quorum`] | three and more `keylessd` that are one quorum |
//! | [`script`] | scripts for a command-line client, and their transcripts |
//! | [`wait`] | conditions with a deadline |
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod daemon;
pub mod disk;
pub mod http;
pub mod life;
pub mod quorum;
pub mod rogue;
pub mod router;
pub mod rpc;
pub mod script;
pub mod wait;

pub use daemon::{Daemon, Kind, Options};
pub use quorum::Quorum;
pub use rpc::{RpcClient, RpcFailure, sat};
pub use wait::until;
