//! Runs the commands that talk to a running daemon: each sends one request and prints the answer.
//!
//! Exit code 0 means that the daemon has done it; with `shutdown`, that it has begun to.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use http::Method;

use super::{EX_CONFIG, arguments::ClientFlags, errors, fail, note_faults, print, status, written};
use crate::{
    config::{
        reachable,
        source::{self, DaemonAddress, Fault, Input},
    },
    control::{self, ControlError, ControlRequest, RulesDocument},
    local_http::{self, LocalEndpoint},
    logging::{BlockingOutput, Reader},
    status::StatusDocument,
};

/// How often `status --watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The time limit of the telemetry listener's answer.
const TELEMETRY_PATIENCE: Duration = Duration::from_secs(5);

/// How `status` shows a document.
#[derive(Clone, Copy)]
struct View {
    /// As it came, else as a table.
    json: bool,
    colour: bool,
    /// Each document replaces the one before.
    clears: bool,
}

/// Runs `status`. With `json` it prints the daemon's document as it is, else a table; with `watch` again and again.
pub(super) fn status(flags: ClientFlags, json: bool, watch: bool) -> ExitCode {
    let may_ask_telemetry = !flags.name_a_daemon();
    let input = flags.input();
    let reader = Reader::of(&io::stdout(), &input.environment);
    let is_terminal =
        matches!(reader, Reader::Terminal { .. }) && input.environment.get("TERM").is_none_or(|term| term != "dumb");
    let colour = reader == Reader::Terminal { colour: true };
    let view = View { json, colour, clears: watch && !json && is_terminal };
    if watch {
        return self::watch(&input, may_ask_telemetry, view);
    }
    match ask_for_status(&input, may_ask_telemetry) {
        Ok(answer) => {
            tell(answer.note.as_deref());
            view.refuse(&answer).unwrap_or_else(|| print(|out| view.show(&answer, out)))
        }
        Err(failure) => failure.print(),
    }
}

/// Shows the status again and again, until standard output is closed. A daemon that does not answer may be restarting.
fn watch(input: &Input, may_ask_telemetry: bool, view: View) -> ExitCode {
    let Ok(runtime) = local_http::runtime() else { return ExitCode::FAILURE };
    let mut told = None;
    let mut show_next = || {
        let asked = ask_for_status(input, may_ask_telemetry);
        let failed = |error| written(Err(error), ExitCode::SUCCESS);
        let mut out = BlockingOutput(io::stdout().lock());
        if view.clears {
            out.write_all(b"\x1b[H\x1b[J").and_then(|()| out.flush()).map_err(failed)?;
        }
        match asked {
            Ok(answer) => {
                // A screen that was cleared no longer shows it.
                tell(answer.note.as_deref().filter(|_| view.clears || told != answer.note));
                view.refuse(&answer).map_or(Ok(()), Err)?;
                view.show(&answer, &mut out).map_err(failed)?;
                told = answer.note;
            }
            Err(failure) => drop(failure.print()),
        }
        let ended = if view.json || view.clears { Ok(()) } else { writeln!(out) };
        ended.and_then(|()| out.flush()).map_err(failed)
    };
    loop {
        if let Err(code) = show_next() {
            return code;
        }
        runtime.block_on(async { tokio::time::sleep(WATCH_INTERVAL).await });
    }
}

fn tell(note: Option<&str>) {
    if let Some(note) = note {
        drop(writeln!(errors(), "note: {note}"));
    }
}

impl View {
    /// Says that an answer can't be shown, and returns the exit code for it. `None`: it can be shown.
    fn refuse(self, answer: &StatusAnswer) -> Option<ExitCode> {
        let why = "the daemon's answer is not a status document; is it of another version? `status --json` shows it";
        (!self.json && answer.document.is_none()).then(|| fail(&why, 1))
    }

    fn show(self, answer: &StatusAnswer, out: &mut dyn Write) -> io::Result<()> {
        if self.json {
            out.write_all(&answer.raw)?;
            return if answer.raw.ends_with(b"\n") { Ok(()) } else { writeln!(out) };
        }
        let Some(document) = &answer.document else { return Err(io::ErrorKind::InvalidData.into()) };
        out.write_all(status::table(document, self.colour).as_bytes())
    }
}

/// What the daemon says of its state.
struct StatusAnswer {
    raw: Vec<u8>,
    /// `None`: it is of another version, or no status document.
    document: Option<StatusDocument>,
    /// Why it was not asked by its control socket.
    note: Option<String>,
}

/// Asks the daemon by its control socket, or by its telemetry listener where the socket can't be used.
fn ask_for_status(input: &Input, may_ask_telemetry: bool) -> Result<StatusAnswer, Box<Failure>> {
    let DaemonAddress { control, telemetry, faults } = source::daemon_address(input);
    let error = match control::send(control, ControlRequest::Status) {
        Ok((raw, _)) => {
            let document = serde_json::from_slice(&raw).ok();
            return Ok(StatusAnswer { raw, document, note: None });
        }
        Err(error) => error,
    };
    let address = telemetry.value.ok().flatten().filter(|address| address.port() != 0).map(reachable);
    // `--control-socket off` names no socket either.
    let may_ask_telemetry = may_ask_telemetry || matches!(error, ControlError::Off(_));
    let Some(address) = address.filter(|_| may_ask_telemetry && error.is_unreached()) else {
        return Err(Box::new(Failure { error, faults, telemetry: None }));
    };
    let why_not = match local_http::request(&LocalEndpoint::Tcp(address), Method::GET, "/status", TELEMETRY_PATIENCE) {
        Ok(answer) => match serde_json::from_slice::<StatusDocument>(&answer.body) {
            Ok(document) if answer.status == 200 && !document.version.is_empty() => {
                let why = match error {
                    ControlError::NoDefaultPath => "there is no default place for a control socket here".to_owned(),
                    other => other.to_string().lines().next().unwrap_or_default().to_owned(),
                };
                let note = format!("{why}; the telemetry listener at {address} answered instead");
                return Ok(StatusAnswer { raw: answer.body, document: Some(document), note: Some(note) });
            }
            _ => "what answers there is not a sidecar".to_owned(),
        },
        Err(unreached) => unreached.to_string(),
    };
    Err(Box::new(Failure { error, faults, telemetry: Some((address, why_not)) }))
}

/// Runs `rules`. Standard output gets TOML that can stand in the API's table, and nothing else.
pub(super) fn rules(input: &Input, api: Option<&str>) -> ExitCode {
    let answer = match send(input, ControlRequest::Rules(api)) {
        Ok((answer, _)) => answer,
        Err(code) => return code,
    };
    let Ok(RulesDocument { api, allow, full, left_out }) = serde_json::from_slice(&answer) else {
        return fail(&"the daemon's answer holds no rules; is it of another version?", 1);
    };
    let mut notes = Vec::new();
    if allow.is_empty() {
        notes.push(format!("the API {api} has seen no request yet that a rule could let through"));
    }
    if full {
        notes.push(format!("there are more kinds of requests than {}: the list is not complete", allow.len()));
    }
    if left_out > 0 {
        let why = "`deny` refuses them, or their path is not canonical, or their method is not a registered one";
        notes.push(format!("{left_out} requests are in no rule: {why}"));
    }
    for note in notes {
        drop(writeln!(errors(), "note: {}", status::printable(&note)));
    }
    print(|out| {
        writeln!(out, "allow = [")?;
        for rule in &allow {
            writeln!(out, "    {},", toml_edit::Value::from(rule.as_str()))?;
        }
        writeln!(out, "]")
    })
}

/// Runs `login`, `logout`, `reload` or `shutdown`. It returns when the outcome is known; after `shutdown`, requests in flight
/// still finish.
pub(super) fn command(input: &Input, request: ControlRequest<'_>) -> ExitCode {
    let (answer, socket) = match send(input, request) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    // The answer to a log-in and a log-out is a status document of the accounts. Its HTTP status alone says that it is done;
    // another version may send another document.
    let done: StatusDocument = serde_json::from_slice(&answer).unwrap_or_default();
    print(|out| match request {
        ControlRequest::Reload => writeln!(out, "reloaded"),
        ControlRequest::Shutdown => {
            // Several daemons may run here, and another one than the user means may have this socket.
            let asked: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            let process = asked["pid"].as_u64().map(|pid| format!(", process {pid}")).unwrap_or_default();
            let socket = socket.display();
            writeln!(out, "shutting down the daemon at {socket}{process}: what is in flight may finish within drain_timeout")
        }
        _ => done.accounts.iter().try_for_each(|account| {
            let outcome = match (request, &account.expires_at) {
                (ControlRequest::LogOut(_), _) => "logged out".to_owned(),
                (_, Some(at)) => format!("logged in; the token expires {}", status::relative_to(at, &done.now)),
                (_, None) => "logged in".to_owned(),
            };
            writeln!(out, "{}: {outcome}", status::printable(&account.name))
        }),
    })
}

/// Why the daemon did not do what was requested.
struct Failure {
    error: ControlError,
    /// What is wrong with the settings here.
    faults: Vec<Fault>,
    /// The telemetry listener that was asked as well, and why that failed.
    telemetry: Option<(SocketAddr, String)>,
}

impl Failure {
    /// Prints it on standard error, and returns the exit code.
    fn print(self) -> ExitCode {
        let code = fail(&self.error, if matches!(self.error, ControlError::Setting(_)) { EX_CONFIG } else { 1 });
        if let Some((address, why)) = self.telemetry {
            drop(writeln!(
                errors(),
                "note: nor is there an answer of the telemetry listener at {address}: {why}; is the daemon running?"
            ));
        }
        // A daemon that answered was found, so faults in the settings here don't matter.
        if !matches!(self.error, ControlError::Problem(_)) {
            note_faults(&self.faults, &self.error);
        }
        code
    }
}

/// Returns the daemon's answer, and the file of its socket. If there is none, it prints why and returns the exit code.
fn send(input: &Input, request: ControlRequest<'_>) -> Result<(Vec<u8>, PathBuf), ExitCode> {
    let DaemonAddress { control, faults, .. } = source::daemon_address(input);
    control::send(control, request).map_err(|error| {
        let code = Failure { error, faults, telemetry: None }.print();
        // These tell an outcome: it was not done.
        if matches!(request, ControlRequest::LogIn(_) | ControlRequest::Reload) { ExitCode::FAILURE } else { code }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: bool, raw: &str, document: Option<StatusDocument>) -> Result<String, io::ErrorKind> {
        let (view, mut out) = (View { json, colour: false, clears: false }, Vec::new());
        let answer = StatusAnswer { raw: raw.as_bytes().to_vec(), document, note: None };
        view.show(&answer, &mut out).map_err(|error| error.kind())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_document_is_shown_as_it_came_or_as_a_table_and_ends_its_line() {
        assert_eq!(shown(true, "{}\n", None).unwrap(), "{}\n");
        assert_eq!(shown(true, "{}", None).unwrap(), "{}\n");
        let document = StatusDocument { version: "7".to_owned(), ..StatusDocument::default() };
        assert!(shown(false, "{}", Some(document)).unwrap().starts_with("careportals-sidecar 7: "));
        assert_eq!(shown(false, "<html>", None), Err(io::ErrorKind::InvalidData));
    }
}
