//! What a request costs in system calls of its worker. `tests/costs` counts allocations, and more with tools that not every machine has.

use std::time::Duration;

use careportals_simulator::Simulator;

use crate::harness::{
    Connection, LETS_DEBUGGERS_IN, OFF_AND_AUTO, Request, Setup, Sidecar, let_time_pass, simulator, system_calls,
};

/// A daemon with one worker, which writes the access log as it does by default.
fn with_one_worker(simulator: &Simulator, http2: &str) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup.variable("CAREPORTALS_WORKERS", "1").variable("CAREPORTALS_LOG", "info").api("http2", http2);
    setup.global("hardening", LETS_DEBUGGERS_IN);
    setup.start().ready()
}

/// The system calls of a request, while `clients` ask at once, `rounds` times.
fn calls_of(http2: &str, target: &str, clients: u32, rounds: u32) -> f64 {
    let simulator = simulator();
    let sidecar = with_one_worker(&simulator, http2);
    let mut crowd: Vec<Connection> = (0..clients).map(|_| sidecar.connect()).collect();
    ask(&mut crowd, target, 5);
    let_time_pass("what a start does once is over", Duration::from_millis(300));
    let calls = system_calls(&sidecar, 0, || {
        ask(&mut crowd, target, rounds);
        crowd
    });
    f64::from(calls) / f64::from(clients * rounds)
}

/// All send, and then all read.
fn ask(crowd: &mut [Connection], target: &str, rounds: u32) {
    for _ in 0..rounds {
        for client in &mut *crowd {
            client.write(&Request::get(target).head());
        }
        for client in &mut *crowd {
            let answer = client.answer("GET");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

#[test]
fn a_small_request_takes_two_receives_two_sends_and_two_waits() {
    for http2 in OFF_AND_AUTO {
        let calls = calls_of(http2, "/v2/products", 1, 100);
        assert!((5.9..7.0).contains(&calls), "{calls} system calls, http2 = {http2}");
    }
}

#[test]
fn requests_that_come_at_once_share_waits() {
    for (http2, most) in [("off", 5.6), ("auto", 4.2)] {
        let calls = calls_of(http2, "/v2/products", 16, 30);
        assert!(calls < most, "{calls} system calls, http2 = {http2}");
    }
}

#[test]
fn a_large_answer_is_read_and_written_in_large_pieces() {
    for (http2, most) in [("off", 75.0), ("auto", 110.0)] {
        let calls = calls_of(http2, "/_sim/download?bytes=1048576", 1, 10);
        assert!(calls < most, "{calls} system calls for a MiB, http2 = {http2}");
    }
}
