//! Every frame that members sent, under other names: none is believed. And frames whose bytes were changed.
//!
//! `KEYLESS_REPLAYS=5000` records until so many replays were tried (`contrib/long replays`), `KEYLESS_MUTANTS=10000` tries
//! as many changes of each kind of message (`contrib/long mutants`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bitcoin::Amount;
use keyless_node::quorum::wire::{self, Frame, Message, Topic};
use keyless_p2p::cosigners::memory::Fate;
use keyless_p2p::cosigners::{PeerId, public_key_of};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{Envelope, Epoch, Expected, MemberId, SessionId, SigningIdentity, WalletId};

use crate::node::{Cluster, fund, send};

fn long(name: &str, short: usize) -> usize {
    std::env::var(name).ok().map_or(short, |text| text.parse().unwrap())
}

struct Recorded {
    from: MemberId,
    to: MemberId,
    frame: Vec<u8>,
}

fn member(peer: &PeerId) -> MemberId {
    MemberId(public_key_of(peer).unwrap())
}

impl Recorded {
    /// What the receiver makes of it.
    fn envelope(&self) -> Envelope {
        let frame = Frame::parse(self.frame.clone()).unwrap();
        let expected = Expected {
            me: self.to,
            sender: self.from,
            wallet: None,
            epoch: None,
            session: None,
            attempt: None,
            round: None,
        };
        Envelope::open(&frame.envelope, &expected).unwrap().into_envelope()
    }

    fn topic(&self) -> Topic {
        let Envelope { wallet, epoch, session, .. } = self.envelope();
        Topic { wallet, epoch, session }
    }

    /// Whether a member believes this frame.
    fn believed(&self, frame: Vec<u8>, me: MemberId, from: MemberId, topic: &Topic) -> bool {
        let Ok(frame) = Frame::parse(frame) else { return false };
        if frame.opens {
            // A session is opened under the names in the envelope: another one is another request.
            return wire::open_first(&frame, me, from).is_ok_and(|(theirs, _)| theirs == *topic);
        }
        frame.session == topic.session && wire::open(&frame.envelope, me, from, topic).is_ok()
    }
}

/// A wallet's life with everything in it: made, addresses, payments of both kinds, messages, new shares.
async fn recorded(cluster: &Cluster, rounds: usize) -> Vec<Recorded> {
    let frames = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&frames);
    cluster.hub.set_rule(move |from, to, bytes| {
        log.lock().unwrap().push(Recorded { from: member(from), to: member(to), frame: bytes.to_vec() });
        Fate::Deliver
    });
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    fund(&cluster.chain, &wallet).await;
    let legacy = wallet.new_address("", AddressType::Legacy).await.unwrap().script_pubkey();
    for _ in 0..rounds {
        for node in &cluster.nodes {
            let wallet = node.wallet("w");
            wallet.synced().await.unwrap();
            send(&wallet, Amount::from_sat(50_000)).await.unwrap();
            wallet.sign_message(&legacy, "hello").await.unwrap();
        }
    }
    wallet.refresh_shares().await.unwrap();
    cluster.hub.clear_rule();
    std::mem::take(&mut frames.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_of_every_recorded_frame_under_other_names_are_refused() {
    let cluster = Cluster::new(3);
    let wanted = long("KEYLESS_REPLAYS", 0);
    let frames = recorded(&cluster, 1 + wanted / 1_000).await;
    let members: Vec<MemberId> = cluster.nodes.iter().map(|node| member(&node.options.identity.peer_id())).collect();
    let (mut tried, mut accepted) = (0, 0);
    for (number, recorded) in frames.iter().enumerate() {
        let (topic, bytes) = (recorded.topic(), &recorded.frame);
        assert!(recorded.believed(bytes.clone(), recorded.to, recorded.from, &topic), "as it was sent");
        let other = frames[(number * 31 + 7) % frames.len()].topic();
        let session = if other.session == topic.session { SessionId([9; 32]) } else { other.session };
        let mut moved = bytes.clone();
        moved[1..33].copy_from_slice(session.as_bytes());
        let mut turned = bytes.clone();
        turned[0] ^= 1;
        let third = *members.iter().find(|one| **one != recorded.from && **one != recorded.to).unwrap();
        let of = |topic: Topic| (bytes.clone(), recorded.to, recorded.from, topic);
        let replays = [
            // Another session, by its frame and by the receiver's.
            (moved.clone(), recorded.to, recorded.from, Topic { session, ..topic }),
            (moved, recorded.to, recorded.from, topic),
            of(Topic { session, ..topic }),
            // Another epoch, before and after; another wallet.
            of(Topic { epoch: Epoch(topic.epoch.0 + 1), ..topic }),
            of(Topic { epoch: Epoch(topic.epoch.0.wrapping_sub(1)), ..topic }),
            of(Topic { wallet: WalletId([7; 32]), ..topic }),
            // Another receiver, another sender, and back to where it came from.
            (bytes.clone(), third, recorded.from, topic),
            (bytes.clone(), recorded.to, third, topic),
            (bytes.clone(), recorded.from, recorded.to, topic),
            // What opens a session within one, and the other way round.
            (turned, recorded.to, recorded.from, topic),
        ];
        for (frame, me, from, topic) in replays {
            tried += 1;
            accepted += usize::from(recorded.believed(frame, me, from, &topic));
        }
    }
    println!("{} frames recorded, {tried} replays, {accepted} accepted", frames.len());
    assert!(tried >= wanted.max(1_000), "{tried}");
    assert_eq!(accepted, 0);
    // The old frames, to whom they were for, change nothing either.
    let before = cluster.nodes[0].wallet("w").verify_audit_log().await.unwrap().entries;
    let mut carriers = BTreeMap::new();
    for recorded in frames.iter().filter(|recorded| recorded.envelope().epoch == Epoch(0)) {
        let core = cluster.nodes.iter().find_map(|node| node.manager.core().filter(|core| core.me() == recorded.from));
        let carrier = carriers.entry(recorded.from).or_insert_with(|| Arc::clone(core.unwrap().carrier()));
        let _ = carrier.send(&keyless_p2p::cosigners::peer_id_of(recorded.to.0), recorded.frame.clone());
        tokio::task::yield_now().await;
    }
    send(&cluster.nodes[0].wallet("w"), Amount::from_sat(50_000)).await.unwrap();
    let log = cluster.nodes[0].wallet("w").verify_audit_log().await.unwrap();
    assert_eq!(log.error, None);
    let new = log.entries - before;
    assert!(new <= 2, "one payment of its own, with its signature: {new}");
    for node in &cluster.nodes {
        let holding = node.manager.core().unwrap().holding_named("w").unwrap();
        assert!(keyless_node::quorum::blame::accusations(&holding).unwrap().is_empty());
    }
    cluster.shutdown().await;
}

/// Changes of bytes that the sender itself signs: length, emptiness, zeros, points and scalars out of range, noise.
fn mutate(body: &mut Vec<u8>, kind: usize, random: &mut StdRng) {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae,
        0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
    ];
    let at = random.gen_range(0..body.len().max(1));
    let end = (at + 33).min(body.len());
    match kind % 9 {
        0 if !body.is_empty() => body[at] ^= 1 << random.gen_range(0..8),
        1 => drop(body.pop()),
        2 => body.push(random.r#gen()),
        3 => body.clear(),
        4 => body.truncate(at),
        5 if at < end => body[at..end].fill(0),
        6 if at < end => body[at..end].fill(0xff),
        7 if at + 32 <= body.len() => body[at..at + 32].copy_from_slice(&ORDER),
        _ if at < end => random.fill(&mut body[at..end]),
        _ => body.push(0),
    }
}

/// The name of a message, for figures.
fn kind(message: &Message) -> String {
    let text = format!("{message:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn mutants_of_every_kind_of_message_are_read_as_exactly_what_they_say_or_not_at_all() {
    let cluster = Cluster::new(3);
    let frames = recorded(&cluster, 1).await;
    let identities: BTreeMap<MemberId, SigningIdentity> = cluster
        .nodes
        .iter()
        .map(|node| SigningIdentity::from_seed(node.options.identity.seed()))
        .map(|identity| (identity.member_id(), identity))
        .collect();
    let mut samples: BTreeMap<String, Vec<&Recorded>> = BTreeMap::new();
    for recorded in &frames {
        let message = postcard::from_bytes(&recorded.envelope().body).unwrap();
        samples.entry(kind(&message)).or_default().push(recorded);
    }
    let each = long("KEYLESS_MUTANTS", 300);
    let mut random = StdRng::seed_from_u64(each as u64);
    for (name, recorded) in &samples {
        let (mut unsigned, mut read, mut refused) = (0, 0, 0);
        for number in 0..each {
            let sample = recorded[random.gen_range(0..recorded.len())];
            let topic = sample.topic();
            // Changed on its way: nobody's signature fits.
            let mut frame = sample.frame.clone();
            mutate(&mut frame, number, &mut random);
            if frame != sample.frame {
                let mut opened = frame.clone();
                // The first bytes route only.
                opened.get_mut(..33).into_iter().for_each(|prefix| prefix.copy_from_slice(&sample.frame[..33]));
                assert!(
                    opened == sample.frame || !sample.believed(opened, sample.to, sample.from, &topic),
                    "{name}: believed though changed"
                );
                unsigned += 1;
            }
            // Changed by its sender, who signs it.
            let envelope = sample.envelope();
            let mut body = envelope.body.clone();
            mutate(&mut body, number, &mut random);
            let sealed = Envelope { body: body.clone(), ..envelope }.seal(&identities[&sample.from]).unwrap();
            let frame = [&sample.frame[..33], &sealed].concat();
            let frame = Frame::parse(frame).unwrap();
            let said = if frame.opens {
                wire::open_first(&frame, sample.to, sample.from).map(|(_, message)| message)
            } else {
                wire::open(&frame.envelope, sample.to, sample.from, &topic)
            };
            match said {
                Ok(message) => {
                    // One message has one encoding, as far as numbers are written in their shortest form.
                    let again: Message = postcard::from_bytes(&postcard::to_allocvec(&message).unwrap()).unwrap();
                    assert_eq!(again, message, "{name}");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
        println!("{name}: {unsigned} changed on their way, 0 believed; {read} signed changes read, {refused} refused");
    }
    assert!(samples.len() >= 15, "{:?}", samples.keys());
    cluster.shutdown().await;
}
