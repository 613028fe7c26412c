//! Fuzzes what an upstream answers, through the whole daemon: the client gets one well-formed answer, the upstream's or a problem.
//!
//! An input is a byte that says what a client asks for (`G`: GET, `H`: HEAD, `P`: POST, `W`: a WebSocket), and then what the
//! upstream writes before it hangs up. What the client is told is read by a reader that forgives nothing; where the same reader
//! takes the upstream's answer for a whole one, the client has to get it whole, and where it was cut off, not as a whole one.

use std::{
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
};

use rustix::event::PollFlags;

use crate::{
    daemon::{Daemon, HANGS, TOKEN, contains, is_name, read_all, something_happens},
    shared::folded,
};

/// Checks any bytes; what does not fit into a socket's buffer at once is not looked at.
pub fn check(input: &[u8]) {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let Some((kind, answer)) = input.split_first() else { return };
    let (asked, answer) = (Asked::of(*kind), &answer[..answer.len().min(30_000)]);
    let world = WORLD.get_or_init(|| Mutex::new(World::start()));
    let (told, sent) = world.lock().unwrap_or_else(PoisonError::into_inner).ask(asked, answer);
    // Only what may be done twice is sent twice, and that once.
    let most = if asked == Asked::Post { 1 } else { 2 };
    assert!((1..=most).contains(&sent), "{asked:?} is sent {sent} times");
    let got = read(&told, asked).unwrap_or_else(|fault| panic!("{fault}: {:?}", String::from_utf8_lossy(&told)));
    let got = got.unwrap_or_else(|| panic!("no whole head: {:?}", String::from_utf8_lossy(&told)));
    check_fields(&got);
    check_content(asked, &got, answer);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Get,
    Head,
    Post,
    WebSocket,
}

impl Asked {
    const fn of(kind: u8) -> Self {
        match kind {
            b'H' => Self::Head,
            b'P' => Self::Post,
            b'W' => Self::WebSocket,
            _ => Self::Get,
        }
    }

    const fn request(self) -> &'static str {
        match self {
            Self::Get => "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            Self::Head => "HEAD /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            Self::Post => "POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
            Self::WebSocket => {
                "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            }
        }
    }
}

/// The daemon and its upstream.
struct World {
    daemon: Daemon,
    listener: TcpListener,
    /// From the daemon to the upstream.
    connections: Vec<Connection>,
}

/// A connection to the upstream, and what came over it.
struct Connection {
    stream: TcpStream,
    heard: Vec<u8>,
    answered: bool,
}

impl World {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let authority = listener.local_addr().expect("an address").to_string();
        // A 401 would make the daemon log in again, which is no answer's reading.
        let daemon = Daemon::start(&authority, &[("CAREPORTALS__ACCOUNTS__DEFAULT__RELOGIN_ON", "[]")]);
        Self { daemon, listener, connections: Vec::new() }
    }

    /// What a client is told whose request the upstream answers so, and how often the upstream was sent it.
    fn ask(&mut self, asked: Asked, answer: &[u8]) -> (Vec<u8>, usize) {
        let mut client = TcpStream::connect(self.daemon.address).expect("the daemon listens");
        client.write_all(asked.request().as_bytes()).expect("a short request is taken at once");
        client.set_nonblocking(true).expect("a socket that does not block");
        let (mut told, mut sent, mut silences) = (Vec::new(), 0, 0);
        while !read_all(&mut client, &mut told) {
            if !self.play(answer, &mut sent) && !self.wait(Some(&client)) {
                silences += 1;
                assert!(silences < HANGS, "the upstream has hung up, and the client waits");
                // Only whoever asks for a WebSocket keeps the connection; it may have ended already.
                if asked == Asked::WebSocket {
                    let _ = client.shutdown(Shutdown::Write);
                }
            }
        }
        drop(client);
        self.settle(answer, &mut sent);
        (told, sent)
    }

    /// Waits until nothing of this request is left: the next one must not meet a connection that has ended.
    fn settle(&mut self, answer: &[u8], sent: &mut usize) {
        let mut rounds = 0;
        while self.daemon.request_limit.taken() > 0 || !self.connections.is_empty() || self.play(answer, sent) {
            rounds += 1;
            assert!(rounds < HANGS, "the client is gone, and its request stays");
            // A connection that was opened ahead of need has no request.
            for connection in self.connections.iter().filter(|connection| !connection.answered) {
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            // It takes a moment at most; silence is waited for only when that was not enough.
            if rounds < 100 {
                thread::yield_now();
            } else {
                self.wait(None);
            }
            self.play(answer, sent);
        }
    }

    fn wait(&self, client: Option<&TcpStream>) -> bool {
        let streams: Vec<_> = self.connections.iter().map(|connection| &connection.stream).collect();
        something_happens(&self.listener, &streams, client.map(|client| (client, PollFlags::IN)))
    }

    /// The upstream's turn: accepts, reads, answers, hangs up. Whether anything was to be done.
    fn play(&mut self, answer: &[u8], sent: &mut usize) -> bool {
        let mut progress = false;
        while let Ok((stream, _)) = self.listener.accept() {
            progress = true;
            if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                self.connections.push(Connection { stream, heard: Vec::new(), answered: false });
            }
        }
        self.connections.retain_mut(|connection| {
            let before = connection.heard.len();
            let ended = read_all(&mut connection.stream, &mut connection.heard);
            progress |= ended || connection.heard.len() > before;
            if !connection.answered && is_whole_request(&connection.heard) {
                (connection.answered, progress) = (true, true);
                *sent += 1;
                // A daemon that has seen enough of an answer may cut it off.
                let _ = connection.stream.write_all(answer);
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            !ended
        });
        progress
    }
}

/// A request of [`Asked`] as the daemon writes it.
fn is_whole_request(text: &[u8]) -> bool {
    if text.starts_with(b"POST") { text.ends_with(b"\r\n\r\nab") } else { text.ends_with(b"\r\n\r\n") }
}

/// One answer, as a strict reader takes it.
struct Answer<'a> {
    status: u16,
    /// With names in lower case.
    fields: Vec<(String, &'a [u8])>,
    body: Vec<u8>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The answer said where it ends, and ended there.
    Whole,
    /// It was cut off.
    Cut,
    /// It ends with its connection.
    WithConnection,
    /// It turned into another protocol.
    Tunnel,
}

impl Answer<'_> {
    fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    }

    /// Whether the sidecar says that the answer is its own.
    fn is_problem(&self) -> bool {
        self.all("proxy-status").iter().any(|value| contains(value, b"careportals-sidecar"))
    }
}

/// Reads one answer and nothing after it. `None`: its head was cut off.
fn read(text: &[u8], asked: Asked) -> Result<Option<Answer<'_>>, &'static str> {
    let Some(end) = text.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = (&text[..end], &text[end + 4..]);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.next().and_then(|line| line.strip_prefix(b"HTTP/1.1 ")).ok_or("no status line")?;
    let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or("no status")?;
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    if !(line.get(3) == Some(&b' ') || line.len() == 3) || line.iter().any(u8::is_ascii_control) || !(100..1000).contains(&status)
    {
        return Err("a malformed status line");
    }
    if head.iter().enumerate().any(|(at, byte)| (*byte == b'\n') != (at > 0 && head[at - 1] == b'\r')) {
        return Err("a line that does not end with CRLF");
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':').ok_or("a line without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_name(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("a malformed field");
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value));
    }
    let mut answer = Answer { status, fields, body: Vec::new(), end: End::Whole };
    (answer.body, answer.end) = content(&answer, rest, asked)?;
    Ok(Some(answer))
}

/// The content of an answer, by RFC 9112, 6.3.
fn content(head: &Answer<'_>, rest: &[u8], asked: Asked) -> Result<(Vec<u8>, End), &'static str> {
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => None,
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length: u64 = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).ok_or("a length too long")?;
            Some(usize::try_from(length).unwrap_or(usize::MAX))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => None,
        _ => return Err("an answer with two ends, or with none"),
    };
    match head.status {
        101 if asked == Asked::WebSocket => return Ok((rest.to_vec(), End::Tunnel)),
        100..200 => return Err("an interim answer"),
        204 if !lengths.is_empty() || !codings.is_empty() => return Err("204 with the length of a content"),
        _ => {}
    }
    if asked == Asked::Head || matches!(head.status, 204 | 304) {
        return if rest.is_empty() { Ok((Vec::new(), End::Whole)) } else { Err("content where there is none") };
    }
    match length {
        Some(length) if rest.len() > length => Err("more content than was announced"),
        Some(length) => Ok((rest.to_vec(), if rest.len() == length { End::Whole } else { End::Cut })),
        None if codings.is_empty() => Ok((rest.to_vec(), End::WithConnection)),
        None => unchunked(rest),
    }
}

fn unchunked(text: &[u8]) -> Result<(Vec<u8>, End), &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = text[at..].windows(2).position(|part| part == b"\r\n") else { return Ok((body, End::Cut)) };
        let digits = &text[at..at + end];
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk's size is no number");
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let size = size.ok_or("a chunk's size is no number")?;
        at += end + 2;
        if size == 0 {
            return trailers_end(&text[at..]).map(|end| (body, end));
        }
        let rest = &text[at..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        match rest.get(size..) {
            None | Some([] | [b'\r']) => return Ok((body, End::Cut)),
            Some([b'\r', b'\n', ..]) => at += size + 2,
            Some(_) => return Err("a chunk is longer than it says"),
        }
    }
}

fn trailers_end(text: &[u8]) -> Result<End, &'static str> {
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|part| part == b"\r\n") {
        let line;
        (line, rest) = (&rest[..end], &rest[end + 2..]);
        if line.is_empty() {
            return if rest.is_empty() { Ok(End::Whole) } else { Err("something follows the answer") };
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if !is_name(name) || !line.contains(&b':') || line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("a malformed trailer");
        }
    }
    Ok(End::Cut)
}

/// Nothing of the way between sidecar and upstream passes, and no token.
fn check_fields(got: &Answer<'_>) {
    let is_tunnel = got.end == End::Tunnel;
    for (name, value) in &got.fields {
        assert!(!contains(value, TOKEN.as_bytes()), "{name} holds the token");
        let name = folded(name.as_bytes());
        let is_hops = ["keep-alive", "proxy-connection", "proxy-authenticate", "te", "alt-svc"].contains(&&*name);
        assert!(!is_hops, "{name} passes");
        let expected: &[&[u8]] = match (&*name, is_tunnel) {
            ("connection", false) => &[b"close"],
            ("connection", true) => &[b"upgrade"],
            ("upgrade", true) => &[b"websocket"],
            ("upgrade", false) => &[],
            _ => continue,
        };
        assert!(expected.iter().any(|expected| expected.eq_ignore_ascii_case(value)), "{name}: {:?}", value.escape_ascii());
    }
    assert_eq!(got.all("x-request-id").len(), 1, "each answer has one id");
    assert!(got.end != End::WithConnection, "an answer to HTTP/1.1 says where it ends");
}

/// The client gets what the upstream sent, and takes for whole what was whole.
fn check_content(asked: Asked, got: &Answer<'_>, answer: &[u8]) {
    let expected = strict(answer, asked);
    if got.is_problem() {
        assert!((500..=504).contains(&got.status), "a problem with {}", got.status);
        assert!(got.end == End::Whole, "a problem is cut off");
        assert!(expected.is_none_or(|expected| expected.end == End::Cut), "a problem in place of a good answer");
        return;
    }
    assert!(contains(answer, got.status.to_string().as_bytes()), "{} comes from nowhere", got.status);
    let is_coded = contains(&answer.to_ascii_lowercase(), b"chunked");
    assert!(is_coded || contains(answer, &got.body), "content comes from nowhere");
    if let Some(expected) = expected {
        assert_eq!(got.status, expected.status);
        // What was read when an answer breaks off need not be passed on to its last byte.
        let is_equal = if expected.end == End::Cut { expected.body.starts_with(&got.body) } else { expected.body == got.body };
        assert!(is_equal, "other content: {:?}", String::from_utf8_lossy(&got.body));
        assert_eq!(got.end == End::Cut, expected.end == End::Cut, "{:?} becomes {:?}", expected.end, got.end);
    }
}

/// The upstream's answer, where a strict reader knows it for one that the sidecar has to pass on.
fn strict(answer: &[u8], asked: Asked) -> Option<Answer<'_>> {
    let read = read(answer, asked).ok()??;
    let is_plain = |value: &[u8]| value.iter().all(|byte| (b' '..=b'~').contains(byte));
    let is_small = read.fields.len() <= 50 && answer.windows(4).position(|part| part == b"\r\n\r\n")? <= 4096;
    let is_ordinary = (200..600).contains(&read.status) && read.fields.iter().all(|(_, value)| is_plain(value));
    (is_small && is_ordinary && read.end != End::Tunnel).then_some(read)
}
