//! Members of the options objects, which may also be given as named arguments.

use crate::table::{Arg, Kind};

const fn flag(name: &'static str) -> Arg {
    Arg::opt(name, Kind::Bool)
}

const fn num(name: &'static str) -> Arg {
    Arg::opt(name, Kind::Num)
}

const fn text(name: &'static str) -> Arg {
    Arg::opt(name, Kind::Str)
}

const fn amount(name: &'static str) -> Arg {
    Arg::opt(name, Kind::Amount)
}

const fn list(name: &'static str) -> Arg {
    Arg::opt(name, Kind::Arr)
}

pub(super) const LISTUNSPENT: &[Arg] = &[
    amount("minimumAmount"),
    amount("maximumAmount"),
    num("maximumCount"),
    amount("minimumSumAmount"),
    flag("include_immature_coinbase"),
];

pub(super) const SIMULATE: &[Arg] = &[flag("include_watchonly")];

pub(super) const GETHDKEYS: &[Arg] = &[flag("active_only"), flag("private")];

pub(super) const CREATEWALLETDESCRIPTOR: &[Arg] = &[flag("internal"), text("hdkey")];

pub(super) const FUNDRAWTRANSACTION: &[Arg] = &[
    flag("add_inputs"),
    flag("include_unsafe"),
    num("minconf"),
    num("maxconf"),
    text("changeAddress"),
    num("changePosition"),
    text("change_type"),
    flag("includeWatching"),
    flag("lockUnspents"),
    amount("fee_rate"),
    amount("feeRate"),
    list("subtractFeeFromOutputs"),
    list("input_weights"),
    num("max_tx_weight"),
    num("conf_target"),
    text("estimate_mode"),
    flag("replaceable"),
    Arg::opt("solving_data", Kind::Obj),
];

pub(super) const WALLETCREATEFUNDEDPSBT: &[Arg] = &[
    flag("add_inputs"),
    flag("include_unsafe"),
    num("minconf"),
    num("maxconf"),
    text("changeAddress"),
    num("changePosition"),
    text("change_type"),
    flag("includeWatching"),
    flag("lockUnspents"),
    amount("fee_rate"),
    amount("feeRate"),
    list("subtractFeeFromOutputs"),
    num("max_tx_weight"),
    num("conf_target"),
    text("estimate_mode"),
    flag("replaceable"),
    Arg::opt("solving_data", Kind::Obj),
];

pub(super) const SEND: &[Arg] = &[
    flag("add_inputs"),
    flag("include_unsafe"),
    num("minconf"),
    num("maxconf"),
    flag("add_to_wallet"),
    text("change_address"),
    num("change_position"),
    text("change_type"),
    amount("fee_rate"),
    flag("include_watching"),
    list("inputs"),
    num("locktime"),
    flag("lock_unspents"),
    flag("psbt"),
    list("subtract_fee_from_outputs"),
    num("max_tx_weight"),
    num("conf_target"),
    text("estimate_mode"),
    flag("replaceable"),
    Arg::opt("solving_data", Kind::Obj),
];

pub(super) const SENDALL: &[Arg] = &[
    flag("add_to_wallet"),
    amount("fee_rate"),
    flag("include_watching"),
    list("inputs"),
    num("locktime"),
    flag("lock_unspents"),
    flag("psbt"),
    flag("send_max"),
    num("minconf"),
    num("maxconf"),
    num("version"),
    num("conf_target"),
    text("estimate_mode"),
    flag("replaceable"),
    Arg::opt("solving_data", Kind::Obj),
];

pub(super) const BUMPFEE: &[Arg] = &[
    num("conf_target"),
    amount("fee_rate"),
    flag("replaceable"),
    text("estimate_mode"),
    list("outputs").unchecked(),
    num("original_change_index"),
];

pub(super) const PSBTBUMPFEE: &[Arg] = &[
    num("conf_target"),
    amount("fee_rate"),
    flag("replaceable"),
    text("estimate_mode"),
    list("outputs").unchecked(),
    num("original_change_index"),
    num("psbt_version"),
];
