//! Durations and sizes: their units, how they are read, and how limits of them are shown.
//!
//! Pure. A crate would bring forms that the settings do not have ("1 month", "2hours", "1.5h") or lose some that they do.

use std::time::Duration;

use serde_json::Value;

use super::{
    faults::{Diagnostic, shown},
    toml::{mismatch, number},
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
    measure(text, &DURATION_UNITS, true).map(Duration::from_millis).ok_or_else(|| DURATION_HINT.replace('"', ""))
}

pub(super) fn duration(value: &Value) -> Result<u64, Diagnostic> {
    let Value::String(text) = value else { return Err(mismatch("a duration", value).hint(DURATION_HINT)) };
    let wrong = || Diagnostic::new(format!("{} is not a duration", shown(text))).hint(DURATION_HINT);
    measure(text, &DURATION_UNITS, true).ok_or_else(wrong)
}

pub(super) fn size(value: &Value) -> Result<u64, Diagnostic> {
    let Value::String(text) = value else { return number(value).map_err(|_| mismatch("a size like \"64KiB\"", value)) };
    let wrong = || Diagnostic::new(format!("{} is not a size", shown(text)));
    measure(text, &SIZE_UNITS, false).ok_or_else(|| wrong().hint("write a size like \"64KiB\" (B, KiB, MiB, GiB, KB, MB, GB)"))
}

/// `1h30m`: numbers, each with its unit; `several`: more than one.
fn measure(text: &str, units: &[(&str, u64)], several: bool) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let (_, factor) = units.iter().find(|(known, _)| *known == unit)?;
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        match after {
            "" => return Some(sum),
            _ if several => rest = after,
            _ => return None,
        }
    }
}

pub(super) fn show_duration(milliseconds: u64) -> String {
    if milliseconds == 0 { "0s".to_owned() } else { show(milliseconds, &DURATION_UNITS) }
}

pub(super) fn show_size(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { show(bytes, &SIZE_UNITS[..3]) }
}

/// Writes as much as fits in each unit, the largest first.
fn show(mut left: u64, units: &[(&str, u64)]) -> String {
    let mut shown = String::new();
    for (unit, factor) in units.iter().rev() {
        if left >= *factor {
            shown += &(left / factor).to_string();
            shown += unit;
            left %= factor;
        }
    }
    shown
}
