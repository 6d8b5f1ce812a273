//! BIP 324: the handshake, one input for each connection, and what packets hold.

use std::io::Write;

use bip324::PacketType;
use rand::Rng;
use rand::rngs::StdRng;

use super::p2p::{seeds, tip_block};
use super::peer::{Peer, begin, connect, hang_up, version};
use super::{Target, mutate};

/// Inputs between two waits.
const BATCH: usize = 100;
/// Most garbage that is allowed, and the terminator behind it.
const GARBAGE: usize = 4_095;
const KEY_BYTES: usize = 64;
/// Types with one-byte names, and some that there are not.
const IDS: u8 = 45;

fn random(rng: &mut StdRng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.r#gen()).collect()
}

/// What answers the node's key: terminator and version packet changed, or garbage without end.
fn answer(rng: &mut StdRng, right: &[u8]) -> Vec<u8> {
    match rng.gen_range(0..4) {
        0 => random(rng, GARBAGE + 16),
        1 => [right, &random(rng, 64)].concat(),
        _ => mutate(rng, right),
    }
}

#[test]
fn mutated_handshakes_of_v2_leave_a_node_that_answers() {
    let target = Target::start();
    target.attack("v2 handshake", |_, share, mut rng| {
        for at in 0..share {
            let mut stream = connect(&target.node, &mut rng);
            if at % 4 == 0 {
                // No handshake at all, or half of one.
                let length = rng.gen_range(0..2 * KEY_BYTES);
                let _ = stream.write_all(&random(&mut rng, length));
            } else {
                let length = if at % 8 == 1 { rng.gen_range(0..=GARBAGE) } else { 0 };
                let garbage = random(&mut rng, length);
                let mut input = stream.try_clone().unwrap();
                let (_, right, _) = begin(&mut stream, &mut input, &garbage).expect("the node answers a key");
                let _ = stream.write_all(&answer(&mut rng, &right));
            }
            hang_up(&mut stream);
        }
    });
}

/// Contents of a packet: a type by number or by name, and a payload of any type.
fn contents(rng: &mut StdRng, payloads: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    let (name, seed) = &payloads[rng.gen_range(0..payloads.len())];
    let payload = mutate(rng, seed);
    match rng.gen_range(0..4) {
        0 => payload,
        1 => {
            let mut field = [0; 13];
            field[1..=name.len()].copy_from_slice(name.as_bytes());
            [&mutate(rng, &field)[..], &payload].concat()
        }
        _ => [&[rng.gen_range(0..IDS)][..], &payload].concat(),
    }
}

#[test]
fn mutated_packets_of_v2_leave_a_node_that_answers() {
    let target = Target::start();
    let payloads = seeds(&tip_block(&target.node));
    target.attack("v2 packet", |_, share, mut rng| {
        let mut done = 0;
        let mut peer: Option<Peer> = None;
        while done < share {
            let mut current = peer
                .take()
                .unwrap_or_else(|| Peer::encrypted(&target.node, &mut rng).welcomed().expect("the node takes peers"));
            let mut bytes = Vec::new();
            for at in 0..BATCH {
                let kind = if rng.gen_bool(0.1) { PacketType::Decoy } else { PacketType::Genuine };
                let contents = contents(&mut rng, &payloads);
                bytes.extend(current.packet(&contents, kind));
                bytes.extend(current.ping(at));
            }
            let heard = current.send_and_hear(&bytes, BATCH);
            done += heard.done;
            peer = heard.alive.then_some(current);
        }
    });
    target.attack("v2 ciphertext", |_, share, mut rng| {
        for _ in 0..share {
            let mut peer = Peer::encrypted(&target.node, &mut rng);
            let packet = peer.sealed("version", &version());
            peer.send_last(&mutate(&mut rng, &packet));
        }
    });
}
