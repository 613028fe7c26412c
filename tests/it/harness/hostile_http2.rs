//! A stage for hostile HTTP/2: cases are written frame by frame to one sidecar, and both sides are judged after each, while a
//! bystander on another connection must be served.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use careportals_simulator::Simulator;

use crate::harness::{
    Http2, OK, ORGANIZATION, RecordingUpstream, Sidecar,
    frames::{
        END_HEADERS, Frame, FrameClient, GOAWAY, HEADERS, PREFACE, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE,
        fields, frame, get_fields,
    },
    now, simulator,
};

/// No well-behaved client waits longer than this because of a hostile one, on a busy machine and in a debug build.
pub const PROMPTLY: Duration = Duration::from_secs(5);

/// What a client writes, and what must come of it.
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    pub ends: Ends,
    /// How many requests reach the upstream: one at most.
    pub reaches: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// The connection ends, with this code or with `PROTOCOL_ERROR`, which says no more than that it is an error.
    Connection(u32),
    /// The connection ends, with a GOAWAY or without one.
    Closed,
    /// The stream ends with this code, and the connection lives on.
    Stream(u32, u32),
    /// The stream is answered with this status, and the connection lives on.
    Answer(u32, u16),
    /// This frame comes, and the connection lives on.
    Hears(&'static Frame),
    /// The stream or the connection ends, with one of these codes: that depends on how far the exchange had come.
    Either(&'static [u32]),
}

/// A sidecar in front of an upstream that keeps every byte.
pub struct Scene {
    pub simulator: Simulator,
    pub upstream: RecordingUpstream,
    pub sidecar: Sidecar,
    pub bystander: Http2,
    pub reached: usize,
}

/// What a well-behaved client asks for.
pub const BYSTANDER: &str = "/bystander";

impl Scene {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// Sets these keys of its API.
    pub fn with(keys: &[(&str, &str)]) -> Self {
        let simulator = simulator();
        let upstream = RecordingUpstream::start(OK);
        let mut setup = upstream.setup(&simulator);
        for (key, value) in keys {
            setup.api(key, value);
        }
        let sidecar = setup.start();
        assert_eq!(sidecar.get(BYSTANDER).status, 200);
        let bystander = Http2::connect(sidecar.address());
        Self { simulator, upstream, sidecar, bystander, reached: 0 }
    }

    /// Requests that reached upstream and are not a bystander's.
    pub fn foreign(&self) -> Vec<String> {
        let line = format!("GET {BYSTANDER} ");
        self.upstream.requests().into_iter().filter(|request| !request.starts_with(&line)).collect()
    }

    /// Asserts that others are served, on connections from before and on new ones.
    pub fn others_are_served(&mut self) {
        let start = now();
        assert_eq!(self.bystander.get(BYSTANDER).status, 200);
        assert_eq!(self.sidecar.get(BYSTANDER).status, 200);
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }

    pub fn plays(&mut self, case: &Case) {
        let name = &case.name;
        let mut raw = FrameClient::silent(self.sidecar.address());
        raw.0.set_read_timeout(Some(PROMPTLY)).unwrap();
        println!("{name}");
        raw.write(&case.bytes);
        assert_eq!(self.bystander.get(BYSTANDER).status, 200, "{name}");
        case.ends.come(name, &mut raw);
        self.others_are_served();
        let foreign = self.foreign();
        for request in &foreign[self.reached..] {
            self.assert_ours(name, request);
        }
        let reached = foreign.len() - self.reached;
        self.reached = foreign.len();
        assert_eq!(reached, case.reaches, "{name}: {foreign:?}");
    }

    /// Asserts that a request is well formed, and holds exactly one of each field that the sidecar sets.
    pub fn assert_ours(&self, name: &str, request: &str) {
        let (head, _) = request.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert!(first.len() == 3 && first[2] == "HTTP/1.1" && is_token(first[0]), "{name}: {request:?}");
        assert!(first[1].starts_with('/') && first[1].bytes().all(|byte| byte.is_ascii_graphic()), "{name}: {request:?}");
        let fields: Vec<(String, &str)> = lines
            .map(|line| {
                let (field, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: {request:?}"));
                assert!(is_token(field) && !value.contains(char::is_control), "{name}: {request:?}");
                (field.replace('_', "-").to_ascii_lowercase(), value)
            })
            .collect();
        let bearer = format!("Bearer {}", self.simulator.control().last_token().unwrap());
        let rest = request.replace(&bearer, "");
        assert!(!rest.contains("evil") && !rest.contains("mine"), "{name}: {request:?}");
        let values = |field: &str| fields.iter().filter(|(known, _)| known == field).map(|(_, value)| *value).collect::<Vec<_>>();
        let host = self.upstream.base_url().replace("http://", "");
        assert_eq!(values("authorization"), [bearer], "{name}");
        assert_eq!(values("organization"), [ORGANIZATION], "{name}");
        assert_eq!(values("host"), [host], "{name}");
        assert!(values("content-length").len() + values("transfer-encoding").len() <= 1, "{name}: {request:?}");
        for gone in ["cookie", "proxy-authorization", "x-forwarded-for", "x-real-ip", "upgrade", "http2-settings", "keep-alive"] {
            assert!(values(gone).is_empty(), "{name}: {request:?}");
        }
    }

    /// Stops the sidecar, and asserts that nothing more has reached the upstream.
    pub fn ends(mut self, unfinished: bool) {
        let reached = self.reached;
        assert_eq!(self.sidecar.stop().code(), Some(0));
        assert_eq!(self.foreign().len(), reached);
        assert!(unfinished || self.upstream.unfinished() == 0, "{}", self.upstream.unfinished());
    }
}

impl Ends {
    fn come(self, name: &str, raw: &mut FrameClient) {
        match self {
            Self::Connection(code) => {
                let words = raw.last_words();
                assert!(words == Some(code) || words == Some(PROTOCOL_ERROR), "{name}: {words:?}");
            }
            Self::Closed => drop(raw.last_words()),
            Self::Stream(stream, code) => {
                let reset = end_of(raw, stream).unwrap_or_else(|| panic!("{name}: closed"));
                assert_eq!((reset.kind, reset.error_code()), (RST_STREAM, code), "{name}: {reset:?}");
                lives_on(name, raw);
            }
            Self::Answer(stream, status) => {
                let head = end_of(raw, stream).unwrap_or_else(|| panic!("{name}: closed"));
                assert!(head.kind == HEADERS && status_of(&head.payload) == status, "{name}: {head:?}");
                lives_on(name, raw);
            }
            Self::Hears(frame) => {
                while raw.read().unwrap_or_else(|| panic!("{name}: closed")) != *frame {}
                lives_on(name, raw);
            }
            Self::Either(codes) => {
                let is_it = |frame: &Frame| matches!(frame.kind, RST_STREAM | GOAWAY) && codes.contains(&frame.error_code());
                while !is_it(&raw.read().unwrap_or_else(|| panic!("{name}: closed"))) {}
            }
        }
    }
}

/// Plays all cases and fails with each that did not come as it should. With `unfinished`, a request may have reached the
/// upstream without its end.
pub fn play(cases: &[Case], unfinished: bool) {
    let mut scene = Scene::new();
    tell_all(cases, |case| scene.plays(case));
    scene.ends(unfinished);
}

pub fn tell_all<T>(cases: &[T], mut plays: impl FnMut(&T)) {
    let failed = cases.iter().filter(|case| catch_unwind(AssertUnwindSafe(|| plays(case))).is_err()).count();
    assert_eq!(failed, 0, "of {}", cases.len());
}

/// Reads the first frame of that stream. `None` means that the connection has ended or is about to.
pub fn end_of(raw: &mut FrameClient, stream: u32) -> Option<Frame> {
    loop {
        let frame = raw.read()?;
        if frame.kind == GOAWAY {
            return None;
        }
        if frame.stream == stream && frame.kind != WINDOW_UPDATE {
            return Some(frame);
        }
    }
}

/// Asserts that the connection serves another request.
pub fn lives_on(name: &str, raw: &mut FrameClient) {
    raw.write(&frame(HEADERS, WHOLE, 1001, &get_fields(BYSTANDER, &[])));
    let head = end_of(raw, 1001).unwrap_or_else(|| panic!("{name}: closed"));
    assert!(head.kind == HEADERS && status_of(&head.payload) == 200, "{name}: {head:?}");
}

/// Decodes the status, which is a block's first field: an indexed one, or a literal of three digits in Huffman's code
/// (RFC 7541, appendices A and B).
pub fn status_of(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    if let Some(number) = block[0].checked_sub(0x88).filter(|number| *number < 7) {
        return known[usize::from(number)];
    }
    assert_eq!((block[0] & 0x0f, block[1] & 0xfc), (8, 0x80), "{block:?}");
    let bits = u32::from_be_bytes([block[2], block[3], block[4], 0]);
    let (mut status, mut at) = (0, 0);
    for _ in 0..3 {
        // The digits 0 to 2 take five bits, the others six.
        let (five, six) = (bits << at >> 27, bits << at >> 26);
        let (digit, width) = if five < 3 { (five, 5) } else { (six - 22, 6) };
        status = status * 10 + digit;
        at += width;
    }
    u16::try_from(status).unwrap()
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The preface, settings, and these frames.
pub fn opened(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames.concat()].concat()
}

pub fn case(name: &str, frames: &[Vec<u8>], ends: Ends, reaches: usize) -> Case {
    Case { name: name.to_owned(), bytes: opened(frames), ends, reaches }
}

/// A whole request that the sidecar refuses.
pub fn refused(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &get_fields("/patient/auth", &[]))
}

/// A whole GET.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &get_fields("/", &[]))
}

/// The head of a POST to which a body belongs.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    frame(HEADERS, END_HEADERS, stream, &fields(&head))
}

#[test]
fn a_status_is_read_from_its_block() {
    // These are what an encoder writes.
    for (block, status) in [(&[0x8c][..], 400), (&[0x48, 131, 104, 12, 255], 403), (&[0x48, 131, 105, 144, 255], 431)] {
        assert_eq!(status_of(block), status, "{block:?}");
    }
}
