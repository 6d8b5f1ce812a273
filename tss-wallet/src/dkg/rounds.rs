//! The rounds of a ceremony: what has come, what was broadcast, what is to be sent, and whether all saw the same.
//!
//! Key generation and dealing again both run on it. Every broadcast before the echo goes into the transcript, this
//! member's own among them, and a transcript is what the members compare and sign.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use super::DkgError;
use super::wire::{Inbox, Kind, decode, frame};
use crate::ids::{Outgoing, PartyIndex, Recipient, tagged_hash};

/// What a ceremony's rounds look like.
pub(crate) struct Rules {
    /// What each peer sends in a round.
    pub kinds: fn(u8) -> &'static [Kind],
    /// The round in which all compare their transcripts.
    pub echo: u8,
    /// The round of the certificate.
    pub last: u8,
    /// Of the transcript's hash.
    pub tag: &'static str,
}

/// Messages of a round: one for all, and one for each peer.
pub(crate) struct Round {
    pub broadcast: Option<Vec<u8>>,
    pub private: BTreeMap<PartyIndex, Vec<u8>>,
}

impl Round {
    pub fn broadcast(body: &[u8]) -> Self {
        Self { broadcast: Some(body.to_vec()), private: BTreeMap::new() }
    }

    pub fn private(private: BTreeMap<PartyIndex, Vec<u8>>) -> Self {
        Self { broadcast: None, private }
    }
}

#[cfg_attr(test, derive(Clone))]
pub(crate) struct Rounds {
    me: PartyIndex,
    rules: &'static Rules,
    present: u8,
    inbox: Inbox,
    /// Every broadcast before the echo, by round and member, this member's own among them.
    broadcasts: BTreeMap<(u8, PartyIndex), Vec<u8>>,
}

impl Rounds {
    pub fn new(me: PartyIndex, peers: BTreeSet<PartyIndex>, rules: &'static Rules) -> Self {
        Self { me, rules, present: 1, inbox: Inbox::new(peers, rules.kinds), broadcasts: BTreeMap::new() }
    }

    /// The round this member waits for.
    pub fn present(&self) -> u8 {
        self.present
    }

    /// Keeps a message for its round.
    pub fn accept(&mut self, from: PartyIndex, body: &[u8]) -> Result<(), DkgError> {
        self.inbox.accept(self.present, self.rules.last, from, body)
    }

    /// Those whose messages of the present round have not all come.
    pub fn missing(&self) -> Vec<PartyIndex> {
        self.inbox.missing(self.present, (self.rules.kinds)(self.present))
    }

    /// The messages of one kind of the present round, as they came.
    pub fn take(&mut self, kind: Kind) -> BTreeMap<PartyIndex, Zeroizing<Vec<u8>>> {
        self.inbox.take(self.present, kind)
    }

    /// The broadcasts of the present round, which become part of the transcript.
    pub fn broadcasts<T: DeserializeOwned>(&mut self) -> Result<BTreeMap<PartyIndex, T>, DkgError> {
        let bodies = self.take(Kind::Broadcast);
        let decoded = bodies.iter().map(|(from, bytes)| Ok((*from, decode(*from, bytes)?))).collect();
        let round = self.present;
        self.broadcasts.extend(bodies.into_iter().map(|(from, bytes)| ((round, from), bytes.to_vec())));
        decoded
    }

    /// What came to this member alone in the present round.
    pub fn private<T: DeserializeOwned>(&mut self) -> Result<BTreeMap<PartyIndex, T>, DkgError> {
        let bodies = self.take(Kind::Private);
        bodies.iter().map(|(from, bytes)| Ok((*from, decode(*from, bytes)?))).collect()
    }

    /// Everyone's hash of all broadcasts and of the result must be this member's.
    pub fn compare(&mut self, statement: &[u8; 32]) -> Result<(), DkgError> {
        for (from, echo) in self.take(Kind::Broadcast) {
            if echo.len() != statement.len() {
                return Err(DkgError::Malformed { culprit: from });
            }
            if *echo != statement {
                return Err(DkgError::Equivocation { with: from });
            }
        }
        Ok(())
    }

    /// Goes to a round, and gives what is sent at its beginning.
    pub fn send(&mut self, round: u8, messages: Round) -> Vec<Outgoing> {
        self.present = round;
        let mut out = Vec::new();
        if let Some(broadcast) = messages.broadcast {
            out.push(Outgoing { to: Recipient::All, body: frame(round, Kind::Broadcast, &broadcast) });
            if round < self.rules.echo {
                self.broadcasts.insert((round, self.me), broadcast);
            }
        }
        for (to, mut body) in messages.private {
            out.push(Outgoing { to: Recipient::One(to), body: frame(round, Kind::Private, &body) });
            body.zeroize();
        }
        out
    }

    /// The hash of every broadcast before the echo.
    pub fn transcript(&self, params_hash: &[u8; 32]) -> [u8; 32] {
        let flat: Vec<Vec<u8>> =
            self.broadcasts.iter().map(|((round, from), bytes)| [&[*round, from.get()][..], bytes].concat()).collect();
        let mut parts: Vec<&[u8]> = vec![params_hash];
        parts.extend(flat.iter().map(Vec::as_slice));
        tagged_hash(self.rules.tag, &parts)
    }
}
