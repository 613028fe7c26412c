//! CarePortals through the sidecar, with ureq: `cargo run --manifest-path examples/rust/Cargo.toml -- FILE`

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufRead, BufReader},
    process::ExitCode,
};

use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

fn run() -> Result<(), Box<dyn Error>> {
    // Else an error's head and body are thrown away.
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    // The three lines that matter.
    let base = env::var("CAREPORTALS_BASE_URL").unwrap_or_else(|_| "http://127.0.0.1:2273".to_owned());
    let account = agent.get(format!("{base}/users/account")).call()?;
    println!("account: {}", account.status().as_u16());

    // The rest shows escaping, bodies, streams, and whose error an error is.
    let file = env::args_os().nth(1).ok_or("which FILE?")?;

    let mut answer = checked(agent.get(format!("{base}/customers/lookups")).query("keyword", "+15550100150").call()?)?;
    let found: Value = answer.body_mut().read_json()?;
    println!("query: {} {} {}", answer.status().as_u16(), text(&found[0]["firstName"]), text(&found[0]["lastName"]));

    let items = json!({ "items": [{ "product": "Crème", "quantity": 2 }] });
    let mut answer = checked(agent.post(format!("{base}/v2/carts")).send_json(items)?)?;
    let cart: Value = answer.body_mut().read_json()?;
    let item = &cart["items"][0];
    println!("post: {} {}, {} x {}", answer.status().as_u16(), text(&cart["status"]), item["quantity"], text(&item["product"]));

    let upload = agent.post(format!("{base}/_sim/upload")).content_type("application/octet-stream");
    let mut answer = checked(upload.send(File::open(file)?)?)?;
    let seen: Value = answer.body_mut().read_json()?;
    println!("upload: {} {} bytes, {}", answer.status().as_u16(), seen["bytes"], text(&seen["sha256"]));

    let events = checked(agent.get(format!("{base}/_sim/sse?events=3&interval_ms=100")).call()?)?;
    for line in BufReader::new(events.into_body().into_reader()).lines() {
        if let Some(event) = line?.strip_prefix("data: ") {
            println!("stream: {event}");
        }
    }

    // Nobody has this id.
    checked(agent.get(format!("{base}/customers/000000000000000000000000")).call()?)?;
    Ok(())
}

/// The answer, or whose error it is.
fn checked(mut answer: Response<Body>) -> Result<Response<Body>, Box<dyn Error>> {
    let status = answer.status();
    if status.as_u16() < 400 {
        return Ok(answer);
    }
    // What is no JSON comes from a gateway on the way.
    let error: Value = answer.body_mut().read_json().unwrap_or_default();
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if header("proxy-status").is_some_and(|by| by.starts_with("careportals-sidecar")) {
        let retry = header("retry-after").map(|after| format!(" (retry after {after} s)")).unwrap_or_default();
        let (code, detail) = (text(&error["code"]), text(&error["detail"]));
        return Err(format!("sidecar {} {code}: {detail}{retry}", status.as_u16()).into());
    }
    let message = error["message"].as_str().or(status.canonical_reason()).unwrap_or("no message");
    Err(format!("CarePortals {}: {message}", status.as_u16()).into())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
