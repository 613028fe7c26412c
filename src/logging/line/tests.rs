//! Tests of times and escapes.

use proptest::prelude::*;

use super::*;

fn at(seconds: u64, micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[test]
fn a_time_is_shown_in_rfc_3339() {
    for (seconds, micros, expected) in [
        (0, 0, "1970-01-01T00:00:00.000000Z"),
        (1, 1, "1970-01-01T00:00:01.000001Z"),
        (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
        (1_704_067_199, 0, "2023-12-31T23:59:59.000000Z"),
        (1_709_164_800, 120_000, "2024-02-29T00:00:00.120000Z"),
        (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
        (253_402_300_799, 5, "9999-12-31T23:59:59.000005Z"),
        (253_402_300_800, 0, "9999-12-31T23:59:59.999999Z"),
    ] {
        assert_eq!(rfc3339(at(seconds, micros)), expected);
    }
    assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00.000000Z");
}

/// Brings a date like `Sun, 06 Nov 1994 08:49:37 GMT` into the order of RFC 3339.
fn reordered(http_date: &str) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = http_date.split(' ').collect();
    let month = MONTHS.iter().position(|month| *month == parts[2]).unwrap() + 1;
    format!("{}-{month:02}-{}T{}", parts[3], parts[1], parts[4])
}

#[test]
fn every_day_of_four_centuries_has_its_date() {
    for day in 0..146_097 {
        let time = at(day * 86_400 + 45_296, 0);
        assert_eq!(rfc3339(time)[..19], reordered(&httpdate::fmt_http_date(time)));
    }
}

proptest! {
    #[test]
    fn a_time_is_read_as_it_was_written(seconds in 0..=LAST.as_secs(), micros in 0..1_000_000_u64) {
        let time = at(seconds, micros);
        prop_assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
    }

    #[test]
    fn a_time_does_not_depend_on_the_one_before(times in prop::collection::vec((0..253_402_300_799_u64, 0..1_000_000_u64), 1..6)) {
        let mut timestamp = Timestamp::new();
        for (seconds, micros) in times {
            let time = at(seconds, micros);
            let text = timestamp.set(time).to_owned();
            prop_assert_eq!(&text[..19], reordered(&httpdate::fmt_http_date(time)));
            prop_assert_eq!(&text[19..], format!(".{micros:06}Z"));
        }
    }

    #[test]
    fn json_reads_back_what_was_escaped(text in "(\\PC|[\\x00-\\x1f\"\\\\\\x7f-\\x9f\u{2028}\u{2029}]){0,40}") {
        let mut escaped = String::new();
        escape_quoted(&text, &mut escaped).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap(), text);
    }

    #[test]
    fn escaped_text_has_no_control_characters(text in any::<String>()) {
        let mut escaped = String::new();
        escape_bare(&text, &mut escaped).unwrap();
        let ends_a_line = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}';
        prop_assert!(!escaped.contains(ends_a_line));
    }
}
