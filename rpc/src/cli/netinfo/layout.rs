//! The table itself. Pure: peers and facts in, text out.

use super::View;
use crate::cli::names::names;
use crate::json::Value;

/// Networks as getpeerinfo names them, and short.
const NETWORKS: [(&str, &str); 7] = [
    ("not_publicly_routable", "npr"),
    ("ipv4", "ipv4"),
    ("ipv6", "ipv6"),
    ("onion", "onion"),
    ("i2p", "i2p"),
    ("cjdns", "cjdns"),
    ("internal", "int"),
];
/// Of those: not networks that one reaches out to.
const UNREACHABLE: [usize; 2] = [0, 6];
/// Pings longer than this are not shown.
const LONGEST_PING_MS: f64 = 999_999.0;

/// How many peers: per network, and in all.
#[derive(Clone, Copy, Default)]
struct Counts {
    by_network: [usize; NETWORKS.len()],
    all: usize,
}

impl Counts {
    fn add(&mut self, network: usize) {
        if let Some(count) = self.by_network.get_mut(network) {
            *count += 1;
        }
        self.all += 1;
    }
}

struct Peer<'a> {
    facts: &'a Value,
    network: &'static str,
    outbound: bool,
}

impl Peer<'_> {
    fn int(&self, key: &str) -> i64 {
        self.facts.member(key).as_i64().unwrap_or(0)
    }

    fn text(&self, key: &str) -> &str {
        self.facts.member(key).as_str().unwrap_or_default()
    }

    fn flag(&self, key: &str) -> bool {
        self.facts.member(key).as_bool().unwrap_or(false)
    }

    fn ping_secs(&self, key: &str) -> f64 {
        self.facts.member(key).as_f64().unwrap_or(-1.0)
    }

    fn age(&self, now: i64) -> String {
        match self.int("conntime") {
            0 => String::new(),
            since => ((now - since) / 60).to_string(),
        }
    }
}

/// Widths of the columns that grow.
struct Widths {
    services: usize,
    processed: usize,
    limited: usize,
    age: usize,
    id: usize,
    address: usize,
    asmap: usize,
}

fn network_index(name: &str) -> Option<usize> {
    NETWORKS.iter().position(|(known, _)| *known == name)
}

/// The whole text.
pub fn dashboard(view: View, chain: &str, peers: &[Value], network: &Value, now: i64) -> String {
    let (mut inbound, mut outbound, mut total) = (Counts::default(), Counts::default(), Counts::default());
    let (mut block_only, mut manual) = (0usize, 0usize);
    let mut listed = Vec::new();
    for facts in peers {
        let Some(index) = network_index(facts.member("network").val_str()) else {
            continue;
        };
        let is_outbound = facts.member("inbound").as_bool() == Some(false);
        if is_outbound {
            outbound.add(index)
        } else {
            inbound.add(index)
        }
        total.add(index);
        match facts.member("connection_type").val_str() {
            "block-relay-only" => block_only += 1,
            "manual" => manual += 1,
            _ => {}
        }
        if view.level > 0 && (is_outbound || !view.outbound_only) {
            let short = NETWORKS.get(index).map_or("", |(_, short)| *short);
            listed.push(Peer { facts, network: short, outbound: is_outbound });
        }
    }
    let mut text = header(view, chain, network);
    if !listed.is_empty() {
        listed.sort_by(|left, right| {
            let pings = left.ping_secs("minping").total_cmp(&right.ping_secs("minping"));
            left.outbound.cmp(&right.outbound).then(pings)
        });
        text.push_str(&peer_lines(view, &listed, now));
    }
    text.push_str(&count_lines(network, [inbound, outbound, total], block_only, manual));
    if view.level == 0 {
        text.push_str(&format!("\n\nLocal services: {}", services_in_words(network.member("localservicesnames"))));
    }
    text.push_str(&local_addresses(network));
    text
}

fn header(view: View, chain: &str, network: &Value) -> String {
    let services = if view.level > 0 {
        format!(" - services {}", services_short(network.member("localservicesnames")))
    } else {
        String::new()
    };
    format!(
        "{} client v{}{chain} - server {}{}{services}\n\n",
        names().product,
        env!("CARGO_PKG_VERSION"),
        network.member("protocolversion").val_str(),
        network.member("subversion").val_str(),
    )
}

fn services_short(names: &Value) -> String {
    let letter = |name: &str| match name {
        "NETWORK_LIMITED" => 'l',
        "P2P_V2" => '2',
        other => other.chars().next().unwrap_or(' ').to_ascii_lowercase(),
    };
    names.as_arr().unwrap_or_default().iter().map(|name| letter(name.val_str())).collect()
}

fn services_in_words(names: &Value) -> String {
    let words = names.as_arr().unwrap_or_default().iter();
    let words: Vec<String> = words.map(|name| name.val_str().to_lowercase().replace('_', " ")).collect();
    words.join(", ")
}

fn widths(view: View, peers: &[Peer<'_>], now: i64) -> Widths {
    let widest =
        |least: usize, width: &dyn Fn(&Peer<'_>) -> usize| peers.iter().map(width).max().unwrap_or(0).max(least);
    let digits = |key: &'static str| move |peer: &Peer<'_>| peer.int(key).to_string().len();
    Widths {
        services: widest(6, &|peer| services_short(peer.facts.member("servicesnames")).len()),
        processed: widest(5, &digits("addr_processed")),
        limited: widest(6, &digits("addr_rate_limited")),
        age: widest(5, &|peer| peer.age(now).len()),
        id: widest(2, &digits("id")),
        address: if view.addresses() { widest(0, &|peer| peer.text("addr").len() + 1) } else { 0 },
        asmap: if peers.iter().any(|peer| peer.int("mapped_as") != 0) { 7 } else { 0 },
    }
}

fn peer_lines(view: View, peers: &[Peer<'_>], now: i64) -> String {
    let w = widths(view, peers, now);
    let mut text = format!(
        "<->   type   net {:>services$}  v  mping   ping send recv  txn  blk  hb {:>processed$}{:>limited$}{:>age$} ",
        "serv",
        "addrp",
        "addrl",
        "age",
        services = w.services,
        processed = w.processed,
        limited = w.limited,
        age = w.age,
    );
    text.push_str(if w.asmap > 0 { " asmap " } else { "" });
    let address = if view.addresses() { "address" } else { "" };
    let version = if view.versions() { "version" } else { "" };
    text.push_str(&format!("{:>id$} {address:<width$}{version}\n", "id", id = w.id, width = w.address));
    for peer in peers {
        text.push_str(&peer_line(view, peer, &w, now));
    }
    let (services, age) = (w.services, w.age);
    let blank = "";
    text.push_str(&format!(
        "                {blank:>services$}         ms     ms  sec  sec  min  min                {:>age$}\n\n",
        "min"
    ));
    text
}

fn peer_line(view: View, peer: &Peer<'_>, w: &Widths, now: i64) -> String {
    let since = |key: &str, unit: i64| match peer.int(key) {
        0 => String::new(),
        then => ((now - then) / unit).to_string(),
    };
    let relays_tx = peer.facts.member("relaytxes").as_bool().unwrap_or(true);
    let txn = match since("last_transaction", 60) {
        empty if empty.is_empty() && !relays_tx => "*".to_owned(),
        shown => shown,
    };
    let hb = format!(
        "{}{}",
        if peer.flag("bip152_hb_to") { "." } else { " " },
        if peer.flag("bip152_hb_from") { "*" } else { " " }
    );
    let processed = match peer.int("addr_processed") {
        0 if peer.flag("addr_relay_enabled") => String::new(),
        0 => ".".to_owned(),
        count => count.to_string(),
    };
    let or_empty = |count: i64| if count == 0 { String::new() } else { count.to_string() };
    let version = format!("{}{}", peer.int("version"), peer.text("subver"));
    let line = format!(
        "{:>3} {:>6} {:>5} {:>services$} {:>2}{:>7}{:>7}{:>5}{:>5}{txn:>5}{:>5}  {hb:>2} {processed:>processed_width$}\
         {:>limited$}{:>age$}{:>asmap$} {:>id$} {:<address$}{}",
        if peer.outbound { "out" } else { "in" },
        connection_type(peer.text("connection_type")),
        peer.network,
        services_short(peer.facts.member("servicesnames")),
        peer.text("transport_protocol_type").strip_prefix('v').unwrap_or(" "),
        ping(peer.ping_secs("minping")),
        ping(peer.ping_secs("pingtime")),
        since("lastsend", 1),
        since("lastrecv", 1),
        since("last_block", 60),
        or_empty(peer.int("addr_rate_limited")),
        peer.age(now),
        or_empty(peer.int("mapped_as")),
        peer.int("id"),
        if view.addresses() { peer.text("addr") } else { "" },
        if view.versions() && version != "0" { version.as_str() } else { "" },
        services = w.services,
        processed_width = w.processed,
        limited = w.limited,
        age = w.age,
        asmap = w.asmap,
        id = w.id,
        address = w.address,
    );
    format!("{line}\n")
}

fn ping(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round();
    match seconds {
        none if none < 0.0 => String::new(),
        _ if ms > LONGEST_PING_MS => "-".to_owned(),
        _ => format!("{ms}"),
    }
}

fn connection_type(name: &str) -> &str {
    match name {
        "outbound-full-relay" => "full",
        "block-relay-only" => "block",
        "manual" | "feeler" => name,
        "addr-fetch" => "addr",
        "private-broadcast" => "priv",
        _ => "",
    }
}

fn count_lines(network: &Value, counts: [Counts; 3], block_only: usize, manual: usize) -> String {
    let of = |counts: &Counts, index: usize| counts.by_network.get(index).copied().unwrap_or(0);
    let mut text = "     ".to_owned();
    let mut columns = Vec::new();
    for entry in network.member("networks").as_arr().unwrap_or_default() {
        let name = entry.member("name").val_str();
        if let Some(index) = network_index(name).filter(|_| entry.member("reachable").as_bool() == Some(true)) {
            text.push_str(&format!("{name:>8}"));
            columns.push(index);
        }
    }
    for index in UNREACHABLE {
        if counts.last().is_some_and(|total| of(total, index) > 0) {
            text.push_str(&format!("{:>8}", NETWORKS.get(index).map_or("", |(_, short)| *short)));
            columns.push(index);
        }
    }
    text.push_str("   total   block");
    text.push_str(if manual > 0 { "  manual" } else { "" });
    for (name, row) in ["in", "out", "total"].into_iter().zip(&counts) {
        text.push_str(&format!("\n{name:<5}"));
        for index in &columns {
            text.push_str(&format!("{:>8}", of(row, *index)));
        }
        text.push_str(&format!("   {:>5}", row.all));
        if name == "out" {
            text.push_str(&format!("   {block_only:>5}"));
            if manual > 0 {
                text.push_str(&format!("   {manual:>5}"));
            }
        }
    }
    text
}

fn local_addresses(network: &Value) -> String {
    let local = network.member("localaddresses").as_arr().unwrap_or_default();
    if local.is_empty() {
        return "\n\nLocal addresses: n/a\n".to_owned();
    }
    let width = local.iter().map(|entry| entry.member("address").val_str().len() + 1).max().unwrap_or(0);
    let mut text = "\n\nLocal addresses".to_owned();
    for entry in local {
        let (address, port) = (entry.member("address").val_str(), entry.member("port").val_str());
        let score = entry.member("score").val_str();
        text.push_str(&format!("\n{address:<width$}    port {port:>6}    score {score:>6}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NETWORK: &str = r#"{"protocolversion":70016,"subversion":"/S/","localservicesnames":["NETWORK","WITNESS",
        "NETWORK_LIMITED","P2P_V2"],"networks":[{"name":"ipv4","reachable":true},{"name":"onion","reachable":false}],
        "localaddresses":[]}"#;
    const PEER: &str = r#"{"id":7,"addr":"1.2.3.4:5","network":"ipv4","servicesnames":["NETWORK","WITNESS"],
        "relaytxes":false,"lastsend":990,"lastrecv":999,"last_transaction":0,"last_block":0,"conntime":400,
        "minping":0.0012,"pingtime":0.0034,"version":70016,"subver":"/T/","inbound":false,"bip152_hb_to":true,
        "bip152_hb_from":false,"addr_relay_enabled":false,"addr_processed":0,"addr_rate_limited":0,
        "connection_type":"manual","transport_protocol_type":"v2"}"#;

    #[test]
    fn peers_and_counts_stand_in_their_columns() {
        let peers = [Value::parse(PEER).unwrap()];
        let network = Value::parse(NETWORK).unwrap();
        let view = View { level: 4, outbound_only: true };
        let text = dashboard(view, " regtest", &peers, &network, 1000);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" regtest - server 70016/S/ - services nwl2"), "{text}");
        assert_eq!(
            lines[2],
            "<->   type   net   serv  v  mping   ping send recv  txn  blk  hb addrp addrl  age id address   version"
        );
        assert_eq!(
            lines[3],
            "out manual  ipv4     nw  2      1      3   10    1    *       .      .         10  7 1.2.3.4:5 70016/T/"
        );
        assert!(text.contains("         ipv4   total   block  manual\nin          0       0\n"), "{text}");
        assert!(text.contains("\nout         1       1       0       1\ntotal       1       1"), "{text}");
        assert!(text.ends_with("\n\nLocal addresses: n/a\n"), "{text}");
    }

    #[test]
    fn without_details_services_stand_below() {
        let network = Value::parse(NETWORK).unwrap();
        let text = dashboard(View::default(), "", &[], &network, 1000);
        assert!(text.contains("\nLocal services: network, witness, network limited, p2p v2\n"), "{text}");
    }
}
