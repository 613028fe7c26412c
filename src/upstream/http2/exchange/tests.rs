//! What the server sees of a request, and what becomes of its answer. The server is h2's, on plain TCP.

use std::{collections::VecDeque, convert::Infallible, fmt, net::Ipv4Addr, num::NonZeroUsize, sync::Arc, time::Duration};

use h2::server;
use http::HeaderValue;
use http_body_util::{Empty, Full};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    super::pool::{Checkout, Http2Pool},
    *,
};
use crate::{
    clock,
    connect::{Connection, Protocol},
    metrics::Metrics,
    upstream::{KeepAlive, Reuse, http2::connection},
    upstream_io::{CountingTcp, UpstreamIo},
};

const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: HeadLimits = HeadLimits { bytes: 150, lines: 3 };

type Serving = server::Connection<TcpStream, Bytes>;
type Exchanged = (Http2Pool, Result<Response<Http2Body>, SendError>);

/// Sends `request` to a server that is played by `serve`.
async fn exchange<B, F>(request: Request<B>, serve: impl FnOnce(Serving) -> F + Send + 'static) -> Exchanged
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    tokio::spawn(async move { serve(server::handshake(theirs).await.unwrap()).await });
    let written = Arc::default();
    let stream = UpstreamIo::Plain(CountingTcp::new(tcp, Arc::clone(&written)));
    let connection = Connection { stream, written, protocol: Protocol::Http2 };
    let gauge = Metrics::new::<Infallible, Infallible>(NonZeroUsize::MIN).api("emr").meter(0).connected();
    let authority = Authority::from_static("upstream.example.test");
    let (handle, driver) = connection::open(connection, authority, LIMITS, gauge).await.unwrap();
    let pool = Http2Pool::new(HOUR, KeepAlive::default());
    let Checkout::Connect(pending) = pool.checkout(Reuse::Any) else { panic!("not to connect") };
    let permit = pool.insert(handle, driver, Some(pending), clock::instant() + HOUR);
    (pool, tokio::time::timeout(Duration::from_secs(10), send(permit, request)).await.expect("no outcome"))
}

/// Answers the first request so, and the rest of the connection not at all.
async fn answer(mut serving: Serving, respond: impl FnOnce(Request<RecvStream>, server::SendResponse<Bytes>)) {
    let (request, response) = serving.accept().await.unwrap().unwrap();
    respond(request, response);
    while serving.accept().await.is_some() {}
}

fn empty() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn fields_of_an_http1_connection_stay_behind_and_the_others_keep_their_order() {
    let mut request = Request::new(());
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = "/a?b=c".parse().unwrap();
    for (name, value) in [
        ("x-a", "1"),
        ("host", "localhost:2273"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers"),
        ("accept", "*/*"),
        ("x-a", "2"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let head = http2_head(&mut request, &Authority::from_static("upstream.example.test")).unwrap();
    assert_eq!((head.method(), head.version()), (&Method::PUT, Version::HTTP_2));
    assert_eq!(head.uri(), "https://upstream.example.test/a?b=c");
    let kept: Vec<_> = head.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(kept, [("x-a", "1"), ("x-a", "2"), ("te", "trailers"), ("accept", "*/*")]);
}

#[tokio::test]
async fn a_head_over_the_limits_is_no_answer() {
    let long = |length: usize| "x".repeat(length);
    let [whole, half, over] = [long(145), long(70), long(146)];
    for (headers, fits) in [
        (fields(&[("a", &whole)]), true),
        (fields(&[("a", &over)]), false),
        (fields(&[("a", &half), ("b", &half)]), true),
        (fields(&[("a", &half), ("bc", &half)]), false),
        (fields(&[("a", ""), ("b", ""), ("c", "")]), true),
        (fields(&[("a", ""), ("b", ""), ("c", ""), ("d", "")]), false),
    ] {
        let mut head = Response::new(());
        *head.headers_mut() = headers.clone();
        let respond = |_, mut response: server::SendResponse<Bytes>| drop(response.send_response(head, true).unwrap());
        let (_, answered) = exchange(empty(), move |serving| answer(serving, respond)).await;
        let expected = if fits { Ok(()) } else { Err(SendError::after_sending(Cause::HeadTooLarge)) };
        assert_eq!(answered.map(drop), expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_was_not_acted_on_and_any_other_reset_may_have_been() {
    let unsent = |cause| SendError { cause, sent: Sent::Nothing };
    for (reason, expected) in [
        (Reason::REFUSED_STREAM, unsent(Cause::Closed)),
        (Reason::HTTP_1_1_REQUIRED, unsent(Cause::Http1Required)),
        (Reason::CANCEL, SendError::after_sending(Cause::Closed)),
        (Reason::INTERNAL_ERROR, SendError::after_sending(Cause::Closed)),
        (Reason::NO_ERROR, SendError::after_sending(Cause::Closed)),
    ] {
        let respond = move |_, mut response: server::SendResponse<Bytes>| response.send_reset(reason);
        let (pool, answered) = exchange(empty(), move |serving| answer(serving, respond)).await;
        assert_eq!(answered.map(drop), Err(expected), "{reason}");
        assert_eq!(pool.is_http1(), reason == Reason::HTTP_1_1_REQUIRED, "{reason}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_after_an_interim_answer_is_an_answer_broken_off() {
    let respond = |_, mut response: server::SendResponse<Bytes>| {
        response.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
        tokio::spawn(async move {
            // A reset that is read together with the interim answer hides it.
            for _ in 0..5000 {
                tokio::task::yield_now().await;
            }
            response.send_reset(Reason::CANCEL);
        });
    };
    let (_, answered) = exchange(empty(), move |serving| answer(serving, respond)).await;
    assert_eq!(answered.map(drop), Err(SendError::after_sending(Cause::BrokenOff)));
}

/// Reads a request to its end: its body and its trailers.
async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, body.trailers().await?))
}

/// What the server reads of a request that it answers at once.
async fn read_of<B>(request: Request<B>) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (told, whole) = oneshot::channel();
    let respond = |request: Request<RecvStream>, mut response: server::SendResponse<Bytes>| {
        tokio::spawn(async move {
            let read = read(request.into_body()).await;
            let _ = response.send_response(Response::new(()), true);
            let _ = told.send(read);
        });
    };
    let (_, answered) = exchange(request, move |serving| answer(serving, respond)).await;
    assert_eq!(answered.unwrap().status(), StatusCode::OK);
    whole.await.unwrap()
}

#[tokio::test]
async fn a_body_arrives_whole_however_large_and_in_however_many_pieces() {
    // Beyond the window of a stream.
    let large = Bytes::from(vec![7; 300_000]);
    for body in [Bytes::new(), Bytes::from_static(b"abc"), large] {
        assert_eq!(read_of(Request::new(Full::new(body.clone()))).await.unwrap(), (body.to_vec(), None));
    }
    let trailers = fields(&[("x-sum", "6")]);
    for last in [None, Some(trailers)] {
        let pieces = ["a", "", "bc"].map(|piece| Frame::data(Bytes::from(piece)));
        let frames = pieces.into_iter().chain(last.clone().map(Frame::trailers)).collect();
        assert_eq!(read_of(Request::new(Frames { frames, end: End::Whole })).await.unwrap(), (b"abc".to_vec(), last));
    }
}

/// A body of these frames.
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    end: End,
}

enum End {
    /// It is all of the body.
    Whole,
    /// The client goes away.
    Broken,
    /// The client sends no more, and stays.
    Silent,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = fmt::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, fmt::Error>>> {
        match (self.frames.pop_front(), &self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, End::Whole) => Poll::Ready(None),
            (None, End::Broken) => Poll::Ready(Some(Err(fmt::Error))),
            (None, End::Silent) => Poll::Pending,
        }
    }
}

fn beginning(end: End) -> Request<Frames> {
    Request::new(Frames { frames: [Frame::data(Bytes::from("ab"))].into(), end })
}

#[tokio::test]
async fn a_client_that_breaks_its_body_off_resets_the_stream() {
    let (told, outcome) = oneshot::channel();
    let respond = |request: Request<RecvStream>, response: server::SendResponse<Bytes>| {
        tokio::spawn(async move {
            let _ = told.send(read(request.into_body()).await);
            drop(response);
        });
    };
    let (_, answered) = exchange(beginning(End::Broken), move |serving| answer(serving, respond)).await;
    assert_eq!(answered.map(drop), Err(SendError::after_sending(Cause::RequestBody)));
    assert_eq!(outcome.await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn once_nobody_reads_the_answer_the_rest_of_the_request_is_given_up() {
    let (told, outcome) = oneshot::channel();
    let respond = |request: Request<RecvStream>, mut response: server::SendResponse<Bytes>| {
        response.send_response(Response::new(()), true).unwrap();
        tokio::spawn(async move { told.send(read(request.into_body()).await) });
    };
    let (_pool, answered) = exchange(beginning(End::Silent), move |serving| answer(serving, respond)).await;
    drop(answered.unwrap());
    let outcome = tokio::time::timeout(Duration::from_secs(10), outcome).await.expect("the request goes on");
    assert_eq!(outcome.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
}

/// Answers with this length, these bytes and these trailers.
async fn answering(
    request: Request<Empty<Bytes>>,
    length: &str,
    bytes: &'static [u8],
    last: Option<HeaderMap>,
) -> Response<Http2Body> {
    let head = Response::builder().header(CONTENT_LENGTH, length).body(()).unwrap();
    let respond = |_, mut response: server::SendResponse<Bytes>| {
        let mut body = response.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(bytes), last.is_none()).unwrap();
        if let Some(trailers) = last {
            body.send_trailers(trailers).unwrap();
        }
    };
    exchange(request, move |serving| answer(serving, respond)).await.1.unwrap()
}

async fn next(body: &mut Http2Body) -> Option<Result<Frame<Bytes>, BodyBroken>> {
    tokio::time::timeout(Duration::from_secs(10), poll_fn(|cx| body.poll_frame(cx))).await.expect("no frame")
}

#[tokio::test]
async fn an_answer_says_how_much_is_left_of_it_and_when_it_has_ended() {
    let mut body = answering(empty(), "5", b"hello", Some(fields(&[("x-sum", "6")]))).await.into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
    assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap(), "hello");
    assert_eq!(next(&mut body).await.unwrap().unwrap().into_trailers().unwrap()["x-sum"], "6");
    assert!(next(&mut body).await.is_none());
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
}

#[tokio::test]
async fn the_length_in_an_answer_to_head_is_not_that_of_its_body() {
    let mut request = empty();
    *request.method_mut() = Method::HEAD;
    let mut body = answering(request, "5", b"", None).await.into_body();
    assert_ne!(body.size_hint().exact(), Some(5));
    assert_eq!(next(&mut body).await.map_or(0, |frame| frame.unwrap().into_data().unwrap().len()), 0);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn an_answer_that_is_reset_is_broken_off_and_not_at_its_end() {
    let respond = |_, mut response: server::SendResponse<Bytes>| {
        let mut body = response.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        tokio::spawn(async move {
            // The head leaves first.
            for _ in 0..5000 {
                tokio::task::yield_now().await;
            }
            body.send_reset(Reason::NO_ERROR);
        });
    };
    let (_pool, answered) = exchange(empty(), move |serving| answer(serving, respond)).await;
    let mut body = answered.unwrap().into_body();
    let mut last = next(&mut body).await;
    while let Some(Ok(_)) = last {
        last = next(&mut body).await;
    }
    assert_eq!(last.map(|frame| frame.map(drop)), Some(Err(BodyBroken)));
}

#[tokio::test]
async fn an_answer_beyond_the_window_of_a_stream_is_read_to_its_end() {
    static LARGE: [u8; 500_000] = [7; 500_000];
    let mut body = answering(empty(), "500000", &LARGE, None).await.into_body();
    let mut read = 0;
    while let Some(frame) = next(&mut body).await {
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, LARGE.len());
}
