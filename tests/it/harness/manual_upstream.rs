//! An upstream that a test plays itself, byte by byte, where the simulator is too well behaved. Plain HTTP on loopback.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Connection, PATIENCE, Setup};

/// Listens, and does nothing by itself.
pub struct ManualUpstream {
    listener: TcpListener,
}

impl ManualUpstream {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A sidecar that forwards to it.
    pub fn setup(&self) -> Setup {
        Setup::plain(self.address())
    }

    /// The next connection, once it comes.
    pub fn accept(&self) -> Connection {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Connection::tcp(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "nobody connects");
                    thread::park_timeout(Duration::from_millis(1));
                }
                Err(error) => panic!("accepting: {error}"),
            }
        }
    }

    /// Whether somebody has connected and was not accepted yet.
    pub fn has_more(&self) -> bool {
        self.listener.accept().is_ok()
    }
}
