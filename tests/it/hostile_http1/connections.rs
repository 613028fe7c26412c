//! Several requests on one connection, requests inside others, ends that come too early, and other protocols.

use crate::harness::hostile_http1::{Case, Client, Fate, Fate::*, Stage, play, play_slowly};

fn as_is((fate, text): &(Fate, &str)) -> Case {
    (*fate, (*text).to_owned())
}

/// Requests that hide in others, or follow where none is allowed.
const DESYNC: &[(Fate, &str)] = &[
    // CL.0: the body looks like a request.
    (
        Passes,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (
        Passes,
        "GET /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (
        Passes,
        "HEADX /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (
        Passes,
        "DELETE /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (
        Passes,
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nX-Case: CASE\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (Last, "GET /CASE HTTP/1.0\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12"),
    // What looks like a chunked body's end is the body.
    (
        Passes,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 51\r\n\r\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12",
    ),
    (
        Passes,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12\r\n0\r\n\r\n",
    ),
    // CL.TE, TE.CL, TE.TE.
    (
        Last,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 48\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        Last,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2e\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12\r\n0\r\n\r\n",
    ),
    (
        Closed(400),
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n5c\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n0\r\n\r\n",
    ),
    (
        Closed(400),
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        Closed(400),
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        Closed(400),
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (Closed(400), "GET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\nX: y\r\n GET /CASE/smuggled HTTP/1.1\r\n\r\n"),
    // HTTP/1.0 has no connection to go on with, whatever follows.
    (Last, "GET /CASE HTTP/1.0\r\nHost: localhost\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (
        Last,
        "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        Last,
        "GET /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nConnection: keep-alive\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        Last,
        "POST /CASE HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfive!GET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
];

const PIPELINES: &[(Fate, &str)] = &[
    (Each(2), "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /CASE/2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (Each(2), "GET /CASE/1 HTTP/1.1\nHost: localhost\n\nGET /CASE/2 HTTP/1.1\nHost: localhost\n\n"),
    (Each(2), "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n\r\nGET /CASE/2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (
        Each(3),
        "POST /CASE/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nAuthorization: forged\r\n\r\nfive!\
         POST /CASE/2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\norganization: forged\r\n\r\n5\r\nfive!\r\n0\r\nAuthorization: forged\r\n\r\n\
         GET /CASE/3 HTTP/1.1\r\nHost: localhost\r\nConnection: authorization\r\n\r\n",
    ),
    (
        EachThenClosed(1, 400),
        "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\n\0GET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        EachThenClosed(1, 400),
        "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\n GET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        EachThenClosed(1, 400),
        "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\nfive!GET /CASE/smuggled HTTP/1.1 \r\nHost: localhost\r\n\r\n",
    ),
    (
        EachThenClosed(1, 400),
        "POST /CASE/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nfive!\x01\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        EachThenClosed(2, 400),
        "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /CASE/2 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\nx",
    ),
    (
        EachThenClosed(1, 400),
        "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (EachThenClosed(1, 400), "GET /CASE/1 HTTP/1.1\r\nHost: localhost\r\n\r\n\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n"),
];

/// The client writes this much of a head, and ends.
const CUT_HEADS: &[&str] = &[
    "",
    "G",
    "GET",
    "GET ",
    "GET /CASE",
    "GET /CASE HTTP/1.1",
    "GET /CASE HTTP/1.1\r",
    "GET /CASE HTTP/1.1\r\n",
    "GET /CASE HTTP/1.1\r\nHost",
    "GET /CASE HTTP/1.1\r\nHost: localhost",
    "GET /CASE HTTP/1.1\r\nHost: localhost\r",
    "GET /CASE HTTP/1.1\r\nHost: localhost\r\n",
    "GET /CASE HTTP/1.1\r\nHost: localhost\r\n\r",
    "GET /CASE HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer forged\r\n",
    "\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
    "PRI * HTTP/2.0",
    "P",
];

const CUT_BODIES: &[&str] = &[
    "Content-Length: 5\r\n\r\n",
    "Content-Length: 5\r\n\r\nfive",
    "Content-Length: 9223372036854775807\r\n\r\nfive!",
    "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5",
    "Transfer-Encoding: chunked\r\n\r\n5\r",
    "Transfer-Encoding: chunked\r\n\r\n5\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n0",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n0\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n0\r\n\r",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n0\r\nX-A: b",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n0\r\nX-A: b\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5;a=b",
    "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nfive!",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nfive!",
];

const OTHER_PROTOCOLS: &[(Fate, &str)] = &[
    // TLS, of an app that was told https.
    (Closed(400), "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03CASE\r\n\r\n"),
    (Closed(400), "\u{80}\x2e\x01\x03\x01CASE"),
    // HTTP/2's preface, and what nearly is it.
    (Refused(400), "PRI * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (Closed(400), "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"),
    (Closed(400), "PRI * HTTP/2.0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (Closed(400), "PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    (Closed(400), "PRI /CASE HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (Closed(400), "pri * http/2.0\r\n\r\nsm\r\n\r\n"),
    // PROXY protocol, SSH, SMTP, Redis, SOCKS, memcached, a status line, RTSP, SIP.
    (Closed(400), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (Closed(400), "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0cCASE"),
    (Closed(400), "SSH-2.0-CASE\r\n"),
    (Closed(400), "EHLO CASE\r\n"),
    (Closed(400), "*1\r\n$4\r\nPING\r\n"),
    (Closed(400), "\x05\x01\0CASE"),
    (Closed(400), "\x04\x01\0\x50\x7f\0\0\x01CASE\0"),
    (Closed(400), "stats CASE\r\n"),
    (Closed(400), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    (Closed(400), "DESCRIBE /CASE RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
    (Closed(400), "INVITE sip:CASE@localhost SIP/2.0\r\n\r\n"),
    (Closed(400), "{\"CASE\": 1}\r\n"),
    (Closed(400), "\u{ff}\u{fe}G\0E\0T\0 \0CASE"),
];

#[test]
fn a_request_inside_another_ones_body_is_never_served() {
    play(DESYNC.iter().map(as_is));
    play_slowly(DESYNC.iter().map(as_is));
}

#[test]
fn pipelined_requests_arrive_one_by_one_and_nothing_between_them_does() {
    let many: String = (0..200).map(|number| format!("GET /CASE/{number} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    let mixed =
        "POST /auth HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: x\r\n\r\n12";
    play_slowly(PIPELINES.iter().map(as_is));
    // Refused without a word where the whole preface comes at once, else by a 400.
    let late = "GET /CASE HTTP/1.1\r\nHost: localhost\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned();
    let more = [(Each(200), many), (Refused(403), mixed.to_owned()), (Last, late)];
    play(PIPELINES.iter().map(as_is).chain(more));
}

#[test]
fn a_head_that_is_cut_reaches_nobody() {
    // A client that hangs up in a head is told what it is, or nothing.
    Stage::new(|_| ()).play(Client::Ending, CUT_HEADS.iter().map(|text| (Broken, (*text).to_owned())));
}

#[test]
fn a_body_that_is_cut_stays_incomplete() {
    let cut = |rest: &&str| (Broken, format!("POST /CASE HTTP/1.1\r\nHost: localhost\r\n{rest}"));
    Stage::new(|_| ()).play(Client::Ending, CUT_BODIES.iter().map(cut));
}

#[test]
fn another_protocol_is_refused() {
    play(OTHER_PROTOCOLS.iter().map(as_is));
}
