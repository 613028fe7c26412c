//! Frames that a client writes, and what must come of them. After each row other clients are served.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;

use super::{
    frames::{error_code, read as frame, written},
    rows::read,
};
use crate::harness::{
    frames::PREFACE,
    hostile_http2::{Case, Ends, Scene},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    rfc: String,
    /// The case of h2spec that asks for the same.
    h2spec: Option<String>,
    /// What stands in the place of the preface and the first settings.
    preface: Option<String>,
    frames: Vec<String>,
    ends: End,
    /// How many requests reach the upstream: one at most.
    #[serde(default)]
    reaches: usize,
    #[serde(rename = "deviates")]
    _deviates: Option<String>,
}

/// What must come of it, as in [`Ends`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    Connection(String),
    Closed,
    Stream(u32, String),
    Answer(u32, u16),
    Either(Vec<String>),
    Hears(String),
}

impl Row {
    fn written_out(&self) -> Case {
        let ends = match &self.ends {
            End::Connection(code) => Ends::Connection(error_code(code)),
            End::Closed => Ends::Closed,
            End::Stream(stream, code) => Ends::Stream(*stream, error_code(code)),
            End::Answer(stream, status) => Ends::Answer(*stream, *status),
            // A row lives as long as the process.
            End::Either(codes) => Ends::Either(codes.iter().map(|code| error_code(code)).collect::<Vec<_>>().leak()),
            End::Hears(text) => Ends::Hears(Box::leak(Box::new(frame(text)))),
        };
        let settings = written("SETTINGS 0");
        let begins = self.preface.as_ref().map_or_else(|| [PREFACE, &settings].concat(), |text| text.as_bytes().to_vec());
        let bytes = begins.into_iter().chain(self.frames.iter().flat_map(|text| written(text))).collect();
        Case { name: self.case.clone(), bytes, ends, reaches: self.reaches }
    }
}

/// Plays a file of rows to one sidecar.
pub fn play_http2_clients(name: &str) -> Vec<String> {
    let (_, rows) = read::<Row>("http2-clients", name);
    let mut scene = Scene::new();
    let mut faults = Vec::new();
    for row in &rows {
        assert!(!row.rfc.is_empty() && row.h2spec.as_ref().is_none_or(|case| case.contains('/')), "{row:?}");
        let case = row.written_out();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scene.plays(&case))) {
            let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            faults.push(format!("{} (RFC {}): {why}", row.case, row.rfc));
        }
    }
    // Some rows leave a request without its end.
    scene.ends(true);
    faults
}
