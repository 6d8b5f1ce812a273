//! Every reason to refuse is named by a test that makes it fire: a new one without a test fails here.

use std::path::{Path, PathBuf};

/// Reasons, and where they are.
const REASONS: [(&str, &str); 14] = [
    ("Refusal", "node/src/quorum/refusal.rs"),
    ("GuardError", "node/src/quorum/guard.rs"),
    ("OpenError", "node/src/quorum/sessions.rs"),
    ("WireError", "node/src/quorum/wire.rs"),
    ("AuditError", "tss-wallet/src/audit.rs"),
    ("CertificateError", "tss-wallet/src/keys/certificate.rs"),
    ("Denial", "tss-wallet/src/policy.rs"),
    ("DkgError", "tss-wallet/src/dkg/error.rs"),
    ("EnvelopeError", "tss-wallet/src/envelope.rs"),
    ("NonceError", "tss-wallet/src/sign/nonces.rs"),
    ("PolicyError", "tss-wallet/src/policy.rs"),
    ("RedealRefusal", "tss-wallet/src/redeal/params.rs"),
    ("RosterError", "tss-wallet/src/roster.rs"),
    ("SignError", "tss-wallet/src/sign/error.rs"),
];

/// What no test can bring about.
const CANNOT_FIRE: [&str; 1] = [
    // What is encoded are fields of fixed kinds.
    "GuardError::Encode",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of the variants, as they are formatted.
fn variants<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let body = source.split_once(&format!("pub enum {name} {{\n")).unwrap().1.split_once("\n}").unwrap().0;
    let names =
        body.lines().filter_map(|line| line.strip_prefix("    ").filter(|line| line.starts_with(char::is_uppercase)));
    names.map(|line| line.split(|letter: char| !letter.is_alphanumeric()).next().unwrap()).collect()
}

#[test]
fn every_reason_to_refuse_is_named_by_a_test() {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let root = Path::new(&manifest).parent().unwrap();
    let mut tests = String::new();
    for place in ["node/tests", "tss-wallet/tests", "node/src", "tss-wallet/src"] {
        let mut paths = Vec::new();
        sources(&root.join(place), &mut paths);
        for path in paths.into_iter().filter(|path| !path.ends_with("named.rs")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let whole = place.ends_with("tests") || path.ends_with("tests.rs");
            let part = if whole {
                Some(text.as_str())
            } else {
                text.split_once("#[cfg(test)]\nmod tests {").map(|(_, tests)| tests)
            };
            tests.extend(part);
        }
    }
    let is_named = |reason: &str| {
        let mut rest = tests.split(reason).skip(1);
        rest.any(|after| !after.starts_with(|letter: char| letter.is_alphanumeric()))
    };
    let (mut count, mut unnamed) = (0, Vec::new());
    for (name, path) in REASONS {
        let source = std::fs::read_to_string(root.join(path)).unwrap();
        for variant in variants(&source, name) {
            let reason = format!("{name}::{variant}");
            count += 1;
            if !is_named(&reason) && !CANNOT_FIRE.contains(&reason.as_str()) {
                unnamed.push(reason);
            }
        }
    }
    assert!(count > 100, "{count}");
    assert_eq!(unnamed, Vec::<String>::new(), "reasons that no test names");
}
