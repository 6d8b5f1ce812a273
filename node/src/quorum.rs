//! Co-signing: the members of a wallet's quorum at work, between the carrier of frames and the protocol machines.
//!
//! Owns: a co-signer's event loop and sessions ([`core`]), key generation over all members, address leases, signing as
//! coordinator and as participant, and the embedded co-signers of `-devquorum`.
//! Refuses: cryptography (machines of `tss_wallet` do it), sockets (a [`keyless_p2p::cosigners::Carrier`] does).
//! Every wait has a deadline, every table a limit, every refusal a name.
//!
//! | module | owns |
//! | --- | --- |
//! | [`wire`] | messages, frames, envelopes |
//! | [`refusal`], [`error`] | why a member takes no part; why the user gets no result |
//! | [`sessions`], [`link`] | the table of open sessions; one session's end of the line |
//! | [`rate`] | how many requests a member may make |
//! | [`core`] | one co-signer: identity, shares, event loop |
//! | [`holding`] | one wallet's share, with what was promised about it |
//! | [`keygen`] | making a wallet, so that it ends the same way for all members |
//! | [`redeal`] | dealing shares again: refresh, reshare, repair, and the switch of epochs |
//! | [`lease`] | address indexes from t members |
//! | [`names`] | users' own names for payments, leased from t members |
//! | [`nonces`] | nonces of taproot signatures in one round: one's own for each coordinator, and what others told |
//! | [`check`], [`dummy`] | what a co-signer checks before it signs |
//! | [`guard`], [`approvals`] | one share's policy, memory, log; what waits for its operator |
//! | [`fence`] | members that were rolled back |
//! | [`blame`] | accusations, with their evidence |
//! | [`judge`] | from a checked request to a decision |
//! | [`signing`], [`participant`] | a signature as its coordinator, and as a member |
//! | [`sharing`] | payments under way and labels, told to the other members |
//! | [`coins`] | coins of payments that are being made: none is chosen by two coordinators |
//! | [`switching`] | work that goes on over a switch of epochs |
//! | [`devquorum`] | co-signers embedded in this process |

pub mod approvals;
pub mod blame;
pub mod check;
pub mod coins;
pub mod core;
pub mod devquorum;
pub mod dummy;
pub mod error;
pub mod fence;
pub mod guard;
pub mod holding;
pub mod judge;
pub mod keygen;
pub mod lease;
pub mod link;
pub mod names;
pub mod nonces;
pub mod participant;
pub mod rate;
pub mod redeal;
pub mod refusal;
pub mod sessions;
pub mod sharing;
pub mod signing;
pub mod switching;
mod unplaced;
pub mod wire;

pub use self::core::{Core, CoreConfig, Host, Layout, Policy};
pub use self::error::{QuorumError, peer_name};
pub use self::holding::Holding;
