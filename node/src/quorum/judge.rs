//! From a checked request to a decision of this member: facts, mempool acceptance, policy, log.
//!
//! Owns no state; what is decided is written by [`Guard`](super::guard::Guard). Used alike by the coordinator for its
//! own share and by every participant, and by the dry run, which writes nothing.

use std::time::{Duration, Instant};

use bitcoin::Transaction;
use tss_wallet::audit::{Entry, Kind};
use tss_wallet::policy::{Facts, Subject, Verdict};
use tss_wallet::wallet::keychain::ChainId;
use tss_wallet::wallet::signing::{GroupSignature, SigningItem, apply_signatures};
use tss_wallet::{MemberId, PartyIndex, SessionId, Signature};

use super::approvals::{self, Approval, Payment};
use super::check::{Checked, Own};
use super::core::Core;
use super::fence;
use super::guard::Decision;
use super::holding::Holding;
use super::refusal::Refusal;
use crate::wallets::chain_view::{PoolMark, Tested};

/// A parent that was sent a moment ago may not have arrived here yet.
const PARENT_PATIENCE: Duration = Duration::from_millis(800);
const PARENT_POLL: Duration = Duration::from_millis(40);
/// Payments that an entry of the log spells out.
const MAX_LOGGED_PAYMENTS: usize = 20;
const SECONDS_OF_DAY: u64 = 24 * 60 * 60;

/// Who asks, in what, and with whose consent.
#[derive(Debug, Clone)]
pub struct Asking {
    pub coordinator: MemberId,
    pub session: Option<SessionId>,
    pub agreed: Vec<PartyIndex>,
    /// How long a question to the operator stays open.
    pub approval_seconds: u64,
}

/// This member's own knowledge of a wallet, for [`super::check::check`].
pub fn own<'a>(core: &'a Core, holding: &'a Holding, marks: &'a [(ChainId, u32)]) -> Own<'a> {
    Own { wallet: holding.wallet(), keys: holding.keys(), marks, chain: core.chain().as_ref() }
}

/// What a policy rests on.
pub fn facts(core: &Core, coordinator: MemberId, checked: &Checked) -> Facts {
    let chain = core.chain();
    let now = chain.now();
    let tip = chain.block_facts(&chain.tip().hash);
    let current = !chain.is_initial_block_download();
    Facts {
        request: checked.request,
        coordinator,
        subject: checked.spend.clone().map_or(Subject::Message, Subject::Transaction),
        block_time: tip.map(|tip| u64::from(tip.median_time)),
        tip_age_seconds: tip.filter(|_| current).map(|tip| now.saturating_sub(u64::from(tip.time))),
        time_of_day: u32::try_from(now % SECONDS_OF_DAY).ok(),
    }
}

/// A request that was allowed, and what that rests on.
#[derive(Debug, Clone)]
pub struct Allowed {
    facts: Facts,
    /// The moment when this member's mempool would have taken the transaction.
    acceptable_at: Option<PoolMark>,
}

/// Whether Core's own rules let the transaction into this member's mempool, its signatures aside. Gives the moment that
/// the answer is true of.
fn acceptable(core: &Core, checked: &Checked) -> Result<Option<PoolMark>, Refusal> {
    let deadline = Instant::now() + PARENT_PATIENCE;
    loop {
        // Read before the test: a change during it makes another mark.
        let mark = core.chain().pool_mark();
        let Some(dummy) = &checked.dummy else { return Ok(mark) };
        match core.chain().test_accept(dummy) {
            Tested::Accepted | Tested::ScriptsFail => return Ok(mark),
            Tested::MissingInputs if Instant::now() < deadline => std::thread::sleep(PARENT_POLL),
            Tested::MissingInputs => return Err(Refusal::Mempool("bad-txns-inputs-missingorspent".to_owned())),
            Tested::Refused(reason) => return Err(Refusal::Mempool(reason)),
        }
    }
}

/// Decides. Whatever comes out is in the log; a yes is durable once the guard has settled.
pub fn decide(core: &Core, holding: &Holding, asking: &Asking, checked: &Checked) -> Result<Allowed, Refusal> {
    if holding.is_fenced() {
        return Err(Refusal::Fenced);
    }
    let facts = facts(core, asking.coordinator, checked);
    let entry = entry(core, asking, checked);
    let acceptable_at = match holding.guard().wants_acceptance().then(|| acceptable(core, checked)).transpose() {
        Ok(mark) => mark.flatten(),
        Err(refusal) => {
            let detail = format!("{}; {refusal}", entry.detail);
            note(holding, &Entry { outcome: "refuse".to_owned(), detail, ..entry });
            return Err(refusal);
        }
    };
    let question = question(core, holding, asking, checked);
    match holding.guard().decide(&facts, entry, question) {
        Ok(Decision::Sign) => Ok(Allowed { facts, acceptable_at }),
        Ok(Decision::Refuse(denial)) => Err(Refusal::Policy(denial)),
        Ok(Decision::Wait(asked)) => {
            if asked.opened {
                approvals::announce(core, holding, &facts.request);
            }
            let expires = asked.expires;
            tracing::info!(
                wallet = holding.name(), request = %SessionId(facts.request), coordinator = %asking.coordinator, expires,
                "a request waits for this node's operator (listpendingapprovals)"
            );
            Err(Refusal::NeedsApproval)
        }
        Err(error) => Err(Refusal::Storage(error.to_string())),
    }
}

/// The last look before a share leaves: the policy of now still says yes, and so does the mempool.
pub fn release(core: &Core, holding: &Holding, allowed: &Allowed, checked: &Checked) -> Result<(), Refusal> {
    let now = facts(core, allowed.facts.coordinator, checked);
    holding.guard().still(&now).map_err(Refusal::Policy)?;
    let me = core.me();
    if holding.suspended().contains(&me) {
        return Err(Refusal::Suspended(super::peer_name(&me)));
    }
    if holding.is_fenced() {
        return Err(Refusal::Fenced);
    }
    let unchanged = allowed.acceptable_at.is_some_and(|mark| core.chain().pool_mark() == Some(mark));
    if holding.guard().wants_acceptance() && !unchanged {
        acceptable(core, checked)?;
    }
    if let Some((name, txid)) = &checked.named
        && !holding
            .release_payment(name, *txid, &checked.inputs)
            .map_err(|error| Refusal::Storage(error.to_string()))?
    {
        return Err(Refusal::OtherTransaction);
    }
    Ok(())
}

/// What would be decided, with nothing written: the verdict, or what stands before the policy.
pub fn would(core: &Core, holding: &Holding, checked: &Checked) -> Result<Verdict, Refusal> {
    if holding.guard().wants_acceptance() {
        acceptable(core, checked)?;
    }
    Ok(holding.guard().would(&facts(core, core.me(), checked)))
}

/// Returns when what was decided is on the disk; before that no share leaves.
pub fn settle(holding: &Holding) -> Result<(), Refusal> {
    holding.guard().settle().map_err(|error| Refusal::Storage(error.to_string()))
}

/// After the end: what was signed is in the log, and whether this member's mempool takes it as it is.
pub fn signed(core: &Core, holding: &Holding, asking: &Asking, checked: &Checked, signatures: &[Signature]) {
    let tx = finished(checked, signatures);
    let txid = tx.as_ref().map(Transaction::compute_txid).or(checked.txid);
    let finished = tx.map(|tx| core.chain().test_accept(&tx));
    let mut detail = format!("{} signatures", signatures.len());
    match finished {
        Some(Tested::Accepted) => detail.push_str("; acceptable to the mempool"),
        Some(Tested::ScriptsFail) => detail.push_str("; its scripts fail"),
        Some(Tested::MissingInputs) => detail.push_str("; it spends coins that are not there"),
        Some(Tested::Refused(reason)) => {
            tracing::info!(wallet = holding.name(), reason, "a finished transaction is not acceptable to the mempool");
            detail.push_str(&format!("; refused by the mempool: {reason}"));
        }
        None => {}
    }
    let outcome = "signed".to_owned();
    note(holding, &Entry { kind: Kind::Signed, outcome, detail, txid, ..entry(core, asking, checked) });
    fence::announce(core, holding);
}

/// The transaction as it goes out, if this ceremony made all that it wants.
fn finished(checked: &Checked, signatures: &[Signature]) -> Option<Transaction> {
    let mut tx = checked.dummy.clone().filter(|_| checked.whole)?;
    let items: Vec<SigningItem> = checked.items.iter().filter_map(|item| item.to_sign.clone()).collect();
    let made: Vec<GroupSignature> = signatures.iter().map(group_signature).collect();
    apply_signatures(&mut tx, &items, &made).ok()?;
    Some(tx)
}

fn group_signature(signature: &Signature) -> GroupSignature {
    match signature {
        Signature::Ecdsa { signature, .. } => GroupSignature::Ecdsa(*signature),
        Signature::Schnorr(signature) => GroupSignature::Schnorr(*signature),
    }
}

/// Adds to the log; a failure is told to the operator and stops nothing that is done already.
pub fn note(holding: &Holding, entry: &Entry) {
    if let Err(error) = holding.guard().log(entry) {
        tracing::error!(wallet = holding.name(), %error, "the audit log could not be written");
    }
}

fn entry(core: &Core, asking: &Asking, checked: &Checked) -> Entry {
    Entry {
        time: core.chain().now(),
        kind: Kind::Request,
        request: Some(checked.request),
        session: asking.session,
        member: Some(asking.coordinator),
        txid: checked.txid,
        outcome: String::new(),
        detail: described(core, checked),
    }
}

/// The payments in words.
fn described(core: &Core, checked: &Checked) -> String {
    let Some(spend) = &checked.spend else { return "a message".to_owned() };
    let mut out = String::from("pays ");
    for (position, (script, amount)) in spend.recipients.iter().take(MAX_LOGGED_PAYMENTS).enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        let to = bitcoin::Address::from_script(script, core.network());
        let to = to.map_or_else(|_| script.to_hex_string(), |address| address.to_string());
        out.push_str(&format!("{} to {to}", amount.display_in(bitcoin::Denomination::Bitcoin)));
    }
    if spend.recipients.is_empty() {
        out.push_str("nobody");
    }
    if let Some(more) = spend.recipients.len().checked_sub(MAX_LOGGED_PAYMENTS).filter(|more| *more > 0) {
        out.push_str(&format!(" and {more} more"));
    }
    match spend.fee {
        Some(fee) => out.push_str(&format!("; fee {}", fee.display_in(bitcoin::Denomination::Bitcoin))),
        None => out.push_str("; fee unknown"),
    }
    out
}

fn question(core: &Core, holding: &Holding, asking: &Asking, checked: &Checked) -> Approval {
    let payments = checked.spend.iter().flat_map(|spend| &spend.recipients);
    Approval {
        txid: checked.txid,
        transaction: checked.dummy.as_ref().map(unsigned).unwrap_or_default(),
        text: checked.text.clone().unwrap_or_default(),
        payments: payments
            .map(|(script, amount)| Payment { script: script.to_bytes(), sat: amount.to_sat() })
            .collect(),
        change_sat: checked.change.to_sat(),
        fee_sat: checked.spend.as_ref().and_then(|spend| spend.fee).map(bitcoin::Amount::to_sat),
        agreed: asking.agreed.iter().filter_map(|party| holding.public().roster.member(*party).copied()).collect(),
        ..Approval::new(asking.coordinator, "", core.chain().now(), asking.approval_seconds)
    }
}

/// The transaction without what the dummy signatures put in.
fn unsigned(dummy: &Transaction) -> Vec<u8> {
    let mut tx = dummy.clone();
    for input in &mut tx.input {
        input.script_sig = bitcoin::ScriptBuf::new();
        input.witness = bitcoin::Witness::new();
    }
    bitcoin::consensus::serialize(&tx)
}
