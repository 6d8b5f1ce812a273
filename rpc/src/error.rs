//! RPC error codes, named as Core names them in `rpc/protocol.h`, and the error every method returns.

use crate::json::Value;

/// Numeric codes, as scripts read them.
pub mod code {
    pub const RPC_INVALID_REQUEST: i32 = -32600;
    pub const RPC_METHOD_NOT_FOUND: i32 = -32601;
    pub const RPC_INVALID_PARAMS: i32 = -32602;
    pub const RPC_INTERNAL_ERROR: i32 = -32603;
    pub const RPC_PARSE_ERROR: i32 = -32700;

    pub const RPC_MISC_ERROR: i32 = -1;
    pub const RPC_TYPE_ERROR: i32 = -3;
    pub const RPC_INVALID_ADDRESS_OR_KEY: i32 = -5;
    pub const RPC_OUT_OF_MEMORY: i32 = -7;
    pub const RPC_INVALID_PARAMETER: i32 = -8;
    pub const RPC_DATABASE_ERROR: i32 = -20;
    pub const RPC_DESERIALIZATION_ERROR: i32 = -22;
    pub const RPC_VERIFY_ERROR: i32 = -25;
    pub const RPC_VERIFY_REJECTED: i32 = -26;
    pub const RPC_VERIFY_ALREADY_IN_UTXO_SET: i32 = -27;
    pub const RPC_IN_WARMUP: i32 = -28;
    pub const RPC_METHOD_DEPRECATED: i32 = -32;
    pub const RPC_LIMIT_EXCEEDED: i32 = -37;
    pub const RPC_TRANSACTION_ERROR: i32 = RPC_VERIFY_ERROR;
    pub const RPC_TRANSACTION_REJECTED: i32 = RPC_VERIFY_REJECTED;

    pub const RPC_CLIENT_NOT_CONNECTED: i32 = -9;
    pub const RPC_CLIENT_IN_INITIAL_DOWNLOAD: i32 = -10;
    pub const RPC_CLIENT_NODE_ALREADY_ADDED: i32 = -23;
    pub const RPC_CLIENT_NODE_NOT_ADDED: i32 = -24;
    pub const RPC_CLIENT_NODE_NOT_CONNECTED: i32 = -29;
    pub const RPC_CLIENT_INVALID_IP_OR_SUBNET: i32 = -30;
    pub const RPC_CLIENT_P2P_DISABLED: i32 = -31;
    pub const RPC_CLIENT_NODE_CAPACITY_REACHED: i32 = -34;
    pub const RPC_CLIENT_MEMPOOL_DISABLED: i32 = -33;

    pub const RPC_WALLET_ERROR: i32 = -4;
    pub const RPC_WALLET_INSUFFICIENT_FUNDS: i32 = -6;
    pub const RPC_WALLET_INVALID_LABEL_NAME: i32 = -11;
    pub const RPC_WALLET_KEYPOOL_RAN_OUT: i32 = -12;
    pub const RPC_WALLET_UNLOCK_NEEDED: i32 = -13;
    pub const RPC_WALLET_PASSPHRASE_INCORRECT: i32 = -14;
    pub const RPC_WALLET_WRONG_ENC_STATE: i32 = -15;
    pub const RPC_WALLET_ENCRYPTION_FAILED: i32 = -16;
    pub const RPC_WALLET_ALREADY_UNLOCKED: i32 = -17;
    pub const RPC_WALLET_NOT_FOUND: i32 = -18;
    pub const RPC_WALLET_NOT_SPECIFIED: i32 = -19;
    pub const RPC_WALLET_ALREADY_LOADED: i32 = -35;
    pub const RPC_WALLET_ALREADY_EXISTS: i32 = -36;
}

/// What a failed method answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    pub code: i32,
    pub message: String,
}

impl RpcError {
    pub fn new(code: i32, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into() }
    }

    /// -1, Core's code for what has none of its own.
    pub fn misc(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_MISC_ERROR, message)
    }

    /// -3
    pub fn type_error(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_TYPE_ERROR, message)
    }

    /// -8
    pub fn invalid_parameter(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_INVALID_PARAMETER, message)
    }

    /// -5
    pub fn invalid_address_or_key(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_INVALID_ADDRESS_OR_KEY, message)
    }

    /// -4
    pub fn wallet(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_WALLET_ERROR, message)
    }

    /// -32603: a fault of ours.
    pub fn internal(message: impl Into<String>) -> RpcError {
        RpcError::new(code::RPC_INTERNAL_ERROR, message)
    }

    /// -32601
    pub fn method_not_found() -> RpcError {
        RpcError::new(code::RPC_METHOD_NOT_FOUND, "Method not found")
    }

    /// `{"code":..,"message":".."}`
    pub fn to_value(&self) -> Value {
        Value::obj().with("code", self.code).with("message", self.message.as_str())
    }
}
