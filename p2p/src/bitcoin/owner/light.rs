//! What light clients ask: block filters (BIP157), and blocks and transactions by their bloom filter (BIP37).

use bitcoin::BlockHash;
use bitcoin::p2p::ServiceFlags;

use super::handshake::misbehaving;
use super::{Owner, Step, gone};
use crate::bitcoin::message::Reader;
use crate::bitcoin::peer::Peer;
use crate::bitcoin::permissions::Permissions;

/// The only kind of block filter there is.
const BASIC: u8 = 0;
/// Core's `MAX_GETCFILTERS_SIZE`.
const MAX_FILTERS: u32 = 1_000;
/// Core's `MAX_GETCFHEADERS_SIZE`.
const MAX_FILTER_HEADERS: u32 = 2_000;

/// A checked request for filters.
struct FilterRequest {
    start: u32,
    stop: BlockHash,
}

impl Owner {
    /// Services as this peer is told of them.
    pub(super) fn services_for(&self, peer: &Peer) -> ServiceFlags {
        let all = self.services();
        if peer.has(Permissions::BLOOM_FILTER) { all | ServiceFlags::BLOOM } else { all }
    }

    /// Core's `PrepareBlockFilterRequest`. `None`: ignored.
    fn filter_request(
        &self,
        peer: &Peer,
        kind: u8,
        start: u32,
        stop: BlockHash,
        most: u32,
    ) -> Result<FilterRequest, super::Halt> {
        if kind != BASIC || !self.services().has(ServiceFlags::COMPACT_FILTERS) {
            return Err(gone(format!(
                "peer requested unsupported block filter type: {kind}, {}",
                peer.disconnecting()
            )));
        }
        let Some(info) = self.chain.header(&stop).filter(|info| self.may_serve(info)) else {
            return Err(gone(format!("peer requested invalid block hash: {stop}, {}", peer.disconnecting())));
        };
        if start > info.height {
            return Err(gone(format!(
                "peer sent invalid getcfilters/getcfheaders with start height {start} and stop height {}, {}",
                info.height,
                peer.disconnecting()
            )));
        }
        if info.height - start >= most {
            return Err(gone(format!(
                "peer requested too many cfilters/cfheaders: {} / {most}, {}",
                info.height - start + 1,
                peer.disconnecting()
            )));
        }
        Ok(FilterRequest { start, stop })
    }

    pub(super) fn on_get_filters(&mut self, peer: &mut Peer, command: &str, payload: &[u8]) -> Step {
        let mut reader = Reader(payload);
        let kind: u8 = reader.value()?;
        let start: u32 = if command == "getcfcheckpt" { 0 } else { reader.value()? };
        let stop: BlockHash = reader.value()?;
        let (answer, payloads) = match command {
            "getcfilters" => {
                let ask = self.filter_request(peer, kind, start, stop, MAX_FILTERS)?;
                ("cfilter", self.chain.filters(ask.start, &ask.stop))
            }
            "getcfheaders" => {
                let ask = self.filter_request(peer, kind, start, stop, MAX_FILTER_HEADERS)?;
                ("cfheaders", self.chain.filter_headers(ask.start, &ask.stop).map(|payload| vec![payload]))
            }
            _ => {
                let ask = self.filter_request(peer, kind, 0, stop, u32::MAX)?;
                ("cfcheckpt", self.chain.filter_checkpoints(&ask.stop).map(|payload| vec![payload]))
            }
        };
        if payloads.is_none() {
            tracing::debug!(
                target: "net",
                "Failed to find block filter in index: filter_type=basic, start_height={start}, stop_hash={stop}"
            );
        }
        for payload in payloads.into_iter().flatten() {
            self.send(peer, answer, payload);
        }
        Ok(())
    }

    pub(super) fn on_bloom(&mut self, peer: &mut Peer, command: &str, payload: &[u8]) -> Step {
        if !self.services_for(peer).has(ServiceFlags::BLOOM) {
            return Err(gone(format!(
                "{command} received despite not offering bloom services, {}",
                peer.disconnecting()
            )));
        }
        match command {
            "filterload" => {
                if !self.chain.bloom_load(peer.id, payload)? {
                    misbehaving(peer, "too-large bloom filter");
                } else if let Some(txs) = &mut peer.txs {
                    txs.wanted = true;
                    txs.bloom = true;
                }
            }
            "filteradd" => {
                if !self.chain.bloom_add(peer.id, payload)? {
                    misbehaving(peer, "bad filteradd message");
                }
            }
            _ => {
                self.chain.bloom_clear(peer.id);
                if let Some(txs) = &mut peer.txs {
                    txs.wanted = true;
                    txs.bloom = false;
                }
            }
        }
        Ok(())
    }

    /// A `getdata` for a block as the peer's filter sees it; without a filter there is no answer.
    pub(super) fn serve_filtered_block(&mut self, peer: &mut Peer, hash: &BlockHash) {
        let Some((merkle_block, transactions)) = self.chain.bloom_block(peer.id, hash) else { return };
        self.send(peer, "merkleblock", merkle_block);
        for raw in transactions {
            self.send(peer, "tx", raw);
        }
    }
}
