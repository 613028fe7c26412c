//! Turns a failed request at the control socket into a problem document (RFC 9457).
//!
//! Pure. One match without a wildcard gives each cause its status, code and title. Guarantees: the document explains the
//! failure in sentences for people, and holds no secret.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::account::LogInFailed;

/// The daemon's answer to a request that failed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlProblem {
    /// A URN made of the code.
    #[serde(default)]
    r#type: String,
    /// A short summary, which depends on the code alone.
    #[serde(default)]
    title: String,
    /// The HTTP status of the answer.
    #[serde(default)]
    pub(super) status: u16,
    /// What happened, and what to do.
    pub(super) detail: String,
    /// A stable code for programs.
    #[serde(default)]
    pub(super) code: String,
    /// The accounts whose log-in failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<FailedAccount>,
    /// The reasons why a reload changed nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
}

/// Why one account has no new token.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailedAccount {
    name: String,
    #[serde(default)]
    code: String,
    detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl fmt::Display for ControlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        for account in &self.accounts {
            write!(f, "\n  {}: {}", account.name, account.detail)?;
            if let Some(advice) = &account.advice {
                write!(f, "\n    hint: {advice}")?;
            }
        }
        for fault in &self.faults {
            write!(f, "\n  {}", fault.replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

/// Why the daemon did not carry out a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// This user id may not control the daemon; `None`: the kernel does not tell the client's user id.
    Caller(Option<u32>),
    /// No action has this path.
    NoSuchPath,
    /// The action needs one of these methods.
    Method(&'static str),
    /// The action takes `account=NAME` or `api=NAME` and nothing else, or no query at all.
    Query,
    /// No account has this name.
    NoAccount,
    /// No API has this name.
    NoApi,
    /// The API does not observe its rules; nor does any other, if none was named.
    NotObserving,
    /// Several APIs observe their rules, and none was named.
    SeveralObserve,
    /// The account does not log in; nor does any other, if all were meant.
    NoLogin,
    /// The daemon is draining.
    Stopping,
    /// Too many wait for the outcome of the same command.
    Busy,
    /// The settings are invalid, or ask for something that needs a restart.
    NotReloaded(Vec<String>),
    /// These log-ins failed; the number counts those that were tried.
    LogIn(Vec<(String, LogInFailed)>, usize),
}

impl Refused {
    /// The document that the client gets.
    pub(super) fn problem(self) -> ControlProblem {
        let (status, code, title) = self.kind();
        let detail = self.detail();
        let (mut accounts, mut faults) = (Vec::new(), Vec::new());
        match self {
            Self::LogIn(failed, _) => accounts = failed.iter().map(failed_account).collect(),
            Self::NotReloaded(reasons) => faults = reasons,
            _ => {}
        }
        ControlProblem {
            r#type: format!("urn:careportals-sidecar:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            accounts,
            faults,
        }
    }

    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Caller(_) => (StatusCode::FORBIDDEN, "caller_not_allowed", "This user may not control the daemon"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "not_found", "There is nothing under this path"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Not by this method"),
            Self::Query => (StatusCode::BAD_REQUEST, "bad_query", "The query is not understood"),
            Self::NoAccount => (StatusCode::NOT_FOUND, "no_account", "There is no such account"),
            Self::NoApi => (StatusCode::NOT_FOUND, "no_api", "There is no such API"),
            Self::NotObserving => (StatusCode::CONFLICT, "not_observing", "The API does not observe its rules"),
            Self::SeveralObserve => (StatusCode::CONFLICT, "several_apis", "Several APIs observe their rules"),
            Self::NoLogin => (StatusCode::CONFLICT, "no_login", "The account does not log in"),
            Self::Stopping => (StatusCode::CONFLICT, "draining", "The daemon is stopping"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many wait for the same command"),
            Self::NotReloaded(_) => (StatusCode::CONFLICT, "not_reloaded", "The settings were not taken over"),
            Self::LogIn(failed, _) if failed.iter().any(|(_, why)| is_upstream_failure(why)) => {
                (StatusCode::BAD_GATEWAY, "login_failed", "A log-in failed")
            }
            Self::LogIn(..) => (StatusCode::CONFLICT, "login_failed", "A log-in failed"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Caller(uid) => {
                let who = uid.map_or_else(|| "you are not known".to_owned(), |uid| format!("you are user id {uid}"));
                format!("only the daemon's own user, root and the users in control_allow_uids may control it; {who}")
            }
            Self::NoSuchPath => "there are GET /status, /rules and POST /login, /logout, /reload, /shutdown".to_owned(),
            Self::Method(methods) => format!("this is asked for by {methods}"),
            Self::Query => "/login and /logout take account=NAME, /rules takes api=NAME, and nothing else is taken".to_owned(),
            Self::NoAccount => "there is no account of that name; `status` lists them".to_owned(),
            Self::NoApi => "there is no API of that name; `status` lists them".to_owned(),
            Self::NotObserving => "rules are proposed from what an API with observe = true has seen since the start".to_owned(),
            Self::SeveralObserve => "name one of the APIs that observe: `careportals-sidecar rules NAME`".to_owned(),
            Self::NoLogin => {
                "it sends its organization alone (login_url is off), so there is nothing to log in or out".to_owned()
            }
            Self::Stopping => "the daemon is stopping, and begins nothing new".to_owned(),
            Self::Busy => "too many clients wait for the outcome of this command: try again".to_owned(),
            Self::NotReloaded(_) => "not reloaded: nothing has changed".to_owned(),
            Self::LogIn(failed, 1) if failed.len() == 1 => "the log-in failed".to_owned(),
            Self::LogIn(failed, of) => format!("{} of {of} log-ins failed", failed.len()),
        }
    }

    /// The value of `Allow`, which only a 405 has.
    pub(super) fn allowed(&self) -> Option<&'static str> {
        if let Self::Method(methods) = self { Some(methods) } else { None }
    }
}

/// Whether CarePortals or the network caused the failure, rather than something on this machine.
fn is_upstream_failure(why: &LogInFailed) -> bool {
    use crate::account::LoginError::{Malformed, Refused, Source, Throttled, TimedOut, Unreachable};
    match why {
        LogInFailed::Failed(error) => match error {
            Refused(_) | Throttled(_) | Unreachable(_) | Malformed(_) | TimedOut => true,
            Source(_) => false,
        },
        LogInFailed::LoggedOut | LogInFailed::Busy | LogInFailed::Ended => false,
    }
}

fn failed_account((name, why): &(String, LogInFailed)) -> FailedAccount {
    let (code, advice) = match why {
        LogInFailed::Failed(error) => (error.code(), Some(error.advice().to_owned())),
        LogInFailed::LoggedOut => ("logged_out", None),
        LogInFailed::Busy => ("busy", None),
        LogInFailed::Ended => ("draining", None),
    };
    FailedAccount { name: name.clone(), code: code.to_owned(), detail: why.to_string(), advice }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::{Field, LoginError, SourceError},
        sources::SourceFault,
    };

    fn refused(status: StatusCode) -> LogInFailed {
        LogInFailed::Failed(LoginError::Refused(status))
    }

    fn source() -> LogInFailed {
        LogInFailed::Failed(LoginError::Source(SourceError { which: Field::Password, fault: SourceFault::Empty }))
    }

    #[test]
    fn each_cause_has_its_own_status_and_code() {
        let named = |why: LogInFailed| ("crm".to_owned(), why);
        for (refused, status, code) in [
            (Refused::Caller(Some(7)), 403, "caller_not_allowed"),
            (Refused::NoSuchPath, 404, "not_found"),
            (Refused::Method("GET"), 405, "method_not_allowed"),
            (Refused::Query, 400, "bad_query"),
            (Refused::NoAccount, 404, "no_account"),
            (Refused::NoApi, 404, "no_api"),
            (Refused::NotObserving, 409, "not_observing"),
            (Refused::SeveralObserve, 409, "several_apis"),
            (Refused::NoLogin, 409, "no_login"),
            (Refused::Stopping, 409, "draining"),
            (Refused::Busy, 503, "busy"),
            (Refused::NotReloaded(vec![]), 409, "not_reloaded"),
            (Refused::LogIn(vec![named(refused(StatusCode::UNAUTHORIZED))], 1), 502, "login_failed"),
            (Refused::LogIn(vec![named(source())], 1), 409, "login_failed"),
            (Refused::LogIn(vec![named(source()), named(LogInFailed::Failed(LoginError::TimedOut))], 2), 502, "login_failed"),
            (Refused::LogIn(vec![named(LogInFailed::LoggedOut)], 1), 409, "login_failed"),
        ] {
            let problem = refused.problem();
            assert_eq!((problem.status, problem.code.as_str()), (status, code));
            let document = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<ControlProblem>(&document).unwrap(), problem);
        }
    }

    #[test]
    fn each_of_several_failures_has_a_line_of_its_own() {
        let failed = [("a", refused(StatusCode::FORBIDDEN)), ("b", LogInFailed::LoggedOut)];
        let failed = failed.map(|(name, why)| (name.to_owned(), why));
        let said = Refused::LogIn(failed.into(), 3).problem().to_string();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "2 of 3 log-ins failed");
        assert_eq!(lines[1], "  a: the server refused the log-in with status 403");
        assert!(lines[2].starts_with("    hint: "), "{said}");
        assert_eq!(lines[3], "  b: the account was logged out meanwhile");
        let said = Refused::NotReloaded(vec!["one\n  hint: mend it".to_owned(), "two".to_owned()]).problem().to_string();
        assert_eq!(said, "not reloaded: nothing has changed\n  one\n    hint: mend it\n  two");
    }
}
