//! How a simulated CarePortals server answers log-ins.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::time::sleep;

use super::{
    calls::Head,
    ledger::LogInArrival,
    machine,
    messages::{answer, answer_with, chunked, misbehave, read_body},
    servers::{Mood, account_of},
    wire::Wire,
    world::World,
};

/// For how long the daemon may wait for a silent server: `login_timeout`, and a moment.
const LIMIT: Duration = Duration::from_millis(10_500);

/// A log-in that has come whole.
struct LogIn {
    organization: String,
    mood: Mood,
    arrival: LogInArrival,
}

/// Answers a log-in as the server's mood is. `None`: the connection ends.
pub(super) async fn answer_log_in(world: &Arc<World>, server: usize, wire: &mut Wire, head: &Head) -> Option<()> {
    let body = String::from_utf8(read_body(wire, head).await?).ok()?;
    let log_in = arrive(world, server, head);
    sleep(world.log_in_time()).await;
    let began = world.clock.elapsed();
    match log_in.mood {
        Mood::Slow(time) => sleep(time).await,
        Mood::Silent | Mood::Garbage => return misbehave(world, wire, log_in.mood, "", LIMIT).await,
        Mood::Odd => {
            misbehave(world, wire, log_in.mood, "{\"message\":\"no token\"}", LIMIT).await?;
            world.ledger(|ledger, at| ledger.failed_whole(at, began, log_in.arrival, None, None));
            return Some(());
        }
        Mood::Status(status, retry_after) => {
            if status < 500 {
                world.ledger(|ledger, at| ledger.reject(at, &log_in.organization));
            }
            let (_, body) = token_and_body(world, server, &log_in, Some("its answer was a refusal"));
            misbehave(world, wire, log_in.mood, &body, LIMIT).await?;
            world.ledger(|ledger, at| ledger.failed_whole(at, began, log_in.arrival, Some(status), retry_after));
            return Some(());
        }
        _ => {}
    }
    if !world.knows(&log_in.organization, &body) {
        world.ledger(|ledger, at| {
            ledger.trouble(at, account_of(&log_in.organization));
            ledger.reject(at, &log_in.organization);
        });
        answer(world, wire, 401, "", b"{\"message\":\"wrong\"}").await?;
        world.ledger(|ledger, at| ledger.failed_whole(at, began, log_in.arrival, Some(401), None));
        return Some(());
    }
    give_token(world, server, wire, &log_in).await
}

/// Notes that a log-in has come.
fn arrive(world: &Arc<World>, server: usize, head: &Head) -> LogIn {
    let mood = if world.state(|state| state.mixed_log_ins) { of_mixture(world) } else { world.moods(server).0 };
    world.note(&format!("server {server}: a log-in for {:?}, {mood:?}", head.all("organization")));
    let organization = head.all("organization").first().cloned().unwrap_or_default();
    let arrival = world.ledger(|ledger, at| {
        ledger.will_answer(at, &organization, mood);
        ledger.log_in(at, &organization)
    });
    let is_well = matches!(mood, Mood::Well) || matches!(mood, Mood::Slow(time) if time < Duration::from_secs(4));
    if !is_well {
        world.ledger(|ledger, at| ledger.trouble(at, account_of(&organization)));
    }
    if account_of(&organization) == 0 && world.state(|state| std::mem::take(&mut state.changes_in_log_in)) {
        let (world, after) = (Arc::clone(world), world.milliseconds(0..=800));
        tokio::spawn(async move {
            sleep(after).await;
            machine::change_credentials(&world);
        });
    }
    LogIn { organization, mood, arrival }
}

/// One of several ways to fail.
fn of_mixture(world: &World) -> Mood {
    let kinds =
        [(401, None), (403, None), (400, Some(5)), (500, None), (502, Some(20)), (429, None), (429, Some(10)), (503, Some(40))];
    match kinds.get(world.draw(0..=8)) {
        Some((status, retry_after)) => Mood::Status(*status, *retry_after),
        None => Mood::Odd,
    }
}

/// A token, and an answer's body with it. `never`: why the token must never be sent.
fn token_and_body(world: &World, server: usize, log_in: &LogIn, never: Option<&'static str>) -> (String, String) {
    let life = if log_in.mood == Mood::Stale { -60.0 } else { world.token_life() };
    let expires = (world.now() + life).floor();
    let claims = format!("{{\"exp\":{expires},\"n\":{}}}", world.next_number());
    let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
    world.ledger(|ledger, at| {
        ledger.made(at, world.now(), token.clone(), server, log_in.organization.clone(), expires);
        if let Some(why) = never {
            ledger.never_gave(&token, why);
        }
    });
    let padding = match log_in.mood {
        Mood::Huge => world.draw(66_000..=200_000),
        _ if world.chance(0.1) => world.draw(1..=60_000),
        _ => 0,
    };
    let body = format!("{{\"token\":\"{token}\",\"more\":\"{}\"}}", "x".repeat(padding));
    (token, body)
}

async fn give_token(world: &Arc<World>, server: usize, wire: &mut Wire, log_in: &LogIn) -> Option<()> {
    let never = match log_in.mood {
        Mood::Truncated | Mood::Stalled => Some("its answer was cut"),
        Mood::Huge => Some("its answer was too long"),
        _ => None,
    };
    let (token, body) = token_and_body(world, server, log_in, never);
    let (made, life) = (world.clock.elapsed(), world.token_life());
    let suspend = world.state(|state| state.suspends_in_log_in.take()).filter(|_| wire.is_prompt());
    if suspend.is_some() {
        machine::let_all_arrive().await;
    }
    match log_in.mood {
        Mood::Truncated | Mood::Stalled => return misbehave(world, wire, log_in.mood, &body, LIMIT).await,
        _ if body.len() > 1000 && world.chance(0.5) => {
            answer_with(world, wire, 201, "transfer-encoding: chunked\r\n", &chunked(body.as_bytes())).await?;
        }
        _ => answer(world, wire, 201, "", body.as_bytes()).await?,
    }
    if let Some(share) = suspend {
        machine::suspend_now(world, Duration::from_secs_f64(share * life));
    }
    // The next log-in fails while its files are gone.
    let is_missing = world.state(|state| state.missing != [false; 2]);
    world.ledger(|ledger, at| match log_in.mood {
        Mood::Huge => {}
        Mood::Stale => ledger.failed_whole(at, made, log_in.arrival, None, None),
        _ => {
            ledger.gave(&token, at, log_in.arrival);
            ledger.succeeded_whole(at, made, log_in.arrival, &token, life);
            if is_missing {
                ledger.trouble(at, 0);
            }
        }
    });
    Some(())
}
