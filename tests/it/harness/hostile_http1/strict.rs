//! A reader of requests that forgives nothing: what the upstream gets must be readable in one way only.

/// A request that can be read in one way.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Where it ends in the bytes it was read from.
    pub end: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is well formed so far, and its end has not come.
    Unfinished,
    Malformed(String),
}

/// Names and values. Names are in lower case: that is how the sidecar writes them.
pub type Fields = Vec<(String, String)>;

pub(super) fn malformed<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(why.into()))
}

/// The values that the sidecar must have set.
pub struct Credentials {
    pub authorization: String,
    pub organization: String,
    pub host: String,
}

impl Request {
    /// Reads the first request in `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut lines = Lines { bytes, at: 0 };
        let line = lines.next()?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1"), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return malformed(format!("request line {line:?}"));
        };
        if method.is_empty() || !method.bytes().all(is_token_byte) {
            return malformed(format!("method {method:?}"));
        }
        let is_origin_form = target.starts_with('/') && target.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#');
        if !is_origin_form && (method, target) != ("OPTIONS", "*") {
            return malformed(format!("target {target:?}"));
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        let fields = lines.fields()?;
        let (body, trailers) = match framing(&fields)? {
            Framing::None => (Vec::new(), Vec::new()),
            Framing::Length(length) => (lines.take(length)?.to_vec(), Vec::new()),
            Framing::Chunked => lines.chunks()?,
        };
        Ok(Self { method, target, fields, body, trailers, end: lines.at })
    }

    fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Finds a header that must not reach the upstream, or one that must and does not.
    pub fn fault(&self, credentials: &Credentials) -> Option<String> {
        for (name, wanted) in [
            ("authorization", &credentials.authorization),
            ("organization", &credentials.organization),
            ("host", &credentials.host),
        ] {
            if self.values(name) != [wanted.as_str()] {
                return Some(format!("{name} is not exactly ours"));
            }
        }
        // A CGI-like server reads `_` as `-`, so such names must not stand beside them either.
        for (name, _) in &self.fields {
            let folded = name.replace(['_', '.'], "-");
            let ours = ["authorization", "organization", "host"].contains(&folded.as_str());
            if (ours || folded == "content-length" || folded == "transfer-encoding") && folded != *name {
                return Some(format!("{name} can be mistaken for another"));
            }
            if is_never_forwarded(&folded) {
                return Some(format!("{name} was forwarded"));
            }
        }
        let (connection, te, upgrade) = (self.values("connection"), self.values("te"), self.values("upgrade"));
        let hop = (connection.as_slice(), te.as_slice(), upgrade.as_slice());
        if !matches!(hop, ([], [], []) | (["te"], ["trailers"], []) | (["upgrade"], [], ["websocket"])) {
            return Some(format!("hop-by-hop fields {hop:?}"));
        }
        let never = |name: &str| {
            const OURS: [&str; 10] = [
                "authorization",
                "organization",
                "host",
                "content-length",
                "transfer-encoding",
                "connection",
                "te",
                "upgrade",
                "trailer",
                "x-request-id",
            ];
            OURS.contains(&name) || is_never_forwarded(name)
        };
        let trailer = self.trailers.iter().find(|(name, _)| never(&name.replace(['_', '.'], "-")));
        trailer.map(|(name, _)| format!("{name} passed as a trailer"))
    }
}

fn is_never_forwarded(name: &str) -> bool {
    const NAMES: [&str; 23] = [
        "cookie",
        "cookie2",
        "origin",
        "expect",
        "forwarded",
        "http2-settings",
        "keep-alive",
        "proxy",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-cluster-client-ip",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-forwarded",
        "fastly-client-ip",
        "fly-client-ip",
        "x-envoy-original-path",
        "x-waws-unencoded-url",
        "x-rewrite-url",
        "proxy-connection",
    ];
    NAMES.contains(&name) || ["proxy-", "x-forwarded-", "x-original-"].iter().any(|family| name.starts_with(family))
}

pub(super) enum Framing {
    None,
    Length(usize),
    Chunked,
}

pub(super) fn framing(fields: &[(String, String)]) -> Result<Framing, Fault> {
    let frames = |(name, _): &&(String, String)| name == "content-length" || name == "transfer-encoding";
    let framing: Vec<(&str, &str)> = fields.iter().filter(frames).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    match framing[..] {
        [] => Ok(Framing::None),
        [("transfer-encoding", "chunked")] => Ok(Framing::Chunked),
        [("content-length", digits)] if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Framing::Length).or_else(|_| malformed(format!("length {digits:?}")))
        }
        _ => malformed(format!("framing {framing:?}")),
    }
}

pub(super) struct Lines<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Lines<'a> {
    /// Reads a line, whose characters are bytes. Only CRLF ends it, and no CR, LF or NUL stands in it.
    pub(super) fn next(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0));
        match end.map(|end| &rest[end..]) {
            None | Some([b'\r']) => Err(Fault::Unfinished),
            Some([b'\r', b'\n', ..]) => {
                let end = end.unwrap_or_default();
                self.at += end + 2;
                Ok(rest[..end].iter().map(|&byte| char::from(byte)).collect())
            }
            Some(_) => malformed("a bare CR, a bare LF or a NUL in a line"),
        }
    }

    /// Reads lines up to an empty one.
    pub(super) fn fields(&mut self) -> Result<Fields, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.next()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some((name, value)) = line.split_once(':') else { return malformed(format!("field {line:?}")) };
            let lower = name.bytes().all(|byte| is_token_byte(byte) && !byte.is_ascii_uppercase());
            if name.is_empty() || !lower {
                return malformed(format!("name {name:?}"));
            }
            let value = value.strip_prefix(' ').unwrap_or(value);
            if value.chars().any(|char| (char < ' ' && char != '\t') || char == '\x7f') {
                return malformed(format!("value of {name}"));
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Reads a chunked body and its trailers.
    pub(super) fn chunks(&mut self) -> Result<(Vec<u8>, Fields), Fault> {
        let mut body = Vec::new();
        loop {
            let size = self.chunk_size()?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            body.extend_from_slice(self.take(size)?);
            if !self.next()?.is_empty() {
                return malformed("a chunk longer than it says");
            }
        }
    }

    fn chunk_size(&mut self) -> Result<usize, Fault> {
        let line = self.next()?;
        let plain = !line.is_empty() && line.len() < 16 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        if plain { Ok(usize::from_str_radix(&line, 16).unwrap()) } else { malformed(format!("chunk size {line:?}")) }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let taken = self.bytes[self.at..].get(..bytes).ok_or(Fault::Unfinished)?;
        self.at += bytes;
        Ok(taken)
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn the_strict_reader_forgives_nothing() {
    let (whole, unfinished) = ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", Some(Fault::Unfinished));
    assert_eq!(Request::read(whole.as_bytes()).unwrap().end, whole.len());
    for cut in 0..whole.len() {
        assert_eq!(Request::read(&whole.as_bytes()[..cut]).err(), unfinished, "{cut}");
    }
    for (head, body) in [("content-length: 3", "abc"), ("transfer-encoding: chunked", "3\r\nabc\r\n0\r\nx: y\r\n\r\n")] {
        let text = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n{body}");
        assert_eq!(Request::read(format!("{text}more").as_bytes()).unwrap().end, text.len());
        assert_eq!(Request::read(&text.as_bytes()[..text.len() - 1]).err(), unfinished);
    }
    for text in [
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\n\r\n",
        "GET /#x HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\r\nx: a\nb: c\r\n\r\n",
        "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nx : a\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\r\n\r\n",
        "GET / HTTP/1.1\r\nx: \x01\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        "GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ] {
        assert!(matches!(Request::read(text.as_bytes()), Err(Fault::Malformed(_))), "{text:?}");
    }
}

#[test]
fn a_header_that_must_not_arrive_is_a_fault() {
    let ours = "authorization: Bearer t\r\norganization: o\r\nhost: h\r\n";
    let credentials = Credentials { authorization: "Bearer t".to_owned(), organization: "o".to_owned(), host: "h".to_owned() };
    let fault = |lines: &str| Request::read(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap().fault(&credentials);
    for lines in ["", "x-a: b\r\n", "te: trailers\r\nconnection: te\r\n", "upgrade: websocket\r\nconnection: upgrade\r\n"] {
        assert_eq!(fault(&format!("{ours}{lines}")), None);
    }
    assert!(fault(&ours.replace("t\r\n", "u\r\n")).is_some() && fault("host: h\r\n").is_some());
    for line in ["authorization: x", "organization: o", "host: h", "content_length: 1", "connection: close", "te: trailers"] {
        assert!(fault(&format!("{ours}{line}\r\n")).is_some(), "{line}");
    }
    for line in ["cookie: a", "origin: a", "x_forwarded_for: a", "proxy_authorization: a", "forwarded: a", "keep-alive: a"] {
        assert!(fault(&format!("{ours}{line}\r\n")).is_some(), "{line}");
    }
    let trailers = format!("POST / HTTP/1.1\r\n{ours}transfer-encoding: chunked\r\n\r\n0\r\norganization: o\r\n\r\n");
    assert!(Request::read(trailers.as_bytes()).unwrap().fault(&credentials).is_some());
}
