//! One client: requests in, responses out, in order, until it closes, errs or falls silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Shared;
use super::envelope::{Envelope, Version, legacy_status};
use super::http1::{BadRequest, Parser, Request, Response};
use super::rest;
use crate::backend::{Ctx, Services};
use crate::code;
use crate::error::RpcError;
use crate::json::Value;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// The pause before a wrong password is answered.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_millis(250);
const AUTHORIZATION: &str = "Authorization";
/// The path of a wallet's endpoint.
const WALLET_PATH: &str = "/wallet/";
/// Paths of ours for supervisors; Core knows none of them.
const HEALTH_PATH: &str = "/health";
const READY_PATH: &str = "/ready";
const METRICS_PATH: &str = "/metrics";

/// Serves a client. Ends when `closing` turns true and nothing is being answered.
pub async fn serve(mut stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let mut buffer = Vec::new();
    let mut parser = Parser::default();
    // Of the request whose body is read: known once its head is.
    let mut sender = None;
    loop {
        let admit = |request: &Request| {
            sender = user(request, &shared);
            sender.is_some() || is_rest(request, &shared)
        };
        let request = match parser.take(&mut buffer, admit) {
            Ok(Some(request)) => request,
            Ok(None) => {
                let read = read_more(&mut stream, &mut buffer, shared.timeout);
                let more = tokio::select! {
                    more = read => more,
                    _ = closing.wait_for(|closing| *closing) => false,
                };
                if more {
                    continue;
                }
                return;
            }
            Err(bad) => {
                let status = if bad == BadRequest::TooLarge { 413 } else { 400 };
                debug!(target: "http", %peer, status, "bad request");
                let request = Request::unread();
                let _ = write(&mut stream, &Response::empty(status), &request, shared.timeout).await;
                let _ = stream.shutdown().await;
                return;
            }
        };
        let response = answer(&request, sender.take(), peer, &shared).await;
        if !write(&mut stream, &response, &request, shared.timeout).await || !request.keeps_alive() {
            return;
        }
    }
}

/// Reads what there is; false at the end, on an error, or after too long a silence.
async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>, limit: Duration) -> bool {
    buffer.reserve(READ_BYTES);
    let read = stream.read_buf(buffer);
    let count = if limit.is_zero() { read.await } else { timeout(limit, read).await.unwrap_or(Ok(0)) };
    matches!(count, Ok(1..))
}

async fn write(stream: &mut TcpStream, response: &Response, request: &Request, limit: Duration) -> bool {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let bytes = response.encode(request, &date);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let written = stream.write(rest);
        let written = if limit.is_zero() { written.await } else { timeout(limit, written).await.unwrap_or(Ok(0)) };
        match written {
            Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// It is answered without credentials.
fn is_rest(request: &Request, shared: &Shared) -> bool {
    shared.rest && request.target.starts_with(rest::PREFIX)
}

/// Who sent it, if the credentials are right.
fn user(request: &Request, shared: &Shared) -> Option<String> {
    shared.access.authenticate(request.header(AUTHORIZATION)?)
}

/// `sender` is who sent it, if the credentials are right.
async fn answer(request: &Request, sender: Option<String>, peer: SocketAddr, shared: &Shared) -> Response {
    if !shared.allowed.iter().any(|subnet| subnet.contains(peer.ip())) {
        debug!(target: "http", %peer, "rejected: client network is not allowed RPC access");
        return Response::empty(403);
    }
    if !matches!(request.method.as_str(), "GET" | "POST" | "HEAD" | "PUT") {
        return Response::empty(405);
    }
    if matches!(request.target.as_str(), HEALTH_PATH | READY_PATH | METRICS_PATH) {
        return observe(request, sender.is_some(), shared).await;
    }
    let wallet_name = request.target.strip_prefix(WALLET_PATH).map(url_decode);
    let rest = is_rest(request, shared);
    if request.target != "/" && wallet_name.is_none() && !rest {
        return Response::empty(404);
    }
    if shared.interrupted.load(Ordering::Relaxed) {
        return Response::empty(503);
    }
    let Some(_place) = shared.gate.enter().await else {
        warn!(
            target: "http",
            "Request rejected because http work queue depth exceeded, it can be increased with the -rpcworkqueue= setting"
        );
        return Response::text(503, "Work queue depth exceeded");
    };
    if rest {
        let services = Arc::clone(shared.dispatcher.services());
        let ctx = Ctx { services, user: String::new(), wallet: None, uri: request.target.clone() };
        return rest::answer(request, &ctx).await;
    }
    if request.method != "POST" {
        return Response::text(405, "JSONRPC server handles only POST requests");
    }
    if request.header(AUTHORIZATION).is_none() {
        return Response::unauthorized();
    }
    let Some(user) = sender else {
        warn!(target: "rpc", "ThreadRPCServer incorrect password attempt from {peer}");
        tokio::time::sleep(WRONG_PASSWORD_PAUSE).await;
        return Response::unauthorized();
    };
    let ctx = Ctx {
        services: Arc::clone(shared.dispatcher.services()),
        user,
        wallet: wallet_name,
        uri: request.target.clone(),
    };
    json_rpc(&request.body, &ctx, shared).await
}

/// Whether the process lives and does its work, for supervisors, without credentials; figures, with them.
async fn observe(request: &Request, is_known: bool, shared: &Shared) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Response::empty(405);
    }
    let services = shared.dispatcher.services();
    match request.target.as_str() {
        HEALTH_PATH => Response::text(200, "ok\n"),
        READY_PATH => {
            let stopping = shared.interrupted.load(Ordering::Relaxed).then(|| "stopping".to_owned());
            let why = stopping.or_else(|| services.kernel.warmup());
            match blocking(services, |services| services.control.not_ready()).await {
                _ if why.is_some() => Response::text(503, &format!("{}\n", why.unwrap_or_default())),
                Some(Some(why)) => Response::text(503, &format!("{why}\n")),
                Some(None) => Response::text(200, "ready\n"),
                None => Response::empty(500),
            }
        }
        _ if !is_known => {
            if request.header(AUTHORIZATION).is_some() {
                tokio::time::sleep(WRONG_PASSWORD_PAUSE).await;
            }
            Response::unauthorized()
        }
        _ => match blocking(services, |services| services.control.metrics()).await {
            Some(Some(figures)) => Response::text(200, &figures),
            _ => Response::empty(404),
        },
    }
}

/// Asks the node on a thread that may wait.
async fn blocking<T: Send + 'static>(
    services: &Arc<Services>,
    ask: impl FnOnce(&Services) -> T + Send + 'static,
) -> Option<T> {
    let services = Arc::clone(services);
    tokio::task::spawn_blocking(move || ask(&services)).await.ok()
}

async fn json_rpc(body: &[u8], ctx: &Ctx, shared: &Shared) -> Response {
    let parsed = std::str::from_utf8(body).ok().and_then(|text| Value::parse(text).ok());
    let mut envelope = Envelope::default();
    let Some(parsed) = parsed else {
        return failure(&envelope, &RpcError::new(code::RPC_PARSE_ERROR, "Parse error"));
    };
    if !shared.access.may_call_some(&ctx.user) {
        warn!(target: "rpc", "RPC User {} not allowed to call any methods", ctx.user);
        return Response::empty(403);
    }
    match parsed {
        request @ Value::Obj(_) => single(&mut envelope, request, ctx, shared).await,
        Value::Arr(requests) => batch(envelope, requests, ctx, shared).await,
        _ => failure(&envelope, &RpcError::new(code::RPC_PARSE_ERROR, "Top-level object parse error")),
    }
}

/// Core's line in the log. Parameters are never logged: they may hold keys.
fn note(envelope: &Envelope, ctx: &Ctx) {
    let id = envelope.id.as_ref().map_or("", Value::val_str);
    debug!(target: "rpc", "ThreadRPCServer method={} user={} id={}", safe(&envelope.method), ctx.user, safe(id));
}

/// What may stand in a log line.
fn safe(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || " .,;-_/:?@()".contains(*c)).collect()
}

fn failure(envelope: &Envelope, error: &RpcError) -> Response {
    Response::json(legacy_status(error), envelope.reply(Err(error)))
}

async fn single(envelope: &mut Envelope, request: Value, ctx: &Ctx, shared: &Shared) -> Response {
    if let Err(error) = envelope.read(request) {
        return failure(envelope, &error);
    }
    note(envelope, ctx);
    if !shared.access.may_call(&ctx.user, &envelope.method) {
        warn!(target: "rpc", "RPC User {} not allowed to call method {}", ctx.user, envelope.method);
        return Response::empty(403);
    }
    let outcome = shared.dispatcher.call(&envelope.method, &envelope.params, ctx.clone()).await;
    if envelope.is_notification() {
        return Response::empty(204);
    }
    match outcome {
        Ok(result) => Response::json(200, envelope.reply(Ok(&result))),
        Err(error) if envelope.version == Version::V2 => Response::json(200, envelope.reply(Err(&error))),
        Err(error) => failure(envelope, &error),
    }
}

async fn batch(mut envelope: Envelope, requests: Vec<Value>, ctx: &Ctx, shared: &Shared) -> Response {
    if shared.access.is_listed(&ctx.user)
        && let Some(refused) = whitelisted(&envelope, &requests, ctx, shared)
    {
        return refused;
    }
    let asked = requests.len();
    let mut replies = Vec::new();
    for request in requests {
        let reply = match envelope.read(request) {
            Ok(()) => {
                note(&envelope, ctx);
                match shared.dispatcher.call(&envelope.method, &envelope.params, ctx.clone()).await {
                    Ok(result) => envelope.reply(Ok(&result)),
                    Err(error) => envelope.reply(Err(&error)),
                }
            }
            Err(error) => envelope.reply(Err(&error)),
        };
        if !envelope.is_notification() {
            replies.push(reply);
        }
    }
    if replies.is_empty() && asked > 0 {
        return Response::empty(204);
    }
    Response::json(200, format!("[{}]", replies.join(",")))
}

/// The refusal of a batch of which a user may not call every method.
fn whitelisted(envelope: &Envelope, requests: &[Value], ctx: &Ctx, shared: &Shared) -> Option<Response> {
    for request in requests {
        if request.as_obj().is_none() {
            let error = RpcError::new(code::RPC_INVALID_REQUEST, "Invalid Request object");
            return Some(failure(envelope, &error));
        }
        let method = request.member("method");
        let Some(name) = method.as_str() else {
            let text = format!("JSON value of type {} is not of expected type string", method.type_name());
            return Some(failure(envelope, &RpcError::new(code::RPC_PARSE_ERROR, text)));
        };
        if !shared.access.may_call(&ctx.user, name) {
            warn!(target: "rpc", "RPC User {} not allowed to call method {name}", ctx.user);
            return Some(Response::empty(403));
        }
    }
    None
}

/// Decodes `%xx`; what is not such a triple stays as it is. Bytes that are no UTF-8 are replaced.
pub(super) fn url_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::url_decode;

    #[test]
    fn wallet_names_are_decoded() {
        for (encoded, name) in [("a%20b", "a b"), ("%C3%A9", "é"), ("a%2", "a%2"), ("%zz", "%zz"), ("", "")] {
            assert_eq!(url_decode(encoded), name);
        }
    }
}
