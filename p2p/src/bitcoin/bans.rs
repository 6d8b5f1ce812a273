//! Who may not connect: bans by the operator, kept in `banlist.json` in Core's format, and hosts that misbehaved.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::handle::Ban;
use super::net_addr::NetAddr;
use super::permissions::Subnet;
use super::rolling::RollingSet;

/// Discouraged hosts remembered; Core's filter holds as many.
const MAX_DISCOURAGED: usize = 50_000;
/// A ban list larger than this is not read.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
const ENTRY_VERSION: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
struct FileEntry {
    version: u32,
    ban_created: u64,
    banned_until: u64,
    address: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct FileFormat {
    banned_nets: Vec<FileEntry>,
}

#[derive(Debug)]
pub(crate) struct Bans {
    file: Option<PathBuf>,
    banned: BTreeMap<Subnet, (u64, u64)>,
    discouraged: RollingSet<NetAddr>,
}

fn read(path: &Path) -> io::Result<FileFormat> {
    if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("too large"));
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

impl Bans {
    /// Reads the file; one that cannot be read is replaced by the next write.
    pub(crate) fn load(file: Option<PathBuf>, now: u64) -> Self {
        let mut bans = Self { file, banned: BTreeMap::new(), discouraged: RollingSet::new(MAX_DISCOURAGED) };
        let Some(path) = bans.file.clone() else { return bans };
        let found = match read(&path) {
            Ok(found) => found,
            Err(error) => {
                tracing::info!("Recreating the banlist database ({error})");
                bans.save();
                return bans;
            }
        };
        for entry in found.banned_nets {
            match entry.address.parse() {
                Ok(subnet) if entry.version == ENTRY_VERSION => {
                    bans.banned.insert(subnet, (entry.ban_created, entry.banned_until));
                }
                _ => tracing::warn!("Dropping entry with unparseable address from the ban list"),
            }
        }
        bans.sweep(now);
        bans
    }

    fn save(&self) {
        let Some(path) = &self.file else { return };
        let entry = |(subnet, (created, until)): (&Subnet, &(u64, u64))| FileEntry {
            version: ENTRY_VERSION,
            ban_created: *created,
            banned_until: *until,
            address: subnet.to_string(),
        };
        let format = FileFormat { banned_nets: self.banned.iter().map(entry).collect() };
        let write = || -> io::Result<()> {
            let next = path.with_extension("json.new");
            let mut file = std::fs::File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(&format)?)?;
            file.sync_all()?;
            std::fs::rename(&next, path)
        };
        if let Err(error) = write() {
            tracing::warn!("Failed to write the ban list {}: {error}", path.display());
        }
    }

    /// Removes what ran out. True if anything did.
    pub(crate) fn sweep(&mut self, now: u64) -> bool {
        let before = self.banned.len();
        self.banned.retain(|_, (_, until)| *until > now);
        let changed = self.banned.len() != before;
        if changed {
            self.save();
        }
        changed
    }

    pub(crate) fn is_banned(&self, address: IpAddr, now: u64) -> bool {
        self.banned.iter().any(|(net, (_, until))| *until > now && net.contains(address))
    }

    /// False if it was banned already: this subnet, or for a single address any subnet around it.
    pub(crate) fn ban(&mut self, subnet: Subnet, address: Option<IpAddr>, now: u64, until: u64) -> bool {
        let already = match address {
            Some(address) => self.is_banned(address, now),
            None => self.banned.get(&subnet).is_some_and(|(_, until)| *until > now),
        };
        if already {
            return false;
        }
        self.banned.insert(subnet, (now, until));
        self.save();
        true
    }

    pub(crate) fn unban(&mut self, subnet: &Subnet) -> bool {
        let found = self.banned.remove(subnet).is_some();
        if found {
            self.save();
        }
        found
    }

    pub(crate) fn clear(&mut self) {
        self.banned.clear();
        self.discouraged.clear();
        self.save();
    }

    pub(crate) fn list(&mut self, now: u64) -> Vec<Ban> {
        self.sweep(now);
        let ban = |(subnet, (created, until)): (&Subnet, &(u64, u64))| Ban {
            subnet: subnet.clone(),
            created: *created,
            until: *until,
        };
        self.banned.iter().map(ban).collect()
    }

    /// Remembers a host that broke the rules: its connections are the first to go.
    pub(crate) fn discourage(&mut self, address: NetAddr) {
        self.discouraged.insert(address.without_port());
    }

    pub(crate) fn is_discouraged(&self, address: &NetAddr) -> bool {
        self.discouraged.contains(&address.without_port())
    }

    /// Either.
    pub(crate) fn is_unwelcome(&self, address: &NetAddr, now: u64) -> bool {
        self.is_discouraged(address) || address.ip().is_some_and(|ip| self.is_banned(ip, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_run_out_and_survive_a_restart() {
        let dir = std::env::temp_dir().join(format!("keyless-bans-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("banlist.json");
        let mut bans = Bans::load(Some(file.clone()), 100);
        let net: Subnet = "10.0.0.0/8".parse().unwrap();
        let host: IpAddr = "10.1.2.3".parse().unwrap();
        assert!(bans.ban(net.clone(), None, 100, 200));
        assert!(!bans.ban(net.clone(), None, 100, 200));
        assert!(!bans.ban(Subnet::single(host), Some(host), 100, 200));
        let mut again = Bans::load(Some(file), 150);
        assert!(again.is_banned(host, 150) && !again.is_banned(host, 200));
        assert_eq!(again.list(150).len(), 1);
        assert!(again.list(200).is_empty());
        assert!(!again.unban(&net));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
