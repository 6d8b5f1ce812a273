//! What the wallet methods ask of the node.
//!
//! Owns the traits [`Wallets`] (the set of wallets), [`WalletHandle`] (one wallet) and [`Ledger`] (one wallet's
//! records, read under a short lock), and the typed values that cross them. Refuses JSON: amounts, scripts and hashes
//! arrive and leave typed, and only the rendering functions beside this module write text. The node implements the
//! first two; `ledger.rs` implements the third for `tss_wallet::wallet::Wallet`; tests have a twin of all three.

mod guard;
mod records;
mod spend;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitcoin::{Address, Amount, BlockHash, Network, OutPoint, Psbt, Script, Transaction, Txid};

use crate::error::RpcError;

pub use guard::{AuditCheck, AuditEntry, Blame, Guarded, Payment, PendingApproval, PolicyAnswer, PolicyInfo};
pub use records::{
    Balances, BlockRef, BookEntry, CoinState, DescriptorView, InBlock, KeyView, Ledger, LedgerInfo, Movement, Purpose,
    Replaceable, Unspent, UnspentFilter, WalletTx,
};
pub use spend::{
    BumpRequest, Bumped, ChangeChoice, ChosenInput, DEFAULT_MAX_DEPTH, DEFAULT_TX_VERSION, EstimateMode, FeeChoice,
    FeeRate, FeeReason, Funded, InputError, PrevOut, ProcessedPsbt, PsbtOptions, Recipient, Replacement, SendNote,
    Sent, SighashType, SignedTransaction, SpendRequest,
};
pub use tss_wallet::wallet::imports::{Import, Imports};
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

/// Shares that were dealt again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redealt {
    pub epoch: u64,
    pub threshold: u16,
    /// PeerIds, in the order of their indices.
    pub members: Vec<String>,
    /// Of these, members that were away and hold no share of the new epoch.
    pub absent: Vec<String>,
    /// Members that dealt.
    pub helpers: Vec<String>,
    pub milliseconds: u64,
}

/// `verifysharebackup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupCheck {
    pub wallet: Option<String>,
    pub peerid: Option<String>,
    pub epoch: Option<u64>,
    /// Why it would not restore; `None` for a good one.
    pub reason: Option<String>,
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
    /// Makes a wallet of a copy and loads it.
    /// From a backup; `force` takes one that no other member can confirm.
    async fn restore(&self, name: &str, file: &Path, load_on_startup: Option<bool>, force: bool) -> Result<Loaded>;
    /// Names of the loaded wallets, in the order they were loaded.
    fn list(&self) -> Vec<String>;
    async fn list_dir(&self) -> Result<Vec<WalletOnDisk>>;
    /// A loaded wallet. Which wallet a request without `/wallet/<name>` means is decided here in `rpc`, from `list`.
    fn get(&self, name: &str) -> Option<Arc<dyn WalletHandle>>;
    /// This member's share of a wallet, dealt anew by the others. The wallet is loaded afterwards.
    async fn repair_share(&self, name: &str) -> Result<Redealt>;
    /// Opens a backup of this member's share and puts nothing in force. −8 where there is no such file.
    async fn verify_backup(&self, file: &Path, passphrase: Option<&str>) -> Result<BackupCheck>;
    /// Leaves the quorum of a wallet and erases this member's share of it, with the wallet's directory; forced, it only
    /// erases. −8 where the others are too few.
    async fn delete_share(&self, name: &str, force: bool) -> Result<()>;
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
    /// `-keypool`.
    pub keypool_size: u32,
    /// `-addresstype`.
    pub address_type: AddressType,
    /// `-changetype`; without it change takes the type that fits.
    pub change_type: Option<AddressType>,
    /// `-walletrbf`.
    pub signal_rbf: bool,
    /// `-maxtxfee`.
    pub max_tx_fee: Amount,
    /// `-dustrelayfee`.
    pub dust_relay_rate: FeeRate,
    /// `-walletpsbtversion`.
    pub psbt_version: PsbtVersion,
    /// `-devquorum`, where the co-signers are embedded in this process.
    pub devquorum: Option<(u16, u16)>,
}

/// In which form a wallet makes PSBTs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PsbtVersion {
    /// BIP174; all that many libraries read.
    Zero,
    /// BIP370.
    #[default]
    Two,
}

impl PsbtVersion {
    /// None for a version that there is not.
    pub fn numbered(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            2 => Some(Self::Two),
            _ => None,
        }
    }
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
    /// Why this node's share signs nothing, if so.
    pub refuses: Option<String>,
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
    /// Why it failed.
    pub error: Option<String>,
}

#[async_trait]
pub trait WalletHandle: Guarded {
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

    /// What a payment would pay now. −4 where there is no estimate, or the user's own rate is below the least.
    async fn fee_rate(&self, fee: FeeChoice) -> Result<(FeeRate, FeeReason)>;
    /// What the unconfirmed ancestors of coins lack at a rate, all together; zero where they are too many.
    async fn bump_fee(&self, coins: &[OutPoint], rate: FeeRate) -> Result<Amount>;
    /// Selects coins, makes change. Its failures have code −4.
    async fn fund(&self, request: &SpendRequest) -> Result<Funded>;
    /// Funds, signs by the quorum, records, broadcasts. A failure to fund has code −6 here; one to sign, −4.
    async fn send(&self, request: &SpendRequest, note: &SendNote) -> Result<Sent>;
    /// The same, without waiting: gives the session that `listsigningsessions` shows.
    async fn send_later(&self, request: &SpendRequest, note: &SendNote) -> Result<String>;
    /// Replaces a payment by one that pays more: signed and sent, or only drafted.
    async fn bump(&self, request: &BumpRequest, draft: bool) -> Result<Bumped>;
    /// Records and broadcasts a signed transaction of this wallet.
    async fn commit(&self, tx: Transaction, note: &SendNote) -> Result<Txid>;
    async fn sign_transaction(
        &self,
        tx: Transaction,
        prevouts: &[PrevOut],
        sighash: SighashType,
    ) -> Result<SignedTransaction>;
    async fn process_psbt(&self, psbt: Psbt, options: PsbtOptions) -> Result<ProcessedPsbt>;
    /// Base64 of recovery byte and compact signature; −4 "Private key not available" where the key is not ours.
    async fn sign_message(&self, script: &Script, message: &str) -> Result<String>;

    /// Takes in a public descriptor; the rescan comes apart.
    async fn import(&self, request: Import) -> Result<Imports>;
    /// Looks at all blocks from two hours before a time on, and at the mempool. Answers from which time on all blocks were
    /// there: `time`, or later than it where blocks are missing.
    async fn rescan_from(&self, time: u64) -> Result<u64>;
    /// Seals this member's share with a passphrase, and locks it.
    async fn encrypt(&self, passphrase: &str) -> Result<()>;
    /// −14 for another passphrase.
    async fn unlock(&self, passphrase: &str, seconds: i64) -> Result<()>;
    async fn lock(&self) -> Result<()>;
    async fn change_passphrase(&self, old: &str, new: &str) -> Result<()>;
    /// Takes in a transaction whose place in a block is proven; `index` is where the proof shows it. −5 where the block is
    /// not in the chain, the proof does not show it, or it pays nothing to the wallet.
    async fn import_proven(&self, tx: Transaction, block: BlockHash, index: Option<u32>) -> Result<()>;
    /// Forgets a transaction. −4 where it is not the wallet's.
    async fn forget(&self, txid: Txid) -> Result<()>;
    /// Writes a wallet that watches the same addresses and cannot sign, to a file that is not there yet.
    async fn export_watch_only(&self, destination: &Path) -> Result<()>;
    /// Writes all that the wallet holds here to a file, shares sealed as they are.
    async fn backup(&self, destination: &Path) -> Result<()>;

    async fn rescan(&self, start: u32, stop: Option<u32>) -> Result<Rescanned>;
    /// Whether there was a rescan to stop.
    fn abort_rescan(&self) -> bool;
    fn ancestry(&self, txid: &Txid) -> Option<Ancestry>;

    /// `None` for a wallet without keys.
    async fn quorum(&self) -> Result<Option<QuorumInfo>>;
    fn signing_sessions(&self) -> Vec<SigningSession>;

    /// New shares for the same members.
    async fn refresh_shares(&self) -> Result<Redealt>;
    /// New shares for these members, by PeerId.
    async fn reshare(&self, threshold: u16, members: &[String]) -> Result<Redealt>;
    /// Takes part in nothing the member is in, for a reason; `None` ends that. −5 for one that is no member.
    async fn suspend(&self, peerid: &str, reason: Option<&str>) -> Result<()>;
}
