#![allow(clippy::unwrap_used)]
use super::*;

fn take(text: &str) -> Result<Option<Request>, BadRequest> {
    Parser::default().take(&mut text.as_bytes().to_vec(), |_| true)
}

#[test]
fn a_request_is_taken_when_it_has_all_arrived() {
    let whole = "POST /wallet/a HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabcPOST";
    for cut in 0..whole.len() - 4 {
        assert_eq!(take(&whole[..cut]).unwrap(), None, "{cut}");
    }
    let mut buffer = whole.as_bytes().to_vec();
    let request = Parser::default().take(&mut buffer, |_| true).unwrap().unwrap();
    assert_eq!((request.target.as_str(), request.body.as_slice()), ("/wallet/a", b"abc".as_slice()));
    assert_eq!(request.header("HOST"), Some("x"));
    assert_eq!(buffer, b"POST");
}

#[test]
fn chunks_are_joined_and_win_over_a_length() {
    let text = "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: Chunked\r\n\r\n\
                3;x=y\r\nabc\r\n02\r\nde\r\n0\r\nTrailer: t\r\n\r\n";
    assert_eq!(take(text).unwrap().unwrap().body, b"abcde");
    let (mut parser, mut buffer) = (Parser::default(), Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        buffer.push(byte);
        let taken = parser.take(&mut buffer, |_| true).unwrap();
        assert_eq!(taken.is_some(), at + 1 == text.len(), "{at}");
    }
}

#[test]
fn what_is_malformed_is_refused() {
    for text in [
        "GET / \r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.10\r\n\r\n",
        "GET / HTTP/INVALID\r\n\r\n",
        "GET / NOTHTTP/1.1\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
        "GET / HTTP/1.1\r\n: b\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    ] {
        assert_eq!(take(text), Err(BadRequest::Malformed), "{text:?}");
    }
}

#[test]
fn limits_hold() {
    assert_eq!(take(&format!("GET /{} HTTP/1.1", "x".repeat(MAX_HEADERS_BYTES))), Err(BadRequest::Malformed));
    let many = "a: b\r\n".repeat(MAX_HEADERS_BYTES / 6 + 1);
    assert_eq!(take(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(BadRequest::Malformed));
    let large = MAX_BODY_BYTES + 1;
    assert_eq!(take(&format!("POST / HTTP/1.1\r\nContent-Length: {large}\r\n\r\n")), Err(BadRequest::TooLarge));
    let chunk = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{large:x}\r\n");
    assert_eq!(take(&chunk), Err(BadRequest::TooLarge));
}

#[test]
fn persistence_follows_version_and_header() {
    for (head, keeps) in [
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(take(head).unwrap().unwrap().keeps_alive(), keeps, "{head:?}");
    }
}

#[test]
fn a_json_response_has_exactly_cores_headers() {
    let request = take("POST / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap().unwrap();
    let bytes = Response::json(200, "{}".into()).encode(&request, "now");
    let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: now\r\nContent-Length: 3\r\n\
                    Connection: close\r\n\r\n{}\n";
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

#[test]
fn no_content_has_no_body_and_no_length() {
    let request = take("POST / HTTP/1.1\r\n\r\n").unwrap().unwrap();
    let text = String::from_utf8(Response::empty(204).encode(&request, "now")).unwrap();
    assert_eq!(text, "HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n");
}

#[test]
fn the_body_of_a_stranger_is_passed_over() {
    let mut buffer = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET".to_vec();
    let request = Parser::default().take(&mut buffer, |_| false).unwrap().unwrap();
    assert!(request.body.is_empty());
    assert_eq!(buffer, b"GET");
}
