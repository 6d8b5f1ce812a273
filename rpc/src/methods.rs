//! The node's rows of the method table.

use crate::table::Method;

/// Every method that is not the wallet's.
pub static METHODS: &[&[Method]] = &[];

/// All rows: the node's, and the wallet's where there are wallets.
pub fn all(wallets: bool) -> impl Iterator<Item = &'static Method> {
    let wallet: &'static [&'static [Method]] = if wallets { crate::wallet::METHODS } else { &[] };
    METHODS.iter().chain(wallet).copied().flatten()
}
