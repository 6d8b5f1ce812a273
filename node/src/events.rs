//! The kernel's notifications, handed on: to the Bitcoin network, to the wallets, and to whoever subscribed by ZMQ.
//!
//! Called on Core's threads: copies, queues and returns. The receivers attach when they start; what happened before
//! they did, they read from the chain.

use std::sync::{Arc, OnceLock};

use bitcoin::consensus::deserialize;
use bitcoin::{Block, BlockHash};
use keyless_kernel::chain::BlockVerdictKind;
use keyless_kernel::{Notification, Notifications};
use keyless_p2p::bitcoin::{ChainEvent, Handle};

use crate::bitcoin_chain::punishable;
use crate::publisher::Publisher;
use crate::wallets::{ChainFeed, FeedEvent};

/// The kernel's listener.
#[derive(Default)]
pub struct Events {
    network: OnceLock<Handle>,
    wallets: OnceLock<ChainFeed>,
    publisher: OnceLock<Arc<Publisher>>,
}

impl Events {
    pub fn attach_network(&self, network: Handle) {
        // Set once, at start.
        let _ = self.network.set(network);
    }

    pub fn attach_wallets(&self, wallets: ChainFeed) {
        let _ = self.wallets.set(wallets);
    }

    pub fn attach_publisher(&self, publisher: Arc<Publisher>) {
        let _ = self.publisher.set(publisher);
    }

    /// Publishes, where anybody wants it.
    fn publish(&self, publish: impl FnOnce(&Publisher)) {
        if let Some(publisher) = self.publisher.get().filter(|publisher| !publisher.is_silent()) {
            publish(publisher);
        }
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

    fn block_connected(&self, height: u32, hash: BlockHash, raw: Vec<u8>) {
        self.tell_network(ChainEvent::BlockConnected { hash });
        // Nobody reads what is in it: a node without a wallet syncs the faster.
        let silent = self.publisher.get().is_none_or(|publisher| publisher.is_silent());
        if silent && self.wallets.get().is_none() {
            return;
        }
        let Some(block) = decoded(height, &raw) else { return };
        self.publish(|publisher| publisher.block_connected(&block, raw));
        self.tell_wallets(FeedEvent::BlockConnected { height, block });
    }
}

fn decoded(height: u32, raw: &[u8]) -> Option<Block> {
    let block = deserialize::<Block>(raw);
    if block.is_err() {
        tracing::error!(target: "kernel", height, "a block of the chain cannot be decoded");
    }
    block.ok()
}

impl Notifications for Events {
    fn notify(&self, event: Notification) {
        match event {
            Notification::TipChanged { tip, fork, initial_download } => {
                self.publish(|publisher| publisher.tip_changed(tip.hash, fork, initial_download));
                self.tell_network(ChainEvent::TipChanged { hash: tip.hash, height: tip.height, initial_download });
                self.tell_wallets(FeedEvent::TipChanged { height: tip.height });
            }
            Notification::BlockConnected { hash, height, block, background: false } => {
                self.block_connected(height, hash, block);
            }
            Notification::BlockDisconnected { hash, height, block } => {
                self.publish(|publisher| {
                    if let Some(block) = decoded(height, &block) {
                        publisher.block_disconnected(&block);
                    }
                });
                self.tell_wallets(FeedEvent::BlockDisconnected { height, hash });
            }
            Notification::NewPowValidBlock { hash, height } => {
                self.tell_network(ChainEvent::NewBlock { hash, height });
            }
            Notification::TxAdded { tx, txid, sequence, .. } => {
                self.publish(|publisher| publisher.transaction_added(&tx, txid, sequence));
                self.tell_wallets(FeedEvent::MempoolAdded { transaction: tx });
            }
            Notification::TxRemoved { txid, reason, sequence, .. } => {
                self.publish(|publisher| publisher.transaction_removed(txid, sequence));
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
