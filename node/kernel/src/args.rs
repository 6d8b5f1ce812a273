//! The command line, `bitcoin.conf` and `settings.json`, read by Core's own `ArgsManager`.
//!
//! Owns the option names, their help and their errors. Texts that Core prints, it prints itself, on standard error, as
//! bitcoind does; the caller only exits with 1.

use std::net::SocketAddr;
use std::os::raw::c_int;
use std::path::PathBuf;

use bitcoin::Network;

use crate::codec::Answer;
use crate::error::{ArgsError, KernelError};
use crate::ffi;

/// The options of this process, after [`Args::parse`]. Cheap to copy: the values live in Core's global `gArgs`.
#[derive(Debug, Clone, Copy)]
pub struct Args {
    _parsed: (),
}

#[derive(Clone, Copy)]
enum PathOf {
    DataDirNet = 0,
    DataDirBase = 1,
    Blocks = 2,
    Config = 3,
    DebugLog = 4,
    PidFile = 5,
}

impl Args {
    /// Declares Core's options and Keyless's, parses `argv` (program name first), reads `bitcoin.conf` and
    /// `settings.json`, makes the data directory with an empty `wallets/`, and chooses the chain. Once a process.
    pub fn parse<S: AsRef<str>>(argv: &[S]) -> Result<Args, ArgsError> {
        let mut joined = Vec::new();
        for arg in argv {
            joined.extend_from_slice(arg.as_ref().as_bytes());
            joined.push(0);
        }
        Answer::new(ffi::kl_args_parse(joined.as_slice().into())).done()?;
        Ok(Args { _parsed: () })
    }

    /// Whether `-help`, `-?` or `-h` was given.
    pub fn help_requested(&self) -> bool {
        self.get_bool("-?", false)
            || self.get_bool("-h", false)
            || self.get_bool("-help", false)
            || self.get_bool("-help-debug", false)
    }

    /// Whether `-version` was given.
    pub fn version_requested(&self) -> bool {
        self.get_bool("-version", false)
    }

    /// What to print for `-help` (all options) or, if that was asked for, `-version`, of a daemon called `program`.
    pub fn help(&self, program: &str) -> String {
        text(ffi::kl_args_help(program.into()))
    }

    /// The last value of an option, from command line, settings or configuration file, in Core's precedence.
    pub fn get(&self, name: &str) -> Option<String> {
        read(ffi::kl_args_get(name.into()), |f| f.option(|f| f.string())).flatten()
    }

    /// All values of a repeatable option.
    pub fn get_all(&self, name: &str) -> Vec<String> {
        read(ffi::kl_args_get_all(name.into()), |f| f.list(|f| f.string())).unwrap_or_default()
    }

    /// An option as Core reads truth: `-x`, `-x=1`, `-nox`, `-x=0`.
    pub fn get_bool(&self, name: &str, default: bool) -> bool {
        read(ffi::kl_args_get_bool(name.into(), c_int::from(default)), |f| f.bool()).unwrap_or(default)
    }

    /// An option as a whole number, `None` when it is not set.
    pub fn get_int(&self, name: &str) -> Option<i64> {
        read(ffi::kl_args_get_int(name.into()), |f| f.option(|f| f.i64())).flatten()
    }

    /// Whether the option was given anywhere, negated or not.
    pub fn is_set(&self, name: &str) -> bool {
        read(ffi::kl_args_is_set(name.into()), |f| f.bool()).unwrap_or(false)
    }

    /// Whether the option was given as `-no<name>` or `-<name>=0`.
    pub fn is_negated(&self, name: &str) -> bool {
        read(ffi::kl_args_is_negated(name.into()), |f| f.bool()).unwrap_or(false)
    }

    /// Sets a value unless one is given; says whether it did.
    pub fn soft_set(&self, name: &str, value: &str) -> bool {
        read(ffi::kl_args_soft_set(name.into(), value.into()), |f| f.bool()).unwrap_or(false)
    }

    /// Sets a value whatever was given.
    pub fn force_set(&self, name: &str, value: &str) {
        read(ffi::kl_args_force_set(name.into(), value.into()), |_| Ok(()));
    }

    /// An IPv4 or IPv6 address in any form that needs no resolver (`127.1`, `[::1]:8333`), as Core's `Lookup` reads it.
    pub fn numeric_address(text: &str, default_port: u16) -> Option<SocketAddr> {
        read(ffi::kl_args_numeric_address(text.into(), default_port), |f| f.option(|f| f.string()))
            .flatten()?
            .parse()
            .ok()
    }

    /// Whether hardly any peer will connect to a port, as Core's `IsBadPort` has it.
    pub fn is_bad_port(port: u16) -> bool {
        read(ffi::kl_args_bad_port(port), |f| f.bool()).unwrap_or(false)
    }

    /// The chain that was chosen.
    pub fn chain(&self) -> Network {
        match self.chain_name().as_str() {
            "test" => Network::Testnet,
            "testnet4" => Network::Testnet4,
            "signet" => Network::Signet,
            "regtest" => Network::Regtest,
            _ => Network::Bitcoin,
        }
    }

    /// Core's name of the chain: `main`, `test`, `testnet4`, `signet`, `regtest`.
    pub fn chain_name(&self) -> String {
        text(ffi::kl_args_chain())
    }

    /// The data directory of the chosen chain (`~/.bitcoin/regtest`).
    pub fn datadir_net(&self) -> PathBuf {
        path(PathOf::DataDirNet)
    }

    /// The data directory itself (`~/.bitcoin`).
    pub fn datadir(&self) -> PathBuf {
        path(PathOf::DataDirBase)
    }

    /// Where block files lie.
    pub fn blocks_dir(&self) -> PathBuf {
        path(PathOf::Blocks)
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        path(PathOf::Config)
    }

    /// The log file, `debug.log`.
    pub fn debug_log(&self) -> PathBuf {
        path(PathOf::DebugLog)
    }

    /// The pid file.
    pub fn pid_file(&self) -> PathBuf {
        path(PathOf::PidFile)
    }

    /// A value of `settings.json`, as JSON text; `None` when it is absent.
    pub fn setting(&self, name: &str) -> Option<String> {
        read(ffi::kl_settings_read(name.into()), |f| f.option(|f| f.string())).flatten()
    }

    /// Writes a value of `settings.json` (JSON text; `null` removes it) to disk.
    pub fn write_setting(&self, name: &str, json: &str) -> Result<(), KernelError> {
        Answer::new(ffi::kl_settings_write(name.into(), json.into())).done()
    }

    /// Prints `Error: <text>` on standard error and in the log, as Core does for a failed start.
    pub fn init_error(&self, text: &str) {
        read(ffi::kl_init_error(text.into()), |_| Ok(()));
    }

    /// Prints `Warning: <text>` on standard error and in the log.
    pub fn init_warning(&self, text: &str) {
        read(ffi::kl_init_warning(text.into()), |_| Ok(()));
    }
}

fn read<T>(
    buffer: ffi::Buffer,
    take: impl FnOnce(&mut crate::codec::Fields<'_>) -> Result<T, KernelError>,
) -> Option<T> {
    let answer = Answer::new(buffer);
    let result = answer.fields().and_then(|mut fields| take(&mut fields));
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(target: "kernel", %error, "option could not be read");
            None
        }
    }
}

fn text(buffer: ffi::Buffer) -> String {
    read(buffer, |f| f.string()).unwrap_or_default()
}

fn path(which: PathOf) -> PathBuf {
    PathBuf::from(text(ffi::kl_args_path(which as c_int)))
}
