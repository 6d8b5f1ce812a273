//! Typed facts of the network as JSON, with Core's keys in Core's order.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::{AddedNode, NetTotals, NetworkInfo, PeerInfo};
use crate::json::Value;

/// Service bits that have a name.
const SERVICES: [(u32, &str); 6] =
    [(0, "NETWORK"), (2, "BLOOM"), (3, "WITNESS"), (6, "COMPACT_FILTERS"), (10, "NETWORK_LIMITED"), (11, "P2P_V2")];

fn services_hex(services: u64) -> String {
    format!("{services:016x}")
}

fn service_names(services: u64) -> Value {
    let names = (0..u64::BITS).filter(|bit| services & (1 << bit) != 0).map(|bit| {
        let known = SERVICES.iter().find(|(known, _)| *known == bit);
        known.map_or_else(|| format!("UNKNOWN[2^{bit}]"), |(_, name)| (*name).to_owned())
    });
    Value::arr(names)
}

fn per_message(counts: &[(String, u64)]) -> Value {
    let mut out = Value::obj();
    for (name, bytes) in counts.iter().filter(|(_, bytes)| *bytes > 0) {
        out.push(name, *bytes);
    }
    out
}

pub fn peer(peer: &PeerInfo) -> Value {
    Value::obj()
        .with("id", peer.id)
        .with("addr", &peer.addr)
        .with_opt("addrbind", peer.addr_bind.as_ref())
        .with_opt("addrlocal", peer.addr_local.as_ref())
        .with("network", &peer.network)
        .with_opt("mapped_as", peer.mapped_as)
        .with("services", services_hex(peer.services))
        .with("servicesnames", service_names(peer.services))
        .with("relaytxes", peer.relay_txes)
        .with("last_inv_sequence", peer.last_inv_sequence)
        .with("inv_to_send", peer.inv_to_send)
        .with("lastsend", peer.last_send)
        .with("lastrecv", peer.last_recv)
        .with("last_transaction", peer.last_transaction)
        .with("last_block", peer.last_block)
        .with("bytessent", peer.bytes_sent)
        .with("bytesrecv", peer.bytes_recv)
        .with("conntime", peer.conn_time)
        .with("timeoffset", peer.time_offset_secs)
        .with_opt("pingtime", peer.ping_secs)
        .with_opt("minping", peer.min_ping_secs)
        .with_opt("pingwait", peer.ping_wait_secs)
        .with("version", peer.version)
        .with("subver", &peer.subver)
        .with("inbound", peer.inbound)
        .with("bip152_hb_to", peer.hb_to)
        .with("bip152_hb_from", peer.hb_from)
        .with("presynced_headers", peer.presynced_headers)
        .with("synced_headers", peer.synced_headers)
        .with("synced_blocks", peer.synced_blocks)
        .with("inflight", Value::arr(peer.inflight.iter().copied()))
        .with("addr_relay_enabled", peer.addr_relay_enabled)
        .with("addr_processed", peer.addr_processed)
        .with("addr_rate_limited", peer.addr_rate_limited)
        .with("permissions", Value::arr(&peer.permissions))
        .with("minfeefilter", peer.min_fee_filter)
        .with("bytessent_per_msg", per_message(&peer.sent_per_msg))
        .with("bytesrecv_per_msg", per_message(&peer.recv_per_msg))
        .with("connection_type", &peer.connection_type)
        .with("transport_protocol_type", &peer.transport)
        .with("session_id", &peer.session_id)
}

/// `warnings` is a list, or the last one alone where `-deprecatedrpc=warnings` asks for it.
pub fn network(info: &NetworkInfo, warnings_as_text: bool) -> Value {
    let networks = info.networks.iter().map(|entry| {
        Value::obj()
            .with("name", &entry.name)
            .with("limited", !entry.reachable)
            .with("reachable", entry.reachable)
            .with("proxy", &entry.proxy)
            .with("proxy_randomize_credentials", entry.proxy_randomize_credentials)
    });
    let local = info
        .local_addresses
        .iter()
        .map(|local| Value::obj().with("address", &local.address).with("port", local.port).with("score", local.score));
    let warnings = if warnings_as_text {
        info.warnings.last().cloned().unwrap_or_default().into()
    } else {
        Value::arr(&info.warnings)
    };
    Value::obj()
        .with("version", info.version)
        .with("subversion", &info.subversion)
        .with("protocolversion", info.protocol_version)
        .with("localservices", services_hex(info.local_services))
        .with("localservicesnames", service_names(info.local_services))
        .with("localrelay", info.local_relay)
        .with("timeoffset", info.time_offset_secs)
        .with("networkactive", info.active)
        .with("connections", info.connections_in + info.connections_out)
        .with("connections_in", info.connections_in)
        .with("connections_out", info.connections_out)
        .with("networks", Value::arr(networks))
        .with("relayfee", info.relay_fee)
        .with("incrementalfee", info.incremental_fee)
        .with("localaddresses", Value::arr(local))
        .with("warnings", warnings)
}

pub fn totals(totals: &NetTotals) -> Value {
    // Core shows the system's clock here, not the mock one.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let upload = &totals.upload;
    let target = Value::obj()
        .with("timeframe", upload.timeframe_secs)
        .with("target", upload.target_bytes)
        .with("target_reached", upload.reached)
        .with("serve_historical_blocks", upload.serve_historical_blocks)
        .with("bytes_left_in_cycle", upload.left_bytes)
        .with("time_left_in_cycle", upload.left_secs);
    Value::obj()
        .with("totalbytesrecv", totals.recv_bytes)
        .with("totalbytessent", totals.sent_bytes)
        .with("timemillis", now_ms)
        .with("uploadtarget", target)
}

pub fn added(node: &AddedNode) -> Value {
    let addresses = node.connected.iter().map(|connection| {
        let direction = if connection.inbound { "inbound" } else { "outbound" };
        Value::obj().with("address", &connection.address).with("connected", direction)
    });
    Value::obj()
        .with("addednode", &node.node)
        .with("connected", node.connected.is_some())
        .with("addresses", Value::arr(addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named() {
        assert_eq!(service_names(0x40d).compact(), r#"["NETWORK","BLOOM","WITNESS","NETWORK_LIMITED"]"#);
        assert_eq!(service_names(1 << 20).compact(), r#"["UNKNOWN[2^20]"]"#);
        assert_eq!(services_hex(0xc09), "0000000000000c09");
    }

    #[test]
    fn a_peer_without_pings_has_no_ping_keys() {
        let text = peer(&PeerInfo::default()).compact();
        assert!(!text.contains("ping") && !text.contains("addrbind"), "{text}");
        assert!(text.contains(r#""minfeefilter":0.00000000,"bytessent_per_msg":{}"#), "{text}");
        let pinged = PeerInfo { ping_secs: Some(0.000_123), ..PeerInfo::default() };
        assert!(peer(&pinged).compact().contains(r#""pingtime":0.000123,"version""#));
    }
}
