//! Signing with liars, strangers, replays and silence.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tss_wallet::sign::{MAX_ECDSA_ITEMS, Verdict};
use tss_wallet::store::Ban;
use tss_wallet::wallet::keychain::{AddressType, Branch};
use tss_wallet::{KeyShare, SessionId, ShareStore, SignError, SignItem, SignParams, SigningSession, WalletDb};

use crate::cluster::{Packet, check, key, party, quorum, sign_net, sign_params};

fn both_schemes() -> Vec<SignItem> {
    [AddressType::Bech32, AddressType::Bech32m]
        .map(|kind| SignItem { key: key(kind, Branch::External, 3), message: [3; 32] })
        .to_vec()
}

fn taproot() -> Vec<SignItem> {
    vec![SignItem { key: key(AddressType::Bech32m, Branch::External, 3), message: [3; 32] }]
}

/// One key generation serves all of these: each test runs in a process of its own.
#[test]
fn faults_in_signing_two_of_three() {
    let shares = quorum(2, 3);
    parameters_that_cannot_be_are_refused(&shares);
    a_banned_partner_is_refused_for_ecdsa_alone(&shares);
    a_bad_frost_share_names_its_maker(&shares);
    what_is_no_message_is_malformed(&shares);
    duplicates_strangers_and_late_messages_are_dropped(&shares);
    a_message_of_another_session_is_dropped(&shares);
    every_recorded_message_is_refused_elsewhere(&shares);
    a_failed_check_of_multiplication_is_a_ban(&shares);
    a_cheater_gets_one_failed_check_out_of_a_thousand_aborts(&shares);
    silence_is_not_blamed(&shares);
    a_share_is_announced_when_it_leaves_and_never_before(&shares);
    no_mutant_makes_a_wrong_signature(&shares);
}

#[test]
fn faults_in_signing_three_of_five() {
    let shares = quorum(3, 5);
    a_lie_about_commitments_blames_nobody_honest(&shares);
    other_points_frame_nobody(&shares);
    a_bad_frost_share_is_named_by_every_honest_signer(&shares);
}

fn start_error(share: &Arc<KeyShare>, params: &SignParams) -> SignError {
    SigningSession::start(share.clone(), params, &[0; 32]).unwrap_err()
}

fn parameters_that_cannot_be_are_refused(shares: &[Arc<KeyShare>]) {
    let with = |signers: &[u8]| start_error(&shares[0], &sign_params(signers, both_schemes(), 1));
    assert_eq!(with(&[1]), SignError::SignerCount { expected: 2, got: 1 });
    assert_eq!(with(&[1, 2, 3]), SignError::SignerCount { expected: 2, got: 3 });
    assert_eq!(with(&[1, 1]), SignError::SignerCount { expected: 2, got: 2 });
    assert_eq!(with(&[2, 3]), SignError::NotASigner);
    assert_eq!(with(&[1, 4]), SignError::UnknownSigner(party(4)));
    assert_eq!(
        start_error(&shares[0], &sign_params(&[1, 2], Vec::new(), 1)),
        SignError::ItemCount { items: 0, ecdsa: 0 }
    );
    let many = vec![both_schemes()[0]; MAX_ECDSA_ITEMS + 1];
    assert!(matches!(start_error(&shares[0], &sign_params(&[1, 2], many, 1)), SignError::ItemCount { .. }));
    let hardened = vec![SignItem { key: key(AddressType::Bech32, Branch::External, 1 << 31), message: [0; 32] }];
    let error = start_error(&shares[0], &sign_params(&[1, 2], hardened, 1));
    assert!(matches!(error, SignError::Derive(_)));
    assert_eq!(error.verdict(), Verdict::Fatal);
}

fn a_banned_partner_is_refused_for_ecdsa_alone(shares: &[Arc<KeyShare>]) {
    let banned = BTreeSet::from([party(2)]);
    let params = SignParams { banned: banned.clone(), ..sign_params(&[1, 2], both_schemes(), 1) };
    assert_eq!(start_error(&shares[0], &params), SignError::Banned(party(2)));
    let params = SignParams { banned, ..sign_params(&[1, 2], taproot(), 1) };
    assert!(SigningSession::start(shares[0].clone(), &params, &[0; 32]).is_ok());
}

fn a_bad_frost_share_names_its_maker(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 2], taproot(), 2);
    let mut net = sign_net(shares, &params, 1);
    net.run(|mut packet| {
        if packet.from == party(2) && packet.body[0] == 2 {
            *packet.body.last_mut().unwrap() ^= 1;
        }
        vec![packet]
    });
    let (at, _, error) = &net.errors[0];
    assert!(matches!(error, SignError::InvalidShare { .. }), "{error:?}");
    assert_eq!((*at, error.culprit(), error.verdict()), (party(1), Some(party(2)), Verdict::Retry));
    assert!(net.nodes[&party(1)].finished().is_none());
    assert!(net.nodes[&party(2)].finished().is_some());
}

fn what_is_no_message_is_malformed(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 2], both_schemes(), 9);
    let (_, out) = SigningSession::start(shares[1].clone(), &params, &[2; 32]).unwrap();
    let good = &out[0].body;
    let changed = |at: usize, to: u8| {
        let mut body = good.clone();
        body[at] = to;
        body
    };
    // Empty, cut in its binding, of a round that nobody can be in, with a length that does not fit, longer, shorter.
    let garbage = [
        Vec::new(),
        good[..20].to_vec(),
        changed(0, 3),
        changed(0, 255),
        changed(33, 0xff),
        [good.as_slice(), &[0]].concat(),
        good[..good.len() - 1].to_vec(),
    ];
    for body in garbage {
        let (mut session, _) = SigningSession::start(shares[0].clone(), &params, &[1; 32]).unwrap();
        let error = session.receive(party(2), &body).unwrap_err();
        assert_eq!((error.clone(), error.verdict()), (SignError::Malformed { culprit: party(2) }, Verdict::Retry));
        assert!(session.waiting_for().is_empty(), "the session is over");
        assert_eq!(session.receive(party(2), good), Err(SignError::Late { from: party(2) }));
    }
}

fn duplicates_strangers_and_late_messages_are_dropped(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 3], both_schemes(), 3);
    let mut net = sign_net(shares, &params, 2);
    net.run(|packet| {
        let stranger = Packet { from: party(2), ..packet.clone() };
        vec![packet.clone(), packet, stranger]
    });
    for session in net.nodes.values() {
        let signatures = session.finished().unwrap();
        params.items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
    }
    assert!(net.errors.iter().all(|(.., error)| error.verdict() == Verdict::Dropped));
    assert!(net.errors.iter().any(|(.., error)| matches!(error, SignError::Stranger { .. })));
    assert!(net.errors.iter().any(|(.., error)| matches!(error, SignError::Late { .. })));
    let (mut session, _) = SigningSession::start(shares[0].clone(), &params, &[1; 32]).unwrap();
    let (_, out) = SigningSession::start(shares[2].clone(), &params, &[2; 32]).unwrap();
    // A message of the next round comes early, and is taken once.
    let early = [&[2][..], &out[0].body[1..]].concat();
    session.receive(party(3), &early).unwrap();
    assert_eq!(session.receive(party(3), &early), Err(SignError::Duplicate { from: party(3) }));
}

fn a_message_of_another_session_is_dropped(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 2], both_schemes(), 4);
    let mut other_items = both_schemes();
    other_items[0].message = [9; 32];
    let mut other_index = both_schemes();
    other_index[1].key.index = 4;
    for other in [
        SignParams { session: SessionId([5; 32]), ..params.clone() },
        SignParams { items: other_items, ..params.clone() },
        SignParams { items: other_index, ..params.clone() },
    ] {
        let (mut session, _) = SigningSession::start(shares[0].clone(), &params, &[1; 32]).unwrap();
        let (_, out) = SigningSession::start(shares[1].clone(), &other, &[2; 32]).unwrap();
        let error = session.receive(party(2), &out[0].body).unwrap_err();
        assert_eq!((error.clone(), error.verdict()), (SignError::OtherSession { from: party(2) }, Verdict::Dropped));
        assert_eq!(session.waiting_for(), [party(2)]);
    }
}

/// Every message of one session fed to another session of the same items: none is accepted.
fn every_recorded_message_is_refused_elsewhere(shares: &[Arc<KeyShare>]) {
    let mut net = sign_net(shares, &sign_params(&[1, 2], both_schemes(), 6), 3);
    net.run_honestly();
    let other = sign_params(&[1, 2], both_schemes(), 7);
    for packet in &net.log {
        let (mut session, _) = SigningSession::start(shares[packet.to.position()].clone(), &other, &[1; 32]).unwrap();
        assert!(session.receive(packet.from, &packet.body).is_err());
        assert!(!session.waiting_for().is_empty());
    }
}

fn a_failed_check_of_multiplication_is_a_ban(shares: &[Arc<KeyShare>]) {
    let items = vec![both_schemes()[0]];
    let mut banned = 0;
    for seed in 0..12 {
        let params = sign_params(&[1, 2], items.clone(), 100 + seed);
        let mut net = sign_net(shares, &params, 4);
        let mut random = StdRng::seed_from_u64(u64::from(seed));
        net.run(|mut packet| {
            if packet.from == party(2) && packet.body[0] <= 2 {
                // Past round, binding and length, and past the first fields: inside the oblivious transfer.
                let at = random.gen_range(packet.body.len() / 2..packet.body.len());
                packet.body[at] ^= 1;
            }
            vec![packet]
        });
        assert!(net.nodes[&party(1)].finished().is_none());
        for (at, _, error) in net.errors.iter().filter(|(.., error)| error.verdict() == Verdict::Ban) {
            assert!(matches!(error, SignError::Ban { .. }), "{error:?}");
            assert_eq!((*at, error.culprit()), (party(1), Some(party(2))));
            banned += 1;
        }
    }
    assert!(banned > 0, "no change was caught by the checks that ban");
}

/// A failed check leaks a bit of the pair's state, so there is one: the ban is on the disk, and each later session is
/// refused before anything is computed, also after a restart. `KEYLESS_ABORTS=1000` is `contrib/long aborts`.
fn a_cheater_gets_one_failed_check_out_of_a_thousand_aborts(shares: &[Arc<KeyShare>]) {
    let aborts = std::env::var("KEYLESS_ABORTS").ok().map_or(40, |count| count.parse().unwrap());
    let (dir, public) = (tempfile::tempdir().unwrap(), shares[0].public());
    let member = |index: u8| *public.roster.member(party(index)).unwrap();
    let items = vec![both_schemes()[0]];
    let mut random = StdRng::seed_from_u64(aborts);
    let (mut aborted, mut failed, mut refused) = (0, 0, 0);
    for number in 0..aborts {
        let db = WalletDb::open(&dir.path().join("db")).unwrap();
        let store = ShareStore::new(Arc::new(db), member(1));
        let params = sign_params(&[1, 2], items.clone(), (number % 251) as u8);
        let banned = store.banned_parties(public).unwrap();
        let own = SignParams { banned, ..params.clone() };
        let (mut honest, first) = match SigningSession::start(shares[0].clone(), &own, &rand::random()) {
            Ok(started) => started,
            Err(error) => {
                assert_eq!(error, SignError::Banned(party(2)));
                refused += 1;
                continue;
            }
        };
        assert_eq!(failed, 0, "a session after the ban");
        let (mut cheater, to_honest) = SigningSession::start(shares[1].clone(), &params, &rand::random()).unwrap();
        honest.receive(party(2), &to_honest[0].body).unwrap();
        let mut second = cheater.receive(party(1), &first[0].body).unwrap();
        // Inside the oblivious transfer; now and then it only goes away.
        let body = &mut second[0].body;
        let at = random.gen_range(body.len() / 2..body.len());
        body[at] ^= 1 << random.gen_range(0..8);
        match honest.receive(party(2), body) {
            Err(error) if error.verdict() == Verdict::Ban => {
                assert_eq!(error.culprit(), Some(party(2)));
                let ban = Ban { member: member(2), epoch: public.epoch, time_seconds: 1, reason: error.to_string() };
                store.ban(&ban).unwrap();
                failed += 1;
            }
            _ => aborted += 1,
        }
    }
    println!("{aborts} sessions: {aborted} ended without a check, {failed} failed one, {refused} refused");
    assert_eq!((failed, aborted + failed + refused), (1, aborts));
    assert!(refused > aborts / 2);
}

fn silence_is_not_blamed(shares: &[Arc<KeyShare>]) {
    let mut net = sign_net(shares, &sign_params(&[1, 2], both_schemes(), 8), 5);
    net.run(|packet| if packet.from == party(2) && packet.body[0] == 2 { Vec::new() } else { vec![packet] });
    assert!(net.errors.is_empty());
    assert_eq!(net.nodes[&party(1)].waiting_for(), [party(2)]);
}

/// ECDSA items are begun anew until R is low: no message before the last one holds a share.
fn a_share_is_announced_when_it_leaves_and_never_before(shares: &[Arc<KeyShare>]) {
    let all = both_schemes();
    let mut longest = 0;
    for (number, items) in [all[..1].to_vec(), all[1..].to_vec(), all].into_iter().cycle().take(18).enumerate() {
        let schemes = items.len();
        let params = sign_params(&[1, 2], items, 150 + number as u8);
        let start = |share: &Arc<KeyShare>| SigningSession::start(share.clone(), &params, &rand::random()).unwrap();
        let ((mut one, mut to_two), (mut two, mut to_one)) = (start(&shares[0]), start(&shares[1]));
        let (mut shared, mut rounds) = (Vec::new(), 1);
        assert!(!one.gives_share() && !two.gives_share());
        while one.finished().is_none() || two.finished().is_none() {
            let next_of_one: Vec<_> =
                to_one.iter().flat_map(|message| one.receive(party(2), &message.body).unwrap()).collect();
            let next_of_two = to_two.iter().flat_map(|message| two.receive(party(1), &message.body).unwrap()).collect();
            assert_eq!(one.gives_share(), two.gives_share());
            rounds += 1;
            if one.gives_share() {
                shared.push(rounds);
            }
            (to_two, to_one) = (next_of_one, next_of_two);
        }
        assert_eq!(shared.len(), schemes, "once for each scheme: {shared:?} of {rounds}");
        assert_eq!(shared.last(), Some(&(rounds - 1)), "the last message is a share");
        assert!(schemes == 1 || shared[0] == 2, "taproot's shares leave with the second message");
        longest = longest.max(rounds);
    }
    assert!(longest > 4, "no R was high");
}

/// Random changes to random messages: never a panic, never a signature that does not verify.
fn no_mutant_makes_a_wrong_signature(shares: &[Arc<KeyShare>]) {
    let runs = mutants();
    let mut random = StdRng::seed_from_u64(runs);
    for run in 0..runs {
        let params = sign_params(&[1, 2], both_schemes(), (run % 251) as u8);
        let (target, kind) = (random.gen_range(1..=3), random.gen_range(0..6));
        let mut net = sign_net(shares, &params, run);
        net.run(|mut packet| {
            if packet.from == party(2) && packet.body[0] == target {
                mutate(&mut packet.body, kind, &mut random);
            }
            vec![packet]
        });
        for session in net.nodes.values() {
            if let Some(signatures) = session.finished() {
                params.items.iter().zip(&signatures).for_each(|(item, signature)| check(&shares[0], item, signature));
            }
        }
        assert!(net.errors.iter().all(|(at, _, error)| *at == party(2) || error.culprit() != Some(party(1))));
        assert!(net.errors.iter().all(|(.., error)| error.verdict() != Verdict::Fatal), "{:?}", net.errors);
    }
}

/// How many mutants to try; `KEYLESS_MUTANTS` asks for more than the usual.
fn mutants() -> u64 {
    std::env::var("KEYLESS_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(150)
}

fn mutate(body: &mut Vec<u8>, kind: u8, random: &mut StdRng) {
    let at = random.gen_range(1..body.len());
    match kind {
        0 => body[at] ^= 1 << random.gen_range(0..8),
        1 => body.truncate(at),
        2 => body.push(0),
        3 => body[at..].fill(0),
        4 => body[at..].fill(0xff),
        _ => {
            let end = (at + 33).min(body.len());
            random.fill(&mut body[at..end]);
        }
    }
}

fn a_lie_about_commitments_blames_nobody_honest(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 2, 3], taproot(), 1);
    // Member 3 shows member 2 the commitments of another run than member 1.
    let (_, other) = SigningSession::start(shares[2].clone(), &params, &[77; 32]).unwrap();
    let mut net = sign_net(shares, &params, 6);
    net.run(|mut packet| {
        if packet.from == party(3) && packet.to == party(2) && packet.body[0] == 1 {
            packet.body = other.iter().find(|out| out.to == tss_wallet::Recipient::One(party(2))).unwrap().body.clone();
        }
        vec![packet]
    });
    assert!(net.nodes.values().all(|session| session.finished().is_none()));
    for (_, _, error) in &net.errors {
        assert!(matches!(error, SignError::Equivocation { .. }), "{error:?}");
        assert_eq!((error.culprit(), error.verdict()), (None, Verdict::Retry));
    }
}

/// Member 3 claims to member 2 that it saw other points of nonces: 2 cannot tell who lied, and names nobody.
fn other_points_frame_nobody(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[1, 2, 3], vec![both_schemes()[0]], 3);
    let mut net = sign_net(shares, &params, 6);
    // Past round number, binding and length.
    let view = 1 + 32 + 4;
    net.run(|mut packet| {
        if packet.from == party(3) && packet.to == party(2) && packet.body[0] == 3 {
            packet.body[view] ^= 1;
        }
        vec![packet]
    });
    assert!(net.nodes[&party(2)].finished().is_none());
    let (at, from, error) = &net.errors[0];
    assert_eq!((*at, *from, error), (party(2), party(3), &SignError::Equivocation { with: party(3) }));
    assert_eq!((error.culprit(), error.verdict()), (None, Verdict::Retry));
}

fn a_bad_frost_share_is_named_by_every_honest_signer(shares: &[Arc<KeyShare>]) {
    let params = sign_params(&[2, 4, 5], taproot(), 2);
    let mut net = sign_net(shares, &params, 7);
    net.run(|mut packet| {
        if packet.from == party(4) && packet.body[0] == 2 {
            *packet.body.last_mut().unwrap() ^= 1;
        }
        vec![packet]
    });
    let blamed: Vec<_> = net.errors.iter().map(|(at, _, error)| (*at, error.culprit())).collect();
    assert_eq!(blamed.len(), 2);
    assert!(blamed.iter().all(|(at, culprit)| *at != party(4) && *culprit == Some(party(4))));
}
