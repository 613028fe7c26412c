//! The life of one request: admitted, given a bearer, sent, perhaps sent again, answered.
//!
//! Depends on `account` (for bearers; it never sees credentials), `sources` (for `require_header`), `upstream`, `server`, `logging` and `metrics`. Everything that
//! decides is pure and stands in its own file; this one acts. Guarantees: one request goes out at most three times, and a
//! second time only when that can't do anything twice or when a bearer was refused.

mod admit;
mod callers;
mod download;
mod exchange;
mod headers;
pub mod internal;
mod panic;
mod problem;
mod reachability;
mod redact;
mod required;
mod retry;
mod router;
mod tunnel;
mod upload;
mod upstream_time;

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

pub use admit::{Entry, Gate, Refusal};
use bytes::Bytes;
pub use download::{CutOff, Download, ToClient};
pub use exchange::RequestLimit;
pub use headers::HeaderRules;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header::CONTENT_LENGTH, request};
use http_body::Body;
use hyper::{body::Incoming, upgrade::OnUpgrade};
pub use problem::{Code, ProxyError};
pub use reachability::ReachabilityLog;
pub use required::{Required, try_source};
pub use router::{Router, Routes};
pub use upload::{ToUpstream, UploadError};

use crate::{
    account::{Account, Bearer, Generation},
    clock::{self, Clock, Jitter},
    config::Timeouts,
    deadline::{Deadline, Deadlines},
    logging::{AccessLine, AccessWriter},
    metrics::{Meter, Retry, Vocabulary},
    path::Words,
    server::Peer,
    upstream::{Cause, ResponseBody, Reuse, SendError, Upstream},
};

use admit::Admitted;
use exchange::Exchange;
use headers::{Credentials, Framing};
use panic::unless_panicked;
use retry::{AfterFailure, AfterUnauthorized, Failed, IdempotencyKey, RetryBudget};
use tunnel::Tunnel;
use upload::{Upload, Waiting};
use upstream_time::UpstreamTime;

/// A request that must not arrive twice never takes a connection that idled for longer: the other side may be closing it.
const SAFE_IDLE: Duration = Duration::from_secs(4);

/// How long and how much of a refused answer is read for the sake of its connection.
const USED_UP: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

/// What one worker shares among its connections.
pub struct Worker {
    deadlines: Deadlines,
    clock: Arc<dyn Clock>,
    access: Mutex<AccessWriter>,
    ids: Mutex<Jitter>,
    /// Of requests that no API is for.
    unclaimed: Arc<Meter>,
}

impl Worker {
    /// Its own deadlines, log buffer and request ids. `unclaimed` counts requests that no API is for.
    #[must_use]
    pub fn new(deadlines: Deadlines, clock: Arc<dyn Clock>, access: AccessWriter, unclaimed: Arc<Meter>) -> Self {
        Self { deadlines, clock, access: Mutex::new(access), ids: Mutex::new(Jitter::from_system()), unclaimed }
    }

    /// Hands what was logged to the log's thread. Called about once a second, so that lines come in time.
    pub fn flush_access_log(&self) {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).tick();
    }

    fn draw(&self) -> u64 {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }

    fn log(&self, line: &AccessLine<'_>) {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).write(line, self.clock.now().wall);
    }
}

/// One worker's side of an API.
pub struct Api {
    /// As in the settings.
    pub name: String,
    /// Whose bearer is sent.
    pub account: Account,
    /// Its connections; this worker's own.
    pub upstream: Arc<Upstream<ToUpstream>>,
    /// What happens to headers.
    pub rules: HeaderRules,
    /// What a log line may show of a path.
    pub words: Words,
    /// Requests in flight, over all workers.
    pub places: RequestLimit,
    /// Whether the upstream was reached last, over all workers.
    pub reachability: ReachabilityLog,
    /// What this worker counts of it.
    pub meter: Arc<Meter>,
    /// Durations.
    pub timeouts: Timeouts,
    /// Bytes of a request body kept to send it again.
    pub replay_buffer: usize,
    /// `Idempotency-Key` makes a request safe to send again.
    pub retry_idempotency_key: bool,
}

/// One API behind a listen address: one per worker, address and API.
pub struct Route {
    /// What answers.
    pub api: Arc<Api>,
    /// Who may pass.
    pub gate: Gate,
    /// The address, for logs.
    pub listener: Arc<str>,
    /// Whose connections come in here.
    pub worker: Arc<Worker>,
}

impl Route {
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<ToClient>> + Send {
        let (worker, version) = (Arc::clone(&self.worker), request.version());
        unless_panicked(self.exchange((request, peer)), move || {
            // The exchange wrote its line while it unwound.
            with_document(problem::response(&ProxyError::Bug, version, &format!("{:016x}", worker.draw())), None)
        })
    }
}

fn with_document(response: Response<Bytes>, exchange: Option<Exchange>) -> Response<ToClient> {
    response.map(|document| ToClient::Problem { document: Some(document), exchange })
}

/// The words of ours that requests are counted by.
#[must_use]
pub fn vocabulary() -> Vocabulary {
    Vocabulary { codes: Code::ALL.iter().map(|code| code.counted_as()).collect(), cuts: exchange::Cut::WORDS.to_vec() }
}

/// What stays the same whenever the request is sent.
struct Outgoing<'a> {
    head: &'a request::Parts,
    admitted: Admitted,
    framing: Framing,
    upload: Option<&'a Upload>,
    websocket: bool,
}

/// The client's side of a tunnel, when a request asks for a WebSocket.
fn asked_upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    // hyper's sign of an `Upgrade`, which nearly no request has.
    request.extensions().get::<OnUpgrade>()?;
    let asks = *request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && headers::asks_for_websocket(request.headers());
    asks.then(|| hyper::upgrade::on(request))
}

impl Route {
    /// What arrived is one value: apart, the compiler puts one at either end of the future, and copies all between them.
    async fn exchange(self: Arc<Self>, arrived: (Request<Incoming>, Peer)) -> Response<ToClient> {
        let (mut request, peer) = arrived;
        let upgrade = asked_upgrade(&mut request);
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::open(&self, &head, peer);
        let (deadline, mut waits) = (self.worker.deadlines.deadline(), UpstreamTime::default());
        match self.forward(&head, body, upgrade.is_some(), &mut exchange, &deadline, &mut waits).await {
            Ok(answer) => {
                self.api.reachability.reached(&self.api.name);
                match upgrade {
                    Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        self.begin_tunnel(answer, client, exchange, deadline, &waits)
                    }
                    _ => self.pass_on(answer, exchange, deadline, &waits),
                }
            }
            Err(error) => {
                if let ProxyError::Upstream(SendError { cause: Cause::Connect(cause), .. }) = error {
                    self.api.reachability.failed(&self.api.name, error.code(), cause);
                }
                let response = problem::response(&error, head.version, exchange.request_id());
                exchange.failed(response.status().as_u16(), error.code());
                exchange.head_is_ready(&waits);
                if head.method == Method::HEAD {
                    // Nobody asks for the body.
                    exchange.complete();
                }
                with_document(response, Some(exchange))
            }
        }
    }

    async fn forward(
        &self,
        head: &request::Parts,
        body: Incoming,
        websocket: bool,
        exchange: &mut Exchange,
        deadline: &Deadline,
        waits: &mut UpstreamTime,
    ) -> Result<Response<ResponseBody<ToUpstream>>, ProxyError> {
        let framing = framing(&head.headers, &body);
        let upload = (!body.is_end_stream()).then(|| Upload::new(body, Arc::clone(&self.api)));
        // Before anything is refused: whoever still writes the body shall be able to read why.
        if let Some(upload) = &upload {
            exchange.uploads(upload.clone());
        }
        let peer = exchange.peer();
        let admitted =
            self.gate.admit(&head.method, &head.uri, head.version, &head.headers, peer).map_err(ProxyError::Refused)?;
        exchange.keep(self.api.places.take().ok_or(ProxyError::Busy)?);
        let outgoing = Outgoing { head, admitted, framing, upload: upload.as_ref(), websocket };
        let answer = self.send_until_answered(&outgoing, deadline, waits).await?;
        exchange.answered(answer.status().as_u16(), waits.answered());
        Ok(answer)
    }

    /// Sends the request, again where that is safe or where its bearer was refused.
    async fn send_until_answered(
        &self,
        outgoing: &Outgoing<'_>,
        deadline: &Deadline,
        waits: &mut UpstreamTime,
    ) -> Result<Response<ResponseBody<ToUpstream>>, ProxyError> {
        let account = &self.api.account;
        let mut reuse = reuse_for(&outgoing.head.method);
        let mut retry_budget = RetryBudget::new();
        let mut bearer = self.bearer(waits).await?;
        let mut replaces: Option<Generation> = None;
        loop {
            let generation = bearer.generation;
            match self.send_once(outgoing, bearer, reuse, deadline, waits).await {
                Ok(answer) if account.relogin_on().contains(&answer.status()) => {
                    if replaces.is_some() {
                        account.rejected_again(generation);
                    }
                    let fresh = waits.on(Box::pin(self.fresh_bearer(&mut retry_budget, generation, outgoing)).as_mut()).await;
                    match fresh? {
                        Some(newer) => bearer = newer,
                        None => return Ok(answer),
                    }
                    // Who refuses a body may close after it, just when it is written again: that goes to another connection.
                    if outgoing.upload.is_none() {
                        waits.on(Box::pin(drain_for_reuse(answer, deadline)).as_mut()).await;
                    }
                    self.api.meter.retried(Retry::Bearer);
                    replaces = Some(generation);
                }
                Ok(answer) => {
                    if replaces.is_some() {
                        account.accepted(generation);
                    }
                    return Ok(answer);
                }
                Err(error) => {
                    if !self.may_reconnect(&mut retry_budget, error, outgoing) {
                        return Err(error);
                    }
                    self.api.meter.retried(Retry::Connection);
                    reuse = Reuse::OpenedAfter(waits.sent().unwrap_or_else(clock::instant));
                    bearer = self.bearer(waits).await?;
                }
            }
        }
    }

    async fn bearer(&self, waits: &mut UpstreamTime) -> Result<Arc<Bearer>, ProxyError> {
        match self.api.account.bearer(self.worker.clock.now().moment) {
            Some(bearer) => Ok(bearer),
            None => waits.on(Box::pin(self.api.account.wait_for_bearer()).as_mut()).await.map_err(ProxyError::NoBearer),
        }
    }

    /// Reports the refused bearer. A newer one, when the request may go again with it.
    async fn fresh_bearer(
        &self,
        retry_budget: &mut RetryBudget,
        refused: Generation,
        outgoing: &Outgoing<'_>,
    ) -> Result<Option<Arc<Bearer>>, ProxyError> {
        match retry_budget.after_unauthorized(outgoing.body()) {
            AfterUnauthorized::FreshBearer => {
                let newer = self.api.account.replace(refused).await.map_err(ProxyError::NoBearer)?;
                // While we waited the client may have sent more than is kept.
                Ok(newer.filter(|_| outgoing.body() == retry::Body::AtHand))
            }
            AfterUnauthorized::PassOn => {
                self.api.account.unauthorized(refused).await;
                Ok(None)
            }
        }
    }

    fn may_reconnect(&self, retry_budget: &mut RetryBudget, error: ProxyError, outgoing: &Outgoing<'_>) -> bool {
        let ProxyError::Upstream(error) = error else { return false };
        let head = outgoing.head;
        let key = IdempotencyKey::of(&head.headers, self.api.retry_idempotency_key);
        let failed = Failed { method: &head.method, key, body: outgoing.body(), error };
        retry_budget.after_failure(&failed) == AfterFailure::Reconnect
    }

    /// One attempt. The bearer goes with the head: a long upload must not keep an old token in memory.
    async fn send_once(
        &self,
        outgoing: &Outgoing<'_>,
        bearer: Arc<Bearer>,
        reuse: Reuse,
        deadline: &Deadline,
        waits: &mut UpstreamTime,
    ) -> Result<Response<ResponseBody<ToUpstream>>, ProxyError> {
        let upstream = &self.api.upstream;
        waits.begin_attempt();
        let lease = if outgoing.websocket {
            None
        } else {
            Some(waits.on(pin!(upstream.lease(reuse))).await.map_err(ProxyError::Upstream)?)
        };
        let request = outgoing.request(&self.api.rules, &bearer)?;
        drop(bearer);
        let timeouts = &self.api.timeouts;
        let limit = if outgoing.upload.is_some() { timeouts.response.min(timeouts.body_idle) } else { timeouts.response };
        deadline.arm_at(waits.send() + limit);
        let mut sending = pin!(async {
            match lease {
                Some(lease) => lease.send(request).await,
                // Boxed, as below: what is rare takes no room in every request.
                None => Box::pin(upstream.open_tunnel(request)).await,
            }
        });
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(ProxyError::Upstream));
            }
            while deadline.poll_passed(cx).is_ready() {
                if let Some((error, silence)) = self.overdue(outgoing.upload, deadline) {
                    if matches!(error, ProxyError::UpstreamTimeout) {
                        self.api.upstream.retire_older_than(silence);
                    }
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Pending
        })
        .await;
        waits.end();
        outcome
    }

    /// Who kept us waiting for too long, and for how long; if nobody did, the deadline moves to when somebody will have.
    fn overdue(&self, upload: Option<&Upload>, deadline: &Deadline) -> Option<(ProxyError, Duration)> {
        let Some(upload) = upload else { return Some((ProxyError::UpstreamTimeout, self.api.timeouts.response)) };
        let (waiting, since) = upload.waiting();
        let (limit, error) = match waiting {
            Waiting::Client => (self.api.timeouts.body_idle, ProxyError::RequestBodyTimeout),
            Waiting::Upstream => (self.api.timeouts.body_idle, ProxyError::UpstreamTimeout),
            Waiting::ResponseBody => (self.api.timeouts.response, ProxyError::UpstreamTimeout),
        };
        let (now, due) = (clock::instant(), since + limit);
        if due <= now {
            return Some((error, limit));
        }
        // The body may end meanwhile, and then the answer is due sooner.
        deadline.arm_at(due.min(now + self.api.timeouts.response));
        None
    }

    fn pass_on(
        &self,
        answer: Response<ResponseBody<ToUpstream>>,
        mut exchange: Exchange,
        deadline: Deadline,
        waits: &UpstreamTime,
    ) -> Response<ToClient> {
        let (mut head, body) = answer.into_parts();
        // The length of what was not modified: over HTTP/2 some clients wait for it, though the stream has ended.
        let misread = head.status == StatusCode::NOT_MODIFIED && exchange.version() == Version::HTTP_2;
        head.headers = headers::to_client(&self.api.rules, head.headers, misread);
        self.api.hide_token(&mut head);
        head.version = Version::HTTP_11;
        if body.is_end_stream() {
            exchange.complete();
        }
        let timeouts = &self.api.timeouts;
        let idle = if download::is_event_stream(&head.headers) { timeouts.stream_idle } else { timeouts.body_idle };
        exchange.head_is_ready(waits);
        let download = Download::new(body, deadline, idle, exchange).under(&head);
        Response::from_parts(head, ToClient::ResponseBody(download))
    }

    /// The upstream has agreed: what follows is none of HTTP's.
    fn begin_tunnel(
        &self,
        mut answer: Response<ResponseBody<ToUpstream>>,
        client: OnUpgrade,
        exchange: Exchange,
        deadline: Deadline,
        waits: &UpstreamTime,
    ) -> Response<ToClient> {
        let upstream = hyper::upgrade::on(&mut answer);
        let (mut head, answer) = answer.into_parts();
        head.headers = headers::to_client(&self.api.rules, head.headers, false);
        self.api.hide_token(&mut head);
        headers::upgrade_to_websocket(&mut head.headers);
        let idle = self.api.timeouts.stream_idle;
        exchange.head_is_ready(waits);
        // Its owner is the drain, which waits until the client's connection is closed.
        tokio::spawn(Tunnel { client, upstream, deadline, idle, exchange, answer }.run());
        Response::from_parts(head, ToClient::Empty)
    }
}

impl Outgoing<'_> {
    fn body(&self) -> retry::Body {
        if self.upload.is_none_or(Upload::is_at_hand) { retry::Body::AtHand } else { retry::Body::Gone }
    }

    fn request(&self, rules: &HeaderRules, bearer: &Bearer) -> Result<Request<ToUpstream>, ProxyError> {
        let body = match self.upload {
            None => ToUpstream::Empty,
            Some(upload) => ToUpstream::Upload(upload.attempt().ok_or(ProxyError::Bug)?),
        };
        let credentials = Credentials { authorization: bearer.authorization.as_ref(), organization: &bearer.organization };
        let framing = if self.websocket { Framing::None } else { self.framing };
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = Uri::from(self.admitted.target().clone());
        *request.headers_mut() = headers::to_upstream(rules, &self.head.headers, self.head.version, credentials, framing);
        if self.websocket {
            headers::upgrade_to_websocket(request.headers_mut());
        }
        Ok(request)
    }
}

/// Reads an answer that nobody gets, so that its connection serves again: after a revocation many requests are sent once
/// more, and each would begin with a handshake. One that is long or slow is dropped with its connection.
async fn drain_for_reuse(answer: Response<ResponseBody<ToUpstream>>, deadline: &Deadline) {
    let (mut body, mut left) = (answer.into_body(), USED_UP.1);
    deadline.arm(USED_UP.0);
    std::future::poll_fn(|cx| {
        while let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
            let read = frame.and_then(Result::ok).map(|frame| frame.data_ref().map_or(0, Bytes::len));
            match read.and_then(|bytes| left.checked_sub(bytes)) {
                Some(rest) => left = rest,
                None => return Poll::Ready(()),
            }
        }
        deadline.poll_passed(cx)
    })
    .await;
}

fn reuse_for(method: &Method) -> Reuse {
    if method.is_idempotent() { Reuse::Any } else { Reuse::IdleAtMost(SAFE_IDLE) }
}

/// A length of 0 that was written stays: servers answer 411 to a POST that says nothing of its body.
fn framing(headers: &HeaderMap, body: &Incoming) -> Framing {
    if body.is_end_stream() {
        return if headers.contains_key(CONTENT_LENGTH) { Framing::Length(0) } else { Framing::None };
    }
    body.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_idempotent_request_takes_a_connection_that_idled_for_more_than_four_seconds() {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(reuse_for(&method), Reuse::Any, "{method}");
        }
        let unknown = Method::from_bytes(b"MERGE").unwrap();
        for method in [Method::POST, Method::PATCH, unknown] {
            assert_eq!(reuse_for(&method), Reuse::IdleAtMost(Duration::from_secs(4)), "{method}");
        }
    }
}
