//! Balances, coins and their locks.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, SignedAmount};

use crate::amount;
use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Ancestry, CoinState, KeyView, Ledger, Result, Unspent, UnspentFilter, WalletHandle};
use super::manage::last_processed_block;
use super::params::{self, Forms};
use super::select;

pub(super) async fn getbalance(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    if args.opt_str(0)?.unwrap_or("*") != "*" {
        return Err(RpcError::new(
            code::RPC_METHOD_DEPRECATED,
            "dummy first argument must be excluded or set to \"*\".",
        ));
    }
    let min_depth = args.opt_int::<i32>(1)?.unwrap_or(0);
    let avoid_reuse = select::avoid_reuse(wallet.as_ref(), args.opt_bool(3)?)?;
    let min_depth = u32::try_from(min_depth).unwrap_or(0);
    let balances = select::query(wallet.as_ref(), |ledger| ledger.balances(min_depth, avoid_reuse, false))?;
    Ok(balances.trusted.into())
}

pub(super) async fn getbalances(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let avoid_reuse = wallet.settings().avoid_reuse;
    let (balances, tip) =
        select::query(wallet.as_ref(), |ledger| (ledger.balances(0, true, true), last_processed_block(ledger)))?;
    let mut mine = Value::obj()
        .with("trusted", balances.trusted)
        .with("untrusted_pending", balances.untrusted_pending)
        .with("immature", balances.immature)
        .with("nonmempool", balances.nonmempool);
    if avoid_reuse {
        mine.push("used", balances.used);
    }
    Ok(Value::obj().with("mine", mine).with("lastprocessedblock", tip))
}

pub(super) async fn listunspent(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let filter = unspent_filter(&args, network)?;
    wallet.synced().await?;
    let show_reused = wallet.settings().avoid_reuse;
    let found = select::query(wallet.as_ref(), |ledger| {
        let coins = ledger.unspent(&filter);
        coins.into_iter().map(|coin| known_coin(ledger, coin)).collect::<Vec<_>>()
    })?;
    let mut rows = Vec::with_capacity(found.len());
    for coin in found {
        let unconfirmed = coin.coin.confirmations == 0;
        let ancestry = if unconfirmed { wallet.ancestry(&coin.coin.outpoint.txid) } else { None };
        rows.push(unspent_row(&coin, ancestry, show_reused, network));
    }
    Ok(Value::Arr(rows))
}

fn unspent_filter(args: &Args, network: bitcoin::Network) -> Result<UnspentFilter> {
    let mut filter = UnspentFilter::default();
    if let Some(min_conf) = args.opt_int::<i32>(0)? {
        filter.min_conf = i64::from(min_conf);
    }
    if let Some(max_conf) = args.opt_int::<i32>(1)? {
        filter.max_conf = i64::from(max_conf);
    }
    for entry in args.opt_arr(2)?.unwrap_or_default() {
        let text = args::str_of(entry)?;
        let script = params::address_script(text, network, &format!("Invalid Bitcoin address: {text}"))?;
        if filter.scripts.contains(&script) {
            return Err(RpcError::invalid_parameter(format!("Invalid parameter, duplicated address: {text}")));
        }
        filter.scripts.push(script);
    }
    filter.include_unsafe = args.opt_bool(3)?.unwrap_or(true);
    let options = args.get(4);
    if options.is_null() {
        return Ok(filter);
    }
    params::check_options(
        options,
        &[
            ("include_immature_coinbase", Some("bool")),
            ("maximumAmount", None),
            ("maximumCount", Some("number")),
            ("minimumAmount", None),
            ("minimumSumAmount", None),
        ],
    )?;
    filter.min_amount = params::optional(options, "minimumAmount", amount::from_value)?.unwrap_or_default();
    filter.max_amount = params::optional(options, "maximumAmount", amount::from_value)?;
    filter.min_sum = params::optional(options, "minimumSumAmount", amount::from_value)?;
    let count = params::optional(options, "maximumCount", args::int_of::<i64>)?;
    filter.max_count = count.and_then(|count| u64::try_from(count).ok()).filter(|count| *count > 0);
    filter.include_immature = options.member("include_immature_coinbase").as_bool().unwrap_or(false);
    Ok(filter)
}

/// A coin and what the wallet knows of its script.
struct KnownCoin {
    coin: Unspent,
    label: Option<String>,
    key: Option<KeyView>,
}

fn known_coin(ledger: &dyn Ledger, coin: Unspent) -> KnownCoin {
    let label = ledger.label(&coin.script);
    let key = ledger.key(&coin.script);
    KnownCoin { coin, label, key }
}

fn unspent_row(known: &KnownCoin, ancestry: Option<Ancestry>, show_reused: bool, network: bitcoin::Network) -> Value {
    let KnownCoin { coin, label, key } = known;
    let mut row = Value::obj().with("txid", coin.outpoint.txid).with("vout", coin.outpoint.vout);
    if let Some(address) = params::address_of(&coin.script, network) {
        row.push("address", address);
        if let Some(label) = label {
            row.push("label", label);
        }
        if let Some(redeem) = key.as_ref().and_then(|key| key.redeem_script.as_ref()) {
            row.push("redeemScript", redeem.to_hex_string());
        }
        if let Some(witness) = key.as_ref().and_then(|key| key.witness_script.as_ref()) {
            row.push("witnessScript", witness.to_hex_string());
        }
    }
    row.push("scriptPubKey", coin.script.to_hex_string());
    row.push("amount", coin.amount);
    row.push("confirmations", coin.confirmations);
    if let Some(ancestry) = ancestry.filter(|ancestry| ancestry.count > 0) {
        row.push("ancestorcount", ancestry.count);
        row.push("ancestorsize", ancestry.size_vbytes);
        row.push("ancestorfees", ancestry.fees.to_sat());
    }
    row.push("spendable", true);
    row.push("solvable", coin.solvable);
    if let Some(desc) = key.as_ref().and_then(|key| key.desc.as_ref()).filter(|_| coin.solvable) {
        row.push("desc", desc);
    }
    row.push("parent_descs", Value::arr(key.as_ref().map(|key| &key.parent_desc)));
    if show_reused {
        row.push("reused", coin.reused);
    }
    row.push("safe", coin.safe);
    row
}

pub(super) async fn lockunspent(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let unlock = args.bool(0)?;
    let persistent = args.opt_bool(2)?.unwrap_or(false);
    let Some(entries) = args.opt_arr(1)? else {
        if unlock {
            wallet.unlock_coins(None).await?;
        }
        return Ok(Value::Bool(true));
    };
    let mut coins = Vec::with_capacity(entries.len());
    for entry in entries {
        coins.push(lockable(wallet.as_ref(), entry, unlock, persistent)?);
    }
    if unlock {
        wallet.unlock_coins(Some(&coins)).await?;
    } else {
        wallet.lock_coins(&coins, persistent).await?;
    }
    Ok(Value::Bool(true))
}

fn lockable(wallet: &dyn WalletHandle, entry: &Value, unlock: bool, persistent: bool) -> Result<OutPoint> {
    args::obj_of(entry)?;
    params::require_members(entry, &[("txid", "string"), ("vout", "number")])?;
    let outpoint = params::outpoint_of(entry)?;
    let refused = match select::query(wallet, |ledger| ledger.coin(&outpoint))? {
        CoinState::UnknownTransaction => "Invalid parameter, unknown transaction",
        CoinState::OutOfBounds => "Invalid parameter, vout index out of bounds",
        CoinState::Spent => "Invalid parameter, expected unspent output",
        CoinState::Unspent { locked: false } if unlock => "Invalid parameter, expected locked output",
        CoinState::Unspent { locked: true } if !unlock && !persistent => "Invalid parameter, output already locked",
        CoinState::Unspent { .. } => return Ok(outpoint),
    };
    Err(RpcError::invalid_parameter(refused))
}

pub(super) async fn listlockunspent(ctx: Ctx, _args: Args) -> RpcResult {
    // What `sendrawtransaction` sent a moment ago is heard of.
    let wallet = select::synced(&ctx).await?;
    let coins = select::query(wallet.as_ref(), |ledger| ledger.locked_coins())?;
    Ok(Value::arr(coins.iter().map(|coin| Value::obj().with("txid", coin.txid).with("vout", coin.vout))))
}

pub(super) async fn simulaterawtransaction(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let mut change = SignedAmount::ZERO;
    let mut made: BTreeMap<OutPoint, SignedAmount> = BTreeMap::new();
    let mut spent: BTreeSet<OutPoint> = BTreeSet::new();
    let overflow = || RpcError::internal("the balance change does not fit");
    for hex in args.arr(0)? {
        let forms = Forms { witness: true, no_witness: true };
        let tx = params::decode_transaction(args::str_of(hex)?, forms).ok_or_else(|| {
            RpcError::new(code::RPC_DESERIALIZATION_ERROR, "Transaction hex string decoding failure.")
        })?;
        for input in &tx.input {
            let coin = input.previous_output;
            if !spent.insert(coin) {
                return Err(RpcError::invalid_parameter("Transaction(s) are spending the same output more than once"));
            }
            let lost = match made.remove(&coin) {
                Some(value) => value,
                None if is_unspent(&ctx, coin).await? => own_value(wallet.as_ref(), coin)?,
                None => {
                    return Err(RpcError::invalid_parameter(
                        "One or more transaction inputs are missing or have been spent already",
                    ));
                }
            };
            change = change.checked_sub(lost).ok_or_else(overflow)?;
        }
        let txid = tx.compute_txid();
        for (vout, output) in (0..).zip(&tx.output) {
            let mine = select::query(wallet.as_ref(), |ledger| ledger.is_mine(&output.script_pubkey))?;
            let gained = if mine { output.value.to_signed().map_err(|_| overflow())? } else { SignedAmount::ZERO };
            made.insert(OutPoint { txid, vout }, gained);
            change = change.checked_add(gained).ok_or_else(overflow)?;
        }
    }
    Ok(Value::obj().with("balance_change", change))
}

/// Whether chain and mempool hold this coin.
async fn is_unspent(ctx: &Ctx, coin: OutPoint) -> Result<bool> {
    let request = Value::Arr(vec![coin.txid.into(), coin.vout.into(), true.into()]).compact();
    let answer = ctx.kernel("gettxout", request).await?;
    Ok(answer.trim() != "null")
}

fn own_value(wallet: &dyn WalletHandle, coin: OutPoint) -> Result<SignedAmount> {
    let vout = usize::try_from(coin.vout).map_err(|_| RpcError::internal("an output number does not fit"))?;
    let value = select::query(wallet, |ledger| {
        let found = ledger.transaction(&coin.txid, false)?;
        let output = found.tx.output.get(vout)?;
        ledger.is_mine(&output.script_pubkey).then_some(output.value)
    })?;
    value.unwrap_or_default().to_signed().map_err(|_| RpcError::internal("an amount does not fit"))
}
