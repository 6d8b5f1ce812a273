//! A node in a temporary directory, its events, and blocks made for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyless_kernel::{Args, InitError, Kernel, Notification, Notifications, RpcCall, RpcFailure};
use serde_json::Value;

/// `raw(51)`: anyone can spend.
pub const ANYONE: &str = "raw(51)#8lvh9jxk";

#[derive(Default)]
pub struct Recorder {
    events: Mutex<Vec<Notification>>,
}

impl Notifications for Recorder {
    fn notify(&self, event: Notification) {
        self.events.lock().unwrap().push(event);
    }
}

impl Recorder {
    pub fn all(&self) -> Vec<Notification> {
        self.events.lock().unwrap().clone()
    }

    pub fn clear(&self) {
        self.events.lock().unwrap().clear();
    }
}

pub struct Node {
    pub args: Args,
    pub kernel: Kernel,
    pub events: Arc<Recorder>,
}

impl Node {
    /// A regtest node in `dir`, loaded and ready.
    pub fn open(dir: &Path, options: &[&str]) -> Node {
        Node::open_chain(dir, &[&["-regtest", "-checkblockindex=0"], options].concat()).unwrap()
    }

    pub fn open_chain(dir: &Path, options: &[&str]) -> Result<Node, InitError> {
        let node = Node::start(dir, options)?;
        node.kernel.load()?;
        node.kernel.ready().unwrap();
        Ok(node)
    }

    /// As far as RPC answers −28.
    pub fn start(dir: &Path, options: &[&str]) -> Result<Node, InitError> {
        let mut argv = vec!["keylessd".to_string(), format!("-datadir={}", dir.display())];
        argv.extend(options.iter().map(|option| option.to_string()));
        argv.push("-printtoconsole=0".into());
        let args = Args::parse(&argv).map_err(|error| InitError::Refused(error.to_string()))?;
        Kernel::prepare(&args)?;
        Kernel::lock_directories()?;
        let events = Arc::new(Recorder::default());
        let kernel = Kernel::start(&args, events.clone())?;
        Ok(Node { args, kernel, events })
    }

    pub fn close(self) {
        self.kernel.interrupt().unwrap();
        self.kernel.shutdown().unwrap();
    }

    pub fn try_rpc(&self, method: &str, params: Value) -> Result<Value, RpcFailure> {
        let result = self.kernel.rpc(RpcCall::internal(method, &params.to_string()))?;
        Ok(serde_json::from_str(&result).unwrap())
    }

    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params).unwrap()
    }

    pub fn mine(&self, blocks: u32) -> Vec<String> {
        let result = self.rpc("generatetodescriptor", serde_json::json!([blocks, ANYONE]));
        serde_json::from_value(result).unwrap()
    }

    /// Waits until `condition` holds of the events so far.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&[Notification]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(&self.events.all()) {
            assert!(Instant::now() < deadline, "no {what}: {:?}", self.events.all());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
