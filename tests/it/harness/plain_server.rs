//! The part of a scripted server that is always the same: it accepts, serves each connection on a thread of its own, and ends.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

/// A server on plain TCP. When it is dropped, its connections are closed and its threads have ended.
pub struct PlainServer {
    address: SocketAddr,
    connections: Arc<Mutex<Connections>>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Connections {
    open: Vec<Option<TcpStream>>,
    over: bool,
}

/// A connection that was accepted.
pub struct Accepted {
    pub stream: TcpStream,
    /// How many were accepted before.
    pub number: usize,
    connections: Arc<Mutex<Connections>>,
}

impl PlainServer {
    pub fn start(serve: impl Fn(Accepted) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, serve) = (Arc::new(Mutex::new(Connections::default())), Arc::new(serve));
        let accepting = std::thread::spawn({
            let connections = Arc::clone(&connections);
            move || {
                let mut serving = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    let mut now = connections.lock().unwrap();
                    if now.over {
                        break;
                    }
                    let number = now.open.len();
                    now.open.push(Some(stream.try_clone().unwrap()));
                    let (serve, connections) = (Arc::clone(&serve), Arc::clone(&connections));
                    serving.push(std::thread::spawn(move || serve(Accepted { stream, number, connections })));
                }
                for thread in serving {
                    thread.join().unwrap();
                }
            }
        });
        Self { address, connections, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Accepted {
    /// Closes it with a reset, which the kernel sends when the last handle of the socket is dropped.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        drop(self.connections.lock().unwrap().open[self.number].take());
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        let mut connections = self.connections.lock().unwrap();
        connections.over = true;
        for connection in connections.open.drain(..).flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(connections);
        // A connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}
