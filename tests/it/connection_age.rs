//! Connections to the upstream are renewed while they are in use, so that a change of its addresses is followed.

use std::time::Duration;

use careportals_simulator::Simulator;

use crate::harness::{OFF_AND_AUTO, Request, Setup, Sidecar, never, simulator, until};

/// A sidecar with one worker, whose connections live 1 s, give or take a fifth.
fn short_lived(simulator: &Simulator, http2: &str) -> Sidecar {
    let mut setup = Setup::auto(simulator);
    setup.api("http2", http2).api("connection_max_age", "1s");
    setup.start().ready()
}

/// Runs the check for each protocol at the same time, because it takes time.
fn over_either(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        let tests = OFF_AND_AUTO.map(|http2| {
            scope.spawn({
                let test = &test;
                move || test(http2)
            })
        });
        for test in tests {
            test.join().unwrap();
        }
    });
}

#[test]
fn a_busy_connection_is_replaced_when_it_has_grown_old() {
    over_either(|http2| {
        let simulator = simulator();
        let control = simulator.control();
        let sidecar = short_lived(&simulator, http2);
        control.reset_counts();
        let mut client = sidecar.connect();
        let mut requests = 0;
        until(&format!("a new connection is made: {http2}"), || {
            assert_eq!(client.send(&Request::post("/_sim/echo", "busy")).status, 200, "{http2}");
            requests += 1;
            control.counts().connections > 0
        });
        let counts = control.counts();
        assert_eq!((counts.requests, counts.connections), (requests, 1), "{http2}");
        assert_eq!(counts.requests_http2, if http2 == "auto" { requests } else { 0 });
        // The log-in's own is closed long since, and the old one, too.
        until(&format!("one connection to the upstream is open: {http2}"), || control.counts().open_connections == 1);
    });
}

#[test]
fn an_exchange_that_lasts_longer_than_its_connection_may_live_is_not_cut() {
    over_either(|http2| {
        let simulator = simulator();
        let control = simulator.control();
        let sidecar = short_lived(&simulator, http2);
        control.hold_requests(true);
        let answer = std::thread::scope(|scope| {
            let long = scope.spawn(|| sidecar.get("/_sim/echo?long"));
            never("the long exchange ends", Duration::from_millis(1300), || long.is_finished());
            let before = control.counts().connections;
            let other = scope.spawn(|| sidecar.get("/_sim/echo?other"));
            until(&format!("a new connection is made: {http2}"), || control.counts().connections == before + 1);
            control.hold_requests(false);
            assert_eq!(other.join().unwrap().status, 200);
            long.join().unwrap()
        });
        assert_eq!(answer.status, 200, "{http2}");
        until(&format!("one connection to the upstream is open: {http2}"), || control.counts().open_connections == 1);
    });
}
