//! What a client reads of answers, byte by byte over HTTP/1.x, and by h2's client over HTTP/2.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use h2::client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    deadline::Deadlines,
    server::{ConnectionLimit, SharedDescriptors},
};

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_bytes: 8192,
    head_lines: 8,
    head_timeout: Duration::from_secs(10),
    client_idle: Duration::from_secs(3600),
    client_stall: Duration::from_secs(300),
    streams: Some(100),
};

/// No answer takes so long.
const SOON: Duration = Duration::from_secs(10);

/// Answers by the path of the request.
struct Scripted;

/// A body of these bytes, of known length or not.
struct Scribbled {
    frames: VecDeque<Bytes>,
    has_length: bool,
    kind: AnswerKind,
}

impl Body for Scribbled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_length && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_length {
            SizeHint::with_exact(self.frames.iter().map(|bytes| bytes.len() as u64).sum())
        } else {
            SizeHint::new()
        }
    }
}

impl RequestService for Scripted {
    type Body = Scribbled;

    async fn answer(self: Arc<Self>, request: Request<RequestBody>, _: Peer) -> Response<Scribbled> {
        let kind = match request.uri().path() {
            "/own" => AnswerKind::Own,
            "/refused" => AnswerKind::CallerRefused,
            _ => AnswerKind::Forwarded,
        };
        let (frames, has_length) = match request.uri().path() {
            "/empty" | "/204" => (VecDeque::new(), true),
            "/unknown" => (["he", "llo"].map(Bytes::from).into(), false),
            _ => (["hello"].map(Bytes::from).into(), true),
        };
        let mut answer = Response::new(Scribbled { frames, has_length, kind });
        *answer.status_mut() = match request.uri().path() {
            "/204" => StatusCode::NO_CONTENT,
            "/304" => StatusCode::NOT_MODIFIED,
            "/odd" => StatusCode::from_u16(299).unwrap(),
            _ => StatusCode::OK,
        };
        if answer.status() == StatusCode::NOT_MODIFIED {
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(5));
        }
        answer
    }

    fn kind(answer: &Response<Scribbled>) -> AnswerKind {
        answer.body().kind
    }

    fn lets_in(&self, _: &Peer) -> bool {
        true
    }

    fn limits(&self) -> ConnectionLimits {
        LIMITS
    }
}

/// Connects to a server of one connection.
async fn connect() -> (TcpStream, ConnectionLimit) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, from) = listener.accept().await.unwrap();
    let ours = stream.local_addr().unwrap();
    let (limit, deadlines) = (SharedDescriptors::default().limit(1), Deadlines::default());
    let (drain, gone) = Drain::new();
    let state = ConnectionState::begin(limit.take(&deadlines, true).unwrap(), LIMITS, drain.hold());
    let peer = Peer::tcp(from, ours);
    tokio::spawn(async move {
        let _gone = gone;
        tokio::select! {
            () = serve(ClientStream::Tcp(stream, [from, ours]), peer, Arc::new(Scripted), state, drain) => {}
            () = deadlines.run() => {}
        }
    });
    (client, limit)
}

/// What comes of these bytes until the server closes, without `Date`.
async fn told(written: &str) -> String {
    let (mut client, _limit) = connect().await;
    client.write_all(written.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    timeout(SOON, client.read_to_end(&mut read)).await.expect("the connection stays open").unwrap();
    let read = String::from_utf8(read).unwrap();
    assert!(read.contains("\r\ndate: "), "{read}");
    read.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn an_answer_is_framed_for_the_version_and_method_that_asked_for_it() {
    for (request, answer) in [
        ("GET / HTTP/1.1", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("GET /unknown HTTP/1.1", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("GET /empty HTTP/1.1", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("GET /204 HTTP/1.1", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304 HTTP/1.1", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("GET /odd HTTP/1.1", "HTTP/1.1 299 \r\ncontent-length: 5\r\n\r\nhello"),
        ("HEAD / HTTP/1.1", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("HEAD /unknown HTTP/1.1", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET / HTTP/1.0", "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("GET /unknown HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nhello"),
        ("GET /own HTTP/1.1", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("GET /refused HTTP/1.1", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"),
    ] {
        assert_eq!(told(&format!("{request}\r\nhost: localhost\r\n\r\n")).await, answer, "{request}");
    }
}

#[tokio::test]
async fn after_an_answer_the_connection_takes_the_next_request_unless_its_caller_is_refused() {
    let two = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").repeat(2);
    for (path, answers) in [("/", 2), ("/own", 2), ("/unknown", 2), ("/refused", 1)] {
        let told = told(&two(path)).await;
        assert_eq!(told.matches("HTTP/1.1 200 OK").count(), answers, "{path}: {told}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_counted() {
    let many = |lines: usize| format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(lines));
    for (written, status, counted) in [
        ("nonsense\r\n\r\n".to_owned(), "400", Some("malformed")),
        (many(7), "200", None),
        (many(8), "431", Some("head_too_large")),
        (format!("GET / HTTP/1.1\r\nhost: a\r\na: {}\r\n\r\n", "x".repeat(9000)), "431", Some("head_too_large")),
    ] {
        let (mut client, limit) = connect().await;
        client.write_all(written.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        timeout(SOON, client.read_to_end(&mut read)).await.expect("the connection stays open").unwrap();
        let read = String::from_utf8(read).unwrap();
        assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{read}");
        let errors = limit.client_errors().into_iter().filter(|(.., count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(errors, counted.map(|what| ("".into(), what, 1)).into_iter().collect::<Vec<_>>(), "{status}");
    }
}

#[tokio::test]
async fn over_http2_an_answer_has_no_content_where_there_is_none_and_too_many_fields_are_refused() {
    let (stream, limit) = connect().await;
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    // Eight fields are allowed.
    for (fields, status) in [(8, 200), (9, 431)] {
        let mut request = Request::get("http://localhost/").body(()).unwrap();
        NAMES[..fields].iter().for_each(|name| drop(request.headers_mut().insert(*name, HeaderValue::from_static("b"))));
        let answer = sender.send_request(request, true).unwrap().0;
        assert_eq!(timeout(SOON, answer).await.expect("no answer").unwrap().status(), status);
    }
    for (method, path, status, length, content) in [
        (Method::GET, "/", 200, None, "hello"),
        (Method::GET, "/unknown", 200, None, "hello"),
        (Method::HEAD, "/", 200, Some("5"), ""),
        (Method::HEAD, "/unknown", 200, None, ""),
        (Method::GET, "/204", 204, None, ""),
        (Method::GET, "/304", 304, Some("5"), ""),
        (Method::GET, "/refused", 200, None, "hello"),
    ] {
        let request = Request::builder().method(&method).uri(format!("http://localhost{path}")).body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0;
        let answer = timeout(SOON, answer).await.expect("no answer").unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.headers().contains_key("date") && !answer.headers().contains_key(CONNECTION));
        if let Some(length) = length {
            assert_eq!(answer.headers()[CONTENT_LENGTH], length, "{method} {path}");
        }
        let (mut body, mut read) = (answer.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            read.extend_from_slice(&data.unwrap());
        }
        assert_eq!(read, content.as_bytes(), "{method} {path}");
    }
    // A refused caller's answer is the last one.
    drop(sender);
    timeout(SOON, driver).await.expect("the connection stays open").unwrap();
    assert_eq!(limit.client_errors().iter().map(|(.., count)| count).sum::<u64>(), 1);
}

const NAMES: [&str; 9] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"];
