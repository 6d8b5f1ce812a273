//! The writer: Core's escapes, Core's indentation, Core's doubles.

use std::fmt::Write as _;

use super::Value;

/// Significant digits of a double in Core's output.
const DOUBLE_DIGITS: i32 = 16;

pub(super) fn compact(value: &Value, out: &mut String) {
    match value {
        Value::Arr(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                compact(item, out);
            }
            out.push(']');
        }
        Value::Obj(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                string(key, out);
                out.push(':');
                compact(member, out);
            }
            out.push('}');
        }
        scalar => write_scalar(scalar, out),
    }
}

pub(super) fn pretty(value: &Value, indent: usize, level: usize, out: &mut String) {
    match value {
        Value::Arr(items) => {
            out.push_str("[\n");
            for (index, item) in items.iter().enumerate() {
                spaces(indent * level, out);
                pretty(item, indent, level + 1, out);
                out.push_str(if index + 1 == items.len() { "\n" } else { ",\n" });
            }
            spaces(indent * (level - 1), out);
            out.push(']');
        }
        Value::Obj(members) => {
            out.push_str("{\n");
            for (index, (key, member)) in members.iter().enumerate() {
                spaces(indent * level, out);
                string(key, out);
                out.push_str(": ");
                pretty(member, indent, level + 1, out);
                out.push_str(if index + 1 == members.len() { "\n" } else { ",\n" });
            }
            spaces(indent * (level - 1), out);
            out.push('}');
        }
        scalar => write_scalar(scalar, out),
    }
}

fn write_scalar(value: &Value, out: &mut String) {
    match value {
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Num(text) | Value::Raw(text) => out.push_str(text),
        Value::Str(text) => string(text, out),
        Value::Null | Value::Arr(_) | Value::Obj(_) => out.push_str("null"),
    }
}

fn spaces(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..'\u{20}' | '\u{7f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// C's `%.16g`: sixteen significant digits, no trailing zeros, an exponent below 1e-4 and from 1e16 on.
pub(super) fn format_double(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value.is_sign_negative() && value == 0.0 { "-0".to_owned() } else { "0".to_owned() };
    }
    let scientific = format!("{value:.15e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..DOUBLE_DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DOUBLE_DIGITS - 1 - exponent).unwrap_or(0);
        return trim_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}
