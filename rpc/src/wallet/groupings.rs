//! `listaddressgroupings`: addresses that past transactions show to be of one owner.
//!
//! Addresses are one group when they were spent from together, or when one took the change of the others. Source:
//! Core's `GetAddressGroupings`.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, ScriptBuf};

use crate::args::Args;
use crate::backend::Ctx;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Ledger, WalletTx};
use super::{params, select};

pub(super) async fn listaddressgroupings(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    select::query(wallet.as_ref(), |ledger| {
        let balances = ledger.address_balances();
        let groups = groups(ledger).into_iter().map(|group| {
            Value::arr(group.iter().filter_map(|script| {
                let address = params::address_of(script, network)?;
                let balance = balances.get(script).copied().unwrap_or(Amount::ZERO);
                let mut shown = vec![Value::from(address), balance.into()];
                shown.extend(ledger.label(script).map(Value::from));
                Some(Value::Arr(shown))
            }))
        });
        Ok(Value::arr(groups))
    })?
}

/// Disjoint sets of scripts.
#[derive(Default)]
struct Union {
    group_of: BTreeMap<ScriptBuf, usize>,
    groups: BTreeMap<usize, BTreeSet<ScriptBuf>>,
    next: usize,
}

impl Union {
    /// These scripts, and all that are in a group with one of them, are one group.
    fn join(&mut self, scripts: BTreeSet<ScriptBuf>) {
        let touched: BTreeSet<usize> = scripts.iter().filter_map(|script| self.group_of.get(script).copied()).collect();
        let mut merged = scripts;
        for group in touched {
            merged.append(&mut self.groups.remove(&group).unwrap_or_default());
        }
        let id = self.next;
        self.next += 1;
        for script in &merged {
            self.group_of.insert(script.clone(), id);
        }
        self.groups.insert(id, merged);
    }
}

fn groups(ledger: &dyn Ledger) -> Vec<BTreeSet<ScriptBuf>> {
    let mut union = Union::default();
    for txid in ledger.txids() {
        let Some(tx) = ledger.transaction(&txid, true) else { continue };
        let spent = spent_scripts(ledger, &tx);
        if !spent.is_empty() {
            let change = tx.tx.output.iter().map(|output| &output.script_pubkey);
            let change = change.filter(|script| ledger.is_change(script)).cloned();
            union.join(spent.into_iter().chain(change).collect());
        }
        for output in &tx.tx.output {
            if ledger.is_mine(&output.script_pubkey) {
                union.join(BTreeSet::from([output.script_pubkey.clone()]));
            }
        }
    }
    union.groups.into_values().collect()
}

/// Scripts of ours that a transaction spends from.
fn spent_scripts(ledger: &dyn Ledger, tx: &WalletTx) -> BTreeSet<ScriptBuf> {
    let mut scripts = BTreeSet::new();
    for input in &tx.tx.input {
        let parent = ledger.transaction(&input.previous_output.txid, false);
        let script = usize::try_from(input.previous_output.vout)
            .ok()
            .and_then(|vout| parent.as_ref()?.tx.output.get(vout))
            .map(|output| &output.script_pubkey);
        if let Some(script) = script.filter(|script| ledger.is_mine(script)) {
            scripts.insert(script.clone());
        }
    }
    scripts
}
