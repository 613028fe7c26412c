//! One id from the app to CarePortals: on each attempt upstream, on each answer, and in the log.

use std::collections::BTreeSet;

use crate::harness::{
    Answer, RecordingUpstream, Request, Setup, Sidecar,
    each_way::{clients, each_way},
    revoke, simulator,
    websocket::{ask, handshake},
};

fn is_ours(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// The only id of an answer.
#[track_caller]
fn id_of(answer: &Answer) -> String {
    let ids = answer.all("x-request-id");
    assert_eq!(ids.len(), 1, "{answer:?}");
    ids[0].to_owned()
}

#[test]
fn the_clients_id_or_ours_goes_up_and_comes_back() {
    each_way(
        |_, _| {},
        |way| {
            for sent in [&[][..], &["Order_17.a-B"], &["not well formed"], &["a", "a"]] {
                let request = Request::get("/_sim/echo").headers(sent.iter().map(|id| ("X-Request-Id", *id)));
                let answer = way.client.send(&request);
                let id = id_of(&answer);
                assert_eq!(answer.echoed("x-request-id"), [id.as_str()], "{way} {sent:?}");
                assert!(if sent == ["Order_17.a-B"] { id == sent[0] } else { is_ours(&id) }, "{way} {sent:?} {id}");
            }
        },
    );
}

#[test]
fn the_log_has_the_id_that_went_up() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for mut client in clients(&sidecar) {
        client.get("/_sim/echo");
    }
    let lines = sidecar.wait_for_access_lines(2);
    let logged: BTreeSet<&str> = lines.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    let seen = simulator.control().requests();
    let sent: BTreeSet<&str> = seen.iter().flat_map(|seen| seen.values("x-request-id")).collect();
    assert_eq!(sent, logged);
    assert_eq!(sent.len(), 2, "each request has another");
}

#[test]
fn a_connection_header_that_names_it_removes_nothing() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let request = Request::get("/_sim/echo").header("Connection", "x-request-id").header("X-Request-Id", "mine-1");
    let answer = sidecar.send(&request);
    assert_eq!((answer.echoed("x-request-id"), id_of(&answer)), (vec!["mine-1".to_owned()], "mine-1".to_owned()));
}

#[test]
fn an_upstreams_own_id_is_replaced_in_each_spelling() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        "HTTP/1.1 200 OK\r\nX-Request-Id: a\r\nX_Request_Id: b\r\nX-Request-Id: c\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let sidecar = upstream.setup(&simulator).start();
    for mut client in clients(&sidecar) {
        let answer = client.send(&Request::get("/users/account").header("X-Request-Id", "mine-1"));
        assert_eq!((id_of(&answer).as_str(), answer.all("x_request_id"), answer.header("x-kept")), ("mine-1", vec![], Some("1")));
    }
}

#[test]
fn each_attempt_has_the_same_id() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in ["off", "auto"] {
        let mut setup = Setup::eager(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        revoke(&simulator);
        for (target, status) in [("/_sim/echo?revoked", 200), ("/_sim/reset-before?how=rst", 502)] {
            let answer = sidecar.get(target);
            let id = id_of(&answer);
            let seen = control.requests();
            let sent: Vec<_> = seen.iter().filter(|seen| seen.target == target).collect();
            let sent: Vec<_> = sent.iter().rev().take(2).flat_map(|seen| seen.values("x-request-id")).collect();
            assert_eq!((answer.status, sent), (status, vec![id.as_str(); 2]), "{http2} {target}");
        }
    }
}

#[test]
fn a_tunnel_has_one_too() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for sent in [None, Some("mine-1")] {
        let request = handshake("/_sim/websocket").headers(sent.map(|id| ("X-Request-Id", id)));
        let head = ask(&mut sidecar.connect(), &request);
        assert_eq!(head.status, 101);
        let seen = simulator.control().requests().pop().unwrap();
        assert_eq!(seen.values("x-request-id"), [id_of(&head)]);
        assert!(sent.map_or_else(|| is_ours(&id_of(&head)), |sent| sent == id_of(&head)));
    }
}

#[test]
fn answers_of_our_own_have_it() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("deny", r#"["DELETE /**"]"#);
    let sidecar = setup.start().ready();
    let asked = [
        (Request::get("/auth"), 403),
        (Request::new("HEAD", "/auth"), 403),
        (Request::new("DELETE", "/users"), 403),
        (Request::new("TRACE", "/users"), 405),
        (Request::get("/users").host("elsewhere.example"), 421),
        (Request::get("/_sim/reset-before?how=rst"), 502),
        (Request::new("OPTIONS", "/users").header("Max-Forwards", "0"), 200),
    ];
    for mut client in clients(&sidecar) {
        for (request, status) in &asked {
            for sent in [None, Some("mine-1")] {
                let answer = client.send(&request.clone().headers(sent.map(|id| ("X-Request-Id", id))));
                assert_eq!(answer.status, *status, "{answer:?}");
                let id = id_of(&answer);
                assert!(sent.map_or_else(|| is_ours(&id), |sent| sent == id), "{answer:?}");
                if !answer.body.is_empty() {
                    assert_eq!(answer.json()["request_id"], id);
                }
            }
        }
    }
}

#[test]
fn an_answers_trailer_of_that_name_does_not_pass() {
    let simulator = simulator();
    let chunked =
        "Transfer-Encoding: chunked\r\nTrailer: X-Request-Id, X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Request-Id: a\r\nX-Sum: 1\r\n\r\n";
    let upstream = RecordingUpstream::start(format!("HTTP/1.1 200 OK\r\n{chunked}"));
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    client.write(&Request::get("/users/account").header("TE", "trailers").header("X-Request-Id", "mine-1").head());
    let answer = String::from_utf8(client.read_until(b"\r\n0\r\n")).unwrap();
    let trailers = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
    let all = (answer + &trailers).to_lowercase();
    assert!(all.contains("x-sum: 1") && all.matches("x-request-id:").count() == 1, "{all}");
}
