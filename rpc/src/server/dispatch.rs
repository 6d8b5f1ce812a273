//! From a method's name to its answer: jsonrpsee's module holds the rows of the table, one callback each.
//!
//! Warm-up comes before everything, as in Core. A brief call is answered at once, by the thread that read it: to hand
//! it to another costs more than the answer. Every other call runs as a task of its own: a client that hangs up does
//! not stop a payment half way. What a call gives goes beside the module's reply, which would be read and checked as
//! JSON twice more: the result of `getblock` may be megabytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use jsonrpsee::{ConnectionId, Extensions, MethodCallback, MethodResponse, RpcModule};
use serde::Deserialize;
use tokio::runtime::Handle;
use tracing::error;

use super::StartReason;
use crate::args::Args;
use crate::backend::{Ctx, Services};
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::methods;
use crate::table::{Handler, Method};

/// Where a callback leaves the JSON text that it gives.
type Slot = Arc<OnceLock<String>>;

/// The registered methods.
pub struct Dispatcher {
    module: RpcModule<()>,
    services: Arc<Services>,
    /// Where calls run that are not brief.
    tasks: Handle,
    /// Warm-up is over, and does not come again.
    warm: AtomicBool,
}

/// A reply of the module, but the result.
#[derive(Deserialize)]
struct Reply {
    error: Option<ErrorObjectOwned>,
}

impl Dispatcher {
    /// Registers every row of the table; the wallet's only where there are wallets.
    pub fn new(services: Arc<Services>, tasks: Handle) -> Result<Dispatcher, StartReason> {
        let mut module = RpcModule::new(());
        for method in methods::all(services.wallets.is_some()) {
            let registered = if matches!(method.handler, Handler::KernelBrief) {
                module.register_method(method.name, move |params, _, extensions| run_brief(method, &params, extensions))
            } else {
                module.register_async_method(method.name, move |params, _, extensions| run(method, params, extensions))
            };
            registered.map_err(|error| StartReason::Config(error.to_string()))?;
        }
        Ok(Dispatcher { module, services, tasks, warm: AtomicBool::new(false) })
    }

    /// What the calls ask.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Calls a method; the result is JSON text.
    pub async fn call(&self, method: &str, params: &Value, ctx: Ctx) -> Result<String, RpcError> {
        self.check_warm()?;
        let params = params.compact();
        let mut extensions = Extensions::new();
        extensions.insert(ctx);
        let slot = Slot::default();
        extensions.insert(Arc::clone(&slot));
        let response = match self.module.method(method) {
            Some(MethodCallback::Sync(callback)) => {
                callback(Id::Number(0), Params::new(Some(&params)), usize::MAX, extensions)
            }
            Some(MethodCallback::Async(callback)) => {
                let params = Params::new(Some(&params)).into_owned();
                let answer = callback(Id::Number(0), params, ConnectionId(0), usize::MAX, extensions);
                self.tasks.spawn(answer).await.map_err(|failure| {
                    error!(target: "rpc", method, %failure, "a method ended abnormally");
                    RpcError::internal("the call was interrupted")
                })?
            }
            _ => return Err(RpcError::method_not_found()),
        };
        outcome(response, slot)
    }

    fn check_warm(&self) -> Result<(), RpcError> {
        if self.warm.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(status) = self.services.kernel.warmup() {
            return Err(RpcError::new(code::RPC_IN_WARMUP, status));
        }
        self.warm.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// What a call left in its slot, or the error in the module's reply.
fn outcome(response: MethodResponse, slot: Slot) -> Result<String, RpcError> {
    let reply: Reply = serde_json::from_str(response.as_json().get())
        .map_err(|failure| RpcError::internal(format!("unreadable answer: {failure}")))?;
    // It may hold the extensions still.
    drop(response);
    match reply.error {
        Some(error) => Err(RpcError::new(error.code(), error.message())),
        None => Arc::into_inner(slot)
            .and_then(OnceLock::into_inner)
            .ok_or_else(|| RpcError::internal("a call gave neither a result nor an error")),
    }
}

async fn run(method: &'static Method, params: Params<'static>, extensions: Extensions) -> Result<(), ErrorObjectOwned> {
    let (Some(ctx), Some(slot)) = (extensions.get::<Ctx>().cloned(), extensions.get::<Slot>()) else {
        return Err(no_context());
    };
    let params = params.as_str().unwrap_or("[]").to_owned();
    let outcome = match method.handler {
        Handler::Kernel | Handler::KernelBrief => ctx.kernel(method.name, params).await,
        Handler::Local(function) => match bind(method, &params, &ctx).await {
            Ok(args) => function(ctx, args).await.map(|value| value.compact()),
            Err(error) => Err(error),
        },
    };
    fill(slot, outcome)
}

fn run_brief(method: &'static Method, params: &Params<'_>, extensions: &Extensions) -> Result<(), ErrorObjectOwned> {
    let (Some(ctx), Some(slot)) = (extensions.get::<Ctx>(), extensions.get::<Slot>()) else {
        return Err(no_context());
    };
    let params = params.as_str().unwrap_or("[]");
    fill(slot, ctx.services.kernel.execute(method.name, params, &ctx.user, &ctx.uri))
}

fn fill(slot: &Slot, outcome: Result<String, RpcError>) -> Result<(), ErrorObjectOwned> {
    let text = outcome.map_err(|error| ErrorObjectOwned::owned(error.code, error.message, None::<()>))?;
    // Empty until now: each call has its own.
    let _ = slot.set(text);
    Ok(())
}

fn no_context() -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code::RPC_INTERNAL_ERROR, "no context", None::<()>)
}

async fn bind(method: &'static Method, params: &str, ctx: &Ctx) -> Result<Args, RpcError> {
    let params = Value::parse(params).map_err(|error| RpcError::new(code::RPC_PARSE_ERROR, error.to_string()))?;
    Args::bind(method, params, || methods::control::help_of(method, &*ctx.services.kernel))
}
