//! Words of the command line as JSON parameters, by the method table.
//!
//! Source: Core's `RPCConvertValues` and `RPCConvertNamedValues`.

use super::CliError;
use crate::json::Value;
use crate::methods;
use crate::table::{Format, Method};

fn method(name: &str) -> Option<&'static Method> {
    methods::all(true).find(|method| method.name == name)
}

fn by_position(method: Option<&Method>, position: usize) -> Option<Format> {
    method?.args.get(position)?.format()
}

fn by_name(method: Option<&Method>, name: &str) -> Option<Format> {
    let args = method?.args.iter().flat_map(|arg| std::iter::once(arg).chain(arg.inner));
    args.filter(|arg| arg.names.split('|').any(|known| known == name)).find_map(|arg| arg.format())
}

fn value(format: Option<Format>, word: &str) -> Result<Value, CliError> {
    match format {
        None | Some(Format::Text) => Ok(word.into()),
        Some(Format::Either) => Ok(Value::parse(word).unwrap_or_else(|_| word.into())),
        Some(Format::Json) => Value::parse(word).map_err(|_| CliError::other(format!("Error parsing JSON: {word}"))),
    }
}

/// Every word in its place.
pub fn positional(name: &str, words: &[String]) -> Result<Value, CliError> {
    let method = method(name);
    let converted = words.iter().enumerate().map(|(at, word)| value(by_position(method, at), word));
    converted.collect::<Result<Vec<Value>, CliError>>().map(Value::Arr)
}

/// `name=value` words by name, the others by position in `args`. A word whose name is unknown stays whole where the
/// next place takes text, or takes JSON and the word is JSON.
pub fn named(name: &str, words: &[String]) -> Result<Value, CliError> {
    let method = method(name);
    let mut members: Vec<(String, Value)> = Vec::new();
    let mut places: Vec<Value> = Vec::new();
    for word in words {
        let next = by_position(method, places.len());
        let Some((key, text)) = word.split_once('=') else {
            places.push(value(next, word)?);
            continue;
        };
        let format = by_name(method, key);
        if format.is_none() {
            match next {
                Some(Format::Text) => {
                    places.push(word.as_str().into());
                    continue;
                }
                Some(Format::Json) => {
                    if let Ok(parsed) = Value::parse(word) {
                        places.push(parsed);
                        continue;
                    }
                }
                _ => {}
            }
        }
        let converted = value(format, text)?;
        match members.iter_mut().find(|(known, _)| known == key) {
            Some((_, earlier)) => *earlier = converted,
            None => members.push((key.to_owned(), converted)),
        }
    }
    if !places.is_empty() {
        members.push(("args".to_owned(), Value::Arr(places)));
    }
    Ok(Value::Obj(members))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_become_what_the_table_says() {
        for (method, given, json) in [
            ("getblockhash", &["0"][..], "[0]"),
            ("getblock", &["00ff", "2"], r#"["00ff",2]"#),
            ("getblockstats", &["00ff", "[\"fee\"]"], r#"["00ff",["fee"]]"#),
            ("echo", &["0", "null"], r#"["0","null"]"#),
            ("echojson", &["0", "{\"a\":1.50}"], r#"[0,{"a":1.50}]"#),
            ("unknown", &["1"], r#"["1"]"#),
        ] {
            assert_eq!(positional(method, &words(given)).unwrap().compact(), json);
        }
        let error = positional("getblockhash", &words(&["x"])).unwrap_err();
        assert_eq!(error, CliError::other("Error parsing JSON: x"));
    }

    #[test]
    fn named_words_are_told_from_values_with_an_equals_sign() {
        for (method, given, json) in [
            ("echojson", &[r#"["key=value"]"#, "42"][..], r#"{"args":[["key=value"],42]}"#),
            ("echojson", &[r#"arg0=["data=test"]"#, "arg1=42"], r#"{"arg0":["data=test"],"arg1":42}"#),
            ("echo", &["arg0=0", "arg1=1", "arg1=3"], r#"{"arg0":"0","arg1":"3"}"#),
            ("echo", &["args=[0]", "4"], r#"{"args":"[0]","args":["4"]}"#),
            ("decodepsbt", &["cHNidP8="], r#"{"args":["cHNidP8="]}"#),
            ("getblock", &["blockhash=00", "verbose=true"], r#"{"blockhash":"00","verbose":true}"#),
        ] {
            assert_eq!(named(method, &words(given)).unwrap().compact(), json);
        }
    }
}
