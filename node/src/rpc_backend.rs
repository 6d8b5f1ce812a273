//! What `rpc` asks of the node, answered: Core's handlers ([`KernelBackend`]), the process ([`Process`]), the Bitcoin
//! network ([`network::NetworkBackend`]).

pub mod network;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bitcoin::Network;
use keyless_kernel::{Args, Kernel, RpcCall};
use keyless_rpc::RpcError;
use keyless_rpc::backend::{Control, KernelRpc, ZmqNotification};

use crate::metrics::metrics;
use crate::publisher::Publisher;
use crate::publisher::options::Wanted;
use crate::wallets::WalletManager;

/// Core's RPC table.
#[derive(Debug, Clone)]
pub struct KernelBackend {
    kernel: Kernel,
}

impl KernelBackend {
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel }
    }
}

impl KernelRpc for KernelBackend {
    fn execute(&self, method: &str, params_json: &str, user: &str, uri: &str) -> Result<String, RpcError> {
        let call = RpcCall { method, params: params_json, uri, user, peer: "", v2: true };
        self.kernel.rpc(call).map_err(|failure| RpcError { code: failure.code, message: failure.message })
    }

    fn help(&self, method: &str) -> Option<String> {
        let params = serde_json::json!([method]).to_string();
        let text = self.kernel.rpc(RpcCall::internal("help", if method.is_empty() { "[]" } else { &params })).ok()?;
        let text: String = serde_json::from_str(&text).ok()?;
        (!text.starts_with("help: unknown command: ")).then_some(text)
    }

    fn warmup(&self) -> Option<String> {
        self.kernel.warmup()
    }
}

/// The process itself: start time, options, stop.
pub struct Process {
    kernel: Kernel,
    args: Args,
    wallets: Option<Arc<WalletManager>>,
    publisher: Arc<Publisher>,
    started: Instant,
}

impl Process {
    pub fn new(kernel: Kernel, args: Args, wallets: Option<Arc<WalletManager>>, publisher: Arc<Publisher>) -> Self {
        Self { kernel, args, wallets, publisher, started: Instant::now() }
    }
}

#[async_trait]
impl Control for Process {
    fn request_shutdown(&self) {
        self.kernel.request_shutdown();
    }

    fn uptime_secs(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn deprecated_rpc_enabled(&self, name: &str) -> bool {
        self.args.get_all("-deprecatedrpc").iter().any(|enabled| enabled == name)
    }

    fn is_regtest(&self) -> bool {
        self.args.chain() == Network::Regtest
    }

    fn time_secs(&self) -> i64 {
        self.kernel.time()
    }

    fn not_ready(&self) -> Option<String> {
        if self.args.chain() != Network::Regtest && self.kernel.is_initial_download().unwrap_or(true) {
            return Some("initial block download".to_owned());
        }
        self.wallets.as_ref()?.not_ready()
    }

    fn zmq_notifications(&self) -> Vec<ZmqNotification> {
        let shown = |wanted: Wanted| ZmqNotification {
            kind: wanted.topic.kind(),
            address: wanted.address,
            high_water_mark: wanted.high_water_mark,
        };
        self.publisher.active().into_iter().map(shown).collect()
    }

    fn metrics(&self) -> Option<String> {
        let mut now = self.wallets.as_ref().map(|wallets| wallets.snapshot()).unwrap_or_default();
        if let Ok(tip) = self.kernel.tip() {
            now.height = tip.height;
            let time = self.kernel.block_info(&tip.hash).ok().flatten().map(|info| i64::from(info.header.time));
            let lag = time.map_or(0, |time| self.kernel.time().saturating_sub(time));
            now.lag_seconds = u64::try_from(lag).unwrap_or(0);
        }
        Some(metrics().render(&now))
    }
}
