//! Records the wallet script as a real Bitcoin Core answers it: `contrib/record-transcript`.
//!
//! `KEYLESS_BITCOIND` names a bitcoind with wallet, `KEYLESS_BITCOIN_CLI` the client. Prints the transcript.
#![allow(clippy::unwrap_used, clippy::panic)]

use keyless_tests::daemon::bitcoin_cli;
use keyless_tests::{Daemon, Options, script};
use serde_json::json;

fn main() {
    let mut node = Daemon::start_new(script::options(Options::core()));
    let version = node.call("getnetworkinfo", json!([]))["subversion"].clone();
    println!(
        "Recorded from bitcoind {} with its own wallet, by contrib/record-transcript.",
        version.as_str().unwrap_or_default()
    );
    print!("{}", script::write(&script::run(script::WALLET_SCRIPT, &bitcoin_cli(), &node)));
    node.stop();
}
