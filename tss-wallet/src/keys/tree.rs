//! Public BIP32 derivation with the tweaks kept: what must be added to a key share to get a child's share.
//!
//! Uses the `bitcoin` crate's own derivation, so that what signs and what is shown as an address cannot differ.

use std::collections::BTreeMap;

use bitcoin::bip32::{ChildNumber, Xpub};
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};

use super::{DeriveError, PublicKeys, Scheme, account_path};
use crate::wallet::keychain::{ChainId, KeyId};

/// A child key: its public key and the sum of the tweaks between it and the group key.
#[derive(Clone)]
pub(crate) struct Child {
    pub public_key: PublicKey,
    pub chain_code: [u8; 32],
    /// A public value: everyone who knows the group's xpub can compute it.
    pub tweak: SecretKey,
    pub depth: u8,
    pub child_number: u32,
    pub parent_fingerprint: [u8; 4],
}

#[derive(Clone)]
struct Node {
    xpub: Xpub,
    tweak: Option<SecretKey>,
}

impl Node {
    fn child(&self, index: u32) -> Result<Self, DeriveError> {
        let number = ChildNumber::from_normal_idx(index).map_err(|_| DeriveError::Hardened(index))?;
        let (step, _) = self.xpub.ckd_pub_tweak(number).map_err(|_| DeriveError::NoKey)?;
        let xpub = self.xpub.ckd_pub(SECP256K1, number).map_err(|_| DeriveError::NoKey)?;
        let tweak = match self.tweak {
            None => step,
            Some(sum) => sum.add_tweak(&Scalar::from(step)).map_err(|_| DeriveError::NoKey)?,
        };
        Ok(Self { xpub, tweak: Some(tweak) })
    }
}

/// Derives children of a wallet's two group keys, remembering the branches it has met.
pub(crate) struct KeyTree<'a> {
    keys: &'a PublicKeys,
    branches: BTreeMap<ChainId, Node>,
}

impl<'a> KeyTree<'a> {
    pub fn new(keys: &'a PublicKeys) -> Self {
        Self { keys, branches: BTreeMap::new() }
    }

    pub fn child(&mut self, id: &KeyId) -> Result<Child, DeriveError> {
        let branch = match self.branches.get(&id.chain) {
            Some(branch) => branch.clone(),
            None => {
                let branch = self.branch(&id.chain)?;
                self.branches.insert(id.chain, branch.clone());
                branch
            }
        };
        let node = branch.child(id.index)?;
        Ok(Child {
            public_key: node.xpub.public_key,
            chain_code: node.xpub.chain_code.to_bytes(),
            tweak: node.tweak.ok_or(DeriveError::NoKey)?,
            depth: node.xpub.depth,
            child_number: id.index,
            parent_fingerprint: node.xpub.parent_fingerprint.to_bytes(),
        })
    }

    fn branch(&self, chain: &ChainId) -> Result<Node, DeriveError> {
        let group = self.keys.group(Scheme::of(chain.address_type));
        let mut node = Node { xpub: group.xpub(self.keys.network), tweak: None };
        for number in &account_path(chain.address_type, self.keys.network)? {
            node = node.child(u32::from(*number))?;
        }
        node.child(chain.branch.number())
    }
}
