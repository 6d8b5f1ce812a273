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

/// Answers one connection after another with what it is given, and hands back the requests.
fn serve(answers: Vec<&'static str>) -> (u16, std::thread::JoinHandle<Vec<String>>) {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0u8; 4096];
            let count = stream.read(&mut request).unwrap();
            requests.push(String::from_utf8_lossy(&request[..count]).into_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        requests
    });
    (port, thread)
}

fn ask(port: u16, given: &[&str]) -> (Result<Outcome, CliError>, Options) {
    let mut all = words(&["-regtest", "-datadir=/", "-rpcuser=u", "-rpcpassword=p"]);
    all.push(format!("-rpcport={port}"));
    all.extend(words(given));
    let (mut options, rest) = parse(&all).unwrap();
    let outcome = run(&mut options, rest);
    (outcome, options)
}

#[test]
fn a_call_is_one_post_with_credentials_and_the_wallets_path() {
    let (port, server) = serve(vec!["HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"result\":\"done\"}"]);
    let (outcome, _) = ask(port, &["-rpcwallet=a b", "getbalance"]);
    assert_eq!(outcome, Ok(Outcome { text: "done".into(), code: 0 }));
    let request = server.join().unwrap().remove(0);
    assert!(request.starts_with("POST /wallet/a%20b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nAuthorization: Basic dTpw\r\n"), "{request}");
    assert!(
        request.ends_with("{\"method\":\"getbalance\",\"params\":[],\"id\":\"1\",\"jsonrpc\":\"2.0\"}\n"),
        "{request}"
    );
}

#[test]
fn waiting_goes_on_through_warm_up_and_ends_at_a_refusal() {
    let warming = "HTTP/1.1 200 OK\r\n\r\n{\"error\":{\"code\":-28,\"message\":\"Loading\"}}";
    let (port, server) = serve(vec![warming, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"]);
    let (outcome, _) = ask(port, &["-rpcwait", "uptime"]);
    let text = outcome.unwrap_err().to_string();
    assert!(text.starts_with("Authorization failed: Incorrect rpcuser or rpcpassword were specified."), "{text}");
    assert_eq!(server.join().unwrap().len(), 2);
}

#[test]
fn a_full_queue_and_an_absent_server_are_said_plainly() {
    let (port, server) = serve(vec!["HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nfull"]);
    assert_eq!(ask(port, &["uptime"]).0, Err(CliError::other("Server response: full")));
    server.join().unwrap();
    let text = ask(port, &["uptime"]).0.unwrap_err().to_string();
    assert!(text.contains("(Could not connect to the server)"), "{text}");
}
