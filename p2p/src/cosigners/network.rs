//! The handle of the libp2p carrier, and its start.
//!
//! Owns nothing but channels: the swarm belongs to the task in `owner`. Dropping the last handle
//! stops that task; [`Network::shutdown`] also waits for it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::info;

use super::carrier::{Carrier, PeerStatus, SendError};
use super::config::{Config, Member};
use super::events::{Events, channel};
use super::limits::{COMMAND_QUEUE, MAX_MEMBERS};
use super::owner::{Command, Owner};
use super::shared::Shared;
use super::swarm;

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("Unable to bind to {address} on this computer: {source}")]
    Bind { address: Multiaddr, source: io::Error },
    #[error("Invalid -cosignerbind address '{0}' (use /ip4/<address>/tcp/<port>)")]
    BadListenAddress(Multiaddr),
    #[error("Cannot start the co-signer network: {0}")]
    Setup(String),
    #[error("{0} did not start to listen in time")]
    ListenTimeout(Multiaddr),
    #[error("the list of co-signers names this node itself")]
    OwnPeer,
    #[error("too many co-signers: at most {MAX_MEMBERS} are allowed")]
    TooManyMembers,
}

/// Why the allow-list did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberChangeError {
    #[error("this is the PeerId of this node itself")]
    Own,
    #[error("too many co-signers: at most {MAX_MEMBERS} are allowed")]
    TooMany,
    #[error("not on the list of co-signers")]
    Unknown,
    #[error("the co-signer network has stopped")]
    Stopped,
}

/// A stranger that tried to connect.
#[derive(Clone, Debug)]
pub struct RefusedPeer {
    pub peer: PeerId,
    pub address: Multiaddr,
    pub last: SystemTime,
}

/// Handle of the running network; cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    owner: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Binds, starts the owner task and returns the handle and the events. Needs a tokio runtime.
pub async fn start(config: Config) -> Result<(Network, Events), StartError> {
    let me = config.identity.peer_id();
    if config.members.iter().any(|member| member.peer == me) {
        return Err(StartError::OwnPeer);
    }
    if config.members.len() > MAX_MEMBERS {
        return Err(StartError::TooManyMembers);
    }
    for address in &config.listen {
        check_free(address)?;
    }
    let shared = Arc::new(Shared::new(me, config.height));
    let (events, receiver) = channel();
    let mut swarm = swarm::build(&config)?;
    let listening = swarm::listen(&mut swarm, &config.listen).await?;
    for address in &listening.addresses {
        info!(%address, peer = %me, "listening for co-signers");
    }
    shared.set_listening(listening.addresses);
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let mut owner = Owner::new(swarm, config, Arc::clone(&shared), events, inbox)?;
    for event in listening.missed {
        owner.on_swarm_event(event);
    }
    let task = tokio::spawn(owner.run());
    Ok((Network { shared, commands, owner: Arc::new(Mutex::new(Some(task))) }, receiver))
}

/// libp2p listens with SO_REUSEPORT, which would let two nodes share a port in silence.
fn check_free(address: &Multiaddr) -> Result<(), StartError> {
    let socket = socket_address(address).ok_or_else(|| StartError::BadListenAddress(address.clone()))?;
    if socket.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(socket).map(drop).map_err(|source| StartError::Bind { address: address.clone(), source })
}

fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

impl Network {
    /// Puts a member on the allow-list, or gives a member there another static address.
    pub async fn allow(&self, member: Member) -> Result<(), MemberChangeError> {
        self.ask(|reply| Command::Allow(member, reply)).await
    }

    /// Takes a member off the allow-list and closes its connection.
    pub async fn remove(&self, peer: PeerId) -> Result<(), MemberChangeError> {
        self.ask(|reply| Command::Remove(peer, reply)).await
    }

    /// Strangers that tried to connect, newest last.
    pub fn refused(&self) -> Vec<RefusedPeer> {
        self.shared.refused()
    }

    /// Says goodbye to all peers, closes all sockets and waits for it, within a deadline.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown(reply)).await.is_ok() {
            // An error means that the owner has ended already.
            let _ = done.await;
        }
        let task = self.owner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the co-signer network ended badly");
        }
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), MemberChangeError>>) -> Command,
    ) -> Result<(), MemberChangeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| MemberChangeError::Stopped)?;
        answer.await.map_err(|_| MemberChangeError::Stopped)?
    }
}

impl Carrier for Network {
    fn me(&self) -> PeerId {
        self.shared.me()
    }

    fn send(&self, peer: &PeerId, frame: Vec<u8>) -> Result<(), SendError> {
        self.shared.send(peer, frame)
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.shared.statuses()
    }

    fn peer(&self, peer: &PeerId) -> Option<PeerStatus> {
        self.shared.status(peer)
    }

    fn is_online(&self, peer: &PeerId) -> bool {
        self.shared.is_online(peer)
    }

    fn set_height(&self, height: u32) {
        self.shared.set_height(height);
    }

    fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.listen_addresses()
    }
}
