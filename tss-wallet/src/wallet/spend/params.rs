//! What a payment is asked to be, and what it became.

use std::sync::Arc;

use bitcoin::absolute::LockTime;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxOut, Weight};

use super::fees::FeeRate;
use super::mempool::{ChainLimits, EmptyMempool, MempoolView};
use crate::wallet::addresses::Reserved;
use crate::wallet::keychain::{AddressType, KeyId};
use crate::wallet::solving::SolvingData;

/// An output to be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub script: ScriptBuf,
    pub amount: Amount,
    pub subtract_fee: bool,
}

/// A coin the caller wants spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetInput {
    pub outpoint: OutPoint,
    pub sequence: Option<Sequence>,
    /// What the input will weigh signed, where the wallet cannot know it.
    pub weight: Option<Weight>,
    /// The coin, where it is not one of the wallet's.
    pub prevout: Option<TxOut>,
}

/// Where change goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSpec {
    /// An address of the caller's; otherwise a fresh one of the wallet's.
    pub script: Option<ScriptBuf>,
    /// The type of the fresh address; otherwise the one that fits the recipients.
    pub address_type: Option<AddressType>,
    /// The place of the change output; otherwise at random.
    pub position: Option<usize>,
}

/// A payment to be made.
#[derive(Debug, Clone)]
pub struct SpendParams {
    pub recipients: Vec<Recipient>,
    pub inputs: Vec<PresetInput>,
    /// Whether coins may be added to `inputs`.
    pub add_inputs: bool,
    pub include_unsafe: bool,
    pub min_conf: u32,
    pub max_conf: u32,
    pub fee_rate: FeeRate,
    /// `-discardfee` or what the estimator says for it.
    pub discard_rate: FeeRate,
    /// `-consolidatefeerate`.
    pub long_term_rate: FeeRate,
    /// `-dustrelayfee`.
    pub dust_relay_rate: FeeRate,
    /// `-maxtxfee`.
    pub max_tx_fee: Amount,
    pub max_tx_weight: Option<u64>,
    pub change: ChangeSpec,
    /// `-addresstype`.
    pub default_address_type: AddressType,
    pub rbf: bool,
    pub lock_time: Option<LockTime>,
    /// The tip's height when the chain is current, to discourage fee sniping; otherwise lock time is 0.
    pub anti_fee_sniping: Option<u32>,
    pub version: i32,
    /// Leave out coins on scripts that were spent from, and spend coins of one script together.
    pub avoid_reuse: bool,
    pub avoid_partial_spends: bool,
    /// What the caller says of scripts that are not the wallet's.
    pub solving: SolvingData,
    pub chain_limits: ChainLimits,
    pub mempool: Arc<dyn MempoolView>,
}

impl Default for SpendParams {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            inputs: Vec::new(),
            add_inputs: true,
            include_unsafe: false,
            min_conf: 0,
            max_conf: 9_999_999,
            fee_rate: FeeRate(1_000),
            discard_rate: FeeRate(10_000),
            long_term_rate: FeeRate(10_000),
            dust_relay_rate: FeeRate(3_000),
            max_tx_fee: Amount::from_sat(10_000_000),
            max_tx_weight: None,
            change: ChangeSpec::default(),
            default_address_type: AddressType::Bech32,
            rbf: true,
            lock_time: None,
            anti_fee_sniping: None,
            version: 2,
            avoid_reuse: true,
            avoid_partial_spends: false,
            solving: SolvingData::default(),
            chain_limits: ChainLimits::default(),
            mempool: Arc::new(EmptyMempool),
        }
    }
}

/// An input of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftInput {
    pub outpoint: OutPoint,
    pub prevout: TxOut,
    /// `None` where the coin is not the wallet's.
    pub key: Option<KeyId>,
}

/// A funded transaction, not signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub tx: Transaction,
    pub fee: Amount,
    pub change_position: Option<usize>,
    /// In the order of the transaction's inputs.
    pub inputs: Vec<DraftInput>,
    /// The change address that was taken from the pool for it.
    pub change: Option<Reserved>,
}

impl Draft {
    pub fn outpoints(&self) -> Vec<OutPoint> {
        self.inputs.iter().map(|input| input.outpoint).collect()
    }
}
