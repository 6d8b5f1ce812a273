//! Nodes of the real network, with conditions to wait for.

use std::time::Duration;

use keyless_p2p::cosigners::{
    Carrier as _, Config, Discovery, DownReason, Event, Events, Hello, Identity, Member, Multiaddr, Network, PeerId,
    start,
};
use tokio::time::{Instant, timeout};

/// Longer than any wait should take; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Node {
    pub network: Network,
    pub events: Events,
    pub identity: Identity,
}

/// Fresh identities in the order of their PeerIds.
pub fn identities(count: usize) -> Vec<Identity> {
    let mut all: Vec<Identity> = (0..count).map(|_| Identity::generate()).collect();
    all.sort_by_key(Identity::peer_id);
    all
}

pub fn hello(network: &str) -> Hello {
    Hello { network: network.to_owned(), genesis: [6; 32], version: "0.1.0".to_owned() }
}

pub fn member(peer: PeerId, address: Option<Multiaddr>) -> Member {
    Member { peer, address }
}

pub fn config(identity: &Identity, members: Vec<Member>) -> Config {
    Config {
        identity: identity.clone(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        members,
        discovery: Discovery::STATIC,
        hello: hello("regtest"),
        height: 0,
    }
}

pub async fn launch(config: Config) -> Node {
    let identity = config.identity.clone();
    let (network, events) = start(config).await.unwrap();
    Node { network, events, identity }
}

impl Node {
    pub fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub fn address(&self) -> Multiaddr {
        self.network.listen_addresses().first().unwrap().clone()
    }

    pub async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a running network")
    }

    pub async fn up(&mut self, peer: PeerId) {
        loop {
            if self.next().await == Event::Up(peer) {
                return;
            }
        }
    }

    /// The reason, and how long it took to come.
    pub async fn down(&mut self, peer: PeerId) -> (DownReason, Duration) {
        let start = Instant::now();
        loop {
            match self.next().await {
                Event::Down(down, reason) if down == peer => return (reason, start.elapsed()),
                _ => {}
            }
        }
    }

    pub async fn frame(&mut self, peer: PeerId) -> Vec<u8> {
        loop {
            match self.next().await {
                Event::Frame { from, bytes } if from == peer => return bytes,
                _ => {}
            }
        }
    }

    /// Waits until the status of the peer names a reason that fits.
    pub async fn offline_because(&self, peer: PeerId, fits: impl Fn(&DownReason) -> bool) -> DownReason {
        eventually(|| {
            let status = self.network.peer(&peer)?;
            status.reason_offline.filter(|reason| fits(reason))
        })
        .await
    }
}

pub async fn eventually<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "the condition never came true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Each knows the static addresses of those before it.
pub async fn chain_of(identities: &[Identity]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for identity in identities {
        let members = identities
            .iter()
            .filter(|other| other.peer_id() != identity.peer_id())
            .map(|other| {
                let known = nodes.iter().find(|node| node.id() == other.peer_id());
                member(other.peer_id(), known.map(Node::address))
            })
            .collect();
        nodes.push(launch(config(identity, members)).await);
    }
    nodes
}
