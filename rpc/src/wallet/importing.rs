//! `importdescriptors`: public descriptors, read by Core's own parser, for wallets without private keys.
//!
//! A request that fails does not end the others; each has its own answer. Source: Core's `wallet/rpc/backup.cpp`,
//! `ProcessDescriptorImport`.

use bitcoin::{Network, ScriptBuf};
use tss_wallet::wallet::descriptors::{is_derivable, with_checksum};
use tss_wallet::wallet::keychain::imported::Scripts;

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Import, Imports, Result, WalletHandle};
use super::{params, select};

/// How long before its time a descriptor may have been paid, seconds.
const TIMESTAMP_WINDOW_S: i64 = 2 * 60 * 60;
/// Scripts of one range at most.
const MAX_RANGE: i64 = 1_000_000;

pub(super) async fn importdescriptors(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    select::ensure_not_scanning(wallet.as_ref())?;
    select::ensure_unlocked(wallet.as_ref())?;
    let requests = args.arr(0)?;
    let (tip_time, now) = tip_times(&ctx, wallet.as_ref()).await?;
    let mut lowest = tip_time;
    let mut rescan = false;
    let mut out = Vec::with_capacity(requests.len());
    for request in requests {
        let timestamp = timestamp_of(request, now)?.max(1);
        let mut warnings = Vec::new();
        let done = import_one(&ctx, wallet.as_ref(), request, timestamp, &mut warnings).await;
        rescan |= done.is_ok();
        lowest = lowest.min(timestamp);
        let mut answer = Value::obj().with("success", done.is_ok());
        if let Err(error) = done {
            answer.push("error", error.to_value());
        }
        if !warnings.is_empty() {
            answer.push("warnings", Value::arr(warnings));
        }
        out.push(answer);
    }
    if rescan {
        let scanned = wallet.rescan_from(u64::try_from(lowest).unwrap_or_default()).await?;
        let scanned = i64::try_from(scanned).unwrap_or(i64::MAX);
        if scanned > lowest {
            let cause = likely_cause(&ctx).await?;
            for (request, answer) in requests.iter().zip(&mut out) {
                let timestamp = timestamp_of(request, now)?;
                if timestamp < scanned && answer.find("error").is_none() {
                    *answer = incomplete(timestamp, scanned, cause);
                }
            }
        }
    }
    Ok(Value::Arr(out))
}

/// What Core thinks of blocks that are missing.
async fn likely_cause(ctx: &Ctx) -> Result<&'static str> {
    let info = Value::parse(&ctx.kernel("getblockchaininfo", "[]".to_owned()).await?).unwrap_or_default();
    if info.member("pruned").as_bool() == Some(true) {
        return Ok(
            " This error could be caused by pruning or data corruption (see bitcoind log for details) and could \
                   be dealt with by downloading and rescanning the relevant blocks (see -reindex option and \
                   rescanblockchain RPC).",
        );
    }
    let states = Value::parse(&ctx.kernel("getchainstates", "[]".to_owned()).await?).unwrap_or_default();
    if states.member("chainstates").as_arr().is_some_and(|states| states.len() > 1) {
        return Ok(" This error is likely caused by an in-progress assumeutxo background sync. Check logs or \
                   getchainstates RPC for assumeutxo background sync progress and try again later.");
    }
    Ok(" This error could potentially caused by data corruption. If the issue persists you may want to reindex (see \
        -reindex option).")
}

/// The answer for a descriptor whose time lies in what could not be looked at.
fn incomplete(timestamp: i64, scanned: i64, cause: &str) -> Value {
    let failed = scanned - TIMESTAMP_WINDOW_S - 1;
    let text = format!(
        "Rescan failed for descriptor with timestamp {timestamp}. There was an error reading a block from time {failed}, \
         which is after or within {TIMESTAMP_WINDOW_S} seconds of key creation, and could contain transactions pertaining \
         to the desc. As a result, transactions and coins using this desc may not appear in the wallet.{cause}"
    );
    Value::obj().with("success", false).with("error", RpcError::misc(text).to_value())
}

/// Time and median time of the block that the wallet has come to.
async fn tip_times(ctx: &Ctx, wallet: &dyn WalletHandle) -> Result<(i64, i64)> {
    let tip = select::query(wallet, |ledger| ledger.tip().hash)?;
    let answer = ctx.kernel("getblockheader", Value::arr([tip.to_string()]).compact()).await?;
    let header = Value::parse(&answer).unwrap_or_default();
    let number = |key: &str| header.member(key).as_i64().unwrap_or_default();
    Ok((number("time"), number("mediantime")))
}

fn timestamp_of(request: &Value, now: i64) -> Result<i64> {
    args::obj_of(request)?;
    match request.find("timestamp") {
        Some(value @ Value::Num(_)) => args::int_of(value),
        Some(Value::Str(text)) if text == "now" => Ok(now),
        Some(other) => Err(RpcError::type_error(format!(
            "Expected number or \"now\" timestamp value for key. got type {}",
            other.type_name()
        ))),
        None => Err(RpcError::type_error("Missing required timestamp field for key")),
    }
}

/// What Core says of a descriptor.
struct Parsed {
    /// One, or as many as a multipath step has branches; each with its checksum.
    descs: Vec<String>,
    ranged: bool,
    private: bool,
}

async fn parse(ctx: &Ctx, text: &str) -> Result<Parsed> {
    if !text.contains('#') {
        return Err(RpcError::invalid_address_or_key("Missing checksum"));
    }
    let answer = ctx.kernel("getdescriptorinfo", Value::arr([text]).compact()).await?;
    let info = Value::parse(&answer).unwrap_or_default();
    let branches = info.member("multipath_expansion").as_arr().unwrap_or_default();
    let mut descs: Vec<String> = branches.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if descs.is_empty() {
        descs.push(info.member("descriptor").as_str().unwrap_or_default().to_owned());
    }
    let flag = |key: &str| info.member(key).as_bool().unwrap_or_default();
    Ok(Parsed { descs, ranged: flag("isrange"), private: flag("hasprivatekeys") })
}

/// What is asked for besides the descriptor.
struct Wanted {
    active: bool,
    internal: Option<bool>,
    label: String,
    labelled: bool,
}

fn wanted(request: &Value) -> Result<Wanted> {
    let flag = |key: &str| request.find(key).map(args::bool_of).transpose();
    Ok(Wanted {
        active: flag("active")?.unwrap_or(false),
        label: params::label(request.member("label"))?,
        labelled: request.find("label").is_some(),
        internal: flag("internal")?,
    })
}

async fn import_one(
    ctx: &Ctx,
    wallet: &dyn WalletHandle,
    request: &Value,
    timestamp: i64,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let text = match request.find("desc") {
        Some(desc) => args::str_of(desc)?,
        None => return Err(RpcError::invalid_parameter("Descriptor not found.")),
    };
    let wanted = wanted(request)?;
    let parsed = parse(ctx, text).await?;
    if wanted.internal.is_some() && parsed.descs.len() > 1 {
        return Err(RpcError::invalid_address_or_key(
            "Cannot have multipath descriptor while also specifying 'internal'",
        ));
    }
    let range = range_of(wallet, request, parsed.ranged, warnings)?;
    refuse_combinations(text, &wanted, &parsed)?;
    for (branch, desc) in parsed.descs.iter().enumerate() {
        ensure_expandable(ctx, desc, parsed.ranged).await?;
        if wallet.settings().private_keys_enabled {
            return Err(RpcError::wallet(
                "Cannot import descriptor without private keys to a wallet with private keys enabled",
            ));
        }
        let import = Import {
            desc: normalized(desc),
            scripts: scripts_of(ctx, desc, parsed.ranged.then_some(&range)).await?,
            timestamp: u64::try_from(timestamp).unwrap_or(1),
            active: wanted.active,
            internal: if parsed.descs.len() == 2 { branch == 1 } else { wanted.internal.unwrap_or(false) },
            label: wanted.label.clone(),
            ranged: parsed.ranged,
            start: range.start,
            end: range.end,
            next_index: range.next,
        };
        let done = wallet.import(import).await.map_err(|error| {
            RpcError::new(error.code, format!("Could not add descriptor '{text}': {}", error.message))
        })?;
        if done == Imports::NotActive {
            warnings.push("Unknown output type, cannot set descriptor to active.".to_owned());
        }
    }
    Ok(())
}

fn refuse_combinations(text: &str, wanted: &Wanted, parsed: &Parsed) -> Result<()> {
    let bad = |text: &str| Err(RpcError::invalid_parameter(text));
    if wanted.active && !parsed.ranged {
        return bad("Active descriptors must be ranged");
    }
    if wanted.labelled && parsed.descs.len() > 1 {
        return bad("Multipath descriptors should not have a label");
    }
    if wanted.labelled && parsed.ranged {
        return bad("Ranged descriptors should not have a label");
    }
    if wanted.labelled && wanted.internal == Some(true) {
        return bad("Internal addresses should not have a label");
    }
    if wanted.active && text.starts_with("combo(") {
        return Err(RpcError::wallet("Combo descriptors cannot be set to active"));
    }
    if parsed.private {
        // The private keys of no wallet here lie in one place, so none takes one in.
        return Err(RpcError::wallet("Cannot import private keys to a wallet with private keys disabled"));
    }
    if text.starts_with("unused(") {
        return Err(RpcError::wallet("Cannot import unused() to wallet without private keys enabled"));
    }
    Ok(())
}

struct Range {
    start: u32,
    /// The index after the last.
    end: u32,
    next: u32,
}

fn range_of(wallet: &dyn WalletHandle, request: &Value, ranged: bool, warnings: &mut Vec<String>) -> Result<Range> {
    let given = request.find("range");
    if !ranged {
        return match given {
            Some(_) => Err(RpcError::invalid_parameter("Range should not be specified for an un-ranged descriptor")),
            None => Ok(Range { start: 0, end: 1, next: 0 }),
        };
    }
    let (start, end) = match given {
        Some(range) => parse_range(range)?,
        None => {
            warnings.push("Range not given, using default keypool range".to_owned());
            (0, i64::from(wallet.settings().keypool_size))
        }
    };
    let next = request.find("next_index").map(args::int_of::<i64>).transpose()?.unwrap_or(start);
    if !(start..end).contains(&next) {
        return Err(RpcError::invalid_parameter("next_index is out of range"));
    }
    // Not above 2^31, as was checked.
    let index = |value: i64| u32::try_from(value).map_err(|_| RpcError::invalid_parameter("End of range is too high"));
    Ok(Range { start: index(start)?, end: index(end)?, next: index(next)? })
}

/// Core's `ParseDescriptorRange`; the end is made exclusive.
fn parse_range(value: &Value) -> Result<(i64, i64)> {
    let bad = RpcError::invalid_parameter;
    let (low, high) = match value {
        Value::Num(_) => (0, args::int_of::<i64>(value)?),
        Value::Arr(pair) if pair.len() == 2 => {
            let (low, high) = (args::int_of::<i64>(value.item(0))?, args::int_of::<i64>(value.item(1))?);
            if low > high {
                return Err(bad("Range specified as [begin,end] must not have begin after end"));
            }
            (low, high)
        }
        _ => return Err(bad("Range must be specified as end or as [begin,end]")),
    };
    if low < 0 {
        return Err(bad("Range should be greater or equal than 0"));
    }
    if high >> 31 != 0 {
        return Err(bad("End of range is too high"));
    }
    if high >= low + MAX_RANGE {
        return Err(bad("Range is too large"));
    }
    Ok((low, high + 1))
}

/// Whether Core can derive a first script; bare ones, which have no address, can be too.
async fn ensure_expandable(ctx: &Ctx, desc: &str, ranged: bool) -> Result<()> {
    match addresses(ctx, desc, ranged.then_some((0, 0))).await {
        Err(error) if error.message.contains("without private keys") => Err(RpcError::wallet(
            "Cannot expand descriptor. Probably because of hardened derivations without private keys provided",
        )),
        _ => Ok(()),
    }
}

async fn addresses(ctx: &Ctx, desc: &str, range: Option<(u32, u32)>) -> Result<Vec<String>> {
    let mut call = vec![Value::from(desc)];
    if let Some((first, last)) = range {
        call.push(Value::arr([first, last]));
    }
    let answer = Value::parse(&ctx.kernel("deriveaddresses", Value::Arr(call).compact()).await?).unwrap_or_default();
    let found = answer.as_arr().unwrap_or_default();
    Ok(found.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn without_checksum(desc: &str) -> &str {
    desc.split_once('#').map_or(desc, |(body, _)| body)
}

/// A descriptor as Core lists it: hardened steps by the letter.
fn normalized(desc: &str) -> String {
    with_checksum(without_checksum(desc).replace('\'', "h"))
}

/// Where the scripts of a descriptor come from, once Core has read it.
async fn scripts_of(ctx: &Ctx, desc: &str, range: Option<&Range>) -> Result<Scripts> {
    let body = without_checksum(desc);
    let inner = |name: &str| body.strip_prefix(name).and_then(|rest| rest.strip_suffix(')'));
    if let Some(hex) = inner("raw(") {
        let script = ScriptBuf::from_hex(hex).map_err(|error| RpcError::internal(error.to_string()))?;
        return Ok(Scripts::Fixed(vec![script]));
    }
    if let Some(key) = inner("combo(") {
        let forms = [format!("pk({key})"), format!("pkh({key})"), format!("wpkh({key})"), format!("sh(wpkh({key}))")];
        // A key that is not compressed has no witness forms.
        return Ok(Scripts::Forms(forms.into_iter().filter(|form| is_derivable(form)).collect()));
    }
    if is_derivable(body) {
        return Ok(Scripts::Forms(vec![body.to_owned()]));
    }
    let network: Network = ctx.wallets()?.network();
    let range = range.map(|range| (range.start, range.end.saturating_sub(1)));
    let found = addresses(ctx, desc, range).await?;
    let scripts: Vec<ScriptBuf> = found.iter().filter_map(|address| params::script_of(address, network)).collect();
    if scripts.is_empty() || scripts.len() != found.len() {
        return Err(RpcError::wallet("Error: scripts of this descriptor cannot be derived"));
    }
    Ok(Scripts::Fixed(scripts))
}
