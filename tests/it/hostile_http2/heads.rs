//! Heads that HTTP/1.1 could not say, or would say otherwise, and bodies that are not as long as they claim.

use crate::harness::{
    frames::{BODY, COMPRESSION_ERROR, END_HEADERS, END_STREAM, HEADERS, PROTOCOL_ERROR, WHOLE, fields, frame, get_fields},
    hostile_http2::{Case, Ends, Scene, case, play, tell_all},
};

type Fields<'a> = &'a [(&'a str, &'a str)];

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "localhost");
const PATH: (&str, &str) = (":path", "/");

/// The stream is reset, and nothing of it reaches upstream.
const RESET: Ends = Ends::Stream(1, PROTOCOL_ERROR);

/// An invalid name may end the connection, too (RFC 9113, 5.4.2).
const UNREADABLE: Ends = Ends::Either(&[PROTOCOL_ERROR, COMPRESSION_ERROR]);

/// A request that is a head alone.
fn head(name: &str, block: Fields<'_>, ends: Ends, reaches: usize) -> Case {
    case(name, &[frame(HEADERS, WHOLE, 1, &fields(block))], ends, reaches)
}

/// A GET with one field more.
fn with(field: (&str, &str), ends: Ends, reaches: usize) -> Case {
    head(&format!("{field:?}"), &[METHOD, SCHEME, AUTHORITY, PATH, field], ends, reaches)
}

/// A GET of that path.
fn at(path: &str, ends: Ends, reaches: usize) -> Case {
    head(&format!("{path:?}"), &[METHOD, SCHEME, AUTHORITY, (":path", path)], ends, reaches)
}

#[test]
fn pseudo_fields_are_there_once_and_first() {
    let refused = |status| Ends::Answer(1, status);
    play(
        &[
            head("no method", &[SCHEME, AUTHORITY, PATH], UNREADABLE, 0),
            head("no scheme", &[METHOD, AUTHORITY, PATH], RESET, 0),
            head("no path", &[METHOD, SCHEME, AUTHORITY], RESET, 0),
            head("nothing", &[], RESET, 0),
            head("an empty path", &[METHOD, SCHEME, AUTHORITY, (":path", "")], RESET, 0),
            head("two methods", &[METHOD, (":method", "POST"), SCHEME, AUTHORITY, PATH], RESET, 0),
            head("two paths", &[METHOD, SCHEME, AUTHORITY, PATH, (":path", "/patient/auth")], RESET, 0),
            head("two authorities", &[METHOD, SCHEME, AUTHORITY, (":authority", "evil.example"), PATH], RESET, 0),
            head("two schemes", &[METHOD, SCHEME, (":scheme", "https"), AUTHORITY, PATH], RESET, 0),
            head("the path after a field", &[METHOD, SCHEME, AUTHORITY, ("accept", "*/*"), PATH], RESET, 0),
            head("an unknown one", &[METHOD, SCHEME, AUTHORITY, PATH, (":organization", "evil")], UNREADABLE, 0),
            head("an answer's", &[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")], RESET, 0),
            head("no authority", &[METHOD, SCHEME, PATH], refused(400), 0),
            head("an empty authority", &[METHOD, SCHEME, (":authority", ""), PATH], RESET, 0),
            head("a user in the authority", &[METHOD, SCHEME, (":authority", "localhost@evil.example"), PATH], refused(421), 0),
            head("a host of the user's", &[METHOD, SCHEME, (":authority", "evil.example@localhost"), PATH], refused(421), 0),
            head("two hosts beside none", &[METHOD, SCHEME, PATH, ("host", "localhost"), ("host", "localhost")], refused(400), 0),
            head(
                "another host beside it",
                &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "localhost.evil.example")],
                refused(400),
                0,
            ),
            head("a foreign host beside none", &[METHOD, SCHEME, PATH, ("host", "evil.example")], refused(421), 0),
            head("a host beside none", &[METHOD, SCHEME, PATH, ("host", "localhost")], refused(200), 1),
            head("a method with a blank", &[(":method", "GET /evil"), SCHEME, AUTHORITY, PATH], UNREADABLE, 0),
            head("a method with lines", &[(":method", "GET / HTTP/1.1\r\n\r\nGET"), SCHEME, AUTHORITY, PATH], UNREADABLE, 0),
            head("no method's name", &[(":method", ""), SCHEME, AUTHORITY, PATH], UNREADABLE, 0),
            head("another scheme", &[METHOD, (":scheme", "ftp"), AUTHORITY, PATH], refused(200), 1),
            head("a scheme with lines", &[METHOD, (":scheme", "http\r\nx: y"), AUTHORITY, PATH], RESET, 0),
        ],
        false,
    );
}

#[test]
fn connect_opens_no_tunnel_in_any_form() {
    let connect = (":method", "CONNECT");
    play(
        &[
            head("plain", &[connect, (":authority", "localhost:443")], Ends::Answer(1, 405), 0),
            head("with a path", &[connect, SCHEME, AUTHORITY, PATH], Ends::Either(&[PROTOCOL_ERROR]), 0),
            head("extended", &[connect, (":protocol", "websocket"), SCHEME, AUTHORITY, PATH], RESET, 0),
            head("a protocol of a GET", &[METHOD, (":protocol", "websocket"), SCHEME, AUTHORITY, PATH], RESET, 0),
        ],
        false,
    );
}

#[test]
fn names_and_values_smuggle_nothing_into_the_next_hop() {
    let served = Ends::Answer(1, 200);
    play(
        &[
            with(("Authorization", "Bearer mine"), UNREADABLE, 0),
            with(("X-Upper", "1"), UNREADABLE, 0),
            with(("x y", "1"), UNREADABLE, 0),
            with(("x:y", "1"), UNREADABLE, 0),
            with(("x\r\norganization", "evil"), UNREADABLE, 0),
            with(("x\0", "1"), UNREADABLE, 0),
            with(("", "1"), UNREADABLE, 0),
            with(("x", "1\r\norganization: evil"), UNREADABLE, 0),
            with(("x", "1\norganization: evil"), UNREADABLE, 0),
            with(("x", "1\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"), UNREADABLE, 0),
            with(("x", "1\r"), UNREADABLE, 0),
            with(("x", "1\0"), UNREADABLE, 0),
            with(("te", "trailers, deflate"), RESET, 0),
            with(("connection", "authorization, organization, host"), RESET, 0),
            with(("transfer-encoding", "identity"), RESET, 0),
            with(("authorization", "Bearer mine"), served, 1),
            with(("organization", "evil"), served, 1),
            with(("x_real_ip", "192.0.2.1"), served, 1),
            with(("cookie", "token=mine"), served, 1),
            with(("proxy-authorization", "Basic bWluZQ=="), served, 1),
            with(("x_forwarded_for", "192.0.2.1"), served, 1),
            with(("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"), served, 1),
            with(("trailer", "authorization"), served, 1),
            with(("origin", "http://evil.example"), Ends::Answer(1, 403), 0),
            with(("expect", "100-continue, evil"), Ends::Answer(1, 417), 0),
        ],
        false,
    );
}

#[test]
fn paths_are_sent_as_they_were_judged() {
    let refused = |status| Ends::Answer(1, status);
    let cases = [
        at("relative", RESET, 0),
        at("http://evil.example/", RESET, 0),
        at("*", refused(400), 0),
        at("/ HTTP/1.1\r\norganization: evil\r\n\r\nGET /", RESET, 0),
        at("/a b", RESET, 0),
        at("/\0", RESET, 0),
        at("/\t", RESET, 0),
        at("//elsewhere.example/", refused(200), 1),
        at("/a#/../patient/auth", refused(200), 1),
    ];
    let mut scene = Scene::new();
    tell_all(&cases, |case| scene.plays(case));
    let lines: Vec<String> = scene.foreign().iter().map(|request| request.split("\r\n").next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["GET //elsewhere.example/ HTTP/1.1", "GET /a HTTP/1.1"]);
    scene.ends(false);
}

#[test]
fn the_log_in_path_is_refused_in_any_disguise() {
    let disguises = [
        "/patient/auth",
        "/PATIENT/Auth",
        "/patient/%61uth",
        "/%2570atient/auth",
        "//patient//auth/",
        "/./patient/./auth",
        "/x/../patient/auth",
        "/x/%2e%2e/patient/auth",
        "/patient%2fauth",
        "/patient/auth;v=1",
        "/patient/auth?x=1",
        "/patient\\auth",
    ];
    play(&disguises.map(|path| at(path, Ends::Answer(1, 403), 0)), false);
}

#[test]
fn a_body_of_another_length_than_announced_ends_its_stream() {
    let post = |length: &[(&str, &str)]| {
        let head = [(":method", "POST"), SCHEME, AUTHORITY, PATH];
        frame(HEADERS, END_HEADERS, 1, &fields(&[&head, length].concat()))
    };
    let of = |name: &str, length: Fields<'_>| case(name, &[post(length), frame(BODY, 1, 1, b"five!")], RESET, 0);
    let length = "content-length";
    let again = get_fields("/evil", &[]);
    play(
        &[
            of("longer than it says", &[(length, "4")]),
            of("shorter than it says", &[(length, "6")]),
            of("two lengths", &[(length, "5"), (length, "6")]),
            of("a list of lengths", &[(length, "5, 5")]),
            of("a sign", &[(length, "+5")]),
            of("below nothing", &[(length, "-5")]),
            of("no number", &[(length, "five")]),
            of("beyond 64 bits", &[(length, "18446744073709551621")]),
            with((length, "5"), RESET, 0),
            case("a second head", &[post(&[]), frame(BODY, 0, 1, b"five!"), frame(HEADERS, END_HEADERS, 1, &again)], RESET, 0),
            case(
                "trailers with a path",
                &[post(&[]), frame(BODY, 0, 1, b"five!"), frame(HEADERS, WHOLE, 1, &again)],
                Ends::Answer(1, 200),
                1,
            ),
        ],
        true,
    );
}

#[test]
fn trailers_carry_nothing_of_ours() {
    let post = frame(HEADERS, END_HEADERS, 1, &fields(&[(":method", "POST"), SCHEME, AUTHORITY, PATH]));
    let trailers =
        [("authorization", "Bearer mine"), ("organization", "evil"), ("host", "evil.example"), ("content-length", "1")];
    let mut scene = Scene::new();
    for trailer in trailers {
        let frames = [post.clone(), frame(BODY, 0, 1, b"five!"), frame(HEADERS, WHOLE, 1, &fields(&[trailer]))];
        scene.plays(&case(trailer.0, &frames, Ends::Answer(1, 200), 1));
        let request = scene.foreign().pop().unwrap();
        assert!(request.ends_with("\r\n\r\n5\r\nfive!\r\n0\r\n\r\n"), "{request:?}");
    }
    scene.ends(false);
}

#[test]
fn a_head_over_the_limits_is_a_431() {
    let many: Vec<(String, &str)> = (0..257).map(|number| (format!("x-{number}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let block = get_fields("/", &many);
    let piece = "f".repeat(15_000);
    let pieces: Vec<Vec<u8>> = (0..5)
        .map(|number| {
            let block = if number == 0 { get_fields("/", &[("x-f", &piece)]) } else { fields(&[("x-f", &piece)]) };
            let (kind, flags) = if number == 0 { (HEADERS, END_STREAM) } else { (9, 0) };
            frame(kind, if number == 4 { flags | END_HEADERS } else { flags }, 1, &block)
        })
        .collect();
    play(
        &[
            case("257 fields", &[frame(HEADERS, WHOLE, 1, &block)], Ends::Answer(1, 431), 0),
            case("75 kB", &pieces, Ends::Answer(1, 431), 0),
        ],
        false,
    );
}
