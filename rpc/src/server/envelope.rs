//! JSON-RPC envelopes: requests out of JSON, replies into text, as Core forms them in versions 1.0, 1.1 and 2.0.
//!
//! Pure. A reply in the legacy form has both `result` and `error`; 2.0 has one of them and `jsonrpc` first. Source:
//! Core's `rpc/request.cpp`.

use crate::code;
use crate::error::RpcError;
use crate::json::Value;

/// Which form a request and its reply have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 1.0, 1.1, or none said.
    #[default]
    Legacy,
    V2,
}

/// What is known of a request while it is read; a batch reads one after another into the same place, as Core does,
/// so what cannot be read keeps the id of the one before.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub version: Version,
    /// `None` when the request had no id at all.
    pub id: Option<Value>,
    pub method: String,
    /// An array or an object.
    pub params: Value,
}

impl Default for Envelope {
    fn default() -> Envelope {
        Envelope {
            version: Version::Legacy,
            id: Some(Value::Null),
            method: String::new(),
            params: Value::Arr(Vec::new()),
        }
    }
}

impl Envelope {
    /// Reads the next request.
    pub fn read(&mut self, request: Value) -> Result<(), RpcError> {
        let invalid = |text: &str| RpcError::new(code::RPC_INVALID_REQUEST, text);
        let Value::Obj(members) = request else {
            return Err(invalid("Invalid Request object"));
        };
        let (mut id, mut version, mut method, mut params) = (None, None, None, None);
        for (name, value) in members {
            let slot = match name.as_str() {
                "id" => &mut id,
                "jsonrpc" => &mut version,
                "method" => &mut method,
                "params" => &mut params,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        self.id = id;
        self.version = match version.unwrap_or_default() {
            Value::Null => Version::Legacy,
            Value::Str(text) if text == "1.0" => Version::Legacy,
            Value::Str(text) if text == "2.0" => Version::V2,
            other => {
                self.version = Version::Legacy;
                let known_type = other.as_str().is_some();
                let text = if known_type { "JSON-RPC version not supported" } else { "jsonrpc field must be a string" };
                return Err(invalid(text));
            }
        };
        self.method = match method.unwrap_or_default() {
            Value::Str(method) => method,
            Value::Null => return Err(invalid("Missing method")),
            _ => return Err(invalid("Method must be a string")),
        };
        self.params = match params.unwrap_or_default() {
            params @ (Value::Arr(_) | Value::Obj(_)) => params,
            Value::Null => Value::Arr(Vec::new()),
            _ => return Err(invalid("Params must be an array or object")),
        };
        Ok(())
    }

    /// Whether no reply is wanted.
    pub fn is_notification(&self) -> bool {
        self.id.is_none() && self.version == Version::V2
    }

    /// The reply, on one line. The result is JSON text.
    pub fn reply(&self, outcome: Result<&str, &RpcError>) -> String {
        let mut out = String::with_capacity(64 + outcome.map_or(64, str::len));
        let legacy = self.version == Version::Legacy;
        out.push_str(if legacy { "{" } else { "{\"jsonrpc\":\"2.0\"," });
        match outcome {
            Ok(result) => {
                out.push_str("\"result\":");
                out.push_str(result);
                out.push_str(if legacy { ",\"error\":null" } else { "" });
            }
            Err(error) => {
                out.push_str(if legacy { "\"result\":null," } else { "" });
                out.push_str("\"error\":");
                out.push_str(&error.to_value().compact());
            }
        }
        if let Some(id) = &self.id {
            out.push_str(",\"id\":");
            out.push_str(&id.compact());
        }
        out.push('}');
        out
    }
}

/// The HTTP status of an error outside a batch, in the legacy form.
pub fn legacy_status(error: &RpcError) -> u16 {
    match error.code {
        code::RPC_INVALID_REQUEST => 400,
        code::RPC_METHOD_NOT_FOUND => 404,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> (Envelope, Result<(), RpcError>) {
        let mut envelope = Envelope::default();
        let outcome = envelope.read(Value::parse(text).unwrap());
        (envelope, outcome)
    }

    #[test]
    fn replies_have_cores_keys_in_cores_order() {
        let error = RpcError::misc("x");
        for (request, ok, failed) in [
            (
                r#"{"method":"m","id":1}"#,
                r#"{"result":5,"error":null,"id":1}"#,
                r#"{"result":null,"error":{"code":-1,"message":"x"},"id":1}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","id":"a"}"#,
                r#"{"jsonrpc":"2.0","result":5,"id":"a"}"#,
                r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"x"},"id":"a"}"#,
            ),
            (
                r#"{"jsonrpc":"1.0","method":"m"}"#,
                r#"{"result":5,"error":null}"#,
                r#"{"result":null,"error":{"code":-1,"message":"x"}}"#,
            ),
            (
                r#"{"version":"1.1","method":"m","id":{"a":[1.50]}}"#,
                r#"{"result":5,"error":null,"id":{"a":[1.50]}}"#,
                r#"{"result":null,"error":{"code":-1,"message":"x"},"id":{"a":[1.50]}}"#,
            ),
        ] {
            let (envelope, outcome) = read(request);
            outcome.unwrap();
            assert_eq!(envelope.reply(Ok("5")), ok);
            assert_eq!(envelope.reply(Err(&error)), failed);
        }
    }

    #[test]
    fn only_2_0_without_an_id_is_a_notification() {
        for (request, notification) in [
            (r#"{"jsonrpc":"2.0","method":"m"}"#, true),
            (r#"{"jsonrpc":"2.0","method":"m","id":null}"#, false),
            (r#"{"method":"m"}"#, false),
        ] {
            assert_eq!(read(request).0.is_notification(), notification, "{request}");
        }
    }

    #[test]
    fn invalid_requests_are_told_why() {
        for (request, text) in [
            ("1", "Invalid Request object"),
            ("{}", "Missing method"),
            (r#"{"method":1}"#, "Method must be a string"),
            (r#"{"method":"m","params":"x"}"#, "Params must be an array or object"),
            (r#"{"method":"m","jsonrpc":2}"#, "jsonrpc field must be a string"),
            (r#"{"method":"m","jsonrpc":"2.1"}"#, "JSON-RPC version not supported"),
        ] {
            let error = read(request).1.unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (code::RPC_INVALID_REQUEST, text));
            assert_eq!(legacy_status(&error), 400);
        }
    }
}
