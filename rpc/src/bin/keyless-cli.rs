//! Entry point of `keyless-cli`; everything is in [`keyless_rpc::cli`].

fn main() {}
