//! Wallets and their quorums as a cluster in one process: the in-memory carrier, a chain in memory, and faults.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bans;
mod chain;
mod faults;
mod fence;
mod frames;
mod guards;
mod lifecycle;
mod load;
mod meanwhile;
mod named;
mod names;
mod node;
mod one_round;
mod proposals;
mod refusals;
mod replays;
mod restore;
mod roast;
mod slow;
mod switch;
mod wallets;
