//! The same script of wallet commands, by `bitcoin-cli` and by `keyless-cli`, against `keylessd -regtest` with its
//! default development quorum, beside the transcript of a real Bitcoin Core with its own wallet.
//!
//! Compared are exit codes, every key in its order, every value that is the same in each run, and every error text.
//! Where Keyless differs on purpose stands below, with the reason, and nowhere else.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use keyless_tests::daemon::{bitcoin_cli, built};
use keyless_tests::script::{self, Entry};
use keyless_tests::{Daemon, Options};

const TRANSCRIPT: &str = include_str!("../transcripts/wallet.transcript");

/// Arguments that Keyless adds to Core's commands.
const ADDED_ARGUMENTS: [&str; 3] = [" quorum", " \"idempotency_key\"", " wait"];

/// Values that are random in Core too (where the change goes), or that say which program it is.
const FREE_VALUES: [&str; 3] = ["\"vout\": ", "\"changepos\": ", "\"format\": "];

/// Where the size of a signature shows: Core tries nonces until r is short, a quorum makes one signature.
const SIZES_OF_SIGNED: [&str; 2] = ["\"vsize\": ", "\"effective-feerate\": "];

/// A line without what differs by design or by chance.
fn normal(command: &str, line: &str) -> String {
    // Core draws a new seed then; a quorum's keys stay, and this member's share is sealed.
    const ENCRYPTED: &str = "wallet encrypted; ";
    if line.starts_with(ENCRYPTED) {
        return ENCRYPTED.to_owned();
    }
    let line = script::mask(line).replace("keyless-cli", "bitcoin-cli");
    // Keyless derives unhardened: `84/1/0` for Core's `84h/1h/0h`.
    let mut out = String::new();
    for c in line.trim_end_matches(',').chars() {
        let hardened = c == 'h' && out.ends_with(|last: char| last.is_ascii_digit()) && line.contains('/');
        if !hardened {
            out.push(c);
        }
    }
    let sizes: &[&str] = if command.starts_with("testmempoolaccept") { &SIZES_OF_SIGNED } else { &[] };
    for key in FREE_VALUES.iter().chain(sizes) {
        if let Some(at) = out.find(key) {
            out.truncate(at + key.len());
        }
    }
    out
}

fn lines(entry: &Entry) -> Vec<String> {
    let usage_error = entry.output.starts_with("error code: -1\n") && entry.output.lines().nth(3) == Some("");
    if usage_error || entry.command.starts_with("help ") {
        // Of a help text the usage is Core's; the description is our own.
        let skip = if entry.command.starts_with("help ") { 0 } else { 2 };
        let usage = entry.output.lines().nth(skip).unwrap_or_default();
        return vec![ADDED_ARGUMENTS.iter().fold(usage.to_owned(), |usage, added| usage.replace(added, ""))];
    }
    let mut lines = Vec::new();
    let mut in_quorum = false;
    for line in entry.output.lines() {
        // The one new field of getwalletinfo.
        in_quorum |= line == "  \"quorum\": {";
        if !in_quorum {
            lines.push(normal(&entry.command, line));
        }
        in_quorum &= line != "  }" && line != "  },";
    }
    lines
}

fn compare(ours: &[Entry], cores: &[Entry], client: &str) {
    assert_eq!(ours.len(), cores.len(), "the transcript is of another script: contrib/record-transcript");
    let mut differences = Vec::new();
    for (ours, cores) in ours.iter().zip(cores) {
        assert_eq!(ours.command, cores.command, "the transcript is of another script: contrib/record-transcript");
        if ours.exit_code != cores.exit_code || lines(ours) != lines(cores) {
            differences.push(format!(
                "$ {}\n--- Core: {}\n{}\n--- Keyless: {}\n{}\n",
                ours.command,
                cores.exit_code,
                lines(cores).join("\n"),
                ours.exit_code,
                lines(ours).join("\n")
            ));
        }
    }
    let text = differences.join("\n");
    assert!(differences.is_empty(), "{client}: {} of {} commands differ\n\n{text}", differences.len(), ours.len());
}

fn check(client: &Path, name: &str) {
    let node = Daemon::start_new(script::options(Options::keyless()));
    let entries = script::run(script::WALLET_SCRIPT, client, &node);
    compare(&entries, &script::read(TRANSCRIPT), name);
}

#[test]
fn the_wallet_script_by_bitcoin_cli_matches_core() {
    check(&bitcoin_cli(), "bitcoin-cli");
}

#[test]
fn the_wallet_script_by_keyless_cli_matches_core() {
    check(&built("keyless-cli"), "keyless-cli");
}
