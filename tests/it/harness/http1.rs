//! A plain HTTP/1.1 client, as simple as an app's worst one: bytes out, bytes in, nothing hidden.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
};

use crate::harness::PATIENCE;

/// A request, exactly as it will be written.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        let headers = vec![("Host".to_owned(), "localhost".to_owned())];
        Self { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds several headers, in their order.
    pub fn headers<'a>(self, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        headers.into_iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    /// Replaces the `Host` that every request has from the start.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.headers[0].1);
        self
    }

    /// Adds a body and its `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The connection ended before the body did.
    pub cut: bool,
}

impl Answer {
    /// The values of one header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let matching = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is a problem of the sidecar's own in every respect, and returns its `code`.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let status = self.header("proxy-status").unwrap_or_default();
        assert!(status.starts_with("careportals-sidecar; error="), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status, "{self:?}");
        for member in ["type", "title", "detail", "code", "request_id"] {
            assert!(document[member].is_string(), "{member}: {self:?}");
        }
        document["code"].as_str().unwrap().to_owned()
    }

    /// Reads the simulator's echo: the values of one header that reached the upstream.
    pub fn echoed(&self, name: &str) -> Vec<String> {
        let document = self.json();
        let headers = document["headers"].as_array().unwrap_or_else(|| panic!("not an echo: {self:?}"));
        let matching = headers.iter().filter(|pair| pair[0].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name)));
        matching.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection to the sidecar.
pub struct Connection {
    socket: Socket,
    /// Bytes that were read and not used yet.
    ahead: Vec<u8>,
}

impl Connection {
    pub fn tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { socket: Socket::Tcp(stream), ahead: Vec::new() }
    }

    pub fn unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { socket: Socket::Unix(stream), ahead: Vec::new() }
    }

    pub fn send(&mut self, request: &Request) -> Answer {
        self.write(&request.head());
        self.write(&request.body);
        self.answer(&request.method)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap();
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(bytes),
            Socket::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Limits how long a write may wait for the other side.
    pub fn write_timeout(&self, limit: std::time::Duration) {
        match &self.socket {
            Socket::Tcp(stream) => stream.set_write_timeout(Some(limit)).unwrap(),
            Socket::Unix(stream) => stream.set_write_timeout(Some(limit)).unwrap(),
        }
    }

    /// Tells the other side that no more will be written.
    pub fn finish_writing(&self) {
        match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Reads some more bytes: none at the end. A reset counts as an end.
    pub fn read_some(&mut self) -> Vec<u8> {
        if !self.ahead.is_empty() {
            return std::mem::take(&mut self.ahead);
        }
        let mut buffer = vec![0; 64 * 1024];
        let read = match &mut self.socket {
            Socket::Tcp(stream) => stream.read(&mut buffer),
            Socket::Unix(stream) => stream.read(&mut buffer),
        };
        match read {
            Ok(bytes) => buffer.truncate(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => buffer.clear(),
            Err(error) => panic!("reading from the sidecar: {error}"),
        }
        buffer
    }

    /// Reads everything up to and including `end`.
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = find(&self.ahead, end) {
                return self.ahead.drain(..at + end.len()).collect();
            }
            assert!(self.fill(), "closed before {end:?}: {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// Reads everything until the other side closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let some = self.read_some();
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    /// Reads, and returns whether the other side has closed rather than sent something.
    pub fn is_closed(&mut self) -> bool {
        self.read_some().is_empty()
    }

    /// Reads the next answer's head, without its body.
    pub fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at;
            }
            assert!(self.fill(), "closed in a head: {:?}", String::from_utf8_lossy(&self.ahead));
        };
        let head = String::from_utf8(self.ahead.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap();
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, headers: fields(lines), ..Answer::default() }
    }

    /// Reads the next answer to its end. `method` is the request's.
    pub fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        let bodiless = method == "HEAD" || answer.status == 204 || answer.status == 304 || answer.status < 200;
        if bodiless {
            return answer;
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.chunks(&mut answer);
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.cut = !self.at_least(length);
            let available = length.min(self.ahead.len());
            answer.body = self.ahead.drain(..available).collect();
        } else {
            answer.body = self.read_to_end();
        }
        answer
    }

    fn chunks(&mut self, answer: &mut Answer) {
        loop {
            let Some(line) = self.line() else { break answer.cut = true };
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            if size == 0 {
                while let Some(line) = self.line() {
                    if line.is_empty() {
                        return;
                    }
                    answer.trailers.extend(fields(std::iter::once(line.as_str())));
                }
                break answer.cut = true;
            }
            if !self.at_least(size + 2) {
                answer.body.append(&mut self.ahead);
                break answer.cut = true;
            }
            answer.body.extend(self.ahead.drain(..size));
            self.ahead.drain(..2);
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn at_least(&mut self, bytes: usize) -> bool {
        while self.ahead.len() < bytes {
            if !self.fill() {
                return false;
            }
        }
        true
    }

    fn fill(&mut self) -> bool {
        let mut ahead = std::mem::take(&mut self.ahead);
        let some = self.read_some();
        let more = !some.is_empty();
        ahead.extend(some);
        self.ahead = ahead;
        more
    }
}

impl Connection {
    /// As [`Connection::send`], on a connection that may have been closed: `None` when it ended before an answer began.
    pub fn try_send(&mut self, request: &Request) -> Option<Answer> {
        self.try_write(&[request.head(), request.body.clone()].concat()).ok()?;
        if self.ahead.is_empty() && !self.fill() {
            return None;
        }
        Some(self.answer(&request.method))
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let split = lines.filter_map(|line| line.split_once(':'));
    split.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
