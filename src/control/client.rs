//! Sends the requests of `status`, `rules`, `login`, `logout`, `reload` and `shutdown` to the daemon's control socket.
//!
//! Guarantees: an error names the socket, says why it is that one, and what to do.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::{
    problem::ControlProblem,
    routes::ControlRequest,
    socket_path::{self, ControlSocketPath, PathReason, SYSTEM_DIRECTORY},
};
use crate::{
    config::{
        ControlSocket,
        source::{Fault, Setting, ValueOrigin},
    },
    local_http::{self, LocalEndpoint, LocalHttpError, LocalResponse},
};

/// Why the daemon did not do what was requested.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The settings say `control_socket = "off"`.
    #[error(
        "the control socket is off ({0}): there is no way to reach the daemon\n  hint: set control_socket (CAREPORTALS_CONTROL_SOCKET) to a path, or unset it, and restart the daemon"
    )]
    Off(ValueOrigin),
    /// No setting names a socket, and this machine has none of the default directories.
    #[error(
        "there is no default place for a control socket here: no {SYSTEM_DIRECTORY}, and neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set\n  hint: name the daemon's socket with --control-socket or CAREPORTALS_CONTROL_SOCKET; `control` of `health and metrics` in its log, or of `control socket` where telemetry is off, says where it is; if it has none, start it with CAREPORTALS_CONTROL_SOCKET"
    )]
    NoDefaultPath,
    /// The setting `control_socket` is wrong.
    #[error("{0}")]
    Setting(Fault),
    /// The name can't be that of an account or an API. Such a name is never sent, so it needs no escaping.
    #[error("there is no {0} {1:?}: names are made of a-z, 0-9 and `-`")]
    Name(&'static str, String),
    /// The socket could not be reached, or gave no answer.
    #[error("cannot reach the daemon at {}: {error}\n  ({})\n  hint: {}", socket.path.display(), socket.reason, hint(socket, error))]
    Unreachable {
        /// The socket that was tried.
        socket: ControlSocketPath,
        error: LocalHttpError,
    },
    /// Another program answers there.
    #[error("what answers at {} is not a sidecar of ours (status {status})\n  ({})", socket.path.display(), socket.reason)]
    NotOurs {
        /// The socket that was tried.
        socket: ControlSocketPath,
        /// The HTTP status of its answer.
        status: u16,
    },
    /// The daemon refused, or it failed to do it.
    #[error("{0}")]
    Problem(Box<ControlProblem>),
}

impl ControlError {
    /// Whether no daemon was reached, which may still run.
    #[must_use]
    pub const fn is_unreached(&self) -> bool {
        matches!(self, Self::Off(_) | Self::NoDefaultPath | Self::Unreachable { .. })
    }
}

/// Sends `request` to the daemon that `socket` leads to, and returns the body of its answer when that has a 2xx status, with the
/// file of its socket. It blocks until the answer is there: ten seconds at most, and ten minutes for `login` and `reload` of a
/// daemon that has just answered.
///
/// # Errors
///
/// The daemon was not reached, or it did not do it; see [`ControlError`].
pub fn send(socket: Setting<ControlSocket>, request: ControlRequest<'_>) -> Result<(Vec<u8>, PathBuf), ControlError> {
    if let Some((what, name)) = request.named().filter(|(_, name)| !is_name(name)) {
        return Err(ControlError::Name(what, name.to_owned()));
    }
    let socket = match socket.value.map_err(ControlError::Setting)? {
        ControlSocket::Off => return Err(ControlError::Off(socket.origin)),
        ControlSocket::Path(path) => ControlSocketPath { path, reason: PathReason::Configured(socket.origin) },
        ControlSocket::Default(directories) => socket_path::for_client(&directories).ok_or(ControlError::NoDefaultPath)?,
    };
    let endpoint = LocalEndpoint::Unix(socket.path.clone());
    let ask =
        |request: ControlRequest<'_>| local_http::request(&endpoint, request.method(), &request.target(), request.time_limit());
    // One that is stopped or stuck would be waited for as long as a log-in may take.
    let takes_long = request.time_limit() > ControlRequest::Status.time_limit();
    let is_there = if takes_long { ask(ControlRequest::Status).map(drop) } else { Ok(()) };
    match is_there.and_then(|()| ask(request)) {
        Ok(answer) => success_body(answer, &socket).map(|body| (body, socket.path)),
        Err(error) => Err(ControlError::Unreachable { socket, error }),
    }
}

fn success_body(answer: LocalResponse, socket: &ControlSocketPath) -> Result<Vec<u8>, ControlError> {
    if matches!(answer.status, 200..300) {
        return Ok(answer.body);
    }
    match serde_json::from_slice(&answer.body) {
        Ok(problem) => Err(ControlError::Problem(Box::new(problem))),
        Err(_) => Err(ControlError::NotOurs { socket: socket.clone(), status: answer.status }),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn hint(socket: &ControlSocketPath, error: &LocalHttpError) -> String {
    let elsewhere = "name its socket with --control-socket or CAREPORTALS_CONTROL_SOCKET if it has another";
    match error {
        LocalHttpError::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let me = rustix::process::geteuid().as_raw();
            let own = match socket.reason {
                PathReason::System => "; a daemon of your own has its socket under $XDG_RUNTIME_DIR",
                PathReason::Configured(_) | PathReason::Service | PathReason::User => "",
            };
            format!(
                "the socket is for root and for the daemon's own user; you are user id {me}. Try sudo, or set control_allow_uids = [{me}] and restart the daemon{own}"
            )
        }
        LocalHttpError::Silent(_) => "it listens but does not answer: it may be stopped or stuck; see its log".to_owned(),
        LocalHttpError::NotHttp => format!("something else listens there; {elsewhere}"),
        LocalHttpError::Connect(_) | LocalHttpError::Cut if matches!(socket.reason, PathReason::Configured(_)) => {
            "is the daemon running, and with the same control_socket?".to_owned()
        }
        LocalHttpError::Connect(_) | LocalHttpError::Cut => format!("is the daemon running? Start it with `run`, or {elsewhere}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(reason: PathReason) -> ControlSocketPath {
        ControlSocketPath { path: "/run/x.sock".into(), reason }
    }

    fn configured() -> PathReason {
        PathReason::Configured(ValueOrigin::Flag("--control-socket".to_owned()))
    }

    fn answered(status: u16, body: &str) -> Result<Vec<u8>, ControlError> {
        let answer = LocalResponse { status, content_type: String::new(), body: body.as_bytes().to_vec() };
        success_body(answer, &socket(configured()))
    }

    #[test]
    fn a_success_gives_its_body_a_problem_its_words_and_anything_else_is_not_ours() {
        let answered = |status, body| answered(status, body).map_err(|error| error.to_string());
        assert_eq!(answered(200, "a"), Ok(b"a".to_vec()));
        assert_eq!(answered(299, "a"), Ok(b"a".to_vec()));
        assert_eq!(answered(409, r#"{"detail": "the daemon is stopping"}"#), Err("the daemon is stopping".to_owned()));
        for status in [199, 300, 404] {
            let said = answered(status, "<html>").unwrap_err();
            assert!(
                said.starts_with(&format!("what answers at /run/x.sock is not a sidecar of ours (status {status})")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_name_that_can_not_be_one_is_never_sent() {
        for (name, expected) in [
            ("a", true),
            ("crm-2", true),
            ("", false),
            ("A", false),
            ("a b", false),
            ("a&b", false),
            ("ä", false),
            ("a_b", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }

    #[test]
    fn only_an_error_that_reached_no_daemon_leaves_it_to_be_asked_elsewhere() {
        let unreachable = ControlError::Unreachable { socket: socket(configured()), error: LocalHttpError::NotHttp };
        let problem = answered(409, r#"{"detail": ""}"#);
        for (error, expected) in [
            (ControlError::Off(ValueOrigin::Default), true),
            (ControlError::NoDefaultPath, true),
            (unreachable, true),
            (ControlError::Name("account", "A".to_owned()), false),
            (problem.unwrap_err(), false),
        ] {
            assert_eq!(error.is_unreached(), expected, "{error}");
        }
    }

    #[test]
    fn a_hint_fits_the_error_and_the_reason_for_the_socket() {
        let connect = |kind: io::ErrorKind| LocalHttpError::Connect(kind.into());
        let hint = |reason, error| super::hint(&socket(reason), &error);
        let denied = |reason| hint(reason, connect(io::ErrorKind::PermissionDenied));
        assert!(denied(PathReason::System).ends_with("a daemon of your own has its socket under $XDG_RUNTIME_DIR"));
        assert!(denied(PathReason::User).ends_with("restart the daemon"));
        for reason in [configured(), PathReason::System] {
            assert!(hint(reason.clone(), LocalHttpError::NotHttp).starts_with("something else listens there"));
            let refused = hint(reason.clone(), connect(io::ErrorKind::ConnectionRefused));
            assert_eq!(refused, hint(reason.clone(), LocalHttpError::Cut));
            let own = "is the daemon running, and with the same control_socket?";
            assert_eq!(refused == own, reason != PathReason::System, "{refused}");
        }
    }

    #[test]
    fn an_unreached_socket_is_named_with_the_reason_why_it_is_that_one() {
        let error = ControlError::Unreachable { socket: socket(PathReason::User), error: LocalHttpError::Cut };
        let said = error.to_string();
        assert!(said.starts_with("cannot reach the daemon at /run/x.sock: "), "{said}");
        assert!(said.contains("\n  (the default: under $XDG_RUNTIME_DIR)\n  hint: is the daemon running? "), "{said}");
    }
}
