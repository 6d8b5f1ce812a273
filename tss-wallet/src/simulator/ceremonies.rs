//! The ceremonies that tests run: a 2-of-3 made, refreshed, changed, repaired; larger ones made and refreshed; and what
//! shares sign.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;
use rand::Rng;

use crate::ids::{Epoch, Outgoing, PartyIndex, SessionId};
use crate::sign::{SignItem, SignParams, SigningSession};
use crate::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use crate::{Dkg, DkgParams, KeyShare, MemberId, Redeal, RedealParams, Roster, SigningIdentity, Split};

/// Identities that there are.
const MOST: u8 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceremony {
    Generate,
    Refresh,
    Reshare,
    Repair,
}

impl Ceremony {
    pub const ALL: [Self; 4] = [Self::Generate, Self::Refresh, Self::Reshare, Self::Repair];
}

/// CPU time of this thread.
pub fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn identity(seed: u8) -> SigningIdentity {
    SigningIdentity::from_seed(&[seed; 32])
}

/// The least threshold that more than half of them reach.
fn roster(seeds: &[u8]) -> Roster {
    let members: Vec<MemberId> = seeds.iter().map(|seed| identity(*seed).member_id()).collect();
    let threshold = u8::try_from(members.len() / 2 + 1).unwrap();
    Roster::new(threshold, members, Split::Refused).unwrap()
}

/// Everyone's machine of a key generation of three.
pub fn generation(session: u8) -> Vec<(PartyIndex, Dkg, Vec<Outgoing>)> {
    generation_of(3, session)
}

/// Everyone's machine of a key generation.
pub fn generation_of(members: u8, session: u8) -> Vec<(PartyIndex, Dkg, Vec<Outgoing>)> {
    let seeds: Vec<u8> = (1..=members).collect();
    let (session, roster) = (SessionId([session; 32]), roster(&seeds));
    let wallet = DkgParams::wallet_id("w", Network::Regtest, &roster, &session);
    let params = DkgParams { wallet, network: Network::Regtest, roster, session, context: [0; 32] };
    seeds
        .into_iter()
        .map(|seed| {
            let (machine, out) = Dkg::start(params.clone(), identity(seed), rand::thread_rng().r#gen()).unwrap();
            (machine.me(), machine, out)
        })
        .collect()
}

/// Everyone's machine of a ceremony that deals a 2-of-3 again, for an epoch so far ahead. Member 2 has lost its share
/// where one is repaired; 3 leaves and 4 joins where the members change.
pub fn dealing_again(
    ceremony: Ceremony,
    old: &BTreeMap<u8, Arc<KeyShare>>,
    session: u8,
    ahead: u32,
) -> Vec<(PartyIndex, Redeal, Vec<Outgoing>)> {
    let (members, dealers): (&[u8], &[u8]) = match ceremony {
        Ceremony::Reshare => (&[1, 2, 4], &[1, 2, 3]),
        Ceremony::Repair => (&[1, 2, 3], &[1, 3]),
        Ceremony::Refresh | Ceremony::Generate => (&[1, 2, 3], &[1, 2, 3]),
    };
    deal(members, dealers, old, session, ahead)
}

/// Everyone's machine of a refresh by all who hold a share.
pub fn refresh_of(old: &BTreeMap<u8, Arc<KeyShare>>, session: u8) -> Vec<(PartyIndex, Redeal, Vec<Outgoing>)> {
    let members: Vec<u8> = old.keys().copied().collect();
    deal(&members, &members, old, session, 1)
}

fn deal(
    members: &[u8],
    dealers: &[u8],
    old: &BTreeMap<u8, Arc<KeyShare>>,
    session: u8,
    ahead: u32,
) -> Vec<(PartyIndex, Redeal, Vec<Outgoing>)> {
    let public = old[&1].public();
    let params = RedealParams {
        old: Arc::clone(public),
        epoch: Epoch(public.epoch.0 + ahead),
        roster: roster(members),
        dealers: dealers.iter().map(|seed| identity(*seed).member_id()).collect(),
        absent: BTreeSet::new(),
        session: SessionId([session; 32]),
        context: [0; 32],
    };
    let takes_part = params.participants();
    (1..=MOST)
        .filter(|seed| takes_part.contains(&identity(*seed).member_id()))
        .map(|seed| {
            let share = old.get(&seed).filter(|_| dealers.contains(&seed)).map(Arc::as_ref);
            let started = Redeal::start(params.clone(), identity(seed), share, rand::thread_rng().r#gen());
            let (machine, out) = started.unwrap();
            (machine.me(), machine, out)
        })
        .collect()
}

/// Shares by the seed of their member's identity.
pub fn by_seed(shares: &[Arc<KeyShare>]) -> BTreeMap<u8, Arc<KeyShare>> {
    let seed_of = |share: &KeyShare| {
        let member = *share.public().roster.member(share.me()).unwrap();
        (1..=MOST).find(|seed| identity(*seed).member_id() == member).unwrap()
    };
    shares.iter().map(|share| (seed_of(share), Arc::clone(share))).collect()
}

/// Two members sign with both keys; a session verifies what it makes.
pub fn sign(shares: [&Arc<KeyShare>; 2]) {
    let item = |address_type| SignItem {
        key: KeyId { chain: ChainId::new(address_type, Branch::External), index: 0 },
        message: [9; 32],
    };
    let signers: BTreeSet<PartyIndex> = shares.iter().map(|share| share.me()).collect();
    let params = SignParams {
        session: SessionId([5; 32]),
        signers: signers.iter().copied().collect(),
        items: vec![item(AddressType::Bech32), item(AddressType::Bech32m)],
        banned: BTreeSet::new(),
    };
    let all: Vec<PartyIndex> = signers.into_iter().collect();
    let mut queue = Vec::new();
    let mut sessions = BTreeMap::new();
    for share in shares {
        let started = SigningSession::start(Arc::clone(share), &params, &rand::thread_rng().r#gen());
        let (session, out) = started.unwrap();
        queue.extend(super::stage::packets(&all, share.me(), out));
        sessions.insert(share.me(), session);
    }
    while !queue.is_empty() {
        let packet = queue.remove(0);
        let out = sessions.get_mut(&packet.to).unwrap().receive(packet.from, &packet.body).unwrap();
        queue.extend(super::stage::packets(&all, packet.to, out));
    }
    assert!(sessions.values().all(|session| session.finished().is_some()));
}
