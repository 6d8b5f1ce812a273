//! setban, listbanned, clearbanned.

use super::usage_error;
use crate::args::Args;
use crate::backend::Ctx;
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::subnet::{Subnet, parse_address};
use crate::table::RpcResult;

pub async fn setban(ctx: Ctx, args: Args) -> RpcResult {
    let command = args.str(1)?;
    if !matches!(command, "add" | "remove") {
        return Err(usage_error(&ctx, "setban", code::RPC_MISC_ERROR));
    }
    let given = args.str(0)?;
    let invalid = || RpcError::new(code::RPC_CLIENT_INVALID_IP_OR_SUBNET, "Error: Invalid IP/Subnet");
    let subnet = if given.contains('/') {
        Subnet::parse(given).ok_or_else(invalid)?.to_string()
    } else if is_hidden_host(given) {
        given.to_owned()
    } else {
        parse_address(given).ok_or_else(invalid)?.to_string()
    };
    let network = &ctx.services.network;
    if command == "remove" {
        if !network.unban(&subnet).await? {
            let text = "Error: Unban failed. Requested address/subnet was not previously manually banned.";
            return Err(RpcError::new(code::RPC_CLIENT_INVALID_IP_OR_SUBNET, text));
        }
        return Ok(Value::Null);
    }
    let already = || RpcError::new(code::RPC_CLIENT_NODE_ALREADY_ADDED, "Error: IP/Subnet already banned");
    if network.banned().await?.iter().any(|ban| covers(&ban.address, &subnet)) {
        return Err(already());
    }
    let until = until(&ctx, &args)?;
    if network.ban(&subnet, until).await? { Ok(Value::Null) } else { Err(already()) }
}

/// Whether a ban stands for what is to be banned: the same subnet, or one around a single address.
fn covers(banned: &str, asked: &str) -> bool {
    let around = || Some(Subnet::parse(banned)?.contains(parse_address(asked)?));
    banned == asked || around().unwrap_or(false)
}

/// Whether this is a name of a network that hides addresses.
fn is_hidden_host(text: &str) -> bool {
    text.ends_with(".onion") || text.ends_with(".b32.i2p")
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

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_single_address_is_covered_by_its_subnets() {
        for (banned, asked, expected) in [
            ("127.0.0.0/24", "127.0.0.1", true),
            ("127.0.0.0/24", "127.0.0.0/25", false),
            ("127.0.0.0/24", "127.0.0.0/24", true),
            ("127.0.0.0/24", "127.0.1.1", false),
            ("a.onion", "a.onion", true),
            ("a.onion", "127.0.0.1", false),
        ] {
            assert_eq!(covers(banned, asked), expected, "{banned} {asked}");
        }
    }
}
