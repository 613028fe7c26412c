//! What a request at the control socket means.
//!
//! Pure. Whatever is not understood in full is refused: a misspelt account must not become every account.

use http::Method;

use super::problem::Refused;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To say how the daemon is.
    Status,
    /// To log in: one account, or all.
    LogIn(Option<String>),
    /// To log out: one account, or all.
    LogOut(Option<String>),
    /// To read the settings again.
    Reload,
    /// To drain and end.
    Shutdown,
}

impl Action {
    /// As its command is called.
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

/// The action that a request asks for.
pub(super) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Action, Refused> {
    let (wanted, name) = match path {
        "/status" => (Method::GET, "GET"),
        "/login" | "/logout" | "/reload" | "/shutdown" => (Method::POST, "POST"),
        _ => return Err(Refused::NoSuchPath),
    };
    if *method != wanted {
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

/// Names need no escapes, so none is undone: one that is written with them is none.
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
    fn what_is_not_understood_in_full_is_refused() {
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
