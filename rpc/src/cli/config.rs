//! `bitcoin.conf`: sections, `includeconf`, negations; and the checks that go before a call.
//!
//! Names that this program does not know are the node's, and passed over. Source: Core's `common/config.cpp`.

use std::path::{Path, PathBuf};

use super::options::{Options, given, negation};

/// The file's usual name.
const CONFIG_NAME: &str = "bitcoin.conf";

/// What is wrong before anything was asked. Shown as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    #[error("Error: {0}")]
    Plain(String),
    #[error("Error reading configuration file: {0}")]
    Config(String),
}

/// Reads the configuration and settles the chain.
pub fn load(options: &mut Options) -> Result<(), StartError> {
    check_data_dir(options).map_err(StartError::Plain)?;
    let asked = options.get("-conf").filter(|name| !name.is_empty() && !options.is_negated("-conf"));
    let base = options.data_dir();
    options.config_path = base.join(asked.as_deref().unwrap_or(CONFIG_NAME));
    if !options.is_negated("-conf") {
        read_all(options, asked.is_some(), &base).map_err(StartError::Config)?;
        let checked = check_data_dir(options);
        checked.map_err(|text| StartError::Config(text.replacen("Specified", "specified", 1)))?;
    }
    options.chain = options.select_chain().map_err(|error| StartError::Plain(error.to_string()))?;
    Ok(())
}

fn check_data_dir(options: &Options) -> Result<(), String> {
    match options.get("-datadir") {
        Some(dir) if !dir.is_empty() && !options.data_dir().is_dir() => {
            Err(format!("Specified data directory \"{dir}\" does not exist."))
        }
        _ => Ok(()),
    }
}

fn read_all(options: &mut Options, asked: bool, base: &Path) -> Result<(), String> {
    let path = options.config_path.clone();
    if path.is_dir() {
        return Err(format!("Config file \"{}\" is a directory.", path.display()));
    }
    let Ok(text) = std::fs::read_to_string(&path) else {
        if asked {
            return Err(format!("specified config file \"{}\" could not be opened.", path.display()));
        }
        return Ok(());
    };
    read(options, &text)?;
    // Which section counts for includeconf is known once the chain is.
    options.chain = options.select_chain().map_err(|error| error.to_string())?;
    let mut sections = vec![String::new()];
    sections.push(options.chain.name().to_owned());
    let included: Vec<String> = sections
        .iter()
        .filter_map(|section| options.config.get(section)?.get("includeconf"))
        .flatten()
        .filter_map(Clone::clone)
        .collect();
    for name in included {
        let path: PathBuf = base.join(&name);
        let text = std::fs::read_to_string(&path)
            .map_err(|_| format!("Failed to include configuration file {}", path.display()))?;
        read(options, &text)?;
    }
    Ok(())
}

/// Adds a file's settings to those there are.
fn read(options: &mut Options, text: &str) -> Result<(), String> {
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let uncommented = line.split('#').next().unwrap_or_default();
        let has_comment = uncommented.len() != line.len();
        let line = uncommented.trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        if line.starts_with('-') {
            return Err(format!(
                "parse error on line {number}: {line}, options in configuration file must be specified without leading -"
            ));
        }
        let Some((name, value)) = line.split_once('=') else {
            let mut text = format!("parse error on line {number}: {line}");
            if line.starts_with("no") {
                text.push_str(&format!(", if you intended to specify a negated option, use {line}=1 instead"));
            }
            return Err(text);
        };
        let (name, value) = (name.trim(), value.trim());
        if has_comment && name.contains("rpcpassword") {
            return Err(format!(
                "parse error on line {number}, using # in rpcpassword can be ambiguous and should be avoided"
            ));
        }
        let (in_section, name) = match name.split_once('.') {
            Some((prefix, name)) => (prefix.to_owned(), name),
            None => (section.clone(), name),
        };
        let (name, negated) = negation(name);
        let values = options.config.entry(in_section).or_default().entry(name.to_owned()).or_default();
        values.push(given(negated, Some(value)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::options::{Chain, parse};

    fn with_config(words: &[&str], config: &str) -> Result<Options, StartError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_NAME), config).unwrap();
        std::fs::write(dir.path().join("more.conf"), "rpcuser=included\n").unwrap();
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.insert(0, format!("-datadir={}", dir.path().display()));
        let (mut options, _) = parse(&words).unwrap();
        load(&mut options).map(|()| options)
    }

    #[test]
    fn sections_belong_to_their_chain() {
        let config = "regtest=1\nrpcport=1\nrpcuser=all\n[regtest]\nrpcport=2\nrpcport=3\n[test]\nrpcport=4\n";
        let options = with_config(&[], config).unwrap();
        assert_eq!(options.chain(), Chain::Regtest);
        assert_eq!(options.get("-rpcport").as_deref(), Some("2"));
        assert_eq!(options.get("-rpcuser").as_deref(), Some("all"));
        assert!(options.net_dir().ends_with("regtest"));
        let signet = with_config(&["-signet", "-noregtest"], config).unwrap();
        assert_eq!(signet.get("-rpcport"), None);
        assert_eq!(with_config(&["-rpcport=9"], config).unwrap().get("-rpcport").as_deref(), Some("9"));
    }

    #[test]
    fn included_files_and_dotted_names_count() {
        let options = with_config(&["-testnet"], "includeconf=more.conf\ntest.rpcport=5 # five\nnamed=1\nnonamed=1\n");
        let options = options.unwrap();
        assert_eq!(options.get("-rpcuser").as_deref(), Some("included"));
        assert_eq!(options.get("-rpcport").as_deref(), Some("5"));
        assert!(!options.bool("-named", true));
    }

    #[test]
    fn faults_are_named_as_core_names_them() {
        for (config, text) in [
            ("-a=1", "parse error on line 1: -a=1, options in configuration file must be specified without leading -"),
            ("\nfoo", "parse error on line 2: foo"),
            ("nofoo", "parse error on line 1: nofoo, if you intended to specify a negated option, use nofoo=1 instead"),
            ("rpcpassword=a#b", "parse error on line 1, using # in rpcpassword can be ambiguous and should be avoided"),
        ] {
            assert_eq!(with_config(&[], config).unwrap_err(), StartError::Config(text.to_owned()));
        }
        let error = with_config(&["-regtest", "-chain=main"], "").unwrap_err().to_string();
        assert!(error.starts_with("Error") && error.contains("Invalid combination of -regtest"), "{error}");
        let (mut options, _) = parse(&["-datadir=/does/not/exist".to_owned()]).unwrap();
        let error = load(&mut options).unwrap_err().to_string();
        assert_eq!(error, "Error: Specified data directory \"/does/not/exist\" does not exist.");
    }
}
