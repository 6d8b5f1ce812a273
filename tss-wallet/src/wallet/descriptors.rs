//! The wallet as descriptors that others import: ranged ones of its chains, and the one of a single key.
//!
//! Paths are unhardened throughout, so any descriptor wallet derives the same scripts. Source: BIP380 to BIP386.

use miniscript::descriptor::checksum::desc_checksum;

use super::Wallet;
use super::keychain::{AccountXpub, AddressType, ChainId, KeyInfo};

/// One row of `listdescriptors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorInfo {
    /// With its checksum.
    pub desc: String,
    /// When its keys were made, seconds since 1970.
    pub timestamp: u64,
    pub active: bool,
    /// Makes change.
    pub internal: bool,
    /// First and last index watched, both inclusive; none for a single script.
    pub range: Option<(u32, u32)>,
    pub next_index: u32,
}

/// Whether `miniscript` can derive from a descriptor that Core has read, without its checksum.
pub fn is_derivable(desc: &str) -> bool {
    desc.parse::<miniscript::Descriptor<miniscript::DescriptorPublicKey>>()
        .is_ok_and(|parsed| parsed.at_derivation_index(0).is_ok())
}

/// A descriptor with its checksum.
pub fn with_checksum(desc: String) -> String {
    match desc_checksum(&desc) {
        Ok(checksum) => format!("{desc}#{checksum}"),
        Err(_) => desc,
    }
}

fn wrap(address_type: AddressType, key: &str) -> String {
    with_checksum(match address_type {
        AddressType::Legacy => format!("pkh({key})"),
        AddressType::P2shSegwit => format!("sh(wpkh({key}))"),
        AddressType::Bech32 => format!("wpkh({key})"),
        AddressType::Bech32m => format!("tr({key})"),
    })
}

/// The ranged descriptor of one branch of an account: `wpkh([fp/84/1/0]tpub…/0/*)#…`.
pub fn branch_descriptor(account: &AccountXpub, branch: super::keychain::Branch) -> String {
    let origin = format!("[{}/{}]", account.fingerprint, account.path);
    wrap(account.address_type, &format!("{origin}{}/{}/*", account.xpub, branch.number()))
}

/// The descriptor of one key: `wpkh([fp/84/1/0/0/5]03…)#…`.
pub fn key_descriptor(key: &KeyInfo) -> String {
    let origin = format!("[{}/{}]", key.fingerprint, key.path);
    let shown = match key.address_type() {
        AddressType::Bech32m => key.internal_key().to_string(),
        _ => key.public_key.to_string(),
    };
    wrap(key.address_type(), &format!("{origin}{shown}"))
}

impl Wallet {
    /// The descriptor a key is derived from.
    pub fn parent_descriptor(&self, key: &KeyInfo) -> Option<String> {
        self.keys.descriptor(key.id.chain).map(str::to_owned)
    }

    /// The eight descriptors of the wallet, or those imported, ordered by their text as Core orders them.
    pub fn descriptors(&self) -> Vec<DescriptorInfo> {
        let mut rows: Vec<DescriptorInfo> = ChainId::all()
            .filter_map(|chain| {
                let desc = self.keys.descriptor(chain)?.to_owned();
                let end = self.pool.shown_end(chain, self.options.keypool_size);
                Some(DescriptorInfo {
                    desc,
                    timestamp: self.meta.created,
                    active: true,
                    internal: chain.branch.is_change(),
                    range: Some((0, end.saturating_sub(1))),
                    next_index: self.pool.next_index(chain),
                })
            })
            .collect();
        rows.extend(self.keys.imported().iter().map(|imported| {
            let stored = imported.stored();
            DescriptorInfo {
                desc: stored.desc.clone(),
                timestamp: stored.timestamp,
                active: stored.active.is_some(),
                internal: stored.active.is_some_and(|(_, change)| change),
                range: stored.ranged.then(|| (stored.start, stored.end.saturating_sub(1))),
                next_index: stored.next_index,
            }
        }));
        rows.sort_by(|a, b| a.desc.cmp(&b.desc));
        rows
    }
}
