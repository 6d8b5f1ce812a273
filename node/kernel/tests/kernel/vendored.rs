//! Consensus untouched: every vendored file is the one that the registry's archive holds, and the archive is the one that
//! `Cargo.lock` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

const CRATE: &str = "libbitcoinkernel-sys";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(path: &Path) -> String {
    hex(&Sha256::digest(std::fs::read(path).unwrap()))
}

/// Asked at run time: a build cache is shared by clones in several places.
fn manifest_dir() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
}

/// `(version, checksum)` of the crate in Cargo.lock.
fn locked() -> (String, String) {
    let lock = manifest_dir().join("../../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{CRATE}\""))).unwrap();
    let field = |name: &str| {
        let line = entry.lines().find(|line| line.starts_with(name)).unwrap();
        line.split('"').nth(1).unwrap().to_string()
    };
    (field("version"), field("checksum"))
}

fn files_below(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(root, &path, out);
        } else {
            out.insert(path.strip_prefix(root).unwrap().to_path_buf(), path);
        }
    }
}

#[test]
fn no_vendored_file_differs_from_the_archive_that_the_lock_file_names() {
    let (version, checksum) = locked();
    // <cargo home>/registry/src/<index>/<crate>/bitcoin, beside <cargo home>/registry/cache/<index>/<crate>.crate.
    let tree = Path::new(keyless_kernel::CORE_SOURCE);
    let source = tree.parent().unwrap();
    let index = source.parent().unwrap();
    let registry = index.parent().unwrap().parent().unwrap();
    let name = format!("{CRATE}-{version}");
    assert_eq!(source.file_name().unwrap().to_str(), Some(name.as_str()));
    let archive = registry.join("cache").join(index.file_name().unwrap()).join(format!("{name}.crate"));
    assert_eq!(sha256(&archive), checksum, "the archive is not the one of Cargo.lock");

    let fresh = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(fresh.path()).status().unwrap();
    assert!(status.success());
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    files_below(tree, tree, &mut ours);
    let original = fresh.path().join(&name).join("bitcoin");
    files_below(&original, &original, &mut theirs);
    assert!(theirs.len() > 1_000);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "files were added or removed");
    for (relative, path) in &ours {
        assert_eq!(sha256(path), sha256(&theirs[relative]), "{}", relative.display());
    }
}

#[test]
fn no_file_of_the_tree_is_copied_into_the_project() {
    let mut ours = BTreeMap::new();
    let root = &manifest_dir();
    files_below(root, root, &mut ours);
    for path in ours.values() {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        assert!(!text.contains(concat!("The Bitcoin Core ", "developers")), "{}", path.display());
    }
}
