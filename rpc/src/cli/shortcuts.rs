//! -addrinfo and -generate.

use super::call::{Client, request};
use super::names::names;
use super::options::Options;
use super::{CliError, Outcome, convert, error_outcome, shown};
use crate::code;
use crate::json::Value;

/// Known addresses per network.
pub fn addrinfo(client: &Client<'_>, words: &[String]) -> Result<Outcome, CliError> {
    if !words.is_empty() {
        return Err(CliError::other("-addrinfo takes no arguments"));
    }
    let reply = client.call(request("getaddrmaninfo", Value::Null, 1.into()), None)?;
    let error = reply.member("error");
    if error.member("code").as_i64() == Some(i64::from(code::RPC_METHOD_NOT_FOUND)) {
        return Err(CliError::other(format!(
            "-addrinfo requires a node that knows getaddrmaninfo. Please upgrade your node or use {} from the same version.",
            names().program
        )));
    }
    if !error.is_null() {
        return Ok(error_outcome(error));
    }
    let mut known = Value::obj();
    for (network, counts) in reply.member("result").as_obj().unwrap_or_default() {
        let key = if network == "all_networks" { "total" } else { network };
        known.push(key, counts.member("total").clone());
    }
    let result = Value::obj().with("addresses_known", known);
    Ok(shown(&Value::obj().with("result", result)))
}

/// getnewaddress, then generatetoaddress.
pub fn generate(client: &Client<'_>, options: &Options, mut words: Vec<String>) -> Result<Outcome, CliError> {
    let wallet = options.wallet();
    let id: Value = options.get("-rpcid").unwrap_or_else(|| "1".to_owned()).into();
    let fresh = client.call(request("getnewaddress", Value::Arr(Vec::new()), id), wallet.as_deref())?;
    if !fresh.member("error").is_null() {
        return Ok(shown(&fresh));
    }
    let address = fresh.member("result").val_str().to_owned();
    if words.len() > 2 {
        return Err(CliError::other("too many arguments (maximum 2 for nblocks and maxtries)"));
    }
    match words.first().map(String::as_str) {
        None => words.push("1".to_owned()),
        Some("0") => {
            return Err(CliError::other(
                "the first argument (number of blocks to generate, default: 1) must be an integer value greater than \
                 zero",
            ));
        }
        Some(_) => {}
    }
    words.insert(1, address.clone());
    let params = convert::positional("generatetoaddress", &words)?;
    let reply = client.call(request("generatetoaddress", params, 1.into()), wallet.as_deref())?;
    if !reply.member("error").is_null() {
        return Ok(shown(&reply));
    }
    let result = Value::obj().with("address", address).with("blocks", reply.member("result").clone());
    Ok(shown(&Value::obj().with("result", result)))
}
