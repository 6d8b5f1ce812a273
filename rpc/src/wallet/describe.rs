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
    out.push("solvable", key.as_ref().is_some_and(|key| key.desc.is_some()));
    if let Some(key) = &key {
        if let Some(desc) = &key.desc {
            out.push("desc", desc);
        }
        out.push("parent_desc", &key.parent_desc);
    }
    out.push("iswatchonly", false);
    push_kind(&mut out, script);
    if let Some(key) = &key {
        push_key(&mut out, script, key, network);
    }
    out.push("ischange", ledger.is_change(script));
    if let Some((key, (path, root))) = key.as_ref().and_then(|key| Some((key, key.origin.as_ref()?))) {
        out.push("timestamp", key.timestamp);
        out.push("hdkeypath", path);
        out.push("hdseedid", NO_SEED);
        out.push("hdmasterfingerprint", root.to_string());
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
    if let Some(redeem) = key.redeem_script.as_ref().filter(|_| script.is_p2sh()) {
        push_script(out, redeem, key, network);
    } else if let Some(witness) = key.witness_script.as_ref().filter(|_| script.is_p2wsh()) {
        push_script(out, witness, key, network);
    } else if let Some(pubkey) = key.pubkey.as_ref().filter(|_| !script.is_p2tr()) {
        out.push("pubkey", pubkey);
        if script.is_p2pkh() {
            // Compressed keys have 33 bytes.
            out.push("iscompressed", pubkey.len() <= 66);
        }
    }
}

/// What a script inside an address says.
fn push_script(out: &mut Value, inner: &ScriptBuf, key: &KeyView, network: Network) {
    out.push("script", kind_name(inner));
    out.push("hex", inner.to_hex_string());
    if let Some(address) = params::address_of(inner, network) {
        let mut embedded = Value::obj();
        push_kind(&mut embedded, inner);
        push_key(&mut embedded, inner, key, network);
        embedded.push("address", address.to_string());
        embedded.push("scriptPubKey", inner.to_hex_string());
        if let Some(pubkey) = embedded.find("pubkey").cloned() {
            out.push("pubkey", pubkey);
        }
        out.push("embedded", embedded);
    } else if let Some((needed, keys)) = multisig(inner) {
        out.push("sigsrequired", needed);
        out.push("pubkeys", Value::arr(keys));
    }
}

/// Core's names for the forms of scripts.
fn kind_name(script: &Script) -> &'static str {
    if script.is_p2pkh() {
        "pubkeyhash"
    } else if script.is_p2sh() {
        "scripthash"
    } else if script.is_p2wpkh() {
        "witness_v0_keyhash"
    } else if script.is_p2wsh() {
        "witness_v0_scripthash"
    } else if script.is_p2pk() {
        "pubkey"
    } else if multisig(script).is_some() {
        "multisig"
    } else {
        "nonstandard"
    }
}

/// How many signatures a bare multisignature script asks for, and of which keys.
fn multisig(script: &Script) -> Option<(u8, Vec<String>)> {
    if !script.is_multisig() {
        return None;
    }
    let needed = script.as_bytes().first()?.checked_sub(0x50)?;
    let keys = script.instructions().filter_map(|step| step.ok()?.push_bytes().map(|push| hex(push.as_bytes())));
    Some((needed, keys.filter(|key| !key.is_empty()).collect()))
}

fn hex(bytes: &[u8]) -> String {
    use bitcoin::hex::DisplayHex;
    bytes.to_lower_hex_string()
}
