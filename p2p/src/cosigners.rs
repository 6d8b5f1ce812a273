//! The co-signer network: opaque byte frames between allow-listed peers.
//!
//! Owns: the node's ed25519 identity, the libp2p swarm (tcp, noise, yamux), discovery (static
//! addresses, mDNS, a private Kademlia, identify), one logical connection to each member with its
//! hello, liveness and queues.
//!
//! Refuses: peers that are not on the allow-list, peers of another network, genesis block or
//! protocol version, frames above [`limits::MAX_FRAME_BYTES`], peers that neither speak nor read.
//!
//! Knows nothing of: keys of wallets, rosters, consensus, what a frame says. Discovery yields
//! addresses, never authority: who may connect is decided by the allow-list alone, and who it is
//! by the Noise handshake.
//!
//! Map:
//! - [`identity`]: the identity file, PeerId from and to public key, fingerprint
//! - [`config`]: [`Config`], [`Hello`], [`Discovery`], `-cosigner=` parsing
//! - [`carrier`]: the trait [`Carrier`] with events, statuses and errors that both twins share
//! - [`network`]: [`start`] and the handle [`Network`] (libp2p)
//! - [`memory`]: [`memory::Hub`], the in-memory twin for `-devquorum` and tests
//! - [`limits`]: every limit and deadline by name
//! - `wire`, `link`, `swarm`, `owner`, `discovery`, `book`, `shared`, `events`: frames, one
//!   connection, libp2p set-up, the task that owns all, what discovery tells it, known addresses,
//!   the snapshot for handles, the queue of events

pub mod carrier;
pub mod config;
pub mod identity;
pub mod limits;
pub mod memory;
pub mod network;

mod book;
mod discovery;
mod events;
mod link;
mod owner;
mod shared;
mod swarm;
mod wire;

pub use carrier::{Carrier, DownReason, Event, PeerStatus, SendError};
pub use config::{Config, Discovery, Hello, Member, MemberError, parse_members};
pub use events::Events;
pub use identity::{Identity, IdentityError, fingerprint, peer_id_of, public_key_of};
pub use libp2p::{Multiaddr, PeerId};
pub use network::{MemberChangeError, Network, RefusedPeer, StartError, start};
