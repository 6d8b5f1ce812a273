//! What addresses and labels were paid.

use std::collections::BTreeMap;

use bitcoin::{Amount, ScriptBuf, Txid};

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Ledger, Result, WalletTx};
use super::{params, select};

pub(super) async fn getreceivedbyaddress(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let script = params::address_script(args.str(0)?, network, "Invalid Bitcoin address")?;
    let counted = Counted::from_args(&args, 1, 2)?;
    select::query(wallet.as_ref(), |ledger| total(ledger, vec![script], &counted))?
}

pub(super) async fn getreceivedbylabel(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let label = params::label(args.get(0))?;
    let counted = Counted::from_args(&args, 1, 2)?;
    select::query(wallet.as_ref(), |ledger| {
        let book = ledger.address_book();
        let scripts: Vec<ScriptBuf> =
            book.into_iter().filter(|entry| entry.label == label).map(|entry| entry.script).collect();
        if scripts.is_empty() {
            return Err(RpcError::wallet("Label not found in wallet"));
        }
        total(ledger, scripts, &counted)
    })?
}

/// Which transactions count.
struct Counted {
    min_depth: i64,
    include_immature: bool,
}

impl Counted {
    fn from_args(args: &Args, min_depth: usize, include_immature: usize) -> Result<Counted> {
        let min_depth = args.opt_int::<i32>(min_depth)?.map_or(1, i64::from);
        let include_immature = args.opt_bool(include_immature)?.unwrap_or(false);
        Ok(Counted { min_depth, include_immature })
    }

    fn admits(&self, tx: &WalletTx) -> bool {
        let orphaned = tx.tx.is_coinbase() && tx.confirmations < 1;
        tx.confirmations >= self.min_depth && !orphaned && (!tx.immature || self.include_immature)
    }
}

/// What one script was paid, by which transactions, and how deep the shallowest lies.
#[derive(Default)]
struct Tally {
    amount: Amount,
    confirmations: Option<i64>,
    txids: Vec<Txid>,
}

impl Tally {
    fn add(&mut self, amount: Amount, confirmations: Option<i64>) {
        self.amount = self.amount.checked_add(amount).unwrap_or(Amount::MAX);
        self.confirmations = match (self.confirmations, confirmations) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
    }
}

fn tally(ledger: &dyn Ledger, counted: &Counted, only: Option<&ScriptBuf>) -> BTreeMap<ScriptBuf, Tally> {
    let mut tallies: BTreeMap<ScriptBuf, Tally> = BTreeMap::new();
    for txid in ledger.txids() {
        if ledger.confirmations(&txid).is_none_or(|confirmations| confirmations < counted.min_depth) {
            continue;
        }
        let Some(found) = ledger.transaction(&txid, true).filter(|tx| counted.admits(tx)) else { continue };
        for output in &found.tx.output {
            let script = &output.script_pubkey;
            if only.is_some_and(|only| only != script) || !ledger.is_mine(script) {
                continue;
            }
            let tally = tallies.entry(script.clone()).or_default();
            tally.add(output.value, Some(found.confirmations));
            tally.txids.push(txid);
        }
    }
    tallies
}

fn total(ledger: &dyn Ledger, scripts: Vec<ScriptBuf>, counted: &Counted) -> RpcResult {
    let mine: Vec<ScriptBuf> = scripts.into_iter().filter(|script| ledger.is_mine(script)).collect();
    if mine.is_empty() {
        return Err(RpcError::wallet("Address not found in wallet"));
    }
    let only = if let [only] = mine.as_slice() { Some(only) } else { None };
    let mut sum = Tally::default();
    for (script, tally) in tally(ledger, counted, only) {
        if mine.contains(&script) {
            sum.add(tally.amount, None);
        }
    }
    Ok(sum.amount.into())
}

pub(super) async fn listreceivedbyaddress(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let counted = Counted::from_args(&args, 0, 4)?;
    let include_empty = args.opt_bool(1)?.unwrap_or(false);
    let only = match args.opt_str(3)?.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            params::script_of(text, network).ok_or_else(|| RpcError::wallet("address_filter parameter was invalid"))?,
        ),
    };
    select::query(wallet.as_ref(), |ledger| {
        let mut tallies = tally(ledger, &counted, only.as_ref());
        let mut rows = Vec::new();
        for entry in ledger.address_book() {
            if only.as_ref().is_some_and(|only| *only != entry.script) {
                continue;
            }
            let found = tallies.remove(&entry.script);
            let Some(address) = params::address_of(&entry.script, network) else { continue };
            if found.is_none() && !include_empty {
                continue;
            }
            let mut found = found.unwrap_or_default();
            // Core lists them in the order of a hash table: by no time, and by no parent.
            found.txids.sort();
            let row = Value::obj().with("address", address).with("amount", found.amount);
            let row = row.with("confirmations", found.confirmations.unwrap_or(0)).with("label", entry.label);
            rows.push(row.with("txids", Value::arr(found.txids)));
        }
        Ok(Value::Arr(rows))
    })?
}

pub(super) async fn listreceivedbylabel(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let counted = Counted::from_args(&args, 0, 3)?;
    let include_empty = args.opt_bool(1)?.unwrap_or(false);
    select::query(wallet.as_ref(), |ledger| {
        let mut tallies = tally(ledger, &counted, None);
        let mut by_label: BTreeMap<String, Tally> = BTreeMap::new();
        for entry in ledger.address_book() {
            let found = tallies.remove(&entry.script);
            if found.is_none() && !include_empty {
                continue;
            }
            let found = found.unwrap_or_default();
            by_label.entry(entry.label).or_default().add(found.amount, found.confirmations);
        }
        let rows = by_label.into_iter().map(|(label, tally)| {
            let row = Value::obj().with("amount", tally.amount);
            row.with("confirmations", tally.confirmations.unwrap_or(0)).with("label", label)
        });
        Ok(Value::arr(rows))
    })?
}
