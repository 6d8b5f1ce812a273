//! A copy of a machine, for tests that begin many runs in one round. In other builds a machine cannot be copied.
//!
//! What a copy has not drawn yet it draws from a seed of its own. Test signatures are never copied: their nonces are for
//! one use, in tests too.

use std::sync::Arc;

use super::{Dkg, State};

impl Dkg {
    /// None from the test signatures on.
    pub(crate) fn fork(&self, seed: [u8; 32]) -> Option<Self> {
        let state = match &self.state {
            State::Round1 { ecdsa, schnorr } => State::Round1 { ecdsa: ecdsa.clone(), schnorr: schnorr.clone() },
            State::Round2 { ecdsa, schnorr } => {
                State::Round2 { ecdsa: Box::new(ecdsa.computed_ahead()), schnorr: schnorr.clone() }
            }
            State::Round3 { ecdsa, schnorr } => State::Round3 { ecdsa: ecdsa.clone(), schnorr: schnorr.clone() },
            State::Echo { share } => State::Echo { share: Arc::clone(share) },
            _ => return None,
        };
        Some(Self {
            params: self.params.clone(),
            params_hash: self.params_hash,
            me: self.me,
            identity: self.identity.clone(),
            seed,
            state,
            rounds: self.rounds.clone(),
        })
    }
}
