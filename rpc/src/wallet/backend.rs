//! What the wallet methods ask of the node.
//!
//! Owns the traits [`Wallets`] (the set of wallets), [`WalletHandle`] (one wallet) and [`Ledger`] (one wallet's
//! records, read under a short lock), and the typed values that cross them. Refuses JSON: amounts, scripts and hashes
//! arrive and leave typed, and only the rendering functions beside this module write text. The node implements the
//! first two; `ledger.rs` implements the third for `tss_wallet::wallet::Wallet`; tests have a twin of all three.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bitcoin::bip32::Fingerprint;
use bitcoin::{
    Address, Amount, BlockHash, Network, OutPoint, Psbt, Script, ScriptBuf, Sequence, SignedAmount, Transaction, Txid,
};

use crate::error::RpcError;

pub use tss_wallet::wallet::keychain::AddressType;

/// What every call answers with; the error carries Core's code and text.
pub type Result<T> = std::result::Result<T, RpcError>;

// ---------------------------------------------------------------------------------------------------------------------
// The set of wallets

/// Roster and threshold asked for in `createwallet … quorum`; what is absent comes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumSpec {
    pub threshold: Option<u16>,
    /// PeerIds as text; the node parses and checks them against the allow-list.
    pub members: Option<Vec<String>>,
    /// `2t <= n` was asked for in so many words.
    pub split: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateWallet {
    pub name: String,
    pub disable_private_keys: bool,
    pub blank: bool,
    /// `None` or empty: not encrypted.
    pub passphrase: Option<String>,
    pub avoid_reuse: bool,
    pub load_on_startup: Option<bool>,
    pub quorum: Option<QuorumSpec>,
}

/// A wallet that is now loaded (or unloaded), and what the user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub name: String,
    pub warnings: Vec<String>,
}

/// One entry of `listwalletdir`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalletOnDisk {
    pub name: String,
    pub warnings: Vec<String>,
}

/// `getcosignerinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CosignerInfo {
    pub peerid: String,
    pub fingerprint: String,
    pub addresses: Vec<String>,
    pub protocol_version: u32,
    pub network: String,
}

/// One entry of `enumeratecosigners`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cosigner {
    pub peerid: String,
    pub fingerprint: String,
    pub addresses: Vec<String>,
    pub online: bool,
    /// Round trip, once measured.
    pub latency_us: Option<u64>,
    pub version: Option<u32>,
    pub blocks: Option<u32>,
    pub suspended: bool,
    pub banned: bool,
    pub wallets: Vec<String>,
}

#[async_trait]
pub trait Wallets: Send + Sync {
    /// The network whose addresses are taken and given.
    fn network(&self) -> Network;
    async fn create(&self, request: CreateWallet) -> Result<Loaded>;
    /// −18 where there is no such wallet, −35 where it is loaded already.
    async fn load(&self, name: &str, load_on_startup: Option<bool>) -> Result<Loaded>;
    /// The name of the answer is not shown, the warnings are.
    async fn unload(&self, name: &str, load_on_startup: Option<bool>) -> Result<Loaded>;
    /// Names of the loaded wallets, in the order they were loaded.
    fn list(&self) -> Vec<String>;
    async fn list_dir(&self) -> Result<Vec<WalletOnDisk>>;
    /// A loaded wallet. Which wallet a request without `/wallet/<name>` means is decided here in `rpc`, from `list`.
    fn get(&self, name: &str) -> Option<Arc<dyn WalletHandle>>;
    fn cosigner_info(&self) -> Result<CosignerInfo>;
    async fn cosigners(&self) -> Result<Vec<Cosigner>>;
}

// ---------------------------------------------------------------------------------------------------------------------
// One wallet

/// What a wallet was told at its making and by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletSettings {
    pub private_keys_enabled: bool,
    pub avoid_reuse: bool,
    pub blank: bool,
    /// `-addresstype`.
    pub address_type: AddressType,
    /// `-changetype`; without it change takes the type that fits.
    pub change_type: Option<AddressType>,
    /// `-walletrbf`.
    pub signal_rbf: bool,
    /// `-devquorum`, where the co-signers are embedded in this process.
    pub devquorum: Option<(u16, u16)>,
}

/// Whether this member's share needs a passphrase, and has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    None,
    Locked,
    /// Seconds since 1970 when it locks itself again.
    Unlocked {
        until: i64,
    },
}

/// A rescan under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanning {
    pub duration_s: u64,
    /// Millionths of the way.
    pub progress_ppm: u32,
}

/// A fee rate in satoshi for 1,000 virtual bytes, the unit in which Core counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeeRate {
    pub sat_per_kvb: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EstimateMode {
    #[default]
    Unset,
    Economical,
    Conservative,
}

/// Where the fee rate comes from; the node turns it into a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeChoice {
    /// The wallet's own estimate; `target` is `-txconfirmtarget` unless given.
    Estimate { target: Option<u16>, mode: EstimateMode },
    /// The user's own rate. `override_min` drops the check against the minimum rates.
    Rate { rate: FeeRate, override_min: bool },
}

impl Default for FeeChoice {
    fn default() -> Self {
        Self::Estimate { target: None, mode: EstimateMode::Unset }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub script: ScriptBuf,
    pub amount: Amount,
    pub subtract_fee: bool,
}

/// A coin the user named. `weight` is given where the wallet cannot know how it will be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenInput {
    pub outpoint: OutPoint,
    pub sequence: Option<Sequence>,
    pub weight: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeChoice {
    /// An address of the user's choice; otherwise a fresh one of the wallet.
    pub script: Option<ScriptBuf>,
    pub address_type: Option<AddressType>,
    /// Where the change output goes; at random without it.
    pub position: Option<u32>,
}

/// A payment to be funded: Core's recipients and coin control in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendRequest {
    pub recipients: Vec<Recipient>,
    /// Put the recipients in a random order (`sendtoaddress`, `sendmany`).
    pub shuffle: bool,
    pub inputs: Vec<ChosenInput>,
    /// Whether coins may be added to `inputs`.
    pub add_inputs: bool,
    pub include_unsafe: bool,
    pub min_conf: u32,
    pub max_conf: u32,
    pub fee: FeeChoice,
    /// `None`: as `-walletrbf` says.
    pub rbf: Option<bool>,
    pub change: ChangeChoice,
    /// Lock the selected coins until told otherwise.
    pub lock_unspents: bool,
    /// `None`: the wallet discourages fee sniping.
    pub lock_time: Option<u32>,
    pub version: i32,
    /// `None`: as the wallet's flag says.
    pub avoid_reuse: Option<bool>,
    pub max_tx_weight: Option<u64>,
}

/// Depth up to which coins are taken unless the user says otherwise.
pub const DEFAULT_MAX_DEPTH: u32 = 9_999_999;
/// Version of the transactions a wallet makes.
pub const DEFAULT_TX_VERSION: i32 = 2;

impl Default for SpendRequest {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            shuffle: false,
            inputs: Vec::new(),
            add_inputs: true,
            include_unsafe: false,
            min_conf: 0,
            max_conf: DEFAULT_MAX_DEPTH,
            fee: FeeChoice::default(),
            rbf: None,
            change: ChangeChoice::default(),
            lock_unspents: false,
            lock_time: None,
            version: DEFAULT_TX_VERSION,
            avoid_reuse: None,
            max_tx_weight: None,
        }
    }
}

/// Why a fee is what it is: Core's `FeeReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeReason {
    None,
    HalfEstimate,
    FullEstimate,
    DoubleEstimate,
    Conservative,
    MempoolMin,
    Fallback,
    Required,
}

impl FeeReason {
    /// The words Core shows as `fee_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::HalfEstimate => "Half Target 60% Threshold",
            Self::FullEstimate => "Target 85% Threshold",
            Self::DoubleEstimate => "Double Target 95% Threshold",
            Self::Conservative => "Conservative Double Target longer horizon",
            Self::MempoolMin => "Mempool Min Fee",
            Self::Fallback => "Fallback fee",
            Self::Required => "Minimum Required Fee",
        }
    }
}

/// A funded transaction, not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Funded {
    pub tx: Transaction,
    pub fee: Amount,
    pub change_position: Option<u32>,
}

/// What goes along with a payment and stays in the wallet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendNote {
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    /// The same key never pays twice.
    pub idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub txid: Txid,
    pub fee_reason: FeeReason,
}

/// An output that `signrawtransactionwithwallet` is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrevOut {
    pub outpoint: OutPoint,
    pub script: ScriptBuf,
    pub amount: Option<Amount>,
    pub redeem_script: Option<ScriptBuf>,
    pub witness_script: Option<ScriptBuf>,
}

/// A signature hash type by its byte: 0 is taproot's default, which stands for ALL elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SighashType(pub u8);

/// What is wrong with one input, in Core's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError {
    pub input: usize,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    pub tx: Transaction,
    pub complete: bool,
    pub errors: Vec<InputError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PsbtOptions {
    pub sign: bool,
    pub sighash: Option<SighashType>,
    pub bip32_derivs: bool,
    pub finalize: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProcessedPsbt {
    pub psbt: Psbt,
    /// Every input is final, or could be made so with what the PSBT holds.
    pub complete: bool,
    /// The network transaction, where `complete`.
    pub tx: Option<Transaction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescanned {
    pub start: u32,
    pub stop: Option<u32>,
}

/// A transaction's relatives in the mempool, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestry {
    pub count: u64,
    pub size_vbytes: u64,
    pub fees: Amount,
}

/// `getquoruminfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumInfo {
    pub epoch: u64,
    pub threshold: u16,
    pub fingerprint: String,
    pub members: Vec<QuorumMember>,
    pub ecdsa_xpub: String,
    pub schnorr_xpub: String,
    /// Co-signers embedded in this process.
    pub devquorum: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumMember {
    pub peerid: String,
    pub index: u16,
    pub is_self: bool,
    pub online: bool,
    pub blocks: Option<u32>,
    pub suspended: bool,
    /// Seconds since 1970.
    pub last_seen: Option<u64>,
}

/// One entry of `listsigningsessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningSession {
    pub id: String,
    pub kind: String,
    pub state: String,
    pub coordinator: String,
    pub signers: Vec<String>,
    pub txid: Option<Txid>,
    pub started: u64,
    pub expires: u64,
    pub waiting_for: Vec<String>,
}

#[async_trait]
pub trait WalletHandle: Send + Sync {
    fn name(&self) -> &str;
    fn settings(&self) -> WalletSettings;
    fn encryption(&self) -> Encryption;
    fn scanning(&self) -> Option<Scanning>;
    /// Returns once the wallet has seen every block and transaction the node had when this was called.
    async fn synced(&self) -> Result<()>;
    /// Reads the ledger under its lock: short work only, and no `await`.
    fn read(&self, f: &mut dyn FnMut(&dyn Ledger));

    /// −12 when the pool is empty and the quorum cannot fill it.
    async fn new_address(&self, label: &str, address_type: AddressType) -> Result<Address>;
    async fn change_address(&self, address_type: AddressType) -> Result<Address>;
    /// Changes the flag of that name.
    async fn set_avoid_reuse(&self, value: bool) -> Result<()>;
    async fn set_label(&self, script: &Script, label: &str) -> Result<()>;
    /// `None`: to the size `-keypool` says.
    async fn keypool_refill(&self, size: Option<u32>) -> Result<()>;
    async fn lock_coins(&self, coins: &[OutPoint], persistent: bool) -> Result<()>;
    /// `None`: all of them.
    async fn unlock_coins(&self, coins: Option<&[OutPoint]>) -> Result<()>;
    /// −5 where it is not eligible.
    async fn abandon(&self, txid: Txid) -> Result<()>;

    /// Selects coins, makes change. Its failures have code −4.
    async fn fund(&self, request: &SpendRequest) -> Result<Funded>;
    /// Funds, signs by the quorum, records, broadcasts. A failure to fund has code −6 here; one to sign, −4.
    async fn send(&self, request: &SpendRequest, note: &SendNote) -> Result<Sent>;
    /// Records and broadcasts a signed transaction of this wallet.
    async fn commit(&self, tx: Transaction, note: &SendNote) -> Result<Txid>;
    async fn sign_transaction(
        &self,
        tx: Transaction,
        prevouts: &[PrevOut],
        sighash: SighashType,
    ) -> Result<SignedTransaction>;
    async fn process_psbt(&self, psbt: Psbt, options: PsbtOptions) -> Result<ProcessedPsbt>;
    /// Base64 of recovery byte and compact signature; −5 "Private key not available" where the key is not ours.
    async fn sign_message(&self, script: &Script, message: &str) -> Result<String>;

    async fn rescan(&self, start: u32, stop: Option<u32>) -> Result<Rescanned>;
    /// Whether there was a rescan to stop.
    fn abort_rescan(&self) -> bool;
    fn ancestry(&self, txid: &Txid) -> Option<Ancestry>;

    /// `None` for a wallet without keys.
    async fn quorum(&self) -> Result<Option<QuorumInfo>>;
    fn signing_sessions(&self) -> Vec<SigningSession>;
}

// ---------------------------------------------------------------------------------------------------------------------
// One wallet's records

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub hash: BlockHash,
    pub height: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerInfo {
    pub tx_count: u64,
    /// Addresses ready to be handed out.
    pub keypool_external: u64,
    pub keypool_internal: u64,
    /// Seconds since 1970.
    pub birthtime: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    pub trusted: Amount,
    pub untrusted_pending: Amount,
    pub immature: Amount,
    /// Coins spent by transactions that are not in the mempool.
    pub nonmempool: SignedAmount,
    /// Coins on addresses that were spent from before.
    pub used: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnspentFilter {
    pub min_conf: i64,
    pub max_conf: i64,
    /// Scripts of the addresses asked for; empty for all.
    pub scripts: Vec<ScriptBuf>,
    pub include_unsafe: bool,
    pub include_immature: bool,
    pub min_amount: Amount,
    pub max_amount: Option<Amount>,
    pub max_count: Option<u64>,
    /// Stop once the coins found amount to this.
    pub min_sum: Option<Amount>,
}

impl Default for UnspentFilter {
    fn default() -> Self {
        Self {
            min_conf: 1,
            max_conf: i64::from(DEFAULT_MAX_DEPTH),
            scripts: Vec::new(),
            include_unsafe: true,
            include_immature: false,
            min_amount: Amount::ZERO,
            max_amount: None,
            max_count: None,
            min_sum: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unspent {
    pub outpoint: OutPoint,
    pub script: ScriptBuf,
    pub amount: Amount,
    pub confirmations: i64,
    pub solvable: bool,
    pub safe: bool,
    /// Its address was spent from before.
    pub reused: bool,
}

/// Where a transaction stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBlock {
    pub hash: BlockHash,
    pub height: u32,
    pub index: u32,
    pub time: u64,
}

/// One output as `listtransactions` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    pub vout: u32,
    pub amount: Amount,
    /// It pays a change address of this wallet.
    pub change: bool,
}

/// BIP125, as far as the wallet can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaceable {
    Yes,
    No,
    Unknown,
}

impl Replaceable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// One transaction of the wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletTx {
    pub tx: Arc<Transaction>,
    /// Negative: conflicted by a block that deep.
    pub confirmations: i64,
    pub block: Option<InBlock>,
    pub trusted: bool,
    pub abandoned: bool,
    /// A coinbase too young to be spent.
    pub immature: bool,
    pub time: u64,
    pub time_received: u64,
    pub replaceable: Replaceable,
    pub wallet_conflicts: Vec<Txid>,
    pub mempool_conflicts: Vec<Txid>,
    pub replaces: Option<Txid>,
    pub replaced_by: Option<Txid>,
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    /// Spent by it from this wallet.
    pub debit: Amount,
    /// Paid by it to this wallet.
    pub credit: Amount,
    /// Outputs paid by this wallet; empty unless it spends from here. Change is left out unless asked for.
    pub sent: Vec<Movement>,
    /// Outputs paid to this wallet. Change is left out unless asked for.
    pub received: Vec<Movement>,
}

impl WalletTx {
    pub fn txid(&self) -> Txid {
        self.tx.compute_txid()
    }

    pub fn is_from_me(&self) -> bool {
        self.debit > Amount::ZERO
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Receive,
    Send,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// An address with a label. Change addresses have none and are not in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookEntry {
    pub script: ScriptBuf,
    pub label: String,
    pub purpose: Option<Purpose>,
}

/// What the wallet knows of a script of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The public key in hex; none for taproot, as in Core.
    pub pubkey: Option<String>,
    /// `wpkh([fp/84/1/0/0/5]03…)#checksum`.
    pub desc: String,
    /// `wpkh([fp/84/1/0]tpub…/0/*)#checksum`.
    pub parent_desc: String,
    pub redeem_script: Option<ScriptBuf>,
    /// `m/84/1/0/0/5`.
    pub hd_key_path: String,
    pub fingerprint: Fingerprint,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Derived on the change branch.
    pub internal: bool,
}

/// One entry of `listdescriptors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorView {
    pub desc: String,
    pub timestamp: u64,
    pub active: bool,
    pub internal: bool,
    /// First and last index, both inclusive.
    pub range: (u32, u32),
    pub next_index: u32,
}

/// What `lockunspent` must know of a coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoinState {
    UnknownTransaction,
    OutOfBounds,
    Spent,
    Unspent { locked: bool },
}

/// A wallet's records, held still while they are read.
pub trait Ledger {
    /// The last block the wallet has taken in.
    fn tip(&self) -> BlockRef;
    fn info(&self) -> LedgerInfo;
    /// `include_nonmempool` counts coins spent outside the mempool too, and what that takes from the sum.
    fn balances(&self, min_depth: u32, avoid_reuse: bool, include_nonmempool: bool) -> Balances;
    fn unspent(&self, filter: &UnspentFilter) -> Vec<Unspent>;
    /// In the order the wallet came to know them.
    fn txids(&self) -> Vec<Txid>;
    fn transaction(&self, txid: &Txid, include_change: bool) -> Option<WalletTx>;
    fn is_mine(&self, script: &Script) -> bool;
    /// Ours, but in no one's address book: change, or at least not given out.
    fn is_change(&self, script: &Script) -> bool;
    fn key(&self, script: &Script) -> Option<KeyView>;
    fn label(&self, script: &Script) -> Option<String>;
    fn address_book(&self) -> Vec<BookEntry>;
    fn descriptors(&self) -> Vec<DescriptorView>;
    fn coin(&self, outpoint: &OutPoint) -> CoinState;
    fn locked_coins(&self) -> Vec<OutPoint>;
    /// What each of the wallet's addresses holds, by script.
    fn address_balances(&self) -> BTreeMap<ScriptBuf, Amount>;
}
