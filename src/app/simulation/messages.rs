//! HTTP/1.1 messages on a wire: how they are read and written whole, and how servers write them otherwise.

use std::{sync::Arc, time::Duration};

use super::{
    calls::{Field, Head},
    servers::Mood,
    trailers,
    upstreams::Awaited,
    wire::Wire,
    world::World,
};
use crate::clock;

pub(super) async fn read_head(wire: &mut Wire) -> Option<Head> {
    loop {
        if let Some(end) = wire.held().windows(4).position(|window| window == b"\r\n\r\n") {
            return Head::parse(&wire.take(end + 4));
        }
        wire.read_more().await?;
    }
}

/// Reads a body whole. `None`: it was cut.
pub(super) async fn read_body(wire: &mut Wire, head: &Head) -> Option<Vec<u8>> {
    read_whole(wire, head).await.map(|(body, _)| body)
}

/// Reads a body whole, and its trailers.
pub(super) async fn read_whole(wire: &mut Wire, head: &Head) -> Option<(Vec<u8>, Vec<Field>)> {
    let mut body = Vec::new();
    read_body_into(wire, head, &mut body).await.map(|trailers| (body, trailers))
}

/// The same. What has come of a body that was cut is in `body`, too.
pub(super) async fn read_body_into(wire: &mut Wire, head: &Head, body: &mut Vec<u8>) -> Option<Vec<Field>> {
    if let Some(length) = head.all("content-length").first() {
        return read_into(wire, length.parse().ok()?, body).await.map(|()| Vec::new());
    }
    if head.all("transfer-encoding").is_empty() {
        return Some(Vec::new());
    }
    loop {
        let size = usize::from_str_radix(&read_line(wire).await?, 16).ok()?;
        if size == 0 {
            return read_trailers(wire).await;
        }
        read_into(wire, size, body).await?;
        read_into(wire, 2, &mut Vec::new()).await?;
    }
}

async fn read_trailers(wire: &mut Wire) -> Option<Vec<Field>> {
    let mut trailers = Vec::new();
    loop {
        let line = read_line(wire).await?;
        if line.is_empty() {
            return Some(trailers);
        }
        let (name, value) = line.split_once(':')?;
        trailers.push((name.to_lowercase(), value.trim().to_owned()));
    }
}

/// Reads a line, without its end.
async fn read_line(wire: &mut Wire) -> Option<String> {
    loop {
        if let Some(end) = wire.held().windows(2).position(|window| window == b"\r\n") {
            let line = wire.take(end + 2);
            return String::from_utf8(line[..end].to_vec()).ok();
        }
        wire.read_more().await?;
    }
}

async fn read_into(wire: &mut Wire, mut count: usize, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let come = wire.held().len().min(count);
        body.extend(wire.take(come));
        count -= come;
        if count == 0 {
            return Some(());
        }
        wire.read_more().await?;
    }
}

pub(super) fn chunked(body: &[u8]) -> Vec<u8> {
    chunked_with(body, &[])
}

pub(super) fn chunked_with(body: &[u8], trailers: &[Field]) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(5000) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(format!("0\r\n{}\r\n", trailers::lines(trailers)).as_bytes());
    chunks
}

pub(super) async fn answer(world: &Arc<World>, wire: &mut Wire, status: u16, fields: &str, body: &[u8]) -> Option<()> {
    answer_with(world, wire, status, &format!("{fields}content-length: {}\r\n", body.len()), body).await
}

pub(super) async fn answer_with(world: &Arc<World>, wire: &mut Wire, status: u16, fields: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status} Simulated\r\ndate: {}\r\n{fields}\r\n", world.http_date());
    wire.write(&[head.as_bytes(), body].concat()).await
}

pub(super) async fn misbehave(world: &Arc<World>, wire: &mut Wire, mood: Mood, body: &str, limit: Duration) -> Option<()> {
    match mood {
        Mood::Status(status, retry_after) => {
            let fields = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
            answer(world, wire, status, &fields, body.as_bytes()).await
        }
        Mood::Silent => be_silent(world, wire, limit).await,
        Mood::Garbage => {
            wire.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await?;
            None
        }
        Mood::Truncated => {
            truncated(world, wire, body.as_bytes()).await;
            None
        }
        Mood::Stalled => {
            truncated(world, wire, body.as_bytes()).await;
            be_silent(world, wire, limit).await
        }
        Mood::Well | Mood::Slow(_) | Mood::Odd | Mood::Stale | Mood::Huge => answer(world, wire, 201, "", body.as_bytes()).await,
    }
}

/// Says no more, until the daemon gives up and closes the connection, which it has to within `limit`.
pub(super) async fn be_silent(world: &Arc<World>, wire: &mut Wire, limit: Duration) -> Option<()> {
    let since = clock::instant();
    while wire.read_more().await.is_some() {}
    let waited = since.elapsed();
    if waited > limit {
        world.break_promise(format!("the daemon has waited for an answer for {waited:?}, and its limit is {limit:?}"));
    }
    None
}

/// Writes the beginning of an answer. Tells what the daemon waits for then.
pub(super) async fn truncated(world: &Arc<World>, wire: &mut Wire, body: &[u8]) -> Awaited {
    let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n", body.len());
    let whole = [head.as_bytes(), body].concat();
    let length = world.draw(1..=whole.len() - 1);
    // If it fails, the wire has ended.
    let _ = wire.write(&whole[..length]).await;
    if length < head.len() { Awaited::Head } else { Awaited::Body }
}
