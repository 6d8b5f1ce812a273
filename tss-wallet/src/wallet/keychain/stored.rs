//! Scripts that were derived once, kept on the disk: a wallet of many addresses is loaded without deriving them again.
//!
//! Owns the rows of [`Table::Script`]: one holds [`ROW_KEYS`] keys of a chain with their scripts, and a tag over them and
//! the key that they were derived from. A row that is damaged, or of another wallet, is left out, and its scripts are
//! derived as if it had never been. What is handed out is derived anew all the same ([`Keychains::derive_anew`]).

use bitcoin::ScriptBuf;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::secp256k1::PublicKey;
use bitcoin::secp256k1::constants::PUBLIC_KEY_SIZE;

use super::imported::ScriptId;
use super::{AddressType, Chain, ChainId, KeyId, KeyInfo, Keychains, script_of};
use crate::wallet::storage::{Table, Write};

/// Keys of one row: more than the look-ahead of a new wallet, which has none to store.
pub const ROW_KEYS: u32 = 2_000;
const DOMAIN: &[u8] = b"keyless/wallet/derived-scripts";

const fn script_bytes(address_type: AddressType) -> usize {
    match address_type {
        AddressType::Legacy => 25,
        AddressType::P2shSegwit => 23,
        AddressType::Bech32 => 22,
        AddressType::Bech32m => 34,
    }
}

/// The chain, then the index of the row's first key: rows of a chain come in order.
fn row_key(id: ChainId, start: u32) -> Vec<u8> {
    let mut key = id.address_type.purpose().to_be_bytes().to_vec();
    key.extend(id.branch.number().to_be_bytes());
    key.extend(start.to_be_bytes());
    key
}

fn tag(chain: &Chain, key: &[u8], body: &[u8]) -> [u8; 32] {
    let mut engine = sha256::Hash::engine();
    for part in [DOMAIN, &chain.branch_key.encode(), key, body] {
        engine.input(part);
    }
    sha256::Hash::from_engine(engine).to_byte_array()
}

/// Keys and scripts of a row; none where one is not as it was written.
fn read(chain: &Chain, key: &[u8], value: &[u8]) -> Option<Vec<(PublicKey, ScriptBuf)>> {
    let (found, body) = value.split_at_checked(sha256::Hash::LEN)?;
    let entry = PUBLIC_KEY_SIZE + script_bytes(chain.id.address_type);
    if found != tag(chain, key, body) || body.len() != entry * usize::try_from(ROW_KEYS).ok()? {
        return None;
    }
    let one = |bytes: &[u8]| {
        let (key, script) = bytes.split_at_checked(PUBLIC_KEY_SIZE)?;
        Some((PublicKey::from_slice(key).ok()?, ScriptBuf::from_bytes(script.to_vec())))
    };
    body.chunks_exact(entry).map(one).collect()
}

impl Chain {
    /// The next full row that is not on the disk yet; none where BIP32 has no key at an index of it.
    fn next_row(&self) -> Option<Write> {
        let end = self.stored.checked_add(ROW_KEYS)?;
        let keys = self.keys.get(usize::try_from(self.stored).ok()?..usize::try_from(end).ok()?)?;
        let mut body = Vec::with_capacity(keys.len() * (PUBLIC_KEY_SIZE + script_bytes(self.id.address_type)));
        for key in keys {
            let key = (*key)?;
            body.extend(key.serialize());
            body.extend(script_of(self.id.address_type, key).as_bytes());
        }
        let key = row_key(self.id, self.stored);
        let value = [tag(self, &key, &body).as_slice(), &body].concat();
        Some(Write { table: Table::Script, key, value: Some(value) })
    }
}

impl Keychains {
    /// Rows of scripts that were derived and are not on the disk: each is given once.
    pub(crate) fn take_rows(&mut self) -> Vec<Write> {
        let mut rows = Vec::new();
        for chain in &mut self.chains {
            while let Some(row) = chain.next_row() {
                chain.stored += ROW_KEYS;
                rows.push(row);
            }
        }
        rows
    }

    /// Watches the scripts of stored rows. Call it before any script is derived.
    pub(crate) fn restore_rows(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) {
        for chain in &mut self.chains {
            loop {
                let key = row_key(chain.id, chain.stored);
                let row = rows.binary_search_by(|(other, _)| other.cmp(&key)).ok().and_then(|at| rows.get(at));
                let Some(entries) = row.and_then(|(_, value)| read(chain, &key, value)) else { break };
                for (index, (public_key, script)) in (chain.stored..).zip(entries) {
                    chain.keys.push(Some(public_key));
                    self.scripts.insert_spk(ScriptId::Key(KeyId { chain: chain.id, index }), script);
                }
                chain.stored += ROW_KEYS;
            }
        }
    }

    /// A key derived from the account key, whatever is stored. None also where that is not what is watched.
    pub fn derive_anew(&self, id: KeyId) -> Option<KeyInfo> {
        let key = self.chain(id.chain)?.child(id.index)?;
        let info = self.derive(id)?;
        (info.public_key == key && info.script == script_of(id.chain.address_type, key)).then_some(info)
    }
}
