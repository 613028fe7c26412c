//! Answers: what an upstream writes, and what a client of HTTP/1 and one of HTTP/2 get.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    rows::{Short, Text, bytes, fields, latin1, read, sorted},
    transcript,
};
use crate::harness::{
    Connection, Http2, PATIENCE, Request, Setup,
    hostile_http1::{Fault, Fields, StrictAnswer},
    scripted_upstream::{End, Line, ScriptedUpstream},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    /// The clause that decides: the number of an RFC and of its section.
    rfc: String,
    #[serde(default)]
    ask: Ask,
    /// What the upstream writes when it has read the request, or its head if `early`.
    says: Text,
    #[serde(default)]
    early: bool,
    /// What it does with its connection then.
    #[serde(default)]
    then: End,
    each: Option<String>,
    #[serde(default)]
    fill: BTreeMap<String, (String, usize)>,
    /// What the client gets.
    gets: Option<Gets>,
    /// The code of the problem that it gets instead.
    problem: Option<String>,
    /// Whether the next request goes out on the same connection.
    reused: Option<bool>,
    /// How often the request is sent.
    #[serde(default = "once")]
    asked: usize,
    /// Only a client of HTTP/1 can see it.
    #[serde(default)]
    http1_only: bool,
    /// Why this is not what the clause asks for.
    #[serde(rename = "deviates")]
    _deviates: Option<String>,
}

fn once() -> usize {
    1
}

/// What the client asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ask {
    method: String,
    version: String,
    fields: Vec<String>,
    body: String,
}

impl Default for Ask {
    fn default() -> Self {
        Self { method: "GET".to_owned(), version: "HTTP/1.1".to_owned(), fields: Vec::new(), body: String::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gets {
    status: u16,
    /// The reason phrase, if the row is about it.
    reason: Option<String>,
    /// The fields without those of framing, `Date` and the request's id.
    #[serde(default)]
    fields: Vec<String>,
    /// The value of `Content-Length`, if the row is about it. Empty: there is none.
    length: Option<String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    trailers: Vec<String>,
    /// The answer breaks off, and the client can see that.
    #[serde(default)]
    cut: bool,
}

/// What a client got.
#[derive(Default)]
struct Got {
    status: u16,
    reason: Option<String>,
    fields: Fields,
    body: Vec<u8>,
    trailers: Fields,
    cut: bool,
    bytes: Vec<u8>,
}

/// Plays a file of rows by a client of HTTP/1 and by one of HTTP/2, and after each row one more request that must be served.
pub fn play_answers(name: &str) -> Vec<String> {
    let (head, rows) = read::<Row>("answers", name);
    let upstream = ScriptedUpstream::start();
    let mut setup = Setup::plain(upstream.address());
    // Each row would be many lines of log.
    setup.variable("CAREPORTALS_WORKERS", "1").variable("CAREPORTALS_LOG", "info");
    for (key, value) in &head.settings {
        setup.api(key, value);
    }
    let mut sidecar = setup.start();
    let address = sidecar.address();
    let (mut faults, mut transcripts, mut played) = (Vec::new(), Vec::new(), 0);
    for row in &rows {
        assert!(!row.rfc.is_empty(), "{}: each row names a clause", row.case);
        let short = Short { each: row.each.clone(), fill: row.fill.clone() };
        for (number, octet) in short.octets().into_iter().enumerate() {
            let write = |text: &str| short.written_out(text, octet);
            let says = bytes(&write(&head.whole(&row.says)));
            for client in [Http::One, Http::Two] {
                // Each octet once is enough.
                if client == Http::Two && (row.http1_only || row.ask.version != "HTTP/1.1" || number > 0) {
                    continue;
                }
                played += 1;
                let target = format!("/case-{played:05}");
                upstream.learn(&target, Line { says: says.clone(), early: row.early, end: row.then });
                let found = play(row, client, &target, address, &upstream, &write, &mut transcripts);
                if !found.is_empty() {
                    let (case, rfc, said) = (&row.case, &row.rfc, shown(&says));
                    faults.push(format!("{case} (RFC {rfc}, {client:?}): {}\n    said: {said}", found.join("; ")));
                }
            }
        }
    }
    assert!(sidecar.stop().success());
    transcript::write("answers", name, &transcripts);
    faults
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Http {
    One,
    Two,
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().chars().take(500).collect()
}

/// Plays a row to one client, and returns its faults.
fn play(
    row: &Row,
    client: Http,
    target: &str,
    sidecar: SocketAddr,
    upstream: &ScriptedUpstream,
    write: &impl Fn(&str) -> String,
    transcripts: &mut Vec<Value>,
) -> Vec<String> {
    let got = match client {
        Http::One => over_http1(&row.ask, target, sidecar),
        Http::Two => over_http2(&row.ask, target, sidecar),
    };
    let mut faults = match &got {
        Err(why) => vec![why.clone()],
        Ok(got) => faults_of(row, client, got, write),
    };
    // A reset, which is how a client of HTTP/1.0 learns of a cut, is in no octets.
    let is_told = |gets: &&Gets| !(gets.cut && row.ask.version == "HTTP/1.0");
    if let (Ok(got), Http::One, Some(gets)) = (&got, client, row.gets.as_ref().filter(is_told)) {
        transcripts.push(json!({"case": row.case, "rfc": row.rfc, "method": row.ask.method, "bytes": latin1(&got.bytes),
            "status": gets.status, "fields": fields(gets.fields.iter().map(|line| write(line))),
            "body": latin1(&bytes(&write(&gets.body))), "trailers": fields(&gets.trailers), "cut": gets.cut}));
    }
    let probe = Request::get(&format!("{target}/probe")).header("Connection", "close");
    let probe = Connection::tcp(TcpStream::connect(sidecar).unwrap()).send(&probe);
    if (probe.status, probe.body.as_slice()) != (200, b"ok".as_slice()) {
        faults.push(format!("the next request got {probe:?}"));
    }
    let asked = upstream.connections_of(target);
    if asked.len() != row.asked {
        faults.push(format!("was asked {} times instead of {}", asked.len(), row.asked));
    }
    let reused = asked.last() == upstream.connections_of(&format!("{target}/probe")).first();
    if row.reused.is_some_and(|expected| expected != reused) {
        faults.push(format!("its connection is used again: {reused}"));
    }
    faults
}

fn faults_of(row: &Row, client: Http, got: &Got, write: &impl Fn(&str) -> String) -> Vec<String> {
    let mut faults = Vec::new();
    let mut compare = |what: &str, found: String, expected: String| {
        if found != expected {
            faults.push(format!("{what} {found} instead of {expected}"));
        }
    };
    if let Some(code) = &row.problem {
        let document: Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let told = format!("{} {}", got.status, document["code"]);
        let status = if code == "upstream_timeout" { 504 } else { 502 };
        compare("problem", told, format!("{status} \"{code}\""));
        return faults;
    }
    let gets = row.gets.as_ref().expect("what the client gets");
    compare("status", got.status.to_string(), gets.status.to_string());
    compare("cut", got.cut.to_string(), gets.cut.to_string());
    let not_the_upstreams = ["content-length", "transfer-encoding", "connection", "date", "x-request-id"];
    let told = got.fields.iter().filter(|(name, _)| !not_the_upstreams.contains(&name.as_str())).cloned().collect();
    compare("fields", format!("{:?}", sorted(told)), format!("{:?}", fields(gets.fields.iter().map(|line| write(line)))));
    if let (Some(expected), Some(found)) = (&gets.reason, &got.reason) {
        compare("reason", format!("{found:?}"), format!("{expected:?}"));
    }
    if let (Some(expected), Http::One) = (&gets.length, client) {
        let lengths: Vec<&str> =
            got.fields.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value.as_str()).collect();
        compare("length", lengths.join(" and "), expected.clone());
    }
    if !gets.cut {
        compare("body", shown(&got.body), shown(&bytes(&write(&gets.body))));
        let asks_for_trailers = row.ask.fields.iter().any(|line| line.starts_with("TE: "));
        if client == Http::One || asks_for_trailers {
            let trailers = format!("{:?}", sorted(got.trailers.clone()));
            compare("trailers", trailers, format!("{:?}", fields(&gets.trailers)));
        }
    }
    faults
}

fn over_http1(ask: &Ask, target: &str, sidecar: SocketAddr) -> Result<Got, String> {
    let mut stream = TcpStream::connect(sidecar).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let Ask { method, version, fields, body } = ask;
    let lines: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {target} {version}\r\nHost: localhost\r\n{lines}{length}\r\n{body}");
    // One that is answered early may be cut off while it writes.
    let _ = stream.write_all(request.as_bytes());
    let (mut told, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let ended = match stream.read(&mut buffer) {
            Ok(0) => Some("closed"),
            Ok(read) => {
                told.extend_from_slice(&buffer[..read]);
                None
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some("reset"),
            Err(error) => return Err(format!("{error} after {}", shown(&told))),
        };
        match last_answer(&told, method, ended.is_some()) {
            // RFC 9112, 8: the end of a connection that ends an answer is an orderly one.
            Ok(answer) if answer.close_delimited && ended == Some("reset") => return Ok(Got::cut(told)),
            Ok(answer) => return Ok(Got::whole(answer, told)),
            Err(Fault::Unfinished) if ended.is_none() => {}
            Err(Fault::Unfinished) => return Ok(Got::cut(told)),
            Err(fault) => return Err(format!("{fault:?} in {}", shown(&told))),
        }
    }
}

/// The answer after interim ones.
fn last_answer(mut told: &[u8], method: &str, ended: bool) -> Result<StrictAnswer, Fault> {
    loop {
        let answer = StrictAnswer::read(told, method, ended)?;
        if answer.status >= 200 {
            return Ok(answer);
        }
        told = &told[answer.end..];
    }
}

impl Got {
    fn whole(answer: StrictAnswer, bytes: Vec<u8>) -> Self {
        let StrictAnswer { status, reason, fields, body, trailers, .. } = answer;
        Self { status, reason: Some(reason), fields, body, trailers, cut: false, bytes }
    }

    /// Of an answer that breaks off the head is read, if it is there.
    fn cut(bytes: Vec<u8>) -> Self {
        let head = StrictAnswer::read(&bytes, "HEAD", true);
        let (status, fields) = head.map_or((0, Vec::new()), |head| (head.status, head.fields));
        Self { status, fields, cut: true, bytes, ..Self::default() }
    }
}

fn over_http2(ask: &Ask, target: &str, sidecar: SocketAddr) -> Result<Got, String> {
    let mut request = Request::new(&ask.method, target);
    for line in ask.fields.iter().filter(|line| !line.starts_with("Connection: ") && !line.starts_with("Expect: ")) {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(&name.to_lowercase(), value);
    }
    if !ask.body.is_empty() {
        request = request.body(ask.body.as_bytes());
    }
    let answer = Http2::connect(sidecar).send(&request);
    let of_connections = ["connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection"];
    if let Some((name, _)) = answer.headers.iter().find(|(name, _)| of_connections.contains(&name.as_str())) {
        return Err(format!("{name} over HTTP/2"));
    }
    let (status, fields, body, trailers, cut) = (answer.status, answer.headers, answer.body, answer.trailers, answer.cut);
    Ok(Got { status, reason: None, fields, body, trailers, cut, bytes: Vec::new() })
}
