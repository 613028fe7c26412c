//! The demo's steps: each makes real calls, checks what came of them, and prints it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use careportals_simulator::{Control, RecordedRequest};
use http::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    DemoError,
    narration::Narration,
    setup::{RELOGIN_FLOOR, Setup},
};
use crate::{
    clock,
    local_http::{self, LocalEndpoint, LocalResponse},
    proxy::Code,
    resources::Runtime,
};

/// The path that the app calls.
pub(super) const ACCOUNT: &str = "/users/account";

/// The limit for what a step waits for. Nothing takes that long unless it is broken; it is longer than the sidecar lets a
/// request wait for a token.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// The time between two calls while the demo waits for the renewal of the token.
const CALL_INTERVAL: Duration = Duration::from_millis(250);

/// The life of the token whose renewal the demo shows.
const SHORT_LIFE: Duration = Duration::from_secs(3);

/// The life of the tokens after it.
const LONG_LIFE: Duration = Duration::from_secs(3600);

/// How many characters of a token are printed. They are part of its header, which is the same for every token.
const PRINTED_TOKEN: usize = 10;

/// Why a step failed.
pub(super) enum StepError {
    /// Its text could not be printed.
    Output(io::Error),
    /// Its outcome was not the expected one, which the text explains.
    Unexpected(String),
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl StepError {
    fn in_step(self, number: usize, title: &'static str) -> DemoError {
        match self {
            Self::Output(error) => DemoError::Output(error),
            Self::Unexpected(why) => DemoError::Step { number, title, why },
        }
    }
}

/// Runs the steps, with what they need.
pub(super) struct Steps<'a, W> {
    setup: &'a Setup,
    narration: &'a mut Narration<W>,
    runtime: Runtime,
    /// The sidecar, as the app knows it.
    sidecar: LocalEndpoint,
}

/// A step: its title, and the function that makes its calls.
type TitledStep<'a, W> = (&'static str, fn(&mut Steps<'a, W>) -> Result<(), StepError>);

impl<'a, W: Write> Steps<'a, W> {
    /// Prepares the steps.
    ///
    /// # Errors
    ///
    /// The system refused what the client needs.
    pub(super) fn new(setup: &'a Setup, narration: &'a mut Narration<W>) -> Result<Self, DemoError> {
        let address = setup.addresses.first().copied().ok_or(DemoError::NoPort)?;
        let runtime = local_http::runtime().map_err(DemoError::System)?;
        Ok(Self { setup, narration, runtime, sidecar: LocalEndpoint::Tcp(address) })
    }

    /// Runs and prints the steps, up to the first that fails.
    ///
    /// # Errors
    ///
    /// A step had an unexpected outcome, or the output can't be written.
    pub(super) fn run(&mut self) -> Result<(), DemoError> {
        let steps: [TitledStep<'a, W>; 6] = [
            ("Both are up", Self::both_are_up),
            ("The sidecar logs in by itself", Self::logs_in),
            ("Your app calls, without a token", Self::call_without_token),
            ("CarePortals revokes the token, and your app does not notice", Self::revocation),
            ("A token is about to expire, and is renewed before it does", Self::renewal),
            ("Nobody gets a token through the sidecar", Self::refusal),
        ];
        self.narration
            .title(
                "careportals-sidecar demo",
                "The sidecar in front of a simulated CarePortals, both in this process. All people are invented.",
            )
            .map_err(DemoError::Output)?;
        for (index, (title, step)) in steps.into_iter().enumerate() {
            let number = index + 1;
            self.narration.step(number, title).map_err(DemoError::Output)?;
            step(self).map_err(|error| error.in_step(number, title))?;
        }
        Ok(())
    }

    fn both_are_up(&mut self) -> Result<(), StepError> {
        let listening: Vec<String> = self.setup.addresses.iter().map(ToString::to_string).collect();
        self.narration.fact("CarePortals", &self.setup.upstream(), "simulated, over real TLS")?;
        self.narration.fact("sidecar", &base_url(self.setup), &format!("listens on {}", listening.join(" and ")))?;
        Ok(())
    }

    fn logs_in(&mut self) -> Result<(), StepError> {
        let has_answered = |control: &Control| control.logins().iter().any(|login| login.status != 0);
        if !self.control().wait_until(STEP_TIMEOUT, has_answered) {
            return Err(unexpected("no log-in reached the simulator"));
        }
        let logins = self.control().logins();
        let Some(login) = logins.first() else { return Err(unexpected("the log-in is gone")) };
        let note = format!("organization {}", login.organization);
        self.narration.call("sidecar", &Method::POST, &login.path, login.status, &note)?;
        expect("the log-in's answer", 201, login.status)?;
        self.narration.fact("log-ins so far", &self.logins_so_far().to_string(), "")?;
        self.narration.remark("The token stays in the sidecar's memory: no file, no log, no answer holds it.")?;
        Ok(())
    }

    fn call_without_token(&mut self) -> Result<(), StepError> {
        let answer = self.call_and_print(ACCOUNT)?;
        expect("the call's answer", 200, answer.status)?;
        let requests = self.control().requests();
        let Some(received) = requests.iter().rev().find(|request| request.target == ACCOUNT) else {
            return Err(unexpected("the call did not reach the simulator"));
        };
        let (token, organization) = (single(received, "authorization")?, single(received, "organization")?);
        let Some(token) = token.strip_prefix("Bearer ") else { return Err(unexpected("the call came without a bearer")) };
        self.narration.remark("What CarePortals received:")?;
        self.narration.fact("authorization", &format!("Bearer {}", shortened(token)), "added by the sidecar")?;
        self.narration.fact("organization", organization, "added by the sidecar")?;
        let others = received.headers.iter().map(|(name, _)| name.as_str());
        let others: Vec<&str> = others.filter(|name| !["authorization", "organization"].contains(name)).collect();
        self.narration.fact("other headers", &others.join(", "), "")?;
        Ok(())
    }

    fn revocation(&mut self) -> Result<(), StepError> {
        // The sidecar would pass the 401 on if the token were younger than the floor.
        self.runtime.block_on(async { sleep(RELOGIN_FLOOR * 2).await });
        let before = self.logins_so_far();
        self.control().set_token_life(SHORT_LIFE);
        self.control().revoke_tokens();
        let answer = self.call_and_print(ACCOUNT)?;
        self.control().set_token_life(LONG_LIFE);
        expect("the call's answer", 200, answer.status)?;
        let logins = self.logins_so_far();
        if logins <= before || self.control().counts().unauthorized == 0 {
            return Err(unexpected("the revoked token was not refused, or not replaced"));
        }
        self.narration.fact("log-ins so far", &format!("{before} → {logins}"), "")?;
        self.narration.remark("CarePortals answered 401; the sidecar logged in anew and sent the call once more.")?;
        Ok(())
    }

    fn renewal(&mut self) -> Result<(), StepError> {
        // The earlier steps have shown two log-ins.
        let (before, deadline) = (2, clock::instant() + STEP_TIMEOUT);
        let mut calls = 0;
        let life = SHORT_LIFE.as_secs();
        self.narration
            .remark(&format!("The new token lives {life} s. It is renewed after about half of that, in the background."))?;
        loop {
            let answer = self.call(Method::GET, ACCOUNT)?;
            expect("the answer of a call meanwhile", 200, answer.status)?;
            calls += 1;
            if self.control().wait_until(CALL_INTERVAL, |control| control.counts().login_ok > before) {
                break;
            }
            if clock::instant() >= deadline {
                return Err(unexpected("the token was not renewed"));
            }
        }
        self.narration.fact("your app", &format!("{calls} calls meanwhile"), "each answered 200")?;
        self.call_and_print(ACCOUNT).and_then(|answer| expect("the next answer", 200, answer.status))?;
        self.narration.fact("log-ins so far", &format!("{before} → {}", self.logins_so_far()), "")?;
        Ok(())
    }

    fn refusal(&mut self) -> Result<(), StepError> {
        let before = self.control().counts().logins;
        let answer = self.call(Method::POST, &self.setup.login_path)?;
        let problem: Value = serde_json::from_slice(&answer.body).map_err(|_| unexpected("the answer is no problem document"))?;
        let named = problem["code"].as_str().unwrap_or_default();
        let code = Code::ALL.iter().find(|code| code.as_str() == named);
        self.narration.call("your app", &Method::POST, &self.setup.login_path, answer.status, &answer.content_type)?;
        self.narration.fact("the sidecar", named, code.map_or("", |code| code.title()))?;
        expect("the answer", 403, answer.status)?;
        if code != Some(&Code::LoginPath) {
            return Err(unexpected("refused for another reason than the path"));
        }
        if self.control().counts().logins != before {
            return Err(unexpected("the refused call reached the simulator"));
        }
        self.narration.remark("The call never reached CarePortals.")?;
        Ok(())
    }

    /// Calls the sidecar as an app does that knows no token, no organization and no TLS.
    fn call(&self, method: Method, target: &str) -> Result<LocalResponse, StepError> {
        let answer = self.runtime.block_on(local_http::send(&self.sidecar, method, target, STEP_TIMEOUT));
        answer.map_err(|error| StepError::Unexpected(format!("no answer from the sidecar: {error}")))
    }

    /// Makes a call and prints it.
    fn call_and_print(&mut self, target: &str) -> Result<LocalResponse, StepError> {
        let answer = self.call(Method::GET, target)?;
        let what = format!("{}, {} bytes", answer.content_type, answer.body.len());
        self.narration.call("your app", &Method::GET, target, answer.status, &what)?;
        Ok(answer)
    }

    fn control(&self) -> &'a Control {
        self.setup.control()
    }

    fn logins_so_far(&self) -> u64 {
        self.control().counts().login_ok
    }
}

/// The base URL that an app would be given.
pub(super) fn base_url(setup: &Setup) -> String {
    let port = setup.addresses.first().map_or(0, SocketAddr::port);
    format!("http://localhost:{port}")
}

fn shortened(token: &str) -> String {
    let beginning: String = token.chars().take(PRINTED_TOKEN).collect();
    format!("{beginning}…")
}

/// Returns the only value of a header that the simulator received.
fn single<'r>(received: &'r RecordedRequest, name: &str) -> Result<&'r str, StepError> {
    match received.values(name)[..] {
        [value] => Ok(value),
        _ => Err(unexpected("the call came with no or several of a header that the sidecar adds")),
    }
}

fn expect(what: &str, expected: u16, got: u16) -> Result<(), StepError> {
    if got == expected { Ok(()) } else { Err(StepError::Unexpected(format!("{what}: expected {expected}, got {got}"))) }
}

fn unexpected(why: &str) -> StepError {
    StepError::Unexpected(why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use careportals_simulator::LoginFault;

    use super::*;
    use crate::{
        clock::SystemClock,
        config::{Log, LogFormat, source::Environment},
        logging::{Logging, Reader},
    };

    #[test]
    fn a_step_with_an_unexpected_outcome_is_named_and_no_step_follows() {
        let log = Log { filter: "off".to_owned(), format: LogFormat::Json, access: false };
        let logging = Logging::build(&log, io::sink(), Reader::Unknown, Arc::new(SystemClock)).unwrap();
        let setup = Setup::start(logging.access_log(), &Environment::default()).unwrap();
        assert!(setup.control().wait_until(STEP_TIMEOUT, |control| control.counts().login_ok == 1));
        setup.control().set_login_fault(Some(LoginFault::Status(500)));
        let mut out = Vec::new();
        let outcome = Steps::new(&setup, &mut Narration::new(&mut out, false, None)).and_then(|mut steps| steps.run());
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with("step 4 (CarePortals revokes the token"), "{error}");
        assert!(error.ends_with("failed: the call's answer: expected 200, got 401"), "{error}");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("\n4  ") && !out.contains("\n5  "), "{out}");
        assert!(!setup.is_stopping());
        setup.stop().unwrap();
    }
}
