//! Where the server listens, and which addresses it answers.
//!
//! Without both `-rpcallowip` and `-rpcbind` it stays on loopback. Source: Core's `httpserver.cpp`.

use std::net::IpAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tracing::{info, warn};

use super::{Config, StartReason};
use crate::subnet::Subnet;

/// Connections that the system holds for us until we accept them.
const BACKLOG: u32 = 1024;

/// Loopback, and what `-rpcallowip` adds.
pub fn allowed(options: &[String]) -> Result<Vec<Subnet>, StartReason> {
    let mut subnets: Vec<Subnet> = ["127.0.0.0/8", "::1"].into_iter().filter_map(Subnet::parse).collect();
    for option in options {
        let subnet = Subnet::parse(option).ok_or_else(|| {
            StartReason::Subnet(format!(
                "Invalid -rpcallowip subnet specification: {option}. Valid values are a single IP (e.g. 1.2.3.4), a \
                 network/netmask (e.g. 1.2.3.4/255.255.255.0), a network/CIDR (e.g. 1.2.3.4/24), all ipv4 \
                 (0.0.0.0/0), or all ipv6 (::/0). RFC4193 is allowed only if -cjdnsreachable=0."
            ))
        })?;
        subnets.push(subnet);
    }
    Ok(subnets)
}

/// Binds what can be bound; an error if that is nothing.
pub async fn bind(config: &Config) -> Result<Vec<TcpListener>, StartReason> {
    let mut listeners = Vec::new();
    for (host, port) in endpoints(config)? {
        info!(target: "http", "Binding RPC on address {host} port {port}");
        let Ok(found) = lookup_host((host.as_str(), port)).await else {
            warn!(target: "http", "Could not bind RPC on address {host} port {port}: Address lookup failed.");
            continue;
        };
        for address in found {
            if address.ip().is_unspecified() {
                warn!(
                    target: "http",
                    "The RPC server is not safe to expose to untrusted networks such as the public internet"
                );
            }
            match listen(address) {
                Ok(listener) => listeners.push(listener),
                Err(error) => warn!(target: "http", "Binding RPC on address {address} failed: {error}"),
            }
        }
    }
    if listeners.is_empty() { Err(StartReason::Bind) } else { Ok(listeners) }
}

fn listen(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn endpoints(config: &Config) -> Result<Vec<(String, u16)>, StartReason> {
    if config.bind.is_empty() || config.allow_ip.is_empty() {
        if !config.allow_ip.is_empty() {
            warn!(
                target: "http",
                "Option -rpcallowip was specified without -rpcbind; this doesn't usually make sense"
            );
        }
        if !config.bind.is_empty() {
            warn!(
                target: "http",
                "Option -rpcbind was ignored because -rpcallowip was not specified, refusing to allow everyone to \
                 connect"
            );
        }
        return Ok(vec![("::1".to_owned(), config.port), ("127.0.0.1".to_owned(), config.port)]);
    }
    config.bind.iter().map(|text| endpoint(text, config.port)).collect()
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or a bare IPv6 address.
fn endpoint(text: &str, default_port: u16) -> Result<(String, u16), StartReason> {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), default_port));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok((bare(host), port)),
            _ => Err(StartReason::Config(format!("Invalid port specified in -rpcbind: '{text}'"))),
        },
        _ => Ok((bare(text), default_port)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bind_addresses_are_read_in_all_forms() {
        for (text, host, port) in [
            ("1.2.3.4", "1.2.3.4", 7),
            ("1.2.3.4:80", "1.2.3.4", 80),
            ("::1", "::1", 7),
            ("[::1]", "::1", 7),
            ("[::1]:80", "::1", 80),
            ("localhost", "localhost", 7),
        ] {
            assert_eq!(endpoint(text, 7).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in ["1.2.3.4:0", "1.2.3.4:x", "[::1]:99999"] {
            assert!(endpoint(text, 7).is_err(), "{text}");
        }
    }

    #[test]
    fn binding_elsewhere_needs_allowip_too() {
        let config = Config { bind: vec!["0.0.0.0".into()], port: 1, ..Config::default() };
        let loopback = vec![("::1".to_owned(), 1), ("127.0.0.1".to_owned(), 1)];
        assert_eq!(endpoints(&config).unwrap(), loopback);
        let config = Config { allow_ip: vec!["0.0.0.0/0".into()], ..config };
        assert_eq!(endpoints(&config).unwrap(), vec![("0.0.0.0".to_owned(), 1)]);
        assert!(allowed(&["nonsense".to_owned()]).is_err());
    }
}
