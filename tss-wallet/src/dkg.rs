//! Joint generation of both group keys with their chain codes, by all n members.
//!
//! One machine runs DKLs23's key generation and FROST's side by side:
//!
//! | round | broadcast | to each peer |
//! | --- | --- | --- |
//! | 1 | FROST commitments, commitment to chain code, commitment to the dealt ECDSA points, hash of the parameters | ECDSA fragment |
//! | 2 | commitment to the ECDSA proof, commitment to the ECDSA chain code | FROST share, zero-share commitment |
//! | 3 | the proof, the dealt ECDSA points, both chain codes | zero-share seed, oblivious transfer set-up |
//! | 4 | hash of all broadcasts of all members, and of the result | |
//! | 5–7 | | test signatures by quorums that cover every pair |
//! | 8 | signature over the certificate | |
//!
//! A member commits before it reveals, and reveals only when all commitments are in. All compare the hash of every
//! broadcast before anything is kept, so nobody can send different values to different members. A wrong share names
//! its dealer: ECDSA fragments are checked against the dealt points, which the library alone would not do.
//! [`Dkg::pending`] gives the share to write down before the messages of round 8 are sent; [`Dkg::finished`] the share
//! under the complete certificate. There is no address before that.
//!
//! Refuses messages from strangers, twice, late, malformed, of other parameters. Aborts as a whole: a failed run leaves
//! nothing. Source: DKLs23 (<https://eprint.iacr.org/2023/602>, protocol 9.1), FROST (RFC 9591, appendix C; KG20).

mod ecdsa;
mod error;
#[cfg(test)]
mod fork;
pub(crate) mod rounds;
mod schnorr;
pub(crate) mod trial;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bitcoin::Network;

pub use error::DkgError;

use crate::identity::{SIGNATURE_BYTES, SigningIdentity};
use crate::ids::{Epoch, Outgoing, PartyIndex, SessionId, WalletId, tagged_hash};
use crate::keys::{Certificate, KeyShare, PublicKeys};
use crate::roster::Roster;
use rounds::{Round, Rounds, Rules};
use wire::{Kind, encode};

const ECHO_ROUND: u8 = 4;
const FIRST_TRIAL_ROUND: u8 = 5;
const CERTIFICATE_ROUND: u8 = 8;
static RULES: Rules = Rules { kinds, echo: ECHO_ROUND, last: CERTIFICATE_ROUND, tag: "keyless/dkg/transcript/v1" };

/// What all members must agree on beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkgParams {
    /// The wallet to be; see [`DkgParams::wallet_id`].
    pub wallet: WalletId,
    /// Its network.
    pub network: Network,
    /// Members and threshold.
    pub roster: Roster,
    /// This run.
    pub session: SessionId,
    /// Hash of anything else the members agreed on (the wallet's name and options).
    pub context: [u8; 32],
}

impl DkgParams {
    /// The id of a wallet: bound to its name, network, members and the run that made it.
    #[must_use]
    pub fn wallet_id(name: &str, network: Network, roster: &Roster, session: &SessionId) -> WalletId {
        let magic = network.magic().to_bytes();
        let parts: [&[u8]; 4] = [name.as_bytes(), &magic, &roster.canonical_bytes(), session.as_bytes()];
        WalletId(tagged_hash("keyless/wallet/v1", &parts))
    }

    fn hash(&self) -> [u8; 32] {
        let magic = self.network.magic().to_bytes();
        let parts: [&[u8]; 5] =
            [self.wallet.as_bytes(), &magic, &self.roster.canonical_bytes(), self.session.as_bytes(), &self.context];
        tagged_hash("keyless/dkg/v1", &parts)
    }
}

enum State {
    Round1 { ecdsa: ecdsa::Dealt, schnorr: schnorr::Dealt },
    Round2 { ecdsa: Box<ecdsa::Committed>, schnorr: schnorr::Shared },
    Round3 { ecdsa: Box<ecdsa::Revealed>, schnorr: schnorr::Received },
    Echo { share: Arc<KeyShare> },
    Trial { share: Arc<KeyShare>, trial: trial::Trial },
    Certify { share: Arc<KeyShare>, certificate: Certificate },
    Finished { share: Arc<KeyShare> },
    Failed,
}

/// One member's part in a key generation. Feed it what arrives; send what it returns.
pub struct Dkg {
    params: DkgParams,
    params_hash: [u8; 32],
    me: PartyIndex,
    identity: SigningIdentity,
    seed: [u8; 32],
    state: State,
    rounds: Rounds,
}

impl fmt::Debug for Dkg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dkg {{ wallet: {}, me: {}, round: {} }}", self.params.wallet, self.me, self.rounds.present())
    }
}

impl Drop for Dkg {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

impl Dkg {
    /// Starts this member's part, with fresh randomness in `seed`.
    ///
    /// # Errors
    /// Fails when the identity is not a member.
    pub fn start(
        params: DkgParams,
        identity: SigningIdentity,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<Outgoing>), DkgError> {
        let me = params.roster.index_of(&identity.member_id()).ok_or(DkgError::NotAMember)?;
        let params_hash = params.hash();
        let (ecdsa, points_commitment, fragments) = ecdsa::deal(&params.roster, me, &params_hash, &seed)?;
        let (schnorr, frost_package, chain_commitment) = schnorr::deal(&params.roster, me, &seed)?;
        let broadcast = encode(&wire::Round1 { params_hash, frost_package, chain_commitment, points_commitment })?;
        let rounds = Rounds::new(me, params.roster.others(me).collect(), &RULES);
        let mut dkg = Self { params, params_hash, me, identity, seed, state: State::Round1 { ecdsa, schnorr }, rounds };
        let out = dkg.rounds.send(1, Round { broadcast: Some(broadcast), private: fragments });
        Ok((dkg, out))
    }

    /// This member's index.
    #[must_use]
    pub fn me(&self) -> PartyIndex {
        self.me
    }

    /// The round this member waits for, from 1 to 8.
    #[must_use]
    pub fn round(&self) -> u8 {
        self.rounds.present()
    }

    /// The members whose messages of the present round are missing.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<PartyIndex> {
        match self.state {
            State::Finished { .. } | State::Failed => Vec::new(),
            _ => self.rounds.missing(),
        }
    }

    /// Takes a message from a member whose envelope was checked, and returns what to send. Messages of a later round
    /// wait. Heavy rounds (2 and 3) take some 100 ms a peer: call it on a blocking thread.
    ///
    /// # Errors
    /// See [`DkgError::is_fatal`]: a refused message may leave the run as it was; every other error ends it.
    pub fn receive(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError> {
        if matches!(self.state, State::Finished { .. } | State::Failed) {
            return Err(DkgError::Late { from });
        }
        if let Err(error) = self.rounds.accept(from, body) {
            if error.is_fatal() {
                self.state = State::Failed;
            }
            return Err(error);
        }
        let mut out = Vec::new();
        while !matches!(self.state, State::Finished { .. }) && self.rounds.missing().is_empty() {
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
    /// made it are sent.
    #[must_use]
    pub fn pending(&self) -> Option<&Arc<KeyShare>> {
        match &self.state {
            State::Certify { share, .. } => Some(share),
            _ => None,
        }
    }

    /// The share under the certificate that all signed.
    #[must_use]
    pub fn finished(&self) -> Option<&Arc<KeyShare>> {
        match &self.state {
            State::Finished { share } => Some(share),
            _ => None,
        }
    }

    fn step(&mut self) -> Result<Vec<Outgoing>, DkgError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Round1 { ecdsa, schnorr } => self.after_round1(ecdsa, schnorr),
            State::Round2 { ecdsa, schnorr } => self.after_round2(*ecdsa, schnorr),
            State::Round3 { ecdsa, schnorr } => self.after_round3(*ecdsa, schnorr),
            State::Echo { share } => self.after_echo(share),
            State::Trial { share, trial } => self.after_trial_round(share, trial),
            State::Certify { share, certificate } => self.after_certificate(&share, certificate),
            State::Finished { .. } | State::Failed => Err(DkgError::Own("a round out of order".to_owned())),
        }
    }

    fn after_round1(&mut self, ecdsa: ecdsa::Dealt, schnorr: schnorr::Dealt) -> Result<Vec<Outgoing>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, wire::Round1> = self.rounds.broadcasts()?;
        if let Some((culprit, _)) = broadcasts.iter().find(|(_, message)| message.params_hash != self.params_hash) {
            return Err(DkgError::OtherParameters { culprit: *culprit });
        }
        let fragments = self.rounds.take(Kind::Private);
        let (ecdsa, ecdsa_round) = ecdsa.commit(&broadcasts, &fragments)?;
        let (schnorr, shares) = schnorr.share(&broadcasts)?;
        let broadcast = encode(&ecdsa_round.broadcast)?;
        let mut private = BTreeMap::new();
        for (to, share) in shares {
            let zero_commitment =
                ecdsa_round.private.get(&to).copied().ok_or_else(|| own("a message for each peer"))?;
            private.insert(to, encode(&wire::Private2 { frost_share: share, zero_commitment })?);
        }
        self.state = State::Round2 { ecdsa: Box::new(ecdsa), schnorr };
        Ok(self.rounds.send(2, Round { broadcast: Some(broadcast), private }))
    }

    fn after_round2(&mut self, ecdsa: ecdsa::Committed, schnorr: schnorr::Shared) -> Result<Vec<Outgoing>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, wire::Round2> = self.rounds.broadcasts()?;
        let private: BTreeMap<PartyIndex, wire::Private2> = self.rounds.private()?;
        let (schnorr, schnorr_chain) = schnorr.receive(&private)?;
        let (ecdsa, reveal, private) = ecdsa.reveal(broadcasts, &private)?;
        let broadcast = encode(&wire::Round3 { ecdsa: reveal, schnorr_chain })?;
        let private =
            private.into_iter().map(|(to, message)| Ok((to, encode(&message)?))).collect::<Result<_, DkgError>>()?;
        self.state = State::Round3 { ecdsa: Box::new(ecdsa), schnorr };
        Ok(self.rounds.send(3, Round { broadcast: Some(broadcast), private }))
    }

    fn after_round3(&mut self, ecdsa: ecdsa::Revealed, schnorr: schnorr::Received) -> Result<Vec<Outgoing>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, wire::Round3> = self.rounds.broadcasts()?;
        let private: BTreeMap<PartyIndex, wire::Private3> = self.rounds.private()?;
        let schnorr = schnorr.finish(&broadcasts)?;
        let ecdsa = ecdsa.finish(broadcasts, private)?;
        let public = PublicKeys {
            wallet: self.params.wallet,
            epoch: Epoch(0),
            network: self.params.network,
            roster: self.params.roster.clone(),
            absent: BTreeSet::new(),
            ecdsa: ecdsa.group,
            schnorr: schnorr.group,
            ecdsa_shares: ecdsa.shares,
            schnorr_shares: schnorr.shares,
            transcript: self.rounds.transcript(&self.params_hash),
            certificate: Certificate::default(),
        };
        let echo = public.statement();
        let share = KeyShare::new(Arc::new(public), self.me, ecdsa.party, schnorr.package)
            .map_err(|error| DkgError::Own(error.to_string()))?;
        self.state = State::Echo { share: Arc::new(share) };
        Ok(self.rounds.send(ECHO_ROUND, Round::broadcast(&echo)))
    }

    fn after_echo(&mut self, share: Arc<KeyShare>) -> Result<Vec<Outgoing>, DkgError> {
        self.rounds.compare(&share.public().statement())?;
        let (trial, private) = trial::Trial::start(&share, &self.params_hash, &self.seed)?;
        self.state = State::Trial { share, trial };
        Ok(self.rounds.send(FIRST_TRIAL_ROUND, Round::private(private)))
    }

    fn after_trial_round(&mut self, share: Arc<KeyShare>, mut trial: trial::Trial) -> Result<Vec<Outgoing>, DkgError> {
        let received = self.rounds.take(Kind::Private);
        let private = trial.step(received)?;
        let next = self.rounds.present() + 1;
        if next < CERTIFICATE_ROUND {
            self.state = State::Trial { share, trial };
            return Ok(self.rounds.send(next, Round::private(private)));
        }
        trial.finish()?;
        let statement = share.public().statement();
        let signature = Certificate::sign(&self.identity, &statement);
        let mut certificate = Certificate::default();
        certificate
            .add(&self.params.roster, &statement, self.me, &signature)
            .map_err(|error| DkgError::Own(error.to_string()))?;
        self.state = State::Certify { share, certificate };
        Ok(self.rounds.send(CERTIFICATE_ROUND, Round::broadcast(&signature)))
    }

    fn after_certificate(
        &mut self,
        share: &Arc<KeyShare>,
        mut certificate: Certificate,
    ) -> Result<Vec<Outgoing>, DkgError> {
        let statement = share.public().statement();
        for (from, bytes) in self.rounds.take(Kind::Broadcast) {
            let malformed = DkgError::Malformed { culprit: from };
            let signature = <[u8; SIGNATURE_BYTES]>::try_from(bytes.as_slice()).map_err(|_| malformed.clone())?;
            certificate.add(&self.params.roster, &statement, from, &signature).map_err(|_| malformed)?;
        }
        let share = share.certified(certificate).map_err(|error| DkgError::Own(error.to_string()))?;
        self.state = State::Finished { share: Arc::new(share) };
        Ok(Vec::new())
    }
}

fn own(what: &str) -> DkgError {
    DkgError::Own(what.to_owned())
}

/// What each peer sends in a round.
fn kinds(round: u8) -> &'static [Kind] {
    match round {
        1..=3 => &[Kind::Broadcast, Kind::Private],
        ECHO_ROUND | CERTIFICATE_ROUND => &[Kind::Broadcast],
        _ => &[Kind::Private],
    }
}
