//! Taproot signatures in one round: nonces told before and used once, liars and the silent, crashes at every step.
//!
//! `KEYLESS_NONCES=10000` runs as many random lives of a pool (`contrib/long nonces`), `KEYLESS_ROAST=200` as many
//! requests beside each kind of liar (`contrib/long roast`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tss_wallet::sign::nonces::{COMMITMENT_BYTES, MAX_POOLED, POOL_TARGET};
use tss_wallet::sign::{Commitment, NonceError, NoncePool, Roast, Started, Verdict, answer, nonce_use, verify};
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::{KeyShare, PartyIndex, SessionId, SignError, SignItem, SignParams, Signature, SigningSession};

use crate::cluster::{check, key, party, quorum};

fn long(name: &str, short: usize) -> usize {
    std::env::var(name).ok().map_or(short, |text| text.parse().unwrap())
}

fn items(count: u32, message: u8) -> Vec<SignItem> {
    let item = |index| SignItem { key: key(AddressType::Bech32m, Branch::External, index), message: [message; 32] };
    (0..count).map(item).collect()
}

fn session(random: &mut StdRng) -> SessionId {
    SessionId(random.r#gen())
}

/// A member as one coordinator knows it.
struct Member {
    share: Arc<KeyShare>,
    pool: NoncePool,
}

impl Member {
    fn new(share: &Arc<KeyShare>) -> Self {
        Self { share: share.clone(), pool: NoncePool::default() }
    }

    fn tell(&mut self, count: usize) -> Vec<Commitment> {
        self.pool.issue(&self.share, count, &rand::random())
    }

    fn answer(&mut self, params: &SignParams, started: &Started) -> Result<Vec<u8>, NonceError> {
        let own = &started.commitments[&self.share.me()];
        let nonces = self.pool.take(own, &nonce_use(params))?;
        Ok(answer(&self.share, params, &started.commitments, nonces).unwrap())
    }
}

fn params(started: &Started, session: SessionId, items: &[SignItem]) -> SignParams {
    SignParams { session, signers: started.signers.clone(), items: items.to_vec(), banned: BTreeSet::new() }
}

/// One key generation serves all of these.
#[test]
fn one_round_of_two_of_three() {
    let shares = quorum(2, 3);
    a_hundred_inputs_are_signed_in_one_round(&shares);
    a_nonce_is_used_once_whatever_the_coordinator_sends(&shares);
    what_cannot_be_a_request_is_refused(&shares);
    no_changed_answer_makes_a_signature_and_each_names_its_maker(&shares);
    pools_are_bounded(&shares);
    no_nonce_meets_two_challenges_through_crashes_and_old_disks(&shares);
}

fn a_hundred_inputs_are_signed_in_one_round(shares: &[Arc<KeyShare>]) {
    for count in [1, 100] {
        let items = items(count, 7);
        let mut roast = Roast::new(shares[0].clone(), items.clone()).unwrap();
        let mut member = Member::new(&shares[2]);
        assert!(roast.offer(party(3), member.tell(items.len())).unwrap());
        let id = SessionId([count as u8; 32]);
        let started = roast.start(id, &[party(2), party(3)], &rand::random()).unwrap();
        assert_eq!(started.signers, [party(1), party(3)]);
        let params = params(&started, id, &items);
        let body = member.answer(&params, &started).unwrap();
        let signatures = roast.receive(id, party(3), &body).unwrap().unwrap();
        items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
        verify(&shares[2], &items, &signatures).unwrap();
        let mut swapped = signatures.clone();
        swapped[0] = Signature::Schnorr(secp256k1::schnorr::Signature::from_slice(&[1; 64]).unwrap());
        assert_eq!(verify(&shares[2], &items, &swapped), Err(SignError::InvalidResult));
        assert_eq!(verify(&shares[2], &items, &signatures[1..]), Err(SignError::InvalidResult));
    }
}

fn a_nonce_is_used_once_whatever_the_coordinator_sends(shares: &[Arc<KeyShare>]) {
    let mut member = Member::new(&shares[1]);
    let told = member.tell(3);
    let (one, other) = (items(1, 1), items(1, 2));
    let ask = |items: &[SignItem], commitment: Commitment| {
        let mut roast = Roast::new(shares[0].clone(), items.to_vec()).unwrap();
        roast.offer(party(2), vec![commitment]).unwrap();
        let id = SessionId(rand::random());
        let started = roast.start(id, &[party(2)], &rand::random()).unwrap();
        (params(&started, id, items), started)
    };
    let (first, started) = ask(&one, told[0]);
    member.answer(&first, &started).unwrap();
    assert_eq!(member.answer(&first, &started), Err(NonceError::Used { other: false }));
    let (again, started) = ask(&one, told[0]);
    assert_eq!(member.answer(&again, &started), Err(NonceError::Used { other: false }), "another session");
    let (lie, started) = ask(&other, told[0]);
    assert_eq!(member.answer(&lie, &started), Err(NonceError::Used { other: true }));
    // One nonce for two inputs.
    let twice = member.pool.take(&[told[1], told[1]], &[0; 32]).map(|nonces| nonces.len());
    assert_eq!(twice, Err(NonceError::Used { other: true }));
    // All or none.
    let stranger = Member::new(&shares[1]).tell(1)[0];
    let mixed = member.pool.take(&[told[1], stranger], &[0; 32]).map(|nonces| nonces.len());
    assert_eq!((mixed, member.pool.len()), (Err(NonceError::Unknown), 2));
    // What was dropped is gone; what was used stays known.
    member.pool.clear();
    let (late, started) = ask(&one, told[2]);
    assert_eq!(member.answer(&late, &started), Err(NonceError::Unknown));
    let (lie, started) = ask(&other, told[0]);
    assert_eq!(member.answer(&lie, &started), Err(NonceError::Used { other: true }));
}

fn what_cannot_be_a_request_is_refused(shares: &[Arc<KeyShare>]) {
    let ecdsa = vec![SignItem { key: key(AddressType::Bech32, Branch::External, 0), message: [1; 32] }];
    assert!(matches!(
        Roast::new(shares[0].clone(), ecdsa.clone()).unwrap_err(),
        SignError::ItemCount { items: 1, ecdsa: 1 }
    ));
    assert!(matches!(Roast::new(shares[0].clone(), Vec::new()).unwrap_err(), SignError::ItemCount { items: 0, .. }));
    let items = items(2, 3);
    let mut member = Member::new(&shares[1]);
    let mut roast = Roast::new(shares[0].clone(), items.clone()).unwrap();
    assert!(!roast.offer(party(1), member.tell(2)).unwrap(), "itself");
    assert!(!roast.offer(party(9), member.tell(2)).unwrap(), "a stranger");
    assert!(!roast.offer(party(2), member.tell(1)).unwrap(), "too few");
    assert!(roast.start(SessionId([1; 32]), &[party(2)], &[0; 32]).is_none());
    assert!(roast.offer(party(2), member.tell(2)).unwrap());
    let id = SessionId([1; 32]);
    let started = roast.start(id, &[party(2)], &rand::random()).unwrap();
    let good = params(&started, id, &items);
    let with = |params: &SignParams, started: &Started, nonces: usize| {
        let mut member = Member::new(&shares[1]);
        let told = member.tell(nonces);
        let nonces = member.pool.take(&told, &[0; 32]).unwrap();
        answer(&shares[1], params, &started.commitments, nonces).unwrap_err()
    };
    assert_eq!(with(&good, &started, 1), SignError::Commitments);
    let mut short = started.clone();
    short.commitments.get_mut(&party(1)).unwrap().pop();
    assert_eq!(with(&good, &short, 2), SignError::Commitments);
    let mut alone = started.clone();
    alone.commitments.remove(&party(1));
    assert_eq!(with(&good, &alone, 2), SignError::Commitments);
    assert!(matches!(with(&good, &started, 2), SignError::Unattributed(_)), "nonces of other commitments");
    let of_ecdsa = SignParams { items: vec![ecdsa[0]; 2], ..good.clone() };
    assert!(matches!(with(&of_ecdsa, &started, 2), SignError::ItemCount { .. }));
    assert_eq!(SignError::Commitments.verdict(), Verdict::Fatal);
    let identity = [0; COMMITMENT_BYTES];
    assert!(Commitment::parse(&identity).is_none() && Commitment::parse_all(&[2; 65]).is_none());
    for _ in 0..20 {
        let bytes: [u8; 32] = rand::random();
        let mut off = *started.commitments[&party(2)][0].as_bytes();
        off[1..33].copy_from_slice(&bytes);
        // Half of all x belong to no point.
        let parsed = Commitment::parse(&off);
        assert!(parsed.is_none_or(|parsed| parsed.as_bytes() == &off));
    }
}

fn no_changed_answer_makes_a_signature_and_each_names_its_maker(shares: &[Arc<KeyShare>]) {
    let items = items(2, 4);
    let mut random = StdRng::seed_from_u64(5);
    for run in 0..long("KEYLESS_MUTANTS", 150) {
        let mut member = Member::new(&shares[1]);
        let mut roast = Roast::new(shares[0].clone(), items.clone()).unwrap();
        roast.offer(party(2), member.tell(2)).unwrap();
        let id = session(&mut random);
        let started = roast.start(id, &[party(2)], &rand::random()).unwrap();
        let body = member.answer(&params(&started, id, &items), &started).unwrap();
        let mut lie = body.clone();
        let at = random.gen_range(0..lie.len());
        match run % 6 {
            0 => lie[at] ^= 1 << random.gen_range(0..8),
            1 => lie.truncate(at),
            2 => lie.push(0),
            3 => lie[at..].fill(0xff),
            4 => lie.clear(),
            _ => random.fill(&mut lie[at..]),
        }
        if lie == body {
            continue;
        }
        let error = roast.receive(id, party(2), &lie).unwrap_err();
        assert_eq!((error.culprit(), error.verdict()), (Some(party(2)), Verdict::Retry), "{error:?}");
        assert!(!roast.can_finish(id) && !roast.wants(party(2)));
        assert!(roast.receive(id, party(2), &body).is_err(), "a second answer");
        assert!(!roast.offer(party(2), member.tell(2)).unwrap(), "it is left out");
    }
}

fn pools_are_bounded(shares: &[Arc<KeyShare>]) {
    let mut member = Member::new(&shares[1]);
    assert_eq!(member.tell(10 * POOL_TARGET).len(), POOL_TARGET);
    let first = member.tell(1);
    let rounds = MAX_POOLED / POOL_TARGET;
    for _ in 0..rounds {
        member.tell(POOL_TARGET);
    }
    assert_eq!(member.pool.len(), MAX_POOLED);
    assert_eq!(member.pool.take(&first, &[0; 32]).unwrap_err(), NonceError::Unknown, "the oldest have gone");
    assert_eq!(member.pool.wanted(), POOL_TARGET);
    let made = tss_wallet::sign::nonces::prepare(&shares[1], 2 * POOL_TARGET, &rand::random());
    member.pool.restock(made);
    assert_eq!((member.pool.wanted(), member.pool.issue_ready(3).len()), (0, 3));
}

/// Every answer that a member ever gave, by its nonces: what challenge each was used for.
#[derive(Default)]
struct Seen(BTreeMap<[u8; COMMITMENT_BYTES], BTreeSet<Challenge>>);

/// The hash of all commitments, and the message: together they make the challenge.
type Challenge = (Vec<u8>, [u8; 32]);

impl Seen {
    fn note(&mut self, own: &[Commitment], params: &SignParams, body: &[u8]) {
        for (commitment, item) in own.iter().zip(&params.items) {
            let challenge = (body[33..65].to_vec(), item.message);
            self.0.entry(*commitment.as_bytes()).or_default().insert(challenge);
        }
    }
}

struct Asked {
    id: SessionId,
    items: Vec<SignItem>,
    started: Started,
    roast: Roast,
}

/// A coordinator that replays, repeats and lies, beside a member that crashes before, between and after its steps and
/// comes back with what its disk held at any time: nothing of its nonces.
fn no_nonce_meets_two_challenges_through_crashes_and_old_disks(shares: &[Arc<KeyShare>]) {
    let seed: u64 = std::env::var("KEYLESS_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut answers, mut signed, mut refused, mut crashes) = (0, 0, 0, 0);
    let runs = long("KEYLESS_NONCES", 150);
    for _ in 0..runs {
        let mut seen = Seen::default();
        let mut member = Member::new(&shares[1]);
        let mut known: Vec<Commitment> = Vec::new();
        let mut history: Vec<Commitment> = Vec::new();
        let mut requests: Vec<Asked> = Vec::new();
        for _ in 0..random.gen_range(3..10) {
            if known.len() < 2 || random.gen_bool(0.2) {
                let told = member.tell(random.gen_range(1..4));
                history.extend(&told);
                known.extend(told);
            }
            let count = random.gen_range(1..3_u32);
            let items = items(count, random.gen_range(0..3));
            let own: Vec<Commitment> = (0..count)
                .map(|_| match known.pop().filter(|_| random.gen_bool(0.7)) {
                    Some(fresh) => fresh,
                    None => *history.choose(&mut random).unwrap(),
                })
                .collect();
            let mut roast = Roast::new(shares[0].clone(), items.clone()).unwrap();
            roast.offer(party(2), own).unwrap();
            let id = session(&mut random);
            let started = roast.start(id, &[party(2)], &random.r#gen()).unwrap();
            requests.push(Asked { id, items, started, roast });
            // The newest, or any of before again.
            let at = if random.gen_bool(0.7) { requests.len() - 1 } else { random.gen_range(0..requests.len()) };
            let request = &mut requests[at];
            let params = params(&request.started, request.id, &request.items);
            let own = request.started.commitments[&party(2)].clone();
            let crash = random.gen_range(0..8);
            if crash == 0 {
                member = Member::new(&shares[1]);
            }
            match member.pool.take(&own, &nonce_use(&params)) {
                Err(_) => refused += 1,
                // Between the nonces' end and the share.
                Ok(nonces) if crash == 1 => drop(nonces),
                Ok(nonces) => {
                    let body = answer(&member.share, &params, &request.started.commitments, nonces).unwrap();
                    seen.note(&own, &params, &body);
                    answers += 1;
                    if let Ok(Some(signatures)) = request.roast.receive(request.id, party(2), &body) {
                        verify(&member.share, &request.items, &signatures).unwrap();
                        signed += 1;
                    }
                }
            }
            match crash {
                1 | 2 => member = Member::new(&shares[1]),
                3 => member.pool.clear(),
                _ => {}
            }
            crashes += usize::from(crash < 3);
            if crash < 4 {
                known.clear();
            }
        }
        for (commitment, challenges) in &seen.0 {
            assert_eq!(challenges.len(), 1, "{commitment:02x?} under two challenges");
        }
    }
    println!("{runs} lives: {answers} answers, {signed} signatures, {refused} refused, {crashes} crashes");
    assert!(answers > runs && signed > runs / 2 && refused > runs / 4 && crashes > runs / 4);
    nor_in_sessions_of_several_rounds(shares, &mut random, runs.div_ceil(10));
}

/// A session that was begun anew after a crash at any message shares nothing with the one before.
fn nor_in_sessions_of_several_rounds(shares: &[Arc<KeyShare>], random: &mut StdRng, runs: usize) {
    let both = [AddressType::Bech32, AddressType::Bech32m]
        .map(|kind| SignItem { key: key(kind, Branch::External, 3), message: [3; 32] });
    let mut first_messages = BTreeSet::new();
    for _ in 0..runs {
        let signers = vec![party(1), party(2)];
        let params = SignParams { session: session(random), signers, items: both.to_vec(), banned: BTreeSet::new() };
        let start = |index: usize| SigningSession::start(shares[index].clone(), &params, &rand::random()).unwrap();
        // As if the session's id came twice, too.
        for _ in 0..2 {
            let ((mut one, mut to_two), (mut two, mut to_one)) = (start(0), start(1));
            let until = random.gen_range(0..5);
            for (from, message) in [(1, &to_two[0]), (2, &to_one[0])] {
                assert!(
                    first_messages.insert((from, Sha256::digest(&message.body[33..]).to_vec())),
                    "nonces of a session before"
                );
            }
            for _ in 0..until {
                let next_of_one: Vec<_> =
                    to_one.iter().flat_map(|message| one.receive(party(2), &message.body).unwrap()).collect();
                to_one = to_two.iter().flat_map(|message| two.receive(party(1), &message.body).unwrap()).collect();
                to_two = next_of_one;
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liar {
    /// Gives commitments and no answer.
    Withholds,
    Garbage,
    /// Well-formed, and wrong.
    Wrong,
    /// Answers when everyone else is through.
    Late,
    /// Its next commitments, and no answer.
    Commits,
}

const LIARS: [Liar; 5] = [Liar::Withholds, Liar::Garbage, Liar::Wrong, Liar::Late, Liar::Commits];

#[test]
fn roast_of_three_of_five_ends_beside_any_two_liars_and_names_those_that_can_be() {
    let shares = quorum(3, 5);
    let mut random = StdRng::seed_from_u64(rand::random());
    for one in LIARS {
        for other in LIARS {
            for _ in 0..long("KEYLESS_ROAST", 2) {
                let mut others: Vec<u8> = (2..=5).collect();
                others.shuffle(&mut random);
                let liars = BTreeMap::from([(party(others[0]), one), (party(others[1]), other)]);
                finishes(&shares, &liars, &mut random);
            }
        }
        finishes(&shares, &BTreeMap::from([(party(random.gen_range(2..=5)), one)]), &mut random);
    }
    finishes(&shares, &BTreeMap::new(), &mut random);
}

fn finishes(shares: &[Arc<KeyShare>], liars: &BTreeMap<PartyIndex, Liar>, random: &mut StdRng) {
    let items = items(random.gen_range(1..3), 9);
    let mut roast = Roast::new(shares[0].clone(), items.clone()).unwrap();
    let mut members: BTreeMap<PartyIndex, Member> =
        shares[1..].iter().map(|share| (share.me(), Member::new(share))).collect();
    let mut order: Vec<PartyIndex> = members.keys().copied().collect();
    // Liars are the fastest.
    order.sort_by_key(|party| !liars.contains_key(party));
    let (mut named, mut late) = (BTreeSet::new(), Vec::new());
    for attempt in 1.. {
        assert!(attempt <= 1 + liars.len(), "{liars:?}: attempts without end");
        for (&party, member) in &mut members {
            if !roast.wants(party) {
                continue;
            }
            if let Err(error) = roast.offer(party, member.tell(items.len())) {
                named.insert(error.culprit().unwrap());
            }
        }
        let id = session(random);
        let started = roast.start(id, &order, &random.r#gen()).unwrap();
        let params = params(&started, id, &items);
        let mut answers = Vec::new();
        for &signer in started.signers.iter().filter(|signer| **signer != party(1)) {
            let mut body = members.get_mut(&signer).unwrap().answer(&params, &started).unwrap();
            match liars.get(&signer) {
                Some(Liar::Withholds | Liar::Commits) => continue,
                Some(Liar::Garbage) => body = vec![7; random.gen_range(0..200)],
                Some(Liar::Wrong) => *body.last_mut().unwrap() ^= 1,
                Some(Liar::Late) => {
                    late.push((id, signer, body));
                    continue;
                }
                None => {}
            }
            answers.push((signer, body));
        }
        answers.shuffle(random);
        for (from, body) in answers {
            match roast.receive(id, from, &body) {
                Ok(Some(signatures)) => {
                    items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
                    assert!(named.iter().all(|party| matches!(liars.get(party), Some(Liar::Garbage | Liar::Wrong))));
                    for (id, from, body) in late {
                        // What comes late may still complete its attempt, and does no harm.
                        if let Err(error) = roast.receive(id, from, &body) {
                            assert!(error.culprit().is_none_or(|culprit| liars.contains_key(&culprit)), "{error:?}");
                        }
                    }
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    named.insert(error.culprit().unwrap());
                }
            }
        }
        // Those who answered are known to respond; those who did not are not waited for.
        assert!(liars.keys().any(|liar| started.signers.contains(liar)), "an honest attempt failed");
    }
}
