//! Taproot signatures that wait for nobody who is silent: ROAST, as the coordinator runs it.
//!
//! Owns the attempts of one request. Every partner is in one unanswered attempt at most; once t−1 of them are known to
//! respond and have fresh commitments, another attempt can start, whatever becomes of those under way. An answer that
//! does not prove names its maker, who is left out. Each attempt that never ends holds a member that is silent or left
//! out, so the honest finish while t of them are up, after at most one attempt for each other member.
//!
//! The coordinator is a signer too. Its share never leaves: it is put to the others' when all are there, so that nobody
//! else can finish a request which the coordinator took for failed, and no two attempts end in a signature.
//! Source: ROAST (<https://eprint.iacr.org/2022/550>, figure 4), with the coordinator in every set.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use frost_secp256k1_tr as frost;

use super::nonces::{self, Commitment, Nonce};
use super::one_round::{Commitments, Prepared};
use super::{MAX_ITEMS, SignError, SignItem, SignParams, Signature, verify};
use crate::ids::{PartyIndex, SessionId};
use crate::keys::{KeyShare, Scheme};

type Shares = Vec<frost::round2::SignatureShare>;

enum Partner {
    /// With commitments for one attempt.
    Ready(Vec<Commitment>),
    In(SessionId),
    Out,
}

/// What this member adds to an attempt.
enum Own {
    Nonces(Vec<Nonce>),
    Made(Prepared, Shares),
    Over,
}

struct Attempt {
    params: SignParams,
    commitments: Commitments,
    own: Own,
    answers: BTreeMap<PartyIndex, Shares>,
    /// One of the answers was wrong: nothing comes of the others.
    broken: bool,
}

/// A request at its coordinator.
pub struct Roast {
    share: Arc<KeyShare>,
    items: Vec<SignItem>,
    partners: BTreeMap<PartyIndex, Partner>,
    attempts: BTreeMap<SessionId, Attempt>,
}

impl fmt::Debug for Roast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roast {{ {} items, {} attempts }}", self.items.len(), self.attempts.len())
    }
}

/// An attempt that has begun: what its signers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Ascending, this member among them.
    pub signers: Vec<PartyIndex>,
    /// Of each of them.
    pub commitments: Commitments,
}

impl Roast {
    /// # Errors
    /// Fails for items that are not all taproot's, none, or too many.
    pub fn new(share: Arc<KeyShare>, items: Vec<SignItem>) -> Result<Self, SignError> {
        let ecdsa = items.iter().filter(|item| Scheme::of(item.key.chain.address_type) == Scheme::Ecdsa).count();
        if items.is_empty() || items.len() > MAX_ITEMS || ecdsa > 0 {
            return Err(SignError::ItemCount { items: items.len(), ecdsa });
        }
        Ok(Self { share, items, partners: BTreeMap::new(), attempts: BTreeMap::new() })
    }

    /// Partners of one attempt.
    #[must_use]
    pub fn needed(&self) -> usize {
        usize::from(self.share.public().roster.threshold()).saturating_sub(1)
    }

    /// Those whom the next attempt may take.
    pub fn ready(&self) -> impl Iterator<Item = PartyIndex> + '_ {
        self.partners.iter().filter(|(_, state)| matches!(state, Partner::Ready(_))).map(|(party, _)| *party)
    }

    /// Whether fresh commitments of this member would let it into another attempt.
    #[must_use]
    pub fn wants(&self, party: PartyIndex) -> bool {
        match self.partners.get(&party) {
            None => party != self.share.me() && self.share.public().roster.contains(party),
            Some(Partner::Ready(_) | Partner::Out) => false,
            Some(Partner::In(session)) => self.attempts.get(session).is_none_or(|known| known.answered(party)),
        }
    }

    /// A member's fresh commitments, one for each item. False if they are of no use now.
    ///
    /// # Errors
    /// Names a member whose last answer does not prove; it is left out.
    pub fn offer(&mut self, party: PartyIndex, commitments: Vec<Commitment>) -> Result<bool, SignError> {
        if !self.wants(party) || commitments.len() != self.items.len() {
            return Ok(false);
        }
        if let Some(Partner::In(session)) = self.partners.get(&party)
            && let Some(attempt) = self.attempts.get_mut(session)
        {
            attempt.prepare(&self.share)?;
            if let Err(error) = attempt.prove(party) {
                attempt.broken = true;
                self.leave_out(party);
                return Err(error);
            }
        }
        self.partners.insert(party, Partner::Ready(commitments));
        Ok(true)
    }

    /// Begins an attempt with the first t−1 of these that are ready; none if there are fewer.
    pub fn start(&mut self, session: SessionId, preferred: &[PartyIndex], seed: &[u8; 32]) -> Option<Started> {
        let ready: BTreeSet<PartyIndex> = self.ready().collect();
        let chosen: Vec<PartyIndex> =
            preferred.iter().copied().filter(|party| ready.contains(party)).take(self.needed()).collect();
        if chosen.len() < self.needed() || self.attempts.contains_key(&session) {
            return None;
        }
        let nonces = nonces::fresh(&self.share, self.items.len(), seed);
        let mut commitments = Commitments::new();
        commitments.insert(self.share.me(), nonces.iter().map(|nonce| nonce.public).collect());
        for party in chosen {
            if let Some(Partner::Ready(theirs)) = self.partners.insert(party, Partner::In(session)) {
                commitments.insert(party, theirs);
            }
        }
        let signers: Vec<PartyIndex> = commitments.keys().copied().collect();
        let (items, banned) = (self.items.clone(), BTreeSet::new());
        let params = SignParams { session, signers: signers.clone(), items, banned };
        let started = Started { signers, commitments: commitments.clone() };
        let attempt =
            Attempt { params, commitments, own: Own::Nonces(nonces), answers: BTreeMap::new(), broken: false };
        self.attempts.insert(session, attempt);
        Some(started)
    }

    /// Makes this member's own shares, which nobody is shown: while the others make theirs.
    ///
    /// # Errors
    /// Fails when this member's own state does not fit.
    pub fn work(&mut self, session: SessionId) -> Result<(), SignError> {
        self.attempts.get_mut(&session).map_or(Ok(()), |attempt| attempt.prepare(&self.share))
    }

    /// A member's answer. Gives the signatures, in the order of the items, once all answers are there.
    ///
    /// # Errors
    /// A dropped message changes nothing. Any other error that names a culprit has left it out.
    pub fn receive(
        &mut self,
        session: SessionId,
        from: PartyIndex,
        body: &[u8],
    ) -> Result<Option<Vec<Signature>>, SignError> {
        let attempt = self.attempts.get_mut(&session).ok_or(SignError::Late { from })?;
        if from == self.share.me() || !attempt.commitments.contains_key(&from) {
            return Err(SignError::Stranger { from });
        }
        if attempt.answered(from) {
            return Err(SignError::Duplicate { from });
        }
        let waited_for = matches!(self.partners.get(&from), Some(Partner::In(known)) if *known == session);
        if !waited_for {
            return Err(SignError::Late { from });
        }
        attempt.prepare(&self.share)?;
        let result = attempt
            .take(from, body)
            .and_then(|complete| if complete { attempt.finish(self.share.me()).map(Some) } else { Ok(None) });
        match result {
            Ok(Some(signatures)) => verify(&self.share, &self.items, &signatures).map(|()| Some(signatures)),
            Ok(None) => Ok(None),
            Err(error) => {
                attempt.broken = true;
                error.culprit().into_iter().for_each(|culprit| self.leave_out(culprit));
                Err(error)
            }
        }
    }

    /// This member takes no part any more: it refused, it is gone, or what it sent was wrong.
    pub fn leave_out(&mut self, party: PartyIndex) {
        self.partners.insert(party, Partner::Out);
    }

    /// A member did not use the commitments it was asked with; fresh ones let it in again.
    pub fn ask_again(&mut self, party: PartyIndex) {
        if !matches!(self.partners.get(&party), Some(Partner::Out)) {
            self.partners.remove(&party);
        }
    }

    /// Whether the attempt can still end in signatures.
    #[must_use]
    pub fn can_finish(&self, session: SessionId) -> bool {
        self.attempts.get(&session).is_some_and(|attempt| {
            let mut partners = attempt.commitments.keys().filter(|party| **party != self.share.me());
            !attempt.broken && partners.all(|party| attempt.answered(*party) || self.is_in(session, *party))
        })
    }

    fn is_in(&self, session: SessionId, party: PartyIndex) -> bool {
        matches!(self.partners.get(&party), Some(Partner::In(known)) if *known == session)
    }

    /// The members whose answer to an attempt has not come.
    #[must_use]
    pub fn waiting_for(&self, session: SessionId) -> Vec<PartyIndex> {
        let Some(attempt) = self.attempts.get(&session) else { return Vec::new() };
        let parties = attempt.commitments.keys().copied();
        parties.filter(|party| !attempt.answered(*party) && self.is_in(session, *party)).collect()
    }

    /// The attempt that a member is in.
    #[must_use]
    pub fn session_of(&self, party: PartyIndex) -> Option<SessionId> {
        match self.partners.get(&party) {
            Some(Partner::In(session)) => Some(*session),
            Some(Partner::Ready(_) | Partner::Out) | None => None,
        }
    }

    /// Who signs in an attempt, this member among them.
    #[must_use]
    pub fn signers(&self, session: SessionId) -> Vec<PartyIndex> {
        self.attempts.get(&session).map(|attempt| attempt.params.signers.clone()).unwrap_or_default()
    }

    /// Commitments that nobody was shown, at the end: they serve another request.
    #[must_use]
    pub fn into_unused(self) -> Vec<(PartyIndex, Vec<Commitment>)> {
        let unused = self.partners.into_iter().filter_map(|(party, state)| match state {
            Partner::Ready(commitments) => Some((party, commitments)),
            Partner::In(_) | Partner::Out => None,
        });
        unused.collect()
    }

    /// Ends an attempt; who was in it may be asked anew.
    pub fn give_up(&mut self, session: SessionId) {
        self.attempts.remove(&session);
        self.partners.retain(|_, state| !matches!(state, Partner::In(known) if *known == session));
    }
}

impl Attempt {
    fn answered(&self, party: PartyIndex) -> bool {
        self.answers.contains_key(&party)
    }

    fn prepare(&mut self, share: &KeyShare) -> Result<(), SignError> {
        self.own = match std::mem::replace(&mut self.own, Own::Over) {
            Own::Nonces(nonces) => {
                let prepared = Prepared::new(share, &self.params, &self.commitments)?;
                let shares = prepared.sign(nonces)?;
                Own::Made(prepared, shares)
            }
            made => made,
        };
        Ok(())
    }

    fn prepared(&self) -> Result<(&Prepared, &Shares), SignError> {
        match &self.own {
            Own::Made(prepared, shares) => Ok((prepared, shares)),
            Own::Nonces(_) | Own::Over => Err(SignError::OwnState("an attempt that is over".to_owned())),
        }
    }

    /// True when all answers are there.
    fn take(&mut self, from: PartyIndex, body: &[u8]) -> Result<bool, SignError> {
        let shares = self.prepared()?.0.read(from, body)?;
        self.answers.insert(from, shares);
        Ok(self.answers.len() + 1 == self.commitments.len())
    }

    fn prove(&self, party: PartyIndex) -> Result<(), SignError> {
        let Some(shares) = self.answers.get(&party) else { return Ok(()) };
        self.prepared()?.0.prove(party, shares)
    }

    fn finish(&self, me: PartyIndex) -> Result<Vec<Signature>, SignError> {
        let (prepared, own) = self.prepared()?;
        let mut shares = self.answers.clone();
        shares.insert(me, own.clone());
        let made = prepared.aggregate(&shares).or_else(|error| {
            self.answers.keys().try_for_each(|party| self.prove(*party))?;
            // All others are right, so it is this member's own.
            Err(SignError::OwnState(error.to_string()))
        })?;
        let read = |bytes: &[u8; 64]| {
            let signature = secp256k1::schnorr::Signature::from_slice(bytes).map_err(|_| SignError::InvalidResult)?;
            Ok(Signature::Schnorr(signature))
        };
        made.iter().map(read).collect()
    }
}
