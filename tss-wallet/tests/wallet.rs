//! The public half of a wallet against a chain made in memory. One plain key stands in for the quorum.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "wallet/addresses.rs"]
mod addresses;
#[path = "wallet/database.rs"]
mod database;
#[path = "wallet/imports.rs"]
mod imports;
#[path = "wallet/ledger.rs"]
mod ledger;
#[path = "wallet/psbt.rs"]
mod psbt;
#[path = "wallet/signing.rs"]
mod signing;
#[path = "wallet/spend.rs"]
mod spend;
#[path = "wallet/support.rs"]
mod support;
