//! keyless-tests
