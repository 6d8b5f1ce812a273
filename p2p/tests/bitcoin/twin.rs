//! A chain in memory: real headers with regtest's proof of work, blocks of a coinbase each, and a mempool that takes all.

#[path = "twin/private.rs"]
mod private;
#[path = "twin/services.rs"]
mod services;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash;
use bitcoin::p2p::ServiceFlags;
use bitcoin::{
    Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, Work,
    Wtxid, transaction,
};
use keyless_p2p::bitcoin::{
    BlockOutcome, BlockRef, Chain, ChainEvent, Gossip, Handle, HeaderInfo, HeaderRef, HeadersError, LowWorkSync,
    MempoolTx, PeerId, Snapshot, TxRef,
};
use private::Private;

struct Entry {
    header: Header,
    height: u32,
    work: Work,
    data: Option<Vec<u8>>,
}

#[derive(Default)]
struct State {
    entries: HashMap<BlockHash, Entry>,
    active: Vec<BlockHash>,
    best: Option<BlockHash>,
    mempool: HashMap<Wtxid, MempoolTx>,
    unbroadcast: HashSet<Txid>,
    sequence: u64,
    /// Parents that count as missing until they are in the mempool.
    missing: HashSet<Txid>,
    clock: Option<Duration>,
    /// As the network told last.
    peers: usize,
    /// The block whose coins were loaded without what is below it.
    snapshot: Option<BlockHash>,
    /// Blocks that are refused although their headers are fine.
    poisoned: HashSet<BlockHash>,
    /// What each peer announced, and is to be asked for.
    wanted: HashMap<PeerId, Vec<TxRef>>,
    /// Children whose parents are missing, and who sent them.
    orphans: Vec<(PeerId, Transaction)>,
    /// Addresses heard of.
    book: Vec<Gossip>,
    bad_ports: HashSet<u16>,
    private: Private,
}

#[derive(Default)]
pub struct Twin {
    state: Mutex<State>,
    listener: OnceLock<Handle>,
}

impl Twin {
    pub fn new() -> Arc<Self> {
        let twin = Self::default();
        {
            let genesis = bitcoin::constants::genesis_block(Network::Regtest);
            let mut state = twin.lock();
            let hash = genesis.block_hash();
            let entry = Entry {
                header: genesis.header,
                height: 0,
                work: genesis.header.work(),
                data: Some(serialize(&genesis)),
            };
            state.entries.insert(hash, entry);
            state.active.push(hash);
            state.best = Some(hash);
            state.sequence = 1;
        }
        Arc::new(twin)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whom to tell about new tips.
    pub fn tell(&self, handle: Handle) {
        self.listener.set(handle).unwrap();
    }

    pub fn set_time(&self, now: Duration) {
        self.lock().clock = Some(now);
    }

    pub fn set_bad_ports(&self, ports: impl Iterator<Item = u16>) {
        self.lock().bad_ports.extend(ports);
    }

    /// Takes the chain up to a known header for the active one, without its blocks.
    pub fn load_snapshot(&self, base: BlockHash) {
        let mut state = self.lock();
        let top = state.entries[&base].height;
        state.active = (0..=top).map(|height| state.ancestor(&base, height).unwrap()).collect();
        state.snapshot = Some(base);
    }

    /// How many peers the network says it has.
    pub fn peers(&self) -> usize {
        self.lock().peers
    }

    pub fn poison(&self, hash: BlockHash) {
        self.lock().poisoned.insert(hash);
    }

    /// Mines on top of `parent` (the tip by default); `salt` makes siblings differ.
    pub fn mine_on(&self, parent: Option<BlockHash>, salt: u32) -> BlockHash {
        let parent = parent.unwrap_or_else(|| self.tip().hash);
        let block = {
            let state = self.lock();
            let entry = &state.entries[&parent];
            let now = state.clock.unwrap_or_else(wall).as_secs() as u32;
            next_block(&entry.header, entry.height + 1, now, salt)
        };
        let outcome = self.accept_block(&serialize(&block), true, true);
        assert_eq!(outcome.verdict, None);
        outcome.hash
    }

    pub fn mine(&self, count: u32) -> BlockHash {
        (0..count).map(|_| self.mine_on(None, 0)).last().unwrap()
    }

    /// Puts a transaction into the mempool as `sendrawtransaction` does.
    pub fn submit(&self, tx: &Transaction) {
        let raw = serialize(tx);
        assert!(self.lock().take(tx, &raw).is_ok());
        let (txid, wtxid) = (tx.compute_txid(), tx.compute_wtxid());
        self.lock().unbroadcast.insert(txid);
        if let Some(handle) = self.listener.get() {
            handle.notify(ChainEvent::Broadcast { txid, wtxid });
        }
    }

    /// Puts a transaction into the mempool silently, as a reorg does.
    pub fn enter(&self, tx: &Transaction) {
        assert!(self.lock().take(tx, &serialize(tx)).is_ok());
    }

    /// How many transactions wait for their parents.
    pub fn orphans(&self) -> usize {
        self.lock().orphans.len()
    }

    /// Transactions that spend `parent` are orphans until it arrives.
    pub fn miss(&self, parent: Txid) {
        self.lock().missing.insert(parent);
    }

    pub fn is_unbroadcast(&self, txid: &Txid) -> bool {
        self.lock().unbroadcast.contains(txid)
    }
}

pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A block on `parent` with a coinbase alone.
pub fn next_block(parent: &Header, height: u32, now: u32, salt: u32) -> Block {
    let coinbase = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: ScriptBuf::from_bytes([&[8][..], &height.to_le_bytes(), &salt.to_le_bytes()].concat()),
            sequence: Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value: Amount::from_sat(5_000_000_000), script_pubkey: ScriptBuf::new() }],
    };
    let mut block = Block {
        header: Header {
            version: Version::TWO,
            prev_blockhash: parent.block_hash(),
            merkle_root: bitcoin::TxMerkleNode::all_zeros(),
            time: now.max(parent.time + 1),
            bits: parent.bits,
            nonce: 0,
        },
        txdata: vec![coinbase],
    };
    block.header.merkle_root = block.compute_merkle_root().unwrap();
    while block.header.validate_pow(block.header.target()).is_err() {
        block.header.nonce += 1;
    }
    block
}

/// A transaction that spends `parent` (a made-up one by default).
pub fn spend(parent: Option<Txid>, salt: u8) -> Transaction {
    let txid = parent.unwrap_or_else(|| Txid::from_byte_array([salt; 32]));
    Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(txid, 0),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[vec![salt; 10]]),
        }],
        output: vec![TxOut { value: Amount::from_sat(1_000), script_pubkey: ScriptBuf::new() }],
    }
}

impl State {
    fn ancestor(&self, of: &BlockHash, height: u32) -> Option<BlockHash> {
        let mut at = *of;
        loop {
            let entry = self.entries.get(&at)?;
            if entry.height == height {
                return Some(at);
            }
            if entry.height < height {
                return None;
            }
            at = entry.header.prev_blockhash;
        }
    }

    fn is_active(&self, hash: &BlockHash) -> bool {
        self.entries.get(hash).is_some_and(|entry| self.active.get(entry.height as usize) == Some(hash))
    }

    fn add_header(&mut self, header: &Header) -> bool {
        let hash = header.block_hash();
        if self.entries.contains_key(&hash) {
            return true;
        }
        let Some(parent) = self.entries.get(&header.prev_blockhash) else { return false };
        let (height, work) = (parent.height + 1, parent.work + header.work());
        self.entries.insert(hash, Entry { header: *header, height, work, data: None });
        let best = self.best.map(|best| self.entries[&best].work);
        if best.is_none_or(|best| work > best) {
            self.best = Some(hash);
        }
        true
    }

    /// Follows the chain with the most work of which all blocks are here.
    fn activate(&mut self) -> bool {
        let tip_work = self.entries[self.active.last().unwrap()].work;
        let mut candidates: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| e.work > tip_work && e.data.is_some())
            .map(|(h, e)| (e.work, *h))
            .collect();
        candidates.sort();
        while let Some((_, hash)) = candidates.pop() {
            let mut path = Vec::new();
            let mut at = hash;
            while !self.is_active(&at) && self.entries[&at].data.is_some() {
                path.push(at);
                at = self.entries[&at].header.prev_blockhash;
            }
            if self.is_active(&at) {
                self.active.truncate(self.entries[&at].height as usize + 1);
                self.active.extend(path.into_iter().rev());
                return true;
            }
        }
        false
    }

    /// Into the mempool, unless parents are missing.
    fn take(&mut self, tx: &Transaction, raw: &[u8]) -> Result<(), Vec<Txid>> {
        let (txid, wtxid) = (tx.compute_txid(), tx.compute_wtxid());
        let parents: Vec<Txid> =
            tx.input.iter().map(|input| input.previous_output.txid).filter(|id| self.missing.contains(id)).collect();
        if !parents.is_empty() {
            return Err(parents);
        }
        self.missing.remove(&txid);
        let sequence = self.sequence;
        self.sequence += 1;
        let vsize = tx.vsize() as u64;
        self.mempool.insert(wtxid, MempoolTx { raw: raw.to_vec(), txid, wtxid, fee_sat: vsize, vsize, sequence });
        Ok(())
    }

    fn after(&self, locator: &[BlockHash]) -> usize {
        locator.iter().find(|hash| self.is_active(hash)).map_or(1, |hash| self.entries[hash].height as usize + 1)
    }
}

impl Chain for Twin {
    fn now(&self) -> Duration {
        self.lock().clock.unwrap_or_else(wall)
    }

    fn peers_connected(&self, count: usize) {
        self.lock().peers = count;
    }

    fn tip(&self) -> BlockRef {
        let state = self.lock();
        BlockRef { hash: *state.active.last().unwrap(), height: state.active.len() as u32 - 1 }
    }

    fn best_header(&self) -> HeaderRef {
        let state = self.lock();
        let hash = state.best.unwrap();
        let entry = &state.entries[&hash];
        HeaderRef { hash, height: entry.height, chain_work: entry.work }
    }

    fn header(&self, hash: &BlockHash) -> Option<HeaderInfo> {
        let state = self.lock();
        let entry = state.entries.get(hash)?;
        Some(HeaderInfo {
            header: entry.header,
            height: entry.height,
            chain_work: entry.work,
            have_data: entry.data.is_some(),
            in_active_chain: state.is_active(hash),
            failed: false,
            validated: entry.data.is_some(),
        })
    }

    fn active_hash(&self, height: u32) -> Option<BlockHash> {
        self.lock().active.get(height as usize).copied()
    }

    fn locator(&self, from: Option<&BlockHash>) -> Vec<BlockHash> {
        let state = self.lock();
        let start = from.copied().or(state.best).unwrap();
        let mut height = i64::from(state.entries[&start].height);
        let (mut step, mut hashes) = (1, Vec::new());
        while height > 0 {
            hashes.push(state.ancestor(&start, height as u32).unwrap());
            if hashes.len() > 10 {
                step *= 2;
            }
            height -= step;
        }
        hashes.push(state.active[0]);
        hashes
    }

    fn headers_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<Header> {
        let state = self.lock();
        let mut headers = Vec::new();
        for hash in state.active.iter().skip(state.after(locator)).take(max) {
            headers.push(state.entries[hash].header);
            if hash == stop {
                break;
            }
        }
        headers
    }

    fn block_hashes_after(&self, locator: &[BlockHash], stop: &BlockHash, max: usize) -> Vec<BlockRef> {
        self.headers_after(locator, stop, max)
            .iter()
            .map(|header| {
                let hash = header.block_hash();
                BlockRef { hash, height: self.lock().entries[&hash].height }
            })
            .collect()
    }

    fn low_work_sync(&self, _: &BlockHash, _: Work, _: u64) -> Option<Box<dyn LowWorkSync>> {
        None
    }

    fn accept_headers(&self, headers: &[Header]) -> Result<HeaderRef, HeadersError> {
        let mut state = self.lock();
        for header in headers {
            if !state.add_header(header) {
                return Err(HeadersError { reason: "prev-blk-not-found".into(), punish: true, unconnecting: true });
            }
        }
        let hash = headers.last().unwrap().block_hash();
        let entry = &state.entries[&hash];
        Ok(HeaderRef { hash, height: entry.height, chain_work: entry.work })
    }

    fn accept_block(&self, raw: &[u8], _requested: bool, _min_pow_checked: bool) -> BlockOutcome {
        let refuse = |hash, reason: &str| BlockOutcome {
            hash,
            new: false,
            valid: false,
            verdict: Some(reason.to_owned()),
            malformed: None,
            detail: String::new(),
            punish: true,
        };
        let Ok(block) = deserialize::<Block>(raw) else {
            return BlockOutcome {
                hash: BlockHash::all_zeros(),
                new: false,
                valid: false,
                verdict: Some("malformed".into()),
                malformed: None,
                detail: String::new(),
                punish: false,
            };
        };
        let hash = block.block_hash();
        if !block.check_merkle_root() {
            return refuse(hash, "bad-txnmrklroot");
        }
        let (new, tip) = {
            let mut state = self.lock();
            if state.poisoned.contains(&hash) {
                return refuse(hash, "bad-cb-amount");
            }
            if !state.add_header(&block.header) {
                return refuse(hash, "prev-blk-not-found");
            }
            let entry = state.entries.get_mut(&hash).unwrap();
            let new = entry.data.is_none();
            entry.data = Some(raw.to_vec());
            let moved = state.activate();
            let tip = *state.active.last().unwrap();
            (new, moved.then_some((tip, state.active.len() as u32 - 1)))
        };
        if let (Some((hash, height)), Some(handle)) = (tip, self.listener.get()) {
            handle.notify(ChainEvent::TipChanged { hash, height, initial_download: self.is_initial_block_download() });
        }
        BlockOutcome {
            hash,
            new,
            valid: tip.is_some(),
            verdict: None,
            malformed: None,
            detail: String::new(),
            punish: false,
        }
    }

    fn ancestor(&self, of: &BlockHash, height: u32) -> Option<BlockHash> {
        self.lock().ancestor(of, height)
    }

    fn is_loading_blocks(&self) -> bool {
        false
    }

    fn missing_blocks(&self, to: &BlockHash, window: u32, max: usize) -> Vec<BlockRef> {
        let state = self.lock();
        let mut path = Vec::new();
        let mut at = *to;
        while !state.is_active(&at) {
            let Some(entry) = state.entries.get(&at) else { return Vec::new() };
            path.push((at, entry.height, entry.data.is_some()));
            at = entry.header.prev_blockhash;
        }
        let end = state.entries[&at].height.saturating_add(window);
        path.iter()
            .rev()
            .filter(|(_, height, have)| !have && *height <= end)
            .map(|(hash, height, _)| BlockRef { hash: *hash, height: *height })
            .take(max)
            .collect()
    }

    fn missing_from(&self, from: u32, to: &BlockHash, max: usize) -> Vec<BlockRef> {
        let state = self.lock();
        let top = state.entries.get(to).map_or(0, |entry| entry.height);
        let path = (from..=top).filter_map(|height| Some(BlockRef { hash: state.ancestor(to, height)?, height }));
        path.filter(|block| state.entries[&block.hash].data.is_none()).take(max).collect()
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let state = self.lock();
        let base = state.snapshot?;
        let top = state.entries[&base].height;
        let lowest = (1..=top).filter_map(|height| state.ancestor(&base, height));
        let done = lowest.take_while(|hash| state.entries[hash].data.is_some()).count() as u32;
        let block = |height| BlockRef { hash: state.ancestor(&base, height).unwrap(), height };
        (done < top).then(|| Snapshot { done: block(done), base: block(top) })
    }

    fn services(&self) -> ServiceFlags {
        let limited = ServiceFlags::NETWORK_LIMITED | ServiceFlags::WITNESS;
        if self.snapshot().is_some() { limited } else { limited | ServiceFlags::NETWORK }
    }

    fn read_block(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        self.lock().entries.get(hash)?.data.clone()
    }

    fn is_initial_block_download(&self) -> bool {
        let tip = self.tip();
        let time = self.lock().entries[&tip.hash].header.time;
        u64::from(time) + 24 * 60 * 60 < self.now().as_secs()
    }

    fn minimum_chain_work(&self) -> Work {
        Work::from_be_bytes([0; 32])
    }

    fn prune_height(&self) -> u32 {
        0
    }

    fn transaction(&self, tx: TxRef) -> Option<MempoolTx> {
        let state = self.lock();
        match tx {
            TxRef::Wtxid(id) => state.mempool.get(&id).cloned(),
            TxRef::Txid(id) => state.mempool.values().find(|tx| tx.txid == id).cloned(),
        }
    }

    fn has_transaction(&self, tx: TxRef) -> bool {
        self.transaction(tx).is_some()
    }

    fn mempool_ids(&self) -> Vec<(Txid, Wtxid)> {
        self.lock().mempool.values().map(|tx| (tx.txid, tx.wtxid)).collect()
    }

    fn mempool_sequence(&self) -> u64 {
        self.lock().sequence
    }

    fn fee_filter(&self) -> u64 {
        100
    }

    fn unbroadcast(&self) -> Vec<(Txid, Wtxid)> {
        let state = self.lock();
        state.mempool.values().filter(|tx| state.unbroadcast.contains(&tx.txid)).map(|tx| (tx.txid, tx.wtxid)).collect()
    }

    fn remove_unbroadcast(&self, txid: &Txid) {
        self.lock().unbroadcast.remove(txid);
    }
}
