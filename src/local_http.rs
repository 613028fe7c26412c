//! One question to a daemon on this machine, and its whole answer: as much of HTTP as the program's own commands need.
//!
//! Depends on `clock`. Blocking and without a runtime: a probe that runs every few seconds must cost next to nothing.
//! Guarantees: it ends within the time that it is given; an answer that was cut off is none; errors hold nothing of an
//! answer.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::time::Instant;

use crate::clock;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEndpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalResponse {
    /// Of HTTP.
    pub status: u16,
    /// Whole.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum LocalHttpError {
    /// Nobody could be asked.
    #[error("{}", in_words(.0))]
    Connect(io::Error),
    /// Somebody was asked, and did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The connection failed, or ended, before the answer did.
    #[error("the connection ended before the answer did")]
    Cut,
    /// Whoever answers does not speak HTTP.
    #[error("the answer is not HTTP")]
    NotHttp,
}

/// Asks for `target` and reads all of the answer, within `limit`.
pub fn ask(endpoint: &LocalEndpoint, method: &str, target: &str, limit: Duration) -> Result<LocalResponse, LocalHttpError> {
    let deadline = Deadline { at: clock::instant() + limit, limit };
    match endpoint {
        LocalEndpoint::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, limit).map_err(LocalHttpError::Connect)?;
            converse(stream, method, target, &deadline, TcpStream::set_read_timeout)
        }
        LocalEndpoint::Unix(path) => {
            let stream = connect_unix(path, limit).map_err(LocalHttpError::Connect)?;
            converse(stream, method, target, &deadline, UnixStream::set_read_timeout)
        }
    }
}

/// The kernel lets us wait while the daemon's queue is full; the time-out for writing holds for that, too.
fn connect_unix(path: &PathBuf, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn left(&self) -> Result<Duration, LocalHttpError> {
        let left = self.at.saturating_duration_since(clock::instant());
        if left.is_zero() { Err(LocalHttpError::Silent(self.limit)) } else { Ok(left) }
    }
}

/// By HTTP/1.0, whose answers end with the connection and know no chunks.
fn converse<S: Read + Write>(
    mut stream: S,
    method: &str,
    target: &str,
    deadline: &Deadline,
    set_read_timeout: impl Fn(&S, Option<Duration>) -> io::Result<()>,
) -> Result<LocalResponse, LocalHttpError> {
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    let version = env!("CARGO_PKG_VERSION");
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: careportals-sidecar/{version}\r\nAccept: application/json\r\n{length}\r\n"
    );
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => LocalHttpError::Silent(deadline.limit),
        _ => LocalHttpError::Cut,
    };
    stream.write_all(head.as_bytes()).map_err(failed)?;
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        set_read_timeout(&stream, Some(deadline.left()?)).map_err(failed)?;
        let bytes = match stream.read(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        read.extend_from_slice(&buffer[..bytes]);
        if let Some(answer) = understand(&read, bytes == 0)? {
            return Ok(answer);
        }
        if read.len() > ANSWER_MAX {
            return Err(LocalHttpError::NotHttp);
        }
    }
}

/// The answer, once it is whole. `over`: nothing more comes.
fn understand(read: &[u8], over: bool) -> Result<Option<LocalResponse>, LocalHttpError> {
    if !read.starts_with(&PROTOCOL[..read.len().min(PROTOCOL.len())]) {
        return Err(LocalHttpError::NotHttp);
    }
    let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if over { Err(LocalHttpError::Cut) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&read[..end]).map_err(|_| LocalHttpError::NotHttp)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or(LocalHttpError::NotHttp)?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value.trim().parse());
    let length: Option<usize> = length.last().transpose().map_err(|_| LocalHttpError::NotHttp)?;
    let body = &read[end + 4..];
    match length {
        Some(length) if body.len() >= length => Ok(Some(LocalResponse { status, body: body[..length].to_vec() })),
        None if over => Ok(Some(LocalResponse { status, body: body.to_vec() })),
        Some(_) if over => Err(LocalHttpError::Cut),
        _ => Ok(None),
    }
}

/// As a sentence goes on, without the number that the system has for it.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such socket".to_owned(),
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "the connection took too long".to_owned(),
        _ => error.to_string(),
    }
}

const PROTOCOL: &[u8] = b"HTTP/1.";
/// No answer of a daemon's is nearly as long.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(read: &str, over: bool) -> Result<Option<(u16, String)>, String> {
        let answer = understand(read.as_bytes(), over).map_err(|error| error.to_string())?;
        Ok(answer.map(|answer| (answer.status, String::from_utf8(answer.body).unwrap())))
    }

    #[test]
    fn an_answer_is_whole_by_its_length_or_by_the_connections_end() {
        for (read, over, expected) in [
            ("", false, None),
            ("HTT", false, None),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", false, None),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\no", false, None),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false, Some((200, "ok"))),
            ("HTTP/1.1 503 \r\nA: b\r\n\r\nno", false, None),
            ("HTTP/1.1 503 \r\nA: b\r\n\r\nno", true, Some((503, "no"))),
            ("HTTP/1.1 204\r\n\r\n", true, Some((204, ""))),
        ] {
            let expected = expected.map(|(status, body)| (status, body.to_owned()));
            assert_eq!(outcome(read, over), Ok(expected), "{read:?} {over}");
        }
    }

    #[test]
    fn nobody_is_waited_for_beyond_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("silent.sock");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for endpoint in [LocalEndpoint::Unix(path), LocalEndpoint::Tcp(tcp.local_addr().unwrap())] {
            let limit = Duration::from_millis(50);
            let start = clock::instant();
            let outcome = ask(&endpoint, "GET", "/", limit);
            assert!(matches!(outcome, Err(LocalHttpError::Silent(after)) if after == limit), "{outcome:?}");
            assert!(start.elapsed() >= limit);
        }
    }

    #[test]
    fn what_is_cut_off_or_no_http_is_no_answer() {
        let (cut, not_http) = (LocalHttpError::Cut.to_string(), LocalHttpError::NotHttp.to_string());
        for (read, over, expected) in [
            ("", true, &cut),
            ("HTTP/1.0 200 OK\r\nConte", true, &cut),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok", true, &cut),
            ("SSH-2.0", false, &not_http),
            ("HTTP/1.0 fine OK\r\n\r\n", true, &not_http),
            ("HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n", true, &not_http),
        ] {
            assert_eq!(outcome(read, over), Err(expected.clone()), "{read:?} {over}");
        }
    }
}
