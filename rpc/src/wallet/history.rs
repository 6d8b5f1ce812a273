//! Transactions: the latest, those since a block, one of them.

use std::ops::ControlFlow;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, Txid};

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Ledger, Result, WalletHandle, WalletTx};
use super::entries::{self, Style};
use super::manage::last_processed_block;
use super::{params, select};

/// Rows of `listtransactions` unless the caller says.
const DEFAULT_COUNT: i32 = 10;
/// Deep enough that a block conflict of any depth is shown.
const ANY_DEPTH: i64 = -100_000_000;

pub(super) async fn listtransactions(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let label = match args.opt_str(0)? {
        None | Some("*") => None,
        Some("") => {
            return Err(RpcError::invalid_parameter("Label argument must be a valid label name or \"*\"."));
        }
        Some(label) => Some(label),
    };
    let count = args.opt_int::<i32>(1)?.unwrap_or(DEFAULT_COUNT);
    let skip = args.opt_int::<i32>(2)?.unwrap_or(0);
    let count = usize::try_from(count).map_err(|_| RpcError::invalid_parameter("Negative count"))?;
    let skip = usize::try_from(skip).map_err(|_| RpcError::invalid_parameter("Negative from"))?;
    let replaceable = ctx.services.control.deprecated_rpc_enabled("bip125");
    let style = Style { network, label, min_depth: 0, long: true, replaceable };
    let newest_first = select::query(wallet.as_ref(), |ledger| {
        let mut rows = Vec::new();
        ledger.newest_first(&mut |txid| {
            if let Some(tx) = ledger.transaction(&txid, false) {
                entries::rows(ledger, &tx, &style, &mut rows);
            }
            if rows.len() >= count.saturating_add(skip) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        rows
    })?;
    let mut page: Vec<Value> = newest_first.into_iter().skip(skip).take(count).collect();
    page.reverse();
    Ok(Value::Arr(page))
}

pub(super) async fn gettransaction(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let txid = args.txid(0, "txid")?;
    let verbose = args.opt_bool(2)?.unwrap_or(false);
    let replaceable = ctx.services.control.deprecated_rpc_enabled("bip125");
    let style = Style { network, label: None, min_depth: 0, long: false, replaceable };
    let (mut out, tip, tx) = select::query(wallet.as_ref(), |ledger| {
        let tx = ledger.transaction(&txid, false).ok_or_else(unknown)?;
        let out = describe(ledger, &tx, txid, &style);
        Ok::<_, RpcError>((out, last_processed_block(ledger), tx))
    })??;
    if verbose {
        out.push("decoded", decoded(&ctx, wallet.as_ref(), &tx).await?);
    }
    out.push("lastprocessedblock", tip);
    Ok(out)
}

fn unknown() -> RpcError {
    RpcError::invalid_address_or_key("Invalid or non-wallet transaction id")
}

fn describe(ledger: &dyn Ledger, tx: &WalletTx, txid: Txid, style: &Style<'_>) -> Value {
    let fee = entries::fee(tx);
    // Before it may be spent a coinbase is worth nothing, as in Core's sum.
    let credit = if tx.tx.is_coinbase() && (tx.immature || tx.confirmations < 1) { Amount::ZERO } else { tx.credit };
    let net = entries::plus(credit).to_sat().saturating_sub(entries::plus(tx.debit).to_sat());
    let amount = net.saturating_sub(fee.map_or(0, bitcoin::SignedAmount::to_sat));
    let mut out = Value::obj().with("amount", bitcoin::SignedAmount::from_sat(amount));
    if let Some(fee) = fee {
        out.push("fee", fee);
    }
    entries::push_transaction(&mut out, tx, txid, style);
    let mut details = Vec::new();
    entries::rows(ledger, tx, style, &mut details);
    out.push("details", Value::Arr(details));
    out.push("hex", serialize_hex(tx.tx.as_ref()));
    out
}

/// `decoderawtransaction`, with our change outputs marked.
async fn decoded(ctx: &Ctx, wallet: &dyn WalletHandle, tx: &WalletTx) -> Result<Value> {
    let request = Value::Arr(vec![serialize_hex(tx.tx.as_ref()).into()]).compact();
    let answer = ctx.kernel("decoderawtransaction", request).await?;
    let mut decoded = Value::parse(&answer).map_err(|_| RpcError::internal("the decoded transaction is not JSON"))?;
    let change: Vec<bool> = select::query(wallet, |ledger| {
        tx.tx.output.iter().map(|output| ledger.is_change(&output.script_pubkey)).collect()
    })?;
    let Value::Obj(members) = &mut decoded else { return Ok(decoded) };
    for (key, value) in members {
        let Value::Arr(outputs) = value else { continue };
        if key == "vout" {
            outputs.iter_mut().zip(&change).filter(|(_, change)| **change).for_each(|(output, _)| {
                output.push("ischange", true);
            });
        }
    }
    Ok(decoded)
}

pub(super) async fn abandontransaction(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let txid = args.txid(0, "txid")?;
    if select::query(wallet.as_ref(), |ledger| ledger.transaction(&txid, false).is_none())? {
        return Err(unknown());
    }
    wallet.abandon(txid).await?;
    Ok(Value::Null)
}

// ---------------------------------------------------------------------------------------------------------------------
// listsinceblock

pub(super) async fn listsinceblock(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let since = match args.opt_str(0)?.filter(|text| !text.is_empty()) {
        None => None,
        Some(_) => Some(fork_of(&ctx, args.block_hash(0, "blockhash")?).await?),
    };
    let target = args.opt_int::<i32>(1)?.unwrap_or(1);
    let target = u32::try_from(target).ok().filter(|target| *target > 0);
    let target = target.ok_or_else(|| RpcError::invalid_parameter("Invalid parameter"))?;
    let include_removed = args.opt_bool(3)?.unwrap_or(true);
    let include_change = args.opt_bool(4)?.unwrap_or(false);
    let label = if args.is_null(5) { None } else { Some(params::label(args.get(5))?) };
    let replaceable = ctx.services.control.deprecated_rpc_enabled("bip125");
    let style = |min_depth| Style { network, label: label.as_deref(), min_depth, long: true, replaceable };
    let height = since.as_ref().map(|since| since.fork_height);
    let (transactions, tip) = select::query(wallet.as_ref(), |ledger| {
        let tip = ledger.tip();
        let depth = height.map(|height| i64::from(tip.height) + 1 - height);
        let mut rows = Vec::new();
        let asked = |confirmations: i64| depth.is_none_or(|depth| confirmations.abs() < depth);
        for txid in ledger.txids() {
            if !ledger.confirmations(&txid).is_some_and(asked) {
                continue;
            }
            if let Some(tx) = ledger.transaction(&txid, include_change) {
                entries::rows(ledger, &tx, &style(0), &mut rows);
            }
        }
        (rows, tip)
    })?;
    let mut out = Value::obj().with("transactions", Value::Arr(transactions));
    if include_removed {
        let gone = since.map(|since| since.detached).unwrap_or_default();
        let removed = removed(&ctx, wallet.as_ref(), &gone, include_change, &style(ANY_DEPTH)).await?;
        out.push("removed", Value::Arr(removed));
    }
    let last_height = (u64::from(tip.height) + 1).saturating_sub(u64::from(target));
    let lastblock = ctx.kernel("getblockhash", Value::arr([last_height]).compact()).await?;
    out.push("lastblock", Value::Raw(lastblock));
    Ok(out)
}

/// Where the branch of a block leaves the active chain, and the blocks of the branch, newest first.
struct Fork {
    fork_height: i64,
    detached: Vec<BlockHash>,
}

async fn fork_of(ctx: &Ctx, block: BlockHash) -> Result<Fork> {
    let mut at = block;
    let mut detached = Vec::new();
    loop {
        let request = Value::arr([at]).compact();
        let answer = ctx.kernel("getblockheader", request).await?;
        let header = Value::parse(&answer).map_err(|_| RpcError::internal("the block header is not JSON"))?;
        if header.member("confirmations").as_i64().is_some_and(|depth| depth >= 0) {
            let fork_height = header.member("height").as_i64().unwrap_or(0);
            return Ok(Fork { fork_height, detached });
        }
        detached.push(at);
        let parent = args::hash_of(header.member("previousblockhash"), "previousblockhash")?;
        at = BlockHash::from_byte_array(parent);
    }
}

async fn removed(
    ctx: &Ctx,
    wallet: &dyn WalletHandle,
    detached: &[BlockHash],
    include_change: bool,
    style: &Style<'_>,
) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for block in detached {
        let unreadable = || RpcError::new(code::RPC_INTERNAL_ERROR, "Can't read block from disk");
        let answer = ctx.kernel("getblock", Value::arr([*block]).compact()).await.map_err(|_| unreadable())?;
        let block = Value::parse(&answer).map_err(|_| unreadable())?;
        for entry in block.member("tx").as_arr().unwrap_or_default() {
            let txid = params::txid_of(entry)?;
            select::query(wallet, |ledger| {
                if let Some(tx) = ledger.transaction(&txid, include_change) {
                    entries::rows(ledger, &tx, style, &mut rows);
                }
            })?;
        }
    }
    Ok(rows)
}
