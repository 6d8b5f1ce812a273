//! Why a payment is refused, in the words Core has for it.

use bitcoin::{Amount, OutPoint};

use super::fees::money;
use crate::wallet::addresses::AddressError;

/// The heaviest transaction that is relayed, and the lightest.
pub(super) const MAX_STANDARD_WEIGHT: u64 = 400_000;
pub(super) const MIN_STANDARD_WEIGHT: u64 = 65 * 4;

/// Why a payment cannot be made, in Core's words.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    #[error("Transaction must have at least one recipient")]
    NoRecipient,
    #[error("Transaction amount too small")]
    AmountTooSmall,
    #[error("Maximum transaction weight must be between {MIN_STANDARD_WEIGHT} and {MAX_STANDARD_WEIGHT}")]
    WeightLimit,
    #[error("Transaction requires one destination of non-zero value, a non-zero feerate, or a pre-selected input")]
    Nothing,
    #[error("Unable to find UTXO for external input")]
    InputNotFound(OutPoint),
    /// One that was not named among the inputs, but by its weight.
    #[error("Not found pre-selected input {}", shown(.0))]
    PresetNotFound(OutPoint),
    #[error("Not solvable pre-selected input {}", shown(.0))]
    InputNotSolvable(OutPoint),
    #[error("Can't spend unconfirmed version 3 pre-selected input with a version {0} tx")]
    TrucInput(i32),
    #[error("Can't spend unconfirmed version {0} pre-selected input with a version 3 tx")]
    InputForTruc(i32),
    #[error(
        "The preselected coins total amount does not cover the transaction target. Please allow other inputs to be \
         automatically selected or include more coins manually"
    )]
    PresetTooSmall,
    #[error("The total exceeds your balance when the {} transaction fee is included.", money(*.0))]
    FeeExceedsBalance(Amount),
    #[error("Maximum transaction weight is less than transaction weight without inputs")]
    NoRoomForInputs,
    #[error("Maximum transaction weight is too low, can not accommodate change output")]
    NoRoomForChange,
    #[error("Insufficient funds")]
    InsufficientFunds,
    #[error(
        "Unconfirmed UTXOs are available, but spending them creates a chain of transactions that will be rejected by the \
         mempool"
    )]
    ChainTooLong,
    #[error(
        "The inputs size exceeds the maximum weight. Please try sending a smaller amount or manually consolidating your \
         wallet's UTXOs"
    )]
    InputsTooHeavy,
    #[error(
        "The combination of the pre-selected inputs and the wallet automatic inputs selection exceeds the transaction \
         maximum weight. Please try sending a smaller amount or manually consolidating your wallet's UTXOs"
    )]
    CombinationTooHeavy,
    #[error(
        "Failed to calculate bump fees, because unconfirmed UTXOs depend on an enormous cluster of unconfirmed transactions."
    )]
    EnormousCluster,
    #[error("too many unconfirmed transactions in cluster")]
    ClusterLimit,
    #[error("Transaction change output index out of range")]
    ChangePosition,
    #[error("The transaction amount is too small to pay the fee")]
    TooSmallForFee,
    #[error("The transaction amount is too small to send after the fee has been deducted")]
    TooSmallAfterFee,
    #[error("Transaction needs a change address, but we can't generate it. {0}")]
    NoChangeAddress(AddressError),
    #[error("Missing solving data for estimating transaction size")]
    Unsolvable,
    #[error("Transaction too large")]
    TooLarge,
    #[error("Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)")]
    MaxFeeExceeded,
    #[error("Invalid amount")]
    AmountOutOfRange,
}

fn shown(outpoint: &OutPoint) -> String {
    let txid = outpoint.txid.to_string();
    format!("COutPoint({}, {})", txid.get(..10).unwrap_or(&txid), outpoint.vout)
}
