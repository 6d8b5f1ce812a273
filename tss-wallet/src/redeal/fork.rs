//! A copy of a machine, for tests that begin many runs in one round; see the one of key generation.

use super::{Redeal, State};

impl Redeal {
    /// None from the test signatures on.
    pub(crate) fn fork(&self, seed: [u8; 32]) -> Option<Self> {
        let state = match &self.state {
            State::Commit { dealing, pairs } => {
                let pairs = pairs.as_ref().map(|pairs| pairs.computed_ahead()).transpose().ok()?;
                State::Commit { dealing: dealing.clone(), pairs }
            }
            State::Open { dealing, pairs, points, zero } => State::Open {
                dealing: dealing.clone(),
                pairs: pairs.clone(),
                points: points.clone(),
                zero: zero.clone(),
            },
            State::Echo(made) => State::Echo(made.clone()),
            _ => return None,
        };
        Some(Self {
            params: self.params.clone(),
            params_hash: self.params_hash,
            members: self.members.clone(),
            me: self.me,
            identity: self.identity.clone(),
            seed,
            state,
            rounds: self.rounds.clone(),
        })
    }
}
