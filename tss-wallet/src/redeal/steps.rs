//! The rounds of dealing again, one after the other: what each sends, and what it checks of the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use frost_secp256k1_tr::VerifyingKey;
use frost_secp256k1_tr::keys::{SigningShare, VerifyingShare};

use super::wire::{Commit, Fragments, Open, PairSetup, Points, PrivateCommit, PrivateOpen};
use super::{
    CERTIFICATE_ROUND, ECHO_ROUND, FIRST_TRIAL_ROUND, Made, Redeal, State, dealing, own, pairs, position_index,
};
use crate::dkg::DkgError;
use crate::dkg::rounds::Round;
use crate::dkg::trial::Trial;
use crate::dkg::wire::{Kind, encode};
use crate::identity::{self, SIGNATURE_BYTES};
use crate::ids::{Outgoing, PartyIndex, tagged_hash};
use crate::keys::{Certificate, FrostPackage, KeyShare, PublicKeys, frost_identifier};

const CONSENT_TAG: &str = "keyless/redeal/consent/v1";

impl Redeal {
    pub(super) fn step(&mut self) -> Result<Vec<Outgoing>, DkgError> {
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

    pub(super) fn commit(&mut self, dealing: Option<dealing::Dealing>) -> Result<Vec<Outgoing>, DkgError> {
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
        Ok(self.rounds.send(1, Round { broadcast: Some(broadcast), private }))
    }

    fn after_commit(
        &mut self,
        dealing: Option<dealing::Dealing>,
        pairs: Option<pairs::Committed>,
    ) -> Result<Vec<Outgoing>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, Commit> = self.rounds.broadcasts()?;
        if let Some((culprit, _)) = broadcasts.iter().find(|(_, message)| message.params_hash != self.params_hash) {
            return Err(DkgError::OtherParameters { culprit: *culprit });
        }
        if let Some((culprit, _)) =
            broadcasts.iter().find(|(from, message)| message.points.is_some() != self.is_dealer(**from))
        {
            return Err(DkgError::Malformed { culprit: *culprit });
        }
        let private: BTreeMap<PartyIndex, PrivateCommit> = self.rounds.private()?;
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
        Ok(self.rounds.send(2, Round { broadcast: Some(broadcast), private: messages }))
    }

    /// Checks the commitments and points of all dealers, and gives them with this member's own.
    fn dealt(
        &mut self,
        dealing: Option<&dealing::Dealing>,
        commitments: &BTreeMap<PartyIndex, Option<[u8; 32]>>,
    ) -> Result<BTreeMap<PartyIndex, Points>, DkgError> {
        let broadcasts: BTreeMap<PartyIndex, Open> = self.rounds.broadcasts()?;
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
        let private: BTreeMap<PartyIndex, PrivateOpen> = self.rounds.private()?;
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
            transcript: self.rounds.transcript(&self.params_hash),
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
            _ => {
                // Nothing is for a member that will hold no share.
                let meant = |message: &PrivateOpen| message.fragments.is_some() || message.pair.is_some();
                if let Some((&culprit, _)) = private.iter().find(|(_, message)| meant(message)) {
                    return Err(DkgError::Malformed { culprit });
                }
                None
            }
        };
        let echo = public.statement();
        self.state = State::Echo(Made { public, share });
        Ok(self.rounds.send(ECHO_ROUND, Round::broadcast(&echo)))
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

    fn after_echo(&mut self, made: Made) -> Result<Vec<Outgoing>, DkgError> {
        self.rounds.compare(&made.public.statement())?;
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
        let empty = empty_bundle()?;
        let private = self
            .peers()
            .map(|peer| {
                let bundle = self.new_index(peer).and_then(|index| by_new.remove(&index));
                (peer, bundle.unwrap_or_else(|| empty.clone()))
            })
            .collect();
        Ok(self.rounds.send(round, Round::private(private)))
    }

    fn after_trial_round(&mut self, made: Made, trial: Option<Trial>) -> Result<Vec<Outgoing>, DkgError> {
        let received = self.rounds.take(Kind::Private);
        let empty = empty_bundle()?;
        for (&culprit, bytes) in &received {
            let signs = trial.is_some() && self.new_index(culprit).is_some();
            if !signs && **bytes != empty {
                return Err(DkgError::Malformed { culprit });
            }
        }
        let (trial, bundles) = match trial {
            Some(mut trial) => {
                let by_new =
                    received.into_iter().filter_map(|(from, bytes)| Some((self.new_index(from)?, bytes))).collect();
                let bundles = trial.step(by_new).map_err(|error| self.rename(error))?;
                (Some(trial), bundles)
            }
            None => (None, BTreeMap::new()),
        };
        let next = self.rounds.present() + 1;
        if next < CERTIFICATE_ROUND {
            self.state = State::Trial(made, trial);
            return self.send_trial(next, bundles);
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
        Ok(self.rounds.send(CERTIFICATE_ROUND, Round::broadcast(&signature)))
    }

    fn after_certificate(&mut self, made: &Made, mut certificate: Certificate) -> Result<Vec<Outgoing>, DkgError> {
        let statement = made.public.statement();
        for (from, bytes) in self.rounds.take(Kind::Broadcast) {
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
}

/// What is said in a round of test signatures where one of the two holds no share.
fn empty_bundle() -> Result<Vec<u8>, DkgError> {
    encode(&Vec::<(u8, Vec<u8>)>::new())
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
