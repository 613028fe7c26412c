//! Lists everything that a simulator answers, as text for people.
//!
//! It uses the names that the endpoints have, so that nothing is listed that is not there.

use std::fmt::Write;

use super::settings;
use crate::{awkward, control::Control, fault::UnknownFault, login, portal};

/// The calls of the admin port.
const CALLS: &str = "\
GET    /                   this list
GET    /counts             what happened, as counts; `unknown_routes` are requests that nothing here answers
GET    /requests           the last 1000 requests
GET    /logins             the last 1000 log-ins without their passwords
GET    /ca.pem             the certificate authority to trust
GET    /settings           what it runs with
POST   /settings           applies the settings in a JSON object
POST   /revoke             revokes the tokens issued so far; ?organization=ID those of one organization
POST   /drop-connections   closes every connection abruptly
POST   /drain-connections  lets every connection finish its requests and take no more
POST   /freeze-connections silences every connection for good
POST   /reset              forgets counts, requests and log-ins
";

/// The calls of the admin port for own routes.
#[cfg(feature = "import")]
const ROUTE_CALLS: &str = "\
GET    /routes             the names of your own routes
POST   /routes             adds routes of your own
DELETE /routes             takes away the routes that were added since the start
POST   /openapi            adds the routes of an OpenAPI 3 document
";
#[cfg(not(feature = "import"))]
const ROUTE_CALLS: &str = "";

/// The whole list.
pub(super) fn text(control: &Control) -> String {
    let mut text = format!("careportals-simulator {}\n\n", env!("CARGO_PKG_VERSION"));
    let mut section = |title: &str, lines: &[String]| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{title}\n\n{}\n\n", lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"));
    };
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    section("Calls here, at the admin port", &lines(&[CALLS, ROUTE_CALLS].concat()));
    section("Settings", &settings::NAMES.map(str::to_owned));
    let (_, faults) = UnknownFault::FORMS.split_once("one of ").unwrap_or_default();
    section("Faults of a log-in", &[faults.to_owned()]);
    #[cfg(feature = "import")]
    {
        let none = ["none".to_owned()];
        section("Faults of a route", &[crate::route_table::FAULT_FORMS.to_owned()]);
        let own = control.route_names();
        section("Your own routes", if own.is_empty() { &none } else { &own });
    }
    let log_ins = login::LOGIN_PATHS.iter().chain([&login::REFRESH_PATH]).map(|path| format!("POST {path}"));
    section(&format!("Log-ins, at {}", control.0.base_url()), &log_ins.collect::<Vec<_>>());
    section("Known calls, there; under /patient too, and those under /v2 under /public", &portal::NAMES.map(str::to_owned));
    section("Awkward answers, there", &awkward::NAMES.map(|name| format!("/_sim/{name}")));
    text
}
