//! The life of one request: admitted, given a connection and a bearer, sent, perhaps sent again, answered.
//!
//! [`Forwarding`] holds its state; its methods stand in the order of time. A request goes out three times at most. It is sent
//! again on another connection only if that can't do anything twice (`retry`). It is sent again with a newer bearer, once, when
//! its answer has a status of `relogin_on`: whatever its method, if its body is at hand. By default that is 401, by which a
//! server says that it did nothing; the setting allows any status from 400 to 499.
//!
//! When a reload puts another account in the place of the one that a request waits at, the request begins anew by the routes in
//! force then, with what is left of its time and its resends: no bearer of the one ever goes to the server of the other.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT},
    request,
};
use http_body::Body;
use hyper::upgrade::OnUpgrade;

use super::{
    admit::Admitted,
    api::Route,
    download::{self, Download, ToClient},
    exchange::Exchange,
    headers::{self, AccountFields, Framing, NamedByConnection},
    problem::{self, Code, ProxyError},
    retry::{AfterFailure, AfterUnauthorized, FailedSend, IdempotencyKey, Replay, RetryBudget},
    router::Router,
    tunnel,
    upload::{ToUpstream, Upload, UpstreamResponse, WaitsFor},
    upstream_time::UpstreamTime,
};
use crate::{
    account::{Bearer, Fingerprint, Generation, Unavailable, Why},
    clock,
    deadline::Deadline,
    metrics::Retry,
    server::{Peer, RequestBody},
    upstream::{Reuse, SendError},
};

/// For how long, and how many bytes of an answer that nobody gets are read so that its connection serves again.
const DRAIN_FOR_REUSE: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

/// A request as it came. It is one value: as several, the compiler would put them at either end of the future, and copy all between
/// them.
pub(super) struct Arrived {
    pub(super) request: Request<RequestBody>,
    pub(super) peer: Peer,
    /// Knows the routes of later reloads.
    pub(super) router: Arc<Router>,
}

impl Route {
    /// Forwards a request, and answers it with the upstream's answer or with a problem. Dropping the future ends the exchange.
    pub(super) async fn forward(self: Arc<Self>, arrived: Arrived) -> Response<ToClient> {
        let Arrived { mut request, peer, router } = arrived;
        let upgrade = tunnel::asked_for(&mut request);
        let (head, body) = request.into_parts();
        let worker = Arc::clone(&self.worker);
        let mut forwarding = Forwarding::begin(self, &head, body, peer, upgrade.is_some());
        let answered = loop {
            let answered = match forwarding.admit() {
                Ok(_) if forwarding.ends_here() => return forwarding.answer_options(),
                Ok(admitted) => forwarding.send_until_answered(&admitted).await,
                Err(error) => Err(error),
            };
            if !forwarding.moves_on(&answered, &router) {
                break answered;
            }
        };
        let response = match answered {
            Ok(answer) => forwarding.pass_on(answer, upgrade),
            Err(error) => forwarding.fail(error),
        };
        worker.spare_heads.give(head.headers);
        response
    }
}

/// A request on its way, from the arrival of its head until the head of its answer.
struct Forwarding<'a> {
    route: Arc<Route>,
    head: &'a request::Parts,
    framing: Framing,
    websocket: bool,
    /// The record of the request, which holds its body.
    exchange: Exchange,
    deadline: Deadline,
    time: UpstreamTime,
    /// How long it may still wait for bearers.
    token_wait: Duration,
    retry_budget: RetryBudget,
}

impl<'a> Forwarding<'a> {
    fn begin(route: Arc<Route>, head: &'a request::Parts, body: RequestBody, peer: Peer, websocket: bool) -> Self {
        let mut exchange = Exchange::begin(&route, head, peer);
        let framing = framing(&head.headers, &body);
        // Before the request may be refused: a client that still writes the body must be able to read why.
        if !body.is_end_stream() {
            let named = NamedByConnection::in_headers(&head.headers);
            exchange.set_upload(Upload::new(body, Arc::clone(&route.api.rules), named, route.api.replay_buffer));
        }
        let (deadline, time) = (route.worker.deadlines.deadline(), UpstreamTime::default());
        let (token_wait, retry_budget) = (route.api.account.token_wait(), RetryBudget::FULL);
        Self { route, head, framing, websocket, exchange, deadline, time, token_wait, retry_budget }
    }

    /// Sends the request, and sends it again where that is safe or where its bearer was refused.
    async fn send_until_answered(&mut self, admitted: &Admitted) -> Result<UpstreamResponse, ProxyError> {
        let mut reuse = reuse_for(&self.head.method);
        let mut replaced_bearer = false;
        // No connection is opened for a request that gets no bearer.
        self.wait_for_bearer().await?;
        loop {
            let sent = self.send(admitted, reuse).await;
            self.exchange.set_awaits_answer(false);
            match sent {
                Ok((answer, generation)) => {
                    let is_refused = self.note_token(answer.status(), generation, replaced_bearer);
                    if !is_refused || !self.wait_for_newer_bearer(generation).await? {
                        return Ok(answer);
                    }
                    // A server that rejects a request may close the connection, so a request with a body takes another one.
                    if self.exchange.upload().is_none() {
                        self.time.wait(Box::pin(drain_for_reuse(answer, &self.deadline)).as_mut()).await;
                    }
                    self.exchange.retried(Retry::Bearer);
                    replaced_bearer = true;
                }
                Err(SendFailed::BearerGone) => self.wait_for_bearer().await?,
                Err(SendFailed::NoAnswer(error)) => {
                    if !self.may_reconnect(error) {
                        return Err(error);
                    }
                    self.exchange.retried(Retry::Connection);
                    reuse = Reuse::OpenedAfter(self.time.sent().unwrap_or_else(clock::instant));
                    self.wait_for_bearer().await?;
                }
            }
        }
    }

    /// Judges the head, and takes a request permit.
    fn admit(&mut self) -> Result<Admitted, ProxyError> {
        let Self { route, head, exchange, .. } = self;
        let admitted = route.gate.admit(&head.method, &head.uri, head.version, &head.headers, exchange.peer());
        let admitted = admitted.map_err(ProxyError::Refused)?;
        if let Some(refusal) = admitted.would_refuse() {
            exchange.set_would_refuse(ProxyError::Refused(refusal).code());
        }
        if let Some(base) = route.gate.observes_below() {
            route.api.observed.note(&head.method, &admitted, base, &route.api.words);
        }
        if exchange.take_permit() { Ok(admitted) } else { Err(ProxyError::Busy) }
    }

    /// Waits until there is a bearer. The request loads it later, when its head is made.
    async fn wait_for_bearer(&mut self) -> Result<(), ProxyError> {
        let account = &self.route.api.account;
        if self.bearer().is_some() {
            return Ok(());
        }
        // Boxed, as all that is rare: it takes no memory in each request's future.
        let mut waiting = Box::pin(account.wait_for_bearer_within(self.token_wait));
        let outcome = self.time.wait_within(&mut self.token_wait, waiting.as_mut()).await;
        outcome.map(drop).map_err(ProxyError::NoBearer)
    }

    /// The bearer that may be sent now.
    fn bearer(&self) -> Option<Arc<Bearer>> {
        let Route { api, worker, .. } = &*self.route;
        api.account.bearer(worker.clock.moment())
    }

    /// Makes one attempt: takes a connection, then makes the head for it. Tells which token was sent.
    async fn send(&mut self, admitted: &Admitted, reuse: Reuse) -> Result<(UpstreamResponse, Generation), SendFailed> {
        let upstream = &self.route.api.upstream;
        self.time.begin_attempt();
        self.exchange.set_awaits_answer(true);
        let lease = if self.websocket {
            self.time.wait(Box::pin(upstream.lease_for_tunnel()).as_mut()).await?
        } else {
            self.time.wait(pin!(upstream.lease(reuse))).await?
        };
        if self.exchange.goes_out_again() && self.bearer().is_some() {
            self.exchange.retried(Retry::Bearer);
        }
        let sent = self.time.send();
        self.deadline.arm_at(sent + self.first_limit());
        let outcome = {
            let mut sending = pin!(lease.send(|| self.make_request(admitted)));
            std::future::poll_fn(|cx| {
                if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                    return Poll::Ready(outcome);
                }
                while self.deadline.poll_passed(cx).is_ready() {
                    if let Some(error) = self.overdue() {
                        return Poll::Ready(Err(SendFailed::NoAnswer(error)));
                    }
                }
                Poll::Pending
            })
            .await
        };
        self.time.end();
        let (answer, sent) = outcome?;
        self.route.api.health.answered(&self.route.api.name);
        self.exchange.set_carried(sent.fingerprint);
        Ok((answer, sent.generation))
    }

    /// Makes the request, with the bearer of this moment: while the request waited for its connection, the one before may have
    /// expired or been withdrawn. The bearer is dropped with the head: a long upload must not keep an old token in memory.
    fn make_request(&self, admitted: &Admitted) -> Result<(Request<ToUpstream>, SentToken), SendFailed> {
        let bearer = self.bearer().ok_or(SendFailed::BearerGone)?;
        if !self.route.api.account.has_fetched(&bearer) {
            return Err(SendFailed::NoAnswer(ProxyError::Bug));
        }
        let request = self.request(admitted, &bearer).map_err(SendFailed::NoAnswer)?;
        Ok((request, SentToken { generation: bearer.generation, fingerprint: bearer.fingerprint.clone() }))
    }

    /// The request as the upstream gets it.
    fn request(&self, admitted: &Admitted, bearer: &Bearer) -> Result<Request<ToUpstream>, ProxyError> {
        let body = match self.exchange.upload() {
            None => ToUpstream::Empty,
            Some(upload) => ToUpstream::Upload(Box::new(upload.attempt().ok_or(ProxyError::Bug)?)),
        };
        let account = AccountFields { authorization: bearer.authorization.as_ref(), organization: &bearer.organization };
        let framing = if self.websocket { Framing::None } else { self.framing };
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = Uri::from(admitted.target().clone());
        let (client, version) = (&self.head.headers, self.head.version);
        let request_id = self.exchange.request_id();
        let (spare, rules) = (self.route.worker.spare_heads.take(), &self.route.api.rules);
        *request.headers_mut() = headers::to_upstream(spare, rules, client, version, account, framing, request_id);
        if self.websocket {
            headers::upgrade_to_websocket(request.headers_mut());
        }
        if self.head.method == Method::OPTIONS {
            headers::count_forwarding(request.headers_mut());
        }
        Ok(request)
    }

    /// When the first look at the deadline is due: while a body is sent, either side may be silent for `body_idle` only.
    fn first_limit(&self) -> Duration {
        let api = &self.route.api;
        if self.exchange.upload().is_some() { api.response_timeout.min(api.body_idle) } else { api.response_timeout }
    }

    /// The deadline has passed. Tells which side has kept us waiting for too long; if neither has, the deadline moves to when
    /// one will have.
    fn overdue(&self) -> Option<ProxyError> {
        let api = &self.route.api;
        let (limit, error) = match self.exchange.upload().map(Upload::waits_for) {
            None => (api.response_timeout, ProxyError::UpstreamTimeout),
            Some((waits_for, since)) => {
                let (limit, error) = match waits_for {
                    WaitsFor::Client => (api.body_idle, ProxyError::RequestBodyTimeout),
                    WaitsFor::Upstream => (api.body_idle, ProxyError::UpstreamTimeout),
                    WaitsFor::Answer => (api.response_timeout, ProxyError::UpstreamTimeout),
                };
                let (now, due) = (clock::instant(), since + limit);
                if due > now {
                    // The body may end meanwhile, and then the answer is due sooner.
                    self.deadline.arm_at(due.min(now + api.response_timeout));
                    return None;
                }
                (limit, error)
            }
        };
        if matches!(error, ProxyError::UpstreamTimeout) {
            api.upstream.retire_older_than(limit);
        }
        Some(error)
    }

    /// Notes what an answer of this status says of its token: for the account, and for the API's health. Returns whether the token is
    /// refused. `replaced`: the token took the place of one that the same request had before.
    fn note_token(&self, status: StatusCode, generation: Generation, replaced: bool) -> bool {
        let Route { api, worker, .. } = &*self.route;
        let account = &api.account;
        let is_refused = account.relogin_on().contains(&status);
        if is_refused {
            api.health.unauthorized(&api.name, status, worker.clock.now().moment);
        } else {
            api.health.authorized(&api.name);
            account.answered(generation);
        }
        match (replaced, is_refused) {
            (true, true) => account.rejected_again(generation),
            (true, false) => account.accepted(generation),
            (false, _) => {}
        }
        is_refused
    }

    /// Reports the refused bearer. Tells whether there is a newer one and the request may be sent again with it. It fails when
    /// the account has ended meanwhile: the answer was for a token of other terms.
    async fn wait_for_newer_bearer(&mut self, refused: Generation) -> Result<bool, ProxyError> {
        let account = &self.route.api.account;
        match self.retry_budget.after_unauthorized(replay(&self.exchange)) {
            AfterUnauthorized::FreshBearer => {
                let mut waiting = Box::pin(account.replace(refused, self.token_wait));
                let replaced =
                    self.time.wait_within(&mut self.token_wait, waiting.as_mut()).await.map_err(ProxyError::NoBearer)?;
                self.exchange.set_relogin(replaced.relogin);
                // While we waited, the client may have sent more than is kept.
                Ok(replaced.bearer.is_some() && replay(&self.exchange) == Replay::Possible)
            }
            AfterUnauthorized::PassOn => {
                if let Some(relogin) = self.time.wait(Box::pin(account.unauthorized(refused)).as_mut()).await {
                    self.exchange.set_relogin(relogin);
                }
                Ok(false)
            }
        }
    }

    fn may_reconnect(&mut self, error: ProxyError) -> bool {
        let ProxyError::Upstream(error) = error else { return false };
        let key = IdempotencyKey::of(&self.head.headers, self.route.api.retry_idempotency_key);
        let failed = FailedSend { method: &self.head.method, key, replay: replay(&self.exchange), error };
        self.retry_budget.after_failure(&failed) == AfterFailure::Reconnect
    }

    /// Moves the request to the route in force, if a reload has put another account in the place of its own and its body is at hand.
    /// Tells whether it begins anew there.
    fn moves_on(&mut self, answered: &Result<UpstreamResponse, ProxyError>, router: &Router) -> bool {
        let is_replaced = matches!(answered, Err(ProxyError::NoBearer(Unavailable { why: Why::Replaced, .. })));
        if !is_replaced || replay(&self.exchange) == Replay::Impossible {
            return false;
        }
        let in_force = router.route_of(self.head.uri.path());
        // While the daemon ends, no other account comes.
        if Arc::ptr_eq(&in_force, &self.route) {
            return false;
        }
        self.exchange.move_to(&in_force);
        self.token_wait = self.token_wait.min(in_force.api.account.token_wait());
        self.route = in_force;
        true
    }

    /// Passes the upstream's answer on. `upgrade`: the client's side of a tunnel, if it asked for one.
    fn pass_on(self, answer: UpstreamResponse, upgrade: Option<OnUpgrade>) -> Response<ToClient> {
        let Self { route, mut exchange, deadline, time, .. } = self;
        let api = &route.api;
        exchange.answered(answer.status().as_u16(), time.answered);
        if let Some(upload) = exchange.upload() {
            upload.forget();
        }
        if let Some(client) = upgrade
            && answer.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            exchange.head_is_ready(time.total);
            return tunnel::begin(api, answer, client, exchange, deadline);
        }
        let (mut head, body) = answer.into_parts();
        // The length of what was not modified: over HTTP/2 some clients wait for it, though the stream has ended. A 204 has none.
        let misread = match head.status {
            StatusCode::NOT_MODIFIED => exchange.version() == Version::HTTP_2,
            status => status == StatusCode::NO_CONTENT,
        };
        let named = NamedByConnection::in_headers(&head.headers);
        head.headers = headers::to_client(&api.rules, head.headers, &named, misread, exchange.request_id());
        exchange.set_named_by_answer(named);
        exchange.hide_tokens(&mut head);
        head.version = Version::HTTP_11;
        let event_stream = download::is_event_stream(&head.headers);
        let idle = if event_stream { api.stream_idle } else { api.body_idle };
        exchange.head_is_ready(time.total);
        let download = Download::new(&head, body, idle, deadline, exchange);
        Response::from_parts(head, ToClient::Download(Box::new(download)))
    }

    /// Whether the client asks the sidecar itself what it allows: no further proxy may pass its OPTIONS on.
    fn ends_here(&self) -> bool {
        self.head.method == Method::OPTIONS && headers::max_forwards(&self.head.headers) == Some(0)
    }

    /// Answers an OPTIONS that ends here.
    fn answer_options(self) -> Response<ToClient> {
        let Self { mut exchange, time, .. } = self;
        exchange.answered(StatusCode::OK.as_u16(), None);
        exchange.complete();
        exchange.head_is_ready(time.total);
        problem::allowed_methods(exchange.request_id()).map(|()| ToClient::Empty)
    }

    /// Answers with a problem of ours.
    fn fail(self, error: ProxyError) -> Response<ToClient> {
        let Self { route, head, mut exchange, time, .. } = self;
        let Route { api, worker, .. } = &*route;
        if error.code().status().is_server_error() {
            api.health.failed(&api.name, error, worker.clock.now().moment);
        }
        let mut response = problem::response(&error, head.version, exchange.request_id());
        // A client that was not told to go on may send its next request in place of the body.
        let expects = head.headers.contains_key(EXPECT) && error.code() != Code::ExpectationFailed;
        let awaits_continue = expects && exchange.upload().is_some_and(|upload| upload.bytes() == 0);
        if awaits_continue && head.version == Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        exchange.failed(response.status().as_u16(), error.code());
        exchange.head_is_ready(time.total);
        response.map(|document| ToClient::problem(document, exchange, head.method == Method::HEAD))
    }
}

/// What is kept of the token that a request carried.
struct SentToken {
    generation: Generation,
    fingerprint: Option<Arc<Fingerprint>>,
}

/// Why an attempt brought no answer.
enum SendFailed {
    /// When the connection was there, the bearer was no longer. Nothing was sent.
    BearerGone,
    /// The attempt failed.
    NoAnswer(ProxyError),
}

impl From<SendError> for SendFailed {
    fn from(error: SendError) -> Self {
        Self::NoAnswer(ProxyError::Upstream(error))
    }
}

/// Reads an answer that nobody gets, so that its connection serves again: after a revocation many requests are sent once
/// more, and each would begin with a handshake. An answer that is long or slow is dropped with its connection.
async fn drain_for_reuse(answer: UpstreamResponse, deadline: &Deadline) {
    let (mut body, mut left) = (answer.into_body(), DRAIN_FOR_REUSE.1);
    deadline.arm(DRAIN_FOR_REUSE.0);
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

fn replay(exchange: &Exchange) -> Replay {
    if exchange.upload().is_none_or(Upload::is_at_hand) { Replay::Possible } else { Replay::Impossible }
}

fn reuse_for(method: &Method) -> Reuse {
    if method.is_idempotent() { Reuse::Any } else { Reuse::Safe }
}

/// A length of 0 that was written stays: servers answer 411 to a POST that says nothing of its body.
fn framing(headers: &HeaderMap, body: &RequestBody) -> Framing {
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
            assert_eq!(reuse_for(&method), Reuse::Safe, "{method}");
        }
    }
}
