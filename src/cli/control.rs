//! Runs the commands that talk to a running daemon: each sends one request and prints the answer.
//!
//! Exit code 0 means that the daemon has done it; with `shutdown`, that it has begun to.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{EX_CONFIG, fail, note_faults, print, status};
use crate::{
    config::source::{self, Input},
    control::{self, ControlError, ControlRequest, RulesDocument},
    logging::Reader,
    status::StatusDocument,
};

/// Runs `status`. With `json` it prints the daemon's document as it is, else a table.
pub(super) fn status(input: &Input, json: bool) -> ExitCode {
    let colour = Reader::of(&io::stdout(), &input.environment) == Reader::Terminal { colour: true };
    let document = match send(input, ControlRequest::Status) {
        Ok(document) => document,
        Err(code) => return code,
    };
    if json {
        return print(|out| {
            out.write_all(&document)?;
            if document.ends_with(b"\n") { Ok(()) } else { writeln!(out) }
        });
    }
    match serde_json::from_slice(&document) {
        Ok(document) => print(|out| out.write_all(status::table(&document, colour).as_bytes())),
        Err(_) => fail(&"the daemon's answer is not a status document; is it of another version? `status --json` shows it", 1),
    }
}

/// Runs `rules`. Standard output gets TOML that can stand in the API's table, and nothing else.
pub(super) fn rules(input: &Input, api: Option<&str>) -> ExitCode {
    let answer = match send(input, ControlRequest::Rules(api)) {
        Ok(answer) => answer,
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
        drop(writeln!(io::stderr().lock(), "note: {}", status::printable(&note)));
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
    let answer = match send(input, request) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    // The answer to a log-in and a log-out is a status document of the accounts. Its HTTP status alone says that it is done;
    // another version may send another document.
    let done: StatusDocument = serde_json::from_slice(&answer).unwrap_or_default();
    print(|out| match request {
        ControlRequest::Reload => writeln!(out, "reloaded"),
        ControlRequest::Shutdown => writeln!(out, "shutting down: what is in flight may finish within drain_timeout"),
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

/// Returns the daemon's answer. If there is none, it prints why and returns the exit code.
fn send(input: &Input, request: ControlRequest<'_>) -> Result<Vec<u8>, ExitCode> {
    let daemon = source::daemon_address(input);
    control::send(daemon.control, request).map_err(|error| {
        let code = fail(&error, if matches!(error, ControlError::Setting(_)) { EX_CONFIG } else { 1 });
        // A daemon that answered was found, so faults in the settings here don't matter.
        if !matches!(error, ControlError::Problem(_)) {
            note_faults(&daemon.faults);
        }
        code
    })
}
