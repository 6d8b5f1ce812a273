//! A node in a temporary directory, its events, and blocks made for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyless_kernel::{Args, InitError, Kernel, Notification, Notifications, RpcCall, RpcFailure};
use serde_json::Value;

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
        let result = self.rpc("generatetodescriptor", serde_json::json!([blocks, build::descriptor(self)]));
        serde_json::from_value(result).unwrap()
    }

    /// Waits until the stored mempool was read, without which none is stored at the end.
    pub fn wait_for_mempool(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.kernel.mempool_info().unwrap().loaded {
            assert!(Instant::now() < deadline, "the mempool was not loaded");
            std::thread::sleep(Duration::from_millis(5));
        }
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

/// Blocks and transactions on scripts that anyone can spend.
pub mod build {
    use bitcoin::absolute::LockTime;
    use bitcoin::block::Header;
    use bitcoin::consensus::encode::{deserialize_hex, serialize};
    use bitcoin::hashes::Hash;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, Block, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};

    use super::Node;

    /// The witness script `OP_TRUE`.
    fn anyone() -> ScriptBuf {
        ScriptBuf::from_bytes(vec![0x51])
    }

    /// P2WSH of `OP_TRUE`: standard, spendable by anyone.
    pub fn script() -> ScriptBuf {
        anyone().to_p2wsh()
    }

    /// Spends outputs of [`script`] to one output of it.
    pub fn spend(inputs: &[OutPoint], value: Amount) -> Transaction {
        let input = |previous_output: &OutPoint| TxIn {
            previous_output: *previous_output,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::from_slice(&[anyone().as_bytes()]),
        };
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: inputs.iter().map(input).collect(),
            output: vec![TxOut { value, script_pubkey: script() }],
        }
    }

    pub fn bytes(tx: &Transaction) -> Vec<u8> {
        serialize(tx)
    }

    pub fn hex(tx: &Transaction) -> String {
        bitcoin::consensus::encode::serialize_hex(tx)
    }

    /// The coinbase output of a mined block.
    pub fn coinbase_of(node: &Node, height: u32) -> OutPoint {
        let hash = node.kernel.block_hash(height).unwrap().unwrap();
        let block = node.kernel.read_block(&hash).unwrap().unwrap();
        OutPoint::new(block.txdata[0].compute_txid(), 0)
    }

    /// The next block, with these transactions, not submitted.
    pub fn next_block(node: &Node, txs: &[Transaction]) -> Block {
        let txs: Vec<String> = txs.iter().map(hex).collect();
        let made = node.rpc("generateblock", serde_json::json!([descriptor(node), txs, false]));
        deserialize_hex(made["hex"].as_str().unwrap()).unwrap()
    }

    /// A descriptor of [`script`], with its checksum.
    pub fn descriptor(node: &Node) -> String {
        let bare = format!("raw({})", script().to_hex_string());
        node.rpc("getdescriptorinfo", serde_json::json!([bare]))["descriptor"].as_str().unwrap().into()
    }

    /// Makes merkle root, witness commitment and proof of work fit the transactions again.
    pub fn seal(block: &mut Block) {
        let reserved = [0u8; 32];
        block.txdata[0].input[0].witness = Witness::from_slice(&[reserved]);
        let root = block.witness_root().unwrap();
        let commitment = Block::compute_witness_commitment(&root, &reserved);
        let marker = [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], commitment.as_byte_array().as_slice()].concat();
        if let Some(output) = block.txdata[0].output.iter_mut().find(|o| o.script_pubkey.is_op_return()) {
            output.script_pubkey = ScriptBuf::from_bytes(marker);
        }
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        grind(&mut block.header);
    }

    pub fn grind(header: &mut Header) {
        while header.validate_pow(header.target()).is_err() {
            header.nonce += 1;
        }
    }

    /// A header behind `prev`, one second later.
    pub fn header_after(prev: &Header) -> Header {
        let mut header = Header {
            version: bitcoin::block::Version::from_consensus(0x2000_0000),
            prev_blockhash: prev.block_hash(),
            time: prev.time + 1,
            merkle_root: bitcoin::TxMerkleNode::all_zeros(),
            nonce: 0,
            ..*prev
        };
        grind(&mut header);
        header
    }

    pub fn unknown_outpoint() -> OutPoint {
        OutPoint::new(Txid::from_byte_array([7; 32]), 0)
    }
}
