//! Serves the admin port: [`Control`] over plain HTTP, for tests in any language.
//!
//! It uses [`Control`] only, and never blocks the runtime. The port answers programs on this machine: the caller's address and
//! the `Host` must be loopback, which a web page cannot fake by DNS rebinding. An open port also answers other addresses, if
//! `Host` is an address or a name without a dot, as names of containers are. A request with `Origin` is always refused.

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
    control::Control,
    duration,
    fault::{LoginFault, UnknownFault},
    record::{Counts, RecordedLogin, RecordedRequest},
    request::query,
    response::{ResponseBody, full, json_response, message, response, set_header},
};

/// The pause after a failed accept, so that descriptors can be freed (EMFILE).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// The limit for the body of `/settings`, in bytes; real ones have a few hundred.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Serves connections until the runtime ends. `open` lets callers beyond loopback in.
pub(crate) async fn serve(listener: TcpListener, open: bool, control: Control, ca_pem: String) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) if open || peer.ip().is_loopback() => {
                let (control, ca_pem) = (control.clone(), ca_pem.clone());
                let service = service_fn(move |request| {
                    let (control, ca_pem) = (control.clone(), ca_pem.clone());
                    async move { Ok::<_, Infallible>(serve_request(open, &control, &ca_pem, request).await) }
                });
                let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(tcp), service);
                // An error only means that the client is gone.
                tokio::spawn(async move { drop(served.await) });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

/// Answers one request.
async fn serve_request(open: bool, control: &Control, ca_pem: &str, request: Request<Incoming>) -> Response<ResponseBody> {
    if !is_allowed(&request, open) {
        return message(StatusCode::FORBIDDEN, "The admin port is for programs on this machine");
    }
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, ());
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/counts") => json_response(StatusCode::OK, &counts_json(&control.counts())),
        (&Method::GET, "/requests") => {
            let requests = control.requests().iter().map(request_json).collect();
            json_response(StatusCode::OK, &Value::Array(requests))
        }
        (&Method::GET, "/logins") => json_response(StatusCode::OK, &logins_json(control)),
        (&Method::GET, "/ca.pem") => {
            let mut response = response(StatusCode::OK, full(ca_pem.to_owned()));
            set_header(&mut response, CONTENT_TYPE, "application/x-pem-file");
            response
        }
        (&Method::POST, "/settings") => apply_settings(control, body).await,
        (&Method::POST, "/revoke") => {
            match query(&request, "organization") {
                Some(organization) => control.revoke_tokens_of(&organization),
                None => control.revoke_tokens(),
            }
            done()
        }
        (&Method::POST, "/drop-connections") => {
            // `Control` would wait for the sockets to be closed, but this thread has to close them.
            control.0.connections.abort(false);
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

fn done() -> Response<ResponseBody> {
    json_response(StatusCode::OK, &json!({ "ok": true }))
}

/// Whether a request may come in: from a local program, or from any container's if the port is open.
///
/// A web page cannot change anything, since its POST has `Origin`, and cannot read a response to its GET.
fn is_allowed<B>(request: &Request<B>, open: bool) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(
        host,
        |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        },
    );
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let loopback = name.eq_ignore_ascii_case("localhost") || address.as_ref().is_ok_and(IpAddr::is_loopback);
    // A web page that rebinds its own name to this address has a public domain name, which contains a dot.
    let container = open && !name.is_empty() && (address.is_ok() || !name.contains('.'));
    (loopback || container) && !request.headers().contains_key(ORIGIN)
}

fn counts_json(counts: &Counts) -> Value {
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

fn request_json(request: &RecordedRequest) -> Value {
    json!({
        "method": request.method,
        "target": request.target,
        "authority": request.authority,
        "version": request.version,
        "headers": request.headers,
        "body_bytes": request.body_bytes,
        "complete": request.complete,
        "status": request.status,
        "answer_bytes": request.answer_bytes,
        "over": request.over,
    })
}

/// The log-ins without their passwords: of the body only the names of its fields are shown.
fn logins_json(control: &Control) -> Value {
    let login = |login: RecordedLogin| {
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

/// Applies the settings in the body, all or none.
async fn apply_settings(control: &Control, body: Incoming) -> Response<ResponseBody> {
    let body = http_body_util::Limited::new(body, MAX_BODY_BYTES).collect().await;
    let sent = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let Some(Value::Object(sent)) = sent else {
        return message(StatusCode::BAD_REQUEST, "Expected a JSON object");
    };
    match parse_settings(&sent) {
        Ok(changes) => {
            for change in changes {
                change(control);
            }
            done()
        }
        Err(fault) => message(StatusCode::BAD_REQUEST, &fault),
    }
}

/// A change of one setting that was parsed and not yet applied.
type Change = Box<dyn FnOnce(&Control) + Send>;

/// Parses all settings.
///
/// # Errors
///
/// The first setting that is wrong, and what is expected.
fn parse_settings(sent: &Map<String, Value>) -> Result<Vec<Change>, String> {
    sent.iter().map(|(key, value)| parse_change(key, value).map_err(|fault| format!("{key}: {fault}"))).collect()
}

/// Parses one setting.
fn parse_change(key: &str, value: &Value) -> Result<Change, String> {
    Ok(match key {
        "token_life" => with(parse_duration(value)?, Control::set_token_life),
        "login_delay" => with(parse_duration(value)?, Control::set_login_delay),
        "latency" => with(parse_duration(value)?, Control::set_latency),
        "clock_offset" => with(value.as_i64().ok_or("expected a number of seconds")?, Control::set_clock_offset),
        "omit_date" => with(parse_bool(value)?, Control::set_omit_date),
        "http2" => with(parse_bool(value)?, Control::set_http2),
        "max_concurrent_streams" if value.is_null() => Box::new(|control| control.set_max_concurrent_streams(None)),
        "max_concurrent_streams" => {
            let streams = value.as_u64().and_then(|streams| u32::try_from(streams).ok());
            with(streams.ok_or("expected a number or null")?, |control, streams| {
                control.set_max_concurrent_streams(Some(streams));
            })
        }
        "hold_logins" => with(parse_bool(value)?, Control::hold_logins),
        "hold_requests" => with(parse_bool(value)?, Control::hold_requests),
        "pause_accepting" => with(parse_bool(value)?, |control, pause| {
            control.0.accepting.send_replace(!pause);
            if pause {
                // `Control` would wait for the sockets to be closed, but this thread has to close them.
                control.0.connections.abort(true);
            }
        }),
        "login_fault" => with(if value.is_null() { None } else { Some(parse_fault(value)?) }, Control::set_login_fault),
        "fail_next_logins" if value.is_null() => Box::new(Control::clear_next_login_faults),
        "fail_next_logins" => {
            let times = value["times"].as_u64().and_then(|times| u32::try_from(times).ok());
            let times = times.ok_or("expected {\"times\": number, \"fault\": text}")?;
            let fault = parse_fault(&value["fault"])?;
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

/// The change that calls `apply` with `value`.
fn with<T: Send + 'static>(value: T, apply: impl FnOnce(&Control, T) + Send + 'static) -> Change {
    Box::new(move |control| apply(control, value))
}

fn parse_duration(value: &Value) -> Result<Duration, String> {
    duration::parse(value.as_str().ok_or("expected a text like \"30s\"")?)
}

fn parse_bool(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".to_owned())
}

fn parse_fault(value: &Value) -> Result<LoginFault, String> {
    let written = value.as_str().unwrap_or_default();
    written.parse().map_err(|unknown: UnknownFault| unknown.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_programs_are_let_in() {
        let asked = |host: &str| Request::get("/counts").header("host", host).body(()).unwrap();
        let local = |host: &str| is_allowed(&asked(host), false);
        for host in ["localhost:8444", "127.0.0.1", "127.0.0.1:80", "[::1]:8444", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in ["evil.example.test", "127.0.0.1.example.test:80", "10.0.0.1:8444", ""] {
            assert!(!local(host), "{host}");
        }
        let page = Request::get("/counts").header("host", "localhost").header("origin", "null");
        assert!(!is_allowed(&page.body(()).unwrap(), true));
    }

    #[test]
    fn a_fault_in_one_setting_changes_none() {
        let sent = json!({ "token_life": "5s", "latency": "fast" });
        let fault = parse_settings(sent.as_object().unwrap()).map(|changes| changes.len());
        assert!(fault.is_err_and(|fault| fault.starts_with("latency: expected a duration")));
        let sent = json!({ "tokenlife": "5s" });
        assert!(parse_settings(sent.as_object().unwrap()).is_err());
    }
}
