//! keyless-node
