//! What is decoded before `verack`: one input for each connection, since most of them may come but once.

use super::peer::{Peer, message, version};
use super::{Target, mutate};

/// What comes before the input, the input's type, and a payload that the node takes as it is.
fn seeds() -> Vec<(bool, &'static str, Vec<u8>)> {
    vec![
        (false, "version", version()),
        (true, "feature", b"\x04test\x03abc".to_vec()),
        (true, "feature", [&[80][..], &[b'a'; 80], &[0xfd, 0, 2], &[1; 512]].concat()),
        (true, "sendtxrcncl", [&1_u32.to_le_bytes()[..], &7_u64.to_le_bytes()].concat()),
        (true, "wtxidrelay", vec![1, 2, 3]),
        (true, "sendaddrv2", vec![1, 2, 3]),
        (true, "verack", vec![1, 2, 3]),
        (false, "verack", vec![1, 2, 3]),
        (false, "ping", 5_u64.to_le_bytes().to_vec()),
    ]
}

/// Whoever is accepted and older than BIP 31 gets no pong, from bitcoind neither: there would be nothing to wait for.
const WITHOUT_PONG: std::ops::RangeInclusive<i32> = 31_800..=60_000;

fn gets_a_pong(command: &str, payload: &[u8]) -> bool {
    let version = payload.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
    command != "version" || version.is_none_or(|version| !WITHOUT_PONG.contains(&version))
}

#[test]
fn mutated_messages_before_the_handshake_is_over_leave_a_node_that_answers() {
    // To a node that takes v2, a first message that is no version is the beginning of a key: it would wait for the rest.
    let target = Target::start_with(&["-v2transport=0"]);
    for (known, command, seed) in seeds() {
        let what = format!("{command} {} version", if known { "after" } else { "instead of" });
        target.attack(&what, |_, share, mut rng| {
            for _ in 0..share {
                let mut mutated = std::iter::repeat_with(|| mutate(&mut rng, &seed));
                let payload = mutated.find(|payload| gets_a_pong(command, payload)).unwrap();
                let input = message(command, &payload);
                let mut parts = [input, message("version", &version()), message("verack", &[])];
                if known {
                    parts.swap(0, 1);
                }
                // The node answers the ping behind, or has hung up because of the input: both end the wait.
                let mut peer = Peer::fresh(&target.node, &mut rng);
                assert_eq!(peer.exchange(&[parts.concat()]).done, 1);
            }
        });
    }
}
