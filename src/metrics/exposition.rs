//! The Prometheus encoding: every family with its name, its type and its series.
//!
//! `prometheus-client` writes the text; this file decides which series there are. The usual counters are shown from the start,
//! so that a rate sees their first increment; the others are shown once they are not zero. To add a metric: count it
//! in `meter` (for each API) or in [`Metrics`](super::Metrics), show its family here (a counter without `_total`, which the library
//! adds), and describe it in `docs/metrics.md`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    ApiMetrics, ClientErrorReading, Format, Label, LoginOutcome, Metrics, Readings, RefusalScope, Reload, STATES,
    histogram::{Bounds, LATENCY, OVERHEAD, Observed},
    labels::RequestLabels,
    lock,
    meter::{CLASSES, METHODS, Retry, class_of},
    process::Process,
};

/// Reads the process's own values, and encodes everything.
pub(super) fn write(metrics: Arc<Metrics>, readings: Readings, format: Format) -> String {
    let scrape = Scrape { metrics, readings, process: Process::read() };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut written = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut written, &registry),
        Format::Prometheus => prometheus_text::encode(&mut written, &registry),
    }
    .expect("a string takes all that is written to it");
    written
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    readings: Readings,
    process: Process,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(&mut encoder);
        self.requests(&mut page)?;
        self.durations(&mut page)?;
        self.upstreams(&mut page)?;
        self.accounts(&mut page)?;
        self.daemon(&mut page)?;
        self.process(&mut page)
    }
}

impl Scrape {
    /// Every API that was in force since the start, with its name.
    fn apis(&self) -> BTreeMap<String, Arc<ApiMetrics>> {
        lock(&self.metrics.apis).clone()
    }

    fn requests(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let (apis, labels) = (self.apis(), &self.metrics.labels);
        let mut family = page.counter("careportals_sidecar_requests", "Requests that have ended, by the answer.")?;
        for (api, counts) in &apis {
            for (method, method_name) in METHODS.iter().enumerate() {
                for (answer, status, code) in answers(labels) {
                    let count = counts.requests(method, answer);
                    if count > 0 || (!api.is_empty() && code.is_empty() && is_usual(method_name, status)) {
                        family.count(&[("api", api), ("method", method_name), ("status", status), ("code", code)], count)?;
                    }
                }
            }
        }
        let mut family = page.counter("careportals_sidecar_refusals", "Requests that were not let through, by the reason.")?;
        for (api, counts) in &apis {
            let is_counted = |scope| (scope == RefusalScope::NoApi) == api.is_empty();
            for (index, code) in labels.codes.iter().enumerate().filter(|(_, code)| code.refused.is_some_and(is_counted)) {
                let refused = (0..METHODS.len()).map(|method| counts.requests(method, CLASSES.len() + index)).sum();
                family.count(&[("api", api), ("reason", code.word)], refused)?;
            }
        }
        let mut family =
            page.counter("careportals_sidecar_client_errors", "Connections that were refused before a request had a head.")?;
        for ClientErrorReading { api, reason, count } in &self.readings.client_errors {
            family.count(&[("api", api), ("reason", reason)], *count)?;
        }
        let mut family =
            page.counter("careportals_sidecar_would_refuse", "Requests that the rules would have refused, were they enforced.")?;
        for (api, counts) in named(&apis) {
            for (index, code) in labels.codes.iter().enumerate().filter(|(_, code)| code.refused == Some(RefusalScope::Rules)) {
                family.count(&[("api", api), ("reason", code.word)], counts.would_refuse(index))?;
            }
        }
        let mut family = page.counter("careportals_sidecar_retries", "Requests that were sent again, by the reason.")?;
        for (api, counts) in named(&apis) {
            for reason in Retry::ALL {
                family.count(&[("api", api), ("reason", reason.as_str())], counts.retries(*reason))?;
            }
        }
        let mut family =
            page.counter("careportals_sidecar_headers_redacted", "Headers of answers that held the token, which was hidden.")?;
        for (api, counts) in named(&apis) {
            family.count(&[("api", api)], counts.redactions())?;
        }
        let mut family = page.counter("careportals_sidecar_answers_cut", "Answers that ended early, by the reason.")?;
        for (api, counts) in named(&apis) {
            for (index, reason) in labels.cuts.iter().enumerate() {
                family.count(&[("api", api), ("reason", reason)], counts.cuts(index))?;
            }
        }
        let mut family = page.gauge(
            "careportals_sidecar_requests_in_flight",
            "Requests that were let through and have not ended yet, tunnels and event streams included.",
        )?;
        for api in &self.readings.apis {
            family.gauge(&[("api", &api.name)], &(api.in_flight as u64))?;
        }
        let mut family =
            page.gauge("careportals_sidecar_requests_in_flight_max", "How many requests may be in flight; more are refused.")?;
        for api in &self.readings.apis {
            family.gauge(&[("api", &api.name)], &(api.in_flight_max as u64))?;
        }
        Ok(())
    }

    fn durations(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        type ReadHistogram = fn(&ApiMetrics) -> Observed;
        let families: [(&str, &str, &Bounds, ReadHistogram); 3] = [
            (
                "careportals_sidecar_request_duration_seconds",
                "From the arrival of a request's head to the end of its answer; tunnels are left out.",
                &LATENCY,
                ApiMetrics::duration,
            ),
            (
                "careportals_sidecar_upstream_first_byte_seconds",
                "From the arrival of a request's head to the head of the upstream's answer.",
                &LATENCY,
                ApiMetrics::first_byte,
            ),
            (
                "careportals_sidecar_overhead_seconds",
                "What a request spent in the sidecar until the head of its answer, without waiting for anybody else.",
                &OVERHEAD,
                ApiMetrics::overhead,
            ),
        ];
        let apis = self.apis();
        for (name, help, bounds, read) in families {
            let mut family = page.begin(name, help, MetricType::Histogram)?;
            for (api, counts) in named(&apis) {
                let observed = read(counts);
                let labels = [("api", api)];
                family.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    observed.sum(),
                    observed.count(),
                    &observed.bounded(bounds),
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn upstreams(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let mut family = page.gauge("careportals_sidecar_upstream_connections", "Connections to the upstream.")?;
        for api in &self.readings.apis {
            let (active, idle) = lock(&self.metrics.apis).get(&api.name).map_or((0, 0), |counts| counts.connections());
            for (state, count) in [("active", active), ("idle", idle)] {
                family.gauge(&[("api", api.name.as_str()), ("state", state)], &count)?;
            }
        }
        let mut family = page.gauge(
            "careportals_sidecar_upstream_reachable",
            "0 if the last request got no answer from the upstream: none to connect to, or none in time; else 1.",
        )?;
        for api in &self.readings.apis {
            family.gauge(&[("api", api.name.as_str())], &u64::from(api.is_reached))?;
        }
        let mut family = page.gauge("careportals_sidecar_client_connections", "Connections of clients.")?;
        for listener in &self.readings.listeners {
            family.gauge(&[("listener", &listener.address)], &(listener.connections as u64))?;
        }
        let mut family = page.gauge(
            "careportals_sidecar_client_connections_max",
            "Limit of client connections; beyond it an idle one is closed for a new one.",
        )?;
        for listener in &self.readings.listeners {
            family.gauge(&[("listener", &listener.address)], &(listener.connections_max as u64))?;
        }
        Ok(())
    }

    fn accounts(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let mut family =
            page.gauge("careportals_sidecar_account_state", "1 for the state that the account is in, 0 for the rest.")?;
        for account in &self.readings.accounts {
            for state in account.state.iter().flat_map(|_| STATES) {
                let present = account.state == Some(state);
                family.gauge(&[("account", account.name.as_str()), ("state", state)], &u64::from(present))?;
            }
        }
        let mut family =
            page.gauge("careportals_sidecar_token_expiry_timestamp_seconds", "When the token at hand expires, in Unix time.")?;
        for account in &self.readings.accounts {
            if let Some(expires_at) = account.expires_at {
                family.gauge(&[("account", &account.name)], &unix_time(expires_at))?;
            }
        }
        let accounts = lock(&self.metrics.accounts).clone();
        let mut family = page.counter("careportals_sidecar_logins", "Log-ins and refreshes that have ended, by the outcome.")?;
        for (account, counts) in &accounts {
            for (outcome, count) in LoginOutcome::ALL.iter().zip(&counts.logins) {
                let labels = [("account", account.as_str()), ("outcome", outcome.as_str())];
                family.count(&labels, count.load(Ordering::Relaxed))?;
            }
        }
        Ok(())
    }

    fn daemon(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let mut family =
            page.counter("careportals_sidecar_log_lines_dropped", "Log lines that the log's stream did not take.")?;
        family.count(&[], self.readings.log_lines_dropped)?;
        let mut family = page.counter("careportals_sidecar_reloads", "Reloads of the settings, by the outcome.")?;
        for (outcome, count) in Reload::ALL.iter().zip(&self.metrics.reloads) {
            family.count(&[("outcome", outcome.as_str())], count.load(Ordering::Relaxed))?;
        }
        let mut family = page.begin("careportals_sidecar_build", "What is running.", MetricType::Info)?;
        family.0.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn process(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let Process { cpu, resident, open_fds, max_fds } = self.process;
        let mut family = page.counter("process_cpu_seconds", "Processor time spent.")?;
        family.0.encode_counter::<NoLabelSet, f64, f64>(&cpu.as_secs_f64(), None)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", resident),
            ("process_open_fds", "Open file descriptors.", open_fds),
            ("process_max_fds", "How many file descriptors may be open.", max_fds),
        ] {
            if let Some(value) = value {
                page.gauge(name, help)?.gauge(&[], &value)?;
            }
        }
        let started_at = unix_time(self.readings.started_at);
        page.gauge("process_start_time_seconds", "When the process began, in Unix time.")?.gauge(&[], &started_at)
    }
}

fn named(apis: &BTreeMap<String, Arc<ApiMetrics>>) -> impl Iterator<Item = (&str, &ApiMetrics)> {
    apis.iter().filter(|(name, _)| !name.is_empty()).map(|(name, api)| (name.as_str(), &**api))
}

/// All answers that a request can get: the index, the class of the status, and the code of the problem.
fn answers(labels: &RequestLabels) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    let classes = CLASSES.iter().map(|class| (*class, ""));
    let codes = labels.codes.iter().map(|code| (CLASSES[class_of(code.status)], code.word));
    classes.chain(codes).enumerate().map(|(index, (status, code))| (index, status, code))
}

/// Whether most APIs answer such a request sooner or later.
fn is_usual(method: &str, status: &str) -> bool {
    matches!(method, "GET" | "POST" | "PUT" | "PATCH" | "DELETE") && matches!(status, "2xx" | "4xx" | "5xx")
}

/// The time in whole seconds. Such a time is made of two clocks that are read one after the other, so its fraction differs each
/// time, and a rule that counts changes would count that.
fn unix_time(at: SystemTime) -> u64 {
    let exact = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    exact.saturating_add(Duration::from_millis(500)).as_secs()
}

/// Encodes families, one after the other.
struct Page<'p, 'e>(&'p mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    /// Begins a family. The library appends the unit to the name, and `_total` or `_info`.
    fn begin<'f>(&'f mut self, name: &'f str, help: &str, kind: MetricType) -> Result<Family<'f>, fmt::Error> {
        let units = [("_seconds", &Unit::Seconds), ("_bytes", &Unit::Bytes)];
        let unit = units.into_iter().find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, unit)));
        let (name, unit) = unit.map_or((name, None), |(name, unit)| (name, Some(unit)));
        self.0.encode_descriptor(name, help, unit, kind).map(Family)
    }

    fn counter<'f>(&'f mut self, name: &'f str, help: &str) -> Result<Family<'f>, fmt::Error> {
        self.begin(name, help, MetricType::Counter)
    }

    fn gauge<'f>(&'f mut self, name: &'f str, help: &str) -> Result<Family<'f>, fmt::Error> {
        self.begin(name, help, MetricType::Gauge)
    }
}

/// Encodes the series of a family, one after the other.
struct Family<'f>(MetricEncoder<'f>);

impl Family<'_> {
    fn count(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn gauge(&mut self, labels: &[(&str, &str)], value: &impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(value)
    }
}
