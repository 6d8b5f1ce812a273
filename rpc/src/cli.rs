//! `keyless-cli`: the command line client, a stand-in for bitcoin-cli.
//!
//! Owns what a person or a script sees: options, configuration, conversion of words to JSON, printing, exit codes.
//! It speaks to the node over HTTP alone. Source: the behaviour of Core's `bitcoin-cli.cpp`.
//!
//! | module | holds |
//! | --- | --- |
//! | [`options`], [`config`] | the command line; `bitcoin.conf`; which value wins |
//! | [`convert`] | words to JSON parameters, by the method table |
//! | [`http`] | one POST |
//! | [`call`] | credentials, address, waiting, errors of transport |
//! | `getinfo`, `netinfo`, `quorum`, `shortcuts` | -getinfo, -netinfo, -quorum, -addrinfo, -generate |
//! | [`help`], [`names`] | -help, -version; what the program calls itself |

mod call;
mod config;
mod convert;
mod getinfo;
mod help;
mod http;
mod names;
mod netinfo;
mod options;
mod quorum;
mod shortcuts;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, ExitCode};

use crate::code;
use crate::json::Value;
use call::Client;
use names::names;
use options::Options;

/// Why nothing came back that could be printed. Shown as `error: ...`, exit code 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CliError {
    /// Retried with -rpcwait.
    #[error("{0}")]
    Connection(String),
    #[error("{0}")]
    Other(String),
}

impl CliError {
    fn other(text: impl Into<String>) -> CliError {
        CliError::Other(text.into())
    }
}

/// What is printed, and where, and the exit code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    text: String,
    code: u8,
}

/// Runs with the process's arguments.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let (mut options, rest) = match options::parse(&words) {
        Ok(parsed) => parsed,
        Err(error) => return start_failure(&format!("Error parsing command line arguments: {error}")),
    };
    if words.is_empty() || options.wants_help() {
        print(&help::text(options.bool("-version", false)));
        return if words.is_empty() { start_failure("Error: too few parameters") } else { ExitCode::SUCCESS };
    }
    if let Err(error) = config::load(&mut options) {
        return start_failure(&error.to_string());
    }
    let outcome = run(&mut options, rest).unwrap_or_else(|error| Outcome { text: format!("error: {error}"), code: 1 });
    if !outcome.text.is_empty() {
        if outcome.code == 0 {
            print(&format!("{}\n", outcome.text));
        } else {
            complain(&outcome.text);
        }
    }
    ExitCode::from(outcome.code)
}

fn start_failure(text: &str) -> ExitCode {
    complain(text);
    ExitCode::FAILURE
}

// A reader that went away is no reason to fail.

fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn run(options: &mut Options, mut words: Vec<String>) -> Result<Outcome, CliError> {
    read_secrets(options, &mut words)?;
    let special: Vec<&str> = ["-addrinfo", "-generate", "-getinfo", "-netinfo", "-quorum"]
        .into_iter()
        .filter(|name| options.bool(name, false))
        .collect();
    if special.len() > 1 {
        return Err(CliError::other(format!("Only one of {} may be specified.", special.join(", "))));
    }
    let client = Client::new(options);
    match special.first().copied() {
        Some("-getinfo") => getinfo::run(&client, options, &words),
        Some("-quorum") => quorum::run(&client, options, &words),
        Some("-netinfo") => netinfo::run(&client, options, &words),
        Some("-addrinfo") => shortcuts::addrinfo(&client, &words),
        Some(_) => shortcuts::generate(&client, options, words),
        None => plain(&client, options, words),
    }
}

fn plain(client: &Client<'_>, options: &Options, mut words: Vec<String>) -> Result<Outcome, CliError> {
    if words.is_empty() {
        return Err(CliError::other("too few parameters (need at least command)"));
    }
    let method = words.remove(0);
    let params = if options.bool("-named", false) {
        convert::named(&method, &words)?
    } else {
        convert::positional(&method, &words)?
    };
    let id = options.get("-rpcid").unwrap_or_else(|| "1".to_owned());
    let reply = client.call(call::request(&method, params, id.into()), options.wallet().as_deref())?;
    Ok(shown(&reply))
}

/// A reply as it is printed.
fn shown(reply: &Value) -> Outcome {
    let error = reply.member("error");
    if error.is_null() {
        return Outcome { text: result_text(reply.member("result")), code: 0 };
    }
    error_outcome(error)
}

fn result_text(result: &Value) -> String {
    match result {
        Value::Null => String::new(),
        Value::Str(text) => text.clone(),
        other => other.pretty(2),
    }
}

fn error_outcome(error: &Value) -> Outcome {
    let number = error.member("code");
    let mut text = String::new();
    if error.as_obj().is_some() {
        if !number.is_null() {
            text = format!("error code: {}\n", number.val_str());
        }
        if let Some(message) = error.member("message").as_str() {
            text.push_str(&format!("error message:\n{message}"));
        }
        if number.as_i64() == Some(i64::from(code::RPC_WALLET_NOT_SPECIFIED)) {
            let program = names().program;
            text.push_str(&format!(
                " Or for the CLI, specify the \"-rpcwallet=<walletname>\" option before the command (run \
                 \"{program} -h\" for help or \"{program} listwallets\" to see which wallets are currently loaded)."
            ));
        }
    } else {
        text = format!("error: {}", error.compact());
    }
    // The system keeps the low eight bits of an exit code.
    let low = number.as_i64().unwrap_or(1).unsigned_abs() & 0xff;
    Outcome { text, code: u8::try_from(low).unwrap_or(1) }
}

/// Words and secrets that come by standard input.
fn read_secrets(options: &mut Options, words: &mut Vec<String>) -> Result<(), CliError> {
    if options.bool("-stdinrpcpass", false) {
        let password = secret_line("RPC password> ")
            .ok_or_else(|| CliError::other("-stdinrpcpass specified but failed to read from standard input"))?;
        options.force("-rpcpassword", password);
    }
    if options.bool("-stdinwalletpassphrase", false) {
        if !words.first().is_some_and(|word| word.starts_with("walletpassphrase")) {
            let text = "-stdinwalletpassphrase is only applicable for walletpassphrase(change)";
            return Err(CliError::other(text));
        }
        let passphrase = secret_line("Wallet passphrase> ").ok_or_else(|| {
            CliError::other("-stdinwalletpassphrase specified but failed to read from standard input")
        })?;
        words.insert(1, passphrase);
    }
    if options.bool("-stdin", false) {
        let _echo = NoEcho::start();
        words.extend(std::io::stdin().lock().lines().map_while(Result::ok));
    }
    Ok(())
}

/// One line of standard input, prompted for and not echoed where that is a terminal.
fn secret_line(prompt: &str) -> Option<String> {
    let _echo = NoEcho::start();
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "{prompt}");
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Turns a terminal's echo off, and on again when dropped.
struct NoEcho {
    terminal: bool,
}

impl NoEcho {
    fn start() -> NoEcho {
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            let _ = Command::new("stty").arg("-echo").status();
        }
        NoEcho { terminal }
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if self.terminal {
            let _ = Command::new("stty").arg("echo").status();
            print("\n");
        }
    }
}

#[cfg(test)]
mod tests;
