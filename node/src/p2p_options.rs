//! Options of the Bitcoin network: from Core's argument names to [`keyless_p2p::bitcoin::Config`].
//!
//! Owns Core's error texts for these options (init.cpp, steps 6 and 12). What Core's own parameter interaction sets
//! (`-connect=0` turns listening off, `-bind` turns it on) has happened before.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bitcoin::p2p::Magic;
use keyless_kernel::Args;
use keyless_kernel::chain::ChainParams;
use keyless_p2p::bitcoin::NetAddr;
use keyless_p2p::bitcoin::config::{Bind, Config, Outbound, parse_whitebind, parse_whitelist};

const CLIENT_VERSION: &str = "31.99.0";
/// Core's `MAX_SUBVERSION_LENGTH`, bytes.
const MAX_USER_AGENT_BYTES: usize = 256;
const SAFE_COMMENT_PUNCTUATION: &str = " .,;-_?@";

/// An option of the network was refused; the text is Core's, without `Error: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(pub String);

/// Reads all options of the Bitcoin network.
pub fn config(args: &Args, chain: &ChainParams) -> Result<Config, OptionError> {
    let mut config = Config::new(args.chain());
    config.magic = Magic::from_bytes(chain.magic);
    config.user_agent = user_agent(&args.get_all("-uacomment"))?;
    config.binds = binds(args, config.default_port)?;
    config.outbound = outbound(args);
    config.added = args.get_all("-addnode");
    config.seed_nodes = args.get_all("-seednode");
    if let Outbound::Only(nodes) = &config.outbound {
        if !nodes.is_empty() && !config.seed_nodes.is_empty() {
            tracing::info!("-seednode is ignored when -connect is used");
        }
        if args.is_set("-dnsseed") && args.get_bool("-dnsseed", true) && args.is_set("-proxy") {
            tracing::info!("-dnsseed is ignored when -connect is used and -proxy is specified");
        }
    }
    // Core: `-connect` sets `-dnsseed=0`, unless it is given.
    (config.proxies, config.reachable) = crate::proxy_options::read(args)?;
    config.i2p = crate::proxy_options::i2p(args, &config.proxies);
    config.tor = crate::proxy_options::tor(args, &config);
    config.fixed_seeds = args.get_bool("-fixedseeds", true);
    if args.get_bool("-dnsseed", matches!(config.outbound, Outbound::Automatic)) {
        config.dns_seeds.clone_from(&chain.dns_seeds);
    }
    config.max_connections = count(args, "-maxconnections", config.max_connections);
    config.peer_timeout = seconds(args, "-peertimeout", config.peer_timeout)?;
    if let Some(ms) = args.get_int("-timeout").and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0) {
        config.connect_timeout = Duration::from_millis(ms);
    }
    config.ban_time = seconds(args, "-bantime", config.ban_time)?;
    for entry in args.get_all("-whitelist") {
        config.whitelist.push(parse_whitelist(&entry).map_err(|e| OptionError(e.to_string()))?);
    }
    config.whitelist_relay = args.get_bool("-whitelistrelay", config.whitelist_relay);
    config.whitelist_force_relay = args.get_bool("-whitelistforcerelay", config.whitelist_force_relay);
    config.blocks_only = args.get_bool("-blocksonly", false);
    config.v2_transport = args.get_bool("-v2transport", true);
    config.tx_reconciliation = args.get_bool("-txreconciliation", false);
    config.private_broadcast = crate::proxy_options::private_broadcast(args, config.reachable, &config.outbound)?;
    config.network_active = args.get_bool("-networkactive", true);
    config.dns = args.get_bool("-dns", true);
    config.external = external_addresses(args, config.default_port, config.dns)?;
    // Core keeps no address of its own that nobody can reach; by a network that it does not dial others may come.
    config.external.retain(|address| address.is_routable());
    config.discover = args.get_bool("-discover", true);
    config.max_receive_bytes = kilobytes(args, "-maxreceivebuffer", config.max_receive_bytes);
    config.max_send_bytes = kilobytes(args, "-maxsendbuffer", config.max_send_bytes);
    config.max_upload_bytes = upload_target(args)?;
    config.force_dns_seed = args.get_bool("-forcednsseed", false);
    config.log_ips = args.get_bool("-logips", false);
    let folder = args.datadir_net();
    config.ban_file = Some(folder.join("banlist.json"));
    if args.get_bool("-capturemessages", false) {
        config.capture_dir = Some(folder.join("message_capture"));
    }
    Ok(config)
}

/// `/Satoshi:31.99.0(comment; comment)/`, as BIP 14 has it.
fn user_agent(comments: &[String]) -> Result<String, OptionError> {
    let safe = |c: char| c.is_ascii_alphanumeric() || SAFE_COMMENT_PUNCTUATION.contains(c);
    if let Some(bad) = comments.iter().find(|comment| !comment.chars().all(safe)) {
        return Err(OptionError(format!("User Agent comment ({bad}) contains unsafe characters.")));
    }
    let comments = if comments.is_empty() { String::new() } else { format!("({})", comments.join("; ")) };
    let text = format!("/Satoshi:{CLIENT_VERSION}{comments}/");
    if text.len() > MAX_USER_AGENT_BYTES {
        return Err(OptionError(format!(
            "Total length of network version string ({}) exceeds maximum length ({MAX_USER_AGENT_BYTES}). Reduce the \
             number or size of uacomments.",
            text.len()
        )));
    }
    Ok(text)
}

fn binds(args: &Args, default_port: u16) -> Result<Vec<Bind>, OptionError> {
    if !args.get_bool("-listen", true) {
        return Ok(Vec::new());
    }
    let port = port(args, default_port)?;
    let mut binds = Vec::new();
    for value in args.get_all("-bind") {
        let (text, onion) = match value.rsplit_once('=') {
            None => (value.as_str(), false),
            Some((text, "onion")) => (text, true),
            Some(_) => return Err(cannot_resolve("bind", &value)),
        };
        let default = if onion { port.saturating_add(1) } else { port };
        let address = Args::numeric_address(text, default).ok_or_else(|| cannot_resolve("bind", &value))?;
        if !onion {
            warn_of_bad_port(args, "-bind", address.port());
        }
        binds.push(Bind { address, permissions: None, onion });
    }
    for value in args.get_all("-whitebind") {
        let (permissions, address) = {
            let read = |text: &str| Args::numeric_address(text, 0);
            parse_whitebind(&value, read).map_err(|e| OptionError(e.to_string()))?
        };
        binds.push(Bind { address, permissions: Some(permissions), onion: false });
    }
    if binds.is_empty() {
        if args.is_set("-port") {
            warn_of_bad_port(args, "-port", port);
        }
        binds.push(Bind::plain(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        binds.push(Bind::plain(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))));
    }
    if args.get_all("-bind").is_empty() {
        let onion = SocketAddr::from((Ipv4Addr::LOCALHOST, port.saturating_add(1)));
        binds.push(Bind { address: onion, permissions: None, onion: true });
    }
    if let Some(twice) = first_duplicate(&binds) {
        return Err(OptionError(format!(
            "Duplicate binding configuration for address {twice}. Please check your -bind, -bind=...=onion and \
             -whitebind settings."
        )));
    }
    Ok(binds)
}

fn warn_of_bad_port(args: &Args, option: &str, port: u16) {
    if Args::is_bad_port(port) {
        args.init_warning(&format!(
            "{option} request to listen on port {port}. This port is considered \"bad\" and thus it is unlikely that any \
             peer will connect to it. See doc/p2p-bad-ports.md for details and a full list."
        ));
    }
}

fn first_duplicate(binds: &[Bind]) -> Option<SocketAddr> {
    let mut seen = std::collections::HashSet::new();
    binds.iter().map(|bind| bind.address).find(|address| !seen.insert(*address))
}

fn port(args: &Args, default_port: u16) -> Result<u16, OptionError> {
    let Some(text) = args.get("-port") else { return Ok(default_port) };
    let parsed = text.parse::<u16>().ok().filter(|port| *port != 0);
    parsed.ok_or_else(|| OptionError(format!("Invalid port specified in -port: '{text}'")))
}

fn outbound(args: &Args) -> Outbound {
    let connect = args.get_all("-connect");
    if connect.is_empty() && !args.is_negated("-connect") {
        return Outbound::Automatic;
    }
    let none = connect.len() == 1 && connect.first().is_some_and(|only| only == "0");
    Outbound::Only(if none { Vec::new() } else { connect })
}

fn external_addresses(args: &Args, default_port: u16, dns: bool) -> Result<Vec<NetAddr>, OptionError> {
    let port = port(args, default_port)?;
    let parse = |text: String| {
        let address = NetAddr::parse(&text, port).or_else(|| if dns { looked_up(&text, port) } else { None });
        address.ok_or_else(|| cannot_resolve("externalip", &text))
    };
    args.get_all("-externalip").into_iter().map(parse).collect()
}

/// The first address of a name, with the port after its colon or the default one. Blocks, as Core does at start.
fn looked_up(text: &str, default_port: u16) -> Option<NetAddr> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, default_port),
    };
    if host.is_empty() {
        return None;
    }
    (host, port).to_socket_addrs().ok()?.next().map(NetAddr::from)
}

fn cannot_resolve(option: &str, value: &str) -> OptionError {
    OptionError(format!("Cannot resolve -{option} address: '{value}'"))
}

fn count(args: &Args, name: &str, default: usize) -> usize {
    args.get_int(name).map_or(default, |value| usize::try_from(value).unwrap_or(0))
}

fn kilobytes(args: &Args, name: &str, default: usize) -> usize {
    args.get_int(name).map_or(default, |value| usize::try_from(value).unwrap_or(0).saturating_mul(1000))
}

/// `-maxuploadtarget`: a number with Core's unit (`k` for 1,000, `K` for 1,024, and so on); MiB without one.
fn upload_target(args: &Args) -> Result<u64, OptionError> {
    let Some(text) = args.get("-maxuploadtarget") else { return Ok(0) };
    byte_units(&text).ok_or_else(|| OptionError(format!("Unable to parse -maxuploadtarget: '{text}'")))
}

fn byte_units(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "k" => 1_000,
        "K" => 1 << 10,
        "m" => 1_000_000,
        "" | "M" => 1 << 20,
        "g" => 1_000_000_000,
        "G" => 1 << 30,
        "t" => 1_000_000_000_000,
        "T" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn seconds(args: &Args, name: &str, default: Duration) -> Result<Duration, OptionError> {
    match args.get_int(name) {
        None => Ok(default),
        Some(value) => match u64::try_from(value) {
            Ok(secs) if secs > 0 || name == "-bantime" => Ok(Duration::from_secs(secs)),
            _ => Err(OptionError(format!("{} must be a positive integer.", name.trim_start_matches('-')))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_stand_in_brackets_and_are_checked() {
        assert_eq!(user_agent(&[]).unwrap(), "/Satoshi:31.99.0/");
        let two = ["testnode0".to_owned(), "foo".to_owned()];
        assert_eq!(user_agent(&two).unwrap(), "/Satoshi:31.99.0(testnode0; foo)/");
        let unsafe_comment = user_agent(&["a(b".to_owned()]).unwrap_err();
        assert_eq!(unsafe_comment.0, "User Agent comment (a(b) contains unsafe characters.");
        let long = user_agent(&["a".repeat(257)]).unwrap_err();
        assert!(long.0.contains("exceeds maximum length (256)"), "{long}");
    }

    #[test]
    fn names_of_our_own_are_looked_up_with_their_port() {
        let found = |text| looked_up(text, 8333).map(|address| (address.is_routable(), address.port()));
        assert_eq!(found("127.0.0.1"), Some((false, 8333)));
        assert_eq!(found("127.0.0.1:5"), Some((false, 5)));
        assert_eq!(found("127.0.0.1:66666"), None);
        // A system without /etc/hosts has no name that is known beforehand.
        if ("localhost", 0).to_socket_addrs().is_ok() {
            assert_eq!(found("localhost"), Some((false, 8333)));
            assert_eq!(found("localhost:5"), Some((false, 5)));
            assert_eq!(found("localhost:66666"), None);
        }
        assert_eq!(found(""), None);
    }

    #[test]
    fn upload_targets_come_with_units() {
        let sizes = ["800M", "5", "2k", "1x", "M", "-1"].map(byte_units);
        assert_eq!(sizes, [Some(800 << 20), Some(5 << 20), Some(2_000), None, None, None]);
    }

    #[test]
    fn addresses_take_the_default_port_unless_they_bring_one() {
        let text = |t| Args::numeric_address(t, 18444).map(|a| a.to_string());
        assert_eq!(text("127.0.0.1").unwrap(), "127.0.0.1:18444");
        assert_eq!(text("127.0.0.1:1").unwrap(), "127.0.0.1:1");
        assert_eq!(text("::1").unwrap(), "[::1]:18444");
        assert_eq!(text("[::1]").unwrap(), "[::1]:18444");
        assert_eq!(text("[::1]:5").unwrap(), "[::1]:5");
        assert_eq!(text("127.1").unwrap(), "127.0.0.1:18444");
        assert_eq!(text("0x7f.1:5").unwrap(), "127.0.0.1:5");
        assert_eq!(text("localhost"), None);
        assert_eq!(text("not.an.address"), None);
    }
}
