//! The requests at the control socket: what each one is on the wire, and how long it may take.
//!
//! Pure. The daemon refuses a request that it does not understand in full: a misspelt `account` must not mean every account.

use std::time::Duration;

use http::Method;

use super::problem::Refused;

/// A request to a running daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest<'a> {
    /// Get the status document.
    Status,
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
            Self::LogIn(_) => "login",
            Self::LogOut(_) => "logout",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }

    pub(super) fn method(self) -> Method {
        if self == Self::Status { Method::GET } else { Method::POST }
    }

    /// The account that is named.
    pub(super) fn account(self) -> Option<&'a str> {
        if let Self::LogIn(account) | Self::LogOut(account) = self { account } else { None }
    }

    pub(super) fn target(self) -> String {
        let query = self.account().map(|name| format!("?account={name}")).unwrap_or_default();
        format!("/{}{query}", self.name())
    }

    /// How long the daemon may take to answer. It answers `login` and `reload` when their outcome is known, and the settings
    /// allow a log-in to take minutes.
    pub(super) fn time_limit(self) -> Duration {
        match self {
            Self::LogIn(_) | Self::Reload => Duration::from_secs(10 * 60),
            Self::Status | Self::LogOut(_) | Self::Shutdown => Duration::from_secs(10),
        }
    }

    /// Reads a request that came in.
    ///
    /// # Errors
    ///
    /// The path, the method or the query is not that of a request.
    pub(super) fn parse(method: &Method, path: &str, query: Option<&'a str>) -> Result<Self, Refused> {
        let named = [Self::Status, Self::LogIn(None), Self::LogOut(None), Self::Reload, Self::Shutdown];
        let request = named.into_iter().find(|request| path.strip_prefix('/') == Some(request.name()));
        let request = request.ok_or(Refused::NoSuchPath)?;
        if request.method() != *method {
            return Err(Refused::Method(if request == Self::Status { "GET" } else { "POST" }));
        }
        let Some(query) = query else { return Ok(request) };
        // Account names need no percent-encoding, so a name with an escape matches no account.
        let name = query.strip_prefix("account=").filter(|name| !name.is_empty() && !name.contains('&'));
        match (request, name) {
            (Self::LogIn(_), Some(_)) => Ok(Self::LogIn(name)),
            (Self::LogOut(_), Some(_)) => Ok(Self::LogOut(name)),
            _ => Err(Refused::Query),
        }
    }
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
}
