//! `sendall`: all coins, or those given, spent without change.
//!
//! Source: Core's `sendall` of `wallet/rpc/spend.cpp`: the same checks in the same order.

use std::collections::BTreeSet;

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, Sequence, Transaction, TxIn, TxOut};
use rand::Rng;
use tss_wallet::wallet::keychain::imported::Spending;
use tss_wallet::wallet::spend::fees::{self, FeeRate as Rate};

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{CoinState, FeeRate, Ledger, Result, UnspentFilter, WalletHandle};
use super::params::{self, Output};
use super::spending::{finish, send_options};
use super::{options, select};

/// Heaviest transaction that is relayed, and of version 3.
const MAX_WEIGHT: u64 = 400_000;
const TRUC_MAX_WEIGHT: u64 = 40_000;
const TRUC_CHILD_MAX_WEIGHT: u64 = 4_000;
const TRUC_VERSION: i32 = 3;
/// A tip older than this is not current.
const MAX_TIP_AGE_S: i64 = 8 * 60 * 60;
/// How far back a lock time may be put, and how rarely.
const LOCK_TIME_SPREAD: u32 = 100;
const LOCK_TIME_ODDS: u32 = 10;

/// A coin to be spent.
struct Spent {
    outpoint: OutPoint,
    sequence: Sequence,
    value: Amount,
    /// None where the wallet does not know how it is spent.
    spending: Option<Spending>,
    confirmed: bool,
}

fn poor(text: &str) -> RpcError {
    RpcError::new(code::RPC_WALLET_INSUFFICIENT_FUNDS, text)
}

pub(super) async fn sendall(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let asked = send_options(&args)?;
    let (pairs, open) = recipients(args.arr(0)?)?;
    let fee = params::fee_choice(
        asked.member("conf_target"),
        asked.member("estimate_mode"),
        asked.member("fee_rate"),
        false,
    )?;
    let version = asked.member("version");
    let version = params::tx_version(if version.is_null() { 2 } else { args::int_of(version)? })?;
    let filter = coin_filter(&asked, wallet.settings().avoid_reuse, version)?;
    let rbf = params::optional(&asked, "replaceable", args::bool_of)?.unwrap_or(wallet.settings().signal_rbf);
    let (rate, _) = wallet.fee_rate(fee).await.map_err(low_rate)?;
    let rate = Rate(rate.sat_per_kvb);
    let lock_time = params::lock_time(asked.member("locktime"))?;
    let chosen = options::chosen_inputs(asked.member("inputs"), lock_time, rbf)?;
    let outputs = params::outputs(&Value::Arr(pairs), network)?;
    refuse_combinations(&asked)?;
    let spent = if asked.find("inputs").is_some() {
        let named: Vec<_> = chosen.iter().map(|input| (input.outpoint, input.sequence.unwrap_or_default())).collect();
        select::query(wallet.as_ref(), |ledger| named_coins(ledger, &named, version))??
    } else {
        let send_max = asked.member("send_max").as_bool().unwrap_or(false);
        let floor = if send_max { Some(rate) } else { None };
        let sequence = if rbf { Sequence::ENABLE_RBF_NO_LOCKTIME } else { Sequence::ENABLE_LOCKTIME_NO_RBF };
        let mut coins = select::query(wallet.as_ref(), |ledger| all_coins(ledger, &filter, floor, sequence))?;
        if version == TRUC_VERSION {
            // One of version 3 has one unconfirmed parent at the most, and no grandparent.
            let third = |coin: &Spent| wallet.ancestry(&coin.outpoint.txid).is_some_and(|found| found.count > 1);
            coins.retain(|coin| coin.confirmed || !third(coin));
        }
        coins
    };
    let lock_time = if asked.find("locktime").is_some() {
        lock_time
    } else {
        current_lock_time(&ctx, wallet.as_ref(), &spent).await?
    };
    let tx = Transaction {
        version: Version(version),
        lock_time: LockTime::from_consensus(lock_time),
        input: spent
            .iter()
            .map(|coin| TxIn { previous_output: coin.outpoint, sequence: coin.sequence, ..TxIn::default() })
            .collect(),
        output: outputs
            .iter()
            .map(|output| TxOut { value: output.amount, script_pubkey: output.script.clone() })
            .collect(),
    };
    let fee = fee_of(wallet.as_ref(), &tx, &spent, rate).await?;
    let tx = divide(wallet.as_ref(), tx, &spent, &outputs, &open, &fee, &asked)?;
    if asked.member("lock_unspents").as_bool().unwrap_or(false) {
        let coins: Vec<OutPoint> = spent.iter().map(|coin| coin.outpoint).collect();
        wallet.lock_coins(&coins, false).await?;
    }
    finish(wallet.as_ref(), tx, &asked).await
}

/// The recipients as outputs of zero or of what was given, and the names of those without an amount.
fn recipients(given: &[Value]) -> Result<(Vec<Value>, BTreeSet<String>)> {
    let mut pairs = Vec::with_capacity(given.len());
    let mut open = BTreeSet::new();
    for recipient in given {
        match recipient {
            Value::Str(address) => {
                pairs.push(Value::obj().with(address, 0));
                open.insert(address.clone());
            }
            other => pairs.push(other.clone()),
        }
    }
    if open.is_empty() {
        let text = "Must provide at least one address without a specified amount";
        return Err(RpcError::invalid_parameter(text));
    }
    Ok((pairs, open))
}

fn coin_filter(asked: &Value, avoid_reuse: bool, version: i32) -> Result<UnspentFilter> {
    let for_version = Some(version);
    let mut filter =
        UnspentFilter { min_conf: 0, include_unsafe: false, avoid_reuse, for_version, ..UnspentFilter::default() };
    if let Some(depth) = params::optional(asked, "minconf", args::int_of::<i32>)? {
        if depth < 0 {
            let text = format!("Invalid minconf (minconf cannot be negative): {depth}");
            return Err(RpcError::invalid_parameter(text));
        }
        filter.min_conf = i64::from(depth);
    }
    if let Some(depth) = params::optional(asked, "maxconf", args::int_of::<i32>)? {
        filter.max_conf = i64::from(depth);
        if filter.max_conf < filter.min_conf {
            let text = format!("maxconf can't be lower than minconf: {depth} < {}", filter.min_conf);
            return Err(RpcError::invalid_parameter(text));
        }
    }
    Ok(filter)
}

/// A rate of the user's own that is too low is −8 here.
fn low_rate(error: RpcError) -> RpcError {
    if error.message.starts_with("Fee rate (") { RpcError::invalid_parameter(error.message) } else { error }
}

fn refuse_combinations(asked: &Value) -> Result<()> {
    if asked.find("inputs").is_none() {
        return Ok(());
    }
    let refused = if asked.find("send_max").is_some() {
        "Cannot combine send_max with specific inputs."
    } else if asked.find("minconf").is_some() || asked.find("maxconf").is_some() {
        "Cannot combine minconf or maxconf with specific inputs."
    } else {
        return Ok(());
    };
    Err(RpcError::invalid_parameter(refused))
}

fn named_coins(ledger: &dyn Ledger, named: &[(OutPoint, Sequence)], version: i32) -> Result<Vec<Spent>> {
    let mut spent = Vec::with_capacity(named.len());
    for (outpoint, sequence) in named {
        let shown = format!("UTXO ({}:{})", outpoint.txid, outpoint.vout);
        if ledger.coin(outpoint) == CoinState::Spent {
            let text = format!("Input not available. {shown} was already spent.");
            return Err(RpcError::invalid_parameter(text));
        }
        let output = usize::try_from(outpoint.vout).ok().and_then(|vout| {
            let found = ledger.transaction(&outpoint.txid, false)?;
            Some((found.tx.output.get(vout).cloned()?, found.confirmations, found.tx.version.0))
        });
        let mine = output.filter(|(output, ..)| ledger.is_mine(&output.script_pubkey));
        let (output, depth, parent) = mine
            .ok_or_else(|| RpcError::invalid_parameter(format!("Input not found. {shown} is not part of wallet.")))?;
        if depth == 0 {
            refuse_mixed_versions(parent, version)?;
        }
        spent.push(Spent {
            outpoint: *outpoint,
            sequence: *sequence,
            value: output.value,
            spending: ledger.spending(&output.script_pubkey),
            confirmed: depth > 0,
        });
    }
    Ok(spent)
}

/// Of an unconfirmed parent and its child, both have version 3 or none has.
fn refuse_mixed_versions(parent: i32, child: i32) -> Result<()> {
    if (parent == TRUC_VERSION) == (child == TRUC_VERSION) {
        return Ok(());
    }
    let text = format!("Can't spend unconfirmed version {parent} pre-selected input with a version {child} tx");
    Err(RpcError::invalid_parameter(text))
}

/// All coins; with a rate, only those worth more than it costs to spend them.
fn all_coins(ledger: &dyn Ledger, filter: &UnspentFilter, floor: Option<Rate>, sequence: Sequence) -> Vec<Spent> {
    let coins = ledger.unspent(filter).into_iter().filter_map(|coin| {
        let spending = ledger.spending(&coin.script);
        let cost = floor.zip(spending).map(|(rate, spending)| rate.fee(fees::vbytes(spending.weight)));
        let worth = cost.is_none_or(|cost| cost <= coin.amount);
        let confirmed = coin.confirmations > 0;
        worth.then_some(Spent { outpoint: coin.outpoint, sequence, value: coin.amount, spending, confirmed })
    });
    coins.collect()
}

/// The height that keeps others from taking the fees of the last block again, if the chain is current.
async fn current_lock_time(ctx: &Ctx, wallet: &dyn WalletHandle, spent: &[Spent]) -> Result<u32> {
    if spent.iter().any(|coin| coin.sequence == Sequence::MAX || coin.sequence < Sequence::ENABLE_RBF_NO_LOCKTIME) {
        return Ok(0);
    }
    let tip = select::query(wallet, |ledger| ledger.tip())?;
    let header = ctx.kernel("getblockheader", Value::arr([tip.hash]).compact()).await?;
    let time = Value::parse(&header).ok().and_then(|header| header.member("time").as_i64()).unwrap_or(0);
    if time.saturating_add(MAX_TIP_AGE_S) < ctx.services.control.time_secs() {
        return Ok(0);
    }
    let mut random = rand::thread_rng();
    let back = if random.gen_range(0..LOCK_TIME_ODDS) == 0 { random.gen_range(0..LOCK_TIME_SPREAD) } else { 0 };
    Ok(tip.height.saturating_sub(back))
}

/// What the transaction will weigh, and cost.
struct Cost {
    weight: u64,
    fee: Amount,
    /// What unconfirmed ancestors lack.
    bump: Amount,
}

/// A child of version 3 is light; of coins that were named, the mempool says so.
fn heaviest(tx: &Transaction, spent: &[Spent], named: bool) -> u64 {
    match (tx.version.0, named || spent.iter().all(|coin| coin.confirmed)) {
        (TRUC_VERSION, true) => TRUC_MAX_WEIGHT,
        (TRUC_VERSION, false) => TRUC_CHILD_MAX_WEIGHT,
        _ => MAX_WEIGHT,
    }
}

async fn fee_of(wallet: &dyn WalletHandle, tx: &Transaction, spent: &[Spent], rate: Rate) -> Result<Cost> {
    let weights: Option<Vec<(u64, bool)>> =
        spent.iter().map(|coin| coin.spending.map(|spending| (spending.weight, spending.segwit))).collect();
    let weights = weights.ok_or_else(|| {
        RpcError::wallet("Unable to determine the size of the transaction, the wallet contains unsolvable descriptors")
    })?;
    let weight = fees::signed_weight(tx, &weights);
    let coins: Vec<OutPoint> = spent.iter().map(|coin| coin.outpoint).collect();
    let bump = wallet.bump_fee(&coins, FeeRate { sat_per_kvb: rate.0 }).await?;
    Ok(Cost { weight, fee: rate.fee(fees::vbytes(weight)), bump })
}

/// Divides what is left after fee and given amounts among the recipients without one.
fn divide(
    wallet: &dyn WalletHandle,
    mut tx: Transaction,
    spent: &[Spent],
    outputs: &[Output],
    open: &BTreeSet<String>,
    cost: &Cost,
    asked: &Value,
) -> Result<Transaction> {
    let settings = wallet.settings();
    let overflow = || RpcError::internal("the amounts do not fit");
    let sum = |mut amounts: Box<dyn Iterator<Item = Amount> + '_>| {
        amounts.try_fold(Amount::ZERO, Amount::checked_add).ok_or_else(overflow)
    };
    let total = sum(Box::new(spent.iter().map(|coin| coin.value)))?;
    if cost.fee > settings.max_tx_fee {
        let text = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)";
        return Err(RpcError::wallet(text));
    }
    let Some(effective) = total.checked_sub(cost.fee + cost.bump).filter(|left| *left > Amount::ZERO) else {
        return Err(poor(if asked.member("send_max").as_bool().unwrap_or(false) {
            "Total value of UTXO pool too low to pay for transaction, try using lower feerate."
        } else {
            "Total value of UTXO pool too low to pay for transaction. Try using lower feerate or excluding uneconomic \
             UTXOs with 'send_max' option."
        }));
    };
    if cost.weight > heaviest(&tx, spent, asked.find("inputs").is_some()) {
        return Err(RpcError::wallet("Transaction too large."));
    }
    let claimed = sum(Box::new(outputs.iter().map(|output| output.amount)))?;
    if claimed > total {
        return Err(poor("Assigned more value to outputs than available funds."));
    }
    let remainder = effective
        .checked_sub(claimed)
        .ok_or_else(|| poor("Insufficient funds for fees after creating specified outputs."))?;
    let shares = u64::try_from(open.len()).map_err(|_| overflow())?;
    let mut odd = Amount::from_sat(remainder.to_sat() % shares);
    let dust_rate = Rate(settings.dust_relay_rate.sat_per_kvb);
    for (output, asked) in tx.output.iter_mut().zip(outputs) {
        if open.contains(&asked.name) {
            output.value = Amount::from_sat(remainder.to_sat() / shares) + odd;
            odd = Amount::ZERO;
            if fees::is_dust(output, dust_rate) {
                return Err(poor("Dynamically assigned remainder results in dust output."));
            }
        } else if fees::is_dust(output, dust_rate) {
            let text = format!("Specified output amount to {} is below dust threshold.", asked.name);
            return Err(RpcError::invalid_parameter(text));
        }
    }
    Ok(tx)
}
