//! The life of a wallet's shares: dealt again, to other members, repaired; members left out. Methods of ours.
//!
//! Owns their rows of the table too. None of them shows a share, and none changes an address.

use std::path::Path;

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::local;
use crate::table::{Arg, Kind, Method, RpcResult};

use super::backend::{Redealt, Result};
use super::select;

pub(super) const METHODS: &[Method] = &[
    Method::ours(
        "refreshshares",
        &[],
        "Deals the shares of the wallet again among its members; the old ones are erased. The addresses stay.\n\
         Works with members away, as long as the threshold and more than half of all are there; a member that was away \
         gets its share back by repairshare.\n\
         Returns {\"epoch\":n,\"seconds\":n,\"absent\":[\"peerid\",...]}, absent only where some were.",
        local!(refreshshares),
    ),
    Method::ours(
        "resharequorum",
        &[Arg::req("threshold", Kind::Num), Arg::req("members", Kind::Arr).oneline("[\"peerid\",...]")],
        "Deals the shares of the wallet again to these members with this threshold. The addresses stay.\n\
         Every new member must be there, and each member's own configuration must say the same (on regtest it need \
         not). Old shares of those who leave stay valid until they are erased: where threshold or more members leave, \
         move the coins.\n\
         Returns {\"epoch\":n,\"threshold\":n,\"members\":[\"peerid\",...],\"seconds\":n}.",
        local!(resharequorum),
    ),
    Method::ours(
        "repairshare",
        &[Arg::req("wallet", Kind::Str).text()],
        "On a member that has lost its share of a wallet, or slept through a change of shares: the others deal it a \
         new one.\n\
         Returns {\"epoch\":n,\"helpers\":[\"peerid\",...],\"seconds\":n}.",
        local!(repairshare),
    ),
    Method::ours(
        "suspendcosigner",
        &[Arg::req("peerid", Kind::Str).text(), Arg::opt("reason", Kind::Str).text()],
        "This member takes part in nothing that the named one is in, until resumecosigner. One's own peerid suspends \
         one's own share. The other members decide for themselves.\n\
         Returns {\"peerid\":str,\"suspended\":true}.",
        local!(suspendcosigner),
    ),
    Method::ours(
        "resumecosigner",
        &[Arg::req("peerid", Kind::Str).text()],
        "Ends a suspension. Returns {\"peerid\":str,\"suspended\":false}.",
        local!(resumecosigner),
    ),
    Method::ours(
        "deleteshare",
        &[
            Arg::req("wallet", Kind::Str).text(),
            Arg::req("confirmation", Kind::Str).text(),
            Arg::opt("force", Kind::Bool),
        ],
        "Leaves the quorum of a wallet and erases this member's share of it. The name is given twice.\n\
         The others deal their shares again without this member first; with force the share is only erased, and the \
         others lose one of their number.\n\
         Returns {\"wallet\":str,\"erased\":true}.",
        local!(deleteshare),
    ),
    Method::ours(
        "verifysharebackup",
        &[Arg::req("file", Kind::Str).text(), Arg::opt("passphrase", Kind::Str).text()],
        "Opens a backup of this member's share without restoring it.\n\
         Returns {\"valid\":bool,\"wallet\":str,\"peerid\":str,\"epoch\":n,\"reason\":str}, reason only where it is not \
         valid.",
        local!(verifysharebackup),
    ),
];

/// `1.250` from 1,250 milliseconds.
fn seconds(milliseconds: u64) -> Value {
    Value::Num(format!("{}.{:03}", milliseconds / 1_000, milliseconds % 1_000))
}

async fn refreshshares(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let Redealt { epoch, milliseconds, absent, .. } = wallet.refresh_shares().await?;
    let out = Value::obj().with("epoch", epoch).with("seconds", seconds(milliseconds));
    Ok(if absent.is_empty() { out } else { out.with("absent", Value::arr(absent)) })
}

async fn resharequorum(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let members: Vec<String> =
        args.arr(1)?.iter().map(|member| args::str_of(member).map(str::to_owned)).collect::<Result<_>>()?;
    let done = wallet.reshare(args.int(0)?, &members).await?;
    let out = Value::obj().with("epoch", done.epoch).with("threshold", done.threshold);
    let out = out.with("members", Value::arr(done.members)).with("seconds", seconds(done.milliseconds));
    Ok(if done.absent.is_empty() { out } else { out.with("absent", Value::arr(done.absent)) })
}

async fn repairshare(ctx: Ctx, args: Args) -> RpcResult {
    let done = ctx.wallets()?.repair_share(args.str(0)?).await?;
    let out = Value::obj().with("epoch", done.epoch).with("helpers", Value::arr(done.helpers));
    Ok(out.with("seconds", seconds(done.milliseconds)))
}

async fn suspendcosigner(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let reason = args.opt_str(1)?.unwrap_or_default();
    wallet.suspend(args.str(0)?, Some(reason)).await?;
    Ok(Value::obj().with("peerid", args.str(0)?).with("suspended", true))
}

async fn resumecosigner(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    wallet.suspend(args.str(0)?, None).await?;
    Ok(Value::obj().with("peerid", args.str(0)?).with("suspended", false))
}

async fn deleteshare(ctx: Ctx, args: Args) -> RpcResult {
    let name = args.str(0)?;
    if args.str(1)? != name {
        return Err(RpcError::invalid_parameter("The name of the wallet must be given twice, to confirm the deletion"));
    }
    ctx.wallets()?.delete_share(name, args.opt_bool(2)?.unwrap_or(false)).await?;
    Ok(Value::obj().with("wallet", name).with("erased", true))
}

async fn verifysharebackup(ctx: Ctx, args: Args) -> RpcResult {
    let check = ctx.wallets()?.verify_backup(Path::new(args.str(0)?), args.opt_str(1)?).await?;
    let out = Value::obj().with("valid", check.reason.is_none()).with_opt("wallet", check.wallet);
    let out = out.with_opt("peerid", check.peerid).with_opt("epoch", check.epoch);
    Ok(out.with_opt("reason", check.reason))
}
