//! A wallet's quorum and its sessions, as RPC shows them.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use keyless_p2p::cosigners::{PeerId, PeerStatus, peer_id_of};
use keyless_rpc::wallet::backend::{Cosigner, QuorumInfo, QuorumMember, SigningSession};
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::ChainId;

use super::loaded::{Keys, Loaded, Quorum};
use crate::metrics::WalletSnapshot;
use crate::quorum::{Core, peer_name, wire};

fn seen(status: &PeerStatus) -> Option<u64> {
    status.last_seen.and_then(|seen| seen.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs())
}

/// `getquoruminfo`.
pub(super) fn quorum(loaded: &Loaded, keys: &Keys) -> QuorumInfo {
    let core = keys.quorum.core();
    let public = keys.holding.public();
    let peers: BTreeMap<PeerId, PeerStatus> =
        core.carrier().peers().into_iter().map(|status| (status.peer, status)).collect();
    let tip = loaded.chain.tip().height;
    let suspended = keys.holding.suspended();
    let members = public
        .roster
        .members()
        .iter()
        .zip(1_u16..)
        .map(|(member, index)| {
            let is_self = *member == core.me();
            let status = peers.get(&peer_id_of(member.0));
            QuorumMember {
                peerid: peer_name(member),
                index,
                is_self,
                online: is_self || status.is_some_and(|status| status.online),
                blocks: if is_self || matches!(keys.quorum, Quorum::Embedded(_)) {
                    Some(tip)
                } else {
                    status.and_then(|status| status.blocks)
                },
                suspended: suspended.contains(member),
                last_seen: if is_self { Some(loaded.chain.now()) } else { status.and_then(seen) },
            }
        })
        .collect();
    QuorumInfo {
        epoch: u64::from(public.epoch.0),
        threshold: u16::from(public.roster.threshold()),
        fingerprint: public.fingerprint(),
        members,
        ecdsa_xpub: public.ecdsa.xpub(public.network).to_string(),
        schnorr_xpub: public.schnorr.xpub(public.network).to_string(),
        devquorum: matches!(keys.quorum, Quorum::Embedded(_)),
        refuses: keys.holding.own_refusal(&core.me()).map(|refusal| refusal.to_string()),
    }
}

/// Why the wallet's quorum cannot sign now, if it cannot.
pub(super) fn not_ready(keys: &Keys) -> Option<String> {
    let (core, holding) = (keys.quorum.core(), &keys.holding);
    let online = 1 + holding.others().filter(|member| core.is_member_online(member)).count();
    let needed = usize::from(holding.threshold());
    if online < needed {
        return Some(format!("wallet \"{}\": {online} of {needed} needed members are online", holding.name()));
    }
    if let Some(refusal) = holding.own_refusal(&core.me()) {
        return Some(format!("wallet \"{}\": {refusal}", holding.name()));
    }
    holding.share().is_none().then(|| format!("wallet \"{}\": its share is locked", holding.name()))
}

/// Figures of one wallet for [`crate::metrics`].
pub(super) fn snapshot(loaded: &Loaded, keys: &Keys) -> WalletSnapshot {
    let (core, holding) = (keys.quorum.core(), &keys.holding);
    let pool = |wallet: &tss_wallet::wallet::Wallet| {
        ChainId::all().map(|chain| u64::from(wallet.pool().available(chain))).sum()
    };
    WalletSnapshot {
        name: loaded.name().to_owned(),
        members: holding.members().len(),
        online: 1 + holding.others().filter(|member| core.is_member_online(member)).count(),
        epoch: holding.epoch().0,
        approvals_pending: holding.guard().open_questions(loaded.chain.now()).len(),
        addresses_ready: pool(&loaded.wallet()),
        audit_entries: holding.guard().head().entries,
    }
}

/// `listsigningsessions`, of this wallet.
pub(super) fn sessions(keys: &Keys) -> Vec<SigningSession> {
    let wallet = keys.holding.wallet();
    let names = |members: &[MemberId]| members.iter().map(peer_name).collect();
    keys.quorum
        .core()
        .sessions()
        .into_iter()
        .filter(|row| row.wallet == Some(wallet))
        .map(|row| SigningSession {
            id: row.id.to_string(),
            kind: row.kind.as_str().to_owned(),
            state: row.state.to_owned(),
            coordinator: peer_name(&row.coordinator),
            signers: names(&row.signers),
            txid: row.txid,
            started: row.started,
            expires: row.expires,
            waiting_for: names(&row.waiting_for),
            error: None,
        })
        .collect()
}

/// `enumeratecosigners`.
pub(super) fn cosigners(core: &Core) -> Vec<Cosigner> {
    let holdings = core.holdings();
    core.carrier()
        .peers()
        .into_iter()
        .map(|status| {
            let member = keyless_p2p::cosigners::public_key_of(&status.peer).map(MemberId);
            let shared =
                holdings.iter().filter(|holding| member.is_some_and(|member| holding.index_of(&member).is_some()));
            let banned = holdings.iter().any(|holding| {
                member.and_then(|member| holding.index_of(&member)).is_some_and(|party| holding.bans().contains(&party))
            });
            Cosigner {
                peerid: status.peer.to_string(),
                fingerprint: status.fingerprint,
                addresses: status.addresses.iter().map(ToString::to_string).collect(),
                online: status.online,
                latency_us: status.latency.and_then(|latency| u64::try_from(latency.as_micros()).ok()),
                // The handshake refuses any other.
                version: status.online.then_some(wire::PROTOCOL_VERSION),
                blocks: status.blocks,
                suspended: false,
                banned,
                wallets: shared.map(|holding| holding.name().to_owned()).collect(),
            }
        })
        .collect()
}
