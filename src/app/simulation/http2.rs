//! The simulated CarePortals server as it speaks HTTP/2 over TLS: each request is a stream, and connections end by time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{Request, Response};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    calls::{CallId, Field, Head, answer_body, is_undated, request_body},
    careportals::{self, CALL_LIMIT},
    frames::{Frames, Seen},
    ledger::Reply,
    servers::Mood,
    trailers,
    upstreams::{Awaited, Link, Number},
    wire::{End, Fate, Wire},
    world::World,
};
use crate::clock;

/// Serves one connection until it ends. What does not ask for HTTP/2, as a request for a tunnel does not, gets HTTP/1.1.
pub(super) async fn serve(world: Arc<World>, link: Link, stream: UnixStream, fate: Fate) {
    let opened = clock::instant();
    let closed = |by_server| link.number.into_iter().for_each(|number| world.upstreams().closed(number, by_server));
    let Ok(stream) = world.tls().accept(stream).await else { return closed(true) };
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        let wire = Wire::of_server(Box::new(stream), fate, Arc::clone(&world), link);
        return careportals::serve(world, link, wire).await;
    }
    // Bytes say little here: the connection ends in the middle of whatever goes on.
    let end = match fate.end {
        Some((_, _, how)) => Some((world.milliseconds(0..=6000), Some(how))),
        None => world.chance(0.3).then(|| (world.milliseconds(0..=20_000), None)),
    };
    if let Some(number) = link.number {
        world.upstreams().speaks_http2(number);
    }
    let by_server = streams(&world, link, stream, opened, end).await;
    closed(by_server);
}

/// `end`: after which time the connection ends, and how; `None`: by GOAWAY. Tells whether the server has ended it.
async fn streams(
    world: &Arc<World>,
    link: Link,
    stream: TlsStream<UnixStream>,
    opened: tokio::time::Instant,
    mut end: Option<(Duration, Option<End>)>,
) -> bool {
    let most = [1, 3, 100][world.draw(0..=2)];
    let (stream, seen) = Frames::new(stream, world, most as usize);
    let Ok(mut connection) = server::Builder::new().max_concurrent_streams(most).handshake::<_, Bytes>(stream).await else {
        return true;
    };
    let allows = |streams| link.number.into_iter().for_each(|number| world.upstreams().allows(number, streams));
    allows(Some(most as usize));
    let is_mortal = end.is_some();
    let idle = world.idle_time_out(link.server);
    let ends_at = clock::instant() + end.map_or(Duration::ZERO, |(after, _)| after);
    loop {
        tokio::select! {
            biased;
            accepted = timeout(idle, connection.accept()) => {
                let Ok(accepted) = accepted else {
                    allows(None);
                    connection.graceful_shutdown();
                    continue;
                };
                let Some(Ok((request, respond))) = accepted else { return false };
                let world = Arc::clone(world);
                tokio::spawn(async move {
                    let _exchange = Exchange { world: Arc::clone(&world), number: link.number };
                    call(&world, link, request, respond, (opened.elapsed(), is_mortal)).await;
                });
            }
            () = tokio::time::sleep_until(ends_at), if end.is_some() => match end.take().and_then(|(_, how)| how) {
                None => {
                    allows(None);
                    connection.graceful_shutdown();
                }
                Some(End::Close) => {
                    seen.end();
                    return true;
                }
                // The daemon finds it dead by a PING.
                Some(End::Silence) => {
                    if let Some(number) = link.number {
                        world.upstreams().set_apart(number);
                    }
                    be_silent(&seen, connection).await;
                    return true;
                }
            },
        }
    }
}

/// Says nothing on that connection until the daemon has closed it.
async fn be_silent(seen: &Seen, mut connection: server::Connection<Frames<TlsStream<UnixStream>>, Bytes>) {
    seen.fall_silent();
    drop(timeout(Duration::from_secs(300), async { while matches!(connection.accept().await, Some(Ok(_))) {} }).await);
    seen.judge_silence();
}

/// An exchange on a stream, until it is dropped.
struct Exchange {
    world: Arc<World>,
    number: Option<Number>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.world.upstreams().ends(number);
        }
    }
}

/// `is_mortal`: the connection ends some time, perhaps with an answer in it that has not left.
async fn call(
    world: &Arc<World>,
    link: Link,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    (age, is_mortal): (Duration, bool),
) {
    let (parts, body) = request.into_parts();
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned())
    };
    let fields = parts.headers.iter().map(field).collect();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let head = Head { method: parts.method.to_string(), path, fields };
    let Some((call, accepted)) = careportals::arrive(world, link, &head, age, true) else { return };
    if parts.uri.authority().map(ToString::to_string) != Some(link.address.to_string()) {
        world.break_promise(format!("call {call}: its authority is {:?}", parts.uri.authority()));
    }
    let mood = world.moods(link.server).1;
    let reply = |reply| world.ledger(|ledger, at| ledger.reply(at, call, reply));
    if matches!(mood, Mood::Odd | Mood::Stale) && world.chance(0.3) {
        reply(Reply::Unprocessed);
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let refuses = !accepted || matches!(mood, Mood::Status(401, _)) || (mood == Mood::Odd && world.chance(0.66));
    let is_early = refuses && world.chance(0.4);
    if is_early || is_mortal {
        world.ledger(|ledger, _| ledger.answers_early(call));
    }
    if !is_early && read_body(world, body, call, &head.method).await.is_none() {
        return;
    }
    if refuses {
        let name = careportals::refuse(world, &head, call);
        reply(Reply::Refused);
        if answer(world, &mut respond, 401, None, Bytes::from_static(b"{\"message\":\"Unauthorized\"}"), call).await.is_some() {
            world.ledger(|ledger, at| ledger.refused_whole(at, call, &name, world.terms().floor));
        }
        return;
    }
    if !matches!(mood, Mood::Status(..)) {
        world.ledger(|ledger, at| ledger.execute(call, at));
    }
    carry_out(world, link, &mut respond, (call, &head), (mood, is_mortal)).await;
}

/// Answers a call that was carried out, as the server's mood is.
async fn carry_out(
    world: &Arc<World>,
    link: Link,
    respond: &mut SendResponse<Bytes>,
    (call, head): (CallId, &Head),
    (mood, is_mortal): (Mood, bool),
) {
    let reply = |reply| world.ledger(|ledger, at| ledger.reply(at, call, reply));
    match mood {
        Mood::Status(status, retry_after) => {
            reply(Reply::Answered);
            answer(world, respond, status, retry_after, Bytes::from_static(b"{\"message\":\"not now\"}"), call).await;
        }
        Mood::Stale => respond.send_reset(Reason::CANCEL),
        Mood::Garbage => respond.send_reset(Reason::INTERNAL_ERROR),
        Mood::Silent => {
            if !is_mortal {
                reply(Reply::Silent);
            }
            given_up(world, (call, Awaited::Head), is_mortal, std::future::poll_fn(|cx| respond.poll_reset(cx))).await;
        }
        // A HEAD has its whole answer by then.
        Mood::Truncated | Mood::Stalled if head.method != "HEAD" => {
            reply(Reply::Answered);
            let Ok(mut stream) = respond.send_response(head_of(200, call).body(()).unwrap(), false) else { return };
            drop(stream.send_data(Bytes::from_static(b"half"), false));
            if mood == Mood::Stalled {
                return given_up(world, (call, Awaited::Body), is_mortal, std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
            }
            // A reset drops what has not left yet.
            sleep(Duration::from_millis(5)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        _ => {
            let is_stream = mood == Mood::Well && careportals::pauses_as_stream(call, head);
            let mut pauses = is_stream.then_some(careportals::EVENTS_PAUSE);
            if let Mood::Slow(time) = mood {
                if careportals::pauses_in_answer(call, head, time) {
                    pauses = Some(time.min(careportals::longest_pause(world, call)));
                } else {
                    sleep(time).await;
                }
            }
            reply(Reply::Answered);
            answer_call(world, respond, link, call, head, (pauses, is_mortal)).await;
        }
    }
}

async fn read_body(world: &World, mut body: RecvStream, call: CallId, method: &str) -> Option<()> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        bytes.extend_from_slice(&piece);
        world.upstreams().received(call, bytes.len());
        body.flow_control().release_capacity(piece.len()).ok()?;
    }
    let trailers = body.trailers().await.ok()?.map(|trailers| trailers::fields(&trailers)).unwrap_or_default();
    world.judge_trailers(call, &trailers, true);
    if bytes != request_body(call, method) {
        world.break_promise(format!("call {call}: its body of {} bytes is not what its client sent", bytes.len()));
    }
    Some(())
}

fn head_of(status: u16, call: CallId) -> http::response::Builder {
    Response::builder().status(status).header("x-answer", call)
}

/// Answers well. `pauses`: in pieces, with pauses of that time.
async fn answer_call(
    world: &World,
    respond: &mut SendResponse<Bytes>,
    link: Link,
    call: CallId,
    head: &Head,
    (pauses, is_mortal): (Option<Duration>, bool),
) -> Option<()> {
    let mut body = if head.method == "HEAD" { Bytes::new() } else { Bytes::from(answer_body(call)) };
    let mut response = head_of(200, call);
    for (name, value) in world.heads().of_answer(call, link.address, true) {
        response = response.header(name, value);
    }
    if !is_undated(call) {
        response = response.header("date", world.http_date());
    }
    let mut stream = respond.send_response(response.body(()).unwrap(), body.is_empty()).ok()?;
    let trailers =
        trailers::has_answer(call, &head.method, true).then(|| trailers::of_answer(call, &head.all("authorization").join("")));
    let Some(time) = pauses.filter(|_| body.len() > 2) else { return finish(world, &mut stream, body, trailers).await };
    for left in [2, 1] {
        let later = body.split_off(body.len() - body.len() * left / (left + 1));
        send(world, &mut stream, body, false).await?;
        let reset = timeout(time, std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
        if reset.is_ok() {
            if !is_mortal && world.upstreams().is_waited_for(call) {
                world.break_promise(format!("call {call}: the daemon has given up an answer that came"));
            }
            return None;
        }
        let sent = answer_body(call).len() * (3 - left) / 3;
        if let Some(fault) = world.upstreams().judge_delivery(call, sent.saturating_sub(3)).filter(|_| !is_mortal) {
            world.break_promise(format!("call {call}: {fault}"));
        }
        body = later;
    }
    finish(world, &mut stream, body, trailers).await
}

/// Sends the rest of a body, and the trailers.
async fn finish(world: &World, stream: &mut SendStream<Bytes>, body: Bytes, trailers: Option<Vec<Field>>) -> Option<()> {
    send(world, stream, body, trailers.is_none()).await?;
    trailers.map_or(Some(()), |trailers| stream.send_trailers(trailers::map(&trailers)).ok())
}

async fn answer(
    world: &World,
    respond: &mut SendResponse<Bytes>,
    status: u16,
    retry_after: Option<u32>,
    body: Bytes,
    call: CallId,
) -> Option<()> {
    let mut head = head_of(status, call).header("date", world.http_date());
    if let Some(seconds) = retry_after {
        head = head.header("retry-after", seconds);
    }
    let mut stream = respond.send_response(head.body(()).unwrap(), body.is_empty()).ok()?;
    send(world, &mut stream, body, true).await
}

/// Sends some of a body; `last`: the rest of it.
async fn send(world: &World, stream: &mut SendStream<Bytes>, mut body: Bytes, last: bool) -> Option<()> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        if stream.capacity() == 0 {
            std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        }
        let piece = body.split_to(stream.capacity().min(body.len()).min(world.draw(1..=16_000)));
        stream.send_data(piece, last && body.is_empty()).ok()?;
    }
    Some(())
}

/// Waits until the daemon gives up, which it has to within the limit, unless the connection may have ended.
async fn given_up(
    world: &World,
    (call, awaited): (CallId, Awaited),
    is_mortal: bool,
    reset: impl Future<Output = Result<Reason, h2::Error>>,
) {
    let since = clock::instant();
    drop(timeout(CALL_LIMIT + Duration::from_secs(1), reset).await);
    if !is_mortal && let Some(fault) = world.upstreams().judge_wait(call, awaited, since.elapsed()) {
        world.break_promise(format!("call {call}: {fault}"));
    }
}
