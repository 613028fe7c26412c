//! How the daemon is, in the one line that `systemctl status` shows.
//!
//! Pure but for asking accounts how they are. Everybody on the machine may read it: codes, not errors.

use std::{fmt::Write as _, time::SystemTime};

use crate::{
    account::{AccountStatus, StateName},
    logging::rfc3339,
    status::{Phase, View},
};

/// Accounts that are told of one by one.
const NAMED_MAX: usize = 4;

/// `refused`: faults of the last reload, when nothing came of it.
pub(super) fn status(phase: Phase, view: &View, refused: Option<usize>, now: SystemTime) -> String {
    match phase {
        Phase::Starting => "Starting".to_owned(),
        Phase::Running => {
            let accounts: Vec<_> = view.accounts.iter().map(|account| (account.name(), account.status())).collect();
            serving(view.apis.len(), &accounts, refused, now)
        }
        Phase::Draining => {
            let in_flight: usize = view.apis.iter().map(|api| api.places.taken()).sum();
            format!("Stopping; {} in flight, {} s at most", count(in_flight, "request"), view.drain.as_secs())
        }
        Phase::Stopped => "Stopped".to_owned(),
    }
}

fn serving(apis: usize, accounts: &[(&str, AccountStatus)], refused: Option<usize>, now: SystemTime) -> String {
    let mut status_text = format!("Serving {}", count(apis, "API"));
    // What is wrong comes first: the rest may not be shown.
    let (fine, wrong): (Vec<_>, Vec<_>) = accounts.iter().partition(|(_, status)| status.usable);
    for (name, status) in wrong.iter().chain(&fine).take(NAMED_MAX) {
        // Writing to a string can't fail.
        let _ = write!(status_text, "; account {name} {}", in_words(status, now));
    }
    if accounts.len() > NAMED_MAX {
        let _ = write!(status_text, "; {} of {} accounts usable", fine.len(), accounts.len());
    }
    if let Some(faults) = refused {
        let _ = write!(status_text, "; the last reload was refused ({}, see the log)", count(faults, "fault"));
    }
    status_text
}

fn in_words(status: &AccountStatus, now: SystemTime) -> String {
    let code = status.last_error.as_ref().map_or("", |error| error.code());
    let until = status.expires_at.map(|time| format!(", token until {}", of_day(time, now))).unwrap_or_default();
    let again = status.retry_at.map(|time| format!(", next attempt {}", of_day(time, now))).unwrap_or_default();
    match status.state {
        None if status.usable => "ready (no log-in)".to_owned(),
        None => format!("has no organization ({code})"),
        Some(StateName::LoggedOut) => "logged out".to_owned(),
        Some(StateName::LoggingIn) => "logging in".to_owned(),
        Some(StateName::Ready) => format!("ready{until}"),
        Some(StateName::Refreshing) if code.is_empty() => format!("renewing its token{until}"),
        Some(StateName::Refreshing) => format!("can't renew its token ({code}){until}{again}"),
        Some(StateName::BackingOff) => format!("can't log in ({code}){again}"),
        Some(StateName::Rejected) => format!("rejected ({code}){until}{again}"),
    }
}

/// `12:34:56Z`, and the date when it is another day.
fn of_day(time: SystemTime, now: SystemTime) -> String {
    let (time, now) = (rfc3339(time), rfc3339(now));
    match (time.split_once('T'), now.split_once('T')) {
        (Some((day, of_day)), Some((today, _))) => {
            let of_day = of_day.split('.').next().unwrap_or(of_day);
            if day == today { format!("{of_day}Z") } else { format!("{day} {of_day}Z") }
        }
        _ => time,
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::StatusCode;

    use super::*;
    use crate::account::LoginError;

    const NOW: SystemTime = UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(seconds)
    }

    fn account(state: Option<StateName>, expires: Option<u64>, retry: Option<u64>, failed: bool) -> AccountStatus {
        AccountStatus {
            state,
            usable: expires.is_some() || (state.is_none() && !failed),
            holds_valid_token: expires.is_some(),
            expires_at: expires.map(at),
            refresh_at: None,
            retry_at: retry.map(at),
            last_login_at: None,
            last_error: failed.then_some(LoginError::Refused(StatusCode::UNAUTHORIZED)),
            last_error_at: None,
        }
    }

    #[test]
    fn each_state_has_its_words() {
        use StateName::*;
        for (status, expected) in [
            (account(Some(Ready), Some(45_296), None, false), "ready, token until 12:34:56Z"),
            (account(Some(Ready), Some(90_000), None, false), "ready, token until 1970-01-02 01:00:00Z"),
            (account(Some(Refreshing), Some(60), None, false), "renewing its token, token until 00:01:00Z"),
            (
                account(Some(Refreshing), Some(60), Some(5), true),
                "can't renew its token (login_refused), token until 00:01:00Z, next attempt 00:00:05Z",
            ),
            (account(Some(LoggingIn), None, None, false), "logging in"),
            (account(Some(BackingOff), None, Some(5), true), "can't log in (login_refused), next attempt 00:00:05Z"),
            (account(Some(Rejected), None, Some(60), true), "rejected (login_refused), next attempt 00:01:00Z"),
            (account(Some(LoggedOut), None, None, false), "logged out"),
            (account(None, None, None, false), "ready (no log-in)"),
            (account(None, None, None, true), "has no organization (login_refused)"),
        ] {
            assert_eq!(in_words(&status, NOW), expected);
        }
    }

    #[test]
    fn one_line_says_it_all_and_what_is_wrong_first() {
        let ready = account(Some(StateName::Ready), Some(1), None, false);
        let out = account(Some(StateName::LoggedOut), None, None, false);
        assert_eq!(
            serving(1, &[("default", ready.clone())], None, NOW),
            "Serving 1 API; account default ready, token until 00:00:01Z"
        );
        assert_eq!(
            serving(2, &[("a", ready.clone()), ("b", out.clone())], Some(1), NOW),
            "Serving 2 APIs; account b logged out; account a ready, token until 00:00:01Z; \
             the last reload was refused (1 fault, see the log)"
        );
        let names = ["a", "b", "c", "d", "e", "f"];
        let many: Vec<_> = names.iter().map(|name| (*name, if *name == "f" { out.clone() } else { ready.clone() })).collect();
        let many = serving(6, &many, None, NOW);
        assert!(many.starts_with("Serving 6 APIs; account f logged out; account a ready"), "{many}");
        assert!(many.ends_with("account c ready, token until 00:00:01Z; 5 of 6 accounts usable"), "{many}");
    }
}
