//! From a method's name to its answer: jsonrpsee's module holds the rows of the table, one callback each.
//!
//! Warm-up comes before everything, as in Core. Each call runs as its own task: a client that hangs up does not stop
//! a payment half way.

use std::sync::Arc;

use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use jsonrpsee::{ConnectionId, Extensions, MethodCallback, RpcModule};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::error;

use super::StartReason;
use crate::args::Args;
use crate::backend::{Ctx, Services};
use crate::code;
use crate::error::RpcError;
use crate::json::Value;
use crate::methods;
use crate::table::{Handler, Method};

type Raw = Result<Box<RawValue>, ErrorObjectOwned>;

/// The registered methods.
pub struct Dispatcher {
    module: RpcModule<()>,
    services: Arc<Services>,
}

/// A reply of the module.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
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
        let answer = callback(Id::Number(0), params, ConnectionId(0), usize::MAX, extensions);
        let response = tokio::spawn(answer).await.map_err(|failure| {
            error!(target: "rpc", method, %failure, "a method ended abnormally");
            RpcError::internal("the call was interrupted")
        })?;
        let reply: Reply<'_> = serde_json::from_str(response.as_json().get())
            .map_err(|failure| RpcError::internal(format!("unreadable answer: {failure}")))?;
        match (reply.error, reply.result) {
            (Some(error), _) => Err(RpcError::new(error.code(), error.message())),
            (None, result) => Ok(result.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())),
        }
    }
}

async fn run(method: &'static Method, params: Params<'static>, extensions: Extensions) -> Raw {
    let Some(ctx) = extensions.get::<Ctx>().cloned() else {
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
    outcome
        .and_then(|text| RawValue::from_string(text).map_err(|error| RpcError::internal(error.to_string())))
        .map_err(|error| ErrorObjectOwned::owned(error.code, error.message, None::<()>))
}

async fn bind(method: &'static Method, params: &str, ctx: &Ctx) -> Result<Args, RpcError> {
    let params = Value::parse(params).map_err(|error| RpcError::new(code::RPC_PARSE_ERROR, error.to_string()))?;
    Args::bind(method, params, || methods::control::help_of(method, &*ctx.services.kernel))
}
