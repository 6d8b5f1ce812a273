//! Several `keylessd` processes that are one quorum, each with its own data directory and identity.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::daemon::{Daemon, Kind, Options, free_port};
use crate::rpc::RpcClient;
use crate::wait::until_true;

/// Co-signers find each other within this.
const FIND_DEADLINE: Duration = Duration::from_secs(20);

/// How the members find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Every member is configured with the addresses of the others.
    Static,
    /// Only PeerIds are configured.
    Mdns,
}

/// n processes.
pub struct Quorum {
    pub members: Vec<Daemon>,
    pub peer_ids: Vec<String>,
}

impl Quorum {
    /// Makes and starts `n` members of a quorum with the given threshold, connected as co-signers and as Bitcoin peers.
    pub fn start(threshold: usize, n: usize, discovery: Discovery) -> Self {
        Self::configured(threshold, n, discovery).started()
    }

    /// With one more line in every member's configuration.
    pub fn conf(mut self, line: &str) -> Self {
        for member in &mut self.members {
            member.options.conf.push(line.to_owned());
            member.configure();
        }
        self
    }

    /// With all members started and connected.
    pub fn started(mut self) -> Self {
        for member in &mut self.members {
            member.spawn();
        }
        for member in &mut self.members {
            member.wait_ready();
        }
        for m in 0..self.members.len() {
            self.wait_connected(m);
        }
        self
    }

    /// The members, configured and not started.
    pub fn configured(threshold: usize, n: usize, discovery: Discovery) -> Self {
        let mut members: Vec<Daemon> = (0..n).map(|_| Daemon::new(Options::keyless())).collect();
        let peer_ids: Vec<String> = members.iter().map(print_id).collect();
        let ports: Vec<u16> = (0..n).map(|_| free_port()).collect();
        let bitcoin_ports: Vec<u16> = members.iter().map(|member| member.p2p_port).collect();
        for (m, member) in members.iter_mut().enumerate() {
            let conf = &mut member.options.conf;
            conf.push(format!("threshold={threshold}"));
            conf.push("keypool=50".into());
            // Addresses of the loopback interface are not announced by mDNS.
            let (interface, discovery_option) = match discovery {
                Discovery::Static => ("127.0.0.1", "static"),
                Discovery::Mdns => ("0.0.0.0", "mdns"),
            };
            conf.push(format!("cosignerbind=/ip4/{interface}/tcp/{}", ports[m]));
            conf.push(format!("cosignerdiscovery={discovery_option}"));
            for other in (0..n).filter(|other| *other != m) {
                let at = match discovery {
                    Discovery::Static => format!("@/ip4/127.0.0.1/tcp/{}", ports[other]),
                    Discovery::Mdns => String::new(),
                };
                conf.push(format!("cosigner={}{at}", peer_ids[other]));
                conf.push(format!("addnode=127.0.0.1:{}", bitcoin_ports[other]));
            }
            member.configure();
        }
        Self { members, peer_ids }
    }

    /// Until member `m` sees all others that run.
    pub fn wait_connected(&self, m: usize) {
        let expected = self.members.iter().filter(|member| member.is_running()).count() - 1;
        until_true("co-signers find each other", FIND_DEADLINE, || self.online(m) >= expected);
    }

    /// How many co-signers member `m` sees online.
    pub fn online(&self, m: usize) -> usize {
        let list = self.members[m].call("enumeratecosigners", json!([]));
        list.as_array().expect("a list").iter().filter(|peer| peer["online"] == json!(true)).count()
    }

    /// A client of member `m` for a wallet.
    pub fn wallet(&self, m: usize, name: &str) -> RpcClient {
        self.members[m].rpc().wallet(name)
    }

    /// Creates a wallet on member 0 and waits until all members have it.
    pub fn create_wallet(&self, name: &str) {
        self.members[0].call("createwallet", json!([name]));
        self.wait_wallet(name);
    }

    /// Until every running member has the wallet loaded.
    pub fn wait_wallet(&self, name: &str) {
        for member in self.members.iter().filter(|member| member.is_running()) {
            until_true("the wallet is on every member", FIND_DEADLINE, || {
                member.call("listwallets", json!([])).as_array().expect("a list").contains(&json!(name))
            });
        }
    }

    /// Until all running members have member 0's tip (or the first running one's).
    pub fn sync_blocks(&self) {
        let running: Vec<&Daemon> = self.members.iter().filter(|member| member.is_running()).collect();
        until_true("all members on one tip", FIND_DEADLINE, || {
            let tip = running[0].best();
            running.iter().all(|member| member.best() == tip)
        });
    }
}

fn print_id(member: &Daemon) -> String {
    let output = Command::new(Kind::Keyless.binary())
        .args(["-regtest", &format!("-datadir={}", member.datadir().display()), "-printcosignerid"])
        .output()
        .expect("keylessd can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
