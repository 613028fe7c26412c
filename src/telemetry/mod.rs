//! Health and metrics over HTTP, read-only: for probes, Prometheus, and people with a browser.
//!
//! The listener runs beside the workers, so it answers while they are busy or stuck. Guarantees: no request changes anything,
//! but for `POST /quitquitquit` where the settings have it, and that not for a browser; no answer holds anything of a client's
//! request; an answer to another machine, or under a name that is not this machine's, has codes and no sentences.

mod history;
mod page;
mod pages;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, VARY, X_CONTENT_TYPE_OPTIONS},
    uri::Authority,
};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tracing::error;

use self::{
    history::{Recorder, STEP, TrafficHistory},
    page::StatusPage,
    pages::{Asked, RecentPages},
};
use crate::{
    allocator::Returns,
    clock,
    config::TELEMETRY_DEFAULT,
    liveness::LivenessProbe,
    metrics::{Format, Metrics},
    origin::is_loopback,
    proxy::{BrowserMarks, names_loopback},
    server::{
        Acceptor, AnswerKind, BindError, Bound, ConnectionBalancer, ConnectionLimit, ConnectionLimits, Peer, RequestBody,
        RequestService, bind_tcp,
    },
    status::{Detail, StatusDocument, StatusReader, TURN_MAX},
};

/// The most connections: probes and scrapers open one at a time.
pub const CONNECTIONS: usize = 128;

/// The limits of a connection: requests here are small and quick. No prober or scraper speaks HTTP/2 in cleartext, and a new
/// connection of HTTP/2 costs many times one of HTTP/1.1.
const LIMITS: ConnectionLimits = ConnectionLimits {
    head_bytes: 16 * 1024,
    head_lines: 64,
    head_timeout: Duration::from_secs(10),
    client_idle: Duration::from_secs(120),
    client_stall: Duration::from_secs(10),
    streams: None,
};

/// A telemetry listener that is bound and does not serve yet.
pub struct TelemetryListener {
    bound: Bound,
    /// The bound address, with the real port.
    address: SocketAddr,
}

impl TelemetryListener {
    /// Binds `address`. `Ok(None)`: it is the built-in default, and this machine lacks its address family.
    ///
    /// # Errors
    ///
    /// The address can't be bound.
    pub fn bind(address: SocketAddr) -> Result<Option<Self>, BindError> {
        let listener = |bound: Bound| Self { address: bound.tcp_address().unwrap_or(address), bound };
        let bound = bind_tcp(address, address != TELEMETRY_DEFAULT).map_err(|error| error.of_setting("telemetry_listen"))?;
        Ok(bound.map(listener))
    }

    /// The bound address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves within `connection_limit` until `closing` turns true, then finishes the requests in flight.
    pub async fn serve(self, telemetry: Telemetry, connection_limit: ConnectionLimit, closing: watch::Receiver<bool>) {
        let (on_loopback, page) = (is_loopback(self.address.ip()), StatusPage::new());
        let (recorder, recent) = (Recorder::default(), RecentPages::default());
        let routes = Arc::new(Routes { telemetry, on_loopback, page, recorder, recent });
        let acceptor = match Acceptor::new(self.bound, connection_limit, ConnectionBalancer::default()) {
            Ok(acceptor) => acceptor,
            Err(cause) => return error!(listener = %self.address, error = %cause, "health and metrics can't be served"),
        };
        tokio::select! {
            () = acceptor.run_alone(Arc::clone(&routes), closing) => {}
            () = routes.record_traffic() => {}
            () = give_memory_back() => {}
        }
    }
}

/// The sources of what the listener shows.
pub struct Telemetry {
    /// The daemon's state.
    pub status: StatusReader,
    /// The probe of its workers.
    pub liveness: LivenessProbe,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Notified by `POST /quitquitquit`; `None`: there is no such route.
    pub quit: Option<Arc<Notify>>,
}

struct Routes {
    telemetry: Telemetry,
    /// The listener is bound to a loopback address: its clients are on this machine.
    on_loopback: bool,
    page: StatusPage,
    recorder: Recorder,
    recent: RecentPages,
}

/// Gives the memory back to the system that this thread has freed, for ever.
async fn give_memory_back() {
    let mut returns = Returns::default();
    let mut round = tokio::time::interval(Duration::from_secs(1));
    loop {
        round.tick().await;
        returns.round();
    }
}

/// The document of `/status`: that of the control socket, and the traffic that only the page needs.
#[derive(Serialize)]
struct PageDocument {
    #[serde(flatten)]
    status: StatusDocument,
    history: TrafficHistory,
}

type TelemetryResponse = Response<Full<Bytes>>;

impl RequestService for Routes {
    type Body = Full<Bytes>;

    async fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: Peer) -> TelemetryResponse {
        let mut answer = self.route(&request, &peer).await;
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    /// A client that does not read must not keep a probe out.
    fn kind(_: &TelemetryResponse) -> AnswerKind {
        AnswerKind::Own
    }

    fn lets_in(&self, _: &Peer) -> bool {
        true
    }

    fn limits(&self) -> ConnectionLimits {
        LIMITS
    }
}

impl Routes {
    async fn route(&self, request: &Request<RequestBody>, peer: &Peer) -> TelemetryResponse {
        let path = request.uri().path();
        if let ("/quitquitquit", Some(quit)) = (path, &self.telemetry.quit) {
            return quit_quit_quit(request, peer, quit);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let status = &self.telemetry.status;
        let detail = self.detail(request);
        match path {
            _ if !reads && is_known(path) => not_allowed("GET, HEAD"),
            "/livez" if self.telemetry.liveness.turns(TURN_MAX).await => text(StatusCode::OK, "ok\n"),
            "/livez" => text(StatusCode::SERVICE_UNAVAILABLE, "a worker does not answer\n"),
            "/startupz" if status.has_started() => text(StatusCode::OK, "ok\n"),
            "/startupz" => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            "/metrics" => self.metrics(request.headers(), detail),
            "/readyz" => self.readiness(None, detail),
            "/" | "/status" if !names_this_machine(request) => misdirected(),
            "/" => self.page(),
            "/status" => {
                let page = self.recent.page(Asked::Status(detail), clock::instant(), || json_of(&self.status(detail)));
                answer(StatusCode::OK, "application/json", page)
            }
            _ => match path.strip_prefix("/readyz/") {
                Some(account) if reads => self.readiness(Some(account), detail),
                _ => text(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    /// Reads the counters at the end of every step, for ever.
    async fn record_traffic(&self) {
        let mut step = tokio::time::interval(STEP);
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            step.tick().await;
            let status = &self.telemetry.status;
            let view = Arc::clone(&status.view.borrow());
            self.recorder.read(&view, status.clock.now().wall);
        }
    }

    /// How much the client may be told: everything if it is on this machine and names it. A web page that reads the answer through
    /// a name of its own is told codes.
    fn detail<B>(&self, request: &Request<B>) -> Detail {
        if self.on_loopback && is_local(request) { Detail::Full } else { Detail::CodesOnly }
    }

    fn status(&self, detail: Detail) -> PageDocument {
        PageDocument { status: self.telemetry.status.document(detail), history: self.recorder.traffic() }
    }

    fn page(&self) -> TelemetryResponse {
        let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", self.page.html.clone());
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, self.page.policy.clone());
        answer
    }

    fn metrics(&self, headers: &HeaderMap, detail: Detail) -> TelemetryResponse {
        let format = Format::accepted(headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()));
        let make = || self.telemetry.metrics.encode(self.telemetry.status.readings(detail), format).into();
        let page = self.recent.page(Asked::Metrics(format, detail), clock::instant(), make);
        let mut answer = answer(StatusCode::OK, format.content_type(), page);
        answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        answer
    }

    fn readiness(&self, only: Option<&str>, detail: Detail) -> TelemetryResponse {
        match self.telemetry.status.readiness(only, detail) {
            Some(readiness) if readiness.ready => json(StatusCode::OK, &readiness),
            Some(readiness) => json(StatusCode::SERVICE_UNAVAILABLE, &readiness),
            None => text(StatusCode::NOT_FOUND, "no such account\n"),
        }
    }
}

fn is_known(path: &str) -> bool {
    matches!(path, "/" | "/metrics" | "/livez" | "/startupz" | "/readyz" | "/status") || path.starts_with("/readyz/")
}

/// Stops the daemon, for Kubernetes Jobs whose containers must end by themselves. Only the pod's own containers may ask, and no
/// web page, whatever its origin.
fn quit_quit_quit<B>(request: &Request<B>, peer: &Peer, quit: &Notify) -> TelemetryResponse {
    if *request.method() != Method::POST {
        return not_allowed("POST");
    }
    if !peer.is_local() {
        return text(StatusCode::FORBIDDEN, "only from this machine\n");
    }
    if !is_local(request) {
        return text(StatusCode::FORBIDDEN, "only by a loopback address or as localhost\n");
    }
    let marks = BrowserMarks::of(request.headers());
    if marks.are_there() || marks.navigates() {
        return text(StatusCode::FORBIDDEN, "not from a browser\n");
    }
    quit.notify_one();
    text(StatusCode::OK, "stopping\n")
}

/// Whether the request names this machine by `localhost` or a loopback address, and in one way only.
fn is_local<B>(request: &Request<B>) -> bool {
    names_loopback(request.uri(), request.version(), request.headers())
}

/// Whether the request names an address or `localhost`. A web page can point a DNS name of its own at this listener and then
/// read the answer (DNS rebinding), so other names are refused.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let mut headers = request.headers().get_all(HOST).iter();
    let only = headers.next().filter(|_| headers.next().is_none()).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    request.uri().authority().cloned().or(only).is_some_and(|authority| {
        let host = authority.host().to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        host == "localhost" || address.parse::<IpAddr>().is_ok()
    })
}

fn text(status: StatusCode, text: &'static str) -> TelemetryResponse {
    answer(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn json(status: StatusCode, document: &impl Serialize) -> TelemetryResponse {
    answer(status, "application/json", json_of(document).into())
}

fn json_of(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("names, texts and numbers always have a JSON form")
}

fn misdirected() -> TelemetryResponse {
    text(StatusCode::MISDIRECTED_REQUEST, "ask for this page by an address or as localhost\n")
}

fn not_allowed(methods: &'static str) -> TelemetryResponse {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "not by this method\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> TelemetryResponse {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_for_those_who_ask_by_an_address_or_as_localhost() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:2274", true),
            ("127.0.0.1:2274", true),
            ("10.1.2.3", true),
            ("[::1]:2274", true),
            ("[fe80::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:2274", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            let request = Request::builder().uri("/").header(HOST, host).body(()).unwrap();
            assert_eq!(names_this_machine(&request), expected, "{host:?}");
        }
        let nobody = Request::builder().uri("/").body(()).unwrap();
        assert!(!names_this_machine(&nobody));
        let two = Request::builder().uri("/").header(HOST, "localhost").header(HOST, "evil.example").body(()).unwrap();
        assert!(!names_this_machine(&two));
    }

    #[test]
    fn the_daemon_is_stopped_by_local_programs_that_name_this_machine_and_by_no_browser() {
        let (local, far) = (Peer::unix(None), Peer::tcp("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2274".parse().unwrap()));
        let asked = |peer: &Peer, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(Method::POST).uri("/quitquitquit");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            quit_quit_quit(&request.body(()).unwrap(), peer, &Notify::new()).status().as_u16()
        };
        for host in ["localhost", "LOCALHOST:2274", "127.0.0.1:2274", "127.1.2.3", "[::1]:2274"] {
            assert_eq!(asked(&local, &[("host", host)]), 200, "{host}");
            assert_eq!(asked(&far, &[("host", host)]), 403, "{host}");
        }
        for host in ["", "pod.example", "localhost.", "10.1.2.3:2274", "[fe80::1]", "localhost.evil.example", "127.0.0.1@evil"] {
            assert_eq!(asked(&local, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(asked(&local, &[]), 403);
        assert_eq!(asked(&local, &[("host", "localhost"), ("host", "localhost")]), 403);
        for mark in [
            ("origin", "http://localhost:2274"),
            ("origin", "null"),
            ("referer", "http://localhost:2274/"),
            ("referer", ""),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-dest", "empty"),
            ("sec-fetch-mode", "navigate"),
        ] {
            assert_eq!(asked(&local, &[("host", "localhost:2274"), mark]), 403, "{mark:?}");
        }
        assert_eq!(asked(&local, &[("host", "localhost"), ("sec-fetch-mode", "cors")]), 200, "as Node's fetch sends it");
    }
}
