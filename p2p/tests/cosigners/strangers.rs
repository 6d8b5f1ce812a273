//! A peer that speaks libp2p by hand: right identity, free behaviour. It pins the wire format.

use std::time::Duration;

use futures::StreamExt as _;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use keyless_p2p::cosigners::{Identity, Multiaddr, PeerId};
use libp2p::identity::Keypair;
use libp2p::{Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::task::JoinHandle;

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/keyless/cosigner");

pub struct Stranger {
    pub stream: Stream,
    pub control: libp2p_stream::Control,
    swarm: JoinHandle<()>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

fn swarm(identity: &Identity) -> Swarm<libp2p_stream::Behaviour> {
    let keypair = Keypair::ed25519_from_bytes(*identity.seed()).unwrap();
    SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Connects as `identity` and opens a stream. Only a lower PeerId's stream is listened to.
pub async fn intrude(identity: &Identity, address: Multiaddr, target: PeerId) -> Stranger {
    let mut swarm = swarm(identity);
    let mut control = swarm.behaviour().new_control();
    swarm.dial(address.with_p2p(target).unwrap()).unwrap();
    let task = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let stream = control.open_stream(target, PROTOCOL).await.unwrap();
    Stranger { stream, control, swarm: task }
}

pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len() + 1).unwrap().to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

pub fn payload(body: &[u8]) -> Vec<u8> {
    frame(1, body)
}

pub fn ping() -> Vec<u8> {
    frame(2, &[0; 12])
}

pub fn hello(network: &str) -> Vec<u8> {
    let mut body = b"keyless\0\x00\x01".to_vec();
    body.push(u8::try_from(network.len()).unwrap());
    body.extend_from_slice(network.as_bytes());
    body.extend_from_slice(&[6; 32]);
    body.extend_from_slice(b"\x040.0x");
    body.extend_from_slice(&7u32.to_be_bytes());
    frame(0, &body)
}

impl Stranger {
    pub async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads until the other side closes; what it sent.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is as good as a close.
        let _ = self.stream.read_to_end(&mut all).await;
        all
    }
}
