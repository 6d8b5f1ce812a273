//! Backends that answer by rote.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{AddedNode, Ban, Control, KernelRpc, NetTotals, Network, NetworkInfo, PeerInfo, Services};
use crate::error::RpcError;

/// One value plays every part.
#[derive(Default)]
pub struct Twin {
    pub warmup: Mutex<Option<String>>,
    pub stopped: AtomicBool,
    waiting: AtomicUsize,
    released: Mutex<bool>,
    signal: Condvar,
}

pub fn services(twin: &Arc<Twin>) -> Arc<Services> {
    Arc::new(Services {
        kernel: Arc::clone(twin) as Arc<dyn KernelRpc>,
        network: Arc::clone(twin) as Arc<dyn Network>,
        control: Arc::clone(twin) as Arc<dyn Control>,
        wallets: None,
    })
}

impl Twin {
    /// Lets every `waitfornewblock` return.
    pub fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.signal.notify_all();
    }

    /// Releases once a call waits, and others had the time to queue behind it.
    pub async fn release_when_waiting(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.release();
    }
}

impl KernelRpc for Twin {
    fn execute(&self, method: &str, params: &str, user: &str, uri: &str) -> Result<String, RpcError> {
        match method {
            "getblockcount" => Ok("7".into()),
            "getblockhash" => Err(RpcError::invalid_parameter("Block height out of range")),
            "waitfornewblock" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let released = self.released.lock().unwrap();
                drop(self.signal.wait_while(released, |released| !*released).unwrap());
                Ok("{}".into())
            }
            _ => Ok(format!("[\"{method}\",{params},\"{user}\",\"{uri}\"]")),
        }
    }

    fn help(&self, method: &str) -> Option<String> {
        Some(format!("{method} usage\n"))
    }

    fn warmup(&self) -> Option<String> {
        self.warmup.lock().unwrap().clone()
    }
}

impl Control for Twin {
    fn request_shutdown(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn uptime_secs(&self) -> u64 {
        5
    }

    fn deprecated_rpc_enabled(&self, _name: &str) -> bool {
        false
    }

    fn is_regtest(&self) -> bool {
        true
    }

    fn time_secs(&self) -> i64 {
        1_700_000_000
    }
}

#[async_trait]
impl Network for Twin {
    async fn network_info(&self) -> Result<NetworkInfo, RpcError> {
        Ok(NetworkInfo::default())
    }
    async fn peers(&self) -> Result<Vec<PeerInfo>, RpcError> {
        Ok(vec![PeerInfo::default()])
    }
    async fn connection_count(&self) -> Result<usize, RpcError> {
        Ok(1)
    }
    async fn ping(&self) -> Result<(), RpcError> {
        Ok(())
    }
    async fn totals(&self) -> Result<NetTotals, RpcError> {
        Ok(NetTotals::default())
    }
    fn v2_transport(&self) -> bool {
        true
    }
    async fn add_node(&self, _node: &str, _v2: bool) -> Result<bool, RpcError> {
        Ok(false)
    }
    async fn remove_node(&self, _node: &str) -> Result<bool, RpcError> {
        Ok(false)
    }
    async fn connect_once(&self, _node: &str, _v2: bool) -> Result<(), RpcError> {
        Ok(())
    }
    async fn add_connection(&self, _node: &str, _kind: &str, _v2: bool) -> Result<bool, RpcError> {
        Ok(true)
    }
    async fn disconnect_address(&self, _address: &str) -> Result<bool, RpcError> {
        Ok(false)
    }
    async fn disconnect_id(&self, _id: i64) -> Result<bool, RpcError> {
        Ok(false)
    }
    async fn added_nodes(&self) -> Result<Vec<AddedNode>, RpcError> {
        Ok(Vec::new())
    }
    async fn set_active(&self, active: bool) -> Result<bool, RpcError> {
        Ok(active)
    }
    async fn banned(&self) -> Result<Vec<Ban>, RpcError> {
        Ok(Vec::new())
    }
    async fn ban(&self, _subnet: &str, _until_secs: i64) -> Result<bool, RpcError> {
        Ok(true)
    }
    async fn unban(&self, _subnet: &str) -> Result<bool, RpcError> {
        Ok(false)
    }
    async fn clear_bans(&self) -> Result<(), RpcError> {
        Ok(())
    }
    fn default_ban_secs(&self) -> i64 {
        86_400
    }
    async fn advance_schedule(&self, _by: std::time::Duration) -> Result<(), RpcError> {
        Ok(())
    }
    async fn send_message(&self, _peer: i64, _message: &str, _payload: &[u8]) -> Result<bool, RpcError> {
        Ok(false)
    }
}
