//! `version` to `verack`, and the features that are settled between them.

use std::net::SocketAddr;

use bitcoin::p2p::ServiceFlags;

use super::{Halt, Owner, Step, gone, private};
use crate::bitcoin::chain::RelayPeer;
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message::{
    FEATURE_VERSION, MIN_PEER_PROTOCOL_VERSION, PROTOCOL_VERSION, Reader, SHORT_IDS_BLOCKS_VERSION, Version,
    WTXID_RELAY_VERSION,
};
use crate::bitcoin::net_addr::{Gossip, is_routable};
use crate::bitcoin::peer::{Peer, Reconciliation, TxRelay};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::wire::sanitize;

/// Core's `CMPCTBLOCKS_VERSION`.
pub(super) const COMPACT_BLOCKS_VERSION: u64 = 2;
/// Blocks behind the tip at which limited peers stop being wanted (Core's `NODE_NETWORK_LIMITED_ALLOW_CONN_BLOCKS`).
const LIMITED_DEPTH: u64 = 144;
/// Of BIP330.
const RECONCILIATION_VERSION: u32 = 1;
const MAX_FEATURE_ID: usize = 80;
const MAX_FEATURE_DATA: usize = 512;
/// Core's final alert, for peers of the time when alerts were obeyed.
const FINAL_ALERT: &str = "60010000000000000000000000ffffff7f00000000ffffff7ffeffff7f01ffffff7f00000000ffffff7f00ffffff7f002f555247454e543a20416c657274206b657920636f6d70726f6d697365642c2075706772616465207265717569726564004630440220653febd6410f470f6bae11cad19c48413becb1ac2c17f908fd0fd53bdc3abd5202206d0e9c96fe88d4a0f01ed9dedae2b6f9e00da94cad0fecaae66ecf689bf71b50";

impl Owner {
    /// True if the message is for the time after the handshake, and that is over.
    pub(super) fn handshake(&mut self, peer: &mut Peer, command: &str, payload: &[u8]) -> Result<bool, Halt> {
        if command == "version" {
            self.on_version(peer, payload)?;
            return Ok(false);
        }
        if peer.version == 0 {
            tracing::debug!(
                target: "net",
                "non-version message before version handshake. Message \"{}\" from peer={}",
                sanitize(command.as_bytes()), peer.id
            );
            return Ok(false);
        }
        match command {
            "verack" => self.on_verack(peer)?,
            "sendheaders" => peer.prefers_headers = true,
            "sendcmpct" => self.on_send_compact(peer, payload)?,
            "wtxidrelay" => on_wtxid_relay(peer)?,
            "sendaddrv2" => {
                if peer.ready {
                    return Err(gone(format!("sendaddrv2 received after verack, {}", peer.disconnecting())));
                }
                peer.wants_addrv2 = true;
            }
            "feature" => on_feature(peer, payload)?,
            "sendtxrcncl" => self.on_reconciliation(peer, payload)?,
            _ if peer.ready => return Ok(true),
            _ => tracing::debug!(
                target: "net",
                "Unsupported message \"{}\" prior to verack from peer={}",
                sanitize(command.as_bytes()), peer.id
            ),
        }
        Ok(false)
    }

    /// Core's `PushNodeVersion`.
    pub(super) fn send_version(&mut self, peer: &mut Peer) {
        let tip = self.chain.tip();
        let them = Some(peer.address).filter(|address| is_routable(address.ip()));
        let version = if peer.is_private() {
            private::version(peer.nonce)
        } else {
            Version {
                version: PROTOCOL_VERSION.cast_signed(),
                services: self.services_for(peer).to_u64(),
                time: self.chain.now().as_secs().cast_signed(),
                receiver: them,
                nonce: peer.nonce,
                user_agent: self.config.user_agent.clone().into_bytes(),
                start_height: i32::try_from(tip.height).unwrap_or(i32::MAX),
                relay: !self.rejects_txs(peer),
            }
        };
        self.send(peer, "version", version.encode(0));
        tracing::debug!(
            target: "net",
            "send version message: version={}, blocks={}, txrelay={}, peer={}",
            version.version, version.start_height, u8::from(version.relay), peer.id
        );
        peer.version_sent = true;
    }

    /// What we offer.
    pub(super) fn services(&self) -> ServiceFlags {
        let chain = self.chain.services();
        if self.config.v2_transport { chain | ServiceFlags::P2P_V2 } else { chain }
    }

    pub(super) fn wants_services(&self, offered: ServiceFlags) -> ServiceFlags {
        let limited = offered.has(ServiceFlags::NETWORK_LIMITED);
        if limited && self.tip_age() / self.block_interval().as_secs().max(1) < LIMITED_DEPTH {
            return ServiceFlags::NETWORK_LIMITED | ServiceFlags::WITNESS;
        }
        ServiceFlags::NETWORK | ServiceFlags::WITNESS
    }

    fn on_version(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if peer.version != 0 {
            tracing::debug!(target: "net", "redundant version message from peer={}", peer.id);
            return Ok(());
        }
        let theirs = Version::decode(payload)?;
        let services = ServiceFlags::from(theirs.services);
        if !peer.is_inbound() && !peer.is_private() {
            self.chain.book_services(&Gossip { time: 0, services, address: peer.target });
        }
        let wanted = self.wants_services(services);
        if peer.must_serve() && !services.has(wanted) {
            return Err(gone(format!(
                "peer does not offer the expected services ({:08x} offered, {:08x} expected), {}",
                services.to_u64(),
                wanted.to_u64(),
                peer.disconnecting()
            )));
        }
        let version = u32::try_from(theirs.version).unwrap_or(0);
        if version < MIN_PEER_PROTOCOL_VERSION {
            return Err(gone(format!("peer using obsolete version {}, {}", theirs.version, peer.disconnecting())));
        }
        if peer.is_inbound() && self.is_own_nonce(theirs.nonce) {
            tracing::info!("connected to self at {}, disconnecting", peer.address);
            return Err(Halt::Gone);
        }
        if peer.is_inbound() {
            self.send_version(peer);
        }
        self.take_version(peer, &theirs, services, version);
        if peer.is_private() {
            return self.answer_private_version(peer, theirs.relay);
        }
        self.answer_version(peer);
        if peer.kind == ConnectionType::Feeler {
            return Err(gone(format!("feeler connection completed, {}", peer.disconnecting())));
        }
        Ok(())
    }

    fn take_version(&mut self, peer: &mut Peer, theirs: &Version, services: ServiceFlags, version: u32) {
        peer.version = version;
        let ours = if peer.is_private() { private::PROTOCOL_VERSION } else { PROTOCOL_VERSION };
        peer.common_version = version.min(ours);
        peer.services = services;
        peer.user_agent = sanitize(&theirs.user_agent);
        peer.address_of_us = theirs.receiver.filter(is_some_address);
        let now = self.chain.now().as_secs().cast_signed();
        peer.time_offset = theirs.time.saturating_sub(now);
        let relays = !peer.is_block_only() && !peer.is_private() && peer.kind != ConnectionType::Feeler;
        if relays && (theirs.relay || self.services_for(peer).has(ServiceFlags::BLOOM)) {
            peer.txs = Some(TxRelay::new(theirs.relay));
        }
        let name = if peer.user_agent.is_empty() { "<no user agent>" } else { peer.user_agent.as_str() };
        let us = theirs.receiver.map(|address| address.to_string()).unwrap_or_default();
        tracing::debug!(
            target: "net",
            "receive version message: {name}: version {version}, blocks={}, us={us}, txrelay={}, {}",
            theirs.start_height, u8::from(theirs.relay), peer.log()
        );
    }

    fn answer_version(&mut self, peer: &mut Peer) {
        if peer.common_version >= WTXID_RELAY_VERSION {
            self.send(peer, "wtxidrelay", Vec::new());
            self.send(peer, "sendaddrv2", Vec::new());
            self.offer_reconciliation(peer);
        }
        self.send(peer, "verack", Vec::new());
        let trusted = !peer.is_inbound() || peer.has(Permissions::NO_BAN);
        peer.preferred_download = trusted && peer.kind != ConnectionType::AddrFetch && peer.can_serve_blocks();
        if !peer.is_inbound() {
            self.start_address_relay(peer);
            self.chain.book_good(&peer.target);
            // Inbound peers could make us doubt our clock as they like.
            self.chain.note_clock(peer.time_offset);
        }
        if peer.common_version <= 70_012 {
            let alert = (0..FINAL_ALERT.len())
                .step_by(2)
                .filter_map(|at| u8::from_str_radix(FINAL_ALERT.get(at..at + 2)?, 16).ok())
                .collect();
            self.send(peer, "alert", alert);
        }
    }

    fn on_verack(&mut self, peer: &mut Peer) -> Step {
        if peer.ready {
            tracing::debug!(target: "net", "ignoring redundant verack message from peer={}", peer.id);
            return Ok(());
        }
        let text = format!(
            "New {} peer connected: transport: {}, version: {}, {}",
            peer.kind.name(),
            peer.transport.name(),
            peer.version,
            peer.log()
        );
        if peer.is_inbound() {
            tracing::debug!(target: "net", "{text}");
        } else {
            tracing::info!("{text}");
        }
        if peer.is_private() {
            peer.ready = true;
            return self.offer_privately(peer);
        }
        if peer.common_version >= SHORT_IDS_BLOCKS_VERSION {
            let mut payload = vec![0];
            payload.extend_from_slice(&COMPACT_BLOCKS_VERSION.to_le_bytes());
            self.send(peer, "sendcmpct", payload);
        }
        if peer.reconciliation != Reconciliation::No
            && !(peer.wtxid_relay && peer.reconciliation == Reconciliation::Agreed)
        {
            tracing::debug!(target: "txreconciliation", "Forget txreconciliation state of peer={}", peer.id);
            peer.reconciliation = Reconciliation::No;
        }
        let (preferred, wtxid_relay) = (peer.preferred_download, peer.wtxid_relay);
        let unlimited = peer.has(Permissions::RELAY);
        self.chain.peer_joined(peer.id, RelayPeer { preferred, unlimited, wtxid_relay });
        peer.ready = true;
        Ok(())
    }
}

impl Owner {
    /// To peers that take transactions from us and give us theirs.
    fn offer_reconciliation(&mut self, peer: &mut Peer) {
        let relays = peer.txs.as_ref().is_some_and(|txs| txs.wanted);
        let wanted = self.config.tx_reconciliation && !self.config.blocks_only;
        if !wanted || !relays || peer.kind == ConnectionType::AddrFetch {
            return;
        }
        tracing::debug!(target: "txreconciliation", "Pre-register peer={}", peer.id);
        peer.reconciliation = Reconciliation::Offered;
        let mut payload = RECONCILIATION_VERSION.to_le_bytes().to_vec();
        payload.extend_from_slice(&rand::random::<u64>().to_le_bytes());
        self.send(peer, "sendtxrcncl", payload);
    }

    fn on_reconciliation(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if !self.config.tx_reconciliation {
            tracing::debug!(
                target: "net",
                "sendtxrcncl from peer={} ignored, as our node does not have txreconciliation enabled", peer.id
            );
            return Ok(());
        }
        let leave = |what: &str| Err(gone(format!("{what}, {}", peer.disconnecting())));
        if peer.ready {
            return leave("sendtxrcncl received after verack");
        }
        if self.rejects_txs(peer) {
            return leave("sendtxrcncl received to which we indicated no tx relay");
        }
        if peer.txs.as_ref().is_none_or(|txs| !txs.wanted) {
            return leave("sendtxrcncl received which indicated no tx relay to us");
        }
        let mut reader = Reader(payload);
        let version: u32 = reader.value()?;
        let _salt: u64 = reader.value()?;
        match peer.reconciliation {
            Reconciliation::No => tracing::debug!(
                target: "net",
                "Ignore unexpected txreconciliation signal from peer={}", peer.id
            ),
            Reconciliation::Agreed => {
                return leave(
                    "txreconciliation protocol violation (sendtxrcncl received from already registered peer)",
                );
            }
            Reconciliation::Offered if version < RECONCILIATION_VERSION => {
                return leave("txreconciliation protocol violation");
            }
            Reconciliation::Offered => {
                tracing::debug!(
                    target: "txreconciliation",
                    "Register peer={} (inbound={})", peer.id, u8::from(peer.is_inbound())
                );
                peer.reconciliation = Reconciliation::Agreed;
            }
        }
        Ok(())
    }
}

/// The peer told more than zeroes.
fn is_some_address(address: &SocketAddr) -> bool {
    !address.ip().is_unspecified()
}

fn on_wtxid_relay(peer: &mut Peer) -> Step {
    if peer.ready {
        return Err(gone(format!("wtxidrelay received after verack, {}", peer.disconnecting())));
    }
    if peer.common_version < WTXID_RELAY_VERSION {
        tracing::debug!(
            target: "net",
            "ignoring wtxidrelay due to old common version={} from peer={}",
            peer.common_version, peer.id
        );
    } else if peer.wtxid_relay {
        tracing::debug!(target: "net", "ignoring duplicate wtxidrelay from peer={}", peer.id);
    }
    peer.wtxid_relay |= peer.common_version >= WTXID_RELAY_VERSION;
    Ok(())
}

fn on_feature(peer: &mut Peer, payload: &[u8]) -> Step {
    if peer.ready {
        return Err(gone(format!("feature received after verack, {}", peer.disconnecting())));
    }
    if peer.common_version < FEATURE_VERSION {
        return Err(gone(format!(
            "feature received with incompatible version {}, {}",
            peer.common_version,
            peer.disconnecting()
        )));
    }
    let mut reader = Reader(payload);
    let id = reader.bytes(MAX_FEATURE_ID).unwrap_or_default();
    let data = reader.bytes(MAX_FEATURE_DATA);
    if id.len() < 4 || data.is_err() || !reader.is_empty() {
        return Err(gone(format!("invalid feature payload, {}", peer.disconnecting())));
    }
    tracing::debug!(target: "net", "unknown feature advertised: {}", sanitize(id));
    Ok(())
}

/// Core's `Misbehaving`: the owner decides once the message is done.
pub(super) fn misbehaving(peer: &mut Peer, reason: &str) {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    tracing::debug!(target: "net", "Misbehaving: peer={}{reason}", peer.id);
    peer.misbehaved = true;
}
