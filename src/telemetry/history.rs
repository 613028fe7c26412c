//! The traffic of the last five minutes, for the status page.
//!
//! It reads the counters every [`STEP`]; a step is the difference of two readings. Guarantees: it keeps at most [`STEPS`]
//! steps.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    logging::rfc3339,
    metrics::{Buckets, Scale, Totals, quantile},
    status::View,
};

/// The time between two readings.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// The steps that are kept: five minutes.
const STEPS: usize = 60;

/// The readings of the last five minutes.
#[derive(Default)]
pub(super) struct Recorder(Mutex<VecDeque<CounterReading>>);

/// The counters of every API at one moment.
struct CounterReading {
    at: SystemTime,
    totals: Vec<(String, Totals)>,
}

/// The steps of each API, oldest first; fewer than [`STEPS`] soon after the start.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct TrafficHistory {
    step_seconds: u64,
    /// The end of the last step.
    ends_at: Option<String>,
    apis: Vec<ApiSteps>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct ApiSteps {
    name: String,
    /// The requests that ended in each step.
    requests: Vec<u64>,
    /// How many of them were answered by a 5xx, or had their answer cut by the upstream.
    errors: Vec<u64>,
    /// The median duration; null where there was no request.
    p50_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
    /// The median time until the head of the upstream's answer, and the sidecar's own.
    upstream_p50_ms: Vec<Option<f64>>,
    own_p50_ms: Vec<Option<f64>>,
}

impl Recorder {
    /// Reads the counters at the end of a step.
    pub(super) fn read(&self, view: &View, at: SystemTime) {
        let totals = view.apis.iter().map(|api| (api.name.clone(), api.metrics.totals())).collect();
        self.push(CounterReading { at, totals });
    }

    fn push(&self, reading: CounterReading) {
        let mut readings = self.lock();
        // Keep one reading more than there are steps.
        while readings.len() > STEPS {
            readings.pop_front();
        }
        readings.push_back(reading);
    }

    /// The steps of the APIs in the latest reading.
    pub(super) fn traffic(&self) -> TrafficHistory {
        let readings = self.lock();
        let last = readings.back();
        let names = last.iter().flat_map(|last| &last.totals).map(|(name, _)| name);
        TrafficHistory {
            step_seconds: STEP.as_secs(),
            ends_at: last.map(|last| rfc3339(last.at)),
            apis: names.map(|name| ApiSteps::of(name, &readings)).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<CounterReading>> {
        // A panic while it is locked leaves whole readings.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiSteps {
    fn of(name: &str, readings: &VecDeque<CounterReading>) -> Self {
        let totals = |reading: &CounterReading| {
            let found = reading.totals.iter().find(|(known, _)| known == name);
            found.map(|(_, totals)| *totals)
        };
        let mut steps = Self { name: name.to_owned(), ..Self::default() };
        for (before, after) in readings.iter().zip(readings.iter().skip(1)) {
            // Before a reload added the API, it had no requests.
            let (before, after) = match (totals(before), totals(after)) {
                (Some(before), Some(after)) => (before, after),
                (None, _) | (_, None) => (Totals::default(), Totals::default()),
            };
            steps.requests.push(after.requests.saturating_sub(before.requests));
            steps.errors.push((after.errors + after.cut).saturating_sub(before.errors + before.cut));
            let of = |part, scale, times: fn(&Totals) -> &Buckets| {
                quantile(part, scale, times(&before), times(&after)).map(milliseconds)
            };
            steps.p50_ms.push(of(0.5, Scale::Latency, |totals| &totals.durations));
            steps.p99_ms.push(of(0.99, Scale::Latency, |totals| &totals.durations));
            steps.upstream_p50_ms.push(of(0.5, Scale::Latency, |totals| &totals.first_bytes));
            steps.own_p50_ms.push(of(0.5, Scale::Overhead, |totals| &totals.overheads));
        }
        steps
    }
}

/// Rounds to a microsecond; the buckets of durations are not more exact.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::BUCKETS;

    fn reading(step: u64, apis: &[(&str, u64, u64)]) -> CounterReading {
        let totals = |requests, errors| {
            let mut durations: Buckets = [0; BUCKETS];
            durations[3] = requests;
            Totals { requests, errors, durations, overheads: durations, ..Totals::default() }
        };
        CounterReading {
            at: SystemTime::UNIX_EPOCH + STEP * u32::try_from(step).unwrap(),
            totals: apis.iter().map(|(name, requests, errors)| ((*name).to_owned(), totals(*requests, *errors))).collect(),
        }
    }

    #[test]
    fn a_step_is_what_lies_between_two_readings() {
        let recorder = Recorder::default();
        assert_eq!(recorder.traffic().apis, []);
        for (step, requests, errors) in [(0, 100, 1), (1, 100, 1), (2, 130, 4)] {
            recorder.push(reading(step, &[("a", requests, errors)]));
        }
        let document = recorder.traffic();
        assert_eq!(document.ends_at.as_deref(), Some("1970-01-01T00:00:10.000000Z"));
        let [steps] = &document.apis[..] else { panic!("{document:?}") };
        assert_eq!((&steps.requests[..], &steps.errors[..]), (&[0, 30][..], &[0, 3][..]));
        assert_eq!(steps.p50_ms[0], None);
        assert!(steps.p50_ms[1] < steps.p99_ms[1], "{steps:?}");
        assert_eq!((steps.own_p50_ms[1], steps.upstream_p50_ms[1]), (Some(0.038), None), "the overhead's buckets are finer");
    }

    #[test]
    fn there_are_five_minutes_and_no_more() {
        let recorder = Recorder::default();
        for step in 0..200 {
            recorder.push(reading(step, &[("a", step * 2, 0)]));
        }
        let steps = recorder.traffic().apis.remove(0);
        assert_eq!((steps.requests.len(), steps.p99_ms.len()), (STEPS, STEPS));
        assert!(steps.requests.iter().all(|requests| *requests == 2));
    }

    #[test]
    fn an_api_that_comes_or_goes_by_a_reload_has_no_requests_where_it_was_not() {
        let recorder = Recorder::default();
        recorder.push(reading(0, &[("old", 5, 0)]));
        recorder.push(reading(1, &[("old", 9, 0), ("new", 70, 0)]));
        recorder.push(reading(2, &[("new", 71, 0)]));
        let [steps] = &recorder.traffic().apis[..] else { panic!("the old one is gone") };
        assert_eq!((steps.name.as_str(), &steps.requests[..]), ("new", &[0, 1][..]));
    }
}
