//! A hunt for secrets: marked ones are sent through everything that can happen, and then looked for in everything that
//! the program says.

use std::{collections::BTreeSet, thread, time::Duration};

use careportals_simulator::{LoginFault, Options, Simulator};
use rustix::process::Signal;

use crate::harness::{Answer, ConnectProxy, Connection, Manner, Request, Setup, Sidecar, simulator, until};

const ORGANIZATION: &str = "canary-organization";
const USERNAME: &str = "canary-user@mail.canary.test";
const PASSWORD: &str = "canary-password!\"\\";
/// Secrets among the claims that the simulator makes up.
const CLAIMS: [&str; 4] = ["+15550100142", "1984-07-19", "Robin Sample", "5550100142"];
/// Secrets of requests, each in another part of it.
const REQUESTED: [&str; 14] = [
    "canary-query",
    "canary-header",
    "canary-body",
    "canary-id",
    "canary%40mail.test",
    "canary-host",
    "canary-origin",
    "canary-cookie",
    "canary-bearer",
    "canary-tenant",
    "CANARYMETHOD",
    "canary-name",
    "canary-expectation",
    "canary-coding",
];

/// Everything that was said, and everything that must not be in it.
#[derive(Default)]
struct Hunt {
    said: Vec<String>,
    secrets: BTreeSet<String>,
}

impl Hunt {
    fn new() -> Self {
        let mut hunt = Self::default();
        for secret in
            [ORGANIZATION, USERNAME, PASSWORD, "canary-user", "canary-password"].into_iter().chain(CLAIMS).chain(REQUESTED)
        {
            hunt.secret(secret);
        }
        hunt
    }

    /// Adds a secret in plain, as Base64 at any offset, and in hexadecimal.
    fn secret(&mut self, secret: &str) {
        self.secrets.insert(secret.to_owned());
        self.secrets.insert(secret.replace('@', "%40"));
        self.secrets.insert(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
        for offset in 0..3 {
            let padded = [&vec![0; offset][..], secret.as_bytes()].concat();
            let whole = base64(&padded);
            // What depends on the neighbours is cut off.
            let known = &whole[offset.div_ceil(1).min(2) * 2..padded.len() * 4 / 3];
            self.secrets.insert(known.to_owned());
            self.secrets.insert(known.replace('+', "-").replace('/', "_"));
        }
    }

    /// Adds a token and every part of it.
    fn token(&mut self, token: &str) {
        for part in token.split('.') {
            let pieces = (0..part.len().saturating_sub(16)).step_by(8).map(|at| part[at..at + 16].to_owned());
            self.secrets.extend(pieces);
        }
    }

    /// Adds the tokens that a simulator saw or issued.
    fn tokens_of(&mut self, simulator: &Simulator) {
        let control = simulator.control();
        let bearers: Vec<String> = control
            .requests()
            .iter()
            .flat_map(|seen| {
                seen.values("authorization").into_iter().map(|value| value.replace("Bearer ", "")).collect::<Vec<_>>()
            })
            .collect();
        for token in bearers.iter().chain(&control.last_token()) {
            self.token(token);
        }
    }

    fn said(&mut self, text: impl Into<String>) {
        self.said.push(text.into());
    }

    /// Searches the sidecar's own answers. The upstream's belong to the client.
    fn answered(&mut self, answer: &Answer) {
        if answer.header("proxy-status").is_some() {
            self.said(format!("{:?} {}", answer.headers, answer.text()));
        }
    }

    fn ends(self) {
        assert!(self.said.iter().map(String::len).sum::<usize>() > 1000, "nothing was said");
        assert!(self.secrets.iter().all(|secret| secret.len() >= 8), "too short to look for");
        for said in &self.said {
            for secret in &self.secrets {
                assert!(!said.contains(secret.as_str()), "{secret:?} in {said}");
            }
        }
    }
}

/// Base64 (RFC 4648) without padding; a dependency is not worth it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0_usize, |word, at| word << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        text.extend((0..=chunk.len()).map(|place| char::from(ALPHABET[word >> (18 - 6 * place) & 63])));
    }
    text
}

#[test]
fn the_hunt_would_find_a_secret_in_any_of_its_forms() {
    assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw");
    for before in ["", "u", "us", "use"] {
        let encoded = base64(format!("{before}{USERNAME}:x").as_bytes());
        let mut hunt = Hunt::new();
        hunt.said(format!("{encoded}{}", " ".repeat(1000)));
        assert!(std::panic::catch_unwind(|| hunt.ends()).is_err(), "{encoded}");
    }
}

fn simulator_of_secrets() -> Simulator {
    let simulator = simulator();
    simulator.control().set_credentials(ORGANIZATION, USERNAME, PASSWORD);
    simulator
}

fn setup(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    for (name, value) in [("ORGANIZATION", ORGANIZATION), ("USERNAME", USERNAME), ("PASSWORD", PASSWORD)] {
        setup.variable(&format!("CAREPORTALS_{name}"), value);
    }
    setup.with_telemetry().with_control_socket();
    setup
}

/// Looks at everything that can be looked at from outside.
fn look_around(sidecar: &Sidecar, hunt: &mut Hunt) {
    let mut looks: Vec<Request> =
        ["/", "/status", "/metrics", "/readyz", "/readyz/default", "/livez", "/startupz"].map(Request::get).into();
    looks.push(Request::get("/metrics").header("Accept", "application/openmetrics-text; version=1.0.0"));
    for request in looks {
        let answer = sidecar.telemetry_send(&request);
        assert!(!answer.text().is_empty(), "{request:?} {answer:?}");
        hunt.said(format!("{:?} {}", answer.headers, answer.text()));
    }
    let answer = Sidecar::connect_unix(&sidecar.setup.control_socket()).send(&Request::get("/status"));
    assert_eq!(answer.status, 200, "{answer:?}");
    hunt.said(answer.text());
    for arguments in [&["status"][..], &["status", "--json"], &["config"]] {
        hunt.said(sidecar.setup.output_of(arguments).all());
    }
}

/// A call with a mark in every part that a client may fill.
fn marked(method: &str, path: &str) -> Request {
    let separator = if path.contains('?') { '&' } else { '?' };
    let target = format!("{path}{separator}keyword=canary-query&mail=canary%40mail.test");
    Request::new(method, &target)
        .header("X-Patient", "canary-header")
        .header("Authorization", "Bearer canary-bearer")
        .header("organization", "canary-tenant")
        .header("Cookie", "session=canary-cookie")
        .header("X-canary-name", "1")
        .header("X-Request-Id", "canary-id is not well formed")
        .body(r#"{"note":"canary-body"}"#)
}

/// Requests that are answered by the sidecar itself.
fn refused() -> Vec<Request> {
    let get = |path: &str| marked("GET", path);
    vec![
        get("/users").host("canary-host.example"),
        get("/users").header("Host", "canary-host.example"),
        get("/users").header("Origin", "https://canary-origin.example"),
        get("http://canary-host.example/canary-id"),
        get("/users").header("Expect", "canary-expectation"),
        get("/users").header("Transfer-Encoding", "canary-coding, chunked"),
        marked("TRACE", "/canary-id"),
        marked("POST", "/auth/login"),
        marked("POST", "/patient/auth"),
        Request::new("CONNECT", "canary-host.example:443"),
    ]
}

/// Requests that no parser takes.
const MALFORMED: [&str; 5] = [
    "canary-body\r\n\r\n",
    "GET /canary-id HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "GET /users HTTP/1.1\r\nHost: localhost\r\ncanary-header with space: x\r\n\r\n",
    "GET /users HTTP/1.1\r\nHost: localhost\r\nX: canary-header\u{1}\r\n\r\n",
    "POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: canary-body\r\n\r\n",
];

#[test]
fn calls_that_succeed_or_fail_leave_no_trace_of_their_secrets() {
    let simulator = simulator_of_secrets();
    let control = simulator.control();
    let mut setup = setup(&simulator);
    setup.api("response_timeout", "200ms").api("body_idle", "200ms").account("relogin_floor", "100ms");
    let mut sidecar = setup.start();
    let mut hunt = Hunt::new();
    let mut ours = BTreeSet::new();
    let mut call = |sidecar: &Sidecar, request: &Request| {
        let answer = sidecar.send(request);
        hunt.answered(&answer);
        if answer.header("proxy-status").is_some() {
            ours.insert(answer.problem());
        }
        answer.status
    };
    for path in ["/_sim/echo", "/customers/canary-id", "/customers/lookups", "/_sim/leak", "/_sim/cookies", "/_sim/redirect"] {
        for method in ["GET", "POST", "CANARYMETHOD"] {
            call(&sidecar, &marked(method, path));
        }
    }
    for request in refused() {
        assert!(call(&sidecar, &request) >= 400, "{request:?}");
    }
    for path in ["/_sim/garbage", "/_sim/reset-before", "/_sim/hang", "/_sim/reset", "/_sim/headers?count=1000"] {
        call(&sidecar, &marked("GET", path));
    }
    control.revoke_tokens();
    assert_eq!(call(&sidecar, &marked("POST", "/_sim/echo")), 200, "with a newer token");
    assert_eq!(call(&sidecar, &marked("GET", "/_sim/always-401")), 401);
    let mut paused = sidecar.connect();
    let mut half = marked("POST", "/_sim/echo");
    half.body.truncate(10);
    hunt.answered(&paused.send(&half));
    for text in MALFORMED {
        let mut connection = sidecar.connect();
        connection.write(text.as_bytes());
        hunt.said(String::from_utf8_lossy(&connection.read_to_end()));
    }
    look_around(&sidecar, &mut hunt);
    log_out_and_drain(&simulator, &mut sidecar, &mut hunt);
    for code in
        ["host_not_allowed", "bad_host", "cross_site", "bad_target", "expectation_failed", "bad_framing", "method_not_allowed"]
    {
        assert!(ours.contains(code), "{code}: {ours:?}");
    }
    for code in ["login_path", "upstream_protocol", "upstream_closed", "upstream_timeout", "upstream_head_too_large"] {
        assert!(ours.contains(code), "{code}: {ours:?}");
    }
    hunt.tokens_of(&simulator);
    hunt.ends();
}

/// Logs out and drains while a request is in flight.
fn log_out_and_drain(simulator: &Simulator, sidecar: &mut Sidecar, hunt: &mut Hunt) {
    let control = simulator.control();
    control.reset_counts();
    let mut client: Connection = sidecar.connect();
    let request = marked("GET", "/_sim/drip?bytes=3&interval_ms=100");
    client.write(&request.head());
    client.write(&request.body);
    until("the upstream has got one request", || control.counts().requests == 1);
    hunt.tokens_of(simulator);
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
    let answer = sidecar.send(&marked("GET", "/users/account"));
    assert_eq!(answer.problem(), "logged_out");
    hunt.answered(&answer);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    look_around(sidecar, hunt);
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
}

/// Runs each case on a thread of its own: they wait more than they work.
fn hunt_through<T: Send>(cases: impl IntoIterator<Item = T>, case: impl Fn(T) -> Hunt + Sync) {
    thread::scope(|scope| {
        let hunts: Vec<_> = cases.into_iter().map(|one| scope.spawn(|| case(one).ends())).collect();
        for hunt in hunts {
            hunt.join().unwrap();
        }
    });
}

/// Runs a sidecar that can't log in, and `check --online` with the same settings.
fn hunt_failing(fault: &LoginFault) -> Hunt {
    let mut hunt = Hunt::new();
    let simulator = simulator_of_secrets();
    simulator.control().set_login_fault(Some(fault.clone()));
    let mut online = setup(&simulator);
    online.argument("--online");
    let checked = online.output("check");
    assert_eq!(checked.code, Some(1), "{fault:?}: {checked:?}");
    hunt.said(checked.all());
    let mut setup = setup(&simulator);
    setup.account("token_wait", "100ms");
    let mut sidecar = setup.start();
    sidecar.wait_for_log("log-in failed");
    let answer = sidecar.send(&marked("GET", "/customers/canary-id"));
    assert_eq!(answer.status, 503, "{fault:?}");
    hunt.answered(&answer);
    look_around(&sidecar, &mut hunt);
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
    hunt.tokens_of(&simulator);
    hunt
}

#[test]
fn logins_that_fail_leave_no_trace_of_their_secrets() {
    let redirect = format!("https://{USERNAME}/canary-id?keyword=canary-query");
    let faults = [
        LoginFault::Status(401),
        LoginFault::Status(503),
        LoginFault::StatusRetryAfter(429, "60".to_owned()),
        LoginFault::Garbage,
        LoginFault::Redirect(redirect),
        LoginFault::EmptyToken,
        LoginFault::NoToken,
        LoginFault::ExpiredToken,
        LoginFault::BadTokenBytes,
        LoginFault::Reset,
    ];
    hunt_through(&faults, hunt_failing);
}

/// Runs a sidecar that logs in, and again when the first token is about to expire.
#[expect(clippy::needless_pass_by_value, reason = "what `hunt_through` calls takes its own")]
fn hunt_refreshing(fault: Option<LoginFault>) -> Hunt {
    let mut hunt = Hunt::new();
    let simulator = simulator_of_secrets();
    let control = simulator.control();
    control.set_login_fault(fault.clone());
    control.set_token_life(Duration::from_secs(2));
    let mut setup = setup(&simulator);
    setup.account("refresh_url", "/auth/refresh").account("assumed_life", "2s");
    let mut sidecar = setup.start();
    sidecar.wait_for_log("logged in");
    hunt.token(&control.last_token().unwrap());
    assert_eq!(sidecar.send(&marked("GET", "/_sim/echo")).status, 200, "{fault:?}");
    until(&format!("a second token is issued: {fault:?}"), || control.tokens_issued() >= 2);
    hunt.token(&control.last_token().unwrap());
    look_around(&sidecar, &mut hunt);
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
    hunt.tokens_of(&simulator);
    hunt
}

#[test]
fn logins_that_succeed_and_refresh_leave_no_trace_of_their_secrets() {
    let shapes = [LoginFault::NoExp, LoginFault::BareString, LoginFault::OpaqueToken, LoginFault::WithRefreshToken];
    hunt_through(std::iter::once(None).chain(shapes.map(Some)), hunt_refreshing);
}

#[test]
fn what_the_commands_print_holds_no_secret() {
    let simulator = simulator_of_secrets();
    let mut hunt = Hunt::new();
    // It says whose settings these are, and is no credential.
    hunt.secrets.retain(|secret| secret != ORGANIZATION);
    let mut online = setup(&simulator);
    online.argument("--online");
    let checked = online.output("check");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    hunt.said(checked.all());
    let mut full = setup(&simulator);
    full.api("headers", "{ x-tenant-key = \"canary-header\" }")
        .account("login_headers", "{ x-app-key = \"canary-header\" }")
        .account("login_extra", "{ pin = \"canary-body\" }")
        .variable("HTTPS_PROXY", "http://canary-user:canary-password@proxy.example:3128");
    for command in ["check", "config"] {
        let output = full.output(command);
        assert_eq!(output.code, Some(0), "{output:?}");
        hunt.said(output.all());
    }
    // Faults quote what is wrong only where it can't be a secret.
    let mut wrong = setup(&simulator);
    wrong
        .variable("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD", "[\"canary-password\"]")
        .variable("CAREPORTALS_WORKERS", "no number");
    for command in ["check", "config", "run"] {
        let output = wrong.output(command);
        assert_eq!(output.code, Some(78), "{output:?}");
        hunt.said(output.all());
    }
    hunt.tokens_of(&simulator);
    hunt.ends();
}

/// A name that only an egress proxy finds.
const BEHIND: &str = "sim.canary-upstream.test";
const EGRESS: &str = "canary-egress-user:canary-egress@password";

/// Logs in and forwards through `proxy`, with marked credentials.
fn setup_behind(simulator: &Simulator, proxy: &ConnectProxy) -> Setup {
    let scheme = if proxy.certificate.is_some() { "https" } else { "http" };
    let mut setup = setup(simulator);
    setup
        .variable("CAREPORTALS_UPSTREAM", &format!("https://{BEHIND}:{}", simulator.address().port()))
        .variable("HTTPS_PROXY", &format!("{scheme}://{}@{}", EGRESS.replace('@', "%40"), proxy.address))
        .account("token_wait", "100ms");
    setup
}

fn hunt_for_egress() -> Hunt {
    let mut hunt = Hunt::new();
    // It says whose settings these are, and is no credential.
    hunt.secrets.retain(|secret| secret != ORGANIZATION);
    for secret in [EGRESS, "canary-egress", "egress@password", "canary-answer"] {
        hunt.secret(secret);
    }
    hunt
}

/// Runs the commands, a log-in, and a request without a log-in before it through a proxy that refuses CONNECT.
fn hunt_before(proxy: &ConnectProxy) -> Hunt {
    let (simulator, mut hunt) = (simulator_of_secrets(), hunt_for_egress());
    for command in [&["check"][..], &["config"], &["check", "--online"]] {
        let output = setup_behind(&simulator, proxy).output_of(command);
        assert_eq!(output.code, Some(i32::from(command.len() > 1)), "{output:?}");
        hunt.said(output.all());
    }
    let mut sidecar = setup_behind(&simulator, proxy).start();
    sidecar.wait_for_log("log-in failed");
    let answer = sidecar.send(&marked("GET", "/customers/canary-id"));
    assert_eq!(answer.status, 503);
    hunt.answered(&answer);
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
    let mut open = setup_behind(&simulator, proxy);
    open.without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_LOGIN_URL", "off");
    let mut sidecar = open.start();
    let answer = sidecar.send(&marked("GET", "/v2/products"));
    assert_eq!(answer.status, 502);
    hunt.answered(&answer);
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
    hunt
}

#[test]
fn an_egress_proxy_that_opens_no_way_leaves_no_trace_of_its_credentials_or_its_words() {
    let answers = [
        "HTTP/1.1 407 canary-answer\r\nProxy-Authenticate: Basic realm=\"canary-answer\"\r\n\r\ncanary-answer",
        "HTTP/1.1 200 OK\r\n\r\ncanary-answer",
        "canary-answer\r\n\r\n",
        "",
    ];
    let plain = answers.map(|answer| ConnectProxy::plain(Manner::Say(answer)));
    // Its certificate is not trusted.
    let stranger = ConnectProxy::over_tls(Manner::Say("canary-answer"));
    hunt_through(plain.iter().chain([&stranger]), hunt_before);
    assert!(plain.iter().all(|proxy| proxy.heads()[0].contains("Proxy-Authorization: Basic ")), "nothing was at stake");
}

#[test]
fn an_egress_proxy_that_opens_the_way_leaves_no_trace_of_its_credentials() {
    let simulator = Simulator::start(Options { names: vec![BEHIND.to_owned()], ..Options::default() }).unwrap();
    simulator.control().set_credentials(ORGANIZATION, USERNAME, PASSWORD);
    let proxy = ConnectProxy::plain(Manner::Lead(simulator.address()));
    let mut hunt = hunt_for_egress();
    hunt.said(setup_behind(&simulator, &proxy).output_of(&["check", "--online"]).all());
    let mut setup = setup_behind(&simulator, &proxy);
    setup.account("token_wait", "10s");
    let mut sidecar = setup.start();
    for path in ["/_sim/echo", "/_sim/reset-before", "/_sim/garbage", "/customers/canary-id"] {
        hunt.answered(&sidecar.send(&marked("GET", path)));
    }
    assert!(sidecar.stop().success());
    hunt.said(sidecar.logs());
    // What the proxy is told is not for the upstream.
    let seen = simulator.control().requests();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.values("proxy-authorization").is_empty()));
    hunt.tokens_of(&simulator);
    hunt.ends();
}
