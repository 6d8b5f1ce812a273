//! The kernel's notifications, handed on: to the Bitcoin network and to the wallets.
//!
//! Called on Core's threads: copies, queues and returns. The receivers attach when they start; what happened before
//! they did, they read from the chain.

use std::sync::OnceLock;

use bitcoin::consensus::deserialize;
use bitcoin::{Block, BlockHash};
use keyless_kernel::chain::BlockVerdictKind;
use keyless_kernel::{Notification, Notifications};
use keyless_p2p::bitcoin::{ChainEvent, Handle};

use crate::bitcoin_chain::punishable;
use crate::wallets::{ChainFeed, FeedEvent};

/// The kernel's listener.
#[derive(Default)]
pub struct Events {
    network: OnceLock<Handle>,
    wallets: OnceLock<ChainFeed>,
}

impl Events {
    pub fn attach_network(&self, network: Handle) {
        // Set once, at start.
        let _ = self.network.set(network);
    }

    pub fn attach_wallets(&self, wallets: ChainFeed) {
        let _ = self.wallets.set(wallets);
    }

    fn tell_network(&self, event: ChainEvent) {
        if let Some(network) = self.network.get() {
            network.notify(event);
        }
    }

    fn tell_wallets(&self, event: FeedEvent) {
        if let Some(wallets) = self.wallets.get() {
            wallets.notify(event);
        }
    }

    fn block_connected(&self, height: u32, block: &[u8]) {
        let Ok(block) = deserialize::<Block>(block) else {
            tracing::error!(target: "kernel", height, "a connected block cannot be decoded");
            return;
        };
        self.tell_network(ChainEvent::BlockConnected { hash: block.block_hash() });
        self.tell_wallets(FeedEvent::BlockConnected { height, block });
    }
}

impl Notifications for Events {
    fn notify(&self, event: Notification) {
        match event {
            Notification::TipChanged { tip, initial_download, .. } => {
                self.tell_network(ChainEvent::TipChanged { hash: tip.hash, height: tip.height, initial_download });
                self.tell_wallets(FeedEvent::TipChanged { height: tip.height });
            }
            Notification::BlockConnected { height, block, background: false, .. } => {
                self.block_connected(height, &block);
            }
            Notification::BlockDisconnected { hash, height, .. } => {
                self.tell_wallets(FeedEvent::BlockDisconnected { height, hash });
            }
            Notification::NewPowValidBlock { hash, height } => {
                self.tell_network(ChainEvent::NewBlock { hash, height });
            }
            Notification::TxAdded { tx, .. } => {
                self.tell_wallets(FeedEvent::MempoolAdded { transaction: tx });
            }
            Notification::TxRemoved { txid, reason, .. } => {
                self.tell_wallets(FeedEvent::MempoolRemoved { txid, reason });
            }
            Notification::ChainStateFlushed { best, background: false } => {
                self.tell_wallets(FeedEvent::ChainStateFlushed { best });
            }
            Notification::RelayTransaction { txid, wtxid } => {
                self.tell_network(ChainEvent::Broadcast { txid, wtxid });
            }
            Notification::BlockChecked { hash, verdict } if verdict.kind != BlockVerdictKind::Valid => {
                let punish = punishable(verdict.kind);
                self.tell_network(ChainEvent::BlockRefused { hash, reason: verdict.reason, punish });
            }
            Notification::InitMessage(text) => tracing::info!("init message: {text}"),
            _ => {}
        }
    }

    fn fetch_block(&self, peer: i64, hash: BlockHash) -> Result<(), String> {
        let unknown = || "Peer does not exist".to_owned();
        let network = self.network.get().ok_or_else(unknown)?;
        let id = u64::try_from(peer).map_err(|_| unknown())?;
        network.fetch_block(id, hash).map_err(|error| error.to_string())
    }
}
