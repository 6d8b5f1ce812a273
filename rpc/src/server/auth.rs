//! Who may call what: the cookie, `-rpcuser`, `-rpcauth`, `-rpcwhitelist`.
//!
//! Passwords are kept only as salted HMAC-SHA256 and compared in constant time. Source: Core's `httprpc.cpp` and
//! `rpc/request.cpp`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use bitcoin::hex::DisplayHex as _;
use hmac::{Hmac, Mac};
use rand::RngCore as _;
use sha2::Sha256;
use tracing::{info, warn};

use super::{Config, StartReason};

/// The user of the cookie file.
pub const COOKIE_USER: &str = "__cookie__";
const COOKIE_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// Known users and what they may call. Removes the cookie it wrote when dropped.
pub struct Access {
    entries: Vec<Entry>,
    whitelist: BTreeMap<String, BTreeSet<String>>,
    /// Whether users without a whitelist may call nothing.
    deny_unlisted: bool,
    cookie: Option<PathBuf>,
}

struct Entry {
    user: String,
    salt: String,
    hmac_hex: String,
}

impl Access {
    /// Reads the options and writes the cookie file where one is due.
    pub fn new(config: &Config) -> Result<Access, StartReason> {
        let mut entries = Vec::new();
        let mut cookie = None;
        if !config.password.is_empty() {
            info!(target: "rpc", "Using rpcuser/rpcpassword authentication.");
            entries.push(Entry::hashed(&config.user, &config.password));
        } else if let Some(path) = &config.cookie_file {
            let password = write_cookie(path, config.cookie_perms.as_deref())?;
            info!(target: "rpc", "Using random cookie authentication.");
            entries.push(Entry::hashed(COOKIE_USER, &password));
            cookie = Some(path.clone());
        } else {
            info!(target: "rpc", "RPC authentication cookie file generation is disabled.");
        }
        // From here on a failure removes the cookie again.
        let mut access = Access {
            entries,
            whitelist: whitelist(&config.whitelist),
            deny_unlisted: config.whitelist_default.unwrap_or(!config.whitelist.is_empty()),
            cookie,
        };
        for text in &config.auth {
            let entry = Entry::parse(text).ok_or_else(|| StartReason::Config("Invalid -rpcauth argument.".into()))?;
            access.entries.push(entry);
        }
        Ok(access)
    }

    /// The user that an `Authorization` header proves.
    pub fn authenticate(&self, header: &str) -> Option<String> {
        let encoded = header.strip_prefix("Basic ")?.trim();
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        let known = self.entries.iter().filter(|entry| same(&entry.user, user)).any(|entry| entry.accepts(password));
        known.then(|| user.to_owned())
    }

    /// Whether a user may call anything at all.
    pub fn may_call_some(&self, user: &str) -> bool {
        self.whitelist.contains_key(user) || !self.deny_unlisted
    }

    /// Whether a user may call this method.
    pub fn may_call(&self, user: &str, method: &str) -> bool {
        self.whitelist.get(user).map_or(!self.deny_unlisted, |methods| methods.contains(method))
    }

    /// Whether this user is bound to a list.
    pub fn is_listed(&self, user: &str) -> bool {
        self.whitelist.contains_key(user)
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if let Some(path) = self.cookie.take()
            && let Err(error) = fs::remove_file(&path)
        {
            warn!(target: "rpc", "Unable to remove random auth cookie file {}: {error}", path.display());
        }
    }
}

impl Entry {
    fn hashed(user: &str, password: &str) -> Entry {
        let mut raw = [0u8; SALT_BYTES];
        rand::thread_rng().fill_bytes(&mut raw);
        let salt = raw.to_lower_hex_string();
        let hmac_hex = hmac_hex(&salt, password);
        Entry { user: user.to_owned(), salt, hmac_hex }
    }

    /// `user:salt$hmac`
    fn parse(text: &str) -> Option<Entry> {
        let (user, secret) = text.split_once(':')?;
        let (salt, hmac_hex) = secret.split_once('$')?;
        if secret.contains(':') || hmac_hex.contains('$') {
            return None;
        }
        Some(Entry { user: user.to_owned(), salt: salt.to_owned(), hmac_hex: hmac_hex.to_owned() })
    }

    fn accepts(&self, password: &str) -> bool {
        same(&hmac_hex(&self.salt, password), &self.hmac_hex)
    }
}

fn hmac_hex(salt: &str, password: &str) -> String {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt.as_bytes()) else {
        return String::new();
    };
    mac.update(password.as_bytes());
    mac.finalize().into_bytes().as_slice().to_lower_hex_string()
}

/// Compares in a time that does not depend on where the texts differ.
fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut difference = left.len() ^ right.len();
    for (index, byte) in right.iter().enumerate() {
        let other = left.get(index).copied().unwrap_or(0);
        difference |= usize::from(other ^ byte);
    }
    difference == 0
}

fn whitelist(options: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for option in options {
        let (user, methods) = match option.split_once(':') {
            Some((user, methods)) => (user, Some(methods)),
            None => (option.as_str(), None),
        };
        let known = lists.contains_key(user);
        let list = lists.entry(user.to_owned()).or_default();
        if let Some(methods) = methods {
            let given: BTreeSet<String> = methods.split([',', ' ']).map(str::to_owned).collect();
            *list = if known { list.intersection(&given).cloned().collect() } else { given };
        }
    }
    lists
}

/// Writes `user:password` to a temporary name and renames it; returns the password.
fn write_cookie(path: &Path, perms: Option<&str>) -> Result<String, StartReason> {
    let mode = match perms {
        None | Some("owner") => 0o600,
        Some("group") => 0o640,
        Some("all") => 0o644,
        Some(other) => {
            let text = format!("Invalid -rpccookieperms={other}; must be one of 'owner', 'group', or 'all'.");
            return Err(StartReason::Config(text));
        }
    };
    let mut raw = [0u8; COOKIE_BYTES];
    rand::rngs::OsRng.fill_bytes(&mut raw);
    let password = raw.to_lower_hex_string();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("{COOKIE_USER}:{password}").as_bytes())?;
        drop(file);
        fs::rename(&temporary, path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    write().map_err(StartReason::Cookie)?;
    info!(target: "rpc", "Generated RPC authentication cookie {}", path.display());
    Ok(password)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(pair: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    const RPCAUTH: &str =
        "user1:6dd184e5e69271fdd69103464630014f$eb3d7ce67c4d1ff3564270519b03b636c0291012692a5fa3dd1d2075daedd07b";

    #[test]
    fn rpcauth_admits_only_its_password() {
        let config = Config { auth: vec![RPCAUTH.into()], ..Config::default() };
        let access = Access::new(&config).unwrap();
        assert_eq!(access.authenticate(&header("user1:bitcoin")).as_deref(), Some("user1"));
        for bad in ["user1:bitcoins", "user1:", "user2:bitcoin", "user1"] {
            assert_eq!(access.authenticate(&header(bad)), None, "{bad}");
        }
        for bad in ["Bearer x", "Basic !!!", "Basic ", "basic dXNlcjE6Yml0Y29pbg=="] {
            assert_eq!(access.authenticate(bad), None, "{bad}");
        }
    }

    #[test]
    fn malformed_rpcauth_stops_the_start() {
        for bad in ["", "\"\"", "foo", "foo:bar", "foo:bar:baz", "foo$bar:baz", "foo$bar$baz", "a:b$c$d"] {
            let config = Config { auth: vec![RPCAUTH.into(), bad.into()], ..Config::default() };
            assert!(matches!(Access::new(&config), Err(StartReason::Config(_))), "{bad}");
        }
    }

    #[test]
    fn the_cookie_is_private_and_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".cookie");
        for (perms, mode) in [(None, 0o600), (Some("group"), 0o640), (Some("all"), 0o644)] {
            let config =
                Config { cookie_file: Some(path.clone()), cookie_perms: perms.map(str::to_owned), ..Config::default() };
            let access = Access::new(&config).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.len(), COOKIE_USER.len() + 1 + 64);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(access.authenticate(&header(&text)).as_deref(), Some(COOKIE_USER));
            drop(access);
            assert!(!path.exists());
        }
        let config = Config { cookie_file: Some(path.clone()), cookie_perms: Some("x".into()), ..Config::default() };
        assert!(Access::new(&config).is_err());
        fs::create_dir(dir.path().join(".cookie.tmp")).unwrap();
        let config = Config { cookie_file: Some(path.clone()), ..Config::default() };
        assert!(matches!(Access::new(&config), Err(StartReason::Cookie(_))));
        assert!(!path.exists());
    }

    #[test]
    fn a_password_replaces_the_cookie() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".cookie");
        let config =
            Config { user: "u".into(), password: "p:q".into(), cookie_file: Some(path.clone()), ..Config::default() };
        let access = Access::new(&config).unwrap();
        assert!(!path.exists());
        assert_eq!(access.authenticate(&header("u:p:q")).as_deref(), Some("u"));
    }

    #[test]
    fn whitelists_of_one_user_intersect() {
        let options = ["a:x, y", "a:y,z", "b", "c::x"].map(str::to_owned).to_vec();
        let config = Config { whitelist: options, ..Config::default() };
        let access = Access::new(&config).unwrap();
        let allowed = |user, method| access.may_call(user, method);
        assert!(allowed("a", "y") && !allowed("a", "x") && !allowed("a", "z"));
        assert!(!allowed("b", "y") && !allowed("stranger", "y"));
        assert!(access.may_call_some("b") && !access.may_call_some("stranger"));
        let open = Config { whitelist: vec!["a:x".into()], whitelist_default: Some(false), ..Config::default() };
        assert!(Access::new(&open).unwrap().may_call("stranger", "anything"));
    }
}
