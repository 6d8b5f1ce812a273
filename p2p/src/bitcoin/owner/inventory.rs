//! `inv`, `getdata`, `notfound`, `mempool`: who has what, and handing it out.

use std::collections::HashMap;

use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::p2p::message_blockdata::Inventory;
use bitcoin::{Block, BlockHash, Transaction};

use super::handshake::misbehaving;
use super::{Owner, Step, gone};
use crate::bitcoin::chain::TxRef;
use crate::bitcoin::message::{self, inventory_name};
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// Core's `MAX_PEER_TX_ANNOUNCEMENTS`.
const MAX_ANNOUNCEMENTS: usize = 5_000;
/// `MSG_FILTERED_BLOCK`.
pub(super) const FILTERED_BLOCK: u32 = 3;
/// Core's `MAX_INV_SZ`.
pub(super) const MAX_INV: usize = 50_000;

/// Transactions of the newest block, by either id.
#[derive(Debug)]
pub(super) struct RecentBlock {
    hash: BlockHash,
    transactions: Vec<Transaction>,
    positions: HashMap<[u8; 32], usize>,
}

impl RecentBlock {
    fn new(hash: BlockHash, transactions: Vec<Transaction>) -> Self {
        let mut positions = HashMap::new();
        for (at, tx) in transactions.iter().enumerate() {
            positions.insert(tx.compute_txid().to_byte_array(), at);
            positions.insert(tx.compute_wtxid().to_byte_array(), at);
        }
        Self { hash, transactions, positions }
    }

    fn find(&self, tx: &TxRef) -> Option<&Transaction> {
        self.transactions.get(*self.positions.get(&tx.bytes())?)
    }
}

/// The transaction that an item names, if it names one.
pub(super) fn tx_ref(item: &Inventory) -> Option<TxRef> {
    match item {
        Inventory::Transaction(id) | Inventory::WitnessTransaction(id) => Some(TxRef::Txid(*id)),
        Inventory::WTx(id) => Some(TxRef::Wtxid(*id)),
        _ => None,
    }
}

fn block_hash(item: &Inventory) -> Option<BlockHash> {
    match item {
        Inventory::Block(hash) | Inventory::WitnessBlock(hash) | Inventory::CompactBlock(hash) => Some(*hash),
        Inventory::Unknown { inv_type: FILTERED_BLOCK, hash } => Some(BlockHash::from_byte_array(*hash)),
        _ => None,
    }
}

impl Owner {
    /// Core's `RejectIncomingTxs`: peers we told not to send transactions.
    pub(super) fn rejects_txs(&self, peer: &Peer) -> bool {
        peer.is_block_only()
            || peer.kind == crate::bitcoin::handle::ConnectionType::Feeler
            || (self.config.blocks_only && !peer.has(Permissions::RELAY))
    }

    pub(super) fn on_inv(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let items: Vec<Inventory> = message::decode(payload)?;
        if items.len() > MAX_INV {
            misbehaving(peer, &format!("inv message size = {}", items.len()));
            return Ok(());
        }
        let rejects = self.rejects_txs(peer);
        let syncing = self.chain.is_initial_block_download();
        let mut newest = None;
        for item in &items {
            match item {
                Inventory::Transaction(_) if peer.wtxid_relay => {}
                Inventory::WTx(_) if !peer.wtxid_relay => {}
                Inventory::Block(hash) => {
                    if self.on_block_inv(peer, item, *hash) {
                        newest = Some(*hash);
                    }
                }
                _ => match tx_ref(item) {
                    Some(_) if rejects => {
                        let name = inventory_name(item);
                        let hash = name.rsplit(' ').next().unwrap_or_default();
                        return Err(gone(format!(
                            "transaction ({hash}) inv sent in violation of protocol, {}",
                            peer.disconnecting()
                        )));
                    }
                    Some(tx) => self.on_tx_inv(peer, item, tx, syncing),
                    None => tracing::debug!(
                        target: "net",
                        "Unknown inv type \"{}\" received from peer={}", inventory_name(item), peer.id
                    ),
                },
            }
        }
        if let Some(hash) = newest {
            self.headers_for_inv(peer, hash);
        }
        Ok(())
    }

    /// True if the block is to be asked for.
    fn on_block_inv(&mut self, peer: &mut Peer, item: &Inventory, hash: BlockHash) -> bool {
        let known = self.chain.header(&hash).is_some();
        tracing::debug!(
            target: "net",
            "got inv: {} {} peer={}", inventory_name(item), if known { "have" } else { "new" }, peer.id
        );
        self.learn_block(peer, hash);
        !known && !self.chain.is_loading_blocks() && !self.downloads.is_requested(&hash)
    }

    fn on_tx_inv(&mut self, peer: &mut Peer, item: &Inventory, tx: TxRef, syncing: bool) {
        peer.knows_tx(tx.bytes());
        if syncing {
            return;
        }
        let known = self.chain.announced(peer.id, tx);
        tracing::debug!(
            target: "net",
            "got inv: {} {} peer={}", inventory_name(item), if known { "have" } else { "new" }, peer.id
        );
    }

    /// An unknown block was announced: ask for headers, but in the beginning from one more peer a block only.
    fn headers_for_inv(&mut self, peer: &mut Peer, hash: BlockHash) {
        let first = !peer.inv_triggered_getheaders && self.last_inv_headers_trigger != Some(hash);
        if !peer.sync_started && !first {
            return;
        }
        let locator = self.chain.locator(None);
        if self.ask_headers(peer, locator) {
            let height = self.chain.best_header().height;
            tracing::debug!(target: "net", "getheaders ({height}) {hash} to peer={}", peer.id);
        }
        if !peer.sync_started {
            peer.inv_triggered_getheaders = true;
            self.last_inv_headers_trigger = Some(hash);
        }
    }

    pub(super) fn on_getdata(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let items: Vec<Inventory> = message::decode(payload)?;
        if items.len() > MAX_INV {
            misbehaving(peer, &format!("getdata message size = {}", items.len()));
            return Ok(());
        }
        tracing::debug!(target: "net", "received getdata ({} invsz) peer={}", items.len(), peer.id);
        if let Some(first) = items.first() {
            tracing::debug!(
                target: "net",
                "received getdata for: {} peer={}", inventory_name(first), peer.id
            );
        }
        if peer.is_private() {
            return self.serve_privately(peer, &items);
        }
        peer.getdata.extend(items);
        self.serve_getdata(peer)
    }

    /// Serves what was asked until the send buffer is full. Nothing else of the peer is read meanwhile, so the queue holds
    /// one message's worth at most.
    pub(super) fn serve_getdata(&mut self, peer: &mut Peer) -> Step {
        let mut missing = Vec::new();
        while !peer.link.is_congested() && !peer.overflowed {
            let Some(item) = peer.getdata.pop_front() else { break };
            if let Some(tx) = tx_ref(&item) {
                if peer.txs.is_some() && !self.serve_tx(peer, &item, tx) {
                    missing.push(item);
                }
            } else if let Some(hash) = block_hash(&item) {
                if self.is_being_connected(&hash) {
                    peer.getdata.push_front(item);
                    break;
                }
                self.send_inventory(peer, "notfound", &std::mem::take(&mut missing));
                self.serve_block(peer, &item, hash)?;
            }
        }
        self.send_inventory(peer, "notfound", &missing);
        Ok(())
    }

    /// Hands out a transaction that was in the mempool when we last announced to this peer, or left it in the last block.
    fn serve_tx(&mut self, peer: &mut Peer, item: &Inventory, tx: TxRef) -> bool {
        let last = peer.txs.as_ref().map_or(0, |txs| txs.last_inv_sequence);
        let found = self.chain.transaction(tx).filter(|found| found.sequence < last);
        let Some(found) = found else {
            let Some(raw) = self.recently_confirmed(tx, matches!(item, Inventory::Transaction(_))) else {
                return false;
            };
            self.send(peer, "tx", raw);
            return true;
        };
        let raw = match item {
            Inventory::Transaction(_) => message::transaction_without_witness(&found.raw),
            _ => Some(found.raw),
        };
        let Some(raw) = raw else { return false };
        self.send(peer, "tx", raw);
        self.chain.remove_unbroadcast(&found.txid);
        true
    }

    /// A transaction of the newest block: who was told of it before the block may still ask.
    fn recently_confirmed(&mut self, tx: TxRef, bare: bool) -> Option<Vec<u8>> {
        let tip = self.chain.tip().hash;
        if self.recent_block.as_ref().is_none_or(|recent| recent.hash != tip) {
            let block: Block = message::decode(&self.chain.read_block(&tip)?).ok()?;
            self.recent_block = Some(RecentBlock::new(tip, block.txdata));
        }
        let found = self.recent_block.as_ref()?.find(&tx)?;
        let raw = bitcoin::consensus::serialize(found);
        if bare { message::transaction_without_witness(&raw) } else { Some(raw) }
    }

    pub(super) fn on_notfound(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let items: Vec<Inventory> = message::decode(payload)?;
        if items.len() <= MAX_ANNOUNCEMENTS + crate::bitcoin::downloads::MAX_IN_FLIGHT {
            let missing: Vec<TxRef> = items.iter().filter_map(tx_ref).collect();
            self.chain.not_found(peer.id, &missing);
        }
        Ok(())
    }

    pub(super) fn on_mempool(&mut self, peer: &mut Peer) -> Step {
        let allowed = peer.has(Permissions::MEMPOOL);
        if !allowed && !self.services_for(peer).has(ServiceFlags::BLOOM) {
            if peer.has(Permissions::NO_BAN) {
                return Ok(());
            }
            return Err(gone(format!("mempool request with bloom filters disabled, {}", peer.disconnecting())));
        }
        let spent = self.uploads.reached(self.config.max_upload_bytes, false, self.chain.now());
        if !allowed && spent {
            if peer.has(Permissions::NO_BAN) {
                return Ok(());
            }
            return Err(gone(format!("mempool request with bandwidth limit reached, {}", peer.disconnecting())));
        }
        if let Some(txs) = &mut peer.txs {
            txs.send_mempool = true;
        }
        Ok(())
    }
}

/// The id a peer speaks of a transaction by.
pub(super) fn spoken_id(peer: &Peer, txid: &bitcoin::Txid, wtxid: &bitcoin::Wtxid) -> [u8; 32] {
    if peer.wtxid_relay { wtxid.to_byte_array() } else { txid.to_byte_array() }
}
