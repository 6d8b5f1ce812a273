//! Making, loading and listing wallets, and the state of one.

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{
    CreateWallet, Encryption, Ledger, Loaded, QuorumInfo, QuorumSpec, Result, Scanning, SigningSession, WalletSettings,
};
use super::params::check_options;
use super::select;

/// What Core says of every wallet, for old clients.
const WALLET_VERSION: u32 = 169_900;
/// Where records are kept.
const FORMAT: &str = "rocksdb";

const MILLION: u32 = 1_000_000;

pub(super) async fn createwallet(ctx: Ctx, args: Args) -> RpcResult {
    let passphrase = args.opt_str(3)?.map(str::to_owned);
    let mut warnings = Vec::new();
    if passphrase.as_deref() == Some("") {
        warnings.push("Empty string given as passphrase, wallet will not be encrypted.".to_owned());
    }
    if !args.opt_bool(5)?.unwrap_or(true) {
        return Err(RpcError::wallet(
            "descriptors argument must be set to \"true\"; it is no longer possible to create a legacy wallet.",
        ));
    }
    if args.opt_bool(7)?.unwrap_or(false) {
        return Err(RpcError::wallet("Compiled without external signing support (required for external signing)"));
    }
    let request = CreateWallet {
        name: args.str(0)?.to_owned(),
        disable_private_keys: args.opt_bool(1)?.unwrap_or(false),
        blank: args.opt_bool(2)?.unwrap_or(false),
        passphrase: passphrase.filter(|text| !text.is_empty()),
        avoid_reuse: args.opt_bool(4)?.unwrap_or(false),
        load_on_startup: args.opt_bool(6)?,
        quorum: quorum_spec(args.get(8))?,
    };
    let mut loaded = ctx.wallets()?.create(request).await?;
    warnings.append(&mut loaded.warnings);
    loaded.warnings = warnings;
    Ok(loaded_value(&loaded))
}

/// `{"threshold":t,"members":["peerid",…],"split":bool}`.
fn quorum_spec(value: &Value) -> Result<Option<QuorumSpec>> {
    if value.is_null() {
        return Ok(None);
    }
    args::obj_of(value)?;
    check_options(value, &[("members", Some("array")), ("split", Some("bool")), ("threshold", Some("number"))])?;
    let threshold = value.member("threshold");
    let threshold = if threshold.is_null() { None } else { Some(threshold_of(threshold)?) };
    let members = match value.member("members") {
        Value::Arr(members) => Some(member_names(members)?),
        _ => None,
    };
    let split = value.member("split").as_bool().unwrap_or(false);
    Ok(Some(QuorumSpec { threshold, members, split }))
}

fn threshold_of(value: &Value) -> Result<u16> {
    let number: i64 = args::int_of(value)?;
    u16::try_from(number)
        .ok()
        .filter(|threshold| *threshold > 0)
        .ok_or_else(|| RpcError::invalid_parameter("Invalid quorum threshold, must be at least 1"))
}

fn member_names(members: &[Value]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::with_capacity(members.len());
    for member in members {
        let name = args::str_of(member)?;
        if names.iter().any(|known| known == name) {
            return Err(RpcError::invalid_parameter(format!("Invalid quorum, duplicated member: {name}")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

pub(super) async fn loadwallet(ctx: Ctx, args: Args) -> RpcResult {
    let name = args.str(0)?;
    let wallets = ctx.wallets()?;
    if wallets.list().iter().any(|loaded| loaded == name) {
        let text = format!("Wallet \"{name}\" is already loaded.");
        return Err(RpcError::new(code::RPC_WALLET_ALREADY_LOADED, text));
    }
    let loaded = wallets.load(name, args.opt_bool(1)?).await?;
    Ok(loaded_value(&loaded))
}

pub(super) async fn unloadwallet(ctx: Ctx, args: Args) -> RpcResult {
    let name = select::unique_name(&ctx, &args, 0)?;
    let wallets = ctx.wallets()?;
    let wallet = wallets.get(&name).ok_or_else(select::not_loaded)?;
    select::ensure_not_scanning(wallet.as_ref())?;
    drop(wallet);
    let unloaded = wallets.unload(&name, args.opt_bool(1)?).await?;
    Ok(with_warnings(Value::obj(), &unloaded.warnings))
}

pub(super) fn loaded_value(loaded: &Loaded) -> Value {
    with_warnings(Value::obj().with("name", &loaded.name), &loaded.warnings)
}

fn with_warnings(value: Value, warnings: &[String]) -> Value {
    if warnings.is_empty() { value } else { value.with("warnings", Value::arr(warnings)) }
}

pub(super) async fn listwallets(ctx: Ctx, _args: Args) -> RpcResult {
    Ok(Value::arr(ctx.wallets()?.list()))
}

pub(super) async fn listwalletdir(ctx: Ctx, _args: Args) -> RpcResult {
    let found = ctx.wallets()?.list_dir().await?;
    let entry = |wallet: super::backend::WalletOnDisk| {
        Value::obj().with("name", wallet.name).with("warnings", Value::arr(wallet.warnings))
    };
    Ok(Value::obj().with("wallets", Value::arr(found.into_iter().map(entry))))
}

pub(super) async fn getwalletinfo(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let settings = wallet.settings();
    let (info, tip) = select::query(wallet.as_ref(), |ledger| (ledger.info(), last_processed_block(ledger)))?;
    let quorum = wallet.quorum().await?;
    let mut out = Value::obj()
        .with("walletname", wallet.name())
        .with("walletversion", WALLET_VERSION)
        .with("format", FORMAT)
        .with("txcount", info.tx_count)
        .with("keypoolsize", info.keypool_external)
        .with("keypoolsize_hd_internal", info.keypool_internal);
    match wallet.encryption() {
        Encryption::None => {}
        Encryption::Locked => out.push("unlocked_until", 0),
        Encryption::Unlocked { until } => out.push("unlocked_until", until),
    }
    out.push("private_keys_enabled", settings.private_keys_enabled);
    out.push("avoid_reuse", settings.avoid_reuse);
    out.push("scanning", wallet.scanning().map_or(Value::Bool(false), scanning_value));
    out.push("descriptors", true);
    out.push("external_signer", false);
    out.push("blank", settings.blank);
    if let Some(birthtime) = info.birthtime {
        out.push("birthtime", birthtime);
    }
    out.push("flags", flags(&settings));
    out.push("lastprocessedblock", tip);
    if let Some(quorum) = quorum {
        let mut shown = quorum_summary(&quorum, settings.devquorum);
        shown.push("ceremonies", ceremonies(&wallet.signing_sessions()));
        out.push("quorum", shown);
    }
    Ok(out)
}

fn scanning_value(scanning: Scanning) -> Value {
    let (whole, part) = (scanning.progress_ppm / MILLION, scanning.progress_ppm % MILLION);
    let text = format!("{whole}.{part:06}");
    let progress = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    Value::obj().with("duration", scanning.duration_s).with("progress", Value::Num(progress))
}

/// The names of Core's flags, in the order of their bits.
fn flags(settings: &WalletSettings) -> Value {
    let known = [
        ("avoid_reuse", settings.avoid_reuse),
        // All keys come from account keys by unhardened steps, so the cache that Core means is always complete.
        ("last_hardened_xpub_cached", settings.private_keys_enabled && !settings.blank),
        ("disable_private_keys", !settings.private_keys_enabled),
        ("blank", settings.blank),
        ("descriptor_wallet", true),
    ];
    Value::arr(known.into_iter().filter(|(_, set)| *set).map(|(name, _)| name))
}

fn quorum_summary(quorum: &QuorumInfo, devquorum: Option<(u16, u16)>) -> Value {
    let shown = Value::obj()
        .with("epoch", quorum.epoch)
        .with("threshold", quorum.threshold)
        .with("members", quorum.members.len());
    shown.with_opt("devquorum", devquorum.map(|(threshold, members)| format!("{threshold}/{members}")))
}

/// Shares that are being dealt at this moment, and how far that is.
fn ceremonies(sessions: &[SigningSession]) -> Value {
    let long = sessions.iter().filter(|session| ["keygeneration", "redeal"].contains(&session.kind.as_str()));
    Value::arr(long.map(|session| {
        Value::obj()
            .with("kind", &session.kind)
            .with("state", &session.state)
            .with("started", session.started)
            .with("waiting_for", Value::arr(&session.waiting_for))
    }))
}

/// `{"hash":…,"height":…}` of the last block the wallet has taken in.
pub(super) fn last_processed_block(ledger: &dyn Ledger) -> Value {
    let tip = ledger.tip();
    Value::obj().with("hash", tip.hash).with("height", tip.height)
}

pub(super) async fn setwalletflag(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let flag = args.str(0)?;
    let value = args.opt_bool(1)?.unwrap_or(true);
    let immutable = [
        "blank",
        "key_origin_metadata",
        "last_hardened_xpub_cached",
        "disable_private_keys",
        "descriptor_wallet",
        "external_signer",
    ];
    if immutable.contains(&flag) {
        return Err(RpcError::invalid_parameter(format!("Wallet flag is immutable: {flag}")));
    }
    if flag != "avoid_reuse" {
        return Err(RpcError::invalid_parameter(format!("Unknown wallet flag: {flag}")));
    }
    if wallet.settings().avoid_reuse == value {
        return Err(RpcError::invalid_parameter(format!("Wallet flag is already set to {value}: {flag}")));
    }
    wallet.set_avoid_reuse(value).await?;
    let out = Value::obj().with("flag_name", flag).with("flag_state", value);
    Ok(if value { out.with("warnings", AVOID_REUSE_CAVEAT) } else { out })
}

const AVOID_REUSE_CAVEAT: &str = "You need to rescan the blockchain in order to correctly mark used destinations in \
                                  the past. Until this is done, some destinations may be considered unused, even if \
                                  the opposite is the case.";
