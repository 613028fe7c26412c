//! What a call is: its number, who sends it, its head, and the bodies of the call and of its answer.
//!
//! Bodies, and much of heads, are drawn from the call's number, so that both sides agree on them.

/// Numbers a call of a client.
pub(super) type CallId = u64;

/// A name and a value.
pub(super) type Field = (String, String);

/// Who sends a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// hyper, over HTTP/1.1.
    Http1,
    /// hyper, over HTTP/2.
    Http2,
    /// A client that writes HTTP/1.1 by itself.
    Raw,
    /// The same, which asks for a tunnel.
    Tunnel,
    /// A client that writes HTTP/1.0.
    Old,
}

pub(super) fn owned(name: &str, value: &str) -> Field {
    (name.to_owned(), value.to_owned())
}

/// The head of a request, or of an answer, whose first two words are its version and status.
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let fields = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Some(Self { method, path, fields: fields.collect() })
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }
}

/// Random bits of a call: always the same ones.
pub(super) fn bits(call: CallId, of: u64) -> u64 {
    fastrand::Rng::with_seed(call.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ of).u64(..)
}

/// Whether the answer to the call has no `Date`.
pub(super) fn is_undated(call: CallId) -> bool {
    bits(call, 3).is_multiple_of(3)
}

/// Whether the answer to the call is a stream of events, which may be silent for longer than another one.
pub(super) fn is_event_stream(call: CallId) -> bool {
    call % 23 == 5 && !has_long_answer(call) && !answer_body(call).is_empty()
}

/// What a client sends with a call.
pub(super) fn request_body(call: CallId, method: &str) -> Vec<u8> {
    let length = match (method, call % 5) {
        ("GET" | "HEAD" | "DELETE", _) | (_, 0) => 0,
        (_, 1) => 12,
        (_, 2) => 3000,
        (_, 3) => 40_000,
        _ => 80_000,
    };
    filled(&format!("call {call};"), length)
}

/// What CarePortals answers to a call.
pub(super) fn answer_body(call: CallId) -> Vec<u8> {
    // A few are more than sockets and buffers hold.
    let length = if has_long_answer(call) { 700_000 } else { [20, 2000, 0, 20_000, 70_000][(call % 5) as usize] };
    filled(&format!("answer {call};"), length)
}

pub(super) fn has_long_answer(call: CallId) -> bool {
    call.is_multiple_of(53)
}

/// So many bytes, which say again and again whose they are.
fn filled(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().repeat(length.div_ceil(text.len()));
    bytes.truncate(length);
    bytes
}
