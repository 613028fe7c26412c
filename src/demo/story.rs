//! The story: each step makes real calls, judges what came of them, and tells it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use careportals_simulator::{Control, RecordedRequest};
use http::{Method, StatusCode};
use serde::Deserialize;

use super::{
    DemoError,
    client::{CallError, CallResponse, Client},
    page::Narration,
    stage::{RELOGIN_FLOOR, Stage},
};
use crate::{clock, proxy::Code};

/// What the app asks for.
const ACCOUNT: &str = "/users/account";

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two calls of an app that is waiting for nothing in particular.
const PACE: Duration = Duration::from_millis(250);

/// Life of the token that the story sees renewed, and of those after it.
const SHORT_LIFE: Duration = Duration::from_secs(3);
const LONG_LIFE: Duration = Duration::from_secs(3600);

/// Characters shown of a token: part of its header, which is the same for every token.
const SHOWN: usize = 10;

/// Why a step is not as it should be.
pub(super) enum Amiss {
    /// It can't be told.
    Output(io::Error),
    /// It went otherwise.
    Otherwise(String),
}

impl From<io::Error> for Amiss {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<CallError> for Amiss {
    fn from(error: CallError) -> Self {
        Self::Otherwise(error.to_string())
    }
}

/// The story while it is told.
pub(super) struct Story<'a, W> {
    stage: &'a Stage,
    page: &'a mut Narration<W>,
    client: Client,
}

type Step<'a, W> = (&'static str, fn(&mut Story<'a, W>) -> Result<(), Amiss>);

impl<'a, W: Write> Story<'a, W> {
    /// About to begin.
    pub(super) fn new(stage: &'a Stage, page: &'a mut Narration<W>) -> Result<Self, DemoError> {
        let address = stage.addresses().first().copied().ok_or(DemoError::NoPort)?;
        let client = Client::new(address).map_err(DemoError::System)?;
        Ok(Self { stage, page, client })
    }

    /// Tells it, up to the first step that goes wrong.
    pub(super) fn tell(&mut self) -> Result<(), DemoError> {
        let steps: [Step<'a, W>; 6] = [
            ("Both are up", Self::both_are_up),
            ("The sidecar logs in by itself", Self::logs_in),
            ("Your app calls, without a token", Self::call_without_token),
            ("CarePortals revokes the token, and your app does not notice", Self::revocation),
            ("A token is about to expire, and is renewed before it does", Self::renewal),
            ("Nobody gets a token through the sidecar", Self::refusal),
        ];
        self.page
            .title(
                "careportals-sidecar demo",
                "The sidecar in front of a simulated CarePortals, both in this process. All people are invented.",
            )
            .map_err(DemoError::Output)?;
        for (index, (title, step)) in steps.into_iter().enumerate() {
            let number = index + 1;
            self.page.step(number, title).map_err(DemoError::Output)?;
            step(self).map_err(|amiss| amiss.in_step(number, title))?;
        }
        Ok(())
    }

    fn both_are_up(&mut self) -> Result<(), Amiss> {
        let listening: Vec<String> = self.stage.addresses().iter().map(ToString::to_string).collect();
        self.page.fact("CarePortals", &self.stage.upstream(), "simulated, over real TLS")?;
        self.page.fact("sidecar", &base_url(self.stage), &format!("listens on {}", listening.join(" and ")))?;
        Ok(())
    }

    fn logs_in(&mut self) -> Result<(), Amiss> {
        let answered = |control: &Control| control.logins().iter().any(|login| login.status != 0);
        if !self.control().wait_until(PATIENCE, answered) {
            return Err(otherwise("no log-in reached the simulator"));
        }
        let logins = self.control().logins();
        let Some(login) = logins.first() else { return Err(otherwise("the log-in is gone")) };
        let status = status(login.status);
        self.page.call("sidecar", &Method::POST, &login.path, status, &format!("organization {}", login.organization))?;
        expect("the log-in's answer", StatusCode::CREATED, status)?;
        self.page.fact("log-ins so far", &self.logins_so_far().to_string(), "")?;
        self.page.remark("The token stays in the sidecar's memory: no file, no log, no answer holds it.")?;
        Ok(())
    }

    fn call_without_token(&mut self) -> Result<(), Amiss> {
        let answer = self.app_calls(ACCOUNT)?;
        expect("the call's answer", StatusCode::OK, answer.status)?;
        let seen = self.control().requests();
        let Some(seen) = seen.iter().rev().find(|seen| seen.target == ACCOUNT) else {
            return Err(otherwise("the call did not reach the simulator"));
        };
        let (token, organization) = (single(seen, "authorization")?, single(seen, "organization")?);
        let Some(token) = token.strip_prefix("Bearer ") else { return Err(otherwise("the call came without a bearer")) };
        self.page.remark("What CarePortals received:")?;
        self.page.fact("authorization", &format!("Bearer {}", shortened(token)), "added by the sidecar")?;
        self.page.fact("organization", organization, "added by the sidecar")?;
        let others = seen.headers.iter().map(|(name, _)| name.as_str());
        let others: Vec<&str> = others.filter(|name| !["authorization", "organization"].contains(name)).collect();
        self.page.fact("other headers", &others.join(", "), "")?;
        Ok(())
    }

    fn revocation(&mut self) -> Result<(), Amiss> {
        // A 401 for a token younger than the floor would be passed on.
        self.control().wait_until(RELOGIN_FLOOR * 2, |_| false);
        let before = self.logins_so_far();
        self.control().set_token_life(SHORT_LIFE);
        self.control().revoke_tokens();
        let answer = self.app_calls(ACCOUNT)?;
        self.control().set_token_life(LONG_LIFE);
        expect("the call's answer", StatusCode::OK, answer.status)?;
        let logins = self.logins_so_far();
        if logins <= before || self.control().counts().unauthorized == 0 {
            return Err(otherwise("the revoked token was not refused, or not replaced"));
        }
        self.page.fact("log-ins so far", &format!("{before} → {logins}"), "")?;
        self.page.remark("CarePortals answered 401; the sidecar logged in anew and sent the call once more.")?;
        Ok(())
    }

    fn renewal(&mut self) -> Result<(), Amiss> {
        // The first two are told already.
        let (before, deadline) = (2, clock::instant() + PATIENCE);
        let mut calls = 0;
        let life = SHORT_LIFE.as_secs();
        self.page.remark(&format!("The new token lives {life} s. It is renewed after about half of that, in the background."))?;
        loop {
            let answer = self.client.call(Method::GET, ACCOUNT)?;
            expect("the answer of a call meanwhile", StatusCode::OK, answer.status)?;
            calls += 1;
            if self.control().wait_until(PACE, |control| control.counts().login_ok > before) {
                break;
            }
            if clock::instant() >= deadline {
                return Err(otherwise("the token was not renewed"));
            }
        }
        self.page.fact("your app", &format!("{calls} calls meanwhile"), "each answered 200")?;
        self.app_calls(ACCOUNT).and_then(|answer| expect("the next answer", StatusCode::OK, answer.status))?;
        self.page.fact("log-ins so far", &format!("{before} → {}", self.logins_so_far()), "")?;
        Ok(())
    }

    fn refusal(&mut self) -> Result<(), Amiss> {
        let before = self.control().counts().logins;
        let answer = self.client.call(Method::POST, self.stage.login_path())?;
        let problem: Problem =
            serde_json::from_slice(&answer.body).map_err(|_| otherwise("the answer is no problem document"))?;
        let code = Code::ALL.iter().find(|code| code.as_str() == problem.code);
        self.page.call("your app", &Method::POST, self.stage.login_path(), answer.status, &answer.content_type)?;
        self.page.fact("the sidecar", &problem.code, code.map_or("", |code| code.title()))?;
        expect("the answer", StatusCode::FORBIDDEN, answer.status)?;
        if code != Some(&Code::LoginPath) {
            return Err(otherwise("refused for another reason than the path"));
        }
        if self.control().counts().logins != before {
            return Err(otherwise("the refused call reached the simulator"));
        }
        self.page.remark("The call never reached CarePortals.")?;
        Ok(())
    }

    /// A call that is told.
    fn app_calls(&mut self, target: &str) -> Result<CallResponse, Amiss> {
        let answer = self.client.call(Method::GET, target)?;
        let what = format!("{}, {} bytes", answer.content_type, answer.body.len());
        self.page.call("your app", &Method::GET, target, answer.status, &what)?;
        Ok(answer)
    }

    fn control(&self) -> &'a Control {
        self.stage.control()
    }

    fn logins_so_far(&self) -> u64 {
        self.control().counts().login_ok
    }
}

/// What to try while the demo stays up.
pub(super) fn invite<W: Write>(stage: &Stage, page: &mut Narration<W>) -> io::Result<()> {
    let base = base_url(stage);
    let log_out = format!("kill -USR1 {}", std::process::id());
    let commands = [
        (format!("curl {base}{ACCOUNT}"), "no token, no organization, and yet an answer"),
        (format!("curl -i {base}/v2/products"), "every header of it"),
        (format!("curl -N {base}/_sim/sse"), "a stream, event by event"),
        (format!("curl -X POST {base}{}", stage.login_path()), "refused"),
        (log_out, "log out: the token is gone, calls are answered 503 until a restart"),
    ];
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    page.heading("Now you, from another terminal")?;
    for (command, does) in &commands {
        page.command(command, width, does)?;
    }
    if let Some(address) = stage.telemetry() {
        page.heading("Or watch it in a browser")?;
        page.say(&format!("   http://{address}/"))?;
    }
    page.say("\nCtrl-C stops both.")
}

/// What an app is given as its base URL.
fn base_url(stage: &Stage) -> String {
    let port = stage.addresses().first().map_or(0, SocketAddr::port);
    format!("http://localhost:{port}")
}

/// As much of our own problem documents as the story needs.
#[derive(Deserialize)]
struct Problem {
    code: String,
}

fn shortened(token: &str) -> String {
    let beginning: String = token.chars().take(SHOWN).collect();
    format!("{beginning}…")
}

fn single<'s>(seen: &'s RecordedRequest, name: &str) -> Result<&'s str, Amiss> {
    match seen.values(name)[..] {
        [value] => Ok(value),
        _ => Err(otherwise("the call came with no or several of a header that the sidecar adds")),
    }
}

fn expect(what: &str, expected: StatusCode, got: StatusCode) -> Result<(), Amiss> {
    if got == expected {
        return Ok(());
    }
    Err(Amiss::Otherwise(format!("{what}: expected {}, got {}", expected.as_str(), got.as_str())))
}

fn otherwise(why: &str) -> Amiss {
    Amiss::Otherwise(why.to_owned())
}

/// Of a number that was one.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use careportals_simulator::LoginFault;

    use super::*;
    use crate::{
        clock::SystemClock,
        config::{Log, LogFormat},
        logging::{Logging, Reader},
    };

    #[test]
    fn a_step_that_goes_otherwise_is_named_and_is_the_last() {
        let log = Log { filter: "off".to_owned(), format: LogFormat::Json, access: false };
        let logging = Logging::build(&log, io::sink(), Reader::Unknown, Arc::new(SystemClock)).unwrap();
        let stage = Stage::set(logging.access_log()).unwrap();
        assert!(stage.control().wait_until(PATIENCE, |control| control.counts().login_ok == 1));
        stage.control().set_login_fault(Some(LoginFault::Status(500)));
        let mut out = Vec::new();
        let told = Story::new(&stage, &mut Narration::new(&mut out, false)).and_then(|mut story| story.tell());
        let error = told.unwrap_err().to_string();
        assert!(error.starts_with("step 4 (CarePortals revokes the token"), "{error}");
        assert!(error.ends_with("failed: the call's answer: expected 200, got 401"), "{error}");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("\n4  ") && !out.contains("\n5  "), "{out}");
        assert!(!stage.is_stopping());
        stage.stop().unwrap();
    }
}
