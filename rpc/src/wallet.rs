//! The wallet's methods: arguments and results as JSON, over the traits of [`backend`].
//!
//! Owns: which wallet a request means, Core's checks of arguments with Core's texts and codes, Core's result keys in
//! Core's order. Refuses: keys, coins, chain, time; all of that is behind [`backend::Wallets`]. No amount is ever a
//! float. Source: Core's `wallet/rpc`; what is ours is in the project's design, section "The wallet as Core's users
//! see it".
//!
//! | module | methods |
//! | --- | --- |
//! | [`table`] | names, arguments, help of all of them |
//! | `manage` | createwallet, loadwallet, unloadwallet, listwallets, listwalletdir, getwalletinfo, setwalletflag |
//! | `addresses`, `describe`, `groupings` | addresses, labels, getaddressinfo, keypoolrefill |
//! | `coins`, `received` | balances, unspent, locks, what was received |
//! | `history`, `entries` | transactions as lists, one, or since a block |
//! | `rescan` | rescanblockchain, abortrescan |
//! | `policy`, `oversight` | the signing policy; approvals, audit log, accusations |
//! | `spending`, `options`, `sweep` | sendtoaddress, sendmany, send, fundrawtransaction, sendall |
//! | `bumping` | bumpfee, psbtbumpfee |
//! | `pruned` | importprunedfunds, removeprunedfunds |
//! | `solving` | `solving_data` |
//! | `signing`, `psbt` | raw transactions, PSBTs of both versions, messages |
//! | `descriptors`, `importing` | descriptors, public ones taken in, and what would touch private keys |
//! | `locking` | passphrases of the share, copies of the wallet |
//! | `quorum` | co-signers, quorum, sessions |
//! | `lifecycle` | shares dealt again, repaired; members suspended |
//! | `unavailable` | what this version does not do, said plainly |
//! | `select`, `params` | which wallet; checks of arguments |
//! | `ledger` | [`backend::Ledger`] for the real wallet |

pub mod backend;
pub mod table;

mod addresses;
mod bumping;
mod coins;
mod describe;
mod descriptors;
mod entries;
mod groupings;
mod history;
mod importing;
mod ledger;
mod lifecycle;
mod locking;
mod manage;
mod options;
mod oversight;
mod params;
mod policy;
mod pruned;
mod psbt;
mod quorum;
mod received;
mod rescan;
mod select;
mod signing;
mod solving;
mod spending;
mod sweep;
mod unavailable;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

pub use oversight::announced;
pub use table::METHODS;
