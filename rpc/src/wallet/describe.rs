//! What `getaddressinfo` says of an address, and why another text is none.
//!
//! Source: Core's `DescribeAddress` and `DescribeWalletAddressVisitor`.

use bitcoin::{Network, Script, ScriptBuf};

use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;

use super::backend::{KeyView, Ledger};
use super::params;

/// The seed's identifier, which no threshold wallet has: as Core shows it where there is none.
const NO_SEED: &str = "0000000000000000000000000000000000000000";

/// −5 with the reason Core's own decoder gives.
pub(super) async fn refusal(ctx: &Ctx, text: &str) -> RpcError {
    let request = Value::arr([text]).compact();
    let reason = match ctx.kernel("validateaddress", request).await {
        Ok(answer) => Value::parse(&answer).ok(),
        Err(error) => return error,
    };
    let reason = reason.as_ref().and_then(|answer| answer.member("error").as_str()).filter(|text| !text.is_empty());
    RpcError::invalid_address_or_key(reason.unwrap_or("Invalid address"))
}

pub(super) fn address_info(ledger: &dyn Ledger, address: &str, script: &Script, network: Network) -> Value {
    let key = ledger.key(script);
    let mut out = Value::obj().with("address", address).with("scriptPubKey", script.to_hex_string());
    out.push("ismine", ledger.is_mine(script));
    out.push("solvable", key.is_some());
    if let Some(key) = &key {
        out.push("desc", &key.desc);
        out.push("parent_desc", &key.parent_desc);
    }
    out.push("iswatchonly", false);
    push_kind(&mut out, script);
    if let Some(key) = &key {
        push_key(&mut out, script, key, network);
    }
    out.push("ischange", ledger.is_change(script));
    if let Some(key) = &key {
        out.push("timestamp", key.timestamp);
        out.push("hdkeypath", &key.hd_key_path);
        out.push("hdseedid", NO_SEED);
        out.push("hdmasterfingerprint", key.fingerprint.to_string());
    }
    out.push("labels", Value::arr(ledger.label(script)));
    out
}

/// What the form of a script tells.
fn push_kind(out: &mut Value, script: &Script) {
    let is_anchor = script.as_bytes() == [0x51, 0x02, 0x4e, 0x73];
    let known = script.is_p2pkh() || script.is_p2sh() || script.is_p2wpkh() || script.is_p2wsh() || script.is_p2tr();
    if known || is_anchor {
        let is_script = script.is_p2sh() || script.is_p2wsh() || script.is_p2tr() || is_anchor;
        out.push("isscript", is_script);
    }
    let version = script.witness_version();
    out.push("iswitness", version.is_some());
    if let Some(version) = version.filter(|_| !is_anchor) {
        out.push("witness_version", version.to_num());
        out.push("witness_program", hex(script.as_bytes().get(2..).unwrap_or_default()));
    }
}

/// What the wallet's key adds.
fn push_key(out: &mut Value, script: &Script, key: &KeyView, network: Network) {
    match (&key.redeem_script, &key.pubkey) {
        (Some(redeem), Some(pubkey)) => {
            out.push("script", "witness_v0_keyhash");
            out.push("hex", redeem.to_hex_string());
            out.push("pubkey", pubkey);
            out.push("embedded", embedded(redeem, pubkey, network));
        }
        (None, Some(pubkey)) if !script.is_p2tr() => {
            out.push("pubkey", pubkey);
            if script.is_p2pkh() {
                out.push("iscompressed", true);
            }
        }
        _ => {}
    }
}

fn embedded(redeem: &ScriptBuf, pubkey: &str, network: Network) -> Value {
    let mut out = Value::obj();
    push_kind(&mut out, redeem);
    out.push("pubkey", pubkey);
    if let Some(address) = params::address_of(redeem, network) {
        out.push("address", address.to_string());
    }
    out.push("scriptPubKey", redeem.to_hex_string());
    out
}

fn hex(bytes: &[u8]) -> String {
    use bitcoin::hex::DisplayHex;
    bytes.to_lower_hex_string()
}
