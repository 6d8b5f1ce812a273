//! What a signature costs at least: the signing machines of exactly t members, one after the other on one thread, with
//! nothing between them; and one key with libsecp256k1.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::key::Keypair;
use bitcoin::secp256k1::rand::{self, random};
use bitcoin::secp256k1::{Message, SECP256K1};
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::{
    Dkg, DkgParams, KeyShare, MemberId, Outgoing, PartyIndex, Recipient, Roster, SessionId, SignItem, SignParams,
    SigningIdentity, SigningSession, Split,
};

use crate::cpu;

struct Packet {
    from: PartyIndex,
    to: PartyIndex,
    body: Vec<u8>,
}

/// What machines said to each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub messages: u64,
    /// Bodies alone, without envelopes.
    pub bytes: u64,
}

/// What a ceremony costs its machines alone.
pub struct Floor {
    /// Of all of them together.
    pub cpu: Duration,
    pub traffic: Traffic,
}

/// Feeds machines with each other's messages until there is none left.
pub fn run<M>(
    machines: &mut BTreeMap<PartyIndex, M>,
    first: Vec<(PartyIndex, Vec<Outgoing>)>,
    feed: impl Fn(&mut M, PartyIndex, &[u8]) -> Vec<Outgoing>,
) -> Traffic {
    let all: Vec<PartyIndex> = machines.keys().copied().collect();
    let post = |from: PartyIndex, out: Vec<Outgoing>| -> Vec<Packet> {
        let packets = out.into_iter().flat_map(|message| {
            let to = match message.to {
                Recipient::One(to) => vec![to],
                Recipient::All => all.iter().copied().filter(|to| *to != from).collect(),
            };
            to.into_iter().map(move |to| Packet { from, to, body: message.body.clone() }).collect::<Vec<_>>()
        });
        packets.collect()
    };
    let mut queue: VecDeque<Packet> = first.into_iter().flat_map(|(from, out)| post(from, out)).collect();
    let mut traffic = Traffic::default();
    while let Some(Packet { from, to, body }) = queue.pop_front() {
        traffic.messages += 1;
        traffic.bytes += body.len() as u64;
        let machine = machines.get_mut(&to).expect("messages go to members");
        queue.extend(post(to, feed(machine, from, &body)));
    }
    traffic
}

/// A quorum's shares, generated as members generate them.
pub fn generate(threshold: u8, count: u8) -> Vec<Arc<KeyShare>> {
    let identities: Vec<SigningIdentity> = (0..count).map(|_| SigningIdentity::from_seed(&random())).collect();
    let members: Vec<MemberId> = identities.iter().map(SigningIdentity::member_id).collect();
    let roster = Roster::new(threshold, members, Split::Refused).expect("a valid quorum");
    let session = SessionId(random());
    let wallet = DkgParams::wallet_id("floor", Network::Regtest, &roster, &session);
    let params = DkgParams { wallet, network: Network::Regtest, roster, session, context: [0; 32] };
    let mut machines = BTreeMap::new();
    let mut first = Vec::new();
    for identity in identities {
        let (machine, out) = Dkg::start(params.clone(), identity, random()).expect("key generation starts");
        first.push((machine.me(), out));
        machines.insert(machine.me(), machine);
    }
    run(&mut machines, first, |machine, from, body| machine.receive(from, body).expect("all are honest"));
    machines.values().map(|machine| Arc::clone(machine.finished().expect("key generation ends"))).collect()
}

/// CPU time of all t signers together for so many inputs; the least of some runs.
pub fn signing(shares: &[Arc<KeyShare>], address_type: AddressType, inputs: u32, runs: u32) -> Duration {
    let threshold = usize::from(shares[0].public().roster.threshold());
    let chain = ChainId::new(address_type, Branch::External);
    let once = || {
        let items = (0..inputs).map(|index| SignItem { key: KeyId { chain, index }, message: random() }).collect();
        let signers: Vec<PartyIndex> = shares[..threshold].iter().map(|share| share.me()).collect();
        let params = SignParams { session: SessionId(random()), signers, items, banned: BTreeSet::new() };
        let (machines, spent) = cpu::timed(|| {
            let mut machines = BTreeMap::new();
            let mut first = Vec::new();
            for share in &shares[..threshold] {
                let (machine, out) =
                    SigningSession::start(Arc::clone(share), &params, &random()).expect("signing starts");
                first.push((share.me(), out));
                machines.insert(share.me(), machine);
            }
            run(&mut machines, first, |machine, from, body| machine.receive(from, body).expect("all are honest"));
            machines
        });
        assert!(machines.values().all(|machine| machine.finished().is_some()), "all have the signatures");
        spent
    };
    (0..runs).map(|_| once()).min().expect("there is a run")
}

/// CPU time of libsecp256k1 for as many signatures with one private key each.
pub fn libsecp256k1(address_type: AddressType, inputs: u32) -> Duration {
    let work: Vec<(Keypair, Message)> =
        (0..inputs).map(|_| (Keypair::new_global(&mut rand::thread_rng()), Message::from_digest(random()))).collect();
    let once = || {
        let ((), spent) = cpu::timed(|| {
            for (key, message) in &work {
                if address_type == AddressType::Bech32m {
                    std::hint::black_box(SECP256K1.sign_schnorr(message, key));
                } else {
                    std::hint::black_box(SECP256K1.sign_ecdsa(message, &key.secret_key()));
                }
            }
        });
        spent
    };
    (0..20).map(|_| once()).min().expect("there is a run")
}
