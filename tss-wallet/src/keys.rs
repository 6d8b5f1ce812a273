//! What key generation makes: two group keys with their certificate, and each member's key share.
//!
//! [`PublicKeys`] is known to all members and kept in plain; [`KeyShare`] is secret, is never printed, and leaves the
//! process only through the sealed [`crate::store::ShareStore`]. Nothing here ever holds a group's private key.
//! Source: BIP32 (public derivation), BIP44/49/84/86 (paths, all unhardened).

mod certificate;
mod share;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;

use bitcoin::bip32::{ChainCode, ChildNumber, DerivationPath, Fingerprint, Xpub};
use bitcoin::{Network, NetworkKind};
use secp256k1::PublicKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use certificate::{Certificate, CertificateError};
pub(crate) use certificate::{affine, interpolate, lagrange, point};
pub use share::KeyShare;
pub(crate) use share::{DklsParty, FrostPackage, frost_identifier, scalar_from_bytes};
pub(crate) use tree::{Child, KeyTree};

use crate::ids::{Epoch, PartyIndex, WalletId, tagged_hash};
use crate::roster::Roster;
use crate::wallet::keychain::{AccountXpub, AddressType};

/// The signature scheme of a group key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// DKLs23: legacy, p2sh-segwit and bech32 addresses.
    Ecdsa,
    /// FROST: bech32m addresses.
    Schnorr,
}

impl Scheme {
    /// The scheme that signs for an address type.
    #[must_use]
    pub const fn of(address_type: AddressType) -> Self {
        match address_type {
            AddressType::Legacy | AddressType::P2shSegwit | AddressType::Bech32 => Self::Ecdsa,
            AddressType::Bech32m => Self::Schnorr,
        }
    }
}

/// A derivation that BIP32 has no key for. It never happens by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DeriveError {
    /// An index of 2³¹ or more: hardened keys need the private key, which nobody has.
    #[error("index {0} is hardened; a quorum derives unhardened keys only")]
    Hardened(u32),
    /// The index has no key (probability 2⁻¹²⁷).
    #[error("BIP32 has no key at this index")]
    NoKey,
}

/// A group's public key and the chain code made jointly with it: the root of a BIP32 tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupKey {
    /// The public key.
    pub public_key: PublicKey,
    /// The chain code.
    pub chain_code: [u8; 32],
}

impl GroupKey {
    /// The key as the root of a tree.
    #[must_use]
    pub fn xpub(&self, network: Network) -> Xpub {
        Xpub {
            network: NetworkKind::from(network),
            depth: 0,
            parent_fingerprint: Fingerprint::default(),
            child_number: ChildNumber::Normal { index: 0 },
            public_key: self.public_key,
            chain_code: ChainCode::from(self.chain_code),
        }
    }

    /// The BIP32 fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.xpub(Network::Bitcoin).fingerprint()
    }
}

/// Coin type of BIP44: 0 on main, 1 on every test network.
#[must_use]
pub const fn coin_type(network: Network) -> u32 {
    match network {
        Network::Bitcoin => 0,
        _ => 1,
    }
}

/// The path from a group key to the account of an address type: `m/84/1/0`.
///
/// # Errors
/// Never for the four purposes; the type says so for hardened ones.
pub fn account_path(address_type: AddressType, network: Network) -> Result<DerivationPath, DeriveError> {
    [address_type.purpose(), coin_type(network), 0]
        .into_iter()
        .map(|index| ChildNumber::from_normal_idx(index).map_err(|_| DeriveError::Hardened(index)))
        .collect::<Result<Vec<_>, _>>()
        .map(DerivationPath::from)
}

/// All that is public about a wallet's keys in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeys {
    /// The wallet.
    pub wallet: WalletId,
    /// The epoch the shares belong to.
    pub epoch: Epoch,
    /// The network the accounts are for.
    pub network: Network,
    /// Members and threshold.
    pub roster: Roster,
    /// Members that were away when the shares were dealt again: they hold none of this epoch. Nobody in epoch 0.
    pub absent: BTreeSet<PartyIndex>,
    /// The key of legacy, p2sh-segwit and bech32 addresses.
    pub ecdsa: GroupKey,
    /// The key of bech32m addresses.
    pub schnorr: GroupKey,
    /// Each member's share of the ECDSA key times G, in roster order.
    pub ecdsa_shares: Vec<PublicKey>,
    /// Each member's share of the Schnorr key times G, in roster order.
    pub schnorr_shares: Vec<PublicKey>,
    /// Hash of every broadcast of the ceremony that made the shares.
    pub transcript: [u8; 32],
    /// The signatures of all who hold a share over all of the above.
    pub certificate: Certificate,
}

impl PublicKeys {
    /// The group key of a scheme.
    #[must_use]
    pub fn group(&self, scheme: Scheme) -> &GroupKey {
        match scheme {
            Scheme::Ecdsa => &self.ecdsa,
            Scheme::Schnorr => &self.schnorr,
        }
    }

    /// A member's public share.
    #[must_use]
    pub fn share_of(&self, scheme: Scheme, party: PartyIndex) -> Option<&PublicKey> {
        match scheme {
            Scheme::Ecdsa => self.ecdsa_shares.get(party.position()),
            Scheme::Schnorr => self.schnorr_shares.get(party.position()),
        }
    }

    /// The members that hold a share of this epoch.
    pub fn holders(&self) -> impl Iterator<Item = PartyIndex> + '_ {
        self.roster.indices().filter(|party| !self.absent.contains(party))
    }

    /// Whether two epochs belong to one wallet: the same id, network, group keys and chain codes, so the same addresses.
    #[must_use]
    pub fn same_wallet(&self, other: &Self) -> bool {
        self.wallet == other.wallet
            && self.network == other.network
            && self.ecdsa == other.ecdsa
            && self.schnorr == other.schnorr
    }

    /// The account of an address type, as the ledger of the wallet takes it and `listdescriptors` exports it.
    ///
    /// # Errors
    /// Fails with probability 2⁻¹²⁷.
    pub fn account(&self, address_type: AddressType) -> Result<AccountXpub, DeriveError> {
        let group = self.group(Scheme::of(address_type));
        let path = account_path(address_type, self.network)?;
        let xpub = group.xpub(self.network).derive_pub(secp256k1::SECP256K1, &path).map_err(|_| DeriveError::NoKey)?;
        Ok(AccountXpub { address_type, fingerprint: group.fingerprint(), path, xpub })
    }

    /// The accounts of all four address types.
    ///
    /// # Errors
    /// As [`Self::account`].
    pub fn accounts(&self) -> Result<[AccountXpub; 4], DeriveError> {
        let [legacy, p2sh, bech32, bech32m] = AddressType::ALL;
        Ok([self.account(legacy)?, self.account(p2sh)?, self.account(bech32)?, self.account(bech32m)?])
    }

    /// What the certificate signs: a hash of every field but the certificate.
    #[must_use]
    pub fn statement(&self) -> [u8; 32] {
        let key = |group: &GroupKey| [group.public_key.serialize().as_slice(), &group.chain_code].concat();
        let shares = |keys: &[PublicKey]| keys.iter().flat_map(PublicKey::serialize).collect::<Vec<u8>>();
        tagged_hash(
            "keyless/certificate/v1",
            &[
                self.wallet.as_bytes(),
                &self.epoch.0.to_be_bytes(),
                &self.network.magic().to_bytes(),
                &self.roster.canonical_bytes(),
                &self.absent.iter().map(|party| party.get()).collect::<Vec<u8>>(),
                &key(&self.ecdsa),
                &key(&self.schnorr),
                &shares(&self.ecdsa_shares),
                &shares(&self.schnorr_shares),
                &self.transcript,
            ],
        )
    }

    /// A short fingerprint of the wallet's keys and members, to compare aloud.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::ids::MemberId(self.statement()).fingerprint()
    }

    /// Checks the form of the lists, that the public shares lie on one polynomial of degree t−1 through the group key,
    /// and that all who hold a share signed: all n members in epoch 0, afterwards at least t and more than half.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn verify(&self) -> Result<(), CertificateError> {
        certificate::check_shares(&self.roster, &self.ecdsa_shares, &self.ecdsa.public_key)?;
        certificate::check_shares(&self.roster, &self.schnorr_shares, &self.schnorr.public_key)?;
        let count = usize::from(self.roster.count());
        let holders = self.holders().count();
        if let Some(stranger) = self.absent.iter().find(|party| !self.roster.contains(**party)) {
            return Err(CertificateError::Unknown(*stranger));
        }
        let enough = holders >= usize::from(self.roster.threshold()) && 2 * holders > count;
        if !enough || (self.epoch == Epoch(0) && holders < count) {
            return Err(CertificateError::TooFewHolders { holders, members: count });
        }
        self.certificate.verify_by(&self.roster, self.holders(), &self.statement())
    }
}
