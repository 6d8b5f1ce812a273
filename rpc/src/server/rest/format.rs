//! Formats of answers, and what stands behind a path's question mark.

use bitcoin::hex::FromHex;

use super::hex_line;
use crate::server::connection::url_decode;
use crate::server::http1::Response;

/// `.bin`, `.hex`, `.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Bin,
    Hex,
    Json,
}

impl Format {
    /// A path without its ending, and what that stands for.
    pub fn split(path: &str) -> (&str, Option<Format>) {
        for (name, format) in [(".bin", Format::Bin), (".hex", Format::Hex), (".json", Format::Json)] {
            if let Some(bare) = path.strip_suffix(name) {
                return (bare, Some(format));
            }
        }
        (path, None)
    }
}

/// A refusal, with Core's line end.
pub fn fail(status: u16, text: impl Into<String>) -> Response {
    Response { content_type: "text/plain", ..Response::text(status, &(text.into() + "\r\n")) }
}

/// Bytes, as they are or in hex.
pub fn reply(format: Option<Format>, bytes: Vec<u8>) -> Result<Response, Response> {
    match format {
        Some(Format::Bin) => Ok(Response::bytes(bytes)),
        Some(Format::Hex) => Ok(Response::plain(hex_line(&bytes))),
        _ => Err(fail(404, "output format not found (available: .bin, .hex, .json)")),
    }
}

/// Hashes as Core prints them, joined as they are hashed.
pub fn join_hex<'a>(hashes: impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut joined = Vec::new();
    for hash in hashes {
        joined.extend(Vec::from_hex(hash).ok()?.into_iter().rev());
    }
    Some(joined)
}

/// `name=value&name=value`.
#[derive(Debug, Default)]
pub struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    pub fn new(text: &'a str) -> Self {
        Self(Some(text))
    }

    /// The first value of a name; both may be percent-encoded.
    pub fn get(&self, name: &str) -> Option<String> {
        let pairs = self.0?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| url_decode(key) == name).map(|(_, value)| url_decode(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_and_queries_are_read() {
        assert_eq!(Format::split("tx/aa.json"), ("tx/aa", Some(Format::Json)));
        assert_eq!(Format::split("tx/aa"), ("tx/aa", None));
        let query = Query::new("count=5&verbose=true");
        assert_eq!(query.get("verbose").as_deref(), Some("true"));
        assert_eq!(Query::new("co%75nt=%32").get("count").as_deref(), Some("2"));
        assert_eq!(query.get("other"), None);
        assert_eq!(Query::new("%XY").get("a"), None);
    }
}
