//! What this program and its node are called: a link named `bitcoin-cli` speaks as scripts expect of bitcoin-cli.

use std::path::Path;
use std::sync::OnceLock;

/// Names as texts show them.
pub struct Names {
    pub program: &'static str,
    pub daemon: &'static str,
    pub product: &'static str,
}

const OWN: Names = Names { program: "keyless-cli", daemon: "keylessd", product: "Keyless" };
const CORES: Names = Names { program: "bitcoin-cli", daemon: "bitcoind", product: "Bitcoin Core" };

/// By the name that this process was started under.
pub fn names() -> &'static Names {
    static STARTED_AS: OnceLock<&Names> = OnceLock::new();
    STARTED_AS.get_or_init(|| {
        let first = std::env::args_os().next();
        called(first.as_deref().map(Path::new))
    })
}

fn called(first: Option<&Path>) -> &'static Names {
    if first.and_then(Path::file_name).is_some_and(|name| name == CORES.program) { &CORES } else { &OWN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_named_bitcoin_cli_says_so() {
        assert_eq!(called(Some(Path::new("/usr/bin/bitcoin-cli"))).product, "Bitcoin Core");
        assert_eq!(called(Some(Path::new("bitcoin-cli-2"))).program, "keyless-cli");
        assert_eq!(called(None).daemon, "keylessd");
    }
}
