//! help, stop, uptime, who publishes by ZMQ; and what this build has no part for.
//!
//! `help` is Core's, with the wallet's rows set in: the kernel knows its own methods and this crate the others.

use std::time::Duration;

use crate::args::Args;
use crate::backend::{Ctx, KernelRpc, ZmqNotification};
use crate::error::RpcError;
use crate::json::Value;
use crate::local;
use crate::methods;
use crate::table::{Arg, Category, Handler, Kind, Method, RpcResult};

/// The longest that `stop` waits when asked to.
const MAX_STOP_WAIT_MS: u64 = 60_000;
/// What `help` answers with the table of conversions to.
const DUMP: &str = "dump_all_command_conversions";

/// Core's text below the usage line: the vendored Core is built without this method.
const ZMQ_HELP: &str = r#"Returns information about the active ZeroMQ notifications.

Result:
[                         (json array)
  {                       (json object)
    "type" : "str",       (string) Type of notification
    "address" : "str",    (string) Address of the publisher
    "hwm" : n             (numeric) Outbound message high water mark
  },
  ...
]

Examples:
> bitcoin-cli getzmqnotifications 
> curl --user myusername --data-binary '{"jsonrpc": "2.0", "id": "curltest", "method": "getzmqnotifications", "params": []}' -H 'content-type: application/json' http://127.0.0.1:8332/"#;

pub static METHODS: &[Method] = &[
    Method {
        name: "help",
        category: Category::Control,
        args: &[Arg::opt("command", Kind::Str)],
        summary: "Lists all commands, or explains one.",
        new: false,
        handler: local!(help),
    },
    Method {
        name: "stop",
        category: Category::Control,
        args: &[Arg::opt("wait", Kind::Num).hidden()],
        summary: "Stops the node.",
        new: false,
        handler: local!(stop),
    },
    Method {
        name: "uptime",
        category: Category::Control,
        args: &[],
        summary: "Seconds since the node started.",
        new: false,
        handler: local!(uptime),
    },
    Method {
        name: "enumeratesigners",
        category: Category::Hidden,
        args: &[],
        summary: "External signers: none here, the quorum signs.",
        new: false,
        handler: local!(enumerate_signers),
    },
    Method {
        name: "getzmqnotifications",
        category: Category::Zmq,
        args: &[],
        summary: ZMQ_HELP,
        new: false,
        handler: local!(zmq_notifications),
    },
];

/// The help text of a row: Core's where Core has one.
pub fn help_of(method: &Method, kernel: &dyn KernelRpc) -> String {
    if method.category == Category::Wallet {
        return method.help();
    }
    kernel.help(method.name).unwrap_or_else(|| method.help())
}

async fn stop(ctx: Ctx, args: Args) -> RpcResult {
    let wait_ms: Option<i64> = args.opt_int(0)?;
    ctx.services.control.request_shutdown();
    if let Some(wait_ms) = wait_ms.and_then(|wait| u64::try_from(wait).ok()) {
        tokio::time::sleep(Duration::from_millis(wait_ms.min(MAX_STOP_WAIT_MS))).await;
    }
    Ok("Bitcoin Core stopping".into())
}

async fn uptime(ctx: Ctx, _args: Args) -> RpcResult {
    Ok(ctx.services.control.uptime_secs().into())
}

async fn enumerate_signers(_ctx: Ctx, _args: Args) -> RpcResult {
    Err(RpcError::misc("Error: restart bitcoind with -signer=<cmd>"))
}

async fn zmq_notifications(ctx: Ctx, _args: Args) -> RpcResult {
    let shown = |row: ZmqNotification| {
        Value::obj().with("type", row.kind).with("address", row.address).with("hwm", row.high_water_mark)
    };
    Ok(Value::arr(ctx.services.control.zmq_notifications().into_iter().map(shown)))
}

async fn help(ctx: Ctx, args: Args) -> RpcResult {
    let wallets = ctx.services.wallets.is_some();
    let command = args.opt_str(0)?.unwrap_or_default();
    if command == DUMP {
        let kernel = ctx.kernel("help", format!("[\"{DUMP}\"]")).await?;
        return dump(&kernel, wallets);
    }
    if command.is_empty() {
        let kernel = ctx.services.kernel.help("").unwrap_or_default();
        return Ok(overview(&kernel, wallets).into());
    }
    let row = methods::all(wallets).find(|method| method.name == command);
    let text = match row {
        Some(method) => help_of(method, &*ctx.services.kernel),
        None => ctx.services.kernel.help(command).unwrap_or_else(|| format!("help: unknown command: {command}")),
    };
    Ok(text.into())
}

/// Whether a row's help and argument names come from here.
fn is_ours(method: &Method) -> bool {
    match method.category {
        Category::Wallet | Category::Zmq => true,
        Category::RawTransactions => matches!(method.handler, Handler::Local(_)),
        _ => false,
    }
}

/// Core's rows and the wallet's, in the order of their names as Core's map has them.
fn dump(kernel: &str, wallets: bool) -> RpcResult {
    let Ok(Value::Arr(mut rows)) = Value::parse(kernel) else {
        return Err(RpcError::internal("the kernel's table of conversions is unreadable"));
    };
    let ours = methods::all(wallets).filter(|method| is_ours(method) && !method.new);
    rows.extend(ours.flat_map(Method::conversions));
    rows.sort_by(|left, right| left.item(0).val_str().cmp(right.item(0).val_str()));
    Ok(Value::Arr(rows))
}

/// Core's list of usage lines in groups, with ours set in.
fn overview(kernel: &str, wallets: bool) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut group = String::new();
    for line in kernel.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("== ").and_then(|rest| rest.strip_suffix(" ==")) {
            Some(title) => group = title.to_owned(),
            None => lines.push((group.clone(), line.to_owned())),
        }
    }
    let ours = methods::all(wallets).filter(|method| is_ours(method));
    lines.extend(ours.map(|method| (method.category.title().to_owned(), method.usage())));
    lines.sort_by(|left, right| (&left.0, name_of(&left.1)).cmp(&(&right.0, name_of(&right.1))));
    let mut text = String::new();
    let mut group = "";
    for (title, line) in &lines {
        if title != group {
            text.push_str(if group.is_empty() { "" } else { "\n" });
            text.push_str(&format!("== {title} ==\n"));
            group = title;
        }
        text.push_str(line);
        text.push('\n');
    }
    text.trim_end_matches('\n').to_owned()
}

fn name_of(usage: &str) -> &str {
    usage.split(' ').next().unwrap_or(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_names_are_sorted_as_core_sorts_them() {
        let kernel =
            "== Control ==\nstop\n\n== Rawtransactions ==\nanalyzepsbt \"psbt\"\n\n== Util ==\nvalidateaddress";
        // ZMQ is answered here; its group is the last.
        let text = overview(kernel, false);
        assert_eq!(text, format!("{kernel}\n\n== Zmq ==\ngetzmqnotifications"));
    }
}
