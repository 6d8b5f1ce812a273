//! The co-signer network as its users and its enemies see it: real sockets on loopback.
//!
//! `friends` are nodes with the public API; `strangers` speak libp2p by hand, so that they can
//! misbehave.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "cosigners/discovered.rs"]
mod discovered;
#[path = "cosigners/friends.rs"]
mod friends;
#[path = "cosigners/in_memory.rs"]
mod in_memory;
#[path = "cosigners/misbehaving.rs"]
mod misbehaving;
#[path = "cosigners/quorum.rs"]
mod quorum;
#[path = "cosigners/strangers.rs"]
mod strangers;
