//! A TCP relay in front of the simulator that holds each connection at its first bytes, so before the server's part of the TLS
//! handshake, until the test lets it go on.

use std::{
    io::copy,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use careportals_simulator::Simulator;

use crate::harness::{PATIENCE, Setup, manual_upstream::accept};

/// The relay.
pub struct HeldUpstream {
    listener: TcpListener,
    simulator: SocketAddr,
}

impl HeldUpstream {
    pub fn before(simulator: &Simulator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, simulator: simulator.address() }
    }

    /// A sidecar with one worker whose requests pass here; it logs in at `simulator` itself.
    pub fn setup(&self, simulator: &Simulator) -> Setup {
        let mut setup = Setup::eager(simulator);
        setup
            .upstream(&format!("https://localhost:{}", self.listener.local_addr().unwrap().port()), simulator)
            .variable("CAREPORTALS_WORKERS", "1")
            .without_connections_ahead();
        setup
    }

    /// Waits for the next connection, and for the beginning of its handshake.
    pub fn accept(&self) -> HeldConnection {
        let client = accept(&self.listener);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.peek(&mut [0]).unwrap(), 1, "the handshake does not begin");
        client.set_read_timeout(None).unwrap();
        HeldConnection { client, simulator: self.simulator }
    }

    /// Accepts a connection, if there is one, and drops it. Returns whether there was.
    pub fn has_more(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// A connection whose handshake is held. Dropped, it is closed.
pub struct HeldConnection {
    client: TcpStream,
    simulator: SocketAddr,
}

impl HeldConnection {
    /// Relays all bytes from now on, both ways, until either side ends. Shutting the result down breaks the connection.
    pub fn go_on(self) -> TcpStream {
        let server = TcpStream::connect(self.simulator).unwrap();
        let handle = self.client.try_clone().unwrap();
        for (mut from, mut to) in [(self.client.try_clone().unwrap(), server.try_clone().unwrap()), (server, self.client)] {
            thread::spawn(move || {
                let _ = copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            });
        }
        handle
    }
}
