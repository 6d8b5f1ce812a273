//! `keylessd`: a Bitcoin full node whose wallet holds no private key.
//!
//! Owns the process: options, start and stop, and the wiring between the kernel (Core's code), the Bitcoin network, the
//! co-signer network, the wallets and RPC. Refuses to know wire formats and cryptography: those live in `p2p` and
//! `tss-wallet`, which never meet; what one says to the other passes through here as bytes.
//!
//! | module | holds |
//! | --- | --- |
//! | [`app`] | start, daemonizing, stop: the order of everything |
//! | [`p2p_options`], [`proxy_options`], [`rpc_options`], [`cosigner_options`] | options, read into the configurations of the crates |
//! | [`events`] | the kernel's notifications, handed on |
//! | [`bitcoin_chain`], [`kernel_view`] | the kernel as the Bitcoin network sees it, and as wallets do |
//! | [`rpc_backend`] | the kernel, the process and the network as RPC sees them |
//! | [`publisher`] | what happens, published by ZMQ |
//! | [`alerts`] | telling the operator what waits for approval |
//! | [`metrics`] | what Prometheus reads |
//! | [`wallets`] | the owner of all wallets: chain following, address pools, sends |
//! | [`quorum`] | ceremonies and signing sessions between co-signers |
//!
//! Start with `ARCHITECTURE.md`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod alerts;
pub mod app;
pub mod bitcoin_chain;
pub mod cosigner_options;
pub mod events;
pub mod kernel_view;
pub mod metrics;
pub mod p2p_options;
pub mod proxy_options;
pub mod publisher;
pub mod quorum;
pub mod rpc_backend;
pub mod rpc_options;
pub mod wallets;
