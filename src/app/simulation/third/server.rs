//! The third API's server: it logs its account in, and answers every call well, some of them slowly. It judges when tokens are sent.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::app::simulation::{
    calls::Head,
    messages::{answer, answer_with, chunked, read_body, read_head},
    third_account::{AT_ONCE, LOGGED_IN, NAME, Number, PASSWORD, Served, Token},
    wire::{Fate, Wire},
    world::World,
};

/// For how long it keeps idle connections.
const IDLE: Duration = Duration::from_secs(75);

/// Serves one connection.
pub(in crate::app::simulation) async fn serve(world: Arc<World>, stream: UnixStream) {
    let mut wire = Wire::new(Box::new(stream), Fate::default(), Arc::clone(&world), None);
    loop {
        let Ok(Some(head)) = timeout(IDLE, read_head(&mut wire)).await else { return wire.close() };
        let answered =
            if head.path == "/auth" { log_in(&world, &mut wire, &head).await } else { call(&world, &mut wire, &head).await };
        if answered.is_none() {
            return wire.close();
        }
    }
}

async fn log_in(world: &Arc<World>, wire: &mut Wire, head: &Head) -> Option<()> {
    let body = String::from_utf8(read_body(wire, head).await?).ok()?;
    world.note("the third server: a log-in");
    let is_allowed = world.third(|third, at| {
        let is_expected = third.served == Served::Yes && !third.logged_out;
        is_expected || third.changing || third.changed + AT_ONCE > at
    });
    if !is_allowed {
        world.break_promise("an account logs in that is removed or logged out".to_owned());
    }
    if head.all("organization") != [NAME] || !body.contains(&format!("\"{PASSWORD}\"")) {
        world.break_promise(format!("the third account logs in as {:?}", head.all("organization")));
    }
    let arrived = world.clock.elapsed();
    sleep(if world.chance(0.5) { world.milliseconds(0..=2000) } else { Duration::ZERO }).await;
    let life = [20.0, 600.0][world.draw(0..=1)];
    let expires = (world.now() + life).floor();
    let claims = format!("{{\"exp\":{expires},\"n\":{}}}", world.next_number());
    let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
    world.third(|third, _| third.tokens.insert(token.clone(), Token { expires, withdrawn: None, arrived, given: false }));
    answer(world, wire, 201, "", format!("{{\"token\":\"{token}\"}}").as_bytes()).await?;
    world.third(|third, _| third.tokens.get_mut(&token).map(|token| token.given = true));
    Some(())
}

async fn call(world: &Arc<World>, wire: &mut Wire, head: &Head) -> Option<()> {
    let number: Number = head.all("x-third").first()?.parse().ok()?;
    world.note(&format!("the third server: {} {}", head.method, head.path));
    for fault in judge(world, number, head) {
        world.break_promise(format!("call {number} of the third API: {fault}"));
    }
    let body = read_body(wire, head).await?;
    if world.third(|third, _| third.calls.get(&number).is_some_and(|call| call.body != body)) {
        world.break_promise(format!("call {number} of the third API: its body of {} bytes is another one", body.len()));
    }
    let slowness = || if world.chance(0.4) { world.milliseconds(0..=2500) } else { Duration::ZERO };
    let (first, second) = (slowness(), slowness());
    sleep(first).await;
    let whole = chunked(&answer_body(number));
    let (now, later) = whole.split_at(whole.len() / 2);
    answer_with(world, wire, 200, "transfer-encoding: chunked\r\n", now).await?;
    sleep(second).await;
    wire.write(later).await
}

pub(super) fn answer_body(number: Number) -> Vec<u8> {
    format!("third {number};").repeat(if number.is_multiple_of(3) { 3000 } else { 3 }).into_bytes()
}

/// What is wrong with a call's head.
fn judge(world: &World, number: Number, head: &Head) -> Vec<String> {
    let (now, is_awake) = (world.now(), world.is_awake());
    let authorization = head.all("authorization").join("");
    let name = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let mut faults = Vec::new();
    if head.path != format!("/v2/things/{number}") || head.all("organization") != [NAME] {
        faults.push(format!("it came as {} for {:?}", head.path, head.all("organization")));
    }
    world.third(|third, at| {
        let Some(call) = third.calls.get_mut(&number) else { return faults.push("nobody has made it".to_owned()) };
        call.arrived += 1;
        if call.arrived > 1 {
            faults.push("it is sent again, and nothing was wrong".to_owned());
        }
        let begun = call.begun;
        let newest = third.tokens.values().filter(|token| token.given).map(|token| token.arrived).max();
        match third.tokens.get(name) {
            None => faults.push(format!("no server has made the token {name:?}")),
            Some(token) => {
                if let Some((from, why)) = token.withdrawn.filter(|(from, _)| *from < begun) {
                    faults.push(format!("its token was withdrawn at {:.3}: {why}", from.as_secs_f64()));
                }
                if token.expires <= now {
                    faults.push(format!("its token expired {:.3} s ago", now - token.expires));
                }
                // One that came in a suspend is not taken.
                if is_awake && newest.is_some_and(|newest| newest > token.arrived && newest + LOGGED_IN < begun) {
                    faults.push(format!("there is a newer token, at {at:?}"));
                }
            }
        }
        let was_removed = third.served != Served::Yes && !third.changing && third.changed < begun;
        if was_removed {
            faults.push("its API was removed before it began".to_owned());
        }
    });
    faults
}
