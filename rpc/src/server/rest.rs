//! `-rest`: what blocks, transactions and the mempool are, without a password, as JSON, hex or bytes.
//!
//! Composed of the answers of Core's own methods; owns the paths, the formats and Core's texts for what is wrong with a
//! request (`rest.cpp`). Refuses nothing by user: whoever may connect may ask.

mod coins;
mod format;

use bitcoin::BlockHash;
use bitcoin::hex::{DisplayHex, FromHex};

use self::format::{Format, Query, fail, join_hex, reply};
use super::http1::{Request, Response};
use crate::backend::Ctx;
use crate::code;
use crate::error::RpcError;
use crate::json::Value;

pub const PREFIX: &str = "/rest/";
/// Most headers in one answer.
const MAX_HEADERS: usize = 2_000;
const DEFAULT_HEADERS: &str = "5";

/// A refusal is a response too.
type Answer = Result<Response, Response>;

/// Answers a request under [`PREFIX`].
pub async fn answer(request: &Request, ctx: &Ctx) -> Response {
    if let Some(status) = ctx.services.kernel.warmup() {
        return fail(503, format!("Service temporarily unavailable: {status}"));
    }
    let target = request.target.strip_prefix(PREFIX).unwrap_or_default();
    let (path, query) = match target.rsplit_once('?') {
        Some((path, query)) => (path, Query::new(query)),
        None => (target, Query::default()),
    };
    let (path, format) = Format::split(path);
    let Some((name, rest)) = route(path) else { return Response::empty(404) };
    let outcome = match name {
        "tx/" => tx(ctx, rest, format).await,
        "block/notxdetails/" => block(ctx, rest, format, 1).await,
        "block/" => block(ctx, rest, format, 3).await,
        "blockpart/" => block_part(ctx, rest, format, &query).await,
        "blockfilter/" => block_filter(ctx, rest, format).await,
        "blockfilterheaders/" => filter_headers(ctx, rest, format, &query).await,
        "chaininfo" => only_json(format, json(ctx, "getblockchaininfo", "[]".into()).await),
        "deploymentinfo" => only_json(format, json(ctx, "getdeploymentinfo", "[]".into()).await),
        "deploymentinfo/" => deployments(ctx, rest, format).await,
        "mempool/" => mempool(ctx, rest, format, &query).await,
        "headers/" => headers(ctx, rest, format, &query).await,
        "getutxos" => coins::answer(ctx, rest.trim_start_matches('/'), format, &request.body).await,
        "blockhashbyheight/" => hash_by_height(ctx, rest, format).await,
        _ => coins::spent(ctx, rest, format).await,
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

/// Core's `uri_prefixes`, in its order: the first that fits has the rest of the path.
const PREFIXES: [&str; 14] = [
    "tx/",
    "block/notxdetails/",
    "block/",
    "blockpart/",
    "blockfilter/",
    "blockfilterheaders/",
    "chaininfo",
    "mempool/",
    "headers/",
    "getutxos",
    "deploymentinfo/",
    "deploymentinfo",
    "blockhashbyheight/",
    "spenttxouts/",
];

fn route(path: &str) -> Option<(&'static str, &str)> {
    PREFIXES.into_iter().find_map(|prefix| Some((prefix, path.strip_prefix(prefix)?)))
}

/// Calls a method of the kernel.
async fn ask(ctx: &Ctx, method: &'static str, params: String) -> Result<Value, RpcError> {
    let text = ctx.kernel(method, params).await?;
    Value::parse(&text).map_err(|error| RpcError::internal(error.to_string()))
}

async fn json(ctx: &Ctx, method: &'static str, params: String) -> Result<String, Response> {
    ctx.kernel(method, params).await.map_err(unexpected)
}

fn unexpected(error: RpcError) -> Response {
    fail(500, error.message)
}

fn only_json(format: Option<Format>, text: Result<String, Response>) -> Answer {
    match format {
        Some(Format::Json) => Ok(Response::json(200, text?)),
        _ => Err(fail(404, "output format not found (available: json)")),
    }
}

fn checked_hash(text: &str) -> Result<&str, Response> {
    match <[u8; 32]>::from_hex(text) {
        Ok(_) => Ok(text),
        Err(_) => Err(fail(400, format!("Invalid hash: {text}"))),
    }
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, Response> {
    Vec::from_hex(hex).map_err(|_| fail(500, "unreadable answer"))
}

async fn tx(ctx: &Ctx, txid: &str, format: Option<Format>) -> Answer {
    checked_hash(txid)?;
    let not_found = |_| fail(404, format!("{txid} not found"));
    if format == Some(Format::Json) {
        let found = ask(ctx, "getrawtransaction", format!("[\"{txid}\",1]")).await.map_err(not_found)?;
        let Value::Obj(mut members) = found else { return Err(fail(500, "unreadable answer")) };
        members.retain(|(key, _)| !matches!(key.as_str(), "confirmations" | "time" | "blocktime"));
        // Core has it last here.
        members.sort_by_key(|(key, _)| key == "hex");
        return Ok(Response::json(200, Value::Obj(members).compact()));
    }
    let raw = ask(ctx, "getrawtransaction", format!("[\"{txid}\",0]")).await.map_err(not_found)?;
    reply(format, bytes_of(raw.val_str())?)
}

async fn raw_block(ctx: &Ctx, hash: &str) -> Result<Vec<u8>, Response> {
    checked_hash(hash)?;
    let refused = |error: RpcError| match error.code {
        code::RPC_INVALID_ADDRESS_OR_KEY => fail(404, format!("{hash} not found")),
        _ if error.message.contains("pruned data") => fail(404, format!("{hash} not available (pruned data)")),
        _ if error.message.contains("not fully downloaded") => {
            fail(404, format!("{hash} not available (not fully downloaded)"))
        }
        _ => fail(500, format!("I/O error reading {hash}")),
    };
    let raw = ask(ctx, "getblock", format!("[\"{hash}\",0]")).await.map_err(refused)?;
    bytes_of(raw.val_str())
}

async fn block(ctx: &Ctx, hash: &str, format: Option<Format>, verbosity: u8) -> Answer {
    let raw = raw_block(ctx, hash).await?;
    if format == Some(Format::Json) {
        return Ok(Response::json(200, json(ctx, "getblock", format!("[\"{hash}\",{verbosity}]")).await?));
    }
    reply(format, raw)
}

async fn block_part(ctx: &Ctx, hash: &str, format: Option<Format>, query: &Query<'_>) -> Answer {
    let number = |name: &str| {
        let parsed = query.get(name).and_then(|value| value.parse::<usize>().ok());
        parsed.ok_or_else(|| fail(400, format!("Block part {name} missing or invalid")))
    };
    let (offset, size) = (number("offset")?, number("size")?);
    let raw = raw_block(ctx, hash).await?;
    let part = offset.checked_add(size).and_then(|end| raw.get(offset..end)).filter(|part| !part.is_empty());
    let Some(part) = part else {
        return Err(fail(400, format!("Bad block part offset/size {offset}/{size} for {hash}")));
    };
    match format {
        Some(Format::Json) => Err(fail(400, "JSON output is not supported for this request type")),
        _ => reply(format, part.to_vec()),
    }
}

/// `<hash>?count=`, or the older `<count>/<hash>`.
fn count_and_hash<'a>(path: &'a str, query: &Query<'_>, usage: &str) -> Result<(usize, &'a str), Response> {
    let (count, hash) = match path.split('/').collect::<Vec<_>>().as_slice() {
        [hash] => (query.get("count").unwrap_or_else(|| DEFAULT_HEADERS.to_owned()), *hash),
        [count, hash] => ((*count).to_owned(), *hash),
        _ => return Err(fail(400, format!("Invalid URI format. Expected {usage}"))),
    };
    let plain = count.bytes().all(|byte| byte.is_ascii_digit());
    match count.parse::<usize>() {
        Ok(number @ 1..=MAX_HEADERS) if plain => Ok((number, hash)),
        _ => Err(fail(400, format!("Header count is invalid or out of acceptable range (1-{MAX_HEADERS}): {count}"))),
    }
}

/// Headers of the active chain from a block on; none if it is not on it.
async fn chain_from(ctx: &Ctx, hash: &str, count: usize) -> Result<Vec<Value>, Response> {
    let mut found = Vec::new();
    let mut next = Some(hash.to_owned());
    while let Some(hash) = next.take().filter(|_| found.len() < count) {
        let Ok(header) = ask(ctx, "getblockheader", format!("[\"{hash}\",true]")).await else { break };
        if header.member("confirmations").as_i64().is_none_or(|depth| depth < 0) {
            break;
        }
        next = header.member("nextblockhash").as_str().map(str::to_owned);
        found.push(header);
    }
    Ok(found)
}

async fn headers(ctx: &Ctx, path: &str, format: Option<Format>, query: &Query<'_>) -> Answer {
    let (count, hash) = count_and_hash(path, query, "/rest/headers/<hash>.<ext>?count=<count>")?;
    checked_hash(hash)?;
    let found = chain_from(ctx, hash, count).await?;
    if format == Some(Format::Json) {
        return Ok(Response::json(200, Value::Arr(found).compact()));
    }
    let mut raw = Vec::new();
    for header in &found {
        let hash = header.member("hash").val_str();
        let hex = ask(ctx, "getblockheader", format!("[\"{hash}\",false]")).await.map_err(unexpected)?;
        raw.extend(bytes_of(hex.val_str())?);
    }
    reply(format, raw)
}

/// The answer of `getblockfilter`.
async fn filter(ctx: &Ctx, hash: &str, kind: &str) -> Result<Value, Response> {
    let refused = |error: RpcError| match error.code {
        code::RPC_INVALID_ADDRESS_OR_KEY if error.message.contains("filtertype") => {
            fail(400, format!("Unknown filtertype {kind}"))
        }
        code::RPC_INVALID_ADDRESS_OR_KEY => fail(404, format!("{hash} not found")),
        code::RPC_MISC_ERROR if error.message.contains("Index is not enabled") => {
            fail(400, format!("Index is not enabled for filtertype {kind}"))
        }
        _ => fail(404, error.message),
    };
    ask(ctx, "getblockfilter", format!("[\"{hash}\",{}]", Value::from(kind).compact())).await.map_err(refused)
}

async fn filter_headers(ctx: &Ctx, path: &str, format: Option<Format>, query: &Query<'_>) -> Answer {
    let usage = "/rest/blockfilterheaders/<filtertype>/<blockhash>.<ext>?count=<count>";
    let Some((kind, rest)) = path.split_once('/') else {
        return Err(fail(400, format!("Invalid URI format. Expected {usage}")));
    };
    let (count, hash) = count_and_hash(rest, query, usage)?;
    checked_hash(hash)?;
    if kind != "basic" {
        return Err(fail(400, format!("Unknown filtertype {kind}")));
    }
    let mut found = Vec::new();
    for header in chain_from(ctx, hash, count).await? {
        found.push(filter(ctx, header.member("hash").val_str(), kind).await?.member("header").clone());
    }
    if format == Some(Format::Json) {
        return Ok(Response::json(200, Value::Arr(found).compact()));
    }
    reply(format, join_hex(found.iter().map(Value::val_str)).ok_or_else(|| fail(500, "unreadable answer"))?)
}

async fn block_filter(ctx: &Ctx, path: &str, format: Option<Format>) -> Answer {
    let Some((kind, hash)) = path.split_once('/').filter(|(_, hash)| !hash.contains('/')) else {
        let usage = "/rest/blockfilter/<filtertype>/<blockhash>";
        return Err(fail(400, format!("Invalid URI format. Expected {usage}")));
    };
    checked_hash(hash)?;
    if kind != "basic" {
        return Err(fail(400, format!("Unknown filtertype {kind}")));
    }
    let found = filter(ctx, hash, kind).await?;
    let filter = found.member("filter");
    if format == Some(Format::Json) {
        return Ok(Response::json(200, Value::obj().with("filter", filter.clone()).compact()));
    }
    let hash: BlockHash = hash.parse().map_err(|_| fail(400, format!("Invalid hash: {hash}")))?;
    let mut raw = vec![0];
    raw.extend(bitcoin::consensus::serialize(&hash));
    raw.extend(bitcoin::consensus::serialize(&bytes_of(filter.val_str())?));
    reply(format, raw)
}

async fn deployments(ctx: &Ctx, hash: &str, format: Option<Format>) -> Answer {
    if format != Some(Format::Json) || hash.is_empty() {
        return only_json(format, json(ctx, "getdeploymentinfo", "[]".into()).await);
    }
    checked_hash(hash)?;
    let missing = |_| fail(400, "Block not found");
    let text = ctx.kernel("getdeploymentinfo", format!("[\"{hash}\"]")).await.map_err(missing)?;
    Ok(Response::json(200, text))
}

async fn mempool(ctx: &Ctx, path: &str, format: Option<Format>, query: &Query<'_>) -> Answer {
    let flag = |name: &str, default: &str| match query.get(name).as_deref().unwrap_or(default) {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(fail(400, format!("The \"{name}\" query parameter must be either \"true\" or \"false\"."))),
    };
    match path {
        "info" => only_json(format, json(ctx, "getmempoolinfo", "[]".into()).await),
        "contents" if format == Some(Format::Json) => {
            let (verbose, sequence) = (flag("verbose", "true")?, flag("mempool_sequence", "false")?);
            if verbose && sequence {
                let text = "Verbose results cannot contain mempool sequence values. (hint: set \"verbose=false\")";
                return Err(fail(400, text));
            }
            Ok(Response::json(200, json(ctx, "getrawmempool", format!("[{verbose},{sequence}]")).await?))
        }
        "contents" => Err(fail(404, "output format not found (available: json)")),
        _ => Err(fail(400, "Invalid URI format. Expected /rest/mempool/<info|contents>.json")),
    }
}

async fn hash_by_height(ctx: &Ctx, height: &str, format: Option<Format>) -> Answer {
    let plain = !height.is_empty() && height.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = height.parse::<i32>().ok().filter(|_| plain) else {
        return Err(fail(400, format!("Invalid height: {height}")));
    };
    let beyond = |_| fail(404, "Block height out of range");
    let hash = ask(ctx, "getblockhash", format!("[{number}]")).await.map_err(beyond)?;
    match format {
        Some(Format::Json) => Ok(Response::json(200, Value::obj().with("blockhash", hash).compact())),
        Some(Format::Hex) => Ok(Response::plain(format!("{}\n", hash.val_str()))),
        _ => {
            let mut bytes = bytes_of(hash.val_str())?;
            bytes.reverse();
            reply(format, bytes)
        }
    }
}

/// Lower-case hex with Core's newline.
fn hex_line(bytes: &[u8]) -> String {
    format!("{}\n", bytes.to_lower_hex_string())
}
