//! Simulated apps that speak HTTP/1.0: they may leave out `Host`, and an answer without a length ends with its connection.

use std::sync::Arc;

use tokio::time::timeout;

use super::{
    calls::{CallId, Sender, answer_body, request_body},
    clients::{LIMIT, judge},
    ledger::Ending,
    messages::read_head,
    raw_calls,
    wire::Wire,
    world::World,
};

/// Makes one call.
pub(super) async fn call(world: &Arc<World>, wire: &mut Wire, account: usize) {
    let method = ["GET", "HEAD", "POST"][world.draw(0..=2)];
    let call = raw_calls::begin(world, account, method);
    let body = request_body(call, method);
    let (target, more) = world.heads().of_call(call, account, method, Sender::Old);
    let mut fields: String = more.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    if world.chance(0.5) {
        fields.push_str("host: localhost\r\n");
    }
    if !body.is_empty() {
        fields.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
    }
    let head = format!("{method} {target} HTTP/1.0\r\nx-call: {call}\r\nx-request-id: call-{call}\r\n{fields}\r\n");
    wire.write(&[head.into_bytes(), body].concat()).await;
    let read = timeout(LIMIT, read_answer(world, wire, call, method)).await;
    raw_calls::end(world, wire, call, read, "an HTTP/1.0 client");
}

/// `None`: the connection ended before the answer did.
async fn read_answer(world: &World, wire: &mut Wire, call: CallId, method: &str) -> Option<Ending> {
    let head = read_head(wire).await?;
    if !head.all("transfer-encoding").is_empty() {
        world.break_promise(format!("call {call} is of HTTP/1.0, and its answer is chunked"));
    }
    let length = head.all("content-length").first().and_then(|length| length.parse::<usize>().ok());
    let wanted = if method == "HEAD" { Some(0) } else { length };
    if wanted.is_none() {
        world.ledger(|ledger, _| ledger.may_be_cut(call));
    }
    while wanted.is_none_or(|wanted| wire.held().len() < wanted) {
        if wire.read_more().await.is_none() {
            break;
        }
    }
    let body = wire.take(wire.held().len());
    match wanted {
        Some(wanted) if body.len() < wanted => None,
        None if wire.was_reset() => None,
        // A Unix socket has no resets, so an answer that was cut can't be told from a whole one by its end.
        None if head.path == "200" && body != answer_body(call) && answer_body(call).starts_with(&body) => None,
        None if head.path == "200" && body == b"half" => None,
        _ => Some(judge(world, (call, method), head.path.parse().ok()?, &head.fields, (&body, &[]))),
    }
}
