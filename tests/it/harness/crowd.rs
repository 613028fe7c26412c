//! A crowd sends one request from many connections at once.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::harness::{Answer, Connection, Request, Sidecar};

/// Clients that have sent their request and wait for its answer, each on a connection of its own.
pub struct Crowd {
    connections: Vec<Connection>,
    method: String,
}

impl Crowd {
    /// Writes the request on `count` connections. All of them are written when this returns.
    pub fn send(sidecar: &Sidecar, count: usize, request: &Request) -> Self {
        Self::send_to(sidecar.address(), count, request)
    }

    pub fn send_to(address: SocketAddr, count: usize, request: &Request) -> Self {
        let bytes = [request.head(), request.body.clone()].concat();
        let connection = |_| {
            let mut connection = Connection::tcp(std::net::TcpStream::connect(address).unwrap());
            connection.write(&bytes);
            connection
        };
        Self { connections: (0..count).map(connection).collect(), method: request.method.clone() }
    }

    pub fn answers(self) -> Vec<Answer> {
        let Self { mut connections, method } = self;
        connections.iter_mut().map(|connection| connection.answer(&method)).collect()
    }

    /// Reads all answers; each must be a success.
    pub fn succeeds(self) {
        for answer in self.answers() {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

/// Sets the flag when dropped, so that threads that watch it end even when a test fails.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
