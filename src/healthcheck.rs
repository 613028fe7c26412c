//! `healthcheck`: asks the telemetry listener, for probes and for `HEALTHCHECK` in an image without a shell.
//!
//! Depends on `ask` and on where the settings say that the listener is. No credentials, no TLS, no runtime and no thread:
//! a container runs this every few seconds.

use std::{net::SocketAddr, time::Duration};

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

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Do the event loops turn?
    Live,
    /// Is the configuration valid, and does everybody listen?
    Started,
    /// Is there a token for every account?
    Ready,
}

impl Probe {
    /// What the answer is called when it is yes.
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

/// Why the answer is no.
#[derive(Debug, Error)]
pub enum Unhealthy {
    /// There is nobody to ask.
    #[error(
        "the telemetry listener is off ({0}), so there is nobody to ask\n  hint: set telemetry_listen (CAREPORTALS_TELEMETRY_LISTEN) to an address, such as 127.0.0.1:2274"
    )]
    Off(ValueOrigin),
    /// Nobody knows which port it became.
    #[error(
        "telemetry_listen has port 0 ({0}): which port that became can't be known from here\n  hint: give it a port of its own, such as 2274, or ask the address that `status` shows"
    )]
    AnyPort(ValueOrigin),
    /// The setting is wrong.
    #[error("{0}")]
    Setting(Fault),
    /// Nobody answered.
    #[error(
        "cannot ask {address} (telemetry_listen: {origin}): {error}\n  hint: is the daemon running, and with the same telemetry_listen?"
    )]
    NoAnswer {
        /// Who was asked.
        address: SocketAddr,
        /// Where that address comes from.
        origin: ValueOrigin,
        /// What happened.
        error: LocalHttpError,
    },
    /// The daemon says no.
    #[error("not {}: {why}", probe.word())]
    Not {
        /// To this question.
        probe: Probe,
        /// Its reasons.
        why: String,
    },
}

/// Asks once, or again and again for as long as `wait` says, until the answer is yes.
pub fn run(listener: Setting<Option<SocketAddr>>, probe: Probe, wait: Duration) -> Result<(), Unhealthy> {
    let origin = listener.origin;
    let Some(address) = listener.value.map_err(Unhealthy::Setting)? else { return Err(Unhealthy::Off(origin)) };
    if address.port() == 0 {
        return Err(Unhealthy::AnyPort(origin));
    }
    let address = reachable(address);
    let start = clock::instant();
    loop {
        let left = wait.saturating_sub(start.elapsed());
        let limit = if wait.is_zero() { PATIENCE } else { PATIENCE.min(left.max(LEAST)) };
        let outcome = match local_http::ask(&LocalEndpoint::Tcp(address), "GET", probe.path(), limit) {
            Ok(answer) => judge(probe, &answer),
            Err(error) => Err(Unhealthy::NoAnswer { address, origin: origin.clone(), error }),
        };
        let left = wait.saturating_sub(start.elapsed());
        if outcome.is_ok() || left.is_zero() {
            return outcome;
        }
        // Nobody unparks this thread; that it might wake early does no harm.
        std::thread::park_timeout(PAUSE.min(left));
    }
}

/// What readiness says (`/readyz`); other endpoints need not.
#[derive(Deserialize)]
struct Reasons {
    reasons: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    account: Option<String>,
    code: String,
    detail: Option<String>,
}

fn judge(probe: Probe, answer: &LocalResponse) -> Result<(), Unhealthy> {
    if answer.status == 200 {
        return Ok(());
    }
    let reasons: Vec<Reason> = serde_json::from_slice(&answer.body).map(|said: Reasons| said.reasons).unwrap_or_default();
    let sentences = reasons.into_iter().map(|reason| {
        let account = reason.account.map(|name| format!("account {name}: ")).unwrap_or_default();
        format!("{account}{}", reason.detail.unwrap_or(reason.code))
    });
    let why = sentences.collect::<Vec<_>>().join("; ");
    let why = match (why.is_empty(), line(&answer.body)) {
        (false, _) => why,
        (true, Some(line)) if answer.status == 503 => line,
        (true, _) => format!("{} was answered with status {}", probe.path(), answer.status),
    };
    Err(Unhealthy::Not { probe, why })
}

/// A body that is one short line.
fn line(body: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(body).ok()?.trim();
    let is_line = !line.is_empty() && line.len() <= 200 && !line.contains(char::is_control);
    is_line.then(|| line.to_owned())
}

/// For one answer. The daemon is on this machine, but takes some seconds to say that a worker is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the last one before time is up.
const LEAST: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(100);

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
    fn reasons_are_told_as_far_as_there_are_any() {
        for (status, body, expected) in [
            (200, "whatever", None),
            (503, "", Some("not ready: /readyz was answered with status 503")),
            (503, "starting\n", Some("not ready: starting")),
            (404, "{\"code\": \"not_found\"}", Some("not ready: /readyz was answered with status 404")),
            (
                503,
                r#"{"ready": false, "reasons": [{"account": "crm", "code": "rejected", "detail": "the server said no"},
                    {"account": null, "code": "draining"}]}"#,
                Some("not ready: account crm: the server said no; draining"),
            ),
        ] {
            let answer = LocalResponse { status, body: body.as_bytes().to_vec() };
            let said = judge(Probe::Ready, &answer).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), expected);
        }
    }
}
