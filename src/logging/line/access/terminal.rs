//! The access line for people at a terminal: `15:10:27 GET /users/account 200 1.6ms 262B id=bf30…`.
//!
//! Guarantee: a line has at most [`COLUMNS`] columns. Its path is shortened for that, and then its last fields are left out.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use super::{AccessLine, method_name};
use crate::{
    logging::line::{DIM, GREEN, Paint, RED, YELLOW, escape_bare, time_of_day},
    path::mask,
};

/// The columns of a line.
pub(super) const COLUMNS: usize = 100;
/// The columns that its path has at least, if it is as long as that.
const PATH_MIN: usize = 16;
/// An id of more characters is shortened to [`ID_SHOWN`].
const ID_MAX: usize = 8;
const ID_SHOWN: usize = 4;

/// Appends the line.
pub(super) fn write(line: &AccessLine<'_>, time: &str, colour: bool, to: &mut Vec<u8>) {
    let method = method_name(line.method);
    let mut path = Vec::new();
    mask(line.path, line.words, &mut path);
    let path = String::from_utf8_lossy(&path);
    let before = time_of_day(time).len() + 1 + method.len() + 1;
    let path_columns = path.chars().count();
    let mut rest = Rest { text: String::new(), columns: 0, limit: COLUMNS - before - path_columns.min(PATH_MIN) };
    rest.add_all(line, colour);
    let left = COLUMNS - before - rest.columns;
    let dim = Paint::new(colour, DIM);
    let mut text = String::new();
    // Appending to a string can't fail.
    let _ = write!(text, "{dim}{}{dim:#} {method} {}{}", time_of_day(time), Shortened { text: &path, most: left }, rest.text);
    text.push('\n');
    to.extend_from_slice(text.as_bytes());
}

/// What follows the path.
struct Rest {
    text: String,
    columns: usize,
    /// How many columns it may have.
    limit: usize,
}

impl Rest {
    fn add_all(&mut self, line: &AccessLine<'_>, colour: bool) {
        let status = match line.status {
            500.. => RED,
            400.. => YELLOW,
            _ => GREEN,
        };
        self.add("", &line.status, Paint::new(colour, status));
        let plain = Paint::new(false, "");
        self.add("", &Time(line.duration), plain);
        self.add("", &Size(line.response_bytes), plain);
        let key = Paint::new(colour, DIM);
        let most = if line.request_id.chars().count() > ID_MAX { ID_SHOWN + 1 } else { ID_MAX };
        self.add("id=", &Shortened { text: line.request_id, most }, key);
        let retries = (line.retries > 0).then(|| line.retries.to_string());
        // A name that somebody chose is worth its columns.
        let api = Some(line.api).filter(|api| !["", "default"].contains(api));
        let (uid, pid) = (line.uid.map(|uid| uid.to_string()), line.pid.filter(|pid| *pid >= 0).map(|pid| pid.to_string()));
        for (name, value) in [
            ("code=", line.code),
            ("retries=", retries.as_deref()),
            ("relogin=", line.relogin),
            ("cut=", line.cut),
            ("would_refuse=", line.would_refuse),
            ("api=", api),
            ("uid=", uid.as_deref()),
            ("pid=", pid.as_deref()),
        ] {
            if let Some(value) = value {
                self.add(name, &value, key);
            }
        }
    }

    /// Adds a field if there is room. `paint` colours the name, or the value where there is no name.
    fn add(&mut self, name: &str, value: &dyn fmt::Display, paint: Paint) {
        let (text, mut value) = (value.to_string(), String::new());
        // Appending to a string can't fail.
        let _ = escape_bare(&text, &mut value);
        let columns = 1 + name.len() + value.chars().count();
        if self.columns + columns > self.limit {
            return;
        }
        self.columns += columns;
        let _ = if name.is_empty() {
            write!(self.text, " {paint}{value}{paint:#}")
        } else {
            write!(self.text, " {paint}{name}{paint:#}{value}")
        };
    }
}

/// A text in at most that many characters, with `…` for what is left out.
struct Shortened<'a> {
    text: &'a str,
    most: usize,
}

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.chars().count() <= self.most {
            return f.write_str(self.text);
        }
        let end = self.text.char_indices().nth(self.most.saturating_sub(1)).map_or(self.text.len(), |(at, _)| at);
        write!(f, "{}…", &self.text[..end])
    }
}

/// A time in three digits or so.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.as_secs_f64() * 1000.0);
        match seconds {
            0 if millis < 99.95 => write!(f, "{millis:.1}ms"),
            0 => write!(f, "{}ms", self.0.as_millis()),
            1..60 => write!(f, "{seconds}.{}s", self.0.subsec_millis() / 100),
            60..3600 => write!(f, "{}m{:02}s", seconds / 60, seconds % 60),
            _ => write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// A number of bytes in three digits or so.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return write!(f, "{}B", self.0);
        }
        let (mut whole, mut tenths, mut unit) = (self.0 / 1000, self.0 % 1000 / 100, 0);
        while whole >= 1000 {
            (whole, tenths, unit) = (whole / 1000, whole % 1000 / 100, unit + 1);
        }
        if whole < 100 { write!(f, "{whole}.{tenths}{}", UNITS[unit]) } else { write!(f, "{whole}{}", UNITS[unit]) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::path::Words;

    fn line<'a>(path: &'a str, words: &'a Words) -> AccessLine<'a> {
        AccessLine {
            api: "default",
            listener: "127.0.0.1:2273",
            method: &Method::GET,
            path,
            words,
            status: 200,
            code: None,
            would_refuse: None,
            cut: None,
            retries: 0,
            relogin: None,
            request_bytes: 0,
            response_bytes: 262,
            duration: Duration::from_micros(1600),
            upstream_first_byte: None,
            request_id: "bf30a1b2c3d4e5f6",
            uid: None,
            pid: None,
        }
    }

    fn shown(line: &AccessLine<'_>, colour: bool) -> String {
        let mut text = Vec::new();
        write(line, "2026-01-02T15:10:27.123456Z", colour, &mut text);
        String::from_utf8(text).unwrap().strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn a_line_says_what_matters() {
        let words = Words::new([""; 0]);
        let plain = line("/users/account?keyword=ann", &words);
        assert_eq!(shown(&plain, false), "15:10:27 GET /users/account 200 1.6ms 262B id=bf30…");
        let relogin =
            AccessLine { retries: 1, relogin: Some("done"), request_id: "mine-1", api: "emr", uid: Some(1000), ..plain };
        assert_eq!(
            shown(&relogin, false),
            "15:10:27 GET /users/account 200 1.6ms 262B id=mine-1 retries=1 relogin=done api=emr uid=1000"
        );
        let failed = AccessLine { status: 502, code: Some("connect_failed"), ..plain };
        assert_eq!(
            shown(&failed, true),
            "\x1b[2m15:10:27\x1b[0m GET /users/account \x1b[31m502\x1b[0m 1.6ms 262B \x1b[2mid=\x1b[0mbf30… \
             \x1b[2mcode=\x1b[0mconnect_failed"
        );
    }

    #[test]
    fn times_and_sizes_have_about_three_digits() {
        for (micros, expected) in [
            (0, "0.0ms"),
            (340, "0.3ms"),
            (99_940, "99.9ms"),
            (99_960, "99ms"),
            (450_900, "450ms"),
            (999_999, "999ms"),
            (1_660_000, "1.6s"),
            (59_990_000, "59.9s"),
            (125_000_000, "2m05s"),
            (3_720_000_000, "1h02m"),
        ] {
            assert_eq!(Time(Duration::from_micros(micros)).to_string(), expected);
        }
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (99_999, "99.9kB"),
            (999_999, "999kB"),
            (3_456_789, "3.4MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn a_line_fits_whatever_happened(
            path in "(/(users|[^/?#]{0,9})){0,30}", id in "[A-Za-z0-9._-]{1,64}", api in "[a-z0-9-]{1,40}", numbers: (u64, u64),
            with: [bool; 6],
        ) {
            let words = Words::new([""; 0]);
            let line = AccessLine {
                api: &api,
                method: &Method::OPTIONS,
                status: 503,
                code: with[0].then_some("too_many_requests_in_flight"),
                would_refuse: with[1].then_some("method_not_allowed"),
                cut: with[2].then_some("upstream_silent"),
                retries: 2,
                relogin: with[3].then_some("too_young"),
                response_bytes: numbers.0,
                duration: Duration::from_micros(numbers.1),
                request_id: &id,
                uid: with[4].then_some(u32::MAX),
                pid: with[5].then_some(i32::MAX),
                ..line(&path, &words)
            };
            let shown = shown(&line, false);
            prop_assert!(shown.chars().count() <= COLUMNS, "{shown}");
            prop_assert!(shown.contains(" 503 ") && shown.contains(" id="), "{shown}");
            let masked_whole = path.matches('/').count() < 4;
            prop_assert!(!masked_whole || with[0] || !shown.contains("…/…"), "{shown}");
        }
    }
}
