//! Whole quorums run synchronously in one process: key generation, signing, the store, and their faults.
//!
//! No socket, clock or task: a test carries every message itself, and may reorder, alter, drop or repeat it.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "quorum/cluster.rs"]
mod cluster;
#[path = "quorum/dkg.rs"]
mod dkg;
#[path = "quorum/one_round.rs"]
mod one_round;
#[path = "quorum/redeal.rs"]
mod redeal;
#[path = "quorum/sign.rs"]
mod sign;
#[path = "quorum/sign_faults.rs"]
mod sign_faults;
#[path = "quorum/store.rs"]
mod store;
