//! Connections through networks that hide: what leaves by them, and what does not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message::NetworkMessage;
use bitcoin::p2p::message_blockdata::Inventory;
use keyless_p2p::bitcoin::config::{I2p, Outbound, Proxy};
use keyless_p2p::bitcoin::{AddressBook, AddressSource, Config, Gossip, Net, NetAddr};

use super::client::Client;
use super::sam::Bridge;
use super::twin::spend;
use super::{Node, until};

const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:8333";
const OTHER_ONION: &str = "kpgvmscirrdqpekbqjsvw5teanhatztpp2gl6eee4zkowvwfxwenqaid.onion:8333";

/// A proxy of Tor's kind that leads nowhere but to the test.
struct Socks(TcpListener);

impl Socks {
    fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn proxy(&self) -> Proxy {
        Proxy { address: self.0.local_addr().unwrap().to_string(), randomize: true }
    }

    /// The next connection, and the host that was asked for.
    fn accept(&self) -> (String, TcpStream) {
        let (mut stream, _) = self.0.accept().unwrap();
        let take = |stream: &mut TcpStream, bytes: usize| {
            let mut taken = vec![0; bytes];
            stream.read_exact(&mut taken).unwrap();
            taken
        };
        let methods = usize::from(take(&mut stream, 2)[1]);
        take(&mut stream, methods);
        stream.write_all(&[5, 0]).unwrap();
        let length = usize::from(take(&mut stream, 5)[4]);
        let host = String::from_utf8(take(&mut stream, length)).unwrap();
        take(&mut stream, 2);
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        (host, stream)
    }
}

fn learn(node: &Node, addresses: &[&str]) {
    let services = ServiceFlags::NETWORK | ServiceFlags::WITNESS;
    let entry = |text: &&str| Gossip { time: 1, services, address: NetAddr::parse(text, 1).unwrap() };
    let entries: Vec<Gossip> = addresses.iter().map(entry).collect();
    node.chain.book_learn(&entries, AddressSource::Name("test"), Duration::ZERO);
}

/// Sends own transactions by `tor`, and looks for no other peers.
fn private(config: &mut Config, tor: &Socks) {
    config.private_broadcast = true;
    config.proxies.onion = Some(tor.proxy());
    config.reachable = [Net::Onion].into_iter().collect();
    config.outbound = Outbound::Only(Vec::new());
    config.user_agent = "/Satoshi:31.99.0(mine)/".into();
}

#[test]
fn a_private_connection_tells_nothing_but_one_transaction() {
    let tor = Socks::open();
    let node = Node::with(|config| private(config, &tor));
    let tx = spend(None, 1);
    learn(&node, &[ONION]);
    node.chain.send_privately(&tx, 1);
    let (host, stream) = tor.accept();
    assert_eq!(format!("{host}:8333"), ONION);
    let mut peer = Client::over(stream);
    let NetworkMessage::Version(version) = peer.hear().unwrap() else { panic!("no version") };
    assert_eq!((version.version, version.services, version.timestamp), (70_016, ServiceFlags::NONE, 0));
    assert_eq!((version.user_agent.as_str(), version.start_height, version.relay), ("/pynode:0.0.1/", 0, false));
    assert_eq!((version.receiver.address, version.receiver.port), ([0; 8], 0));
    peer.say_version(9);
    peer.say(NetworkMessage::WtxidRelay);
    assert_eq!(peer.hear(), Some(NetworkMessage::Verack));
    peer.say(NetworkMessage::Verack);
    // Questions are not answered, whatever they are.
    peer.say(NetworkMessage::Ping(1));
    peer.say(NetworkMessage::GetAddr);
    peer.say(NetworkMessage::MemPool);
    assert_eq!(peer.hear(), Some(NetworkMessage::Inv(vec![Inventory::Transaction(tx.compute_txid())])));
    peer.say(NetworkMessage::GetData(vec![Inventory::Transaction(tx.compute_txid())]));
    assert_eq!(peer.hear(), Some(NetworkMessage::Tx(tx.clone())));
    let Some(NetworkMessage::Ping(nonce)) = peer.hear() else { panic!("no ping") };
    assert_eq!(node.chain.delivered(), 0);
    peer.say(NetworkMessage::Pong(nonce));
    assert_eq!(peer.hear(), None);
    until("the delivery is noted", || node.chain.delivered() == 1);
    until("the peer is gone", || node.handle.peers().is_empty());
}

#[test]
fn what_a_private_connection_did_not_do_another_does() {
    let tor = Socks::open();
    let node = Node::with(|config| private(config, &tor));
    let tx = spend(None, 1);
    learn(&node, &[ONION, OTHER_ONION]);
    node.chain.send_privately(&tx, 1);
    let (first, stream) = tor.accept();
    let mut peer = Client::over(stream);
    peer.hear().unwrap();
    peer.say_version(9);
    peer.say(NetworkMessage::Verack);
    peer.wait(|message| matches!(message, NetworkMessage::Inv(_)));
    // What was not offered is not handed out.
    peer.say(NetworkMessage::GetData(vec![Inventory::Transaction(spend(None, 2).compute_txid())]));
    assert!(peer.is_closed());
    let (second, _stream) = tor.accept();
    assert_ne!(first, second);
}

#[test]
fn a_transaction_that_comes_back_is_not_sent_any_more() {
    let tor = Socks::open();
    let node = Node::with(|config| private(config, &tor));
    let tx = spend(None, 1);
    node.chain.send_privately(&tx, 1);
    node.chain.mine(1);
    let mut peer = Client::ready(node.address());
    assert!(node.chain.is_sending());
    peer.say(NetworkMessage::Tx(tx));
    peer.sync();
    assert!(!node.chain.is_sending());
}

/// A node on I2P, with its lasting address in `folder` if it is to be reached.
fn on_i2p(bridge: &Bridge, folder: Option<&std::path::Path>) -> Node {
    Node::with(|config| {
        let key_file = folder.map(|folder| folder.join("i2p_private_key"));
        config.i2p = Some(I2p { bridge: bridge.address(), key_file });
        config.reachable = [Net::I2p].into_iter().collect();
    })
}

#[test]
fn a_node_keeps_its_address_on_i2p_and_is_reached_by_it() {
    let folder = std::env::temp_dir().join(format!("keyless-i2p-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bridge = Bridge::open();
    let called = on_i2p(&bridge, Some(&folder));
    until("it waits for peers", || bridge.waiting().len() == 1);
    let name = bridge.waiting().remove(0);
    until("it tells its address", || {
        let known = called.handle.info().unwrap().local_addresses;
        known.iter().any(|(address, _)| address.to_string() == format!("{name}:0"))
    });
    let caller = on_i2p(&bridge, None);
    let tip = called.chain.mine(5);
    caller.handle.onetry(&name, false);
    until("blocks came over I2P", || caller.has(tip));
    let (out, inbound) = (caller.handle.peers().remove(0), called.handle.peers().remove(0));
    assert_eq!((out.network, inbound.network), ("i2p", "i2p"));
    assert_eq!((out.addr.as_str(), inbound.inbound), (name.as_str(), true));
    assert_eq!(inbound.addrbind.unwrap().to_string(), format!("{name}:0"));
    // The caller has an address for this connection alone.
    assert_eq!(inbound.addr, out.addrbind.unwrap().to_string());
    assert_eq!(bridge.asked("DESTINATION=TRANSIENT"), 1);
    until("the next one can come", || bridge.waiting() == [name.clone()]);
    drop(called);
    let again = on_i2p(&bridge, Some(&folder));
    until("it is back under its name", || bridge.waiting() == [name.clone()]);
    assert_eq!(bridge.asked("DEST GENERATE"), 1);
    drop(again);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_session_whose_call_failed_serves_the_next_call() {
    let bridge = Bridge::open();
    let node = on_i2p(&bridge, None);
    until("it was called three times", || {
        // Ignored while a call is under way.
        node.handle.onetry("zsxwyo6qcn3chqzwxnseusqgsnuw3maqnztkiypyfxtya4snkoka.b32.i2p", false);
        bridge.asked("STREAM CONNECT") >= 3
    });
    assert_eq!(bridge.asked("SESSION CREATE"), 1);
}

#[test]
fn a_private_connection_on_i2p_does_not_show_the_lasting_address() {
    let folder = std::env::temp_dir().join(format!("keyless-i2p-private-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bridge = Bridge::open();
    let called = on_i2p(&bridge, Some(&folder));
    until("it waits for peers", || bridge.waiting().len() == 1);
    let name = bridge.waiting().remove(0);
    let other = folder.join("other");
    std::fs::create_dir_all(&other).unwrap();
    let sender = Node::with(|config| {
        config.i2p = Some(I2p { bridge: bridge.address(), key_file: Some(other.join("i2p_private_key")) });
        config.reachable = [Net::I2p].into_iter().collect();
        config.private_broadcast = true;
    });
    until("the sender waits too", || bridge.waiting().len() == 2);
    let own = bridge.waiting().into_iter().find(|waiting| *waiting != name).unwrap();
    called.chain.mine(1);
    sender.chain.mine(1);
    learn(&sender, &[&format!("{name}:0")]);
    let tx = spend(None, 1);
    sender.chain.send_privately(&tx, 1);
    until("the transaction arrived", || sender.chain.delivered() == 1);
    assert_eq!(bridge.asked("DESTINATION=TRANSIENT"), 1);
    assert_ne!(own, name);
    std::fs::remove_dir_all(&folder).unwrap();
}
