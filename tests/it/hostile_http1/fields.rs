//! What a client may try with headers that are well formed: `Host`, our own names, hop-by-hop fields, `Expect`, `Upgrade`.

use crate::harness::hostile_http1::{Case, Fate, Fate::*, play};

fn get((fate, lines): &(Fate, &str)) -> Case {
    (*fate, format!("GET /CASE HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"))
}

fn post((fate, lines): &(Fate, &str)) -> Case {
    (*fate, format!("POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n{lines}\r\n\r\nfive!"))
}

const HOSTS: &[(Fate, &str)] = &[
    (Refused(400), "X-A: b"),
    (Refused(400), "Host: localhost\r\nHost: localhost"),
    (Refused(400), "Host: localhost\r\nhost: elsewhere.example.test"),
    (Refused(400), "Host: elsewhere.example.test\r\nX-A: b\r\nHOST: localhost"),
    (Refused(421), "Host:"),
    (Refused(421), "Host: localhost, elsewhere.example.test"),
    (Refused(421), "Host: localhost elsewhere.example.test"),
    (Refused(421), "Host: elsewhere.example.test#localhost"),
    (Refused(421), "Host: localhost@elsewhere.example.test"),
    (Refused(421), "Host: elsewhere.example.test@localhost"),
    (Refused(421), "Host: http://localhost"),
    (Refused(421), "Host: localhost/"),
    (Refused(421), "Host: localhost\\"),
    (Refused(421), "Host: localhost."),
    (Refused(421), "Host: localhost%00"),
    (Refused(421), "Host: localhost\u{e9}"),
    (Refused(421), "Host: [::1]elsewhere"),
    (Refused(421), "Host: [::1"),
    (Refused(421), "Host: [::ffff:127.0.0.1]"),
    (Refused(421), "Host: 127.0.0.1:80:80"),
    (Refused(421), "Host: 127.0.0.1:-1"),
    (Refused(421), "Host: 127.0.0.1:99999"),
    (Refused(421), "Host: 0177.0.0.1"),
    (Refused(421), "Host: localhost\tx"),
    (Closed(400), "Host : localhost"),
    (Closed(400), "Host\t: localhost"),
    (Passes, "Host:localhost"),
    (Passes, "hOsT: \t LOCALHOST \t"),
    (Passes, "Host: localhost\r\nX-Host: elsewhere.example.test\r\nX-Forwarded-Host: elsewhere.example.test"),
];

const OURS: &[(Fate, &str)] = &[
    (Passes, "Authorization: Bearer forged"),
    (Passes, "AUTHORIZATION: Basic Zm9yZ2Vk\r\nauthorization: Bearer forged"),
    (Passes, "Authorization:"),
    (Passes, "organization: forged\r\nOrganization: other"),
    (Passes, "ORGANIZATION:\tforged"),
    (Passes, "Authorization: Bearer forged\r\nConnection: authorization"),
    (Passes, "Connection: authorization, organization, host, content-length, transfer-encoding"),
    (Last, "Connection: authorization, organization, host, content-length, close"),
    (Passes, "Connection: Authorization\r\nConnection: ORGANIZATION\r\nConnection: Host"),
    (Passes, "Connection: ,,authorization;q=1,\"organization\",\thost ,"),
    (Passes, "Connection: te, trailer, upgrade, connection"),
    (Passes, "Proxy-Authorization: Basic Zm9yZ2Vk\r\nProxy_Authorization: Basic Zm9yZ2Vk"),
    (Passes, "Proxy-Connection: keep-alive\r\nProxy: http://elsewhere.example.test\r\nProxy-X: y"),
    (Passes, "X_Real_IP: 192.0.2.1\r\nX-Real_IP: 192.0.2.1\r\nx-real-ip: 192.0.2.1"),
    (Passes, "X_Forwarded_For: 192.0.2.1\r\nX-Forwarded_Host: x\r\nX_Forwarded-Proto: https"),
    (Passes, "Forwarded: for=192.0.2.1;host=elsewhere.example.test"),
    (Passes, "Cookie: a=b\r\nCookie: c=d\r\nCookie2: e"),
    (Passes, "Origin: http://localhost"),
    (Passes, "Keep-Alive: timeout=5\r\nKeep_Alive: timeout=5"),
    (Passes, "Transfer_Encoding: chunked"),
    (Passes, "Content_Length: 50"),
    (Passes, "X-Request-Id: a b\r\nX_Request_Id: CASE"),
    (Refused(403), "Origin: http://localhost\r\nOrigin: http://localhost"),
    (Refused(403), "Origin: http://localhost\r\nSec-Fetch-Site: cross-site"),
    (Closed(400), "Authorization : Bearer forged"),
    (Closed(400), "Organization\t: forged"),
    (Closed(400), "Authorization\0: Bearer forged"),
    (Closed(400), "Authorization: Bearer forged\0"),
    (Closed(400), "X-A: b\r\n\tAuthorization: Bearer forged"),
];

const EXPECTATIONS: &[(Fate, &str)] = &[
    (Passes, "Expect: 100-continue"),
    (Passes, "Expect: 100-CONTINUE\r\nExpect: 100-continue"),
    (Refused(417), "Expect: 100-continue, 100-continue"),
    (Refused(417), "Expect: 200-ok"),
    (Refused(417), "Expect:"),
    (Refused(417), "Expect: 100-continue;a=b"),
    (Refused(417), "Expect: 100-continue\r\nExpect: nothing"),
    (Passes, "Connection: expect\r\nExpect: 100-continue"),
];

const UPGRADES: &[(Fate, &str)] = &[
    (Passes, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    (Passes, "Connection: Upgrade\r\nUpgrade: h2c, websocket"),
    (Passes, "Connection: Upgrade\r\nUpgrade: websocket, h2c"),
    (Passes, "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"),
    (Passes, "Connection: Upgrade\r\nUpgrade: websocket/13"),
    (Passes, "Connection: Upgrade\r\nUpgrade: TLS/1.0"),
    (Passes, "Connection: Upgrade\r\nUpgrade: PRI"),
    (Passes, "Upgrade: websocket"),
    (Passes, "Connection: upgraded\r\nUpgrade: websocket"),
    (Passes, "Connection: Upgrade"),
    (Passes, "Connection: Upgrade\r\nUpgrade:"),
    (Passes, "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    (Passes, "TE: trailers, deflate;q=0.5\r\nConnection: TE"),
    (Passes, "TE: chunked"),
    (Passes, "TE: trailers;q=1"),
    (Passes, "Trailer: Authorization, Organization, Content-Length"),
];

/// A request with a body, of another method, or in HTTP/1.0 is no upgrade; its body stays its body, whatever it looks like.
#[test]
fn an_upgrade_that_opens_no_tunnel_is_an_ordinary_request() {
    let more = [
        (
            Passes,
            "POST /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 42\r\n\r\n\
             GET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n",
        ),
        (
            Passes,
            "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 42\r\n\r\n\
             GET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n",
        ),
        (
            Passes,
            "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nfive!\r\n0\r\n\r\n",
        ),
        (Last, "GET /CASE HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        (
            Passes,
            "PUT /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        ),
        // Upstream does not agree, so what follows at once is the next request.
        (Passes, "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"),
        (Closed(400), "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: web\r\n socket\r\n\r\n"),
    ];
    play(UPGRADES.iter().map(get).chain(more.iter().map(|(fate, text)| (*fate, (*text).to_owned()))));
}

#[test]
fn a_host_that_can_be_read_in_two_ways_is_refused() {
    play(HOSTS.iter().map(|(fate, lines)| (*fate, format!("GET /CASE HTTP/1.1\r\n{lines}\r\n\r\n"))));
}

#[test]
fn headers_that_the_sidecar_owns_never_arrive_from_a_client() {
    play(OURS.iter().map(get));
}

#[test]
fn headers_that_the_sidecar_owns_never_arrive_beside_a_body_either() {
    play(OURS.iter().map(post));
}

#[test]
fn an_expectation_other_than_100_continue_is_a_417() {
    play(EXPECTATIONS.iter().map(post));
}
