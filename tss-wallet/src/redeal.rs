//! Dealing a wallet's shares again: refresh, reshare and repair, for both keys at once. The addresses stay.
//!
//! The members of the present epoch that take part deal λᵢ·sᵢ by Feldman's sharing to all that will hold a share of the
//! next one, and every two of these set up DKLs23's state between them. A refresh goes to the same roster, a reshare to
//! another one, a repair to the same roster with a receiver that has lost its share; one machine does all of them.
//!
//! | round | broadcast | to each peer |
//! | --- | --- | --- |
//! | 1 | hash of the parameters, a dealer's commitment to its points | commitment to a zero-share seed |
//! | 2 | the points | a dealer's fragments; zero-share seed, oblivious transfer set-up |
//! | 3 | hash of all broadcasts, and of the result | |
//! | 4–6 | | test signatures by quorums that cover every pair of holders |
//! | 7 | signature over the certificate | |
//!
//! Works with members absent, within the rules of [`RedealParams::check`]: they hold no share of the next epoch and are
//! named in its certificate. All who take part sign, those who only deal too. A failed run leaves the old shares as
//! they were. [`Redeal::pending`] gives the share to write down before the messages of round 7 are sent.
//!
//! Indices of messages are positions among [`RedealParams::participants`], since a member may have another index in
//! the next epoch than in this one, or none. Argument for its security: ADR 8.

mod dealing;
#[cfg(test)]
mod fork;
mod pairs;
mod params;
mod steps;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use params::{MAX_EPOCH_JUMP, RedealParams, RedealRefusal};

use crate::dkg::DkgError;
use crate::dkg::rounds::{Rounds, Rules};
use crate::dkg::trial::Trial;
use crate::dkg::wire::Kind;
use crate::identity::SigningIdentity;
use crate::ids::{MemberId, Outgoing, PartyIndex};
use crate::keys::{Certificate, KeyShare, PublicKeys};

const ECHO_ROUND: u8 = 3;
const FIRST_TRIAL_ROUND: u8 = 4;
const CERTIFICATE_ROUND: u8 = 7;
static RULES: Rules = Rules { kinds, echo: ECHO_ROUND, last: CERTIFICATE_ROUND, tag: "keyless/redeal/transcript/v1" };

/// The result: the keys of the next epoch, and this member's share of them if it holds one.
#[derive(Clone)]
struct Made {
    public: Arc<PublicKeys>,
    share: Option<Arc<KeyShare>>,
}

enum State {
    Commit {
        dealing: Option<dealing::Dealing>,
        pairs: Option<pairs::Committed>,
    },
    Open {
        dealing: Option<dealing::Dealing>,
        pairs: Option<Box<pairs::Opened>>,
        points: BTreeMap<PartyIndex, Option<[u8; 32]>>,
        /// By the new index of the sender.
        zero: BTreeMap<PartyIndex, [u8; 32]>,
    },
    Echo(Made),
    Trial(Made, Option<Trial>),
    Certify(Made, Certificate),
    Finished(Made),
    Failed,
}

/// One member's part. Feed it what arrives; send what it returns.
pub struct Redeal {
    params: RedealParams,
    params_hash: [u8; 32],
    members: Vec<MemberId>,
    me: PartyIndex,
    identity: SigningIdentity,
    seed: [u8; 32],
    state: State,
    rounds: Rounds,
}

impl fmt::Debug for Redeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wallet, epoch) = (self.params.old.wallet, self.params.epoch);
        write!(f, "Redeal {{ wallet: {wallet}, epoch: {epoch}, me: {}, round: {} }}", self.me, self.rounds.present())
    }
}

impl Drop for Redeal {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

fn own(what: &str) -> DkgError {
    DkgError::Own(what.to_owned())
}

/// What each peer sends in a round.
fn kinds(round: u8) -> &'static [Kind] {
    match round {
        1 | 2 => &[Kind::Broadcast, Kind::Private],
        ECHO_ROUND | CERTIFICATE_ROUND => &[Kind::Broadcast],
        _ => &[Kind::Private],
    }
}

fn position_index(position: usize) -> Option<PartyIndex> {
    u8::try_from(position + 1).ok().and_then(|index| PartyIndex::new(index).ok())
}

impl Redeal {
    /// Starts this member's part, with fresh randomness in `seed`. A dealer brings its share of the present epoch.
    ///
    /// # Errors
    /// Fails when the rules are broken, when the identity takes no part, and when a dealer's share is not of the
    /// present epoch.
    pub fn start(
        params: RedealParams,
        identity: SigningIdentity,
        share: Option<&KeyShare>,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<Outgoing>), DkgError> {
        params.check().map_err(|refusal| DkgError::Own(refusal.to_string()))?;
        let params_hash = params.hash();
        let members = params.participants();
        let member = identity.member_id();
        let position = members.binary_search(&member).map_err(|_| DkgError::NotAMember)?;
        let me = position_index(position).ok_or_else(|| own("too many members"))?;
        let dealing = match share {
            _ if !params.dealers.contains(&member) => None,
            Some(share) if share.public().statement() == params.old.statement() => {
                Some(dealing::Dealing::new(&params, &member, share, &seed)?)
            }
            _ => return Err(own("a dealer has no share of the present epoch")),
        };
        let peers = (0..members.len()).filter_map(position_index).filter(|peer| *peer != me).collect();
        let mut redeal = Self {
            params,
            params_hash,
            members,
            me,
            identity,
            seed,
            state: State::Failed,
            rounds: Rounds::new(me, peers, &RULES),
        };
        let out = redeal.commit(dealing)?;
        Ok((redeal, out))
    }

    /// This member's index among those who take part.
    #[must_use]
    pub fn me(&self) -> PartyIndex {
        self.me
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &RedealParams {
        &self.params
    }

    /// The index of a member among those who take part.
    #[must_use]
    pub fn index_of(&self, member: &MemberId) -> Option<PartyIndex> {
        self.members.binary_search(member).ok().and_then(position_index)
    }

    /// The member with an index among those who take part.
    #[must_use]
    pub fn member(&self, index: PartyIndex) -> Option<MemberId> {
        self.members.get(index.position()).copied()
    }

    /// The round this member waits for, from 1 to 7.
    #[must_use]
    pub fn round(&self) -> u8 {
        self.rounds.present()
    }

    /// The members whose messages of the present round are missing.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<MemberId> {
        match self.state {
            State::Finished(_) | State::Failed => Vec::new(),
            _ => self.rounds.missing().into_iter().filter_map(|party| self.member(party)).collect(),
        }
    }

    /// The member to blame for an error of this machine, if one can be named.
    #[must_use]
    pub fn culprit(&self, error: &DkgError) -> Option<MemberId> {
        match error {
            // Test signatures run among the holders, by their new indices.
            DkgError::Trial(error) => error.culprit().and_then(|party| self.params.roster.member(party).copied()),
            other => other.culprit().and_then(|party| self.member(party)),
        }
    }

    /// Takes a message from a member whose envelope was checked, and returns what to send. Messages of a later round
    /// wait. Heavy rounds (1 and 2) take some 100 ms a peer: call it on a blocking thread.
    ///
    /// # Errors
    /// See [`DkgError::is_fatal`]: a refused message may leave the run as it was; every other error ends it.
    pub fn receive(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError> {
        if matches!(self.state, State::Finished(_) | State::Failed) {
            return Err(DkgError::Late { from });
        }
        if let Err(error) = self.rounds.accept(from, body) {
            if error.is_fatal() {
                self.state = State::Failed;
            }
            return Err(error);
        }
        let mut out = Vec::new();
        while !matches!(self.state, State::Finished(_)) && self.rounds.missing().is_empty() {
            match self.step() {
                Ok(messages) => out.extend(messages),
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
            }
        }
        Ok(out)
    }

    /// The share whose certificate this member signs: to be stored as pending before the messages of the call that
    /// made it are sent. None for a member that will hold no share.
    #[must_use]
    pub fn pending(&self) -> Option<&Arc<KeyShare>> {
        match &self.state {
            State::Certify(made, _) => made.share.as_ref(),
            _ => None,
        }
    }

    /// The keys of the next epoch whose certificate this member signs.
    #[must_use]
    pub fn certifying(&self) -> Option<&Arc<PublicKeys>> {
        match &self.state {
            State::Certify(made, _) => Some(&made.public),
            _ => None,
        }
    }

    /// The keys of the next epoch under their complete certificate.
    #[must_use]
    pub fn finished(&self) -> Option<&Arc<PublicKeys>> {
        match &self.state {
            State::Finished(made) => Some(&made.public),
            _ => None,
        }
    }

    /// This member's share under the complete certificate, if it holds one.
    #[must_use]
    pub fn share(&self) -> Option<&Arc<KeyShare>> {
        match &self.state {
            State::Finished(made) => made.share.as_ref(),
            _ => None,
        }
    }
}
