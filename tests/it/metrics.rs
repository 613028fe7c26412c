//! Metrics as a scraper reads them: each family moves when it should, nothing of a request is in any of them, and the
//! documentation, the rules and the dashboard name those that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Stdio},
    time::SystemTime,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{
    Answer, Connection, Crowd, OFF_AND_AUTO, PATIENCE, Request, Setup, Sidecar, revoke, simulator, until, wall_clock, websocket,
    within,
};

const PREFIX: &str = "careportals_sidecar_";

fn observed(mut setup: Setup) -> Setup {
    setup.with_telemetry();
    setup
}

fn start(simulator: &Simulator) -> Sidecar {
    observed(Setup::new(simulator)).start()
}

/// One scrape.
struct Page {
    text: String,
    series: Vec<Series>,
}

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    fn parse(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text().to_owned();
        let series = text.lines().filter(|line| !line.starts_with('#')).map(Series::parse).collect();
        Self { text, series }
    }

    /// Sums the series of that name, without our prefix, that have these labels: 0 when there is none.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|series| series.value).sum()
    }

    fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Series> {
        let of_name = self.series.iter().filter(move |series| series.name.strip_prefix(PREFIX) == Some(name));
        of_name.filter(move |series| labels.iter().all(|(key, value)| series.labels[*key] == *value))
    }
}

impl Series {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split("\",").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.split_once("=\"").unwrap());
        let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned())).collect();
        Self { name: name.to_owned(), labels, value: value.parse().unwrap() }
    }
}

fn scrape(sidecar: &Sidecar) -> Page {
    Page::parse(&sidecar.telemetry("/metrics"))
}

/// Scrapes until the page is as wanted: a request counts once its connection is done with it, which its client does not see.
#[track_caller]
fn until_page(sidecar: &Sidecar, what: &str, condition: impl Fn(&Page) -> bool) -> Page {
    let found = within(PATIENCE, || Some(scrape(sidecar)).filter(&condition));
    let Some(page) = found else { panic!("waited in vain until {what}\n{}", scrape(sidecar).text) };
    page
}

/// Waits until a figure has that value.
fn becomes(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)], value: f64) -> Page {
    until_page(sidecar, &format!("{name} {labels:?} is {value}"), |page| is(page.sum(name, labels), value))
}

fn is(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[test]
fn requests_are_counted_by_method_status_and_code() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    for (method, target, status) in [
        ("GET", "/_sim/status/404", 404),
        ("GET", "/_sim/status/503", 503),
        ("POST", "/_sim/echo", 200),
        ("POST", "/patient/auth", 403),
        ("PURGE", "/_sim/echo", 200),
        ("HEAD", "/_sim/echo", 200),
        ("TRACE", "/_sim/echo", 405),
    ] {
        assert_eq!(sidecar.send(&Request::new(method, target)).status, status, "{method} {target}");
    }
    let page = becomes(&sidecar, "requests_total", &[], 8.0);
    for (method, status, code) in [
        ("GET", "2xx", ""),
        ("GET", "4xx", ""),
        ("GET", "5xx", ""),
        ("POST", "2xx", ""),
        ("POST", "4xx", "login_path"),
        ("OTHER", "2xx", ""),
        ("HEAD", "2xx", ""),
        ("TRACE", "4xx", "method_not_allowed"),
    ] {
        let labels = [("api", "default"), ("method", method), ("status", status), ("code", code)];
        assert!(is(page.sum("requests_total", &labels), 1.0), "{labels:?}\n{}", page.text);
    }
    assert!(is(page.sum("refusals_total", &[("api", "default"), ("reason", "login_path")]), 1.0));
    assert!(is(page.sum("refusals_total", &[]), 2.0));
    for (family, count) in [("request_duration_seconds", 8.0), ("upstream_first_byte_seconds", 6.0), ("overhead_seconds", 8.0)] {
        assert!(is(page.sum(&format!("{family}_count"), &[]), count), "{family}\n{}", page.text);
        assert!(is(page.sum(&format!("{family}_bucket"), &[("le", "+Inf")]), count), "{family}");
    }
}

#[test]
fn a_client_that_hangs_up_before_its_answer_counts_as_4xx_and_as_a_cut() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = start(&simulator).ready();
    control.hold_requests(true);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    until("the upstream has got two requests", || control.counts().requests == 2);
    drop(client);
    let page = becomes(&sidecar, "requests_total", &[("method", "GET"), ("status", "4xx"), ("code", "")], 1.0);
    assert!(is(page.sum("answers_cut_total", &[("reason", "client_closed")]), 1.0), "{}", page.text);
    assert!(is(page.sum("upstream_first_byte_seconds_count", &[]), 1.0), "of the first request alone");
}

#[test]
fn requests_in_flight_and_connections_are_seen_while_they_last() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator();
        let control = simulator.control();
        let mut setup = observed(Setup::new(&simulator));
        setup.api("http2", http2).api("max_requests", "7").variable("CAREPORTALS_WORKERS", "1");
        let sidecar = setup.start().ready();
        let connections = |page: &Page, state| page.sum("upstream_connections", &[("state", state)]);
        // Others may have been opened ahead of need.
        until_page(&sidecar, "one is kept", |page| connections(page, "idle") >= 1.0 && is(connections(page, "active"), 0.0));
        control.hold_requests(true);
        let crowd = Crowd::send(&sidecar, 3, &Request::get("/_sim/echo"));
        until("the upstream has got four requests", || control.counts().requests == 4);
        let page = scrape(&sidecar);
        let shared = if http2 == "auto" { 1.0 } else { 3.0 };
        assert!(is(page.sum("requests_in_flight", &[("api", "default")]), 3.0), "{}", page.text);
        assert!(is(page.sum("requests_in_flight_max", &[("api", "default")]), 7.0));
        assert!(is(connections(&page, "active"), shared), "{http2}\n{}", page.text);
        assert!(page.sum("client_connections", &[]) >= 3.0, "{}", page.text);
        control.hold_requests(false);
        crowd.succeeds();
        until_page(&sidecar, "all are idle", |page| {
            is(page.sum("requests_in_flight", &[]), 0.0)
                && is(connections(page, "active"), 0.0)
                && connections(page, "idle") >= shared
        });
    }
}

#[test]
fn a_tunnel_is_in_flight_and_its_connection_active_until_it_ends_and_no_duration_is_seen() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    let mut client = websocket::open(&sidecar);
    websocket::assert_echoes(&mut client, "hello");
    let page = becomes(&sidecar, "requests_in_flight", &[], 1.0);
    assert!(is(page.sum("upstream_connections", &[("state", "active")]), 1.0), "{}", page.text);
    drop(client);
    let page = becomes(&sidecar, "requests_total", &[("status", "1xx")], 1.0);
    assert!(is(page.sum("request_duration_seconds_count", &[]), 1.0), "of the request before it\n{}", page.text);
    becomes(&sidecar, "upstream_connections", &[("state", "active")], 0.0);
}

#[test]
fn log_ins_are_counted_by_their_outcome() {
    for (outcome, fault) in [
        ("ok", None),
        ("refused", Some(LoginFault::Status(401))),
        ("throttled", Some(LoginFault::StatusRetryAfter(429, "60".to_owned()))),
        ("unreachable", Some(LoginFault::Status(503))),
        ("malformed", Some(LoginFault::Garbage)),
        ("timed_out", Some(LoginFault::Hang)),
    ] {
        let simulator = simulator();
        simulator.control().set_login_fault(fault);
        let mut setup = observed(Setup::new(&simulator));
        if outcome == "timed_out" {
            setup.account("login_timeout", "200ms");
        }
        let sidecar = setup.start();
        let counted = |page: &Page| page.sum("logins_total", &[("account", "default"), ("outcome", outcome)]);
        let page = until_page(&sidecar, outcome, |page| counted(page) > 0.0);
        assert!(is(page.sum("logins_total", &[]), counted(&page)), "{outcome} and nothing else\n{}", page.text);
    }
    let simulator = simulator();
    let mut setup = observed(Setup::new(&simulator));
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", "/nowhere/at/all");
    let sidecar = setup.start();
    until_page(&sidecar, "no credentials", |page| page.sum("logins_total", &[("outcome", "no_credentials")]) > 0.0);
}

#[test]
fn the_tokens_expiry_is_when_the_token_expires_and_goes_with_it() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    let page = scrape(&sidecar);
    let expiry = page.sum("token_expiry_timestamp_seconds", &[("account", "default")]);
    let told = sidecar.telemetry("/status").json()["accounts"][0]["expires_at"].as_str().unwrap().to_owned();
    // The document has milliseconds, of its own reading of two clocks.
    assert!((expiry - unix_time(&told)).abs() <= 1.0, "{expiry} {told}");
    let now = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(expiry > now + 60.0, "{expiry} {now}");
    assert_eq!(scrape(&sidecar).sum("token_expiry_timestamp_seconds", &[]).to_bits(), expiry.to_bits(), "the same each time");
    sidecar.signal(Signal::USR1);
    let page = becomes(&sidecar, "account_state", &[("account", "default"), ("state", "logged_out")], 1.0);
    assert!(!page.has("token_expiry_timestamp_seconds", &[]), "{}", page.text);
}

/// Parses a time (RFC 3339, in UTC), with the calendar of the years that tests run in.
fn unix_time(text: &str) -> f64 {
    let numbers: Vec<f64> =
        text.split(['-', 'T', ':', 'Z']).filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{text}") };
    // Counted from March: the leap day comes last.
    let (year, month) = if month > 2.0 { (year, month - 3.0) } else { (year - 1.0, month + 9.0) };
    let days = (year - 1970.0) * 365.0 + ((year - 1968.0) / 4.0).floor() + ((month * 153.0 + 2.0) / 5.0).floor() + day + 58.0;
    ((days * 24.0 + hour) * 60.0 + minute) * 60.0 + second
}

#[test]
fn an_accounts_state_is_the_one_with_a_1() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(403)));
    let sidecar = start(&simulator);
    let page = becomes(&sidecar, "account_state", &[("state", "rejected")], 1.0);
    assert!(is(page.sum("account_state", &[]), 1.0), "{}", page.text);
    assert_eq!(page.matching("account_state", &[]).count(), 6);
    simulator.control().set_login_fault(None);
    sidecar.signal(Signal::USR1);
    let page = becomes(&sidecar, "account_state", &[("state", "logged_out")], 1.0);
    assert!(is(page.sum("account_state", &[("state", "rejected")]), 0.0), "{}", page.text);
}

/// Settings of the account `demo` and these APIs, each under its prefix; the second column is where it listens.
fn settings(simulator: &Simulator, apis: &[(&str, &str)]) -> String {
    let account =
        "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"demo-password-1\"\n";
    let api = |(name, listen): &(&str, &str)| {
        let upstream = simulator.base_url();
        format!("[apis.{name}]\naccount = \"demo\"\nprefix = \"/{name}\"\nlisten = \"{listen}\"\nupstream = \"{upstream}\"\n")
    };
    format!("{account}{}", apis.iter().map(api).collect::<String>())
}

const ANY_PORT: &str = "127.0.0.1:0";

/// Two APIs, and where the second one listens.
fn two(simulator: &Simulator) -> (Setup, String) {
    let mut setup = observed(Setup::empty());
    let (ca, socket) = (setup.file("ca.pem", simulator.ca_pem()), format!("unix:{}/other.sock", setup.dir.path().display()));
    setup.settings(&settings(simulator, &[("one", ANY_PORT), ("other", &socket)]));
    setup.variable("CAREPORTALS_CA_ONLY_FILE", ca.to_str().unwrap());
    (setup, socket)
}

#[test]
fn a_request_under_no_prefix_counts_for_no_api() {
    let simulator = simulator();
    let sidecar = two(&simulator).0.start();
    assert_eq!(sidecar.get("/one/_sim/echo").status, 200);
    assert_eq!(sidecar.get("/elsewhere/_sim/echo").status, 404);
    let page = becomes(&sidecar, "refusals_total", &[("api", ""), ("reason", "no_api")], 1.0);
    assert!(is(page.sum("requests_total", &[("api", ""), ("method", "GET"), ("status", "4xx"), ("code", "no_api")]), 1.0));
    assert!(is(page.sum("requests_total", &[("api", "one")]), 1.0), "{}", page.text);
    let apis: BTreeSet<_> = page.series.iter().filter_map(|series| series.labels.get("api")).collect();
    assert_eq!(apis.into_iter().collect::<Vec<_>>(), ["", "one", "other"]);
}

#[test]
fn a_reload_keeps_counts_is_counted_and_takes_the_gauges_of_what_is_gone() {
    let simulator = simulator();
    let (setup, socket) = two(&simulator);
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/one/_sim/echo").status, 200);
    let page = becomes(&sidecar, "requests_total", &[("api", "one")], 1.0);
    assert!(page.has("requests_in_flight", &[("api", "other")]));
    // Another limit for the first one, and another API in the place of the second.
    let changed =
        settings(&simulator, &[("one", ANY_PORT), ("third", &socket)]).replacen("prefix", "max_requests = 5\nprefix", 1);
    sidecar.setup.file("config.toml", &changed);
    sidecar.signal(Signal::HUP);
    let page = becomes(&sidecar, "reloads_total", &[("outcome", "ok")], 1.0);
    assert!(is(page.sum("requests_in_flight_max", &[("api", "one")]), 5.0), "{}", page.text);
    assert!(!page.has("requests_in_flight", &[("api", "other")]) && page.has("requests_total", &[("api", "other")]));
    assert!(page.has("requests_in_flight", &[("api", "third")]));
    assert_eq!(sidecar.get("/one/_sim/echo").status, 200);
    becomes(&sidecar, "requests_total", &[("api", "one")], 2.0);
    sidecar.setup.file("config.toml", "nonsense = true");
    sidecar.signal(Signal::HUP);
    becomes(&sidecar, "reloads_total", &[("outcome", "refused")], 1.0);
}

#[test]
fn what_is_sent_again_is_counted_by_the_reason() {
    let simulator = simulator();
    let sidecar = observed(Setup::eager(&simulator)).start().ready();
    assert_eq!(sidecar.get("/_sim/reset-before").status, 502);
    let page = becomes(&sidecar, "requests_total", &[("code", "upstream_closed")], 1.0);
    assert!(is(page.sum("retries_total", &[("api", "default"), ("reason", "connection")]), 1.0), "{}", page.text);
    revoke(&simulator);
    assert_eq!(sidecar.get("/users/account").status, 200);
    let page = becomes(&sidecar, "retries_total", &[("api", "default"), ("reason", "bearer")], 1.0);
    assert!(is(page.sum("retries_total", &[]), 2.0), "{}", page.text);
}

#[test]
fn an_answer_that_the_upstream_breaks_off_is_counted_as_cut() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    assert!(sidecar.get("/_sim/reset?after=1000&of=100000").cut);
    let page = becomes(&sidecar, "answers_cut_total", &[("reason", "upstream_closed")], 1.0);
    assert!(is(page.sum("answers_cut_total", &[]), 1.0), "{}", page.text);
}

#[test]
fn time_spent_waiting_for_client_and_upstream_is_no_overhead() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_latency(std::time::Duration::from_millis(300));
    control.set_login_delay(std::time::Duration::from_millis(300));
    let sidecar = start(&simulator).ready();
    let page = becomes(&sidecar, "requests_total", &[("status", "2xx")], 1.0);
    assert!(page.sum("request_duration_seconds_sum", &[]) > 0.3, "{}", page.text);
    assert!(page.sum("upstream_first_byte_seconds_sum", &[]) > 0.3);
    let overhead = page.sum("overhead_seconds_sum", &[]);
    assert!(overhead > 0.0 && overhead < 0.25, "{overhead}");
}

/// A daemon whose standard output is not read any more once it has said where it listens.
struct Unread {
    child: Child,
    setup: Setup,
    telemetry: SocketAddr,
    _output: Box<dyn BufRead>,
}

impl Unread {
    fn start(setup: Setup) -> Self {
        let mut child = setup.command("run").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut telemetry = None;
        loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended");
            let event: Value = serde_json::from_str(&line).unwrap();
            match event["message"].as_str() {
                Some("health and metrics") => telemetry = event["listener"].as_str().and_then(|address| address.parse().ok()),
                Some("listening") => break,
                _ => {}
            }
        }
        Self { child, setup, telemetry: telemetry.unwrap(), _output: Box::new(output) }
    }

    fn scrape(&self) -> Page {
        Page::parse(&Connection::tcp(TcpStream::connect(self.telemetry).unwrap()).send(&Request::get("/metrics")))
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn log_lines_are_counted_as_dropped_while_nobody_reads_standard_output() {
    let simulator = simulator();
    let daemon = Unread::start(two(&simulator).0);
    assert!(is(daemon.scrape().sum("log_lines_dropped_total", &[]), 0.0));
    // A line for each fault: more than the pipe and the queue hold together.
    let faults: String = (0..1450).map(|number| format!("unknown_{number} = {number}\n")).collect();
    daemon.setup.file("config.toml", &faults);
    kill_process(Pid::from_child(&daemon.child), Signal::HUP).unwrap();
    until("a line is dropped", || !is(daemon.scrape().sum("log_lines_dropped_total", &[]), 0.0));
}

const CANARIES: [&str; 6] = ["canary-path", "canary-query", "canary-header", "canary-body", "canarymethod", "canary-host"];

#[test]
fn nothing_of_a_request_is_in_any_metric() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    let canary = |method: &str, target: &str| {
        Request::new(method, target)
            .header("X-Canary", "canary-header")
            .header("X-Request-Id", "canary-header")
            .body("canary-body")
    };
    sidecar.send(&canary("POST", "/_sim/echo/canary-path?canary-query=canary-query"));
    sidecar.send(&canary("CANARYMETHOD", "/canary-path/canary-path"));
    sidecar.send(&canary("POST", "/patient/auth?canary-query"));
    sidecar.send(&canary("GET", "/canary-path").host("canary-host.example"));
    becomes(&sidecar, "requests_total", &[], 5.0);
    let token = simulator.control().last_token().unwrap();
    for format in FORMATS {
        let answer = sidecar.telemetry_send(&Request::get("/metrics?canary-query").header("Accept", format.0));
        let text = answer.text().to_ascii_lowercase();
        for canary in CANARIES.into_iter().chain([token.as_str(), "service@", "password-1", "/_sim"]) {
            assert!(!text.contains(&canary.to_ascii_lowercase()), "{canary}\n{text}");
        }
    }
}

/// What a scraper accepts, and the content type that it is given.
const FORMATS: [(&str, &str); 3] = [
    ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
    ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
];

#[test]
fn a_scraper_that_asks_for_openmetrics_gets_it_and_all_others_get_the_older_text() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    for (asked, expected) in FORMATS {
        let answer = sidecar.telemetry_send(&Request::get("/metrics").header("Accept", asked).host("prometheus.example"));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(expected)), "{asked}");
        assert_eq!(answer.text().ends_with("# EOF\n"), expected.contains("openmetrics"), "{asked}");
    }
    assert_eq!(sidecar.telemetry_send(&Request::post("/metrics", "")).status, 405);
}

/// A metric's name, with its type and its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// Reads the metrics of the daemon, as OpenMetrics under the names of their series.
fn families(text: &str) -> Families {
    let kinds: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut families = Families::new();
    for series in text.lines().filter(|line| !line.starts_with('#')).map(Series::parse) {
        let part = |suffix: &str| series.name.strip_suffix(suffix).filter(|name| kinds.contains_key(name));
        let histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(part);
        let base = histogram.or_else(|| part("_total")).or_else(|| part("_info")).unwrap_or(&series.name);
        let name = histogram.unwrap_or(&series.name).to_owned();
        let labels = series.labels.into_keys().filter(|label| label != "le");
        families.entry(name).or_insert_with(|| (kinds[base].to_owned(), BTreeSet::new())).1.extend(labels);
    }
    families
}

/// Finds what stands in backquotes.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let cells = |row: &'_ str| row.trim_matches('|').split(" | ").map(str::trim).count();
    let rows = text.lines().filter(|line| line.starts_with("| ")).filter(move |row| cells(row) >= 2);
    rows.map(|row| row.strip_prefix("| ").unwrap().strip_suffix(" |").unwrap().split(" | ").map(str::trim).collect())
}

#[test]
fn the_documentation_lists_every_metric_with_its_type_and_labels() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    let answer = sidecar.telemetry_send(&Request::get("/metrics").header("Accept", FORMATS[0].0));
    let written = include_str!("../../docs/metrics.md");
    let documented: Families = rows(&written.replace("| |", "|  |"))
        .filter(|cells| cells.len() == 5 && cells[0].starts_with('`'))
        .map(|cells| (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), quoted(cells[2]))))
        .collect();
    assert_eq!(families(answer.text()), documented);
}

#[test]
fn the_documentation_lists_every_value_that_a_label_has() {
    let simulator = simulator();
    let sidecar = start(&simulator).ready();
    let page = scrape(&sidecar);
    let documented: BTreeMap<_, _> = rows(include_str!("../../docs/metrics.md"))
        .filter(|cells| cells.len() == 2)
        .map(|cells| (cells[0].replace('`', ""), quoted(cells[1])))
        .collect();
    for (name, label, row) in [
        ("refusals_total", "reason", "reason of refusals"),
        ("would_refuse_total", "reason", "reason of requests that would be refused"),
        ("retries_total", "reason", "reason of retries"),
        ("answers_cut_total", "reason", "reason of answers cut"),
        ("upstream_connections", "state", "state of connections"),
        ("account_state", "state", "state of accounts"),
        ("logins_total", "outcome", "outcome of log-ins"),
        ("reloads_total", "outcome", "outcome of reloads"),
    ] {
        let values: BTreeSet<_> = page.matching(name, &[]).map(|series| series.labels[label].clone()).collect();
        assert_eq!(values, documented[row], "{row}");
    }
}

/// Reads every file of that folder.
fn deployed(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn rules_and_dashboard_use_only_metrics_that_exist() {
    let documented = include_str!("../../docs/metrics.md");
    let files = [deployed("prometheus"), deployed("grafana")].concat();
    let mut used = BTreeSet::new();
    for (file, text) in &files {
        for (at, _) in text.match_indices(PREFIX) {
            let name: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
            assert!(documented.contains(&format!("`{base}`")), "{file} uses {name}, which docs/metrics.md does not know");
            used.insert(base.to_owned());
        }
        // Recorded ones are named level:metric:operation.
        for (at, _) in text.match_indices("careportals_sidecar:") {
            let recorded: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_:".contains(*c)).collect();
            let is_recorded = files.iter().any(|(_, text)| text.contains(&format!("record: {recorded}\n")));
            assert!(is_recorded, "{file} uses {recorded}, which no rule records");
        }
    }
    for metric in ["requests_total", "token_expiry_timestamp_seconds", "account_state", "log_lines_dropped_total"] {
        assert!(used.contains(&format!("{PREFIX}{metric}")), "nothing uses {metric}");
    }
}
