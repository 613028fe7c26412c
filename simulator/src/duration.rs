//! Parses and writes durations as people write them: `500ms`, `30s`, `1h30m`, `30d`.
//!
//! Pure; it uses no other module.

use std::{fmt::Write, time::Duration};

/// Parses a duration.
///
/// # Errors
///
/// A message that says what is expected.
pub(crate) fn parse(written: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration like 500ms, 30s, 5m, 1h30m or 30d, not {written:?}");
    let mut total = Duration::ZERO;
    let mut rest = written;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => None,
        };
        let part = Duration::from_millis(millis.ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if written.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Writes a duration as [`parse`] reads it: `1h30m`, `500ms`.
pub(crate) fn written(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= millis {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{}{unit}", left / millis);
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        for (written, millis) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("2d", 172_800_000)] {
            assert_eq!(parse(written), Ok(Duration::from_millis(millis)), "{written}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for millis in [0, 1, 500, 30_000, 5_400_000, 172_800_000, 90_061_001] {
            assert_eq!(parse(&written(Duration::from_millis(millis))), Ok(Duration::from_millis(millis)));
        }
        assert_eq!(written(Duration::from_secs(5400)), "1h30m");
    }

    #[test]
    fn what_has_no_unit_or_no_number_is_refused() {
        for wrong in ["", "5", "s", "5x", "-5s", "5 s", "99999999999999999999s", "9999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
