//! Wallets without a private key: key shares and the protocols that use them, and the ledger of a wallet's coins.
//!
//! Owns: identities and envelopes, key generation, key shares and their sealed store, signing by a quorum; the public
//! half of a wallet (addresses, coins, spending, PSBT) in [`wallet`].
//!
//! Refuses: sockets, async, clocks and files other than a wallet's own database and seal key. Time and randomness are
//! handed in (with one exception: the DKLs23 library draws from the thread's own generator, see ADR 2). A protocol is a
//! machine that is fed messages and returns messages; the caller carries them, each in a signed [`envelope`].
//!
//! | module | owns |
//! | --- | --- |
//! | [`ids`], [`roster`] | members, indices, epochs, sessions; who belongs to a quorum and how many sign |
//! | [`identity`], [`envelope`] | the ed25519 key of a node, the signed envelope of every message |
//! | [`keys`] | group keys, accounts, certificates, key shares |
//! | [`dkg`] | joint generation of both keys: [`Dkg`] |
//! | [`redeal`] | dealing the shares again: refresh, reshare, repair: [`Redeal`] |
//! | [`sign`] | joint signing of many inputs at once: [`SigningSession`] |
//! | [`seal`], [`store`] | sealing of secrets, the wallet's RocksDB, the store of share and bans |
//! | [`policy`], [`audit`] | what a member signs by itself; the hash-chained log of what it was asked and did |
//! | [`wallet`] | addresses, coins, history, spending, PSBT |
//!
//! The two threshold schemes live each in one module, behind a trait: DKLs23 in `sign::ecdsa`, FROST in
//! `sign::schnorr`; nothing of their types shows in this crate's API.

pub mod audit;
pub mod dkg;
pub mod envelope;
pub mod identity;
pub mod ids;
pub mod keys;
pub mod policy;
pub mod redeal;
pub mod roster;
pub mod seal;
pub mod sign;
#[cfg(test)]
mod simulator;
pub mod store;
pub mod wallet;

pub use dkg::{Dkg, DkgError, DkgParams};
pub use envelope::{Envelope, EnvelopeError, Expected, Verified};
pub use identity::{SigningIdentity, verify as verify_signature};
pub use ids::{Epoch, MemberId, Outgoing, PartyIndex, Recipient, SessionId, WalletId};
pub use keys::{GroupKey, KeyShare, PublicKeys};
pub use redeal::{Redeal, RedealParams, RedealRefusal};
pub use roster::{Roster, RosterError, Split};
pub use sign::{SignError, SignItem, SignParams, Signature, SigningSession};
pub use store::{Family, ShareStore, WalletDb};
