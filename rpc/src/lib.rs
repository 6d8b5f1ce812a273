//! keyless-rpc
