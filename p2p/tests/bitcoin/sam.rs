//! An I2P router made by hand: destinations are random bytes, and a call reaches who waits for it in the same process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bitcoin::hashes::{Hash, sha256};
use data_encoding::{BASE32_NOPAD, BASE64};

/// 387 bytes, of which the last two say that nothing follows, and a private key.
const KEY_BYTES: usize = 387 + 64;

#[derive(Default)]
struct State {
    /// Sessions by their ids: the whole key.
    sessions: HashMap<String, Vec<u8>>,
    /// Sockets that wait for a peer, by their session.
    waiting: HashMap<String, TcpStream>,
    /// All that was asked, without what was answered.
    asked: Vec<String>,
}

#[derive(Clone)]
pub struct Bridge {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

fn name(key: &[u8]) -> String {
    let hash = sha256::Hash::hash(&key[..387]);
    format!("{}.b32.i2p", BASE32_NOPAD.encode(hash.as_byte_array()).to_lowercase())
}

fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes).replace('+', "-").replace('/', "~")
}

fn new_key() -> Vec<u8> {
    let mut key: Vec<u8> = (0..KEY_BYTES).map(|_| rand::random()).collect();
    key[385..387].copy_from_slice(&[0, 0]);
    key
}

fn value<'a>(line: &'a str, key: &str) -> &'a str {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

/// Both ways, until one side is done.
fn carry(one: TcpStream, two: TcpStream) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    };
    copy(one.try_clone().unwrap(), two.try_clone().unwrap());
    copy(two, one);
}

impl Bridge {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bridge = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let served = bridge.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let bridge = served.clone();
                std::thread::spawn(move || bridge.serve(stream));
            }
        });
        bridge
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Names of those who can be called now.
    pub fn waiting(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.waiting.keys().filter_map(|id| state.sessions.get(id)).map(|key| name(key)).collect()
    }

    pub fn asked(&self, what: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|line| line.contains(what)).count()
    }

    fn serve(&self, stream: TcpStream) {
        // Byte by byte: what follows a line may be a peer's.
        let mut reader = BufReader::with_capacity(1, stream.try_clone().unwrap());
        let mut session = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
            let line = line.trim_end().to_owned();
            self.state.lock().unwrap().asked.push(line.clone());
            let say = |text: String| (&stream).write_all(format!("{text}\n").as_bytes()).unwrap();
            match line.split(' ').take(2).collect::<Vec<_>>()[..] {
                ["HELLO", _] => say("HELLO REPLY RESULT=OK VERSION=3.1".to_owned()),
                ["DEST", _] => say(format!("DEST REPLY PUB=x PRIV={}", encode(&new_key()))),
                ["NAMING", _] => say(format!("NAMING REPLY RESULT=OK NAME=x VALUE={}", value(&line, "NAME"))),
                ["SESSION", _] => {
                    let key = match value(&line, "DESTINATION") {
                        "TRANSIENT" => new_key(),
                        text => BASE64.decode(text.replace('-', "+").replace('~', "/").as_bytes()).unwrap(),
                    };
                    say(format!("SESSION STATUS RESULT=OK DESTINATION={}", encode(&key)));
                    let id = value(&line, "ID").to_owned();
                    self.state.lock().unwrap().sessions.insert(id.clone(), key);
                    session = Some(id);
                }
                ["STREAM", "ACCEPT"] => {
                    say("STREAM STATUS RESULT=OK".to_owned());
                    self.state.lock().unwrap().waiting.insert(value(&line, "ID").to_owned(), stream);
                    return;
                }
                ["STREAM", "CONNECT"] => return self.connect(&line, stream),
                _ => break,
            }
        }
        if let Some(id) = session {
            self.state.lock().unwrap().sessions.remove(&id);
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn connect(&self, line: &str, mut caller: TcpStream) {
        let mut state = self.state.lock().unwrap();
        let Some(key) = state.sessions.get(value(line, "ID")).cloned() else {
            caller.write_all(b"STREAM STATUS RESULT=INVALID_ID\n").unwrap();
            return;
        };
        let wanted = value(line, "DESTINATION");
        let called = state.sessions.iter().find(|(_, key)| name(key) == wanted).map(|(id, _)| id.clone());
        let Some(mut called) = called.and_then(|id| state.waiting.remove(&id)) else {
            caller.write_all(b"STREAM STATUS RESULT=CANT_REACH_PEER\n").unwrap();
            return;
        };
        caller.write_all(b"STREAM STATUS RESULT=OK\n").unwrap();
        called.write_all(format!("{}\n", encode(&key[..387])).as_bytes()).unwrap();
        carry(caller, called);
    }
}
