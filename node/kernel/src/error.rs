//! What can go wrong, by operation. Texts are Core's own.

use thiserror::Error;

/// The command line or a configuration file was refused. Core has already written the text to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ArgsError(pub String);

/// The node did not come up. Core has already written the text to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InitError {
    /// Refused, with Core's text (without its `Error: `).
    #[error("{0}")]
    Refused(String),
    /// Shutdown was asked for while loading: not a failure, but there is no node.
    #[error("shutdown requested while loading")]
    Interrupted,
}

/// A call into the running node failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// The node is not loaded yet, or is shutting down.
    #[error("the node is not running")]
    NotRunning,
    /// Core refused or failed, with its text.
    #[error("{0}")]
    Failed(String),
    /// An answer of the shim could not be read: a defect of this crate.
    #[error("malformed answer from the shim: {0}")]
    Malformed(&'static str),
}

impl From<KernelError> for InitError {
    fn from(error: KernelError) -> Self {
        InitError::Refused(error.to_string())
    }
}

impl From<KernelError> for ArgsError {
    fn from(error: KernelError) -> Self {
        ArgsError(error.to_string())
    }
}
