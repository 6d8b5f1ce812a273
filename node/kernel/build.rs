//! Builds Bitcoin Core's own static libraries with Core's own CMake, from the unmodified tree that the crate
//! `libbitcoinkernel-sys` carries, then the shim, and links both.
//!
//! Core is built in `<target directory>/core` (or `KEYLESS_CORE_BUILD`), one place for all profiles; `contrib/test`
//! finishes bitcoind and bitcoin-cli in the same place.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const CORE_CRATE: &str = "libbitcoinkernel-sys";

/// Core's targets, in link order: each needs only what follows it.
const LIBRARIES: [(&str, &str); 11] = [
    ("bitcoin_node", "lib"),
    ("bitcoin_common", "lib"),
    ("bitcoin_consensus", "lib"),
    ("secp256k1", "src/secp256k1/lib"),
    ("bitcoin_util", "lib"),
    ("bitcoin_clientversion", "lib"),
    ("bitcoin_crypto", "lib"),
    ("leveldb", "src"),
    ("crc32c", "src"),
    ("minisketch", "src"),
    ("univalue", "src/univalue"),
];

const CMAKE_OPTIONS: [&str; 14] = [
    "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
    "-DBUILD_CLI=ON",
    "-DBUILD_DAEMON=ON",
    "-DENABLE_WALLET=OFF",
    "-DBUILD_TESTS=OFF",
    "-DBUILD_BENCH=OFF",
    "-DBUILD_TX=OFF",
    "-DBUILD_UTIL=OFF",
    "-DBUILD_BITCOIN_BIN=OFF",
    "-DBUILD_KERNEL_LIB=OFF",
    "-DENABLE_EXTERNAL_SIGNER=OFF",
    "-DENABLE_IPC=OFF",
    "-DWITH_EMBEDDED_ASMAP=OFF",
    "-DBUILD_FUZZ_BINARY=OFF",
];

const SHIM_FILES: [&str; 20] = [
    "addresses.cpp",
    "args.cpp",
    "blocks.cpp",
    "chain.cpp",
    "compact.cpp",
    "events.cpp",
    "filters.cpp",
    "flush.cpp",
    "index_repair.cpp",
    "life.cpp",
    "load.cpp",
    "log.cpp",
    "mempool.cpp",
    "peers.cpp",
    "position_repair.cpp",
    "private.cpp",
    "relay.cpp",
    "rpc.cpp",
    "rules.cpp",
    "unconfirmed.cpp",
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=KEYLESS_CORE_BUILD");
    let source = core_source()?;
    let build = core_build_dir()?;
    configure_core(&source, &build)?;
    build_core(&build)?;
    build_shim(&source, &build);
    link(&build)?;
    println!("cargo:rustc-env=KEYLESS_CORE_SOURCE={}", source.display());
    Ok(())
}

/// The vendored tree: inside the crate that Cargo fetched, wherever that is.
fn core_source() -> Result<PathBuf> {
    let manifest = env_path("CARGO_MANIFEST_DIR")?.join("Cargo.toml");
    // Without network first. The crate is fetched by the second call on a fresh CARGO_HOME: Cargo itself skips it, for it
    // is an optional dependency (this script compiles its sources, not its build script).
    for offline in [true, false] {
        let mut command = Command::new(env_path("CARGO")?);
        command.args(["metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform"]);
        command.arg(env::var("TARGET")?).arg("--manifest-path").arg(&manifest);
        if offline {
            command.arg("--offline");
        }
        let output = command.output()?;
        if !output.status.success() {
            if offline {
                continue;
            }
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        return tree_in(&String::from_utf8(output.stdout)?);
    }
    Err("cargo metadata did not run".into())
}

/// Finds `manifest_path` of the crate in the metadata; a JSON parser would be a build dependency for one string.
fn tree_in(metadata: &str) -> Result<PathBuf> {
    let manifests = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    for manifest in manifests {
        let path = Path::new(manifest);
        let folder = path.parent().ok_or("manifest without folder")?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(CORE_CRATE) {
            return Ok(folder.join("bitcoin"));
        }
    }
    Err(format!("{CORE_CRATE} is not among the packages").into())
}

/// `OUT_DIR` is `<target>/<profile>/build/<crate>/out`.
fn core_build_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("KEYLESS_CORE_BUILD") {
        return Ok(PathBuf::from(dir));
    }
    let out = env_path("OUT_DIR")?;
    let profile = out.ancestors().nth(3).ok_or("OUT_DIR is not where Cargo puts it")?;
    // With --target there is one more level.
    let parent = profile.parent().ok_or("OUT_DIR is not where Cargo puts it")?;
    let target = if parent.file_name().is_some_and(|name| Some(name) == env::var_os("TARGET").as_deref()) {
        parent.parent().ok_or("OUT_DIR is not where Cargo puts it")?
    } else {
        parent
    };
    Ok(target.join("core"))
}

fn configure_core(source: &Path, build: &Path) -> Result<()> {
    let mut command = Command::new("cmake");
    command.arg("-S").arg(source).arg("-B").arg(build).args(CMAKE_OPTIONS);
    if !build.join("CMakeCache.txt").exists() && found("ninja") {
        command.args(["-G", "Ninja"]);
    }
    if found("ccache") {
        command.args(["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]);
    }
    run(&mut command)
}

fn build_core(build: &Path) -> Result<()> {
    let mut command = Command::new("cmake");
    command.arg("--build").arg(build).arg("--target");
    command.args(LIBRARIES.iter().map(|(name, _)| *name));
    command.arg("--parallel").arg(env::var("NUM_JOBS").unwrap_or_else(|_| "2".into()));
    // Cargo's jobserver speaks to make, which would complain about flags it cannot use.
    command.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS");
    run(&mut command)
}

fn build_shim(source: &Path, build: &Path) {
    let src = source.join("src");
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++20").warnings(false).extra_warnings(false).debug(false).opt_level(2);
    shim.include(build.join("src")).include(&src);
    for folder in ["leveldb/include", "minisketch/include", "univalue/include", "secp256k1/include"] {
        shim.include(src.join(folder));
    }
    // As Core compiles itself; never NDEBUG.
    shim.define("BOOST_ALL_NO_LIB", None);
    shim.define("BOOST_MULTI_INDEX_DISABLE_SERIALIZATION", None);
    shim.define("BOOST_NO_CXX98_FUNCTION_BASE", None);
    for flag in ["-fno-extended-identifiers", "-fstack-reuse=none", "-fstack-protector-all", "-Wall", "-Wextra"] {
        shim.flag(flag);
    }
    shim.flag("-Wno-unused-parameter");
    let root = format!("-fmacro-prefix-map={}=.", src.display());
    shim.flag(&root);
    for file in SHIM_FILES {
        shim.file(Path::new("shim").join(file));
    }
    // Linked whole, before Core's archives: it defines what bitcoind.cpp and dummywallet.cpp would.
    shim.cargo_metadata(false).compile("keyless_shim");
}

fn link(build: &Path) -> Result<()> {
    let out = env_path("OUT_DIR")?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=keyless_shim");
    for (name, folder) in LIBRARIES {
        // Under names of our own: secp256k1-sys also brings a libsecp256k1.a, with other symbols.
        let file = build.join(folder).join(format!("lib{name}.a"));
        let own = out.join(format!("libkeyless_core_{name}.a"));
        if own.exists() {
            std::fs::remove_file(&own)?;
        }
        if std::fs::hard_link(&file, &own).is_err() {
            std::fs::copy(&file, &own)?;
        }
        println!("cargo:rustc-link-lib=static:-bundle=keyless_core_{name}");
    }
    println!("cargo:rustc-link-lib=dylib=stdc++");
    Ok(())
}

fn found(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

fn env_path(name: &str) -> Result<PathBuf> {
    let value: OsString = env::var_os(name).ok_or_else(|| format!("{name} is not set"))?;
    Ok(PathBuf::from(value))
}
