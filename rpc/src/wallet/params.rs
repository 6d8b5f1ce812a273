//! Arguments that several wallet methods share, checked as Core checks them.
//!
//! Source: Core's `rpc/util.cpp`, `rpc/rawtransaction_util.cpp`, `wallet/rpc/spend.cpp`, `core_io.cpp`.

use bitcoin::consensus::{Decodable, encode};
use bitcoin::hex::FromHex;
use bitcoin::script::{Instruction, PushBytesBuf};
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, Script, ScriptBuf, Sequence, Transaction, Txid, absolute};

use crate::amount;
use crate::args;
use crate::error::{RpcError, code};
use crate::json::Value;

use super::backend::{AddressType, EstimateMode, FeeChoice, FeeRate, Result, SighashType};

/// Targets above this are not estimated.
const MAX_CONFIRM_TARGET: i64 = 1_008;
/// Longest script consensus lets run.
const MAX_SCRIPT_BYTES: usize = 10_000;
/// Longest push.
const MAX_ELEMENT_BYTES: usize = 520;
/// OP_NOP10, the last opcode with a meaning.
const MAX_OPCODE: u8 = 0xb9;

/// A label; `*` is none.
pub(super) fn label(value: &Value) -> Result<String> {
    if value.is_null() {
        return Ok(String::new());
    }
    match args::str_of(value)? {
        "*" => Err(RpcError::new(code::RPC_WALLET_INVALID_LABEL_NAME, "Invalid label name")),
        label => Ok(label.to_owned()),
    }
}

/// A string that counts as left out when it is empty.
pub(super) fn nonempty(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An address type by name, or −5.
pub(super) fn address_type(value: &Value) -> Result<Option<AddressType>> {
    if value.is_null() {
        return Ok(None);
    }
    let text = args::str_of(value)?;
    let parsed = text.parse().map_err(|_| RpcError::invalid_address_or_key(format!("Unknown address type '{text}'")));
    parsed.map(Some)
}

/// The script of an address of this network.
pub(super) fn script_of(text: &str, network: Network) -> Option<ScriptBuf> {
    let address = text.parse::<Address<_>>().ok()?.require_network(network).ok()?;
    Some(address.script_pubkey())
}

/// −5 with this text unless it is an address of this network.
pub(super) fn address_script(text: &str, network: Network, refusal: &str) -> Result<ScriptBuf> {
    script_of(text, network).ok_or_else(|| RpcError::invalid_address_or_key(refusal))
}

/// The address that pays to a script, where there is one.
pub(super) fn address_of(script: &Script, network: Network) -> Option<Address> {
    Address::from_script(script, network).ok()
}

// ---------------------------------------------------------------------------------------------------------------------
// Options objects

/// The JSON type a member of an options object must have; `None` lets any through.
pub(super) type MemberType = Option<&'static str>;

/// Core's `RPCTypeCheckObj` with nulls allowed and strangers refused. `known` is in alphabetical order, as Core's map.
pub(super) fn check_options(options: &Value, known: &[(&str, MemberType)]) -> Result<()> {
    for (name, expected) in known {
        let member = options.member(name);
        if let Some(expected) = expected
            && !member.is_null()
            && member.type_name() != *expected
        {
            let given = member.type_name();
            let text = format!("JSON value of type {given} for field {name} is not of expected type {expected}");
            return Err(RpcError::type_error(text));
        }
    }
    let stranger = options.as_obj().unwrap_or_default().iter().find(|(key, _)| !known.iter().any(|(k, _)| k == key));
    match stranger {
        Some((key, _)) => Err(RpcError::type_error(format!("Unexpected key {key}"))),
        None => Ok(()),
    }
}

/// Core's `RPCTypeCheckObj` for members that must be there.
pub(super) fn require_members(object: &Value, known: &[(&str, &'static str)]) -> Result<()> {
    for (name, expected) in known {
        let member = object.member(name);
        let given = member.type_name();
        if member.is_null() {
            return Err(RpcError::type_error(format!("Missing {name}")));
        }
        if given != *expected {
            let text = format!("JSON value of type {given} for field {name} is not of expected type {expected}");
            return Err(RpcError::type_error(text));
        }
    }
    Ok(())
}

/// A member that may be missing; a null is of the wrong type.
pub(super) fn given<'a, T>(
    object: &'a Value,
    name: &str,
    read: impl FnOnce(&'a Value) -> Result<T>,
) -> Result<Option<T>> {
    object.find(name).map(read).transpose()
}

/// The same where a null is as good as nothing.
pub(super) fn optional<'a, T>(
    object: &'a Value,
    name: &str,
    read: impl FnOnce(&'a Value) -> Result<T>,
) -> Result<Option<T>> {
    let member = object.member(name);
    if member.is_null() { Ok(None) } else { read(member).map(Some) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Fees

/// Core's `SetFeeEstimateMode`. The flag tells whether the rate is the user's own.
pub(super) fn fee_choice(
    conf_target: &Value,
    estimate_mode: &Value,
    fee_rate: &Value,
    override_min: bool,
) -> Result<FeeChoice> {
    if !fee_rate.is_null() {
        if !conf_target.is_null() {
            return Err(RpcError::invalid_parameter(
                "Cannot specify both conf_target and fee_rate. Please provide either a confirmation target in blocks \
                 for automatic fee estimation, or an explicit fee rate.",
            ));
        }
        if !estimate_mode.is_null() && args::str_of(estimate_mode)? != "unset" {
            return Err(RpcError::invalid_parameter("Cannot specify both estimate_mode and fee_rate"));
        }
        let rate = FeeRate { sat_per_kvb: amount::fee_rate_sat_per_kvb(fee_rate)? };
        return Ok(FeeChoice::Rate { rate, override_min });
    }
    let mode = if estimate_mode.is_null() { EstimateMode::Unset } else { mode_of(args::str_of(estimate_mode)?)? };
    let target = if conf_target.is_null() { None } else { Some(target_of(conf_target)?) };
    Ok(FeeChoice::Estimate { target, mode })
}

fn mode_of(text: &str) -> Result<EstimateMode> {
    match text.to_ascii_lowercase().as_str() {
        "unset" => Ok(EstimateMode::Unset),
        "economical" => Ok(EstimateMode::Economical),
        "conservative" => Ok(EstimateMode::Conservative),
        _ => Err(RpcError::invalid_parameter(
            "Invalid estimate_mode parameter, must be one of: \"unset\", \"economical\", \"conservative\"",
        )),
    }
}

fn target_of(value: &Value) -> Result<u16> {
    let refused =
        || RpcError::invalid_parameter(format!("Invalid conf_target, must be between 1 and {MAX_CONFIRM_TARGET}"));
    let target: i32 = args::int_of(value)?;
    if !(1..=MAX_CONFIRM_TARGET).contains(&i64::from(target)) {
        return Err(refused());
    }
    u16::try_from(target).map_err(|_| refused())
}

// ---------------------------------------------------------------------------------------------------------------------
// Outputs and inputs

/// One output asked for, by the name it was asked for: an address, or `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub name: String,
    pub script: ScriptBuf,
    pub amount: Amount,
}

/// Outputs given as an object, or as an array of objects with one member each.
pub(super) fn outputs(value: &Value, network: Network) -> Result<Vec<Output>> {
    let bad = RpcError::invalid_parameter;
    match value {
        Value::Null => Err(bad("Invalid parameter, output argument must be non-null")),
        Value::Obj(members) => parse_outputs(members.iter(), network),
        other => {
            let mut members = Vec::new();
            for entry in args::arr_of(other)? {
                let Some(pairs) = entry.as_obj() else {
                    return Err(bad("Invalid parameter, key-value pair not an object as expected"));
                };
                let [pair] = pairs else {
                    return Err(bad("Invalid parameter, key-value pair must contain exactly one key"));
                };
                members.push(pair);
            }
            parse_outputs(members.into_iter(), network)
        }
    }
}

fn parse_outputs<'a>(members: impl Iterator<Item = &'a (String, Value)>, network: Network) -> Result<Vec<Output>> {
    let mut outputs: Vec<Output> = Vec::new();
    for (name, value) in members {
        let output = if name == "data" {
            if outputs.iter().any(|known| known.name == "data") {
                return Err(RpcError::invalid_parameter("Invalid parameter, duplicate key: data"));
            }
            Output { name: name.clone(), script: data_script(value)?, amount: Amount::ZERO }
        } else {
            let script = script_of(name, network);
            let amount = amount::from_value(value)?;
            let script =
                script.ok_or_else(|| RpcError::invalid_address_or_key(format!("Invalid Bitcoin address: {name}")))?;
            if outputs.iter().any(|known| known.name != "data" && known.script == script) {
                let text = format!("Invalid parameter, duplicated address: {name}");
                return Err(RpcError::invalid_parameter(text));
            }
            Output { name: name.clone(), script, amount }
        };
        outputs.push(output);
    }
    Ok(outputs)
}

fn data_script(value: &Value) -> Result<ScriptBuf> {
    let text = Value::Str(value.val_str().to_owned());
    let bytes = args::hex_of(&text, "Data")?;
    let push =
        PushBytesBuf::try_from(bytes).map_err(|_| RpcError::invalid_parameter("Data does not fit in a script"))?;
    Ok(ScriptBuf::new_op_return(push))
}

/// Core's `InterpretSubtractFeeFromOutputInstructions`: for each output, whether it bears the fee.
pub(super) fn subtract_fee_from(value: &Value, names: &[&str]) -> Result<Vec<bool>> {
    const WHAT: &str = "Invalid parameter 'subtract fee from output',";
    let bad = |text: String| RpcError::invalid_parameter(format!("{WHAT} {text}"));
    let mut chosen = vec![false; names.len()];
    if value.is_null() {
        return Ok(chosen);
    }
    for entry in args::arr_of(value)? {
        let position: i32 = match entry {
            Value::Str(name) => {
                let at = names.iter().position(|known| known == name);
                let at = at.and_then(|at| i32::try_from(at).ok());
                at.ok_or_else(|| bad(format!("destination {name} not found in tx outputs")))?
            }
            Value::Num(_) => args::int_of(entry)?,
            other => return Err(bad(format!("invalid value type: {}", other.type_name()))),
        };
        let slot = usize::try_from(position).ok().and_then(|at| chosen.get_mut(at));
        match slot {
            Some(true) => return Err(bad(format!("duplicated position: {position}"))),
            Some(slot) => *slot = true,
            None if position < 0 => return Err(bad(format!("negative position: {position}"))),
            None => return Err(bad(format!("position too large: {position}"))),
        }
    }
    Ok(chosen)
}

/// `{"txid":…,"vout":…}` with the texts of Core's `AddInputs`.
pub(super) fn outpoint_of(object: &Value) -> Result<OutPoint> {
    let txid = txid_of(object.member("txid"))?;
    let vout = object.member("vout");
    if vout.as_num().is_none() {
        return Err(RpcError::invalid_parameter("Invalid parameter, missing vout key"));
    }
    let vout: i32 = args::int_of(vout)?;
    match u32::try_from(vout) {
        Ok(vout) => Ok(OutPoint { txid, vout }),
        Err(_) => Err(RpcError::invalid_parameter("Invalid parameter, vout cannot be negative")),
    }
}

pub(super) fn txid_of(value: &Value) -> Result<Txid> {
    use bitcoin::hashes::Hash;
    args::hash_of(value, "txid").map(Txid::from_byte_array)
}

/// The sequence number of an input that the user named.
pub(super) fn sequence_of(object: &Value, default: Sequence) -> Result<Sequence> {
    let value = object.member("sequence");
    if value.as_num().is_none() {
        return Ok(default);
    }
    let number: i64 = args::int_of(value)?;
    let number = u32::try_from(number)
        .map_err(|_| RpcError::invalid_parameter("Invalid parameter, sequence number is out of range"))?;
    Ok(Sequence(number))
}

/// The lock time asked for, or zero.
pub(super) fn lock_time(value: &Value) -> Result<u32> {
    if value.is_null() {
        return Ok(0);
    }
    let number: i64 = args::int_of(value)?;
    u32::try_from(number).map_err(|_| RpcError::invalid_parameter("Invalid parameter, locktime out of range"))
}

/// A transaction version that is standard.
pub(super) fn tx_version(version: i64) -> Result<i32> {
    match i32::try_from(version) {
        Ok(version @ 1..=3) => Ok(version),
        _ => Err(RpcError::invalid_parameter("Invalid parameter, version out of range(1~3)")),
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions and signatures

/// A sighash type by name; `None` where it is left out.
pub(super) fn sighash(value: &Value) -> Result<Option<SighashType>> {
    if value.is_null() {
        return Ok(None);
    }
    let text = args::str_of(value)?;
    let byte = match text {
        "DEFAULT" => 0x00,
        "ALL" => 0x01,
        "NONE" => 0x02,
        "SINGLE" => 0x03,
        "ALL|ANYONECANPAY" => 0x81,
        "NONE|ANYONECANPAY" => 0x82,
        "SINGLE|ANYONECANPAY" => 0x83,
        _ => return Err(RpcError::invalid_parameter(format!("'{text}' is not a valid sighash parameter."))),
    };
    Ok(Some(SighashType(byte)))
}

/// Which of the two forms of a transaction's bytes to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    pub witness: bool,
    pub no_witness: bool,
}

/// Reads a transaction in hex as Core's `DecodeHexTx`: with witness first, then without, sane scripts preferred.
pub(super) fn decode_transaction(hex: &str, forms: Forms) -> Option<Transaction> {
    let bytes = Vec::<u8>::from_hex(hex).ok()?;
    let extended = if forms.witness { encode::deserialize::<Transaction>(&bytes).ok() } else { None };
    let extended_sane = extended.as_ref().is_some_and(has_sane_scripts);
    if extended_sane {
        return extended;
    }
    let legacy = if forms.no_witness { decode_legacy(&bytes) } else { None };
    let legacy_sane = legacy.as_ref().is_some_and(has_sane_scripts);
    if legacy_sane { legacy } else { extended.or(legacy) }
}

fn decode_legacy(bytes: &[u8]) -> Option<Transaction> {
    let mut rest = bytes;
    let tx = Transaction {
        version: Version::consensus_decode(&mut rest).ok()?,
        input: Decodable::consensus_decode(&mut rest).ok()?,
        output: Decodable::consensus_decode(&mut rest).ok()?,
        lock_time: absolute::LockTime::consensus_decode(&mut rest).ok()?,
    };
    rest.is_empty().then_some(tx)
}

fn is_valid(instruction: std::result::Result<Instruction<'_>, bitcoin::script::Error>) -> bool {
    match instruction {
        Ok(Instruction::PushBytes(bytes)) => bytes.len() <= MAX_ELEMENT_BYTES,
        Ok(Instruction::Op(opcode)) => opcode.to_u8() <= MAX_OPCODE,
        Err(_) => false,
    }
}

fn has_sane_scripts(tx: &Transaction) -> bool {
    let sane = |script: &Script| script.len() <= MAX_SCRIPT_BYTES && script.instructions().all(is_valid);
    let inputs = tx.is_coinbase() || tx.input.iter().all(|input| sane(&input.script_sig));
    inputs && tx.output.iter().all(|output| sane(&output.script_pubkey))
}
