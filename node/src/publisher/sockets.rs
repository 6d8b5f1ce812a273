//! libzmq's publishing sockets: one for each address, shared by the notifiers that name it.
//!
//! Sending never waits: a subscriber that has as many messages before it as the high water mark allows misses the next.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::options::Wanted;

/// Subscribers send no more than the topics they want.
const MAX_INBOUND_BYTES: i64 = 8 * 1024;
/// What did not work, in Core's words, and libzmq's reason.
type Step = (&'static str, zmq::Error);

#[derive(Default)]
pub(super) struct Sockets {
    open: BTreeMap<String, zmq::Socket>,
    /// Made with the first socket.
    context: Option<zmq::Context>,
}

impl Sockets {
    /// Opens the address, unless it is open. The first notifier of an address says how much may wait there.
    pub fn bind(&mut self, wanted: &Wanted) -> Result<(), zmq::Error> {
        let Wanted { topic, address, high_water_mark } = wanted;
        let known = self.open.contains_key(address);
        if known {
            tracing::debug!(target: "zmq", "Reusing socket for address {address}");
        }
        let kind = topic.kind();
        tracing::debug!(
            target: "zmq", "Outbound message high water mark for {kind} at {address} is {high_water_mark}"
        );
        if known {
            return Ok(());
        }
        let context = self.context.get_or_insert_with(zmq::Context::new);
        let socket = bound(context, address, *high_water_mark).map_err(|(step, error)| {
            tracing::debug!(target: "zmq", "Error: {step}, msg: {error}");
            error
        })?;
        self.open.insert(address.clone(), socket);
        Ok(())
    }

    /// Hands a message to whoever has subscribed.
    pub fn send(&self, address: &str, topic: &str, body: &[u8], sequence: u32) -> Result<(), zmq::Error> {
        let socket = self.open.get(address).ok_or(zmq::Error::ENOTSOCK)?;
        let sequence = sequence.to_le_bytes();
        socket.send_multipart([topic.as_bytes(), body, &sequence], zmq::DONTWAIT)
    }

    /// Closes those that are used no more.
    pub fn keep(&mut self, used: impl Fn(&String) -> bool) {
        self.open.retain(|address, _| {
            let used = used(address);
            if !used {
                tracing::debug!(target: "zmq", "Close socket at address {address}");
            }
            used
        });
    }
}

fn bound(context: &zmq::Context, address: &str, high_water_mark: i32) -> Result<zmq::Socket, Step> {
    let step = |words: &'static str| move |error: zmq::Error| (words, error);
    let socket = context.socket(zmq::PUB).map_err(step("Failed to create socket"))?;
    socket.set_sndhwm(high_water_mark).map_err(step("Failed to set outbound message high water mark"))?;
    socket.set_tcp_keepalive(1).map_err(step("Failed to set SO_KEEPALIVE"))?;
    socket.set_ipv6(is_ipv6(address)).map_err(step("Failed to set ZMQ_IPV6"))?;
    socket.set_maxmsgsize(MAX_INBOUND_BYTES).map_err(step("Failed to limit what subscribers send"))?;
    // At the end nothing waits for a subscriber.
    socket.set_linger(0).map_err(step("Failed to set ZMQ_LINGER"))?;
    socket.bind(address).map_err(step("Failed to bind address"))?;
    Ok(socket)
}

/// Where IPv6 is not asked for, a socket does without: some systems refuse it.
fn is_ipv6(address: &str) -> bool {
    let Some((host, _)) = address.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')) else { return false };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ipv6_address_asks_for_ipv6() {
        assert!(is_ipv6("tcp://[::1]:28332"));
        assert!(!is_ipv6("tcp://127.0.0.1:28332"));
        assert!(!is_ipv6("tcp://*:28332"));
        assert!(!is_ipv6("ipc:///tmp/[::1]:1"));
    }
}
