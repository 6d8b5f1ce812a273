//! Hidden methods by which tests steer the network.

use std::time::Duration;

use super::usage_error;
use crate::args::{Args, hex_of};
use crate::backend::Ctx;
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

/// Bytes of a message's type on the wire.
const MESSAGE_TYPE_BYTES: usize = 12;

pub async fn addconnection(ctx: Ctx, args: Args) -> RpcResult {
    if !ctx.services.control.is_regtest() {
        return Err(RpcError::misc("addconnection is for regression testing (-regtest mode) only."));
    }
    let (address, kind, v2) = (args.str(0)?, args.str(1)?.trim(), args.bool(2)?);
    if !matches!(kind, "outbound-full-relay" | "block-relay-only" | "addr-fetch" | "feeler") {
        return Err(usage_error(&ctx, "addconnection", code::RPC_INVALID_PARAMETER));
    }
    let network = &ctx.services.network;
    if v2 && !network.v2_transport() {
        let text = "Error: Adding v2transport connections requires -v2transport init flag to be set.";
        return Err(RpcError::invalid_parameter(text));
    }
    if !network.add_connection(address, kind, v2).await? {
        let text = "Error: Already at capacity for specified connection type.";
        return Err(RpcError::new(code::RPC_CLIENT_NODE_CAPACITY_REACHED, text));
    }
    Ok(Value::obj().with("address", address).with("connection_type", kind))
}

pub async fn sendmsgtopeer(ctx: Ctx, args: Args) -> RpcResult {
    let peer: i64 = args.int(0)?;
    let message = args.str(1)?;
    if message.len() > MESSAGE_TYPE_BYTES {
        let text = format!("Error: msg_type too long, max length is {MESSAGE_TYPE_BYTES}");
        return Err(RpcError::invalid_parameter(text));
    }
    let payload = match args.str(2)? {
        "" => Vec::new(),
        _ => hex_of(args.get(2), "msg").map_err(|_| RpcError::invalid_parameter("Error parsing input for msg"))?,
    };
    if !ctx.services.network.send_message(peer, message, &payload).await? {
        return Err(RpcError::misc("Error: Could not send message to peer"));
    }
    Ok(Value::obj())
}

/// Core's scheduler, and then what the network does every few minutes.
pub async fn mockscheduler(ctx: Ctx, args: Args) -> RpcResult {
    let delta_secs: i64 = args.int(0)?;
    ctx.kernel("mockscheduler", format!("[{delta_secs}]")).await?;
    let by = Duration::from_secs(u64::try_from(delta_secs).unwrap_or(0));
    ctx.services.network.advance_schedule(by).await?;
    Ok(Value::Null)
}
