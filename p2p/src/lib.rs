//! keyless-p2p
