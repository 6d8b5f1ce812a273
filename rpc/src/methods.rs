//! The node's rows of the method table, and those of its methods that are answered here.
//!
//! | module | methods |
//! | --- | --- |
//! | `blockchain`, `transactions`, `hidden` | rows that Core's handlers answer |
//! | `net` | the Bitcoin network, over [`crate::backend::Network`] |
//! | [`control`] | help, stop, uptime |

mod blockchain;
pub(crate) mod control;
mod hidden;
mod net;
mod transactions;

use crate::table::{Arg, Kind, Method};

/// Every method that is not the wallet's.
pub static METHODS: &[&[Method]] =
    &[blockchain::METHODS, transactions::METHODS, hidden::METHODS, net::METHODS, control::METHODS];

/// All rows: the node's, and the wallet's where there are wallets.
pub fn all(wallets: bool) -> impl Iterator<Item = &'static Method> {
    let wallet: &'static [&'static [Method]] = if wallets { crate::wallet::METHODS } else { &[] };
    METHODS.iter().chain(wallet).copied().flatten()
}

// Arguments of the kernel's rows: only what the command line needs is known of them here; Core checks the rest.

const fn text(names: &'static str) -> Arg {
    Arg::opt(names, Kind::Str)
}

/// Text that may hold `=`.
const fn line(names: &'static str) -> Arg {
    Arg::opt(names, Kind::Str).text()
}

const fn json(names: &'static str) -> Arg {
    Arg::opt(names, Kind::Any)
}

const fn either(names: &'static str) -> Arg {
    Arg::opt(names, Kind::Any).either()
}

#[cfg(test)]
mod tests;
