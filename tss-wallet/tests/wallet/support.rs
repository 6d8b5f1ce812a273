//! A wallet, its one key, and the chain it follows.

use bitcoin::bip32::{DerivationPath, Xpriv, Xpub};
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::hashes::Hash as _;
use bitcoin::key::TapTweak;
use bitcoin::secp256k1::Message;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Txid, Witness, absolute::LockTime,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use secp256k1::SECP256K1;
use tss_wallet::wallet::keychain::{AccountXpub, AddressType, Branch, ChainId};
use tss_wallet::wallet::signing::{GroupSignature, SighashKind, SigningItem};
use tss_wallet::wallet::spend::fees::FeeRate;
use tss_wallet::wallet::spend::{Draft, Recipient, SpendParams};
use tss_wallet::wallet::storage::MemoryStore;
use tss_wallet::wallet::{Kind, Wallet, WalletOptions, WalletParams};

pub const START: u64 = 1_700_000_000;
pub const BTC: u64 = 100_000_000;

/// The key that a quorum would hold in shares.
pub struct PlainKey {
    master: Xpriv,
}

impl PlainKey {
    pub fn new(seed: u8) -> Self {
        Self { master: Xpriv::new_master(Network::Regtest, &[seed; 32]).unwrap() }
    }

    pub fn accounts(&self) -> Vec<AccountXpub> {
        AddressType::ALL
            .into_iter()
            .map(|address_type| {
                let path: DerivationPath = format!("m/{}/1/0", address_type.purpose()).parse().unwrap();
                let account = self.master.derive_priv(SECP256K1, &path).unwrap();
                AccountXpub {
                    address_type,
                    fingerprint: self.master.fingerprint(SECP256K1),
                    path,
                    xpub: Xpub::from_priv(SECP256K1, &account),
                }
            })
            .collect()
    }

    pub fn key(&self, path: &DerivationPath) -> secp256k1::Keypair {
        self.master.derive_priv(SECP256K1, path).unwrap().to_keypair(SECP256K1)
    }

    pub fn sign(&self, items: &[SigningItem]) -> Vec<GroupSignature> {
        items
            .iter()
            .map(|item| {
                let key = self.key(&item.key.path);
                let message = Message::from_digest(item.message);
                match item.sighash {
                    SighashKind::Ecdsa(_) => {
                        GroupSignature::Ecdsa(SECP256K1.sign_ecdsa_low_r(&message, &key.secret_key()))
                    }
                    SighashKind::Taproot(_) => {
                        let tweaked = key.tap_tweak(SECP256K1, None).to_keypair();
                        GroupSignature::Schnorr(SECP256K1.sign_schnorr_no_aux_rand(&message, &tweaked))
                    }
                }
            })
            .collect()
    }
}

pub struct Scene {
    pub wallet: Wallet,
    pub store: MemoryStore,
    pub key: PlainKey,
    pub blocks: Vec<Block>,
    pub now: u64,
    pub rng: StdRng,
    salt: u32,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(WalletOptions { keypool_size: 20, ..WalletOptions::default() }, false)
    }

    pub fn with(options: WalletOptions, avoid_reuse: bool) -> Self {
        let key = PlainKey::new(7);
        let store = MemoryStore::default();
        let params = WalletParams {
            name: "w".into(),
            network: Network::Regtest,
            accounts: key.accounts(),
            birth_time: START,
            avoid_reuse,
            kind: Kind::default(),
        };
        let genesis = bitcoin::constants::genesis_block(Network::Regtest);
        let tip = bdk_chain::BlockId { height: 0, hash: genesis.block_hash() };
        let mut wallet = Wallet::create(params, options, Some(tip), Box::new(store.clone())).unwrap();
        for chain in ChainId::all() {
            let lease = wallet.propose_lease(chain, 50);
            wallet.pool_confirmed(chain, lease).unwrap();
        }
        Self { wallet, store, key, blocks: vec![genesis], now: START, rng: StdRng::seed_from_u64(1), salt: 0 }
    }

    pub fn height(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap() - 1
    }

    pub fn address(&mut self, kind: AddressType) -> ScriptBuf {
        self.wallet.new_address("", kind).unwrap().key.script
    }

    fn salt(&mut self) -> u32 {
        self.salt += 1;
        self.salt
    }

    /// A transaction from nowhere that pays `outputs`.
    pub fn foreign(&mut self, outputs: &[(ScriptBuf, u64)]) -> Transaction {
        let salt = self.salt();
        let coin = OutPoint::new(Txid::hash(&salt.to_le_bytes()), 0);
        transaction(&[coin], outputs)
    }

    pub fn coinbase(&mut self, script: ScriptBuf) -> Transaction {
        let height = self.height() + 1;
        let salt = self.salt();
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: bitcoin::script::Builder::new()
                    .push_int(i64::from(height))
                    .push_int(i64::from(salt))
                    .into_script(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut { value: Amount::from_sat(50 * BTC), script_pubkey: script }],
        }
    }

    /// A block on the tip, not connected.
    pub fn block(&mut self, coinbase_to: ScriptBuf, txs: Vec<Transaction>) -> Block {
        let mut txdata = vec![self.coinbase(coinbase_to)];
        txdata.extend(txs);
        let header = Header {
            version: BlockVersion::TWO,
            prev_blockhash: self.blocks.last().unwrap().block_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time: u32::try_from(self.now).unwrap(),
            bits: CompactTarget::from_consensus(0x207f_ffff),
            nonce: self.salt(),
        };
        let mut block = Block { header, txdata };
        block.header.merkle_root = block.compute_merkle_root().unwrap();
        block
    }

    pub fn connect(&mut self, block: Block) {
        self.blocks.push(block.clone());
        let height = self.height();
        self.wallet.block_connected(&block, height, self.now).unwrap();
    }

    pub fn mine_to(&mut self, coinbase_to: ScriptBuf, txs: Vec<Transaction>) -> BlockHash {
        self.now += 600;
        let block = self.block(coinbase_to, txs);
        let hash = block.block_hash();
        self.connect(block);
        hash
    }

    pub fn mine(&mut self, txs: Vec<Transaction>) -> BlockHash {
        self.mine_to(nowhere(1), txs)
    }

    pub fn mine_empty(&mut self, count: usize) {
        for _ in 0..count {
            self.mine(Vec::new());
        }
    }

    pub fn disconnect(&mut self) -> Block {
        let height = self.height();
        let block = self.blocks.pop().unwrap();
        self.wallet.block_disconnected(&block, height, self.now).unwrap();
        block
    }

    pub fn hear(&mut self, tx: &Transaction) {
        self.wallet.mempool_added(tx, self.now).unwrap();
    }

    /// Confirmed coins of ours, one for each amount, all of one type.
    pub fn fund(&mut self, kind: AddressType, amounts: &[u64]) -> Vec<OutPoint> {
        let mut coins = Vec::new();
        let mut txs = Vec::new();
        for amount in amounts {
            let script = self.address(kind);
            let tx = self.foreign(&[(script, *amount)]);
            coins.push(OutPoint::new(tx.compute_txid(), 0));
            txs.push(tx);
        }
        self.mine(txs);
        self.mine_empty(5);
        coins
    }

    pub fn pay(&mut self, params: &SpendParams) -> Draft {
        self.wallet.create_transaction(params, &mut self.rng).unwrap()
    }

    /// Signs a draft of ours with the plain key.
    pub fn signed(&self, draft: &Draft) -> Transaction {
        let mut tx = draft.tx.clone();
        let items = self.wallet.signing_items(&tx, Default::default()).unwrap();
        let signatures = self.key.sign(&items);
        tss_wallet::wallet::signing::apply_signatures(&mut tx, &items, &signatures).unwrap();
        tx
    }

    /// Pays `amount` to nobody, records it and puts it in the mempool.
    pub fn send(&mut self, amount: u64) -> Transaction {
        let draft = self.pay(&to(&[(nowhere(9), amount)]));
        let tx = self.signed(&draft);
        self.wallet.commit_transaction(&tx, Default::default(), self.now).unwrap();
        self.hear(&tx);
        tx
    }

    pub fn reopened(&self) -> Wallet {
        Wallet::load(Box::new(self.store.clone()), *self.wallet.options()).unwrap()
    }

    pub fn trusted(&self) -> u64 {
        self.wallet.balances(0, false, false).trusted.to_sat()
    }
}

pub fn chain(kind: AddressType, branch: Branch) -> ChainId {
    ChainId::new(kind, branch)
}

pub fn transaction(coins: &[OutPoint], outputs: &[(ScriptBuf, u64)]) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: coins
            .iter()
            .map(|coin| TxIn { previous_output: *coin, sequence: Sequence(0xffff_fffd), ..TxIn::default() })
            .collect(),
        output: outputs
            .iter()
            .map(|(script, value)| TxOut { value: Amount::from_sat(*value), script_pubkey: script.clone() })
            .collect(),
    }
}

/// A script of somebody else.
pub fn nowhere(salt: u8) -> ScriptBuf {
    ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::hash(&[salt]))
}

/// A payment at 2 sat/vB.
pub fn to(recipients: &[(ScriptBuf, u64)]) -> SpendParams {
    SpendParams {
        recipients: recipients
            .iter()
            .map(|(script, amount)| Recipient {
                script: script.clone(),
                amount: Amount::from_sat(*amount),
                subtract_fee: false,
            })
            .collect(),
        fee_rate: FeeRate(2_000),
        ..SpendParams::default()
    }
}

/// Runs every input's scripts.
pub fn scripts_hold(tx: &Transaction, coins: &[TxOut]) -> Result<(), String> {
    for (index, coin) in coins.iter().enumerate() {
        input_holds(tx, index, coin, coins)?;
    }
    Ok(())
}

pub fn input_holds(tx: &Transaction, index: usize, coin: &TxOut, coins: &[TxOut]) -> Result<(), String> {
    use miniscript::interpreter::Interpreter;
    let input = &tx.input[index];
    let interpreter =
        Interpreter::from_txdata(&coin.script_pubkey, &input.script_sig, &input.witness, input.sequence, tx.lock_time)
            .map_err(|error| error.to_string())?;
    let prevouts = bitcoin::sighash::Prevouts::All(coins);
    let mut signatures = 0;
    for step in interpreter.iter(SECP256K1, tx, index, &prevouts) {
        step.map_err(|error| error.to_string())?;
        signatures += 1;
    }
    if signatures == 0 { Err("nothing was signed".into()) } else { Ok(()) }
}
