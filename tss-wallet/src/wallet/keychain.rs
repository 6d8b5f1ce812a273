//! The chains of scripts of a wallet: four address types, each with a receiving and a change branch.
//!
//! Every script is an unhardened BIP32 child of an account key that the quorum made; anyone who holds the account
//! keys derives the same scripts. Refuses accounts whose keys are of another network's kind or that come twice.
//! A wallet without a quorum has descriptors that were imported instead ([`imported`]);
//! what was derived is kept ([`stored`]).
//! Source: BIP32, BIP44, BIP49, BIP84, BIP86.

pub mod imported;
pub mod stored;

use std::fmt;
use std::str::FromStr;

use bdk_chain::spk_txout::SpkTxOutIndex;
use bitcoin::bip32::{ChildNumber, DerivationPath, Fingerprint, Xpub};
use bitcoin::secp256k1::{PublicKey, XOnlyPublicKey};
use bitcoin::{Address, CompressedPublicKey, Network, Script, ScriptBuf};
use secp256k1::SECP256K1;
use serde::{Deserialize, Serialize};

use self::imported::{Imported, ScriptId};
use super::descriptors::branch_descriptor;

/// The four kinds of address, by Core's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressType {
    Legacy,
    P2shSegwit,
    Bech32,
    Bech32m,
}

impl AddressType {
    pub const ALL: [Self; 4] = [Self::Legacy, Self::P2shSegwit, Self::Bech32, Self::Bech32m];

    /// Core's name for it, as in `getnewaddress`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::P2shSegwit => "p2sh-segwit",
            Self::Bech32 => "bech32",
            Self::Bech32m => "bech32m",
        }
    }

    /// The BIP43 purpose of its account.
    pub const fn purpose(self) -> u32 {
        match self {
            Self::Legacy => 44,
            Self::P2shSegwit => 49,
            Self::Bech32 => 84,
            Self::Bech32m => 86,
        }
    }

    /// The type a script has by its form alone, if it is one of the four.
    pub fn of_script(script: &Script) -> Option<Self> {
        if script.is_p2pkh() {
            Some(Self::Legacy)
        } else if script.is_p2sh() {
            Some(Self::P2shSegwit)
        } else if script.is_p2wpkh() {
            Some(Self::Bech32)
        } else if script.is_p2tr() {
            Some(Self::Bech32m)
        } else {
            None
        }
    }
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Core's text for a name that is none of the four.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown address type '{0}'")]
pub struct UnknownAddressType(pub String);

impl FromStr for AddressType {
    type Err = UnknownAddressType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownAddressType(text.to_owned()))
    }
}

/// Receiving addresses (`/0/*`) or change (`/1/*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Branch {
    External,
    Change,
}

impl Branch {
    pub const ALL: [Self; 2] = [Self::External, Self::Change];

    pub const fn number(self) -> u32 {
        match self {
            Self::External => 0,
            Self::Change => 1,
        }
    }

    pub const fn is_change(self) -> bool {
        matches!(self, Self::Change)
    }
}

/// The account key of one address type, as the quorum made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountXpub {
    pub address_type: AddressType,
    /// Fingerprint of the group key at the root of `path`.
    pub fingerprint: Fingerprint,
    /// From the group key to the account, all unhardened: `m/84/1/0`.
    pub path: DerivationPath,
    pub xpub: Xpub,
}

/// Why a set of accounts cannot make a wallet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("no account key for {0} addresses")]
    Missing(AddressType),
    #[error("two account keys for {0} addresses")]
    Twice(AddressType),
    #[error("the account key for {0} addresses is of another network's kind")]
    WrongNetwork(AddressType),
    #[error("the account key for {0} addresses cannot be derived from")]
    Underivable(AddressType),
}

/// One chain of scripts: an address type and a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainId {
    pub address_type: AddressType,
    pub branch: Branch,
}

impl ChainId {
    pub const fn new(address_type: AddressType, branch: Branch) -> Self {
        Self { address_type, branch }
    }

    /// All eight, receiving before change.
    pub fn all() -> impl Iterator<Item = Self> {
        Branch::ALL
            .into_iter()
            .flat_map(|branch| AddressType::ALL.into_iter().map(move |address_type| Self::new(address_type, branch)))
    }
}

/// One key of the wallet: its chain and its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId {
    pub chain: ChainId,
    pub index: u32,
}

/// All that is public about one key of the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    pub id: KeyId,
    pub fingerprint: Fingerprint,
    /// From the group key: account path, branch, index.
    pub path: DerivationPath,
    pub public_key: PublicKey,
    pub script: ScriptBuf,
}

impl KeyInfo {
    pub fn address_type(&self) -> AddressType {
        self.id.chain.address_type
    }

    pub fn branch(&self) -> Branch {
        self.id.chain.branch
    }

    pub fn index(&self) -> u32 {
        self.id.index
    }

    /// `m/84/1/0/0/5`.
    pub fn hdkeypath(&self) -> String {
        let mut text = String::from("m");
        for child in self.path.into_iter() {
            text.push('/');
            text.push_str(&child.to_string());
        }
        text
    }

    /// The key before any taproot tweak.
    pub fn internal_key(&self) -> XOnlyPublicKey {
        self.public_key.x_only_public_key().0
    }

    /// The witness program inside P2SH, where there is one.
    pub fn redeem_script(&self) -> Option<ScriptBuf> {
        (self.address_type() == AddressType::P2shSegwit)
            .then(|| ScriptBuf::new_p2wpkh(&CompressedPublicKey(self.public_key).wpubkey_hash()))
    }

    pub fn address(&self, network: Network) -> Option<Address> {
        Address::from_script(&self.script, network).ok()
    }
}

fn script_of(address_type: AddressType, key: PublicKey) -> ScriptBuf {
    let compressed = CompressedPublicKey(key);
    match address_type {
        AddressType::Legacy => ScriptBuf::new_p2pkh(&compressed.pubkey_hash()),
        AddressType::P2shSegwit => ScriptBuf::new_p2wpkh(&compressed.wpubkey_hash()).to_p2sh(),
        AddressType::Bech32 => ScriptBuf::new_p2wpkh(&compressed.wpubkey_hash()),
        AddressType::Bech32m => ScriptBuf::new_p2tr(SECP256K1, key.x_only_public_key().0, None),
    }
}

#[derive(Debug, Clone)]
struct Chain {
    id: ChainId,
    account: AccountXpub,
    branch_key: Xpub,
    /// `wpkh([fp/84/1/0]tpub…/0/*)#…`
    descriptor: String,
    /// Keys whose scripts are in the index of scripts, by their index; none where BIP32 has none.
    keys: Vec<Option<PublicKey>>,
    /// Keys below this index are in a row on the disk.
    stored: u32,
    /// Scripts below this index must be watched: handed out, leased or seen, and the look-ahead.
    wanted: u32,
}

impl Chain {
    /// Scripts below this index are in the index of scripts.
    fn derived(&self) -> u32 {
        u32::try_from(self.keys.len()).unwrap_or(u32::MAX)
    }

    fn child(&self, index: u32) -> Option<PublicKey> {
        let child = ChildNumber::from_normal_idx(index).ok()?;
        self.branch_key.ckd_pub(SECP256K1, child).ok().map(|key| key.public_key)
    }
}

/// Watches the script of the next index.
fn derive_next(chain: &mut Chain, scripts: &mut SpkTxOutIndex<ScriptId>) {
    let index = chain.derived();
    let key = chain.child(index);
    chain.keys.push(key);
    if let Some(key) = key {
        let id = ScriptId::Key(KeyId { chain: chain.id, index });
        scripts.insert_spk(id, script_of(chain.id.address_type, key));
    }
}

/// The scripts of a wallet and the outputs that pay to them.
#[derive(Debug, Clone)]
pub struct Keychains {
    network: Network,
    chains: Vec<Chain>,
    scripts: SpkTxOutIndex<ScriptId>,
    imported: Vec<Imported>,
}

impl Keychains {
    /// Chains over the four accounts; derives nothing yet.
    pub fn new(network: Network, accounts: &[AccountXpub]) -> Result<Self, AccountError> {
        let mut chains = Vec::with_capacity(8);
        for id in ChainId::all() {
            let mut of_type = accounts.iter().filter(|account| account.address_type == id.address_type);
            let account = of_type.next().ok_or(AccountError::Missing(id.address_type))?;
            if of_type.next().is_some() {
                return Err(AccountError::Twice(id.address_type));
            }
            if account.xpub.network != network.into() {
                return Err(AccountError::WrongNetwork(id.address_type));
            }
            let branch_key = ChildNumber::from_normal_idx(id.branch.number())
                .and_then(|child| account.xpub.derive_pub(SECP256K1, &[child]))
                .map_err(|_| AccountError::Underivable(id.address_type))?;
            let descriptor = branch_descriptor(account, id.branch);
            chains.push(Chain {
                id,
                account: account.clone(),
                branch_key,
                descriptor,
                keys: Vec::new(),
                stored: 0,
                wanted: 0,
            });
        }
        Ok(Self { network, chains, scripts: SpkTxOutIndex::default(), imported: Vec::new() })
    }

    pub fn network(&self) -> Network {
        self.network
    }

    pub fn account(&self, address_type: AddressType) -> Option<&AccountXpub> {
        self.chains.iter().find(|chain| chain.id.address_type == address_type).map(|chain| &chain.account)
    }

    fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.id == id)
    }

    /// The descriptor of a whole chain.
    pub fn descriptor(&self, id: ChainId) -> Option<&str> {
        self.chain(id).map(|chain| chain.descriptor.as_str())
    }

    /// A key, watched or not; one that is watched is not derived again. `None` only past BIP32's last index.
    pub fn derive(&self, id: KeyId) -> Option<KeyInfo> {
        let chain = self.chain(id.chain)?;
        let child = ChildNumber::from_normal_idx(id.index).ok()?;
        let branch = ChildNumber::from_normal_idx(id.chain.branch.number()).ok()?;
        let known = usize::try_from(id.index).ok().and_then(|index| chain.keys.get(index).copied().flatten());
        let script = known.and_then(|_| self.scripts.spk_at_index(&ScriptId::Key(id)));
        let (public_key, script) = match (known, script) {
            (Some(key), Some(script)) => (key, script),
            _ => {
                let key = chain.child(id.index)?;
                (key, script_of(id.chain.address_type, key))
            }
        };
        let path = chain.account.path.child(branch).child(child);
        Some(KeyInfo { id, fingerprint: chain.account.fingerprint, path, public_key, script })
    }

    /// Asks that scripts below `end` be watched.
    pub fn want(&mut self, id: ChainId, end: u32) {
        if let Some(chain) = self.chains.iter_mut().find(|chain| chain.id == id) {
            chain.wanted = chain.wanted.max(end);
        }
    }

    /// Scripts still to be derived before all wanted ones are watched.
    pub fn pending(&self) -> u32 {
        self.chains.iter().map(|chain| chain.wanted.saturating_sub(chain.derived())).sum()
    }

    /// Derives at most `limit` of the wanted scripts; true when none is left.
    pub fn top_up(&mut self, limit: usize) -> bool {
        let mut left = limit;
        for chain in &mut self.chains {
            while chain.derived() < chain.wanted {
                if left == 0 {
                    return false;
                }
                left -= 1;
                derive_next(chain, &mut self.scripts);
            }
        }
        self.top_up_imported(&mut left)
    }

    /// Derives up to and including `index` of one chain.
    pub fn watch(&mut self, id: KeyId) {
        self.want(id.chain, id.index.saturating_add(1));
        if let Some(chain) = self.chains.iter_mut().find(|chain| chain.id == id.chain) {
            while chain.derived() <= id.index {
                derive_next(chain, &mut self.scripts);
            }
        }
    }

    /// What a script belongs to, if it is ours and watched.
    pub fn script_id(&self, script: &Script) -> Option<ScriptId> {
        self.scripts.index_of_spk(script.to_owned()).copied()
    }

    /// Which key of the quorum a script belongs to, if it is ours and watched.
    pub fn key_of(&self, script: &Script) -> Option<KeyId> {
        match self.script_id(script)? {
            ScriptId::Key(key) => Some(key),
            ScriptId::Imported { .. } => None,
        }
    }

    pub fn is_mine(&self, script: &Script) -> bool {
        self.script_id(script).is_some()
    }

    /// [`KeyInfo`] of a script that is ours.
    pub fn info_of(&self, script: &Script) -> Option<KeyInfo> {
        self.derive(self.key_of(script)?)
    }

    /// The key with this origin, if it is ours: same root, one of our accounts and branches, the same public key.
    pub fn key_by_origin(&self, fingerprint: Fingerprint, path: &DerivationPath, key: &PublicKey) -> Option<KeyInfo> {
        let steps: &[ChildNumber] = path.as_ref();
        let (ChildNumber::Normal { index }, rest) = steps.split_last()? else { return None };
        let (ChildNumber::Normal { index: branch }, account) = rest.split_last()? else { return None };
        let chain = self.chains.iter().find(|chain| {
            let of_chain: &[ChildNumber] = chain.account.path.as_ref();
            chain.account.fingerprint == fingerprint && chain.id.branch.number() == *branch && of_chain == account
        })?;
        self.derive(KeyId { chain: chain.id, index: *index }).filter(|info| info.public_key == *key)
    }

    /// The key that a public key is, among those whose scripts are watched; taproot's are never seen as they are.
    pub fn key_by_public(&self, key: &PublicKey) -> Option<KeyInfo> {
        let key = CompressedPublicKey(*key);
        let program = ScriptBuf::new_p2wpkh(&key.wpubkey_hash());
        let scripts = [ScriptBuf::new_p2sh(&program.script_hash()), ScriptBuf::new_p2pkh(&key.pubkey_hash()), program];
        scripts.iter().find_map(|script| self.info_of(script))
    }

    /// The index of scripts and of the outputs that pay to them.
    pub fn scripts(&self) -> &SpkTxOutIndex<ScriptId> {
        &self.scripts
    }

    pub(crate) fn scripts_mut(&mut self) -> &mut SpkTxOutIndex<ScriptId> {
        &mut self.scripts
    }
}
