//! An HTTP client for one request to a daemon on this machine, as the program's own commands need it.
//!
//! hyper speaks HTTP, on a runtime that starts no thread: a health check that runs every few seconds must cost next to
//! nothing. Guarantees: a request ends within its time limit; a response that was cut off is an error; errors hold nothing of
//! a response.

use std::{
    error::Error,
    io::{self, ErrorKind},
    iter,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request,
    header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout_at,
};

use crate::{clock, resources::Runtime};

/// The longest body of a response, in bytes; no response of a daemon is nearly as long.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// The address of a daemon on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalEndpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A whole response.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalResponse {
    /// The HTTP status.
    pub status: u16,
    /// The media type without parameters; empty when the response has none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Any byte stream. hyper's client is large, and is compiled only once for all rare requests by taking this one type.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<Stream: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for Stream {}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum LocalHttpError {
    /// The connection could not be made.
    #[error("{}", in_words(.0))]
    Connect(io::Error),
    /// The daemon did not respond in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The connection failed, or ended, before the response did.
    #[error("the connection ended before the answer did")]
    Cut,
    /// The other side does not speak HTTP, or its response is too long.
    #[error("the answer is not HTTP")]
    NotHttp,
}

/// Sends a request and reads the whole response, within `limit`. Blocks the thread.
pub fn request(endpoint: &LocalEndpoint, method: Method, target: &str, limit: Duration) -> Result<LocalResponse, LocalHttpError> {
    runtime().map_err(LocalHttpError::Connect)?.block_on(send(endpoint, method, target, limit))
}

/// Makes a runtime for [`send`], which runs on the thread that calls `block_on`.
pub fn runtime() -> io::Result<Runtime> {
    Runtime::new()
}

/// Sends a request and reads the whole response, within `limit`. It blocks its thread while it connects, and so belongs to a
/// runtime of its own. Dropping the future closes the connection.
pub async fn send(
    endpoint: &LocalEndpoint,
    method: Method,
    target: &str,
    limit: Duration,
) -> Result<LocalResponse, LocalHttpError> {
    let deadline = clock::instant() + limit;
    let request = build(method, target)?;
    let connected: io::Result<Box<dyn ByteStream>> = match endpoint {
        LocalEndpoint::Tcp(address) => connect_tcp(address, limit).map(|stream| Box::new(stream) as _),
        LocalEndpoint::Unix(path) => connect_unix(path, limit).map(|stream| Box::new(stream) as _),
    };
    let mut stream = connected.map_err(LocalHttpError::Connect)?;
    timeout_at(deadline, exchange(&mut *stream, request)).await.map_err(|_| LocalHttpError::Silent(limit))?
}

fn build(method: Method, target: &str) -> Result<Request<Empty<Bytes>>, LocalHttpError> {
    let is_get = method == Method::GET;
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "localhost")
        .header(USER_AGENT, concat!("careportals-sidecar/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::new());
    // Only a target that is no path could fail.
    let mut request = request.map_err(|error| LocalHttpError::Connect(io::Error::other(error)))?;
    if !is_get {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(request)
}

fn connect_tcp(address: &SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(address, limit)?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Connects while the socket still blocks: only then does the kernel wait while the daemon's queue is full. It waits as long
/// as the time-out for writing says.
fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket.into())
}

/// Sends `request` and reads the response. How long that may take is the caller's to say.
async fn exchange(stream: &mut dyn ByteStream, request: Request<Empty<Bytes>>) -> Result<LocalResponse, LocalHttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
    let mut response = pin!(async {
        let response = sender.send_request(request).await.map_err(|error| classify(&error))?;
        let status = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().to_owned();
        // The other error of a limited body is that it exceeds the limit.
        let failed = |error: Box<dyn Error + Send + Sync>| error.downcast_ref().map_or(LocalHttpError::NotHttp, classify);
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(failed)?;
        Ok(LocalResponse { status, content_type, body: body.to_bytes().to_vec() })
    });
    tokio::select! {
        biased;
        response = response.as_mut() => return response,
        // hyper hands an error of the connection to the response.
        _ = connection => {}
    }
    response.await
}

fn classify(error: &hyper::Error) -> LocalHttpError {
    if connection_ended(error) { LocalHttpError::Cut } else { LocalHttpError::NotHttp }
}

/// Whether a request failed because its connection ended. If not, the other side broke the protocol.
///
/// hyper wraps the error of a connection in that of its request, so the innermost one counts.
#[must_use]
pub fn connection_ended(error: &hyper::Error) -> bool {
    let causes = iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source());
    let innermost = causes.filter_map(|error| error.downcast_ref::<hyper::Error>()).last().unwrap_or(error);
    let is_io = innermost.source().is_some_and(<dyn Error>::is::<io::Error>);
    is_io || innermost.is_incomplete_message() || innermost.is_canceled() || innermost.is_closed()
}

/// Says in words why the connection could not be made, without the system's error number.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such socket".to_owned(),
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "the connection took too long".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    /// How an exchange ends when the server sends `sent`, and then hangs up if it is `over`. `None`: it waits for more.
    async fn outcome(sent: &str, over: bool) -> Result<Option<(u16, String)>, String> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let serve = async {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut asked).await.unwrap();
            }
            theirs.write_all(sent.as_bytes()).await.unwrap();
            (!over).then_some(theirs)
        };
        let exchanged = timeout(Duration::from_secs(3600), exchange(&mut ours, build(Method::GET, "/").unwrap()));
        let (exchanged, _open) = tokio::join!(exchanged, serve);
        let Ok(response) = exchanged else { return Ok(None) };
        let LocalResponse { status, body, .. } = response.map_err(|error| error.to_string())?;
        Ok(Some((status, String::from_utf8(body).unwrap())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_whole_by_its_length_or_by_the_connections_end() {
        for (sent, over, expected) in [
            ("", false, None),
            ("HTT", false, None),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", false, None),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\no", false, None),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false, Some((200, "ok"))),
            ("HTTP/1.1 503 \r\nA: b\r\n\r\nno", false, None),
            ("HTTP/1.1 503 \r\nA: b\r\n\r\nno", true, Some((503, "no"))),
            ("HTTP/1.1 204\r\n\r\n", true, Some((204, ""))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false, Some((200, "ok"))),
        ] {
            let expected = expected.map(|(status, body)| (status, body.to_owned()));
            assert_eq!(outcome(sent, over).await, Ok(expected), "{sent:?} {over}");
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
            let outcome = request(&endpoint, Method::GET, "/", limit);
            assert!(matches!(outcome, Err(LocalHttpError::Silent(after)) if after == limit), "{outcome:?}");
            assert!(start.elapsed() >= limit);
        }
    }

    #[test]
    fn a_unix_socket_whose_queue_is_full_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (start, limit) = (clock::instant(), Duration::from_millis(50));
        let outcome = request(&LocalEndpoint::Unix(path), Method::GET, "/", limit);
        assert_eq!(outcome.unwrap_err().to_string(), "the connection took too long");
        assert!(start.elapsed() >= limit);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_off_or_no_http_is_no_response() {
        let (cut, not_http) = (LocalHttpError::Cut.to_string(), LocalHttpError::NotHttp.to_string());
        for (sent, over, expected) in [
            ("", true, &cut),
            ("HTTP/1.0 200 OK\r\nConte", true, &cut),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok", true, &cut),
            ("SSH-2.0", false, &not_http),
            ("HTTP/1.0 fine OK\r\n\r\n", true, &not_http),
            ("HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n", true, &not_http),
        ] {
            assert_eq!(outcome(sent, over).await, Err(expected.clone()), "{sent:?} {over}");
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_or_hangs_up_before_the_request_has_its_error() {
        for (greeting, expected) in [("SSH-2.0-OpenSSH\r\n", LocalHttpError::NotHttp), ("", LocalHttpError::Cut)] {
            let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
            theirs.write_all(greeting.as_bytes()).await.unwrap();
            drop(theirs);
            let outcome = exchange(&mut ours, build(Method::GET, "/").unwrap()).await;
            assert_eq!(outcome.unwrap_err().to_string(), expected.to_string());
        }
    }

    #[tokio::test]
    async fn a_response_that_is_too_long_is_not_read_to_its_end() {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let serve = async {
            theirs.read_u8().await.unwrap();
            let (head, piece) = ("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 64 * 1024]);
            theirs.write_all(head.as_bytes()).await.unwrap();
            // This ends when the client hangs up.
            while theirs.write_all(&piece).await.is_ok() {}
        };
        let asked = async move {
            let outcome = exchange(&mut ours, build(Method::GET, "/").unwrap()).await;
            drop(ours);
            outcome
        };
        let (outcome, ()) = tokio::join!(asked, serve);
        assert!(matches!(outcome, Err(LocalHttpError::NotHttp)), "{outcome:?}");
    }
}
