//! setban, listbanned, clearbanned.

use super::usage_error;
use crate::args::Args;
use crate::backend::Ctx;
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::subnet::Subnet;
use crate::table::RpcResult;

pub async fn setban(ctx: Ctx, args: Args) -> RpcResult {
    let command = args.str(1)?;
    if !matches!(command, "add" | "remove") {
        return Err(usage_error(&ctx, "setban", code::RPC_MISC_ERROR));
    }
    let subnet = Subnet::parse(args.str(0)?)
        .ok_or_else(|| RpcError::new(code::RPC_CLIENT_INVALID_IP_OR_SUBNET, "Error: Invalid IP/Subnet"))?;
    let subnet = subnet.to_string();
    let network = &ctx.services.network;
    if command == "remove" {
        if !network.unban(&subnet).await? {
            let text = "Error: Unban failed. Requested address/subnet was not previously manually banned.";
            return Err(RpcError::new(code::RPC_CLIENT_INVALID_IP_OR_SUBNET, text));
        }
        return Ok(Value::Null);
    }
    let already = || RpcError::new(code::RPC_CLIENT_NODE_ALREADY_ADDED, "Error: IP/Subnet already banned");
    if network.banned().await?.iter().any(|ban| ban.address == subnet) {
        return Err(already());
    }
    let until = until(&ctx, &args)?;
    if network.ban(&subnet, until).await? { Ok(Value::Null) } else { Err(already()) }
}

fn until(ctx: &Ctx, args: &Args) -> Result<i64, RpcError> {
    let now = ctx.services.control.time_secs();
    let given: i64 = args.opt_int(2)?.unwrap_or(0);
    let absolute = args.opt_bool(3)?.unwrap_or(false);
    if absolute && given < now {
        return Err(RpcError::invalid_parameter("Error: Absolute timestamp is in the past"));
    }
    let (seconds, absolute) =
        if given <= 0 { (ctx.services.network.default_ban_secs(), false) } else { (given, absolute) };
    Ok(if absolute { seconds } else { now.saturating_add(seconds) })
}

pub async fn listbanned(ctx: Ctx, _args: Args) -> RpcResult {
    let now = ctx.services.control.time_secs();
    let bans = ctx.services.network.banned().await?;
    Ok(Value::arr(bans.iter().map(|ban| {
        Value::obj()
            .with("address", &ban.address)
            .with("ban_created", ban.created_secs)
            .with("banned_until", ban.until_secs)
            .with("ban_duration", ban.until_secs - ban.created_secs)
            .with("time_remaining", ban.until_secs - now)
    })))
}

pub async fn clearbanned(ctx: Ctx, _args: Args) -> RpcResult {
    ctx.services.network.clear_bans().await?;
    Ok(Value::Null)
}
