//! Tests of the metrics as a scraper reads them.

use std::{collections::BTreeSet, time::Duration};

use http::Method;

use super::*;
use crate::clock::Moment;

label! {
    /// Codes of problems, one of each kind.
    enum TestCode {
        CrossSite = "cross_site",
        NoApi = "no_api",
        UpstreamTimeout = "upstream_timeout",
    }
}

impl ProblemLabel for TestCode {
    fn status(self) -> u16 {
        match self {
            Self::CrossSite => 403,
            Self::NoApi => 404,
            Self::UpstreamTimeout => 504,
        }
    }

    fn refused(self) -> Option<RefusalScope> {
        match self {
            Self::CrossSite => Some(RefusalScope::Api),
            Self::NoApi => Some(RefusalScope::NoApi),
            Self::UpstreamTimeout => None,
        }
    }

    fn is_of_an_answer(self) -> bool {
        false
    }
}

label! {
    /// Why an answer is cut.
    enum TestCut {
        UpstreamClosed = "upstream_closed",
        ClientClosed = "client_closed",
    }
}

impl CutLabel for TestCut {
    fn is_the_upstreams(self) -> bool {
        matches!(self, Self::UpstreamClosed)
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new::<TestCode, TestCut>(NonZeroUsize::new(2).unwrap())
}

fn ended(method: &Method, status: u16) -> Ended<'_, TestCode, TestCut> {
    Ended { method, status, code: None, cut: None, duration: Duration::from_millis(7), first_byte: None, at: at(1) }
}

fn at(seconds: u64) -> Moment {
    Moment::new(Duration::from_secs(seconds))
}

fn readings() -> Readings {
    Readings {
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        apis: vec![ApiReading { name: "emr".into(), in_flight: 3, in_flight_max: 1024, is_reached: false }],
        accounts: vec![
            AccountReading {
                name: "crm".into(),
                state: Some("refreshing"),
                expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_799_999_999_600_123)),
            },
            AccountReading { name: "open".into(), state: None, expires_at: None },
        ],
        listeners: vec![ListenerReading { address: "127.0.0.1:2273".into(), connections: 4, connections_max: 10_000 }],
        client_errors: vec![ClientErrorReading { api: "emr".into(), reason: "malformed", count: 2 }],
        log_lines_dropped: 5,
    }
}

fn page(metrics: &Arc<Metrics>) -> String {
    metrics.encode(readings(), Format::Prometheus)
}

/// The value of the series with this name and these labels.
fn value(page: &str, series: &str) -> Option<f64> {
    let lines = || page.lines().filter_map(|line| line.rsplit_once(' '));
    assert!(lines().filter(|(name, _)| *name == series).count() <= 1, "twice: {series}");
    lines().find(|(name, _)| *name == series).and_then(|(_, value)| value.parse().ok())
}

fn request_count(page: &str, labels: &str) -> Option<f64> {
    value(page, &format!("careportals_sidecar_requests_total{{{labels}}}"))
}

#[test]
fn requests_are_counted_by_api_method_status_and_code_over_all_workers() {
    let metrics = metrics();
    let (one, other) = (metrics.api("emr").meter(0), metrics.api("emr").meter(1));
    one.ended(&ended(&Method::GET, 200));
    other.ended(&ended(&Method::GET, 204));
    other.ended(&ended(&Method::POST, 404));
    one.ended(&ended(&Method::from_bytes(b"PURGE").unwrap(), 302));
    one.ended(&Ended { code: Some(TestCode::UpstreamTimeout), ..ended(&Method::GET, 504) });
    other.ended(&ended(&Method::HEAD, 799));
    other.ended(&ended(&Method::GET, 499));
    let page = page(&metrics);
    for (labels, count) in [
        (r#"api="emr",method="GET",status="2xx",code="""#, 2.0),
        (r#"api="emr",method="POST",status="4xx",code="""#, 1.0),
        (r#"api="emr",method="OTHER",status="3xx",code="""#, 1.0),
        (r#"api="emr",method="GET",status="5xx",code="upstream_timeout""#, 1.0),
        (r#"api="emr",method="HEAD",status="5xx",code="""#, 1.0),
        (r#"api="emr",method="GET",status="4xx",code="""#, 1.0),
    ] {
        assert_eq!(request_count(&page, labels), Some(count), "{labels}\n{page}");
    }
    let totals = metrics.api("emr").totals();
    assert_eq!((totals.requests, totals.errors), (7, 2));
    assert_eq!(totals.durations.iter().sum::<u64>(), 7);
    assert_eq!(totals.durations[3], 7, "from 5 to 10 ms");
}

#[test]
fn the_usual_requests_are_there_from_the_start_and_others_once_they_come() {
    let metrics = metrics();
    drop(metrics.api("emr"));
    let page = page(&metrics);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        for status in ["2xx", "4xx", "5xx"] {
            let labels = format!(r#"api="emr",method="{method}",status="{status}",code="""#);
            assert_eq!(request_count(&page, &labels), Some(0.0), "{labels}");
        }
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("careportals_sidecar_requests_total{")).count(), 15);
}

#[test]
fn a_request_that_no_api_is_for_has_an_empty_label_and_is_refused_nowhere_else() {
    let metrics = metrics();
    let unclaimed = metrics.api("").meter(0);
    drop(metrics.api("emr"));
    unclaimed.ended(&Ended { code: Some(TestCode::NoApi), ..ended(&Method::GET, 404) });
    let page = page(&metrics);
    assert_eq!(request_count(&page, r#"api="",method="GET",status="4xx",code="no_api""#), Some(1.0));
    let refusals: Vec<_> = page.lines().filter(|line| line.starts_with("careportals_sidecar_refusals_total{")).collect();
    assert_eq!(
        refusals,
        [
            r#"careportals_sidecar_refusals_total{api="",reason="no_api"} 1"#,
            r#"careportals_sidecar_refusals_total{api="emr",reason="cross_site"} 0"#,
        ]
    );
    assert_eq!(page.matches(r#"api="""#).count(), 2, "{page}");
}

#[test]
fn a_refusal_is_counted_by_its_reason_whatever_the_method() {
    let metrics = metrics();
    let meter = metrics.api("emr").meter(1);
    for method in [Method::GET, Method::POST] {
        meter.ended(&Ended { code: Some(TestCode::CrossSite), ..ended(&method, 403) });
    }
    let refused = value(&page(&metrics), r#"careportals_sidecar_refusals_total{api="emr",reason="cross_site"}"#);
    assert_eq!(refused, Some(2.0));
}

#[test]
fn how_long_a_tunnel_lasts_is_no_duration_of_a_request() {
    let metrics = metrics();
    let meter = metrics.api("emr").meter(0);
    meter.ended(&Ended { first_byte: Some(Duration::from_millis(3)), ..ended(&Method::GET, 101) });
    meter.spent(Duration::from_micros(60));
    let page = page(&metrics);
    assert_eq!(value(&page, r#"careportals_sidecar_request_duration_seconds_count{api="emr"}"#), Some(0.0));
    assert_eq!(value(&page, r#"careportals_sidecar_upstream_first_byte_seconds_count{api="emr"}"#), Some(1.0));
    assert_eq!(value(&page, r#"careportals_sidecar_overhead_seconds_sum{api="emr"}"#), Some(6e-5));
    assert_eq!(value(&page, r#"careportals_sidecar_overhead_seconds_bucket{le="5e-05",api="emr"}"#), None);
    assert_eq!(value(&page, r#"careportals_sidecar_overhead_seconds_bucket{api="emr",le="5e-05"}"#), Some(0.0));
    assert_eq!(value(&page, r#"careportals_sidecar_overhead_seconds_bucket{api="emr",le="0.0001"}"#), Some(1.0));
    assert_eq!(value(&page, r#"careportals_sidecar_overhead_seconds_bucket{api="emr",le="+Inf"}"#), Some(1.0));
    assert_eq!(request_count(&page, r#"api="emr",method="GET",status="1xx",code="""#), Some(1.0));
}

#[test]
fn connections_count_while_they_are_there_as_what_they_are() {
    let metrics = metrics();
    let meter = metrics.api("emr").meter(0);
    let connections = |state: &str| {
        value(&page(&metrics), &format!(r#"careportals_sidecar_upstream_connections{{api="emr",state="{state}"}}"#)).unwrap()
    };
    let (one, other) = (meter.connected(), metrics.api("emr").meter(1).connected());
    assert_eq!((connections("active"), connections("idle")), (2.0, 0.0));
    one.set_idle(true);
    one.set_idle(true);
    assert_eq!((connections("active"), connections("idle")), (1.0, 1.0));
    other.set_idle(true);
    one.set_idle(false);
    assert_eq!((connections("active"), connections("idle")), (1.0, 1.0));
    drop(other);
    assert_eq!((connections("active"), connections("idle")), (1.0, 0.0));
    drop(one);
    assert_eq!((connections("active"), connections("idle")), (0.0, 0.0));
}

#[test]
fn retries_cuts_log_ins_and_reloads_are_counted_by_their_words() {
    let metrics = metrics();
    let meter = metrics.api("emr").meter(0);
    meter.retried(Retry::Bearer);
    meter.ended(&Ended { cut: Some(TestCut::ClientClosed), ..ended(&Method::GET, 200) });
    metrics.account("crm").logged_in(LoginOutcome::TimedOut);
    metrics.reloaded(Reload::Refused);
    let page = page(&metrics);
    for (series, expected) in [
        (r#"retries_total{api="emr",reason="connection"}"#, 0.0),
        (r#"retries_total{api="emr",reason="bearer"}"#, 1.0),
        (r#"answers_cut_total{api="emr",reason="upstream_closed"}"#, 0.0),
        (r#"answers_cut_total{api="emr",reason="client_closed"}"#, 1.0),
        (r#"logins_total{account="crm",outcome="ok"}"#, 0.0),
        (r#"logins_total{account="crm",outcome="timed_out"}"#, 1.0),
        (r#"reloads_total{outcome="ok"}"#, 0.0),
        (r#"reloads_total{outcome="refused"}"#, 1.0),
        ("log_lines_dropped_total", 5.0),
    ] {
        assert_eq!(value(&page, &format!("careportals_sidecar_{series}")), Some(expected), "{series}\n{page}");
    }
}

#[test]
fn what_is_kept_elsewhere_is_shown_as_it_was_read() {
    let page = page(&metrics());
    for (series, expected) in [
        (r#"careportals_sidecar_requests_in_flight{api="emr"}"#, 3.0),
        (r#"careportals_sidecar_requests_in_flight_max{api="emr"}"#, 1024.0),
        (r#"careportals_sidecar_upstream_connections{api="emr",state="idle"}"#, 0.0),
        (r#"careportals_sidecar_client_connections{listener="127.0.0.1:2273"}"#, 4.0),
        (r#"careportals_sidecar_client_connections_max{listener="127.0.0.1:2273"}"#, 10_000.0),
        (r#"careportals_sidecar_account_state{account="crm",state="refreshing"}"#, 1.0),
        (r#"careportals_sidecar_account_state{account="crm",state="ready"}"#, 0.0),
        (r#"careportals_sidecar_token_expiry_timestamp_seconds{account="crm"}"#, 1_800_000_000.0),
        ("process_start_time_seconds", 1_700_000_000.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}\n{page}");
    }
    assert!(!page.contains(r#"account="open""#), "an account without log-in has no state and no token:\n{page}");
}

#[test]
fn what_is_gone_after_a_reload_keeps_its_counters_and_loses_its_gauges() {
    let metrics = metrics();
    metrics.api("old").meter(0).ended(&ended(&Method::GET, 200));
    let page = page(&metrics);
    assert_eq!(request_count(&page, r#"api="old",method="GET",status="2xx",code="""#), Some(1.0));
    let gauges: BTreeSet<_> = ["requests_in_flight", "requests_in_flight_max", "upstream_connections"]
        .map(|name| format!("{name}{{api=\"old\""))
        .into();
    assert!(gauges.iter().all(|gauge| !page.contains(gauge.as_str())), "{page}");
    assert!(Arc::ptr_eq(&metrics.api("old").meter(0), &metrics.api("old").meter(2)), "two workers, so the third is the first");
}

#[test]
fn openmetrics_ends_with_its_mark_and_names_units() {
    let metrics = metrics();
    drop(metrics.api("emr"));
    let page = metrics.encode(readings(), Format::OpenMetrics);
    assert!(page.ends_with("# EOF\n"), "{page}");
    for line in [
        "# TYPE careportals_sidecar_requests counter",
        "# TYPE careportals_sidecar_overhead_seconds histogram",
        "# UNIT careportals_sidecar_overhead_seconds seconds",
        "# TYPE careportals_sidecar_build info",
        concat!(r#"careportals_sidecar_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        "# TYPE process_cpu_seconds counter",
    ] {
        assert!(page.lines().any(|other| other == line), "{line}\n{page}");
    }
}

#[test]
fn errors_are_told_by_their_codes_and_the_latest_by_its_time() {
    let metrics = metrics();
    let api = metrics.api("emr");
    assert_eq!((api.last_error(), api.errors_by_code().len()), (None, 0));
    let (one, other) = (api.meter(0), api.meter(1));
    let answered = |status, seconds| Ended { first_byte: Some(Duration::ZERO), at: at(seconds), ..ended(&Method::GET, status) };
    one.ended(&answered(503, 9));
    one.ended(&answered(200, 10));
    other.ended(&Ended { code: Some(TestCode::UpstreamTimeout), at: at(7), ..ended(&Method::POST, 504) });
    other.ended(&Ended { code: Some(TestCode::CrossSite), at: at(20), ..ended(&Method::POST, 403) });
    let expected = [("upstream_503", 1), ("upstream_timeout", 1)].map(|(code, count)| (code.to_owned(), count));
    assert_eq!(api.errors_by_code(), expected.into());
    assert_eq!(api.last_error(), Some(LastError { code: "upstream_503".to_owned(), at: at(9) }));
    // The time-out is no answer of the upstream's, and the refusal even less.
    assert_eq!(api.recent_failures(at(21)), RecentFailures { answers: 2, failures: 1 });
    other.ended(&answered(999, 21));
    assert_eq!(api.last_error(), Some(LastError { code: "upstream_other".to_owned(), at: at(21) }));
    assert_eq!(api.errors_by_code().values().sum::<u64>(), api.totals().errors);
}

#[test]
fn an_upstream_that_did_not_answer_last_is_0() {
    let text = page(&metrics());
    assert_eq!(value(&text, r#"careportals_sidecar_upstream_reachable{api="emr"}"#), Some(0.0));
}

#[test]
fn an_answer_that_the_upstream_cuts_is_a_failure_and_one_that_the_client_leaves_is_none() {
    let api = metrics().api("a");
    let first_byte = Some(Duration::from_millis(1));
    let cut = |cut| api.meter(0).ended(&Ended { cut: Some(cut), first_byte, ..ended(&Method::GET, 200) });
    cut(TestCut::ClientClosed);
    assert!(!api.recent_failures(at(2)).are_most());
    assert_eq!(api.last_error(), None);
    cut(TestCut::UpstreamClosed);
    assert!(api.recent_failures(at(2)).are_most());
    assert_eq!(api.last_error().unwrap().code, "upstream_closed");
    assert!(api.errors_by_code().is_empty(), "it was no 5xx");
    assert_eq!((api.totals().errors, api.totals().cut), (0, 1));
    let tunnel = Ended { cut: Some(TestCut::UpstreamClosed), first_byte, ..ended(&Method::GET, 101) };
    (0..9).for_each(|_| api.meter(1).ended(&tunnel));
    assert!(!api.recent_failures(at(2)).are_most());
}
