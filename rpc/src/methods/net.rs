//! The Bitcoin network: Core's keys, order and texts over [`crate::backend::Network`].
//!
//! Source: Core's `rpc/net.cpp`.

mod bans;
mod render;
mod testing;

use super::{json, text};
use crate::args::Args;
use crate::backend::{AddedNode, Ctx};
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::local;
use crate::table::{Arg, Category, Handler, Kind, Method, RpcResult};

pub static METHODS: &[Method] = &[
    row("getconnectioncount", &[], local!(getconnectioncount)),
    row("ping", &[], local!(ping)),
    row("getpeerinfo", &[], local!(getpeerinfo)),
    row(
        "addnode",
        &[Arg::req("node", Kind::Str), Arg::req("command", Kind::Str), Arg::opt("v2transport", Kind::Bool)],
        local!(addnode),
    ),
    row("disconnectnode", &[Arg::opt("address", Kind::Str), Arg::opt("nodeid", Kind::Num)], local!(disconnectnode)),
    row("getaddednodeinfo", &[Arg::opt("node", Kind::Str)], local!(getaddednodeinfo)),
    row("getnettotals", &[], local!(getnettotals)),
    row("getnetworkinfo", &[], local!(getnetworkinfo)),
    row("setnetworkactive", &[Arg::req("state", Kind::Bool)], local!(setnetworkactive)),
    Method::kernel("getnodeaddresses", Category::Network, &[json("count"), text("network")]),
    Method::kernel("getaddrmaninfo", Category::Network, &[]),
    row(
        "setban",
        &[
            Arg::req("subnet", Kind::Str),
            Arg::req("command", Kind::Str),
            Arg::opt("bantime", Kind::Num),
            Arg::opt("absolute", Kind::Bool),
        ],
        local!(bans::setban),
    ),
    row("listbanned", &[], local!(bans::listbanned)),
    row("clearbanned", &[], local!(bans::clearbanned)),
    hidden(
        "addconnection",
        &[Arg::req("address", Kind::Str), Arg::req("connection_type", Kind::Str), Arg::req("v2transport", Kind::Bool)],
        local!(testing::addconnection),
    ),
    Method::kernel("addpeeraddress", Category::Hidden, &[text("address"), json("port"), json("tried")]),
    hidden(
        "sendmsgtopeer",
        &[Arg::req("peer_id", Kind::Num), Arg::req("msg_type", Kind::Str), Arg::req("msg", Kind::Hex)],
        local!(testing::sendmsgtopeer),
    ),
    hidden("mockscheduler", &[Arg::req("delta_time", Kind::Num)], local!(testing::mockscheduler)),
    Method::kernel("getrawaddrman", Category::Hidden, &[]),
];

const fn row(name: &'static str, args: &'static [Arg], handler: Handler) -> Method {
    Method { name, category: Category::Network, args, summary: "", new: false, handler }
}

const fn hidden(name: &'static str, args: &'static [Arg], handler: Handler) -> Method {
    Method { name, category: Category::Hidden, args, summary: "", new: false, handler }
}

/// The help text of a method, as an error: what Core answers to a word it does not know.
fn usage_error(ctx: &Ctx, name: &str, number: i32) -> RpcError {
    let text = ctx.services.kernel.help(name).unwrap_or_else(|| name.to_owned());
    RpcError::new(number, text)
}

async fn getconnectioncount(ctx: Ctx, _args: Args) -> RpcResult {
    Ok(ctx.services.network.connection_count().await?.into())
}

async fn ping(ctx: Ctx, _args: Args) -> RpcResult {
    ctx.services.network.ping().await?;
    Ok(Value::Null)
}

async fn getpeerinfo(ctx: Ctx, _args: Args) -> RpcResult {
    let peers = ctx.services.network.peers().await?;
    Ok(Value::arr(peers.iter().map(render::peer)))
}

async fn getnetworkinfo(ctx: Ctx, _args: Args) -> RpcResult {
    let info = ctx.services.network.network_info().await?;
    Ok(render::network(&info, ctx.services.control.deprecated_rpc_enabled("warnings")))
}

async fn getnettotals(ctx: Ctx, _args: Args) -> RpcResult {
    let totals = ctx.services.network.totals().await?;
    Ok(render::totals(&totals))
}

async fn addnode(ctx: Ctx, args: Args) -> RpcResult {
    let (node, command) = (args.str(0)?, args.str(1)?);
    if !matches!(command, "onetry" | "add" | "remove") {
        return Err(usage_error(&ctx, "addnode", code::RPC_MISC_ERROR));
    }
    let network = &ctx.services.network;
    let v2 = args.opt_bool(2)?.unwrap_or_else(|| network.v2_transport());
    if v2 && !network.v2_transport() {
        let text = "Error: v2transport requested but not enabled (see -v2transport)";
        return Err(RpcError::invalid_parameter(text));
    }
    match command {
        "onetry" => network.connect_once(node, v2).await?,
        "add" if !network.add_node(node, v2).await? => {
            return Err(RpcError::new(code::RPC_CLIENT_NODE_ALREADY_ADDED, "Error: Node already added"));
        }
        "remove" if !network.remove_node(node).await? => {
            let text = "Error: Node could not be removed. It has not been added previously.";
            return Err(RpcError::new(code::RPC_CLIENT_NODE_NOT_ADDED, text));
        }
        _ => {}
    }
    Ok(Value::Null)
}

async fn disconnectnode(ctx: Ctx, args: Args) -> RpcResult {
    let network = &ctx.services.network;
    let found = match (args.opt_str(0)?, args.opt_int::<i64>(1)?) {
        (Some(address), None) => network.disconnect_address(address).await?,
        (None | Some(""), Some(id)) => network.disconnect_id(id).await?,
        _ => {
            let text = "Only one of address and nodeid should be provided.";
            return Err(RpcError::new(code::RPC_INVALID_PARAMS, text));
        }
    };
    if !found {
        return Err(RpcError::new(code::RPC_CLIENT_NODE_NOT_CONNECTED, "Node not found in connected nodes"));
    }
    Ok(Value::Null)
}

async fn getaddednodeinfo(ctx: Ctx, args: Args) -> RpcResult {
    let mut nodes: Vec<AddedNode> = ctx.services.network.added_nodes().await?;
    if let Some(wanted) = args.opt_str(0)? {
        nodes.retain(|node| node.node == wanted);
        nodes.truncate(1);
        if nodes.is_empty() {
            return Err(RpcError::new(code::RPC_CLIENT_NODE_NOT_ADDED, "Error: Node has not been added."));
        }
    }
    Ok(Value::arr(nodes.iter().map(render::added)))
}

async fn setnetworkactive(ctx: Ctx, args: Args) -> RpcResult {
    Ok(ctx.services.network.set_active(args.bool(0)?).await?.into())
}
