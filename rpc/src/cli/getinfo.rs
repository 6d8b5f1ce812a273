//! -getinfo: one batch, and what a person wants to see of it.

use std::io::IsTerminal as _;

use super::call::{Client, batch_replies, request};
use super::options::Options;
use super::{CliError, Outcome, error_outcome};
use crate::json::Value;

/// Below this the progress is drawn as a bar.
const BAR_BELOW: f64 = 0.99;
const BAR_STEP: f64 = 0.05;

/// Escape sequences, or nothing.
#[derive(Clone, Copy, Default)]
struct Palette {
    reset: &'static str,
    green: &'static str,
    blue: &'static str,
    yellow: &'static str,
    magenta: &'static str,
    cyan: &'static str,
}

impl Palette {
    fn chosen(options: &Options) -> Result<Palette, CliError> {
        let colored = match options.get("-color").as_deref() {
            None | Some("auto") => std::io::stdout().is_terminal(),
            Some("always") => true,
            Some("never") => false,
            Some(_) => {
                return Err(CliError::other("Invalid value for -color option. Valid values: always, auto, never."));
            }
        };
        if !colored {
            return Ok(Palette::default());
        }
        Ok(Palette {
            reset: "\x1b[0m",
            green: "\x1b[32m",
            blue: "\x1b[34m",
            yellow: "\x1b[33m",
            magenta: "\x1b[35m",
            cyan: "\x1b[36m",
        })
    }
}

pub fn run(client: &Client<'_>, options: &Options, words: &[String]) -> Result<Outcome, CliError> {
    if !words.is_empty() {
        return Err(CliError::other("-getinfo takes no arguments"));
    }
    let methods = ["getnetworkinfo", "getblockchaininfo", "getwalletinfo", "getbalances"];
    let requests = methods.iter().enumerate().map(|(id, method)| request(method, Value::Null, id.into()));
    let wallet = options.wallet();
    let batch = client.call(Value::arr(requests), wallet.as_deref())?;
    let replies = batch_replies(&batch, methods.len())?;
    let [network, chain, wallet_info, balances] = &replies[..] else {
        return Err(CliError::other("Batch member id is larger than batch size"));
    };
    for reply in [network, chain] {
        if !reply.member("error").is_null() {
            return Ok(error_outcome(reply.member("error")));
        }
    }
    let all_balances = if wallet.is_none() { wallet_balances(client)? } else { Vec::new() };
    let palette = Palette::chosen(options)?;
    let mut text = node_text(network.member("result"), chain.member("result"), palette);
    text.push_str(&wallet_text(wallet_info.member("result"), balances.member("result"), palette));
    text.push_str(&balances_text(&all_balances, palette));
    let warnings = network.member("result").member("warnings").val_str().to_owned();
    let warnings = if warnings.is_empty() { "(none)" } else { &warnings };
    text.push_str(&format!("{}Warnings:{} {warnings}", palette.yellow, palette.reset));
    Ok(Outcome { text, code: 0 })
}

/// The trusted balance of every wallet, when there is more than one.
fn wallet_balances(client: &Client<'_>) -> Result<Vec<(String, String)>, CliError> {
    let listed = client.call(request("listwallets", Value::Arr(Vec::new()), "1".into()), None)?;
    let names = listed.member("result").as_arr().unwrap_or_default();
    if !listed.member("error").is_null() || names.len() <= 1 {
        return Ok(Vec::new());
    }
    let mut balances = Vec::new();
    for name in names.iter().map(Value::val_str) {
        let reply = client.call(request("getbalances", Value::Arr(Vec::new()), "1".into()), Some(name))?;
        let trusted = reply.member("result").member("mine").member("trusted").val_str().to_owned();
        balances.push((name.to_owned(), trusted));
    }
    Ok(balances)
}

fn node_text(network: &Value, chain: &Value, palette: Palette) -> String {
    let field = |object: &Value, key: &str| object.member(key).val_str().to_owned();
    let progress = chain.member("verificationprogress").as_f64().unwrap_or(0.0);
    let bar = if progress < BAR_BELOW { format!("{} ", bar(progress)) } else { String::new() };
    let Palette { reset, blue, green, .. } = palette;
    format!(
        "{blue}Chain: {}{reset}\nBlocks: {}\nHeaders: {}\nVerification progress: {bar}{:.4}%\nDifficulty: {}\n\n\
         {green}Network: in {}, out {}, total {}{reset}\nVersion: {}\nTime offset (s): {}\nProxies: {}\n\
         Min tx relay fee rate (BTC/kvB): {}\n\n",
        field(chain, "chain"),
        field(chain, "blocks"),
        field(chain, "headers"),
        progress * 100.0,
        field(chain, "difficulty"),
        field(network, "connections_in"),
        field(network, "connections_out"),
        field(network, "connections"),
        field(network, "version"),
        field(network, "timeoffset"),
        proxies(network.member("networks")),
        field(network, "relayfee"),
    )
}

fn bar(progress: f64) -> String {
    if !(0.0..=1.0).contains(&progress) {
        return String::new();
    }
    let cells = |share: f64| (0..20).take_while(|cell| f64::from(*cell) < share / BAR_STEP).count();
    format!("{}{}", "\u{2592}".repeat(cells(progress)), "\u{2591}".repeat(cells(1.0 - progress)))
}

/// Each proxy with the networks that go through it, in order of first use.
fn proxies(networks: &Value) -> String {
    let mut used: Vec<(&str, Vec<&str>)> = Vec::new();
    for network in networks.as_arr().unwrap_or_default() {
        let (proxy, name) = (network.member("proxy").val_str(), network.member("name").val_str());
        if proxy.is_empty() {
            continue;
        }
        match used.iter_mut().find(|(known, _)| *known == proxy) {
            Some((_, names)) => names.push(name),
            None => used.push((proxy, vec![name])),
        }
    }
    if used.is_empty() {
        return "n/a".to_owned();
    }
    let shown: Vec<String> = used.iter().map(|(proxy, names)| format!("{proxy} ({})", names.join(", "))).collect();
    shown.join(", ")
}

fn or_quotes(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

fn wallet_text(info: &Value, balances: &Value, palette: Palette) -> String {
    let Palette { reset, magenta, cyan, .. } = palette;
    let mut text = String::new();
    if !info.is_null() {
        text.push_str(&format!("{magenta}Wallet: {}{reset}\n", or_quotes(info.member("walletname").val_str())));
        text.push_str(&format!("Keypool size: {}\n", info.member("keypoolsize").val_str()));
        let unlocked = info.member("unlocked_until");
        if !unlocked.is_null() {
            text.push_str(&format!("Unlocked until: {}\n", unlocked.val_str()));
        }
    }
    let trusted = balances.member("mine").member("trusted");
    if !trusted.is_null() {
        text.push_str(&format!("{cyan}Balance:{reset} {}\n\n", trusted.val_str()));
    }
    text
}

fn balances_text(balances: &[(String, String)], palette: Palette) -> String {
    if balances.is_empty() {
        return String::new();
    }
    let width = balances.iter().map(|(_, balance)| balance.len()).max().unwrap_or(0).max(10);
    let mut text = format!("{}Balances{}\n", palette.cyan, palette.reset);
    for (name, balance) in balances {
        text.push_str(&format!("{balance:>width$} {}\n", or_quotes(name)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_text_is_laid_out_as_bitcoin_clis() {
        let network = Value::parse(
            r#"{"version":319900,"timeoffset":0,"connections":3,"connections_in":1,"connections_out":2,"relayfee":0.00000100,
                "networks":[{"name":"ipv4","proxy":"p:1"},{"name":"i2p","proxy":"q:2"},{"name":"onion","proxy":"p:1"}]}"#,
        )
        .unwrap();
        let chain = r#"{"chain":"regtest","blocks":5,"headers":5,"verificationprogress":1,"difficulty":4.6e-10}"#;
        let chain = Value::parse(chain).unwrap();
        let expected = "Chain: regtest\nBlocks: 5\nHeaders: 5\nVerification progress: 100.0000%\nDifficulty: 4.6e-10\n\n\
                        Network: in 1, out 2, total 3\nVersion: 319900\nTime offset (s): 0\nProxies: p:1 (ipv4, onion), \
                        q:2 (i2p)\nMin tx relay fee rate (BTC/kvB): 0.00000100\n\n";
        assert_eq!(node_text(&network, &chain, Palette::default()), expected);
    }

    #[test]
    fn wallets_are_listed_under_each_other() {
        let balances = [("".to_owned(), "1.00000000".to_owned()), ("b".to_owned(), "123.00000000".to_owned())];
        let text = balances_text(&balances, Palette::default());
        assert_eq!(text, "Balances\n  1.00000000 \"\"\n123.00000000 b\n\n");
        assert_eq!(bar(0.5).chars().count(), 20);
    }
}
