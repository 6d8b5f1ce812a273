//! What the libraries' own key generation costs, without anything of ours: DKLs23's four phases and FROST's three parts,
//! by all n members, one after the other on one thread.

use std::collections::BTreeMap;

use bitcoin::secp256k1::rand::{random, thread_rng};
use dkls23_secp256k1::protocols::dkg::{self, SessionData};
use dkls23_secp256k1::protocols::{Parameters, PartyIndex};
use frost_secp256k1_tr::Identifier;
use frost_secp256k1_tr::keys::dkg as frost;
use k256::{Scalar, Secp256k1};

use crate::cpu;
use crate::floor::{Floor, Traffic};

macro_rules! bytes {
    ($message:expr) => {
        postcard::to_allocvec($message).expect("a message").len() as u64
    };
}

impl Traffic {
    fn add(&mut self, messages: u64, bytes_each: u64) {
        self.messages += messages;
        self.bytes += messages * bytes_each;
    }
}

/// Both keys' generation, as the libraries do it.
pub fn generation(threshold: u8, count: u8) -> Floor {
    let ((ecdsa, schnorr), cpu) = cpu::timed(|| (dkls(threshold, count), schnorr(threshold, count)));
    let traffic = Traffic { messages: ecdsa.messages + schnorr.messages, bytes: ecdsa.bytes + schnorr.bytes };
    Floor { cpu, traffic }
}

fn dkls(threshold: u8, count: u8) -> Traffic {
    let mut traffic = Traffic::default();
    let others = u64::from(count) - 1;
    let session: [u8; 32] = random();
    let all: Vec<SessionData> = (1..=count)
        .map(|index| SessionData {
            parameters: Parameters::new(threshold, count).expect("a valid quorum"),
            party_index: PartyIndex::new(index).expect("an index"),
            session_id: session.to_vec(),
        })
        .collect();
    let dealt: Vec<Vec<Scalar>> = all.iter().map(dkg::phase1::<Secp256k1>).collect();
    traffic.add(u64::from(count) * others, 32);
    let fragments = |me: usize| dealt.iter().map(|values| values[me]).collect::<Vec<_>>();
    let second: Vec<_> =
        all.iter().enumerate().map(|(me, data)| dkg::phase2::<Secp256k1>(data, &fragments(me))).collect();
    let third: Vec<_> = all
        .iter()
        .zip(&second)
        .map(|(data, (_, _, zero, _, chain, _))| dkg::phase3::<Secp256k1>(data, zero, chain))
        .collect();
    for ((_, proof, _, zero, _, chain), (_, zero_seeds, _, mul, opening)) in second.iter().zip(&third) {
        traffic.add(others, 32 + bytes!(chain));
        zero.iter().for_each(|message| traffic.add(1, bytes!(message)));
        zero_seeds.iter().for_each(|message| traffic.add(1, bytes!(message)));
        mul.iter().for_each(|message| traffic.add(1, bytes!(message)));
        traffic.add(others, bytes!(&proof.proof) + bytes!(opening));
    }
    let proofs: Vec<_> = second.iter().map(|(_, proof, ..)| proof.clone()).collect();
    let commitments: BTreeMap<PartyIndex, _> =
        all.iter().zip(&second).map(|(data, (.., chain))| (data.party_index, chain.clone())).collect();
    let openings: BTreeMap<PartyIndex, _> =
        all.iter().zip(&third).map(|(data, (.., opening))| (data.party_index, opening.clone())).collect();
    for (data, ((point, ..), (zero_kept, _, mul_kept, ..))) in all.iter().zip(second.iter().zip(&third)) {
        let me = data.party_index;
        let zero_second: Vec<_> = second
            .iter()
            .flat_map(|(_, _, _, zero, ..)| zero)
            .filter(|message| message.parties.receiver == me)
            .cloned()
            .collect();
        let zero_third: Vec<_> = third
            .iter()
            .flat_map(|(_, zero, ..)| zero)
            .filter(|message| message.parties.receiver == me)
            .cloned()
            .collect();
        let mul: Vec<_> = third
            .iter()
            .flat_map(|(_, _, _, mul, _)| mul)
            .filter(|message| message.parties.receiver == me)
            .cloned()
            .collect();
        let made = dkg::phase4::<Secp256k1>(
            data,
            point,
            &proofs,
            zero_kept,
            &zero_second,
            &zero_third,
            mul_kept,
            &mul,
            &commitments,
            &openings,
            |_| String::new(),
        );
        made.expect("all are honest");
    }
    traffic
}

fn schnorr(threshold: u8, count: u8) -> Traffic {
    let mut traffic = Traffic::default();
    let others = u64::from(count) - 1;
    let id = |index: u8| Identifier::try_from(u16::from(index)).expect("an index");
    let all: Vec<Identifier> = (1..=count).map(id).collect();
    let mut secrets = BTreeMap::new();
    let mut packages = BTreeMap::new();
    for me in &all {
        let (secret, package) =
            frost::part1(*me, u16::from(count), u16::from(threshold), thread_rng()).expect("a valid quorum");
        traffic.add(others, package.serialize().expect("a message").len() as u64);
        secrets.insert(*me, secret);
        packages.insert(*me, package);
    }
    let received = |me: &Identifier| {
        let mut received = packages.clone();
        received.remove(me);
        received
    };
    let mut second = BTreeMap::new();
    let mut shares: BTreeMap<Identifier, BTreeMap<Identifier, _>> = BTreeMap::new();
    for (me, secret) in secrets {
        let (secret, sent) = frost::part2(secret, &received(&me)).expect("all are honest");
        for (to, share) in sent {
            traffic.add(1, share.serialize().expect("a message").len() as u64);
            shares.entry(to).or_default().insert(me, share);
        }
        second.insert(me, secret);
    }
    for me in &all {
        frost::part3(&second[me], &received(me), &shares[me]).expect("all are honest");
    }
    traffic
}
