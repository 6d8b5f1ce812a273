//! `keyless-p2p`: everything that speaks to other machines, save RPC.
//!
//! Owns two networks that never touch each other:
//! - [`bitcoin`]: Bitcoin's own peer-to-peer protocol, as Bitcoin Core speaks it;
//! - [`cosigners`]: the libp2p network between the members of quorums, which carries opaque envelopes.
//!
//! Refuses to know keys, consensus rules or wallets: blocks and transactions go to a [`bitcoin::Chain`]
//! that the node implements, envelopes come from and go to whoever owns the wallets.
//!
//! Shape of both: one owner holds all peer state; sockets only feed it bounded queues; callers hold a
//! cheap handle. Every queue, map and message has a named limit, every wait a deadline.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod bitcoin;
pub mod cosigners;
