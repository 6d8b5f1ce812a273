//! Core's RPC table: methods whose answers lie in the node are answered by Core's own handlers.
//!
//! Owns execution, warm-up and the command list. It refuses HTTP, authentication, batches and envelopes. Works from
//! [`Kernel::start`] on; until [`Kernel::ready`] every method answers −28 with the current start-up message.

use std::os::raw::c_int;

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct RpcCall<'a> {
    /// Name of the method.
    pub method: &'a str,
    /// Arguments: a JSON array, or an object of named arguments.
    pub params: &'a str,
    /// Path of the request (`/`, `/wallet/w`).
    pub uri: &'a str,
    /// Authenticated user.
    pub user: &'a str,
    /// Address of the caller, for log lines.
    pub peer: &'a str,
    /// The envelope is JSON-RPC 2.0.
    pub v2: bool,
}

impl<'a> RpcCall<'a> {
    /// A call without a caller: from inside the node.
    pub fn internal(method: &'a str, params: &'a str) -> Self {
        RpcCall { method, params, uri: "/", user: "", peer: "", v2: true }
    }
}

/// A JSON-RPC error as Core made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcFailure {
    /// Core's error code.
    pub code: i32,
    /// Core's text.
    pub message: String,
}

impl Kernel {
    /// Executes a method; the result is JSON text, exactly as Core writes it. Blocks as long as the method does.
    pub fn rpc(&self, call: RpcCall<'_>) -> Result<String, RpcFailure> {
        execute(call)
    }

    /// Names of the methods Core answers, sorted.
    pub fn rpc_commands(&self) -> Result<Vec<String>, KernelError> {
        Answer::new(ffi::kl_rpc_commands()).fields()?.list(|f| f.string())
    }

    /// The start-up message while the node warms up (the text of −28), `None` afterwards.
    pub fn warmup(&self) -> Option<String> {
        Answer::new(ffi::kl_rpc_warmup()).fields().and_then(|mut f| f.option(|f| f.string())).ok().flatten()
    }
}

fn execute(call: RpcCall<'_>) -> Result<String, RpcFailure> {
    let answer = Answer::new(ffi::kl_rpc(
        call.method.into(),
        call.params.into(),
        call.uri.into(),
        call.user.into(),
        call.peer.into(),
        c_int::from(call.v2),
    ));
    if let Ok((ffi::STATUS_RPC_ERROR, rest)) = answer.status_and_rest() {
        let mut fields = crate::codec::Fields::new(rest);
        let failure = fields.i64().and_then(|code| Ok((code, fields.string()?)));
        return Err(match failure {
            Ok((code, message)) => RpcFailure { code: i32::try_from(code).unwrap_or(RPC_MISC_ERROR), message },
            Err(error) => misc(error.to_string()),
        });
    }
    let text = answer.fields().and_then(|mut f| f.string());
    text.map_err(|error| match error {
        KernelError::NotRunning => RpcFailure { code: RPC_CLIENT_NOT_CONNECTED, message: "Shutting down".into() },
        error => misc(error.to_string()),
    })
}

const RPC_MISC_ERROR: i32 = -1;
const RPC_CLIENT_NOT_CONNECTED: i32 = -9;

fn misc(message: String) -> RpcFailure {
    RpcFailure { code: RPC_MISC_ERROR, message }
}
