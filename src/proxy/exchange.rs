//! The record of one request and its answer, for the access log and the metrics; it hides tokens that an answer echoes.
//!
//! Guarantees: however an exchange ends, also when the client hangs up or a panic unwinds, one line is written, the exchange is
//! counted once, and its request permit is released.

use std::{num::NonZeroUsize, ptr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Version, request, response};
use hyper::ext::ReasonPhrase;
use tokio::time::Instant;

use super::{
    api::Route,
    headers::{self, NamedByConnection},
    problem::Code,
    request_id::IdAndPath,
    request_limit::RequestPermit,
    upload::{Upload, WaitsFor},
};
use crate::{
    account::{Fingerprint, Relogin},
    clock,
    logging::AccessLine,
    metrics::{CutLabel, Ended, Label as _, Meter, Metrics, Retry, label},
    server::Peer,
};

/// The status of a request whose client hangs up before the answer; nobody receives it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What stands in an answer instead of the token.
const REDACTED: HeaderValue = HeaderValue::from_static("[redacted]");

/// Lives from the arrival of the request's head to the last byte of its answer.
pub(super) struct Exchange {
    route: Arc<Route>,
    method: Method,
    id_and_path: IdAndPath,
    version: Version,
    peer: Peer,
    started: Instant,
    first_byte: Option<Duration>,
    /// How often the request was sent again.
    retries: u8,
    relogin: Option<Relogin>,
    /// A connection to the upstream, or its answer, is awaited.
    awaits_answer: bool,
    /// A 401 has answered it, and it has moved to another route since.
    goes_out_again: bool,
    status: Option<u16>,
    code: Option<Code>,
    would_refuse: Option<Code>,
    upload: Option<Upload>,
    /// What the answer's head names by `Connection`, which passes as a trailer neither.
    named_by_answer: Option<Box<NamedByConnection>>,
    /// Finds echoes of the token that the request carried, once it was answered.
    carried: Option<Arc<Fingerprint>>,
    /// Bytes from the client through a tunnel, which has no upload.
    tunnelled_bytes: u64,
    response_bytes: u64,
    ending: Ending,
    permit: Option<RequestPermit>,
}

enum Ending {
    /// The answer has not ended yet. If the exchange is dropped now, the client has hung up.
    Open,
    Complete,
    Cut(Cut),
}

label! {
    /// Why an answer is shorter than the upstream meant it.
    pub(super) enum Cut {
        /// The upstream broke off.
        UpstreamClosed = "upstream_closed",
        /// The upstream was silent for too long.
        UpstreamSilent = "upstream_silent",
        /// The client hung up.
        ClientClosed = "client_closed",
        /// The client was silent for too long in its request, after the upstream had begun to answer.
        ClientSilent = "client_silent",
        /// Both sides of a tunnel were silent for too long.
        Silent = "silent",
        /// The drain time ran out.
        Drain = "drain",
    }
}

impl CutLabel for Cut {
    fn is_the_upstreams(self) -> bool {
        matches!(self, Self::UpstreamClosed | Self::UpstreamSilent)
    }
}

/// Makes the metrics of a daemon, which count requests by the proxy's codes and cuts.
#[must_use]
pub fn metrics(workers: NonZeroUsize) -> Arc<Metrics> {
    Metrics::new::<Code, Cut>(workers)
}

impl Exchange {
    /// Begins when the request's head has arrived.
    pub(super) fn begin(route: &Arc<Route>, head: &request::Parts, peer: Peer) -> Self {
        Self {
            route: Arc::clone(route),
            method: head.method.clone(),
            id_and_path: IdAndPath::new(&head.headers, head.uri.path(), || route.worker.random_id()),
            version: head.version,
            peer,
            started: clock::instant(),
            first_byte: None,
            awaits_answer: false,
            retries: 0,
            relogin: None,
            goes_out_again: false,
            status: None,
            code: None,
            would_refuse: None,
            upload: None,
            named_by_answer: None,
            carried: None,
            tunnelled_bytes: 0,
            response_bytes: 0,
            ending: Ending::Open,
            permit: None,
        }
    }

    /// Goes on at another route, which has to admit the request anew.
    pub(super) fn move_to(&mut self, route: &Arc<Route>) {
        self.permit = self.permit.take().filter(|permit| permit.is_of(&route.api.request_limit));
        self.would_refuse = None;
        self.route = Arc::clone(route);
        if let Some(upload) = &self.upload {
            upload.set_header_rules(&route.api.rules);
        }
        // A 401 has answered it since it was sent.
        self.goes_out_again |= self.carried.is_some();
    }

    /// Whether it will be sent again at this route, and was not yet.
    pub(super) fn goes_out_again(&self) -> bool {
        self.goes_out_again
    }

    /// Takes a request permit, unless it has one, and keeps it until the exchange ends. Tells whether it has one then.
    pub(super) fn take_permit(&mut self) -> bool {
        if self.permit.is_none() {
            self.permit = self.route.api.request_limit.take();
        }
        self.permit.is_some()
    }

    /// The rules would have refused the request with `code`, were they enforced.
    pub(super) fn set_would_refuse(&mut self, code: Code) {
        self.would_refuse = Some(code);
        self.route.api.meter.would_have_refused(code);
    }

    /// The request has this body.
    pub(super) fn set_upload(&mut self, upload: Upload) {
        self.upload = Some(upload);
    }

    /// The request's body; `None` when it has none.
    pub(super) fn upload(&self) -> Option<&Upload> {
        self.upload.as_ref()
    }

    /// The request went out with the token of this fingerprint; `None`: the account has no log-in.
    pub(super) fn set_carried(&mut self, token: Option<Arc<Fingerprint>>) {
        self.carried = token;
    }

    /// Hides tokens in an answer's head, so that an upstream that echoes them gives none to the client, nor to a log of answers:
    /// the token that the request carried, which may have been replaced or withdrawn since and still be valid, and the
    /// present one. The reason phrase is free text, which hyper passes on. Bodies are not searched.
    pub(super) fn hide_tokens(&self, head: &mut response::Parts) {
        let hidden = self.route.api.account.show_fingerprint(|present| {
            let tokens = Tokens { carried: self.carried.as_deref(), present };
            let echoed = head.extensions.get::<ReasonPhrase>().is_some_and(|reason| tokens.are_in(reason.as_bytes()));
            if echoed {
                head.extensions.remove::<ReasonPhrase>();
            }
            u64::from(echoed) + redact(&mut head.headers, tokens)
        });
        self.count_redacted(hidden);
    }

    /// Its answer's head names these by `Connection`.
    pub(super) fn set_named_by_answer(&mut self, named: NamedByConnection) {
        self.named_by_answer = (!named.is_empty()).then(|| Box::new(named));
    }

    /// Makes the trailers of the answer that the client gets, with tokens hidden as in its head.
    pub(super) fn trailers_to_client(&self, upstream: &HeaderMap) -> HeaderMap {
        let api = &self.route.api;
        let none = NamedByConnection::default();
        let named = self.named_by_answer.as_deref().unwrap_or(&none);
        let mut trailers = headers::trailers_to_client(&api.rules, named, upstream);
        let carried = self.carried.as_deref();
        self.count_redacted(api.account.show_fingerprint(|present| redact(&mut trailers, Tokens { carried, present })));
        trailers
    }

    fn count_redacted(&self, hidden: u64) {
        if hidden > 0 {
            self.route.api.meter.redacted(hidden);
        }
    }

    /// The client.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The HTTP version that the client speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether the request is a HEAD, whose answer has no content.
    pub(super) fn asks_for_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The client's request id, or ours.
    pub(super) fn request_id(&self) -> HeaderValue {
        self.id_and_path.id_value()
    }

    /// The request is sent again.
    pub(super) fn retried(&mut self, retry: Retry) {
        (self.carried, self.goes_out_again) = (None, false);
        self.route.api.meter.retried(retry);
        self.retries = self.retries.saturating_add(1);
    }

    /// What the request's first 401 did about the token; a second one is passed on whatever it would do.
    pub(super) fn set_relogin(&mut self, relogin: Relogin) {
        self.relogin.get_or_insert(relogin);
    }

    /// Whether a connection to the upstream, or its answer, is awaited from now on.
    pub(super) fn set_awaits_answer(&mut self, awaits: bool) {
        self.awaits_answer = awaits;
    }

    /// The upstream's answer has begun, `at` this time.
    pub(super) fn answered(&mut self, status: u16, at: Option<Instant>) {
        self.status = Some(status);
        self.first_byte = at.map(|at| at - self.started);
    }

    /// The answer is a problem of ours.
    pub(super) fn failed(&mut self, status: u16, code: Code) {
        self.status = Some(status);
        self.code = Some(code);
    }

    /// Whether the answer says that the caller may not call.
    pub(super) fn caller_is_refused(&self) -> bool {
        self.code == Some(Code::CallerNotAllowed)
    }

    /// The answer's head is about to go to the client. The time since the request's head, without the time `waited` for the
    /// account and the upstream, is the sidecar's own overhead.
    pub(super) fn head_is_ready(&self, waited: Duration) {
        self.meter().spent(self.started.elapsed().saturating_sub(waited));
    }

    /// This many bytes have gone through a tunnel so far, from the client and to it.
    pub(super) fn tunnelled(&mut self, up: u64, down: u64) {
        (self.tunnelled_bytes, self.response_bytes) = (up, down);
    }

    /// This many more bytes of the answer's body went to the client.
    pub(super) fn passed_on(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// The answer's body has ended as it should.
    pub(super) fn complete(&mut self) {
        self.ending = Ending::Complete;
    }

    /// The answer's body was cut.
    pub(super) fn cut(&mut self, cut: Cut) {
        self.ending = Ending::Cut(cut);
    }

    fn meter(&self) -> &Meter {
        if self.is_of_no_api() { &self.route.worker.unclaimed } else { &self.route.api.meter }
    }

    fn is_of_no_api(&self) -> bool {
        self.code == Some(Code::NoApi)
    }

    fn cut_or_none(&self) -> Option<Cut> {
        match self.ending {
            Ending::Complete => None,
            Ending::Cut(cut) => Some(cut),
            Ending::Open if self.route.worker.is_stopped() => Some(Cut::Drain),
            Ending::Open => Some(Cut::ClientClosed),
        }
    }

    /// For how long the answer has been awaited since all of the request was sent; `None`: it is not.
    fn awaits_answer_for(&self) -> Option<Duration> {
        let since = match self.upload.as_ref().map(Upload::waits_for) {
            None => self.started,
            Some((WaitsFor::Answer, since)) => since,
            Some(_) => return None,
        };
        self.awaits_answer.then(|| since.elapsed())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (status, code, cut) = if std::thread::panicking() {
            self.route.worker.keep_lost_id(self.request_id());
            (500, Some(Code::Internal), None)
        } else {
            (self.status.unwrap_or(CLIENT_CLOSED_REQUEST), self.code, self.cut_or_none())
        };
        let route = &self.route;
        let api = if self.is_of_no_api() { "" } else { &*route.api.name };
        let duration = self.started.elapsed();
        let now = route.worker.clock.now();
        let first_byte = self.first_byte;
        if cut == Some(Cut::ClientClosed)
            && let Some(waited) = self.awaits_answer_for()
        {
            route.api.health.given_up(&route.api.name, waited, now.moment);
        }
        self.meter().ended(&Ended { method: &self.method, status, code, cut, duration, first_byte, at: now.moment });
        let line = AccessLine {
            api,
            listener: &route.listener,
            method: &self.method,
            path: self.id_and_path.path(),
            words: &route.api.words,
            status,
            code: code.map(Code::as_str),
            would_refuse: self.would_refuse.map(Code::as_str),
            cut: cut.map(Cut::as_str),
            retries: self.retries,
            relogin: self.relogin.map(Relogin::as_str),
            request_bytes: self.upload.as_ref().map_or(self.tunnelled_bytes, Upload::bytes),
            response_bytes: self.response_bytes,
            duration,
            upstream_first_byte: self.first_byte,
            request_id: self.id_and_path.id(),
            uid: self.peer.uid(),
            pid: self.peer.pid(),
        };
        route.worker.log(&line, now.wall);
        if let Some(upload) = self.upload.take()
            && !upload.has_ended()
            && !matches!(self.ending, Ending::Open)
        {
            // The task ends with the connection, which owns the rest of the body. Over HTTP/2, too: a client may be told that
            // nobody reads on (RFC 9113, 8.1), and some then forget the answer that they have just got.
            tokio::spawn(upload.discard_upload(route.worker.deadlines.clone()));
        }
    }
}

/// The tokens that no answer may show: nearly always one.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    /// That of the request.
    pub(super) carried: Option<&'a Fingerprint>,
    /// That of the account now.
    pub(super) present: Option<&'a Fingerprint>,
}

impl Tokens<'_> {
    fn are_in(self, text: &[u8]) -> bool {
        let present = self.present.filter(|present| !self.carried.is_some_and(|carried| ptr::eq(carried, *present)));
        self.carried.is_some_and(|token| token.is_in(text)) || present.is_some_and(|token| token.is_in(text))
    }
}

/// Hides each value that holds one of `tokens`, and tells how many there were.
pub(super) fn redact(fields: &mut HeaderMap, tokens: Tokens<'_>) -> u64 {
    let mut redacted = 0;
    for value in fields.values_mut() {
        if tokens.are_in(value.as_bytes()) {
            *value = REDACTED;
            redacted += 1;
        }
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_holds_the_token_is_hidden_and_counted() {
        let text = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln";
        let (token, other) = (Fingerprint::of(text.as_bytes()), Fingerprint::of(b"another.token.here"));
        let of = |carried, present| Tokens { carried, present };
        let mut answer = HeaderMap::new();
        for (name, value) in [
            ("x-echo", text.to_owned()),
            ("x-echo", format!("Bearer {text}")),
            ("location", format!("https://elsewhere.example/?access_token={text}&a=b")),
            ("x-part", text[..text.len() - 1].to_owned()),
            ("x-other", "x".repeat(4096)),
            ("x-empty", String::new()),
        ] {
            answer.append(name, value.parse().unwrap());
        }
        assert_eq!(redact(&mut answer.clone(), of(None, None)), 0);
        assert_eq!(redact(&mut answer.clone(), of(Some(&other), Some(&other))), 0);
        assert_eq!(redact(&mut answer.clone(), of(Some(&token), Some(&other))), 3);
        assert_eq!(redact(&mut answer.clone(), of(Some(&token), None)), 3);
        assert_eq!(redact(&mut answer.clone(), of(Some(&token), Some(&token))), 3);
        assert_eq!(redact(&mut answer, of(Some(&other), Some(&token))), 3);
        assert_eq!(answer.get_all("x-echo").iter().collect::<Vec<_>>(), ["[redacted]", "[redacted]"]);
        assert_eq!(answer["location"], "[redacted]");
        assert_eq!(answer["x-part"].len(), text.len() - 1);
        assert_eq!(redact(&mut answer, of(Some(&token), None)), 0);
        assert_eq!(redact(&mut answer, of(Some(&Fingerprint::of(b"")), None)), 0);
    }
}
