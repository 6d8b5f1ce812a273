//! Arguments of a call: named ones put in their places, types checked, and accessors with Core's error texts.
//!
//! Source: Core's `transformNamedArguments` and `RPCMethod::HandleRequest`.

use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, Txid};

use crate::amount;
use crate::error::RpcError;
use crate::json::{NULL, Value};
use crate::table::Method;

/// The checked, positional arguments of one call.
#[derive(Clone, Debug, Default)]
pub struct Args {
    values: Vec<Value>,
}

impl Args {
    /// From `params` as they came: an array, an object of named arguments, or null.
    ///
    /// Errors: -8 for named arguments that are unknown or doubled, -1 with the help text for a wrong count, -3 for wrong
    /// types.
    pub fn bind(method: &Method, params: Value, help: impl FnOnce() -> String) -> Result<Args, RpcError> {
        let mut values = match params {
            Value::Arr(values) => values,
            Value::Obj(members) => positional(method, members)?,
            _ => Vec::new(),
        };
        if !method.allows_count(values.len()) {
            return Err(RpcError::misc(help()));
        }
        accept_text_for_ours(method, &mut values);
        check_types(method, &values)?;
        Ok(Args { values })
    }

    /// Of values that need no check.
    pub fn from_values(values: Vec<Value>) -> Args {
        Args { values }
    }

    /// How many were given.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value at a position, `Null` if it was left out.
    pub fn get(&self, index: usize) -> &Value {
        self.values.get(index).unwrap_or(&NULL)
    }

    pub fn is_null(&self, index: usize) -> bool {
        self.get(index).is_null()
    }

    pub fn str(&self, index: usize) -> Result<&str, RpcError> {
        str_of(self.get(index))
    }

    pub fn opt_str(&self, index: usize) -> Result<Option<&str>, RpcError> {
        optional(self.get(index), str_of)
    }

    pub fn bool(&self, index: usize) -> Result<bool, RpcError> {
        bool_of(self.get(index))
    }

    pub fn opt_bool(&self, index: usize) -> Result<Option<bool>, RpcError> {
        optional(self.get(index), bool_of)
    }

    pub fn int<T: TryFrom<i64>>(&self, index: usize) -> Result<T, RpcError> {
        int_of(self.get(index))
    }

    pub fn opt_int<T: TryFrom<i64>>(&self, index: usize) -> Result<Option<T>, RpcError> {
        optional(self.get(index), int_of)
    }

    pub fn amount(&self, index: usize) -> Result<Amount, RpcError> {
        amount::from_value(self.get(index))
    }

    pub fn opt_amount(&self, index: usize) -> Result<Option<Amount>, RpcError> {
        optional(self.get(index), amount::from_value)
    }

    pub fn arr(&self, index: usize) -> Result<&[Value], RpcError> {
        arr_of(self.get(index))
    }

    pub fn opt_arr(&self, index: usize) -> Result<Option<&[Value]>, RpcError> {
        optional(self.get(index), arr_of)
    }

    pub fn obj(&self, index: usize) -> Result<&[(String, Value)], RpcError> {
        obj_of(self.get(index))
    }

    /// A transaction id; errors name the argument as Core does.
    pub fn txid(&self, index: usize, name: &str) -> Result<Txid, RpcError> {
        hash_of(self.get(index), name).map(Txid::from_byte_array)
    }

    /// A block hash; errors name the argument as Core does.
    pub fn block_hash(&self, index: usize, name: &str) -> Result<BlockHash, RpcError> {
        hash_of(self.get(index), name).map(BlockHash::from_byte_array)
    }
}

fn optional<'a, T>(
    value: &'a Value,
    read: impl FnOnce(&'a Value) -> Result<T, RpcError>,
) -> Result<Option<T>, RpcError> {
    if value.is_null() { Ok(None) } else { read(value).map(Some) }
}

fn wrong(value: &Value, expected: &str) -> RpcError {
    RpcError::type_error(format!("JSON value of type {} is not of expected type {expected}", value.type_name()))
}

/// A string, or -3.
pub fn str_of(value: &Value) -> Result<&str, RpcError> {
    value.as_str().ok_or_else(|| wrong(value, "string"))
}

/// A boolean, or -3.
pub fn bool_of(value: &Value) -> Result<bool, RpcError> {
    value.as_bool().ok_or_else(|| wrong(value, "bool"))
}

/// A whole number that fits: -3 for another type, -1 out of range.
pub fn int_of<T: TryFrom<i64>>(value: &Value) -> Result<T, RpcError> {
    let text = value.as_num().ok_or_else(|| wrong(value, "number"))?;
    let parsed = text.parse::<i64>().ok().and_then(|number| T::try_from(number).ok());
    parsed.ok_or_else(|| RpcError::misc("JSON integer out of range"))
}

/// An array, or -3.
pub fn arr_of(value: &Value) -> Result<&[Value], RpcError> {
    value.as_arr().ok_or_else(|| wrong(value, "array"))
}

/// An object's members, or -3.
pub fn obj_of(value: &Value) -> Result<&[(String, Value)], RpcError> {
    value.as_obj().ok_or_else(|| wrong(value, "object"))
}

/// A 32-byte hash written as Core writes them (reversed); -8 names the argument.
pub fn hash_of(value: &Value, name: &str) -> Result<[u8; 32], RpcError> {
    let text = str_of(value)?;
    if text.len() != 64 {
        let length = text.len();
        let message = format!("{name} must be of length 64 (not {length}, for '{text}')");
        return Err(RpcError::invalid_parameter(message));
    }
    let not_hex = || RpcError::invalid_parameter(format!("{name} must be hexadecimal string (not '{text}')"));
    let mut bytes = <[u8; 32] as bitcoin::hex::FromHex>::from_hex(text).map_err(|_| not_hex())?;
    bytes.reverse();
    Ok(bytes)
}

/// Bytes in hex; -8 names the argument.
pub fn hex_of(value: &Value, name: &str) -> Result<Vec<u8>, RpcError> {
    let text = value.as_str().unwrap_or_default();
    let not_hex = || RpcError::invalid_parameter(format!("{name} must be hexadecimal string (not '{text}')"));
    if text.is_empty() {
        return Err(not_hex());
    }
    <Vec<u8> as bitcoin::hex::FromHex>::from_hex(text).map_err(|_| not_hex())
}

fn check_types(method: &Method, values: &[Value]) -> Result<(), RpcError> {
    let mut mismatches = Value::obj();
    for (index, arg) in method.args.iter().enumerate() {
        if let Some(reason) = arg.mismatch(values.get(index).unwrap_or(&NULL)) {
            mismatches.push(&format!("Position {} ({})", index + 1, arg.names), reason);
        }
    }
    if mismatches == Value::obj() {
        return Ok(());
    }
    Err(RpcError::type_error(format!("Wrong type passed:\n{}", mismatches.pretty(4))))
}

/// bitcoin-cli does not know our arguments and sends them as strings: read those as the JSON they hold.
fn accept_text_for_ours(method: &Method, values: &mut [Value]) {
    for (arg, value) in method.args.iter().zip(values) {
        if !(method.new || arg.new) || arg.kind.is_text() || arg.unchecked {
            continue;
        }
        if let Some(parsed) = value.as_str().and_then(|text| Value::parse(text).ok()) {
            *value = parsed;
        }
    }
}

/// Puts named arguments in their places. An array called `args` gives the first ones by position.
fn positional(method: &Method, members: Vec<(String, Value)>) -> Result<Vec<Value>, RpcError> {
    let mut given: Vec<(String, Value)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        if given.iter().any(|(known, _)| *known == name) {
            return Err(twice(&name));
        }
        given.push((name, value));
    }
    let mut take = |names: &str| {
        let found = names.split('|').find_map(|name| given.iter().position(|(known, _)| known == name));
        found.map(|at| given.remove(at))
    };
    let mut out: Vec<Value> = Vec::new();
    let mut hole = 0;
    let mut initial_hole = 0;
    let mut first_named: Option<&str> = None;
    for arg in method.args {
        let mut options: Vec<(String, Value)> = Vec::new();
        for member in arg.inner {
            if let Some((name, value)) = take(member.names) {
                if options.iter().any(|(known, _)| *known == name) {
                    return Err(twice(&name));
                }
                options.push((name, value));
            }
        }
        let whole = take(arg.names);
        if let (Some((name, _)), Some((member, _))) = (&whole, options.first()) {
            let message = format!("Parameter {name} conflicts with parameter {member}");
            return Err(RpcError::invalid_parameter(message));
        }
        let value = match whole {
            Some((_, value)) => Some(value),
            None if !options.is_empty() => Some(Value::Obj(options)),
            None => None,
        };
        let Some(value) = value else {
            hole += 1;
            if out.is_empty() {
                initial_hole = hole;
            }
            continue;
        };
        out.extend(std::iter::repeat_n(Value::Null, hole));
        hole = 0;
        first_named.get_or_insert(arg.names);
        out.push(value);
    }
    let args = given.iter().position(|(name, value)| name == "args" && value.as_arr().is_some());
    if let Some((_, Value::Arr(first))) = args.map(|at| given.remove(at)) {
        if let Some(name) = first_named.filter(|_| initial_hole < first.len()) {
            let message = format!("Parameter {name} specified twice both as positional and named argument");
            return Err(RpcError::invalid_parameter(message));
        }
        out = overlaid(first, out);
    }
    if let Some((name, _)) = given.first() {
        return Err(RpcError::invalid_parameter(format!("Unknown named parameter {name}")));
    }
    Ok(out)
}

/// `first`, followed by what `named` has beyond its length.
fn overlaid(mut first: Vec<Value>, named: Vec<Value>) -> Vec<Value> {
    let taken = first.len();
    first.extend(named.into_iter().skip(taken));
    first
}

fn twice(name: &str) -> RpcError {
    RpcError::invalid_parameter(format!("Parameter {name} specified multiple times"))
}

#[cfg(test)]
mod tests;
