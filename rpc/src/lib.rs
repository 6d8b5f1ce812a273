//! JSON-RPC as Bitcoin Core speaks it: HTTP, authentication, envelopes, the one method table, amounts, error codes,
//! and `keyless-cli`.
//!
//! Owns the bytes between a client and a method. Refuses to know where answers come from: it calls the traits of
//! [`backend`] and [`wallet::backend`], which the node implements; it holds no chain, no peer and no key.
//!
//! | module | holds |
//! | --- | --- |
//! | [`server`] | sockets, HTTP/1.1, authentication, whitelist, work queue, JSON-RPC 1.0/1.1/2.0 envelopes, batches |
//! | [`table`] | what a row of the method table is: names, argument types, usage lines |
//! | [`methods`] | the rows of the node's methods, and those of them that are answered here |
//! | [`wallet`] | the rows of the wallet's methods and their JSON |
//! | [`args`] | named and positional arguments, type checks, accessors with Core's error texts |
//! | [`backend`] | the traits a node implements, and the context of a call |
//! | [`json`], [`amount`], [`error`], [`subnet`] | values with order and digits kept; money; codes; address ranges |
//! | [`cli`] | `keyless-cli` |

pub mod amount;
pub mod args;
pub mod backend;
pub mod cli;
pub mod error;
pub mod json;
pub mod methods;
pub mod server;
pub mod subnet;
pub mod table;
pub mod wallet;

pub use error::{RpcError, code};
