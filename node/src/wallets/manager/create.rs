//! New wallets: what a request may ask for, and the quorum or the plain wallet that comes of it.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bitcoin::Network;
use keyless_p2p::cosigners::{PeerId, public_key_of};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{CreateWallet, Loaded as LoadedName, QuorumSpec, Result};
use tss_wallet::{MemberId, Roster, Split};

use super::{WalletManager, clear, last_step, unverified};
use crate::quorum::devquorum::{Devquorum, Embedded, EmbeddedError};
use crate::quorum::wire::{Invitation, PROTOCOL_VERSION};
use crate::quorum::{Core, keygen};
use crate::wallets::imports::make_plain;
use crate::wallets::loaded::{Keys, Quorum};
use crate::wallets::names;
use crate::wallets::sign::quorum_error;

impl WalletManager {
    pub(super) fn create_now(&self, request: &CreateWallet) -> Result<LoadedName> {
        let name = request.name.as_str();
        self.check_request(request)?;
        let _busy = self.reserve(name)?;
        let place = self.options.place(name);
        let dir = place.dir.clone();
        if place.is_taken() || self.loaded(name).is_some() {
            let text = format!("Failed to create database path '{}'. Database already exists.", dir.display());
            return Err(unverified(text));
        }
        if request.disable_private_keys || request.blank {
            return self.create_plain(request, &dir);
        }
        let tip = self.chain.tip();
        let invitation = Invitation {
            version: PROTOCOL_VERSION,
            // Of embedded co-signers the name may be a path; the last step of it is what they know.
            name: last_step(name).to_owned(),
            network: self.chain.network().magic().to_bytes(),
            genesis: self.chain.genesis(),
            threshold: 0,
            members: Vec::new(),
            split: request.quorum.as_ref().is_some_and(|quorum| quorum.split),
            birth_time: self.chain.now(),
            birth_height: tip.height,
            avoid_reuse: request.avoid_reuse,
        };
        let networked = self.core.get().filter(|_| self.is_networked());
        let (quorum, holding, on_startup) = match networked {
            Some(core) => {
                let invitation = self.network_invitation(core, invitation, request.quorum.as_ref())?;
                let holding = keygen::make(core, invitation).map_err(|error| quorum_error(&error))?;
                // A member works again after a restart without any command.
                (Quorum::Network(Arc::clone(core)), holding, Some(request.load_on_startup.unwrap_or(true)))
            }
            None => {
                let devquorum = self.devquorum(request.quorum.as_ref())?;
                let made = Embedded::create(&dir, devquorum, invitation, &self.surroundings());
                let (embedded, holding) = made.map_err(|error| {
                    clear(&dir);
                    match error {
                        EmbeddedError::Quorum(error) => quorum_error(&error),
                        other => unverified(other.to_string()),
                    }
                })?;
                (Quorum::Embedded(Arc::new(embedded)), holding, request.load_on_startup)
            }
        };
        let db = Arc::clone(holding.db());
        let loaded = self.open_ledger(name, db, Some(Keys { holding, quorum }), Some(request))?;
        let mut warnings = self.options.warnings.clone();
        if let Err(error) = loaded.first_fill() {
            warnings.push(error.message);
        }
        if let Some(passphrase) = &request.passphrase {
            loaded.encrypt(passphrase)?;
        }
        self.set_startup(name, on_startup, &mut warnings);
        // In the runtime of its caller: a blocking thread of it.
        loaded.refill_soon();
        Ok(LoadedName { name: name.to_owned(), warnings })
    }

    /// A wallet without keys.
    fn create_plain(&self, request: &CreateWallet, dir: &Path) -> Result<LoadedName> {
        let name = request.name.as_str();
        let made = make_plain(dir).and_then(|db| self.open_ledger(name, db, None, Some(request)));
        if let Err(error) = made {
            clear(dir);
            return Err(error);
        }
        let mut warnings = self.options.warnings.clone();
        self.set_startup(name, request.load_on_startup, &mut warnings);
        Ok(LoadedName { name: name.to_owned(), warnings })
    }

    fn check_request(&self, request: &CreateWallet) -> Result<()> {
        if request.name.is_empty() {
            return Err(RpcError::invalid_parameter("Wallet name cannot be empty"));
        }
        names::check(self.options.wallets_dir(), &request.name).map_err(unverified)?;
        let shared = !request.disable_private_keys && !request.blank && self.is_networked();
        if (shared && !keygen::is_safe_name(&request.name)) || !keygen::is_safe_name(last_step(&request.name)) {
            return Err(unverified(format!(
                "The wallet name '{}' cannot be used as the name of a directory.",
                request.name
            )));
        }
        if request.passphrase.is_some() {
            if request.disable_private_keys {
                return Err(RpcError::wallet(
                    "Passphrase provided but private keys are disabled. A passphrase is only used to encrypt private \
                     keys, so cannot be used for wallets with private keys disabled.",
                ));
            }
            if request.blank {
                let text = "Error: wallet does not contain private keys, nothing to encrypt.";
                return Err(RpcError::new(code::RPC_WALLET_ENCRYPTION_FAILED, text));
            }
        }
        if request.disable_private_keys || request.blank {
            return Ok(());
        }
        if self.chain.network() == Network::Bitcoin && !self.options.experimental_tss {
            return Err(RpcError::wallet(
                "Error: threshold wallets are experimental; to make one on the main chain, start with -experimental=tss",
            ));
        }
        Ok(())
    }

    fn devquorum(&self, spec: Option<&QuorumSpec>) -> Result<Devquorum> {
        let mut devquorum = self.options.devquorum.ok_or_else(|| {
            RpcError::wallet(
                "Error: no co-signers are configured: start with -cosigner=<PeerId>@<multiaddr> for each other member \
                 (-printcosignerid prints a node's PeerId), or on a test network with -devquorum=2/3",
            )
        })?;
        let Some(spec) = spec else { return Ok(devquorum) };
        if let Some(member) = spec.members.as_ref().and_then(|members| members.first()) {
            return Err(unknown_member(member));
        }
        if let Some(threshold) = spec.threshold {
            let threshold = u8::try_from(threshold).unwrap_or(u8::MAX);
            let members = (1..=devquorum.members).map(|id| MemberId([id; 32])).collect();
            Roster::new(threshold, members, split(spec)).map_err(|error| bad_quorum(&error))?;
            devquorum.threshold = threshold;
        }
        Ok(devquorum)
    }

    fn network_invitation(
        &self,
        core: &Core,
        mut invitation: Invitation,
        spec: Option<&QuorumSpec>,
    ) -> Result<Invitation> {
        let default = QuorumSpec::default();
        let spec = spec.unwrap_or(&default);
        let me = core.me();
        let mut members: Vec<MemberId> = Vec::new();
        match &spec.members {
            None => members.extend(&self.options.cosigners),
            Some(named) => {
                for text in named {
                    let member = PeerId::from_str(text).ok().and_then(|peer| public_key_of(&peer)).map(MemberId);
                    let known = member.filter(|member| *member == me || self.options.cosigners.contains(member));
                    members.push(known.ok_or_else(|| unknown_member(text))?);
                }
            }
        }
        if !members.contains(&me) {
            members.push(me);
        }
        let chosen = spec.threshold.map(|threshold| u8::try_from(threshold).unwrap_or(u8::MAX));
        let threshold = chosen.or(self.options.threshold).unwrap_or_else(|| Roster::default_threshold(members.len()));
        let roster = Roster::new(threshold, members, split(spec)).map_err(|error| bad_quorum(&error))?;
        invitation.threshold = roster.threshold();
        invitation.members = roster.members().to_vec();
        Ok(invitation)
    }
}

fn split(spec: &QuorumSpec) -> Split {
    if spec.split { Split::Accepted } else { Split::Refused }
}

pub(in crate::wallets) fn bad_quorum(error: &tss_wallet::RosterError) -> RpcError {
    RpcError::invalid_parameter(format!("Invalid quorum: {error}"))
}

pub(in crate::wallets) fn unknown_member(text: &str) -> RpcError {
    RpcError::invalid_parameter(format!("Invalid quorum: {text} is not a configured co-signer (-cosigner)"))
}
