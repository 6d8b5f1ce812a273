//! `-devquorum=t/n`: co-signers embedded in this process, for development and tests. Refused on main.
//!
//! Each has its own identity, share and store under the wallet's directory, checks what any co-signer checks, and
//! hears the others over the in-memory carrier. The directory holds all it needs and may be copied to another node.
//! It protects nothing: one disk holds every share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use keyless_p2p::cosigners::memory::Hub;
use keyless_p2p::cosigners::{Identity, IdentityError};
use tss_wallet::{MemberId, SigningIdentity};

use super::core::{Core, CoreConfig, Layout, Policy};
use super::error::QuorumError;
use super::holding::{Holding, HoldingError};
use super::keygen;
use super::wire::Invitation;
use crate::alerts::Alerts;
use crate::wallets::chain_view::ChainView;

const IDENTITY: &str = "identity";

/// Threshold and number of embedded co-signers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Devquorum {
    pub threshold: u8,
    pub members: u8,
}

impl Default for Devquorum {
    fn default() -> Self {
        Self { threshold: 2, members: 3 }
    }
}

impl fmt::Display for Devquorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.threshold, self.members)
    }
}

/// What is wrong with a `-devquorum` value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid -devquorum value '{0}': it must be t/n with 2 <= t <= n <= 15 and 2t > n, such as 2/3")]
pub struct DevquorumError(String);

impl FromStr for Devquorum {
    type Err = DevquorumError;

    fn from_str(text: &str) -> Result<Self, DevquorumError> {
        let bad = || DevquorumError(text.to_owned());
        let (threshold, members) = text.split_once('/').ok_or_else(bad)?;
        let threshold: u8 = threshold.trim().parse().map_err(|_| bad())?;
        let members: u8 = members.trim().parse().map_err(|_| bad())?;
        let fits = (2..=15).contains(&members) && (2..=members).contains(&threshold) && 2 * threshold > members;
        if fits { Ok(Self { threshold, members }) } else { Err(bad()) }
    }
}

/// Why the embedded co-signers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Holding(#[from] HoldingError),
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    #[error("the wallet directory {0} lacks the share of an embedded co-signer")]
    Incomplete(PathBuf),
}

/// What all embedded co-signers of a node share.
pub struct Surroundings {
    /// `-signingtimeout`.
    pub signing_timeout: Duration,
    pub alerts: Alerts,
    pub chain: Arc<dyn ChainView>,
}

/// The embedded co-signers of one wallet. The first one is this node's own.
pub struct Embedded {
    cores: Vec<Arc<Core>>,
    hub: Hub,
}

fn member_dir(wallet_dir: &Path, position: u8) -> PathBuf {
    if position == 1 { wallet_dir.to_owned() } else { wallet_dir.join(format!("cosigner-{position}")) }
}

impl Embedded {
    /// Starts co-signers in a wallet's directory, making identities where there are none. Needs a tokio runtime. They
    /// open the shares of wallet `name`, if there is one.
    fn start(
        wallet_dir: &Path,
        name: Option<&str>,
        members: u8,
        surroundings: &Surroundings,
    ) -> Result<Self, EmbeddedError> {
        let identities = (1..=members)
            .map(|position| {
                let dir = member_dir(wallet_dir, position);
                Ok((Identity::load_or_create(&dir.join(IDENTITY))?, dir))
            })
            .collect::<Result<Vec<_>, EmbeddedError>>()?;
        let hub = Hub::new();
        let mut cores = Vec::with_capacity(identities.len());
        let mut queues = Vec::with_capacity(identities.len());
        for (identity, dir) in identities {
            let (carrier, events) = hub.member(identity.peer_id());
            let config = CoreConfig {
                identity: SigningIdentity::from_seed(identity.seed()),
                layout: Layout::Embedded { dir: dir.clone() },
                policy: Policy { accepts_any: true, ..Policy::default() },
                signing_timeout: surroundings.signing_timeout,
                alerts: surroundings.alerts.clone(),
            };
            let core = Core::new(config, Arc::new(carrier), Arc::clone(&surroundings.chain));
            if let Some(name) = name {
                keygen::open_one(&core, name, &dir)?;
            }
            cores.push(core);
            queues.push(events);
        }
        for (core, events) in cores.iter().zip(queues) {
            core.listen(events);
        }
        Ok(Self { cores, hub })
    }

    /// Makes a wallet in an empty directory. Blocks; must run on a blocking thread of a tokio runtime.
    pub fn create(
        wallet_dir: &Path,
        devquorum: Devquorum,
        mut invitation: Invitation,
        surroundings: &Surroundings,
    ) -> Result<(Self, Arc<Holding>), EmbeddedError> {
        let embedded = Self::start(wallet_dir, None, devquorum.members, surroundings)?;
        invitation.threshold = devquorum.threshold;
        invitation.members = embedded.cores.iter().map(|core| core.me()).collect();
        match keygen::make(embedded.own(), invitation) {
            Ok(holding) => Ok((embedded, holding)),
            Err(error) => {
                embedded.stop();
                Err(error.into())
            }
        }
    }

    /// Opens a wallet made by [`Embedded::create`], here or on another node.
    pub fn open(
        name: &str,
        wallet_dir: &Path,
        surroundings: &Surroundings,
    ) -> Result<(Self, Arc<Holding>), EmbeddedError> {
        let mut members = 1;
        while member_dir(wallet_dir, members + 1).is_dir() && members < 15 {
            members += 1;
        }
        let embedded = Self::start(wallet_dir, Some(name), members, surroundings)?;
        for core in &embedded.cores {
            keygen::resolve_pending(core);
        }
        let holding = embedded.own().holdings().into_iter().next();
        match holding {
            Some(holding) => Ok((embedded, holding)),
            None => {
                embedded.stop();
                Err(EmbeddedError::Incomplete(wallet_dir.to_owned()))
            }
        }
    }

    /// The co-signer that coordinates for this node.
    pub fn own(&self) -> &Arc<Core> {
        // Never empty: `start` makes as many as there are members, and there are two at least.
        &self.cores[0]
    }

    pub fn cores(&self) -> &[Arc<Core>] {
        &self.cores
    }

    pub fn devquorum(&self) -> Devquorum {
        let threshold = self.own().holdings().first().map_or(2, |holding| holding.threshold());
        Devquorum { threshold, members: u8::try_from(self.cores.len()).unwrap_or(u8::MAX) }
    }

    /// The wire between them, for tests that cut it.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    pub fn members(&self) -> Vec<MemberId> {
        self.cores.iter().map(|core| core.me()).collect()
    }

    /// Ends all of them. Blocks for a few seconds at most.
    pub fn stop(&self) {
        for core in &self.cores {
            core.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn devquorum_values_are_checked() {
        assert_eq!("2/3".parse(), Ok(Devquorum { threshold: 2, members: 3 }));
        for bad in ["", "2", "1/3", "4/3", "2/4", "2/16", "a/b", "3/5/7"] {
            assert!(bad.parse::<Devquorum>().is_err(), "{bad}");
        }
    }
}
