//! CarePortals as a test sees it, and what a test often does to it.

use std::time::Duration;

use careportals_simulator::{Control, Options, Simulator};

use crate::harness::{Connection, Request, Sidecar, let_time_pass, until};

/// A simulator with everything at its default. It ends when dropped.
pub fn simulator() -> Simulator {
    Simulator::start(Options::default()).unwrap()
}

/// The smallest `relogin_floor` that can be set.
const FLOOR: Duration = Duration::from_millis(100);

/// Afterwards the present token is older than the smallest floor.
pub fn outgrow_the_floor() {
    let_time_pass("the token grows older than the smallest `relogin_floor`", FLOOR);
}

/// Revokes all tokens, once they are old enough to be replaced.
pub fn revoke(simulator: &Simulator) {
    outgrow_the_floor();
    simulator.control().revoke_tokens();
}

/// A request that the simulator holds until it is told otherwise.
pub fn held(simulator: &Simulator, sidecar: &Sidecar) -> Connection {
    let control = simulator.control();
    control.reset_counts();
    control.hold_requests(true);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    until_requests(control, 1);
    client
}

/// Waits until the simulator has counted exactly so many requests.
pub fn until_requests(control: &Control, count: u64) {
    until(&format!("the upstream has got {count} requests"), || control.counts().requests == count);
}
