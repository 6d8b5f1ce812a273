//! How scripts that are not the wallet's are spent, from what the caller says of them: keys, scripts, descriptors.
//!
//! It only tells what a signed input will weigh at the most; nothing is signed or kept. Source: Core's
//! `solving_data`, `InferDescriptor`.

use bitcoin::hashes::Hash;
use bitcoin::{PubkeyHash, PublicKey, Script, ScriptBuf};
use miniscript::descriptor::{DefiniteDescriptorKey, Descriptor, DescriptorPublicKey, ShInner};
use miniscript::{Legacy, Miniscript, Segwitv0};
use secp256k1::SECP256K1;

use super::keychain::AddressType;
use super::keychain::imported::{BARE_INPUT_WEIGHT, Spending};

/// Push of the longest signature.
const SIGNATURE: u64 = 1 + 72;

/// What the caller says of scripts of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SolvingData {
    pub keys: Vec<PublicKey>,
    pub scripts: Vec<ScriptBuf>,
    pub descriptors: Vec<Descriptor<DefiniteDescriptorKey>>,
}

impl SolvingData {
    /// Takes in a descriptor, at its first index where it has several. Private keys in it are the caller's, and not
    /// kept. The error says what is wrong with it.
    pub fn add_descriptor(&mut self, text: &str) -> Result<(), String> {
        let parsed = Descriptor::<DescriptorPublicKey>::parse_descriptor(SECP256K1, text);
        let (parsed, _) = parsed.map_err(|error| error.to_string())?;
        self.descriptors.push(parsed.at_derivation_index(0).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// What spending a script takes; none where that cannot be known.
    pub fn spending(&self, script: &Script) -> Option<Spending> {
        self.by_descriptor(script).or_else(|| self.by_parts(script))
    }

    fn by_descriptor(&self, script: &Script) -> Option<Spending> {
        let found = self.descriptors.iter().find(|found| found.script_pubkey().as_script() == script)?;
        Some(Spending {
            weight: BARE_INPUT_WEIGHT + found.max_weight_to_satisfy().ok()?.to_wu(),
            segwit: found.desc_type().segwit_version().is_some(),
            address_type: AddressType::of_script(script).unwrap_or(AddressType::Legacy),
        })
    }

    fn by_parts(&self, script: &Script) -> Option<Spending> {
        let spending =
            |weight: u64, segwit, address_type| Spending { weight: BARE_INPUT_WEIGHT + weight, segwit, address_type };
        if script.is_p2pkh() {
            let key = self.key(script.as_bytes().get(3..23)?)?;
            let push = 1 + u64::try_from(key.to_bytes().len()).ok()?;
            return Some(spending((SIGNATURE + push) * 4, false, AddressType::Legacy));
        }
        if let Some(weight) = self.witness_weight(script) {
            return Some(spending(weight, true, AddressType::Bech32));
        }
        let programs: Vec<ScriptBuf> =
            self.keys.iter().filter_map(|key| Some(ScriptBuf::new_p2wpkh(&key.wpubkey_hash().ok()?))).collect();
        let mut known = self.scripts.iter().chain(&programs);
        let redeem = known.find(|known| script.is_p2sh() && known.to_p2sh().as_script() == script)?;
        if let Some(weight) = self.witness_weight(redeem) {
            // The program is pushed once in the script, which has a length of one byte either way.
            let push = 1 + u64::try_from(redeem.len()).ok()?;
            return Some(spending(push * 4 + weight, true, AddressType::P2shSegwit));
        }
        let inner = Miniscript::<PublicKey, Legacy>::parse_insane(redeem).ok()?;
        let sh = miniscript::descriptor::Sh::new(inner).ok()?;
        debug_assert!(matches!(sh.as_inner(), ShInner::Ms(_) | ShInner::SortedMulti(_)));
        Some(spending(sh.max_weight_to_satisfy().ok()?.to_wu(), false, AddressType::Legacy))
    }

    /// Weight of the witness of a version 0 program.
    fn witness_weight(&self, program: &Script) -> Option<u64> {
        if program.is_p2wpkh() {
            self.key(program.as_bytes().get(2..22)?)?;
            return Some(SIGNATURE + 1 + 33);
        }
        let script = self.scripts.iter().find(|known| program.is_p2wsh() && known.to_p2wsh().as_script() == program)?;
        let inner = Miniscript::<PublicKey, Segwitv0>::parse_insane(script).ok()?;
        Some(miniscript::descriptor::Wsh::new(inner).ok()?.max_weight_to_satisfy().ok()?.to_wu())
    }

    fn key(&self, hash: &[u8]) -> Option<&PublicKey> {
        let hash = PubkeyHash::from_slice(hash).ok()?;
        self.keys.iter().find(|key| key.pubkey_hash() == hash)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::str::FromStr;

    use super::*;

    const KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    #[test]
    fn parts_weigh_what_the_descriptor_says() {
        let key = PublicKey::from_str(KEY).unwrap();
        for text in ["wpkh(K)", "sh(wpkh(K))", "pkh(K)", "wsh(multi(1,K))", "sh(wsh(multi(1,K)))", "sh(multi(1,K))"] {
            let descriptor = Descriptor::<DefiniteDescriptorKey>::from_str(&text.replace('K', KEY)).unwrap();
            let script = descriptor.script_pubkey();
            let mut scripts = Vec::new();
            if let Descriptor::Sh(sh) = &descriptor {
                scripts.push(match sh.as_inner() {
                    ShInner::Wpkh(inner) => inner.script_pubkey(),
                    ShInner::Wsh(inner) => inner.script_pubkey(),
                    _ => descriptor.explicit_script().unwrap(),
                });
            }
            if text.contains("multi") {
                scripts.push(descriptor.explicit_script().unwrap());
            }
            let parts = SolvingData { keys: vec![key], scripts, ..SolvingData::default() };
            let whole = SolvingData { descriptors: vec![descriptor], ..SolvingData::default() };
            let (parts, whole) = (parts.spending(&script).unwrap(), whole.spending(&script).unwrap());
            assert_eq!((parts.weight, parts.segwit), (whole.weight, whole.segwit), "{text}");
            assert_eq!(SolvingData::default().spending(&script), None);
        }
    }
}
