//! The life of a wallet's shares, as RPC asks for it: refresh, reshare, repair, suspension.

use std::str::FromStr;
use std::time::Instant;

use keyless_p2p::cosigners::{PeerId, public_key_of};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::Redealt;
use tss_wallet::{MemberId, Roster, Split};

use super::loaded::{Keys, Loaded, Quorum, storage_error};
use super::manager::{WalletManager, bad_quorum, unknown_member};
use super::sign::quorum_error;
use crate::quorum::redeal::{self, Done, Request};
use crate::quorum::wire::RedealKind;
use crate::quorum::{Core, peer_name};

fn member_of(text: &str) -> Option<MemberId> {
    PeerId::from_str(text).ok().and_then(|peer| public_key_of(&peer)).map(MemberId)
}

fn redealt(done: &Done, started: Instant) -> Redealt {
    let keys = &done.keys;
    let members = keys.roster.members();
    Redealt {
        epoch: u64::from(keys.epoch.0),
        threshold: u16::from(keys.roster.threshold()),
        members: members.iter().map(peer_name).collect(),
        absent: keys.absent.iter().filter_map(|party| keys.roster.member(*party)).map(peer_name).collect(),
        helpers: done.dealers.iter().map(peer_name).collect(),
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Whom this node may make a quorum with.
fn is_known(core: &Core, keys: &Keys, member: &MemberId) -> bool {
    let embedded = match &keys.quorum {
        Quorum::Embedded(embedded) => embedded.members().contains(member),
        Quorum::Network(_) => core.policy().cosigners.contains(member),
    };
    embedded || *member == core.me() || keys.holding.index_of(member).is_some()
}

impl Loaded {
    fn redeal(&self, keys: &Keys, request: &Request) -> Result<Redealt, RpcError> {
        let started = Instant::now();
        let done = redeal::run(keys.quorum.core(), &keys.holding, request).map_err(|error| quorum_error(&error))?;
        Ok(redealt(&done, started))
    }

    /// `refreshshares`.
    pub(super) fn refresh(&self) -> Result<Redealt, RpcError> {
        let keys = self.signing_keys()?;
        let request = Request { kind: RedealKind::Refresh, roster: keys.holding.public().roster.clone() };
        self.redeal(&keys, &request)
    }

    /// `resharequorum`.
    pub(super) fn reshare(&self, threshold: u16, members: &[String]) -> Result<Redealt, RpcError> {
        let keys = self.signing_keys()?;
        let core = keys.quorum.core();
        let members = members
            .iter()
            .map(|text| {
                member_of(text).filter(|member| is_known(core, &keys, member)).ok_or_else(|| unknown_member(text))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if matches!(keys.quorum, Quorum::Embedded(_)) && !members.contains(&core.me()) {
            let text = "Invalid quorum: the node's own co-signer cannot leave a development quorum";
            return Err(RpcError::invalid_parameter(text));
        }
        let threshold = u8::try_from(threshold).unwrap_or(u8::MAX);
        let roster = Roster::new(threshold, members, Split::Refused).map_err(|error| bad_quorum(&error))?;
        self.redeal(&keys, &Request { kind: RedealKind::Reshare, roster })
    }

    /// `suspendcosigner`, `resumecosigner`.
    pub(super) fn suspend(&self, peerid: &str, reason: Option<&str>) -> Result<(), RpcError> {
        let keys = self.signing_keys()?;
        let member = member_of(peerid).filter(|member| keys.holding.index_of(member).is_some());
        let member = member.ok_or_else(|| {
            RpcError::invalid_address_or_key(format!("{peerid} is not a member of this wallet's quorum"))
        })?;
        keys.holding.suspend(member, reason).map_err(storage_error)?;
        let suspended = reason.is_some();
        tracing::warn!(wallet = self.name, member = peerid, suspended, reason, "suspension by the operator");
        Ok(())
    }
}

impl WalletManager {
    /// `repairshare`.
    pub(super) fn repair(&self, name: &str) -> Result<Redealt, RpcError> {
        let started = Instant::now();
        let core = self.core().ok_or_else(|| RpcError::wallet("Error: this node has no co-signers (-cosigner)"))?;
        let done = redeal::repair_here(core, name).map_err(|error| quorum_error(&error))?;
        Ok(redealt(&done, started))
    }
}
