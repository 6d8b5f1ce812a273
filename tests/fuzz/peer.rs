//! One connection to the node, in the clear or encrypted, and a batch of messages over it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bip324::{CipherSession, GarbageResult, Handshake, InboundCipher, OutboundCipher, PacketType, Role, VersionResult};
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::p2p::Magic;
use keyless_tests::Daemon;
use rand::Rng;
use rand::rngs::StdRng;
use socket2::{Domain, Socket, Type};

/// A node that is silent for so long hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 24;
const KEY_BYTES: usize = 64;
/// Marks the nonces of our own pings.
const OURS: u64 = 0xfeed_face_0000_0000;
/// Of BIP 324.
const PONG: u8 = 19;

/// A message in the clear.
pub fn message(command: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Magic::REGTEST.to_bytes().to_vec();
    out.extend_from_slice(&padded(command));
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&sha256d::Hash::hash(payload).to_byte_array()[..4]);
    out.extend_from_slice(payload);
    out
}

fn padded(command: &str) -> [u8; 12] {
    let mut name = [0; 12];
    name[..command.len()].copy_from_slice(command.as_bytes());
    name
}

/// `version` of a peer that knows everything the node knows, and wants transactions.
pub fn version() -> Vec<u8> {
    let mut out = 70_017_i32.to_le_bytes().to_vec();
    out.extend_from_slice(&0xc09_u64.to_le_bytes());
    out.extend_from_slice(&1_700_000_000_i64.to_le_bytes());
    out.extend_from_slice(&[0; 52]);
    out.extend_from_slice(&7_u64.to_le_bytes());
    out.extend_from_slice(b"\x06/fuzz/");
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.push(1);
    out
}

/// Connects from one of many addresses of this machine, and leaves no trace of the connection when it ends.
pub fn connect(node: &Daemon, rng: &mut StdRng) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = Ipv4Addr::new(127, rng.gen_range(1..250), rng.gen_range(1..250), rng.gen_range(1..250));
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, node.p2p_port)).into()).expect("the node takes connections");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Says no more and waits until the node has hung up. It must, soon.
pub fn hang_up(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = [0; 4_096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the node hangs"),
            Err(_) => return,
        }
    }
}

enum Seal {
    Clear,
    Encrypted(Box<OutboundCipher>),
}

enum Unseal {
    Clear,
    Encrypted(Box<InboundCipher>),
}

/// A connection that carries messages.
pub struct Peer {
    output: TcpStream,
    input: BufReader<TcpStream>,
    seal: Seal,
    unseal: Unseal,
}

/// What came of a batch.
pub struct Heard {
    /// Inputs that the node is done with.
    pub done: usize,
    /// Requests for transactions of a compact block.
    pub asked: usize,
    pub alive: bool,
}

impl Peer {
    /// In the clear, before any message.
    pub fn fresh(node: &Daemon, rng: &mut StdRng) -> Self {
        let output = connect(node, rng);
        let input = BufReader::new(output.try_clone().unwrap());
        Self { output, input, seal: Seal::Clear, unseal: Unseal::Clear }
    }

    /// Encrypted, before any message.
    pub fn encrypted(node: &Daemon, rng: &mut StdRng) -> Self {
        let mut output = connect(node, rng);
        let input = BufReader::new(output.try_clone().unwrap());
        let (cipher, input) = shake_hands(&mut output, input).expect("the node speaks v2");
        let (inbound, outbound) = cipher.into_split();
        let (seal, unseal) = (Seal::Encrypted(Box::new(outbound)), Unseal::Encrypted(Box::new(inbound)));
        Self { output, input, seal, unseal }
    }

    /// After `verack`, as a peer that sends compact blocks.
    pub fn welcomed(mut self) -> Option<Self> {
        let hello: Vec<u8> = [
            ("version", version()),
            ("wtxidrelay", Vec::new()),
            ("sendaddrv2", Vec::new()),
            ("verack", Vec::new()),
            ("sendcmpct", vec![0, 2, 0, 0, 0, 0, 0, 0, 0]),
        ]
        .into_iter()
        .flat_map(|(command, payload)| self.sealed(command, &payload))
        .collect();
        self.exchange(&[hello]).alive.then_some(self)
    }

    /// The bytes of a message.
    pub fn sealed(&mut self, command: &str, payload: &[u8]) -> Vec<u8> {
        match &mut self.seal {
            Seal::Clear => message(command, payload),
            Seal::Encrypted(cipher) => {
                let contents = [&[0][..], &padded(command), payload].concat();
                cipher.encrypt_to_vec(&contents, PacketType::Genuine, None)
            }
        }
    }

    /// The bytes of a v2 packet with any contents at all.
    pub fn packet(&mut self, contents: &[u8], kind: PacketType) -> Vec<u8> {
        match &mut self.seal {
            Seal::Clear => panic!("packets are of v2"),
            Seal::Encrypted(cipher) => cipher.encrypt_to_vec(contents, kind, None),
        }
    }

    /// Our ping behind input number `at`.
    pub fn ping(&mut self, at: usize) -> Vec<u8> {
        self.sealed("ping", &(OURS | at as u64).to_le_bytes())
    }

    /// Sends inputs and a ping behind each; reads until the last is answered or the node hangs up.
    pub fn exchange(&mut self, inputs: &[Vec<u8>]) -> Heard {
        let with_ping = |(at, input): (usize, &Vec<u8>)| [&input[..], &self.ping(at)].concat();
        let bytes: Vec<u8> = inputs.iter().enumerate().flat_map(with_ping).collect();
        self.send_and_hear(&bytes, inputs.len())
    }

    /// Sends bytes and no more, and waits until the node has hung up.
    pub fn send_last(mut self, bytes: &[u8]) {
        let _ = self.output.write_all(bytes);
        hang_up(&mut self.output);
    }

    /// Sends bytes that hold so many pings, from 0.
    pub fn send_and_hear(&mut self, bytes: &[u8], pings: usize) -> Heard {
        let mut output = self.output.try_clone().unwrap();
        std::thread::scope(|scope| {
            // A node that hangs up does not take the rest.
            scope.spawn(move || {
                let _ = output.write_all(bytes);
            });
            let mut heard = Heard { done: 0, asked: 0, alive: true };
            while heard.done < pings {
                let Some((command, payload)) = self.next() else {
                    // The one behind the last pong was judged.
                    heard.done += 1;
                    heard.alive = false;
                    // Ends the writing, too.
                    let _ = self.output.shutdown(Shutdown::Both);
                    break;
                };
                let nonce = payload.get(..8).map(|nonce| u64::from_le_bytes(nonce.try_into().unwrap()));
                match command.as_str() {
                    "pong" if nonce == Some(OURS | heard.done as u64) => heard.done += 1,
                    "getblocktxn" => heard.asked += 1,
                    _ => {}
                }
            }
            heard
        })
    }

    /// The next message of the node. `None`: it hung up.
    fn next(&mut self) -> Option<(String, Vec<u8>)> {
        match &mut self.unseal {
            Unseal::Clear => {
                let mut head = [0; HEADER_BYTES];
                read(&mut self.input, &mut head)?;
                let mut body = vec![0; u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize];
                read(&mut self.input, &mut body)?;
                Some((name(&head[4..16]), body))
            }
            Unseal::Encrypted(cipher) => {
                let mut length = [0; 3];
                read(&mut self.input, &mut length)?;
                let mut packet = vec![0; cipher.decrypt_packet_len(length)];
                read(&mut self.input, &mut packet)?;
                let (_, plain) = cipher.decrypt_in_place(&mut packet, None).expect("the node encrypts rightly");
                Some(match plain.get(1..) {
                    Some([PONG, payload @ ..]) => ("pong".to_owned(), payload.to_vec()),
                    Some([0, rest @ ..]) if rest.len() >= 12 => (name(&rest[..12]), rest[12..].to_vec()),
                    _ => (String::new(), Vec::new()),
                })
            }
        }
    }
}

fn name(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap()).into_owned()
}

/// Fills the buffer. `None`: the node hung up; silence is its failure.
fn read(input: &mut impl Read, into: &mut [u8]) -> Option<()> {
    match input.read_exact(into) {
        Ok(()) => Some(()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the node hangs"),
        Err(_) => None,
    }
}

/// The handshake of v2, as the one who called.
fn shake_hands(
    output: &mut TcpStream,
    mut input: BufReader<TcpStream>,
) -> Option<(CipherSession, BufReader<TcpStream>)> {
    let (_, reply, handshake) = begin(output, &mut input, &[])?;
    output.write_all(&reply).ok()?;
    let mut handshake = handshake;
    let mut seen = Vec::new();
    let mut handshake = loop {
        let taken = seen.len();
        seen.extend_from_slice(input.fill_buf().ok().filter(|more| !more.is_empty())?);
        match handshake.receive_garbage(&seen) {
            Ok(GarbageResult::FoundGarbage { handshake, consumed_bytes }) => {
                input.consume(consumed_bytes - taken);
                break handshake;
            }
            Ok(GarbageResult::NeedMoreData(same)) => handshake = same,
            Err(_) => return None,
        }
        input.consume(seen.len() - taken);
    };
    loop {
        let mut length = [0; 3];
        read(&mut input, &mut length)?;
        let mut packet = vec![0; handshake.decrypt_packet_len(length).ok()?];
        read(&mut input, &mut packet)?;
        match handshake.receive_version(&mut packet).ok()? {
            VersionResult::Complete { cipher } => return Some((cipher, input)),
            VersionResult::Decoy(next) => handshake = next,
        }
    }
}

/// Sends key and garbage; answers with what was sent, and with terminator and version packet, which were not.
pub fn begin(
    output: &mut TcpStream,
    input: &mut impl Read,
    garbage: &[u8],
) -> Option<(Vec<u8>, Vec<u8>, Handshake<bip324::SentVersion>)> {
    let mut hello = vec![0; KEY_BYTES + garbage.len()];
    let fresh = Handshake::new(Magic::REGTEST.to_bytes(), Role::Initiator).unwrap();
    let handshake = fresh.send_key(Some(garbage), &mut hello).unwrap();
    output.write_all(&hello).ok()?;
    let mut key = [0; KEY_BYTES];
    read(input, &mut key)?;
    let handshake = handshake.receive_key(key).ok()?;
    let mut reply = vec![0; 16 + 20];
    let handshake = handshake.send_version(&mut reply, None).unwrap();
    Some((hello, reply, handshake))
}
