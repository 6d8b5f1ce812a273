//! The options that fundrawtransaction, walletcreatefundedpsbt and send share.
//!
//! Source: Core's `FundTransaction` of `wallet/rpc/spend.cpp`: the same checks in the same order, the same texts.

use bitcoin::Network;

use crate::amount;
use crate::args;
use crate::error::RpcError;
use crate::json::Value;

use super::backend::{ChosenInput, FeeChoice, FeeRate, Recipient, Result, SpendRequest};
use super::params::{self, MemberType, Output};
use super::solving;

/// Weight of an input with an empty script and an empty witness.
const MIN_INPUT_WEIGHT: i64 = 165;
/// Heaviest transaction that is relayed.
const MAX_STANDARD_TX_WEIGHT: i64 = 400_000;
/// Heaviest transaction of version 3.
const TRUC_MAX_WEIGHT: u64 = 40_000;
const TRUC_VERSION: i32 = 3;

/// Every option that any of the three knows, in Core's (alphabetical) order.
const KNOWN: &[(&str, MemberType)] = &[
    ("add_inputs", Some("bool")),
    ("add_to_wallet", Some("bool")),
    ("changeAddress", Some("string")),
    ("changePosition", Some("number")),
    ("change_address", Some("string")),
    ("change_position", Some("number")),
    ("change_type", Some("string")),
    ("conf_target", Some("number")),
    ("estimate_mode", Some("string")),
    ("feeRate", None),
    ("fee_rate", None),
    ("includeWatching", Some("bool")),
    ("include_unsafe", Some("bool")),
    ("include_watching", Some("bool")),
    ("input_weights", Some("array")),
    ("inputs", Some("array")),
    ("lockUnspents", Some("bool")),
    ("lock_unspents", Some("bool")),
    ("locktime", Some("number")),
    ("max_tx_weight", Some("number")),
    ("maxconf", Some("number")),
    ("minconf", Some("number")),
    ("psbt", Some("bool")),
    ("replaceable", Some("bool")),
    ("solving_data", Some("object")),
    ("subtractFeeFromOutputs", Some("array")),
    ("subtract_fee_from_outputs", Some("array")),
];

/// Recipients from outputs; `subtract` is the option that names those who bear the fee.
pub(super) fn recipients(outputs: Vec<Output>, subtract: &Value) -> Result<Vec<Recipient>> {
    let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    let bear = params::subtract_fee_from(subtract, &names)?;
    let with_fee = outputs.into_iter().zip(bear);
    Ok(with_fee
        .map(|(output, subtract_fee)| Recipient { script: output.script, amount: output.amount, subtract_fee })
        .collect())
}

/// Applies the options to a request whose recipients and inputs stand already.
///
/// `override_min`: a fee rate of the user's own is not held against the minimum rates.
pub(super) fn apply(request: &mut SpendRequest, options: &Value, network: Network, override_min: bool) -> Result<()> {
    // A boolean is what very old callers pass; it means nothing.
    if !options.is_null() && options.as_bool().is_none() {
        params::check_options(options, KNOWN)?;
        apply_checked(request, options, network, override_min)?;
    }
    request.solving = solving::data(options.member("solving_data"))?;
    for entry in params::given(options, "input_weights", args::arr_of)?.unwrap_or_default() {
        apply_weight(request, entry)?;
    }
    request.max_tx_weight = params::given(options, "max_tx_weight", max_weight)?;
    if request.version == TRUC_VERSION {
        let limit = request.max_tx_weight.unwrap_or(TRUC_MAX_WEIGHT);
        request.max_tx_weight = Some(limit.min(TRUC_MAX_WEIGHT));
    }
    if request.recipients.is_empty() {
        return Err(RpcError::invalid_parameter("TX must have at least one output"));
    }
    Ok(())
}

fn max_weight(value: &Value) -> Result<u64> {
    let weight: i32 = args::int_of(value)?;
    // Below the least there is, which the wallet refuses with the bounds.
    Ok(u64::try_from(weight).unwrap_or(0))
}

fn apply_checked(request: &mut SpendRequest, options: &Value, network: Network, override_min: bool) -> Result<()> {
    if let Some(add_inputs) = params::given(options, "add_inputs", args::bool_of)? {
        request.add_inputs = add_inputs;
    }
    apply_change(request, options, network)?;
    let lock = either(options, "lock_unspents", "lockUnspents");
    request.lock_unspents = lock.map(args::bool_of).transpose()?.unwrap_or(false);
    request.include_unsafe = params::given(options, "include_unsafe", args::bool_of)?.unwrap_or(false);
    let own_rate = kvb_rate(options)?;
    request.rbf = params::given(options, "replaceable", args::bool_of)?.or(request.rbf);
    apply_depths(request, options)?;
    let (target, mode, rate) =
        (options.member("conf_target"), options.member("estimate_mode"), options.member("fee_rate"));
    request.fee = params::fee_choice(target, mode, rate, override_min)?;
    if let FeeChoice::Rate { .. } = request.fee {
        request.rbf = request.rbf.or(Some(true));
    }
    if let Some(rate) = own_rate {
        request.fee = FeeChoice::Rate { rate, override_min: true };
    }
    Ok(())
}

/// The value under the first of two names that is there.
fn either<'a>(options: &'a Value, name: &str, older: &str) -> Option<&'a Value> {
    options.find(name).or_else(|| options.find(older))
}

fn apply_change(request: &mut SpendRequest, options: &Value, network: Network) -> Result<()> {
    let address = either(options, "change_address", "changeAddress");
    if let Some(address) = address {
        let refusal = "Change address must be a valid bitcoin address";
        request.change.script = Some(params::address_script(args::str_of(address)?, network, refusal)?);
    }
    if let Some(position) = either(options, "change_position", "changePosition") {
        let position: i32 = args::int_of(position)?;
        let position = u32::try_from(position).ok();
        let limit = request.recipients.len();
        let fits = position.filter(|at| usize::try_from(*at).is_ok_and(|at| at <= limit));
        if fits.is_none() {
            return Err(RpcError::invalid_parameter("changePosition out of bounds"));
        }
        request.change.position = fits;
    }
    if let Some(text) = params::given(options, "change_type", args::str_of)? {
        if address.is_some() {
            let refusal = "Cannot specify both change address and address type options";
            return Err(RpcError::invalid_parameter(refusal));
        }
        let parsed = text.parse();
        let refused = |_| RpcError::invalid_address_or_key(format!("Unknown change type '{text}'"));
        request.change.address_type = Some(parsed.map_err(refused)?);
    }
    Ok(())
}

/// `feeRate`, in coins for 1,000 virtual bytes.
fn kvb_rate(options: &Value) -> Result<Option<FeeRate>> {
    let Some(rate) = options.find("feeRate").filter(|rate| !rate.is_null()) else { return Ok(None) };
    let refuse = |text: &str| Err(RpcError::invalid_parameter(text));
    if options.find("fee_rate").is_some() {
        return refuse("Cannot specify both fee_rate (sat/vB) and feeRate (BTC/kvB)");
    }
    if options.find("conf_target").is_some() {
        return refuse(
            "Cannot specify both conf_target and feeRate. Please provide either a confirmation target in blocks for \
             automatic fee estimation, or an explicit fee rate.",
        );
    }
    if options.find("estimate_mode").is_some() {
        return refuse("Cannot specify both estimate_mode and feeRate");
    }
    Ok(Some(FeeRate { sat_per_kvb: amount::from_value(rate)?.to_sat() }))
}

fn apply_depths(request: &mut SpendRequest, options: &Value) -> Result<()> {
    if let Some(depth) = params::given(options, "minconf", args::int_of::<i32>)? {
        request.min_conf = u32::try_from(depth).map_err(|_| RpcError::invalid_parameter("Negative minconf"))?;
    }
    if let Some(depth) = params::given(options, "maxconf", args::int_of::<i32>)? {
        let fits = u32::try_from(depth).ok().filter(|depth| *depth >= request.min_conf);
        let min_conf = request.min_conf;
        request.max_conf = fits.ok_or_else(|| {
            RpcError::invalid_parameter(format!("maxconf can't be lower than minconf: {depth} < {min_conf}"))
        })?;
    }
    Ok(())
}

fn apply_weight(request: &mut SpendRequest, entry: &Value) -> Result<()> {
    let bad = RpcError::invalid_parameter;
    let outpoint = params::outpoint_of(entry)?;
    let weight = entry.member("weight");
    if weight.as_num().is_none() {
        return Err(bad("Invalid parameter, missing weight key"));
    }
    let weight: i64 = args::int_of(weight)?;
    if weight < MIN_INPUT_WEIGHT {
        return Err(bad(
            "Invalid parameter, weight cannot be less than 165 (41 bytes (size of outpoint + sequence + empty \
             scriptSig) * 4 (witness scaling factor)) + 1 (empty witness)",
        ));
    }
    if weight > MAX_STANDARD_TX_WEIGHT {
        return Err(RpcError::invalid_parameter(format!(
            "Invalid parameter, weight cannot be greater than the maximum standard tx weight of \
             {MAX_STANDARD_TX_WEIGHT}"
        )));
    }
    let weight = u64::try_from(weight).ok();
    match request.inputs.iter_mut().find(|input| input.outpoint == outpoint) {
        Some(input) => input.weight = weight,
        // Whoever weighs a coin has chosen it, as in Core.
        None => request.inputs.push(ChosenInput { outpoint, sequence: None, weight }),
    }
    Ok(())
}

/// Inputs that the user named, with Core's sequence numbers.
pub(super) fn chosen_inputs(value: &Value, lock_time: u32, rbf: bool) -> Result<Vec<ChosenInput>> {
    use bitcoin::Sequence;
    let default = match (rbf, lock_time) {
        (true, _) => Sequence::ENABLE_RBF_NO_LOCKTIME,
        (false, 0) => Sequence::MAX,
        (false, _) => Sequence::ENABLE_LOCKTIME_NO_RBF,
    };
    let mut inputs = Vec::new();
    let entries = if value.is_null() { &[] } else { args::arr_of(value)? };
    for entry in entries {
        args::obj_of(entry)?;
        let outpoint = params::outpoint_of(entry)?;
        let sequence = Some(params::sequence_of(entry, default)?);
        inputs.push(ChosenInput { outpoint, sequence, weight: None });
    }
    let signals = inputs.iter().any(|input| input.sequence.is_some_and(|sequence| sequence.is_rbf()));
    if rbf && !inputs.is_empty() && !signals {
        return Err(RpcError::invalid_parameter(
            "Invalid parameter combination: Sequence number(s) contradict replaceable option",
        ));
    }
    Ok(inputs)
}

/// Weights given with the inputs themselves.
pub(super) fn input_weights(request: &mut SpendRequest, inputs: &Value, options: &Value) -> Result<()> {
    if options.find("input_weights").is_some() {
        return Err(RpcError::invalid_parameter("Input weights should be specified in inputs rather than in options."));
    }
    for entry in inputs.as_arr().unwrap_or_default() {
        if entry.find("weight").is_some() {
            apply_weight(request, entry)?;
        }
    }
    Ok(())
}
