//! Requests: what a client writes, and what must reach the upstream.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use careportals_simulator::Simulator;
use serde::Deserialize;
use serde_json::json;

use super::{
    rows::{Head, Short, Text, bytes, fields, latin1, read, sorted},
    transcript,
};
use crate::harness::{
    ORGANIZATION, Setup, Sidecar,
    hostile_http1::{Client, Credentials, Fault, Fields, Recorder, Request, Seen, StrictAnswer, contains, told},
    simulator,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    /// The clause that decides: the number of an RFC and of its section.
    rfc: String,
    send: Text,
    each: Option<String>,
    #[serde(default)]
    fill: BTreeMap<String, (String, usize)>,
    /// The requests that reach the upstream.
    #[serde(default)]
    arrives: Vec<Arrival>,
    /// The status of a refusal, after the answers to what arrives.
    refused: Option<u16>,
    /// The body is broken: the beginning of one request may arrive, and its end never does. The client is told 400 or nothing.
    #[serde(default)]
    broken: bool,
    /// The connection ends after the last answer.
    #[serde(default)]
    closes: bool,
    /// The client ends its side after its text.
    #[serde(default)]
    ends: bool,
    /// Why this is not what the clause asks for.
    #[serde(rename = "deviates")]
    _deviates: Option<String>,
}

/// A request as the upstream must see it, without the sidecar's own fields and those of framing.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Arrival {
    /// Method and target.
    Line(String),
    Whole {
        line: String,
        #[serde(default)]
        fields: Vec<String>,
        #[serde(default)]
        body: String,
        #[serde(default)]
        trailers: Vec<String>,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    line: String,
    fields: Fields,
    body: Vec<u8>,
    trailers: Fields,
}

/// What the sidecar adds, and what frames a body: how often these stand in a request is judged apart.
const NOT_THE_CLIENTS: [&str; 6] =
    ["authorization", "organization", "host", "x-request-id", "content-length", "transfer-encoding"];

impl Meaning {
    fn of(request: &Request) -> Self {
        let is_the_clients = |(name, _): &(String, String)| !NOT_THE_CLIENTS.contains(&name.as_str());
        Self {
            line: format!("{} {}", request.method, request.target),
            fields: sorted(request.fields.iter().filter(|field| is_the_clients(field)).cloned().collect()),
            body: request.body.clone(),
            trailers: sorted(request.trailers.clone()),
        }
    }

    fn expected(arrival: &Arrival, write: impl Fn(&str) -> String) -> Self {
        match arrival {
            Arrival::Line(line) => Self { line: write(line), fields: Vec::new(), body: Vec::new(), trailers: Vec::new() },
            Arrival::Whole { line, fields: head, body, trailers } => Self {
                line: write(line),
                fields: fields(head.iter().map(|line| write(line))),
                body: bytes(&write(body)),
                trailers: fields(trailers.iter().map(|line| write(line))),
            },
        }
    }

    fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }
}

/// One row, written out and played.
struct Played<'a> {
    row: &'a Row,
    name: String,
    client: Client,
    sent: Vec<u8>,
    expected: Vec<Meaning>,
    told: Result<Vec<u8>, String>,
}

/// Plays a file of rows to one sidecar, in one piece and byte by byte, and judges both sides when nothing more can arrive.
pub fn play_requests(name: &str) -> Vec<String> {
    let (head, rows) = read::<Row>("requests", name);
    let (simulator, upstream) = (simulator(), Recorder::start());
    let mut sidecar = start(&head, &simulator, &upstream);
    let (mut played, address) = (Vec::new(), sidecar.address());
    for row in &rows {
        assert!(!row.rfc.is_empty(), "{}: each row names a clause", row.case);
        if row.ends {
            played.extend(play(&head, row, Client::Ending, address, played.len()));
            continue;
        }
        played.extend(play(&head, row, Client::InOnePiece, address, played.len()));
        // Each octet once, and long texts too, are enough.
        if row.each.is_none() && row.fill.is_empty() {
            played.extend(play(&head, row, Client::ByteByByte, address, played.len()));
        }
    }
    assert_eq!(sidecar.get("/case-none").status, 200, "it still serves");
    assert!(sidecar.stop().success());
    let token = simulator.control().last_token().unwrap();
    let credentials = Credentials {
        authorization: format!("Bearer {token}"),
        organization: ORGANIZATION.to_owned(),
        host: upstream.address().to_string(),
    };
    let seen = upstream.finish();
    let (mut faults, mut rows, by_case) = (Vec::new(), Vec::new(), by_case(&seen));
    for case in &played {
        let arrived: &[&Seen] = by_case.get(case.name.as_bytes()).map_or(&[], Vec::as_slice);
        let found: Vec<String> =
            case.faults_of_answers(&token).into_iter().chain(case.faults_of_arrivals(arrived, &credentials)).collect();
        if !found.is_empty() {
            faults.push(case.report(&found, arrived));
        }
        rows.push(case.transcript(arrived));
    }
    transcript::write("requests", name, &rows);
    faults
}

/// What arrived, by the name of the case that stands first in it.
fn by_case(seen: &[Seen]) -> HashMap<&[u8], Vec<&Seen>> {
    let mut all: HashMap<&[u8], Vec<&Seen>> = HashMap::new();
    for seen in seen {
        let at = seen.bytes.windows(5).position(|window| window == b"case-");
        if let Some(name) = at.and_then(|at| seen.bytes.get(at..at + NAME)) {
            all.entry(name).or_default().push(seen);
        }
    }
    all
}

/// How long the name of a case is.
const NAME: usize = "case-00000".len();

fn start(head: &Head, simulator: &Simulator, upstream: &Recorder) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup
        .upstream(&format!("http://{}", upstream.address()), simulator)
        .variable("CAREPORTALS_WORKERS", "1")
        // Each row would be many lines.
        .variable("CAREPORTALS_LOG", "info")
        .api("allow_insecure_upstream", "true");
    for (key, value) in &head.settings {
        setup.api(key, value);
    }
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/case-none").status, 200);
    sidecar
}

/// Plays a row, with each of its octets.
fn play<'a>(head: &Head, row: &'a Row, client: Client, sidecar: SocketAddr, before: usize) -> Vec<Played<'a>> {
    let short = Short { each: row.each.clone(), fill: row.fill.clone() };
    let octets = short.octets();
    let each = octets.into_iter().enumerate().map(|(at, octet)| {
        let name = format!("case-{:05}", before + at);
        let write = |text: &str| short.written_out(text, octet).replace("CASE", &name);
        let sent = bytes(&write(&head.whole(&row.send)));
        let expected = row.arrives.iter().map(|arrival| Meaning::expected(arrival, write)).collect();
        let told = told(sidecar, client, &name, &sent);
        Played { row, name, client, sent, expected, told }
    });
    each.collect()
}

impl Played<'_> {
    fn faults_of_answers(&self, token: &str) -> Vec<String> {
        let Ok(told) = &self.told else { return vec!["the connection does not end".to_owned()] };
        let mut faults = Vec::new();
        if contains(told, token.as_bytes()) {
            faults.push("the client was told the token".to_owned());
        }
        let probe = (!self.row.closes && !self.row.broken && self.client != Client::Ending).then_some(200);
        let expected: Vec<u16> = self.expected.iter().map(|_| 200).chain(self.row.refused).chain(probe).collect();
        match self.statuses(told) {
            Err(why) => faults.push(why),
            Ok(statuses) => {
                let passes = statuses == expected || (self.row.broken && statuses == [400]);
                faults.extend((!passes).then(|| format!("statuses {statuses:?} instead of {expected:?}")));
            }
        }
        faults
    }

    /// Reads every answer as strictly as can be. Interim ones are left out.
    fn statuses(&self, mut told: &[u8]) -> Result<Vec<u16>, String> {
        let refused_head = self.row.refused.filter(|_| self.sent.starts_with(b"HEAD "));
        let mut methods = self.expected.iter().map(Meaning::method).chain(refused_head.map(|_| "HEAD"));
        let (mut statuses, mut method) = (Vec::new(), methods.next());
        while !told.is_empty() {
            let answer = StrictAnswer::read(told, method.unwrap_or("GET"), true);
            let answer = answer.map_err(|fault| format!("{fault:?} in an answer"))?;
            if answer.status >= 200 {
                statuses.push(answer.status);
                method = methods.next();
            }
            told = &told[answer.end..];
        }
        Ok(statuses)
    }

    fn faults_of_arrivals(&self, arrived: &[&Seen], credentials: &Credentials) -> Vec<String> {
        let (mut faults, mut found, mut beginnings) = (Vec::new(), Vec::new(), 0);
        for seen in arrived {
            match &seen.read {
                Err(Fault::Unfinished) if self.row.broken => beginnings += 1,
                Err(fault) => faults.push(format!("{fault:?} arrived")),
                Ok(request) => {
                    faults.extend(request.fault(credentials));
                    if !request.target.ends_with("/probe") {
                        found.push(Meaning::of(request));
                    }
                }
            }
        }
        if beginnings > 1 {
            faults.push("more arrived than one beginning".to_owned());
        }
        if found != self.expected {
            faults.push(format!("arrived as {found:?}\n    instead of {:?}", self.expected));
        }
        faults
    }

    fn report(&self, found: &[String], arrived: &[&Seen]) -> String {
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string().chars().take(600).collect::<String>();
        let arrived: String = arrived.iter().map(|seen| format!("\n    arrived: {}", shown(&seen.bytes))).collect();
        let told = self.told.as_ref().map_or_else(Clone::clone, |told| shown(told));
        let how = match self.client {
            Client::InOnePiece => "in one piece",
            Client::ByteByByte => "byte by byte",
            Client::Ending => "ending",
        };
        let (case, rfc) = (&self.row.case, &self.row.rfc);
        format!("{case} (RFC {rfc}, {how}): {}\n    sent: {}\n    told: {told}{arrived}", found.join("; "), shown(&self.sent))
    }

    /// What other parsers read: the upstream's bytes as one stream, without the probes.
    fn transcript(&self, arrived: &[&Seen]) -> serde_json::Value {
        let is_whole = |seen: &&&Seen| seen.read.as_ref().is_ok_and(|request| !request.target.ends_with("/probe"));
        let stream: Vec<u8> = arrived.iter().filter(is_whole).flat_map(|seen| seen.bytes.clone()).collect();
        let expected = self.expected.iter().map(|meaning| {
            json!({"line": latin1(&bytes(&meaning.line)), "fields": meaning.fields, "body": latin1(&meaning.body),
                "trailers": meaning.trailers})
        });
        json!({"case": self.row.case, "rfc": self.row.rfc, "sent": latin1(&self.sent), "bytes": latin1(&stream),
            "expected": expected.collect::<Vec<_>>()})
    }
}
