//! The admin port: the knobs over plain HTTP, for tests in any language.
//!
//! Loopback only, in both senses: it is bound there, and a caller from elsewhere or a `Host` that
//! is not loopback (a web page, by DNS rebinding) is refused. Opened, it takes callers from
//! elsewhere that name it by address or by a name without a dot, as containers do.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::{
    answer::{Body, answer, full, json as json_answer, message, set},
    control::Control,
    duration,
    fault::LoginFault,
    record::{Counts, Seen},
    routes::query,
};

/// After a failed accept (no descriptors left): time for some to be given back.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// The settings are a few hundred bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, open: bool, control: Control, ca_pem: String) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) if open || peer.ip().is_loopback() => {
                let (control, ca_pem) = (control.clone(), ca_pem.clone());
                let service = service_fn(move |request| {
                    let (control, ca_pem) = (control.clone(), ca_pem.clone());
                    async move { Ok::<_, Infallible>(answered(open, &control, &ca_pem, request).await) }
                });
                let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(tcp), service);
                // How a client ends its connection is its business.
                tokio::spawn(async move { drop(served.await) });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

async fn answered(open: bool, control: &Control, ca_pem: &str, request: Request<Incoming>) -> Response<Body> {
    if !from_here(&request, open) {
        return message(StatusCode::FORBIDDEN, "The admin port is for programs on this machine");
    }
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, ());
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/counts") => json_answer(StatusCode::OK, &counts(&control.counts())),
        (&Method::GET, "/requests") => {
            let seen: Vec<Value> = control.requests().iter().map(seen).collect();
            json_answer(StatusCode::OK, &Value::Array(seen))
        }
        (&Method::GET, "/logins") => json_answer(StatusCode::OK, &logins(control)),
        (&Method::GET, "/ca.pem") => {
            let mut response = answer(StatusCode::OK, full(ca_pem.to_owned()));
            set(&mut response, CONTENT_TYPE, "application/x-pem-file");
            response
        }
        (&Method::POST, "/settings") => settings(control, body).await,
        (&Method::POST, "/revoke") => {
            match query(&request, "organization") {
                Some(organization) => control.revoke_tokens_of(&organization),
                None => control.revoke_tokens(),
            }
            done()
        }
        (&Method::POST, "/drop-connections") => {
            // Without waiting: this very thread has to close them.
            control.0.lines.cut(false);
            done()
        }
        (&Method::POST, "/drain-connections") => {
            control.drain_connections();
            done()
        }
        (&Method::POST, "/freeze-connections") => {
            control.freeze_connections();
            done()
        }
        (&Method::POST, "/reset") => {
            control.reset_counts();
            done()
        }
        _ => message(StatusCode::NOT_FOUND, "See the README for the admin port's paths"),
    }
}

fn done() -> Response<Body> {
    json_answer(StatusCode::OK, &json!({ "ok": true }))
}

/// A program, not a web page, and a local one unless the port is open.
fn from_here<B>(request: &Request<B>, open: bool) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(
        host,
        |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        },
    );
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let loopback = name.eq_ignore_ascii_case("localhost") || address.as_ref().is_ok_and(IpAddr::is_loopback);
    // A page that lures a browser here has a domain of its own, which has a dot.
    let neighbour = open && !name.is_empty() && (address.is_ok() || !name.contains('.'));
    (loopback || neighbour) && !request.headers().contains_key(ORIGIN)
}

fn counts(counts: &Counts) -> Value {
    json!({
        "logins": counts.logins,
        "login_ok": counts.login_ok,
        "refreshes": counts.refreshes,
        "refresh_ok": counts.refresh_ok,
        "requests": counts.requests,
        "requests_http2": counts.requests_http2,
        "unauthorized": counts.unauthorized,
        "malformed": counts.malformed,
        "connections": counts.connections,
        "connections_http2": counts.connections_http2,
        "handshakes_failed": counts.handshakes_failed,
        "handshakes_full": counts.handshakes_full,
        "handshakes_resumed": counts.handshakes_resumed,
        "open_connections": counts.open_connections,
        "by_route": counts.by_route,
        "idempotency_keys": counts.idempotency_keys,
        "idempotency_replays": counts.idempotency_replays,
    })
}

fn seen(seen: &Seen) -> Value {
    json!({
        "method": seen.method,
        "target": seen.target,
        "authority": seen.authority,
        "version": seen.version,
        "headers": seen.headers,
        "body_bytes": seen.body_bytes,
        "complete": seen.complete,
        "status": seen.status,
        "answer_bytes": seen.answer_bytes,
        "over": seen.over,
    })
}

/// Without the password: what a test in another language asks for is who logged in, and how.
fn logins(control: &Control) -> Value {
    let login = |login: crate::SeenLogin| {
        let fields: Vec<&String> = login.body.as_object().map(|body| body.keys().collect()).unwrap_or_default();
        json!({
            "organization": login.organization,
            "username": login.username,
            "path": login.path,
            "headers": login.headers,
            "fields": fields,
            "status": login.status,
        })
    };
    Value::Array(control.logins().into_iter().map(login).collect())
}

async fn settings(control: &Control, body: Incoming) -> Response<Body> {
    let body = http_body_util::Limited::new(body, LONGEST_BODY).collect().await;
    let sent = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let Some(Value::Object(sent)) = sent else {
        return message(StatusCode::BAD_REQUEST, "Expected a JSON object");
    };
    match understood(&sent) {
        Ok(changes) => {
            for change in changes {
                change(control);
            }
            done()
        }
        Err(fault) => message(StatusCode::BAD_REQUEST, &fault),
    }
}

type Change = Box<dyn FnOnce(&Control) + Send>;

/// All changes or none: a fault in one leaves everything as it was.
fn understood(sent: &Map<String, Value>) -> Result<Vec<Change>, String> {
    sent.iter().map(|(key, value)| change(key, value).map_err(|fault| format!("{key}: {fault}"))).collect()
}

fn change(key: &str, value: &Value) -> Result<Change, String> {
    Ok(match key {
        "token_life" => with(span(value)?, Control::set_token_life),
        "login_delay" => with(span(value)?, Control::set_login_delay),
        "latency" => with(span(value)?, Control::set_latency),
        "clock_offset" => with(value.as_i64().ok_or("expected a number of seconds")?, Control::set_clock_offset),
        "omit_date" => with(truth(value)?, Control::set_omit_date),
        "http2" => with(truth(value)?, Control::set_http2),
        "max_concurrent_streams" if value.is_null() => Box::new(|control| control.set_max_concurrent_streams(None)),
        "max_concurrent_streams" => {
            let streams = value.as_u64().and_then(|streams| u32::try_from(streams).ok());
            with(streams.ok_or("expected a number or null")?, |control, streams| {
                control.set_max_concurrent_streams(Some(streams));
            })
        }
        "hold_logins" => with(truth(value)?, Control::hold_logins),
        "hold_requests" => with(truth(value)?, Control::hold_requests),
        "pause_accepting" => with(truth(value)?, |control, pause| {
            control.0.accepting.send_replace(!pause);
            if pause {
                // Without waiting: this very thread has to close them.
                control.0.lines.cut(true);
            }
        }),
        "login_fault" => with(if value.is_null() { None } else { Some(fault(value)?) }, Control::set_login_fault),
        "fail_next_logins" if value.is_null() => Box::new(Control::clear_next_login_faults),
        "fail_next_logins" => {
            let times = value["times"].as_u64().and_then(|times| u32::try_from(times).ok());
            let times = times.ok_or("expected {\"times\": number, \"fault\": text}")?;
            let fault = fault(&value["fault"])?;
            with((times, fault), |control, (times, fault)| control.fail_next_logins(times, fault))
        }
        "credentials" => {
            let text = |field: &str| value[field].as_str().map(str::to_owned);
            let user = (text("organization"), text("username"), text("password"));
            let (Some(organization), Some(username), Some(password)) = user else {
                return Err("expected organization, username and password".to_owned());
            };
            Box::new(move |control| control.set_credentials(&organization, &username, &password))
        }
        _ => return Err("no such setting".to_owned()),
    })
}

fn with<T: Send + 'static>(value: T, apply: impl FnOnce(&Control, T) + Send + 'static) -> Change {
    Box::new(move |control| apply(control, value))
}

fn span(value: &Value) -> Result<Duration, String> {
    duration::parse(value.as_str().ok_or("expected a text like \"30s\"")?)
}

fn truth(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".to_owned())
}

fn fault(value: &Value) -> Result<LoginFault, String> {
    let written = value.as_str().unwrap_or_default();
    written.parse().map_err(|unknown: crate::UnknownFault| unknown.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_programs_are_let_in() {
        let asked = |host: &str| Request::get("/counts").header("host", host).body(()).unwrap();
        let local = |host: &str| from_here(&asked(host), false);
        for host in ["localhost:8444", "127.0.0.1", "127.0.0.1:80", "[::1]:8444", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in ["evil.example.test", "127.0.0.1.example.test:80", "10.0.0.1:8444", ""] {
            assert!(!local(host), "{host}");
        }
        let page = Request::get("/counts").header("host", "localhost").header("origin", "null");
        assert!(!from_here(&page.body(()).unwrap(), true));
    }

    #[test]
    fn a_fault_in_one_setting_changes_none() {
        let sent = json!({ "token_life": "5s", "latency": "fast" });
        let fault = understood(sent.as_object().unwrap()).map(|changes| changes.len());
        assert!(fault.is_err_and(|fault| fault.starts_with("latency: expected a duration")));
        let sent = json!({ "tokenlife": "5s" });
        assert!(understood(sent.as_object().unwrap()).is_err());
    }
}
