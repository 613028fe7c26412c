//! Prints the status document as a table for people.
//!
//! Pure. A daemon of another version may have sent the document, so the table leaves out what is missing. It tells times
//! relative to the daemon's own `now`. Guarantees: nothing in the document can move the terminal's cursor; 80 columns suffice
//! for names of a usual length; a column is as wide as a terminal shows it.

use std::{
    fmt::{Display, Write as _},
    time::UNIX_EPOCH,
};

use unicode_width::UnicodeWidthStr;

use crate::{
    logging::parse_rfc3339,
    status::{AccountDocument, ApiDocument, StatusDocument},
};

const WIDTH: usize = 80;
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Formats the document as a table; `colour` is for a terminal.
pub(super) fn table(document: &StatusDocument, colour: bool) -> String {
    let style = Style { colour };
    let now = seconds(&document.now);
    let mut text = String::new();
    let version = printable(&document.version);
    let phase = style.phase(&printable(&document.phase));
    // Writing to a string can't fail.
    // Only these two phases began with the daemon.
    let of_uptime = if matches!(document.phase.as_str(), "starting" | "running") { " for" } else { ", up" };
    let _ = writeln!(text, "careportals-sidecar {version}: {phase}{of_uptime} {}\n", span(document.uptime_seconds));
    columns(&mut text, &style, &accounts(&document.accounts, now), [Side::Left; 5]);
    for account in &document.accounts {
        account_trouble(&mut text, &style, account, now);
    }
    text.push('\n');
    apis(&mut text, &style, &document.apis, now);
    if let Some(telemetry) = &document.telemetry {
        let _ = writeln!(text, "\ntelemetry: http://{}/", printable(telemetry));
    }
    text
}

type Row = Vec<Cell>;

/// A cell's text and its colour.
struct Cell {
    text: String,
    colour: &'static str,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: "" }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

fn accounts(accounts: &[AccountDocument], now: Option<i64>) -> Vec<Row> {
    let mut rows = vec![head(["ACCOUNT", "STATE", "TOKEN EXPIRES", "NEXT LOG-IN", "LAST LOG-IN"])];
    for account in accounts {
        let state = account.state.as_deref().map_or_else(|| "no log-in".to_owned(), printable);
        // After a failure the next attempt comes before the scheduled refresh.
        let next = account.retry_at.as_ref().or(account.refresh_at.as_ref());
        let next = match account.login_began_at {
            Some(_) => "now".to_owned(),
            None => upcoming(next.map(String::as_str), now),
        };
        rows.push(vec![
            Cell::plain(printable(&account.name)),
            Cell { colour: trouble_colour(account).unwrap_or_else(|| state_colour(&state)), text: state.replace('_', " ") },
            Cell::plain(relative(account.expires_at.as_deref(), now)),
            Cell::plain(next),
            Cell::plain(relative(account.last_login_at.as_deref(), now)),
        ]);
    }
    rows
}

/// Writes what keeps an account from a new token and what that means for requests, what failed last, and what to do.
fn account_trouble(text: &mut String, style: &Style, account: &AccountDocument, now: Option<i64>) {
    let error = account.last_error.as_ref().or(account.last_error_code.as_ref());
    let trouble = trouble_in_words(account, error.is_some());
    if trouble.is_none() && error.is_none() {
        return;
    }
    text.push('\n');
    if let Some(trouble) = trouble {
        wrap(text, style, trouble_colour(account).unwrap_or(YELLOW), &trouble, "  ");
    }
    if let Some(said) = error {
        let when = account.last_error_at.as_deref().map(|at| format!(" {}", relative(Some(at), now))).unwrap_or_default();
        wrap(text, style, RED, &format!("{} failed{when}: {}", printable(&account.name), printable(said)), "  ");
    }
    if let Some(advice) = &account.advice {
        wrap(text, style, "", &printable(advice), "  ");
    }
}

/// Since when an account is logged out, or its log-ins fail or hang, and what that means for requests.
fn trouble_in_words(account: &AccountDocument, fails: bool) -> Option<String> {
    let name = printable(&account.name);
    let since = account.since.as_deref().map(|since| format!(" since {}", clock_time(since))).unwrap_or_default();
    if account.state.as_deref() == Some("logged_out") {
        return Some(format!("{name} is logged out{since}"));
    }
    let trouble = account.trouble.as_deref()?;
    if trouble == "token_refused" {
        let what = if fails { "can't log in, and its token is refused" } else { "logs in, but its tokens are refused" };
        return Some(format!("{name} {what}{since}: requests get the refusal"));
    }
    let what = match (&account.state, fails) {
        (None, _) => "has no organization",
        (Some(_), true) => "can't log in",
        (Some(_), false) => "waits for a log-in that hangs",
    };
    let means = match (trouble, &account.state) {
        ("renewal_failing", _) => "requests still get the present token".to_owned(),
        ("token_ending", _) => "requests fail once the token ends, which is soon".to_owned(),
        ("no_token", Some(_)) => "there is no token, so requests fail".to_owned(),
        ("no_token", None) => "requests fail".to_owned(),
        (other, _) => printable(other),
    };
    Some(format!("{name} {what}{since}: {means}"))
}

fn apis(text: &mut String, style: &Style, apis: &[ApiDocument], now: Option<i64>) {
    let sides = [Side::Left, Side::Left, Side::Left, Side::Right, Side::Right, Side::Right];
    let mut rows = vec![head(["API", "ACCOUNT", "STATE", "REQUESTS", "ERRORS", "IN FLIGHT"])];
    for api in apis {
        let state = api.state.as_deref().map_or_else(|| "-".to_owned(), printable);
        rows.push(vec![
            Cell::plain(printable(&api.name)),
            Cell::plain(printable(&api.account)),
            Cell { colour: state_colour(&state), text: state.replace('_', " ") },
            Cell::plain(count(api.requests)),
            Cell { text: count(api.errors), colour: if api.errors > Some(0) { YELLOW } else { "" } },
            Cell::plain(count(api.in_flight)),
        ]);
    }
    let mut lines = String::new();
    columns(&mut lines, style, &rows, sides);
    let mut lines = lines.lines();
    let _ = writeln!(text, "{}", lines.next().unwrap_or_default());
    for (api, line) in apis.iter().zip(lines) {
        let _ = writeln!(text, "{line}");
        let listen = api.listen.iter().map(|listen| printable(listen)).collect::<Vec<_>>().join(", ");
        wrap(text, style, "", &format!("from {listen}"), "  ");
        wrap(text, style, "", &format!("to {}", printable(&api.upstream)), "  ");
        trouble(text, style, api, now);
        if api.observe == Some(true) {
            let refused = api.would_refuse.unwrap_or_default();
            let said = format!("OBSERVES ONLY: its rules are not enforced; requests that they would have refused: {refused}");
            wrap(text, style, YELLOW, &said, "  ");
        }
    }
}

/// Writes why an API is not served and what to do, and which errors there were. A missing token is told with the account.
fn trouble(text: &mut String, style: &Style, api: &ApiDocument, now: Option<i64>) {
    if let (Some(state), Some(reason)) = (api.state.as_deref().filter(|state| *state != "no_token"), &api.reason) {
        let since = api.since.as_deref().map(|since| format!(" since {}", clock_time(since))).unwrap_or_default();
        let what = match state {
            "refusing" => "every request is refused",
            "unreachable" => "CarePortals can't be reached",
            "failing" => "most answers of CarePortals are errors",
            "busy" => "requests are refused",
            other => other,
        };
        let said = format!("{}{since}: {}", printable(what), printable(reason));
        wrap(text, style, state_colour(state), &said, "  ");
        if let Some(advice) = &api.advice {
            wrap(text, style, "", &printable(advice), "  ");
        }
    }
    if let Some(code) = &api.last_error {
        let when = api.last_error_at.as_deref().map(|at| format!(" {}", relative(Some(at), now))).unwrap_or_default();
        let by_code = api.errors_by_code.iter().map(|(code, count)| format!("{count} {}", printable(code)));
        let by_code = by_code.collect::<Vec<_>>().join(", ");
        // An answer that was cut is the last error, and counts as none.
        let since_the_start = if by_code.is_empty() { String::new() } else { format!("; since the start: {by_code}") };
        wrap(text, style, "", &format!("last error{when}: {}{since_the_start}", printable(code)), "  ");
    }
}

/// The time of day of an RFC 3339 time: `15:21:04Z`. It is the text itself when that is no time.
fn clock_time(time: &str) -> String {
    let of_day = time.split_once('T').and_then(|(_, clock)| clock.get(..8)).filter(|_| seconds(time).is_some());
    of_day.map_or_else(|| printable(time), |clock| format!("{clock}Z"))
}

fn count(number: Option<impl Display>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn head<const N: usize>(names: [&str; N]) -> Row {
    names.map(|name| Cell { text: name.to_owned(), colour: BOLD }).into()
}

/// Writes rows of cells in aligned columns: two blanks between columns, none at the end of a line.
fn columns<const N: usize>(text: &mut String, style: &Style, rows: &[Row], sides: [Side; N]) {
    let width = |column: usize| rows.iter().map(|row| row[column].text.width()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for ((cell, width), side) in row.iter().zip(widths).zip(sides) {
            let padding = " ".repeat(width - cell.text.width());
            let shown = style.paint(cell.colour, &cell.text);
            let (before, after) = if side == Side::Left { ("", padding.as_str()) } else { (padding.as_str(), "") };
            line.extend([before, &shown, after, "  "]);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Writes a paragraph, wrapped to the width, with `indent` before each line.
fn wrap(text: &mut String, style: &Style, colour: &str, paragraph: &str, indent: &str) {
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        let fits = indent.width() + line.width() + 1 + word.width() <= WIDTH;
        if !line.is_empty() && !fits {
            let _ = writeln!(text, "{indent}{}", style.paint(colour, &line));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if !line.is_empty() {
        let _ = writeln!(text, "{indent}{}", style.paint(colour, &line));
    }
}

/// Formats a time relative to `now`: `in 42 min`, `3 s ago`. It is `-` for no time, and the text itself when that is no time.
fn relative(time: Option<&str>, now: Option<i64>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    match (seconds(time), now) {
        (Some(at), Some(now)) if at > now => format!("in {}", span(at.abs_diff(now))),
        (Some(at), Some(now)) => format!("{} ago", span(at.abs_diff(now))),
        _ => printable(time),
    }
}

/// [`relative`] for a time that is to come: one that has come is `now`.
fn upcoming(time: Option<&str>, now: Option<i64>) -> String {
    match (time.and_then(seconds), now) {
        (Some(at), Some(now)) if at <= now => "now".to_owned(),
        _ => relative(time, now),
    }
}

/// Formats a time relative to `now`, both as a document has them.
pub(super) fn relative_to(time: &str, now: &str) -> String {
    relative(Some(time), seconds(now))
}

/// Formats a span in at most two units; the smaller one only where it is not zero.
fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, name: &str, small: u64, other: &str| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {other}"),
    };
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds / MINUTE),
        6_000..172_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        _ => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
    }
}

/// Reads an RFC 3339 time in UTC as seconds since 1970; `None` when it is not one.
fn seconds(time: &str) -> Option<i64> {
    let since_epoch = parse_rfc3339(time)?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_secs()).ok()
}

/// Replaces control characters, which a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The style of the output: coloured or not.
struct Style {
    colour: bool,
}

impl Style {
    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !colour.is_empty() { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn phase(&self, phase: &str) -> String {
        self.paint(if phase == "running" { GREEN } else { YELLOW }, phase)
    }
}

/// The colour of an account whose log-ins fail or hang, whatever its state.
fn trouble_colour(account: &AccountDocument) -> Option<&'static str> {
    account.trouble.as_deref().map(|trouble| if trouble == "renewal_failing" { YELLOW } else { RED })
}

fn state_colour(state: &str) -> &'static str {
    match state {
        "ready" | "refreshing" | "served" => GREEN,
        "rejected" | "no_token" | "refusing" | "unreachable" | "failing" => RED,
        "no log-in" | "-" => "",
        _ => YELLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{
        "version": "0.1.0", "phase": "running", "uptime_seconds": 7503, "now": "2026-11-24T12:00:00Z",
        "accounts": [
            {"name": "crm", "state": "ready", "expires_at": "2026-11-24T12:42:10Z", "refresh_at": "2026-11-24T12:36:00.5Z",
             "last_login_at": "2026-11-24T11:42:00Z", "last_error": null, "unknown": 1},
            {"name": "default", "state": "backing_off", "expires_at": null, "refresh_at": null,
             "retry_at": "2026-11-24T12:00:09Z", "last_login_at": null, "trouble": "no_token", "since": "2026-11-24T11:40:02.5Z",
             "last_error": "the command op failed (exit status 1): 项目 not found, and this goes on for a while",
             "last_error_code": "source_command_failed", "last_error_at": "2026-11-24T11:59:57Z",
             "advice": "Correct the command, or run it by hand to see what it says."},
            {"name": "public", "state": null}
        ],
        "apis": [
            {"name": "crm", "account": "crm", "listen": ["127.0.0.1:2273", "[::1]:2273"], "requests": 123456, "errors": 0,
             "upstream": "https://crm.example", "in_flight": 2, "state": "served", "since": "2026-11-24T11:42:01.25Z"},
            {"name": "public", "account": "public", "listen": ["unix:/run/項目/a.sock"], "requests": 7, "errors": 3,
             "upstream": "https://api.example/v1", "in_flight": 0, "state": "unreachable", "since": "2026-11-24T11:58:00.25Z",
             "reason": "connection refused", "advice": "check `upstream` or `login_url`, firewalls and routes",
             "last_error": "connect_failed", "last_error_at": "2026-11-24T11:59:57Z",
             "errors_by_code": {"connect_failed": 2, "upstream_503": 1}}
        ],
        "telemetry": "127.0.0.1:2274"
    }"#;

    const TABLE: &str = "\
careportals-sidecar 0.1.0: running for 2 h 5 min

ACCOUNT  STATE        TOKEN EXPIRES  NEXT LOG-IN  LAST LOG-IN
crm      ready        in 42 min      in 36 min    18 min ago
default  backing off  -              in 9 s       -
public   no log-in    -              -            -

  default can't log in since 11:40:02Z: there is no token, so requests fail
  default failed 3 s ago: the command op failed (exit status 1): 项目 not found,
  and this goes on for a while
  Correct the command, or run it by hand to see what it says.

API     ACCOUNT  STATE        REQUESTS  ERRORS  IN FLIGHT
crm     crm      served         123456       0          2
  from 127.0.0.1:2273, [::1]:2273
  to https://crm.example
public  public   unreachable         7       3          0
  from unix:/run/項目/a.sock
  to https://api.example/v1
  CarePortals can't be reached since 11:58:00Z: connection refused
  check `upstream` or `login_url`, firewalls and routes
  last error 3 s ago: connect_failed; since the start: 2 connect_failed, 1
  upstream_503

telemetry: http://127.0.0.1:2274/
";

    fn document(text: &str) -> StatusDocument {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_table_fits_80_columns_and_tells_times_from_now() {
        let table = table(&document(DOCUMENT), false);
        assert_eq!(table, TABLE);
        assert!(table.lines().all(|line| line.width() <= WIDTH));
    }

    #[test]
    fn colours_do_not_move_a_column() {
        let painted = table(&document(DOCUMENT), true);
        let mut plain = String::new();
        for part in painted.split('\u{1b}') {
            plain += part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |(_, rest)| rest);
        }
        assert_eq!(plain, TABLE);
        assert!(painted.contains("\u{1b}[32mready\u{1b}[0m") && painted.contains("\u{1b}[31mbacking off\u{1b}[0m"));
    }

    #[test]
    fn an_account_that_can_not_renew_its_token_is_not_green() {
        for (trouble, colour) in
            [("null", "32"), ("\"renewal_failing\"", "33"), ("\"token_ending\"", "31"), ("\"no_token\"", "31")]
        {
            let text = format!(r#"{{"accounts": [{{"name": "a", "state": "refreshing", "trouble": {trouble}}}]}}"#);
            let table = table(&document(&text), true);
            assert!(table.contains(&format!("\u{1b}[{colour}mrefreshing")), "{table}");
        }
    }

    /// The lines below the table of accounts, for one account of these members.
    fn told(members: &str) -> String {
        let text = format!(r#"{{"now": "2026-11-24T12:00:00Z", "accounts": [{{"name": "a", {members}}}]}}"#);
        let table = table(&document(&text), false);
        let (_, below) = table.split_once("\na ").unwrap();
        below.lines().skip(1).take_while(|line| !line.starts_with("API")).collect::<Vec<_>>().join("\n").trim().to_owned()
    }

    #[test]
    fn a_trouble_is_told_in_words_with_its_beginning_and_what_to_do_whether_or_not_anything_failed_yet() {
        let since = r#""since": "2026-11-24T11:59:54.5Z", "advice": "look""#;
        for (members, expected) in [
            (
                r#""state": "refreshing", "trouble": "renewal_failing""#,
                "a waits for a log-in that hangs since 11:59:54Z: requests still get the\n  present token\n  look",
            ),
            (
                r#""state": "refreshing", "trouble": "token_ending", "last_error": "no answer""#,
                "a can't log in since 11:59:54Z: requests fail once the token ends, which is\n  soon\n  a failed: no answer\n  look",
            ),
            (
                r#""state": "logging_in", "trouble": "no_token""#,
                "a waits for a log-in that hangs since 11:59:54Z: there is no token, so\n  requests fail\n  look",
            ),
            (
                r#""state": null, "trouble": "no_token", "last_error": "no file""#,
                "a has no organization since 11:59:54Z: requests fail\n  a failed: no file\n  look",
            ),
            (
                r#""state": "ready", "trouble": "token_refused""#,
                "a logs in, but its tokens are refused since 11:59:54Z: requests get the\n  refusal\n  look",
            ),
            (
                r#""state": "rejected", "trouble": "token_refused", "last_error": "refused""#,
                "a can't log in, and its token is refused since 11:59:54Z: requests get the\n  refusal\n  a failed: refused\n  look",
            ),
            (r#""state": "logged_out", "trouble": null"#, "a is logged out since 11:59:54Z\n  look"),
        ] {
            assert_eq!(told(&format!("{members}, {since}")), expected);
        }
        assert_eq!(told(r#""state": "ready", "trouble": null"#), "");
        assert_eq!(told(r#""state": "logged_out""#), "a is logged out", "of a daemon that does not tell since when");
    }

    #[test]
    fn a_log_in_that_is_due_or_in_flight_comes_now() {
        for (members, expected) in [
            (r#""refresh_at": "2026-11-24T12:00:00Z""#, "now"),
            (r#""refresh_at": "2026-11-24T11:59:58Z""#, "now"),
            (r#""login_began_at": "2026-11-24T11:59:58Z", "retry_at": null"#, "now"),
            (r#""retry_at": "2026-11-24T12:00:01Z""#, "in 1 s"),
            (r#""retry_at": null"#, "-"),
        ] {
            let text = format!(r#"{{"now": "2026-11-24T12:00:00Z", "accounts": [{{"name": "a", "state": "x", {members}}}]}}"#);
            let rows = accounts(&document(&text).accounts, seconds("2026-11-24T12:00:00Z"));
            assert_eq!(rows[1][3].text, expected, "{members}");
        }
    }

    #[test]
    fn only_a_phase_that_began_with_the_daemon_is_as_long_as_its_uptime() {
        for (phase, expected) in
            [("starting", "starting for 9 s"), ("running", "running for 9 s"), ("draining", "draining, up 9 s")]
        {
            let table = table(&document(&format!(r#"{{"phase": "{phase}", "uptime_seconds": 9}}"#)), false);
            assert_eq!(table.lines().next(), Some(&*format!("careportals-sidecar : {expected}")));
        }
    }

    #[test]
    fn another_versions_document_is_shown_as_far_as_it_goes_and_commands_no_terminal() {
        let text =
            table(&document("{\"version\": \"9\\u001b[2J\", \"accounts\": [{\"name\": \"a\", \"state\": \"new\"}]}"), false);
        assert!(text.starts_with("careportals-sidecar 9\u{fffd}[2J:"), "{text}");
        assert!(text.contains("\na        new"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn spans_have_at_most_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (99, "99 s"),
            (100, "1 min"),
            (5_999, "99 min"),
            (6_000, "1 h 40 min"),
            (7_200, "2 h"),
            (172_799, "47 h 59 min"),
            (172_800, "2 d"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn times_are_read_as_the_rest_of_the_program_writes_them() {
        use std::time::Duration;
        for at in [0_u64, 951_782_399, 951_782_400, 1_709_164_800, 1_798_761_599, 4_107_542_400] {
            let written = crate::logging::rfc3339(UNIX_EPOCH + Duration::from_secs(at));
            assert_eq!(seconds(&written), i64::try_from(at).ok(), "{written}");
        }
        for wrong in ["", "2026-11-24", "2026-11-24T12:00Z", "2026-13-24T12:00:00Z", "2026-11-24T12:00:00+01:00", "aT bZ"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
