//! A fleet of sidecars against one log-in server: what the server sees after a rollout, after an outage, and when it takes few
//! log-ins.
//!
//! `cargo test` plays a thousand sidecars and holds the bounds. `UPDATE_DOCS=1 cargo test --release --lib fleet` plays ten
//! thousand, and writes the tables and pictures of `docs/fleet.md`.

mod report;
mod run;

use std::{fs, ops::Range, path::Path};

use self::{
    report::{HEAD, Panel, busiest, picture, row},
    run::{Curve, Limit, OUTAGE, Scenario, play},
};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The fleet of the tests. That of the documents is ten times as large.
const SIDECARS: u32 = 1000;
/// The server of [`limited`] takes all sidecars in this time, in seconds.
const TAKES_ALL_IN: u32 = 200;

/// A scenario, and how it is shown.
struct Case {
    name: &'static str,
    scenario: Scenario,
    /// From when on the time counts until everybody is ready.
    since: Duration,
    /// The part of the curve in the picture.
    shown: Option<Range<Duration>>,
}

/// A fleet that is started within a minute and gets tokens for a day.
fn rollout(sidecars: u32) -> Scenario {
    Scenario {
        sidecars,
        starts: Duration::ZERO..MINUTE,
        life: DAY,
        outage: None,
        limit: None,
        revoked_at: None,
        judged_from: Duration::ZERO,
        ends: 2 * HOUR,
        comes_back_exactly: false,
    }
}

/// A fleet that has run for some hours when the log-in server fails.
fn outage(sidecars: u32, life: Duration, error: LoginError) -> Scenario {
    let from = 4 * life;
    // A token is renewed after four fifths of its life, so that is when the fleet is evenly spread.
    let starts = Duration::ZERO..life * 4 / 5;
    Scenario { starts, life, outage: Some((from, error)), judged_from: from, ends: from + 2 * life, ..rollout(sidecars) }
}

/// A fleet that is started anew while the log-in server fails, so that nobody has a token.
fn restart(sidecars: u32, error: LoginError) -> Scenario {
    Scenario { starts: 10 * MINUTE..11 * MINUTE, outage: Some((Duration::ZERO, error)), ..rollout(sidecars) }
}

/// The server takes so few log-ins that the whole fleet needs [`TAKES_ALL_IN`] seconds at least.
fn limited(scenario: Scenario, retry_after: Option<Duration>) -> Scenario {
    let limit = Some(Limit { a_second: scenario.sidecars / TAKES_ALL_IN, retry_after });
    Scenario { limit, ..scenario }
}

/// The same, if every sidecar came back exactly when `Retry-After` says.
fn exactly(scenario: Scenario) -> Scenario {
    Scenario { comes_back_exactly: true, ends: 6 * HOUR, ..scenario }
}

/// All sidecars start within a second.
fn at_once(sidecars: u32) -> Scenario {
    Scenario { starts: Duration::ZERO..SECOND, ..rollout(sidecars) }
}

/// All tokens are refused from one time on, and every sidecar notices within ten seconds.
fn revoked(sidecars: u32) -> Scenario {
    let at = 2 * HOUR;
    Scenario { starts: Duration::ZERO..HOUR, revoked_at: Some(at), judged_from: at, ends: 4 * HOUR, ..rollout(sidecars) }
}

fn rollouts(sidecars: u32) -> Vec<Case> {
    let lives = [
        ("tokens for an hour", HOUR, 3 * DAY, 8 * HOUR),
        ("tokens for a day", DAY, 10 * DAY, 5 * DAY),
        ("tokens for 30 days", 30 * DAY, 90 * DAY, 90 * DAY),
    ];
    let case = |(name, life, ends, shown)| {
        let over = 2 * MINUTE;
        let scenario = Scenario { life, ends, judged_from: over, ..rollout(sidecars) };
        Case { name, scenario, since: Duration::ZERO, shown: Some(over..shown) }
    };
    lives.into_iter().map(case).collect()
}

fn outages(sidecars: u32) -> Vec<Case> {
    let (refused, hangs) = (transient(), LoginError::TimedOut);
    let hourly = Some(4 * HOUR..6 * HOUR);
    let cases = [
        ("tokens for an hour, refused", outage(sidecars, HOUR, refused.clone()), hourly.clone()),
        ("tokens for an hour, hanging", outage(sidecars, HOUR, hangs.clone()), hourly),
        ("tokens for a day, refused", outage(sidecars, DAY, refused.clone()), None),
        ("tokens for a day, hanging", outage(sidecars, DAY, hangs.clone()), None),
        ("all started anew, refused", restart(sidecars, refused), Some(5 * MINUTE..35 * MINUTE)),
        ("all started anew, hanging", restart(sidecars, hangs), Some(5 * MINUTE..35 * MINUTE)),
        ("all started anew, each log-in answered 403", restart(sidecars, self::refused()), None),
    ];
    let case = |(name, scenario, shown): (_, Scenario, _)| {
        let since = scenario.outage.as_ref().map_or(Duration::ZERO, |(from, _)| *from + OUTAGE);
        Case { name, scenario, since, shown }
    };
    cases.into_iter().map(case).collect()
}

fn limits(sidecars: u32) -> Vec<Case> {
    let asked = |seconds| Some(Duration::from_secs(seconds));
    let begun = || Some(Duration::ZERO..12 * MINUTE);
    let ended = || Some(26 * MINUTE..38 * MINUTE);
    let over = 30 * MINUTE;
    let (zero, hour) = (Duration::ZERO, 4 * HOUR + OUTAGE);
    // It ends before the next refreshes: chance makes a few of those meet the limit, too.
    let hourly = Scenario { ends: hour + OUTAGE, ..outage(sidecars, HOUR, transient()) };
    let cases = [
        ("rollout, no Retry-After", limited(rollout(sidecars), None), zero, begun()),
        ("rollout, Retry-After: 1", limited(rollout(sidecars), asked(1)), zero, begun()),
        ("… if it were kept exactly", exactly(limited(rollout(sidecars), asked(1))), zero, begun()),
        ("rollout, Retry-After: 60", limited(rollout(sidecars), asked(60)), zero, None),
        ("… if it were kept exactly", exactly(limited(rollout(sidecars), asked(60))), zero, None),
        ("all at once, no Retry-After", limited(at_once(sidecars), None), zero, None),
        ("all at once, Retry-After: 60", limited(at_once(sidecars), asked(60)), zero, begun()),
        ("… if it were kept exactly", exactly(limited(at_once(sidecars), asked(60))), zero, begun()),
        ("after an outage, tokens for an hour, no Retry-After", limited(hourly, None), hour, None),
        ("after an outage, all started anew, no Retry-After", limited(restart(sidecars, transient()), None), over, ended()),
        ("after an outage, all started anew, Retry-After: 60", limited(restart(sidecars, transient()), asked(60)), over, None),
        ("all tokens refused at once, no Retry-After", limited(revoked(sidecars), None), 2 * HOUR, None),
    ];
    cases.into_iter().map(|(name, scenario, since, shown)| Case { name, scenario, since, shown }).collect()
}

/// The part of a curve whose peaks count: what the server sees once it is back.
fn judged(case: &Case) -> Range<Duration> {
    case.since.max(case.scenario.judged_from)..case.scenario.ends
}

/// The time that the picture calls zero: the start, or that of the outage.
fn zero(case: &Case) -> Duration {
    case.scenario.outage.as_ref().map_or(Duration::ZERO, |(from, _)| *from)
}

/// The attempts in the busiest second and in the busiest minute of a time.
fn peaks(curve: &Curve, time: Range<Duration>) -> (u32, u32) {
    let attempts = Curve::during(&curve.attempts, time);
    (busiest(attempts, 1), busiest(attempts, 60))
}

fn total(series: &[u32]) -> u32 {
    series.iter().sum()
}

#[test]
fn after_a_rollout_the_refreshes_are_spread_over_a_sixth_of_the_tokens_life() {
    // The most in one minute: a sixth of an hour has ten minutes, and chance adds something.
    for (case, most) in rollouts(SIDECARS).into_iter().zip([SIDECARS / 8, SIDECARS / 50, SIDECARS / 100]) {
        let curve = play(&case.scenario);
        let (_, minute) = peaks(&curve, judged(&case));
        assert!(minute <= most, "{}: {minute} in a minute", case.name);
        assert_eq!((curve.without_token, curve.unready), (0, 0), "{}", case.name);
        let refreshes = total(Curve::during(&curve.attempts, judged(&case)));
        assert!(refreshes >= 2 * SIDECARS, "{}: {refreshes}", case.name);
        assert_eq!(total(&curve.attempts), total(&curve.log_ins), "{}", case.name);
    }
}

#[test]
fn after_an_outage_all_are_ready_within_a_minute_or_so_and_no_second_sees_more_than_a_fifteenth_of_them() {
    for (error, within) in [(transient(), 62), (LoginError::TimedOut, 72)] {
        let within = Duration::from_secs(within);
        for scenario in [outage(SIDECARS, HOUR, error.clone()), restart(SIDECARS, error.clone())] {
            let curve = play(&scenario);
            let over = scenario.outage.as_ref().unwrap().0 + OUTAGE;
            assert!(curve.recovered_at > over && curve.recovered_at <= over + within, "{error}: {:?}", curve.recovered_at);
            assert_eq!(curve.unready, 0, "{error}");
            // While it fails, too, once the first minutes' attempts are over.
            let (second, _) = peaks(&curve, over.saturating_sub(10 * MINUTE)..scenario.ends);
            assert!(second <= SIDECARS / 15, "{error}: {second} in a second");
            // What has logged in together does not come back together.
            let (_, minute) = peaks(&curve, over + 2 * MINUTE..scenario.ends);
            assert!(minute <= SIDECARS / 8, "{error}: {minute} in a minute");
        }
    }
}

#[test]
fn tokens_for_a_day_outlive_an_outage_of_half_an_hour() {
    for error in [transient(), LoginError::TimedOut] {
        let scenario = outage(SIDECARS, DAY, error.clone());
        let curve = play(&scenario);
        assert_eq!((curve.without_token, curve.unready), (0, 0), "{error}");
        assert!(curve.recovered_at > scenario.judged_from, "{error}: the outage was noticed");
    }
}

#[test]
fn a_server_that_takes_few_log_ins_gets_all_sidecars_ready_in_little_more_than_the_time_that_it_needs() {
    let needed = Duration::from_secs(u64::from(TAKES_ALL_IN));
    for case in limits(SIDECARS).into_iter().filter(|case| !case.scenario.comes_back_exactly) {
        let curve = play(&case.scenario);
        let limit = case.scenario.limit.unwrap();
        assert!(busiest(Curve::during(&curve.log_ins, judged(&case)), 1) <= limit.a_second, "{}", case.name);
        // A wait that the server asks for is its own doing; what is drawn at random is a minute at most.
        let rounds = limit.retry_after.map_or(2 * MINUTE, |asked| 10 * asked);
        let took = curve.recovered_at.saturating_sub(case.since);
        assert!(took <= needed + 2 * MINUTE + rounds, "{}: {took:?}", case.name);
        assert_eq!(curve.unready, 0, "{}", case.name);
        assert_eq!(curve.waited_as_asked > 0, limit.retry_after.is_some(), "{}", case.name);
    }
}

#[test]
fn sidecars_that_were_refused_together_and_asked_to_wait_do_not_come_back_together() {
    let scenario = limited(at_once(SIDECARS), Some(MINUTE));
    let (spread, exact) = (play(&scenario), play(&exactly(scenario)));
    assert!(exact.recovered_at > HOUR, "without a spread each minute has one crowded second: {:?}", exact.recovered_at);
    assert!(spread.recovered_at < 15 * MINUTE, "{:?}", spread.recovered_at);
    // They all came in the first second, in one more when the minute was over, and no more.
    let (second, _) = peaks(&spread, 4 * MINUTE..HOUR);
    assert!(second < SIDECARS / 4, "{second} in a second");
}

/// In a build with optimizations it compares the figures, which takes too long without. `UPDATE_DOCS=1` writes them anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for the page to be written")]
fn the_page_about_fleets_shows_what_ten_thousand_sidecars_do() {
    let is_update = std::env::var_os("UPDATE_DOCS").is_some();
    let plays = is_update || !cfg!(debug_assertions);
    let sidecars = 10 * SIDECARS;
    let groups = [
        ("rollout", "10,000 sidecars are rolled out within a minute", rollouts(sidecars)),
        ("outage", "10,000 sidecars, and 30 minutes without a log-in", outages(sidecars)),
        ("limit", "10,000 sidecars, and a server that takes 50 log-ins a second", limits(sidecars)),
    ];
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md");
    let mut text = fs::read_to_string(&page).unwrap();
    let before = text.clone();
    for (group, title, cases) in groups {
        let (start, rest) = text.split_once(&format!("<!-- begin {group} -->\n")).expect("the table's beginning");
        let (table, end) = rest.split_once(&format!("<!-- end {group} -->")).expect("the table's end");
        if !plays {
            for Case { name, .. } in cases {
                assert!(table.contains(&format!("| {name} | ")), "{group} has no row for: {name}");
            }
            continue;
        }
        let curves: Vec<Curve> = cases.iter().map(|case| play(&case.scenario)).collect();
        let played = || cases.iter().zip(&curves);
        let rows: String = played().map(|(case, curve)| row(case.name, curve, judged(case), case.since)).collect();
        let panels: Vec<Panel> = played()
            .filter_map(|(case, curve)| Some(Panel { shown: case.shown.clone()?, zero: zero(case), title: case.name, curve }))
            .collect();
        text = format!("{start}<!-- begin {group} -->\n\n{HEAD}{rows}\n<!-- end {group} -->{end}");
        is_or_becomes(&format!("pictures/fleet-{group}.svg"), &picture(title, &panels), is_update);
    }
    if text != before {
        is_or_becomes("fleet.md", &text, is_update);
    }
}

/// Asserts that a document has this text, or writes it.
fn is_or_becomes(document: &str, text: &str, is_update: bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    if is_update {
        fs::write(&path, text).unwrap();
    } else {
        let found = fs::read_to_string(&path).unwrap();
        assert!(found == text, "docs/{document} is old: UPDATE_DOCS=1 cargo test --release --lib fleet");
    }
}
