//! Our nodes among themselves and against hand-made peers, over loopback, on a chain in memory.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "bitcoin/client.rs"]
mod client;
#[path = "bitcoin/extra.rs"]
mod extra;
#[path = "bitcoin/hidden.rs"]
mod hidden;
#[path = "bitcoin/sam.rs"]
mod sam;
#[path = "bitcoin/snapshot.rs"]
mod snapshot;
#[path = "bitcoin/twin.rs"]
mod twin;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network as BitcoinNetwork;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash;
use bitcoin::p2p::Magic;
use bitcoin::p2p::message::{NetworkMessage, RawNetworkMessage};
use bitcoin::p2p::message_blockdata::{GetHeadersMessage, Inventory};
use bitcoin::p2p::message_bloom::FilterAdd;
use bitcoin::{BlockHash, Txid};
use client::Client;
use keyless_p2p::bitcoin::{self as net, Bind, Chain, Config, Handle, Permissions, TxRef, Whom};
use tokio::runtime::Runtime;
use twin::{Twin, next_block, spend};

const DEADLINE: Duration = Duration::from_secs(30);

struct Node {
    chain: Arc<Twin>,
    handle: Handle,
    runtime: Runtime,
}

impl Node {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(BitcoinNetwork::Regtest);
        config.binds = vec![Bind::plain("127.0.0.1:0".parse().unwrap())];
        change(&mut config);
        let chain = Twin::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let handle = {
            let _context = runtime.enter();
            net::start(config, Arc::clone(&chain) as Arc<dyn Chain>).unwrap()
        };
        chain.tell(handle.clone());
        Self { chain, handle, runtime }
    }

    fn address(&self) -> SocketAddr {
        self.handle.listening()[0]
    }

    fn calls(&self, other: &Node) {
        self.calls_by(other, false);
    }

    fn calls_by(&self, other: &Node, v2: bool) {
        let before = other.handle.peers().len();
        self.handle.onetry(&other.address().to_string(), v2);
        until("the connection stands", || {
            other.handle.peers().len() > before
                && self.handle.peers().iter().all(|p| p.bytes_recv_per_msg.contains_key("pong"))
                && other.handle.peers().iter().all(|p| p.bytes_recv_per_msg.contains_key("pong"))
        });
    }

    fn has(&self, tip: BlockHash) -> bool {
        self.chain.tip().hash == tip
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shutdown();
        // Socket tasks end with their owner; what is left is cut here.
        let runtime =
            std::mem::replace(&mut self.runtime, tokio::runtime::Builder::new_current_thread().build().unwrap());
        runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_fresh_node_syncs_a_long_chain_and_new_blocks_follow_both_ways() {
    let (old, new) = (Node::start(), Node::start());
    let tip = old.chain.mine(2_500);
    new.calls(&old);
    until("2,500 blocks arrived", || new.has(tip));
    let peer = &new.handle.peers()[0];
    assert_eq!((peer.synced_headers, peer.inbound, peer.transport), (2_500, false, "v1"));
    for (from, to) in [(&old, &new), (&new, &old), (&old, &new)] {
        let tip = from.chain.mine(1);
        until("the new block arrived", || to.has(tip));
    }
}

#[test]
fn peers_report_what_core_reports() {
    let (one, two) = (Node::with(|c| c.user_agent = "/Satoshi:31.99.0(testnode0)/".into()), Node::start());
    one.chain.mine(1);
    two.calls(&one);
    let peer = two.handle.peers().remove(0);
    assert_eq!(peer.addr, one.address().to_string());
    assert_eq!(peer.subver, "/Satoshi:31.99.0(testnode0)/");
    assert_eq!(peer.version, 70_017);
    assert_eq!(peer.bytes_recv_per_msg["pong"], 32);
    assert_eq!(peer.bytes_recv_per_msg["verack"], 24);
    assert!(peer.relay_txes && peer.addr_relay_enabled && peer.ping_time.is_some());
    let inbound = one.handle.peers().remove(0);
    assert!(inbound.inbound && inbound.addrbind == Some(one.address().into()));
    assert_eq!(one.handle.connection_counts().inbound, 1);
    assert_eq!(two.handle.connection_counts().outbound, 1);
    assert!(one.handle.totals().bytes_recv > 0);
    one.handle.ping_all();
    until("the ping was answered", || one.handle.peers()[0].bytes_recv_per_msg["pong"] == 64);
}

#[test]
fn the_encrypted_transport_carries_the_same_and_falls_back() {
    let (one, two) = (Node::start(), Node::start());
    let tip = one.chain.mine(600);
    two.calls_by(&one, true);
    until("synced", || two.has(tip));
    let (caller, called) = (two.handle.peers().remove(0), one.handle.peers().remove(0));
    assert_eq!((caller.transport, called.transport), ("v2", "v2"));
    assert!(caller.session_id.len() == 64 && caller.session_id == called.session_id);
    assert_eq!(caller.bytes_recv_per_msg["pong"], 29);

    let old = Node::with(|c| c.v2_transport = false);
    two.handle.onetry(&old.address().to_string(), true);
    until("it went back to v1", || {
        old.handle.peers().first().is_some_and(|p| p.bytes_recv_per_msg.contains_key("pong") && p.transport == "v1")
    });
}

#[test]
fn a_longer_branch_wins_and_the_reorganisation_travels() {
    let (one, two) = (Node::start(), Node::start());
    let fork = one.chain.mine(5);
    two.calls(&one);
    until("synced", || two.has(fork));
    let short = one.chain.mine(1);
    until("the first branch arrived", || two.has(short));
    let mut tip = one.chain.mine_on(Some(fork), 1);
    for _ in 0..3 {
        tip = one.chain.mine_on(Some(tip), 1);
    }
    until("the longer branch won", || two.has(tip) && one.has(tip));
}

#[test]
fn a_branch_longer_than_the_download_window_is_fetched_whole() {
    let (one, two) = (Node::start(), Node::start());
    let genesis = one.chain.tip().hash;
    one.chain.mine(1_300);
    let mut tip = two.chain.mine_on(Some(genesis), 1);
    for _ in 0..1_300 {
        tip = two.chain.mine_on(Some(tip), 1);
    }
    one.calls(&two);
    until("the longer branch won", || one.has(tip));
}

#[test]
fn transactions_travel_both_ways_and_along_a_line() {
    let nodes = [Node::start(), Node::start(), Node::start()];
    let tip = nodes[0].chain.mine(1);
    nodes[0].calls(&nodes[1]);
    nodes[1].calls(&nodes[2]);
    until("synced", || nodes.iter().all(|node| node.has(tip)));
    for (from, salt) in [(0, 1), (2, 2)] {
        let tx = spend(None, salt);
        nodes[from].chain.submit(&tx);
        let id = TxRef::Wtxid(tx.compute_wtxid());
        until("all have the transaction", || nodes.iter().all(|node| node.chain.has_transaction(id)));
        assert!(!nodes[from].chain.is_unbroadcast(&tx.compute_txid()));
    }
}

#[test]
fn an_orphan_waits_for_its_parent_which_is_asked_for() {
    let node = Node::with(|c| c.whitelist = vec![net::config::parse_whitelist("noban@127.0.0.1").unwrap()]);
    node.chain.mine(1);
    let parent = spend(None, 1);
    let child = spend(Some(parent.compute_txid()), 2);
    node.chain.miss(parent.compute_txid());
    let mut peer = Client::ready(node.address());
    peer.say(NetworkMessage::Tx(child.clone()));
    until("the orphan is kept", || node.chain.orphans() == 1);
    let wanted = Inventory::WitnessTransaction(parent.compute_txid());
    peer.wait(|message| *message == NetworkMessage::GetData(vec![wanted]));
    peer.say(NetworkMessage::Tx(parent));
    let id = TxRef::Wtxid(child.compute_wtxid());
    until("the orphan was taken", || node.chain.has_transaction(id) && node.chain.orphans() == 0);
}

#[test]
fn transactions_are_not_handed_out_before_they_are_announced() {
    let node = Node::start();
    node.chain.mine(1);
    let mut peer = Client::ready(node.address());
    let tx = spend(None, 1);
    // In the mempool, but this peer was never told.
    node.chain.enter(&tx);
    let id = Txid::from_byte_array(tx.compute_txid().to_byte_array());
    peer.say(NetworkMessage::GetData(vec![Inventory::Transaction(id)]));
    peer.wait(|message| *message == NetworkMessage::NotFound(vec![Inventory::Transaction(id)]));
}

#[test]
fn unknown_inventory_is_skipped_and_the_block_after_it_served() {
    let node = Node::start();
    let tip = node.chain.mine(3);
    let mut peer = Client::ready(node.address());
    let nonsense = |inv_type| Inventory::Unknown { inv_type, hash: [1; 32] };
    peer.say(NetworkMessage::GetData(vec![nonsense(0), nonsense(0xffff_ffff), Inventory::WitnessBlock(tip)]));
    let block = peer.wait(|message| matches!(message, NetworkMessage::Block(_)));
    assert!(matches!(block, NetworkMessage::Block(block) if block.block_hash() == tip));
}

#[test]
fn headers_are_served_and_new_tips_announced_as_the_peer_wants() {
    let node = Node::start();
    node.chain.mine(5);
    let mut peer = Client::ready(node.address());
    let tip = node.chain.mine(1);
    peer.wait(|message| *message == NetworkMessage::Inv(vec![Inventory::Block(tip)]));
    let ask = GetHeadersMessage {
        version: 70_016,
        locator_hashes: vec![node.chain.active_hash(2).unwrap()],
        stop_hash: BlockHash::all_zeros(),
    };
    peer.say(NetworkMessage::SendHeaders);
    peer.say(NetworkMessage::GetHeaders(ask));
    let NetworkMessage::Headers(headers) = peer.wait(|m| matches!(m, NetworkMessage::Headers(_))) else { panic!() };
    assert_eq!(headers.len(), 4);
    let next = node.chain.mine(1);
    let NetworkMessage::Headers(headers) = peer.wait(|m| matches!(m, NetworkMessage::Headers(_))) else { panic!() };
    assert_eq!(headers[0].block_hash(), next);
}

#[test]
fn bloom_messages_end_the_connection() {
    let node = Node::start();
    let refused =
        [NetworkMessage::MemPool, NetworkMessage::FilterAdd(FilterAdd { data: vec![1] }), NetworkMessage::FilterClear];
    for message in refused {
        let mut peer = Client::ready(node.address());
        peer.say(message);
        assert!(peer.is_closed());
    }
}

#[test]
fn the_chain_hears_of_every_peer_that_comes_and_goes() {
    let node = Node::start();
    let first = Client::ready(node.address());
    let _second = Client::connect(node.address());
    until("both are told", || node.chain.peers() == 2);
    drop(first);
    until("one is left", || node.chain.peers() == 1);
}

#[test]
fn malformed_input_costs_a_message_or_the_connection_as_in_core() {
    let node = Node::start();
    let ping = serialize(&RawNetworkMessage::new(Magic::REGTEST, NetworkMessage::Ping(1)));
    let mut peer = Client::ready(node.address());
    let mut checksum = ping.clone();
    checksum[20] ^= 1;
    peer.write(&checksum);
    let mut name = ping.clone();
    name[10] = 0xff;
    peer.write(&name);
    peer.say(NetworkMessage::Unknown { command: "badmsg".to_owned().try_into().unwrap(), payload: vec![1] });
    peer.say(NetworkMessage::Unknown { command: "headers".to_owned().try_into().unwrap(), payload: vec![200] });
    peer.sync();
    assert_eq!(node.handle.peers()[0].bytes_recv_per_msg["*other*"], 32 + 32 + 25);

    let mut magic = ping.clone();
    magic[0] ^= 1;
    peer.write(&magic);
    assert!(peer.is_closed());
    let mut giant = Client::ready(node.address());
    let mut header = ping[..24].to_vec();
    header[16..20].copy_from_slice(&4_000_001_u32.to_le_bytes());
    giant.write(&header);
    assert!(giant.is_closed());
}

#[test]
fn headers_without_work_and_invalid_blocks_end_the_connection() {
    let node = Node::start();
    node.chain.mine(1);
    let tip = node.chain.header(&node.chain.tip().hash).unwrap().header;
    let mut block = next_block(&tip, 2, twin::wall().as_secs() as u32, 0);

    let mut liar = Client::ready(node.address());
    let mut weak = block.header;
    while weak.validate_pow(weak.target()).is_ok() {
        weak.nonce += 1;
    }
    liar.say(NetworkMessage::Headers(vec![weak]));
    assert!(liar.is_closed());

    let mut mutant = Client::ready(node.address());
    let twice = block.txdata[0].clone();
    block.txdata.push(twice);
    mutant.say(NetworkMessage::Block(block.clone()));
    assert!(mutant.is_closed());

    let mut bad = Client::ready(node.address());
    block.txdata.pop();
    node.chain.poison(block.block_hash());
    bad.say(NetworkMessage::Block(block));
    assert!(bad.is_closed());
    assert_eq!(node.chain.tip().height, 1);
}

#[test]
fn nothing_is_answered_before_the_handshake() {
    // With v2 on, a stranger's first bytes are taken for a key.
    let node = Node::with(|c| c.v2_transport = false);
    let mut peer = Client::connect(node.address());
    peer.say(NetworkMessage::Ping(1));
    peer.say(NetworkMessage::GetAddr);
    peer.say_version(5);
    assert!(matches!(peer.hear(), Some(NetworkMessage::Version(_))));
    assert_eq!(peer.hear(), Some(NetworkMessage::WtxidRelay));
    assert_eq!(peer.hear(), Some(NetworkMessage::SendAddrV2));
    assert_eq!(peer.hear(), Some(NetworkMessage::Verack));
}

#[test]
fn a_node_that_calls_itself_hangs_up() {
    let node = Node::start();
    node.handle.onetry(&node.address().to_string(), false);
    until("it tried", || node.handle.totals().bytes_recv > 0);
    until("it hung up", || node.handle.peers().is_empty());
}

#[test]
fn a_silent_peer_is_dropped_after_the_handshake_deadline() {
    let node = Node::with(|c| c.peer_timeout = Duration::from_secs(60));
    node.chain.set_time(Duration::from_secs(1_000_000));
    let mut silent = Client::connect(node.address());
    until("connected", || node.handle.peers().len() == 1);
    node.chain.set_time(Duration::from_secs(1_000_061));
    assert!(silent.is_closed());
}

#[test]
fn an_unanswered_ping_ends_the_connection_after_twenty_minutes() {
    let node = Node::start();
    node.chain.set_time(Duration::from_secs(1_000_000));
    let mut peer = Client::ready(node.address());
    peer.wait(|message| matches!(message, NetworkMessage::Ping(_)));
    node.chain.set_time(Duration::from_secs(1_000_100));
    until("the wait shows", || {
        node.handle.peers().first().and_then(|p| p.ping_wait).is_some_and(|w| w > Duration::from_secs(90))
    });
    // Bytes keep coming, the pong does not.
    node.chain.set_time(Duration::from_secs(1_001_201));
    assert!(peer.is_closed());
}

#[test]
fn a_block_that_is_still_being_connected_is_served_once_it_is() {
    let node = Node::start();
    node.chain.mine(1);
    let tip = node.chain.tip();
    let parent = node.chain.header(&tip.hash).unwrap().header;
    let block = next_block(&parent, tip.height + 1, parent.time + 1, 0);
    let hash = block.block_hash();
    let mut client = Client::ready(node.address());
    node.chain.accept_headers(&[block.header]).unwrap();
    node.handle.notify(net::ChainEvent::NewBlock { hash, height: tip.height + 1 });
    node.handle.info();
    client.say(NetworkMessage::GetData(vec![Inventory::WitnessBlock(hash)]));
    client.say(NetworkMessage::Ping(5));
    let counted = |sent: bool, command: &str| {
        let peers = node.handle.peers();
        let counts = if sent { &peers[0].bytes_sent_per_msg } else { &peers[0].bytes_recv_per_msg };
        counts.contains_key(command)
    };
    until("both are heard", || counted(false, "getdata") && counted(false, "ping"));
    assert!(!counted(true, "block"), "it is not there yet");
    node.chain.accept_block(&serialize(&block), true, true);
    client.wait(|message| matches!(message, NetworkMessage::Block(served) if served.block_hash() == hash));
    client.wait(|message| *message == NetworkMessage::Pong(5));
}

#[test]
fn a_peer_that_holds_back_blocks_is_replaced() {
    let (honest, node) = (Node::start(), Node::start());
    let tip = honest.chain.mine(1_100);
    let headers = honest.chain.headers_after(&[], &BlockHash::all_zeros(), 2_000);
    let mut staller = Client::ready(node.address());
    staller.wait(|message| matches!(message, NetworkMessage::GetHeaders(_)));
    staller.say(NetworkMessage::Headers(headers));
    staller.wait(|message| matches!(message, NetworkMessage::GetData(_)));
    node.calls(&honest);
    until("the others delivered", || node.has(tip));
    assert!(staller.is_closed());
}

#[test]
fn added_nodes_are_kept_connected_until_removed() {
    let (one, two) = (Node::start(), Node::start());
    let name = one.address().to_string();
    assert!(two.handle.add_node(&name, false));
    assert!(!two.handle.add_node(&name, false));
    until("connected", || two.handle.added_nodes()[0].connected.is_some());
    let id = two.handle.peers()[0].id;
    assert!(two.handle.disconnect(Whom::Id(id)));
    assert!(!two.handle.disconnect(Whom::Id(id)));
    until("connected again", || two.handle.peers().first().is_some_and(|p| p.id != id));
    assert!(two.handle.remove_node(&name) && !two.handle.remove_node(&name));
    assert!(two.handle.disconnect(Whom::Address(name)));
    assert!(two.handle.peers().is_empty());
}

#[test]
fn banned_hosts_and_a_switched_off_network_take_nobody() {
    let node = Node::start();
    let net: net::permissions::Subnet = "127.0.0.0/8".parse().unwrap();
    let _peer = Client::ready(node.address());
    assert!(node.handle.ban(net.clone(), 0, true));
    assert!(node.handle.peers().is_empty());
    assert!(Client::connect(node.address()).is_closed());
    assert_eq!(node.handle.bans().len(), 1);
    assert!(node.handle.unban(net));
    let mut peer = Client::ready(node.address());
    node.handle.set_network_active(false);
    assert!(peer.is_closed());
    assert!(Client::connect(node.address()).is_closed());
    node.handle.set_network_active(true);
    Client::ready(node.address());
}

#[test]
fn inbound_room_is_limited_and_trusted_peers_are_counted_too() {
    let node = Node::with(|c| {
        c.max_connections = 13;
        c.binds[0].permissions = Some(Permissions::NO_BAN);
    });
    let _first = Client::ready(node.address());
    let _second = Client::ready(node.address());
    assert!(Client::connect(node.address()).is_closed());
    assert_eq!(node.handle.connection_counts().inbound, 2);
}

#[test]
fn a_blocks_only_node_refuses_transactions() {
    let node = Node::with(|c| c.blocks_only = true);
    node.chain.mine(1);
    let mut peer = Client::ready(node.address());
    peer.say(NetworkMessage::Tx(spend(None, 1)));
    assert!(peer.is_closed());
}

#[test]
fn big_messages_both_ways_do_not_block_each_other() {
    let (one, two) = (Node::start(), Node::start());
    one.calls(&two);
    let payload = vec![0_u8; 4_000_000];
    for _ in 0..3 {
        for node in [&one, &two] {
            let id = node.handle.peers()[0].id;
            assert!(node.handle.send_raw(id, "unknown", payload.clone()));
        }
    }
    until("all arrived", || {
        [&one, &two].iter().all(|n| n.handle.peers()[0].bytes_recv_per_msg.get("*other*") == Some(&12_000_072))
    });
}
