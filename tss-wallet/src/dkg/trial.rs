//! The test signatures that end every ceremony which makes shares: by quorums that together cover every pair of members.
//!
//! Each quorum signs one message with a child of each group key. What is signed is a tagged hash, which is the sighash
//! of no transaction; the signatures are thrown away. A member that cannot sign with some other one is found before
//! there is an address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::DkgError;
use super::wire::{decode, encode};
use crate::ids::{Outgoing, PartyIndex, Recipient, SessionId, tagged_hash};
use crate::keys::KeyShare;
use crate::sign::{SignItem, SignParams, SigningSession};
use crate::wallet::keychain::{AddressType, Branch, ChainId, KeyId};

type Bundle = Vec<(u8, Vec<u8>)>;

/// This member's part in the test signatures.
pub(crate) struct Trial {
    me: PartyIndex,
    quorums: Vec<BTreeSet<PartyIndex>>,
    sessions: BTreeMap<u8, SigningSession>,
}

impl Trial {
    /// Starts all sessions this member is in. The messages are bundled for each peer.
    pub fn start(
        share: &Arc<KeyShare>,
        params_hash: &[u8; 32],
        seed: &[u8; 32],
    ) -> Result<(Self, BTreeMap<PartyIndex, Vec<u8>>), DkgError> {
        let me = share.me();
        let statement = share.public().statement();
        let holders: Vec<u8> = share.public().holders().map(PartyIndex::get).collect();
        let quorums = covering_quorums(&holders, share.public().roster.threshold());
        let mut trial = Self { me, quorums, sessions: BTreeMap::new() };
        let mut bundles: BTreeMap<PartyIndex, Bundle> = BTreeMap::new();
        for (number, quorum) in (0_u8..).zip(&trial.quorums) {
            if !quorum.contains(&me) {
                continue;
            }
            let message = tagged_hash("keyless/dkg/test-signature/v1", &[params_hash, &statement, &[number]]);
            let item = |address_type| SignItem {
                key: KeyId { chain: ChainId::new(address_type, Branch::External), index: u32::from(number) },
                message,
            };
            let params = SignParams {
                session: SessionId::derive("dkg-test-signature", &[params_hash, &statement, &[number]]),
                signers: quorum.iter().copied().collect(),
                items: vec![item(AddressType::Bech32), item(AddressType::Bech32m)],
                banned: BTreeSet::new(),
            };
            let seed = tagged_hash("keyless/dkg/test-signature-seed", &[seed, &[number]]);
            let (session, out) = SigningSession::start_any_r(share.clone(), &params, &seed).map_err(DkgError::Trial)?;
            bundle(&mut bundles, number, out);
            trial.sessions.insert(number, session);
        }
        Ok((trial, encode_bundles(&bundles)?))
    }

    /// Takes each peer's bundle of one round, and gives the next ones.
    pub fn step(
        &mut self,
        received: BTreeMap<PartyIndex, Zeroizing<Vec<u8>>>,
    ) -> Result<BTreeMap<PartyIndex, Vec<u8>>, DkgError> {
        let mut bundles = BTreeMap::new();
        for (from, bytes) in received {
            let messages: Bundle = decode(from, &bytes)?;
            let shared = |number: &u8| self.quorums[usize::from(*number)].contains(&from);
            let expected: Vec<u8> = self.sessions.keys().copied().filter(shared).collect();
            if messages.iter().map(|(number, _)| *number).ne(expected) {
                return Err(DkgError::Malformed { culprit: from });
            }
            for (number, body) in messages {
                let session = self.sessions.get_mut(&number).ok_or(DkgError::Malformed { culprit: from })?;
                let out = session.receive(from, &body).map_err(DkgError::Trial)?;
                bundle(&mut bundles, number, out);
            }
        }
        encode_bundles(&bundles)
    }

    /// Every session must have made its signatures.
    pub fn finish(&self) -> Result<(), DkgError> {
        match self.sessions.iter().find(|(_, session)| session.finished().is_none()) {
            None => Ok(()),
            Some((number, _)) => {
                let what = format!("test signature {number} of member {} was not finished", self.me);
                Err(DkgError::Unattributed(what))
            }
        }
    }
}

fn bundle(bundles: &mut BTreeMap<PartyIndex, Bundle>, number: u8, out: Vec<Outgoing>) {
    for message in out {
        if let Recipient::One(to) = message.to {
            let bundle = bundles.entry(to).or_default();
            bundle.push((number, message.body));
            bundle.sort_unstable_by_key(|(number, _)| *number);
        }
    }
}

fn encode_bundles(bundles: &BTreeMap<PartyIndex, Bundle>) -> Result<BTreeMap<PartyIndex, Vec<u8>>, DkgError> {
    bundles.iter().map(|(to, bundle)| Ok((*to, encode(bundle)?))).collect()
}

/// Quorums of t of these members such that every two members are together in one: the same for all members.
pub(crate) fn covering_quorums(all: &[u8], threshold: u8) -> Vec<BTreeSet<PartyIndex>> {
    let mut open: BTreeSet<(u8, u8)> =
        all.iter().flat_map(|a| all.iter().filter(move |b| a < *b).map(move |b| (*a, *b))).collect();
    let mut quorums = Vec::new();
    while let Some(&(a, b)) = open.first() {
        let mut quorum = BTreeSet::from([a, b]);
        while quorum.len() < usize::from(threshold) {
            let gain = |candidate: u8| {
                quorum
                    .iter()
                    .filter(|member| open.contains(&(candidate.min(**member), candidate.max(**member))))
                    .count()
            };
            let best = all
                .iter()
                .copied()
                .filter(|member| !quorum.contains(member))
                .max_by_key(|member| (gain(*member), std::cmp::Reverse(*member)));
            match best {
                Some(member) => quorum.insert(member),
                None => break,
            };
        }
        open.retain(|(a, b)| !(quorum.contains(a) && quorum.contains(b)));
        quorums.push(quorum.into_iter().filter_map(|index| PartyIndex::new(index).ok()).collect());
    }
    quorums
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_pair_is_in_a_quorum_of_the_right_size() {
        for (count, threshold) in [(2, 2), (3, 2), (3, 3), (5, 3), (7, 4), (10, 7), (15, 8)] {
            let all: Vec<u8> = (1..=count).collect();
            let quorums = covering_quorums(&all, threshold);
            assert!(quorums.iter().all(|quorum| quorum.len() == usize::from(threshold)));
            for a in 1..=count {
                for b in a + 1..=count {
                    let (a, b) = (PartyIndex::new(a).unwrap(), PartyIndex::new(b).unwrap());
                    assert!(quorums.iter().any(|quorum| quorum.contains(&a) && quorum.contains(&b)));
                }
            }
            assert!(quorums.len() <= 16, "{count} {threshold}: {}", quorums.len());
        }
    }
}
