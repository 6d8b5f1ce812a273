//! A payment replaced by one that pays more.
//!
//! The checks, their order and their words are those of Core's `wallet/feebumper.cpp`. The new payment spends every
//! coin of the old one, so that both can never confirm, and coins that are confirmed beside them.

use bitcoin::{Amount, OutPoint, Script, Transaction, TxIn, TxOut};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{
    BumpRequest, Bumped, ChosenInput, FeeChoice, FeeRate as AskedRate, Recipient, Replacement, SpendRequest,
};
use tss_wallet::wallet::feed::SendNote;
use tss_wallet::wallet::record::TxRecord;
use tss_wallet::wallet::spend::fees::{FeeRate, money, vbytes};

use super::fees;
use super::loaded::{Loaded, storage_error};
use super::spend::draft;
use crate::quorum::signing::Terms;

/// What a replacement pays more for 1,000 virtual bytes, at the least: Core's `WALLET_INCREMENTAL_RELAY_FEE`.
const WALLET_INCREMENT: FeeRate = FeeRate(5_000);
/// The longest signature, its sighash byte included.
const MAX_SIGNATURE: usize = 72;

/// The payment to be replaced.
struct Original {
    tx: Transaction,
    coins: Vec<TxOut>,
    fee: Amount,
    note: SendNote,
}

impl Loaded {
    /// Blocks until the quorum has signed, unless only a draft is asked for.
    pub(super) fn bump(&self, request: &BumpRequest, as_draft: bool) -> Result<Bumped, RpcError> {
        if !request.outputs.is_empty() && request.change_index.is_some() {
            return Err(RpcError::invalid_parameter(
                "The options 'outputs' and 'original_change_index' are incompatible. You can only either specify a new \
                 set of outputs, or designate a change output to be recycled.",
            ));
        }
        let original = self.original(request, as_draft)?;
        let spend = self.replacement(request, &original)?;
        let (params, _) = self.spend_params(&spend, &[]).map_err(not_created)?;
        if as_draft {
            self.prepare_change(&params);
            let draft = draft(&mut self.wallet(), &params, self.options.max_aps_fee).map_err(not_created)?;
            let replacement = Replacement::Unsigned(draft.tx);
            return Ok(Bumped { replacement, old_fee: original.fee, fee: draft.fee, errors: Vec::new() });
        }
        // The coins are the old payment's, on purpose.
        let paid = self.pay(&params, &original.note, Terms::default(), not_created)?;
        let replacement = paid.tx.compute_txid();
        let mut errors = Vec::new();
        if !self.wallet().mark_replaced(request.txid, replacement).map_err(storage_error)? {
            errors.push(
                "Created new bumpfee transaction but could not mark the original transaction as replaced".to_owned(),
            );
        }
        Ok(Bumped { replacement: Replacement::Sent(replacement), old_fee: original.fee, fee: paid.fee, errors })
    }

    /// The payment, if it may be replaced.
    fn original(&self, request: &BumpRequest, as_draft: bool) -> Result<Original, RpcError> {
        let wallet = self.wallet();
        let record = wallet
            .ledger()
            .get(&request.txid)
            .ok_or_else(|| RpcError::invalid_address_or_key("Invalid or non-wallet transaction id"))?;
        let outputs = record.tx.output.len();
        if request.change_index.is_some_and(|index| usize::try_from(index).map_or(true, |index| index >= outputs)) {
            return Err(RpcError::invalid_parameter("Change position is out of range"));
        }
        let mut coins = Vec::with_capacity(record.tx.input.len());
        for input in &record.tx.input {
            let spent = input.previous_output;
            let coin = self.chain.output(&spent);
            coins.push(coin.ok_or_else(|| RpcError::misc(format!("{}:{} is already spent", spent.txid, spent.vout)))?);
        }
        self.refuse_settled(record, wallet.ledger().depth(record), |outpoint| wallet.ledger().is_spent(outpoint))?;
        let foreign = coins.iter().any(|coin| !wallet.is_mine(&coin.script_pubkey));
        if !as_draft && foreign {
            return Err(RpcError::wallet("Transaction contains inputs that don't belong to this wallet"));
        }
        let overflow = || RpcError::internal("the amounts do not fit");
        let paid = record.tx.output.iter().try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value));
        let spent = coins.iter().try_fold(Amount::ZERO, |sum, coin| sum.checked_add(coin.value));
        let fee = spent.zip(paid).and_then(|(spent, paid)| spent.checked_sub(paid)).ok_or_else(overflow)?;
        let note = SendNote {
            comment: record.comment.clone(),
            comment_to: record.comment_to.clone(),
            replaces: Some(request.txid),
        };
        Ok(Original { tx: record.tx.as_ref().clone(), coins, fee, note })
    }

    /// Core's `PreconditionChecks`.
    fn refuse_settled(
        &self,
        record: &TxRecord,
        depth: i64,
        is_spent: impl Fn(OutPoint) -> bool,
    ) -> Result<(), RpcError> {
        let mut outputs = (0_u32..).zip(&record.tx.output);
        if outputs.any(|(vout, _)| is_spent(OutPoint::new(record.txid, vout))) {
            return Err(RpcError::invalid_parameter("Transaction has descendants in the wallet"));
        }
        if self.chain.has_mempool_descendants(&record.txid) {
            return Err(RpcError::invalid_parameter("Transaction has descendants in the mempool"));
        }
        if depth != 0 {
            return Err(RpcError::wallet("Transaction has been mined, or is conflicted with a mined transaction"));
        }
        if let Some(by) = record.replaced_by {
            return Err(RpcError::wallet(format!(
                "Cannot bump transaction {} which was already bumped by transaction {by}",
                record.txid
            )));
        }
        Ok(())
    }

    /// What the new payment is asked to be.
    fn replacement(&self, request: &BumpRequest, original: &Original) -> Result<SpendRequest, RpcError> {
        let outputs = if request.outputs.is_empty() { &original.tx.output } else { &request.outputs };
        let mut spend = SpendRequest { min_conf: 1, rbf: Some(request.rbf), ..SpendRequest::default() };
        {
            let wallet = self.wallet();
            let is_change = |index: u32, script: &Script| match request.change_index {
                Some(change) => change == index,
                None => wallet.is_change(script),
            };
            for (index, output) in (0_u32..).zip(outputs) {
                if is_change(index, &output.script_pubkey) {
                    spend.change.script = Some(output.script_pubkey.clone());
                } else {
                    let script = output.script_pubkey.clone();
                    spend.recipients.push(Recipient { script, amount: output.value, subtract_fee: false });
                }
            }
            for (input, coin) in original.tx.input.iter().zip(&original.coins) {
                let foreign = !wallet.is_mine(&coin.script_pubkey);
                spend.inputs.push(ChosenInput {
                    outpoint: input.previous_output,
                    sequence: None,
                    weight: foreign.then(|| largest_weight(input)),
                });
            }
        }
        if spend.recipients.is_empty() {
            let amount = outputs.iter().try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value));
            let (Some(script), Some(amount)) = (spend.change.script.take(), amount) else {
                return Err(RpcError::invalid_parameter(
                    "Unable to create transaction. Transaction must have at least one recipient",
                ));
            };
            spend.recipients.push(Recipient { script, amount, subtract_fee: true });
        }
        spend.fee = match request.fee {
            FeeChoice::Rate { rate, .. } => {
                self.check_rate(FeeRate(rate.sat_per_kvb), original, outputs, &spend)?;
                FeeChoice::Rate { rate, override_min: false }
            }
            estimate => {
                let rate = self.better_rate(original, estimate)?;
                FeeChoice::Rate { rate: AskedRate { sat_per_kvb: rate.0 }, override_min: false }
            }
        };
        Ok(spend)
    }

    /// Core's `CheckFeeRate`: what the user asked for must be enough, and not too much.
    fn check_rate(
        &self,
        rate: FeeRate,
        original: &Original,
        outputs: &[TxOut],
        spend: &SpendRequest,
    ) -> Result<(), RpcError> {
        let floor = FeeRate(self.chain.mempool_min_fee().to_sat_per_kwu().saturating_mul(4));
        if rate < floor {
            return Err(RpcError::wallet(format!(
                "New fee rate ({}) is lower than the minimum fee rate ({}) to get into the mempool -- ",
                money(Amount::from_sat(rate.0)),
                money(Amount::from_sat(floor.0))
            )));
        }
        let size = self.signed_size(original, outputs, spend)?;
        let reused: Vec<OutPoint> = original.tx.input.iter().map(|input| input.previous_output).collect();
        let lacking = self.chain.combined_bump_fee(&reused, rate).ok_or_else(|| {
            RpcError::wallet(
                "Failed to calculate bump fees, because unconfirmed UTXOs depend on an enormous cluster of unconfirmed \
                 transactions.",
            )
        })?;
        let total = rate.fee(size) + lacking;
        let increment = self.chain.incremental_fee().fee(size);
        if total < original.fee + increment {
            return Err(RpcError::invalid_parameter(format!(
                "Insufficient total fee {}, must be at least {} (oldFee {} + incrementalFee {})",
                money(total),
                money(original.fee + increment),
                money(original.fee),
                money(increment)
            )));
        }
        let required = fees::required(&self.options, self.chain.as_ref()).fee(size);
        if total < required {
            return Err(RpcError::invalid_parameter(format!(
                "Insufficient total fee (cannot be less than required fee {})",
                money(required)
            )));
        }
        let most = fees::max_fee(&self.options);
        if total > most {
            return Err(RpcError::wallet(format!(
                "Specified or calculated fee {} is too high (cannot be higher than -maxtxfee {})",
                money(total),
                money(most)
            )));
        }
        Ok(())
    }

    /// Virtual size of the old inputs, signed, with the new outputs.
    fn signed_size(&self, original: &Original, outputs: &[TxOut], spend: &SpendRequest) -> Result<u64, RpcError> {
        let wallet = self.wallet();
        let mut sizes = Vec::with_capacity(original.coins.len());
        for (input, coin) in spend.inputs.iter().zip(&original.coins) {
            let spending = wallet.keys().spending(&coin.script_pubkey);
            let weight = input.weight.or(spending.map(|spending| spending.weight));
            let segwit = spending.map_or(coin.script_pubkey.is_witness_program(), |spending| spending.segwit);
            let weight =
                weight.ok_or_else(|| RpcError::wallet("Missing solving data for estimating transaction size"))?;
            sizes.push((weight, segwit));
        }
        let tx = Transaction { output: outputs.to_vec(), ..original.tx.clone() };
        Ok(vbytes(tss_wallet::wallet::spend::fees::signed_weight(&tx, &sizes)))
    }

    /// Core's `EstimateFeeRate`: more than the old rate by what replacement costs, or the estimate.
    fn better_rate(&self, original: &Original, estimate: FeeChoice) -> Result<FeeRate, RpcError> {
        let size = u64::try_from(original.tx.vsize()).unwrap_or(u64::MAX).max(1);
        let old = original.fee.to_sat().saturating_mul(1_000) / size;
        let increment = self.chain.incremental_fee().max(WALLET_INCREMENT);
        let better = FeeRate(old.saturating_add(1).saturating_add(increment.0));
        let estimated = fees::choose(&self.options, self.chain.as_ref(), estimate).map_err(not_created)?;
        Ok(better.max(estimated.rate))
    }
}

fn not_created(error: RpcError) -> RpcError {
    if error.code == code::RPC_WALLET_ERROR {
        RpcError::wallet(format!("Unable to create transaction. {}", error.message))
    } else {
        error
    }
}

/// Whether bytes look like a DER signature with its sighash byte.
fn is_signature(bytes: &[u8]) -> bool {
    (9..=MAX_SIGNATURE).contains(&bytes.len()) && bytes.first() == Some(&0x30)
}

/// What an input of others weighs, its signatures counted at their longest.
fn largest_weight(input: &TxIn) -> u64 {
    let missing = |bytes: &[u8]| if is_signature(bytes) { MAX_SIGNATURE - bytes.len() } else { 0 };
    let script = input.script_sig.instructions().filter_map(Result::ok);
    let pushed: usize = script.filter_map(|step| step.push_bytes().map(|push| missing(push.as_bytes()))).sum();
    let witness: usize = input.witness.iter().map(missing).sum();
    // Without a witness of its own an input still counts the length of none, as `segwit_weight` does.
    let weight = input.segwit_weight().to_wu();
    weight.saturating_add(u64::try_from(pushed * 4 + witness).unwrap_or(0))
}
