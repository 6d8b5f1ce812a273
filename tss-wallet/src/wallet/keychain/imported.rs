//! Descriptors that were imported: public ones, whose scripts are watched and spent from by PSBT.
//!
//! Core's parser has read them before they come here; `miniscript` derives from them. What miniscript does not know
//! (`addr()`, `raw()`, `rawtr()`) comes as scripts, which are watched as they are. Source: Core's
//! `DescriptorScriptPubKeyMan`.

use std::str::FromStr;

use bitcoin::bip32::{ChildNumber, DerivationPath, Fingerprint};
use bitcoin::{PublicKey, Script, ScriptBuf};
use miniscript::descriptor::checksum::desc_checksum;
use miniscript::descriptor::{DefiniteDescriptorKey, Descriptor, DescriptorPublicKey, DescriptorType};
use miniscript::{ForEachKey, ToPublicKey};
use serde::{Deserialize, Serialize};

use super::{AddressType, KeyId, Keychains};

/// Outpoint, sequence, script length and the count of witness items of an input, as weight.
pub(crate) const BARE_INPUT_WEIGHT: u64 = (32 + 4 + 4 + 1) * 4 + 1;

/// What a script of ours belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScriptId {
    /// A key of the quorum.
    Key(KeyId),
    /// An imported descriptor, by its number, and the index in it.
    Imported { descriptor: u32, index: u32 },
}

/// Where the scripts of an imported descriptor come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scripts {
    /// Descriptors as miniscript reads them; several for `combo()`, which stands for all of them.
    Forms(Vec<String>),
    /// The scripts themselves, from the first index of the range on.
    Fixed(Vec<ScriptBuf>),
}

/// An imported descriptor as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDescriptor {
    /// As Core writes it, with its checksum.
    pub desc: String,
    pub scripts: Scripts,
    /// Seconds since 1970.
    pub timestamp: u64,
    pub ranged: bool,
    /// First index, and the one after the last.
    pub start: u32,
    pub end: u32,
    pub next_index: u32,
    /// Addresses of this type are handed out from it; true for change.
    pub active: Option<(AddressType, bool)>,
}

/// Why a descriptor cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("{0}")]
    Unsupported(String),
    #[error("new range must include current range = [{start},{last}]")]
    Range { start: u32, last: u32 },
}

/// An imported descriptor.
#[derive(Debug, Clone)]
pub struct Imported {
    pub(crate) stored: StoredDescriptor,
    forms: Vec<Descriptor<DescriptorPublicKey>>,
    /// Scripts below this index are watched.
    derived: u32,
}

/// What is known of one script of an imported descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedScript {
    /// Of this one script, with its checksum; none where it cannot be solved.
    pub desc: Option<String>,
    pub parent_desc: String,
    pub timestamp: u64,
    pub ranged: bool,
    pub internal: bool,
    /// Of a script with one key.
    pub key: Option<PublicKey>,
    pub origin: Option<(Fingerprint, DerivationPath)>,
    pub redeem_script: Option<ScriptBuf>,
    pub witness_script: Option<ScriptBuf>,
}

/// What spending a script takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// Of the signed input.
    pub weight: u64,
    pub segwit: bool,
    pub address_type: AddressType,
}

impl Imported {
    pub(crate) fn new(stored: StoredDescriptor) -> Result<Self, ImportError> {
        let forms = match &stored.scripts {
            Scripts::Forms(texts) => texts
                .iter()
                .map(|text| Descriptor::from_str(text).map_err(|error| ImportError::Unsupported(error.to_string())))
                .collect::<Result<_, _>>()?,
            Scripts::Fixed(_) => Vec::new(),
        };
        Ok(Self { derived: stored.start, stored, forms })
    }

    pub fn stored(&self) -> &StoredDescriptor {
        &self.stored
    }

    /// The type of address it stands for; none for `combo()`, bare scripts and keys.
    pub fn output_type(&self) -> Option<AddressType> {
        match (&self.stored.scripts, self.forms.as_slice()) {
            (Scripts::Fixed(scripts), _) => scripts.first().and_then(|script| kind_of_script(script)),
            (Scripts::Forms(_), [form]) => match form.desc_type() {
                DescriptorType::Bare => None,
                DescriptorType::Pkh | DescriptorType::Sh | DescriptorType::ShSortedMulti => Some(AddressType::Legacy),
                DescriptorType::ShWpkh | DescriptorType::ShWsh | DescriptorType::ShWshSortedMulti => {
                    Some(AddressType::P2shSegwit)
                }
                DescriptorType::Tr => Some(AddressType::Bech32m),
                _ => Some(AddressType::Bech32),
            },
            _ => None,
        }
    }

    fn scripts_at(&self, index: u32) -> Vec<ScriptBuf> {
        match &self.stored.scripts {
            Scripts::Fixed(scripts) => {
                let place = index.checked_sub(self.stored.start).and_then(|place| usize::try_from(place).ok());
                place.and_then(|place| scripts.get(place)).cloned().into_iter().collect()
            }
            Scripts::Forms(_) => {
                let definite = self.forms.iter().filter_map(|form| form.at_derivation_index(index).ok());
                definite.map(|form| form.script_pubkey()).collect()
            }
        }
    }

    /// All scripts of its range.
    pub(crate) fn all_scripts(&self) -> Vec<ScriptBuf> {
        (self.stored.start..self.stored.end).flat_map(|index| self.scripts_at(index)).collect()
    }

    /// The script of an index, if there is exactly one.
    pub fn script_at(&self, index: u32) -> Option<ScriptBuf> {
        self.scripts_at(index).pop()
    }

    fn definite(&self, index: u32, script: &Script) -> Option<Descriptor<DefiniteDescriptorKey>> {
        let mut definite = self.forms.iter().filter_map(|form| form.at_derivation_index(index).ok());
        definite.find(|form| form.script_pubkey().as_script() == script)
    }

    /// Where no more than what was imported can be derived.
    fn last_end(&self) -> u32 {
        match &self.stored.scripts {
            Scripts::Fixed(scripts) => {
                self.stored.start.saturating_add(u32::try_from(scripts.len()).unwrap_or(u32::MAX))
            }
            Scripts::Forms(_) if self.stored.ranged => 1 << 31,
            Scripts::Forms(_) => self.stored.start.saturating_add(1),
        }
    }

    /// Core's top-up: `keypool` scripts from the next index on.
    pub(crate) fn extend(&mut self, keypool: u32) {
        let stored = &mut self.stored;
        if stored.ranged {
            stored.end = stored.end.max(stored.next_index.saturating_add(keypool));
        } else {
            (stored.start, stored.end, stored.next_index) = (0, 1, 0);
        }
        let last = self.last_end();
        self.stored.end = self.stored.end.min(last);
    }
}

fn kind_of_script(script: &Script) -> Option<AddressType> {
    if script.is_p2wsh() { Some(AddressType::Bech32) } else { AddressType::of_script(script) }
}

fn path_text(path: &DerivationPath) -> String {
    path.into_iter()
        .map(|child| match child {
            ChildNumber::Hardened { index } => format!("/{index}h"),
            ChildNumber::Normal { index } => format!("/{index}"),
        })
        .collect()
}

fn origin_of(key: &DefiniteDescriptorKey) -> (Fingerprint, DerivationPath) {
    (key.master_fingerprint(), key.full_derivation_path().unwrap_or_default())
}

/// The descriptor of one script as Core infers it: every key with its origin.
fn inferred(definite: &Descriptor<DefiniteDescriptorKey>) -> String {
    let taproot = definite.desc_type() == DescriptorType::Tr;
    let mut text = format!("{definite:#}");
    definite.for_each_key(|key| {
        let (fingerprint, path) = origin_of(key);
        let public = key.to_public_key();
        let shown = if taproot { public.inner.x_only_public_key().0.to_string() } else { public.to_string() };
        text = text.replace(&key.to_string(), &format!("[{fingerprint}{}]{shown}", path_text(&path)));
        true
    });
    match desc_checksum(&text) {
        Ok(checksum) => format!("{text}#{checksum}"),
        Err(_) => text,
    }
}

fn redeem_script(definite: &Descriptor<DefiniteDescriptorKey>) -> Option<ScriptBuf> {
    match definite {
        Descriptor::Sh(sh) => Some(match sh.as_inner() {
            miniscript::descriptor::ShInner::Wpkh(wpkh) => wpkh.script_pubkey(),
            miniscript::descriptor::ShInner::Wsh(wsh) => wsh.script_pubkey(),
            _ => definite.explicit_script().ok()?,
        }),
        _ => None,
    }
}

fn witness_script(definite: &Descriptor<DefiniteDescriptorKey>) -> Option<ScriptBuf> {
    use DescriptorType::{ShWsh, ShWshSortedMulti, Wsh, WshSortedMulti};
    let has = matches!(definite.desc_type(), Wsh | WshSortedMulti | ShWsh | ShWshSortedMulti);
    has.then(|| definite.explicit_script().ok()).flatten()
}

impl Keychains {
    /// A wallet without a quorum: it has what is imported, and nothing else.
    pub fn watching(network: bitcoin::Network) -> Self {
        Self { network, chains: Vec::new(), scripts: Default::default(), imported: Vec::new() }
    }

    /// True where there is no quorum behind the scripts.
    pub fn is_watching(&self) -> bool {
        self.chains.is_empty()
    }

    pub fn imported(&self) -> &[Imported] {
        &self.imported
    }

    pub(crate) fn imported_mut(&mut self) -> &mut Vec<Imported> {
        &mut self.imported
    }

    pub(crate) fn push_imported(&mut self, stored: StoredDescriptor) -> Result<(), ImportError> {
        self.imported.push(Imported::new(stored)?);
        Ok(())
    }

    /// Derives what is still to be watched of imported descriptors.
    pub(super) fn top_up_imported(&mut self, left: &mut usize) -> bool {
        for (number, imported) in (0_u32..).zip(&mut self.imported) {
            while imported.derived < imported.stored.end {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                let index = imported.derived;
                imported.derived += 1;
                for script in imported.scripts_at(index) {
                    self.scripts.insert_spk(ScriptId::Imported { descriptor: number, index }, script);
                }
            }
        }
        true
    }

    /// Forgets how far a descriptor was watched: its range was widened.
    pub(crate) fn restart_imported(&mut self, number: usize) {
        if let Some(imported) = self.imported.get_mut(number) {
            imported.derived = imported.stored.start;
        }
    }

    /// The imported descriptor that addresses of a type are taken from.
    pub fn active_import(&self, kind: AddressType, change: bool) -> Option<usize> {
        self.imported.iter().position(|imported| imported.stored.active == Some((kind, change)))
    }

    /// What is known of a script of an imported descriptor.
    pub fn imported_script(&self, script: &Script) -> Option<ImportedScript> {
        let Some(ScriptId::Imported { descriptor, index }) = self.script_id(script) else { return None };
        let imported = self.imported.get(usize::try_from(descriptor).ok()?)?;
        let mut out = ImportedScript {
            desc: None,
            parent_desc: imported.stored.desc.clone(),
            timestamp: imported.stored.timestamp,
            ranged: imported.stored.ranged,
            internal: imported.stored.active.is_some_and(|(_, change)| change),
            key: None,
            origin: None,
            redeem_script: None,
            witness_script: None,
        };
        let Some(definite) = imported.definite(index, script) else { return Some(out) };
        out.desc = Some(inferred(&definite));
        let mut keys = Vec::new();
        definite.for_each_key(|key| {
            keys.push(key.clone());
            true
        });
        let one_key = matches!(
            definite.desc_type(),
            DescriptorType::Pkh | DescriptorType::Wpkh | DescriptorType::ShWpkh | DescriptorType::Tr
        );
        if let ([key], true) = (keys.as_slice(), one_key) {
            out.key = Some(key.to_public_key());
            out.origin = Some(origin_of(key));
        }
        out.redeem_script = redeem_script(&definite);
        out.witness_script = witness_script(&definite);
        Some(out)
    }

    /// The descriptor of one script, to describe it in a PSBT.
    pub(crate) fn definite(&self, script: &Script) -> Option<Descriptor<DefiniteDescriptorKey>> {
        let Some(ScriptId::Imported { descriptor, index }) = self.script_id(script) else { return None };
        self.imported.get(usize::try_from(descriptor).ok()?)?.definite(index, script)
    }

    /// What it takes to spend a script of ours; none where that cannot be known.
    pub fn spending(&self, script: &Script) -> Option<Spending> {
        match self.script_id(script)? {
            ScriptId::Key(key) => {
                let kind = key.chain.address_type;
                Some(Spending {
                    weight: crate::wallet::spend::fees::input_weight(kind),
                    segwit: kind != AddressType::Legacy,
                    address_type: kind,
                })
            }
            ScriptId::Imported { .. } => {
                let definite = self.definite(script)?;
                let satisfied = definite.max_weight_to_satisfy().ok()?.to_wu();
                Some(Spending {
                    weight: BARE_INPUT_WEIGHT + satisfied,
                    segwit: definite.desc_type().segwit_version().is_some(),
                    address_type: kind_of_script(script).unwrap_or(AddressType::Legacy),
                })
            }
        }
    }
}
