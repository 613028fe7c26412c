//! A client of the third API, which goes on calling while that is added and removed, and knows how each call has to end.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::server::answer_body;
use crate::app::simulation::{
    messages::{read_body, read_head},
    raw_calls,
    third_account::{self, AT_ONCE, Call, Number, PREFIX, Served},
    wire::{Fate, Wire},
    world::World,
};

/// No call takes longer: the wait for a token, and an answer that comes slowly.
const LIMIT: Duration = Duration::from_secs(25);

/// What the right ending depends on, at one moment.
#[derive(Clone, Copy, Debug)]
struct Then {
    at: Duration,
    served: Served,
    logged_out: bool,
    changes: u64,
    changing: bool,
    serves: bool,
}

impl Then {
    fn now(world: &World) -> Self {
        let serves = world.is_listening();
        world.third(|third, at| Self {
            at,
            served: third.served,
            logged_out: third.logged_out,
            changes: third.changes,
            changing: third.changing,
            serves,
        })
    }
}

/// How a call ended: status and code, or nothing.
type Ending = Option<(u16, String)>;

/// Makes calls until the world ends its clients. `own`: at the API's own address; else at the one that it shares.
pub(in crate::app::simulation) async fn run(world: Arc<World>, own: bool) {
    let mut kept: Option<Wire> = None;
    while world.has_clients() {
        sleep(world.milliseconds(0..=4000)).await;
        if kept.is_none() || world.chance(0.3) {
            kept = connect(&world, own).await;
        }
        let Some(wire) = &mut kept else {
            let then = Then::now(&world);
            if then.serves && world.has_room() && (!own || then.served != Served::Never) && !then.changing {
                world.break_promise(format!("a client of the third API can't connect; own address: {own}"));
            }
            continue;
        };
        if own && Then::now(&world).served == Served::Removed && world.has_room() && world.chance(0.3) {
            // The address leads to the second API.
            raw_calls::call_on(&world, wire, 1).await;
            kept = None;
            continue;
        }
        if call(&world, wire).await.is_none() {
            kept = None;
        }
    }
}

async fn connect(world: &Arc<World>, own: bool) -> Option<Wire> {
    let address = if own { third_account::socket(&world.directory) } else { world.listener(1) };
    let stream = UnixStream::connect(address).await.ok()?;
    Some(Wire::new(Box::new(stream), Fate::default(), Arc::clone(world), None))
}

/// Makes one call. `None`: the connection is of no further use.
async fn call(world: &Arc<World>, wire: &mut Wire) -> Option<()> {
    let number: Number = world.next_number();
    let length = [0, 0, 30, 9000][world.draw(0..=3)];
    let body = format!("body {number};").repeat(length / 6).into_bytes();
    let before = Then::now(world);
    let is_new = wire.is_fresh();
    world.third(|third, at| third.calls.insert(number, Call { begun: at, body: body.clone(), arrived: 0, ended: false }));
    world.note(&format!("a client of the third API: {number}"));
    let ending = exchange(world, wire, number, &body).await;
    let after = Then::now(world);
    let arrived = world.third(|third, at| {
        third.last_end = at;
        let call = third.calls.get_mut(&number)?;
        call.ended = true;
        Some(call.arrived > 0)
    })?;
    world.note(&format!("a client of the third API: {number} ends as {ending:?}"));
    if let Some(fault) = judge(world, (before, after), &ending, (arrived, is_new)) {
        world.break_promise(format!("call {number} of the third API ends as {ending:?}: {fault}; {before:?}, {after:?}"));
    }
    ending.map(drop)
}

async fn exchange(world: &Arc<World>, wire: &mut Wire, number: Number, body: &[u8]) -> Ending {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {PREFIX}/v2/things/{number} HTTP/1.1\r\nhost: localhost\r\nx-third: {number}\r\nx-request-id: third-{number}\r\n{length}\r\n"
    );
    wire.write(head.as_bytes()).await?;
    let (now, later) = body.split_at(body.len() / 2);
    wire.write(now).await?;
    if world.chance(0.3) && !later.is_empty() {
        sleep(world.milliseconds(0..=2000)).await;
    }
    // An answer may have come before the rest of the body.
    wire.write(later).await;
    let Ok(answered) = timeout(LIMIT, async {
        let head = read_head(wire).await?;
        let body = read_body(wire, &head).await?;
        Some((head, body))
    })
    .await
    else {
        world.break_promise(format!("call {number} of the third API has not ended within {LIMIT:?}"));
        return None;
    };
    let (head, body) = answered?;
    let status = head.path.parse().ok()?;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if status == 200 && body != answer_body(number) {
        world.break_promise(format!("call {number} of the third API got another answer of {} bytes", body.len()));
    }
    if head.all("connection").iter().any(|option| option == "close") {
        wire.close();
    }
    Some((status, problem["code"].as_str().unwrap_or_default().to_owned()))
}

/// Why that is no right ending. `arrived`: the server has got it. `is_new`: the connection had carried no call before.
fn judge(world: &World, (before, after): (Then, Then), ending: &Ending, (arrived, is_new): (bool, bool)) -> Option<String> {
    let is_whole = matches!(ending, Some((200, _)));
    if arrived {
        // Whatever changes, what is in progress is finished.
        return (!is_whole).then(|| "it was in progress".to_owned());
    }
    if !before.serves || !after.serves {
        return None;
    }
    let Some((status, code)) = ending else {
        // A connection may have been closed while it was idle.
        return (is_new && world.has_room()).then(|| "it was dropped".to_owned());
    };
    // A log-in that was in flight through a suspend brings no token.
    if *status == 503 && !world.is_awake() {
        return None;
    }
    let took = after.at.saturating_sub(before.at);
    let is_stable = before.changes == after.changes && !before.changing;
    let expected = match (before.served, before.logged_out) {
        (Served::Yes, false) => (200, ""),
        (Served::Yes, true) => (503, "logged_out"),
        (Served::Never | Served::Removed, _) => (404, "no_api"),
    };
    if is_stable {
        return ((*status, code.as_str()) != expected).then(|| format!("it has to end as {expected:?}"));
    }
    if before.changing {
        return None;
    }
    // One that waits for a token goes on by the settings that the reload brings.
    let may_wait = expected.0 == 200;
    let is_waiting = may_wait && matches!(code.as_str(), "token_pending" | "logged_out" | "no_api");
    let is_expected = (*status, code.as_str()) == expected || is_waiting;
    if !is_expected {
        return Some(format!("it began when it had to end as {expected:?}"));
    }
    let changed = world.third(|third, _| third.changed);
    let is_late = code == "token_pending" && world.is_awake() && after.at > changed + AT_ONCE && took > AT_ONCE;
    is_late.then(|| format!("it has waited for {took:?}"))
}
