//! Durations and sizes: their units, how they are read, and how limits of them are shown.
//!
//! Pure. A crate would bring forms that the settings do not have ("1 month", "2hours", "1.5h") or lose some that they do.

use std::time::Duration;

use serde_json::Value;

use super::{
    faults::{Diagnostic, shown},
    kinds::{mismatch, number},
};

/// Milliseconds of a minute.
pub(super) const MINUTE: u64 = 60_000;
/// Milliseconds of an hour.
pub(super) const HOUR: u64 = 60 * MINUTE;
/// Milliseconds of a day.
pub(super) const DAY: u64 = 24 * HOUR;
/// Bytes of a kibibyte.
pub(super) const KIB: u64 = 1 << 10;
/// Bytes of a mebibyte.
pub(super) const MIB: u64 = 1 << 20;

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
const SIZE_UNITS: [(&str, u64); 7] =
    [("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", 1 << 30), ("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
const DURATION_HINT: &str = "write a duration like \"30s\", \"250ms\" or \"1h30m\" (ms, s, m, h, d)";

/// Reads a duration as the settings have it, for a flag that is not one of them.
///
/// # Errors
///
/// The text says what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    milliseconds(text).ok_or_else(|| DURATION_HINT.replace('"', ""))
}

pub(super) fn duration(value: &Value) -> Result<Duration, Diagnostic> {
    match value {
        Value::String(text) => {
            milliseconds(text).ok_or_else(|| Diagnostic::new(format!("{} is not a duration", shown(text))).hint(DURATION_HINT))
        }
        other => Err(mismatch("a duration", other).hint(DURATION_HINT)),
    }
}

pub(super) fn size(value: &Value) -> Result<u64, Diagnostic> {
    match value {
        Value::String(text) => measure(text, &SIZE_UNITS, false).ok_or_else(|| {
            Diagnostic::new(format!("{} is not a size", shown(text))).hint("write a size like \"64KiB\" (B, KiB, MiB, KB, MB)")
        }),
        other => number(other).map_err(|_| mismatch("a size like \"64KiB\"", other)),
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    measure(text, &DURATION_UNITS, true).map(Duration::from_millis)
}

/// `1h30m`: numbers, each with its unit; `several`: more than one.
fn measure(text: &str, units: &[(&str, u64)], several: bool) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        rest = &rest[letters..];
        if rest.is_empty() {
            return Some(sum);
        }
        if !several {
            return None;
        }
    }
}

pub(super) fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (unit, factor) in DURATION_UNITS.iter().rev() {
        if left >= *factor {
            shown += &(left / factor).to_string();
            shown += unit;
            left %= factor;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

pub(super) fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}
