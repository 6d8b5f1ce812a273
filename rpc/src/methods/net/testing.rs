//! Hidden methods by which tests steer the network.

use super::usage_error;
use crate::args::{Args, hex_of};
use crate::backend::Ctx;
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::subnet::parse_address;
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

pub async fn addpeeraddress(ctx: Ctx, args: Args) -> RpcResult {
    let port: u16 = args.int(1)?;
    let tried = args.opt_bool(2)?.unwrap_or(false);
    let address = parse_address(args.str(0)?)
        .ok_or_else(|| RpcError::new(code::RPC_CLIENT_INVALID_IP_OR_SUBNET, "Invalid IP address"))?;
    let added = ctx.services.network.add_address(address, port, tried).await?;
    let error = (!added).then_some(if tried { "failed-adding-to-tried" } else { "failed-adding-to-new" });
    Ok(Value::obj().with_opt("error", error).with("success", added))
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

pub async fn getrawaddrman(_ctx: Ctx, _args: Args) -> RpcResult {
    Err(RpcError::misc("getrawaddrman is not available: this node keeps no address tables of that form"))
}
