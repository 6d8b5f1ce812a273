//! `solving_data`: what a caller says of scripts that are not the wallet's. Source: Core's `FundTransaction`.

use bitcoin::hex::FromHex;
use bitcoin::{PublicKey, ScriptBuf};
use tss_wallet::wallet::solving::SolvingData;

use crate::args;
use crate::error::RpcError;
use crate::json::Value;

use super::backend::Result;

/// Lengths of a key in hex, compressed and not.
const KEY_DIGITS: [usize; 2] = [66, 130];

pub(super) fn data(value: &Value) -> Result<SolvingData> {
    if value.is_null() {
        return Ok(SolvingData::default());
    }
    args::obj_of(value)?;
    let mut data = SolvingData {
        keys: each(value, "pubkeys", key)?,
        scripts: each(value, "scripts", script)?,
        ..SolvingData::default()
    };
    for text in each(value, "descriptors", |text| Ok(text.to_owned()))? {
        data.add_descriptor(&text)
            .map_err(|why| RpcError::invalid_parameter(format!("Unable to parse descriptor '{text}': {why}")))?;
    }
    Ok(data)
}

fn each<T>(value: &Value, name: &str, read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    match value.find(name) {
        None => Ok(Vec::new()),
        Some(list) => args::arr_of(list)?.iter().map(|entry| read(args::str_of(entry)?)).collect(),
    }
}

fn key(text: &str) -> Result<PublicKey> {
    let bad = |why: &str| RpcError::invalid_address_or_key(format!("Pubkey \"{text}\" {why}"));
    let bytes = Vec::<u8>::from_hex(text).map_err(|_| bad("must be a hex string"))?;
    if !KEY_DIGITS.contains(&text.len()) {
        return Err(bad("must have a length of either 33 or 65 bytes"));
    }
    PublicKey::from_slice(&bytes).map_err(|_| bad("must be cryptographically valid."))
}

fn script(text: &str) -> Result<ScriptBuf> {
    let bytes = Vec::<u8>::from_hex(text);
    bytes.map(ScriptBuf::from_bytes).map_err(|_| RpcError::invalid_address_or_key(format!("'{text}' is not hex")))
}
