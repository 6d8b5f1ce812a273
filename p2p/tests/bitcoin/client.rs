//! A peer made by hand: it says what a test wants, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::p2p::address::Address;
use bitcoin::p2p::message::{NetworkMessage, RawNetworkMessage};
use bitcoin::p2p::message_network::VersionMessage;
use bitcoin::p2p::{Magic, ServiceFlags};

const DEADLINE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    /// Heard while waiting for something else.
    skipped: Vec<NetworkMessage>,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).unwrap())
    }

    /// On a connection that stands.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, skipped: Vec::new() }
    }

    /// Connects and shakes hands.
    pub fn ready(to: SocketAddr) -> Self {
        let mut client = Self::connect(to);
        client.say_version(7);
        client.say(NetworkMessage::WtxidRelay);
        client.wait(|message| matches!(message, NetworkMessage::Verack));
        client.say(NetworkMessage::Verack);
        client.sync();
        client
    }

    pub fn say_version(&mut self, nonce: u64) {
        let nowhere = Address::new(&"0.0.0.0:0".parse().unwrap(), ServiceFlags::NONE);
        let services = ServiceFlags::NETWORK | ServiceFlags::WITNESS;
        let agent = "/client:1/".to_owned();
        let mut version = VersionMessage::new(services, 1, nowhere.clone(), nowhere, nonce, agent, 0);
        version.version = 70_016;
        version.relay = true;
        self.say(NetworkMessage::Version(version));
    }

    pub fn say(&mut self, message: NetworkMessage) {
        self.write(&serialize(&RawNetworkMessage::new(Magic::REGTEST, message)));
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The node may have closed already; what follows shows it.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message, or `None` once the node closed.
    pub fn hear(&mut self) -> Option<NetworkMessage> {
        let mut header = [0; 24];
        self.stream.read_exact(&mut header).ok()?;
        let length = u32::from_le_bytes(header[16..20].try_into().unwrap()) as usize;
        let mut bytes = header.to_vec();
        bytes.resize(24 + length, 0);
        self.stream.read_exact(&mut bytes[24..]).ok()?;
        Some(deserialize::<RawNetworkMessage>(&bytes).unwrap().into_payload())
    }

    pub fn wait(&mut self, wanted: impl Fn(&NetworkMessage) -> bool) -> NetworkMessage {
        if let Some(at) = self.skipped.iter().position(&wanted) {
            return self.skipped.remove(at);
        }
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let message = self.hear().expect("the node closed the connection");
            if wanted(&message) {
                return message;
            }
            self.skipped.push(message);
        }
        panic!("the message never came");
    }

    /// Waits until the node has worked through all that was said.
    pub fn sync(&mut self) {
        let nonce = rand::random();
        self.say(NetworkMessage::Ping(nonce));
        self.wait(|message| *message == NetworkMessage::Pong(nonce));
    }

    pub fn is_closed(&mut self) -> bool {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.hear().is_none() {
                return true;
            }
        }
        false
    }
}
