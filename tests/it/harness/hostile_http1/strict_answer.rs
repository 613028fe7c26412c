//! A reader of answers that forgives nothing: what a client gets must be readable in one way only.

use super::strict::{Fault, Fields, Framing, Lines, framing, malformed};

/// An answer that can be read in one way.
#[derive(Debug)]
pub struct StrictAnswer {
    pub status: u16,
    pub reason: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Where it ends in the bytes it was read from.
    pub end: usize,
    /// It ends where its connection does.
    pub close_delimited: bool,
}

impl StrictAnswer {
    /// Reads the first answer in `bytes`, which is to a request by `method`. `ended`: nothing follows these bytes.
    pub fn read(bytes: &[u8], method: &str, ended: bool) -> Result<Self, Fault> {
        let mut lines = Lines { bytes, at: 0 };
        let line = lines.next()?;
        let mut parts = line.splitn(3, ' ');
        let (Some(version @ ("HTTP/1.1" | "HTTP/1.0")), Some(digits), Some(reason)) = (parts.next(), parts.next(), parts.next())
        else {
            return malformed(format!("status line {line:?}"));
        };
        let is_status = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let Some(status) = is_status.then(|| digits.parse().ok()).flatten().filter(|status| *status >= 100) else {
            return malformed(format!("status {digits:?}"));
        };
        let (is_old, reason) = (version == "HTTP/1.0", reason.to_owned());
        let fields = lines.fields()?;
        // RFC 9112, 6.3: these end with their heads, whatever they say of a length.
        let bodiless = method == "HEAD" || status < 200 || matches!(status, 204 | 304);
        let framing = framing(&fields)?;
        if (status < 200 || status == 204) && !matches!(framing, Framing::None) {
            return malformed("a length or a coding where there may be none");
        }
        let mut close_delimited = false;
        let (body, trailers) = match framing {
            _ if bodiless => (Vec::new(), Vec::new()),
            Framing::Length(length) => (lines.take(length)?.to_vec(), Vec::new()),
            Framing::Chunked if is_old => return malformed("chunks for HTTP/1.0"),
            Framing::Chunked => lines.chunks()?,
            Framing::None if !ended => return Err(Fault::Unfinished),
            Framing::None => {
                close_delimited = true;
                (lines.take(bytes.len() - lines.at)?.to_vec(), Vec::new())
            }
        };
        Ok(Self { status, reason, fields, body, trailers, end: lines.at, close_delimited })
    }
}

#[test]
fn the_strict_reader_of_answers_forgives_nothing() {
    let read = |text: &str, method: &str, ended| StrictAnswer::read(text.as_bytes(), method, ended);
    for (text, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc"),
        ("HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n", "abc"),
        ("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", ""),
    ] {
        let answer = read(&format!("{text}more"), "GET", false).unwrap();
        assert_eq!((answer.end, answer.body.as_slice(), answer.close_delimited), (text.len(), body.as_bytes(), false));
        assert_eq!(read(&text[..text.len() - 1], "GET", true).err(), Some(Fault::Unfinished));
    }
    let open = "HTTP/1.1 200 OK\r\nx: y\r\n\r\nabc";
    assert_eq!(read(open, "GET", false).err(), Some(Fault::Unfinished));
    let closed = read(open, "GET", true).unwrap();
    assert!(closed.close_delimited && closed.body == b"abc");
    assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", "HEAD", false).unwrap().body, b"");
    for text in [
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 204 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert!(matches!(read(text, "GET", true), Err(Fault::Malformed(_))), "{text:?}");
    }
}
