//! Chooses the text format that a scraper gets. Pure: no clock, no I/O.

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenMetrics 1.0.0, for scrapers that ask for it, like Prometheus.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which every scraper reads.
    Prometheus,
}

impl Format {
    /// Chooses by the values of a request's `Accept` lines (RFC 9110, 12.5.1): OpenMetrics when the scraper names it, in a
    /// version that we write, and does not prefer the other format.
    pub fn accepted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut classic) = (0, 0);
        for range in lines.into_iter().flat_map(|line| line.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|parameter| parameter.split_once('=')).collect();
            let of = |wanted: &str| {
                parameters.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
            };
            let quality = of("q").map_or(Some(1000), thousandths).unwrap_or_default();
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                // A parser of the draft, 0.0.1, reads 1.0.0, too.
                if matches!(of("version"), None | Some("1.0.0" | "0.0.1")) {
                    open = open.max(quality);
                }
            } else if kind.eq_ignore_ascii_case("text/plain") {
                classic = classic.max(quality);
            }
        }
        if open > 0 && open >= classic { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of the format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_client::encoding::prometheus_text::CONTENT_TYPE,
        }
    }
}

/// A quality value in thousandths; its fraction has at most three digits.
fn thousandths(value: &str) -> Option<u32> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    let digits = fraction.len();
    let fraction: u32 = if digits == 0 { 0 } else { fraction.parse().ok()? };
    let scale = 10_u32.checked_pow(3_usize.checked_sub(digits)?.try_into().ok()?)?;
    Some((whole * 1000 + fraction * scale).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_scrapers_that_ask_for_it() {
        use Format::{OpenMetrics, Prometheus};
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,*/*;q=0.1";
        for (accept, expected) in [
            (vec![old], OpenMetrics),
            (vec![new], OpenMetrics),
            (vec!["text/plain;version=0.0.4;q=0.5", "Application/OpenMetrics-Text; Version=1.0.0"], OpenMetrics),
            (vec!["application/openmetrics-text"], OpenMetrics),
            (vec![], Prometheus),
            (vec!["*/*"], Prometheus),
            (vec!["text/html,application/xhtml+xml,*/*;q=0.8"], Prometheus),
            (vec!["application/openmetrics-text;q=0.2,text/plain;q=0.9"], Prometheus),
            (vec!["application/openmetrics-text;version=2.0.0"], Prometheus),
            (vec!["application/openmetrics-text;q=0"], Prometheus),
            (vec!["application/openmetrics-text;q=0.0001"], Prometheus),
            (vec!["application/openmetrics-text;q=none"], Prometheus),
        ] {
            assert_eq!(Format::accepted(accept.iter().copied()), expected, "{accept:?}");
        }
    }
}
