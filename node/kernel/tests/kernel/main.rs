//! The node through its safe interface. Options, logger, mock time and the node itself are global to a process, so each
//! test needs a process of its own: run by cargo-nextest.
#![allow(clippy::unwrap_used, clippy::panic)]

mod chain;
mod headers;
mod life;
mod mempool;
mod options;
mod rpc;
mod rules;
mod support;
mod traps;
mod vendored;
