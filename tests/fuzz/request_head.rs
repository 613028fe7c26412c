//! Any bytes, written to the real server: the upstream gets nothing, or well-formed requests, each with our headers once.
//!
//! The whole daemon runs in this process, once: it logs in over loopback, and its upstream is a listener here that takes
//! requests apart by a reading of its own, which forgives nothing. An input is what a client writes before it hangs up.

use std::{
    io::{ErrorKind, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
};

use careportals_sidecar::{careportals::LOGIN_PATHS, proxy::RequestLimit};
use rustix::event::PollFlags;

use crate::{
    daemon::{Daemon, HANGS, TOKEN, contains, is_name, read_all, something_happens},
    shared::{careless, folded, is_original},
};

/// Follows each input, so that a head which is not complete is completed by something.
const LAST: &[u8] = b"\r\n\r\nGET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Any bytes; more than some heads and bodies is not looked at.
pub fn check(input: &[u8]) {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let input = &input[..input.len().min(100_000)];
    let world = WORLD.get_or_init(|| Mutex::new(World::start()));
    let written = [input, LAST].concat();
    let (told, heard) = world.lock().unwrap_or_else(PoisonError::into_inner).tell(&written);
    assert!(!contains(&told, TOKEN.as_bytes()), "a client is told the token");
    if input.starts_with(b"PRI * HTTP/2.0") {
        return;
    }
    // Each needs a request line; and an answer, but for the one that was under way when the client hung up.
    let (lines, answers) = (count(&written, b"HTTP/1."), count(&told, b"HTTP/1.1 "));
    assert!(heard.len() <= lines, "{} requests of {lines} reach the upstream", heard.len());
    assert!(heard.len() <= answers + 1, "{} requests and {answers} answers", heard.len());
    for request in &heard {
        let is_whole = request.body.is_empty() || contains(&written, &request.body);
        assert!(request.is_chunked || is_whole, "a body that nobody wrote: {:?}", String::from_utf8_lossy(&request.body));
    }
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|found| *found == part).count()
}

/// The daemon and what is around it.
struct World {
    address: SocketAddr,
    /// Requests in flight.
    places: RequestLimit,
    listener: TcpListener,
    authority: String,
    /// From the daemon to the upstream.
    connections: Vec<Connection>,
}

impl World {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let authority = listener.local_addr().expect("an address").to_string();
        let Daemon { address, request_limit: places } = Daemon::start(&authority, &[]);
        Self { address, places, listener, authority, connections: Vec::new() }
    }

    /// What a client is told that writes `text`, and what the upstream has heard when that is over.
    fn tell(&mut self, text: &[u8]) -> (Vec<u8>, Vec<Request>) {
        let mut client = TcpStream::connect(self.address).expect("the daemon listens");
        client.set_nonblocking(true).expect("a socket that does not block");
        let (mut told, mut heard, mut rest) = (Vec::new(), Vec::new(), text);
        let mut silences = 0;
        loop {
            let ended = read_all(&mut client, &mut told);
            let progress = self.play(&mut heard);
            if ended {
                break;
            }
            match client.write(rest) {
                Ok(written) if written > 0 => {
                    rest = &rest[written..];
                    continue;
                }
                // A client that is refused may be cut off while it still writes; the answer comes first.
                Err(error) if error.kind() != ErrorKind::WouldBlock => rest = &[],
                _ => {}
            }
            let awaited = if rest.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            if !progress && !self.wait(Some((&client, awaited))) {
                silences += 1;
                assert!(silences < HANGS, "a client has hung up, and its connection stays");
                if silences == 1 {
                    rest = &[];
                    // It may be gone already.
                    let _ = client.shutdown(Shutdown::Write);
                }
            }
        }
        self.settle(&mut heard);
        (told, heard)
    }

    /// Hears all that is on its way: nothing of this client is to be taken for the next one's.
    fn settle(&mut self, heard: &mut Vec<Request>) {
        let mut rounds = 0;
        while self.places.taken() > 0 {
            rounds += 1;
            assert!(rounds < HANGS, "a client is gone, and its request stays");
            // It takes a moment at most; silence is waited for only when that was not enough.
            if rounds < 100 {
                thread::yield_now();
            } else {
                self.wait(None);
            }
            self.play(heard);
        }
        while self.play(heard) {}
    }

    /// Whether something happened before the silence got long. `client`: with what is waited for.
    fn wait(&self, client: Option<(&TcpStream, PollFlags)>) -> bool {
        let streams: Vec<_> = self.connections.iter().map(|connection| &connection.stream).collect();
        something_happens(&self.listener, &streams, client)
    }

    /// The upstream's turn: accepts, reads, answers. Whether anything was to be done.
    fn play(&mut self, heard: &mut Vec<Request>) -> bool {
        let mut progress = false;
        while let Ok((stream, _)) = self.listener.accept() {
            progress = true;
            if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                self.connections.push(Connection { stream, ahead: Vec::new() });
            }
        }
        let authority = &self.authority;
        self.connections.retain_mut(|connection| {
            let before = connection.ahead.len();
            let ended = read_all(&mut connection.stream, &mut connection.ahead);
            progress |= ended || connection.ahead.len() > before;
            connection.answer(authority, heard);
            !ended
        });
        progress
    }
}

/// What the upstream got.
struct Request {
    is_chunked: bool,
    body: Vec<u8>,
}

/// A connection to the upstream, and what came over it that is not answered yet.
struct Connection {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Connection {
    /// Answers each request that is whole.
    fn answer(&mut self, authority: &str, heard: &mut Vec<Request>) {
        loop {
            match next(&mut self.ahead, authority) {
                Ok(Some(Whole { method, seen })) => {
                    heard.push(seen);
                    let body = if method == "HEAD" { "" } else { "ok" };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                    // A client that is gone needs no answer; there is always room for this one.
                    let _ = self.stream.write_all(answer.as_bytes());
                }
                Ok(None) => return,
                Err(fault) => panic!("{fault}: {:?}", String::from_utf8_lossy(&self.ahead[..self.ahead.len().min(2000)])),
            }
        }
    }
}

/// The first request of `ahead`, if it is whole.
fn next(ahead: &mut Vec<u8>, authority: &str) -> Result<Option<Whole>, &'static str> {
    let Some(end) = ahead.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let head = Head::parse(&ahead[..end + 2], authority)?;
    let rest = &ahead[end + 4..];
    let (body, length) = match head.length {
        Some(length) if rest.len() < length => return Ok(None),
        Some(length) => (rest[..length].to_vec(), length),
        None if head.is_chunked => match dechunked(rest)? {
            Some(whole) => whole,
            None => return Ok(None),
        },
        None => (Vec::new(), 0),
    };
    let seen = Request { is_chunked: head.is_chunked, body };
    let whole = Whole { method: head.method.to_owned(), seen };
    ahead.drain(..end + 4 + length);
    Ok(Some(whole))
}

struct Whole {
    method: String,
    seen: Request,
}

struct Head<'a> {
    method: &'a str,
    length: Option<usize>,
    is_chunked: bool,
}

impl<'a> Head<'a> {
    /// `text`: up to and with the last line's end.
    fn parse(text: &'a [u8], authority: &str) -> Result<Self, &'static str> {
        let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
        if lines.pop().is_none_or(|last| !last.is_empty()) {
            return Err("a head without an end");
        }
        let mut lines = lines.into_iter().map(|line| line.strip_suffix(b"\r").ok_or("a line that ends with LF alone"));
        let mut words = lines.next().ok_or("an empty head")??.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(b"HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("a malformed request line");
        };
        if !is_name(method) || matches!(method, b"CONNECT" | b"TRACE") {
            return Err("a method that may not pass");
        }
        check_target(method, target)?;
        let mut fields = Vec::new();
        for line in lines {
            let line = line?;
            let colon = line.iter().position(|&byte| byte == b':').ok_or("a line without a colon")?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_name(name) {
                return Err("a malformed name");
            }
            if value.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                return Err("a control character in a value");
            }
            fields.push((folded(name), value));
        }
        let method = std::str::from_utf8(method).map_err(|_| "a method that is no text")?;
        check_fields(&fields, authority)?;
        Self::framed(method, &fields)
    }

    fn framed(method: &'a str, fields: &[(String, &[u8])]) -> Result<Self, &'static str> {
        let all = |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect::<Vec<_>>();
        let (length, is_chunked) = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
            ([], []) => (None, false),
            ([length], []) => {
                let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                (Some(digits.and_then(|digits| digits.parse().ok()).ok_or("a length that is none")?), false)
            }
            ([], [b"chunked"]) => (None, true),
            _ => return Err("a body with two ends"),
        };
        Ok(Self { method, length, is_chunked })
    }
}

fn check_target(method: &[u8], target: &[u8]) -> Result<(), &'static str> {
    if target == b"*" && method == b"OPTIONS" {
        return Ok(());
    }
    if target.first() != Some(&b'/') || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err("a target that is no path");
    }
    for passes in 0..4 {
        let path = careless(target, passes);
        if LOGIN_PATHS.iter().any(|login| careless(login.as_bytes(), 0) == path) {
            return Err("a log-in path");
        }
    }
    Ok(())
}

/// Ours once each, and nothing that a hop or the client has to say of itself.
fn check_fields(fields: &[(String, &[u8])], authority: &str) -> Result<(), &'static str> {
    let once = |name: &str, value: &[u8]| {
        let mut found = fields.iter().filter(|(known, _)| known == name);
        found.next().is_some_and(|(_, only)| *only == value) && found.next().is_none()
    };
    if !once("authorization", format!("Bearer {TOKEN}").as_bytes()) {
        return Err("not one authorization, and ours");
    }
    if !once("organization", b"acme") || !once("host", authority.as_bytes()) {
        return Err("not one organization and one host, and ours");
    }
    for (name, value) in fields {
        const NEVER: [&str; 22] = [
            "cookie",
            "cookie2",
            "origin",
            "proxy",
            "forwarded",
            "x-real-ip",
            "keep-alive",
            "http2-settings",
            "expect",
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
        ];
        if NEVER.contains(&name.as_str())
            || ["proxy-", "x-forwarded-"].iter().any(|family| name.starts_with(family))
            || is_original(name)
        {
            return Err("a header that may not pass");
        }
        let ours: &[&[u8]] = match name.as_str() {
            "connection" => &[b"te", b"upgrade"],
            "te" => &[b"trailers"],
            "upgrade" => &[b"websocket"],
            _ => continue,
        };
        if !ours.contains(value) {
            return Err("a hop's header that is not ours");
        }
    }
    Ok(())
}

/// The content of a body in chunks, and how many bytes it took; `None`: there is more to come.
fn dechunked(text: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = text[at..].windows(2).position(|part| part == b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&text[at..at + end]).map_err(|_| "a chunk's size is no number")?;
        let size = usize::from_str_radix(digits, 16).map_err(|_| "a chunk's size is no number")?;
        at += end + 2;
        if size == 0 {
            return trailers_end(&text[at..]).map(|end| end.map(|length| (body, at + length)));
        }
        let Some(chunk) = text.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk is longer than it says");
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}

/// How long the trailers are, with the empty line after them.
fn trailers_end(text: &[u8]) -> Result<Option<usize>, &'static str> {
    if text.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    let Some(end) = text.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    for line in text[..end].split(|&byte| byte == b'\n') {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let never = ["authorization", "organization", "host", "content-length", "transfer-encoding", "cookie"];
        if !is_name(name) || never.contains(&folded(name).as_str()) {
            return Err("a trailer that may not pass");
        }
    }
    Ok(Some(end + 4))
}
