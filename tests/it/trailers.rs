//! Trailers, both ways.

use serde_json::{Value, json};

use crate::harness::{Answer, Http2, OFF_AND_AUTO, RecordingUpstream, Request, Setup, Sidecar, revoke, simulator};

/// Sends a chunked request over HTTP/1.1 with these trailers, which announces `announced`.
fn post(sidecar: &Sidecar, target: &str, announced: &str, trailers: &[(&str, &str)]) -> Answer {
    let mut client = sidecar.connect();
    let mut request = Request::new("POST", target).header("Transfer-Encoding", "chunked");
    if !announced.is_empty() {
        request = request.header("Trailer", announced);
    }
    client.write(&request.head());
    client.write(b"4\r\nbody\r\n0\r\n");
    for (name, value) in trailers {
        client.write(format!("{name}: {value}\r\n").as_bytes());
    }
    client.write(b"\r\n");
    client.answer("POST")
}

fn received(answer: &Answer) -> Value {
    answer.json()["trailers"].clone()
}

const OWNED: [(&str, &str); 6] = [
    ("Authorization", "Bearer theirs"),
    ("organization", "theirs"),
    ("content-length", "1"),
    ("transfer-encoding", "chunked"),
    ("cookie", "a=1"),
    ("x-forwarded-for", "1.2.3.4"),
];

#[test]
fn announced_trailers_of_a_request_arrive() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = post(&sidecar, "/_sim/echo", "X-Checksum, x-more", &[("X-Checksum", "abc"), ("x-more", "1")]);
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("body")));
    assert_eq!(received(&answer), json!([["x-checksum", "abc"], ["x-more", "1"]]));
    assert_eq!(answer.echoed("trailer"), ["X-Checksum, x-more"]);
    // What was not announced is dropped, and the body is whole all the same.
    let answer = post(&sidecar, "/_sim/echo", "", &[("x-checksum", "abc")]);
    assert_eq!((received(&answer), answer.json()["body"].as_str()), (Value::Null, Some("body")));
}

#[test]
fn trailers_are_sent_again_with_their_body() {
    let simulator = simulator();
    let sidecar = Setup::eager(&simulator).start().ready();
    revoke(&simulator);
    let answer = post(&sidecar, "/_sim/echo", "x-checksum", &[("x-checksum", "abc")]);
    assert_eq!((answer.status, received(&answer)), (200, json!([["x-checksum", "abc"]])));
}

#[test]
fn what_the_sidecar_owns_never_passes_as_a_trailer() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("cookies", "pass").api("headers", "{ x-plan = \"gold\" }");
    let sidecar = setup.start();
    let trailers = [&OWNED[..], &[("x-plan", "theirs"), ("x-checksum", "abc")]].concat();
    let announced: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
    let answer = post(&sidecar, "/_sim/echo", &announced.join(", "), &trailers);
    assert_eq!((answer.status, received(&answer)), (200, json!([["x-checksum", "abc"]])));

    let mut client = Http2::connect(sidecar.address());
    let mut stream = client.open(&Request::new("POST", "/_sim/echo").header("trailer", &announced.join(", ")), false);
    client.write(&mut stream, b"body", false);
    let few: Vec<_> =
        trailers.iter().filter(|(name, _)| *name != "transfer-encoding" && *name != "Authorization").copied().collect();
    client.finish(&mut stream, &[&few[..], &[("authorization", "Bearer theirs")]].concat());
    let answer = client.answer(stream);
    assert_eq!((answer.status, received(&answer)), (200, json!([["x-checksum", "abc"]])));
}

#[test]
fn trailers_of_an_answer_reach_a_client_that_asks_for_them() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    for te in ["trailers", "gzip;q=0.5, trailers"] {
        let request = Request::post("/_sim/trailers", "body").header("TE", te).header("Connection", "TE");
        let answer = client.send(&request);
        assert_eq!((answer.status, answer.header("trailer")), (200, Some("x-checksum")), "{answer:?}");
        assert_eq!(answer.trailers.len(), 1, "{answer:?}");
        assert_eq!(answer.trailers[0].0, "x-checksum");
    }
    let answer = client.send(&Request::post("/_sim/trailers", "body"));
    assert_eq!((answer.status, answer.trailers.len(), answer.cut), (200, 0, false));
    let echo = client.send(&Request::get("/_sim/echo").header("TE", "gzip;q=0.5, trailers").header("Connection", "TE"));
    assert_eq!((echo.echoed("te"), echo.echoed("connection")), (vec!["trailers".to_owned()], vec!["te".to_owned()]));
    let echo = client.send(&Request::get("/_sim/echo").header("TE", "gzip").header("Connection", "TE"));
    assert_eq!((echo.echoed("te").len(), echo.echoed("connection").len()), (0, 0));
}

#[test]
fn trailers_pass_both_ways_over_http1_and_http2() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator();
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        simulator.control().reset_counts();

        let mut client = sidecar.connect();
        let request = Request::new("POST", "/_sim/trailers").header("TE", "trailers").header("Connection", "TE");
        client.write(&request.header("Trailer", "x-mine").header("Transfer-Encoding", "chunked").head());
        client.write(b"4\r\nbody\r\n0\r\nx-mine: 1\r\nx-not-announced: 2\r\n\r\n");
        let over_http1 = client.answer("POST");

        let mut client = Http2::connect(sidecar.address());
        let request = Request::new("POST", "/_sim/trailers").header("te", "trailers").header("trailer", "x-mine");
        let mut stream = client.open(&request, false);
        client.write(&mut stream, b"body", false);
        client.finish(&mut stream, &[("x-mine", "1"), ("x-not-announced", "2")]);
        let over_http2 = client.answer(stream);

        for answer in [over_http1, over_http2] {
            assert_eq!((answer.status, answer.cut), (200, false), "{http2}: {answer:?}");
            // HTTP/1.1 carries only what was announced.
            let all = json!([["x-mine", "1"], ["x-not-announced", "2"]]);
            assert_eq!(received(&answer), if http2 == "auto" { all } else { json!([["x-mine", "1"]]) });
            assert_eq!(answer.trailers.len(), 1, "{http2}: {answer:?}");
            assert_eq!(answer.trailers[0].0, "x-checksum");
        }
        assert_eq!(simulator.control().counts().requests_http2, if http2 == "auto" { 2 } else { 0 });
    }
}

#[test]
fn an_upstream_can_set_nothing_by_a_trailer() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: set-cookie, x-good, authorization\r\n\r\n\
         2\r\nok\r\n0\r\nset-cookie: a=1\r\nx-good: 1\r\nauthorization: x\r\nkeep-alive: 1\r\n\r\n",
    );
    let mut setup = upstream.setup(&simulator);
    setup.api("cookies", "pass");
    let sidecar = setup.start();
    let request = Request::get("/").header("TE", "trailers").header("Connection", "TE");
    let answer = sidecar.send(&request);
    assert_eq!((answer.text(), answer.trailers.clone()), ("ok", vec![("x-good".to_owned(), "1".to_owned())]));
    let answer = Http2::connect(sidecar.address()).get("/");
    assert_eq!((answer.text(), answer.trailers.clone()), ("ok", vec![("x-good".to_owned(), "1".to_owned())]));
}

#[test]
fn an_answer_that_ends_with_trailers_is_whole_and_its_connection_is_used_again() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("http2", "off").without_connections_ahead();
    let sidecar = setup.start().ready();
    let mut client = sidecar.connect();
    let plain = Request::post("/_sim/trailers", "body");
    let asks = Request::post("/_sim/trailers", "body").header("TE", "trailers").header("Connection", "TE");
    assert_eq!(client.send(&asks).trailers.len(), 1);
    let before = simulator.control().counts().connections;
    for (request, trailers) in [(&asks, 1), (&plain, 0), (&asks, 1), (&plain, 0), (&plain, 0)] {
        let answer = client.send(request);
        assert_eq!((answer.status, answer.trailers.len(), answer.cut), (200, trailers, false), "{answer:?}");
    }
    assert_eq!(simulator.control().counts().connections, before);
    // Becoming ready took a request, too.
    let lines = sidecar.wait_for_access_lines(7);
    assert!(lines.iter().all(|line| line["cut"].is_null()), "{lines:?}");
}

/// A head names a field by `Connection` for the next hop alone, wherever the field stands.
#[test]
fn what_connection_names_passes_as_a_trailer_in_neither_direction() {
    let simulator = simulator();
    let sidecar = Setup::new(&simulator).start();
    let mut client = sidecar.connect();
    let request =
        Request::new("POST", "/_sim/echo").header("Transfer-Encoding", "chunked").header("Connection", "X-Hop, x_other");
    client.write(&request.header("Trailer", "X-Hop, X-Other, X-Good").head());
    client.write(b"4\r\nbody\r\n0\r\nX-Hop: 1\r\nX-Other: 1\r\nX-Good: 1\r\n\r\n");
    let answer = client.answer("POST");
    assert_eq!((answer.status, received(&answer)), (200, json!([["x-good", "1"]])));

    let upstream = RecordingUpstream::start(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Hop, X-Good\r\n\r\n\
         2\r\nok\r\n0\r\nX-Hop: 1\r\nX-Good: 1\r\n\r\n",
    );
    let sidecar = upstream.setup(&simulator).start();
    let answer = sidecar.send(&Request::get("/").header("TE", "trailers").header("Connection", "TE"));
    assert_eq!((answer.text(), answer.trailers.clone()), ("ok", vec![("x-good".to_owned(), "1".to_owned())]));
}
