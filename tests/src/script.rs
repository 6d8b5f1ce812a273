//! A script of commands for a command-line client, run against a node and written down as a transcript.
//!
//! A line of a script is what a user types after `bitcoin-cli`. A word in double quotes may hold spaces; `$name` stands
//! for what an earlier line kept by `-> name` (all of its output) or `-> name:path` (a value of its JSON output, such as
//! `0.txid`). A transcript repeats each line after `$ `, then the exit code if it is not 0 after `! `, then what the
//! client printed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::daemon::{Daemon, Options};

/// What `signmessage` answers: 65 bytes as base64.
const SIGNATURE_CHARS: usize = 88;
const CHECKSUM_CHARS: usize = 8;
const FINGERPRINT_CHARS: usize = 8;

/// What both kinds of node are started with.
const CONF: [&str; 2] = ["fallbackfee=0.0002", "keypool=10"];

/// The wallet script of this repository.
pub const WALLET_SCRIPT: &str = include_str!("../transcripts/wallet.script");

/// The options of a node that runs a script.
pub fn options(mut options: Options) -> Options {
    options.conf = CONF.map(str::to_owned).to_vec();
    options
}

/// One line of a script and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub command: String,
    pub exit_code: i32,
    pub output: String,
}

/// Runs a script by a client against a running node.
pub fn run(script: &str, client: &Path, node: &Daemon) -> Vec<Entry> {
    let mut kept = BTreeMap::new();
    let mut entries = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (command, keep) = match line.rsplit_once(" -> ") {
            Some((command, keep)) => (command.trim(), Some(keep.trim())),
            None => (line, None),
        };
        let output = node.cli(client, words(command).iter().map(|word| substitute(word, &kept)));
        let exit_code = output.status.code().unwrap_or(-1);
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let text = text.replace(&node.datadir().display().to_string(), "<datadir>");
        if let Some(keep) = keep {
            let (name, value) = keep_value(keep, &text);
            kept.insert(name, value);
        }
        entries.push(Entry { command: command.to_owned(), exit_code, output: text.trim_end().to_owned() });
    }
    entries
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

fn substitute(word: &str, kept: &BTreeMap<String, String>) -> String {
    // Longest names first: `$legacycoin` is not `$legacy` and `coin`.
    let mut names: Vec<&String> = kept.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().fold(word.to_owned(), |word, name| word.replace(&format!("${name}"), &kept[name]))
}

/// The name and value that `name` or `name:path` keeps of an output; a path that leads nowhere keeps a word that every
/// later command refuses, so that the transcript shows it.
fn keep_value(keep: &str, output: &str) -> (String, String) {
    let Some((name, path)) = keep.split_once(':') else { return (keep.to_owned(), output.trim().to_owned()) };
    let json: Value = serde_json::from_str(output).unwrap_or(Value::Null);
    let value = path.split('.').fold(&json, |value, step| match step.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[step],
    });
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "nothing-was-kept".to_owned(),
        other => other.to_string(),
    };
    (name.to_owned(), text)
}

/// A transcript as text.
pub fn write(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let _ = writeln!(text, "$ {}", entry.command);
        if entry.exit_code != 0 {
            let _ = writeln!(text, "! {}", entry.exit_code);
        }
        if !entry.output.is_empty() {
            let _ = writeln!(text, "{}", entry.output);
        }
    }
    text
}

/// Reads a transcript; lines before the first command are its header.
pub fn read(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            entries.push(Entry { command: command.to_owned(), exit_code: 0, output: String::new() });
        } else if let Some(entry) = entries.last_mut() {
            match line.strip_prefix("! ").and_then(|code| code.parse().ok()).filter(|_| entry.output.is_empty()) {
                Some(code) => entry.exit_code = code,
                None if entry.output.is_empty() => entry.output = line.to_owned(),
                None => entry.output = format!("{}\n{line}", entry.output),
            }
        }
    }
    entries
}

/// A line of output without what differs from run to run: hashes, keys, addresses of one kind, signatures, times.
pub fn mask(line: &str) -> String {
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    if line.len() == SIGNATURE_CHARS && line.ends_with('=') && line.chars().all(base64) {
        return "<signature>".to_owned();
    }
    let mut out = String::new();
    let mut word = String::new();
    for c in line.chars().chain(std::iter::once('\n')) {
        if c.is_ascii_alphanumeric() || matches!(c, '+' | '=') || (c == '/' && word.len() > 20) {
            word.push(c);
            continue;
        }
        let masked = match word.len() {
            CHECKSUM_CHARS if out.ends_with(")#") => "<checksum>".to_owned(),
            // The decimals of an amount are eight digits too.
            FINGERPRINT_CHARS if !out.ends_with('.') && is_hex(&word) => "<fingerprint>".to_owned(),
            _ => mask_word(&word),
        };
        out.push_str(&masked);
        word.clear();
        if c != '\n' {
            out.push(c);
        }
    }
    out
}

fn is_hex(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

fn mask_word(word: &str) -> String {
    let is_hex = is_hex(word);
    let base58 = |prefix: &[char], lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&word.len()) && word.starts_with(prefix) && word.chars().all(|c| c.is_ascii_alphanumeric())
    };
    match word.len() {
        0 => String::new(),
        10 if is_hex && word.starts_with(['1', '2']) && word.chars().all(|c| c.is_ascii_digit()) => "<time>".into(),
        64 if is_hex => "<hash>".into(),
        66 if is_hex => "<key>".into(),
        11.. if is_hex => "<hex>".into(),
        _ if word.starts_with("bcrt1q") => "<bech32>".into(),
        _ if word.starts_with("bcrt1p") => "<bech32m>".into(),
        _ if word.starts_with("tpub") && word.len() > 100 => "<xpub>".into(),
        _ if word.starts_with("cHNidP") => "<psbt>".into(),
        _ if base58(&['2'], 35..=35) => "<p2sh>".into(),
        _ if base58(&['m', 'n'], 33..=34) => "<p2pkh>".into(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_read_as_it_was_written() {
        let entries = [
            Entry { command: "getbalance".into(), exit_code: 0, output: "0.00000000".into() },
            Entry { command: "stop it".into(), exit_code: 89, output: "error code: -32601\nerror message:\nx".into() },
            Entry { command: "walletlock".into(), exit_code: 0, output: String::new() },
        ];
        assert_eq!(read(&format!("a header\n{}", write(&entries))), entries);
    }

    #[test]
    fn words_are_quoted_and_replaced() {
        let kept = BTreeMap::from([("a".to_owned(), "X".to_owned()), ("ab".to_owned(), "Y".to_owned())]);
        let words: Vec<String> =
            words(r#"send "" "two words" ["$a","$ab"]"#).iter().map(|w| substitute(w, &kept)).collect();
        assert_eq!(words, ["send", "", "two words", r#"["X","Y"]"#]);
        assert_eq!(keep_value("t:1.txid", r#"[{},{"txid":"ff"}]"#), ("t".into(), "ff".into()));
    }

    #[test]
    fn what_differs_from_run_to_run_is_masked_and_the_rest_is_not() {
        let line = r#"  "desc": "wpkh([6111b7a5/84/1/0/0/0]0232fb9a7b8d20478772f80c98ed6cb7281c944c26115b0ae4dfbc516fff2f3d35)#wh9ax2tn","#;
        assert_eq!(mask(line), r#"  "desc": "wpkh([<fingerprint>/84/1/0/0/0]<key>)#<checksum>","#);
        assert_eq!(
            mask("[12345678/84]#deadbeef, wpkh(x)#deadbeef"),
            "[<fingerprint>/84]#<fingerprint>, wpkh(x)#<checksum>"
        );
        assert_eq!(mask(r#"  "time": 1800000012,"#), r#"  "time": <time>,"#);
        assert_eq!(mask(r#"  "amount": -0.50000000,"#), r#"  "amount": -0.50000000,"#);
    }
}
