//! Request lines, versions, the shape of header lines, and heads that are too large.

use crate::harness::hostile_http1::{Case, Client, Fate, Fate::*, Stage, play};

fn with_line((fate, line): &(Fate, &str)) -> Case {
    (*fate, format!("{line}\r\nHost: localhost\r\nX-Case: CASE\r\n\r\n"))
}

fn with_fields((fate, lines): &(Fate, &str)) -> Case {
    (*fate, format!("GET /CASE HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"))
}

const LINES: &[(Fate, &str)] = &[
    (Closed(400), "GET  /CASE HTTP/1.1"),
    (Closed(400), "GET /CASE  HTTP/1.1"),
    (Closed(400), "GET /CASE HTTP/1.1 "),
    (Closed(400), " GET /CASE HTTP/1.1"),
    (Closed(400), "GET\t/CASE HTTP/1.1"),
    (Closed(400), "GET /CASE\tHTTP/1.1"),
    (Closed(400), "GET\x0b/CASE HTTP/1.1"),
    (Closed(400), "GET\u{a0}/CASE HTTP/1.1"),
    (Closed(400), "GET /CASE HTTP/1.1 HTTP/1.1"),
    (Closed(400), "GET /CASE HTTP/1.1, HTTP/1.1"),
    (Closed(400), "GET /CASE /smuggled HTTP/1.1"),
    (Closed(400), "GET /CASE"),
    (Closed(400), "GET"),
    (Closed(400), "/CASE HTTP/1.1"),
    (Closed(400), "GET HTTP/1.1"),
    (Closed(400), "GET /CASE\r\n HTTP/1.1"),
    (Closed(400), "GET\r\n /CASE HTTP/1.1"),
    (Closed(400), "GET /CASE\rHTTP/1.1"),
    (Closed(400), "GET /CASE HTTP/1.1\r"),
    (Closed(400), "GET /CASE HTTP/1.1\rX-Bare: cr"),
    (Closed(400), "GET /CASE\0 HTTP/1.1"),
    (Closed(400), "G\0ET /CASE HTTP/1.1"),
    (Closed(400), "GE(T /CASE HTTP/1.1"),
    (Closed(400), "GET: /CASE HTTP/1.1"),
    (Closed(400), "\"GET\" /CASE HTTP/1.1"),
    (Closed(400), "\u{80}GET /CASE HTTP/1.1"),
    (Closed(400), "\u{ef}\u{bb}\u{bf}GET /CASE HTTP/1.1"),
    (Closed(400), "\r\r\nGET /CASE HTTP/1.1"),
    (Closed(400), "\0GET /CASE HTTP/1.1"),
    // RFC 9112, 2.2: empty lines before a request are forgiven; they are not passed on.
    (Passes, "\r\nGET /CASE HTTP/1.1"),
    (Passes, "\n\n\r\nGET /CASE HTTP/1.1"),
    (Passes, "get /CASE HTTP/1.1"),
    (Passes, "!#$%&'*+-.^_`|~ /CASE HTTP/1.1"),
];

const VERSIONS: &[(Fate, &str)] = &[
    (Last, "GET /CASE HTTP/1.0"),
    (Closed(400), "GET /CASE HTTP/0.9"),
    (Closed(400), "GET /CASE HTTP/1.2"),
    (Closed(400), "GET /CASE HTTP/2.0"),
    (Closed(400), "GET /CASE HTTP/2"),
    (Closed(400), "GET /CASE HTTP/3.0"),
    (Closed(400), "GET /CASE HTTP/1.10"),
    (Closed(400), "GET /CASE HTTP/01.1"),
    (Closed(400), "GET /CASE HTTP/1.01"),
    (Closed(400), "GET /CASE HTTP/1."),
    (Closed(400), "GET /CASE HTTP/.1"),
    (Closed(400), "GET /CASE HTTP/1,1"),
    (Closed(400), "GET /CASE HTTP/1.1x"),
    (Closed(400), "GET /CASE HTTP/-1.1"),
    (Closed(400), "GET /CASE HTTP /1.1"),
    (Closed(400), "GET /CASE HTTP/ 1.1"),
    (Closed(400), "GET /CASE http/1.1"),
    (Closed(400), "GET /CASE HTTPS/1.1"),
    (Closed(400), "GET /CASE ICY/1.1"),
    (Closed(400), "GET /CASE HTTP/1.\u{b1}"),
];

const NAMES: &[(Fate, &str)] = &[
    (Closed(400), "X-Space : a"),
    (Closed(400), "X-Tab\t: a"),
    (Closed(400), "X Inner: a"),
    (Closed(400), ": no name"),
    (Closed(400), " : no name"),
    (Closed(400), "no colon"),
    (Closed(400), "=: a"),
    (Closed(400), "X(paren): a"),
    (Closed(400), "X/slash: a"),
    (Closed(400), "X@at: a"),
    (Closed(400), "\"X\": a"),
    (Closed(400), "X[0]: a"),
    (Closed(400), "X\\y: a"),
    (Closed(400), "X-Nul\0: a"),
    (Closed(400), "\0: a"),
    (Closed(400), "X-Del\x7f: a"),
    (Closed(400), "X-Caf\u{e9}: a"),
    (Closed(400), "X-Bare\rCr: a"),
    (Closed(400), "\x0bX-Vertical: a"),
    (Closed(400), "\u{a0}X-No-Break: a"),
    (Closed(400), "\tX-First: is folded"),
    (Closed(400), " Authorization: is folded"),
    (Closed(400), "Content-Length\0: 5"),
    (Closed(400), "Transfer-Encoding\x01: chunked"),
    (Passes, "!#$%&'*+-.^_`|~0: a"),
    (Passes, "X-Tight:a"),
    (Passes, "X-Colons::::"),
];

const VALUES: &[(Fate, &str)] = &[
    (Closed(400), "X-Nul: a\0b"),
    (Closed(400), "X-Bare-Cr: a\rb"),
    (Closed(400), "X-Bare-Cr: a\r"),
    (Closed(400), "X-Bare-Cr: \rAuthorization: Bearer forged"),
    (Closed(400), "X-Del: a\x7fb"),
    (Closed(400), "X-Escape: a\x1bb"),
    (Closed(400), "X-Vertical: a\x0bb"),
    (Closed(400), "X-Form-Feed: a\x0cb"),
    (Closed(400), "X-Fold: a\r\n b"),
    (Closed(400), "X-Fold: a\r\n\tb"),
    (Closed(400), "X-Fold: a\n b"),
    (Closed(400), "X-Fold:\r\n a"),
    (Closed(400), "X-Fold: a\r\n \r\n b"),
    (Closed(400), "X-Fold: a\r\n Authorization: Bearer forged"),
    (Closed(400), "Authorization: Bearer\r\n forged"),
    (Closed(400), "Host:\r\n localhost"),
    (Closed(400), "Transfer-Encoding:\r\n chunked"),
    (Closed(400), "Content-Length:\r\n 5"),
    // A bare LF ends a line (RFC 9112, 2.2 allows that); it goes out as CRLF, and what it may hide is judged like any header.
    (Passes, "X-Lf: a\nX-Other: b"),
    (Passes, "X-Lf: a\nAuthorization: Bearer forged"),
    (Passes, "X-Lf: a\nOrganization: forged"),
    (Refused(400), "X-Lf: a\nHost: elsewhere.example.test"),
    (Closed(400), "X-Lf: a\nTransfer-Encoding: identity"),
    (Passes, "X-High: \u{80}\u{ff}"),
    (Passes, "X-Tab:\ta\tb\t"),
    (Passes, "X-Empty:"),
];

const BARE_LINE_ENDS: &[(Fate, &str)] = &[
    (Passes, "GET /CASE HTTP/1.1\nHost: localhost\n\n"),
    (Passes, "GET /CASE HTTP/1.1\nHost: localhost\r\n\n"),
    (Passes, "GET /CASE HTTP/1.1\r\nHost: localhost\n\r\n"),
    (Passes, "POST /CASE HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nfive!"),
    (Closed(400), "GET /CASE HTTP/1.1\rHost: localhost\r\r"),
    (Closed(400), "GET /CASE HTTP/1.1\r\nHost: localhost\r\r\n\r\n"),
    (Closed(400), "GET /CASE HTTP/1.1\r\nHost: localhost\r\n\r\r\n"),
    (Closed(400), "GET /CASE HTTP/1.1\r\nHost: localhost\n\rX: y\r\n\r\n"),
    (Closed(400), "GET /CASE HTTP/1.1\r\nHost: localhost\r\n\rGET /CASE/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
];

#[test]
fn a_request_line_is_read_in_one_way_or_refused() {
    play(LINES.iter().map(with_line));
}

#[test]
fn a_version_other_than_http_1_0_and_1_1_is_refused() {
    play(VERSIONS.iter().map(with_line));
}

#[test]
fn a_header_name_with_a_forbidden_byte_is_refused() {
    play(NAMES.iter().map(with_fields));
}

#[test]
fn a_header_value_with_a_control_byte_is_refused() {
    play(VALUES.iter().map(with_fields));
}

#[test]
fn a_line_that_ends_oddly_hides_no_second_line() {
    play(BARE_LINE_ENDS.iter().map(|(fate, text)| (*fate, (*text).to_owned())));
}

#[test]
fn a_head_over_the_limits_is_refused() {
    let stage = Stage::new(|setup| {
        setup.api("max_header_bytes", "9KiB").api("max_headers", "20");
    });
    let get = |lines: &str| format!("GET /CASE HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let many = |count: usize| get(&"X-A: b\r\n".repeat(count));
    let long = |bytes: usize| get(&format!("X-Long: {}\r\n", "v".repeat(bytes)));
    let cases = [
        (Passes, many(19)),
        (Closed(431), many(20)),
        (Closed(431), many(1000)),
        (Passes, long(9000)),
        (Closed(431), long(9300)),
        (Closed(431), long(200_000)),
        (Closed(431), get(&format!("{}: a\r\n", "N".repeat(9300)))),
        (Closed(431), get(&format!("X-Blank: {}\r\n", " ".repeat(9300)))),
        (Closed(431), get(&format!("Authorization: Bearer {}\r\n", "f".repeat(9300)))),
        (Closed(431), format!("GET /CASE?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "q".repeat(9300))),
        // Endless: no line end ever comes.
        (Closed(431), format!("GET /CASE{}", "a".repeat(100_000))),
        (Closed(431), format!("GET /CASE HTTP/1.1\r\nX-Endless: {}", "a".repeat(100_000))),
        (Closed(431), format!("GET /CASE HTTP/1.1\r\n{}", "N".repeat(100_000))),
        (Closed(431), "A".repeat(100_000)),
        (Passes, format!("{} /CASE HTTP/1.1\r\nHost: localhost\r\n\r\n", "M".repeat(1000))),
        // Over the limit together, although neither is alone.
        (Closed(431), format!("GET /CASE?{} HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "q".repeat(5000), "v".repeat(5000))),
        (EachThenClosed(1, 431), format!("{}{}", many(3), long(9300))),
        (EachThenClosed(2, 431), format!("{}{}{}", many(3), long(9000), many(30))),
    ];
    stage.play(Client::InOnePiece, cases);
}
