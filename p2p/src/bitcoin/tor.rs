//! Tor's control port: where Tor's proxy listens, and an onion service of this node's own, made while the connection to the
//! control port lasts.
//!
//! Follows Core's `torcontrol.cpp` and Tor's control-spec, in this order: PROTOCOLINFO, AUTHENTICATE, GETINFO, ADD_ONION. A Tor that
//! refuses is not asked again before the connection ends; one that is not there is looked for again and again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::net_addr::NetAddr;
use super::socket::SocketEvent;
use reply::{Conversation, Reply, ReplyError};

mod reply;

/// Pauses before Tor is looked for again: the first, and the longest. Each is half as long again as the one before.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(600);
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
const COOKIE_BYTES: usize = 32;
const NONCE_BYTES: usize = 32;
/// Larger files are no keys.
const MAX_KEY_BYTES: u64 = 4_096;
const NEW_KEY: &str = "NEW:ED25519-V3";
const DEFAULT_PROXY: &str = "127.0.0.1:9050";
const SERVER_KEY: &[u8] = b"Tor safe cookie authentication server-to-controller hash";
const CLIENT_KEY: &[u8] = b"Tor safe cookie authentication controller-to-server hash";

/// A password of the operator's.
#[derive(Clone, Default)]
pub struct Password(Zeroizing<String>);

impl Password {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What is asked of Tor.
#[derive(Clone, Debug)]
pub struct TorControl {
    /// `-torcontrol`, as host and port.
    pub address: String,
    /// `-torpassword`; empty for none.
    pub password: Password,
    /// Where the service's key is kept.
    pub key_file: PathBuf,
    /// Where the service's connections are to come in.
    pub target: SocketAddr,
    /// The service's port: the network's default one, whatever `target` has, so that it tells nothing.
    pub port: u16,
    /// Tor's proxy is to be asked for: none was named.
    pub asks_for_proxy: bool,
    /// Once there is a proxy, addresses on Tor are called (`-onlynet` allows it).
    pub calls: bool,
}

/// Why there is no service. Texts are Core's, without `tor: `.
#[derive(Debug, thiserror::Error)]
enum TorError {
    #[error(transparent)]
    Connection(#[from] ReplyError),
    #[error("Requesting protocol info failed")]
    ProtocolInfo,
    #[error("Password provided with -torpassword, but HASHEDPASSWORD authentication is not available")]
    NoPasswords,
    #[error("The only supported authentication mechanism left is password, but no password provided with -torpassword")]
    PasswordNeeded,
    #[error("No supported authentication method")]
    NoMethod,
    #[error("Authentication cookie {0} could not be opened (check permissions)")]
    Cookie(String),
    #[error("Authentication cookie {0} is not exactly {COOKIE_BYTES} bytes, as is required by the spec")]
    CookieSize(String),
    #[error("SAFECOOKIE authentication challenge failed")]
    Challenge,
    #[error("Invalid reply to AUTHCHALLENGE")]
    ChallengeReply,
    #[error("ServerNonce is not 32 bytes, as required by spec")]
    Nonce,
    #[error("ServerHash does not match expected ServerHash")]
    ServerHash,
    #[error("Authentication failed")]
    Refused,
    #[error("Add onion failed with unrecognized command (You probably need to upgrade Tor)")]
    OldTor,
    #[error("Add onion failed; error code {0}")]
    AddOnion(u16),
    #[error("Error parsing ADD_ONION parameters")]
    NoService,
}

/// Keeps the service up until the owner is gone.
pub(crate) async fn keep_service(tor: TorControl, events: mpsc::Sender<SocketEvent>) {
    let mut pause = PAUSE_FIRST;
    loop {
        let attempt = async {
            tracing::debug!(target: "tor", "Attempting to connect to Tor control port {}", tor.address);
            match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(&tor.address)).await {
                Ok(Ok(stream)) => {
                    tracing::debug!(target: "tor", "Successfully connected to Tor control port");
                    serve(&tor, stream, &events).await;
                    true
                }
                _ => false,
            }
        };
        let connected = tokio::select! {
            connected = attempt => connected,
            () = events.closed() => return,
        };
        if connected {
            pause = PAUSE_FIRST;
            tracing::debug!(target: "tor", "Not connected to Tor control port {}, will retry", tor.address);
        } else {
            tracing::warn!("tor: Initiating connection to Tor control port {} failed", tor.address);
            tracing::debug!(target: "tor", "Retrying in {:.1} seconds", pause.as_secs_f64());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = events.closed() => return,
        }
        if !connected {
            pause = pause.mul_f64(1.5).min(PAUSE_LAST);
        }
    }
}

/// One connection to the control port, to its end.
async fn serve(tor: &TorControl, stream: TcpStream, events: &mpsc::Sender<SocketEvent>) {
    let mut talk = Conversation::new(stream);
    let service = set_up(tor, &mut talk, events).await;
    let lost = match &service {
        Err(TorError::Connection(error)) => Some(error.to_string()),
        Err(error) => {
            tracing::warn!("tor: {error}");
            None
        }
        Ok(_) => None,
    };
    let lost = match lost {
        Some(lost) => lost,
        None => talk.until_closed().await.to_string(),
    };
    tracing::debug!(target: "tor", "Lost connection to Tor control port: {lost}");
    if let Ok(Some(address)) = service {
        // An owner that is gone is noticed by the caller.
        let _ = events.send(SocketEvent::Reachable { address, up: false }).await;
    }
}

/// The service's address, where it is one that we can name.
async fn set_up(
    tor: &TorControl,
    talk: &mut Conversation<TcpStream>,
    events: &mpsc::Sender<SocketEvent>,
) -> Result<Option<NetAddr>, TorError> {
    authenticate(tor, talk).await?;
    tracing::debug!(target: "tor", "Authentication successful");
    if tor.asks_for_proxy {
        let proxy = proxy(&talk.ask("GETINFO net/listeners/socks").await?);
        tracing::debug!(target: "tor", "Configuring onion proxy for {proxy}");
        let _ = events.send(SocketEvent::OnionProxy(proxy)).await;
    }
    let service = add_onion(tor, talk).await?;
    if let Some(address) = service {
        let _ = events.send(SocketEvent::Reachable { address, up: true }).await;
    }
    Ok(service)
}

async fn authenticate(tor: &TorControl, talk: &mut Conversation<TcpStream>) -> Result<(), TorError> {
    let info = talk.ask("PROTOCOLINFO 1").await?;
    if !info.is_ok() {
        return Err(TorError::ProtocolInfo);
    }
    if let Some(version) = info.value("VERSION", "Tor") {
        tracing::debug!(target: "tor", "Connected to Tor version {version}");
    }
    let methods = info.value("AUTH", "METHODS").unwrap_or_default();
    tracing::debug!(target: "tor", "Supported authentication methods: {methods}");
    let offers = |method: &str| methods.split(',').any(|offered| offered == method);
    let command = if !tor.password.0.is_empty() {
        if !offers("HASHEDPASSWORD") {
            return Err(TorError::NoPasswords);
        }
        tracing::debug!(target: "tor", "Using HASHEDPASSWORD authentication");
        let quoted = Zeroizing::new(tor.password.0.replace('"', "\\\""));
        Zeroizing::new(format!("AUTHENTICATE \"{}\"", *quoted))
    } else if offers("NULL") {
        tracing::debug!(target: "tor", "Using NULL authentication");
        Zeroizing::new("AUTHENTICATE".to_owned())
    } else if offers("SAFECOOKIE") {
        let file = info.value("AUTH", "COOKIEFILE").unwrap_or_default();
        Zeroizing::new(format!("AUTHENTICATE {}", answer_challenge(&file, talk).await?))
    } else if offers("HASHEDPASSWORD") {
        return Err(TorError::PasswordNeeded);
    } else {
        return Err(TorError::NoMethod);
    };
    if talk.ask(&command).await?.is_ok() { Ok(()) } else { Err(TorError::Refused) }
}

/// Both sides show that they know the cookie, and neither tells it.
async fn answer_challenge(file: &str, talk: &mut Conversation<TcpStream>) -> Result<String, TorError> {
    tracing::debug!(
        target: "tor",
        "Using SAFECOOKIE authentication, reading cookie authentication from {file}"
    );
    let cookie =
        read_at_most(Path::new(file), COOKIE_BYTES as u64 + 1).map_err(|_| TorError::Cookie(file.to_owned()))?;
    if cookie.len() != COOKIE_BYTES {
        return Err(TorError::CookieSize(file.to_owned()));
    }
    let ours: [u8; NONCE_BYTES] = rand::random();
    let reply = talk.ask(&format!("AUTHCHALLENGE SAFECOOKIE {}", HEXLOWER.encode(&ours))).await?;
    if !reply.is_ok() {
        return Err(TorError::Challenge);
    }
    let bytes = |name| {
        let text = reply.value("AUTHCHALLENGE", name).ok_or(TorError::ChallengeReply)?;
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| TorError::ChallengeReply)
    };
    let (hash, theirs) = (bytes("SERVERHASH")?, bytes("SERVERNONCE")?);
    if theirs.len() != NONCE_BYTES {
        return Err(TorError::Nonce);
    }
    if reply::authenticator(SERVER_KEY, &[&cookie, &ours, &theirs]).as_slice() != hash {
        return Err(TorError::ServerHash);
    }
    Ok(HEXLOWER.encode(&reply::authenticator(CLIENT_KEY, &[&cookie, &ours, &theirs])))
}

/// Where Tor's proxy is: on this host if it has several places, and at its usual place if it does not say.
fn proxy(reply: &Reply) -> String {
    if !reply.is_ok() {
        tracing::warn!("tor: Get SOCKS port command failed; error code {}", reply.code);
    }
    let places = reply.lines.iter().filter_map(|line| line.strip_prefix("net/listeners/socks="));
    let places: Vec<&str> = places
        .flat_map(|list| list.split(' '))
        .map(|place| place.trim_matches(|quote| quote == '"' || quote == '\''))
        .filter(|place| place.parse::<SocketAddr>().is_ok())
        .collect();
    let local = places.iter().find(|place| place.starts_with("127.0.0.1:"));
    if places.is_empty() {
        tracing::warn!("tor: Get SOCKS port command returned nothing");
    }
    (*local.or(places.last()).unwrap_or(&DEFAULT_PROXY)).to_owned()
}

async fn add_onion(tor: &TorControl, talk: &mut Conversation<TcpStream>) -> Result<Option<NetAddr>, TorError> {
    let kept = read_key(&tor.key_file);
    let key = kept.as_ref().map_or(NEW_KEY, |kept| kept.as_str());
    let command = |pow: &str| Zeroizing::new(format!("ADD_ONION {key}{pow} Port={},{}", tor.port, tor.target));
    let mut reply = talk.ask(&command(" PoWDefensesEnabled=1")).await?;
    if reply.code == reply::SYNTAX_ERROR {
        tracing::debug!(target: "tor", "ADD_ONION failed with PoW defenses, retrying without");
        reply = talk.ask(&command("")).await?;
    }
    match reply.code {
        reply::OK => {}
        reply::UNRECOGNIZED => return Err(TorError::OldTor),
        code => return Err(TorError::AddOnion(code)),
    }
    let id = reply.anywhere("ServiceID").ok_or(TorError::NoService)?;
    let address = NetAddr::parse(&format!("{id}.onion"), tor.port);
    let shown = address.map(|address| address.to_string()).unwrap_or_default();
    tracing::info!("Got tor service ID {id}, advertising service {shown}");
    if let Some(key) = reply.anywhere("PrivateKey").map(Zeroizing::new) {
        match write_key(&tor.key_file, &key) {
            Ok(()) => tracing::debug!(target: "tor", "Cached service private key to {}", tor.key_file.display()),
            Err(_) => tracing::warn!("tor: Error writing service private key to {}", tor.key_file.display()),
        }
    }
    Ok(address)
}

fn read_at_most(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `None` where there is none yet, or none that can be used: then the service gets a new address.
fn read_key(path: &Path) -> Option<Zeroizing<String>> {
    match read_at_most(path, MAX_KEY_BYTES) {
        Ok(bytes) => {
            tracing::debug!(target: "tor", "Reading cached private key from {}", path.display());
            let text = Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned());
            let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
            usable.then_some(text)
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!("tor: {}: {error}", path.display());
            }
            None
        }
    }
}

/// Written in full before it has its name.
fn write_key(path: &Path, key: &str) -> io::Result<()> {
    let next = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

#[cfg(test)]
mod tests;
