//! Readiness for systemd (`Type=notify`): one datagram to the socket that `NOTIFY_SOCKET` names, see sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1`, if anybody asked for it.
pub fn tell_service_manager() {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name) {
        tracing::warn!(%error, "the service manager could not be told that the node is ready");
    }
}

fn send(name: &str) -> std::io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address).map(drop)
}
