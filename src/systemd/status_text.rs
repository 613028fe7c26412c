//! The daemon's state in the one line that `systemctl status` shows.
//!
//! Guarantees: it has codes and no error texts, since everybody on the machine may read it.

use std::{fmt::Write as _, time::SystemTime};

use crate::{
    account::{AccountSnapshot, AccountTrouble, LoginError, StateName},
    clock::Now,
    logging::rfc3339,
    status::{ApiState, ApiTrouble, PENDING, Phase, View},
};

/// At most this many accounts, and as many APIs, are named one by one.
const NAMED_MAX: usize = 4;

/// The text of `STATUS=`. `troubles` are the APIs that are not served as they should be, `refused` is the number of faults for
/// which the last reload was refused, if it was.
pub(super) fn status(phase: Phase, view: &View, troubles: &[ApiTrouble], refused: Option<usize>, now: Now) -> String {
    match phase {
        Phase::Starting => "Starting".to_owned(),
        Phase::Running => {
            let accounts: Vec<_> = view.accounts.iter().map(|account| (account.name(), account.snapshot())).collect();
            serving(view.apis.len(), troubles, &accounts, refused, now)
        }
        Phase::Draining => {
            let in_flight: usize = view.apis.iter().map(|api| api.request_limit.taken()).sum();
            format!("Stopping; {} in flight, {} s at most", count(in_flight, "request"), view.drain.as_secs())
        }
        Phase::Stopped => "Stopped".to_owned(),
    }
}

fn serving(
    apis: usize,
    troubles: &[ApiTrouble],
    accounts: &[(&str, AccountSnapshot)],
    refused: Option<usize>,
    now: Now,
) -> String {
    let is_broken = |trouble: &&ApiTrouble| match trouble.standing.state {
        ApiState::NoToken => trouble.standing.cause.as_ref().is_none_or(|cause| cause.code != PENDING),
        state => state != ApiState::Busy,
    };
    let broken = troubles.iter().filter(is_broken).count();
    let mut status_text = match apis - broken.min(apis) {
        working if broken == 0 => format!("Serving {}", count(working, "API")),
        0 => "Not working".to_owned(),
        working => format!("Serving {working} of {}", count(apis, "API")),
    };
    // Those without a token are left to their accounts.
    let named = troubles.iter().filter(|trouble| trouble.standing.state != ApiState::NoToken);
    for ApiTrouble { api, standing } in named.take(NAMED_MAX) {
        let what = match standing.state {
            ApiState::Refusing => "refuses every request",
            ApiState::Unreachable => "can't reach CarePortals",
            ApiState::Failing => "gets errors from CarePortals",
            ApiState::Busy => "refuses requests",
            ApiState::NoToken | ApiState::Served => continue,
        };
        let code = standing.cause.as_ref().map_or("", |cause| &cause.code);
        let since = time_of_day(standing.began_at, now.wall);
        // Writing to a string can't fail.
        let _ = write!(status_text, "; {api} {what} ({code}) since {since}");
    }
    // Accounts without a bearer come first, since only some are named.
    let (usable, unusable): (Vec<_>, Vec<_>) = accounts.iter().partition(|(_, snapshot)| snapshot.is_usable(now.moment));
    for (name, snapshot) in unusable.iter().chain(&usable).take(NAMED_MAX) {
        // Writing to a string can't fail.
        let _ = write!(status_text, "; account {name} {}", in_words(snapshot, now));
    }
    if accounts.len() > NAMED_MAX {
        let _ = write!(status_text, "; {} of {} accounts usable", usable.len(), accounts.len());
    }
    if let Some(faults) = refused {
        let _ = write!(status_text, "; the last reload was refused ({}, see the log)", count(faults, "fault"));
    }
    status_text
}

fn in_words(snapshot: &AccountSnapshot, now: Now) -> String {
    let code = snapshot.last_error().map_or("", LoginError::code);
    let time = |time| time_of_day(time, now.wall);
    let until = snapshot.expires_at(now).map(|at| format!(", token until {}", time(at))).unwrap_or_default();
    let again = snapshot.retry_at(now).map(|at| format!(", next attempt {}", time(at))).unwrap_or_default();
    match snapshot.state() {
        None if snapshot.is_usable(now.moment) => "ready (no log-in)".to_owned(),
        None if snapshot.lacks_organization() => format!("has no organization ({code})"),
        None => "reading its organization".to_owned(),
        Some(StateName::LoggedOut) => "logged out".to_owned(),
        Some(_) if snapshot.trouble(now.moment) == Some(AccountTrouble::TokenRefused) => {
            let since = snapshot.trouble_since(now).map(|at| format!(" since {}", time(at))).unwrap_or_default();
            match code {
                "" => format!("logs in, but its tokens are refused{since}"),
                code => format!("can't log in ({code}), and its token is refused{since}"),
            }
        }
        Some(StateName::LoggingIn) => "logging in".to_owned(),
        Some(StateName::Ready) => format!("ready{until}"),
        Some(StateName::Refreshing) if code.is_empty() => format!("renewing its token{until}"),
        Some(StateName::Refreshing) => format!("can't renew its token ({code}){until}{again}"),
        Some(StateName::BackingOff) => format!("can't log in ({code}){again}"),
        Some(StateName::Rejected) => format!("rejected ({code}){until}{again}"),
    }
}

/// Formats a time as `12:34:56Z`, with the date when it is another day.
fn time_of_day(time: SystemTime, now: SystemTime) -> String {
    let (time, now) = (rfc3339(time), rfc3339(now));
    match (time.split_once('T'), now.split_once('T')) {
        (Some((day, clock)), Some((today, _))) => {
            let clock = clock.split('.').next().unwrap_or(clock);
            if day == today { format!("{clock}Z") } else { format!("{day} {clock}Z") }
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
    use crate::{
        clock::Moment,
        status::{ApiStanding, TroubleCause},
    };

    const NOW: Now = Now { moment: Moment::new(Duration::ZERO), wall: UNIX_EPOCH };

    fn account(state: Option<StateName>, expires: Option<u64>, retry: Option<u64>, failed: bool) -> AccountSnapshot {
        let error = failed.then_some(LoginError::Refused(StatusCode::UNAUTHORIZED));
        AccountSnapshot::showing(state, expires, retry, error)
    }

    #[test]
    fn each_state_has_its_words() {
        use StateName::*;
        for (snapshot, expected) in [
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
            assert_eq!(in_words(&snapshot, NOW), expected);
        }
    }

    #[test]
    fn one_line_says_it_all_and_what_is_wrong_first() {
        let ready = account(Some(StateName::Ready), Some(1), None, false);
        let out = account(Some(StateName::LoggedOut), None, None, false);
        assert_eq!(
            serving(1, &[], &[("default", ready.clone())], None, NOW),
            "Serving 1 API; account default ready, token until 00:00:01Z"
        );
        assert_eq!(
            serving(2, &[], &[("a", ready.clone()), ("b", out.clone())], Some(1), NOW),
            "Serving 2 APIs; account b logged out; account a ready, token until 00:00:01Z; \
             the last reload was refused (1 fault, see the log)"
        );
        let names = ["a", "b", "c", "d", "e", "f"];
        let many: Vec<_> = names.iter().map(|name| (*name, if *name == "f" { out.clone() } else { ready.clone() })).collect();
        let many = serving(6, &[], &many, None, NOW);
        assert!(many.starts_with("Serving 6 APIs; account f logged out; account a ready"), "{many}");
        assert!(many.ends_with("account c ready, token until 00:00:01Z; 5 of 6 accounts usable"), "{many}");
    }
    #[test]
    fn an_api_that_is_not_served_comes_before_the_accounts() {
        let trouble = |api: &str, state, code: &str| {
            let cause = Some(TroubleCause { code: code.to_owned(), reason: String::new(), advice: "" });
            let standing = ApiStanding { state, cause, since: Moment::new(Duration::ZERO), began_at: UNIX_EPOCH };
            ApiTrouble { api: api.to_owned(), standing }
        };
        let ready = [("default", account(Some(StateName::Ready), Some(1), None, false))];
        let said = |apis, troubles: &[ApiTrouble]| serving(apis, troubles, &ready, None, NOW);
        let out = trouble("default", ApiState::Unreachable, "connect_failed");
        assert_eq!(
            said(1, std::slice::from_ref(&out)),
            "Not working; default can't reach CarePortals (connect_failed) since 00:00:00Z; account default ready, token until \
             00:00:01Z"
        );
        let both = [out, trouble("emr", ApiState::Busy, "too_many_requests_in_flight")];
        assert!(
            said(3, &both).starts_with(
                "Serving 2 of 3 APIs; default can't reach CarePortals (connect_failed) since 00:00:00Z; \
                 emr refuses requests (too_many_requests_in_flight) since 00:00:00Z; account default ready"
            ),
            "{}",
            said(3, &both)
        );
        assert!(said(1, &both[1..]).starts_with("Serving 1 API; emr refuses requests"));
        for (code, starts) in [("login_failing", "Not working; account default"), (PENDING, "Serving 1 API; account default")] {
            let without = said(1, &[trouble("default", ApiState::NoToken, code)]);
            assert!(without.starts_with(starts), "{without}");
        }
    }
}
