//! What an operator oversees: requests that wait for an answer, the audit log, accusations. Methods of ours.

use bitcoin::Network;
use bitcoin::hex::DisplayHex;

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::local;
use crate::table::{Arg, Kind, Method, RpcResult};

use super::backend::{AuditEntry, Blame, PendingApproval};
use super::policy::payments_value;
use super::select;

const DEFAULT_ENTRIES: u64 = 100;
/// Most entries of one answer.
const MAX_ENTRIES: u64 = 10_000;

pub(super) const METHODS: &[Method] = &[
    Method::ours(
        "listpendingapprovals",
        &[],
        "Requests that this member signs only when its operator says so: to whom how much is paid, the fee, what is \
         proven to be change, who asks, who has agreed, and until when it can be answered.",
        local!(listpendingapprovals),
    ),
    Method::ours(
        "approvesigning",
        &[Arg::req("id", Kind::Str).text()],
        "Lets this member sign a request of listpendingapprovals. Returns {\"id\":hex,\"approved\":true}.",
        local!(approvesigning),
    ),
    Method::ours(
        "rejectsigning",
        &[Arg::req("id", Kind::Str).text(), Arg::opt("reason", Kind::Str).text()],
        "Has this member refuse a request of listpendingapprovals. Returns {\"id\":hex,\"approved\":false}.",
        local!(rejectsigning),
    ),
    Method::ours(
        "getauditlog",
        &[Arg::opt("count", Kind::Num), Arg::opt("skip", Kind::Num)],
        "What this member was asked to sign, what it decided and what it signed: the latest entries but \"skip\", \
         oldest first. Each hash covers the one before it.",
        local!(getauditlog),
    ),
    Method::ours(
        "verifyauditlog",
        &[],
        "Reads the whole audit log and checks every hash.\n\
         Returns {\"valid\":bool,\"entries\":n,\"head\":hex,\"signature\":hex,\"error\":str}: the signature of this \
         member over wallet, number of entries and head; error only where it is not valid.",
        local!(verifyauditlog),
    ),
    Method::ours(
        "listblame",
        &[],
        "Members that this one accuses: of what, in which session, with the signed envelopes that show it where there \
         are such, and whether it signs with them no more until their pair is set up anew.",
        local!(listblame),
    ),
];

fn or_null(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

async fn listpendingapprovals(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let shown = |row| pending_value(Value::obj(), row, network);
    Ok(Value::arr(wallet.pending_approvals()?.into_iter().map(shown)))
}

/// A request that waits, added to an object.
fn pending_value(out: Value, row: PendingApproval, network: Network) -> Value {
    let out = out.with("id", row.id).with("member", row.member).with("coordinator", row.coordinator);
    let out = out.with_opt("txid", row.txid).with_opt("message", row.text);
    let out = if row.transaction.is_empty() { out } else { out.with("hex", row.transaction.to_lower_hex_string()) };
    out.with("payments", payments_value(&row.payments, network))
        .with("change", row.change)
        .with("fee", or_null(row.fee))
        .with("agreed", Value::arr(row.agreed))
        .with("rule", row.rule)
        .with("asked", row.asked)
        .with("expires", row.expires)
}

/// A request as it is announced outside RPC: the wallet's name, and the row of `listpendingapprovals`.
pub fn announced(wallet: &str, row: PendingApproval, network: Network) -> String {
    pending_value(Value::obj().with("wallet", wallet), row, network).compact()
}

async fn approvesigning(ctx: Ctx, args: Args) -> RpcResult {
    select::wallet(&ctx)?.answer_approval(args.str(0)?, None).await?;
    Ok(Value::obj().with("id", args.str(0)?).with("approved", true))
}

async fn rejectsigning(ctx: Ctx, args: Args) -> RpcResult {
    let reason = args.opt_str(1)?.unwrap_or_default();
    select::wallet(&ctx)?.answer_approval(args.str(0)?, Some(reason)).await?;
    Ok(Value::obj().with("id", args.str(0)?).with("approved", false))
}

fn count_of(args: &Args, index: usize, name: &str, default: u64) -> Result<u64, RpcError> {
    match args.opt_int::<i64>(index)? {
        None => Ok(default),
        Some(number) => u64::try_from(number).map_err(|_| RpcError::invalid_parameter(format!("Negative {name}"))),
    }
}

async fn getauditlog(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let count = count_of(&args, 0, "count", DEFAULT_ENTRIES)?.min(MAX_ENTRIES);
    let entries = wallet.audit_log(count, count_of(&args, 1, "skip", 0)?).await?;
    Ok(Value::arr(entries.into_iter().map(audit_value)))
}

fn audit_value(entry: AuditEntry) -> Value {
    Value::obj()
        .with("number", entry.number)
        .with("time", entry.time)
        .with("kind", entry.kind)
        .with("outcome", entry.outcome)
        .with("detail", entry.detail)
        .with_opt("txid", entry.txid)
        .with_opt("peerid", entry.member)
        .with_opt("request", entry.request)
        .with_opt("session", entry.session)
        .with("hash", entry.hash)
}

async fn verifyauditlog(ctx: Ctx, _args: Args) -> RpcResult {
    let check = select::wallet(&ctx)?.verify_audit_log().await?;
    let out = Value::obj().with("valid", check.error.is_none()).with("entries", check.entries);
    Ok(out.with("head", check.head).with("signature", check.signature).with_opt("error", check.error))
}

async fn listblame(ctx: Ctx, _args: Args) -> RpcResult {
    let shown = |blame: Blame| {
        Value::obj()
            .with("peerid", blame.peerid)
            .with("kind", blame.kind)
            .with("session", blame.session)
            .with("time", blame.time)
            .with("reason", blame.reason)
            .with("evidence", Value::arr(blame.evidence))
            .with("banned", blame.banned)
    };
    Ok(Value::arr(select::wallet(&ctx)?.blames()?.into_iter().map(shown)))
}
