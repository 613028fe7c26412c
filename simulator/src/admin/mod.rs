//! Serves the admin port: [`Control`] over plain HTTP, for tests in any language.
//!
//! It uses [`Control`] only, and never blocks the runtime. The port answers programs on this machine: the caller's address and
//! the `Host` must be loopback, which a web page cannot fake by DNS rebinding. An open port also answers other addresses, if
//! `Host` is an address or a name without a dot, as names of containers are. A request with `Origin` is always refused.
//! `settings.rs` reads and shows the settings, `index.rs` lists everything; neither uses the other.

mod index;
mod settings;

use std::{convert::Infallible, net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    control::Control,
    record::{Counts, RecordedLogin, RecordedRequest},
    request::query,
    response::{ResponseBody, full, json_response, message, response, set_header},
};

/// The pause after a failed accept, so that descriptors can be freed (EMFILE).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// The limit for the body of `/settings`, in bytes; real ones have a few hundred.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The limit for the bodies of `/routes` and `/openapi`, in bytes.
#[cfg(feature = "import")]
const MAX_IMPORT_BYTES: usize = 16 * 1024 * 1024;

/// What the admin port has to know.
#[derive(Clone)]
pub(crate) struct Admin {
    /// Whether callers beyond loopback are let in.
    pub(crate) open: bool,
    pub(crate) control: Control,
    pub(crate) ca_pem: String,
    #[cfg(feature = "import")]
    pub(crate) import: Option<RouteImport>,
}

/// Serves connections until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) if admin.open || peer.ip().is_loopback() => {
                let admin = admin.clone();
                let service = service_fn(move |request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(serve_request(&admin, request).await) }
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
async fn serve_request(admin: &Admin, request: Request<Incoming>) -> Response<ResponseBody> {
    let control = &admin.control;
    if !is_allowed(&request, admin.open) {
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
            let mut response = response(StatusCode::OK, full(admin.ca_pem.clone()));
            set_header(&mut response, CONTENT_TYPE, "application/x-pem-file");
            response
        }
        (&Method::GET, "/") => {
            let mut response = response(StatusCode::OK, full(index::text(control)));
            set_header(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
            response
        }
        (&Method::GET, "/settings") => json_response(StatusCode::OK, &settings::shown(control)),
        (&Method::POST, "/settings") => apply_settings(control, body).await,
        #[cfg(feature = "import")]
        (&Method::GET, "/routes") => routes(control),
        #[cfg(feature = "import")]
        (&Method::POST, path @ ("/routes" | "/openapi")) => match (path, admin.import) {
            ("/routes", Some(import)) => add_routes(control, import, body).await,
            (_, Some(import)) => add_openapi(control, import, body).await,
            (_, None) => message(StatusCode::NOT_FOUND, "This simulator was started without the import of routes"),
        },
        #[cfg(feature = "import")]
        (&Method::DELETE, "/routes") => {
            control.remove_added_routes();
            routes(control)
        }
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
        _ => message(StatusCode::NOT_FOUND, "There is no such call; GET / lists them all"),
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
        "unknown": counts.unknown,
        "unknown_routes": counts.unknown_routes,
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

/// Reads the whole body; `None` when it is too long or breaks off.
async fn read(body: Incoming, limit: usize) -> Option<Bytes> {
    http_body_util::Limited::new(body, limit).collect().await.ok().map(http_body_util::Collected::to_bytes)
}

/// Applies the settings in the body, all or none.
async fn apply_settings(control: &Control, body: Incoming) -> Response<ResponseBody> {
    let sent = read(body, MAX_BODY_BYTES).await.and_then(|body| serde_json::from_slice(&body).ok());
    let Some(Value::Object(sent)) = sent else {
        return message(StatusCode::BAD_REQUEST, "Expected a JSON object");
    };
    match settings::apply(control, &sent) {
        Ok(()) => done(),
        Err(fault) => message(StatusCode::BAD_REQUEST, &fault),
    }
}

/// Lets the admin port take routes and OpenAPI documents.
///
/// A program that does not name it, as the sidecar's `demo`, does not carry their parsers.
#[cfg(feature = "import")]
#[derive(Clone, Copy)]
pub struct RouteImport {
    routes: fn(&Control, &[u8]) -> Result<(), String>,
    openapi: fn(&Control, &[u8]) -> Result<Vec<String>, String>,
}

#[cfg(feature = "import")]
impl RouteImport {
    /// Both of them.
    pub const ALL: Self = Self {
        routes: |control, body| {
            let document = serde_json::from_slice(body).map_err(|fault| format!("Expected JSON: {fault}"))?;
            control.add_routes(&document)
        },
        openapi: |control, body| control.add_openapi(&String::from_utf8_lossy(body)),
    };
}

/// Adds the routes in the body, all or none.
#[cfg(feature = "import")]
async fn add_routes(control: &Control, import: RouteImport, body: Incoming) -> Response<ResponseBody> {
    let Some(body) = read(body, MAX_IMPORT_BYTES).await else { return too_long() };
    match (import.routes)(control, &body) {
        Ok(()) => routes(control),
        Err(fault) => message(StatusCode::BAD_REQUEST, &fault),
    }
}

/// Adds the routes of the OpenAPI document in the body.
#[cfg(feature = "import")]
async fn add_openapi(control: &Control, import: RouteImport, body: Incoming) -> Response<ResponseBody> {
    let Some(body) = read(body, MAX_IMPORT_BYTES).await else { return too_long() };
    match (import.openapi)(control, &body) {
        Ok(skipped) => json_response(StatusCode::OK, &json!({ "routes": control.route_names(), "skipped": skipped })),
        Err(fault) => message(StatusCode::BAD_REQUEST, &fault),
    }
}

#[cfg(feature = "import")]
fn too_long() -> Response<ResponseBody> {
    message(StatusCode::PAYLOAD_TOO_LARGE, "The limit is 16 MiB")
}

#[cfg(feature = "import")]
fn routes(control: &Control) -> Response<ResponseBody> {
    json_response(StatusCode::OK, &json!({ "routes": control.route_names() }))
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
}
