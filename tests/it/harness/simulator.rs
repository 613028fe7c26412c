//! The simulated CarePortals, and what tests often do to it.

use std::time::Duration;

use careportals_simulator::{Options, RecordedRequest, Simulator};

use crate::harness::{Connection, Request, Sidecar, let_time_pass, until};

/// A simulator with everything at its default. It ends when dropped.
pub fn simulator() -> Simulator {
    Simulator::start(Options::default()).unwrap()
}

/// The smallest `relogin_floor` that can be set.
const FLOOR: Duration = Duration::from_millis(100);

/// Waits until the present token is older than the smallest `relogin_floor`.
pub fn outgrow_the_floor() {
    let_time_pass("the token grows older than the smallest `relogin_floor`", FLOOR);
}

/// Revokes all tokens, once they are old enough to be replaced.
pub fn revoke(simulator: &Simulator) {
    outgrow_the_floor();
    simulator.control().revoke_tokens();
}

/// Sends a request that the simulator holds until `hold_requests(false)`.
pub fn held(simulator: &Simulator, sidecar: &Sidecar) -> Connection {
    let control = simulator.control();
    control.reset_counts();
    control.hold_requests(true);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    until("the upstream has got one request", || control.counts().requests == 1);
    client
}

/// The request whose target begins with `path`, as the simulator has seen it so far.
pub fn seen(simulator: &Simulator, path: &str) -> Option<RecordedRequest> {
    simulator.control().requests().into_iter().find(|seen| seen.target.starts_with(path))
}

/// Waits until what the simulator has seen of the request for `path` meets `condition`.
#[track_caller]
pub fn until_seen(what: &str, simulator: &Simulator, path: &str, condition: impl Fn(&RecordedRequest) -> bool) {
    until(&format!("{what} ({path})"), || seen(simulator, path).is_some_and(|seen| condition(&seen)));
}
