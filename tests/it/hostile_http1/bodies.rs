//! Where a body ends: lengths, transfer codings, chunks and trailers.

use crate::harness::hostile_http1::{Case, Fate, Fate::*, play, play_slowly};

/// Five bytes follow, and then what would be a request of its own if they were not the body.
fn counted((fate, lines): &(Fate, &str)) -> Case {
    (*fate, format!("POST /CASE HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\nfive!"))
}

fn coded((fate, lines): &(Fate, &str)) -> Case {
    (*fate, format!("POST /CASE HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n5\r\nfive!\r\n0\r\n\r\n"))
}

fn chunked((fate, body): &(Fate, &str)) -> Case {
    (*fate, format!("POST /CASE HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
}

const LENGTHS: &[(Fate, &str)] = &[
    (Passes, "Content-Length: 5"),
    (Passes, "Content-Length: 00000000000000000005"),
    (Passes, "Content-Length:\t5\t"),
    (Passes, "Content-Length: 5\r\nContent-Length: 5"),
    (Passes, "content-length: 5\r\nX-A: b\r\nCONTENT-LENGTH: 05"),
    (Passes, "Content-Length: 5\r\nConnection: content-length"),
    (Passes, "Content-Length: 5\r\nContent_Length: 50"),
    (Closed(400), "Content-Length: 5\r\nContent-Length: 6"),
    (Closed(400), "Content-Length: 0\r\nContent-Length: 5"),
    (Closed(400), "Content-Length: 5, 5"),
    (Closed(400), "Content-Length: 5,"),
    (Closed(400), "Content-Length: ,5"),
    (Closed(400), "Content-Length: +5"),
    (Closed(400), "Content-Length: -5"),
    (Closed(400), "Content-Length: -0"),
    (Closed(400), "Content-Length: 0x5"),
    (Closed(400), "Content-Length: 5h"),
    (Passes, "Content-Length: 5 "),
    (Closed(400), "Content-Length: 5\t5"),
    (Closed(400), "Content-Length: 5.0"),
    (Closed(400), "Content-Length: 5e0"),
    (Closed(400), "Content-Length: 1_0"),
    (Closed(400), "Content-Length: \"5\""),
    (Closed(400), "Content-Length: five"),
    (Closed(400), "Content-Length: \u{b2}"),
    (Closed(400), "Content-Length: \x0b5"),
    (Closed(400), "Content-Length:"),
    // More than the parser can count to.
    (Closed(431), "Content-Length: 18446744073709551615"),
    (Closed(400), "Content-Length: 18446744073709551616"),
    (Closed(400), "Content-Length: 18446744073709551621"),
    (Closed(400), "Content-Length: 99999999999999999999999999999999"),
    (Closed(400), "Content-Length : 5"),
    (Closed(400), "Content-Length\r\n : 5"),
    (Closed(400), " Content-Length: 5"),
];

const CODINGS: &[(Fate, &str)] = &[
    (Passes, "Transfer-Encoding: chunked"),
    (Passes, "transfer-encoding:\tChUnKeD\t"),
    (Passes, "Transfer-Encoding: chunked\r\nConnection: transfer-encoding"),
    (Closed(400), "Transfer-Encoding: chunked, chunked"),
    (Closed(400), "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    (Closed(400), "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    (Closed(400), "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    (Closed(400), "Transfer-Encoding: chunked\r\ntransfer-encoding: x"),
    (Closed(400), "Transfer-Encoding: identity"),
    (Closed(400), "Transfer-Encoding: identity, chunked"),
    (Closed(400), "Transfer-Encoding: gzip, chunked"),
    (Closed(400), "Transfer-Encoding: chunked, gzip"),
    (Closed(400), "Transfer-Encoding: xchunked"),
    (Closed(400), "Transfer-Encoding: chunkedx"),
    (Closed(400), "Transfer-Encoding: chunke"),
    (Closed(400), "Transfer-Encoding: chun ked"),
    (Closed(400), "Transfer-Encoding: \"chunked\""),
    (Closed(400), "Transfer-Encoding: 'chunked'"),
    (Closed(400), "Transfer-Encoding: chunked;q=1"),
    (Closed(400), "Transfer-Encoding: chunked;"),
    (Closed(400), "Transfer-Encoding: ,chunked"),
    (Closed(400), "Transfer-Encoding: chunked,"),
    (Closed(400), "Transfer-Encoding: x chunked"),
    (Closed(400), "Transfer-Encoding: \x0bchunked"),
    (Closed(400), "Transfer-Encoding: \x0cchunked"),
    (Closed(400), "Transfer-Encoding: \u{a0}chunked"),
    (Closed(400), "Transfer-Encoding: chunked\0"),
    (Closed(400), "Transfer-Encoding:"),
    (Closed(400), "Transfer-Encoding: none"),
    (Closed(400), "Transfer-Encoding : chunked"),
    (Closed(400), "Transfer-Encoding\t: chunked"),
    (Closed(400), " Transfer-Encoding: chunked"),
    (Closed(400), "X-A: b\r\n\tTransfer-Encoding: chunked"),
    (Closed(400), "Transfer-Encoding\x0b: chunked"),
    // RFC 9112, 6.3: the coding counts, the connection ends.
    (Last, "Content-Length: 3\r\nTransfer-Encoding: chunked"),
    (Last, "Transfer-Encoding: chunked\r\nContent-Length: 3"),
    (Last, "Content-Length: 0\r\nX-A: b\r\nTransfer-Encoding: CHUNKED"),
    (Last, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nContent-Length: 4"),
    (Closed(400), "Content-Length: 3\r\nContent-Length: 4\r\nTransfer-Encoding: chunked"),
    (Closed(400), "Content-Length: x\r\nTransfer-Encoding: chunked"),
    (Closed(400), "Content-Length: 3\r\nTransfer-Encoding: xchunked"),
    (Closed(400), "Transfer-Encoding: identity\r\nContent-Length: 3"),
    (Closed(400), "Transfer-Encoding:\r\nContent-Length: 3"),
];

const CHUNKS: &[(Fate, &str)] = &[
    (Passes, "0\r\n\r\n"),
    (Passes, "00000000000000005\r\nfive!\r\n0000\r\n\r\n"),
    (Passes, "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
    (Passes, "5 \t\r\nfive!\r\n0 \r\n\r\n"),
    (Passes, "5;a=b;c=\"d\"\r\nfive!\r\n0;e\r\n\r\n"),
    (Passes, "5;a=\"\\\"\r\nfive!\r\n0\r\n\r\n"),
    (Passes, "5;;;==\u{ff}\0\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "\r\nfive!\r\n0\r\n\r\n"),
    (Broken, " 5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "+5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "-5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "0x5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5h\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "g\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5 5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5,5\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5_0\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "\u{b5}\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5\0\r\nfive!\r\n0\r\n\r\n"),
    (Broken, ";a=b\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "fffffffffffffffff\r\nfive!"),
    (Broken, "10000000000000005\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5\nfive!\r\n0\r\n\r\n"),
    (Broken, "5\rfive!\r\n0\r\n\r\n"),
    (Broken, "5\r\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5\r\nfive!\n0\r\n\r\n"),
    (Broken, "5\r\nfive!0\r\n\r\n"),
    (Broken, "5\r\nfive!!\r\n0\r\n\r\n"),
    (Broken, "5\r\nfive!\rX0\r\n\r\n"),
    (Broken, "5\r\nfive!\r\r\n0\r\n\r\n"),
    (Broken, "4\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "6\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5\r\nfive!\r\n0\n\r\n"),
    (Broken, "5\r\nfive!\r\n0\r\n\rX"),
    (Broken, "5;a\nb\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5;a=\"\n0\r\n\r\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n\"\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "5;a\rb\r\nfive!\r\n0\r\n\r\n"),
    (Broken, "0;\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    // What follows the bare LF is read as trailers, up to their CRLF, and none of it passes.
    (Passes, "0\r\n\nGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
];

const TRAILERS: &[(Fate, &str)] = &[
    (Passes, "X-Checksum: 1"),
    (Passes, "Authorization: Bearer forged\r\nOrganization: forged"),
    (Passes, "AUTHORIZATION: x\r\nauthorization: y"),
    (Passes, "Host: elsewhere.example.test"),
    (Passes, "Content-Length: 500"),
    (Passes, "Transfer-Encoding: chunked\r\nTransfer_Encoding: chunked\r\nContent_Length: 9"),
    (Passes, "Connection: close\r\nUpgrade: h2c\r\nTE: x\r\nTrailer: x"),
    (Passes, "Cookie: a\r\nOrigin: b\r\nX-Forwarded-For: c\r\nX_Real_Ip: d\r\nProxy-Authorization: e\r\nX-Request-Id: f"),
    (Passes, "Expect: 100-continue\r\nForwarded: a\r\nKeep-Alive: b"),
    (Broken, "X-Fold: a\r\n Authorization: Bearer forged"),
    (Broken, "no colon"),
    (Broken, ": no name"),
    (Broken, "X-Space : a"),
    (Broken, "X-Nul: a\0"),
    (Broken, "X-Bare-Cr: a\rb"),
    (Broken, "X-Caf\u{e9}: a"),
    (Broken, "GET /CASE/smuggled HTTP/1.1\r\nHost: localhost"),
];

#[test]
fn a_content_length_is_read_in_one_way_or_refused() {
    play(LENGTHS.iter().map(counted));
}

#[test]
fn a_content_length_in_http_1_0_is_read_in_one_way_or_refused() {
    let old = |case: Case| (if case.0 == Passes { Last } else { case.0 }, case.1.replacen("HTTP/1.1", "HTTP/1.0", 1));
    play(LENGTHS.iter().map(counted).map(old));
}

#[test]
fn a_transfer_coding_other_than_chunked_is_refused() {
    play(CODINGS.iter().map(coded));
}

/// RFC 9112, 6.1: a server that gets one from such a client can't know where the body ends.
#[test]
fn a_transfer_coding_in_http_1_0_is_refused() {
    let old = |(_, text): Case| (Closed(400), text.replacen("HTTP/1.1", "HTTP/1.0", 1));
    play(CODINGS.iter().map(coded).map(old));
}

#[test]
fn chunks_are_read_in_one_way_or_the_body_stays_incomplete() {
    let extension = |bytes: usize| format!("5;{}\r\nfive!\r\n0\r\n\r\n", "x".repeat(bytes));
    let long = [(Passes, extension(10_000)), (Broken, extension(20_000)), (Broken, extension(200_000))];
    let long = long.iter().map(|(fate, body)| chunked(&(*fate, body)));
    // Small ones, but very many.
    let many = chunked(&(Passes, &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(5000))));
    play(CHUNKS.iter().map(chunked).chain(long).chain([many]));
    play_slowly(CHUNKS.iter().map(chunked));
}

#[test]
fn trailers_that_the_sidecar_owns_never_arrive() {
    // Only what is announced is sent on, so everything is.
    const ANNOUNCED: &str = "Trailer: X-Checksum, Authorization, Organization, Host, Content-Length, Content_Length, \
        Transfer-Encoding, Transfer_Encoding, Connection, Upgrade, TE, Trailer, Cookie, Origin, X-Forwarded-For, X_Real_Ip, \
        Proxy-Authorization, X-Request-Id, Expect, Forwarded, Keep-Alive, X";
    let trailers = |(fate, lines): &(Fate, &str)| {
        let (fate, text) = chunked(&(*fate, &format!("5\r\nfive!\r\n0\r\n{lines}\r\n\r\n")));
        (fate, text.replacen("\r\n\r\n", &format!("\r\n{ANNOUNCED}\r\n\r\n"), 1))
    };
    let many = trailers(&(Broken, &"X: y\r\n".repeat(300)));
    let long = trailers(&(Broken, &format!("X: {}", "y".repeat(70_000))));
    play(TRAILERS.iter().map(trailers).chain([many, long]));
    play_slowly(TRAILERS.iter().map(trailers));
}
