//! Options that say which networks are dialed, and through which proxies: `-proxy`, `-onion`, `-i2psam`, `-onlynet`,
//! `-cjdnsreachable`.
//!
//! Owns Core's rules and error texts for these (init.cpp). A network without a way out is not reachable.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use keyless_kernel::Args;
use keyless_p2p::bitcoin::config::{Config, I2p, Outbound, Password, Proxies, Proxy, TorControl};
use keyless_p2p::bitcoin::{Net, Nets};

use crate::p2p_options::OptionError;

const TOR_SOCKS_PORT: u16 = 9050;
const TOR_CONTROL_PORT: u16 = 9051;
const I2P_SAM_PORT: u16 = 7656;
/// What a local socket's address has room for.
const MAX_SOCKET_PATH_BYTES: usize = 108;

fn refuse<T>(text: impl Into<String>) -> Result<T, OptionError> {
    Err(OptionError(text.into()))
}

/// `host`, `host:port` or `unix:path` as an address to connect to; names are looked up.
fn address(text: &str, default_port: u16) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (1..MAX_SOCKET_PATH_BYTES).contains(&path.len()).then(|| text.to_owned());
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| socket.to_string());
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, default_port).to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()?),
        None => (text, default_port),
    };
    let found = (host, port).to_socket_addrs().ok()?.next()?;
    (port != 0 && !host.is_empty()).then(|| found.to_string())
}

/// Reads all of them.
pub fn read(args: &Args) -> Result<(Proxies, Nets), OptionError> {
    let only = args.get_all("-onlynet");
    let mut reachable: Nets = if only.is_empty() { Net::ALL.into_iter().collect() } else { Nets::NONE };
    for name in &only {
        match name.to_lowercase().parse::<Net>() {
            Ok(net) => reachable = reachable.with(net),
            Err(()) => return refuse(format!("Unknown network specified in -onlynet: '{name}'")),
        }
    }
    let asked_for = |net: Net, reachable: Nets| !only.is_empty() && reachable.has(net);
    if !args.is_set("-cjdnsreachable") {
        if asked_for(Net::Cjdns, reachable) {
            return refuse(
                "Outbound connections restricted to CJDNS (-onlynet=cjdns) but -cjdnsreachable is not provided",
            );
        }
        reachable = reachable.without(Net::Cjdns);
    }
    let clearnet = reachable.has(Net::Ipv4) || reachable.has(Net::Ipv6);
    if args.get_bool("-dnsseed", false) && !clearnet {
        return refuse(
            "Incompatible options: -dnsseed=1 was explicitly specified, but -onlynet forbids connections to IPv4/IPv6",
        );
    }
    let randomize = args.get_bool("-proxyrandomize", true);
    let mut proxies = general(&args.get_all("-proxy"), randomize)?;
    let onion_asked = asked_for(Net::Onion, reachable);
    onion(args, &mut proxies, randomize, onion_asked)?;
    if proxies.onion.is_none() {
        if onion_asked && !args.get_bool("-listenonion", true) {
            return refuse(
                "Outbound connections restricted to Tor (-onlynet=onion) but the proxy for reaching the Tor network is \
                 not provided: none of -proxy, -onion or -listenonion is given",
            );
        }
        reachable = reachable.without(Net::Onion);
    }
    match args.get("-i2psam").filter(|text| !text.is_empty()) {
        // A bridge is never a local socket.
        Some(text) => match address(&text, I2P_SAM_PORT).filter(|_| !text.starts_with("unix:")) {
            Some(address) => proxies.i2p = Some(Proxy { address, randomize: false }),
            None => return refuse(format!("Invalid -i2psam address or hostname: '{text}'")),
        },
        None if asked_for(Net::I2p, reachable) => {
            return refuse("Outbound connections restricted to i2p (-onlynet=i2p) but -i2psam is not provided");
        }
        None => reachable = reachable.without(Net::I2p),
    }
    Ok((proxies, reachable))
}

fn general(values: &[String], randomize: bool) -> Result<Proxies, OptionError> {
    let mut proxies = Proxies::default();
    for value in values {
        let (text, net) = match value.rsplit_once('=') {
            Some((_, "")) => {
                return refuse(format!("Invalid -proxy address or hostname, ends with '=': '{value}'"));
            }
            Some((text, net)) => (text, net.to_lowercase()),
            None => (value.as_str(), String::new()),
        };
        let proxy = match text {
            "" | "0" => None,
            _ => match address(text, TOR_SOCKS_PORT) {
                Some(address) => Some(Proxy { address, randomize }),
                None => return refuse(format!("Invalid -proxy address or hostname: '{text}'")),
            },
        };
        match net.as_str() {
            "" => {
                let (ipv4, ipv6, cjdns) = (proxy.clone(), proxy.clone(), proxy.clone());
                proxies = Proxies { ipv4, ipv6, cjdns, onion: proxy.clone(), names: proxy, i2p: None };
            }
            "ipv4" => {
                proxies.ipv4.clone_from(&proxy);
                proxies.names = proxy;
            }
            "ipv6" => {
                proxies.ipv6.clone_from(&proxy);
                proxies.names = proxy;
            }
            "onion" => proxies.onion = proxy,
            "cjdns" => proxies.cjdns = proxy,
            _ => return refuse(format!("Unrecognized network in -proxy='{value}': '{net}'")),
        }
    }
    Ok(proxies)
}

/// How I2P is reached through the bridge that was named.
pub fn i2p(args: &Args, proxies: &Proxies) -> Option<I2p> {
    let bridge = proxies.i2p.as_ref()?.address.clone();
    let reached = args.get_bool("-i2pacceptincoming", true);
    Some(I2p { bridge, key_file: reached.then(|| args.datadir_net().join("i2p_private_key")) })
}

/// What Tor's control port is asked, if a service is to be made.
pub fn tor(args: &Args, config: &Config) -> Option<TorControl> {
    if !args.get_bool("-listenonion", true) {
        return None;
    }
    let onions: Vec<SocketAddr> = config.binds.iter().filter(|bind| bind.onion).map(|bind| bind.address).collect();
    let plain = config.binds.iter().find(|bind| bind.permissions.is_none()).map(|bind| bind.address);
    let target = onions.first().copied().or(plain)?;
    if onions.len() > 1 {
        args.init_warning(&format!(
            "More than one onion bind address is provided. Using {target} for the automatically created Tor onion service."
        ));
    }
    let only = args.get_all("-onlynet");
    let named = args.get("-torcontrol").unwrap_or_else(|| format!("127.0.0.1:{TOR_CONTROL_PORT}"));
    Some(TorControl {
        address: socket_text(&named, TOR_CONTROL_PORT),
        password: Password::new(args.get("-torpassword").unwrap_or_default()),
        key_file: args.datadir_net().join("onion_v3_private_key"),
        target,
        port: config.default_port,
        asks_for_proxy: args.get("-onion").unwrap_or_default().is_empty(),
        calls: only.is_empty() || only.iter().any(|name| name.to_lowercase() == Net::Onion.name()),
    })
}

/// With a port, whether it is a number or a name.
fn socket_text(text: &str, default_port: u16) -> String {
    if text.parse::<SocketAddr>().is_ok() {
        return text.to_owned();
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return SocketAddr::new(ip, default_port).to_string();
    }
    if text.contains(':') { text.to_owned() } else { format!("{text}:{default_port}") }
}

/// Whether own transactions are to leave by connections of their own, for which Tor or I2P has to be reachable, now or once
/// Tor's control port was asked.
pub fn private_broadcast(args: &Args, reachable: Nets, outbound: &Outbound) -> Result<bool, OptionError> {
    const ASKED: &str = "Private broadcast of own transactions requested (-privatebroadcast)";
    if !args.get_bool("-privatebroadcast", false) {
        return Ok(false);
    }
    let only = args.get_all("-onlynet");
    let may_be_onion = only.is_empty() || only.iter().any(|name| name.to_lowercase() == Net::Onion.name());
    let onion_may_come = args.get_bool("-listenonion", true) && may_be_onion;
    if !reachable.has(Net::I2p) && !reachable.has(Net::Onion) && !onion_may_come {
        return refuse(format!("{ASKED}, but none of Tor or I2P networks is reachable"));
    }
    if *outbound != Outbound::Automatic {
        return refuse(format!(
            "{ASKED}, but -connect is also configured. They are incompatible because the private broadcast needs to open \
             new connections to randomly chosen Tor or I2P peers. Consider using -maxconnections=0 -addnode=... instead"
        ));
    }
    if !args.get_bool("-proxyrandomize", true) && (reachable.has(Net::Onion) || onion_may_come) {
        args.init_warning(&format!(
            "{ASKED} and -proxyrandomize is disabled. Tor circuits for private broadcast connections may be correlated to \
             other connections over Tor. For maximum privacy set -proxyrandomize=1."
        ));
    }
    Ok(true)
}

/// `-onion` replaces what `-proxy` says for Tor; 0 forbids it.
fn onion(args: &Args, proxies: &mut Proxies, randomize: bool, asked_for: bool) -> Result<(), OptionError> {
    match args.get("-onion").unwrap_or_default().as_str() {
        "" => {}
        "0" if asked_for => {
            return refuse(
                "Outbound connections restricted to Tor (-onlynet=onion) but the proxy for reaching the Tor network is \
                 explicitly forbidden: -onion=0",
            );
        }
        "0" => proxies.onion = None,
        text => match address(text, TOR_SOCKS_PORT) {
            Some(address) => proxies.onion = Some(Proxy { address, randomize }),
            None => return refuse(format!("Invalid -onion address or hostname: '{text}'")),
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<Proxies, OptionError> {
        general(&values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>(), true)
    }

    #[test]
    fn a_proxy_is_for_all_networks_or_for_one() {
        let all = of(&["127.0.0.1"]).unwrap();
        assert_eq!(all.ipv4.as_ref().unwrap().address, "127.0.0.1:9050");
        assert_eq!(all.onion, all.names);
        let two = of(&["127.0.0.1:1", "unix:/tmp/tor=onion", "0=ipv6"]).unwrap();
        assert_eq!(two.onion.unwrap().address, "unix:/tmp/tor");
        assert_eq!((two.ipv4.is_some(), two.ipv6, two.names), (true, None, None));
    }

    #[test]
    fn cores_words_name_what_is_wrong() {
        let text = |value: &str| of(&[value]).unwrap_err().0;
        assert_eq!(text("127.0.0.1:1="), "Invalid -proxy address or hostname, ends with '=': '127.0.0.1:1='");
        assert_eq!(text("127.0.0.1:1=i3p"), "Unrecognized network in -proxy='127.0.0.1:1=i3p': 'i3p'");
        assert_eq!(text("127.0.0.1:99999"), "Invalid -proxy address or hostname: '127.0.0.1:99999'");
    }
}
