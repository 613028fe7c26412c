//! The commands that talk to a running daemon: what they ask, print and exit with.
//!
//! Depends on `control` and on the `status` table. Exit code 0 means that the daemon has done it, or will (`shutdown`).

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Deserialize;

use super::{EX_CONFIG, fail, note_faults, print, status};
use crate::{
    config::source::{self, Input},
    control::{self, ControlError, ControlRequest},
    logging::Reader,
};

/// `status`. `json`: the document as it came.
pub(super) fn status(input: Input, json: bool) -> ExitCode {
    let colour = Reader::of(&io::stdout(), &input.environment) == Reader::Terminal { colour: true };
    let document = match ask(input, ControlRequest::Status) {
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

/// What was done to accounts.
#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    now: String,
    accounts: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    name: String,
    #[serde(default)]
    expires_at: Option<String>,
}

/// `login`: done when the outcome is known.
pub(super) fn log_in(input: Input, account: Option<&str>) -> ExitCode {
    accounts(input, ControlRequest::LogIn(account), |account, now| match &account.expires_at {
        Some(at) => format!("logged in; the token expires {}", status::relative_to(at, now)),
        None => "logged in".to_owned(),
    })
}

/// `logout`.
pub(super) fn log_out(input: Input, account: Option<&str>) -> ExitCode {
    accounts(input, ControlRequest::LogOut(account), |_, _| "logged out".to_owned())
}

fn accounts(input: Input, request: ControlRequest<'_>, said: impl Fn(&Account, &str) -> String) -> ExitCode {
    let answer = match ask(input, request) {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    // The status alone says that it is done; an answer of another version may say it differently.
    let done = serde_json::from_slice(&answer).unwrap_or(Done { now: String::new(), accounts: Vec::new() });
    print(|out| {
        for account in &done.accounts {
            writeln!(out, "{}: {}", status::printable(&account.name), said(account, &done.now))?;
        }
        Ok(())
    })
}

/// `reload`: done when the settings have been taken over or refused.
pub(super) fn reload(input: Input) -> ExitCode {
    tell(input, ControlRequest::Reload, "reloaded")
}

/// `shutdown`: what is in flight may still finish.
pub(super) fn shut_down(input: Input) -> ExitCode {
    tell(input, ControlRequest::Shutdown, "shutting down: what is in flight may finish within drain_timeout")
}

fn tell(input: Input, request: ControlRequest<'_>, done: &str) -> ExitCode {
    match ask(input, request) {
        Ok(_) => print(|out| writeln!(out, "{done}")),
        Err(code) => code,
    }
}

/// The daemon's answer, or the exit code after it was said why there is none.
fn ask(input: Input, request: ControlRequest<'_>) -> Result<Vec<u8>, ExitCode> {
    let daemon = source::daemon_address(&input);
    control::ask(daemon.control, request).map_err(|error| {
        let code = fail(&error, if matches!(error, ControlError::Setting(_)) { EX_CONFIG } else { 1 });
        // A daemon that answers has settings of its own.
        if !matches!(error, ControlError::Problem(_)) {
            note_faults(&daemon.faults);
        }
        code
    })
}
