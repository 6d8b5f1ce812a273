//! From a method's name to its answer: jsonrpsee's module holds the rows of the table, one callback each.
//!
//! Warm-up comes before everything, as in Core. Each call runs as its own task: a client that hangs up does not stop
//! a payment half way. What a call gives goes beside the module's reply, which would be read and checked as JSON twice
//! more: the result of `getblock` may be megabytes.

use std::sync::{Arc, OnceLock};

use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use jsonrpsee::{ConnectionId, Extensions, MethodCallback, RpcModule};
use serde::Deserialize;
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
}

/// A reply of the module, but the result.
#[derive(Deserialize)]
struct Reply {
    error: Option<ErrorObjectOwned>,
}

impl Dispatcher {
    /// Registers every row of the table; the wallet's only where there are wallets.
    pub fn new(services: Arc<Services>) -> Result<Dispatcher, StartReason> {
        let mut module = RpcModule::new(());
        for method in methods::all(services.wallets.is_some()) {
            module
                .register_async_method(method.name, move |params, _, extensions| run(method, params, extensions))
                .map_err(|error| StartReason::Config(error.to_string()))?;
        }
        Ok(Dispatcher { module, services })
    }

    /// What the calls ask.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Calls a method; the result is JSON text.
    pub async fn call(&self, method: &str, params: &Value, ctx: Ctx) -> Result<String, RpcError> {
        if let Some(status) = self.services.kernel.warmup() {
            return Err(RpcError::new(code::RPC_IN_WARMUP, status));
        }
        let Some(MethodCallback::Async(callback)) = self.module.method(method) else {
            return Err(RpcError::method_not_found());
        };
        let params = params.compact();
        let params = Params::new(Some(&params)).into_owned();
        let mut extensions = Extensions::new();
        extensions.insert(ctx);
        let slot = Slot::default();
        extensions.insert(Arc::clone(&slot));
        let answer = callback(Id::Number(0), params, ConnectionId(0), usize::MAX, extensions);
        let response = tokio::spawn(answer).await.map_err(|failure| {
            error!(target: "rpc", method, %failure, "a method ended abnormally");
            RpcError::internal("the call was interrupted")
        })?;
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
}

async fn run(method: &'static Method, params: Params<'static>, extensions: Extensions) -> Result<(), ErrorObjectOwned> {
    let (Some(ctx), Some(slot)) = (extensions.get::<Ctx>().cloned(), extensions.get::<Slot>()) else {
        return Err(ErrorObjectOwned::owned(code::RPC_INTERNAL_ERROR, "no context", None::<()>));
    };
    let params = params.as_str().unwrap_or("[]").to_owned();
    let outcome = match method.handler {
        Handler::Kernel => ctx.kernel(method.name, params).await,
        Handler::Local(function) => match bind(method, &params, &ctx).await {
            Ok(args) => function(ctx, args).await.map(|value| value.compact()),
            Err(error) => Err(error),
        },
    };
    let text = outcome.map_err(|error| ErrorObjectOwned::owned(error.code, error.message, None::<()>))?;
    // Empty until now: each call has its own.
    let _ = slot.set(text);
    Ok(())
}

async fn bind(method: &'static Method, params: &str, ctx: &Ctx) -> Result<Args, RpcError> {
    let params = Value::parse(params).map_err(|error| RpcError::new(code::RPC_PARSE_ERROR, error.to_string()))?;
    Args::bind(method, params, || methods::control::help_of(method, &*ctx.services.kernel))
}
