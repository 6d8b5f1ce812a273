//! A chain and mempool in memory: enough for wallets to follow, without rules of consensus.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, FeeRate, Network, OutPoint, Script, ScriptBuf, Sequence, Transaction,
    TxIn, TxMerkleNode, TxOut, Txid, Witness, transaction,
};
use keyless_node::wallets::chain_view::{
    Ancestry, BlockFacts, BlockRef, ChainView, Estimate, MempoolEntry, MempoolRefusal, PoolMark, Tested,
};
use keyless_node::wallets::{ChainFeed, FeedEvent};
use tss_wallet::wallet::signing::PrevCoin;
use tss_wallet::wallet::spend::fees::FeeRate as PerKvb;

#[derive(Default)]
struct State {
    blocks: Vec<Block>,
    coins: HashMap<OutPoint, TxOut>,
    mempool: BTreeMap<Txid, Transaction>,
    /// Transactions that the mempool took.
    changes: u64,
    feeds: Vec<ChainFeed>,
    startup: Vec<String>,
}

pub struct FakeChain {
    network: Network,
    started: Instant,
    state: Mutex<State>,
    mines_at_once: AtomicBool,
    /// Whoever reads a block waits.
    unreadable: Mutex<bool>,
    readable: Condvar,
}

/// How long a chain that mines at once gives the wallets to take the block.
const BLOCK_HEAD_START: Duration = Duration::from_millis(300);

impl FakeChain {
    pub fn new() -> Self {
        Self::on(Network::Regtest)
    }

    pub fn on(network: Network) -> Self {
        let genesis = bitcoin::constants::genesis_block(network);
        let state = Mutex::new(State { blocks: vec![genesis], ..State::default() });
        Self {
            network,
            started: Instant::now(),
            state,
            mines_at_once: AtomicBool::new(false),
            unreadable: Mutex::new(false),
            readable: Condvar::new(),
        }
    }

    /// From now on whoever reads a block waits, or waits no more.
    pub fn hold_blocks(&self, hold: bool) {
        *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = hold;
        self.readable.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn attach(&self, feed: ChainFeed) {
        self.state().feeds.push(feed);
    }

    pub fn startup(&self) -> Vec<String> {
        self.state().startup.clone()
    }

    /// Mines the mempool, and a coinbase of 50 coins to `script`.
    pub fn mine(&self, script: &ScriptBuf) -> Vec<Transaction> {
        let mut state = self.state();
        let height = state.blocks.len() as u32;
        let parent = state.blocks.last().unwrap().header;
        let coinbase = Transaction {
            version: transaction::Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: ScriptBuf::builder().push_int(i64::from(height)).push_int(1).into_script(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut { value: Amount::from_int_btc(50), script_pubkey: script.clone() }],
        };
        let mut txdata = vec![coinbase];
        txdata.extend(std::mem::take(&mut state.mempool).into_values());
        let mut block = Block {
            header: Header {
                version: Version::TWO,
                prev_blockhash: parent.block_hash(),
                merkle_root: TxMerkleNode::all_zeros(),
                time: parent.time + 600,
                bits: CompactTarget::from_consensus(0x207f_ffff),
                nonce: 0,
            },
            txdata,
        };
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        for tx in &block.txdata {
            let txid = tx.compute_txid();
            for input in &tx.input {
                state.coins.remove(&input.previous_output);
            }
            for (vout, output) in tx.output.iter().enumerate() {
                state.coins.insert(OutPoint::new(txid, vout as u32), output.clone());
            }
        }
        state.blocks.push(block.clone());
        let feeds = state.feeds.clone();
        drop(state);
        for feed in feeds {
            feed.notify(FeedEvent::BlockConnected { height, block: block.clone() });
            feed.notify(FeedEvent::TipChanged { height });
        }
        block.txdata
    }

    /// From now on what is submitted is in a block, and the wallets know it, before the one who submits knows that it
    /// was taken.
    pub fn mine_at_once(&self) {
        self.mines_at_once.store(true, Ordering::Relaxed);
    }

    pub fn mempool_len(&self) -> usize {
        self.state().mempool.len()
    }
}

fn find(state: &State, hash: &BlockHash) -> Option<(u32, Block)> {
    let height = state.blocks.iter().position(|block| block.block_hash() == *hash)?;
    Some((height as u32, state.blocks[height].clone()))
}

impl ChainView for FakeChain {
    fn network(&self) -> Network {
        self.network
    }

    fn genesis(&self) -> BlockHash {
        self.state().blocks[0].block_hash()
    }

    fn now(&self) -> u64 {
        u64::from(self.state().blocks.last().unwrap().header.time) + self.started.elapsed().as_secs()
    }

    fn tip(&self) -> BlockRef {
        let state = self.state();
        BlockRef { hash: state.blocks.last().unwrap().block_hash(), height: state.blocks.len() as u32 - 1 }
    }

    fn is_initial_block_download(&self) -> bool {
        false
    }

    fn active_hash(&self, height: u32) -> Option<BlockHash> {
        self.state().blocks.get(height as usize).map(Block::block_hash)
    }

    fn block_facts(&self, hash: &BlockHash) -> Option<BlockFacts> {
        let (height, block) = find(&self.state(), hash)?;
        Some(BlockFacts {
            hash: *hash,
            parent: block.header.prev_blockhash,
            height,
            time: block.header.time,
            median_time: block.header.time,
            in_active_chain: true,
        })
    }

    fn read_block(&self, hash: &BlockHash) -> Option<Block> {
        let unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.readable.wait_while(unreadable, |held| *held));
        find(&self.state(), hash).map(|(_, block)| block)
    }

    fn prune_height(&self) -> Option<u32> {
        None
    }

    fn output(&self, outpoint: &OutPoint) -> Option<TxOut> {
        let state = self.state();
        let parent = state.mempool.get(&outpoint.txid);
        let unconfirmed = parent.and_then(|tx| tx.output.get(outpoint.vout as usize).cloned());
        unconfirmed.or_else(|| state.coins.get(outpoint).cloned())
    }

    fn verify_input(&self, _: &Transaction, _: usize, _: &BTreeMap<OutPoint, PrevCoin>) -> Result<(), String> {
        Err("Operation not valid with the current stack size".to_owned())
    }

    fn mempool(&self) -> Vec<MempoolEntry> {
        let state = self.state();
        state.mempool.values().map(|tx| MempoolEntry { transaction: tx.clone(), time: 0 }).collect()
    }

    fn mempool_transaction(&self, txid: &Txid) -> Option<Transaction> {
        self.state().mempool.get(txid).cloned()
    }

    fn mempool_ancestry(&self, _: &Txid) -> Option<Ancestry> {
        None
    }

    fn script_asm(&self, script: &Script) -> String {
        script.to_asm_string()
    }

    fn has_mempool_descendants(&self, txid: &Txid) -> bool {
        self.state().mempool.values().any(|tx| tx.input.iter().any(|input| input.previous_output.txid == *txid))
    }

    fn bump_fees(&self, coins: &[OutPoint], _: PerKvb) -> Vec<Amount> {
        vec![Amount::ZERO; coins.len()]
    }

    fn combined_bump_fee(&self, _: &[OutPoint], _: PerKvb) -> Option<Amount> {
        Some(Amount::ZERO)
    }

    fn fits_cluster_limits(&self, _: &Transaction) -> bool {
        true
    }

    fn submit(&self, transaction: &Transaction, _: bool) -> Result<(), MempoolRefusal> {
        let mut state = self.state();
        for input in &transaction.input {
            let spent = input.previous_output;
            let known = state.coins.contains_key(&spent) || state.mempool.contains_key(&spent.txid);
            if !known {
                return Err(MempoolRefusal("bad-txns-inputs-missingorspent".to_owned()));
            }
            if input.script_sig.is_empty() && input.witness.is_empty() {
                return Err(MempoolRefusal("mandatory-script-verify-flag-failed".to_owned()));
            }
        }
        let spends = |tx: &Transaction, coin: &OutPoint| tx.input.iter().any(|input| input.previous_output == *coin);
        let txid = transaction.compute_txid();
        let rivals: Vec<Transaction> = state
            .mempool
            .values()
            .filter(|tx| tx.compute_txid() != txid)
            .filter(|tx| tx.input.iter().any(|input| spends(transaction, &input.previous_output)))
            .cloned()
            .collect();
        // What spends all that another spends replaces it; fees are not looked at.
        if rivals.iter().any(|tx| !tx.input.iter().all(|input| spends(transaction, &input.previous_output))) {
            return Err(MempoolRefusal("txn-mempool-conflict".to_owned()));
        }
        for rival in &rivals {
            state.mempool.remove(&rival.compute_txid());
        }
        state.mempool.insert(transaction.compute_txid(), transaction.clone());
        state.changes += 1;
        let feeds = state.feeds.clone();
        drop(state);
        for feed in &feeds {
            for rival in &rivals {
                feed.notify(FeedEvent::MempoolRemoved { txid: rival.compute_txid(), reason: "replaced".to_owned() });
            }
            feed.notify(FeedEvent::MempoolAdded { transaction: transaction.clone() });
        }
        if self.mines_at_once.load(Ordering::Relaxed) {
            self.mine(&ScriptBuf::new_op_return([]));
            let end = Instant::now() + BLOCK_HEAD_START;
            while !feeds.iter().all(ChainFeed::is_settled) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn test_accept(&self, transaction: &Transaction) -> Tested {
        let state = self.state();
        let there = |spent: &OutPoint| state.coins.contains_key(spent) || state.mempool.contains_key(&spent.txid);
        if !transaction.input.iter().all(|input| there(&input.previous_output)) {
            return Tested::MissingInputs;
        }
        let spent =
            |coin: &OutPoint| state.mempool.values().any(|tx| tx.input.iter().any(|i| i.previous_output == *coin));
        if transaction.input.iter().any(|input| spent(&input.previous_output)) {
            return Tested::Refused("txn-mempool-conflict".to_owned());
        }
        Tested::ScriptsFail
    }

    fn pool_mark(&self) -> Option<PoolMark> {
        Some(PoolMark { tip: self.tip().hash, sequence: self.state().changes })
    }

    fn estimate_fee(&self, _: u32, _: bool) -> Option<Estimate> {
        None
    }

    fn mempool_min_fee(&self) -> FeeRate {
        FeeRate::from_sat_per_kwu(25)
    }

    fn relay_min_fee(&self) -> FeeRate {
        FeeRate::from_sat_per_kwu(25)
    }

    fn incremental_fee(&self) -> PerKvb {
        PerKvb(100)
    }

    fn flush_notifications(&self) {}

    fn set_load_on_startup(&self, wallet: &str, load: bool) -> bool {
        let mut state = self.state();
        state.startup.retain(|name| name != wallet);
        if load {
            state.startup.push(wallet.to_owned());
        }
        true
    }
}
