//! Wallet programs that others wrote, between threshold wallets of real processes. `contrib/apps` installs and runs them.
//!
//! `keyless-apps <bdk-cli> <payjoin-cli>`: BDK watches a wallet and makes payments that the quorum signs; then one
//! quorum pays another by payjoin (BIP78), so that both sign one transaction.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use keyless_tests::daemon::free_port;
use keyless_tests::quorum::Discovery;
use keyless_tests::wait::until_true;
use keyless_tests::{Daemon, Quorum, RpcClient, sat};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
const NOBODY: &str = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t";
const PAYJOIN_SAT: i64 = 5_432_100;
const PORTS_TRIED: usize = 5;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [bdk, payjoin] = args.as_slice() else {
        eprintln!("usage: keyless-apps <bdk-cli> <payjoin-cli>");
        return ExitCode::FAILURE;
    };
    bdk_pays_from_a_wallet_that_the_quorum_signs_for(bdk);
    two_quorums_make_a_payjoin(payjoin);
    ExitCode::SUCCESS
}

fn quorum(name: &str) -> (Quorum, RpcClient) {
    // payjoin-cli reads BIP174 alone, and so fails with a bitcoind that makes BIP370's.
    let quorum = Quorum::configured(2, 3, Discovery::Static).conf("walletpsbtversion=0").started();
    quorum.create_wallet(name);
    let wallet = quorum.wallet(0, name);
    (quorum, wallet)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn cookie(node: &Daemon) -> PathBuf {
    node.net_dir().join(".cookie")
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().expect("the program can be started");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{errors}");
    out.into_owned()
}

/// bdk-cli with one wallet of it.
struct Bdk<'a> {
    program: &'a Path,
    node: &'a Daemon,
    folder: TempDir,
    descriptors: [String; 2],
}

impl Bdk<'_> {
    fn run(&self, words: &[&str]) -> Value {
        let mut command = Command::new(self.program);
        command
            .env("NETWORK", "regtest")
            .env("DATADIR", self.folder.path())
            .env("WALLET_NAME", "twin")
            .env("EXT_DESCRIPTOR", &self.descriptors[0])
            .env("INT_DESCRIPTOR", &self.descriptors[1])
            .env("CLIENT_TYPE", "rpc")
            .env("DATABASE_TYPE", "sqlite")
            .env("SERVER_URL", format!("http://127.0.0.1:{}", self.node.rpc_port()))
            .env("COOKIE", cookie(self.node))
            .arg("wallet")
            .args(words);
        let out = output_of(&mut command);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error} in {out}"))
    }

    fn balance(&self) -> i64 {
        self.run(&["full_scan"]);
        let balance = &self.run(&["balance"])["satoshi"];
        let part = |name: &str| balance[name].as_i64().unwrap_or(0);
        part("confirmed") + part("trusted_pending") + part("untrusted_pending")
    }
}

fn bdk_pays_from_a_wallet_that_the_quorum_signs_for(program: &Path) {
    let (quorum, wallet) = quorum("w");
    let node = &quorum.members[0];
    for (kind, prefix) in [("bech32", "wpkh("), ("bech32m", "tr(")] {
        let to = wallet.call("getnewaddress", json!(["", kind]));
        node.call("generatetoaddress", json!([2, to]));
        node.call("generatetoaddress", json!([100, NOBODY]));
        let listed = wallet.call("listdescriptors", json!([]));
        let rows = listed["descriptors"].as_array().unwrap();
        let of = |internal: bool| {
            let row =
                rows.iter().find(|row| text(&row["desc"]).starts_with(prefix) && row["internal"] == json!(internal));
            text(&row.unwrap()["desc"])
        };
        let folder = tempfile::tempdir().unwrap();
        let bdk = Bdk { program, node, folder, descriptors: [of(false), of(true)] };
        let coins = wallet.call("listunspent", json!([]));
        let of_type = |coin: &&Value| text(&coin["desc"]).starts_with(prefix);
        let ours: i64 = coins.as_array().unwrap().iter().filter(of_type).map(|coin| sat(&coin["amount"])).sum();
        assert_eq!(bdk.balance(), ours, "what BDK sees of the {kind} coins");

        let made = bdk.run(&["create_tx", "--to", &format!("{NOBODY}:123456789"), "--fee_rate", "3"]);
        let signed = quorum.wallet(1, "w").call("walletprocesspsbt", json!([made["psbt"]]));
        assert_eq!(signed["complete"], json!(true), "{signed}");
        let sent = bdk.run(&["broadcast", "--tx", &text(&signed["hex"])]);
        let txid = sent["txid"].clone();
        until_true("the payment is in every member's mempool", DEADLINE, || {
            quorum.members.iter().all(|member| member.rpc().try_call("getmempoolentry", json!([txid])).is_ok())
        });
        node.call("generatetoaddress", json!([1, NOBODY]));
        let fee = sat(&wallet.call("gettransaction", json!([txid]))["fee"]);
        assert_eq!(bdk.balance(), ours - 123_456_789 + fee, "after the payment");
        println!("bdk-cli: {kind}: paid {txid}, fee {} sat", -fee);
    }
}

/// A certificate for localhost and its key, both in DER, by openssl.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let path = |name: &str| folder.join(name);
    let (pem_key, pem, key, der) = (path("key.pem"), path("cert.pem"), path("key.der"), path("cert.der"));
    let openssl = || Command::new("openssl");
    output_of(
        openssl()
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&pem_key)
            .arg("-out")
            .arg(&pem),
    );
    output_of(openssl().args(["x509", "-outform", "der", "-in"]).arg(&pem).arg("-out").arg(&der));
    output_of(
        openssl().args(["pkcs8", "-topk8", "-nocrypt", "-outform", "der", "-in"]).arg(&pem_key).arg("-out").arg(&key),
    );
    (der, key)
}

fn payjoin(program: &Path, node: &Daemon, wallet: &str, folder: &Path, certificate: &Path) -> Command {
    fs::create_dir_all(folder).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .arg("--rpchost")
        .arg(format!("http://127.0.0.1:{}/wallet/{wallet}", node.rpc_port()))
        .arg("--cookie-file")
        .arg(cookie(node))
        .arg("--root-certificate")
        .arg(certificate)
        .stdin(Stdio::null());
    command
}

/// payjoin-cli that waits for a payment; it ends when this is dropped.
struct Receiver {
    process: Child,
    uri: String,
    /// Whoever writes to a closed pipe ends.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Receiver {
    fn start(mut command: Command, key: &Path) -> Option<Self> {
        let port = free_port();
        command.args(["--port", &port.to_string(), "--pj-endpoint", &format!("https://localhost:{port}")]);
        command.arg("--certificate-key").arg(key).args(["receive", &PAYJOIN_SAT.to_string()]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("payjoin-cli can be started");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let uri = lines.by_ref().map_while(Result::ok).find(|line| line.to_lowercase().starts_with("bitcoin:"));
        let Some(uri) = uri else {
            process.wait().unwrap();
            return None;
        };
        Some(Self { process, uri, _lines: lines })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn two_quorums_make_a_payjoin(program: &Path) {
    let ((payers, payer), (payees, payee)) = (quorum("payer"), quorum("payee"));
    let (from, to) = (&payers.members[0], &payees.members[0]);
    let address = format!("127.0.0.1:{}", from.p2p_port);
    to.call("addnode", json!([address, "add"]));
    // Before its first block a node asks one peer for headers, and hears of blocks that come later from all.
    until_true("the quorums are connected", DEADLINE, || {
        to.call("getpeerinfo", json!([]))
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["addr"] == json!(address) && peer["bytesrecv_per_msg"].get("verack").is_some())
    });
    for wallet in [&payer, &payee] {
        let address = wallet.call("getnewaddress", json!([]));
        from.call("generatetoaddress", json!([1, address]));
    }
    from.call("generatetoaddress", json!([100, NOBODY]));
    until_true("both quorums on one tip", DEADLINE, || to.best() == from.best());
    let before = sat(&payee.call("getbalance", json!([])));

    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let start = || Receiver::start(payjoin(program, to, "payee", &folder.path().join("payee"), &certificate), &key);
    // Its port may be taken before it listens there.
    let receiver = (0..PORTS_TRIED).find_map(|_| start()).expect("the receiver shows its address");
    let mut sender = payjoin(program, from, "payer", &folder.path().join("payer"), &certificate);
    let said = output_of(sender.args(["send", &receiver.uri, "--fee-rate", "3"]));
    drop(receiver);

    let pool = from.call("getrawmempool", json!([]));
    let txid = pool.as_array().unwrap().first().unwrap_or_else(|| panic!("no payjoin was sent: {said}")).clone();
    let tx = from.call("getrawtransaction", json!([txid, 1]));
    let inputs = tx["vin"].as_array().unwrap().len();
    assert!(inputs > 1, "both sides put coins in: {tx}");
    from.call("generatetoaddress", json!([1, NOBODY]));
    until_true("both quorums on one tip", DEADLINE, || to.best() == from.best());
    assert_eq!(sat(&payee.call("getbalance", json!([]))), before + PAYJOIN_SAT, "what the payee has");
    for wallet in [&payer, &payee] {
        assert_eq!(wallet.call("gettransaction", json!([txid]))["confirmations"], json!(1));
    }
    println!("payjoin-cli: {inputs} inputs of two quorums in {txid}");
}
