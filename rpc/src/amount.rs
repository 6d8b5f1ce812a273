//! Money in JSON: the one place that reads and writes it.
//!
//! Written as a number with exactly eight decimals; read from a number or a string, digit by digit, never through a
//! float. Source: Core's `AmountFromValue`, `ValueFromAmount` and `ParseFixedPoint`.

use bitcoin::{Amount, FeeRate, SignedAmount};

use crate::error::RpcError;
use crate::json::Value;

/// Decimals of a coin.
pub const COIN_DECIMALS: u32 = 8;
/// Decimals of a fee rate in sat/vB.
pub const FEE_RATE_DECIMALS: u32 = 3;

const COIN: u64 = 100_000_000;
/// Core's bound while it gathers digits.
const UPPER_BOUND: i64 = 1_000_000_000_000_000_000 - 1;

/// `50.00000000`
pub fn to_value(amount: Amount) -> Value {
    let sat = amount.to_sat();
    Value::Num(format!("{}.{:08}", sat / COIN, sat % COIN))
}

/// `-0.10000000`
pub fn signed_to_value(amount: SignedAmount) -> Value {
    let sat = amount.to_sat();
    let magnitude = sat.unsigned_abs();
    let sign = if sat < 0 { "-" } else { "" };
    Value::Num(format!("{sign}{}.{:08}", magnitude / COIN, magnitude % COIN))
}

/// An amount in coins, from a number or a string. Errors are -3 with Core's texts.
pub fn from_value(value: &Value) -> Result<Amount, RpcError> {
    fixed_from_value(value, COIN_DECIMALS).map(Amount::from_sat)
}

/// A fee rate in sat/vB with up to three decimals (the `fee_rate` arguments), in sat/kvB.
pub fn fee_rate_sat_per_kvb(value: &Value) -> Result<u64, RpcError> {
    fixed_from_value(value, FEE_RATE_DECIMALS)
}

/// A fee rate in BTC/kvB (the `feeRate` and `maxfeerate` arguments), in sat/kvB; one coin or more is refused.
pub fn btc_per_kvb(value: &Value) -> Result<u64, RpcError> {
    let rate = fixed_from_value(value, COIN_DECIMALS)?;
    if rate >= COIN {
        return Err(RpcError::invalid_parameter("Fee rates larger than or equal to 1BTC/kvB are not accepted"));
    }
    Ok(rate)
}

/// A rate in sat/kvB as the `bitcoin` crate's type, rounded up.
pub fn fee_rate(sat_per_kvb: u64) -> FeeRate {
    FeeRate::from_sat_per_kwu(sat_per_kvb.div_ceil(4))
}

fn fixed_from_value(value: &Value, decimals: u32) -> Result<u64, RpcError> {
    let (Value::Num(text) | Value::Str(text)) = value else {
        return Err(RpcError::type_error("Amount is not a number or string"));
    };
    let amount = parse_fixed(text, decimals).ok_or_else(|| RpcError::type_error("Invalid amount"))?;
    match u64::try_from(amount) {
        Ok(sat) if sat <= Amount::MAX_MONEY.to_sat() => Ok(sat),
        _ => Err(RpcError::type_error("Amount out of range")),
    }
}

/// Parses a decimal number (JSON's grammar) as a count of `10^-decimals`; `None` if malformed or not representable.
pub fn parse_fixed(text: &str, decimals: u32) -> Option<i64> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (number, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (rest.get(..at)?, parse_exponent(rest.get(at + 1..)?)?),
        None => (rest, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let well_formed = is_digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(is_digits);
    if !well_formed {
        return None;
    }
    let mut mantissa: i64 = 0;
    let mut trailing_zeros: i64 = 0;
    let whole = if whole == "0" { "" } else { whole };
    for digit in whole.bytes().chain(fraction.unwrap_or_default().bytes()) {
        if digit == b'0' {
            trailing_zeros += 1;
            continue;
        }
        for _ in 0..=trailing_zeros {
            if mantissa > UPPER_BOUND / 10 {
                return None;
            }
            mantissa *= 10;
        }
        mantissa += i64::from(digit - b'0');
        trailing_zeros = 0;
    }
    let places = i64::try_from(fraction.map_or(0, str::len)).ok()?;
    let shift = exponent.checked_sub(places)?.checked_add(trailing_zeros)?.checked_add(i64::from(decimals))?;
    if !(0..18).contains(&shift) {
        return None;
    }
    for _ in 0..shift {
        if mantissa > UPPER_BOUND / 10 {
            return None;
        }
        mantissa *= 10;
    }
    Some(if negative { -mantissa } else { mantissa })
}

fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !is_digits(digits) {
        return None;
    }
    let magnitude: i64 = digits.parse().ok().filter(|value| *value <= UPPER_BOUND)?;
    Some(if negative { -magnitude } else { magnitude })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn error(value: Value) -> String {
        from_value(&value).unwrap_err().message
    }

    #[test]
    fn amounts_have_eight_decimals() {
        assert_eq!(to_value(Amount::ZERO).compact(), "0.00000000");
        assert_eq!(to_value(Amount::from_sat(5_000_000_000)).compact(), "50.00000000");
        assert_eq!(signed_to_value(SignedAmount::from_sat(-10_000_000)).compact(), "-0.10000000");
    }

    #[test]
    fn texts_of_bad_amounts_are_cores() {
        assert_eq!(error(Value::Bool(true)), "Amount is not a number or string");
        for text in ["", "abc", "1.", ".1", "0.000000001", "1e-9", "01", "+1", "1 ", "1e", "999999999999999999999"] {
            assert_eq!(error(Value::from(text)), "Invalid amount", "{text}");
        }
        for text in ["-1", "21000000.00000001", "-0.00000001"] {
            assert_eq!(error(Value::from(text)), "Amount out of range", "{text}");
        }
    }

    #[test]
    fn exponents_and_trailing_zeros_are_read() {
        for (text, sat) in [("1e-8", 1), ("0.10000000000", 10_000_000), ("2E1", 2_000_000_000), ("0", 0), ("-0", 0)] {
            assert_eq!(from_value(&Value::Num(text.into())).unwrap().to_sat(), sat, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_survives_a_round_trip(sat in 0..=Amount::MAX_MONEY.to_sat()) {
            let amount = Amount::from_sat(sat);
            prop_assert_eq!(from_value(&to_value(amount)).unwrap(), amount);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_fixed(&text, 8);
        }
    }
}
