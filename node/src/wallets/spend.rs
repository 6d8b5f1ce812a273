//! Payments: funded, claimed, signed by the quorum, written down, and only then broadcast.
//!
//! A failure before the transaction is written down frees its coins again; after it, the payment stands, whatever the
//! mempool says. A payment with a name of its own is made once ([`super::named`]).

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::{Amount, OutPoint, Transaction, Txid, Weight};
use keyless_rpc::error::{RpcError, code};
use keyless_rpc::wallet::backend::{Funded, SendNote, Sent, SpendRequest};
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};
use tss_wallet::wallet::Wallet;
use tss_wallet::wallet::addresses::POOL_EMPTY;
use tss_wallet::wallet::feed::SendNote as LedgerNote;
use tss_wallet::wallet::locks::ClaimId;
use tss_wallet::wallet::record::TxRecord;
use tss_wallet::wallet::signing::{SighashChoice, SigningItem, apply_signatures};
use tss_wallet::wallet::spend::{ChangeSpec, Draft, PresetInput, Recipient, SpendParams};

use super::fees::{self, Chosen};
use super::follow::FollowError;
use super::loaded::{Loaded, storage_error};
use super::sign::SignFailure;
use super::unconfirmed::MempoolOf;
use crate::quorum::approvals::{OPEN_SECONDS, OPEN_SECONDS_UNATTENDED};
use crate::quorum::signing::Terms;
use crate::quorum::wire::CoinChoice;

/// How often coins are chosen for one payment while other co-signers spend them.
const MAX_DRAWS: u32 = 8;
/// How often a change address is made ready for one choice of coins.
const CHANGE_TRIES: u32 = 10;
/// About as long as another co-signer's payment takes.
const OTHER_PAYMENT: Duration = Duration::from_millis(60);
/// A tip older than this gives no lock time against fee sniping.
const MAX_TIP_AGE_S: u64 = 8 * 60 * 60;
/// Unconfirmed transactions go to the peers again after so long, and up to so much more.
const RESEND_AFTER_S: u64 = 12 * 60 * 60;
const RESEND_SPREAD_S: u64 = 24 * 60 * 60;
/// Not those that the last block could hardly have held.
const RESEND_AGE_S: u64 = 5 * 60;

/// A payment that was made.
pub(super) struct Paid {
    pub tx: Transaction,
    pub fee: Amount,
}

fn insufficient(error: RpcError) -> RpcError {
    if error.code == code::RPC_WALLET_ERROR {
        RpcError::new(code::RPC_WALLET_INSUFFICIENT_FUNDS, error.message)
    } else {
        error
    }
}

impl Loaded {
    pub(super) fn spend_params(
        &self,
        request: &SpendRequest,
        required: &[OutPoint],
    ) -> Result<(SpendParams, Chosen), RpcError> {
        let options = &self.options;
        let chosen = fees::choose(options, self.chain.as_ref(), request.fee)?;
        let mut recipients: Vec<Recipient> = request
            .recipients
            .iter()
            .map(|recipient| Recipient {
                script: recipient.script.clone(),
                amount: recipient.amount,
                subtract_fee: recipient.subtract_fee,
            })
            .collect();
        if request.shuffle {
            recipients.shuffle(&mut rand::thread_rng());
        }
        let mut inputs: Vec<PresetInput> = request
            .inputs
            .iter()
            .map(|input| PresetInput {
                outpoint: input.outpoint,
                sequence: input.sequence,
                weight: input.weight.map(Weight::from_wu),
                prevout: self.chain.output(&input.outpoint),
            })
            .collect();
        for outpoint in required {
            if !inputs.iter().any(|input| input.outpoint == *outpoint) {
                inputs.push(PresetInput { outpoint: *outpoint, sequence: None, weight: None, prevout: None });
            }
        }
        let wallet_flag = self.wallet().avoid_reuse();
        let params = SpendParams {
            recipients,
            inputs,
            add_inputs: request.add_inputs,
            include_unsafe: request.include_unsafe,
            min_conf: request.min_conf,
            max_conf: request.max_conf,
            fee_rate: chosen.rate,
            discard_rate: fees::discard_rate(options, self.chain.as_ref()),
            long_term_rate: options.consolidate_fee,
            dust_relay_rate: options.dust_relay_fee,
            max_tx_fee: fees::max_fee(options),
            max_tx_weight: request.max_tx_weight,
            change: ChangeSpec {
                script: request.change.script.clone(),
                address_type: request.change.address_type.or(options.change_type),
                position: request.change.position.and_then(|position| usize::try_from(position).ok()),
            },
            default_address_type: options.address_type,
            rbf: request.rbf.unwrap_or(options.signal_rbf),
            lock_time: request.lock_time.map(LockTime::from_consensus),
            anti_fee_sniping: self.current_height(),
            version: request.version,
            avoid_reuse: request.avoid_reuse.unwrap_or(wallet_flag),
            avoid_partial_spends: options.avoid_partial_spends,
            solving: request.solving.clone(),
            chain_limits: options.chain_limits,
            mempool: Arc::new(MempoolOf(Arc::clone(&self.chain))),
        };
        Ok((params, chosen))
    }

    /// The tip's height, if the chain is current.
    fn current_height(&self) -> Option<u32> {
        if self.chain.is_initial_block_download() {
            return None;
        }
        let tip = self.wallet().tip()?;
        let facts = self.chain.block_facts(&tip.hash)?;
        (u64::from(facts.time).saturating_add(MAX_TIP_AGE_S) >= self.chain.now()).then_some(tip.height)
    }

    /// Makes sure of a change address. That there is none shows only if change is needed.
    pub(super) fn prepare_change(&self, params: &SpendParams) {
        if params.change.script.is_some() {
            return;
        }
        let kind = self.wallet().change_type(params);
        if let Err(error) = self.ensure_change(kind) {
            tracing::warn!(wallet = self.name, error = error.message, "no change address could be confirmed");
        }
    }

    /// Coins and change for a payment; nothing is signed.
    pub(super) fn fund_request(&self, request: &SpendRequest) -> Result<Funded, RpcError> {
        let (params, _) = self.spend_params(request, &[])?;
        self.prepare_change(&params);
        let mut wallet = self.wallet();
        let draft = draft(&mut wallet, &params, self.options.max_aps_fee)?;
        if request.lock_unspents {
            for outpoint in draft.outpoints() {
                wallet.lock_coin(outpoint, false).map_err(storage_error)?;
            }
        }
        let change_position = draft.change_position.and_then(|position| u32::try_from(position).ok());
        Ok(Funded { tx: draft.tx, fee: draft.fee, change_position })
    }

    /// A whole payment.
    pub(super) fn send_request(&self, request: &SpendRequest, note: &SendNote) -> Result<Sent, RpcError> {
        match note.idempotency_key.as_deref().zip(self.keys()) {
            Some((name, keys)) => self.send_named(request, note, name, &keys),
            None => self.send_with(request, note, &[]),
        }
    }

    /// A whole payment that spends these coins, among others.
    pub(super) fn send_with(
        &self,
        request: &SpendRequest,
        note: &SendNote,
        required: &[OutPoint],
    ) -> Result<Sent, RpcError> {
        let (params, chosen) = self.spend_params(request, required).map_err(insufficient)?;
        let kept =
            LedgerNote { comment: note.comment.clone(), comment_to: note.comment_to.clone(), ..LedgerNote::default() };
        let paid = self.pay_with_free_coins(&params, &kept, note)?;
        Ok(Sent { txid: paid.tx.compute_txid(), fee_reason: chosen.reason })
    }

    /// Chooses other coins where those chosen are in a payment that another co-signer makes at this moment, and waits
    /// for payments under way, here or there, where what they leave is not enough.
    fn pay_with_free_coins(&self, params: &SpendParams, kept: &LedgerNote, note: &SendNote) -> Result<Paid, RpcError> {
        let idempotency_key = note.idempotency_key.as_deref();
        let approval_seconds = if note.detached { OPEN_SECONDS_UNATTENDED } else { OPEN_SECONDS };
        let deadline = Instant::now() + self.options.signing_timeout;
        let set_aside = fresh_claim();
        let mut draws = 0;
        let result = loop {
            let last_draw = draws >= MAX_DRAWS;
            let terms = Terms { idempotency_key, coins: CoinChoice::Wallet, last_draw, approval_seconds };
            match self.pay(params, kept, terms, insufficient) {
                // No other coin will do, and this one has been spent meanwhile.
                Err(SignFailure::CoinTaken(coin)) if is_preset(params, &coin) && self.spender(&coin).is_some() => {
                    break Err(SignFailure::CoinTaken(coin).into());
                }
                Err(SignFailure::CoinTaken(coin)) if draws < MAX_DRAWS => {
                    draws += 1;
                    if let Err(error) = self.wallet().claim(&[coin], set_aside) {
                        tracing::debug!(wallet = self.name, %error, "a coin that another co-signer spends");
                    }
                }
                // As many payments as that are under way: each is about to end.
                Err(SignFailure::CoinTaken(_)) if Instant::now() < deadline => {
                    self.release_claim(set_aside);
                    std::thread::sleep(jitter(OTHER_PAYMENT));
                    draws = 0;
                }
                // They are about to end, and may give change.
                Err(SignFailure::Other(error))
                    if no_coins(&error) && Instant::now() < deadline && !self.wallet().locks().claims().is_empty() =>
                {
                    self.release_claim(set_aside);
                    std::thread::sleep(jitter(OTHER_PAYMENT));
                }
                other => break other.map_err(RpcError::from),
            }
        };
        self.release_claim(set_aside);
        result
    }

    fn release_claim(&self, claim: ClaimId) {
        if let Err(error) = self.wallet().release(claim) {
            tracing::error!(wallet = self.name, %error, "a claim on coins could not be released");
        }
    }

    /// One choice of coins, signed, written down and broadcast. `refused` turns what the funding refuses into
    /// the error of the method.
    pub(super) fn pay(
        &self,
        params: &SpendParams,
        note: &LedgerNote,
        terms: Terms<'_>,
        refused: impl Fn(RpcError) -> RpcError,
    ) -> Result<Paid, SignFailure> {
        let claim = fresh_claim();
        let mut tries = 0;
        let (draft, items) = loop {
            self.prepare_change(params);
            match self.draft_and_claim(params, claim) {
                // Another payment of this moment took the address that was made ready.
                Err(error) if tries < CHANGE_TRIES && error.message == POOL_EMPTY => tries += 1,
                other => break other.map_err(refused)?,
            }
        };
        let result = self.sign_and_commit(&draft, &items, note, terms);
        // Before the coins are free again: whoever waits for them finds the change.
        if let Ok(tx) = &result {
            self.broadcast(tx);
        }
        let mut wallet = self.wallet();
        if result.is_err()
            && let Some(change) = &draft.change
            && let Err(error) = wallet.return_change_address(change)
        {
            tracing::warn!(wallet = self.name, %error, "a change address was not put back");
        }
        drop(wallet);
        self.release_claim(claim);
        Ok(Paid { tx: result?, fee: draft.fee })
    }

    fn draft_and_claim(&self, params: &SpendParams, claim: ClaimId) -> Result<(Draft, Vec<SigningItem>), RpcError> {
        let mut wallet = self.wallet();
        let draft = draft(&mut wallet, params, self.options.max_aps_fee)?;
        let items = wallet
            .signing_items(&draft.tx, SighashChoice::DEFAULT)
            .ok_or_else(|| RpcError::wallet("Signing transaction failed"))?;
        wallet.claim(&draft.outpoints(), claim).map_err(|error| RpcError::wallet(format!("Error: {error}")))?;
        Ok((draft, items))
    }

    fn sign_and_commit(
        &self,
        draft: &Draft,
        items: &[SigningItem],
        note: &LedgerNote,
        terms: Terms<'_>,
    ) -> Result<Transaction, SignFailure> {
        let coins: Vec<_> = draft.inputs.iter().map(|input| Some(input.prevout.clone())).collect();
        let signatures = self.quorum_sign(&draft.tx, &coins, items, &[], terms)?;
        let mut tx = draft.tx.clone();
        apply_signatures(&mut tx, items, &signatures).map_err(|error| RpcError::internal(error.to_string()))?;
        self.record(&tx, note.clone())?;
        Ok(tx)
    }

    fn record(&self, tx: &Transaction, note: LedgerNote) -> Result<Txid, RpcError> {
        let mut wallet = self.wallet();
        let txid = wallet.commit_transaction(tx, note, self.chain.now()).map_err(storage_error)?;
        self.notify(&wallet, &[txid].into());
        Ok(txid)
    }

    /// Hands a recorded transaction to the mempool and the peers. A refusal is logged: the payment stands, and is
    /// tried again at the next block.
    pub(super) fn broadcast(&self, tx: &Transaction) {
        if !self.options.broadcast {
            return;
        }
        // Held over both, as a block with the transaction would else be taken in between, and then forgotten.
        let mut wallet = self.wallet();
        match self.chain.submit(tx, true) {
            Ok(()) => {
                if let Err(error) = self.note_in_mempool(&mut wallet, tx) {
                    tracing::error!(wallet = self.name, %error, "a sent transaction could not be noted");
                }
                drop(wallet);
                self.announce(tx);
            }
            Err(error) => {
                let txid = tx.compute_txid();
                tracing::info!(
                    wallet = self.name, %txid,
                    "CommitTransaction(): Transaction cannot be broadcast immediately, {error}"
                );
                // Its parent, made by another member, may not be here yet: the next block settles that.
                self.unsent().insert(txid);
            }
        }
    }

    /// Records and broadcasts a transaction that is signed already.
    pub(super) fn commit_signed(&self, tx: &Transaction, note: &SendNote) -> Result<Txid, RpcError> {
        let kept =
            LedgerNote { comment: note.comment.clone(), comment_to: note.comment_to.clone(), ..LedgerNote::default() };
        let txid = self.record(tx, kept)?;
        self.broadcast(tx);
        Ok(txid)
    }

    /// After a start: nobody signs for the claims of before, and what was sent goes to the mempool again.
    pub(super) fn resume(&self) -> Result<(), RpcError> {
        {
            let mut wallet = self.wallet();
            let stale: Vec<ClaimId> = wallet.locks().claims().into_keys().collect();
            for claim in stale {
                wallet.release(claim).map_err(storage_error)?;
            }
        }
        let waiting: Vec<Txid> = {
            let wallet = self.wallet();
            wallet.ledger().ordered().filter(|record| waits(record)).map(|record| record.txid).collect()
        };
        self.unsent().extend(waiting);
        self.send_unsent().map_err(storage_error)
    }

    fn unsent(&self) -> MutexGuard<'_, BTreeSet<Txid>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the mempool could not take yet goes there as soon as the chain has its coins: parents first.
    pub(super) fn send_unsent(&self) -> Result<(), FollowError> {
        if !self.options.broadcast {
            return Ok(());
        }
        let ids = std::mem::take(&mut *self.unsent());
        if ids.is_empty() {
            return Ok(());
        }
        let mut waiting: Vec<(u64, Arc<Transaction>)> = {
            let wallet = self.wallet();
            let records = ids.iter().filter_map(|txid| wallet.ledger().get(txid)).filter(|record| waits(record));
            records.map(|record| (record.order, Arc::clone(&record.tx))).collect()
        };
        waiting.sort_by_key(|(order, _)| *order);
        for (_, tx) in waiting {
            match self.chain.submit(&tx, false) {
                Ok(()) => {
                    self.mempool_added(&tx)?;
                    self.announce(&tx);
                }
                Err(error) => {
                    let txid = tx.compute_txid();
                    tracing::debug!(wallet = self.name, %txid, %error, "not in the mempool yet");
                    self.unsent().insert(txid);
                }
            }
        }
        Ok(())
    }
}

fn is_preset(params: &SpendParams, coin: &OutPoint) -> bool {
    params.inputs.iter().any(|input| input.outpoint == *coin)
}

/// Whether a transaction was made here and is neither in a block nor in the mempool.
fn waits(record: &TxRecord) -> bool {
    record.is_inactive() && !record.is_abandoned() && !record.tx.is_coinbase()
}

impl Loaded {
    /// Core's `MaybeResendWalletTxs`: once in 12 to 36 hours, what is unconfirmed goes to the peers again.
    pub(super) fn resend_when_due(&self) {
        let now = self.chain.now();
        if now < self.next_resend.load(Ordering::Relaxed) {
            return;
        }
        if !self.options.broadcast || self.chain.is_initial_block_download() {
            return;
        }
        self.next_resend.store(next_resend(now), Ordering::Relaxed);
        let unconfirmed: Vec<Transaction> = {
            let wallet = self.wallet();
            let best_time =
                wallet.tip().and_then(|tip| self.chain.block_facts(&tip.hash)).map_or(0, |facts| u64::from(facts.time));
            let open = wallet.ledger().ordered().filter(|record| {
                let unconfirmed = (record.in_mempool() && !record.tx.is_coinbase()) || waits(record);
                unconfirmed && record.time_received.saturating_add(RESEND_AGE_S) <= best_time
            });
            open.map(|record| record.tx.as_ref().clone()).collect()
        };
        let sent = unconfirmed.iter().filter(|tx| self.chain.submit(tx, true).is_ok()).count();
        if sent > 0 {
            tracing::info!("[{}] ResubmitWalletTransactions: resubmit {sent} unconfirmed transactions", self.name);
        }
    }
}

/// When what is unconfirmed is to be sent again, at the wallet's opening as after each time.
pub(super) fn next_resend(now: u64) -> u64 {
    let pause = RESEND_AFTER_S + rand::thread_rng().next_u64() % RESEND_SPREAD_S;
    now.saturating_add(pause)
}

/// A payment; where one that spends the coins of an address together costs no more than `max_extra` above it, that
/// one instead, as Core does.
pub(super) fn draft(wallet: &mut Wallet, params: &SpendParams, max_extra: Option<Amount>) -> Result<Draft, RpcError> {
    let make = |wallet: &mut Wallet, params: &SpendParams| {
        wallet.create_transaction(params, &mut rand::thread_rng()).map_err(|error| RpcError::wallet(error.to_string()))
    };
    let first = make(wallet, params)?;
    let Some(max_extra) = max_extra.filter(|_| !params.avoid_partial_spends && first.fee > Amount::ZERO) else {
        return Ok(first);
    };
    // Both use the same change address.
    if let Some(change) = &first.change {
        wallet.return_change_address(change).map_err(storage_error)?;
    }
    let together = SpendParams { avoid_partial_spends: true, ..params.clone() };
    let second = make(wallet, &together);
    let chosen = second.as_ref().is_ok_and(|second| second.fee <= first.fee + max_extra);
    if let Ok(second) = &second {
        tracing::info!(
            "[{}] Fee non-grouped = {}, grouped = {}, using {}",
            wallet.name(),
            first.fee.to_sat(),
            second.fee.to_sat(),
            if chosen { "grouped" } else { "non-grouped" }
        );
    }
    match second {
        Ok(second) if chosen => Ok(second),
        other => {
            let taken = other.ok().and_then(|second| second.change);
            match (&first.change, taken) {
                (None, Some(unused)) => wallet.return_change_address(&unused).map_err(storage_error)?,
                (Some(wanted), None) => {
                    let kind = wanted.key.address_type();
                    wallet.change_address(kind).map_err(|error| RpcError::wallet(error.to_string()))?;
                }
                _ => {}
            }
            Ok(first)
        }
    }
}

fn no_coins(error: &RpcError) -> bool {
    error.code == code::RPC_WALLET_INSUFFICIENT_FUNDS
}

/// Between half of a time and all of it: two coordinators do not meet again.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::thread_rng().gen_range(0.5..=1.0))
}

fn fresh_claim() -> ClaimId {
    let mut id = [0; 32];
    rand::thread_rng().fill_bytes(&mut id);
    ClaimId(id)
}
