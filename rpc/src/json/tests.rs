#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn doubles_are_written_as_core_writes_them() {
    for (value, text) in [
        (1.0, "1"),
        (0.0, "0"),
        (0.5, "0.5"),
        (4.656_542_373_906_925e-10, "4.656542373906925e-10"),
        (0.000_01, "1e-05"),
        (0.0001, "0.0001"),
        (1e16, "1e+16"),
        (123_456_789.123, "123456789.123"),
        (-2.5, "-2.5"),
    ] {
        assert_eq!(Value::double(value).compact(), text);
    }
}

#[test]
fn numbers_and_key_order_survive_a_round_trip() {
    let text = r#"{"z":1.10000000,"a":[-0,1e5,"\u00e9\ud83d\ude00\n"],"z":null,"t":true}"#;
    let value = Value::parse(text).unwrap();
    assert_eq!(value.compact(), "{\"z\":1.10000000,\"a\":[-0,1e5,\"é😀\\n\"],\"z\":null,\"t\":true}");
}

#[test]
fn pretty_is_indented_as_bitcoin_cli_prints() {
    let value = Value::obj().with("a", 1).with("b", Value::arr([1, 2])).with("c", Value::obj());
    assert_eq!(value.pretty(2), "{\n  \"a\": 1,\n  \"b\": [\n    1,\n    2\n  ],\n  \"c\": {\n  }\n}");
}

#[test]
fn malformed_text_is_refused() {
    for text in
        ["", "{", "[1,]", "{\"a\"}", "01", "1.", "-", "nul", "\"\u{1}\"", "\"\\ud800\"", "1 2", "\"\\x\"", "[1}"]
    {
        assert!(Value::parse(text).is_err(), "{text}");
    }
    assert!(Value::parse(&"[".repeat(100_000)).is_err());
}

#[test]
fn control_characters_are_escaped() {
    assert_eq!(Value::from("\u{1}\u{7f}\"\\\u{c}").compact(), "\"\\u0001\\u007f\\\"\\\\\\f\"");
}

#[test]
fn as_many_arrays_and_objects_lie_in_each_other_as_core_allows() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
    for inner in ["", "1", "\"x\""] {
        assert!(Value::parse(&nested(512, inner)).is_ok());
        assert!(Value::parse(&nested(513, inner)).is_err());
    }
    assert!(Value::parse(&nested(511, "{\"a\":1}")).is_ok());
    assert!(Value::parse(&nested(512, "{}")).is_err());
    assert!(Value::parse(&"[".repeat(1 << 20)).is_err());
}
