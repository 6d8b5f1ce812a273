//! Options of co-signing: `-cosigner`, `-cosignerbind`, `-cosignerdiscovery`, `-threshold`, `-devquorum`,
//! `-signingtimeout`, `-refreshinterval`, `-repairshares`, `-experimental`.
//!
//! Owns their defaults and errors. Whether the node joins a network of co-signers at all is decided here: with
//! `-disablewallet`, or with neither `-cosigner` nor `-cosignerbind`, no libp2p socket is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Network};
use keyless_kernel::Args;
use keyless_p2p::cosigners::{self, Discovery, Hello, Identity, Multiaddr, parse_members};

use crate::p2p_options::OptionError;

/// The co-signer port lies this far above the port of the Bitcoin network.
const PORT_OFFSET: u16 = 3;
/// Client libraries give up after 10 to 30 s.
pub const DEFAULT_SIGNING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest sensible wait: bitcoin-cli gives up after 900 s.
const MAX_SIGNING_TIMEOUT_SECS: u64 = 890;
/// Most members of a quorum.
const MAX_MEMBERS: u8 = 15;

/// `-devquorum=t/n`: co-signers embedded in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevQuorum {
    pub threshold: u8,
    pub members: u8,
}

/// What the options say.
#[derive(Debug, Clone)]
pub struct CosignerOptions {
    pub identity: Identity,
    /// `None`: no libp2p socket.
    pub network: Option<cosigners::Config>,
    pub threshold: Option<u8>,
    pub dev_quorum: Option<DevQuorum>,
    pub signing_timeout: Duration,
    /// `-refreshinterval`: shares are dealt again after this time.
    pub refresh_interval: Option<Duration>,
    /// `-repairshares`: a stale share is repaired without a command.
    pub repair_shares: bool,
    /// `-experimental=tss`, without which no threshold wallet is made on the main chain.
    pub experimental_tss: bool,
}

/// Where the identity of a co-signer lies, in the network's folder.
pub fn identity_file(net_folder: &Path) -> PathBuf {
    net_folder.join("indexes").join("keyless").join("identity")
}

/// Loads the identity, or makes it.
pub fn identity(args: &Args) -> Result<Identity, OptionError> {
    let file = identity_file(&args.datadir_net());
    Identity::load_or_create(&file).map_err(|error| OptionError(error.to_string()))
}

/// Reads all options of co-signing.
pub fn read(args: &Args, genesis: &BlockHash, height: u32) -> Result<CosignerOptions, OptionError> {
    let identity = identity(args)?;
    let members =
        parse_members(&args.get_all("-cosigner"), &identity.peer_id()).map_err(|e| OptionError(e.to_string()))?;
    let binds = args.get_all("-cosignerbind");
    let networked = !members.is_empty() || !binds.is_empty();
    let dev_quorum = dev_quorum(args, networked)?;
    let threshold = threshold(args, networked.then_some(members.len()))?;
    let hello = Hello {
        network: args.chain_name(),
        genesis: genesis.to_byte_array(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let discovery = args.get("-cosignerdiscovery").map_or(Ok(Discovery::default()), |text| text.parse());
    let discovery = discovery.map_err(|error: cosigners::config::DiscoveryError| OptionError(error.to_string()))?;
    let network = if networked {
        let listen = listen(args, &binds)?;
        Some(cosigners::Config { identity: identity.clone(), listen, members, discovery, hello, height })
    } else {
        None
    };
    Ok(CosignerOptions {
        identity,
        network,
        threshold,
        dev_quorum,
        signing_timeout: signing_timeout(args)?,
        refresh_interval: refresh_interval(args)?,
        repair_shares: args.get_bool("-repairshares", true),
        experimental_tss: args.get_all("-experimental").iter().any(|name| name == "tss"),
    })
}

fn listen(args: &Args, binds: &[String]) -> Result<Vec<Multiaddr>, OptionError> {
    if binds.is_empty() {
        let text = format!("/ip4/0.0.0.0/tcp/{}", default_port(args.chain()));
        return text.parse().map(|address| vec![address]).map_err(|_| bad_bind(&text));
    }
    binds.iter().map(|text| text.parse().map_err(|_| bad_bind(text))).collect()
}

fn bad_bind(text: &str) -> OptionError {
    OptionError(format!("Invalid -cosignerbind address '{text}' (use /ip4/<address>/tcp/<port>)"))
}

/// Core's P2P port + 3.
pub fn default_port(network: Network) -> u16 {
    keyless_p2p::bitcoin::Config::new(network).default_port.saturating_add(PORT_OFFSET)
}

fn dev_quorum(args: &Args, networked: bool) -> Result<Option<DevQuorum>, OptionError> {
    let chain = args.chain();
    let Some(text) = args.get("-devquorum").filter(|_| !args.is_negated("-devquorum")) else {
        let by_default = chain == Network::Regtest && !networked && !args.is_negated("-devquorum");
        return Ok(by_default.then_some(DevQuorum { threshold: 2, members: 3 }));
    };
    if chain == Network::Bitcoin {
        let text = "-devquorum is refused on the main chain: its co-signers share one process and one disk.";
        return Err(OptionError(text.to_owned()));
    }
    if networked {
        let text = "-devquorum cannot be combined with -cosigner or -cosignerbind: a wallet has one quorum.";
        return Err(OptionError(text.to_owned()));
    }
    parse_dev_quorum(&text).map(Some)
}

fn parse_dev_quorum(text: &str) -> Result<DevQuorum, OptionError> {
    let bad = |why: &str| OptionError(format!("Invalid -devquorum value '{text}': {why}"));
    let (threshold, members) = text.split_once('/').ok_or_else(|| bad("use threshold/members, such as 2/3"))?;
    let number = |part: &str| part.trim().parse::<u8>().map_err(|_| bad("use threshold/members, such as 2/3"));
    let quorum = DevQuorum { threshold: number(threshold)?, members: number(members)? };
    if quorum.threshold < 2 {
        return Err(bad("the threshold must be at least 2"));
    }
    if quorum.members > MAX_MEMBERS {
        return Err(bad("a quorum has at most 15 members"));
    }
    if quorum.threshold > quorum.members {
        return Err(bad("the threshold is above the number of members"));
    }
    if u16::from(quorum.threshold) * 2 <= u16::from(quorum.members) {
        return Err(bad("the threshold must be more than half of the members"));
    }
    Ok(quorum)
}

/// `cosigners`: how many others are configured, where this node is one of a quorum of nodes.
fn threshold(args: &Args, cosigners: Option<usize>) -> Result<Option<u8>, OptionError> {
    let Some(text) = args.get("-threshold") else { return Ok(None) };
    let bad = |why: String| OptionError(format!("Invalid -threshold value '{text}': {why}"));
    let threshold: u8 = text.parse().map_err(|_| bad("not a whole number".to_owned()))?;
    if threshold < 2 {
        return Err(bad("the threshold must be at least 2".to_owned()));
    }
    let Some(cosigners) = cosigners else {
        return Err(bad(
            "it is about a quorum of nodes (-cosigner); embedded co-signers take theirs from -devquorum".to_owned()
        ));
    };
    let members = cosigners.saturating_add(1);
    if usize::from(threshold) > members {
        return Err(bad(format!("the threshold is above the number of members, {members}")));
    }
    Ok(Some(threshold))
}

fn refresh_interval(args: &Args) -> Result<Option<Duration>, OptionError> {
    let Some(secs) = args.get_int("-refreshinterval").filter(|secs| *secs != 0) else { return Ok(None) };
    match u64::try_from(secs) {
        Ok(secs) => Ok(Some(Duration::from_secs(secs))),
        Err(_) => Err(OptionError(format!("Invalid -refreshinterval '{secs}': it is a number of seconds"))),
    }
}

fn signing_timeout(args: &Args) -> Result<Duration, OptionError> {
    let Some(text) = args.get("-signingtimeout") else { return Ok(DEFAULT_SIGNING_TIMEOUT) };
    match text.parse::<u64>() {
        Ok(secs) if (1..=MAX_SIGNING_TIMEOUT_SECS).contains(&secs) => Ok(Duration::from_secs(secs)),
        _ => Err(OptionError(format!(
            "Invalid -signingtimeout value '{text}': use 1 to {MAX_SIGNING_TIMEOUT_SECS} seconds"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_quorum_names_what_is_wrong_with_it() {
        assert_eq!(parse_dev_quorum("3/5").unwrap(), DevQuorum { threshold: 3, members: 5 });
        let cases = [
            ("3", "use threshold/members"),
            ("x/3", "use threshold/members"),
            ("1/3", "at least 2"),
            ("4/3", "above the number of members"),
            ("2/4", "more than half"),
            ("9/16", "at most 15"),
        ];
        for (text, expected) in cases {
            let error = parse_dev_quorum(text).unwrap_err().0;
            assert!(error.contains(expected) && error.contains(text), "{text}: {error}");
        }
    }
}
