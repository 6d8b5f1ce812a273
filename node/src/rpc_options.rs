//! Options of the RPC server: from Core's argument names to [`keyless_rpc::server::Config`].

use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;
use keyless_kernel::Args;
use keyless_rpc::server::Config;

use crate::p2p_options::OptionError;

/// The RPC port that Core uses for a chain.
pub fn default_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 8332,
        Network::Testnet => 18332,
        Network::Testnet4 => 48332,
        Network::Signet => 38332,
        _ => 18443,
    }
}

/// Reads all options of the RPC server.
pub fn config(args: &Args) -> Result<Config, OptionError> {
    let defaults = Config::default();
    Ok(Config {
        bind: args.get_all("-rpcbind"),
        port: port(args)?,
        allow_ip: args.get_all("-rpcallowip"),
        user: args.get("-rpcuser").unwrap_or_default(),
        password: args.get("-rpcpassword").unwrap_or_default(),
        auth: args.get_all("-rpcauth"),
        cookie_file: cookie_file(args),
        cookie_perms: args.get("-rpccookieperms"),
        whitelist: args.get_all("-rpcwhitelist"),
        whitelist_default: args.is_set("-rpcwhitelistdefault").then(|| args.get_bool("-rpcwhitelistdefault", false)),
        rest: args.get_bool("-rest", false),
        threads: at_least_one(args, "-rpcthreads", defaults.threads),
        work_queue: at_least_one(args, "-rpcworkqueue", defaults.work_queue),
        timeout: args
            .get_int("-rpcservertimeout")
            .map_or(defaults.timeout, |secs| Duration::from_secs(u64::try_from(secs).unwrap_or(0))),
    })
}

fn port(args: &Args) -> Result<u16, OptionError> {
    let Some(text) = args.get("-rpcport") else { return Ok(default_port(args.chain())) };
    let port = text.parse::<u16>().ok().filter(|port| *port != 0);
    port.ok_or_else(|| OptionError(format!("Invalid port specified in -rpcport: '{text}'")))
}

fn cookie_file(args: &Args) -> Option<PathBuf> {
    if args.is_negated("-rpccookiefile") {
        return None;
    }
    let name = args.get("-rpccookiefile").filter(|name| !name.is_empty()).unwrap_or_else(|| ".cookie".to_owned());
    Some(args.datadir_net().join(name))
}

fn at_least_one(args: &Args, name: &str, default: usize) -> usize {
    args.get_int(name).map_or(default, |value| usize::try_from(value).unwrap_or(0).max(1))
}
