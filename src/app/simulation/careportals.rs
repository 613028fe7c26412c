//! A simulated CarePortals server: what it does with connections and calls, and what may be wrong with them.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    calls::{CallId, Head, answer_body, is_event_stream, is_undated, request_body},
    ledger::{Reply, arrivals::Arrival},
    log_ins,
    messages::{answer, be_silent, chunked_with, misbehave, read_body_into, read_head, truncated},
    servers::Mood,
    trailers,
    upstreams::{Awaited, Link},
    wire::Wire,
    world::World,
};
use crate::clock;

/// For how long the daemon may wait for a silent server: the larger of `response_timeout` and `body_idle`; and a moment.
pub(super) const CALL_LIMIT: Duration = Duration::from_millis(20_500);

/// Serves one connection until it ends.
pub(super) async fn serve(world: Arc<World>, link: Link, mut wire: Wire) {
    let opened = clock::instant();
    loop {
        let idle = world.idle_time_out(link.server);
        let Ok(Some(head)) = timeout(idle, read_head(&mut wire)).await else { return wire.close() };
        let on = if head.method == "POST" && head.path == "/auth" {
            if link.number.is_some() {
                world.break_promise("a request for a log-in passed".to_owned());
            }
            log_ins::answer_log_in(&world, link.server, &mut wire, &head).await
        } else {
            call(&world, link, &mut wire, &head, opened.elapsed()).await
        };
        // Most servers keep the connection; a few close it now and then.
        if on.is_none() || world.chance(0.05) {
            return wire.close();
        }
        if let Some(number) = link.number {
            world.upstreams().ends(number);
        }
    }
}

/// Judges a call's head. Tells which call it is, and whether its token is accepted.
pub(super) fn arrive(world: &World, link: Link, head: &Head, age: Duration, is_http2: bool) -> Option<(CallId, bool)> {
    let server = link.server;
    let call: CallId = head.all("x-call").first()?.parse().ok()?;
    let (authorization, organization) = (head.all("authorization"), head.all("organization"));
    let request_id = head.all("x-request-id");
    let arrival = Arrival {
        server,
        call,
        authorization: &authorization,
        organization: &organization,
        request_id: &request_id,
        age: (age, world.oldest()),
    };
    world.note(&format!("server {server}: {} {}", head.method, head.path));
    world.judge_head(call, head, link.address, is_http2);
    let has_failed = world.ledger(|ledger, _| ledger.has_failed(call));
    if let Some(fault) = link.number.and_then(|number| world.upstreams().begins(number, call, has_failed)) {
        world.break_promise(format!("call {call}: {fault}"));
    }
    Some((call, world.ledger(|ledger, at| ledger.arrive(at, world.now(), &arrival))))
}

/// Notes that the call's token is refused, and gives its name.
pub(super) fn refuse(world: &World, head: &Head, call: CallId) -> String {
    let authorization = head.all("authorization").join("");
    let name = authorization.strip_prefix("Bearer ").unwrap_or_default().to_owned();
    world.ledger(|ledger, at| ledger.refuse(at, call, &name, world.terms().floor));
    name
}

async fn call(world: &Arc<World>, link: Link, wire: &mut Wire, head: &Head, age: Duration) -> Option<()> {
    let (call, accepted) = arrive(world, link, head, age, false)?;
    let mood = world.moods(link.server).1;
    let refuses = !accepted || matches!(mood, Mood::Status(401, _)) || (mood == Mood::Odd && world.chance(0.66));
    // Some servers refuse a request when they have seen its head.
    let is_early = refuses && world.chance(0.4);
    if is_early {
        world.ledger(|ledger, _| ledger.answers_early(call));
    } else {
        read_body_of(world, wire, head, call).await?;
    }
    if refuses {
        let name = refuse(world, head, call);
        wire.answers(call, Reply::Refused);
        answer(world, wire, 401, "", b"{\"message\":\"Unauthorized\"}").await?;
        world.ledger(|ledger, at| ledger.refused_whole(at, call, &name, world.terms().floor));
        return if is_early { read_body_of(world, wire, head, call).await } else { Some(()) };
    }
    wire.answers(
        call,
        match mood {
            Mood::Garbage => Reply::Garbage,
            _ => Reply::Answered,
        },
    );
    if let Mood::Status(..) = mood {
        return misbehave(world, wire, mood, "{\"message\":\"not now\"}", CALL_LIMIT).await;
    }
    world.ledger(|ledger, at| ledger.execute(call, at));
    if !head.all("upgrade").is_empty() {
        if let Some(number) = link.number {
            world.upstreams().set_apart(number);
        }
        return echo(wire).await;
    }
    match mood {
        Mood::Stale => None,
        Mood::Silent => {
            world.ledger(|ledger, at| ledger.reply(at, call, Reply::Silent));
            wait_for_end(world, wire, call, (Awaited::Head, clock::instant())).await
        }
        Mood::Stalled => {
            let since = clock::instant();
            let awaited = truncated(world, wire, "x".repeat(3000).as_bytes()).await;
            if head.method == "HEAD" {
                return be_silent(world, wire, CALL_LIMIT).await;
            }
            wait_for_end(world, wire, call, (awaited, if awaited == Awaited::Head { since } else { clock::instant() })).await
        }
        Mood::Garbage | Mood::Truncated => misbehave(world, wire, mood, &"x".repeat(3000), CALL_LIMIT).await,
        Mood::Huge => answer(world, wire, 200, &format!("x-pad: {}\r\n", "x".repeat(70_000)), b"").await,
        Mood::Well if pauses_as_stream(call, head) => {
            let time = EVENTS_PAUSE.max(world.milliseconds(0..=22_000));
            answer_call(world, wire, link, call, head, Some(time)).await
        }
        Mood::Slow(time) if pauses_in_answer(call, head, time) => {
            let time = time.min(longest_pause(world, call));
            answer_call(world, wire, link, call, head, Some(time)).await
        }
        Mood::Slow(time) => {
            sleep(time).await;
            answer_call(world, wire, link, call, head, None).await
        }
        _ => answer_call(world, wire, link, call, head, None).await,
    }
}

/// Longer than `body_idle`.
pub(super) const EVENTS_PAUSE: Duration = Duration::from_millis(15_500);

/// For how long an answer may surely pause.
pub(super) fn longest_pause(world: &World, call: CallId) -> Duration {
    world.upstreams().body_idle(call).saturating_sub(Duration::from_millis(500))
}

/// Whether the answer is a stream of events, which is silent for longer than other answers may be.
pub(super) fn pauses_as_stream(call: CallId, head: &Head) -> bool {
    head.method == "GET" && is_event_stream(call)
}

/// Whether the server is slow in the middle of its answer, more than once.
pub(super) fn pauses_in_answer(call: CallId, head: &Head, time: Duration) -> bool {
    // After an empty body it would be slow between two requests.
    let has_body = head.method != "HEAD" && !answer_body(call).is_empty();
    time > Duration::from_secs(1) && call % 2 == 1 && has_body
}

/// Says no more on a call until the daemon gives up, neither late nor early. It waits since then.
async fn wait_for_end(
    world: &Arc<World>,
    wire: &mut Wire,
    call: CallId,
    (awaited, since): (Awaited, tokio::time::Instant),
) -> Option<()> {
    while wire.read_more().await.is_some() {}
    if wire.is_open()
        && let Some(fault) = world.upstreams().judge_wait(call, awaited, since.elapsed())
    {
        world.break_promise(format!("call {call}: {fault}"));
    }
    None
}

/// Says nothing for that time, which is no reason to give the call up.
async fn pause(world: &Arc<World>, wire: &mut Wire, call: CallId, time: Duration) -> Option<()> {
    let ended = timeout(time, async { while wire.read_more().await.is_some() {} }).await.is_ok();
    if ended {
        judge_cut(world, wire, call);
    }
    (!ended).then_some(())
}

/// The daemon has closed the connection in the middle of an answer that came.
fn judge_cut(world: &World, wire: &Wire, call: CallId) {
    if wire.is_open() && world.upstreams().is_waited_for(call) {
        world.break_promise(format!("call {call}: the daemon has given up an answer that came"));
    }
}

/// Reads a call's body, which has to be the one that its client sent.
async fn read_body_of(world: &Arc<World>, wire: &mut Wire, head: &Head, call: CallId) -> Option<()> {
    let mut body = Vec::new();
    let read = read_body_into(wire, head, &mut body).await;
    world.upstreams().received(call, body.len());
    world.judge_trailers(call, &read?, false);
    if body != request_body(call, &head.method) {
        world.break_promise(format!("call {call}: its body of {} bytes is not what its client sent", body.len()));
    }
    Some(())
}

/// Agrees to a WebSocket, and sends back what comes.
async fn echo(wire: &mut Wire) -> Option<()> {
    wire.write(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
    loop {
        wire.read_more().await?;
        let bytes = wire.take(wire.held().len());
        wire.write(&bytes).await?;
    }
}

/// `pauses`: the answer comes in pieces, with pauses of that time.
async fn answer_call(
    world: &Arc<World>,
    wire: &mut Wire,
    link: Link,
    call: CallId,
    head: &Head,
    pauses: Option<Duration>,
) -> Option<()> {
    let body = answer_body(call);
    // Some servers send back what they got.
    let echo = if call.is_multiple_of(4) { head.all("authorization").join("") } else { String::new() };
    let mut fields = format!("x-answer: {call}\r\nx-echo: {echo}\r\n");
    for (name, value) in world.heads().of_answer(call, link.address, false) {
        fields.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
    }
    let announced = link.number.filter(|_| world.announces()).map(|number| (number, world.idle_time_out(link.server)));
    if let Some((number, timeout)) = announced {
        world.upstreams().may_announce(number, timeout);
        fields.extend(["keep-alive: timeout=", &timeout.as_secs().to_string(), ", max=1000\r\n"]);
    }
    if !is_undated(call) {
        fields.extend(["date: ", &world.http_date(), "\r\n"]);
    }
    let (length, is_head) = (body.len(), head.method == "HEAD");
    let mut last = 0;
    let (framing, body) = match (is_head, call.is_multiple_of(3)) {
        (true, _) => (format!("content-length: {length}\r\n"), Vec::new()),
        (false, true) => {
            let has_trailers = trailers::has_answer(call, &head.method, false);
            let more = if has_trailers { trailers::of_answer(call, &head.all("authorization").join("")) } else { Vec::new() };
            last = trailers::lines(&more).len() + 7;
            ("transfer-encoding: chunked\r\n".to_owned(), chunked_with(&body, &more))
        }
        // Some say it twice.
        (false, false) if call.is_multiple_of(11) => (format!("content-length: {length}\r\n").repeat(2), body),
        (false, false) => (format!("content-length: {length}\r\n"), body),
    };
    let head = format!("HTTP/1.1 200 Simulated\r\n{fields}{framing}\r\n");
    let mut whole = [head.as_bytes(), &body].concat();
    if let Some(time) = pauses {
        for left in [2, 1] {
            // Trailers come with the end of the body: a part of them is nothing that could be passed on.
            let later = whole.split_off(whole.len() - last - (body.len() - last) * left / 3);
            if wire.write(&whole).await.is_none() {
                judge_cut(world, wire, call);
                return None;
            }
            // Before, it was on its way.
            announced.inspect(|(number, timeout)| world.upstreams().announces(*number, *timeout));
            pause(world, wire, call, time).await?;
            // Some bytes of those that went out delimit chunks.
            let sent = (length * (3 - left) / 3).saturating_sub(200);
            if let Some(fault) = world.upstreams().judge_delivery(call, sent) {
                world.break_promise(format!("call {call}: {fault}"));
            }
            whole = later;
        }
    }
    wire.write(&whole).await?;
    announced.inspect(|(number, timeout)| world.upstreams().announces(*number, *timeout));
    Some(())
}
