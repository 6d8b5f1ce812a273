//! Networks that hide who is on them: how we are reached there, and by what we reach others.

use tokio::net::TcpStream;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;

use super::Owner;
use super::connections::Arrival;
use super::report::LOCAL_MANUAL;
use crate::bitcoin::config::{Config, Proxy};
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::i2p::{self, Own, Session, Way};
use crate::bitcoin::net_addr::{Net, NetAddr};
use crate::bitcoin::permissions::Permissions;
use crate::bitcoin::socket::SocketEvent;
use crate::bitcoin::tor;

/// Core's `MAX_UNUSED_I2P_SESSIONS_SIZE`.
const MAX_UNUSED_SESSIONS: usize = 10;

#[derive(Debug)]
pub(super) struct Hidden {
    /// Our lasting address on I2P.
    own: Option<Own>,
    /// Sessions whose calls failed: the next calls need no new ones.
    unused: Vec<Session>,
}

impl Hidden {
    /// Starts what makes us reachable.
    pub(super) fn start(config: &Config, runtime: &Runtime, events: &mpsc::Sender<SocketEvent>) -> Self {
        let i2p = config.i2p.as_ref();
        let own = i2p.and_then(|i2p| Some(Own::start(runtime, i2p.bridge.clone(), i2p.key_file.clone()?)));
        if let Some(own) = &own {
            runtime.spawn(i2p::accept_all(own.clone(), events.clone()));
        }
        if let Some(tor) = config.tor.clone() {
            runtime.spawn(tor::keep_service(tor, events.clone()));
        }
        Self { own, unused: Vec::new() }
    }

    pub(super) fn keep_session(&mut self, session: Option<Box<Session>>) {
        let room = self.unused.len() < MAX_UNUSED_SESSIONS;
        self.unused.extend(session.filter(|_| room).map(|session| *session));
    }
}

impl Owner {
    /// Private connections never show our lasting address.
    pub(super) fn i2p_way(&mut self, kind: ConnectionType) -> Option<Way> {
        if kind != ConnectionType::PrivateBroadcast
            && let Some(own) = &self.hidden.own
        {
            return Some(Way::Own(own.clone()));
        }
        let bridge = &self.config.i2p.as_ref()?.bridge;
        let session = self.hidden.unused.pop().map(Box::new);
        Some(Way::Alone(session.unwrap_or_else(|| Box::new(Session::transient(bridge.clone())))))
    }

    pub(super) fn accept_i2p(&mut self, stream: TcpStream, remote: NetAddr, me: NetAddr) {
        let permissions = Permissions::NONE;
        self.admit(stream, Arrival { remote, me: Some(me), onion: false, permissions });
    }

    /// Tor told where its proxy is: each connection by it takes a path of its own.
    pub(super) fn onion_proxy(&mut self, address: String) {
        self.config.proxies.onion = Some(Proxy { address, randomize: true });
        if self.config.tor.as_ref().is_some_and(|tor| tor.calls) {
            self.config.reachable = self.config.reachable.with(Net::Onion);
            self.chain.book_reachable(self.config.reachable);
        }
    }

    /// Core's `AddLocal` and `RemoveLocal`.
    pub(super) fn reached_by(&mut self, address: NetAddr, up: bool) {
        self.config.external.retain(|own| *own != address);
        if !up {
            tracing::info!("RemoveLocal({address})");
        } else if self.config.reachable.has(address.net()) {
            tracing::info!("AddLocal({address},{LOCAL_MANUAL})");
            self.config.external.push(address);
        }
    }
}
