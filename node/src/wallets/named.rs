//! Payments with a name of the user's own (`idempotency_key`): made once, whichever member is asked, and however often.
//!
//! A payment that was made under the name is the answer. One that was tried and is nowhere to be seen may still turn up:
//! the next one spends a coin of it, so that both can never confirm. What other members say is believed where it does
//! no harm: a payment is taken for that of the name if it pays what is asked for, or if t members say so.

use std::time::Duration;

use bitcoin::{OutPoint, Transaction, Txid};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{FeeReason, SendNote, Sent, SpendRequest};

use super::loaded::{Keys, Loaded, storage_error};
use super::sign::quorum_error;
use crate::quorum::approvals::{OPEN_SECONDS, OPEN_SECONDS_UNATTENDED};
use crate::quorum::names::{self, Claim, NameLease};

/// How often a payment is tried while members tell of others under its name.
const MAX_TRIES: u32 = 3;

/// Whether a transaction pays all that is asked for.
fn pays(tx: &Transaction, request: &SpendRequest) -> bool {
    request.recipients.iter().all(|recipient| {
        tx.output.iter().any(|output| {
            output.script_pubkey == recipient.script && (recipient.subtract_fee || output.value == recipient.amount)
        })
    })
}

impl Loaded {
    /// The payment of a name.
    pub(super) fn send_named(
        &self,
        request: &SpendRequest,
        note: &SendNote,
        name: &str,
        keys: &Keys,
    ) -> Result<Sent, RpcError> {
        let made = |txid| Ok(Sent { txid, fee_reason: FeeReason::None });
        if let Some(txid) = self.own_payment(name, keys) {
            return made(txid);
        }
        let approval = Duration::from_secs(if note.detached { OPEN_SECONDS_UNATTENDED } else { OPEN_SECONDS });
        let core = keys.quorum.core();
        let mut lease = names::lease(core, &keys.holding, name, approval).map_err(|error| quorum_error(&error))?;
        let mut tries = 0;
        loop {
            if let Some(txid) = self.payment_of(request, name, keys, &lease)? {
                return made(txid);
            }
            let before = lease.claims().clone();
            match self.send_with(request, note, &self.coins_of(name, keys, &lease)) {
                Ok(sent) => return Ok(sent),
                Err(error) => {
                    tries += 1;
                    let news = tries < MAX_TRIES && lease.ask().is_ok() && *lease.claims() != before;
                    // What another member made may have arrived meanwhile.
                    if !news && self.payment_of(request, name, keys, &lease)?.is_none() {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn own_payment(&self, name: &str, keys: &Keys) -> Option<Txid> {
        let claim = keys.holding.payment(name)?;
        self.claimed(&claim).map(|tx| tx.compute_txid())
    }

    /// The transaction of this wallet that is spoken of, if it was not given up.
    pub(super) fn claimed(&self, claim: &Claim) -> Option<Transaction> {
        let wallet = self.wallet();
        let spenders = claim.inputs.iter().flat_map(|input| wallet.ledger().spenders(*input));
        let mut kept = spenders.filter(|record| !record.is_abandoned());
        kept.find(|record| names::unsigned_txid(&record.tx) == claim.txid).map(|record| record.tx.as_ref().clone())
    }

    /// The payment that was made under a name, here or by another member.
    fn payment_of(
        &self,
        request: &SpendRequest,
        name: &str,
        keys: &Keys,
        lease: &NameLease<'_>,
    ) -> Result<Option<Txid>, RpcError> {
        if !lease.claims().is_empty() {
            self.sync();
        }
        if let Some(txid) = self.own_payment(name, keys) {
            return Ok(Some(txid));
        }
        for claim in lease.claims().values() {
            let Some(tx) = self.claimed(claim) else { continue };
            let said = lease.claims().values().filter(|other| other.txid == claim.txid).count();
            let believed = said >= usize::from(keys.holding.threshold()) || pays(&tx, request);
            let ours = {
                let wallet = self.wallet();
                wallet.ledger().is_from_me(&tx, wallet.keys())
            };
            if believed && ours {
                let inputs: Vec<OutPoint> = tx.input.iter().map(|input| input.previous_output).collect();
                keys.holding.remember_payment(name, claim.txid, &inputs).map_err(storage_error)?;
                return Ok(Some(tx.compute_txid()));
            }
        }
        Ok(None)
    }

    /// A coin of every earlier payment of the name that was not made: of this member's own, and of those that others
    /// tell of as far as they are free.
    fn coins_of(&self, name: &str, keys: &Keys, lease: &NameLease<'_>) -> Vec<OutPoint> {
        let wallet = self.wallet();
        let free = |coin: &&OutPoint| {
            let (ledger, locks) = (wallet.ledger(), wallet.locks());
            ledger.coin(**coin, wallet.keys()).is_some()
                && !ledger.is_spent(**coin)
                && !locks.is_locked(**coin)
                && !locks.is_claimed(**coin)
        };
        let mut coins: Vec<OutPoint> = Vec::new();
        if let Some(Claim { inputs, .. }) = keys.holding.payment(name) {
            coins.extend(inputs.iter().find(free).or(inputs.first()).copied());
        }
        for claim in lease.claims().values() {
            if !claim.inputs.iter().any(|input| coins.contains(input)) {
                coins.extend(claim.inputs.iter().find(free).copied());
            }
        }
        coins
    }
}
