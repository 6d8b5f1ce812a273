//! Names of wallets, which are paths under the directory of wallets or absolute ones, and what lies there.
//!
//! Rules and texts are Core's (`GetWalletPath`, `ListDatabases`).

use std::fs;
use std::path::Path;

use super::container::{self, FILE, Place};
use crate::quorum::holding;

/// Deepest level of directories that is looked at.
const MAX_DEPTH: usize = 32;

/// The error is Core's text.
pub(super) fn check(wallets: &Path, name: &str) -> Result<(), String> {
    if !is_normalized(name) {
        return Err("Wallet name given as a path must be normalized".to_owned());
    }
    if name == "." || name == ".." || name.starts_with("../") {
        return Err(
            "Wallet name given as a relative path cannot begin with ./ or ../, for wallets not in the walletdir, \
                    please use an absolute path."
                .to_owned(),
        );
    }
    if name == "/" {
        return Err("Wallet name cannot be the root path".to_owned());
    }
    let path = wallets.join(name);
    let fits = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(format!("Failed to access database path '{}': {error}", path.display())),
        Ok(found) if found.is_symlink() => path.is_dir(),
        Ok(found) => found.is_dir() || (found.is_file() && !name.contains('/')),
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "Invalid -wallet path '{name}'. -wallet path should point to a directory where wallet.dat and \
         database/log.?????????? files can be stored, a location where such a directory could be created, or (for \
         backwards compatibility) the name of an existing data file in -walletdir (\"{}\")",
        wallets.display()
    ))
}

/// Whether a path is as short as it can be: no `.`, no `..` but at its beginning, no empty step.
fn is_normalized(name: &str) -> bool {
    if matches!(name, "" | "/" | "." | "..") {
        return true;
    }
    let absolute = name.starts_with('/');
    let steps = name.strip_prefix('/').unwrap_or(name);
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    let mut climbing = !absolute;
    for step in steps.split('/') {
        match step {
            "" | "." => return false,
            ".." if !climbing => return false,
            ".." => {}
            _ => climbing = false,
        }
    }
    // A trailing slash after `..` goes.
    !(climbing && name.ends_with('/'))
}

/// Names of all wallets under a directory, at any depth.
pub(super) fn list(wallets: &Path) -> Vec<String> {
    let mut found = Vec::new();
    if Place::of(wallets, "").is_packed() || holding::is_complete(&Place::of(wallets, "").dir) {
        found.push(String::new());
    }
    if let Err(error) = scan(wallets, wallets, 0, &mut found) {
        tracing::warn!("Error scanning directory entries under {}: {error}", wallets.display());
    }
    found.sort();
    found
}

fn scan(wallets: &Path, dir: &Path, depth: usize, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Err(error) = look(wallets, &path, depth, found) {
            tracing::warn!("Error while scanning wallet dir item: {error} [{}].", path.display());
        }
    }
    Ok(())
}

fn look(wallets: &Path, path: &Path, depth: usize, found: &mut Vec<String>) -> std::io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(());
    }
    let name = path.strip_prefix(wallets).ok().and_then(Path::to_str);
    let Some(name) = name.filter(|name| !name.starts_with('.')) else { return Ok(()) };
    let whole = holding::is_complete(path);
    if whole || container::is_container(&path.join(FILE))? || Place::of(wallets, name).is_packed() {
        found.push(name.to_owned());
    }
    // What a wallet is made of is no wallet of its own; a link may lead anywhere.
    if whole || depth >= MAX_DEPTH || path.symlink_metadata()?.is_symlink() {
        return Ok(());
    }
    scan(wallets, path, depth + 1, found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_paths_as_core_takes_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let refusal = |name: &str| check(dir.path(), name).err().unwrap_or_default();
        for name in ["w", "sub/w", "/absolute/w", "a..b", "", "file", "sub/"] {
            assert_eq!(refusal(name), "", "{name}");
        }
        for name in ["bad/./path", "bad/../path", "/bad/../path", "../", "./", "./wallet", "a//b", "../w/../w"] {
            assert!(refusal(name).ends_with("must be normalized"), "{name}");
        }
        for name in ["../wallets/wallet", "..", "."] {
            assert!(refusal(name).contains("cannot begin with ./ or ../"), "{name}");
        }
        assert_eq!(refusal("/"), "Wallet name cannot be the root path");
        assert!(refusal("link").starts_with("Invalid -wallet path 'link'."));
        assert!(refusal("file/w").starts_with("Failed to access database path"));
    }
}
