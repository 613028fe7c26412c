//! Any bytes, written to the real server: the upstream gets nothing, or well-formed requests, each with our headers once.
//!
//! The whole daemon runs in this process, once: it logs in over loopback, and its upstream is a listener here that takes
//! requests apart by a reading of its own, which forgives nothing. An input is what a client writes before it hangs up.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, OnceLock, mpsc as threads},
    thread,
    time::Duration,
};

use careportals_sidecar::{
    app::App,
    careportals::LOGIN_PATHS,
    clock::SystemClock,
    config::{Log, LogFormat},
    logging::{Logging, Reader},
    status::Phase,
};
use tokio::sync::mpsc;

use crate::shared::{careless, config, folded};

const TOKEN: &str = "tok3n.of.ours";
/// Follows each input, so that a head which is not complete is completed by something.
const LAST: &[u8] = b"\r\n\r\nGET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Silence after which a client hangs up: the server waits for the rest of something.
const SILENCE: Duration = Duration::from_millis(4);
const HANG: Duration = Duration::from_secs(20);

/// Any bytes; more than some heads and bodies is not looked at.
pub fn check(input: &[u8]) {
    let input = &input[..input.len().min(100_000)];
    let world = World::get();
    world.upstream.take();
    let told = world.tell(input);
    let heard = world.upstream.take();
    assert!(heard.faults.is_empty(), "{:?}", heard.faults);
    assert!(!contains(&told, TOKEN.as_bytes()), "a client is told the token");
    if input.starts_with(b"PRI * HTTP/2.0") {
        return;
    }
    let written = [input, LAST].concat();
    // Each needs a request line; each answer, too, but for what was not waited for.
    let (lines, answers) = (count(&written, b"HTTP/1."), count(&told, b"HTTP/1.1 "));
    assert!(heard.requests.len() <= lines, "{} requests of {lines} reach the upstream", heard.requests.len());
    assert!(heard.requests.len() <= answers + 1, "{} requests and {answers} answers", heard.requests.len());
    for request in &heard.requests {
        let is_whole = request.body.is_empty() || contains(&written, &request.body);
        assert!(request.is_chunked || is_whole, "a body that nobody wrote: {:?}", String::from_utf8_lossy(&request.body));
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|found| found == part)
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|found| *found == part).count()
}

/// The daemon and what is around it.
struct World {
    address: SocketAddr,
    upstream: Arc<Upstream>,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(Self::start)
    }

    fn start() -> Self {
        let login = serve(|stream| answer_login(&stream));
        let upstream = Arc::new(Upstream::default());
        let hears = Arc::clone(&upstream);
        let base = serve(move |stream| hears.serve(stream));
        upstream.authority.set(base.to_string()).expect("the first time");
        let config = config(&[
            ("CAREPORTALS_ORGANIZATION", "acme"),
            ("CAREPORTALS_USERNAME", "user"),
            ("CAREPORTALS_PASSWORD", "password"),
            ("CAREPORTALS_UPSTREAM", &format!("http://{base}")),
            ("CAREPORTALS_LOGIN_URL", &format!("http://{login}/patient/auth")),
            ("CAREPORTALS_LISTEN", "127.0.0.1:0"),
            ("CAREPORTALS_TELEMETRY_LISTEN", "off"),
            ("CAREPORTALS_CONTROL_SOCKET", "off"),
            ("CAREPORTALS_WORKERS", "1"),
            ("CAREPORTALS__HARDENING", "off"),
            ("CAREPORTALS__APIS__DEFAULT__ALLOW_INSECURE_UPSTREAM", "true"),
            ("CAREPORTALS__ACCOUNTS__DEFAULT__ASSUMED_LIFE", "3650d"),
        ]);
        let app = App::bind(Arc::new(config)).expect("free ports");
        let address = app.addresses().next().and_then(|(_, address)| address.parse().ok()).expect("an address");
        run(app);
        Self { address, upstream }
    }

    /// What a client is told that writes `input`.
    fn tell(&self, input: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("the daemon listens");
        let mut writing = stream.try_clone().expect("a descriptor");
        let text = [input, LAST].concat();
        stream.set_read_timeout(Some(SILENCE)).expect("a time-out");
        // Who is refused may be cut off while it still writes.
        let _ = writing.write_all(&text);
        let (mut told, mut buffer, mut hung_up) = (Vec::new(), [0; 4096], false);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return told,
                Ok(read) => told.extend_from_slice(&buffer[..read]),
                Err(error) if !hung_up && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    hung_up = true;
                    let _ = stream.shutdown(Shutdown::Write);
                    stream.set_read_timeout(Some(HANG)).expect("a time-out");
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let hangs = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(!hangs, "a client has hung up, and its connection stays");
                    return told;
                }
            }
        }
    }
}

/// Runs the daemon for the rest of the process, once it has a token.
fn run(app: App) {
    let (ready, running) = threads::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let log = Log { filter: "error".to_owned(), format: LogFormat::Json, access: true };
        let logging = Logging::build(&log, std::io::sink(), Reader::Unknown, Arc::new(SystemClock)).expect("logs");
        let (_commands, given) = mpsc::channel(1);
        let mut phases = app.phases();
        runtime.block_on(async {
            let started = async {
                let _ = phases.wait_for(|phase| *phase == Phase::Running).await;
                let _ = ready.send(());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = app.run(Arc::new(SystemClock), logging.access_log(), given) => panic!("the daemon ended: {ended:?}"),
                () = started => {}
            }
        });
    });
    running.recv().expect("the daemon runs");
}

/// Serves each connection to a free port on a thread of its own.
fn serve(each: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = Arc::clone(&each);
            thread::spawn(move || each(stream));
        }
    });
    address
}

fn answer_login(mut stream: &TcpStream) {
    let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
    // The body is an object, and nothing follows it.
    while !asked.ends_with(b"}") {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => asked.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let body = format!("{{\"token\":\"{TOKEN}\"}}");
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// What the upstream got since it was asked last.
#[derive(Default)]
struct Heard {
    requests: Vec<Request>,
    faults: Vec<String>,
}

struct Request {
    is_chunked: bool,
    body: Vec<u8>,
}

#[derive(Default)]
struct Upstream {
    heard: Mutex<Heard>,
    authority: OnceLock<String>,
}

impl Upstream {
    fn take(&self) -> Heard {
        std::mem::take(&mut self.heard.lock().expect("nobody panics with it"))
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (mut ahead, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.next(&mut ahead) {
                Ok(Some(request)) => {
                    let is_head = request.method == "HEAD";
                    self.heard.lock().expect("nobody panics with it").requests.push(request.seen);
                    let answer = if is_head {
                        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
                    } else {
                        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                    };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(fault) => {
                    let shown = String::from_utf8_lossy(&ahead[..ahead.len().min(2000)]).into_owned();
                    self.heard.lock().expect("nobody panics with it").faults.push(format!("{fault}: {shown:?}"));
                    return;
                }
            }
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => ahead.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
    }

    /// The first request of `ahead`, if it is whole.
    fn next(&self, ahead: &mut Vec<u8>) -> Result<Option<Whole>, &'static str> {
        let Some(end) = ahead.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
        let authority = self.authority.get().ok_or("a request before there is an upstream")?;
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

fn is_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
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
        const NEVER: [&str; 9] =
            ["cookie", "cookie2", "origin", "proxy", "forwarded", "x-real-ip", "keep-alive", "http2-settings", "expect"];
        if NEVER.contains(&name.as_str()) || name.starts_with("proxy-") || name.starts_with("x-forwarded-") {
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
