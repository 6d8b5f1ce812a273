//! keyless-cli under the name that scripts call, and what it adds.

use keyless_tests::daemon::built;
use keyless_tests::quorum::Discovery;
use keyless_tests::{Daemon, Quorum};
use std::path::Path;

fn run(node: &Daemon, client: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let output = node.cli(client, words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_link_named_bitcoin_cli_works_and_quorum_shows_who_is_there() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    let folder = tempfile::tempdir().unwrap();
    let client = folder.path().join("bitcoin-cli");
    std::os::unix::fs::symlink(built("keyless-cli"), &client).unwrap();

    let (code, info, errors) = run(&quorum.members[0], &client, &["-getinfo"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(info.starts_with("Chain: regtest\n") && info.contains("Wallet: w\n"), "{info}");
    let (code, _, errors) = run(&quorum.members[0], &client, &["-rpcwallet=none", "getbalance"]);
    assert_eq!((code, errors.lines().next()), (Some(18), Some("error code: -18")));

    let mut seen = String::new();
    // Addresses are still being set aside for a moment after a wallet was made.
    keyless_tests::wait::until_true("nothing is under way", std::time::Duration::from_secs(20), || {
        let (code, text, errors) = run(&quorum.members[0], &client, &["-quorum"]);
        assert_eq!(code, Some(0), "{errors}");
        seen = text;
        seen.ends_with("Sessions under way: none\n")
    });
    assert!(seen.starts_with("Wallet w: 2 of 3 members sign, 3 ready: it can sign\n"), "{seen}");
    assert!(quorum.peer_ids.iter().all(|id| seen.contains(id)) && seen.contains("this node"), "{seen}");

    for lost in [1, 2] {
        quorum.members[lost].kill9();
    }
    keyless_tests::wait::until_true("both are missed", std::time::Duration::from_secs(20), || {
        let (_, seen, _) = run(&quorum.members[0], &client, &["-quorum"]);
        seen.starts_with("Wallet w: 2 of 3 members sign, 1 ready: too few are there to sign\n")
            && seen.matches("offline").count() == 2
    });
    let (code, _, errors) = run(&quorum.members[0], &client, &["-quorum", "more"]);
    assert_eq!((code, errors.trim_end()), (Some(1), "error: -quorum takes no arguments"));
}
