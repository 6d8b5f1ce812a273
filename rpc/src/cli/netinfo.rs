//! -netinfo: peers and their counts as a table.

mod layout;

use super::call::{Client, batch_replies, request};
use super::names::names;
use super::options::{Chain, Options};
use super::{CliError, Outcome, error_outcome};
use crate::json::Value;

/// The most detailed level.
const MAX_LEVEL: u8 = 4;
/// The oldest node whose answers have what is shown.
const OLDEST_VERSION: i64 = 209_900;

/// What the arguments ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct View {
    level: u8,
    outbound_only: bool,
}

impl View {
    fn parse(words: &[String]) -> Result<View, CliError> {
        let more = format!("For more information, run: {} -netinfo help", names().program);
        let Some(word) = words.first() else {
            return Ok(View::default());
        };
        let level: u8 =
            word.parse().map_err(|_| CliError::other(format!("invalid -netinfo level argument: {word}\n{more}")))?;
        let outbound_only = match words.get(1).map(String::as_str) {
            None => false,
            Some("o" | "outonly") if level > 0 => true,
            Some(other) if level > 0 => {
                return Err(CliError::other(format!("invalid -netinfo outonly argument: {other}\n{more}")));
            }
            Some(other) => {
                return Err(CliError::other(format!(
                    "invalid -netinfo outonly argument: {other}\nThe outonly argument is only valid for a level greater \
                     than 0 (the first argument). {more}"
                )));
            }
        };
        Ok(View { level: level.min(MAX_LEVEL), outbound_only })
    }

    fn addresses(self) -> bool {
        matches!(self.level, 2 | 4)
    }

    fn versions(self) -> bool {
        matches!(self.level, 3 | 4)
    }
}

pub fn run(client: &Client<'_>, options: &Options, words: &[String]) -> Result<Outcome, CliError> {
    if matches!(words.first().map(String::as_str), Some("h" | "help")) {
        return Ok(Outcome { text: HELP.to_owned(), code: 0 });
    }
    let view = View::parse(words)?;
    let requests = [request("getpeerinfo", Value::Null, 0.into()), request("getnetworkinfo", Value::Null, 1.into())];
    let batch = client.call(Value::arr(requests), options.wallet().as_deref())?;
    let replies = batch_replies(&batch, 2)?;
    for reply in &replies {
        if !reply.member("error").is_null() {
            return Ok(error_outcome(reply.member("error")));
        }
    }
    let [peers, network] = &replies[..] else {
        return Err(CliError::other("Batch member id is larger than batch size"));
    };
    let network = network.member("result");
    if network.member("version").as_i64().unwrap_or(0) < OLDEST_VERSION {
        return Err(CliError::other("-netinfo requires a server of version 0.21.0 and up"));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    let chain = match options.chain() {
        Chain::Main => String::new(),
        Chain::Testnet => " testnet".to_owned(),
        other => format!(" {}", other.name()),
    };
    let peers = peers.member("result").as_arr().unwrap_or_default();
    Ok(Outcome { text: layout::dashboard(view, &chain, peers, network, now), code: 0 })
}

const HELP: &str = "\
-netinfo (level [outonly]) | help

Peers of the node as a table, made from getpeerinfo and getnetworkinfo. It is for reading, not for scripts.

level    0 (default)  counts by network and direction, and the local addresses
         1            before them a line for each peer
         2            with its address
         3            with its version
         4            with both
outonly  or o: only peers that we connected to; with a level above 0

Columns of a peer's line:

  <->      in: the peer connected to us; out: we to it
  type     full, block (no transactions), manual (addnode, connect), feeler, addr (fetches addresses), priv
  net      ipv4, ipv6, onion, i2p, cjdns, npr (not publicly routable)
  serv     what it offers: n blocks, l recent blocks, w witnesses, b bloom, c compact filters, 2 v2 transport, u unknown
  v        version of the transport
  mping    shortest ping in milliseconds
  ping     last ping in milliseconds
  send     seconds since we sent
  recv     seconds since we received
  txn      minutes since its last new transaction; * if we relay none to it
  blk      minutes since its last new block
  hb       high-bandwidth compact blocks: . to it, * from it
  addrp    addresses processed; . if we relay none to it
  addrl    addresses dropped by the rate limit
  age      minutes of connection
  asmap    number of the network it is in, with -asmap
  id       number of the peer
";
