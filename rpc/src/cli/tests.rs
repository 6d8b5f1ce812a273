#![allow(clippy::unwrap_used)]
use super::options::{Chain, parse};
use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn options_end_at_the_first_word() {
    let (options, rest) = parse(&words(&["-regtest", "--rpcuser=u", "-named", "echo", "-named"])).unwrap();
    assert_eq!(options.select_chain(), Ok(Chain::Regtest));
    assert_eq!(options.get("-rpcuser").as_deref(), Some("u"));
    assert_eq!(rest, words(&["echo", "-named"]));
}

#[test]
fn unknown_and_misused_options_are_refused() {
    for (word, text) in [
        ("-foo", "Invalid parameter -foo"),
        ("-foo=1", "Invalid parameter -foo=1"),
        ("-nodatadir", "Negating of -datadir is meaningless and therefore forbidden"),
        ("-rpcid", "Can not set -rpcid with no value. Please specify value with -rpcid=value."),
    ] {
        assert_eq!(parse(&words(&[word])).unwrap_err(), CliError::other(text));
    }
}

#[test]
fn negations_and_the_last_value_win() {
    let (options, _) = parse(&words(&["-rpcwallet=a", "-rpcwallet=b"])).unwrap();
    assert_eq!(options.wallet().as_deref(), Some("b"));
    let (options, _) = parse(&words(&["-rpcwallet=a", "-norpcwallet", "-norpcwait=0", "-stdin=0"])).unwrap();
    assert_eq!(options.wallet(), None);
    assert!(options.bool("-rpcwait", false) && !options.bool("-stdin", true));
}

#[test]
fn replies_are_printed_as_bitcoin_cli_prints() {
    for (reply, text, code) in [
        (r#"{"result":null,"error":null}"#, "", 0),
        (r#"{"result":"a\nb"}"#, "a\nb", 0),
        (r#"{"result":1.10000000}"#, "1.10000000", 0),
        (r#"{"result":{"a":[]}}"#, "{\n  \"a\": [\n  ]\n}", 0),
        (r#"{"error":{"code":-8,"message":"no"}}"#, "error code: -8\nerror message:\nno", 8),
        (r#"{"error":{"code":-32601,"message":"no"}}"#, "error code: -32601\nerror message:\nno", 89),
    ] {
        let outcome = shown(&Value::parse(reply).unwrap());
        assert_eq!(outcome, Outcome { text: text.into(), code }, "{reply}");
    }
    let hint = shown(&Value::parse(r#"{"error":{"code":-19,"message":"Many."}}"#).unwrap());
    assert!(hint.text.contains("Many. Or for the CLI, specify the \"-rpcwallet=<walletname>\""), "{}", hint.text);
    assert_eq!(hint.code, 19);
}
