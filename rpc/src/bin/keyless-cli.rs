//! Entry point of `keyless-cli`; everything is in [`keyless_rpc::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    keyless_rpc::cli::main()
}
