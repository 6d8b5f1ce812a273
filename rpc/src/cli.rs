//! `keyless-cli`: the command line client.
