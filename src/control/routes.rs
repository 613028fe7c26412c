//! The requests at the control socket: what each one is on the wire, and how long it may take.
//!
//! Pure. The daemon refuses a request that it does not understand in full: a misspelt `account` must not mean every account.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use super::problem::Refused;

/// A request to a running daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest<'a> {
    /// Get the status document.
    Status,
    /// Get the rules proposed from what one API has seen, or the only one that observes (`None`).
    Rules(Option<&'a str>),
    /// Log in one account, or all (`None`).
    LogIn(Option<&'a str>),
    /// Log out one account, or all (`None`).
    LogOut(Option<&'a str>),
    /// Read the settings again.
    Reload,
    /// Drain and end.
    Shutdown,
}

impl<'a> ControlRequest<'a> {
    /// The name of the command that sends it; its path is the same after a slash.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Rules(_) => "rules",
            Self::LogIn(_) => "login",
            Self::LogOut(_) => "logout",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether it changes nothing.
    pub(super) fn only_reads(self) -> bool {
        matches!(self, Self::Status | Self::Rules(_))
    }

    pub(super) fn method(self) -> Method {
        if self.only_reads() { Method::GET } else { Method::POST }
    }

    /// What is named: `account` or `api`, and its name.
    pub(super) fn named(self) -> Option<(&'static str, &'a str)> {
        match self {
            Self::LogIn(account) | Self::LogOut(account) => account.map(|name| ("account", name)),
            Self::Rules(api) => api.map(|name| ("api", name)),
            Self::Status | Self::Reload | Self::Shutdown => None,
        }
    }

    pub(super) fn target(self) -> String {
        let query = self.named().map(|(what, name)| format!("?{what}={name}")).unwrap_or_default();
        format!("/{}{query}", self.name())
    }

    /// How long the daemon may take to answer. It answers `login` and `reload` when their outcome is known, and the settings
    /// allow a log-in to take minutes.
    pub(super) fn time_limit(self) -> Duration {
        match self {
            Self::LogIn(_) | Self::Reload => Duration::from_secs(10 * 60),
            Self::Status | Self::Rules(_) | Self::LogOut(_) | Self::Shutdown => Duration::from_secs(10),
        }
    }

    /// Reads a request that came in.
    ///
    /// # Errors
    ///
    /// The path, the method or the query is not that of a request.
    pub(super) fn parse(method: &Method, path: &str, query: Option<&'a str>) -> Result<Self, Refused> {
        let named = [Self::Status, Self::Rules(None), Self::LogIn(None), Self::LogOut(None), Self::Reload, Self::Shutdown];
        let request = named.into_iter().find(|request| path.strip_prefix('/') == Some(request.name()));
        let request = request.ok_or(Refused::NoSuchPath)?;
        if request.method() != *method {
            return Err(Refused::Method(if request.only_reads() { "GET" } else { "POST" }));
        }
        let Some(query) = query else { return Ok(request) };
        // Names need no percent-encoding, so a name with an escape matches no account and no API.
        let named = query.split_once('=').filter(|(_, name)| !name.is_empty() && !name.contains('&'));
        match (request, named) {
            (Self::LogIn(_), Some(("account", name))) => Ok(Self::LogIn(Some(name))),
            (Self::LogOut(_), Some(("account", name))) => Ok(Self::LogOut(Some(name))),
            (Self::Rules(_), Some(("api", name))) => Ok(Self::Rules(Some(name))),
            _ => Err(Refused::Query),
        }
    }
}

/// The answer to [`ControlRequest::Rules`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RulesDocument {
    /// The API that was observed.
    pub api: String,
    /// The proposed rules.
    pub allow: Vec<String>,
    /// Whether further requests have no rule, since there are too many rules.
    pub full: bool,
    /// How many requests no rule was made for.
    pub left_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome<'a>(method: &str, target: &'a str) -> Result<ControlRequest<'a>, Refused> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        ControlRequest::parse(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn a_request_that_is_not_understood_in_full_is_refused() {
        let crm = Some("crm");
        for (method, target, expected) in [
            ("GET", "/status", Ok(ControlRequest::Status)),
            ("GET", "/rules", Ok(ControlRequest::Rules(None))),
            ("GET", "/rules?api=crm", Ok(ControlRequest::Rules(crm))),
            ("GET", "/rules?account=crm", Err(Refused::Query)),
            ("POST", "/rules", Err(Refused::Method("GET"))),
            ("POST", "/login?api=crm", Err(Refused::Query)),
            ("POST", "/login", Ok(ControlRequest::LogIn(None))),
            ("POST", "/login?account=crm", Ok(ControlRequest::LogIn(crm))),
            ("POST", "/logout", Ok(ControlRequest::LogOut(None))),
            ("POST", "/logout?account=crm", Ok(ControlRequest::LogOut(crm))),
            ("POST", "/reload", Ok(ControlRequest::Reload)),
            ("POST", "/shutdown", Ok(ControlRequest::Shutdown)),
            ("HEAD", "/status", Err(Refused::Method("GET"))),
            ("POST", "/status", Err(Refused::Method("GET"))),
            ("GET", "/login", Err(Refused::Method("POST"))),
            ("PUT", "/shutdown", Err(Refused::Method("POST"))),
            ("GET", "/", Err(Refused::NoSuchPath)),
            ("POST", "/login/", Err(Refused::NoSuchPath)),
            ("POST", "/LOGIN", Err(Refused::NoSuchPath)),
            ("POST", "/logout?acount=crm", Err(Refused::Query)),
            ("POST", "/logout?account=", Err(Refused::Query)),
            ("POST", "/logout?account=crm&account=emr", Err(Refused::Query)),
            ("POST", "/logout?", Err(Refused::Query)),
            ("GET", "/status?verbose", Err(Refused::Query)),
            ("POST", "/shutdown?now", Err(Refused::Query)),
        ] {
            assert_eq!(outcome(method, target), expected, "{method} {target}");
        }
    }
    #[test]
    fn what_a_command_sends_is_what_the_daemon_reads() {
        let crm = Some("crm");
        for (request, target, minutes) in [
            (ControlRequest::Status, "/status", false),
            (ControlRequest::Rules(None), "/rules", false),
            (ControlRequest::Rules(crm), "/rules?api=crm", false),
            (ControlRequest::LogIn(None), "/login", true),
            (ControlRequest::LogIn(crm), "/login?account=crm", true),
            (ControlRequest::LogOut(crm), "/logout?account=crm", false),
            (ControlRequest::Reload, "/reload", true),
            (ControlRequest::Shutdown, "/shutdown", false),
        ] {
            assert_eq!(request.target(), target);
            assert_eq!(outcome(request.method().as_str(), target), Ok(request));
            assert_eq!(request.time_limit(), Duration::from_secs(if minutes { 600 } else { 10 }), "{target}");
        }
    }
}
