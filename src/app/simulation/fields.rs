//! The heads of calls and of their answers: fields beside those that the simulation needs, and what has to arrive of them.
//!
//! Which fields a call and its answer have is drawn from the call's number, so that both sides agree on them. The second API has a
//! prefix and a base path, passes cookies, and sets two fields of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    calls::{CallId, Field, Head, Sender, answer_body, bits, is_event_stream, owned, request_body},
    trailers,
};

/// What the settings of the second API say of heads.
pub(super) const SECOND_API: &str =
    "prefix = \"/app\"\ncookies = \"pass\"\nheaders = { origin = \"https://acme.test\", x-fixed = \"ours\" }";
/// The base path of the second API's upstream.
pub(super) const BASE_PATH: &str = "/base";

/// What becomes of a field.
#[derive(Clone, Copy)]
enum Fate {
    Passes,
    Removed,
    /// It is removed, and is none of HTTP/2.
    OfConnection,
    /// It is one of cookies.
    Cookie,
    /// The second API sets it by itself.
    Fixed,
}

use Fate::{Cookie, Fixed, OfConnection, Passes, Removed};

const OF_REQUESTS: [(&str, &str, Fate); 42] = [
    ("accept", "application/json", Passes),
    ("accept", "text/plain;q=0.5", Passes),
    ("x-list", "one", Passes),
    ("x-list", "two, three", Passes),
    ("x-list", "one", Passes),
    ("user-agent", "simulated/1.0", Passes),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Passes),
    ("tracestate", "a=1", Passes),
    ("content-type", "application/octet-stream", Passes),
    ("if-none-match", "\"v1\"", Passes),
    ("accept-encoding", "gzip", Passes),
    ("x_odd.name", "kept", Passes),
    ("x-original-title", "kept", Passes),
    ("via", "1.0 before", Passes),
    ("x-hop", "of one hop, if it is named", Passes),
    ("x-fixed", "theirs", Fixed),
    ("cookie", "a=1", Cookie),
    ("cookie", "b=2", Cookie),
    ("authorization", "Basic Y2xpZW50", Removed),
    ("organization", "elsewhere", Removed),
    ("x_request_id", "other", Removed),
    ("proxy-authorization", "Basic Y2xpZW50", Removed),
    ("proxy_anything", "x", Removed),
    ("proxy", "x", Removed),
    ("forwarded", "for=10.0.0.1", Removed),
    ("x-forwarded-for", "10.0.0.1", Removed),
    ("x_forwarded_host", "elsewhere", Removed),
    ("x-real-ip", "10.0.0.1", Removed),
    ("x-client-ip", "10.0.0.1", Removed),
    ("true-client-ip", "10.0.0.1", Removed),
    ("cf-connecting-ip", "10.0.0.1", Removed),
    ("x-cluster-client-ip", "10.0.0.1", Removed),
    ("x-http-method-override", "DELETE", Removed),
    ("x-http-method", "DELETE", Removed),
    ("x-method-override", "DELETE", Removed),
    ("x-original-url", "/auth", Removed),
    ("x-original-host", "elsewhere", Removed),
    ("x-rewrite-url", "/auth", Removed),
    ("keep-alive", "timeout=5", OfConnection),
    ("proxy-connection", "keep-alive", OfConnection),
    ("http2-settings", "AAMAAABkAAQAAP__", OfConnection),
    ("upgrade", "h2c", OfConnection),
];

/// What `Connection` of a request says; the names in it are not passed on, but for those that the daemon sets.
const CONNECTIONS: [&str; 8] = [
    "",
    "",
    "keep-alive",
    "x-hop",
    "X-Hop, keep-alive",
    "authorization, organization, x-request-id",
    "x-list, host",
    "upgrade, HTTP2-Settings",
];

const OF_ANSWERS: [(&str, &str, Fate); 22] = [
    ("server", "simulated", Passes),
    ("vary", "accept", Passes),
    ("vary", "origin", Passes),
    ("etag", "\"v1\"", Passes),
    ("cache-control", "no-store", Passes),
    ("retry-after", "7", Passes),
    ("content-type", "application/octet-stream", Passes),
    ("www-authenticate", "Bearer", Passes),
    ("x-list", "one", Passes),
    ("x-list", "two, three", Passes),
    ("x-list", "one", Passes),
    ("via", "1.1 behind", Passes),
    ("x-hop", "of one hop, if it is named", Passes),
    ("set-cookie", "a=1; Path=/", Cookie),
    ("set-cookie", "b=2", Cookie),
    ("alt-svc", "h3=\":443\"", Removed),
    ("alt_svc", "h3=\":443\"", Removed),
    ("x-request-id", "theirs", Removed),
    ("x_request_id", "theirs", Removed),
    ("proxy-authenticate", "Basic", Removed),
    ("proxy-connection", "keep-alive", OfConnection),
    ("te", "trailers", OfConnection),
];

/// Fields that are judged apart from the others: by the ledger, or by the body.
const OF_A_CALL: [&str; 5] = ["authorization", "organization", "x-request-id", "content-length", "transfer-encoding"];
/// The same of an answer.
const OF_AN_ANSWER: [&str; 6] = ["date", "x-request-id", "content-length", "transfer-encoding", "connection", "x-echo"];

/// What is known of each call's head.
#[derive(Default)]
pub(super) struct Heads(Mutex<BTreeMap<CallId, Expected>>);

struct Expected {
    account: usize,
    method: String,
    target: String,
    fields: Vec<Field>,
    /// It asks for trailers.
    trailers: bool,
    sender: Sender,
    /// It has trailers of its own.
    sends_trailers: bool,
    /// The server where it came last, and whether over HTTP/2.
    served: Option<(SocketAddr, bool)>,
}

/// The content type of such a stream stands in place of another one.
fn with_type(call: CallId, mut fields: Vec<Field>) -> Vec<Field> {
    if is_event_stream(call) {
        fields.retain(|(name, _)| name != "content-type");
        fields.push(owned("content-type", "text/event-stream; charset=utf-8"));
    }
    fields
}

/// Those of `from` that are drawn.
fn drawn(
    from: &'static [(&'static str, &'static str, Fate)],
    bits: u64,
) -> impl Iterator<Item = &'static (&'static str, &'static str, Fate)> {
    // A few of them, so that any two meet sometimes and heads stay short.
    let turns = (0..).step_by(7).map(move |turn| bits.rotate_left(turn % 64).trailing_zeros() >= 2);
    from.iter().zip(turns).filter(|(_, is_drawn)| *is_drawn).map(|(field, _)| field)
}

impl Heads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallId, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target and the further fields of a call that is about to be made.
    pub(super) fn of_call(&self, call: CallId, account: usize, method: &str, sender: Sender) -> (String, Vec<Field>) {
        let (some, more) = (bits(call, 0), bits(call, 1));
        let connection = match sender {
            Sender::Http1 | Sender::Raw => CONNECTIONS[usize::try_from(more).unwrap_or(usize::MAX) % CONNECTIONS.len()],
            Sender::Http2 | Sender::Tunnel | Sender::Old => "",
        };
        let named: Vec<_> = connection.split(", ").map(str::to_lowercase).collect();
        let (mut sent, mut kept) = (Vec::new(), Vec::new());
        for (name, value, fate) in drawn(&OF_REQUESTS, some) {
            let is_named = named.iter().any(|other| other == name);
            let passes = match fate {
                OfConnection if matches!(sender, Sender::Http2 | Sender::Tunnel | Sender::Old) => continue,
                OfConnection | Removed => false,
                Passes => !is_named,
                Cookie => account == 1,
                Fixed => account == 0,
            };
            sent.push(owned(name, value));
            if passes {
                kept.push(owned(name, value));
            }
        }
        if !connection.is_empty() {
            sent.push(owned("connection", connection));
        }
        let wants_trailers = !matches!(sender, Sender::Tunnel | Sender::Old) && more & 0x700 == 0;
        if wants_trailers {
            sent.push(owned("te", if sender == Sender::Http2 { "trailers" } else { "gzip, Trailers" }));
        }
        let sends_trailers = trailers::has_call(call, method, sender);
        if sends_trailers {
            sent.push(owned("trailer", trailers::OF_CALLS));
            kept.push(owned("trailer", trailers::OF_CALLS));
        }
        if sender == Sender::Http1 && more & 0x3000 == 0 && !request_body(call, method).is_empty() {
            sent.push(owned("expect", "100-continue"));
        }
        if sender == Sender::Http2 {
            join_cookies(&mut kept);
        }
        if account == 1 {
            kept.extend([owned("origin", "https://acme.test"), owned("x-fixed", "ours")]);
        }
        let rest = ["", "", "?", "?q=a%20b&q=c;d+e", "/x//y/%7e", "/a%2Fb;p/?x=1", "/%C3%A9?%"][(bits(call, 2) % 7) as usize];
        let target = format!("/v2/calls/{call}{rest}");
        let (prefix, base) = if account == 1 { ("/app", BASE_PATH) } else { ("", "") };
        let expected = Expected {
            account,
            method: method.to_owned(),
            target: format!("{base}{target}"),
            fields: kept,
            trailers: wants_trailers,
            sender,
            sends_trailers,
            served: None,
        };
        self.lock().insert(call, expected);
        (format!("{prefix}{target}"), sent)
    }

    /// The call has this field, too.
    pub(super) fn also(&self, call: CallId, name: &str, value: &str) {
        if let Some(expected) = self.lock().get_mut(&call) {
            expected.fields.push(owned(name, value));
        }
    }

    /// The account of a call.
    pub(super) fn account(&self, call: CallId) -> usize {
        self.lock().get(&call).map_or(0, |expected| expected.account)
    }

    fn method(&self, call: CallId) -> String {
        self.lock().get(&call).map(|expected| expected.method.clone()).unwrap_or_default()
    }

    /// What is wrong with a call's head at the server of that address.
    pub(super) fn judge_call(&self, call: CallId, head: &Head, address: SocketAddr, is_http2: bool) -> Option<String> {
        let mut all = self.lock();
        let expected = all.get_mut(&call)?;
        expected.served = Some((address, is_http2));
        if head.method != expected.method || head.path != expected.target {
            return Some(format!("it came as {} {}, and is {} {}", head.method, head.path, expected.method, expected.target));
        }
        let mut fields = expected.fields.clone();
        fields.push(owned("x-call", &call.to_string()));
        if expected.trailers {
            fields.push(owned("te", "trailers"));
        }
        if !is_http2 {
            fields.push(owned("host", &address.to_string()));
            if expected.trailers {
                fields.push(owned("connection", "te"));
            }
            if expected.sender == Sender::Tunnel {
                fields.extend([owned("connection", "upgrade"), owned("upgrade", "websocket")]);
            }
        }
        let came = without(&head.fields, &OF_A_CALL);
        differ(&fields, &came).or_else(|| judge_framing(head, request_body(call, &head.method).len(), is_http2))
    }

    /// The further fields of the answer to a call. `here`: the server's address.
    pub(super) fn of_answer(&self, call: CallId, here: SocketAddr, is_http2: bool) -> Vec<Field> {
        let some = bits(call, 4);
        let mut fields: Vec<_> = drawn(&OF_ANSWERS, some)
            .filter(|(_, _, fate)| !is_http2 || !matches!(fate, OfConnection))
            .map(|(name, value, _)| owned(name, value))
            .collect();
        let named = named_in_answer(call);
        if !is_http2 && !named.is_empty() {
            fields.push(owned("connection", named));
        }
        if let Some((there, _)) = location(call, self.account(call), is_http2, here) {
            fields.push(owned("location", &there));
        }
        if trailers::has_answer(call, &self.method(call), is_http2) {
            fields.push(owned("trailer", trailers::OF_ANSWERS));
        }
        with_type(call, fields)
    }

    /// Whether its client speaks HTTP/1.0, which has none.
    fn is_old(&self, call: CallId) -> bool {
        self.lock().get(&call).is_some_and(|expected| expected.sender == Sender::Old)
    }

    /// Whether the call has trailers.
    pub(super) fn sends_trailers(&self, call: CallId) -> bool {
        self.lock().get(&call).is_some_and(|expected| expected.sends_trailers)
    }

    /// What is wrong with the trailers of a call that has come whole.
    pub(super) fn judge_trailers(&self, call: CallId, came: &[Field], is_http2: bool) -> Option<String> {
        let (sender, sends) = self.lock().get(&call).map(|expected| (expected.sender, expected.sends_trailers))?;
        let (expected, came) = trailers::expected_of_call(call, sends, sender, is_http2, came);
        differ(&expected, &came).map(|fault| format!("its trailers: {fault}"))
    }

    /// What is wrong with the trailers of a call's whole answer.
    pub(super) fn judge_answer_trailers(&self, call: CallId, method: &str, came: &[Field]) -> Option<String> {
        let all = self.lock();
        let known = all.get(&call)?;
        let (_, is_http2) = known.served?;
        let expected = trailers::expected_of_answer(call, method, known.sender, known.trailers, is_http2);
        differ(&expected, came).map(|fault| format!("its answer's trailers: {fault}"))
    }

    /// What is wrong with the head of the whole answer to a call.
    pub(super) fn judge_answer(&self, call: CallId, method: &str, fields: &[Field]) -> Option<String> {
        let (here, is_http2) = self.lock().get(&call)?.served?;
        let account = self.account(call);
        let named = if is_http2 { "" } else { named_in_answer(call) };
        let mut expected = vec![owned("x-answer", &call.to_string())];
        for (name, value, fate) in drawn(&OF_ANSWERS, bits(call, 4)) {
            let passes = match fate {
                Passes | Fixed => !named.split(", ").any(|other| other == *name),
                Cookie => account == 1,
                Removed | OfConnection => false,
            };
            if passes {
                expected.push(owned(name, value));
            }
        }
        if let Some((_, ours)) = location(call, account, is_http2, here) {
            expected.push(owned("location", &ours));
        }
        if trailers::has_answer(call, method, is_http2) && !self.is_old(call) {
            expected.push(owned("trailer", trailers::OF_ANSWERS));
        }
        let count = |name: &str| fields.iter().filter(|(known, _)| known == name).count();
        let all =
            |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
        if count("date") != 1 || count("x-request-id") != 1 {
            return Some(format!("its answer has {} dates and {} request ids", count("date"), count("x-request-id")));
        }
        let (length, is_head) = (answer_body(call).len().to_string(), method == "HEAD");
        let lengths = all("content-length");
        let is_framed = match (lengths.as_slice(), all("transfer-encoding").as_slice()) {
            ([], []) => true,
            ([one], []) => *one == length,
            ([], ["chunked"]) => !is_head,
            _ => false,
        };
        if !is_framed {
            return Some(format!("its answer of {length} bytes is delimited by {lengths:?} and {:?}", all("transfer-encoding")));
        }
        if !all("x-echo").iter().all(|echo| matches!(*echo, "" | "[redacted]")) {
            return Some(format!("its answer echoes {:?}", all("x-echo")));
        }
        if all("connection").iter().any(|option| !matches!(*option, "close" | "keep-alive")) {
            return Some(format!("its answer says {:?} of its connection", all("connection")));
        }
        differ(&with_type(call, expected), &without(fields, &OF_AN_ANSWER))
    }
}

/// What an answer says of its connection.
fn named_in_answer(call: CallId) -> &'static str {
    ["", "", "x-hop", "keep-alive, x-list"][(bits(call, 5) % 4) as usize]
}

/// Where an answer leads, and where it has to lead for the client.
fn location(call: CallId, account: usize, is_tls: bool, here: SocketAddr) -> Option<(String, String)> {
    let scheme = if is_tls { "https" } else { "http" };
    let (base, prefix) = if account == 1 { (BASE_PATH, "/app") } else { ("", "") };
    let other = "https://elsewhere.test/next?x=1".to_owned();
    match bits(call, 6) % 6 {
        0 => Some((format!("{scheme}://{here}{base}/next?x=1"), format!("{prefix}/next?x=1"))),
        1 => Some((format!("{base}/next"), format!("{prefix}/next"))),
        2 => Some((other.clone(), other)),
        _ => None,
    }
}

/// HTTP/2 clients may send cookies one by one; the upstream gets them in one line.
fn join_cookies(fields: &mut Vec<Field>) {
    let cookies: Vec<_> = fields.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| value.clone()).collect();
    if !cookies.is_empty() {
        fields.retain(|(name, _)| name != "cookie");
        fields.push(owned("cookie", &cookies.join("; ")));
    }
}

fn judge_framing(head: &Head, length: usize, is_http2: bool) -> Option<String> {
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    let is_right = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => length == 0 || is_http2,
        ([one], []) => *one == length.to_string(),
        ([], [coding]) => coding == "chunked" && length > 0 && !is_http2,
        _ => false,
    };
    (!is_right).then(|| format!("its body of {length} bytes is delimited by {lengths:?} and {codings:?}"))
}

fn without(fields: &[Field], names: &[&str]) -> Vec<Field> {
    fields.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

/// How the fields that came differ from those expected. The values of one name keep their order.
fn differ(expected: &[Field], came: &[Field]) -> Option<String> {
    let sorted = |fields: &[Field]| {
        let mut fields = fields.to_vec();
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields
    };
    let (expected, came) = (sorted(expected), sorted(came));
    let missing: Vec<_> = expected.iter().filter(|field| !came.contains(field)).collect();
    let surplus: Vec<_> = came.iter().filter(|field| !expected.contains(field)).collect();
    (expected != came).then(|| format!("fields are missing: {missing:?}; came beside: {surplus:?}; all: {came:?}"))
}
