//! Turns a request at the control socket into an action.
//!
//! Pure. It refuses a request that it does not understand in full: a misspelt `account` must not mean every account.

use http::Method;

use super::problem::Refused;

/// An action that a client of the control socket can request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answer with the status document.
    Status,
    /// Log in one account, or all (`None`).
    LogIn(Option<String>),
    /// Log out one account, or all (`None`).
    LogOut(Option<String>),
    /// Read the settings again.
    Reload,
    /// Drain and end.
    Shutdown,
}

impl Action {
    /// The name of the command that requests it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::LogIn(_) => "login",
            Self::LogOut(_) => "logout",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Finds the action that a request asks for.
///
/// # Errors
///
/// The path, the method or the query is not one of an action.
pub(super) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Action, Refused> {
    let (expected, name) = match path {
        "/status" => (Method::GET, "GET"),
        "/login" | "/logout" | "/reload" | "/shutdown" => (Method::POST, "POST"),
        _ => return Err(Refused::NoSuchPath),
    };
    if *method != expected {
        return Err(Refused::Method(name));
    }
    match (path, query) {
        ("/login", query) => Ok(Action::LogIn(account(query)?)),
        ("/logout", query) => Ok(Action::LogOut(account(query)?)),
        (_, Some(_)) => Err(Refused::Query),
        ("/reload", None) => Ok(Action::Reload),
        ("/shutdown", None) => Ok(Action::Shutdown),
        (_, None) => Ok(Action::Status),
    }
}

/// Reads `account=NAME`. Account names need no percent-encoding, so a name with an escape matches no account.
fn account(query: Option<&str>) -> Result<Option<String>, Refused> {
    let Some(query) = query else { return Ok(None) };
    match query.strip_prefix("account=") {
        Some(name) if !name.is_empty() && !name.contains('&') => Ok(Some(name.to_owned())),
        _ => Err(Refused::Query),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(method: &str, target: &str) -> Result<Action, Refused> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        route(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn a_request_that_is_not_understood_in_full_is_refused() {
        let crm = || Some("crm".to_owned());
        for (method, target, expected) in [
            ("GET", "/status", Ok(Action::Status)),
            ("POST", "/login", Ok(Action::LogIn(None))),
            ("POST", "/login?account=crm", Ok(Action::LogIn(crm()))),
            ("POST", "/logout", Ok(Action::LogOut(None))),
            ("POST", "/logout?account=crm", Ok(Action::LogOut(crm()))),
            ("POST", "/reload", Ok(Action::Reload)),
            ("POST", "/shutdown", Ok(Action::Shutdown)),
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
