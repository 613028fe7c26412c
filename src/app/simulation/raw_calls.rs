//! Calls whose clients write HTTP/1.1 by themselves: made whole, or in steps.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::UnixStream,
    time::{error::Elapsed, sleep, timeout},
};

use super::{
    calls::{CallId, Sender, has_long_answer, is_event_stream, request_body},
    clients::{LIMIT, judge},
    ledger::Ending,
    messages::{chunked_with, read_head, read_whole},
    trailers,
    wire::{Fate, Wire},
    world::World,
};

/// `head_timeout`, and how much later it may pass.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(4);
pub(super) const LATE: Duration = Duration::from_millis(1200);

/// A connection to the daemon.
pub(super) async fn connect(world: &Arc<World>, account: usize) -> Option<Wire> {
    let stream = UnixStream::connect(world.listener(account)).await.ok()?;
    Some(Wire::new(Box::new(stream), Fate::default(), Arc::clone(world), None))
}

/// The same, without a moment in which others run.
pub(super) fn connect_now(world: &Arc<World>, account: usize) -> Option<Wire> {
    let stream = std::os::unix::net::UnixStream::connect(world.listener(account)).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(Wire::new(Box::new(UnixStream::from_std(stream).ok()?), Fate::default(), Arc::clone(world), None))
}

/// Makes one call in the plainest way. `None`: nobody listens.
pub(super) async fn plain_call(world: &Arc<World>, account: usize) -> Option<Ending> {
    let mut wire = connect(world, account).await?;
    Some(call_on(world, &mut wire, account).await)
}

/// The same. The connection stays open for a while.
pub(super) async fn plain_call_kept(world: &Arc<World>, account: usize) -> Option<Ending> {
    let (call, mut wire) = begin_quick(world, account).await?;
    let ending = answer(world, &mut wire, call, "GET").await;
    tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        drop(wire);
    });
    Some(ending)
}

/// Begins a GET whose answer is never silent for long. `None`: nobody listens.
pub(super) async fn begin_quick(world: &Arc<World>, account: usize) -> Option<(CallId, Wire)> {
    let mut wire = connect(world, account).await?;
    let call = send_quick(world, &mut wire, account).await;
    Some((call, wire))
}

async fn send_quick(world: &Arc<World>, wire: &mut Wire, account: usize) -> CallId {
    let mut call = world.next_call();
    while is_event_stream(call) {
        call = world.next_call();
    }
    begin_as(world, account, "GET", call);
    wire.write(&request(world, account, call, "GET")).await;
    call
}

/// Makes such a call on that connection.
pub(super) async fn quick_call_on(world: &Arc<World>, wire: &mut Wire, account: usize) -> Ending {
    let call = send_quick(world, wire, account).await;
    answer(world, wire, call, "GET").await
}

/// The same on a connection of its own.
pub(super) async fn quick_call(world: &Arc<World>, account: usize) -> Option<Ending> {
    let (call, mut wire) = begin_quick(world, account).await?;
    Some(answer(world, &mut wire, call, "GET").await)
}

/// A request that is in progress until the rest of its body is sent.
pub(super) struct Upload {
    call: CallId,
    wire: Wire,
    rest: Vec<u8>,
}

/// Begins one. `None`: nobody listens.
pub(super) async fn begin_upload(world: &Arc<World>, account: usize) -> Option<Upload> {
    let wire = connect(world, account).await?;
    Some(begin_upload_on(world, wire, account).await)
}

pub(super) async fn begin_upload_on(world: &Arc<World>, mut wire: Wire, account: usize) -> Upload {
    let mut call = world.next_call();
    while request_body(call, "POST").len() < 1000 {
        call = world.next_call();
    }
    begin_as(world, account, "POST", call);
    let mut bytes = request(world, account, call, "POST");
    let rest = bytes.split_off(bytes.len() - 5);
    wire.write(&bytes).await;
    Upload { call, wire, rest }
}

impl Upload {
    /// Sends the rest, and reads the answer.
    pub(super) async fn finish(mut self, world: &Arc<World>) -> Ending {
        self.wire.write(&self.rest).await;
        answer(world, &mut self.wire, self.call, "POST").await
    }
}

pub(super) async fn call_on(world: &Arc<World>, wire: &mut Wire, account: usize) -> Ending {
    let call = begin(world, account, "GET");
    wire.write(&request(world, account, call, "GET")).await;
    answer(world, wire, call, "GET").await
}

pub(super) fn begin(world: &World, account: usize, method: &str) -> CallId {
    begin_as(world, account, method, world.next_call())
}

/// Begins a GET with a long answer, which its client does not read for a while.
pub(super) fn begin_long(world: &World, account: usize) -> CallId {
    let mut call = world.next_call();
    while !has_long_answer(call) {
        call = world.next_call();
    }
    begin_as(world, account, "GET", call);
    world.ledger(|ledger, _| ledger.at_leisure(call));
    call
}

/// Asks for a tunnel.
pub(super) async fn begin_tunnel(world: &World, wire: &mut Wire, account: usize) -> CallId {
    let call = begin(world, account, "GET");
    world.upstreams().asks_for_tunnel(call);
    wire.write(&request_by(world, account, call, "GET", Sender::Tunnel)).await;
    call
}

fn begin_as(world: &World, account: usize, method: &str, call: CallId) -> CallId {
    world.note(&format!("a strange client: {method} {call}"));
    world.begin_call(call, method == "POST", request_body(call, method).len(), account);
    call
}

pub(super) fn request(world: &World, account: usize, call: CallId, method: &str) -> Vec<u8> {
    request_by(world, account, call, method, Sender::Raw)
}

fn request_by(world: &World, account: usize, call: CallId, method: &str, sender: Sender) -> Vec<u8> {
    let body = request_body(call, method);
    let (target, more) = world.heads().of_call(call, account, method, sender);
    let (length, body) = if world.heads().sends_trailers(call) {
        ("transfer-encoding: chunked\r\n".to_owned(), chunked_with(&body, &trailers::of_call(call)))
    } else if body.is_empty() {
        (String::new(), body)
    } else {
        (format!("content-length: {}\r\n", body.len()), body)
    };
    let mut fields: String = more.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    if sender == Sender::Tunnel {
        fields.push_str("connection: upgrade\r\nupgrade: websocket\r\n");
    }
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nx-call: {call}\r\nx-request-id: call-{call}\r\n{length}{fields}\r\n"
    );
    [head.into_bytes(), body].concat()
}

/// Connects now, with or without the beginning of a head, and sends the rest soon. The daemon has to wait for that, also when it
/// drains meanwhile.
pub(super) async fn begin_late(world: &Arc<World>) {
    let account = world.draw(0..=1);
    let Some(mut wire) = connect(world, account).await else { return };
    // Where all is well, it may be the second request of its connection.
    let is_later = world.ledger(|ledger, _| ledger.is_well()) && world.chance(0.5);
    if is_later {
        call_on(world, &mut wire, account).await;
    }
    let method = ["GET", "POST"][world.draw(0..=1)];
    let call = begin(world, account, method);
    let bytes = request(world, account, call, method);
    // Both heads are longer.
    let begun = if !is_later && world.chance(0.5) { 0 } else { world.draw(1..=60) };
    // What has sent nothing at all has a second when the drain begins.
    let pause = world.milliseconds(if begun == 0 { 0..=800 } else { 0..=3000 });
    wire.write(&bytes[..begun]).await;
    let world = Arc::clone(world);
    tokio::spawn(async move {
        sleep(pause).await;
        wire.write(&bytes[begun..]).await;
        if answer(&world, &mut wire, call, method).await == Ending::Cut {
            world.ledger(|ledger, at| ledger.judge_cut(at, call));
        }
    });
}

/// Reads an answer, and tells the ledger how the call ended.
pub(super) async fn answer(world: &Arc<World>, wire: &mut Wire, call: CallId, method: &str) -> Ending {
    let read = timeout(LIMIT, read_answer(world, wire, call, method)).await;
    end(world, wire, call, read, "a strange client")
}

/// Tells the ledger how a call ended whose answer was read so.
pub(super) fn end(world: &World, wire: &Wire, call: CallId, read: Result<Option<Ending>, Elapsed>, whose: &str) -> Ending {
    let ending = match read {
        Ok(Some(ending)) => ending,
        // Where places are few, a connection that has brought no request yet gives up its own.
        Ok(None) if wire.is_fresh() && !world.has_room() => Ending::Unsent,
        Ok(None) => Ending::Cut,
        Err(_) => {
            world.break_promise(format!("call {call} has not ended within {LIMIT:?}"));
            Ending::GivenUp
        }
    };
    world.note(&format!("{whose}: {call} ends as {ending:?}"));
    world.end_call(call, &ending);
    ending
}

pub(super) async fn read_answer(world: &World, wire: &mut Wire, call: CallId, method: &str) -> Option<Ending> {
    let head = read_head(wire).await?;
    let status = head.path.parse().ok()?;
    let has_none = method == "HEAD" || status == 101;
    let (body, trailers) = if has_none { Default::default() } else { read_whole(wire, &head).await? };
    Some(judge(world, (call, method), status, &head.fields, (&body, &trailers)))
}
