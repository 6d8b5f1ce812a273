//! tss-wallet
