//! Hostile frames from an upstream: its client is told a problem, or gets an answer that is visibly cut; the request is not sent
//! twice, other APIs are served, and memory is bounded.

use crate::harness::{
    Answer, ManualHttp2, OK, RecordingUpstream, Request, Sidecar,
    frames::{
        BODY, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
        WHOLE, WINDOW_UPDATE, fields, frame,
    },
    hostile_http2::{PROMPTLY, tell_all},
    now,
};

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is told a problem of the sidecar's with this status and this code.
    Problem(u16, &'static str),
    /// It is told 200, and the body is cut.
    Cut,
    /// It is told 200 with this body.
    Whole(&'static str),
    /// It is told 200 with a cut body, or a problem: that depends on what was read together.
    Broken,
}

const PROTOCOL: Told = Told::Problem(502, "upstream_protocol");
const CLOSED: Told = Told::Problem(502, "upstream_closed");

/// An upstream that says `then` again and again, `most` bytes of it at most, after `first`.
struct Case {
    name: &'static str,
    first: Vec<u8>,
    then: Vec<u8>,
    told: Told,
}

/// The upstream says `first` once.
fn once(name: &'static str, first: &[Vec<u8>], told: Told) -> Case {
    Case { name, first: first.concat(), then: Vec::new(), told }
}

fn flood(name: &'static str, first: &[Vec<u8>], then: Vec<u8>, told: Told) -> Case {
    Case { name, first: first.concat(), then, told }
}

/// The first stream of a connection, on which every request here is.
const STREAM: u32 = 1;

/// How many bytes a flood has.
const FLOOD: usize = 512 * 1024;

fn ok() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, STREAM, &[0x88])
}

fn head(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, STREAM, &[&[0x88], &fields(more)[..]].concat())
}

fn body(text: &str) -> Vec<u8> {
    frame(BODY, END_STREAM, STREAM, text.as_bytes())
}

fn part(text: &str) -> Vec<u8> {
    frame(BODY, 0, STREAM, text.as_bytes())
}

/// A sidecar with that upstream, and another one that behaves.
struct Scene {
    hostile: ManualHttp2,
    _other: RecordingUpstream,
    sidecar: Sidecar,
}

impl Scene {
    fn new() -> Self {
        Self::patient("10s")
    }

    /// Starts a sidecar with this `response_timeout`.
    fn patient(response_timeout: &str) -> Self {
        let (hostile, other) = (ManualHttp2::listen(), RecordingUpstream::start(OK));
        let mut setup = hostile.setup();
        setup
            .api("response_timeout", response_timeout)
            .api("body_idle", "300ms")
            .variable("CAREPORTALS__APIS__OTHER__UPSTREAM", &other.base_url())
            .variable("CAREPORTALS__APIS__OTHER__LISTEN", "127.0.0.1:0")
            .variable("CAREPORTALS__APIS__OTHER__ALLOW_INSECURE_UPSTREAM", "true");
        let sidecar = setup.start();
        Self { hostile, _other: other, sidecar }
    }

    fn other_is_served(&self) {
        let start = now();
        assert_eq!(self.sidecar.connect_to("other").send(&Request::get("/")).status, 200);
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }

    fn plays(&self, case: &Case) {
        let mut client = self.sidecar.connect_to("default");
        client.write(&[Request::post("/users", "once").head(), b"once".to_vec()].concat());
        let mut peer = self.hostile.accept(100);
        assert_eq!(peer.request(), (STREAM, b"once".to_vec()), "{}", case.name);
        let answer = std::thread::scope(|scope| {
            let answering = scope.spawn(move || client.answer("POST"));
            peer.pour(&case.first, case.first.len());
            if !case.then.is_empty() {
                let piece = case.then.repeat(8192 / case.then.len() + 1);
                peer.pour(&piece, FLOOD);
            }
            self.other_is_served();
            answering.join().unwrap()
        });
        case.told.is_what(case.name, &answer);
        drop(peer);
        self.other_is_served();
        assert!(!self.hostile.has_more(), "{}: sent twice", case.name);
    }

    fn all(&self, cases: &[Case], bound_kib: u64) {
        tell_all(cases, |case| self.plays(case));
        let peak = self.sidecar.peak_memory_kib();
        println!("peak of an upstream's: {peak} KiB of {bound_kib}");
        assert!(peak < bound_kib, "{peak} KiB");
    }
}

impl Told {
    fn is_what(self, name: &str, answer: &Answer) {
        let is_problem = || answer.header("proxy-status").is_some() && answer.status == 502;
        let is_it = match self {
            Self::Problem(status, code) => answer.status == status && answer.problem() == code,
            Self::Cut => answer.status == 200 && answer.cut,
            Self::Whole(text) => answer.status == 200 && !answer.cut && answer.text() == text,
            Self::Broken => (answer.status == 200 && answer.cut) || is_problem(),
        };
        assert!(is_it, "{name}: not {self:?} but {answer:?}");
    }
}

#[test]
fn an_invalid_head_is_a_problem() {
    let status = |text| frame(HEADERS, WHOLE, STREAM, &fields(&[(":status", text)]));
    let with = |field| frame(HEADERS, WHOLE, STREAM, &[&[0x88], &fields(&[field])[..]].concat());
    Scene::new().all(
        &[
            once("no status", &[frame(HEADERS, WHOLE, STREAM, &fields(&[("x", "1")]))], PROTOCOL),
            once("a status of letters", &[status("abc")], PROTOCOL),
            once("a status of two digits", &[status("99")], PROTOCOL),
            once("a status of four", &[status("2000")], PROTOCOL),
            once("a status with a reason", &[status("200 OK")], PROTOCOL),
            once("two", &[with((":status", "204"))], PROTOCOL),
            once("a request's", &[frame(HEADERS, WHOLE, STREAM, &fields(&[(":method", "GET"), (":path", "/")]))], PROTOCOL),
            once("101", &[status("101")], PROTOCOL),
            once("an interim one as the last", &[status("103")], PROTOCOL),
            once("connection", &[with(("connection", "close"))], PROTOCOL),
            once("transfer-encoding", &[with(("transfer-encoding", "chunked"))], PROTOCOL),
            once("upper case", &[with(("X-Upper", "1"))], PROTOCOL),
            once("lines in a value", &[with(("x", "1\r\nset-cookie: evil"))], PROTOCOL),
            once("a name with a colon", &[with(("x:y", "1"))], PROTOCOL),
            once("a length with END_STREAM", &[with(("content-length", "5"))], PROTOCOL),
            once("two lengths", &[head(&[("content-length", "2"), ("content-length", "3")]), body("ok")], PROTOCOL),
            once("no field block", &[frame(HEADERS, WHOLE, STREAM, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], PROTOCOL),
            once("index 0", &[frame(HEADERS, WHOLE, STREAM, &[0x80])], PROTOCOL),
            once("a body before the head", &[body("ok")], PROTOCOL),
        ],
        8 * 1024,
    );
}

#[test]
fn invalid_frames_are_a_problem() {
    let setting = |number: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, number][..], &value.to_be_bytes()].concat());
    let mut endless = frame(BODY, 0, STREAM, b"some");
    endless[..3].copy_from_slice(&[0xff, 0xff, 0xff]);
    let promise =
        [&2_u32.to_be_bytes()[..], &fields(&[(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")])]
            .concat();
    Scene::new().all(
        &[
            once("a promise", &[frame(PUSH_PROMISE, END_HEADERS, STREAM, &promise)], PROTOCOL),
            once("a head on a stream of nobody's", &[frame(HEADERS, WHOLE, 99, &[0x88])], PROTOCOL),
            once("a head on a stream of its own", &[frame(HEADERS, WHOLE, 2, &[0x88])], PROTOCOL),
            once("a head on stream 0", &[frame(HEADERS, WHOLE, 0, &[0x88])], PROTOCOL),
            once("a body of nobody's", &[frame(BODY, 1, 99, b"evil")], PROTOCOL),
            once("a reset of nobody's", &[frame(RST_STREAM, 0, 99, &[0; 4])], PROTOCOL),
            once("a window of 2^31", &[setting(4, 1 << 31)], PROTOCOL),
            once("frames of 100 bytes", &[setting(5, 100)], PROTOCOL),
            once("settings on a stream", &[frame(SETTINGS, 0, STREAM, &[])], PROTOCOL),
            once("a window by nothing", &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])], PROTOCOL),
            once("a stream's window by nothing", &[frame(WINDOW_UPDATE, 0, STREAM, &[0; 4])], PROTOCOL),
            once("a window over 2^31", &[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])], PROTOCOL),
            once("a frame of 2^24 - 1", &[endless], PROTOCOL),
            once("PING on a stream", &[frame(PING, 0, STREAM, &[0; 8])], PROTOCOL),
            once("a head cut by PING", &[frame(HEADERS, END_STREAM, STREAM, &[0x88]), frame(PING, 0, 0, &[0; 8])], PROTOCOL),
            once("CONTINUATION of nothing", &[frame(CONTINUATION, END_HEADERS, STREAM, &[])], PROTOCOL),
            once("padding beyond the end", &[frame(HEADERS, WHOLE | PADDED, STREAM, &[99, 0x88])], PROTOCOL),
            once("PRIORITY on itself", &[frame(PRIORITY, 0, STREAM, &[0, 0, 0, 1, 1])], PROTOCOL),
        ],
        8 * 1024,
    );
}

#[test]
fn a_body_of_another_length_than_announced_is_cut() {
    Scene::new().all(
        &[
            once("shorter than its length", &[head(&[("content-length", "5")]), body("ok")], Told::Broken),
            once("longer than its length", &[head(&[("content-length", "1")]), body("ok")], Told::Broken),
            once("a second head", &[ok(), part("ok"), ok(), body("more")], Told::Broken),
            once(
                "an interim head after it",
                &[ok(), part("ok"), frame(HEADERS, END_HEADERS, STREAM, &fields(&[(":status", "103")])), body("more")],
                Told::Broken,
            ),
            once("trailers with a status", &[ok(), part("ok"), frame(HEADERS, WHOLE, STREAM, &[0x88])], Told::Whole("ok")),
            once(
                "trailers of a connection",
                &[ok(), part("ok"), frame(HEADERS, WHOLE, STREAM, &fields(&[("connection", "close")]))],
                Told::Broken,
            ),
            once("a reset without an error", &[ok(), part("ok"), frame(RST_STREAM, 0, STREAM, &[0; 4])], Told::Broken),
            once("padding beyond its end", &[ok(), frame(BODY, PADDED, STREAM, &[99, 1])], Told::Broken),
            once("no end", &[ok(), part("ok")], Told::Cut),
            once("a body after its end", &[ok(), body("ok"), body("more")], Told::Whole("ok")),
            once("a reset after its end", &[ok(), body("ok"), frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 2])], Told::Whole("ok")),
            once(
                "GOAWAY of everything, and the answer",
                &[frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), ok(), body("ok")],
                Told::Whole("ok"),
            ),
        ],
        8 * 1024,
    );
}

#[test]
fn floods_of_fields_are_a_problem_at_once() {
    let field = |value: &str| fields(&[("x-f", value)]);
    let begun = || frame(HEADERS, END_STREAM, STREAM, &[0x88]);
    let mut literal = field(&"f".repeat(3_900));
    literal[0] = 0x40;
    let bomb = frame(HEADERS, WHOLE, STREAM, &[&[0x88][..], &literal, &[0xbe].repeat(12_000)].concat());
    Scene::new().all(
        &[
            flood("CONTINUATION", &[begun()], frame(CONTINUATION, 0, STREAM, &field(&"f".repeat(16_000))), Told::Broken),
            flood("empty CONTINUATION", &[begun()], frame(CONTINUATION, 0, STREAM, &[]), Told::Broken),
            once("a bomb of fields", &[bomb], Told::Broken),
            flood("resets", &[], frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 2]), CLOSED),
        ],
        16 * 1024,
    );
}

#[test]
fn floods_in_place_of_an_answer_take_no_memory_and_nobody_elses_time() {
    let interim = |value: &str| {
        let block = fields(&[(":status", "103"), ("x-f", value)]);
        frame(HEADERS, END_HEADERS, STREAM, &block)
    };
    let timeout = Told::Problem(504, "upstream_timeout");
    Scene::patient("300ms").all(
        &[
            flood("SETTINGS", &[], frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), timeout),
            flood("PING", &[], frame(PING, 0, 0, b"flooding"), timeout),
            flood("PRIORITY", &[], frame(PRIORITY, 0, 3, &[0, 0, 0, 5, 1]), timeout),
            flood("unknown kinds", &[], frame(0xee, 0xff, STREAM, b"?"), timeout),
            flood("windows by one", &[], frame(WINDOW_UPDATE, 0, STREAM, &[0, 0, 0, 1]), timeout),
            flood("interim answers", &[], interim("hint"), timeout),
            flood("large interim answers", &[], interim(&"h".repeat(8_000)), timeout),
            flood("GOAWAY", &[], frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]), timeout),
            flood("empty bodies", &[ok()], frame(BODY, 0, STREAM, &[]), Told::Cut),
        ],
        // Interim heads wait until their exchange takes its turn: as many as the connection reads in one of its own.
        16 * 1024,
    );
}

#[test]
fn a_body_beyond_the_window_is_cut_off() {
    let scene = Scene::new();
    let mut client = scene.sidecar.connect_to("default");
    client.write(&Request::get("/users").head());
    let mut peer = scene.hostile.accept(100);
    let (stream, _) = peer.request();
    let piece = frame(BODY, 0, stream, &[7; 16_384]);
    peer.pour(&ok(), 1);
    // The client reads nothing, so what comes beyond the window can't be passed on.
    peer.pour(&piece, 32 * 1024 * 1024);
    scene.other_is_served();
    let answer = client.answer("GET");
    assert!(answer.status == 200 && answer.cut, "{} bytes", answer.body.len());
    let peak = scene.sidecar.peak_memory_kib();
    println!("peak beyond the window: {peak} KiB");
    assert!(peak < 8 * 1024, "{peak} KiB");
}

#[test]
fn a_server_that_closes_every_connection_is_asked_twice_and_no_more() {
    let scene = Scene::new();
    for code in [0_u32, 11] {
        let mut client = scene.sidecar.connect_to("default");
        client.write(&[Request::post("/users", "once").head(), b"once".to_vec()].concat());
        for _ in 0..2 {
            let mut peer = scene.hostile.accept(100);
            peer.request();
            // It has processed nothing.
            peer.go_away(0, code);
        }
        assert_eq!(client.answer("POST").problem(), "upstream_closed", "{code}");
        scene.other_is_served();
        assert!(!scene.hostile.has_more());
    }
}

#[test]
fn a_server_that_allows_no_stream_is_a_problem_in_time() {
    let scene = Scene::patient("300ms");
    let mut client = scene.sidecar.connect_to("default");
    client.write(&Request::get("/users").head());
    let start = now();
    let peer = scene.hostile.accept(0);
    let answer = client.answer("GET");
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert!(start.elapsed() < PROMPTLY);
    drop(peer);
    scene.other_is_served();
}
