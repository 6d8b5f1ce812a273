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
mod pairs;
mod params;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use params::{RedealParams, RedealRefusal};

use crate::dkg::trial::Trial;
use crate::dkg::wire::{Inbox, Kind, decode, encode, frame};
use crate::dkg::{DkgError, Round};
use crate::identity::{self, SIGNATURE_BYTES, SigningIdentity};
use crate::ids::{MemberId, Outgoing, PartyIndex, Recipient, tagged_hash};
use crate::keys::{Certificate, FrostPackage, KeyShare, PublicKeys, frost_identifier};
use frost_secp256k1_tr::VerifyingKey;
use frost_secp256k1_tr::keys::{SigningShare, VerifyingShare};
use wire::{Commit, Fragments, Open, PairSetup, Points, PrivateCommit, PrivateOpen};

const ECHO_ROUND: u8 = 3;
const FIRST_TRIAL_ROUND: u8 = 4;
const CERTIFICATE_ROUND: u8 = 7;
const CONSENT_TAG: &str = "keyless/redeal/consent/v1";

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
    round: u8,
    inbox: Inbox,
    broadcasts: BTreeMap<(u8, PartyIndex), Vec<u8>>,
}

impl fmt::Debug for Redeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wallet, epoch) = (self.params.old.wallet, self.params.epoch);
        write!(f, "Redeal {{ wallet: {wallet}, epoch: {epoch}, me: {}, round: {} }}", self.me, self.round)
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
            round: 1,
            inbox: Inbox::new(peers, kinds),
            broadcasts: BTreeMap::new(),
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
        self.round
    }

    /// The members whose messages of the present round are missing.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<MemberId> {
        match self.state {
            State::Finished(_) | State::Failed => Vec::new(),
            _ => {
                let missing = self.inbox.missing(self.round, kinds(self.round));
                missing.into_iter().filter_map(|party| self.member(party)).collect()
            }
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
        if let Err(error) = self.inbox.accept(self.round, CERTIFICATE_ROUND, from, body) {
            if error.is_fatal() {
                self.state = State::Failed;
            }
            return Err(error);
        }
        let mut out = Vec::new();
        while !matches!(self.state, State::Finished(_)) && self.inbox.missing(self.round, kinds(self.round)).is_empty()
        {
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

    fn step(&mut self) -> Result<Vec<Outgoing>, DkgError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Commit { dealing, pairs } => self.after_commit(dealing, pairs),
            State::Open { dealing, pairs, points, zero } => self.after_open(dealing, pairs, &points, &zero),
            State::Echo(made) => self.after_echo(made),
            State::Trial(made, trial) => self.after_trial_round(made, trial),
            State::Certify(made, certificate) => self.after_certificate(&made, certificate),
            State::Finished(_) | State::Failed => Err(own("a round out of order")),
        }
    }

    /// This member's index in the next epoch, if it will hold a share.
    fn my_new_index(&self) -> Option<PartyIndex> {
        self.new_index(self.me)
    }

    fn new_index(&self, party: PartyIndex) -> Option<PartyIndex> {
        let member = self.member(party)?;
        if self.params.absent.contains(&member) { None } else { self.params.roster.index_of(&member) }
    }

    /// The index among those who take part, of a member with an index in the next epoch.
    fn joint(&self, new: PartyIndex) -> Option<PartyIndex> {
        self.params.roster.member(new).and_then(|member| self.index_of(member))
    }

    /// Names a culprit by its index among those who take part.
    fn rename(&self, error: DkgError) -> DkgError {
        let name = |party| self.joint(party).unwrap_or(party);
        match error {
            DkgError::Malformed { culprit } => DkgError::Malformed { culprit: name(culprit) },
            DkgError::InvalidShare { culprit, what } => DkgError::InvalidShare { culprit: name(culprit), what },
            other => other,
        }
    }

    fn peers(&self) -> impl Iterator<Item = PartyIndex> + use<> {
        let me = self.me;
        (0..self.members.len()).filter_map(position_index).filter(move |peer| *peer != me)
    }

    fn is_dealer(&self, party: PartyIndex) -> bool {
        self.member(party).is_some_and(|member| self.params.dealers.contains(&member))
    }

    fn commit(&mut self, dealing: Option<dealing::Dealing>) -> Result<Vec<Outgoing>, DkgError> {
        let points = dealing
            .as_ref()
            .map(|dealing| dealing::commitment(&self.params_hash, &self.identity.member_id(), &dealing.points));
        let broadcast = encode(&Commit { params_hash: self.params_hash, points })?;
        let (pairs, mut commitments) = match self.my_new_index() {
            Some(me) => {
                let others = self.peers().filter_map(|peer| self.new_index(peer)).collect::<Vec<_>>();
                let (pairs, commitments) = pairs::Committed::new(self.params_hash, me, others.into_iter())?;
                (Some(pairs), commitments)
            }
            None => (None, BTreeMap::new()),
        };
        let mut private = BTreeMap::new();
        for peer in self.peers() {
            let zero = self.new_index(peer).and_then(|index| commitments.remove(&index));
            private.insert(peer, encode(&PrivateCommit { zero })?);
        }
        self.state = State::Commit { dealing, pairs };
        Ok(self.send(1, Round { broadcast: Some(broadcast), private }))
    }

    fn after_commit(
        &mut self,
        dealing: Option<dealing::Dealing>,
        pairs: Option<pairs::Committed>,
    ) -> Result<Vec<Outgoing>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, Commit> = self.take_broadcasts(1)?;
        if let Some((culprit, _)) = broadcasts.iter().find(|(_, message)| message.params_hash != self.params_hash) {
            return Err(DkgError::OtherParameters { culprit: *culprit });
        }
        if let Some((culprit, _)) =
            broadcasts.iter().find(|(from, message)| message.points.is_some() != self.is_dealer(**from))
        {
            return Err(DkgError::Malformed { culprit: *culprit });
        }
        let private: BTreeMap<PartyIndex, PrivateCommit> = self.take_private(1)?;
        let mut zero = BTreeMap::new();
        for (from, message) in private {
            match (message.zero, self.new_index(from), &pairs) {
                (Some(commitment), Some(index), Some(_)) => {
                    zero.insert(index, commitment);
                }
                (None, None, _) | (None, _, None) => {}
                _ => return Err(DkgError::Malformed { culprit: from }),
            }
        }
        let (pairs, mut setups) = match pairs {
            Some(pairs) => {
                let (opened, setups) = pairs.open()?;
                (Some(Box::new(opened)), setups)
            }
            None => (None, BTreeMap::new()),
        };
        let broadcast = encode(&Open { points: dealing.as_ref().map(|dealing| dealing.points.clone()) })?;
        let mut messages = BTreeMap::new();
        for peer in self.peers() {
            let index = self.new_index(peer);
            let fragments = match (index, &dealing) {
                (Some(index), Some(dealing)) => Some(dealing.fragments(index)?),
                _ => None,
            };
            let pair = index.and_then(|index| setups.remove(&index)).map(Box::new);
            messages.insert(peer, encode(&PrivateOpen { fragments, pair })?);
        }
        let points = broadcasts.into_iter().map(|(from, message)| (from, message.points)).collect();
        self.state = State::Open { dealing, pairs, points, zero };
        Ok(self.send(2, Round { broadcast: Some(broadcast), private: messages }))
    }

    /// Checks the commitments and points of all dealers, and gives them with this member's own.
    fn dealt(
        &mut self,
        dealing: Option<&dealing::Dealing>,
        commitments: &BTreeMap<PartyIndex, Option<[u8; 32]>>,
    ) -> Result<BTreeMap<PartyIndex, Points>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, Open> = self.take_broadcasts(2)?;
        let mut dealt = BTreeMap::new();
        for (from, message) in broadcasts {
            let malformed = || DkgError::Malformed { culprit: from };
            let member = self.member(from).ok_or_else(malformed)?;
            match (message.points, commitments.get(&from).copied().flatten()) {
                (Some(points), Some(commitment)) => {
                    if dealing::commitment(&self.params_hash, &member, &points) != commitment {
                        let what = "the dealt points are not those committed to".to_owned();
                        return Err(DkgError::InvalidShare { culprit: from, what });
                    }
                    dealing::check_points(&self.params, from, &member, &points)?;
                    dealt.insert(from, points);
                }
                (None, None) => {}
                _ => return Err(malformed()),
            }
        }
        if let Some(dealing) = dealing {
            dealt.insert(self.me, dealing.points.clone());
        }
        Ok(dealt)
    }

    fn after_open(
        &mut self,
        dealing: Option<dealing::Dealing>,
        pairs: Option<Box<pairs::Opened>>,
        commitments: &BTreeMap<PartyIndex, Option<[u8; 32]>>,
        zero: &BTreeMap<PartyIndex, [u8; 32]>,
    ) -> Result<Vec<Outgoing>, DkgError> {
        let dealt = self.dealt(dealing.as_ref(), commitments)?;
        let private: BTreeMap<PartyIndex, PrivateOpen> = self.take_private(2)?;
        let public_shares = dealing::public_shares(&self.params, dealt.values())?;
        let public = Arc::new(PublicKeys {
            wallet: self.params.old.wallet,
            epoch: self.params.epoch,
            network: self.params.old.network,
            roster: self.params.roster.clone(),
            absent: self.params.absent_indices(),
            ecdsa: self.params.old.ecdsa,
            schnorr: self.params.old.schnorr,
            ecdsa_shares: public_shares.ecdsa.clone(),
            schnorr_shares: public_shares.schnorr.clone(),
            transcript: self.transcript(),
            certificate: Certificate::default(),
        });
        let share = match (self.my_new_index(), pairs) {
            (Some(me), Some(pairs)) => {
                let (mut fragments, setups) = self.sort_private(private)?;
                if let Some(dealing) = &dealing {
                    fragments.insert(self.me, dealing.fragments(me)?);
                }
                let sums = dealing::collect(me, public_shares, &dealt, &fragments)?;
                let party =
                    pairs.finish(&self.params, &sums.ecdsa, zero, &setups).map_err(|error| self.rename(error))?;
                let package = frost_package(&public, me, &sums)?;
                let share = KeyShare::new(public.clone(), me, party, Arc::new(package))
                    .map_err(|error| DkgError::Own(error.to_string()))?;
                Some(Arc::new(share))
            }
            _ => None,
        };
        let echo = public.statement();
        self.state = State::Echo(Made { public, share });
        Ok(self.send(ECHO_ROUND, Round { broadcast: Some(echo.to_vec()), private: BTreeMap::new() }))
    }

    /// Fragments by the dealer's index among those who take part; set-ups by the holder's new index.
    #[allow(clippy::type_complexity)]
    fn sort_private(
        &self,
        private: BTreeMap<PartyIndex, PrivateOpen>,
    ) -> Result<(BTreeMap<PartyIndex, Fragments>, BTreeMap<PartyIndex, PairSetup>), DkgError> {
        let (mut fragments, mut setups) = (BTreeMap::new(), BTreeMap::new());
        for (from, message) in private {
            if message.fragments.is_some() != self.is_dealer(from) {
                return Err(DkgError::Malformed { culprit: from });
            }
            match (message.pair, self.new_index(from)) {
                (Some(pair), Some(index)) => {
                    setups.insert(index, *pair);
                }
                (None, None) => {}
                _ => return Err(DkgError::Malformed { culprit: from }),
            }
            if let Some(message) = message.fragments {
                fragments.insert(from, message);
            }
        }
        Ok((fragments, setups))
    }

    /// Everyone's hash of all broadcasts and of the result must be the same.
    fn after_echo(&mut self, made: Made) -> Result<Vec<Outgoing>, DkgError> {
        let statement = made.public.statement();
        for (from, echo) in self.inbox.take(ECHO_ROUND, Kind::Broadcast) {
            if echo.len() != statement.len() {
                return Err(DkgError::Malformed { culprit: from });
            }
            if *echo != statement {
                return Err(DkgError::Equivocation { with: from });
            }
        }
        let (trial, bundles) = match &made.share {
            Some(share) => {
                let (trial, bundles) = Trial::start(share, &self.params_hash, &self.seed)?;
                (Some(trial), bundles)
            }
            None => (None, BTreeMap::new()),
        };
        self.state = State::Trial(made, trial);
        self.send_trial(FIRST_TRIAL_ROUND, bundles)
    }

    /// Every peer gets a bundle, an empty one where there is no test signature with it.
    fn send_trial(&mut self, round: u8, mut by_new: BTreeMap<PartyIndex, Vec<u8>>) -> Result<Vec<Outgoing>, DkgError> {
        let empty = encode(&Vec::<(u8, Vec<u8>)>::new())?;
        let private = self
            .peers()
            .map(|peer| {
                let bundle = self.new_index(peer).and_then(|index| by_new.remove(&index));
                (peer, bundle.unwrap_or_else(|| empty.clone()))
            })
            .collect();
        Ok(self.send(round, Round { broadcast: None, private }))
    }

    fn after_trial_round(&mut self, made: Made, trial: Option<Trial>) -> Result<Vec<Outgoing>, DkgError> {
        let received = self.inbox.take(self.round, Kind::Private);
        let (trial, bundles) = match trial {
            Some(mut trial) => {
                let by_new =
                    received.into_iter().filter_map(|(from, bytes)| Some((self.new_index(from)?, bytes))).collect();
                let bundles = trial.step(by_new).map_err(|error| self.rename(error))?;
                (Some(trial), bundles)
            }
            None => (None, BTreeMap::new()),
        };
        if self.round + 1 < CERTIFICATE_ROUND {
            self.state = State::Trial(made, trial);
            return self.send_trial(self.round + 1, bundles);
        }
        if let Some(trial) = trial {
            trial.finish()?;
        }
        let statement = made.public.statement();
        let mut certificate = Certificate::default();
        let signature = match self.my_new_index() {
            Some(me) => {
                let signature = Certificate::sign(&self.identity, &statement);
                certificate
                    .add(&self.params.roster, &statement, me, &signature)
                    .map_err(|error| DkgError::Own(error.to_string()))?;
                signature
            }
            None => self.identity.sign(&tagged_hash(CONSENT_TAG, &[&statement])),
        };
        self.state = State::Certify(made, certificate);
        Ok(self.send(CERTIFICATE_ROUND, Round { broadcast: Some(signature.to_vec()), private: BTreeMap::new() }))
    }

    fn after_certificate(&mut self, made: &Made, mut certificate: Certificate) -> Result<Vec<Outgoing>, DkgError> {
        let statement = made.public.statement();
        for (from, bytes) in self.inbox.take(CERTIFICATE_ROUND, Kind::Broadcast) {
            let malformed = || DkgError::Malformed { culprit: from };
            let signature = <[u8; SIGNATURE_BYTES]>::try_from(bytes.as_slice()).map_err(|_| malformed())?;
            match self.new_index(from) {
                Some(party) => {
                    certificate.add(&self.params.roster, &statement, party, &signature).map_err(|_| malformed())?
                }
                None => {
                    let member = self.member(from).ok_or_else(malformed)?;
                    identity::verify(&member, &tagged_hash(CONSENT_TAG, &[&statement]), &signature)
                        .map_err(|_| malformed())?;
                }
            }
        }
        let failed = |error: crate::keys::CertificateError| DkgError::Own(error.to_string());
        let share = match &made.share {
            Some(share) => Some(Arc::new(share.certified(certificate.clone()).map_err(failed)?)),
            None => None,
        };
        let public = PublicKeys { certificate, ..(*made.public).clone() };
        public.verify().map_err(failed)?;
        self.state = State::Finished(Made { public: Arc::new(public), share });
        Ok(Vec::new())
    }

    fn transcript(&self) -> [u8; 32] {
        let flat: Vec<Vec<u8>> =
            self.broadcasts.iter().map(|((round, from), bytes)| [&[*round, from.get()][..], bytes].concat()).collect();
        let mut parts: Vec<&[u8]> = vec![&self.params_hash];
        parts.extend(flat.iter().map(Vec::as_slice));
        tagged_hash("keyless/redeal/transcript/v1", &parts)
    }

    fn take_broadcasts<T: serde::de::DeserializeOwned>(
        &mut self,
        round: u8,
    ) -> Result<BTreeMap<PartyIndex, T>, DkgError> {
        let bodies = self.inbox.take(round, Kind::Broadcast);
        let decoded = bodies.iter().map(|(from, bytes)| Ok((*from, decode(*from, bytes)?))).collect();
        self.broadcasts.extend(bodies.into_iter().map(|(from, bytes)| ((round, from), bytes.to_vec())));
        decoded
    }

    fn take_private<T: serde::de::DeserializeOwned>(&mut self, round: u8) -> Result<BTreeMap<PartyIndex, T>, DkgError> {
        let bodies = self.inbox.take(round, Kind::Private);
        bodies.iter().map(|(from, bytes)| Ok((*from, decode(*from, bytes)?))).collect()
    }

    fn send(&mut self, round: u8, messages: Round) -> Vec<Outgoing> {
        self.round = round;
        let mut out = Vec::new();
        if let Some(broadcast) = messages.broadcast {
            out.push(Outgoing { to: Recipient::All, body: frame(round, Kind::Broadcast, &broadcast) });
            if round < ECHO_ROUND {
                self.broadcasts.insert((round, self.me), broadcast);
            }
        }
        for (to, mut body) in messages.private {
            out.push(Outgoing { to: Recipient::One(to), body: frame(round, Kind::Private, &body) });
            zeroize::Zeroize::zeroize(&mut body);
        }
        out
    }
}

/// FROST's package of the next epoch, by its public constructor.
fn frost_package(public: &PublicKeys, me: PartyIndex, sums: &dealing::Sums) -> Result<FrostPackage, DkgError> {
    let unusable = || own("the new Schnorr share cannot be used");
    let bytes = zeroize::Zeroizing::new(sums.schnorr.to_bytes());
    let secret = SigningShare::deserialize(bytes.as_slice()).map_err(|_| unusable())?;
    let verifying = sums.public.schnorr.get(me.position()).ok_or_else(unusable)?;
    let verifying = VerifyingShare::deserialize(&verifying.serialize()).map_err(|_| unusable())?;
    let group = VerifyingKey::deserialize(&public.schnorr.public_key.serialize()).map_err(|_| unusable())?;
    let identifier = frost_identifier(me).ok_or_else(unusable)?;
    Ok(FrostPackage::new(identifier, secret, verifying, group, u16::from(public.roster.threshold())))
}
