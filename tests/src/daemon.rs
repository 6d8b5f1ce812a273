//! One node process with a data directory of its own.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rpc::{RpcClient, RpcFailure};
use crate::wait::{until, until_polling};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions whether it answers.
const START_POLL: Duration = Duration::from_millis(20);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Keyless,
    /// The real one, built from the vendored source by `contrib/core`.
    Core,
}

impl Kind {
    /// The daemon's binary.
    pub fn binary(self) -> PathBuf {
        match self {
            Self::Keyless => built("keylessd"),
            Self::Core => named_by("KEYLESS_BITCOIND", "bitcoind"),
        }
    }
}

/// A binary of this workspace: in the folder that `KEYLESS_BIN` names, else beside the test's own.
pub fn built(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("KEYLESS_BIN") {
        return PathBuf::from(folder).join(name);
    }
    let mut folder = std::env::current_exe().expect("a test has a path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// Where `contrib` keeps what it makes.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("KEYLESS_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).expect("HOME is set");
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("keyless")
    })
}

/// bitcoind or bitcoin-cli: named by the environment, else where `contrib/core` builds them.
pub fn named_by(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = cache_dir().join("core/build/bin").join(name);
    assert!(path.exists(), "{} is missing: run contrib/core", path.display());
    path
}

/// The real bitcoin-cli.
pub fn bitcoin_cli() -> PathBuf {
    named_by("KEYLESS_BITCOIN_CLI", "bitcoin-cli")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    socket.local_addr().expect("a bound socket has an address").port()
}

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Options {
    pub kind: Kind,
    /// Another binary than that of the kind.
    pub program: Option<PathBuf>,
    /// Lines of the `[regtest]` section.
    pub conf: Vec<String>,
    /// Arguments after `-datadir`.
    pub args: Vec<String>,
    /// Environment of the process.
    pub env: Vec<(String, String)>,
}

impl Options {
    pub fn keyless() -> Self {
        Self {
            kind: Kind::Keyless,
            program: None,
            conf: vec!["fallbackfee=0.0002".into()],
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    pub fn core() -> Self {
        Self { kind: Kind::Core, program: None, conf: Vec::new(), args: Vec::new(), env: Vec::new() }
    }

    #[must_use]
    pub fn conf(mut self, line: impl Into<String>) -> Self {
        self.conf.push(line.into());
        self
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// A node: its folder outlives its process, which may be started again.
pub struct Daemon {
    pub options: Options,
    folder: TempDir,
    child: Option<Child>,
    rpc_port: u16,
    pub p2p_port: u16,
}

impl Daemon {
    /// A folder with a configuration, not started.
    pub fn new(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("keyless-test-").tempdir().expect("a temporary folder");
        let daemon = Self { options, folder, child: None, rpc_port: free_port(), p2p_port: free_port() };
        daemon.configure();
        daemon
    }

    /// Made and started.
    pub fn start_new(options: Options) -> Self {
        let mut daemon = Self::new(options);
        daemon.start();
        daemon
    }

    /// Writes `bitcoin.conf` anew from the options.
    pub fn configure(&self) {
        let mut lines = vec![
            "regtest=1".to_owned(),
            "[regtest]".to_owned(),
            format!("rpcport={}", self.rpc_port),
            format!("bind=127.0.0.1:{}", self.p2p_port),
            "listenonion=0".to_owned(),
            "natpmp=0".to_owned(),
            "dnsseed=0".to_owned(),
            "fixedseeds=0".to_owned(),
            "printtoconsole=0".to_owned(),
        ];
        lines.extend(self.options.conf.iter().cloned());
        fs::write(self.datadir().join("bitcoin.conf"), lines.join("\n") + "\n").expect("bitcoin.conf can be written");
    }

    pub fn datadir(&self) -> &Path {
        self.folder.path()
    }

    /// The network's folder.
    pub fn net_dir(&self) -> PathBuf {
        self.datadir().join("regtest")
    }

    fn stderr_file(&self) -> PathBuf {
        self.datadir().join("stderr")
    }

    /// What the last process wrote to standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_file()).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.net_dir().join("debug.log")).unwrap_or_default()).into_owned()
    }

    /// The process, started but perhaps not yet answering.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "runs already");
        let _ = fs::remove_file(self.net_dir().join(".cookie"));
        let stderr = fs::File::create(self.stderr_file()).expect("a file for stderr");
        let program = self.options.program.clone().unwrap_or_else(|| self.options.kind.binary());
        let mut command = Command::new(program);
        command.arg(format!("-datadir={}", self.datadir().display())).args(&self.options.args);
        command.envs(self.options.env.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // SAFETY: prctl is async-signal-safe; a test that dies must not leave its daemons behind.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.child = Some(command.spawn().expect("the daemon can be started"));
    }

    /// Starts and waits until RPC answers.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    pub fn wait_ready(&mut self) {
        self.wait_ready_polling(START_POLL);
    }

    /// The same, asking every `pause`.
    pub fn wait_ready_polling(&mut self, pause: Duration) {
        until_polling("the node answers", pause, START_DEADLINE, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("the node ended with {status}: {}\n{}", self.stderr(), tail(&self.log()));
            }
            let client = self.try_client()?;
            client.try_call("getblockcount", json!([])).ok()
        });
    }

    fn try_client(&self) -> Option<RpcClient> {
        let cookie = fs::read_to_string(self.net_dir().join(".cookie")).ok()?;
        Some(RpcClient::new(SocketAddr::from((Ipv4Addr::LOCALHOST, self.rpc_port)), &cookie))
    }

    /// A client with the cookie of the running process.
    #[track_caller]
    pub fn rpc(&self) -> RpcClient {
        self.try_client().expect("a running node has a cookie")
    }

    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.rpc().call(method, params)
    }

    #[track_caller]
    pub fn fail(&self, method: &str, params: Value) -> RpcFailure {
        self.rpc().fail(method, params)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    pub fn rpc_port(&self) -> u16 {
        self.rpc_port
    }

    pub fn height(&self) -> i64 {
        self.call("getblockcount", json!([])).as_i64().expect("a height")
    }

    pub fn best(&self) -> String {
        self.call("getbestblockhash", json!([])).as_str().expect("a hash").to_owned()
    }

    /// Runs a command-line client against this node.
    pub fn cli<S: Into<OsString>>(&self, binary: &Path, args: impl IntoIterator<Item = S>) -> std::process::Output {
        let mut command = Command::new(binary);
        command.arg(format!("-datadir={}", self.datadir().display())).args(args.into_iter().map(Into::into));
        command.stdin(Stdio::null()).output().expect("the client can be started")
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a pid fits");
        // SAFETY: plain kill(2) on a child that has not been waited for.
        unsafe { libc::kill(pid, signal) };
    }

    /// Waits for the end of the process.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        until("the node ends", STOP_DEADLINE, || child.try_wait().expect("a child can be waited for"))
    }

    /// `stop`, and everything that a clean stop promises.
    pub fn stop(&mut self) {
        self.stop_saying("");
        assert_eq!(self.stderr(), "", "a clean stop writes nothing to stderr");
    }

    /// The same for a node whose every line on stderr is expected to have this in it.
    pub fn stop_saying(&mut self, expected: &str) {
        self.call("stop", json!([]));
        let status = self.wait_end();
        assert_eq!(status.code(), Some(0), "exit code; stderr: {}\n{}", self.stderr(), tail(&self.log()));
        let stderr = self.stderr();
        assert!(stderr.lines().all(|line| line.contains(expected)), "{stderr}");
        assert!(!self.net_dir().join(".cookie").exists(), "the cookie is removed at stop");
    }

    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait_end();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            // KEYLESS_KEEP=1: a folder that made a test fail stays to be looked at.
            self.folder.disable_cleanup(std::env::var_os("KEYLESS_KEEP").is_some());
            eprintln!(
                "--- {:?} {}\n{}{}",
                self.options.kind,
                self.datadir().display(),
                self.stderr(),
                tail(&self.log())
            );
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
