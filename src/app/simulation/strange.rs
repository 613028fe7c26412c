//! Simulated apps that write HTTP by themselves: they send nothing, or half of a head, half-close, stop reading, hang up, pipeline,
//! ask for tunnels, or send what is not HTTP.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    calls::{CallId, request_body},
    clients::LIMIT,
    idle_clients,
    ledger::Ending,
    old_clients,
    raw_calls::{HEAD_TIMEOUT, LATE, answer, begin, begin_tunnel, connect, read_answer, request},
    refusals,
    wire::Wire,
    world::World,
};
use crate::clock;

/// Does one strange thing after the other until the world ends its clients.
pub(super) async fn run(world: Arc<World>) {
    let account = world.draw(0..=1);
    while world.has_clients() {
        sleep(world.milliseconds(0..=7000)).await;
        let Some(mut wire) = connect(&world, account).await else { continue };
        let what = world.draw(0..=14);
        world.note(&format!("a strange client: {what}"));
        match what {
            0..=1 => {
                let head = b"GET /v2/calls/0 HTTP/1.1\r\nhost: localhost\r\nx-call: 0\r\n";
                wire.write(&head[..if what == 0 { 0 } else { world.draw(1..=head.len()) }]).await;
                let kept = silence(&world, &mut wire, 20_000).await;
                judge_head_timeout(&world, kept);
            }
            2 => {
                wire.write([b"\x16\x03\x01\x02\x00".as_slice(), b"HELLO\r\n\r\n", b"GET / HTTP/9\r\n\r\n"][world.draw(0..=2)])
                    .await;
                silence(&world, &mut wire, 2000).await;
            }
            3 => tunnel(&world, &mut wire, account).await,
            4 => {
                let calls = [begin(&world, account, "GET"), begin(&world, account, "GET"), begin(&world, account, "DELETE")];
                let methods = ["GET", "GET", "DELETE"];
                world.ledger(|ledger, _| calls[1..].iter().for_each(|call| ledger.at_leisure(*call)));
                let all: Vec<u8> =
                    calls.iter().zip(methods).flat_map(|(call, method)| request(&world, account, *call, method)).collect();
                wire.write(&all).await;
                for (call, method) in calls.into_iter().zip(methods) {
                    answer(&world, &mut wire, call, method).await;
                }
            }
            11 => idle_clients::stay(&world, &mut wire, account).await,
            12..=14 => {
                for _ in 0..world.draw(1..=4) {
                    if refusals::send(&world, &mut wire, account).await.is_none() {
                        break;
                    }
                }
            }
            10 => old_clients::call(&world, &mut wire, account).await,
            _ => one_call(&world, &mut wire, account, what).await,
        }
    }
}

/// Sends nothing more for a while. Returns for how long the daemon has kept the connection, and whether it has closed it.
async fn silence(world: &World, wire: &mut Wire, most: u64) -> (Duration, bool) {
    let (time, since) = (world.milliseconds(0..=most), clock::instant());
    let ended = timeout(time, async { while wire.read_more().await.is_some() {} }).await.is_ok();
    if wire.held().starts_with(b"HTTP/1.1 2") {
        world.break_promise("what is no request was answered".to_owned());
    }
    (since.elapsed(), ended)
}

/// A head has all of its time, and no more, while nobody needs the connection's place.
fn judge_head_timeout(world: &World, (kept, ended): (Duration, bool)) {
    let is_early = ended && kept < HEAD_TIMEOUT;
    if (is_early || kept > HEAD_TIMEOUT + LATE) && world.has_room() && world.is_listening() {
        world.break_promise(format!("a head may take {HEAD_TIMEOUT:?}, and had {kept:?}; the connection was closed: {ended}"));
    }
}

async fn one_call(world: &Arc<World>, wire: &mut Wire, account: usize, what: usize) {
    let method = ["GET", "POST", "PUT"][world.draw(0..=2)];
    let call = begin(world, account, method);
    let bytes = request(world, account, call, method);
    match what {
        // It half-closes after its request, and reads the answer.
        5 | 6 => {
            wire.write(&bytes).await;
            wire.finish().await;
            answer(world, wire, call, method).await;
        }
        // It reads late.
        7 => {
            world.ledger(|ledger, _| ledger.at_leisure(call));
            wire.write(&bytes).await;
            sleep(world.milliseconds(0..=7000)).await;
            answer(world, wire, call, method).await;
        }
        // It hangs up, in its request or soon after.
        8 => {
            let count = if world.chance(0.5) { bytes.len() } else { world.draw(1..=bytes.len()) };
            wire.write(&bytes[..count]).await;
            sleep(world.milliseconds(0..=300)).await;
            world.end_call(call, &Ending::GivenUp);
            wire.close();
        }
        // It stops in its body, for some time or for good.
        _ => {
            // Often for longer than `response_timeout` may be, and for less than `body_idle`.
            let pause = world.milliseconds(if world.chance(0.3) { 12_200..=14_800 } else { 0..=20_000 });
            let body = request_body(call, method).len();
            let (now, later) = bytes.split_at(bytes.len() - world.draw(0..=body));
            wire.write(now).await;
            let since = clock::instant();
            let answered = timeout(pause, read_while_open(wire)).await.is_ok();
            let waited = since.elapsed();
            if !answered {
                wire.write(later).await;
            }
            let ending = answer(world, wire, call, method).await;
            if answered && !later.is_empty() && matches!(&ending, Ending::Refused(_, code) if code == "upstream_timeout") {
                world.break_promise(format!("call {call}: an answer was waited for while its body was on the way"));
            }
            let is_late = matches!(ending, Ending::Refused(_, code) if code == "request_body_timeout");
            let body_idle = world.upstreams().body_idle(call);
            if is_late && waited < body_idle {
                world.break_promise(format!("a body was silent for {waited:?}, and may be for {body_idle:?}"));
            }
        }
    }
}

/// Returns when the daemon says something, or hangs up.
async fn read_while_open(wire: &mut Wire) {
    wire.read_more().await;
}

/// Asks for a WebSocket, and sends some bytes, which have to come back.
async fn tunnel(world: &Arc<World>, wire: &mut Wire, account: usize) {
    let call = begin_tunnel(world, wire, account).await;
    let Ok(Some(Ending::Answered(101))) = timeout(LIMIT, read_answer(world, wire, call, "GET")).await else {
        // What came instead is no answer to judge again.
        return world.end_call(call, &Ending::GivenUp);
    };
    let is_whole = pass_bytes(world, wire, call).await;
    let ending = if is_whole.is_some() { Ending::Answered(101) } else { Ending::Cut };
    world.note(&format!("a strange client: the tunnel {call} ends as {ending:?}"));
    world.end_call(call, &ending);
}

async fn pass_bytes(world: &World, wire: &mut Wire, call: CallId) -> Option<()> {
    for round in 0..world.draw(1..=4) {
        let sent = format!("{call}/{round};").repeat(world.draw(1..=6000));
        wire.write(sent.as_bytes()).await?;
        while wire.held().len() < sent.len() {
            wire.read_more().await?;
        }
        if wire.take(sent.len()) != sent.as_bytes() {
            world.break_promise(format!("the tunnel {call} gave back something else"));
        }
        sleep(world.milliseconds(0..=2000)).await;
    }
    wire.finish().await
}
