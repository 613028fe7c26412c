//! HTTP/2 streams, from the upstream or from a client, that end later than their last byte, or with their connection.

use std::time::Duration;

use crate::harness::{
    Connection, Http2, ManualHttp2, ManualUpstream, Request,
    frames::{BODY, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, frame},
};

/// The indexed fields `:status: 200`, `204` and `304` (RFC 7541, Appendix A).
const OK: u8 = 0x88;
const NO_CONTENT: u8 = 0x89;
const NOT_MODIFIED: u8 = 0x8b;

/// A head with this status and, if there is one, this length of one digit.
fn head(status: u8, length: Option<u8>) -> Vec<u8> {
    // `content-length` is the name with the number 28, and this a literal that is not indexed.
    let length = length.map(|length| vec![0x0f, 28 - 15, 1, length]);
    [vec![status], length.unwrap_or_default()].concat()
}

fn ask(client: &mut Connection, method: &str, version: &str) {
    client.write(format!("{method} /users HTTP/{version}\r\nHost: localhost\r\n\r\n").as_bytes());
}

#[test]
fn an_answer_that_is_whole_is_so_though_its_stream_ends_later_and_the_stream_is_not_reset() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut peer = None;
    let mut count = 0;
    for (method, status, length, body) in [
        ("GET", OK, Some(b'5'), "hello"),
        ("GET", OK, Some(b'0'), ""),
        ("HEAD", OK, Some(b'5'), ""),
        ("HEAD", OK, None, ""),
        ("GET", NO_CONTENT, None, ""),
        ("GET", NOT_MODIFIED, None, ""),
    ] {
        for version in ["1.1", "1.0"] {
            let mut client = sidecar.connect();
            ask(&mut client, method, version);
            let peer = peer.get_or_insert_with(|| upstream.accept(100));
            // A reset of the stream before would come first.
            let asked = peer.frame().unwrap();
            assert_eq!(asked.kind, HEADERS, "{method} {version} {asked:?}");
            peer.send(HEADERS, END_HEADERS, asked.stream, &head(status, length));
            if !body.is_empty() {
                peer.send(BODY, 0, asked.stream, body.as_bytes());
            }
            let answer = if version == "1.1" {
                let answer = client.answer(method);
                assert!(!answer.cut);
                answer.body
            } else {
                let all = client.read_to_end();
                all[all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4..].to_vec()
            };
            assert_eq!(String::from_utf8_lossy(&answer), body, "{method} {version}");
            peer.send(BODY, END_STREAM, asked.stream, b"");
            count += 1;
        }
    }
    let lines = sidecar.wait_for_access_lines(count);
    assert!(lines.iter().all(|line| line["cut"].is_null()), "{lines:?}");
}

#[test]
fn an_answer_that_comes_with_the_end_of_its_connection_is_whole_though_the_upload_is_not() {
    for (length, body, last) in [(Some(b'5'), "early", BODY), (None, "early", BODY), (None, "", HEADERS)] {
        let upstream = ManualHttp2::listen();
        let sidecar = upstream.setup().start();
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", "/users").header("Content-Length", "10").head());
        client.write(b"half");
        let mut peer = upstream.accept(100);
        let stream = peer.frame().unwrap().stream;
        assert_eq!(peer.frame().unwrap().payload, b"half");
        let ends = |kind| if kind == last { END_STREAM } else { 0 };
        let mut all = frame(HEADERS, END_HEADERS | ends(HEADERS), stream, &head(OK, length));
        if !body.is_empty() {
            all.extend(frame(BODY, ends(BODY), stream, body.as_bytes()));
        }
        all.extend(frame(GOAWAY, 0, 0, &[stream.to_be_bytes(), NO_ERROR.to_be_bytes()].concat()));
        peer.write_and_end(&all);
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.text(), answer.cut), (200, body, false), "{length:?}");
        let line = &sidecar.wait_for_access_lines(1)[0];
        assert!(line["cut"].is_null(), "{line}");
    }
}

#[test]
fn a_request_that_is_whole_is_so_though_its_stream_ends_later() {
    let upstream = ManualUpstream::listen();
    let mut setup = upstream.setup();
    setup.variable("CAREPORTALS_WORKERS", "1").api("body_idle", "300ms");
    let sidecar = setup.start();
    let mut client = Http2::connect(sidecar.address());
    let mut connection = None;
    for body in ["hello", "", "hello"] {
        let mut stream = client.open(&Request::new("POST", "/users").header("Content-Length", &body.len().to_string()), false);
        if !body.is_empty() {
            client.write(&mut stream, body.as_bytes(), false);
        }
        client.turn();
        let upstream = connection.get_or_insert_with(|| upstream.accept());
        let expected = format!("\r\n\r\n{body}");
        assert!(upstream.read_until(expected.as_bytes()).starts_with(b"POST /users HTTP/1.1\r\n"));
        // The upstream has all of the request, so it is not `body_idle` that ends the wait for it.
        client.stay_for("the upstream thinks for longer than `body_idle`", Duration::from_millis(700));
        upstream.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.answer(stream).status, 201, "{body}");
    }
    assert!(!upstream.has_more(), "the connection serves again");
}
