//! Dealing shares again: refresh, reshare and repair keep the keys, and nothing of the old epoch works with the new.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tss_wallet::keys::CertificateError;
use tss_wallet::redeal::{MAX_EPOCH_JUMP, RedealRefusal};
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::{
    DkgError, Epoch, KeyShare, MemberId, Outgoing, PublicKeys, Recipient, Redeal, RedealParams, Roster, SessionId,
    SignError, SignItem, SigningIdentity, SigningSession, Split,
};

use crate::cluster::{check, key, party, quorum, sign, sign_params};

/// One message under way, by member.
#[derive(Clone)]
pub struct Packet {
    pub from: MemberId,
    pub to: MemberId,
    pub body: Vec<u8>,
}

pub struct Run {
    pub machines: BTreeMap<MemberId, Redeal>,
    /// Who refused something, why, and whom it blames.
    pub errors: Vec<(MemberId, DkgError, Option<MemberId>)>,
}

fn identity(seed: u8) -> SigningIdentity {
    SigningIdentity::from_seed(&[seed; 32])
}

pub fn id(seed: u8) -> MemberId {
    identity(seed).member_id()
}

fn ids(seeds: &[u8]) -> BTreeSet<MemberId> {
    seeds.iter().map(|seed| id(*seed)).collect()
}

/// Shares by the seed of their member's identity.
pub type Shares = BTreeMap<u8, Arc<KeyShare>>;

pub fn made(threshold: u8, count: u8) -> Shares {
    let shares = quorum(threshold, count);
    let seed_of = |share: &KeyShare| {
        let member = *share.public().roster.member(share.me()).unwrap();
        (1..=count).find(|seed| id(*seed) == member).unwrap()
    };
    shares.into_iter().map(|share| (seed_of(&share), share)).collect()
}

pub fn params(old: &Arc<PublicKeys>, threshold: u8, roster: &[u8], dealers: &[u8], absent: &[u8]) -> RedealParams {
    RedealParams {
        old: old.clone(),
        epoch: Epoch(old.epoch.0 + 1),
        roster: Roster::new(threshold, roster.iter().map(|seed| id(*seed)).collect(), Split::Refused).unwrap(),
        dealers: ids(dealers),
        absent: ids(absent),
        session: SessionId([77; 32]),
        context: [0; 32],
    }
}

fn route(machine: &Redeal, out: Vec<Outgoing>, from: MemberId, queue: &mut VecDeque<Packet>) {
    for message in out {
        for to in machine.params().participants() {
            let index = machine.index_of(&to).unwrap();
            let meant = match message.to {
                Recipient::All => to != from,
                Recipient::One(party) => party == index,
            };
            if meant {
                queue.push_back(Packet { from, to, body: message.body.clone() });
            }
        }
    }
}

/// Runs a ceremony in the order of sending; the hook says what really arrives in place of each packet.
fn run(params: &RedealParams, shares: &Shares, hook: impl FnMut(Packet) -> Vec<Packet>) -> Run {
    run_in_order(params, shares, |_| 0, hook)
}

/// The same; `next` chooses which of so many packets arrives next.
pub fn run_in_order(
    params: &RedealParams,
    shares: &Shares,
    mut next: impl FnMut(usize) -> usize,
    mut hook: impl FnMut(Packet) -> Vec<Packet>,
) -> Run {
    let mut queue = VecDeque::new();
    let mut machines = BTreeMap::new();
    for member in params.participants() {
        let seed = (1..=20).find(|seed| id(*seed) == member).unwrap();
        let share = shares.get(&seed).map(Arc::as_ref);
        let (machine, out) = Redeal::start(params.clone(), identity(seed), share, rand::random()).unwrap();
        route(&machine, out, member, &mut queue);
        machines.insert(member, machine);
    }
    let mut errors = Vec::new();
    while !queue.is_empty() {
        let packet = queue.remove(next(queue.len())).unwrap();
        for packet in hook(packet) {
            let machine = machines.get_mut(&packet.to).unwrap();
            let from = machine.index_of(&packet.from).unwrap();
            match machine.receive(from, &packet.body) {
                Ok(out) => route(machine, out, packet.to, &mut queue),
                Err(error) => {
                    let culprit = machine.culprit(&error);
                    errors.push((packet.to, error, culprit));
                }
            }
        }
    }
    Run { machines, errors }
}

pub fn honest(params: &RedealParams, shares: &Shares) -> Shares {
    let run = run(params, shares, |packet| vec![packet]);
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    let mut made = Shares::new();
    let mut statements = BTreeSet::new();
    for (member, machine) in &run.machines {
        let public = machine.finished().unwrap();
        public.verify().unwrap();
        assert!(public.same_wallet(&params.old));
        statements.insert(public.statement());
        let seed = (1..=20).find(|seed| id(*seed) == *member).unwrap();
        if let Some(share) = machine.share() {
            made.insert(seed, share.clone());
        }
    }
    assert_eq!(statements.len(), 1, "all came to one result");
    made
}

fn items() -> Vec<SignItem> {
    AddressType::ALL
        .into_iter()
        .map(|kind| SignItem { key: key(kind, Branch::External, 5), message: [9; 32] })
        .collect()
}

/// Shares in a list by index, holes filled with any share: only the signers' are used.
fn listed(shares: &Shares) -> Vec<Arc<KeyShare>> {
    let any = shares.values().next().unwrap();
    let mut list: Vec<Arc<KeyShare>> = any.public().roster.indices().map(|_| any.clone()).collect();
    for share in shares.values() {
        list[share.me().position()] = share.clone();
    }
    list
}

/// These members sign, and the signatures are good for the old addresses.
pub fn signs(shares: &Shares, seeds: &[u8], old: &KeyShare) {
    let mut signers: Vec<u8> = seeds.iter().map(|seed| shares[seed].me().get()).collect();
    signers.sort_unstable();
    let signatures = sign(&listed(shares), &sign_params(&signers, items(), 3));
    for (item, signature) in items().iter().zip(&signatures) {
        check(old, item, signature);
    }
}

#[test]
fn a_refresh_with_one_of_three_away_keeps_the_keys_and_leaves_it_stale() {
    let old = made(2, 3);
    let public = old[&1].public();
    let new = honest(&params(public, 2, &[1, 2, 3], &[1, 3], &[2]), &old);
    assert_eq!(new.keys().copied().collect::<Vec<_>>(), [1, 3]);
    signs(&new, &[1, 3], &old[&1]);
    let next = new[&1].public();
    assert_eq!(next.epoch, Epoch(1));
    assert_eq!(next.holders().count(), 2);
    for (seed, share) in &new {
        let index = share.me();
        assert_ne!(next.ecdsa_shares[index.position()], public.ecdsa_shares[index.position()]);
        assert_eq!(old[seed].me(), index);
    }
    // The member that was away gets a share again from the two others.
    let repaired = honest(&params(next, 2, &[1, 2, 3], &[1, 3], &[]), &new);
    assert_eq!(repaired[&2].public().epoch, Epoch(2));
    signs(&repaired, &[2, 3], &old[&1]);
    signs(&repaired, &[1, 2], &old[&1]);
}

#[test]
fn old_and_new_shares_never_sign_together() {
    let old = made(2, 3);
    let new = honest(&params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]), &old);
    let one = party(old[&1].me().get());
    let two = party(new[&2].me().get());
    let mut signers = vec![one.get(), two.get()];
    signers.sort_unstable();
    for kind in [AddressType::Bech32, AddressType::Bech32m] {
        let item = SignItem { key: key(kind, Branch::External, 0), message: [1; 32] };
        let params = sign_params(&signers, vec![item], 4);
        let start = |share: &Arc<KeyShare>| SigningSession::start(share.clone(), &params, &rand::random()).unwrap();
        let (_, first) = start(&old[&1]);
        let (mut second, _) = start(&new[&2]);
        assert!(first.iter().any(|message| second.receive(one, &message.body).is_err()));
        assert!(second.finished().is_none());
    }
}

#[test]
fn a_colleague_leaves_another_joins_and_the_threshold_rises() {
    let old = made(2, 3);
    // Members 1 and 2 deal; 3 leaves without being there; 4, 5 and 6 are new.
    let params = params(old[&1].public(), 3, &[1, 2, 4, 5, 6], &[1, 2], &[]);
    let new = honest(&params, &old);
    assert_eq!(new.keys().copied().collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    signs(&new, &[4, 5, 6], &old[&1]);
    signs(&new, &[1, 2, 5], &old[&1]);
}

#[test]
fn a_member_that_leaves_may_deal_and_the_threshold_may_fall() {
    let old = made(3, 4);
    let params = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3, 4], &[]);
    let new = honest(&params, &old);
    assert_eq!(new.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    signs(&new, &[2, 3], &old[&1]);
}

/// t−1 old shares and one new one lie on no common polynomial through the key.
#[test]
fn shares_of_two_epochs_do_not_interpolate_to_the_key() {
    use k256::elliptic_curve::group::GroupEncoding;
    let old = made(2, 3);
    let new = honest(&params(old[&1].public(), 2, &[1, 2, 3], &[1, 2], &[3]), &old);
    let point = |key: &secp256k1::PublicKey| {
        let bytes = k256::CompressedPoint::try_from(key.serialize().as_slice()).unwrap();
        k256::ProjectivePoint::from(k256::AffinePoint::from_bytes(&bytes).unwrap())
    };
    let (before, after) = (old[&1].public(), new[&1].public());
    for one in 1..=3_u8 {
        for two in (1..=3_u8).filter(|two| *two != one) {
            let (x, y) = (k256::Scalar::from(u64::from(one)), k256::Scalar::from(u64::from(two)));
            let line = |a: &secp256k1::PublicKey, b: &secp256k1::PublicKey| {
                let inverse: k256::Scalar = (y - x).invert().unwrap();
                point(a) * (y * inverse) - point(b) * (x * inverse)
            };
            let (a, b) = (usize::from(one) - 1, usize::from(two) - 1);
            assert_eq!(line(&before.ecdsa_shares[a], &before.ecdsa_shares[b]), point(&before.ecdsa.public_key));
            assert_eq!(line(&after.ecdsa_shares[a], &after.ecdsa_shares[b]), point(&before.ecdsa.public_key));
            assert_ne!(line(&before.ecdsa_shares[a], &after.ecdsa_shares[b]), point(&before.ecdsa.public_key));
            assert_ne!(line(&before.schnorr_shares[a], &after.schnorr_shares[b]), point(&before.schnorr.public_key));
        }
    }
}

#[test]
fn each_rule_of_who_deals_and_holds_is_refused_by_its_name() {
    let old = made(2, 3);
    let public = old[&1].public();
    let of =
        |threshold, roster: &[u8], dealers: &[u8], absent: &[u8]| params(public, threshold, roster, dealers, absent);
    let in_epoch = |epoch: u32| RedealParams { epoch: Epoch(epoch), ..of(2, &[1, 2, 3], &[1, 2], &[]) };
    let jump = |new| RedealRefusal::EpochJump { old: Epoch(0), new: Epoch(new) };
    let certificate = tss_wallet::keys::Certificate::default();
    let unsigned = Arc::new(PublicKeys { certificate, ..(**public).clone() });
    let first = public.roster.indices().next().unwrap();
    let cases = [
        (params(&unsigned, 2, &[1, 2, 3], &[1, 2], &[]), RedealRefusal::OldKeys(CertificateError::Missing(first))),
        (in_epoch(0), RedealRefusal::Epoch { old: Epoch(0), new: Epoch(0) }),
        (in_epoch(MAX_EPOCH_JUMP + 1), jump(MAX_EPOCH_JUMP + 1)),
        (in_epoch(u32::MAX), jump(u32::MAX)),
        (of(2, &[1, 2, 3], &[1], &[]), RedealRefusal::TooFewDealers { got: 1, needed: 2 }),
        (of(2, &[1, 2, 4], &[1, 4], &[]), RedealRefusal::NotAHolder(id(4))),
        (of(2, &[1, 2, 4], &[1, 2], &[4]), RedealRefusal::NewMemberAbsent(id(4))),
        (of(2, &[1, 2, 3], &[1, 2], &[2]), RedealRefusal::NotAbsent(id(2))),
        (of(2, &[1, 2, 4], &[1, 2], &[3]), RedealRefusal::NotAbsent(id(3))),
        (of(3, &[1, 2, 3], &[1, 2], &[3]), RedealRefusal::TooFewHolders { got: 2, needed: 3 }),
    ];
    for (params, refusal) in cases {
        assert_eq!(params.check(), Err(refusal.clone()));
        // No machine begins with it.
        let started = Redeal::start(params, identity(1), Some(&old[&1]), [0; 32]).unwrap_err();
        assert_eq!(started, DkgError::Own(refusal.to_string()));
    }
    in_epoch(MAX_EPOCH_JUMP).check().unwrap();
    // A member that was away holds no share of the next epoch: it cannot deal it, and signs nothing with its holes.
    let new = honest(&of(2, &[1, 2, 3], &[1, 3], &[2]), &old);
    let away = params(new[&1].public(), 2, &[1, 2, 3], &[1, 2], &[3]);
    assert_eq!(away.check(), Err(RedealRefusal::NotAHolder(id(2))));
    let mut signers = [1, 2].map(|seed| new[&1].public().roster.index_of(&id(seed)).unwrap().get());
    signers.sort_unstable();
    let item = SignItem { key: key(AddressType::Bech32, Branch::External, 0), message: [1; 32] };
    let error = SigningSession::start(new[&1].clone(), &sign_params(&signers, vec![item], 5), &[0; 32]).unwrap_err();
    assert!(matches!(error, SignError::OwnState(_)), "{error:?}");
    // Whoever takes part deals the share of the present epoch, and nobody else begins.
    let again = || of(2, &[1, 2, 3], &[1, 2], &[]);
    let without = DkgError::Own("a dealer has no share of the present epoch".to_owned());
    for share in [None, Some(&*new[&1])] {
        assert_eq!(Redeal::start(again(), identity(1), share, [0; 32]).unwrap_err(), without);
    }
    assert_eq!(Redeal::start(again(), identity(9), None, [0; 32]).unwrap_err(), DkgError::NotAMember);
}

#[test]
fn other_parameters_of_a_ceremony_name_their_owner() {
    let old = made(2, 3);
    let ours = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]);
    let theirs = RedealParams { context: [9; 32], ..ours.clone() };
    let start = |seed: u8, params: &RedealParams| {
        Redeal::start(params.clone(), identity(seed), Some(&old[&seed]), rand::random()).unwrap()
    };
    let (mut machine, _) = start(1, &ours);
    let mut error = None;
    for (seed, params) in [(2, &ours), (3, &theirs)] {
        let (other, out) = start(seed, params);
        let mine = out.iter().filter(|message| [Recipient::All, Recipient::One(machine.me())].contains(&message.to));
        for message in mine.collect::<Vec<_>>() {
            error = machine.receive(other.me(), &message.body).err().or(error);
        }
    }
    let culprit = machine.index_of(&id(3)).unwrap();
    assert_eq!(error, Some(DkgError::OtherParameters { culprit }));
}

fn nothing_was_made(run: &Run) -> bool {
    run.machines.values().all(|machine| machine.finished().is_none() && machine.pending().is_none())
}

#[test]
fn a_changed_fragment_or_opening_names_its_sender() {
    let old = made(2, 3);
    let params = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]);
    for broadcast in [0, 1] {
        let run = run(&params, &old, |mut packet| {
            if packet.from == id(2) && packet.to == id(3) && packet.body[..2] == [2, broadcast] {
                packet.body[12] ^= 1;
            }
            vec![packet]
        });
        assert!(nothing_was_made(&run));
        let (_, error, culprit) = run.errors.iter().find(|(at, ..)| *at == id(3)).unwrap();
        assert_eq!(*culprit, Some(id(2)), "{error}");
        assert!(run.errors.iter().all(|(_, _, culprit)| culprit.is_none_or(|culprit| culprit == id(2))));
    }
}

#[test]
fn a_member_that_keeps_no_share_is_told_nothing_and_tells_nothing() {
    let old = made(2, 3);
    // Member 3 deals, and leaves.
    let params = params(old[&1].public(), 2, &[1, 2, 4], &[1, 2, 3], &[]);
    let is = |packet: &Packet, round: u8, from: u8, to: u8| {
        packet.body[..2] == [round, 1] && packet.from == id(from) && packet.to == id(to)
    };
    for (round, from, to) in [(2, 1, 3), (4, 1, 3), (4, 3, 1)] {
        // What a member says to one that will hold a share.
        let mut said = None;
        run(&params, &old, |packet| {
            if is(&packet, round, 1, 2) {
                said = Some(packet.body.clone());
            }
            vec![packet]
        });
        let run = run(&params, &old, |mut packet| {
            if is(&packet, round, from, to) {
                packet.body.clone_from(said.as_ref().unwrap());
            }
            vec![packet]
        });
        let (_, error, culprit) = run.errors.iter().find(|(at, ..)| *at == id(to)).unwrap();
        assert!(matches!(error, DkgError::Malformed { .. }), "{round}: {error:?}");
        assert_eq!(*culprit, Some(id(from)));
        assert!(run.machines[&id(to)].finished().is_none());
    }
}

#[test]
fn equivocation_is_noticed_before_anything_is_stored() {
    let old = made(2, 3);
    let params = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]);
    let run = run(&params, &old, |mut packet| {
        if packet.from == id(2) && packet.to == id(3) && packet.body[..2] == [3, 0] {
            packet.body[7] ^= 1;
        }
        vec![packet]
    });
    assert!(run.machines[&id(3)].finished().is_none() && run.machines[&id(3)].pending().is_none());
    assert!(run.errors.iter().any(|(at, error, _)| *at == id(3) && matches!(error, DkgError::Equivocation { .. })));
}

#[test]
fn a_withheld_signature_leaves_all_with_a_pending_share_and_none_finished_wrongly() {
    let old = made(2, 3);
    let params = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]);
    let run = run(&params, &old, |packet| {
        if packet.from == id(2) && packet.to == id(3) && packet.body[0] == 7 { Vec::new() } else { vec![packet] }
    });
    let late = &run.machines[&id(3)];
    assert_eq!(late.waiting_for(), [id(2)]);
    let pending = late.pending().unwrap();
    let certificate = run.machines[&id(1)].finished().unwrap().certificate.clone();
    // The full certificate, from any other member, makes it live.
    let share = pending.certified(certificate).unwrap();
    assert_eq!(share.public(), run.machines[&id(1)].finished().unwrap());
}

#[test]
fn a_switch_keeps_the_old_share_until_all_have_the_new_one_and_then_leaves_nothing_of_it() {
    use tss_wallet::seal::SealKey;
    use tss_wallet::store::ShareStoreError;
    use tss_wallet::{Family, ShareStore, WalletDb};
    let old = made(2, 3);
    let dir = tempfile::tempdir().unwrap();
    let seal = SealKey::load_or_create(&dir.path().join("seal.key"), &[9; 32]).unwrap();
    let db = Arc::new(WalletDb::open(&dir.path().join("db")).unwrap());
    let store = ShareStore::new(db.clone(), id(1));
    store.put_active(&old[&1], &seal, &rand::random()).unwrap();
    let sealed = db.get(Family::Share, b"active/share").unwrap().unwrap();
    let dealt = |epoch: u32| {
        let mut params = params(old[&1].public(), 2, &[1, 2, 3], &[1, 2, 3], &[]);
        params.epoch = Epoch(epoch);
        honest(&params, &old)
    };
    // Two attempts signed, neither certificate seen; then the first one's turns up, and later the second's.
    let (first, second) = (dealt(1), dealt(2));
    store.put_pending(&first[&1], &seal, &rand::random()).unwrap();
    store.put_pending(&second[&1], &seal, &rand::random()).unwrap();
    let mut promised: Vec<u32> = store.promised().unwrap().iter().map(|keys| keys.epoch.0).collect();
    promised.sort_unstable();
    assert_eq!(promised, [1, 2]);
    assert_eq!(store.public().unwrap().unwrap().epoch, Epoch(0), "signing goes on with the old share");
    // A passphrase, or another one, is that of all of them.
    let other = SealKey::load_or_create(&dir.path().join("other.key"), &[8; 32]).unwrap();
    store.reseal(&seal, &other, rand::random).unwrap();
    assert!(store.unlock(&seal).is_err() && store.unlock_pending(&seal).is_err());
    let seal = other;
    store.take_up(Epoch(1)).unwrap();
    let certificate = first[&2].public().certificate.clone();
    assert!(store.switch(second[&2].public().certificate.clone(), &seal, &rand::random()).is_err());
    store.switch(certificate, &seal, &rand::random()).unwrap();
    assert_eq!(store.public().unwrap().unwrap().epoch, Epoch(1));
    assert_eq!(store.previous().unwrap().unwrap().epoch, Epoch(0));
    assert_eq!(store.promised().unwrap().len(), 1, "a later attempt may still become live");
    store.take_up(Epoch(2)).unwrap();
    store.switch(second[&2].public().certificate.clone(), &seal, &rand::random()).unwrap();
    assert!(store.promised().unwrap().is_empty());
    let back = store.put_active(&old[&1], &seal, &rand::random());
    assert!(
        matches!(back, Err(ShareStoreError::Stale { epoch: Epoch(0), highest: Epoch(2) })),
        "no way back: {back:?}"
    );
    store.erase_previous().unwrap();
    assert!(store.previous().unwrap().is_none());
    drop((store, db));
    let db = WalletDb::open(&dir.path().join("db")).unwrap();
    db.scrub(Family::Share).unwrap();
    drop(db);
    let canary = &sealed[100..164];
    for entry in std::fs::read_dir(dir.path().join("db")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(canary.len()).any(|window| window == canary), "the old share is in no file");
    }
}
