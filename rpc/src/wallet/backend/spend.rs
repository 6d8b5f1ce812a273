//! Payments and signatures as they are asked for, and what comes of them.

use bitcoin::{Amount, OutPoint, Psbt, ScriptBuf, Sequence, Transaction, TxOut, Txid};

use super::AddressType;
use tss_wallet::wallet::solving::SolvingData;

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
    /// What the user says of scripts that are not the wallet's.
    pub solving: SolvingData,
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
            solving: SolvingData::default(),
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
    /// Nobody waits for the answer.
    pub detached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub txid: Txid,
    pub fee_reason: FeeReason,
}

/// A payment to be replaced by one that pays more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BumpRequest {
    pub txid: Txid,
    pub fee: FeeChoice,
    /// Whether the new one signals that it may be replaced.
    pub rbf: bool,
    /// Outputs in place of those it has; empty to keep them.
    pub outputs: Vec<TxOut>,
    /// The output of the old one that is its change.
    pub change_index: Option<u32>,
}

/// What a payment was replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bumped {
    /// Not signed where a PSBT was asked for.
    pub replacement: Replacement,
    pub old_fee: Amount,
    pub fee: Amount,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    Sent(Txid),
    Unsigned(Transaction),
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
