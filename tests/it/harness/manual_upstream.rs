//! An upstream that a test plays itself, byte by byte, where the simulator is too well behaved. Plain HTTP on loopback.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
};

use crate::harness::{Connection, Setup, until_some};

/// A listener that does nothing by itself.
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

    /// Waits for the next connection.
    pub fn accept(&self) -> Connection {
        Connection::tcp(accept(&self.listener))
    }

    /// Accepts a connection, if there is one, and drops it. Returns whether there was.
    pub fn has_more(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// Waits for the next connection to a listener that does not block.
pub fn accept(listener: &TcpListener) -> TcpStream {
    let stream = until_some("somebody connects", || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("accepting: {error}"),
    });
    stream.set_nonblocking(false).unwrap();
    stream
}
