//! Simulated apps: each makes calls, one after the other or several at a time, over HTTP/1.1 or h2c, now and then slowly, and now
//! and then gives up.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Sleep, sleep, timeout},
};

use super::{
    calls::{CallId, Field, Sender, answer_body, request_body},
    ledger::Ending,
    refusals,
    servers::RELIES_ON_KEYS,
    trailers,
    world::World,
};

/// No call takes longer, whatever goes wrong: three sends with their time-outs, and the waits for tokens and connections.
pub(super) const LIMIT: Duration = Duration::from_secs(150);

/// One app's connection to the daemon.
struct Connection {
    sender: RequestSender,
    /// The same socket as the sender's.
    socket: std::os::unix::net::UnixStream,
    /// A request was refused while its body came slowly. The rest of the body and the next head would have one `head_timeout`.
    is_spent: bool,
}

enum RequestSender {
    Http1(http1::SendRequest<Pieces>),
    Http2(http2::SendRequest<Pieces>),
}

impl Connection {
    async fn open(world: &Arc<World>, account: usize) -> Option<Self> {
        let stream = UnixStream::connect(world.listener(account)).await.ok()?.into_std().ok()?;
        let socket = stream.try_clone().ok()?;
        let stream = UnixStream::from_std(stream).ok()?;
        // Where places are few, a head that comes slowly gives up its own.
        let slowness = (world.has_room() && world.chance(0.15)).then(|| (world.draw(1..=400), world.milliseconds(1..=700)));
        let io = TokioIo::new(Dribbling { stream, slowness, pause: None });
        if world.chance(0.6) {
            let (sender, connection) = http1::handshake(io).await.ok()?;
            tokio::spawn(connection);
            Some(Self { sender: RequestSender::Http1(sender), socket, is_spent: false })
        } else {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            tokio::spawn(connection);
            Some(Self { sender: RequestSender::Http2(sender), socket, is_spent: false })
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            RequestSender::Http1(sender) => sender.is_closed(),
            RequestSender::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Pieces>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            RequestSender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            RequestSender::Http2(sender) => sender.clone().send_request(request).await,
        }
    }
}

/// Makes calls until the world ends its clients.
pub(super) async fn run(world: Arc<World>, number: usize) {
    let mut connection: Option<Connection> = None;
    let (busy, account) = (world.chance(0.3), usize::from(world.chance(0.3)));
    while world.has_clients() {
        let pause = if busy { world.milliseconds(0..=1200) } else { world.milliseconds(0..=9000) };
        sleep(pause).await;
        if connection.as_ref().is_none_or(Connection::is_closed) || world.chance(0.1) {
            connection = Connection::open(&world, account).await;
        }
        let Some(open) = &mut connection else {
            if world.is_listening() && world.has_room() {
                world.break_promise(format!("client {number} can't connect"));
            }
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        let patience = if world.chance(0.05) { world.milliseconds(1..=4000) } else { LIMIT };
        let ending = call(&world, open, (number, account), patience).await;
        if ending == Ending::GivenUp {
            // By itself it would first write the rest of the request, perhaps slowly.
            drop(open.socket.shutdown(std::net::Shutdown::Both));
        }
        if matches!(ending, Ending::Cut | Ending::GivenUp | Ending::Unsent) || open.is_spent {
            connection = None;
        }
    }
}

/// Makes one call, and tells the ledger how it ended.
async fn call(world: &Arc<World>, connection: &mut Connection, (client, account): (usize, usize), patience: Duration) -> Ending {
    let call = world.next_call();
    let method = ["GET", "GET", "GET", "HEAD", "POST", "POST", "POST", "PUT", "DELETE"][world.draw(0..=8)];
    let has_key = method == "POST" && world.chance(0.3);
    world.note(&format!("client {client}: {method} {call}"));
    let body = request_body(call, method);
    world.begin_call(call, method == "POST" && !(has_key && account == RELIES_ON_KEYS), body.len(), account);
    world.upstreams().reads(call);
    let sender = if matches!(connection.sender, RequestSender::Http1(_)) { Sender::Http1 } else { Sender::Http2 };
    let (target, more) = world.heads().of_call(call, account, method, sender);
    let body = Pieces::of(world, body, world.heads().sends_trailers(call).then(|| trailers::map(&trailers::of_call(call))));
    let is_slow = sender == Sender::Http1 && body.left.iter().any(|(pause, _)| !pause.is_zero());
    let uri = if sender == Sender::Http1 { target } else { format!("http://localhost{target}") };
    let request = Request::builder().method(method).uri(uri).header("host", "localhost").header("x-call", call);
    let request = request.header("x-request-id", format!("call-{call}"));
    let mut request = if has_key { request.header("idempotency-key", call) } else { request };
    if has_key {
        // It may be sent again, and takes a fresh connection all the same.
        world.upstreams().needs_safe_connection(call);
        world.heads().also(call, "idempotency-key", &call.to_string());
    }
    for (name, value) in more {
        request = request.header(name, value);
    }
    // Everything in it is plain ASCII.
    let request = request.body(body).unwrap();
    let ending = match timeout(patience, exchange(world, connection, request, call, method)).await {
        Ok(ending) => ending,
        Err(_) if patience < LIMIT => Ending::GivenUp,
        Err(_) => {
            world.break_promise(format!("call {call} has not ended within {LIMIT:?}"));
            Ending::GivenUp
        }
    };
    if matches!(&ending, Ending::Refused(_, code) if code == "request_body_timeout") {
        world.break_promise(format!("call {call}: its body was never silent for so long"));
    }
    connection.is_spent = is_slow && matches!(ending, Ending::Refused(..));
    world.note(&format!("client {client}: {call} ends as {ending:?}"));
    world.end_call(call, &ending);
    ending
}

async fn exchange(
    world: &Arc<World>,
    connection: &mut Connection,
    request: Request<Pieces>,
    call: CallId,
    method: &str,
) -> Ending {
    let cut = |error: hyper::Error| {
        world.note(&format!("client of {call}: {error:?}"));
        if error.is_canceled() || error.is_closed() { Ending::Unsent } else { Ending::Cut }
    };
    let response = match connection.send(request).await {
        Ok(response) => response,
        Err(error) => return cut(error),
    };
    let (head, mut rest) = response.into_parts();
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    world.upstreams().got(call, 0);
    while let Some(frame) = rest.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.trailers_ref().map(trailers::fields).unwrap_or_default(),
            },
            Err(error) => return cut(error),
        }
        world.upstreams().got(call, body.len());
    }
    let field = |(name, value): (&'_ HeaderName, &'_ HeaderValue)| {
        (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned())
    };
    let fields: Vec<_> = head.headers.iter().map(field).collect();
    judge(world, (call, method), head.status.as_u16(), &fields, (&body, &trailers))
}

/// Judges a whole answer.
pub(super) fn judge(
    world: &World,
    (call, method): (CallId, &str),
    status: u16,
    fields: &[(String, String)],
    (body, trailers): (&[u8], &[Field]),
) -> Ending {
    if status != 101 {
        world.ledger(|ledger, _| ledger.got(call, body.len()));
    }
    let text = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if fields.iter().chain(trailers).any(|(_, value)| value.contains("e30.")) {
        world.break_promise(format!("call {call} got a token"));
    }
    if text("x-request-id") != Some(format!("call-{call}").as_str()) {
        world.break_promise(format!("call {call} got the request id {:?}", text("x-request-id")));
    }
    if text("proxy-status").is_some() {
        if let Some(fault) = refusals::judge_problem(fields, status, body, &format!("call-{call}"), method) {
            world.break_promise(format!("call {call}: {fault}"));
        }
        let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or(if method == "HEAD" { "head" } else { "" }).to_owned();
        if !matches!(status, 502..=504) && code != "request_body_timeout" {
            world.break_promise(format!("call {call} was refused: {status} {code}"));
        }
        let may_try_again = text("retry-after").and_then(|after| after.parse::<u32>().ok()).is_some_and(|after| after > 0);
        if (status == 503) != may_try_again {
            world.break_promise(format!("call {call} was refused as {code}, with Retry-After: {:?}", text("retry-after")));
        }
        return Ending::Refused(status, code);
    }
    if status == 200 {
        world.judge_answer(call, method, fields, trailers);
        let wanted = if method == "HEAD" { Vec::new() } else { answer_body(call) };
        if text("x-answer") != Some(call.to_string().as_str()) || body != wanted {
            world.break_promise(format!("call {call} got an answer to {:?}, {} bytes", text("x-answer"), body.len()));
        }
    }
    Ending::Answered(status)
}

/// A body in pieces, some of which come late.
struct Pieces {
    left: VecDeque<(Duration, Frame<Bytes>)>,
    pause: Option<Pin<Box<Sleep>>>,
    /// `None`: it goes chunked.
    length: Option<u64>,
}

impl Pieces {
    fn of(world: &Arc<World>, body: Vec<u8>, trailers: Option<http::HeaderMap>) -> Self {
        let (length, slow) = (body.len() as u64, world.chance(0.2));
        let (mut left, mut rest) = (VecDeque::new(), Bytes::from(body));
        while !rest.is_empty() {
            let piece = rest.split_to(world.draw(1..=rest.len()));
            let late = slow && left.len() < 6;
            // Never for as long as `body_idle`, but all together.
            let pause = if world.has_room() && world.chance(0.1) { 0..=9000 } else { 0..=1500 };
            left.push_back((if late { world.milliseconds(pause) } else { Duration::ZERO }, Frame::data(piece)));
        }
        let has_length = trailers.is_none() && world.chance(0.7);
        if let Some(trailers) = trailers {
            left.push_back((if slow { world.milliseconds(0..=1500) } else { Duration::ZERO }, Frame::trailers(trailers)));
        }
        Self { left, pause: None, length: has_length.then_some(length) }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Some((pause, _)) = this.left.front() else { return Poll::Ready(None) };
        if !pause.is_zero() {
            let pause = *pause;
            ready!(this.pause.get_or_insert_with(|| Box::pin(sleep(pause))).as_mut().poll(cx));
            this.pause = None;
        }
        Poll::Ready(this.left.pop_front().map(|(_, piece)| Ok(piece)))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.left.is_empty() {
            SizeHint::with_exact(0)
        } else {
            self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }
}

/// A stream that may write a few bytes at a time, with pauses.
struct Dribbling {
    stream: UnixStream,
    /// How many bytes, and how long the pause after them.
    slowness: Option<(usize, Duration)>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Dribbling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dribbling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        // A long body is not dribbled to its end.
        let most = this.slowness.map_or(bytes.len(), |(most, _)| most.min(bytes.len()));
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..most]))?;
        if let Some((most, pause)) = &mut this.slowness {
            this.pause = Some(Box::pin(sleep(*pause)));
            *most = most.saturating_mul(4);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
