//! HTTP/1.0 and 1.1 as Core's server speaks it: one request out of a byte buffer, one response into bytes.
//!
//! Pure: no socket, no clock. Limits: request line and headers 8 KiB together, body 32 MiB. A request that is not
//! well-formed is [`BadRequest::Malformed`] (400), a body above the limit [`BadRequest::TooLarge`] (413); after either
//! the connection closes. Sources: RFC 9112, Core's `httpserver.cpp` and its test `interface_http.py`.

/// Request line and headers together.
pub const MAX_HEADERS_BYTES: usize = 8192;
/// A request's body.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// `GET / HTTP/1.0`
const MIN_REQUEST_LINE: usize = 14;

/// A whole request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// The `x` of HTTP/1.x.
    pub minor: u8,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What cannot be answered but by an error and the end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    Malformed,
    TooLarge,
}

impl Request {
    /// Stands for what could not be read: the response goes out as HTTP/1.1.
    pub fn unread() -> Request {
        Request { minor: 1, ..Request::default() }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn connection_is(&self, word: &str) -> bool {
        self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case(word))
    }

    /// Whether the connection stays open after the response.
    pub fn keeps_alive(&self) -> bool {
        if self.minor == 0 { self.connection_is("keep-alive") } else { !self.connection_is("close") }
    }
}

/// Gathers requests from bytes as they arrive; keeps what it has read of a body, so nothing is scanned twice.
#[derive(Debug, Default)]
pub struct Parser {
    pending: Option<Pending>,
}

/// A request whose body is on its way.
#[derive(Debug)]
struct Pending {
    request: Request,
    stage: Stage,
    /// Bytes of the body that have come.
    received: usize,
    /// Whether they are kept.
    kept: bool,
}

/// Where in a body the parser is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// This many bytes are the body.
    Length(usize),
    ChunkSize,
    /// This much of a chunk is to come.
    Chunk(usize),
    ChunkEnd,
    /// After the last chunk; this many bytes of trailer were read.
    Trailer(usize),
}

impl Parser {
    /// Takes the next request off the front of `buffer`; `None` when it has not all arrived. The body of a request
    /// that is not `admitted` by its head is passed over: a stranger costs no memory.
    pub fn take(
        &mut self,
        buffer: &mut Vec<u8>,
        admitted: impl FnOnce(&Request) -> bool,
    ) -> Result<Option<Request>, BadRequest> {
        let mut reader = Reader { bytes: buffer, at: 0 };
        let complete = self.advance(&mut reader, admitted)?;
        let consumed = reader.at;
        buffer.drain(..consumed);
        Ok(if complete { self.pending.take().map(|pending| pending.request) } else { None })
    }

    fn advance(
        &mut self,
        reader: &mut Reader<'_>,
        admitted: impl FnOnce(&Request) -> bool,
    ) -> Result<bool, BadRequest> {
        if self.pending.is_none() {
            let Some(request) = head(reader)? else {
                reader.at = 0;
                return Ok(false);
            };
            let stage = first_stage(&request)?;
            let kept = admitted(&request);
            self.pending = Some(Pending { request, stage, received: 0, kept });
        }
        let Some(pending) = self.pending.as_mut() else {
            return Ok(false);
        };
        while let Some(next) = step(pending, reader)? {
            match next {
                Step::Done => return Ok(true),
                Step::Next(next) => pending.stage = next,
            }
        }
        Ok(false)
    }
}

enum Step {
    Next(Stage),
    Done,
}

/// One step through a body; `None` when more bytes are needed.
fn step(pending: &mut Pending, reader: &mut Reader<'_>) -> Result<Option<Step>, BadRequest> {
    let stage = pending.stage;
    let next = match stage {
        Stage::Length(length) | Stage::Chunk(length) => {
            let got = reader.take_up_to(length);
            pending.received += got.len();
            if pending.kept {
                pending.request.body.extend_from_slice(got);
            }
            match (stage, length - got.len()) {
                (Stage::Length(_), 0) => Step::Done,
                (_, 0) => Step::Next(Stage::ChunkEnd),
                (_, _) if got.is_empty() => return Ok(None),
                (Stage::Length(_), left) => Step::Next(Stage::Length(left)),
                (_, left) => Step::Next(Stage::Chunk(left)),
            }
        }
        Stage::ChunkSize => {
            let Some(line) = reader.line()? else {
                return Ok(None);
            };
            match chunk_size(line)? {
                0 => Step::Next(Stage::Trailer(0)),
                size if size > MAX_BODY_BYTES - pending.received => return Err(BadRequest::TooLarge),
                size => Step::Next(Stage::Chunk(size)),
            }
        }
        Stage::ChunkEnd => match reader.line()? {
            None => return Ok(None),
            Some([]) => Step::Next(Stage::ChunkSize),
            Some(_) => return Err(BadRequest::Malformed),
        },
        Stage::Trailer(read) => match reader.line()? {
            None => return Ok(None),
            Some([]) => Step::Done,
            Some(line) if read + line.len() > MAX_HEADERS_BYTES => return Err(BadRequest::Malformed),
            Some(line) => Step::Next(Stage::Trailer(read + line.len() + 1)),
        },
    };
    Ok(Some(next))
}

fn first_stage(request: &Request) -> Result<Stage, BadRequest> {
    if request.header("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(Stage::ChunkSize);
    }
    let lengths = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
    let mut lengths = lengths.map(|(_, value)| value.as_str());
    let Some(first) = lengths.next() else {
        return Ok(Stage::Length(0));
    };
    if lengths.any(|other| other != first) || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadRequest::Malformed);
    }
    let length: u64 = first.parse().map_err(|_| BadRequest::Malformed)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY_BYTES);
    length.map(Stage::Length).ok_or(BadRequest::TooLarge)
}

fn head(reader: &mut Reader<'_>) -> Result<Option<Request>, BadRequest> {
    let Some(line) = reader.line()? else {
        return Ok(None);
    };
    let mut request = request_line(line)?;
    loop {
        let Some(line) = reader.line()? else {
            return Ok(None);
        };
        if reader.at > MAX_HEADERS_BYTES {
            return Err(BadRequest::Malformed);
        }
        if line.is_empty() {
            return Ok(Some(request));
        }
        request.headers.push(header_line(line)?);
    }
}

fn request_line(line: &[u8]) -> Result<Request, BadRequest> {
    let text = std::str::from_utf8(line).map_err(|_| BadRequest::Malformed)?;
    if text.len() < MIN_REQUEST_LINE || text.contains('\0') {
        return Err(BadRequest::Malformed);
    }
    let parts: Vec<&str> = text.split(' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(BadRequest::Malformed);
    };
    let minor = match version.strip_prefix("HTTP/1.").map(str::as_bytes) {
        Some([digit @ b'0'..=b'9']) => digit - b'0',
        _ => return Err(BadRequest::Malformed),
    };
    Ok(Request { method: method.to_owned(), target: target.to_owned(), minor, ..Request::default() })
}

fn header_line(line: &[u8]) -> Result<(String, String), BadRequest> {
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(BadRequest::Malformed);
    }
    let text = String::from_utf8_lossy(line);
    let (name, value) = text.split_once(':').ok_or(BadRequest::Malformed)?;
    if name.is_empty() || name.contains(|c: char| c.is_ascii_whitespace() || c == '\x0b') {
        return Err(BadRequest::Malformed);
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn chunk_size(line: &[u8]) -> Result<usize, BadRequest> {
    let text = std::str::from_utf8(line).map_err(|_| BadRequest::Malformed)?;
    let digits = text.split(';').next().unwrap_or_default().trim();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BadRequest::Malformed);
    }
    let size = u64::from_str_radix(digits, 16).map_err(|_| BadRequest::Malformed)?;
    usize::try_from(size).map_err(|_| BadRequest::TooLarge)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next line without its end; `None` if the end has not arrived, an error if the line is too long.
    fn line(&mut self) -> Result<Option<&'a [u8]>, BadRequest> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(end) = rest.iter().take(MAX_HEADERS_BYTES + 1).position(|byte| *byte == b'\n') else {
            return if rest.len() > MAX_HEADERS_BYTES { Err(BadRequest::Malformed) } else { Ok(None) };
        };
        self.at += end + 1;
        let line = rest.get(..end).unwrap_or_default();
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    fn take_up_to(&mut self, length: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).unwrap_or(rest);
        self.at += taken.len();
        taken
    }
}

/// What is sent back.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Ask for a user and a password.
    pub challenge: bool,
    /// Empty for Core's default, which stands at another place among the headers.
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    /// A status without a body.
    pub fn empty(status: u16) -> Response {
        Response::text(status, "")
    }

    /// A status with a line of text.
    pub fn text(status: u16, body: &str) -> Response {
        Response { status, challenge: false, content_type: "", body: body.as_bytes().to_vec() }
    }

    /// 401.
    pub fn unauthorized() -> Response {
        Response { challenge: true, ..Response::empty(401) }
    }

    /// JSON on one line, with a newline after it.
    pub fn json(status: u16, mut body: String) -> Response {
        body.push('\n');
        Response { status, challenge: false, content_type: "application/json", body: body.into_bytes() }
    }

    /// Plain text.
    pub fn plain(body: String) -> Response {
        Response { status: 200, challenge: false, content_type: "text/plain", body: body.into_bytes() }
    }

    /// Bytes.
    pub fn bytes(body: Vec<u8>) -> Response {
        Response { status: 200, challenge: false, content_type: "application/octet-stream", body }
    }

    /// The bytes on the wire, in answer to `request`; `date` as RFC 9110 writes it.
    pub fn encode(&self, request: &Request, date: &str) -> Vec<u8> {
        let mut head = format!("HTTP/1.{} {} {}\r\n", request.minor, self.status, reason(self.status));
        let mut header = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        let has_body = self.status != 204;
        if self.challenge {
            header("WWW-Authenticate", "Basic realm=\"jsonrpc\"");
        }
        if !self.content_type.is_empty() {
            header("Content-Type", self.content_type);
        }
        if request.minor == 0 && request.keeps_alive() {
            header("Connection", "keep-alive");
        }
        if request.minor > 0 {
            header("Date", date);
        }
        if has_body && (request.minor > 0 || request.keeps_alive()) {
            header("Content-Length", &self.body.len().to_string());
        }
        if has_body && self.content_type.is_empty() {
            header("Content-Type", "text/html; charset=ISO-8859-1");
        }
        if request.connection_is("close") {
            header("Connection", "close");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if has_body {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content too large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
