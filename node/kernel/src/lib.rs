//! keyless-kernel
