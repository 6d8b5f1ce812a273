//! Key generation: what an undisturbed run makes, and how disturbed ones end.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{Dkg, DkgError, SignError, SigningIdentity};

use crate::cluster::{Net, Packet, dkg_net, dkg_params, identities, party};

fn nothing_was_made(net: &Net<Dkg>) -> bool {
    net.nodes.values().all(|dkg| dkg.finished().is_none() && dkg.pending().is_none())
}

#[test]
fn three_members_make_one_pair_of_keys_in_any_order_of_messages() {
    let mut net = dkg_net(2, 3, 1);
    net.run_honestly();
    assert!(net.errors.is_empty(), "{:?}", net.errors);
    let shares: Vec<_> = net.nodes.values().map(|dkg| dkg.finished().unwrap()).collect();
    let public = shares[0].public();
    public.verify().unwrap();
    assert!(shares.iter().all(|share| share.public() == public));
    assert_ne!(public.ecdsa.public_key, public.schnorr.public_key);
    assert_ne!(public.ecdsa.chain_code, public.schnorr.chain_code);
    for address_type in AddressType::ALL {
        let account = public.account(address_type).unwrap();
        let path = format!("{}/1/0", address_type.purpose());
        assert_eq!(account.path.to_string(), path);
        assert_eq!(account.xpub.depth, 3);
    }
    // A certificate lost between two members can be brought later, and no other will do.
    let again = shares[1].certified(public.certificate.clone()).unwrap();
    assert_eq!(again.public(), public);
    assert!(shares[1].certified(tss_wallet::keys::Certificate::default()).is_err());
    let debug = format!("{:?}", shares[0]);
    assert!(debug.contains("<redacted>") && debug.len() < 200);
}

#[test]
fn two_of_two_works() {
    let mut net = dkg_net(2, 2, 2);
    net.run_honestly();
    assert!(net.nodes.values().all(|dkg| dkg.finished().is_some()), "{:?}", net.errors);
}

#[test]
fn a_node_outside_the_roster_cannot_start() {
    let stranger = SigningIdentity::from_seed(&[99; 32]);
    let refused = Dkg::start(dkg_params(2, 3), stranger, [0; 32]).unwrap_err();
    assert_eq!(refused, DkgError::NotAMember);
}

#[test]
fn other_parameters_name_their_owner() {
    let mut started = Vec::new();
    for (position, identity) in identities(3).into_iter().enumerate() {
        let mut params = dkg_params(2, 3);
        if position == 2 {
            params.context = [9; 32];
        }
        let (dkg, out) = Dkg::start(params, identity, [position as u8; 32]).unwrap();
        started.push((dkg.me(), dkg, out));
    }
    let mut net = Net::new(started, 3);
    net.run_honestly();
    assert!(nothing_was_made(&net));
    for honest in [1, 2] {
        let (.., error) = net.errors.iter().find(|(at, ..)| *at == party(honest)).unwrap();
        assert_eq!(*error, DkgError::OtherParameters { culprit: party(3) });
    }
}

/// Runs with one packet changed, and gives what the receivers said of it.
fn with_change(round: u8, broadcast: bool, change: impl Fn(&mut Packet)) -> Net<Dkg> {
    let mut net = dkg_net(2, 3, 5);
    net.run(|mut packet| {
        let chosen = packet.from == party(2) && packet.body[0] == round && packet.broadcast == broadcast;
        if chosen && packet.to == party(3) {
            change(&mut packet);
        }
        vec![packet]
    });
    net
}

#[test]
fn a_wrong_private_share_names_its_dealer() {
    // Round 1 carries the ECDSA fragment, round 2 the FROST share; the last byte of a scalar is changed.
    for (round, position) in [(1, 2 + 31), (2, 2 + 32)] {
        let net = with_change(round, false, |packet| packet.body[position] ^= 1);
        assert!(nothing_was_made(&net), "round {round}");
        let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
        assert!(matches!(error, DkgError::InvalidShare { culprit, .. } if *culprit == party(2)), "{error:?}");
        // Member 3 proves another sum than the others see: it is not to blame for that.
        assert!(net.errors.iter().all(|(.., error)| error.culprit().is_none_or(|named| named == party(2))));
        let unattributed = |at: u8| {
            net.errors.iter().any(|(who, _, error)| *who == party(at) && matches!(error, DkgError::Unattributed(_)))
        };
        assert_eq!([unattributed(1), unattributed(2)], [round == 1; 2], "{:?}", net.errors);
    }
}

#[test]
fn a_test_signature_that_fails_ends_the_run_and_names_whom_it_can() {
    // The last bytes of a bundle are the taproot part: commitments in round 5, shares in round 6.
    for (round, from_the_end) in [(5, 1), (6, 1), (7, 1)] {
        let net = with_change(round, false, |packet| {
            let at = packet.body.len() - from_the_end;
            packet.body[at] ^= 1;
        });
        assert!(net.nodes[&party(3)].finished().is_none() && net.nodes[&party(3)].pending().is_none(), "round {round}");
        let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
        assert!(matches!(error, DkgError::Trial(_)), "round {round}: {error:?}");
        assert!(error.culprit().is_none_or(|culprit| culprit == party(2)), "round {round}: {error:?}");
        if round == 6 {
            let invalid =
                matches!(error, DkgError::Trial(SignError::InvalidShare { culprit, .. }) if *culprit == party(2));
            assert!(invalid, "{error:?}");
        }
    }
}

#[test]
fn a_wrong_setup_message_names_its_sender() {
    let net = with_change(3, false, |packet| {
        let middle = packet.body.len() / 2;
        packet.body[middle] ^= 1;
    });
    assert!(nothing_was_made(&net));
    let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
    assert_eq!(error.culprit(), Some(party(2)), "{error:?}");
}

#[test]
fn different_broadcasts_to_different_members_end_the_run_with_nothing_stored() {
    // The last commitment of round 1 and the one before it, a commitment of round 2, a chain code of round 3.
    for (round, from_the_end) in [(1, 1), (1, 33), (2, 1), (3, 40)] {
        let net = with_change(round, true, |packet| {
            let at = packet.body.len() - from_the_end;
            packet.body[at] ^= 1;
        });
        assert!(nothing_was_made(&net), "round {round}");
        assert!(net.errors.iter().any(|(_, _, error)| error.is_fatal()));
        // Nobody honest is named by the one who was lied to.
        let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
        assert_ne!(error.culprit(), Some(party(1)), "{error:?}");
    }
}

#[test]
fn an_echo_that_differs_ends_the_run() {
    let net = with_change(4, true, |packet| packet.body[5] ^= 1);
    assert!(nothing_was_made(&net));
    assert!(net.errors.iter().any(|(_, _, error)| *error == DkgError::Equivocation { with: party(2) }));
}

#[test]
fn a_withheld_certificate_leaves_a_pending_share_and_no_wallet() {
    let mut net = dkg_net(2, 3, 6);
    net.run(|packet| if packet.from == party(1) && packet.body[0] == 8 { Vec::new() } else { vec![packet] });
    assert!(net.errors.is_empty());
    for index in [2, 3] {
        let dkg = &net.nodes[&party(index)];
        assert!(dkg.finished().is_none());
        assert!(dkg.pending().is_some());
        assert_eq!(dkg.waiting_for(), [party(1)]);
    }
    // Member 1 has all signatures; the others complete theirs with its certificate.
    let full = net.nodes[&party(1)].finished().unwrap().public().certificate.clone();
    let pending = net.nodes[&party(2)].pending().unwrap();
    assert!(!pending.public().certificate.is_complete(&pending.public().roster));
    pending.certified(full).unwrap().public().verify().unwrap();
}

#[test]
fn a_forged_certificate_names_its_sender() {
    let net = with_change(8, true, |packet| packet.body[9] ^= 1);
    let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
    assert_eq!(*error, DkgError::Malformed { culprit: party(2) });
    assert!(net.nodes[&party(3)].finished().is_none());
}

#[test]
fn duplicates_strangers_and_late_messages_disturb_nothing() {
    let mut net = dkg_net(2, 3, 8);
    net.run(|packet| {
        let stranger = Packet { from: party(9), ..packet.clone() };
        vec![packet.clone(), packet, stranger]
    });
    assert!(net.nodes.values().all(|dkg| dkg.finished().is_some()));
    assert!(net.errors.iter().all(|(.., error)| !error.is_fatal()));
    assert!(net.errors.iter().any(|(.., error)| matches!(error, DkgError::Duplicate { .. })));
    assert!(net.errors.iter().any(|(.., error)| matches!(error, DkgError::Late { .. })));
    assert!(net.errors.iter().any(|(.., error)| matches!(error, DkgError::Stranger { .. })));
}

#[test]
fn garbage_of_any_length_names_its_sender_and_ends_the_run() {
    for garbage in [&[][..], &[1], &[9, 0], &[1, 7], &[0, 0], &[4, 1], &[255; 64]] {
        let mut net = dkg_net(2, 3, 9);
        let victim = net.nodes.get_mut(&party(1)).unwrap();
        let error = victim.receive(party(2), garbage).unwrap_err();
        assert!(error.culprit() == Some(party(2)) || !error.is_fatal(), "{garbage:?}: {error:?}");
        assert_eq!(victim.waiting_for().is_empty(), error.is_fatal());
    }
}

/// Changes drawn at random in any message: never a panic, never two keys, never an honest member named by the victim.
#[test]
fn random_changes_make_one_key_or_none() {
    let mut random = StdRng::seed_from_u64(23);
    for run in 0..8_u8 {
        let (round, kind) = (run + 1, random.gen_range(0..4));
        let mut net = dkg_net(2, 3, u64::from(run));
        net.run(|mut packet| {
            if packet.from == party(2) && packet.to == party(3) && packet.body[0] == round {
                let at = random.gen_range(1..packet.body.len());
                match kind {
                    0 => packet.body[at] ^= 1 << random.gen_range(0..8),
                    1 => packet.body.truncate(at),
                    2 => packet.body[at..].fill(0),
                    _ => random.fill(&mut packet.body[at..]),
                }
            }
            vec![packet]
        });
        let made: Vec<_> = net.nodes.values().filter_map(Dkg::finished).collect();
        made.iter().for_each(|share| share.public().verify().unwrap());
        assert!(made.iter().all(|share| share.public() == made[0].public()));
        for (_, _, error) in net.errors.iter().filter(|(at, ..)| *at == party(3)) {
            assert!(error.culprit().is_none_or(|culprit| culprit == party(2)), "{round}: {error:?}");
        }
    }
}

#[test]
fn truncated_or_lengthened_messages_make_nothing() {
    for round in [1, 2] {
        for broadcast in [true, false] {
            for longer in [true, false] {
                let net = with_change(round, broadcast, |packet| {
                    if longer {
                        packet.body.push(0);
                    } else {
                        packet.body.pop();
                    }
                });
                assert!(nothing_was_made(&net));
                let (_, _, error) = net.errors.iter().find(|(at, ..)| *at == party(3)).unwrap();
                assert_eq!(*error, DkgError::Malformed { culprit: party(2) });
            }
        }
    }
}
