//! Much of what is allowed a little, and what is left lying around. Each bound is what the limits of a connection come to,
//! and what the process takes by itself.

use std::{net::Shutdown, thread, time::Duration};

use careportals_simulator::Control;

use crate::harness::{
    Http2, PATIENCE, Setup, Sidecar,
    frames::{
        BODY, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FrameClient, GOAWAY, HEADERS, PADDED,
        PING, PREFACE, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, fields, frame, get_fields,
    },
    hostile_http2::{PROMPTLY, Scene, get, opened, post, refused, status_of},
    now, simulator, until, until_still,
};

const MIB: usize = 1024 * 1024;

/// What the process takes by itself, in KiB, in a debug build that logs everything: twice what it was seen to take.
const ITSELF: u64 = 7 * 1024;

/// What a flooder writes first, and then again and again.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    then: Vec<u8>,
}

/// What became of a flooder that reads its answers.
struct Flooded {
    /// How many of its bytes were taken.
    taken: usize,
    /// The code of the last GOAWAY.
    words: Option<u32>,
}

/// Floods with at most `most` bytes, and asserts that others are served meanwhile.
fn flood(scene: &mut Scene, flood: &Flood, most: usize) -> Flooded {
    let mut raw = FrameClient::silent(scene.sidecar.address());
    raw.write(&opened(std::slice::from_ref(&flood.first)));
    let piece = flood.then.repeat(4096 / flood.then.len() + 1);
    let flooding = thread::spawn(move || {
        let mut reader = FrameClient(raw.0.try_clone().unwrap());
        let reading = thread::spawn(move || reader.last_words());
        let taken = raw.flood(&piece, PATIENCE, most);
        // The connection may be gone.
        let _ = raw.0.shutdown(Shutdown::Write);
        Flooded { taken, words: reading.join().unwrap() }
    });
    loop {
        let is_over = flooding.is_finished();
        scene.others_are_served();
        if is_over {
            break;
        }
    }
    flooding.join().unwrap_or_else(|_| panic!("{}", flood.name))
}

/// Asserts that the process has never taken more than this and what it takes by itself.
fn assert_peak(sidecar: &Sidecar, name: &str, kib: u64) {
    let peak = sidecar.peak_memory_kib();
    println!("peak of {name}: {peak} KiB of {}", ITSELF + kib);
    assert!(peak < ITSELF + kib, "{name}: {peak} KiB");
}

#[test]
fn frames_that_cost_little_hold_up_nobody_however_many_there_are() {
    let mut scene = Scene::new();
    let done = refused(1);
    let none = Vec::new;
    let floods = [
        Flood { name: "PRIORITY", first: none(), then: frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 1]) },
        Flood { name: "PING", first: none(), then: frame(PING, 0, 0, b"flooding") },
        Flood { name: "answers to no PING", first: none(), then: frame(PING, 1, 0, b"flooding") },
        Flood { name: "SETTINGS", first: none(), then: frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]) },
        Flood { name: "empty SETTINGS", first: none(), then: frame(SETTINGS, 0, 0, &[]) },
        Flood {
            name: "a table that grows and shrinks",
            first: none(),
            then: [[0, 0], [0x10, 0]].iter().flat_map(|[high, low]| frame(SETTINGS, 0, 0, &[0, 1, 0, 0, *high, *low])).collect(),
        },
        Flood { name: "windows of one byte more", first: none(), then: frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]) },
        Flood { name: "unknown kinds", first: none(), then: frame(0xee, 0xff, 5, b"?") },
        Flood { name: "resets of what is over", first: done, then: frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]) },
    ];
    for flooding in &floods {
        flood(&mut scene, flooding, 128 * 1024);
        // Nothing of it is kept but answers on their way, and there is one buffer for those.
        assert_peak(&scene.sidecar, flooding.name, 4 * 1024);
    }
    scene.ends(false);
}

#[test]
fn frames_without_content_end_the_connection() {
    let mut scene = Scene::new();
    let begun = || frame(HEADERS, END_STREAM, 1, &get_fields("/", &[]));
    let floods = [
        Flood { name: "empty bodies", first: post(1, "/"), then: frame(BODY, 0, 1, &[]) },
        Flood { name: "bodies of padding", first: post(1, "/"), then: frame(BODY, PADDED, 1, &[3, 0, 0, 0]) },
        Flood { name: "bodies of one byte", first: post(1, "/"), then: frame(BODY, 0, 1, b"1") },
        Flood { name: "empty CONTINUATION", first: begun(), then: frame(CONTINUATION, 0, 1, &[]) },
        Flood { name: "CONTINUATION of one field", first: begun(), then: frame(CONTINUATION, 0, 1, &fields(&[("x", "1")])) },
    ];
    for flooding in &floods {
        let flooded = flood(&mut scene, flooding, 16 * MIB);
        assert!(flooded.taken < 16 * MIB, "{}", flooding.name);
        println!("{}: {} bytes, {:?}", flooding.name, flooded.taken, flooded.words);
        // Its windows, in which the bodies wait.
        assert_peak(&scene.sidecar, flooding.name, 4 * 1024);
    }
    assert!(scene.foreign().is_empty());
}

/// Frames that make the sidecar reset a stream, after its head.
type Provocation = (&'static str, fn(u32) -> Vec<u8>);

const PROVOCATIONS: [Provocation; 6] = [
    ("a window by nothing", |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
    ("a window over 2^31", |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())),
    ("a body after the end", |stream| [frame(BODY, 1, stream, b"end"), frame(BODY, 0, stream, b"more")].concat()),
    ("a head after the end", |stream| {
        [frame(BODY, 1, stream, b"end"), frame(HEADERS, WHOLE, stream, &fields(&[("x", "1")]))].concat()
    }),
    ("a second head", |stream| frame(HEADERS, END_HEADERS, stream, &get_fields("/", &[]))),
    ("trailers that are none", |stream| frame(HEADERS, WHOLE, stream, &fields(&[("connection", "close")]))),
];

#[test]
fn resets_that_a_client_provokes_end_the_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    for (name, provocation) in PROVOCATIONS {
        control.reset_counts();
        let streams = (0..2000).map(|number| 2 * number + 1);
        let bytes: Vec<u8> = streams.flat_map(|stream| [post(stream, "/_sim/upload"), provocation(stream)].concat()).collect();
        let mut raw = FrameClient::silent(sidecar.address());
        raw.write(&opened(&[]));
        raw.flood(&bytes, PATIENCE, bytes.len());
        let words = raw.last_words();
        println!("{name}: {words:?}, {} requests", control.counts().requests);
        assert!(matches!(words, None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | 5)), "{name}: {words:?}");
        assert!(control.counts().requests <= 256, "{name}: {}", control.counts().requests);
        assert_eq!(sidecar.get("/_sim/echo").status, 200, "{name}");
        // What is reset holds nothing.
        assert_peak(&sidecar, name, 4 * 1024);
    }
}

#[test]
fn resets_that_a_client_provokes_one_after_the_other_end_the_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    for (name, provocation) in PROVOCATIONS {
        control.reset_counts();
        let mut raw = FrameClient::silent(sidecar.address());
        raw.write(&opened(&[]));
        let mut streams = 0;
        // Each is taken up before it is given reason for a reset.
        let mut goes_on = |raw: &mut FrameClient, stream| {
            let begun = [post(stream, "/_sim/upload"), frame(PING, 0, 0, b"taken up")].concat();
            raw.flood(&begun, PATIENCE, begun.len());
            while raw.next(PING)?.payload != b"taken up" {}
            let provocation = provocation(stream);
            raw.flood(&provocation, PATIENCE, provocation.len());
            streams += 1;
            Some(())
        };
        assert!((0..1000).any(|number| goes_on(&mut raw, 2 * number + 1).is_none()), "{name}");
        println!("{name}: {streams} streams, {} requests", control.counts().requests);
        // As many as a client may abandon, and some that were under way.
        assert!(streams <= 260, "{name}: {streams}");
        assert_eq!(sidecar.get("/_sim/echo").status, 200, "{name}");
        assert_peak(&sidecar, name, 4 * 1024);
    }
}

#[test]
fn rapid_resets_on_many_connections_hold_up_nobody() {
    let mut scene = Scene::new();
    let mut pairs = Vec::new();
    for number in 0..1000 {
        pairs.extend(frame(HEADERS, WHOLE, 2 * number + 1, &get_fields("/", &[])));
        pairs.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let address = scene.sidecar.address();
    let flooders: Vec<_> = (0..16)
        .map(|_| {
            let pairs = pairs.clone();
            thread::spawn(move || {
                let mut raw = FrameClient::silent(address);
                raw.write(&opened(&[]));
                raw.flood(&pairs, PATIENCE, pairs.len());
                raw.last_words()
            })
        })
        .collect();
    while flooders.iter().any(|flooder| !flooder.is_finished()) {
        scene.others_are_served();
    }
    for flooder in flooders {
        assert!(matches!(flooder.join().unwrap(), None | Some(ENHANCE_YOUR_CALM)));
    }
    scene.others_are_served();
    let foreign = scene.foreign();
    assert!(foreign.len() < 16 * 100, "{}", foreign.len());
    for request in &foreign {
        scene.assert_ours("rapid", request);
    }
    assert_peak(&scene.sidecar, "rapid resets", 8 * 1024);
}

#[test]
fn a_field_that_is_named_again_and_again_takes_no_memory() {
    let mut scene = Scene::new();
    // Goes into the table (RFC 7541, 6.2.1), as large as fits, and is then one byte: 62, the first after the fixed ones.
    let filling = "f".repeat(3_900);
    let mut literal = fields(&[("x-bomb", &filling)]);
    literal[0] = 0x40;
    let bomb = |stream: u32| {
        let block = [&get_fields("/", &[])[..], if stream == 1 { &literal } else { &[] }, &[0xbe].repeat(12_000)].concat();
        frame(HEADERS, WHOLE, stream, &block)
    };
    let mut raw = FrameClient::silent(scene.sidecar.address());
    // 100 times 46 MB.
    raw.write(&opened(&(0..100).map(|number| bomb(2 * number + 1)).collect::<Vec<_>>()));
    let (mut told, mut first) = (0, None);
    while told < 100 {
        let Some(frame) = raw.read() else { break };
        if frame.kind == HEADERS {
            first.get_or_insert_with(|| status_of(&frame.payload));
            told += 1;
        }
        if frame.kind == GOAWAY {
            assert_eq!(frame.error_code(), ENHANCE_YOUR_CALM);
            break;
        }
    }
    assert!(first.is_none_or(|status| status == 431), "{first:?}");
    scene.others_are_served();
    // One head at a time, up to its limit.
    assert_peak(&scene.sidecar, "bomb", 4 * 1024);
    scene.ends(false);
}

#[test]
fn heads_that_wait_are_as_large_as_they_may_be_and_as_many() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let piece = "f".repeat(15_000);
    let mut raw = FrameClient::silent(sidecar.address());
    raw.write(&opened(&[]));
    for number in 0..100 {
        let stream = 2 * number + 1;
        raw.write(&frame(HEADERS, END_STREAM, stream, &get_fields("/_sim/echo", &[("x-f", &piece)])));
        raw.write(&frame(CONTINUATION, 0, stream, &fields(&[("x-f", &piece)])));
        raw.write(&frame(CONTINUATION, 0, stream, &fields(&[("x-f", &piece)])));
        raw.write(&frame(CONTINUATION, END_HEADERS, stream, &fields(&[("x-f", &piece)])));
    }
    raw.write(&frame(PING, 0, 0, b"all read"));
    while raw.next(PING).unwrap().payload != b"all read" {}
    // 100 heads of 60 kB, and the tasks that hold them.
    assert_peak(&sidecar, "heads", 100 * (64 + 24));
    assert_eq!(sidecar.get("/patient/auth").status, 403, "who needs no token is served");
    drop(raw);
    control.hold_logins(false);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

/// Counts the bytes that the upstream has sent.
fn sent(control: &Control) -> u64 {
    control.requests().iter().map(|seen| seen.answer_bytes).sum()
}

#[test]
fn answers_that_nobody_reads_are_held_back() {
    // Of a stream and of the connection; the last client says that there is room, and does not read.
    for window in [0_u32, 1, 0x7fff_0000] {
        let simulator = simulator();
        let control = simulator.control();
        let mut setup = Setup::new(&simulator);
        // A hundred handshakes at a time take theirs on a busy machine.
        setup.api("connect_timeout", "60s");
        let sidecar = setup.start().ready();
        let mut raw = FrameClient::silent(sidecar.address());
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        let room = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        let requests =
            (0..100).map(|number| frame(HEADERS, WHOLE, 2 * number + 1, &get_fields("/_sim/download?bytes=67108864", &[])));
        raw.write(&[PREFACE.to_vec(), settings, room, requests.flatten().collect()].concat());
        until("the upstream has got at least 100 requests", || control.counts().requests >= 100);
        until_still("every buffer on the way is full", Duration::from_millis(300), || {
            let sent = sent(control);
            assert!(sent < 1024 * 1024 * 1024, "nobody reads that");
            sent
        });
        assert_eq!(Http2::connect(sidecar.address()).get("/_sim/echo").status, 200);
        // Of each stream 64 KiB read ahead, as much that waits to be sent, what TLS has decrypted, and what it has not. Where there
        // is room in the windows, one frame of a body on its way in between, and one over the limit of what waits.
        let each = 32 + if window < 2 { 3 * 64 } else { 5 * 64 };
        assert_peak(&sidecar, "unread answers", 100 * each);
        if window < 2 {
            // A byte at a time is not what brings them all.
            raw.write(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(100));
            assert_eq!(sidecar.get("/_sim/echo").status, 200);
            assert_peak(&sidecar, "answers by the byte", 100 * each);
        }
        drop(raw);
        until("every exchange is over", || control.requests().iter().all(|seen| seen.over));
        assert_eq!(sidecar.get("/_sim/echo").status, 200);
    }
}

#[test]
fn bodies_that_upstream_does_not_read_are_held_back() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut raw = FrameClient::silent(sidecar.address());
    let heads: Vec<Vec<u8>> = (0..100).map(|number| post(2 * number + 1, "/_sim/slow-read?bytes_per_second=1")).collect();
    raw.write(&opened(&heads));
    let piece = vec![7; 16_384];
    // Whatever the windows say.
    let bodies: Vec<u8> = (0..100).flat_map(|number| frame(BODY, 0, 2 * number + 1, &piece)).collect();
    raw.flood(&bodies, Duration::from_secs(1), 64 * MIB);
    assert_eq!(raw.last_words(), Some(FLOW_CONTROL_ERROR));
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    // The connection's window, what is ahead of upstream on each stream, and the copy that is kept to be sent again.
    assert_peak(&sidecar, "unread bodies", 1024 + 100 * (64 + 64 + 40));
}

#[test]
fn of_thousands_of_streams_at_once_100_are_served() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    control.hold_requests(true);
    let mut raw = FrameClient::silent(sidecar.address());
    let requests: Vec<Vec<u8>> =
        (0..4000).map(|number| frame(HEADERS, WHOLE, 2 * number + 1, &get_fields("/_sim/echo", &[]))).collect();
    let bytes = opened(&requests);
    raw.flood(&bytes, PATIENCE, bytes.len());
    let words = raw.last_words();
    assert!(matches!(words, None | Some(ENHANCE_YOUR_CALM)), "{words:?}");
    assert!(control.counts().requests <= 100, "{}", control.counts().requests);
    control.hold_requests(false);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_peak(&sidecar, "streams", 100 * 32);
}

#[test]
fn a_client_that_said_goaway_may_finish_its_streams_and_open_no_others() {
    let mut scene = Scene::new();
    let mut raw = FrameClient::silent(scene.sidecar.address());
    raw.write(&opened(&[get(1), frame(GOAWAY, 0, 0, &[0; 8])]));
    let start = now();
    raw.last_words();
    assert!(start.elapsed() < PROMPTLY);
    scene.others_are_served();
    assert!(scene.foreign().len() <= 1);
}
