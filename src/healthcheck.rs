//! `healthcheck`: asks the telemetry listener whether the daemon is healthy, for probes and for `HEALTHCHECK` in an image
//! without a shell.
//!
//! A container runs this every few seconds, so it needs no credentials, no TLS and no thread.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use serde::Deserialize;
use thiserror::Error;

use crate::{
    clock,
    config::{
        reachable,
        source::{Fault, Setting, ValueOrigin},
    },
    local_http::{self, LocalEndpoint, LocalHttpError, LocalResponse},
};

/// The time limit of one answer. The daemon is on this machine, but takes some seconds to find that a worker is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time limit of the last answer, however little of `wait` is left.
const LEAST: Duration = Duration::from_millis(200);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// The question that the daemon has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Do the event loops run?
    Live,
    /// Are the settings valid, and are all listeners bound?
    Started,
    /// Is there a token for every account?
    Ready,
}

impl Probe {
    /// What the daemon is when the answer is yes.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Started => "started",
            Self::Ready => "ready",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Started => "/startupz",
            Self::Ready => "/readyz",
        }
    }
}

/// Why the check has failed.
#[derive(Debug, Error)]
pub enum Unhealthy {
    /// The telemetry listener is off.
    #[error(
        "the telemetry listener is off ({0}), so there is nobody to ask\n  hint: set telemetry_listen (CAREPORTALS_TELEMETRY_LISTEN) to an address, such as 127.0.0.1:2274"
    )]
    Off(ValueOrigin),
    /// The settings leave the port to the kernel, so it is not known here.
    #[error(
        "telemetry_listen has port 0 ({0}): which port that became can't be known from here\n  hint: give it a port of its own, such as 2274, or ask the address that `status` shows"
    )]
    AnyPort(ValueOrigin),
    /// The setting of the listener is wrong.
    #[error("{0}")]
    Setting(Fault),
    /// The listener did not answer.
    #[error(
        "cannot ask {address} (telemetry_listen: {origin}): {error}\n  hint: is the daemon running, and with the same telemetry_listen?"
    )]
    NoAnswer {
        address: SocketAddr,
        /// The origin of the address in the settings.
        origin: ValueOrigin,
        /// Why there is no answer.
        error: LocalHttpError,
    },
    /// The daemon answered with no.
    #[error("not {}: {why}", probe.word())]
    Not {
        /// The probe that was answered in the negative.
        probe: Probe,
        /// The reasons that the daemon gave.
        why: String,
    },
}

/// Asks once; while the answer is no, asks again until `wait` has passed. Blocks the thread.
pub fn run(listener: Setting<Option<SocketAddr>>, probe: Probe, wait: Duration) -> Result<(), Unhealthy> {
    let origin = listener.origin;
    let Some(address) = listener.value.map_err(Unhealthy::Setting)? else { return Err(Unhealthy::Off(origin)) };
    if address.port() == 0 {
        return Err(Unhealthy::AnyPort(origin));
    }
    let address = reachable(address);
    let no_answer = |error| Unhealthy::NoAnswer { address, origin: origin.clone(), error };
    let runtime = local_http::runtime().map_err(|error| no_answer(LocalHttpError::Connect(error)))?;
    runtime.block_on(async {
        let start = clock::instant();
        loop {
            let left = wait.saturating_sub(start.elapsed());
            let limit = if wait.is_zero() { PATIENCE } else { PATIENCE.min(left.max(LEAST)) };
            let answer = local_http::send(&LocalEndpoint::Tcp(address), Method::GET, probe.path(), limit).await;
            let outcome = answer.map_err(no_answer).and_then(|answer| judge(probe, &answer));
            let left = wait.saturating_sub(start.elapsed());
            if outcome.is_ok() || left.is_zero() {
                return outcome;
            }
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    })
}

/// The body of `/readyz`; other endpoints have none like it.
#[derive(Deserialize)]
struct Reasons {
    reasons: Vec<UnreadyReason>,
}

#[derive(Deserialize)]
struct UnreadyReason {
    account: Option<String>,
    code: String,
    detail: Option<String>,
}

fn judge(probe: Probe, answer: &LocalResponse) -> Result<(), Unhealthy> {
    if answer.status == 200 {
        return Ok(());
    }
    let reasons: Vec<UnreadyReason> = serde_json::from_slice(&answer.body).map(|said: Reasons| said.reasons).unwrap_or_default();
    let sentences = reasons.into_iter().map(|reason| {
        let account = reason.account.map(|name| format!("account {name}: ")).unwrap_or_default();
        format!("{account}{}", reason.detail.unwrap_or(reason.code))
    });
    let why = sentences.collect::<Vec<_>>().join("; ");
    let why = match (why.is_empty(), line(&answer.body)) {
        (false, _) => why,
        (true, Some(line)) if answer.status == 503 => line,
        (true, _) if answer.status == 404 => {
            format!("{} was answered with status 404: does another program listen there?", probe.path())
        }
        (true, _) => format!("{} was answered with status {}", probe.path(), answer.status),
    };
    Err(Unhealthy::Not { probe, why })
}

/// The body, if it is one short line.
fn line(body: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(body).ok()?.trim();
    let is_line = !line.is_empty() && line.len() <= 200 && !line.contains(char::is_control);
    is_line.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_by_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:2274", "127.0.0.1:2274"),
            ("[::]:2274", "[::1]:2274"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("10.1.2.3:2274", "10.1.2.3:2274"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn an_unhealthy_daemons_reasons_are_shown() {
        for (status, body, expected) in [
            (200, "whatever", None),
            (503, "", Some("not ready: /readyz was answered with status 503")),
            (503, "starting\n", Some("not ready: starting")),
            (
                404,
                "{\"code\": \"not_found\"}",
                Some("not ready: /readyz was answered with status 404: does another program listen there?"),
            ),
            (
                503,
                r#"{"ready": false, "reasons": [{"account": "crm", "code": "rejected", "detail": "the server said no"},
                    {"account": null, "code": "draining"}]}"#,
                Some("not ready: account crm: the server said no; draining"),
            ),
        ] {
            let answer = LocalResponse { status, content_type: String::new(), body: body.as_bytes().to_vec() };
            let said = judge(Probe::Ready, &answer).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), expected);
        }
    }
}
