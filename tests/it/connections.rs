//! How the upstream is reached: several addresses, TLS sessions.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use careportals_simulator::{Options, Simulator};

use crate::harness::{Crowd, Request, Setup, simulator, until};

/// Whether the name means both loopback addresses here.
fn localhost_is_both() -> bool {
    let addresses: Vec<SocketAddr> = ("localhost", 1).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    addresses.iter().any(SocketAddr::is_ipv4) && addresses.iter().any(SocketAddr::is_ipv6)
}

#[test]
fn an_upstream_is_reached_by_whichever_of_its_addresses_answers() {
    if !localhost_is_both() || std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return;
    }
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let simulator = Simulator::start(Options { listen: address, ..Options::default() }).unwrap();
        let sidecar = Setup::new(&simulator).start();
        let mut client = sidecar.connect();
        for _ in 0..3 {
            assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200, "{address}");
        }
    }
}

#[test]
fn the_first_request_finds_a_connection_that_was_opened_beside_the_log_in() {
    for http2 in ["off", "auto"] {
        let simulator = simulator();
        let control = simulator.control();
        control.hold_logins(true);
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2).variable("CAREPORTALS_WORKERS", "1");
        let sidecar = setup.start();
        until("the log-in and the API have a connection", || control.counts().open_connections == 2);
        control.hold_logins(false);
        let sidecar = sidecar.ready();
        let before = control.counts().connections;
        assert_eq!(sidecar.send(&Request::new("POST", "/_sim/echo")).status, 200, "{http2}");
        assert_eq!(control.counts().connections, before, "{http2}");
    }
}

#[test]
fn tls_sessions_are_resumed() {
    for http2 in ["off", "auto"] {
        let simulator = simulator();
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2).without_connections_ahead();
        let sidecar = setup.start().ready();
        let made = |simulator: &Simulator| {
            let counts = simulator.control().counts();
            (counts.handshakes_full, counts.handshakes_resumed)
        };
        // One for the log-in, one for the first request.
        let (full, resumed) = made(&simulator);
        assert_eq!(full + resumed, 2, "{http2}");
        simulator.control().drop_connections();
        until("no connection to the upstream is open", || simulator.control().counts().open_connections == 0);
        assert_eq!(sidecar.get("/_sim/echo").status, 200);
        assert_eq!(made(&simulator), (full, resumed + 1), "{http2}");
    }
}

/// Which worker a client's connection comes to must not decide whether its request finds an idle connection.
#[test]
fn one_burst_after_the_other_is_shared_out_alike_and_finds_the_connections_of_the_first() {
    const BURST: u64 = 40;
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("http2", "off").variable("CAREPORTALS_WORKERS", "2").without_connections_ahead().with_telemetry();
    let sidecar = setup.start().ready();
    let (before, mut connections) = (control.counts().requests, None);
    for burst in 1..=6 {
        until("the clients before have gone", || sidecar.client_connections() == 0);
        control.hold_requests(true);
        let crowd = Crowd::send(&sidecar, usize::try_from(BURST).unwrap(), &Request::get("/users/account"));
        until("all requests have arrived", || control.counts().requests == before + burst * BURST);
        control.hold_requests(false);
        crowd.succeeds();
        let now = control.counts().connections;
        assert_eq!(*connections.get_or_insert(now), now, "burst {burst}");
    }
}
