//! The command line's options, and which of several values wins.
//!
//! The last value on the command line wins, then the first in the chain's section of the configuration, then the
//! first outside of sections (not for what belongs to one chain, off main). Source: Core's `common/args.cpp`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::CliError;

/// How an option may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Any,
    /// `-no...` is refused.
    NoNegation,
    /// `-no...` and a missing value are refused.
    NeedsValue,
    /// Outside of sections it counts on main only.
    ChainOnly,
}

const KNOWN: &[(&str, Rule)] = &[
    ("addrinfo", Rule::Any),
    ("chain", Rule::Any),
    ("color", Rule::NoNegation),
    ("conf", Rule::Any),
    ("datadir", Rule::NoNegation),
    ("generate", Rule::Any),
    ("getinfo", Rule::Any),
    ("h", Rule::Any),
    ("?", Rule::Any),
    ("help", Rule::Any),
    ("help-debug", Rule::Any),
    ("ipcconnect", Rule::Any),
    ("named", Rule::Any),
    ("netinfo", Rule::Any),
    ("quorum", Rule::Any),
    ("regtest", Rule::Any),
    ("rpcclienttimeout", Rule::Any),
    ("rpcconnect", Rule::Any),
    ("rpccookiefile", Rule::Any),
    ("rpcid", Rule::NeedsValue),
    ("rpcpassword", Rule::Any),
    ("rpcport", Rule::ChainOnly),
    ("rpcuser", Rule::Any),
    ("rpcwait", Rule::Any),
    ("rpcwaittimeout", Rule::NoNegation),
    ("rpcwallet", Rule::Any),
    ("signet", Rule::Any),
    ("signetchallenge", Rule::Any),
    ("signetseednode", Rule::Any),
    ("stdin", Rule::Any),
    ("stdinrpcpass", Rule::Any),
    ("stdinwalletpassphrase", Rule::Any),
    ("testnet", Rule::Any),
    ("testnet4", Rule::Any),
    ("version", Rule::Any),
];

fn rule(name: &str) -> Option<Rule> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule)
}

/// A chain, with what depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chain {
    #[default]
    Main,
    Testnet,
    Testnet4,
    Signet,
    Regtest,
}

impl Chain {
    /// Its section in the configuration, and `-chain=`.
    pub fn name(self) -> &'static str {
        match self {
            Chain::Main => "main",
            Chain::Testnet => "test",
            Chain::Testnet4 => "testnet4",
            Chain::Signet => "signet",
            Chain::Regtest => "regtest",
        }
    }

    /// Its part of the data directory.
    pub fn directory(self) -> &'static str {
        match self {
            Chain::Main => "",
            Chain::Testnet => "testnet3",
            other => other.name(),
        }
    }

    pub fn rpc_port(self) -> u16 {
        match self {
            Chain::Main => 8332,
            Chain::Testnet => 18332,
            Chain::Testnet4 => 48332,
            Chain::Signet => 38332,
            Chain::Regtest => 18443,
        }
    }

    fn by_name(name: &str) -> Option<Chain> {
        let all = [Chain::Main, Chain::Testnet, Chain::Testnet4, Chain::Signet, Chain::Regtest];
        all.into_iter().find(|chain| chain.name() == name)
    }
}

/// A value as given; `None` when negated.
pub type Given = Option<String>;

/// Everything that was set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    line: BTreeMap<String, Vec<Given>>,
    /// Of the configuration: by section ("" outside of sections), then by name.
    pub(super) config: BTreeMap<String, BTreeMap<String, Vec<Given>>>,
    pub(super) chain: Chain,
    /// The configuration file that was or would be read.
    pub(super) config_path: PathBuf,
}

impl Options {
    /// The value that wins, dash included in the name; `"0"` if negated; `None` if nothing was said.
    pub fn get(&self, option: &str) -> Option<String> {
        self.winner(option).map(|given| given.unwrap_or_else(|| "0".to_owned()))
    }

    /// Whether the value that wins is a negation.
    pub fn is_negated(&self, option: &str) -> bool {
        self.winner(option) == Some(None)
    }

    /// A switch: on when given without a value or with a number that is not zero.
    pub fn bool(&self, option: &str, default: bool) -> bool {
        match self.winner(option) {
            None => default,
            Some(None) => false,
            Some(Some(text)) => is_true(&text),
        }
    }

    /// A number; what is no number counts as zero.
    pub fn int(&self, option: &str, default: i64) -> i64 {
        self.get(option).map_or(default, |text| text.trim().parse().unwrap_or(0))
    }

    /// The wallet that `-rpcwallet` names.
    pub fn wallet(&self) -> Option<String> {
        if self.is_negated("-rpcwallet") { None } else { self.get("-rpcwallet") }
    }

    /// Overrides whatever was given.
    pub fn force(&mut self, option: &str, value: String) {
        self.line.insert(option.trim_start_matches('-').to_owned(), vec![Some(value)]);
    }

    pub fn wants_help(&self) -> bool {
        ["-?", "-h", "-help", "-help-debug", "-version"].into_iter().any(|option| self.bool(option, false))
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// `-datadir`, or Core's place.
    pub fn data_dir(&self) -> PathBuf {
        match self.get("-datadir") {
            Some(dir) if !dir.is_empty() => std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir)),
            _ => std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from).join(".bitcoin"),
        }
    }

    /// The chain's part of the data directory.
    pub fn net_dir(&self) -> PathBuf {
        let dir = self.data_dir();
        if self.chain == Chain::Main { dir } else { dir.join(self.chain.directory()) }
    }

    fn winner(&self, option: &str) -> Option<Given> {
        let name = option.trim_start_matches('-');
        if let Some(last) = self.line.get(name).and_then(|given| given.last()) {
            return Some(last.clone());
        }
        let section = |section: &str| self.config.get(section).and_then(|values| values.get(name));
        let chain_only = rule(name) == Some(Rule::ChainOnly) && self.chain != Chain::Main;
        let outside = if chain_only { None } else { section("") };
        // A negation takes back what stands before it.
        [section(self.chain.name()), outside].into_iter().flatten().find_map(|values| {
            let from = values.iter().rposition(Option::is_none).unwrap_or(0);
            let rest = values.get(from..).unwrap_or_default();
            rest.iter().find(|given| given.is_some()).or(rest.first()).cloned()
        })
    }

    /// The chain that the options name.
    pub fn select_chain(&self) -> Result<Chain, CliError> {
        let flags = [
            ("-regtest", Chain::Regtest),
            ("-signet", Chain::Signet),
            ("-testnet", Chain::Testnet),
            ("-testnet4", Chain::Testnet4),
        ];
        let set: Vec<Chain> =
            flags.iter().filter(|(flag, _)| self.bool(flag, false)).map(|(_, chain)| *chain).collect();
        let named = self.get("-chain");
        if set.len() + usize::from(named.is_some()) > 1 {
            let text = "Invalid combination of -regtest, -signet, -testnet, -testnet4 and -chain. Can use at most one.";
            return Err(CliError::other(text));
        }
        match named {
            Some(name) => Chain::by_name(&name).ok_or_else(|| CliError::other(format!("Unknown chain {name}."))),
            None => Ok(set.first().copied().unwrap_or_default()),
        }
    }
}

/// Core's reading of a switch's value.
fn is_true(text: &str) -> bool {
    let digits = text.trim_start();
    let digits = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    let number = digits.bytes().take_while(u8::is_ascii_digit);
    text.is_empty() || number.into_iter().any(|digit| digit != b'0')
}

/// Whether a name begins with `no` that negates, and the name itself.
pub(super) fn negation(name: &str) -> (&str, bool) {
    match name.strip_prefix("no") {
        Some(rest) if rule(name).is_none() => (rest, true),
        _ => (name, false),
    }
}

/// A negation with the value 0 is none.
pub(super) fn given(negated: bool, value: Option<&str>) -> Given {
    match (negated, value) {
        (true, Some(value)) if !is_true(value) => Some("1".to_owned()),
        (true, _) => None,
        (false, value) => Some(value.unwrap_or_default().to_owned()),
    }
}

/// Splits the words into options and what follows them.
pub fn parse(words: &[String]) -> Result<(Options, Vec<String>), CliError> {
    let mut options = Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.as_slice().first().filter(|word| word.starts_with('-') && word.as_str() != "-") {
        rest.next();
        let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or(word);
        let (key, value) = match bare.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (bare, None),
        };
        let (name, negated) = negation(key);
        let rule = rule(name).ok_or_else(|| CliError::other(format!("Invalid parameter {word}")))?;
        if negated && matches!(rule, Rule::NoNegation | Rule::NeedsValue) {
            return Err(CliError::other(format!("Negating of -{name} is meaningless and therefore forbidden")));
        }
        if value.is_none() && rule == Rule::NeedsValue {
            let text = format!("Can not set -{name} with no value. Please specify value with -{name}=value.");
            return Err(CliError::other(text));
        }
        options.line.entry(name.to_owned()).or_default().push(given(negated, value));
    }
    Ok((options, rest.cloned().collect()))
}
