//! Reads the settings that the admin port is sent, and shows those that are in effect.
//!
//! It uses [`Control`] and the state. What `shown` has under `settings` can be sent back. It shows no password but those that the README
//! shows.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    control::Control,
    duration,
    fault::{LoginFault, UnknownFault},
    state::DEMO_USERS,
};

/// The names of all settings.
pub(super) const NAMES: [&str; 14] = [
    "token_life",
    "latency",
    "login_delay",
    "clock_offset",
    "omit_date",
    "new_user_token",
    "http2",
    "max_concurrent_streams",
    "hold_logins",
    "hold_requests",
    "pause_accepting",
    "login_fault",
    "fail_next_logins",
    "credentials",
];

/// Applies all settings, or none.
///
/// # Errors
///
/// The first setting that is wrong, and what is expected.
pub(super) fn apply(control: &Control, sent: &Map<String, Value>) -> Result<(), String> {
    for change in parse_settings(sent)? {
        change(control);
    }
    Ok(())
}

/// What the simulator runs with.
pub(super) fn shown(control: &Control) -> Value {
    let state = &control.0;
    let mut shown = state.settings(|settings| {
        let users = settings.credentials.iter().map(|((organization, username), password)| {
            let is_known = DEMO_USERS.contains(&(organization, username, password));
            let password = if is_known { password.as_str() } else { "[hidden]" };
            json!({ "organization": organization, "username": username, "password": password })
        });
        let left = settings.next_faults.iter().filter(|(left, _)| *left > 0);
        let next_faults = left.map(|(left, fault)| json!({ "times": left, "fault": fault.to_string() }));
        json!({
            "users": users.collect::<Vec<_>>(),
            "next_login_faults": next_faults.collect::<Vec<_>>(),
            "settings": {
                "token_life": duration::written(settings.token_life),
                "latency": duration::written(settings.latency),
                "login_delay": duration::written(settings.login_delay),
                "clock_offset": settings.clock_offset,
                "omit_date": settings.omit_date,
                "new_user_token": settings.new_user_token,
                "http2": settings.http2,
                "max_concurrent_streams": settings.max_concurrent_streams,
                "login_fault": settings.login_fault.as_ref().map(ToString::to_string),
            },
        })
    });
    let held = [("hold_logins", &state.logins_held), ("hold_requests", &state.requests_held)];
    for (name, held) in held {
        shown["settings"][name] = (*held.borrow()).into();
    }
    shown["settings"]["pause_accepting"] = (!*state.accepting.borrow()).into();
    shown["version"] = env!("CARGO_PKG_VERSION").into();
    shown["address"] = state.address.to_string().into();
    shown["base_url"] = state.base_url().into();
    shown["keep_alive_for"] = state.keep_alive_for.map(duration::written).into();
    #[cfg(feature = "import")]
    {
        shown["routes"] = control.route_names().into();
    }
    shown
}

/// A change of one setting that was parsed and not yet applied.
type Change = Box<dyn FnOnce(&Control) + Send>;

/// Parses all settings.
///
/// # Errors
///
/// The first setting that is wrong, and what is expected.
fn parse_settings(sent: &Map<String, Value>) -> Result<Vec<Change>, String> {
    sent.iter().map(|(key, value)| parse_change(key, value).map_err(|fault| format!("{key}: {fault}"))).collect()
}

/// Parses one setting.
fn parse_change(key: &str, value: &Value) -> Result<Change, String> {
    Ok(match key {
        "token_life" => with(parse_duration(value)?, Control::set_token_life),
        "login_delay" => with(parse_duration(value)?, Control::set_login_delay),
        "latency" => with(parse_duration(value)?, Control::set_latency),
        "clock_offset" => with(value.as_i64().ok_or("expected a number of seconds")?, Control::set_clock_offset),
        "omit_date" => with(parse_bool(value)?, Control::set_omit_date),
        "new_user_token" => with(parse_bool(value)?, Control::set_new_user_token),
        "http2" => with(parse_bool(value)?, Control::set_http2),
        "max_concurrent_streams" if value.is_null() => Box::new(|control| control.set_max_concurrent_streams(None)),
        "max_concurrent_streams" => {
            let streams = value.as_u64().and_then(|streams| u32::try_from(streams).ok());
            with(streams.ok_or("expected a number or null")?, |control, streams| {
                control.set_max_concurrent_streams(Some(streams));
            })
        }
        "hold_logins" => with(parse_bool(value)?, Control::hold_logins),
        "hold_requests" => with(parse_bool(value)?, Control::hold_requests),
        "pause_accepting" => with(parse_bool(value)?, |control, pause| {
            control.0.accepting.send_replace(!pause);
            if pause {
                // `Control` would wait for the sockets to be closed, but this thread has to close them.
                control.0.connections.abort(true);
            }
        }),
        "login_fault" => with(if value.is_null() { None } else { Some(parse_fault(value)?) }, Control::set_login_fault),
        "fail_next_logins" if value.is_null() => Box::new(Control::clear_next_login_faults),
        "fail_next_logins" => {
            let times = value["times"].as_u64().and_then(|times| u32::try_from(times).ok());
            let times = times.ok_or("expected {\"times\": number, \"fault\": text}")?;
            let fault = parse_fault(&value["fault"])?;
            with((times, fault), |control, (times, fault)| control.fail_next_logins(times, fault))
        }
        "credentials" => {
            let text = |field: &str| value[field].as_str().map(str::to_owned);
            let user = (text("organization"), text("username"), text("password"));
            let (Some(organization), Some(username), Some(password)) = user else {
                return Err("expected organization, username and password".to_owned());
            };
            Box::new(move |control| control.set_credentials(&organization, &username, &password))
        }
        _ => return Err(format!("no such setting; there are {}", NAMES.join(", "))),
    })
}

/// The change that calls `apply` with `value`.
fn with<T: Send + 'static>(value: T, apply: impl FnOnce(&Control, T) + Send + 'static) -> Change {
    Box::new(move |control| apply(control, value))
}

fn parse_duration(value: &Value) -> Result<Duration, String> {
    duration::parse(value.as_str().ok_or("expected a text like \"30s\"")?)
}

fn parse_bool(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".to_owned())
}

fn parse_fault(value: &Value) -> Result<LoginFault, String> {
    let written = value.as_str().unwrap_or_default();
    written.parse().map_err(|unknown: UnknownFault| unknown.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_in_one_setting_changes_none() {
        let sent = json!({ "token_life": "5s", "latency": "fast" });
        let fault = parse_settings(sent.as_object().unwrap()).map(|changes| changes.len());
        assert!(fault.is_err_and(|fault| fault.starts_with("latency: expected a duration")));
        let sent = json!({ "tokenlife": "5s" });
        assert!(parse_settings(sent.as_object().unwrap()).is_err());
    }

    #[test]
    fn each_setting_that_is_listed_is_known() {
        for name in NAMES {
            let fault = parse_change(name, &json!([])).map(|_| ()).unwrap_err();
            assert!(!fault.contains("no such setting"), "{name}");
        }
        assert!(parse_change("tokens", &json!([])).is_err_and(|fault| fault.contains("token_life, latency")));
    }
}
