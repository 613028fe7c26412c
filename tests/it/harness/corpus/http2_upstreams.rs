//! Frames that an HTTP/2 upstream writes in answer to a request, and what the client is told. A request is never sent twice.

use serde::Deserialize;

use super::{frames::written, rows::read};
use crate::harness::{ManualHttp2, Request};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    rfc: String,
    /// The request is on stream 1.
    frames: Vec<String>,
    told: Told,
    #[serde(rename = "deviates")]
    _deviates: Option<String>,
}

/// What the client is told.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    /// A problem with this code.
    Problem(String),
    /// 200, and the body is cut.
    Cut,
    /// This status with this body.
    Whole(u16, String),
    /// A problem, or 200 and a cut body: that depends on what is read together.
    Broken,
}

/// Plays a file of rows, each on a connection of its own.
pub fn play_http2_upstreams(name: &str) -> Vec<String> {
    let (head, rows) = read::<Row>("http2-upstreams", name);
    let upstream = ManualHttp2::listen();
    let mut setup = upstream.setup();
    // A row that never ends its answer is cut soon.
    setup.api("response_timeout", "10s").api("body_idle", "300ms");
    for (key, value) in &head.settings {
        setup.api(key, value);
    }
    let sidecar = setup.start();
    let mut faults = Vec::new();
    for row in &rows {
        assert!(!row.rfc.is_empty(), "{}: each row names a clause", row.case);
        let mut client = sidecar.connect();
        client.write(&[Request::post("/users", "once").head(), b"once".to_vec()].concat());
        let mut peer = upstream.accept(100);
        assert_eq!(peer.request(), (1, b"once".to_vec()), "{}", row.case);
        let bytes: Vec<u8> = row.frames.iter().flat_map(|text| written(text)).collect();
        peer.pour(&bytes, bytes.len().max(1));
        let answer = client.answer("POST");
        let is_problem = answer.header("proxy-status").is_some() && answer.status == 502;
        let is_cut = answer.status == 200 && answer.cut;
        let is_it = match &row.told {
            Told::Problem(code) => is_problem && answer.problem() == *code,
            Told::Cut => is_cut,
            Told::Whole(status, text) => answer.status == *status && !answer.cut && answer.text() == text,
            Told::Broken => is_cut || is_problem,
        };
        if !is_it {
            faults.push(format!("{} (RFC {}): {answer:?} instead of {:?}", row.case, row.rfc, row.told));
        }
        // The connection may live on; the next row has one of its own.
        peer.go_away(1, 0);
        drop(peer);
        if upstream.has_more() {
            faults.push(format!("{}: sent twice", row.case));
        }
    }
    faults
}
