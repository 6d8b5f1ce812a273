//! One transaction as rows of `listtransactions`, and the fields that every description of it has.
//!
//! Source: Core's `WalletTxToJSON` and `ListTransactions`.

use bitcoin::{Network, SignedAmount, Txid};

use crate::json::Value;

use super::backend::{KeyView, Ledger, WalletTx};
use super::params;

/// How transactions are shown.
pub(super) struct Style<'a> {
    pub network: Network,
    /// Only what was received under this label.
    pub label: Option<&'a str>,
    /// Received outputs are shown from this depth on.
    pub min_depth: i64,
    /// Show all of a transaction with each row.
    pub long: bool,
    /// `bip125-replaceable` too, which Core shows with `-deprecatedrpc=bip125`.
    pub replaceable: bool,
}

/// A negative amount.
pub(super) fn minus(amount: bitcoin::Amount) -> SignedAmount {
    SignedAmount::from_sat(i64::try_from(amount.to_sat()).map_or(i64::MIN, |sat| -sat))
}

/// A signed amount; no amount of money exceeds it.
pub(super) fn plus(amount: bitcoin::Amount) -> SignedAmount {
    SignedAmount::from_sat(i64::try_from(amount.to_sat()).unwrap_or(i64::MAX))
}

/// What leaves this wallet as fee, as a number below zero; nothing for a transaction that spends none of our coins.
pub(super) fn fee(tx: &WalletTx) -> Option<SignedAmount> {
    if !tx.is_from_me() {
        return None;
    }
    let paid: u64 = tx.tx.output.iter().map(|output| output.value.to_sat()).fold(0, u64::saturating_add);
    let paid = SignedAmount::from_sat(i64::try_from(paid).unwrap_or(i64::MAX));
    paid.checked_sub(plus(tx.debit))
}

/// Adds what is said of a transaction as a whole.
pub(super) fn push_transaction(out: &mut Value, tx: &WalletTx, txid: Txid, style: &Style<'_>) {
    out.push("confirmations", tx.confirmations);
    if tx.tx.is_coinbase() {
        out.push("generated", true);
    }
    match &tx.block {
        Some(block) => {
            out.push("blockhash", block.hash);
            out.push("blockheight", block.height);
            out.push("blockindex", block.index);
            out.push("blocktime", block.time);
        }
        None => out.push("trusted", tx.trusted),
    }
    out.push("txid", txid);
    out.push("wtxid", tx.tx.compute_wtxid());
    out.push("walletconflicts", Value::arr(tx.wallet_conflicts.iter().copied()));
    out.push("mempoolconflicts", Value::arr(tx.mempool_conflicts.iter().copied()));
    out.push("time", tx.time);
    out.push("timereceived", tx.time_received);
    if style.replaceable {
        out.push("bip125-replaceable", tx.replaceable.as_str());
    }
    if let Some(comment) = &tx.comment {
        out.push("comment", comment);
    }
    if let Some(comment_to) = &tx.comment_to {
        out.push("to", comment_to);
    }
    if let Some(replaces) = tx.replaces {
        out.push("replaces_txid", replaces);
    }
    if let Some(replaced_by) = tx.replaced_by {
        out.push("replaced_by_txid", replaced_by);
    }
}

/// The rows of one transaction: what it sent, then what it received.
pub(super) fn rows(ledger: &dyn Ledger, tx: &WalletTx, style: &Style<'_>, out: &mut Vec<Value>) {
    let txid = tx.txid();
    if style.label.is_none() {
        let fee = fee(tx);
        for sent in &tx.sent {
            let mut row = Value::obj();
            let label = push_address(&mut row, ledger, tx, sent.vout, style.network);
            row.push("category", "send");
            row.push("amount", minus(sent.amount));
            if let Some(label) = label {
                row.push("label", label);
            }
            row.push("vout", sent.vout);
            row.push("fee", fee.unwrap_or(SignedAmount::ZERO));
            if style.long {
                push_transaction(&mut row, tx, txid, style);
            }
            row.push("abandoned", tx.abandoned);
            out.push(row);
        }
    }
    if tx.confirmations < style.min_depth {
        return;
    }
    for received in &tx.received {
        let mut row = Value::obj();
        let label = push_address(&mut row, ledger, tx, received.vout, style.network);
        if style.label.is_some_and(|wanted| label.as_deref().unwrap_or_default() != wanted) {
            continue;
        }
        row.push("parent_descs", parent_descs(key_of_output(ledger, tx, received.vout)));
        row.push("category", category(tx));
        row.push("amount", received.amount);
        if let Some(label) = label {
            row.push("label", label);
        }
        row.push("vout", received.vout);
        row.push("abandoned", tx.abandoned);
        if style.long {
            push_transaction(&mut row, tx, txid, style);
        }
        out.push(row);
    }
}

fn category(tx: &WalletTx) -> &'static str {
    match tx.tx.is_coinbase() {
        false => "receive",
        true if tx.confirmations < 1 => "orphan",
        true if tx.immature => "immature",
        true => "generate",
    }
}

/// Adds the address an output pays to; gives its label.
fn push_address(row: &mut Value, ledger: &dyn Ledger, tx: &WalletTx, vout: u32, network: Network) -> Option<String> {
    let script = script_of_output(tx, vout)?;
    if let Some(address) = params::address_of(script, network) {
        row.push("address", address);
    }
    ledger.label(script)
}

fn script_of_output(tx: &WalletTx, vout: u32) -> Option<&bitcoin::ScriptBuf> {
    let output = tx.tx.output.get(usize::try_from(vout).ok()?)?;
    Some(&output.script_pubkey)
}

fn key_of_output(ledger: &dyn Ledger, tx: &WalletTx, vout: u32) -> Option<KeyView> {
    ledger.key(script_of_output(tx, vout)?)
}

fn parent_descs(key: Option<KeyView>) -> Value {
    Value::arr(key.map(|key| key.parent_desc))
}
