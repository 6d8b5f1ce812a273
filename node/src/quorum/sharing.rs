//! What members of a wallet tell each other about it beside its keys: payments that are on their way, and what
//! addresses are called. A member that was away is told when it is back.
//!
//! News is sent once and not repeated; whoever misses it gets it at the next connection. Nothing of it is believed
//! beyond its worth: a transaction goes to the receiver's own mempool, which checks it; a label is a word for an address
//! that the receiver derives itself.

use std::sync::{Arc, MutexGuard, PoisonError};

use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::{OutPoint, Transaction};
use serde::{Deserialize, Serialize};
use tss_wallet::MemberId;
use tss_wallet::wallet::keychain::KeyId;

use super::core::Core;
use super::holding::Holding;
use super::lease;
use super::refusal::Refusal;
use super::unplaced::Unplaced;
use super::wire::{Blob, Message, Topic};

/// Labels in one message.
const MAX_LABELS: usize = 500;
/// Transactions in one message, in bytes.
const MAX_MESSAGE_BYTES: usize = 500_000;
/// Longest label that is passed on, in bytes.
const MAX_LABEL_BYTES: usize = 1_000;

/// What a receiving address of the wallet is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressLabel {
    pub key: KeyId,
    pub label: String,
}

/// Tells the other members of a transaction that goes to the mempools.
pub fn announce(core: &Core, holding: &Holding, transaction: &Transaction) {
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    let message = Message::Sent(vec![Blob(serialize(transaction))]);
    for member in holding.others().filter(|member| core.is_online(member)) {
        core.send(&topic, 0, member, &message);
    }
}

/// Tells the other members what an address is called.
pub fn label(core: &Core, holding: &Holding, label: AddressLabel) {
    if label.label.len() > MAX_LABEL_BYTES {
        return;
    }
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    let message = Message::Labels { fill: false, labels: vec![label] };
    for member in holding.others().filter(|member| core.is_online(member)) {
        core.send(&topic, 0, member, &message);
    }
}

/// This node has opened a wallet: the others tell what was said meanwhile, and how far addresses were handed out.
pub fn ask(core: &Arc<Core>, holding: &Holding) {
    for member in holding.others().filter(|member| core.is_online(member)) {
        core.send(&core.fresh_topic(holding.wallet(), holding.epoch()), 0, member, &Message::AskNews);
        core.spawn(move |core| lease::compare_marks(core, member));
    }
}

/// A member has opened a wallet, which may come from a backup: each tells the other what it knows.
pub fn news_for(core: &Arc<Core>, member: MemberId, topic: &Topic) {
    if let Some(holding) = core.holding(&topic.wallet).filter(|holding| holding.index_of(&member).is_some()) {
        tell(core, &holding, member);
        lease::compare_marks(core, member);
    }
}

/// A member is there (again): it is told what it may have missed.
pub fn catch_up(core: &Core, member: MemberId) {
    for holding in core.holdings().iter().filter(|holding| holding.index_of(&member).is_some()) {
        tell(core, holding, member);
    }
}

fn tell(core: &Core, holding: &Holding, member: MemberId) {
    let Some(host) = core.host() else { return };
    let (wallet, epoch) = (holding.wallet(), holding.epoch());
    let transactions: Vec<Blob> = host.unconfirmed(wallet).iter().map(|tx| Blob(serialize(tx))).collect();
    for transactions in by_size(&transactions) {
        core.send(&core.fresh_topic(wallet, epoch), 0, member, &Message::Sent(transactions.to_vec()));
    }
    let mut labels = host.labels(wallet);
    labels.retain(|label| label.label.len() <= MAX_LABEL_BYTES);
    for labels in labels.chunks(MAX_LABELS) {
        let message = Message::Labels { fill: true, labels: labels.to_vec() };
        core.send(&core.fresh_topic(wallet, epoch), 0, member, &message);
    }
}

/// Another member sent a transaction: it goes to this node's mempool, which checks it like any other.
pub fn sent_by(core: &Core, from: MemberId, topic: &Topic, transactions: &[Blob]) {
    if core.holding(&topic.wallet).is_none_or(|holding| holding.index_of(&from).is_none()) {
        return;
    }
    for transaction in transactions {
        let Ok(transaction) = deserialize::<Transaction>(&transaction.0) else { return };
        place(core, transaction, Some(from));
    }
}

fn place(core: &Core, transaction: Transaction, from: Option<MemberId>) {
    let Err(error) = core.chain.submit(&transaction, true) else { return };
    if let Some(from) = from {
        let txid = transaction.compute_txid();
        tracing::info!(%from, %txid, %error, "a transaction sent by another member is not in this mempool");
    }
    unplaced(core).keep(transaction, &error.0);
}

/// The chain has grown: what the mempool could not take before may fit now.
pub fn place_again(core: &Core) {
    let waiting = unplaced(core).take();
    for transaction in waiting {
        place(core, transaction, None);
    }
}

fn unplaced(core: &Core) -> MutexGuard<'_, Unplaced> {
    core.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts a list so that each part is sent in one message; a single transaction always fits.
fn by_size(mut transactions: &[Blob]) -> Vec<&[Blob]> {
    let mut parts = Vec::new();
    while !transactions.is_empty() {
        let mut bytes = 0;
        let fits = transactions.iter().take_while(|transaction| {
            bytes += transaction.0.len();
            bytes <= MAX_MESSAGE_BYTES
        });
        let (part, rest) = transactions.split_at(fits.count().max(1));
        parts.push(part);
        transactions = rest;
    }
    parts
}

/// Another member says what addresses are called. With `fill`, those without a label here get one.
pub fn labels_by(core: &Core, from: MemberId, topic: &Topic, fill: bool, labels: &[AddressLabel]) {
    let known = core.holding(&topic.wallet).is_some_and(|holding| holding.index_of(&from).is_some());
    let fits = labels.len() <= MAX_LABELS && labels.iter().all(|label| label.label.len() <= MAX_LABEL_BYTES);
    if !known || !fits {
        tracing::warn!(%from, "labels dropped");
        return;
    }
    if let Some(host) = core.host() {
        host.labelled(topic.wallet, labels, fill);
    }
}

/// Refuses a payment by a coordinator that has not heard of another one with the same coin, and tells it of that one.
pub fn refuse_spent(core: &Core, holding: &Holding, by: MemberId, inputs: &[OutPoint]) -> Option<Refusal> {
    let host = core.host()?;
    for (position, coin) in inputs.iter().enumerate() {
        let Some(spender) = host.spender(holding.wallet(), coin) else { continue };
        if by != core.me() {
            let topic = core.fresh_topic(holding.wallet(), holding.epoch());
            core.send(&topic, 0, by, &Message::Sent(vec![Blob(serialize(&spender))]));
        }
        // A transaction has fewer inputs than u32 counts.
        return Some(Refusal::CoinTaken(position as u32));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn transactions_are_cut_into_messages_by_their_size() {
        let sizes = |list: &[usize]| list.iter().map(|size| Blob(vec![0; *size])).collect::<Vec<Blob>>();
        let cut = |list: &[usize]| by_size(&sizes(list)).iter().map(|part| part.len()).collect::<Vec<usize>>();
        assert_eq!(cut(&[]), [0; 0]);
        assert_eq!(cut(&[10, 20, 30]), [3]);
        assert_eq!(cut(&[400_000, 100_000, 1]), [2, 1]);
        assert_eq!(cut(&[600_000, 600_000]), [1, 1]);
    }
}
