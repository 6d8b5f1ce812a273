//! -help and -version.

use super::names::names;

/// What is printed for either.
pub fn text(version_only: bool) -> String {
    let mut text = format!("{} RPC client version v{}\n", names().product, env!("CARGO_PKG_VERSION"));
    text.push_str(if version_only { LICENCE } else { USAGE });
    text.replace("keyless-cli", names().program)
}

const LICENCE: &str = "\
Licensed under MIT or Apache-2.0, at your choice. There is no warranty.
";

const USAGE: &str = "
keyless-cli talks to keylessd: it queries the node, manages wallets, creates and broadcasts transactions.

Usage: keyless-cli [options] <command> [params]
or:    keyless-cli [options] -named <command> [name=value]...
or:    keyless-cli [options] help
or:    keyless-cli [options] help <command>

Options:

  -chain=<chain>            main (default), test, testnet4, signet or regtest
  -regtest -signet -testnet -testnet4
                            the same, short
  -color=<when>             colour in -getinfo: always, auto (default), never
  -conf=<file>              configuration file, relative to the data directory (default: bitcoin.conf)
  -datadir=<dir>            data directory (default: ~/.bitcoin)
  -named                    parameters as name=value words
  -rpcclienttimeout=<n>     seconds to wait for an answer, 0 for no limit (default: 900)
  -rpcconnect=<ip>          host, or host:port (default: 127.0.0.1)
  -rpccookiefile=<loc>      cookie file, relative to the chain's directory (default: .cookie)
  -rpcid=<id>               id of the JSON-RPC request (default: 1)
  -rpcpassword=<pw>         password, where not the cookie file
  -rpcport=<port>           port (default: 8332, testnet 18332, testnet4 48332, signet 38332, regtest 18443)
  -rpcuser=<user>           user name that goes with the password
  -rpcwait                  wait until the server is up
  -rpcwaittimeout=<n>       but no longer than this many seconds, 0 for no limit (default: 0)
  -rpcwallet=<name>         the wallet to ask, where several are loaded
  -stdin                    more parameters from standard input, one a line
  -stdinrpcpass             the RPC password from standard input's first line
  -stdinwalletpassphrase    the wallet's passphrase from standard input's next line
  -version                  print the version and exit
  -help                     print this

Commands of this program:

  -addrinfo                 how many addresses the node knows, by network
  -generate [n] [maxtries]  mine n blocks (default: 1) to a new address (regtest)
  -getinfo                  an overview of node, network and wallets
  -netinfo [0-4] [outonly]  an overview of peers; -netinfo help explains it
  -quorum                   who of the wallet's quorum is there, how far behind, and what is going on
";
